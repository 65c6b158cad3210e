package envoy

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/types/known/durationpb"
)

const warming = "cluster_manager.warming_clusters"

// oneService is a listener that leads to one EDS cluster.
func oneService(t testing.TB, port, upstream uint32, fetchTimeout time.Duration) everything {
	return everything{
		clusters:  messages(edsCluster("svc", fetchTimeout)),
		endpoints: messages(assignment("svc", upstream)),
		listeners: messages(listener("out", port, httpChain(t, connectionManager(t, "routes")))),
		routes:    messages(routes("routes", "svc")),
	}
}

func slowerConnect(c *clusterv3.Cluster) { c.ConnectTimeout = durationpb.New(2 * time.Second) }

// A changed EDS cluster replaces the old one when it hears of its endpoints again, and Envoy does not ask
// for them. The acknowledgement of the clusters waits for that, too.
func TestSpikeChangedClusterWarms(t *testing.T) {
	t.Parallel()
	const fetchTimeout = 700 * time.Millisecond
	for name, c := range map[string]struct {
		before, after string // version of the assignment re-sent before or after the cluster; empty is not
		waits         bool
	}{
		"endpoints not sent":                      {waits: true},
		"endpoints sent before the cluster":       {before: "1", waits: true},
		"endpoints sent after, with same version": {after: "1"},
		"endpoints sent after, with new version":  {after: "2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, p, s := start(t)
			port, upstream := freePort(t), echo(t, "upstream")
			e := oneService(t, port, upstream, fetchTimeout)
			s.boot(t, p, e)
			asked := s.subscriptions(resourcev3.EndpointType, "svc")

			if c.before != "" {
				s.push(t, resourcev3.EndpointType, versioned(c.before, e.endpoints...)...)
			}
			begin := time.Now()
			nonce := s.send(t, resourcev3.ClusterType, nil, versioned("2", edited(edsCluster("svc", fetchTimeout), slowerConnect))...)
			if c.after != "" {
				s.send(t, resourcev3.EndpointType, nil, versioned(c.after, e.endpoints...)...)
			}
			if nack := s.answer(t, nonce); nack != "" {
				t.Fatal(nack)
			}
			acknowledged := time.Since(begin)
			t.Logf("acknowledged after %s", acknowledged)

			timedOut := p.stat(t, "cluster.svc.init_fetch_timeout")
			if waited := acknowledged > fetchTimeout*9/10; waited != c.waits || (timedOut == 1) != c.waits {
				t.Errorf("acknowledged after %s with %d fetch timeouts; waits = %v", acknowledged, timedOut, c.waits)
			}
			if got := p.stat(t, warming); got != 0 {
				t.Errorf("%d clusters warm after the acknowledgement", got)
			}
			if got := s.subscriptions(resourcev3.EndpointType, "svc"); got != asked {
				t.Errorf("Envoy asked for the endpoints again")
			}
			// Even after a timeout the endpoints are those known before, not none.
			if code, _, err := fetch(client(t), port, "/"); code != http.StatusOK {
				t.Errorf("request after the change: %d %v", code, err)
			}
		})
	}
}

// While any cluster warms, Envoy reads and applies further cluster responses but answers none of them:
// whoever waits for the answer before it sends endpoints waits for the fetch timeout.
func TestSpikeAnswersToClustersWaitForWarming(t *testing.T) {
	t.Parallel()
	_, p, s := start(t)
	port := freePort(t)
	s.boot(t, p, oneService(t, port, echo(t, "upstream"), 10*time.Second))

	first := s.send(t, resourcev3.ClusterType, nil, v1(edsCluster("one", 10*time.Second))...)
	s.subscribed(t, resourcev3.EndpointType, "one")
	second := s.send(t, resourcev3.ClusterType, nil, v1(edsCluster("two", 10*time.Second))...)
	s.subscribed(t, resourcev3.EndpointType, "two")
	third := s.send(t, resourcev3.ClusterType, nil, v1(staticCluster("three", 1))...)
	bad := s.send(t, resourcev3.ClusterType, nil, v1(badCluster(staticCluster("bad", 1)))...)
	p.untilStat(t, "cluster_manager.cds.update_rejected", 1)

	s.push(t, resourcev3.EndpointType, v1(assignment("one", 1))...)
	for _, nonce := range []string{first, second, third, bad} {
		if s.answered(nonce) {
			t.Errorf("%s answered while a cluster warms", nonce)
		}
	}
	if got := p.stat(t, "cluster_manager.active_clusters"); got != 4 {
		t.Errorf("%d active clusters, want xds, svc, one and three", got)
	}
	// An assignment without endpoints ends the warming as well as one with some.
	empty := assignment("two")
	empty.Endpoints = nil
	s.push(t, resourcev3.EndpointType, v1(empty)...)
	for _, nonce := range []string{first, second, third} {
		if nack := s.answer(t, nonce); nack != "" {
			t.Errorf("%s: %s", nonce, nack)
		}
	}
	if s.answer(t, bad) == "" {
		t.Error("a bad cluster was acknowledged")
	}
	if got := p.stat(t, "cluster.one.init_fetch_timeout") + p.stat(t, "cluster.two.init_fetch_timeout"); got != 0 {
		t.Errorf("%d fetch timeouts", got)
	}
}

