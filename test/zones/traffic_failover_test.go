package zones

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// everywhere is a service of all zones under one name, open to all. Its requests may last: some tests leave one open.
const everywhere = `
type: MeshMultiZoneService
mesh: default
name: joined
spec:
  selector: {meshService: {matchLabels: {kuma.io/display-name: web}}}
  ports: [{port: 80, name: main, appProtocol: http2}]
---
type: MeshTimeout
mesh: default
name: unlimited
spec: {to: [{targetRef: {kind: Mesh}, default: {http: {requestTimeout: 0s}}}]}
`

// A continent is three zones: east has the client and two instances of web, west and south an ingress and one instance each.
type continent struct {
	*testmesh.Federation
	east, west, south *testmesh.Mesh
	client            *testmesh.Instance
	local             []*testmesh.Instance          // of web in east
	web, ingress      map[string]*testmesh.Instance // in the other zones
}

// newContinent runs the three zones: on this host, or with place on the numbered hosts of a zone.
func newContinent(t *testing.T, o testmesh.FederationOptions, place func(zone string, n byte) testmesh.Place) *continent {
	t.Helper()
	f := testmesh.Federate(t, o, "east", "west", "south")
	c := &continent{Federation: f, east: f.Zone("east"), west: f.Zone("west"), south: f.Zone("south")}
	f.Apply(t, identities+"---"+everywhere+"---"+permit("web", "web", "spiffe://default.*"))
	c.web, c.ingress = map[string]*testmesh.Instance{}, map[string]*testmesh.Instance{}
	for zone, m := range map[string]*testmesh.Mesh{"west": c.west, "south": c.south} {
		c.web[zone] = m.Workload(t, web(zone, 1, place))
		c.ingress[zone] = m.Ingress(t, on(place, zone, 3, testmesh.Workload{Name: "ingress-1", Apart: true}))
	}
	all := c.east.Workloads(t, on(place, "east", 3, testmesh.Workload{Name: "client-1"}), web("east", 1, place), web("east", 2, place))
	c.client, c.local = all[0], all[1:]
	c.client.Reach(t, "web.west")
	c.client.Reach(t, "web.south")
	c.client.Reach(t, "joined")
	return c
}

func on(place func(zone string, n byte) testmesh.Place, zone string, n byte, w testmesh.Workload) testmesh.Workload {
	if place != nil {
		w.Place = place(zone, n)
	}
	return w
}

// web is an instance whose server can say that it is not well.
func web(zone string, n byte, place func(zone string, n byte) testmesh.Place) testmesh.Workload {
	return on(place, zone, 10+n, testmesh.Workload{
		Name: fmt.Sprintf("web-%s-%d", zone, n), Service: "web", Protocol: mesh.HTTP2, Apart: true, Drain: time.Second,
		Probe: &mesh.ServiceProbe{
			Interval: &mesh.Duration{Duration: 100 * time.Millisecond}, UnhealthyThreshold: new(uint32(1)), HTTP: &mesh.HTTPProbe{Path: testmesh.ProbePath},
		},
	})
}

// zoneOf is where an instance of web runs.
func zoneOf(instance string) string {
	zone, _, _ := strings.Cut(strings.TrimPrefix(instance, "web-"), "-")
	return zone
}

// served sends requests and counts who answers, by zone.
func (c *continent) served(t *testing.T, from *testmesh.Instance, n int) map[string]int {
	t.Helper()
	out := map[string]int{}
	for range n {
		r := from.Get(t, "joined", "/")
		if r.Answer.Instance == "" {
			out[fmt.Sprint(r.Status)]++
		} else {
			out[zoneOf(r.Answer.Instance)]++
		}
	}
	return out
}

// untilServed waits until requests are answered by all of some zones and by no other.
func (c *continent) untilServed(t *testing.T, from *testmesh.Instance, zones ...string) time.Duration {
	t.Helper()
	slices.Sort(zones)
	return c.east.Until(t, fmt.Sprintf("%s is served by %v", from.Name, zones), func() (any, bool) {
		got := c.served(t, from, 10*len(zones))
		return got, slices.Equal(slices.Sorted(maps.Keys(got)), zones)
	})
}

// well decides what the servers of web in east say of themselves.
func (c *continent) well(states ...bool) {
	for i, s := range states {
		c.local[i].App.SetWell(s)
	}
}

// Instances of the client's own zone come first; other zones answer while those cannot, without a policy and by one.
func TestFailover(t *testing.T) {
	t.Parallel()
	c := newContinent(t, testmesh.FederationOptions{Store: "embedded"}, nil) // zones start again
	for _, part := range []struct {
		name string
		run  func(*testing.T, *continent)
	}{
		{"the own zone first", testLocalFirst},
		{"instances stop", testInstancesStop},
		{"instances are killed", testInstancesAreKilled},
		{"instances are not well", testInstancesAreUnwell},
		{"threshold and order", testOrderedFailover},
		{"version of TLS", testVersion},
		{"a zone is disabled", testDisabled},
		{"gateways", testGateways},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.run(t, c) }) {
			return
		}
	}
}

// Acceptance: M meshmultizoneservice: local preferred
func testLocalFirst(t *testing.T, c *continent) {
	for zone, from := range map[string]*testmesh.Instance{"east": c.client, "west": c.web["west"], "south": c.web["south"]} {
		c.untilServed(t, from, zone)
		if got := c.served(t, from, 50); got[zone] != 50 {
			t.Errorf("a client in %s is served by %v", zone, got)
		}
	}
}

