package envoy

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	sniclusterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/sni_cluster/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	inputv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/view"
)

// The chains of an ingress. Clusters are picked by server name, so only names that begin with sniPrefix come that far:
// no other cluster of a proxy has such a name.
const (
	sniPrefix      = "sni."
	servicesChain  = "services"
	healthChain    = "health"
	healthCluster  = "system_health"
	ingressConnect = 5 * time.Second
)

// An ingressKey is one port of a service that the ingress lets in.
type ingressKey struct {
	Key view.DestinationKey
	To  proxy.Destination
}

// serves lists what the ingress of a mesh lets in: the ports of the zone's own services, and those of multi-zone services
// that have a member here.
func (c *Compiler) serves(r *memo.Reader, meshName string) []view.Destination {
	var out []view.Destination
	for _, d := range c.view.Destinations(r, meshName) {
		if c.view.Serves(r, d.Key) {
			out = append(out, d)
		}
	}
	return out
}

// compileIngress adds what all ingresses of a mesh have in common: a cluster per service, and where health is asked for.
func (c *Compiler) compileIngress(r *memo.Reader, meshName string, out *collector) {
	for _, d := range c.served.Get(r, meshName) {
		k := ingressKey{d.Key, d.Destination}
		out.add(c.ingressClusters.Get(r, k))
		out.add(c.ingressAssignments.Get(r, k))
	}
	if to := c.view.Settings().HealthResponder; to != "" {
		out.add(c.responders.Get(r, to))
	}
}

func (c *Compiler) buildIngressCluster(_ *memo.Reader, k ingressKey) built {
	name, err := k.To.KRI.SNI()
	if err != nil {
		return built{problem: &Problem{Ref: Ref{Cluster, k.To.KRI.String()}, Text: "other zones cannot reach it: " + err.Error()}}
	}
	return c.buildFragment(Cluster, name, "", clusterRefs, func([]conf) (proto.Message, error) {
		// What may be in progress is for clients to limit: here they all come together.
		unlimited := wrapperspb.UInt32(math.MaxUint32)
		return &clusterv3.Cluster{
			Name:                 name,
			ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
			EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: overADS()},
			ConnectTimeout:       durationpb.New(ingressConnect),
			CommonLbConfig:       &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: percent(0)},
			CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{
				{MaxConnections: unlimited, MaxPendingRequests: unlimited},
			}},
		}, nil
	})
}

func (c *Compiler) buildIngressAssignment(r *memo.Reader, k ingressKey) built {
	name, err := k.To.KRI.SNI()
	if err != nil {
		return built{} // its cluster says so
	}
	return c.buildFragment(Endpoint, name, "", nil, func([]conf) (proto.Message, error) {
		return loadAssignment(name, c.localHosts(r, k.Key, true, 1)), nil
	})
}

// buildResponder is where the zone's control plane says how healthy its services are.
func (c *Compiler) buildResponder(_ *memo.Reader, to string) built {
	return c.buildFragment(Cluster, healthCluster, "", nil, func([]conf) (proto.Message, error) { return responder(to) })
}

func responder(to string) (proto.Message, error) {
	i := strings.LastIndexByte(to, ':')
	if i < 0 {
		return nil, fmt.Errorf("health responder %q: must be host:port", to)
	}
	hostname, discovery := strings.Trim(to[:i], "[]"), clusterv3.Cluster_STATIC
	port, err := strconv.ParseUint(to[i+1:], 10, 16)
	if err != nil {
		return nil, fmt.Errorf("port of the health responder: %w", err)
	}
	if _, err := netip.ParseAddr(hostname); err != nil {
		discovery = clusterv3.Cluster_STRICT_DNS
	}
	return &clusterv3.Cluster{
		Name:                 healthCluster,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: discovery},
		ConnectTimeout:       durationpb.New(ingressConnect),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: healthCluster, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
				Endpoint: &endpointv3.Endpoint{Address: socket(hostname, uint32(port))},
			}}},
		}}},
	}, nil
}

