package transparentproxy

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/causeway-mesh/causeway/api/resource"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// Each case is settings, and the rules that each engine gets for them.
func TestRules(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			c := Default()
			c.ProxyUser = "5678"
			if err := yaml.UnmarshalStrict(ar.Files[0].Data, &c); err != nil {
				t.Fatal(err)
			}
			var ps resource.Problems
			p := c.parse(&ps)
			if err := ps.Err(); err != nil {
				t.Fatal(err)
			}
			conf := filepath.Join(t.TempDir(), "resolv.conf")
			if err := os.WriteFile(conf, []byte("nameserver 192.0.2.53\nnameserver fe80::53%eth0\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := p.readHost(conf); err != nil {
				t.Fatal(err)
			}
			families := []family{ipv4, ipv6}
			if c.IPFamily != "auto" {
				families = familiesOf(c.IPFamily)
			}
			out := &txtar.Archive{Comment: ar.Comment, Files: ar.Files[:1:1]}
			out.Files = append(out.Files, txtar.File{Name: "nftables", Data: []byte(nftables(p.chains(), families))})
			for _, f := range families {
				out.Files = append(out.Files, txtar.File{Name: tool("iptables", f), Data: []byte(iptables(p.chains(), f, ""))})
			}
			got := txtar.Format(out)
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			} else if !bytes.Equal(got, txtar.Format(ar)) {
				t.Errorf("run with -update and read the diff; now it is\n%s", got)
			}
		})
	}
}

func TestSettings(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*Config)
		want string // field; empty: it is fine
	}{
		"the defaults":                   {func(*Config) {}, ""},
		"an engine":                      {func(c *Config) { c.Engine = "ebpf" }, "engine"},
		"a family":                       {func(c *Config) { c.IPFamily = "ipx" }, "ipFamily"},
		"no user":                        {func(c *Config) { c.ProxyUser = "" }, "proxyUser"},
		"an unknown user":                {func(c *Config) { c.ProxyUser = "nobody-of-that-name" }, "proxyUser"},
		"several users for one":          {func(c *Config) { c.ProxyUser = "1-2" }, "proxyUser"},
		"a user by name":                 {func(c *Config) { c.ProxyUser = "root" }, ""},
		"port 0":                         {func(c *Config) { c.InboundPort = 0 }, "inboundPort"},
		"port 65536":                     {func(c *Config) { c.DNSPort = 65536 }, "dnsPort"},
		"equal ports":                    {func(c *Config) { c.OutboundPort = c.InboundPort }, "outboundPort"},
		"an excluded port 0":             {func(c *Config) { c.ExcludeInboundPorts = []string{"80", "0"} }, "excludeInboundPorts[1]"},
		"an excluded port too large":     {func(c *Config) { c.ExcludeOutboundPorts = []string{"70000"} }, "excludeOutboundPorts[0]"},
		"a range backwards":              {func(c *Config) { c.IncludeInboundPorts = []string{"90-80"} }, "includeInboundPorts[0]"},
		"a range without an end":         {func(c *Config) { c.IncludeOutboundPorts = []string{"90-"} }, "includeOutboundPorts[0]"},
		"a port with a sign":             {func(c *Config) { c.ExcludeInboundPorts = []string{"+80"} }, "excludeInboundPorts[0]"},
		"a port with a rule behind it":   {func(c *Config) { c.ExcludeInboundPorts = []string{"80 accept"} }, "excludeInboundPorts[0]"},
		"no address":                     {func(c *Config) { c.ExcludeInboundIPs = []string{"10.0.0"} }, "excludeInboundIps[0]"},
		"an address of a link":           {func(c *Config) { c.ExcludeOutboundIPs = []string{"fe80::1%eth0"} }, "excludeOutboundIps[0]"},
		"addresses and CIDRs":            {func(c *Config) { c.ExcludeOutboundIPs = []string{"10.1.2.3", "10.0.0.0/8", "fd00::/8"} }, ""},
		"a user of no number":            {func(c *Config) { c.ExcludeOutboundUIDs = []string{"12x"} }, "excludeOutboundUids[0]"},
		"users":                          {func(c *Config) { c.ExcludeOutboundUIDs = []string{"root", "1000-2000", "7"} }, ""},
		"ports for users without them":   {func(c *Config) { c.ExcludeOutboundPortsForUIDs = []string{"tcp:80"} }, "excludeOutboundPortsForUids[0]"},
		"ports for users of SCTP":        {func(c *Config) { c.ExcludeOutboundPortsForUIDs = []string{"sctp:80:1"} }, "excludeOutboundPortsForUids[0]"},
		"ports for users":                {func(c *Config) { c.ExcludeOutboundPortsForUIDs = []string{"tcp:80;90-99:1;5-6", "*:*:root"} }, ""},
		"lookups somewhere":              {func(c *Config) { c.RedirectDNS = "there" }, "redirectDns"},
		"lookups at a name":              {func(c *Config) { c.RedirectDNS = "192.0.2.1,dns.example" }, "redirectDns"},
		"lookups at addresses":           {func(c *Config) { c.RedirectDNS = "192.0.2.1, 2001:db8::53" }, ""},
		"a zone that conntrack does not": {func(c *Config) { c.ConntrackZone = 70000 }, "dnsConntrackZone"},
	} {
		cfg := Default()
		cfg.ProxyUser = "5678"
		c.edit(&cfg)
		var fields []string
		for _, p := range cfg.Validate() {
			fields = append(fields, p.Field)
		}
		if c.want == "" && len(fields) > 0 || c.want != "" && !slices.Equal(fields, []string{c.want}) {
			t.Errorf("%s: problems with %v, want %q", name, fields, c.want)
		}
	}
}

// A server that is to be redirected must be known.
func TestHostWithoutServers(t *testing.T) {
	p := Default().parse(new(resource.Problems))
	if err := p.readHost(filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "redirectDns") {
		t.Errorf("got %v", err)
	}
}

// What iptables holds of others is neither added to twice nor taken away.
func TestRulesOfOthers(t *testing.T) {
	const saved = `# Generated
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:CAUSEWAY_INBOUND - [0:0]
:CAUSEWAY_OUTBOUND - [0:0]
-A PREROUTING -j CAUSEWAY_INBOUND
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -j DOCKER
-A CAUSEWAY_INBOUND -p tcp -j REDIRECT --to-ports 15006
COMMIT
*raw
:OUTPUT ACCEPT [0:0]
COMMIT
`
	p := Default().parse(new(resource.Problems))
	text := iptables(p.chains(), ipv4, saved)
	for line, want := range map[string]bool{
		"-I PREROUTING 1 -j CAUSEWAY_INBOUND": false, "-I OUTPUT 1 -j CAUSEWAY_OUTBOUND": true, "-I OUTPUT 1 -j CAUSEWAY_LOOKUPS": true,
	} {
		if strings.Contains(text, line) != want {
			t.Errorf("%s: %v, want %v", line, !want, want)
		}
	}
	const removed = `*nat
-D PREROUTING -j CAUSEWAY_INBOUND
-F CAUSEWAY_INBOUND
-F CAUSEWAY_OUTBOUND
-X CAUSEWAY_INBOUND
-X CAUSEWAY_OUTBOUND
COMMIT
`
	if got := iptablesRemove(saved); got != removed {
		t.Errorf("removed with\n%s", got)
	}
	if got := iptablesRemove("*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"); got != "" {
		t.Errorf("nothing is removed with\n%s", got)
	}
}
