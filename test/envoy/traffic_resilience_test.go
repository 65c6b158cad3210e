package envoy

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// testTimeouts: the client's proxy and the workload's own each end what takes too long.
//
// Acceptance: U/K timeout: outbound and inbound, for one proxy, one inbound, on a MeshHTTPRoute
func testTimeouts(t *testing.T, m *testmesh.Mesh) {
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "backend-1"})
	web, backend := all[0], all[1]
	web.Reach(t, "backend")
	slow := testmesh.Request{Service: "backend", Path: "/?delay=600ms"}
	if resp := web.Send(t, slow); resp.Status != http.StatusOK {
		t.Fatalf("without a policy: %s", resp)
	}
	timeouts := func(i *testmesh.Instance, cluster string) int {
		return i.Stat(t, `cluster\.`+cluster+`\.upstream_rq_timeout`)
	}

	m.Apply(t, to("MeshTimeout", "sending", "backend", "{http: {requestTimeout: 150ms}}"))
	resp := web.Expect(t, slow, http.StatusGatewayTimeout)
	if resp.Took > 500*time.Millisecond {
		t.Errorf("the client waited %s", resp.Took)
	}
	if timeouts(web, "kri_msvc.*") == 0 || timeouts(backend, "self_inbound_.*") != 0 {
		t.Error("it was not the client's proxy that gave up")
	}
	m.Delete(t, "MeshTimeout", "sending")
	web.Expect(t, slow, http.StatusOK)

	m.Apply(t, `
type: MeshTimeout
name: receiving
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: backend}}
  rules: [{default: {http: {requestTimeout: 150ms}}}]
`)
	before := timeouts(web, "kri_msvc.*")
	web.Expect(t, slow, http.StatusGatewayTimeout)
	if timeouts(web, "kri_msvc.*") != before || timeouts(backend, "self_inbound_.*") == 0 {
		t.Error("it was not the workload's proxy that gave up")
	}
	if resp := web.Get(t, "backend", "/"); resp.Status != http.StatusOK {
		t.Errorf("a fast request: %s", resp)
	}
	m.Delete(t, "MeshTimeout", "receiving")
	web.Expect(t, slow, http.StatusOK)

	target := func(name, target, conf string) string {
		return fmt.Sprintf("type: MeshTimeout\nname: %s\nspec:\n  targetRef: %s\n  %s\n", name, target, conf)
	}
	const short = "default: {http: {requestTimeout: 150ms}}"
	toBackend := "to: [{targetRef: {kind: MeshService, labels: {kuma.io/display-name: backend}}, " + short + "}]"
	t.Run("one client", func(t *testing.T) {
		m.Apply(t, target("of-others", "{kind: Dataplane, labels: {kuma.io/workload: others}}", toBackend))
		m.Apply(t, target("of-web", "{kind: Dataplane, labels: {kuma.io/workload: web}}", toBackend))
		web.Expect(t, slow, http.StatusGatewayTimeout)
		m.Delete(t, "MeshTimeout", "of-web")
		web.Expect(t, slow, http.StatusOK)
	})
	t.Run("one inbound", func(t *testing.T) {
		m.Apply(t, target("of-other", "{kind: Dataplane, labels: {kuma.io/workload: backend}, sectionName: other}", "rules: [{"+short+"}]"))
		m.Apply(t, target("of-main", "{kind: Dataplane, labels: {kuma.io/workload: backend}, sectionName: main}", "rules: [{"+short+"}]"))
		web.Expect(t, slow, http.StatusGatewayTimeout)
		m.Delete(t, "MeshTimeout", "of-main")
		web.Expect(t, slow, http.StatusOK)
	})
	t.Run("a route adds to its service", func(t *testing.T) {
		// What is said about the service is in force on the route, too, until the route says the same.
		m.Apply(t, httpRoute("backend", "backend"))
		m.Apply(t, to("MeshTimeout", "service", "backend", "{http: {requestTimeout: 150ms, streamIdleTimeout: 30s}}"))
		web.Expect(t, slow, http.StatusGatewayTimeout)
		m.Apply(t, "type: MeshTimeout\nname: route\nspec:\n  to: [{targetRef: {kind: MeshHTTPRoute, labels: {route: backend}}, default: {http: {requestTimeout: 10s}}}]\n")
		web.Expect(t, slow, http.StatusOK)
		m.Until(t, "the route has the idle timeout of its service", func() (any, bool) {
			dump, err := web.Admin("/config_dump?resource=dynamic_route_configs")
			return fmt.Sprint(dump, err), strings.Contains(dump, `"idle_timeout": "30s"`) && strings.Contains(dump, `"timeout": "10s"`)
		})
	})
}

