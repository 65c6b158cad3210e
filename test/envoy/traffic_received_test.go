package envoy

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// rules is a policy for what the proxies of a workload receive; lines are the entries of rules in flow style.
func rules(typ, name, workload string, lines ...string) string {
	out := fmt.Sprintf("type: %s\nname: %s\nspec:\n  targetRef: {kind: Dataplane, labels: {kuma.io/workload: %s}}\n  rules:\n", typ, name, workload)
	for _, l := range lines {
		out += "  - " + l + "\n"
	}
	return out
}

// by is the match of clients in an entry of rules.
func by(how, id string) string {
	return fmt.Sprintf("matches: [{spiffeID: {type: %s, value: %q}}]", how, id)
}

// ended is how many connections between the proxies have ended, as the one that sends knows.
func ended(t *testing.T, from *testmesh.Instance, service string) int {
	t.Helper()
	return from.Stat(t, `cluster\.kri_msvc.*_`+service+`_.*\.upstream_cx_destroy`)
}

// begun is a request that is under way.
type begun struct {
	resp testmesh.Response
	err  error
}

func begin(t *testing.T, from *testmesh.Instance, r testmesh.Request) <-chan begun {
	out := make(chan begun, 1)
	go func() {
		resp, err := from.Try(t, r)
		out <- begun{resp, err}
	}()
	return out
}

// testRates: a workload accepts so many requests and connections, of all clients together or of some by themselves.
//
// Acceptance: U meshratelimit: 429 with header for all sources; TCP connection limit
func testRates(t *testing.T, m *testmesh.Mesh) {
	m.Apply(t, identity)
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "batch-1"},
		testmesh.Workload{Name: "backend-1"}, testmesh.Workload{Name: "store-1", Protocol: mesh.TCP})
	web, batch, backend := all[0], all[1], all[2]
	m.Apply(t, permission("backend", "backend", "allow Prefix "+spiffe(m, "")))
	m.Apply(t, permission("store", "store", "allow Prefix "+spiffe(m, "")))
	web.Reach(t, "backend")
	batch.Reach(t, "backend")
	web.ReachTCP(t, "store")

	// limited waits until a client is refused under a version of the limit, so that nothing is left of what it may send.
	limited := func(from *testmesh.Instance, version string) testmesh.Response {
		t.Helper()
		var last testmesh.Response
		m.Until(t, from.Name+" is limited by "+version, func() (any, bool) {
			last = from.Get(t, "backend", "/")
			return last, last.Status == http.StatusTooManyRequests && last.Header.Get("x-limit") == version
		})
		return last
	}
	rate := func(n int, version string) string {
		return fmt.Sprintf("{local: {http: {requestRate: {num: %d, interval: 1h}, onRateLimit: {headers: {set: [{name: x-limit, value: %s}]}}}}}", n, version)
	}
	t.Run("all sources, without closing a connection", func(t *testing.T) {
		before := ended(t, web, "backend")
		slow := begin(t, web, testmesh.Request{Service: "backend", Path: "/slow?delay=1s"})
		m.Until(t, "a request is under way", func() (any, bool) { return nil, backend.App.Seen("/slow") == 1 })
		m.Apply(t, rules("MeshRateLimit", "backend", "backend", "default: "+rate(3, "v1")))
		limited(web, "v1")
		if resp := batch.Get(t, "backend", "/"); resp.Status != http.StatusTooManyRequests {
			t.Errorf("another client has a count of its own: %s", resp)
		}
		if r := <-slow; r.err != nil || r.resp.Status != http.StatusOK {
			t.Errorf("a request that was under way: %v %v", r.resp, r.err)
		}
		if after := ended(t, web, "backend"); after != before {
			t.Errorf("%d connections between the proxies ended", after-before)
		}
		if n := backend.Stat(t, `self_inbound_dp_main\.http_local_rate_limit\.enforced`); n == 0 {
			t.Error("Envoy counts no request that was limited")
		}
	})
	t.Run("a client by itself", func(t *testing.T) {
		m.Apply(t, rules("MeshRateLimit", "backend", "backend", "default: "+rate(4, "v2"), by("Exact", spiffe(m, "web"))+"\n    default: "+rate(2, "of-web")))
		limited(web, "of-web")
		for n := range 5 {
			want := http.StatusOK
			if n == 4 {
				want = http.StatusTooManyRequests
			}
			if resp := batch.Get(t, "backend", "/"); resp.Status != want {
				t.Errorf("request %d of the others: %s, want %d", n, resp, want)
			}
		}
	})
	t.Run("a client is spared", func(t *testing.T) {
		m.Apply(t, rules("MeshRateLimit", "backend", "backend", "default: "+rate(1, "v3"), by("Prefix", spiffe(m, "we"))+"\n    default: {local: {http: {disabled: true}}}"))
		limited(batch, "v3")
		for range 5 {
			if resp := web.Get(t, "backend", "/"); resp.Status != http.StatusOK {
				t.Errorf("it is limited: %s", resp)
			}
		}
		m.Delete(t, "MeshRateLimit", "backend")
		batch.Reach(t, "backend")
	})
	t.Run("connections", func(t *testing.T) {
		m.Apply(t, rules("MeshRateLimit", "store", "store", "default: {local: {tcp: {connectionRate: {num: 2, interval: 1h}}}}"))
		m.Until(t, "a connection is refused", func() (any, bool) {
			c, err := web.Dial(t, "store")
			if err == nil {
				c.Close()
			}
			return err, denied(err)
		})
		m.Apply(t, rules("MeshRateLimit", "store", "store", "default: {local: {tcp: {connectionRate: {num: 1000, interval: 1s}}}}"))
		var kept *testmesh.Conn
		m.Until(t, "connections are accepted again", func() (any, bool) {
			c, err := web.Dial(t, "store")
			kept = c
			return err, err == nil
		})
		defer kept.Close()
		m.Apply(t, rules("MeshRateLimit", "store", "store", "default: {local: {tcp: {connectionRate: {num: 1, interval: 1h}}}}"))
		m.Until(t, "connections are refused again", func() (any, bool) {
			c, err := web.Dial(t, "store")
			if err == nil {
				c.Close()
			}
			return err, denied(err)
		})
		if err := kept.Echo("still here"); err != nil {
			t.Errorf("an edit of the rate cut a connection: %v", err)
		}
	})
}

