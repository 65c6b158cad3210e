package envoy

import (
	"testing"

	"github.com/causeway-mesh/causeway/test/testmesh"
)

// TestMain lets this binary be the agent of workloads that run in processes of their own.
func TestMain(m *testing.M) { testmesh.Main(m) }

// TestTraffic sends real requests through real proxies of one zone. Each group has a mesh of its own.
func TestTraffic(t *testing.T) {
	zone := testmesh.Start(t, testmesh.Options{})
	for _, g := range []struct {
		name string
		run  func(*testing.T, *testmesh.Mesh)
	}{
		{"plain", testPlain},
	} {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			g.run(t, zone.Mesh(t, g.name))
		})
	}
}

// testPlain is the thinnest path: one request from a workload through its own and the other's Envoy.
func testPlain(t *testing.T, m *testmesh.Mesh) {
	web := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "backend-1"})[0]
	got := web.Reach(t, "backend")
	if got.Answer.Instance != "backend-1" || got.Answer.Caller() != "" {
		t.Errorf("answered by %q, caller %q", got.Answer.Instance, got.Answer.Caller())
	}
}
