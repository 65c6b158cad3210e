package zones

import (
	"fmt"
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// A border is two zones: east has the client, and each has instances of the same services. What is asked of the other zone goes through its
// ingress.
type border struct {
	*testmesh.Federation
	east, west *testmesh.Mesh
	client     *testmesh.Instance
	near       *testmesh.Instance   // of web in east
	far        []*testmesh.Instance // of web in west
}

// of selects a service of a zone.
func of(service, zone string) string {
	return fmt.Sprintf("kind: MeshService, labels: {kuma.io/display-name: %s, kuma.io/zone: %s}", service, zone)
}

// Policies of global, and of the client's zone, hold for services of another zone as they do for those of the own.
func TestPoliciesForServicesOfAnotherZone(t *testing.T) {
	t.Parallel()
	f := testmesh.Federate(t, testmesh.FederationOptions{}, "east", "west")
	b := &border{Federation: f, east: f.Zone("east"), west: f.Zone("west")}
	f.Apply(t, identities+"---"+`
type: MeshMultiZoneService
mesh: default
name: joined
spec:
  selector: {meshService: {matchLabels: {kuma.io/display-name: web}}}
  ports: [{port: 80, name: main, appProtocol: http}]
---
type: MeshTrafficPermission
mesh: default
name: everybody
spec: {rules: [{default: {allow: [{spiffeID: {type: Prefix, value: "spiffe://default."}}]}}]}
`)
	west := b.west.Workloads(t, testmesh.Workload{Name: "web-w1"}, testmesh.Workload{Name: "web-w2"}, testmesh.Workload{Name: "db-w1", Protocol: mesh.TCP})
	b.west.Ingress(t, testmesh.Workload{Name: "ingress-1"})
	east := b.east.Workloads(t, testmesh.Workload{Name: "client-1"}, testmesh.Workload{Name: "web-e1"}, testmesh.Workload{Name: "db-e1", Protocol: mesh.TCP})
	b.client, b.near, b.far = east[0], east[1], west[:2]
	b.client.Reach(t, "web.west")
	b.client.Reach(t, "joined")
	b.client.ReachTCP(t, "db")
	b.client.ReachTCP(t, "db.west")
	for _, part := range []struct {
		name string
		run  func(*testing.T, *border)
	}{
		{"requests", testRoutesOfAnotherZone},
		{"failures", testRetriesOfAnotherZone},
		{"checks", testChecksOfAnotherZone},
		{"timeouts", testTimeoutsOfAnotherZone},
		{"connections", testConnectionsBetweenZones},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.run(t, b) }) {
			return
		}
	}
}

// untilAnswered waits until every answer of a service is from a zone. (Which instance of another zone answers is settled per connection.)
func (b *border) untilAnswered(t *testing.T, r testmesh.Request, zone string) {
	t.Helper()
	b.east.Until(t, fmt.Sprintf("%s%s is answered by %s", r.Service, r.Path, zone), func() (any, bool) {
		for range 8 {
			resp, err := b.client.Try(t, r)
			if err != nil {
				return err, false
			}
			if resp.Status != http.StatusOK || inZone[resp.Answer.Instance] != zone {
				return resp, false
			}
		}
		return nil, true
	})
}

// inZone is where an instance of web runs.
var inZone = map[string]string{"web-e1": "east", "web-w1": "west", "web-w2": "west"}