// testFaults: clients that a rule matches get faults, others do not; an edit leaves requests under way alone.
//
// Acceptance: U/K meshfaultinjection: abort and delay by client SPIFFE exact and prefix; others unaffected
func testFaults(t *testing.T, m *testmesh.Mesh) {
	m.Apply(t, identity)
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "batch-1"}, testmesh.Workload{Name: "other-1"}, testmesh.Workload{Name: "backend-1"})
	web, batch, other, backend := all[0], all[1], all[2], all[3]
	m.Apply(t, permission("backend", "backend", "allow Prefix "+spiffe(m, "")))
	for _, i := range all[:3] {
		i.Reach(t, "backend")
	}
	const delay = 300 * time.Millisecond
	asked := testmesh.Request{Service: "backend"}
	before := ended(t, web, "backend")
	m.Apply(t, rules("MeshFaultInjection", "faults", "backend",
		by("Exact", spiffe(m, "web"))+"\n    default: {http: [{abort: {httpStatus: 418, percentage: 100}}]}",
		by("Prefix", spiffe(m, "bat"))+fmt.Sprintf("\n    default: {http: [{delay: {value: %s, percentage: 100}}]}", delay)))
	if resp := web.Expect(t, asked, http.StatusTeapot); resp.Answer.Instance != "" {
		t.Errorf("the workload was asked: %s", resp)
	}
	if resp := batch.Send(t, asked); resp.Status != http.StatusOK || resp.Took < delay {
		t.Errorf("%s after %s, want 200 after %s", resp, resp.Took, delay)
	}
	seen := backend.App.Seen("/")
	for range 5 {
		if resp := other.Send(t, asked); resp.Status != http.StatusOK {
			t.Errorf("a client that no rule is for: %s", resp)
		}
	}
	if n := backend.App.Seen("/") - seen; n != 5 {
		t.Errorf("the workload was asked %d times, want 5", n)
	}

	t.Run("a delay that has begun", func(t *testing.T) {
		m.Apply(t, rules("MeshFaultInjection", "faults", "backend", "default: {http: [{delay: {value: 2s, percentage: 100}}]}"))
		m.Until(t, "requests are late", func() (any, bool) {
			resp := other.Send(t, asked)
			return resp.Took, resp.Took >= 2*time.Second
		})
		late := begin(t, other, asked)
		m.Until(t, "a request is being delayed", func() (any, bool) {
			n := backend.Stat(t, `.*fault\.active_faults`)
			return n, n > 0
		})
		m.Delete(t, "MeshFaultInjection", "faults")
		if r := <-late; r.err != nil || r.resp.Status != http.StatusOK || r.resp.Took < 2*time.Second {
			t.Errorf("after the policy is gone: %v after %s, %v", r.resp, r.resp.Took, r.err)
		}
		m.Until(t, "requests are answered at once", func() (any, bool) {
			resp := web.Send(t, asked)
			return resp, resp.Status == http.StatusOK && resp.Took < time.Second
		})
	})
	if after := ended(t, web, "backend"); after != before {
		t.Errorf("%d connections between the proxies ended", after-before)
	}
	t.Run("more faults than one filter can make", func(t *testing.T) {
		m.Apply(t, rules("MeshFaultInjection", "faults", "backend",
			"default: {http: [{abort: {httpStatus: 500, percentage: 50}}, {abort: {httpStatus: 503, percentage: 100}}]}",
			by("Exact", spiffe(m, "web"))+"\n    default: {http: []}"))
		m.Until(t, "both befall requests and nobody is spared", func() (any, bool) {
			got := map[int]int{}
			for range 30 {
				got[other.Send(t, asked).Status]++
			}
			return got, got[500] > 0 && got[503] > 0 && got[500]+got[503] == 30
		})
		if resp := web.Send(t, asked); resp.Status != http.StatusOK {
			t.Errorf("who is spared gets %s", resp)
		}
	})
}

