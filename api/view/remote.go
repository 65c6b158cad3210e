package view

import (
	"maps"

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
type Gateway struct{ Down, Draining bool }

// Settings are what a zone decides for all its proxies. They do not change while a view lives.
type Settings struct {
	// LocalAddresses lets ingresses of other zones have loopback and link-local addresses, as in a demo on one host.
	LocalAddresses bool
	// HealthResponder is the host:port to which an ingress forwards the health SNI of its zone; empty means nowhere.
	HealthResponder string
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
