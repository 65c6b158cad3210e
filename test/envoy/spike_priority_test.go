package envoy

import (
	"fmt"
	"math"
	"net/http"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
)

// member is an endpoint as a test describes it.
type member struct {
	upstream string
	weight   uint32
	status   corev3.HealthStatus
}

// How Envoy spreads requests over priorities: the health of one is healthy / present hosts x the factor.
func TestSpikePriorities(t *testing.T) {
	t.Parallel()
	const requests = 400
	const healthy, unhealthy, draining = corev3.HealthStatus_HEALTHY, corev3.HealthStatus_UNHEALTHY, corev3.HealthStatus_DRAINING
	local := func(states ...corev3.HealthStatus) (out []member) {
		for _, s := range states {
			name := "local"
			if s != healthy {
				name = "broken"
			}
			out = append(out, member{name, 1, s})
		}
		return out
	}
	remote := []member{{"remote", 4, healthy}}
	panicOff := func(c *clusterv3.Cluster) {
		c.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{}}
	}
	weighted := func(a *endpointv3.ClusterLoadAssignment) { a.Policy.WeightedPriorityHealth = true }
	cases := []struct {
		what     string
		groups   [][]member // by priority
		factor   uint32
		cluster  func(*clusterv3.Cluster)
		endpoint func(*endpointv3.ClusterLoadAssignment)
		want     map[string]float64 // share of each upstream
	}{
		{"all healthy", [][]member{local(healthy, healthy, healthy, healthy), remote}, 0, nil, nil, map[string]float64{"local": 1}},
		{"three of four healthy: 75 % x 1.4", [][]member{local(healthy, healthy, healthy, unhealthy), remote}, 0, nil, nil, map[string]float64{"local": 1}},
		{"two of four healthy: 50 % x 1.4", [][]member{local(healthy, healthy, unhealthy, unhealthy), remote}, 0, nil, nil, map[string]float64{"local": .7, "remote": .3}},
		{"draining hosts are left out of the reckoning", [][]member{local(healthy, healthy, draining, draining), remote}, 0, nil, nil, map[string]float64{"local": 1}},
		{"draining and unhealthy hosts: one of two", [][]member{local(healthy, unhealthy, draining, draining), remote}, 0, nil, nil, map[string]float64{"local": .7, "remote": .3}},
		{"all draining", [][]member{local(draining, draining), remote}, 0, nil, nil, map[string]float64{"remote": 1}},
		{"all draining, no successor: panic", [][]member{local(draining, draining)}, 0, nil, nil, map[string]float64{"broken": 1}},
		{"all draining, no successor, panic off", [][]member{local(draining, draining)}, 0, panicOff, nil, map[string]float64{"503": 1}},
		{"factor 200", [][]member{local(healthy, healthy, unhealthy, unhealthy), remote}, 200, nil, nil, map[string]float64{"local": 1}},
		{"factor 100", [][]member{local(healthy, healthy, unhealthy, unhealthy), remote}, 100, nil, nil, map[string]float64{"local": .5, "remote": .5}},
		{"unhealthy hosts left out: nothing spills", [][]member{local(healthy), remote}, 0, nil, nil, map[string]float64{"local": 1}},
		{"none healthy", [][]member{local(unhealthy, unhealthy), remote}, 0, nil, nil, map[string]float64{"remote": 1}},
		{"none present", [][]member{{}, remote}, 0, nil, nil, map[string]float64{"remote": 1}},
		{
			"one of four healthy, the rest spills without panic",
			[][]member{local(healthy, unhealthy, unhealthy, unhealthy), remote},
			0, nil, nil,
			map[string]float64{"local": .35, "remote": .65},
		},
		{
			"no successor: panic spreads over all",
			[][]member{local(healthy, unhealthy, unhealthy, unhealthy)},
			0, nil, nil,
			map[string]float64{"local": .25, "broken": .75},
		},
		{"no successor, panic off", [][]member{local(healthy, unhealthy, unhealthy, unhealthy)}, 0, panicOff, nil, map[string]float64{"local": 1}},
		{"nobody healthy anywhere: panic", [][]member{local(unhealthy), {{"broken", 1, unhealthy}}}, 0, nil, nil, map[string]float64{"broken": 1}},
		{"nobody healthy anywhere, panic off", [][]member{local(unhealthy), {{"broken", 1, unhealthy}}}, 0, panicOff, nil, map[string]float64{"503": 1}},
		{"weights within a priority", [][]member{{{"local", 3, healthy}, {"remote", 1, healthy}}}, 0, nil, nil, map[string]float64{"local": .75, "remote": .25}},
		{
			"weights do not count for health",
			[][]member{{{"local", 9, healthy}, {"broken", 1, unhealthy}}, remote},
			0, nil, nil,
			map[string]float64{"local": .7, "remote": .3},
		},
		{
			"weights count for health when asked",
			[][]member{{{"local", 9, healthy}, {"broken", 1, unhealthy}}, remote},
			0, nil, weighted,
			map[string]float64{"local": 1},
		},
		{
			"an unhealthy host for the lost share of a remote zone",
			[][]member{{{"local", 2, healthy}, {"broken", 2, unhealthy}}, remote},
			100, nil, weighted,
			map[string]float64{"local": .5, "remote": .5},
		},
	}
	_, p, s := start(t)
	port := freePort(t)
	pool := newPool(t)
	e := everything{listeners: messages(listener("out", port, httpChain(t, connectionManager(t, "routes"))))}
	table := routes("routes", "")
	table.VirtualHosts[0].Routes = nil
	for i, c := range cases {
		name := fmt.Sprint("case-", i)
		cluster, assigned := edsCluster(name, 5*time.Second), pool.assign(name, c.groups)
		if c.factor > 0 {
			assigned.Policy.OverprovisioningFactor = uint32Value(c.factor)
		}
		if c.cluster != nil {
			c.cluster(cluster)
		}
		if c.endpoint != nil {
			c.endpoint(assigned)
		}
		e.clusters, e.endpoints = append(e.clusters, cluster), append(e.endpoints, assigned)
		r := routes("", name).VirtualHosts[0].Routes[0]
		r.Match.PathSpecifier = &routev3.RouteMatch_Path{Path: "/" + name}
		table.VirtualHosts[0].Routes = append(table.VirtualHosts[0].Routes, r)
	}
	e.routes = messages(table)
	s.boot(t, p, e)

	h := client(t)
	for i, c := range cases {
		counts := map[string]int{}
		for range requests {
			code, body, err := fetch(h, port, fmt.Sprint("/case-", i))
			if err != nil {
				t.Fatal(err)
			}
			if code != http.StatusOK {
				body = fmt.Sprint(code)
			}
			counts[body]++
		}
		t.Logf("%-60s %v", c.what, counts)
		for who, n := range counts {
			// Five standard deviations of a fair draw; a share of all or nothing is exact.
			got, want := float64(n)/requests, c.want[who]
			if math.Abs(got-want) > 5*math.Sqrt(want*(1-want)/requests) {
				t.Errorf("%s: %s serves %.0f %%, want %.0f %%", c.what, who, 100*got, 100*want)
			}
		}
	}
}

// pool lends upstreams by name; each host of one assignment is another server.
type pool struct {
	t     testing.TB
	ports map[string][]uint32
}

func newPool(t testing.TB) *pool { return &pool{t, map[string][]uint32{}} }

func (p *pool) assign(cluster string, groups [][]member) *endpointv3.ClusterLoadAssignment {
	a := &endpointv3.ClusterLoadAssignment{ClusterName: cluster, Policy: &endpointv3.ClusterLoadAssignment_Policy{}}
	used := map[string]int{}
	for priority, members := range groups {
		group := &endpointv3.LocalityLbEndpoints{Priority: uint32(priority)}
		for _, m := range members {
			n := used[m.upstream]
			used[m.upstream]++
			if n == len(p.ports[m.upstream]) {
				p.ports[m.upstream] = append(p.ports[m.upstream], echo(p.t, m.upstream))
			}
			h := host(p.ports[m.upstream][n])
			h.HealthStatus, h.LoadBalancingWeight = m.status, uint32Value(m.weight)
			group.LbEndpoints = append(group.LbEndpoints, h)
		}
		a.Endpoints = append(a.Endpoints, group)
	}
	return a
}