// testAtEgress: what a rule says of a server name concerns the external service of that name only.
//
// Acceptance: U mrl zone_proxy: a limit for a server name, and another for one client of it
// Acceptance: U mfi zone_proxy: a fault for a server name
func testAtEgress(t *testing.T, m *testmesh.Mesh) {
	m.Apply(t, identity)
	a, b := testmesh.Outside(t, "a", mesh.HTTP, "", nil), testmesh.Outside(t, "b", mesh.HTTP, "", nil)
	m.Apply(t, external("a", mesh.HTTP, 80, "", endpoint(a))+"\n---\n"+external("b", mesh.HTTP, 80, "", endpoint(b)))
	m.Apply(t, permitAtEgress(m, "all", "allow web ", "allow batch "))
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "batch-1"})
	web, batch := all[0], all[1]
	egress := m.Egress(t, testmesh.Workload{Name: "egress-1"})
	for _, i := range all {
		i.Reach(t, "a")
		i.Reach(t, "b")
	}
	atEgress := func(typ string, entries ...string) string {
		return strings.Replace(rules(typ, "one", "egress", entries...), "kuma.io/workload: egress", "kuma.io/listener-zoneegress: enabled", 1)
	}
	named := fmt.Sprintf("matches: [{sni: {type: Exact, value: %s}}]\n    default: ", sniOf(m, "a", 80))
	spared := func(t *testing.T) {
		t.Helper()
		for range 4 {
			if resp := web.Get(t, "b", "/"); resp.Status != http.StatusOK {
				t.Errorf("another external service: %s", resp)
			}
		}
	}
	t.Run("rates", func(t *testing.T) {
		rate := func(n int) string { return fmt.Sprintf("{local: {http: {requestRate: {num: %d, interval: 1h}}}}", n) }
		m.Apply(t, atEgress("MeshRateLimit", named+rate(2)))
		web.Expect(t, testmesh.Request{Service: "a"}, http.StatusTooManyRequests)
		spared(t)
		m.Apply(t, atEgress("MeshRateLimit", named+rate(1),
			fmt.Sprintf("matches: [{spiffeID: {type: Exact, value: %q}, sni: {type: Exact, value: %s}}]\n    default: ", spiffe(m, "batch"), sniOf(m, "a", 80))+"{local: {http: {disabled: true}}}"))
		batch.Expect(t, testmesh.Request{Service: "a"}, http.StatusOK)
		web.Expect(t, testmesh.Request{Service: "a"}, http.StatusTooManyRequests)
		if resp := batch.Get(t, "a", "/"); resp.Status != http.StatusOK {
			t.Errorf("the client that is spared: %s", resp)
		}
		m.Delete(t, "MeshRateLimit", "one")
		web.Expect(t, testmesh.Request{Service: "a"}, http.StatusOK)
	})
	t.Run("faults", func(t *testing.T) {
		m.Apply(t, atEgress("MeshFaultInjection", named+"{http: [{abort: {httpStatus: 418, percentage: 100}}]}"))
		web.Expect(t, testmesh.Request{Service: "a"}, http.StatusTeapot)
		spared(t)
		m.Delete(t, "MeshFaultInjection", "one")
		web.Expect(t, testmesh.Request{Service: "a"}, http.StatusOK)
	})
	t.Run("checks", func(t *testing.T) {
		m.Apply(t, toExternal("MeshHealthCheck", "checks", "a", "{interval: 100ms, noTrafficInterval: 100ms, unhealthyThreshold: 2, http: {path: "+testmesh.ProbePath+"}}"))
		m.Until(t, "the egress asks the service itself", func() (any, bool) {
			n := egress.Stat(t, `cluster\..*_a_80\.health_check\.success`)
			return n, n > 0
		})
		a.SetWell(false)
		web.Expect(t, testmesh.Request{Service: "a"}, http.StatusServiceUnavailable)
		if n := web.Stat(t, `cluster\..*_a_80\.health_check\.attempt`); n != 0 {
			t.Errorf("the client has asked %d times", n)
		}
		a.SetWell(true)
		web.Expect(t, testmesh.Request{Service: "a"}, http.StatusOK)
	})
}