// testRetries: a failure that another try can heal does not reach the client.
//
// Acceptance: U meshretry: on connection failure, on 5xx for a route, on a service, for http and grpc
func testRetries(t *testing.T, m *testmesh.Mesh) {
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "backend-1"}, testmesh.Workload{Name: "backend-2"},
		testmesh.Workload{Name: "call-1", Protocol: mesh.GRPC})
	web, first, second := all[0], all[1], all[2]
	untilAnsweredBy(t, m, web, "backend", "backend-1", "backend-2")

	t.Run("500 is not retried by default", func(t *testing.T) {
		first.App.Fail(1, http.StatusInternalServerError)
		second.App.Fail(1, http.StatusInternalServerError)
		if resp := web.Get(t, "backend", "/"); resp.Status != http.StatusInternalServerError {
			t.Errorf("%s", resp)
		}
		first.App.Fail(0, 0)
		second.App.Fail(0, 0)
	})
	t.Run("503 is retried by default", func(t *testing.T) {
		first.App.Fail(1, http.StatusServiceUnavailable)
		for range 6 {
			if resp := web.Get(t, "backend", "/"); resp.Status != http.StatusOK {
				t.Errorf("%s", resp)
			}
		}
	})
	t.Run("5xx by policy", func(t *testing.T) {
		m.Apply(t, to("MeshRetry", "all-errors", "backend", "{http: {numRetries: 4, retryOn: [5xx], backOff: {baseInterval: 1ms, maxInterval: 5ms}}}"))
		m.Until(t, "a 500 is retried", func() (any, bool) {
			first.App.Fail(1, http.StatusInternalServerError)
			second.App.Fail(1, http.StatusInternalServerError)
			resp, err := web.Try(t, testmesh.Request{Service: "backend"})
			if err != nil {
				return err, false
			}
			return resp, resp.Status == http.StatusOK
		})
		if n := web.Stat(t, `cluster\.kri_msvc.*\.upstream_rq_retry_success`); n == 0 {
			t.Error("Envoy counts no successful retry")
		}
		m.Delete(t, "MeshRetry", "all-errors")
	})
	t.Run("5xx on a route", func(t *testing.T) {
		m.Apply(t, httpRoute("backend", "backend"))
		m.Apply(t, "type: MeshRetry\nname: route\nspec:\n  to: [{targetRef: {kind: MeshHTTPRoute, labels: {route: backend}}, "+
			"default: {http: {numRetries: 4, retryOn: [5xx], backOff: {baseInterval: 1ms, maxInterval: 5ms}}}}]\n")
		m.Until(t, "a 500 is retried", func() (any, bool) {
			first.App.Fail(1, http.StatusInternalServerError)
			second.App.Fail(1, http.StatusInternalServerError)
			resp, err := web.Try(t, testmesh.Request{Service: "backend"})
			return fmt.Sprint(resp, err), err == nil && resp.Status == http.StatusOK
		})
		m.Delete(t, "MeshRetry", "route")
		m.Delete(t, "MeshHTTPRoute", "backend")
		untilAnsweredBy(t, m, web, "backend", "backend-1", "backend-2")
	})
	t.Run("grpc", func(t *testing.T) {
		caller := web.Caller(t, "call")
		untilCalled(t, m, caller, "call-1")
		all[3].App.Fail(2, 0)
		if got, err := caller.Call(t); err != nil || got.From != "call-1" {
			t.Errorf("by default: %v %v", got, err)
		}
		m.Apply(t, to("MeshRetry", "never", "call", "{grpc: {numRetries: 0}}"))
		m.Until(t, "nothing is retried any more", func() (any, bool) {
			all[3].App.Fail(1, 0)
			got, err := caller.Call(t)
			return fmt.Sprint(got, err), err != nil
		})
	})
	t.Run("who cannot be connected to", func(t *testing.T) {
		load := m.Load(t, web, testmesh.Request{Service: "backend"}, 100)
		load.More(t, 20)
		second.KillAgent(t)
		load.More(t, 150)
		r := load.Stop()
		r.NoFailure(t)
		if r.By["backend-2"] == 0 {
			t.Errorf("the killed one had no part before: %s", r)
		}
	})
}

