package view

import (
	"slices"

	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// An egress is one listener of this zone that takes traffic to external services.
type egress struct {
	Endpoint
	identity string
}

func (v *View) defineEgresses() {
	v.unusable = memo.NewInput[resource.Key](v.Graph, func(a, b string) bool { return a == b })
	v.egresses = memo.NewFunc(v.Graph, "egresses", slices.Equal[[]egress], v.computeEgresses)
	v.egressInbound = memo.NewFunc(v.Graph, "effectiveEgressInbound", sameClients, v.computeEgressInbound)
	v.egressUpstream = memo.NewFunc(v.Graph, "effectiveEgressUpstream", policy.Effective.Equal, v.computeEgressUpstream)
}

// computeEgresses lists the egresses of a mesh by address and port. One without an identity cannot take mesh TLS, so it is none.
func (v *View) computeEgresses(r *memo.Reader, meshName string) []egress {
	var out []egress
	for _, res := range v.Select(r, mesh.TypeDataplane, meshName, resource.Selector{resource.LabelZoneEgress: "enabled"}) {
		dp, ok := res.Spec.(*mesh.Dataplane)
		if !ok || v.zoneOf(res) != v.zone {
			continue
		}
		id := v.IdentityOf(r, res.Key()).SPIFFEID
		if id == "" {
			continue
		}
		facts := v.FactsOf(r, res.Key())
		for _, l := range dp.Networking.Listeners {
			if l.Type == mesh.ZoneEgress {
				out = append(out, egress{Endpoint{res.Key(), l.Address, l.Port, listenerHealth(l, facts)}, id})
			}
		}
	}
	slices.SortFunc(out, func(a, b egress) int { return compareEndpoints(a.Endpoint, b.Endpoint) })
	return slices.CompactFunc(out, func(a, b egress) bool { return a.Address == b.Address && a.Port == b.Port })
}

func listenerHealth(l mesh.Listener, f Facts) EndpointHealth {
	switch {
	case f.Draining:
		return Draining
	case f.Down || l.StateOrReady() != mesh.StateReady:
		return Unhealthy
	}
	return Healthy
}

// egressEndpoints are where the proxies of a mesh reach its external services.
func (v *View) egressEndpoints(r *memo.Reader, meshName string) []Endpoint {
	var out []Endpoint
	for _, e := range v.egresses.Get(r, meshName) {
		out = append(out, e.Endpoint)
	}
	return out
}

func (v *View) egressIdentities(r *memo.Reader, meshName string) []string {
	var out []string
	for _, e := range v.egresses.Get(r, meshName) {
		out = append(out, e.identity)
	}
	return out
}

// SetUnusable says why an external service cannot be connected to as declared, such as a Secret that is missing;
// an empty reason takes that back. What the reason depends on is secret, so it is found out elsewhere.
func (v *View) SetUnusable(service resource.Key, reason string) {
	if reason == "" {
		v.unusable.Delete(service)
		return
	}
	v.unusable.Set(service, reason)
}

// Unusable says why an external service cannot be connected to as declared, empty when it can.
func (v *View) Unusable(r *memo.Reader, service resource.Key) string {
	reason, _ := v.unusable.Get(r, service)
	return reason
}

// Unusables copies the reasons.
func (v *View) Unusables() map[resource.Key]string {
	out := map[resource.Key]string{}
	for k, reason := range v.unusable.All() {
		out[k] = reason
	}
	return out
}

type egressInboundKey struct {
	Policies setKey
	Protocol mesh.Protocol
	SNI      string
}

// EgressInbound is what the policies of a set put in force for what an egress takes for one server name: as Inbound, but
// rules for other server names are not there, and the rest no longer ask for one.
func (v *View) EgressInbound(r *memo.Reader, typ, meshName string, set Set, p mesh.Protocol, sni string) []Client {
	return v.egressInbound.Get(r, egressInboundKey{setKey{typ, meshName, set}, p, sni})
}

func (v *View) computeEgressInbound(r *memo.Reader, k egressInboundKey) []Client {
	p := v.byName[k.Policies.Type]
	var out []Client
	clients := policy.ForServerName
	if p.HoldsEachRule() {
		clients = policy.EveryRuleFor
	}
	for _, c := range clients(v.inboundEntries(r, k.Policies), k.SNI) {
		out = append(out, Client{c.Match, p.Narrowed(p.Effective(proxy.Inbound, string(k.Protocol), c.Sources), k.SNI)})
	}
	return out
}

type egressUpstreamKey struct {
	To, Rules   setKey
	Destination DestinationKey
	Protocol    mesh.Protocol
	SNI         string
}

// EgressUpstream is what policies put in force for the endpoints of an external service: what is said of traffic to it, over what is
// said of all that the egress takes, and under what is said of its server name.
func (v *View) EgressUpstream(r *memo.Reader, typ, meshName string, to, rules Set, d DestinationKey, p mesh.Protocol, sni string) policy.Effective {
	return v.egressUpstream.Get(r, egressUpstreamKey{setKey{typ, meshName, to}, setKey{typ, meshName, rules}, d, p, sni})
}

func (v *View) computeEgressUpstream(r *memo.Reader, k egressUpstreamKey) policy.Effective {
	t, ok := v.Target(r, k.Destination)
	if !ok {
		return policy.Effective{}
	}
	all, named := policy.ForUpstream(v.inboundEntries(r, k.Rules), k.SNI)
	sources := slices.Concat(all, policy.ForDestination(v.entries.Get(r, k.To), t, nil), named)
	return v.byName[k.To.Type].Effective(proxy.Outbound, string(k.Protocol), sources)
}
