package golden

import (
	"context"
	"fmt"
	"strings"
	"testing"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	otelv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/open_telemetry/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/causeway-mesh/causeway/api/policies/policytest"
	"github.com/causeway-mesh/causeway/api/policy"
	envoybinary "github.com/causeway-mesh/causeway/dataplane/envoy"
)

// ValidateHooks has a real Envoy check what hooks made, each output put into the least configuration that it is complete in.
func ValidateHooks(t *testing.T, outputs []policytest.Output) {
	t.Helper()
	needEnvoy(t)
	for _, err := range refused(t.Context(), outputs) {
		t.Errorf("Envoy refuses what a policy makes: %v", err)
	}
}

// refused lists the outputs that Envoy does not accept. All are tried at once, because each try starts an Envoy; one after the
// other only to find out which one is refused.
func refused(ctx context.Context, outputs []policytest.Output) []error {
	all := tried(ctx, outputs)
	if all == nil {
		return nil
	}
	var errs []error
	for i, o := range outputs {
		if err := tried(ctx, outputs[i:i+1]); err != nil {
			errs = append(errs, fmt.Errorf("%s of case %s: %w", o.Hook, o.Case, err))
		}
	}
	if errs == nil {
		errs = []error{fmt.Errorf("all cases together, and none alone: %w", all)}
	}
	return errs
}

func tried(ctx context.Context, outputs []policytest.Output) error {
	s := &scene{clusters: map[string]bool{}}
	for _, o := range outputs {
		if err := s.add(o); err != nil {
			return err
		}
	}
	config, err := protojson.Marshal(&bootstrapv3.Bootstrap{
		Node: &corev3.Node{Id: "golden", Cluster: "golden"}, StaticResources: &s.resources,
	})
	if err != nil {
		return err
	}
	return envoybinary.Validate(ctx, config)
}

// A scene is a static configuration in which outputs of hooks stand side by side.
type scene struct {
	resources bootstrapv3.Bootstrap_StaticResources
	clusters  map[string]bool
}

func (s *scene) add(o policytest.Output) error {
	var routes []*routev3.Route
	for i, m := range o.Messages {
		name := fmt.Sprintf("%s/%s/%d", o.Case, o.Hook, i)
		switch m := m.(type) {
		case *clusterv3.Cluster:
			c := proto.CloneOf(m)
			c.Name = name
			s.cluster(c)
		case *routev3.Route:
			routes = append(routes, m)
		case *routev3.RouteConfiguration:
			s.http(name, &hcmv3.HttpConnectionManager{
				StatPrefix: "golden", RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: proto.CloneOf(m)},
			})
		case *hcmv3.HttpConnectionManager:
			s.reachTraced(m.GetTracing().GetProvider().GetTypedConfig())
			s.http(name, proto.CloneOf(m))
		case *tcpproxyv3.TcpProxy:
			s.reach(m.GetCluster())
			for _, c := range m.GetWeightedClusters().GetClusters() {
				s.reach(c.Name)
			}
			s.listener(name, filter("envoy.filters.network.tcp_proxy", m))
		case *accesslogv3.AccessLog:
			s.log(name, m)
		case *corev3.TypedExtensionConfig:
			s.extension(name, o.Hook, m)
		default:
			return fmt.Errorf("no place is known for a %T", m)
		}
	}
	if len(routes) > 0 {
		s.routes(fmt.Sprintf("%s/%s", o.Case, o.Hook), routes)
	}
	return nil
}

// cluster gives a cluster the one endpoint that would come by EDS, because Envoy validates only what it holds.
func (s *scene) cluster(c *clusterv3.Cluster) {
	if c.GetType() != clusterv3.Cluster_ORIGINAL_DST { // which needs no endpoints
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
		c.EdsClusterConfig = nil
		c.LoadAssignment = &endpointv3.ClusterLoadAssignment{ClusterName: c.Name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: at(1)}}}},
		}}}
	}
	s.resources.Clusters = append(s.resources.Clusters, c)
	s.clusters[c.Name] = true
}

