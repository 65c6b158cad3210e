package envoy

import (
	"cmp"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/view"
)

// assignmentKeyOf holds no more than what the endpoints of a destination depend on, so that all classes share them
// unless a policy sends their traffic elsewhere.
func (c *Compiler) assignmentKeyOf(r *memo.Reader, cl Class, o outbound, effective func(string) policy.Effective) assignmentKey {
	k := assignmentKey{Key: o.Key, To: o.Destination.Destination, Confs: c.confsFor(policy.HookEndpoints, effective)}
	k.TLS = o.TLS && (o.Type != mesh.TypeMeshService || c.view.Elsewhere(r, o.Key.Service))
	k.Client = c.clientLabels(k.Confs, cl.Labels)
	return k
}

// A host is an endpoint as Envoy gets it, and where it belongs.
type host struct {
	proxy.Endpoint
	lb *endpointv3.LbEndpoint
}

func (c *Compiler) buildAssignment(r *memo.Reader, k assignmentKey) built {
	name := k.To.KRI.String()
	return c.buildFragment(Endpoint, name, k.Confs, nil, func(cs []conf) (proto.Message, error) {
		var remote []view.RemoteZone
		if k.TLS {
			remote = c.view.RemoteZones(r, k.Key)
		}
		scale := scaleOf(remote)
		hosts := c.localHosts(r, k.Key, k.TLS, scale)
		for _, z := range remote {
			hosts = append(hosts, zoneHosts(z, scale)...)
		}
		a := proxy.Assignment{Client: proxy.Client{Zone: c.view.Zone()}, Destination: k.To}
		decode(k.Client, &a.Client.Labels)
		for _, h := range hosts {
			a.Endpoints = append(a.Endpoints, &h.Endpoint)
		}
		if err := c.apply(cs, func(_ string, b policy.Bound) { b.Endpoints(&a) }); err != nil {
			return nil, err
		}
		m := loadAssignment(name, hosts)
		if a.Overprovisioning > 0 || len(remote) > 0 {
			m.Policy = &endpointv3.ClusterLoadAssignment_Policy{WeightedPriorityHealth: len(remote) > 0}
		}
		if a.Overprovisioning > 0 {
			m.Policy.OverprovisioningFactor = wrapperspb.UInt32(a.Overprovisioning)
		}
		return m, nil
	})
}

// localHosts are the endpoints of this zone. They come first, whatever the zone is called.
func (c *Compiler) localHosts(r *memo.Reader, d view.DestinationKey, tls bool, weight uint32) []*host {
	var out []*host
	for _, e := range c.view.Endpoints(r, d, tls) {
		out = append(out, &host{
			proxy.Endpoint{Zone: c.view.Zone(), Label: func(key string) string { return c.view.EndpointLabel(r, e.Dataplane, key) }},
			lbEndpoint(socket(e.Address, e.Port), e.Health, weight),
		})
	}
	return out
}

// shares is how a zone's capacity is divided over its ingresses: each of n stands for 1/n of it. Those that leave have no share
// while others stay.
func shares(z view.RemoteZone) (capacity, n uint32) {
	for _, in := range z.Ingresses {
		if in.Health != view.Draining {
			n++
		}
	}
	if n == 0 {
		n = uint32(len(z.Ingresses))
	}
	capacity = z.Healthy
	if capacity == 0 {
		capacity = z.Total
	}
	return capacity, n
}

// maxScale bounds the precision of weights: beyond it shares are rounded.
const maxScale = 1000

// scaleOf is the weight of one endpoint, such that every share of an ingress is a whole number.
func scaleOf(zones []view.RemoteZone) uint32 {
	scale := uint32(1)
	for _, z := range zones {
		capacity, n := shares(z)
		need := n / gcd(capacity, n)
		scale = min(maxScale, scale/gcd(scale, need)*need)
	}
	return scale
}

