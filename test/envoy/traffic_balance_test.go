package envoy

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// testBalancing: each client picks instances in its own way, by a header that stands for its user or by turns.
//
// Acceptance: U meshloadbalancingstrategy: ring hash by header, for a service and for a route
// Acceptance: U meshloadbalancingstrategy mixed
func testBalancing(t *testing.T, m *testmesh.Mesh) {
	ws := []testmesh.Workload{{Name: "web-1"}, {Name: "batch-1"}}
	var names []string
	for n := range 4 {
		names = append(names, fmt.Sprint("backend-", n+1))
		ws = append(ws, testmesh.Workload{Name: names[n]})
	}
	all := m.Workloads(t, ws...)
	web, batch := all[0], all[1]
	untilAnsweredBy(t, m, web, "backend", names...)
	untilAnsweredBy(t, m, batch, "backend", names...)
	strategy := func(name, client, conf string) string {
		return fmt.Sprintf("type: MeshLoadBalancingStrategy\nname: %s\nspec:\n  targetRef: {kind: Dataplane, labels: {kuma.io/workload: %s}}\n"+
			"  to: [{targetRef: {kind: MeshService, labels: {kuma.io/display-name: backend}}, default: %s}]\n", name, client, conf)
	}
	const byUser = "{loadBalancer: {type: RingHash, ringHash: {}}, hashPolicies: [{type: Header, header: {name: x-user}}]}"
	m.Apply(t, strategy("sticky", "web", byUser))
	m.Apply(t, strategy("turns", "batch", "{loadBalancer: {type: RoundRobin}}"))
	untilSticky(t, m, web, "x-user", true)
	if got := spread(t, batch, "x-user", "ann", 40); len(got) != 4 {
		t.Errorf("a client that takes turns is answered by %v", got)
	}
	users := map[string]bool{}
	for n := range 40 {
		for instance := range spread(t, web, "x-user", fmt.Sprint("user ", n), 1) {
			users[instance] = true
		}
	}
	if len(users) < 3 {
		t.Errorf("forty users share only %v", users)
	}

	t.Run("on a route", func(t *testing.T) {
		m.Apply(t, httpRoute("backend", "backend"))
		m.Apply(t, "type: MeshLoadBalancingStrategy\nname: route\nspec:\n  targetRef: {kind: Dataplane, labels: {kuma.io/workload: web}}\n"+
			"  to: [{targetRef: {kind: MeshHTTPRoute, labels: {route: backend}}, "+
			"default: {hashPolicies: [{type: Header, header: {name: x-session}}]}}]\n")
		untilSticky(t, m, web, "x-session", true)
		untilSticky(t, m, web, "x-user", false)
	})
}

// spread counts who answers requests with a header.
func spread(t *testing.T, from *testmesh.Instance, header, value string, n int) map[string]int {
	t.Helper()
	by := map[string]int{}
	for range n {
		r, err := from.Try(t, testmesh.Request{Service: "backend", Header: http.Header{header: {value}}})
		if err != nil || r.Status != http.StatusOK {
			by[fmt.Sprint(r, err)]++
		} else {
			by[r.Answer.Instance]++
		}
	}
	return by
}

// untilSticky waits until requests with equal values of a header are all answered by one instance, or by several.
func untilSticky(t *testing.T, m *testmesh.Mesh, from *testmesh.Instance, header string, want bool) {
	t.Helper()
	m.Until(t, fmt.Sprintf("%s keeps to an instance: %t", header, want), func() (any, bool) {
		ann, bob := spread(t, from, header, "ann", 20), spread(t, from, header, "bob", 20)
		return fmt.Sprint(ann, bob), (len(ann) == 1 && len(bob) == 1) == want
	})
}

// testSwitch: all instances of a service are replaced by those of another workload, there and back, and no request fails.
//
// Acceptance: K graceful service switch
func testSwitch(t *testing.T, m *testmesh.Mesh) {
	service := func(color string) string {
		return fmt.Sprintf("type: MeshService\nname: shop\nspec:\n  selector: {dataplaneLabels: {matchLabels: {color: %s}}}\n"+
			"  ports: [{port: 80, targetPort: main, appProtocol: http}]\n", color)
	}
	m.Apply(t, service("blue"))
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"},
		testmesh.Workload{Name: "blue-1", Labels: map[string]string{"color": "blue"}}, testmesh.Workload{Name: "blue-2", Labels: map[string]string{"color": "blue"}},
		testmesh.Workload{Name: "green-1", Labels: map[string]string{"color": "green"}}, testmesh.Workload{Name: "green-2", Labels: map[string]string{"color": "green"}})
	web := all[0]
	untilAnsweredBy(t, m, web, "shop", "blue-1", "blue-2")
	load := m.Load(t, web, testmesh.Request{Service: "shop", Path: "/?delay=20ms"}, 100)
	load.More(t, 20)
	for range 2 {
		m.Apply(t, service("green"))
		untilAnsweredBy(t, m, web, "shop", "green-1", "green-2")
		m.Apply(t, service("blue"))
		untilAnsweredBy(t, m, web, "shop", "blue-1", "blue-2")
	}
	load.More(t, 20)
	load.Stop().NoDrop(t)
}

