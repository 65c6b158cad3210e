package envoy

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// A cluster that changes without its endpoints is in force at once, costs one cluster and one assignment, and fails no request,
// not even one that is on its way through all the changes.
func TestPushClusterEdit(t *testing.T) {
	t.Parallel()
	z, m := newZone(t), newMarket(t, 1)
	services := m.services(t, 6)
	release := make(chan struct{})
	m.pools[1] = serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-release
		}
		fmt.Fprint(w, "1")
	}))
	s := z.join(t, "web", m.table(t, services...))
	untilServed(t, services...)
	slow := make(chan string, 1)
	go func() {
		code, body, err := fetch(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, services[2].port, "/slow")
		slow <- fmt.Sprint(code, " ", body, " ", err)
	}()
	s.untilStat(t, "cluster.svc-02.upstream_rq_active", 1)

	flow := startTraffic(t, 2, services[2], services[4])
	p := s.zone.streams(s.node)[0]
	for g := 2; g <= 11; g++ {
		before := len(p.responses())
		services[2].at[envoy.Cluster] = g
		table := m.table(t, services...)
		s.set(table)
		if took := untilServed(t, services[2]); took > prompt {
			t.Errorf("generation %d is in force after %s", g, took)
		}
		s.untilAcked(t, table)
		var sent []string
		for _, r := range p.responses()[before:] {
			for _, f := range r.resources {
				sent = append(sent, r.typ.String()+" "+f.Name)
			}
		}
		if want := []string{"CDS svc-02", "EDS svc-02"}; !slices.Equal(sent, want) {
			t.Errorf("generation %d took %v, want %v", g, sent, want)
		}
		flow.more(t, 10)
	}
	flow.stop(t)
	if got := s.stat(t, "cluster.svc-02.init_fetch_timeout"); got != 0 {
		t.Errorf("%d fetch timeouts", got)
	}
	close(release)
	if got := <-slow; got != "200 1 <nil>" {
		t.Errorf("the request on its way: %s", got)
	}
}

// Cluster and endpoints that change together change together: no request meets the new cluster with the old endpoints
// for longer than it takes to apply both, and the last state is the newest of both.
func TestPushClusterAndEndpointsEdit(t *testing.T) {
	t.Parallel()
	z, m := newZone(t), newMarket(t, 12)
	services := m.services(t, 3)
	s := z.join(t, "web", m.table(t, services...))
	untilServed(t, services...)
	flow := startTraffic(t, 2, services...)
	for g := 2; g <= 12; g++ {
		for i := range services {
			services[i].at[envoy.Cluster], services[i].at[envoy.Endpoint] = g, g
		}
		table := m.table(t, services...)
		s.set(table)
		if took := untilServed(t, services...); took > prompt {
			t.Errorf("generation %d is in force after %s", g, took)
		}
		flow.more(t, 5)
	}
	flow.stop(t)
}

// A new service that comes in one table is whole when it can first be reached, and routes that turn to it under load never lead
// to nothing; when it goes, they leave it first.
func TestPushServicesComeAndGo(t *testing.T) {
	t.Parallel()
	z, m := newZone(t), newMarket(t, 1)
	services := m.services(t, 9)
	front := &services[0]
	s := z.join(t, "web", m.table(t, services[0]))
	untilServed(t, *front)
	flow := startTraffic(t, 3, *front)

	for i := 1; i < len(services); i++ {
		fresh := services[i]
		front.to = fresh.name
		front.at[envoy.Route]++
		table := m.table(t, services[:i+1]...)
		s.set(table)
		until(t, fresh.name+" can be reached", func() (any, bool) {
			c, err := net.DialTimeout("tcp", address(fresh.port), time.Second)
			if err != nil {
				return err, false
			}
			defer c.Close()
			// Whoever is let in is served.
			met, err := look(client(t), fresh)
			if err != nil || met != fresh.at {
				t.Fatalf("the first request met %v: %v", met, err)
			}
			return nil, true
		})
		untilServed(t, *front)
		s.untilAcked(t, table)
		flow.more(t, 10)
	}
	for i := len(services) - 1; i > 0; i-- {
		front.to = ""
		if i > 1 {
			front.to = services[i-1].name
		}
		front.at[envoy.Route]++
		before := len(z.streams(s.node)[0].responses())
		table := m.table(t, services[:i]...)
		s.set(table)
		s.untilAcked(t, table)
		untilServed(t, *front)
		until(t, services[i].name+" is gone", func() (any, bool) { return nil, closed(services[i]) })
		inOrder(t, z.streams(s.node)[0], before, services[i].name)
		flow.more(t, 10)
	}
	flow.stop(t)
	until(t, "no cluster of a removed service is left", func() (any, bool) {
		n := s.stat(t, "cluster_manager.active_clusters")
		return n, n == 2 // the agent's and one service
	})
	if got := s.refusals(); len(got) > 0 {
		t.Errorf("refusals: %q", got)
	}
}

