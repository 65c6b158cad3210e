package agent

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/test/ports"
	"github.com/causeway-mesh/causeway/zone-cp/agents"
)

// called is what a zone calls things; every feed follows it.
type called struct {
	mu    sync.Mutex
	set   *agentapi.NameSet
	feeds map[*feed]bool
}

type feed struct {
	of      *called
	changed func()
}

func (c *called) open(_ context.Context, _ resourceKey, changed func()) (agents.NamesFeed, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := &feed{c, changed}
	if c.feeds == nil {
		c.feeds = map[*feed]bool{}
	}
	c.feeds[f] = true
	return f, nil
}

func (c *called) call(names ...string) {
	var records []*agentapi.NameRecord
	for _, n := range names {
		name, ip, _ := strings.Cut(n, "=")
		records = append(records, &agentapi.NameRecord{Name: name, Addresses: [][]byte{netip.MustParseAddr(ip).AsSlice()}})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set = agentapi.NewNameSet(records, []string{"mesh.local"})
	for f := range c.feeds {
		f.changed()
	}
}

func (f *feed) Names() *agentapi.NameSet {
	f.of.mu.Lock()
	defer f.of.mu.Unlock()
	return f.of.set
}

func (f *feed) Close() {
	f.of.mu.Lock()
	defer f.of.mu.Unlock()
	delete(f.of.feeds, f)
}

func (c *called) edit(a *agents.Config) { a.Names = c.open }

// lookup asks an agent as programs do.
func lookup(t *testing.T, at, name string) string {
	t.Helper()
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, at)
	}}
	list, err := r.LookupNetIP(t.Context(), "ip4", name+".")
	if err != nil {
		return err.Error()
	}
	return list[0].String()
}

// The agent is ready when it knows the names of the mesh; they lead to its own block, follow every change, and outlive the zone.
func TestNames(t *testing.T) {
	w := newWorld(t)
	names := &called{}
	z := w.start(names.edit)
	cfg, _ := z.web()
	at := ports.FreeAddress(t, "127.0.0.1")
	cfg.DNS.Addresses, cfg.DNS.Upstreams = []string{at}, []string{ports.FreeAddress(t, "127.0.0.1")}
	cfg.ReadinessAddress = "unix:" + cfg.RuntimeDir + ".sock"
	a := run(t, cfg)
	z.untilServing("web-1")
	if got := ready(t, cfg); got != "NOT READY: the names of the mesh" {
		t.Errorf("readiness %q", got)
	}
	names.call("db.mesh.local=243.0.192.1", "web.mesh.local=241.0.0.1")
	until(t, "the agent is ready", func() bool { return ready(t, cfg) == "READY" })
	block := netip.MustParsePrefix(z.facts("web-1").OutboundBlock).Addr().As4()
	if got, want := lookup(t, at, "db.mesh.local"), netip.AddrFrom4([4]byte{127, block[1], 192, 1}).String(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	names.call("db.mesh.local=243.0.192.2", "web.mesh.local=241.0.0.1")
	want := netip.AddrFrom4([4]byte{127, block[1], 192, 2}).String()
	until(t, "the name has its new address", func() bool { return lookup(t, at, "db.mesh.local") == want })
	z.stop()
	until(t, "the session is over", func() bool { return a.says("no session with the zone") })
	if got := lookup(t, at, "db.mesh.local"); got != want {
		t.Errorf("without the zone: %s, want %s", got, want)
	}
	if got := lookup(t, at, "nope.mesh.local"); !strings.Contains(got, "no such host") {
		t.Errorf("a name that does not exist: %s", got)
	}

	// The next zone starts from what the agent holds, or from nothing.
	names.call("db.mesh.local=243.0.192.3")
	w.start(names.edit)
	until(t, "the agent has the names of the next zone", func() bool {
		return lookup(t, at, "db.mesh.local") == netip.AddrFrom4([4]byte{127, block[1], 192, 3}).String() &&
			strings.Contains(lookup(t, at, "web.mesh.local"), "no such host")
	})
}

// A zone from before names leaves the agent without, and ready.
func TestZoneWithoutNames(t *testing.T) {
	z := newWorld(t).start()
	cfg, _ := z.web()
	cfg.DNS.Addresses = []string{ports.FreeAddress(t, "127.0.0.1")}
	cfg.ReadinessAddress = "unix:" + cfg.RuntimeDir + ".sock"
	a := run(t, cfg)
	z.untilServing("web-1")
	until(t, "the agent is ready", func() bool { return ready(t, cfg) == "READY" })
	if !a.says("this zone sends no names of the mesh") {
		t.Error("it does not say why there are none")
	}
}

func TestAddressOfNamesInUse(t *testing.T) {
	z := newWorld(t).start()
	cfg, _ := z.web()
	l, err := net.Listen("tcp", ports.FreeAddress(t, "127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg.DNS.Addresses = []string{l.Addr().String()}
	if err := run(t, cfg).ended(); err == nil || !strings.Contains(err.Error(), "choose other dns.addresses") {
		t.Errorf("got %v", err)
	}
}
