package envoy

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// testPlain is the thinnest path: a request from a workload through its own and the other's Envoy, per protocol.
//
// Acceptance: U/K/M workload: workloads come into being by themselves and count their proxies.
func testPlain(t *testing.T, m *testmesh.Mesh) {
	listed := mesh.Outbound{Port: freePort(t), Address: loopbackIP, BackendRef: &mesh.BackendRef{Kind: mesh.TypeMeshService, Name: "backend", Port: m.Port}}
	web := m.Workloads(t,
		testmesh.Workload{Name: "web-1", Block: "127.251.0.0/16", Outbound: []mesh.Outbound{listed}}, testmesh.Workload{Name: "backend-1"},
		testmesh.Workload{Name: "modern-1", Protocol: mesh.HTTP2}, testmesh.Workload{Name: "store-1", Protocol: mesh.TCP},
	)[0]
	got := web.Reach(t, "backend")
	if a := got.Answer; a.Instance != "backend-1" || a.Caller() != "" || a.Proto != "HTTP/1.1" {
		t.Errorf("answered by %q over %s, caller %q", a.Instance, a.Proto, a.Caller())
	}
	m.Until(t, "the workload of backend counts its proxy", func() (any, bool) {
		var w struct{ Status mesh.WorkloadStatus }
		found := m.Read(t, mesh.TypeWorkload, "backend", &w)
		return w.Status, found && w.Status.DataplaneProxies == mesh.DataplaneProxies{Connected: 1, Healthy: 1, Total: 1}
	})
	if a := web.Reach(t, "modern").Answer; a.Instance != "modern-1" || a.Proto != "HTTP/2.0" {
		t.Errorf("answered by %q over %s", a.Instance, a.Proto)
	}
	if from := web.ReachTCP(t, "store"); from != "store-1" {
		t.Errorf("answered by %q", from)
	}
	c, err := web.Dial(t, "store")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, text := range []string{"one", "two"} {
		if err := c.Echo(text); err != nil {
			t.Error(err)
		}
	}
	onListed := testmesh.Request{Service: "backend", Address: address(listed.Port)}
	if got := web.Send(t, onListed); got.Answer.Instance != "backend-1" {
		t.Errorf("on the outbound that the Dataplane lists: %s", got)
	}
	// Two sidecars of a host never share an address: the second would send under its own identity what is not its own.
	err = m.Refused(t, testmesh.Workload{Name: "copycat-1", Block: "127.251.0.0/16"})
	if want := "127.251.0.0/16 is taken by dataplane web-1"; !strings.Contains(err.Error(), want) {
		t.Errorf("a taken loopback block: %v", err)
	}
}

// testProbes takes an endpoint out of service when its probe fails, and back in when it succeeds.
//
// Acceptance: U healthcheck service probes: a probe takes an endpoint out and puts it back
func testProbes(t *testing.T, m *testmesh.Mesh) {
	probe := &mesh.ServiceProbe{
		Interval: &mesh.Duration{Duration: 100 * time.Millisecond}, Timeout: &mesh.Duration{Duration: 2 * time.Second},
		UnhealthyThreshold: new(uint32(2)), HTTP: &mesh.HTTPProbe{Path: testmesh.ProbePath},
	}
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"},
		testmesh.Workload{Name: "backend-1", Probe: probe}, testmesh.Workload{Name: "backend-2", Probe: probe})
	web, second := all[0], all[2]
	untilAnsweredBy(t, m, web, "backend", "backend-1", "backend-2")
	load := m.Load(t, web, testmesh.Request{Service: "backend"}, 50)
	second.App.SetWell(false)
	untilAnsweredBy(t, m, web, "backend", "backend-1")
	second.App.SetWell(true)
	untilAnsweredBy(t, m, web, "backend", "backend-1", "backend-2")
	load.Stop().NoFailure(t)
}

// untilAnsweredBy waits until a service is answered by exactly these instances, over some requests in a row.
func untilAnsweredBy(t *testing.T, m *testmesh.Mesh, from *testmesh.Instance, service string, names ...string) {
	t.Helper()
	m.Until(t, service+" is answered by exactly the expected", func() (any, bool) {
		by := map[string]int{}
		for range 8 {
			resp, err := from.Try(t, testmesh.Request{Service: service})
			if err != nil {
				return err, false
			}
			if resp.Status != http.StatusOK {
				return resp, false
			}
			by[resp.Answer.Instance]++
		}
		for _, n := range names {
			if by[n] == 0 {
				return by, false
			}
		}
		return by, len(by) == len(names)
	})
}