func gcd(a, b uint32) uint32 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// zoneHosts are the ingresses of another zone. Envoy reckons the health of a zone by weight, so what the zone has lost of its
// endpoints is told by a host of that weight that nobody can reach: a zone that fails in part spills in part.
func zoneHosts(z view.RemoteZone, scale uint32) []*host {
	capacity, n := shares(z)
	none := func(string) string { return "" }
	add := func(out []*host, a *corev3.Address, health view.EndpointHealth, weight uint32) []*host {
		lb := lbEndpoint(a, health, weight)
		// What answers behind an ingress is now this instance, now that one: a check would judge a zone by any of them.
		lb.GetEndpoint().HealthCheckConfig = &endpointv3.Endpoint_HealthCheckConfig{DisableActiveHealthCheck: true}
		return append(out, &host{proxy.Endpoint{Zone: z.Zone, Label: none, Priority: 1}, lb})
	}
	var out []*host
	for _, in := range z.Ingresses {
		health := in.Health
		if z.Healthy == 0 && health == view.Healthy {
			health = view.Unhealthy
		}
		out = add(out, socket(in.Address, in.Port), health, max(1, capacity*scale/n))
	}
	if lost := z.Total - z.Healthy; lost > 0 && z.Healthy > 0 {
		out = add(out, &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: "/causeway/unavailable/" + z.Zone}}}, view.Unhealthy, lost*scale)
	}
	return out
}

// loadAssignment groups hosts by priority, zone and sub-zone.
func loadAssignment(name string, hosts []*host) *endpointv3.ClusterLoadAssignment {
	hosts = slices.DeleteFunc(slices.Clone(hosts), func(h *host) bool { return h.Excluded })
	slices.SortStableFunc(hosts, compareGroups)
	weighted := slices.ContainsFunc(hosts, func(h *host) bool { return h.Weight > 0 })
	m := &endpointv3.ClusterLoadAssignment{ClusterName: name}
	priority := uint32(0) // counted anew, for Envoy does not look beyond a gap
	for len(hosts) > 0 {
		first := hosts[0]
		n := slices.IndexFunc(hosts, func(h *host) bool { return compareGroups(h, first) != 0 })
		if n < 0 {
			n = len(hosts)
		}
		m.Endpoints = append(m.Endpoints, &endpointv3.LocalityLbEndpoints{
			Locality: &corev3.Locality{Zone: first.Zone, SubZone: first.SubZone}, Priority: priority,
			LoadBalancingWeight: wrapperspb.UInt32(groupWeight(hosts[:n], weighted)), LbEndpoints: lbEndpoints(hosts[:n]),
		})
		if hosts = hosts[n:]; len(hosts) > 0 && hosts[0].Priority != first.Priority {
			priority++
		}
	}
	return m
}

func compareGroups(a, b *host) int {
	return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.SubZone, b.SubZone))
}

// groupWeight is what a policy says. Beside groups with such a weight, any other weighs what can serve in it.
func groupWeight(hosts []*host, weighted bool) uint32 {
	if !weighted {
		return 1
	}
	w := hosts[0].Weight
	for _, h := range hosts {
		if hosts[0].Weight == 0 && h.lb.HealthStatus == corev3.HealthStatus_UNKNOWN {
			w += h.lb.LoadBalancingWeight.Value
		}
	}
	return max(1, w)
}

func lbEndpoints(hosts []*host) []*endpointv3.LbEndpoint {
	var out []*endpointv3.LbEndpoint
	for _, h := range hosts {
		out = append(out, h.lb)
	}
	return out
}

func lbEndpoint(address *corev3.Address, h view.EndpointHealth, weight uint32) *endpointv3.LbEndpoint {
	health := map[view.EndpointHealth]corev3.HealthStatus{
		view.Healthy: corev3.HealthStatus_UNKNOWN, view.Unhealthy: corev3.HealthStatus_UNHEALTHY, view.Draining: corev3.HealthStatus_DRAINING,
	}[h]
	return &endpointv3.LbEndpoint{
		HealthStatus:        health,
		LoadBalancingWeight: wrapperspb.UInt32(weight),
		HostIdentifier:      &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: address}},
	}
}
