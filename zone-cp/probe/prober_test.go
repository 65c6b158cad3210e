package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// A network leads addresses to control planes, without sockets, so that time can be played.
type network struct {
	mu    sync.Mutex
	hosts map[string]host
	open  []net.Conn
	dials map[string]int
}

// A host is what happens to those who dial it: refused unless it has a plane or a workload; with hang, nothing happens at all.
type host struct {
	plane    *plane
	workload *tls.Certificate // behind an ingress whose control plane is away
	hang     bool
}

func (n *network) set(address string, h host) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[address] = h
	if h.plane == nil { // what was open breaks off
		for _, c := range n.open {
			_ = c.Close()
		}
		n.open = nil
	}
}

func (n *network) dialled(address string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials[address]
}

func (n *network) dial(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	h := n.hosts[address]
	n.dials[address]++
	n.mu.Unlock()
	switch {
	case h.hang:
		<-ctx.Done()
		return nil, ctx.Err()
	case h.plane == nil && h.workload == nil:
		return nil, errors.New("connection refused")
	}
	a, b := net.Pipe()
	n.mu.Lock()
	n.open = append(n.open, b)
	n.mu.Unlock()
	if h.workload != nil {
		go workloadAlone(*h.workload, "sni.msvc.default.west.web.http")(newSocket(b))
		return a, nil
	}
	go h.plane.responder.serve(context.Background(), newSocket(b))
	return a, nil
}

// A socket takes what is written without waiting for a reader, as a kernel does.
type socket struct {
	net.Conn
	queue chan []byte
	once  sync.Once
}

func newSocket(c net.Conn) *socket {
	s := &socket{Conn: c, queue: make(chan []byte, 1000)}
	go func() {
		for b := range s.queue {
			if _, err := c.Write(b); err != nil {
				break
			}
		}
		_ = c.Close()
	}()
	return s
}

func (s *socket) Write(b []byte) (int, error) {
	s.queue <- slices.Clone(b)
	return len(b), nil
}

func (s *socket) CloseWrite() error { return nil }

func (s *socket) Close() error {
	s.once.Do(func() { close(s.queue) })
	return nil
}

// east starts a prober of a zone that knows one ingress of west.
func east(t *testing.T, n *network, edit func(*Config)) (*plane, *Prober) {
	t.Helper()
	p := newPlane(t, "east", nil)
	cfg := Config{Zone: "east", Catalog: p.catalog, Authority: p.authority, Table: NewTable(nil), Dial: n.dial}
	if edit != nil {
		edit(&cfg)
	}
	pr := New(cfg)
	p.stop = background(t, pr.Run)
	t.Cleanup(func() { p.stop(); n.set("", host{}) }) // responders end with their connections
	p.put(ingress("west", "in", "192.0.2.1", "10001"))
	return p, pr
}

// pair is two zones that believe each other.
func pair(t *testing.T, n *network, edit func(*Config)) (e, w *plane, pr *Prober) {
	t.Helper()
	w = newPlane(t, "west", nil)
	w.identify()
	e, pr = east(t, n, edit)
	e.identify()
	e.believe(w)
	w.believe(e)
	n.set("192.0.2.1:10001", host{plane: w})
	return e, w, pr
}

// within waits at most d of played time for a state and says how long it took.
func within(t *testing.T, pr *Prober, d time.Duration, want mesh.ReachabilityState) time.Duration {
	t.Helper()
	start := time.Now()
	for {
		changed := pr.Changed()
		if r := pr.Reachability(); len(r) > 0 && r[0].State == want {
			return time.Since(start)
		}
		select {
		case <-changed:
		case <-time.After(d - time.Since(start)):
			t.Fatalf("not %s within %s: %+v", want, d, pr.Reachability())
		}
	}
}

func stays(t *testing.T, pr *Prober, d time.Duration, want mesh.ReachabilityState) {
	t.Helper()
	synctest.Wait()
	for end := time.Now().Add(d); time.Now().Before(end); {
		if r := pr.Reachability(); r[0].State != want {
			t.Fatalf("became %s: %+v", r[0].State, r)
		}
		select {
		case <-pr.Changed():
		case <-time.After(time.Until(end)):
		}
	}
}

