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

// A Destination is one port of something traffic can be sent to.
type Destination struct {
	KRI      resource.KRI // with the port as section
	Type     string       // MeshService, MeshMultiZoneService or MeshExternalService
	Port     uint32
	Protocol mesh.Protocol
}

// A Listener takes connections for a workload (inbound) or for a destination (outbound).
type Listener struct {
	Direction   Direction
	Name        string // Envoy resource name and stat prefix
	Protocol    mesh.Protocol
	Destination Destination // outbound only
	MTLS        bool        // the chain terminates mesh TLS, so the peer's identity is known
}

// A Route is one HTTP route of a listener.
type Route struct {
	Direction Direction
	Name      string
	Protocol  mesh.Protocol
	// Policy is the MeshHTTPRoute the route comes from, zero for a default route.
	Policy resource.KRI
}

// A Cluster is the set of endpoints of a destination, or the workload itself (inbound).
type Cluster struct {
	Direction   Direction
	Name        string
	Protocol    mesh.Protocol
	Destination Destination // outbound only
}
