package load

import (
	"slices"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/causeway-mesh/causeway/api/envoy"
)

func encode(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestClusterAsksForItsEndpoints(t *testing.T) {
	for _, c := range []struct {
		cluster *clusterv3.Cluster
		want    string
	}{
		{&clusterv3.Cluster{Name: "a", EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: &corev3.ConfigSource{}}}, "a"},
		{&clusterv3.Cluster{Name: "a", EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{ServiceName: "b"}}, "b"},
		{&clusterv3.Cluster{Name: "a"}, ""},
	} {
		if got := string(endpointsOf(encode(t, c.cluster))); got != c.want {
			t.Errorf("%v asks for %q, want %q", c.cluster, got, c.want)
		}
	}
	if endpointsOf([]byte{0xff, 0xff}) != nil {
		t.Error("broken bytes ask for something")
	}
}

func TestListenerAsksForRoutesAndExtensions(t *testing.T) {
	hcm := &hcmv3.HttpConnectionManager{
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{ConfigSource: &corev3.ConfigSource{}, RouteConfigName: "routes"}},
		HttpFilters: []*hcmv3.HttpFilter{
			{Name: "plain", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: &anypb.Any{TypeUrl: "x"}}},
			{Name: "found", ConfigType: &hcmv3.HttpFilter_ConfigDiscovery{ConfigDiscovery: &corev3.ExtensionConfigSource{TypeUrls: []string{"x"}}}},
		},
	}
	packed, err := anypb.New(hcm)
	if err != nil {
		t.Fatal(err)
	}
	l := &listenerv3.Listener{
		Name: "l",
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{
			{Name: "network", ConfigType: &listenerv3.Filter_ConfigDiscovery{ConfigDiscovery: &corev3.ExtensionConfigSource{TypeUrls: []string{"x"}}}},
			{Name: "http", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed}},
		}}},
		DefaultFilterChain: &listenerv3.FilterChain{Filters: []*listenerv3.Filter{{Name: "tcp", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: &anypb.Any{TypeUrl: "tcp"}}}}},
		ListenerFilters:    []*listenerv3.ListenerFilter{{Name: "first", ConfigType: &listenerv3.ListenerFilter_ConfigDiscovery{ConfigDiscovery: &corev3.ExtensionConfigSource{TypeUrls: []string{"x"}}}}},
	}
	var routes, extensions []string
	needsOf(encode(t, l), func(n []byte) { routes = append(routes, string(n)) }, func(n []byte) { extensions = append(extensions, string(n)) })
	slices.Sort(extensions)
	if !slices.Equal(routes, []string{"routes"}) || !slices.Equal(extensions, []string{"first", "found", "network"}) {
		t.Errorf("it asks for routes %q and extensions %q", routes, extensions)
	}
}

func TestResponseIsReadAsItWasWritten(t *testing.T) {
	var r response
	parse(encode(t, &discoveryv3.DeltaDiscoveryResponse{
		SystemVersionInfo: "17", TypeUrl: envoy.Route.URL(), Nonce: "n", RemovedResources: []string{"gone"},
		Resources: []*discoveryv3.Resource{{Name: "a", Version: "v", Resource: &anypb.Any{TypeUrl: envoy.Route.URL(), Value: []byte("body")}}},
	}), &r)
	if !r.known || r.typ != envoy.Route || r.version != 17 || r.nonce != "n" || !slices.Equal(r.removed, []string{"gone"}) {
		t.Errorf("%+v", r)
	}
	if len(r.resources) != 1 || string(r.resources[0].name)+string(r.resources[0].version)+string(r.resources[0].body) != "avbody" {
		t.Errorf("%q", r.resources)
	}
	var back discoveryv3.DeltaDiscoveryRequest
	var b []byte
	for _, x := range acknowledgement(envoy.Route, "n") {
		b = append(b, x.ReadOnlyData()...)
	}
	if err := proto.Unmarshal(b, &back); err != nil || back.TypeUrl != envoy.Route.URL() || back.ResponseNonce != "n" {
		t.Errorf("%v %v", &back, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte{10, 1, 49, 18, 2, 26, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r response
		parse(b, &r)
		for _, x := range r.resources {
			endpointsOf(x.body)
			needsOf(x.body, func([]byte) {}, func([]byte) {})
		}
	})
}