// testDelegated: a gateway of others sends through its proxy, and policies concern what it sends as they do that of everybody.
//
// Acceptance: K gateway delegated
func testDelegated(t *testing.T, m *testmesh.Mesh) {
	m.Apply(t, identity)
	m.Apply(t, everybody(m))
	all := m.Workloads(t, testmesh.Workload{Name: "door-1", Gateway: true}, testmesh.Workload{Name: "backend-1"}, testmesh.Workload{Name: "canary-1"},
		testmesh.Workload{Name: "store-1", Protocol: mesh.TCP}, testmesh.Workload{Name: "archive-1", Protocol: mesh.TCP})
	door, backend := all[0], all[1]
	if got := door.Reach(t, "backend").Answer; got.Caller() != spiffe(m, "door") || got.Instance != "backend-1" {
		t.Errorf("%s was called by %q", got.Instance, got.Caller())
	}
	if from := door.ReachTCP(t, "store"); from != "store-1" {
		t.Errorf("over TCP %s answers", from)
	}
	slow := testmesh.Request{Service: "backend", Path: "/?delay=600ms"}
	timeouts := func() int { return door.Stat(t, `cluster\.kri_msvc.*_backend_.*\.upstream_rq_timeout`) }

	t.Run("timeout", func(t *testing.T) {
		m.Apply(t, to("MeshTimeout", "short", "backend", "{http: {requestTimeout: 150ms}}"))
		door.Expect(t, slow, http.StatusGatewayTimeout)
		if timeouts() == 0 {
			t.Error("it was not the gateway's proxy that gave up")
		}
		m.Delete(t, "MeshTimeout", "short")
		door.Expect(t, slow, http.StatusOK)
	})
	t.Run("retry", func(t *testing.T) {
		m.Apply(t, to("MeshRetry", "again", "backend", "{http: {numRetries: 4, retryOn: [5xx], backOff: {baseInterval: 1ms, maxInterval: 5ms}}}"))
		m.Until(t, "a failure is retried", func() (any, bool) {
			backend.App.Fail(1, http.StatusInternalServerError)
			r, err := door.Try(t, testmesh.Request{Service: "backend"})
			return fmt.Sprint(r, err), err == nil && r.Status == http.StatusOK
		})
		m.Delete(t, "MeshRetry", "again")
	})
	t.Run("limit", func(t *testing.T) {
		m.Apply(t, to("MeshCircuitBreaker", "few", "backend", "{connectionLimits: {maxRequests: 2, maxPendingRequests: 1}}"))
		m.Until(t, "some of ten requests at once are refused", func() (any, bool) {
			by := together(t, door, 10, testmesh.Request{Service: "backend", Path: "/?delay=150ms"})
			return by, by["200"] >= 2 && by["overflow"] > 0
		})
		m.Delete(t, "MeshCircuitBreaker", "few")
	})
	m.Workload(t, testmesh.Workload{Name: "backend-2"})
	t.Run("balancing", func(t *testing.T) {
		untilAnsweredBy(t, m, door, "backend", "backend-1", "backend-2")
		m.Apply(t, to("MeshLoadBalancingStrategy", "sticky", "backend", "{loadBalancer: {type: RingHash, ringHash: {}}, hashPolicies: [{type: Header, header: {name: x-user}}]}"))
		untilSticky(t, m, door, "x-user", true)
		m.Delete(t, "MeshLoadBalancingStrategy", "sticky")
	})
	t.Run("health check", func(t *testing.T) {
		m.Apply(t, to("MeshHealthCheck", "ask", "backend", "{interval: 200ms, noTrafficInterval: 200ms, unhealthyInterval: 200ms, timeout: 2s, unhealthyThreshold: 1, healthyThreshold: 1, http: {path: "+testmesh.ProbePath+"}}"))
		backend.App.SetWell(false)
		untilAnsweredBy(t, m, door, "backend", "backend-2")
		backend.App.SetWell(true)
		untilAnsweredBy(t, m, door, "backend", "backend-1", "backend-2")
		m.Delete(t, "MeshHealthCheck", "ask")
	})
	t.Run("split", func(t *testing.T) {
		m.Apply(t, `
type: MeshHTTPRoute
name: split
spec:
  to:
  - targetRef: {kind: MeshService, labels: {kuma.io/display-name: backend}}
    rules:
    - matches: [{path: {type: PathPrefix, value: /}}]
      default: {backendRefs: [{kind: MeshService, labels: {kuma.io/display-name: canary}, weight: 1}]}
`)
		untilAnsweredBy(t, m, door, "backend", "canary-1")
		m.Apply(t, tcpRoute("store", "store 1", "archive 1"))
		untilDialled(t, m, door, "store", "store-1", "archive-1")
	})
}
