package envoy

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	commonstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/set_filter_state/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// A splitKey is a destination whose connections are divided.
type splitKey struct {
	Key   view.DestinationKey
	To    proxy.Destination
	TCP   confs
	Split confs
}

// A routingKey names a destination as a class of proxies sees it.
type routingKey struct {
	Class Class
	To    view.Destination
}

// A routing decides where traffic to a destination goes: what routes its requests, or what divides its connections.
type routing struct{ requests, connections confs }

func (c *Compiler) routingOf(r *memo.Reader, cl Class, d view.Destination) routing {
	return c.routings.Get(r, routingKey{cl, d})
}

// buildRouting: the requests of a port of HTTP are routed; only when nothing routes them and something divides connections is it
// served as bytes.
func (c *Compiler) buildRouting(r *memo.Reader, k routingKey) routing {
	effective := c.effectiveFor(r, k.Class, k.To, resource.KRI{})
	if k.To.Protocol.IsHTTP() {
		if requests := c.confsFor(policy.HookRoutes, effective); requests != "" {
			return routing{requests: requests}
		}
	}
	return routing{connections: c.confsFor(policy.HookSplit, effective)}
}

// buildSplit is the filter that divides connections. It travels apart from its listener: a connection keeps the configuration it began with,
// so that an edit closes none.
func (c *Compiler) buildSplit(r *memo.Reader, k splitKey) built {
	name := k.To.KRI.String()
	l := proxy.Listener{Direction: proxy.Outbound, Name: name, Protocol: k.To.Protocol, Destination: k.To}
	return c.buildFragment(Extension, splitName(name), joinConfs(k.Split, k.TCP), splitRefs, func(cs []conf) (proto.Message, error) {
		m := &tcpproxyv3.TcpProxy{StatPrefix: name, ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: name}}
		err := c.apply(cs, func(_ string, b policy.Bound) {
			if b.TCP != nil {
				b.TCP(l, m)
			}
			if b.Split != nil {
				policy.Divide(m, b.Split(k.To, func(ref policy.BackendRef) (string, bool) {
					d, ok := c.view.Backend(r, k.Key.Service.Mesh, ref)
					return d.KRI.String(), ok
				}))
			}
		})
		if err != nil {
			return nil, err
		}
		a, err := pack(m)
		if err != nil {
			return nil, err
		}
		return &corev3.TypedExtensionConfig{Name: splitName(name), TypedConfig: a}, nil
	})
}

// splitRefs are the clusters that connections are led to.
func splitRefs(m proto.Message) []Ref {
	e, ok := m.(*corev3.TypedExtensionConfig)
	t := &tcpproxyv3.TcpProxy{}
	if !ok || e.TypedConfig.UnmarshalTo(t) != nil {
		return nil
	}
	var out []Ref
	add := func(cluster string) {
		if cluster != "" && cluster != policy.NoCluster {
			out = append(out, Ref{Cluster, cluster})
		}
	}
	add(t.GetCluster())
	for _, w := range t.GetWeightedClusters().GetClusters() {
		add(w.Name)
	}
	return out
}

var tcpProxyType = mustPack(&tcpproxyv3.TcpProxy{StatPrefix: "-", ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: "-"}}).TypeUrl

// splitName names the filter that divides the connections to a destination, as other filters that travel apart: patches know it by the
// end of its name.
func splitName(destination string) string { return destination + "_" + tcpProxyFilter }

// splitFilter refers to that filter.
func splitFilter(destination string) *listenerv3.Filter {
	return &listenerv3.Filter{Name: splitName(destination), ConfigType: &listenerv3.Filter_ConfigDiscovery{ConfigDiscovery: filterRef{TypeURL: tcpProxyType}.discovery()}}
}

// splitPrologue lets bytes reach ports of HTTP: what such a cluster offers first is HTTP/2, which a server would then expect.
// A port of HTTP/2 is spoken to with nothing else.
func splitPrologue(p mesh.Protocol) ([]*listenerv3.Filter, error) {
	if p.IsHTTP2() {
		return nil, nil
	}
	f, err := networkFilter("envoy.filters.network.set_filter_state", &setstatev3.Config{
		OnNewConnection: []*commonstatev3.FilterStateValue{{
			Key:   &commonstatev3.FilterStateValue_ObjectKey{ObjectKey: "envoy.network.application_protocols"},
			Value: &commonstatev3.FilterStateValue_FormatString{FormatString: plainText(alpn)},
		}},
	})
	return []*listenerv3.Filter{f}, err
}
