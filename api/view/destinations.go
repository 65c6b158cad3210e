package view

import (
	"cmp"
	"iter"
	"maps"
	"slices"

	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// A DestinationKey names one port of a destination.
type DestinationKey struct {
	Service resource.Key
	Port    string // section name
}

// A Destination is one port of something traffic can be sent to.
type Destination struct {
	Key DestinationKey
	proxy.Destination
	Created int64 // nanoseconds, for "the oldest wins"
}

// An EndpointHealth says whether an endpoint may get traffic.
type EndpointHealth uint8

// The healths of an endpoint. Endpoints that are not ready stay listed, otherwise failover thresholds cannot be computed.
const (
	Healthy EndpointHealth = iota
	Unhealthy
	Draining
)

// An Endpoint is one proxy of this zone that serves a destination.
type Endpoint struct {
	Dataplane resource.Key
	Address   string
	Port      uint32
	Health    EndpointHealth
}

// target is a destination as policies see it, and the labels that route backends match.
type target struct {
	policy.Target
	meta resource.Meta
	ok   bool
}

func (v *View) defineDestinations() {
	v.destinations = memo.NewFunc(v.Graph, "destinations", slices.Equal[[]Destination], v.computeDestinations)
	v.endpoints = memo.NewFunc(v.Graph, "endpoints", slices.Equal[[]Endpoint], v.computeEndpoints)
	v.endpointLabel = memo.NewFunc(v.Graph, "endpointLabel", func(a, b string) bool { return a == b }, v.computeEndpointLabel)
	v.remoteZones = memo.NewFunc(v.Graph, "remoteZones", sameZones, v.computeRemoteZones)
	v.ingresses = memo.NewFunc(v.Graph, "ingresses", slices.Equal[[]Ingress], v.computeIngresses)
	v.target = memo.NewFunc(v.Graph, "target", func(a, b target) bool {
		return a.ok == b.ok && a.Kind == b.Kind && a.Port == b.Port && maps.Equal(a.Labels, b.Labels)
	}, v.computeTarget)
}

// destinationTypes are the kinds that traffic can be sent to.
var destinationTypes = []string{mesh.TypeMeshService, mesh.TypeMeshMultiZoneService, mesh.TypeMeshExternalService}

// Destinations lists every port of every destination of a mesh, by KRI.
func (v *View) Destinations(r *memo.Reader, meshName string) []Destination {
	return v.destinations.Get(r, meshName)
}

func (v *View) computeDestinations(r *memo.Reader, meshName string) []Destination {
	var out []Destination
	for _, typ := range destinationTypes {
		for _, res := range v.All(r, typ, meshName) {
			out = append(out, v.ports(res)...)
		}
	}
	slices.SortFunc(out, func(a, b Destination) int { return cmp.Or(a.KRI.Compare(b.KRI), a.Key.Service.Compare(b.Key.Service)) })
	// Two stored objects can claim one KRI for a moment; the older keeps it.
	return slices.CompactFunc(out, func(a, b Destination) bool { return a.KRI == b.KRI })
}

func (v *View) ports(res resource.Resource) []Destination {
	kri := v.KRI(res)
	port := func(section string, number uint32, p mesh.Protocol) Destination {
		return Destination{
			Key:         DestinationKey{res.Key(), section},
			Destination: proxy.Destination{KRI: kri.WithSection(section), Type: res.Type, Port: number, Protocol: p},
			Created:     res.Created.UnixNano(),
		}
	}
	var out []Destination
	switch s := res.Spec.(type) {
	case *mesh.MeshService:
		for _, p := range s.Ports {
			out = append(out, port(p.SectionName(), p.Port, p.Protocol()))
		}
	case *mesh.MeshMultiZoneService:
		for _, p := range s.Ports {
			out = append(out, port(p.SectionName(), p.Port, p.Protocol()))
		}
	case *mesh.MeshExternalService:
		out = append(out, port(s.Match.SectionName(), s.Match.Port, s.Match.ProtocolOrTCP()))
	}
	return out
}

// Target is the destination as policies see it; ok is false when it does not exist.
func (v *View) Target(r *memo.Reader, d DestinationKey) (policy.Target, bool) {
	t := v.target.Get(r, d)
	return t.Target, t.ok
}

func (v *View) computeTarget(r *memo.Reader, d DestinationKey) target {
	res, ok := v.Resource(r, d.Service)
	return target{Target: policy.Target{Kind: res.Type, Labels: res.Labels, Port: d.Port}, meta: res.Meta, ok: ok}
}

// An endpointsKey names the endpoints of a destination that serve clients with or without mesh TLS.
type endpointsKey struct {
	Destination DestinationKey
	TLS         bool
}

// Endpoints lists the proxies of this zone that serve a destination, sorted by address and port. With mesh TLS, members of a
// multi-zone service that cannot speak it yet are left out; they are not reached in plaintext beside others that are.
// An external service is reached at the egresses and with mesh TLS, or not at all.
func (v *View) Endpoints(r *memo.Reader, d DestinationKey, tls bool) []Endpoint {
	if d.Service.Type == mesh.TypeMeshExternalService {
		if !tls {
			return nil
		}
		return v.egressEndpoints(r, d.Service.Mesh)
	}
	return v.endpoints.Get(r, endpointsKey{d, tls && d.Service.Type == mesh.TypeMeshMultiZoneService})
}

func (v *View) computeEndpoints(r *memo.Reader, k endpointsKey) []Endpoint {
	d := k.Destination
	res, ok := v.Resource(r, d.Service)
	if !ok {
		return nil
	}
	var out []Endpoint
	switch s := res.Spec.(type) {
	case *mesh.MeshService:
		if v.zoneOf(res) == v.zone {
			out = v.serviceEndpoints(r, res, s, d.Port)
		}
	case *mesh.MeshMultiZoneService:
		for member, port := range v.memberPorts(r, res, s, d.Port) {
			if v.zoneOf(member) == v.zone && (!k.TLS || v.TLSReady(r, member.Key())) {
				out = append(out, v.Endpoints(r, DestinationKey{member.Key(), port}, false)...)
			}
		}
	}
	slices.SortFunc(out, compareEndpoints)
	return slices.CompactFunc(out, func(a, b Endpoint) bool { return a.Address == b.Address && a.Port == b.Port })
}

func compareEndpoints(a, b Endpoint) int {
	return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Health, b.Health), a.Dataplane.Compare(b.Dataplane))
}