// reach makes sure that a cluster that something names exists.
func (s *scene) reach(name string) {
	if name != "" && !s.clusters[name] {
		s.cluster(&clusterv3.Cluster{Name: name})
	}
}

func (s *scene) routes(name string, routes []*routev3.Route) {
	for _, r := range routes {
		action := r.GetRoute()
		s.reach(action.GetCluster())
		for _, c := range action.GetWeightedClusters().GetClusters() {
			s.reach(c.Name)
		}
		for _, m := range action.GetRequestMirrorPolicies() {
			s.reach(m.Cluster)
		}
	}
	s.http(name, manager(&routev3.RouteConfiguration{
		VirtualHosts: []*routev3.VirtualHost{{Name: name, Domains: []string{"*"}, Routes: routes}},
	}))
}

func manager(routes *routev3.RouteConfiguration, filters ...*hcmv3.HttpFilter) *hcmv3.HttpConnectionManager {
	return &hcmv3.HttpConnectionManager{
		StatPrefix: "golden", HttpFilters: filters,
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: routes},
	}
}

// reachTraced makes what spans are sent to.
func (s *scene) reachTraced(provider *anypb.Any) {
	var otel tracev3.OpenTelemetryConfig
	var zipkin tracev3.ZipkinConfig
	var datadog tracev3.DatadogConfig
	switch {
	case provider.UnmarshalTo(&otel) == nil:
		s.reach(otel.GetGrpcService().GetEnvoyGrpc().GetClusterName())
	case provider.UnmarshalTo(&zipkin) == nil:
		s.reach(zipkin.CollectorCluster)
	case provider.UnmarshalTo(&datadog) == nil:
		s.reach(datadog.CollectorCluster)
	}
}

// log puts an access log where requests are seen, and makes what it sends to.
func (s *scene) log(name string, m *accesslogv3.AccessLog) {
	var sent otelv3.OpenTelemetryAccessLogConfig
	if m.GetTypedConfig().UnmarshalTo(&sent) == nil {
		s.reach(sent.GetGrpcService().GetEnvoyGrpc().GetClusterName())
	}
	h := manager(&routev3.RouteConfiguration{})
	h.AccessLog = []*accesslogv3.AccessLog{m}
	s.http(name, h)
}

// http ends the filters with the router, without which Envoy takes no connection manager.
func (s *scene) http(name string, m *hcmv3.HttpConnectionManager) {
	m.HttpFilters = append(m.HttpFilters, &hcmv3.HttpFilter{
		Name: "envoy.filters.http.router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: policy.Pack(&routerv3.Router{})},
	})
	s.listener(name, filter("envoy.filters.network.http_connection_manager", m))
}

func (s *scene) extension(name string, h policy.HookName, e *corev3.TypedExtensionConfig) {
	if h == policy.HookHTTPFilters || h == policy.HookClientFilters {
		f := &hcmv3.HttpFilter{Name: e.Name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: e.TypedConfig}}
		s.http(name, manager(&routev3.RouteConfiguration{}, f))
		return
	}
	const end = "end"
	s.reach(end)
	s.listener(name,
		&listenerv3.Filter{Name: e.Name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: e.TypedConfig}},
		filter("envoy.filters.network.tcp_proxy", &tcpproxyv3.TcpProxy{
			StatPrefix: "golden", ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: end},
		}),
	)
}

func (s *scene) listener(name string, filters ...*listenerv3.Filter) {
	s.resources.Listeners = append(s.resources.Listeners, &listenerv3.Listener{
		// Two listeners on one address would be refused for that.
		Name: strings.ReplaceAll(name, " ", "_"), Address: at(uint32(1 + len(s.resources.Listeners))),
		FilterChains: []*listenerv3.FilterChain{{Filters: filters}},
	})
}

func filter(name string, m proto.Message) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: policy.Pack(m)}}
}

func at(port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}