// testInstancesStop: no request fails while all local instances stop and start again.
//
// Acceptance: M meshmultizoneservice: without local instances other zones answer
func testInstancesStop(t *testing.T, c *continent) {
	l := c.east.Load(t, c.client, testmesh.Request{Service: "joined"}, 100)
	for _, i := range c.local {
		i.StopAgent(t)
	}
	c.untilServed(t, c.client, "south", "west")
	l.More(t, 50)
	c.local[0].StartAgent(t)
	c.local[1].StartAgent(t)
	c.untilServed(t, c.client, "east")
	l.More(t, 50)
	l.Stop().NoFailure(t)
}

// testInstancesAreKilled: with the default retries no request fails either.
func testInstancesAreKilled(t *testing.T, c *continent) {
	l := c.east.Load(t, c.client, testmesh.Request{Service: "joined"}, 100)
	for _, i := range c.local {
		i.KillAgent(t)
	}
	c.untilServed(t, c.client, "south", "west")
	l.More(t, 50)
	c.local[0].StartAgent(t)
	c.local[1].StartAgent(t)
	c.untilServed(t, c.client, "east")
	l.More(t, 50)
	l.Stop().NoFailure(t)
}

// testInstancesAreUnwell: servers that say they are not well are passed over, while their proxies run.
//
// Acceptance: M healthcheck
func testInstancesAreUnwell(t *testing.T, c *continent) {
	l := c.east.Load(t, c.client, testmesh.Request{Service: "joined"}, 100)
	c.well(false, false)
	c.untilServed(t, c.client, "south", "west")
	t.Log("a client in west keeps to its own instance, and goes to the others without it")
	c.untilServed(t, c.web["west"], "west")
	c.web["west"].App.SetWell(false)
	c.untilServed(t, c.web["west"], "south")
	c.untilServed(t, c.client, "south")
	c.web["west"].App.SetWell(true)
	c.untilServed(t, c.web["west"], "west")
	c.well(true, true)
	c.untilServed(t, c.client, "east")
	l.Stop().NoFailure(t)
}

// testOrderedFailover: a policy says from which share of unready instances on traffic moves, and where to first.
//
// Acceptance: M localityawarelb
func testOrderedFailover(t *testing.T, c *continent) {
	for _, step := range []struct {
		what   string
		conf   string
		states []bool
		want   map[string]float64
	}{
		{"half is not below half", "{failoverThreshold: {percentage: 50}}", []bool{true, false}, map[string]float64{"east": 1}},
		{
			"half is below all: the rest moves to the others alike", "{failoverThreshold: {percentage: 100}}",
			[]bool{true, false},
			map[string]float64{"east": .5, "west": .25, "south": .25},
		},
		{
			"south first", "{failover: [{to: {type: Only, zones: [south]}}, {to: {type: Any}}], failoverThreshold: {percentage: 100}}",
			[]bool{true, false},
			map[string]float64{"east": .5, "south": .5},
		},
		{
			"nobody here", "{failover: [{to: {type: Only, zones: [south]}}, {to: {type: Any}}], failoverThreshold: {percentage: 100}}",
			[]bool{false, false},
			map[string]float64{"south": 1},
		},
		{"nearness does not count", "", []bool{true, true}, map[string]float64{"east": .5, "west": .25, "south": .25}},
		{"nowhere else", "{failover: [{to: {type: None}}]}", []bool{false, false}, map[string]float64{"503": 1}},
	} {
		t.Log(step.what)
		c.well(step.states...)
		conf := "{disabled: true}"
		if step.conf != "" {
			conf = "{crossZone: " + step.conf + "}"
		}
		c.Apply(t, "type: MeshLoadBalancingStrategy\nmesh: default\nname: joined\nspec:\n  to:\n"+
			"  - targetRef: {kind: MeshMultiZoneService, labels: {kuma.io/display-name: joined}}\n    default: {localityAwareness: "+conf+"}\n")
		c.untilShared(t, step.want)
	}
	t.Log("the last step has nobody either: the next one")
	c.Apply(t, "type: MeshLoadBalancingStrategy\nmesh: default\nname: joined\nspec:\n  to:\n"+
		"  - targetRef: {kind: MeshMultiZoneService, labels: {kuma.io/display-name: joined}}\n    default: {localityAwareness: {crossZone: "+
		"{failover: [{to: {type: Only, zones: [south]}}, {to: {type: Any}}]}}}\n")
	c.untilServed(t, c.client, "south")
	c.web["south"].App.SetWell(false)
	c.untilServed(t, c.client, "west")
	c.web["south"].App.SetWell(true)
	c.untilServed(t, c.client, "south")
	c.Delete(t, "MeshLoadBalancingStrategy", "joined")
	c.well(true, true)
	c.untilServed(t, c.client, "east")
}

// untilShared waits until requests are answered in certain shares.
func (c *continent) untilShared(t *testing.T, want map[string]float64) {
	t.Helper()
	const n = 200
	c.east.Until(t, fmt.Sprintf("requests are shared out as %v", want), func() (any, bool) {
		got := c.served(t, c.client, n)
		sum := 0
		for who, share := range want {
			if math.Abs(float64(got[who])/n-share) > 5*math.Sqrt(share*(1-share)/n) {
				return got, false
			}
			sum += got[who]
		}
		return got, sum == n
	})
}
