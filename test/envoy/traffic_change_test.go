package envoy

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/store/backend"
	"github.com/causeway-mesh/causeway/test/pg"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// effective is how long an edit may take on a machine that does much else; on its own one second is the promise.
const effective = 5 * time.Second

// testEdits edits policies under load: no request fails, and what travels beside listeners drops no connection.
func testEdits(t *testing.T, m *testmesh.Mesh) {
	m.Apply(t, identity)
	m.Apply(t, permission("backend", "backend", "allow Exact "+spiffe(m, "web")))
	web := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "batch-1"}, testmesh.Workload{Name: "backend-1"})
	web[0].Reach(t, "backend")

	t.Run("a field of the cluster", func(t *testing.T) {
		load := m.Load(t, web[0], testmesh.Request{Service: "backend", Path: "/?delay=5ms"}, 100)
		load.More(t, 20)
		for n := range 3 {
			want := fmt.Sprintf("%ds", n+2)
			start := time.Now()
			m.Apply(t, to("MeshTimeout", "connect", "backend", "{connectionTimeout: "+want+"}"))
			m.Within(t, effective, "the connect timeout is "+want, func() (any, bool) {
				dump, err := web[0].Admin("/config_dump?resource=dynamic_active_clusters&mask=cluster.name,cluster.connect_timeout")
				return fmt.Sprint(dump, err), strings.Contains(dump, `"connect_timeout": "`+want+`"`)
			})
			t.Logf("in force after %s", time.Since(start).Round(time.Millisecond))
		}
		load.More(t, 20)
		load.Stop().NoDrop(t)
	})
	t.Run("a route", func(t *testing.T) {
		load := m.Load(t, web[0], testmesh.Request{Service: "backend", Path: "/?delay=5ms"}, 100)
		for n := range 3 {
			want := fmt.Sprint("v", n)
			start := time.Now()
			m.Apply(t, fmt.Sprintf(`
type: MeshHTTPRoute
name: mark
spec:
  to:
  - targetRef: {kind: MeshService, labels: {kuma.io/display-name: backend}}
    rules:
    - matches: [{path: {type: PathPrefix, value: /}}]
      default: {filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-mark, value: %s}]}}]}
`, want))
			m.Within(t, effective, "requests are marked "+want, func() (any, bool) {
				got := web[0].Get(t, "backend", "/").Answer.Header.Get("x-mark")
				return got, got == want
			})
			t.Logf("in force after %s", time.Since(start).Round(time.Millisecond))
		}
		load.More(t, 20)
		load.Stop().NoDrop(t)
	})
	t.Run("a permission", func(t *testing.T) {
		between := func() int { return web[0].Stat(t, `cluster\.kri_msvc.*_backend_.*\.upstream_cx_destroy`) }
		before := between()
		load := m.Load(t, web[0], testmesh.Request{Service: "backend", Path: "/?delay=5ms"}, 100)
		m.Apply(t, permission("batch", "backend", "allow Exact "+spiffe(m, "batch")))
		web[1].Expect(t, testmesh.Request{Service: "backend"}, http.StatusOK)
		m.Delete(t, "MeshTrafficPermission", "batch")
		web[1].Expect(t, testmesh.Request{Service: "backend"}, http.StatusForbidden)
		load.More(t, 20)
		load.Stop().NoDrop(t)
		if after := between(); after != before {
			t.Errorf("%d connections between the proxies ended", after-before)
		}
	})
}

// testLeaving: an instance that stops gracefully fails no request, although nothing is retried.
//
// Acceptance: U healthcheck service probes: an agent that drains leaves without a failed request
// Acceptance: K graceful
func testLeaving(t *testing.T, m *testmesh.Mesh) {
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "backend-1", Apart: true}, testmesh.Workload{Name: "backend-2"})
	web, first, second := all[0], all[1], all[2]
	untilAnsweredBy(t, m, web, "backend", "backend-1", "backend-2")
	load := m.Load(t, web, testmesh.Request{Service: "backend", Path: "/?delay=30ms"}, 100)
	load.More(t, 50)
	second.Stop(t)
	untilAnsweredBy(t, m, web, "backend", "backend-1")
	load.More(t, 50)
	m.Workload(t, testmesh.Workload{Name: "backend-3"})
	untilAnsweredBy(t, m, web, "backend", "backend-1", "backend-3")
	// An agent that is restarted takes its Envoy with it: for the others it leaves and comes back.
	first.StopAgent(t)
	untilAnsweredBy(t, m, web, "backend", "backend-3")
	first.StartAgent(t)
	untilAnsweredBy(t, m, web, "backend", "backend-1", "backend-3")
	r := load.Stop()
	r.NoDrop(t)
	if r.By["backend-2"] == 0 {
		t.Errorf("the one that stopped had no part before: %s", r)
	}
}