// ingressListener takes TLS of other zones and passes it on unread. It does not change with the services behind it.
func (c *Compiler) ingressListener(meshName string, l mesh.Listener, logs logging) built {
	name := zoneListenerName(l)
	var refs []Ref
	b := c.buildFragment(Listener, name, logs.confs(), func(proto.Message) []Ref { return refs }, func(cs []conf) (proto.Message, error) {
		bySNI, err := networkFilter("envoy.filters.network.sni_cluster", &sniclusterv3.SniCluster{})
		if err != nil {
			return nil, err
		}
		toService, err := tunnel(name, policy.NoCluster) // sni_cluster names another
		if err != nil {
			return nil, err
		}
		matchers := []*snimatcher{serverName(&xdsmatcherv3.StringMatcher{MatchPattern: &xdsmatcherv3.StringMatcher_Prefix{Prefix: sniPrefix}}, servicesChain)}
		chains := []*listenerv3.FilterChain{{Name: servicesChain, Filters: []*listenerv3.Filter{bySNI, toService}}}
		if c.view.Settings().HealthResponder != "" {
			toHealth, err := tunnel(name+"_health", healthCluster)
			if err != nil {
				return nil, err
			}
			sni := mesh.HealthSNI(meshName, c.view.Zone())
			matchers = append(matchers, serverName(&xdsmatcherv3.StringMatcher{MatchPattern: &xdsmatcherv3.StringMatcher_Exact{Exact: sni}}, healthChain))
			chains = append(chains, &listenerv3.FilterChain{Name: healthChain, Filters: []*listenerv3.Filter{toHealth}})
			refs = []Ref{{Cluster, healthCluster}}
		}
		m := &listenerv3.Listener{
			Name: name, TrafficDirection: corev3.TrafficDirection_INBOUND,
			Address: socket(l.Address, l.Port), EnableReusePort: wrapperspb.Bool(false),
			ListenerFilters: []*listenerv3.ListenerFilter{{
				Name: "envoy.filters.listener.tls_inspector", ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: tlsInspector},
			}},
			FilterChains: chains,
			FilterChainMatcher: &xdsmatcherv3.Matcher{MatcherType: &xdsmatcherv3.Matcher_MatcherList_{
				MatcherList: &xdsmatcherv3.Matcher_MatcherList{Matchers: matchers},
			}},
		}
		defer func() { refs = append(refs, collectorRefs(m)...) }()
		// Questions of other zones after the health of this one are no traffic of the mesh.
		return m, c.addChainLogs(m.FilterChains[0], logs, cs, proxy.Listener{Direction: proxy.Inbound, Name: name, Protocol: mesh.TCP})
	})
	return b
}

// tunnel passes a connection on as it is. An endpoint that cannot be reached is made up for by another.
func tunnel(statPrefix, cluster string) (*listenerv3.Filter, error) {
	return networkFilter(tcpProxyFilter, &tcpproxyv3.TcpProxy{
		StatPrefix: statPrefix, ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: cluster}, MaxConnectAttempts: wrapperspb.UInt32(3),
	})
}

type snimatcher = xdsmatcherv3.Matcher_MatcherList_FieldMatcher

// serverName leads connections with a server name to a chain. Those that nothing leads anywhere are closed.
func serverName(name *xdsmatcherv3.StringMatcher, chain string) *snimatcher {
	return &snimatcher{
		Predicate: &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
			SinglePredicate: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
				Input: &xdscorev3.TypedExtensionConfig{Name: "sni", TypedConfig: mustPack(&inputv3.ServerNameInput{})},
				Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{
					ValueMatch: name,
				},
			},
		}},
		OnMatch: &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{
			Action: &xdscorev3.TypedExtensionConfig{Name: chain, TypedConfig: mustPack(wrapperspb.String(chain))},
		}},
	}
}