// With the endpoints re-sent a cluster field changes under load with no failed request, and requests
// in flight on the old cluster finish.
func TestSpikeClusterChangesUnderLoad(t *testing.T) {
	t.Parallel()
	_, p, s := start(t)
	port := freePort(t)
	release := make(chan struct{})
	upstream := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-release
		}
		fmt.Fprint(w, "ok")
	}))
	e := oneService(t, port, upstream, 15*time.Second)
	s.boot(t, p, e)

	slow := make(chan string)
	go func() {
		code, body, err := fetch(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, port, "/slow")
		slow <- fmt.Sprint(code, body, err)
	}()
	p.untilStat(t, "cluster.svc.upstream_rq_active", 1)

	load := startLoad(t, port, 4)
	for i := range 10 {
		c := edited(edsCluster("svc", 15*time.Second), func(c *clusterv3.Cluster) {
			c.ConnectTimeout = durationpb.New(time.Duration(i+2) * time.Second)
		})
		begin := time.Now()
		nonce := s.send(t, resourcev3.ClusterType, nil, versioned(fmt.Sprint(i+2), c)...)
		s.send(t, resourcev3.EndpointType, nil, v1(e.endpoints...)...)
		if nack := s.answer(t, nonce); nack != "" {
			t.Fatal(nack)
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("change %d took %s", i, took)
		}
	}
	if n, failed := load.stop(); len(failed) > 0 || n == 0 {
		t.Errorf("%d requests, failed: %v", n, failed)
	}
	close(release)
	if got := <-slow; got != "200ok<nil>" {
		t.Errorf("request in flight over ten changes: %s", got)
	}
}

// load is a number of clients that ask one after another until it is stopped.
type load struct {
	stopped chan struct{}
	wg      sync.WaitGroup
	mu      sync.Mutex
	n       int
	failed  []string
}

func startLoad(t testing.TB, port uint32, clients int) *load {
	t.Helper()
	l := &load{stopped: make(chan struct{})}
	for range clients {
		h := client(t)
		l.wg.Go(func() {
			for {
				select {
				case <-l.stopped:
					return
				default:
				}
				code, _, err := fetch(h, port, "/")
				l.mu.Lock()
				l.n++
				if code != http.StatusOK {
					l.failed = append(l.failed, fmt.Sprint(code, err))
				}
				l.mu.Unlock()
			}
		})
	}
	until(t, "load runs", func() (any, bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.n, l.n > clients
	})
	return l
}

func (l *load) stop() (requests int, failed []string) {
	close(l.stopped)
	l.wg.Wait()
	return l.n, l.failed
}

// A listener needs no routes, extensions or secrets again after a change: Envoy keeps them by name.
// Its acknowledgement does not wait for warming.
func TestSpikeChangedListenerKeepsItsRoutes(t *testing.T) {
	t.Parallel()
	_, p, s := start(t)
	port := freePort(t)
	s.boot(t, p, oneService(t, port, echo(t, "upstream"), time.Second))

	l := listener("out", port, httpChain(t, edited(connectionManager(t, "routes"), serverName)))
	for what, l := range map[string]*listenerv3.Listener{
		"chain changed":          l,
		"whole listener changed": edited(l, func(l *listenerv3.Listener) { l.ListenerFiltersTimeout = durationpb.New(time.Second) }),
	} {
		s.push(t, resourcev3.ListenerType, versioned(what, l)...)
		if took := p.untilStat(t, "listener_manager.total_listeners_warming", 0); took > time.Second {
			t.Errorf("%s: warm after %s", what, took)
		}
		resp, err := client(t).Get("http://" + address(port))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK || resp.Header.Get("server") != "changed" {
			t.Errorf("%s: %d by %q", what, resp.StatusCode, resp.Header.Get("server"))
		}
	}
	if got := s.subscriptions(resourcev3.RouteType, "routes"); got != 1 {
		t.Errorf("%d subscriptions to the routes", got)
	}

	// A listener that names new routes warms until they come; this does not delay its acknowledgement.
	s.push(t, resourcev3.ListenerType, versioned("new routes", listener("out", port, httpChain(t, connectionManager(t, "other"))))...)
	if got := p.stat(t, "listener_manager.total_listeners_warming"); got != 1 {
		t.Errorf("%d listeners warm while their routes are missing", got)
	}
	if code, _, err := fetch(client(t), port, "/"); code != http.StatusOK {
		t.Errorf("the old listener serves meanwhile: %d %v", code, err)
	}
	s.supply(t, resourcev3.RouteType, messages(routes("other", "svc")))
	p.untilStat(t, "listener_manager.total_listeners_warming", 0)
}
