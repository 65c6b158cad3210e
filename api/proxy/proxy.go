// Package proxy is the intermediate representation of the elements of one proxy: its listeners, routes and clusters in mesh terms.
// Policies are offered these elements. It holds no policy fields, no Envoy types and does no I/O.
package proxy

import (
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

// A Direction is the way traffic flows relative to the workload.
type Direction string

// The two directions.
const (
	Inbound  Direction = "inbound"
	Outbound Direction = "outbound"
)

// A Self is a proxy to which a policy adds resources, as far as all proxies of its class have it in common.
type Self struct {
	// Identity says that it is issued one; without it there is no mesh TLS.
	Identity bool
	// Transparent says that traffic is redirected to it.
	Transparent bool
}

// A Role is what a proxy is there for.
type Role string

// The roles. A proxy that serves a workload is a sidecar, whatever else it does; a zone proxy is ingress and egress in one.
const (
	Sidecar     Role = "sidecar"
	Gateway     Role = "gateway"
	ZoneProxy   Role = "zone-proxy"
	ZoneIngress Role = "zone-ingress"
	ZoneEgress  Role = "zone-egress"
)

// An Agent is a proxy as its agent is told of it.
type Agent struct {
	Mesh, Zone, Namespace string
	Name                  string // of the Dataplane
	Workload              string
	Role                  Role
	Address               string
	// Serves is the address where the workload listens on a port.
	Serves func(port uint32) string
}

// ServesZone says that there is no workload beside the proxy.
func (a Agent) ServesZone() bool {
	return a.Role == ZoneProxy || a.Role == ZoneIngress || a.Role == ZoneEgress
}

// A Destination is one port of something traffic can be sent to.
type Destination struct {
	KRI      resource.KRI // with the port as section
	Type     string       // MeshService, MeshMultiZoneService or MeshExternalService
	Port     uint32
	Protocol mesh.Protocol
}

// A Listener takes connections for a workload (inbound) or for a destination (outbound). The chain of an egress for one external
// service is an inbound listener that has a destination.
type Listener struct {
	Direction   Direction
	Name        string // Envoy resource name and stat prefix
	Protocol    mesh.Protocol
	Destination Destination // of an outbound or an egress
	MTLS        bool        // the chain terminates mesh TLS, so the peer's identity is known
	Passthrough bool        // it takes redirected connections that no other listener has, whatever their destination
	// SNI is the only server name that comes here; empty means any.
	SNI string
	// Labels are those of the proxy that a policy asks for.
	Labels map[string]string
}

// Egress says that the listener is a chain of an egress.
func (l Listener) Egress() bool { return l.SNI != "" }

// A Route is one HTTP route of a listener.
type Route struct {
	Direction Direction
	Name      string
	Protocol  mesh.Protocol
	// Policy is the MeshHTTPRoute the route comes from, zero for a default route.
	Policy resource.KRI
	// Egress says that an egress passes the request on: the proxy of its sender has done what is done once, such as retrying.
	Egress bool
}

// A Cluster is the set of endpoints of a destination, or the workload itself (inbound).
type Cluster struct {
	Direction   Direction
	Name        string
	Protocol    mesh.Protocol
	Destination Destination // outbound only
	// Egress says that the endpoints are those of an external service itself. Other proxies have the egresses as its endpoints.
	Egress bool
}

// A Client is a sending proxy, as far as it matters for where its traffic goes.
type Client struct {
	Zone string
	// Labels are those that a policy asks for.
	Labels map[string]string
}

// An Assignment is where the traffic of a client to a destination goes. Policies arrange it.
type Assignment struct {
	Client      Client
	Destination Destination
	Endpoints   []*Endpoint
	// Overprovisioning is by what percentage health is multiplied before traffic spills to the next priority. 0 is Envoy's 140.
	Overprovisioning uint32
}

// An Endpoint is one place that serves a destination, and where a policy puts it.
type Endpoint struct {
	Zone string
	// Label gives a label of the proxy behind the endpoint; empty when there is none, as for every endpoint of another zone.
	Label func(key string) string
	// Excluded endpoints get no traffic at all.
	Excluded bool
	// Priority is the order in which groups are used, from 0; gaps are closed.
	Priority uint32
	// SubZone divides the endpoints of a zone into groups.
	SubZone string
	// Weight of the group among those of its priority. 0 is what its endpoints weigh together, and when no policy says
	// anything else groups are not told apart.
	Weight uint32
}