// Acceptance: M meshhttproute: to a service of another zone, to a MeshMultiZoneService, to MeshServices by labels
// Acceptance: M meshservice policies: rewrite and split for services of another zone
func testRoutesOfAnotherZone(t *testing.T, b *border) {
	b.Apply(t, `
type: MeshHTTPRoute
mesh: default
name: web
spec:
  to:
  - targetRef: {`+of("web", "west")+`}
    rules:
    - matches: [{path: {type: PathPrefix, value: /old}}]
      default: {filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]}
    - matches: [{path: {type: PathPrefix, value: /split}}]
      default: {backendRefs: [{`+of("web", "west")+`, weight: 3}, {`+of("web", "east")+`, weight: 1}]}
  - targetRef: {`+of("web", "east")+`}
    rules:
    - matches: [{path: {type: PathPrefix, value: /away}}]
      default: {backendRefs: [{`+of("web", "west")+`}]}
    - matches: [{path: {type: PathPrefix, value: /joined}}]
      default: {backendRefs: [{kind: MeshMultiZoneService, labels: {kuma.io/display-name: joined}, port: 80}]}
`)
	defer b.Delete(t, "MeshHTTPRoute", "web")
	b.untilAnswered(t, testmesh.Request{Service: "web", Path: "/away"}, "west")
	b.untilAnswered(t, testmesh.Request{Service: "web", Path: "/here"}, "east")
	b.untilAnswered(t, testmesh.Request{Service: "web", Path: "/joined"}, "east")
	if got := b.client.Get(t, "web.west", "/old/thing?q=1").Answer; got.Path != "/new/thing?q=1" {
		t.Errorf("%s got %s", got.Instance, got.Path)
	}
	const n = 200
	here := 0
	for range n {
		if b.client.Get(t, "web.west", "/split").Answer.Instance == "web-e1" {
			here++
		}
	}
	// A quarter of 200 is 50 with a standard deviation of 6.1; six of them are never missed by chance.
	if math.Abs(float64(here)-n/4) > 37 {
		t.Errorf("%d of %d requests stayed in the own zone, want about a quarter", here, n)
	}
}

// Acceptance: M meshservice policies: retry
func testRetriesOfAnotherZone(t *testing.T, b *border) {
	b.Apply(t, "type: MeshRetry\nmesh: default\nname: web\nspec:\n  to: [{targetRef: {"+of("web", "west")+"}, "+
		"default: {http: {numRetries: 6, retryOn: [5xx], backOff: {baseInterval: 1ms, maxInterval: 5ms}}}}]\n")
	defer b.Delete(t, "MeshRetry", "web")
	b.east.Until(t, "a 500 of another zone is retried", func() (any, bool) {
		for _, i := range b.far {
			i.App.Fail(1, http.StatusInternalServerError)
		}
		resp, err := b.client.Try(t, testmesh.Request{Service: "web.west"})
		return fmt.Sprint(resp, err), err == nil && resp.Status == http.StatusOK
	})
	for _, i := range b.far {
		i.App.Fail(0, 0)
	}
}

// Checks decide about endpoints of the own zone. Those of another are not asked through its ingress, where one that is not well would take
// the whole zone out.
//
// Acceptance: M meshservice policies: health check
func testChecksOfAnotherZone(t *testing.T, b *border) {
	check := func(name, target string) string {
		return "type: MeshHealthCheck\nmesh: default\nname: " + name + "\nspec:\n  to: [{targetRef: {" + target + "}, default: {interval: 100ms, noTrafficInterval: 100ms, " +
			"timeout: 2s, unhealthyThreshold: 2, http: {path: " + testmesh.ProbePath + "}}}]\n"
	}
	b.Apply(t, check("joined", "kind: MeshMultiZoneService, labels: {kuma.io/display-name: joined}"))
	b.Apply(t, check("far", of("web", "west")))
	b.untilAnswered(t, testmesh.Request{Service: "joined"}, "east")
	b.far[1].App.SetWell(false) // one of the two, which is nobody's reason to leave the zone
	b.near.App.SetWell(false)
	b.untilAnswered(t, testmesh.Request{Service: "joined"}, "west")
	checked := func(service string) int {
		return b.client.Stat(t, `cluster\.kri_`+service+`\.health_check\.attempt`)
	}
	before := checked("mzsvc_.*joined.*")
	b.east.Until(t, "the endpoint here is asked again and again", func() (any, bool) {
		n := checked("mzsvc_.*joined.*")
		return n, n > before+5
	})
	if n := checked("msvc_.*_west_.*_web_.*"); n != 0 {
		t.Errorf("the other zone was asked %d times", n)
	}
	b.untilAnswered(t, testmesh.Request{Service: "web.west"}, "west")
	b.near.App.SetWell(true)
	b.far[1].App.SetWell(true)
	b.untilAnswered(t, testmesh.Request{Service: "joined"}, "east")
	b.Delete(t, "MeshHealthCheck", "joined")
	b.Delete(t, "MeshHealthCheck", "far")
}

