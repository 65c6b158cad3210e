package proxy

// A ResourceKind is a kind of finished Envoy resource.
type ResourceKind string

// The kinds that can be patched.
const (
	ClusterResource  ResourceKind = "cluster"
	ListenerResource ResourceKind = "listener"
	RoutesResource   ResourceKind = "routes" // a route configuration
	FilterResource   ResourceKind = "filter" // the configuration of a filter that travels apart from its listener
)

// A Resource is what can be said of a finished Envoy resource without looking into it too deep.
type Resource struct {
	Kind ResourceKind
	Name string
	// Origin is what the resource is there for: inbound, outbound, transparent, ingress and so on.
	Origin string
	// Tags are those of a listener, or of the listener that a filter belongs to.
	Tags map[string]string
	// Listener is the one that a filter belongs to.
	Listener string
	// NetworkFilters and HTTPFilters name the filters of a listener, or the one that a filter resource configures.
	NetworkFilters, HTTPFilters []string
	// VirtualHosts names those of a route configuration.
	VirtualHosts []string
	// Open says that there may be more filters and virtual hosts than are named, because a patch has been there.
	Open bool
}
