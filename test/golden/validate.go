package golden

import (
	"os"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	// Every extension that a configuration may hold must be known to print it.
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/causeway-mesh/causeway/api/envoy"
	envoybinary "github.com/causeway-mesh/causeway/dataplane/envoy"
)

func empty(t envoy.Type) proto.Message {
	return [envoy.NumTypes]proto.Message{
		&clusterv3.Cluster{}, &endpointv3.ClusterLoadAssignment{}, &listenerv3.Listener{},
		&routev3.RouteConfiguration{}, &corev3.TypedExtensionConfig{},
	}[t]
}

// Validate has a real Envoy check a configuration. What travels by EDS, RDS, ECDS and SDS is put in place first,
// because Envoy validates only what it holds.
func Validate(t *testing.T, cfg envoy.ProxyConfig) {
	t.Helper()
	needEnvoy(t)
	table := &envoy.Table{Shared: cfg.Shared, Own: cfg.Own}
	b := &bootstrapv3.Bootstrap{
		Node: &corev3.Node{Id: "golden", Cluster: "golden"},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{AdsConfig: &corev3.ApiConfigSource{
			ApiType: corev3.ApiConfigSource_DELTA_GRPC, TransportApiVersion: corev3.ApiVersion_V3,
			GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: envoy.AgentCluster}}}},
		}},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{agentCluster(t)}},
	}
	for _, p := range []*envoy.Part{cfg.Shared, cfg.Own} {
		for _, f := range p.Of(envoy.Cluster) {
			b.StaticResources.Clusters = append(b.StaticResources.Clusters, inPlaceCluster(t, table, f))
		}
		for _, f := range p.Of(envoy.Listener) {
			b.StaticResources.Listeners = append(b.StaticResources.Listeners, inPlaceListener(t, table, f))
		}
	}
	config, err := protojson.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := envoybinary.Validate(t.Context(), config); err != nil {
		t.Errorf("Envoy refuses the configuration: %v", err)
	}
}

// needEnvoy skips a test that lacks Envoy on a laptop and fails it where nothing may be left out.
func needEnvoy(t *testing.T) {
	t.Helper()
	if _, err := envoybinary.Find(t.Context()); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("not validated by Envoy: %v", err)
	}
}

func agentCluster(t *testing.T) *clusterv3.Cluster {
	options, err := anypb.New(&httpv3.HttpProtocolOptions{UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
		ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return &clusterv3.Cluster{
		Name: envoy.AgentCluster, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		TypedExtensionProtocolOptions: map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
		LoadAssignment:                &endpointv3.ClusterLoadAssignment{ClusterName: envoy.AgentCluster},
	}
}

func inPlaceCluster(t *testing.T, table *envoy.Table, f *envoy.Fragment) *clusterv3.Cluster {
	c := message(t, f).(*clusterv3.Cluster)
	inPlaceTLS(t, c.TransportSocket)
	if c.GetType() != clusterv3.Cluster_EDS {
		return c
	}
	cla := table.Get(envoy.Endpoint, c.Name)
	if cla == nil {
		t.Errorf("cluster %s has no assignment", c.Name)
		return c
	}
	c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
	c.EdsClusterConfig = nil
	c.LoadAssignment = message(t, cla).(*endpointv3.ClusterLoadAssignment)
	return c
}

func inPlaceListener(t *testing.T, table *envoy.Table, f *envoy.Fragment) *listenerv3.Listener {
	l := message(t, f).(*listenerv3.Listener)
	for _, chain := range l.FilterChains {
		inPlaceTLS(t, chain.TransportSocket)
		for _, filter := range chain.Filters {
			if d := filter.GetConfigDiscovery(); d != nil {
				filter.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: extensionOf(t, table, filter.Name)}
			}
			m := &hcmv3.HttpConnectionManager{}
			if filter.GetTypedConfig().MessageIs(m) {
				inPlaceHTTP(t, table, filter, m)
			}
		}
	}
	return l
}

func inPlaceHTTP(t *testing.T, table *envoy.Table, filter *listenerv3.Filter, m *hcmv3.HttpConnectionManager) {
	if err := filter.GetTypedConfig().UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
	if name := m.GetRds().GetRouteConfigName(); m.GetRouteConfig() == nil {
		routes := table.Get(envoy.Route, name)
		if routes == nil {
			t.Errorf("listener names routes %q that do not exist", name)
			return
		}
		m.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: message(t, routes).(*routev3.RouteConfiguration)}
	}
	for _, hf := range m.HttpFilters {
		if hf.GetConfigDiscovery() != nil {
			hf.ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: extensionOf(t, table, hf.Name)}
		}
	}
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	filter.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: a}
}

func extensionOf(t *testing.T, table *envoy.Table, name string) *anypb.Any {
	f := table.Get(envoy.Extension, name)
	if f == nil {
		t.Fatalf("listener names extension %q that does not exist", name)
	}
	return message(t, f).(*corev3.TypedExtensionConfig).TypedConfig
}
