package envoy

import (
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// testTimeouts: the client's proxy and the workload's own each end what takes too long.
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
}

// testRetries: a failure that another try can heal does not reach the client.
func testRetries(t *testing.T, m *testmesh.Mesh) {
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "backend-1"}, testmesh.Workload{Name: "backend-2"})
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