// Acceptance: M meshtimeout: made in a zone and at global, for a service of another zone and for a route
func testTimeoutsOfAnotherZone(t *testing.T, b *border) {
	slow := testmesh.Request{Service: "web.west", Path: "/?delay=600ms"}
	expect := func(status int) {
		t.Helper()
		b.client.Expect(t, slow, status)
	}
	timeout := func(name, target, after string) string {
		return fmt.Sprintf("type: MeshTimeout\nmesh: default\nname: %s\nspec:\n  to: [{targetRef: {%s}, default: {http: {requestTimeout: %s}}}]\n", name, target, after)
	}
	expect(http.StatusOK)
	b.Apply(t, timeout("global", of("web", "west"), "150ms"))
	expect(http.StatusGatewayTimeout)
	t.Log("what the client's zone says is stronger")
	b.east.Apply(t, timeout("zone", of("web", "west"), "10s"))
	expect(http.StatusOK)
	b.east.Delete(t, "MeshTimeout", "zone")
	expect(http.StatusGatewayTimeout)
	b.Apply(t, `
type: MeshHTTPRoute
mesh: default
name: web
labels: {route: web}
spec:
  to:
  - targetRef: {`+of("web", "west")+`}
    rules: [{matches: [{path: {type: PathPrefix, value: /}}], default: {}}]
`)
	b.Apply(t, timeout("route", "kind: MeshHTTPRoute, labels: {route: web}", "9s"))
	expect(http.StatusOK)
	b.Delete(t, "MeshTimeout", "route")
	expect(http.StatusGatewayTimeout)
	b.Delete(t, "MeshHTTPRoute", "web")
	b.Delete(t, "MeshTimeout", "global")
	expect(http.StatusOK)
	t.Log("the workloads of the other zone limit what they receive themselves")
	b.west.Apply(t, "type: MeshTimeout\nmesh: default\nname: receiving\nspec:\n  targetRef: {kind: Dataplane, labels: {kuma.io/workload: web}}\n"+
		"  rules: [{default: {http: {requestTimeout: 150ms}}}]\n")
	expect(http.StatusGatewayTimeout)
	if resp := b.client.Send(t, testmesh.Request{Service: "web", Path: slow.Path}); resp.Status != http.StatusOK || resp.Took < 600*time.Millisecond {
		t.Errorf("the own zone is not concerned: %s", resp)
	}
	b.west.Delete(t, "MeshTimeout", "receiving")
	expect(http.StatusOK)
}

// Acceptance: M meshtcproute: connections to one service are divided between zones
func testConnectionsBetweenZones(t *testing.T, b *border) {
	dialled := func() map[string]int {
		got := map[string]int{}
		for range 24 {
			c, err := b.client.Dial(t, "db")
			if err != nil {
				got[err.Error()]++
				continue
			}
			got[c.From]++
			c.Close()
		}
		return got
	}
	route := func(here, there int) {
		t.Helper()
		b.Apply(t, fmt.Sprintf(`
type: MeshTCPRoute
mesh: default
name: db
spec:
  to:
  - targetRef: {%s}
    rules: [{default: {backendRefs: [{%s, weight: %d}, {%s, weight: %d}]}}]
`, of("db", "east"), of("db", "east"), here, of("db", "west"), there))
	}
	route(1, 1)
	b.east.Until(t, "both zones get connections", func() (any, bool) {
		got := dialled()
		return got, got["db-e1"] > 0 && got["db-w1"] > 0 && got["db-e1"]+got["db-w1"] == 24
	})
	route(0, 1)
	b.east.Until(t, "only the other zone gets connections", func() (any, bool) {
		got := dialled()
		return got, got["db-w1"] == 24
	})
	b.Delete(t, "MeshTCPRoute", "db")
	b.east.Until(t, "the own zone alone gets connections", func() (any, bool) {
		got := dialled()
		return got, got["db-e1"] == 24
	})
}