// testDying: an instance whose agent and Envoy die fails no request with the retries that a new mesh has, and comes back.
func testDying(t *testing.T, m *testmesh.Mesh) {
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "backend-1"}, testmesh.Workload{Name: "backend-2", Apart: true})
	web, second := all[0], all[2]
	untilAnsweredBy(t, m, web, "backend", "backend-1", "backend-2")
	load := m.Load(t, web, testmesh.Request{Service: "backend"}, 100)
	load.More(t, 50)
	second.KillAgent(t)
	took := m.Until(t, "the dead one is left out", func() (any, bool) {
		text, err := web.Admin("/clusters")
		if err != nil {
			return err, false
		}
		var seen []string
		for line := range strings.Lines(text) {
			if strings.Contains(line, second.Direct()+"::health_flags::") {
				seen = append(seen, strings.TrimSpace(line))
			}
		}
		return seen, len(seen) == 0 || strings.Contains(strings.Join(seen, ""), "/failed_eds_health")
	})
	t.Logf("left out after %s", took.Round(time.Millisecond))
	load.More(t, 50)
	second.StartAgent(t)
	untilAnsweredBy(t, m, web, "backend", "backend-1", "backend-2")
	r := load.Stop()
	r.NoFailure(t)
	if r.By["backend-2"] == 0 {
		t.Errorf("the dead one had no part before: %s", r)
	}
}

// TestZoneControlPlaneRestarts: without their control plane proxies go on, and when it is back nothing is done again.
func TestZoneControlPlaneRestarts(t *testing.T) {
	t.Parallel()
	m := testmesh.Start(t, testmesh.Options{Store: backend.Embedded})
	m.Apply(t, identity)
	m.Apply(t, permission("backend", "backend", "allow Exact "+spiffe(m, "web")))
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "backend-1"}, testmesh.Workload{Name: "backend-2"})
	web := all[0]
	untilAnsweredBy(t, m, web, "backend", "backend-1", "backend-2")
	const configured = `(cluster_manager\.cluster|listener_manager\.listener)_(added|modified|removed)|.*\.rds\..*\.config_reload|listener\..*\.ssl_context_update_by_sds`
	before := web.Stats(t, configured)
	load := m.Load(t, web, testmesh.Request{Service: "backend"}, 100)
	load.More(t, 30)
	m.Halt(t)
	load.More(t, 100)
	m.Start(t)
	for _, i := range all {
		m.Until(t, i.Name+" is connected again", func() (any, bool) {
			o := overview(t, m, i)
			return o, o.IsOnline()
		})
		if n := issued(t, m, i); n > 1 {
			t.Errorf("%s was issued %d certificates", i.Name, n)
		}
	}
	start := time.Now()
	m.Apply(t, to("MeshTimeout", "short", "backend", "{http: {requestTimeout: 100ms}}"))
	web.Expect(t, testmesh.Request{Service: "backend", Path: "/?delay=300ms"}, http.StatusGatewayTimeout)
	t.Logf("the first change after the restart was in force after %s", time.Since(start).Round(time.Millisecond))
	load.Stop().NoDrop(t)
	for name, n := range web.Stats(t, configured) {
		if n != before[name] && !strings.Contains(name, ".rds.") {
			t.Errorf("%s was %d and is %d", name, before[name], n)
		}
	}
}

// TestStoreAway: without its store a zone goes on from memory; it says that it cannot write, and writes when the store is back.
func TestStoreAway(t *testing.T) {
	t.Parallel()
	server := pg.Start(t)
	m := testmesh.Start(t, testmesh.Options{Store: backend.Postgres, DSN: server.Database(t)})
	web := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "backend-1"}, testmesh.Workload{Name: "backend-2"})
	untilAnsweredBy(t, m, web[0], "backend", "backend-1", "backend-2")
	load := m.Load(t, web[0], testmesh.Request{Service: "backend"}, 50)
	server.Stop(t)
	timeout := to("MeshTimeout", "short", "backend", "{http: {requestTimeout: 100ms}}")
	m.Until(t, "writes are refused with 503", func() (any, bool) {
		err := m.TryApply(t, timeout)
		return err, err != nil && strings.Contains(err.Error(), "503")
	})
	var dp mesh.Dataplane
	if !m.Read(t, mesh.TypeDataplane, "web-1", &dp) {
		t.Error("a Dataplane cannot be read")
	}
	// What is observed needs no store: who leaves is left out.
	web[2].StopAgent(t)
	untilAnsweredBy(t, m, web[0], "backend", "backend-1")
	server.Restart(t)
	m.Until(t, "writes are accepted again", func() (any, bool) {
		err := m.TryApply(t, timeout)
		return err, err == nil
	})
	web[0].Expect(t, testmesh.Request{Service: "backend", Path: "/?delay=300ms"}, http.StatusGatewayTimeout)
	load.Stop().NoFailure(t)
}