func gateway(pr *Prober) view.Gateway {
	pr.cfg.Table.mu.Lock()
	defer pr.cfg.Table.mu.Unlock()
	return pr.cfg.Table.gateways[key(mesh.TypeMeshZoneAddress, "in")]
}

func TestADeadIngressIsWithdrawnAndReturns(t *testing.T) {
	for _, dead := range []host{{}, {hang: true}} {
		t.Run(fmt.Sprintf("hangs %t", dead.hang), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{hosts: map[string]host{}, dials: map[string]int{}}
				_, w, pr := pair(t, n, nil)
				within(t, pr, 6*time.Second, mesh.ReachabilityUp)
				stays(t, pr, time.Minute, mesh.ReachabilityUp)
				if g := gateway(pr); g != (view.Gateway{}) {
					t.Errorf("the gateway is %+v", g)
				}
				n.set("192.0.2.1:10001", dead)
				took := within(t, pr, 4*time.Second, mesh.ReachabilityDown)
				if !gateway(pr).Down {
					t.Error("routing is not told")
				}
				n.set("192.0.2.1:10001", host{plane: w})
				within(t, pr, 5*time.Second, mesh.ReachabilityReturning)
				if !gateway(pr).Down {
					t.Error("it gets traffic at once")
				}
				back := within(t, pr, 5*time.Second, mesh.ReachabilityUp)
				if back < 2*time.Second {
					t.Errorf("it was held back for %s only", back)
				}
				if gateway(pr).Down {
					t.Error("it gets no traffic")
				}
				t.Logf("down after %s, up %s after it was stable", took, back)
			})
		})
	}
}

func TestOneFailureIsForgiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]host{}, dials: map[string]int{}}
		_, w, pr := pair(t, n, nil)
		within(t, pr, 6*time.Second, mesh.ReachabilityUp)
		for range 10 {
			n.set("192.0.2.1:10001", host{})
			time.Sleep(850 * time.Millisecond) // one attempt, at most
			n.set("192.0.2.1:10001", host{plane: w})
			stays(t, pr, 3*time.Second, mesh.ReachabilityUp)
		}
	})
}

func TestWhoCannotBeJudgedIsNotDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]host{}, dials: map[string]int{}}
		e, pr := east(t, n, nil)
		stays(t, pr, 20*time.Second, mesh.ReachabilityUnknown)
		if got := pr.Reachability()[0].LastError; !strings.Contains(got, "create a MeshIdentity") {
			t.Errorf("without an identity: %q", got)
		}
		e.identify()
		stays(t, pr, 20*time.Second, mesh.ReachabilityUnknown)
		if got := pr.Reachability()[0].LastError; !strings.Contains(got, "no MeshTrust of zone west") {
			t.Errorf("without a bundle: %q", got)
		}
		w := newPlane(t, "west", nil)
		w.identify()
		n.set("192.0.2.1:10001", host{plane: w})
		e.believe(w)
		stays(t, pr, 20*time.Second, mesh.ReachabilityUnknown)
		if got := pr.Reachability()[0].LastError; !strings.Contains(got, "remote error") {
			t.Errorf("not believed by the other side: %q", got)
		}
		if n.dialled("192.0.2.1:10001") == 0 || gateway(pr).Down {
			t.Errorf("dialled %d times, gateway %+v", n.dialled("192.0.2.1:10001"), gateway(pr))
		}
		w.believe(e)
		within(t, pr, 7*time.Second, mesh.ReachabilityUp)
		w.remove(key(mesh.TypeMeshIdentity, "identity")) // as when its certificates come from elsewhere now
		within(t, pr, time.Minute, mesh.ReachabilityUnknown)
		n.set("192.0.2.1:10001", host{})
		within(t, pr, 10*time.Second, mesh.ReachabilityDown)
	})
}