// inOrder requires that a cluster was removed only when the proxy had confirmed new routes and the end of the listener.
func inOrder(t testing.TB, p *tap, from int, name string) {
	t.Helper()
	responses := p.responses()[from:]
	removal := slices.IndexFunc(responses, func(r sending) bool { return r.typ == envoy.Cluster && slices.Contains(r.removed, name) })
	if removal < 0 {
		t.Errorf("the cluster %s was never removed", name)
		return
	}
	for i, r := range responses {
		if r.typ != envoy.Listener && r.typ != envoy.Route {
			continue
		}
		if i > removal {
			t.Errorf("%s nonce %s was sent after the cluster %s was removed", r.typ, r.nonce, name)
		}
		if at := p.answered(r.nonce); at < 0 || at >= responses[removal].heard {
			t.Errorf("%s nonce %s was not confirmed when the cluster %s was removed", r.typ, r.nonce, name)
		}
	}
}

// A listener that takes over the address of another is served without anybody being turned away for long, and no request of
// other services fails.
func TestPushListenerTakesOverAddress(t *testing.T) {
	t.Parallel()
	z, m := newZone(t), newMarket(t, 1)
	services := m.services(t, 3)
	s := z.join(t, "web", m.table(t, services...))
	untilServed(t, services...)
	flow := startTraffic(t, 2, services[0], services[2])
	for i := range 4 {
		services[1].name = fmt.Sprintf("heir-%d", i)
		table := m.table(t, services...)
		s.set(table)
		if took := untilServed(t, services[1]); took > prompt {
			t.Errorf("the address is served again after %s", took)
		}
		s.untilAcked(t, table)
	}
	flow.stop(t)
	if got := s.refusals(); len(got) > 0 {
		t.Errorf("refusals: %q", got)
	}
}

// connections counts those that an upstream has seen.
type connections struct {
	mu           sync.Mutex
	opened, gone int
}

func (c *connections) saw(_ net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateNew:
		c.opened++
	case http.StateClosed:
		c.gone++
	}
}

func (c *connections) count() (opened, gone int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.opened, c.gone
}

// Edits of routes and permissions under load end no connection, neither on the side of the client nor of the upstream; and a denial
// holds from the next request on a connection that is open.
func TestPushRouteAndPermissionEditsKeepConnections(t *testing.T) {
	t.Parallel()
	const clients = 4
	z, m := newZone(t), newMarket(t, 0)
	upstream := &connections{}
	m.pools = append(m.pools, countedEcho(t, "1", upstream))
	services := m.services(t, 3)
	s := z.join(t, "web", m.table(t, services...))
	untilServed(t, services...)
	busy := &services[1]
	one := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	t.Cleanup(one.CloseIdleConnections)
	if _, err := look(one, *busy); err != nil {
		t.Fatal(err)
	}
	flow := startTraffic(t, clients, *busy)
	flow.more(t, 20)
	for g := 2; g <= 21; g++ {
		busy.at[envoy.Route] = g
		if g%2 == 0 {
			busy.at[envoy.Extension] = g
		}
		table := m.table(t, services...)
		s.set(table)
		until(t, fmt.Sprintf("generation %d", g), func() (any, bool) {
			met, err := look(one, *busy)
			if err != nil {
				t.Fatal(err)
			}
			return met, met == busy.at
		})
		s.untilAcked(t, table)
	}
	flow.stop(t)
	// Each client, and this test, may need one at a time; and each of the other services has been looked at once.
	if opened, gone := upstream.count(); opened > clients+1+len(services)-1 || gone > 0 {
		t.Errorf("%d connections to the upstream, %d of them ended", opened, gone)
	}
	for _, denied := range []bool{true, false} {
		busy.deny = denied
		s.set(m.table(t, services...))
		want := map[bool]int{true: http.StatusForbidden, false: http.StatusOK}[denied]
		until(t, fmt.Sprintf("answers %d", want), func() (any, bool) {
			code, _, err := fetch(one, busy.port, "/")
			return fmt.Sprint(code, err), code == want
		})
	}
	// Clients may end connections when they like; Envoy may not, the denial included.
	if n := s.stat(t, "http."+busy.name+".downstream_cx_total"); n <= clients {
		t.Errorf("%d connections were counted of %d clients and one more", n, clients)
	}
	for _, stat := range []string{"downstream_cx_destroy_local", "downstream_cx_drain_close"} {
		if n := s.stat(t, "http."+busy.name+"."+stat); n > 0 {
			t.Errorf("%s is %d", stat, n)
		}
	}
}

func countedEcho(t testing.TB, text string, c *connections) (port uint32) {
	t.Helper()
	l, err := net.Listen("tcp", loopbackIP+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ConnState: c.saw, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) })}
	var serving sync.WaitGroup
	serving.Go(func() { s.Serve(l) }) //nolint:errcheck // ends with Close
	t.Cleanup(func() { s.Close(); serving.Wait() })
	return uint32(l.Addr().(*net.TCPAddr).Port)
}
