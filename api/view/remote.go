package view

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Remote is what another zone says of one of its services.
type Remote struct {
	// Ports holds how much serves each port, by section.
	Ports map[string]Capacity
}

// Equal compares what is said.
func (m Remote) Equal(o Remote) bool { return maps.Equal(m.Ports, o.Ports) }

// Capacity counts the endpoints behind one port.
type Capacity struct{ Healthy, Total uint32 }

// Gateway is what is known of one ingress address of another zone, by the key of its MeshZoneAddress.
type Gateway struct {
	Down, Draining bool
	// IP is what the address resolves to when it is a DNS name. Until it is known, nothing is sent there.
	IP netip.Addr
}

// Settings are what a zone decides for all its proxies. They do not change while a view lives.
type Settings struct {
	// LocalAddresses lets ingresses of other zones have loopback and link-local addresses, as in a demo on one host.
	LocalAddresses bool
	// HealthResponder is the host:port to which an ingress forwards the health SNI of its zone; empty means nowhere.
	HealthResponder string
	// Shadow counts policies that only cast their shadow for real ones, to preview what they would do.
	Shadow bool
	// MeshDomains are the domains in which there is nothing but names of the mesh, such as mesh.local.
	MeshDomains []string
}

// Configure sets the settings, before the first question.
func (v *View) Configure(s Settings) { v.settings = s }

// Settings are what the zone decided for all its proxies.
func (v *View) Settings() Settings { return v.settings }

// SetRemote replaces what another zone says of one of its services; nil takes it away. An unknown service
// is assumed reachable, with a capacity of one endpoint.
func (v *View) SetRemote(service resource.Key, m *Remote) {
	if m == nil {
		v.remotes.Delete(service)
		return
	}
	v.remotes.Set(service, Remote{maps.Clone(m.Ports)})
}

// SetGateway replaces what is known of an ingress address of another zone; nil takes it away.
func (v *View) SetGateway(address resource.Key, g *Gateway) {
	if g == nil {
		v.gateways.Delete(address)
		return
	}
	v.gateways.Set(address, *g)
}

// A RemoteZone is how another zone serves a destination.
type RemoteZone struct {
	Zone string
	Capacity
	// Ingresses lead to it, sorted by address and port; never empty.
	Ingresses []Ingress
}

// An Ingress is one address at which a zone takes traffic of other zones.
type Ingress struct {
	Address string
	Port    uint32
	Health  EndpointHealth
}

func sameZones(a, b []RemoteZone) bool {
	return slices.EqualFunc(a, b, func(x, y RemoteZone) bool {
		return x.Zone == y.Zone && x.Capacity == y.Capacity && slices.Equal(x.Ingresses, y.Ingresses)
	})
}

// RemoteZones lists the other zones that serve a destination, by name. Only what is ready for mesh TLS counts.
func (v *View) RemoteZones(r *memo.Reader, d DestinationKey) []RemoteZone {
	return v.remoteZones.Get(r, d)
}

func (v *View) computeRemoteZones(r *memo.Reader, d DestinationKey) []RemoteZone {
	res, ok := v.Resource(r, d.Service)
	if !ok {
		return nil
	}
	zones := map[string]Capacity{}
	add := func(service resource.Resource, port string) {
		if zone := v.zoneOf(service); zone != v.zone && v.TLSReady(r, service.Key()) {
			c := v.capacity(r, DestinationKey{service.Key(), port})
			zones[zone] = Capacity{zones[zone].Healthy + c.Healthy, zones[zone].Total + c.Total}
		}
	}
	switch s := res.Spec.(type) {
	case *mesh.MeshService:
		if slices.ContainsFunc(s.Ports, func(p mesh.Port) bool { return p.SectionName() == d.Port }) {
			add(res, d.Port)
		}
	case *mesh.MeshMultiZoneService:
		for member, port := range v.memberPorts(r, res, s, d.Port) {
			add(member, port)
		}
	}
	var out []RemoteZone
	for _, zone := range slices.Sorted(maps.Keys(zones)) {
		if in := v.ingresses.Get(r, zoneKey{res.Mesh, zone}); len(in) > 0 {
			out = append(out, RemoteZone{zone, zones[zone], in})
		}
	}
	return out
}

// maxCapacity bounds what a zone can claim, so that weights stay far from what Envoy can add up.
const maxCapacity = 1 << 20

// capacity is what is known to serve a port of a service of another zone. Counts come straight from that zone and are newer
// than the recorded state, which is asked only where there are none.
func (v *View) capacity(r *memo.Reader, d DestinationKey) Capacity {
	m, _ := v.remotes.Get(r, d.Service)
	if c, ok := m.Ports[d.Port]; ok {
		total := min(max(c.Total, c.Healthy, 1), maxCapacity)
		return Capacity{min(c.Healthy, total), total}
	}
	if idle, _ := v.idle.Get(r, d.Service); idle {
		return Capacity{0, 1}
	}
	return Capacity{1, 1}
}

// A zoneKey names a zone as seen by a mesh.
type zoneKey struct{ Mesh, Zone string }

func (v *View) computeIngresses(r *memo.Reader, k zoneKey) []Ingress {
	var out []Ingress
	for _, res := range v.Select(r, mesh.TypeMeshZoneAddress, k.Mesh, resource.Selector{resource.LabelZone: k.Zone}) {
		a, ok := res.Spec.(*mesh.MeshZoneAddress)
		if !ok || a.IsLocal() && !v.settings.LocalAddresses {
			continue
		}
		g, _ := v.gateways.Get(r, res.Key())
		ip, err := netip.ParseAddr(a.Address)
		if err != nil {
			ip = g.IP
		}
		ip = ip.Unmap()
		if !ip.IsValid() || (ip.IsLoopback() || ip.IsLinkLocalUnicast()) && !v.settings.LocalAddresses {
			continue // a name must not lead where an address may not
		}
		in := Ingress{Address: ip.String(), Port: a.Port}
		switch {
		case g.Draining:
			in.Health = Draining
		case g.Down:
			in.Health = Unhealthy
		}
		out = append(out, in)
	}
	slices.SortFunc(out, func(a, b Ingress) int {
		return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Health, b.Health))
	})
	return slices.CompactFunc(out, func(a, b Ingress) bool { return a.Address == b.Address && a.Port == b.Port })
}
