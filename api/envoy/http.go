package envoy

import (
	"fmt"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	grpcstatsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
)

const httpOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// overADS is the config source of everything that travels on the proxy's one stream.
func overADS() *corev3.ConfigSource {
	return policy.OverADS()
}

func socket(address string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: address, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

func percent(v float64) *typev3.Percent { return &typev3.Percent{Value: v} }

// pack encodes a message deterministically: equal configuration must be equal bytes.
func pack(m proto.Message) (*anypb.Any, error) {
	b, err := Marshal(m)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: b}, nil
}

// mustPack is for messages without any input; a failure is a mistake that every test finds.
func mustPack(m proto.Message) *anypb.Any {
	a, err := pack(m)
	if err != nil {
		panic(fmt.Sprintf("envoy: constant message is invalid: %v", err))
	}
	return a
}

// setHTTP fixes the protocol that a cluster speaks.
func setHTTP(c *clusterv3.Cluster, http2 bool) {
	explicit := &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
		ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}},
	}
	if http2 {
		explicit.ProtocolConfig = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}}
	}
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpOptions: mustPack(&httpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: explicit},
	})}
}

// forward is the route of everything to one cluster.
func forward(name, cluster string) *routev3.Route {
	return &routev3.Route{
		Name:  name,
		Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster},
		}},
	}
}

func routeConfiguration(name string, vh *routev3.VirtualHost) *routev3.RouteConfiguration {
	return &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{vh}, ValidateClusters: wrapperspb.Bool(false)}
}

// routeRefs are the clusters that a route configuration names.
func routeRefs(m proto.Message) []Ref {
	rc, ok := m.(*routev3.RouteConfiguration)
	if !ok {
		return nil
	}
	var out []Ref
	add := func(cluster string) {
		if ref := (Ref{Cluster, cluster}); cluster != "" && !slices.Contains(out, ref) {
			out = append(out, ref)
		}
	}
	for _, vh := range rc.GetVirtualHosts() {
		for _, ro := range vh.Routes {
			action := ro.GetRoute()
			add(action.GetCluster())
			for _, w := range action.GetWeightedClusters().GetClusters() {
				add(w.Name)
			}
			for _, mirror := range action.GetRequestMirrorPolicies() {
				add(mirror.Cluster)
			}
		}
	}
	return out
}

// httpFilterOf builds the HTTP connection manager of a listener; its routes travel by RDS under the given name.
func (c *Compiler) httpFilterOf(l proxy.Listener, routes string, cs []conf, more []*hcmv3.HttpFilter, edit func(*hcmv3.HttpConnectionManager)) (*listenerv3.Filter, error) {
	m := &hcmv3.HttpConnectionManager{
		StatPrefix: l.Name,
		CodecType:  hcmv3.HttpConnectionManager_AUTO,
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			RouteConfigName: routes, ConfigSource: overADS(),
		}},
		// A client's connection to its proxy may idle as long as it likes; idle connections are ended on the cluster side.
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{IdleTimeout: durationpb.New(0)},
		InternalAddressConfig:     &hcmv3.HttpConnectionManager_InternalAddressConfig{UnixSockets: true},
		HttpFilters:               slices.Clone(more),
	}
	edit(m)
	if l.Protocol == mesh.GRPC {
		m.HttpFilters = append(m.HttpFilters, httpFilter("envoy.filters.http.grpc_stats", grpcStats))
	}
	m.HttpFilters = append(m.HttpFilters, httpFilter("envoy.filters.http.router", router))
	err := c.apply(cs, func(_ string, b policy.Bound) {
		if b.HTTP != nil {
			b.HTTP(l, m)
		}
	})
	if err != nil {
		return nil, err
	}
	return networkFilter("envoy.filters.network.http_connection_manager", m)
}

// tcpProxyFilter is the name of the filter that forwards bytes.
const tcpProxyFilter = "envoy.filters.network.tcp_proxy"

func (c *Compiler) tcpFilterOf(l proxy.Listener, cluster string, cs []conf) (*listenerv3.Filter, error) {
	m := &tcpproxyv3.TcpProxy{
		StatPrefix:       l.Name,
		ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: cluster},
	}
	err := c.apply(cs, func(_ string, b policy.Bound) {
		if b.TCP != nil {
			b.TCP(l, m)
		}
	})
	if err != nil {
		return nil, err
	}
	return networkFilter(tcpProxyFilter, m)
}

var (
	router    = mustPack(&routerv3.Router{})
	grpcStats = mustPack(&grpcstatsv3.FilterConfig{
		EmitFilterState:        true,
		PerMethodStatSpecifier: &grpcstatsv3.FilterConfig_StatsForAllMethods{StatsForAllMethods: wrapperspb.Bool(true)},
	})
)

func httpFilter(name string, config *anypb.Any) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: config}}
}

func networkFilter(name string, m proto.Message) (*listenerv3.Filter, error) {
	a, err := pack(m)
	if err != nil {
		return nil, err
	}
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: a}}, nil
}