func TestCountsTravel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]host{}, dials: map[string]int{}}
		e, w, pr := pair(t, n, nil)
		table := pr.cfg.Table
		w.put(ownService("web") + dataplane("web-1", "web", "10.0.0.1", "Ready") + dataplane("web-2", "web", "10.0.0.2", "Ready"))
		e.put(remoteService("west", "web", "web-x"))
		within(t, pr, 7*time.Second, mesh.ReachabilityUp)
		told := map[resource.Key]*view.Remote{}
		for _, step := range []struct {
			what string
			do   func()
			want *view.Remote
			wait time.Duration
		}{
			{"both", func() {}, counts(2, 2), 2 * time.Second},
			{"one", func() { w.put(dataplane("web-2", "web", "10.0.0.2", "NotReady")) }, counts(1, 2), 2 * time.Second},
			{"the last counts of who is away", func() { n.set("192.0.2.1:10001", host{}) }, counts(1, 2), 50 * time.Second},
			{"none of who is away for long", func() {}, nil, 20 * time.Second},
			{"those of who is back, though nothing changed", func() { n.set("192.0.2.1:10001", host{plane: w}) }, counts(1, 2), 8 * time.Second},
		} {
			step.do()
			time.Sleep(step.wait)
			synctest.Wait()
			for k, r := range table.collect().Services {
				told[k] = r
			}
			if got := told[web]; (got == nil) != (step.want == nil) || got != nil && !got.Equal(*step.want) {
				t.Errorf("%s: routing knows %v, want %v", step.what, got, step.want)
			}
		}
		r := pr.Reachability()[0]
		if r.Sequence == 0 || r.LastAnswer.IsZero() || r.Zone != "west" || r.Address != "192.0.2.1:10001" {
			t.Errorf("shown as %+v", r)
		}
	})
}

func TestAZoneThatDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]host{}, dials: map[string]int{}}
		_, w, pr := pair(t, n, nil)
		within(t, pr, 7*time.Second, mesh.ReachabilityUp)
		w.responder.SetDraining(true)
		changed := pr.Changed()
		<-changed
		if g := gateway(pr); g != (view.Gateway{Draining: true}) || !pr.Reachability()[0].Draining {
			t.Errorf("gateway %+v, shown %+v", g, pr.Reachability())
		}
		w.responder.SetDraining(false)
		<-pr.Changed()
		if g := gateway(pr); g != (view.Gateway{}) {
			t.Errorf("gateway %+v", g)
		}
	})
}

func TestConnectionsAreRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]host{}, dials: map[string]int{}}
		_, _, pr := pair(t, n, nil)
		within(t, pr, 7*time.Second, mesh.ReachabilityUp)
		before := n.dialled("192.0.2.1:10001")
		stays(t, pr, time.Minute, mesh.ReachabilityUp)
		if got := n.dialled("192.0.2.1:10001") - before; got < 4 || got > 7 {
			t.Errorf("%d connections in a minute", got)
		}
	})
}

func TestNamesAreResolved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]host{}, dials: map[string]int{}}
		answers := []netip.Addr{netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("192.0.2.8"), netip.MustParseAddr("169.254.169.254")}
		var mu sync.Mutex
		var failure error
		resolve := func(context.Context, string) ([]netip.Addr, error) {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(answers), failure
		}
		e, w, pr := pair(t, n, func(c *Config) { c.Resolve = resolve })
		e.put(ingress("west", "in", "in.example.com", "10001"))
		n.set("192.0.2.8:10001", host{plane: w})
		within(t, pr, 7*time.Second, mesh.ReachabilityUp)
		if got := gateway(pr); got != (view.Gateway{IP: netip.MustParseAddr("192.0.2.8")}) {
			t.Errorf("gateway %+v", got)
		}
		n.set("192.0.2.9:10001", host{plane: w})
		n.set("192.0.2.8:10001", host{}) // the other address of the name takes over before anybody is withdrawn
		stays(t, pr, 5*time.Second, mesh.ReachabilityUp)
		if got := gateway(pr).IP.String(); got != "192.0.2.9" {
			t.Errorf("gateway %s", got)
		}
		mu.Lock()
		answers, failure = nil, errors.New("the name server is away")
		mu.Unlock()
		stays(t, pr, time.Minute, mesh.ReachabilityUp)
		mu.Lock()
		answers, failure = []netip.Addr{netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("127.0.0.1")}, nil
		mu.Unlock()
		e.put(ingress("west", "in", "evil.example.com", "10001"))
		time.Sleep(10 * time.Second)
		if r := pr.Reachability()[0]; r.State != mesh.ReachabilityUnknown || !strings.Contains(r.LastError, "no address that may be asked") || gateway(pr).IP.IsValid() {
			t.Errorf("a name of local addresses: %+v, gateway %+v", r, gateway(pr))
		}
		e.put(ingress("west", "in", "169.254.169.254", "80"))
		time.Sleep(10 * time.Second)
		if r := pr.Reachability()[0]; r.State != mesh.ReachabilityUnknown || n.dialled("169.254.169.254:80") > 0 {
			t.Errorf("a local address: %+v, dialled %d times", r, n.dialled("169.254.169.254:80"))
		}
	})
}

func TestAddressesComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]host{}, dials: map[string]int{}}
		e, w, pr := pair(t, n, func(c *Config) { c.MaxPerZone = 2 })
		e.put(ingress("west", "in-2", "192.0.2.2", "10001") + ingress("west", "in-3", "192.0.2.3", "10001") + ingress("east", "own", "192.0.2.4", "10001"))
		n.set("192.0.2.2:10001", host{plane: w})
		n.set("192.0.2.3:10001", host{plane: w})
		states := func() string {
			var out []string
			for _, r := range pr.Reachability() {
				out = append(out, r.Name+" "+string(r.State))
			}
			return strings.Join(out, ", ")
		}
		time.Sleep(10 * time.Second)
		if got, want := states(), "in Up, in-2 Up, in-3 Unknown"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		e.remove(key(mesh.TypeMeshZoneAddress, "in-2"))
		time.Sleep(10 * time.Second)
		if got, want := states(), "in Up, in-3 Up"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		e.put(ingress("west", "in", "192.0.2.99", "10001"))
		time.Sleep(10 * time.Second)
		if got, want := states(), "in Down, in-3 Up"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		e.remove(key(mesh.TypeMeshZoneAddress, "in"))
		e.remove(key(mesh.TypeMeshZoneAddress, "in-3"))
		time.Sleep(time.Second)
		e.stop()
		if len(pr.peers) > 0 || len(pr.targets) > 0 || states() != "" || len(pr.cfg.Table.gateways) > 0 || len(pr.cfg.Table.peers) > 0 {
			t.Errorf("something is left of what is gone: %s", states())
		}
	})
}

// TestThousandsOfAddresses are asked with bounded concurrency, and those that hang do not keep the others waiting.
func TestThousandsOfAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]host{}, dials: map[string]int{}}
		var mu sync.Mutex
		var now, most int
		reg := prometheus.NewRegistry()
		e, _, pr := pair(t, n, func(c *Config) {
			c.Registerer = reg
			c.MaxPerZone = 5000
			c.MaxConcurrent = 32
			inner := c.Dial
			c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				mu.Lock()
				now++
				most = max(most, now)
				mu.Unlock()
				defer func() { mu.Lock(); now--; mu.Unlock() }()
				return inner(ctx, network, address)
			}
		})
		within(t, pr, 7*time.Second, mesh.ReachabilityUp)
		var text strings.Builder
		for i := range 3000 {
			address := fmt.Sprintf("198.51.%d.%d", i/250, i%250)
			text.WriteString(ingress("west", fmt.Sprint("z-", i), address, "1"))
			n.mu.Lock()
			n.hosts[address+":1"] = host{hang: true}
			n.mu.Unlock()
		}
		e.put(text.String())
		time.Sleep(5 * time.Minute)
		down := 0
		for _, r := range pr.Reachability() {
			if r.State == mesh.ReachabilityDown {
				down++
			}
		}
		mu.Lock()
		if down != 3000 || most > 32 {
			t.Errorf("%d are down, want 3000; %d were asked at a time, at most 32 are allowed", down, most)
		}
		mu.Unlock()
		n.set("192.0.2.1:10001", host{})
		took := within(t, pr, 5*time.Second, mesh.ReachabilityDown)
		t.Logf("a live one among 3000 dead ones is withdrawn after %s", took)
		got := map[string]float64{}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "causeway_probe_ingresses" {
				for _, m := range f.GetMetric() {
					got[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
				}
			}
		}
		if d := cmp.Diff(map[string]float64{"Unknown": 0, "Up": 0, "Down": 3001, "Returning": 0}, got); d != "" {
			t.Error(d)
		}
	})
}
