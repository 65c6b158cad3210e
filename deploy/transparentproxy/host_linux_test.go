package transparentproxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/test/netns"
)

const (
	proxyUser = 5678
	someone   = 1000
)

// trial is a host whose traffic is redirected, one beside it, and who answers on them.
type trial struct {
	t           *testing.T
	host, other *netns.Host
}

// answer lets a port of a host say something to whoever connects.
func answer(t *testing.T, h *netns.Host, address, text string) {
	t.Helper()
	network := "tcp4"
	if strings.HasPrefix(address, "[") {
		network = "tcp6"
	}
	l, err := h.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, text)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended })
}

// answerPackets does the same for packets, with the address that they were sent to.
func answerPackets(t *testing.T, h *netns.Host, address, text string) {
	t.Helper()
	var l net.PacketConn
	if err := h.Do(func() (err error) {
		l, err = net.ListenPacket("udp", address)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 512)
		for {
			_, from, err := l.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = l.WriteTo([]byte(text), from)
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended })
}

// who says who answers a user of a host.
func who(h *netns.Host, user uint32, network, to string) string {
	var conn net.Conn
	err := h.Do(func() (err error) {
		typ := unix.SOCK_STREAM
		if network == "udp" {
			typ = unix.SOCK_DGRAM
		}
		conn, err = dialAs(user, typ, netip.MustParseAddrPort(to))
		return err
	})
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if network == "udp" {
		if _, err := io.WriteString(conn, "?"); err != nil {
			return err.Error()
		}
		buf := make([]byte, 512)
		n, err := conn.Read(buf)
		if err != nil {
			return err.Error()
		}
		return string(buf[:n])
	}
	text, err := io.ReadAll(conn)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

type question struct {
	from    *netns.Host
	user    uint32
	network string
	to      string
	want    string
}

func (tr *trial) ask(when string, list ...question) {
	tr.t.Helper()
	for _, q := range list {
		if got := who(q.from, q.user, q.network, q.to); got != q.want {
			tr.t.Errorf("%s: user %d of %s to %s over %s: %q answers, want %q", when, q.user, q.from.IP(), q.to, q.network, got, q.want)
		}
	}
}

func (tr *trial) install(c Config) (changed bool) {
	tr.t.Helper()
	if err := tr.host.Do(func() error {
		plan, err := PlanInstall(context.Background(), c)
		if err == nil {
			changed, err = plan.Apply(context.Background())
		}
		return err
	}); err != nil {
		tr.t.Fatal(err)
	}
	return changed
}

// rules is everything that the host holds, whoever made it.
func (tr *trial) rules() string {
	tr.t.Helper()
	var b strings.Builder
	for _, line := range []string{"nft list ruleset", "iptables-legacy-save", "ip6tables-legacy-save", "ip -6 -brief address show lo"} {
		words := strings.Fields(line)
		cmd := exec.Command(words[0], words[1:]...)
		var out strings.Builder
		cmd.Stdout = &out
		if err := tr.host.Start(cmd); err != nil {
			tr.t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			tr.t.Fatalf("%s: %v", line, err)
		}
		for text := range strings.Lines(out.String()) {
			if !strings.HasPrefix(text, "#") {
				b.WriteString(text)
			}
		}
	}
	return counters.ReplaceAllString(b.String(), "[]")
}

var counters = regexp.MustCompile(`\[\d+:\d+\]|packets \d+ bytes \d+`)

func (tr *trial) run(line string) {
	tr.t.Helper()
	words := strings.Fields(line)
	cmd := exec.Command(words[0], words[1:]...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := tr.host.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		tr.t.Fatalf("%s: %v\n%s", line, err, out.String())
	}
}

// On a real host, with real rules: who is redirected, who is not, and that nothing is left.
// Acceptance: U transparentproxy: installed, installed again, changed, taken away, with each engine.
func TestOnAHost(t *testing.T) {
	n := netns.Enter(t)
	if n == nil {
		return
	}
	for _, program := range []string{"nft", "iptables-nft-restore", "iptables-legacy-restore"} {
		if _, err := exec.LookPath(program); err != nil {
			lacking(t, err.Error()+"; install nftables and iptables")
		}
	}
	if users, err := os.ReadFile("/proc/self/uid_map"); err != nil || !strings.Contains(string(users), "4294967295") {
		lacking(t, "users other than root are needed")
	}
	tr := &trial{t, n.Host(t, 1, 2), n.Host(t, 1, 3)}
	if tr.host.IP6() == "" {
		lacking(t, "IPv6 is needed")
	}
	for _, ip := range []string{"0.0.0.0", "[::]"} {
		answer(t, tr.host, ip+":15001", "outbound")
		answer(t, tr.host, ip+":15006", "inbound")
		answer(t, tr.host, ip+":8080", "workload")
		answer(t, tr.host, ip+":22", "ssh")
		answer(t, tr.other, ip+":80", "other")
		answer(t, tr.other, ip+":9005", "other")
		answer(t, tr.other, ip+":53", "resolver")
	}
	for ip, server := range map[string]string{"127.0.0.1": tr.other.IP(), "[::1]": "[" + tr.other.IP6() + "]"} {
		answer(t, tr.host, ip+":15053", "agent")
		answerPackets(t, tr.host, ip+":15053", "agent")
		answerPackets(t, tr.other, server+":53", "resolver")
	}
	tr.run("nft add table inet others")
	tr.run("iptables-legacy -t nat -N OTHERS")
	tr.run("iptables-legacy -t nat -A OUTPUT -p tcp --dport 1 -j OTHERS")
	// Tables of iptables stay when they are empty, and their first use makes them.
	tr.install(config("iptables-nft"))
	tr.install(config("iptables-legacy"))
	tr.uninstall()
	before := tr.rules()
	idle := &trial{t, n.Host(t, 1, 4), nil} // where no proxy runs yet
	for _, engine := range []string{"nftables", "iptables-nft", "iptables-legacy"} {
		t.Logf("with %s", engine)
		tr.engine(engine)
		idle.install(config(engine))
		idle.verify(idle.host, config(engine), 4, "")
	}
	idle.uninstall()
	idle.verify(idle.host, config("nftables"), 0, "192.0.2.1")
	tr.uninstall()
	if after := tr.rules(); after != before {
		t.Errorf("rules before:\n%s\nand after:\n%s", before, after)
	}
	tr.ask("uninstalled", question{tr.host, someone, "tcp", tr.other.IP() + ":80", "other"}, question{tr.other, 0, "tcp", tr.host.IP() + ":8080", "workload"})
}

func lacking(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func config(engine string) Config {
	c := Default()
	c.Engine, c.ProxyUser, c.RedirectDNS = engine, fmt.Sprint(proxyUser), "all"
	return c
}

func (tr *trial) uninstall() {
	tr.t.Helper()
	if err := tr.host.Do(func() error {
		plan, err := PlanUninstall(context.Background())
		if err == nil {
			_, err = plan.Apply(context.Background())
		}
		return err
	}); err != nil {
		tr.t.Fatal(err)
	}
}

// verify checks how much Verify finds in order, and what it finds wrong.
func (tr *trial) verify(h *netns.Host, c Config, found int, wrong string) {
	tr.t.Helper()
	err := h.Do(func() error {
		said, err := Verify(context.Background(), c)
		if len(said) != found {
			tr.t.Errorf("%s: verified %v, want %d", c.Engine, said, found)
		}
		return err
	})
	if wrong == "" && err != nil || wrong != "" && (err == nil || !strings.Contains(err.Error(), wrong)) {
		tr.t.Errorf("%s: verify: %v, want %q", c.Engine, err, wrong)
	}
}

// engine goes through what rules may say with one engine. What another one held is gone then.
func (tr *trial) engine(engine string) {
	t, host, other := tr.t, tr.host, tr.other
	t.Helper()
	c := config(engine)
	if !tr.install(c) {
		t.Errorf("%s: installing changed nothing", engine)
	}
	first := tr.rules()
	if tr.install(c) || tr.rules() != first {
		t.Errorf("%s: installing again changed something: before\n%s\nafter\n%s", engine, first, tr.rules())
	}
	for _, f := range []struct{ host, other, loopback string }{
		{host.IP(), other.IP(), "127.0.0.1"}, {"[" + host.IP6() + "]", "[" + other.IP6() + "]", "[::1]"},
	} {
		tr.ask(engine,
			question{host, someone, "tcp", f.other + ":80", "outbound"},
			question{host, 0, "tcp", f.other + ":80", "outbound"},
			question{host, proxyUser, "tcp", f.other + ":80", "other"},
			question{host, someone, "tcp", f.loopback + ":8080", "workload"},
			question{host, someone, "tcp", f.host + ":8080", "workload"},
			question{host, proxyUser, "tcp", f.loopback + ":8080", "workload"},
			question{host, proxyUser, "tcp", f.host + ":8080", "inbound"}, // it calls itself through the mesh
			question{other, 0, "tcp", f.host + ":8080", "inbound"},
			question{other, 0, "tcp", f.host + ":22", "ssh"},
			question{host, someone, "udp", f.other + ":53", "agent"},
			question{host, someone, "tcp", f.other + ":53", "agent"},
			question{host, proxyUser, "udp", f.other + ":53", "resolver"},
			question{host, proxyUser, "tcp", f.other + ":53", "resolver"},
		)
	}
	tr.verify(host, c, 1, "does not arrive at port 15053") // what answers lookups there speaks no DNS
	c.RedirectDNS = "none"
	tr.verify(host, c, 2, "")

	c.ExcludeOutboundPorts, c.ExcludeInboundPorts = []string{"9000-9010"}, []string{"8080"}
	c.ExcludeOutboundUIDs, c.ExcludeOutboundPortsForUIDs = []string{"1001-1003"}, []string{"tcp:70-90:1004", "udp:53:1005"}
	c.RedirectDNS = other.IP()
	if !tr.install(c) {
		t.Errorf("%s: other settings changed nothing", engine)
	}
	tr.ask(engine+", with exclusions",
		question{host, someone, "tcp", other.IP() + ":80", "outbound"},
		question{host, someone, "tcp", other.IP() + ":9005", "other"},
		question{host, 1002, "tcp", other.IP() + ":80", "other"},
		question{host, 1002, "udp", other.IP() + ":53", "resolver"},
		question{host, 1004, "tcp", other.IP() + ":80", "other"},
		question{host, 1004, "tcp", other.IP() + ":53", "agent"},
		question{host, 1005, "tcp", other.IP() + ":80", "outbound"},
		question{host, 1005, "udp", other.IP() + ":53", "resolver"},
		question{host, 1005, "tcp", other.IP() + ":53", "agent"},
		question{host, someone, "udp", other.IP() + ":53", "agent"},
		question{host, someone, "udp", "[" + other.IP6() + "]:53", "resolver"}, // no server that is redirected
		question{other, 0, "tcp", host.IP() + ":8080", "workload"},
		question{other, 0, "tcp", host.IP() + ":22", "inbound"},
	)
	c = config(engine)
	c.ExcludeOutboundIPs, c.ExcludeInboundIPs, c.RedirectDNS = []string{"10.77.0.0/16"}, []string{other.IP()}, "none"
	tr.install(c)
	tr.ask(engine+", with excluded addresses",
		question{host, someone, "tcp", other.IP() + ":80", "other"},
		question{host, someone, "tcp", "[" + other.IP6() + "]:80", "outbound"},
		question{host, someone, "udp", other.IP() + ":53", "resolver"},
		question{other, 0, "tcp", host.IP() + ":8080", "workload"},
		question{other, 0, "tcp", "[" + host.IP6() + "]:8080", "inbound"},
	)
	c = config(engine)
	c.IncludeOutboundPorts, c.IncludeInboundPorts, c.IPFamily = []string{"80"}, []string{"8080"}, "ipv4"
	tr.install(c)
	tr.ask(engine+", with some ports of IPv4",
		question{host, someone, "tcp", other.IP() + ":80", "outbound"},
		question{host, someone, "tcp", other.IP() + ":9005", "other"},
		question{host, someone, "tcp", "[" + other.IP6() + "]:80", "other"},
		question{other, 0, "tcp", host.IP() + ":8080", "inbound"},
		question{other, 0, "tcp", host.IP() + ":22", "ssh"},
		question{other, 0, "tcp", "[" + host.IP6() + "]:8080", "workload"},
	)
}
