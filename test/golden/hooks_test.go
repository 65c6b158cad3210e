package golden

import (
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/causeway-mesh/causeway/api/policies/policytest"
	"github.com/causeway-mesh/causeway/api/policy"
)

// What Envoy refuses in one case among good ones is found, and the case is named: a validation that accepts everything, or that
// drops a message on the way, proves nothing.
func TestRefusedOutputsAreNamed(t *testing.T) {
	needEnvoy(t)
	one := func(name string, h policy.HookName, m proto.Message) policytest.Output {
		return policytest.Output{Case: name, Hook: h, Messages: []proto.Message{m}}
	}
	to := func(match *routev3.RouteMatch, cluster string) *routev3.Route {
		return &routev3.Route{Match: match, Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster},
		}}}
	}
	regex := func(s string) *routev3.RouteMatch {
		return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: s}}}
	}
	// Each passes the rules of its protobuf, as far as it has any.
	outputs := []policytest.Output{
		one("good route", policy.HookRoute, to(regex("/a+"), "element")),
		one("bad route", policy.HookRoute, to(regex("/(a"), "element")),
		one("good cluster", policy.HookCluster, &clusterv3.Cluster{Name: "element"}),
		one("bad cluster", policy.HookCluster, &clusterv3.Cluster{Name: "element", ConnectTimeout: durationpb.New(-1)}),
		one("good http", policy.HookHTTP, manager(&routev3.RouteConfiguration{})),
		one("bad http", policy.HookHTTP, manager(&routev3.RouteConfiguration{}, &hcmv3.HttpFilter{Name: "unknown"})),
		one("good tcp", policy.HookTCP, &tcpproxyv3.TcpProxy{StatPrefix: "x", ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: "element"}}),
		one("bad tcp", policy.HookTCP, &tcpproxyv3.TcpProxy{StatPrefix: "x"}),
		one("good filter", policy.HookNetworkFilters, &corev3.TypedExtensionConfig{Name: "f", TypedConfig: policy.Pack(&rbacv3.RBAC{StatPrefix: "x"})}),
		one("bad filter", policy.HookHTTPFilters, &corev3.TypedExtensionConfig{Name: "f", TypedConfig: policy.Pack(&rbacv3.RBAC{StatPrefix: "x"})}),
		one("out of place", policy.HookRoute, &corev3.Node{}),
	}
	var named []string
	for _, err := range refused(t.Context(), outputs) {
		t.Log(err)
		_, rest, _ := strings.Cut(err.Error(), " of case ")
		name, _, _ := strings.Cut(rest, ":")
		named = append(named, name)
	}
	if got, want := strings.Join(named, ", "), "bad route, bad cluster, bad http, bad tcp, bad filter, out of place"; got != want {
		t.Errorf("refused are %s; want %s", got, want)
	}
}