// memberPorts yields the members of a multi-zone service that have one of its ports, and what they call it.
func (v *View) memberPorts(r *memo.Reader, res resource.Resource, s *mesh.MeshMultiZoneService, section string) iter.Seq2[resource.Resource, string] {
	return func(yield func(resource.Resource, string) bool) {
		for _, member := range v.Select(r, mesh.TypeMeshService, res.Mesh, s.Selector.MeshService.MatchLabels) {
			if port, ok := memberPort(s, section, member); ok && !yield(member, port) {
				return
			}
		}
	}
}

// Serves says whether a destination is served by this zone, ready or not: what its ingress lets in.
func (v *View) Serves(r *memo.Reader, d DestinationKey) bool {
	res, ok := v.Resource(r, d.Service)
	if !ok {
		return false
	}
	switch s := res.Spec.(type) {
	case *mesh.MeshService:
		return v.zoneOf(res) == v.zone
	case *mesh.MeshMultiZoneService:
		for member := range v.memberPorts(r, res, s, d.Port) {
			if v.zoneOf(member) == v.zone {
				return true
			}
		}
	}
	return false
}

// A labelKey names one label of a dataplane.
type labelKey struct {
	Dataplane resource.Key
	Label     string
}

// EndpointLabel is the value of a label of a dataplane, empty when it has none.
func (v *View) EndpointLabel(r *memo.Reader, dp resource.Key, label string) string {
	return v.endpointLabel.Get(r, labelKey{dp, label})
}