// testLimits: what is too much fails at once, and who fails is left out.
//
// Acceptance: K meshcircuitbreaker: outbound and inbound limits and detectors applied; connection limit trips
func testLimits(t *testing.T, m *testmesh.Mesh) {
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "backend-1"}, testmesh.Workload{Name: "backend-2"},
		testmesh.Workload{Name: "store-1", Protocol: mesh.TCP})
	web, second := all[0], all[2]
	untilAnsweredBy(t, m, web, "backend", "backend-1", "backend-2")
	web.ReachTCP(t, "store")

	t.Run("requests in progress", func(t *testing.T) {
		m.Apply(t, to("MeshCircuitBreaker", "few", "backend", "{connectionLimits: {maxRequests: 2, maxPendingRequests: 1}}"))
		m.Until(t, "some of ten requests at once are refused", func() (any, bool) {
			by := together(t, web, 10, testmesh.Request{Service: "backend", Path: "/?delay=150ms"})
			return by, by["200"] >= 2 && by["200"]+by["overflow"] == 10 && by["overflow"] > 0
		})
		m.Delete(t, "MeshCircuitBreaker", "few")
		m.Until(t, "ten requests at once are served again", func() (any, bool) {
			by := together(t, web, 10, testmesh.Request{Service: "backend", Path: "/?delay=20ms"})
			return by, by["200"] == 10
		})
	})
	t.Run("requests received", func(t *testing.T) {
		m.Apply(t, rules("MeshCircuitBreaker", "few", "backend",
			"default: {connectionLimits: {maxRequests: 1, maxConnections: 1, maxPendingRequests: 1}, outlierDetection: {interval: 100ms, maxEjectionPercent: 100, detectors: {totalFailures: {consecutive: 2}}}}"))
		m.Until(t, "some of twenty requests at once are refused by the proxies of the workload", func() (any, bool) {
			by := together(t, web, 20, testmesh.Request{Service: "backend", Path: "/?delay=150ms"})
			refused := second.Stat(t, `cluster\.self_inbound_dp_main\.upstream_rq_pending_overflow`)
			return fmt.Sprint(by, refused), by["200"] >= 2 && by["200"]+by["overflow"] == 20 && refused > 0
		})
		second.App.Fail(1<<30, http.StatusInternalServerError)
		m.Until(t, "the proxy ejects its workload", func() (any, bool) {
			_, err := web.Try(t, testmesh.Request{Service: "backend"})
			n := second.Stat(t, `cluster\.self_inbound_dp_main\.outlier_detection\.ejections_enforced_total`)
			return err, n > 0
		})
		second.App.Fail(0, 0)
		m.Delete(t, "MeshCircuitBreaker", "few")
		untilAnsweredBy(t, m, web, "backend", "backend-1", "backend-2")
	})
	t.Run("connections", func(t *testing.T) {
		m.Apply(t, to("MeshCircuitBreaker", "one", "store", "{connectionLimits: {maxConnections: 1}}"))
		m.Until(t, "a second connection is refused", func() (any, bool) {
			a, errA := web.Dial(t, "store")
			if errA != nil {
				return errA, false
			}
			defer a.Close()
			b, errB := web.Dial(t, "store")
			if errB == nil {
				b.Close()
			}
			return errB, errB != nil && a.Echo("the first one works") == nil
		})
	})
	t.Run("outlier detection", func(t *testing.T) {
		m.Apply(t, to("MeshCircuitBreaker", "outliers", "backend",
			"{outlierDetection: {interval: 200ms, baseEjectionTime: 30s, maxEjectionPercent: 100, detectors: {gatewayFailures: {consecutive: 3}}}}"))
		second.App.Fail(1<<30, http.StatusServiceUnavailable)
		m.Until(t, "the failing one is ejected", func() (any, bool) {
			_, err := web.Try(t, testmesh.Request{Service: "backend"})
			n := web.Stat(t, `cluster\.kri_msvc.*\.outlier_detection\.ejections_active`)
			return err, n == 1
		})
		untilAnsweredBy(t, m, web, "backend", "backend-1")
	})
}

// together sends requests at once and counts what became of them: the status, "overflow" when a limit refused, or the error.
func together(t *testing.T, from *testmesh.Instance, n int, r testmesh.Request) map[string]int {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	by := map[string]int{}
	for range n {
		all.Go(func() {
			resp, err := from.Try(t, r)
			what := strconv.Itoa(resp.Status)
			switch {
			case err != nil:
				what = err.Error()
			case resp.Header.Get("x-envoy-overloaded") != "":
				what = "overflow"
			case resp.Status != http.StatusOK:
				what = resp.String()
			}
			mu.Lock()
			defer mu.Unlock()
			by[what]++
		})
	}
	all.Wait()
	return by
}