func (v *View) computeEndpointLabel(r *memo.Reader, k labelKey) string {
	res, _ := v.Resource(r, k.Dataplane)
	return res.Labels[k.Label]
}

// memberPort finds the port of a member that belongs to a port of the multi-zone service.
func memberPort(s *mesh.MeshMultiZoneService, section string, member resource.Resource) (string, bool) {
	ms, ok := member.Spec.(*mesh.MeshService)
	if !ok {
		return "", false
	}
	for _, p := range s.Ports {
		if p.SectionName() != section {
			continue
		}
		for _, mp := range ms.Ports {
			if p.Joins(mp) {
				return mp.SectionName(), true
			}
		}
	}
	return "", false
}

func (v *View) serviceEndpoints(r *memo.Reader, res resource.Resource, s *mesh.MeshService, section string) []Endpoint {
	i := slices.IndexFunc(s.Ports, func(p mesh.Port) bool { return p.SectionName() == section })
	if i < 0 {
		return nil
	}
	var out []Endpoint
	for _, dp := range v.Members(r, res) {
		spec, ok := dp.Spec.(*mesh.Dataplane)
		if !ok {
			continue
		}
		facts := v.FactsOf(r, dp.Key())
		for _, in := range spec.ExposedInbounds() {
			if s.Ports[i].Selects(in) {
				out = append(out, Endpoint{
					Dataplane: dp.Key(), Address: spec.Networking.InboundAddress(in), Port: in.Port, Health: health(in, facts),
				})
			}
		}
	}
	return out
}

func health(in mesh.Inbound, f Facts) EndpointHealth {
	switch {
	case f.Draining:
		return Draining
	case f.Down:
		return Unhealthy
	}
	state, known := f.Inbounds[in.SectionName()]
	if !known {
		state = in.StateOrReady()
	}
	if state == mesh.StateReady {
		return Healthy
	}
	return Unhealthy
}

func (v *View) zoneOf(res resource.Resource) string {
	if z := res.Zone(); z != "" {
		return z
	}
	return v.zone
}

// Members lists the dataplanes that make up a MeshService.
func (v *View) Members(r *memo.Reader, service resource.Resource) []resource.Resource {
	s, ok := service.Spec.(*mesh.MeshService)
	if !ok {
		return nil
	}
	var out []resource.Resource
	switch sel := s.Selector; {
	case sel.DataplaneRef != nil:
		out = v.Select(r, mesh.TypeDataplane, service.Mesh, resource.Selector{resource.LabelDisplayName: sel.DataplaneRef.Name})
	case sel.DataplaneLabels != nil && len(sel.DataplaneLabels.MatchLabels) > 0:
		out = v.Select(r, mesh.TypeDataplane, service.Mesh, sel.DataplaneLabels.MatchLabels)
	}
	zone := v.zoneOf(service)
	return slices.DeleteFunc(out, func(dp resource.Resource) bool { return v.zoneOf(dp) != zone })
}

// Backend finds the destination that a route's backend names; of several one of this zone, then the oldest.
// A backend without a namespace means the namespace of the route.
func (v *View) Backend(r *memo.Reader, meshName string, ref policy.BackendRef) (Destination, bool) {
	var best Destination
	found, local := false, false
	for _, res := range v.Select(r, ref.Kind, meshName, ref.Labels) {
		here := v.zoneOf(res) == v.zone
		for _, d := range v.ports(res) {
			if !names(ref, d) {
				continue
			}
			older := d.Created < best.Created || d.Created == best.Created && d.KRI.Compare(best.KRI) < 0
			if !found || here && !local || here == local && older {
				best, found, local = d, true, here
			}
		}
	}
	return best, found
}

func names(ref policy.BackendRef, d Destination) bool {
	switch {
	case ref.SectionName != "":
		return d.Key.Port == ref.SectionName || ref.SectionName == number(d.Port)
	case ref.Port != nil:
		return d.Port == *ref.Port
	}
	return true
}
