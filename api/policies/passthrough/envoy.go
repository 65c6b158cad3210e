package passthrough

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	streamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
)

var hooks = policy.Hooks[Conf]{
	Passthrough: policy.Hook[func(Conf, proxy.Listener, *listenerv3.Listener)]{Apply: editListener},
	Resources:   policy.Hook[func(Conf, proxy.Self) []policy.Addition]{Apply: additions},
}

const (
	blocked     = "meshpassthrough_blocked"
	blockedHTTP = "meshpassthrough_blocked_http"
	refusal     = "This answer comes from the proxy: no MeshPassthrough lets requests to this destination through.\n"

	connectTimeout = 10 * time.Second
	// inspectTimeout is how long the first bytes of a client are waited for. A client that has said nothing by then waits for the
	// server to speak, and is neither TLS nor HTTP.
	inspectTimeout = 5 * time.Second
)

// name is what the cluster of a match is called, and its chain.
func (m Match) name() string {
	return fmt.Sprintf("meshpassthrough_%s_%s_%s", m.protocol(), strings.ToLower(m.Value), m.portText())
}

func (m Match) portText() string { return portText(m.port()) }

func portText(port uint32) string {
	if port == 0 {
		return "*"
	}
	return strconv.Itoa(int(port))
}

// hostsName names the chain, and the routes, of all HTTP domains at a port.
func hostsName(port uint32) string { return "meshpassthrough_http_" + portText(port) }

// editListener puts chains in the place of the one that lets everything through.
func editListener(c Conf, l proxy.Listener, m *listenerv3.Listener) {
	if l.Direction != proxy.Outbound || c.mode() == All {
		return
	}
	through := tcpOf(m)
	plan := planOf(c, familyOf(m))
	m.ListenerFilters = plan.inspectors()
	m.ListenerFiltersTimeout = durationpb.New(inspectTimeout)
	m.ContinueOnListenerFiltersTimeout = true
	m.FilterChains = nil
	for _, r := range plan.rules {
		m.FilterChains = append(m.FilterChains, &listenerv3.FilterChain{Name: r.chain, Filters: []*listenerv3.Filter{r.filter(through)}})
	}
	m.FilterChains = append(m.FilterChains, &listenerv3.FilterChain{Name: blockedHTTP, Filters: []*listenerv3.Filter{refuseHTTP(through)}})
	m.DefaultFilterChain = &listenerv3.FilterChain{Name: blocked, Filters: []*listenerv3.Filter{refuseBytes(through)}}
	m.FilterChainMatcher = plan.matcher()
}

// tcpOf is the filter that lets everything through, with what other policies say of it.
func tcpOf(m *listenerv3.Listener) *tcpproxyv3.TcpProxy {
	out := new(tcpproxyv3.TcpProxy)
	for _, chain := range m.FilterChains {
		for _, f := range chain.Filters {
			if f.GetTypedConfig().MessageIs(out) && f.GetTypedConfig().UnmarshalTo(out) == nil {
				return out
			}
		}
	}
	return out
}

// familyOf says whether a listener is for IPv6.
func familyOf(m *listenerv3.Listener) (v6 bool) {
	a, err := netip.ParseAddr(m.GetAddress().GetSocketAddress().GetAddress())
	return err == nil && a.Is6()
}

// A rule leads connections to a chain.
type rule struct {
	chain string
	match Match
	hosts bool // the chain of all HTTP domains of a port, by Host header
}

// A plan is the rules of a listener, in the order in which they are tried. What any of them lets through is let through: so ranges
// of addresses come first, which do not ask for names.
type plan struct {
	rules  []rule
	silent []uint32 // ports at which servers speak first
}

func planOf(c Conf, v6 bool) plan {
	var out plan
	if c.mode() != Matched {
		return out
	}
	ports := map[uint32]bool{}
	for _, m := range c.AppendMatch {
		p, ranged := m.prefix()
		if ranged && p.Addr().Is6() != v6 {
			continue
		}
		if m.protocol() == MySQL && !slices.Contains(out.silent, m.port()) {
			out.silent = append(out.silent, m.port())
		}
		if m.Type == Domain && m.isHTTP() {
			ports[m.port()] = true
			continue
		}
		out.rules = append(out.rules, rule{chain: m.name(), match: m})
	}
	for port := range ports {
		out.rules = append(out.rules, rule{chain: hostsName(port), match: Match{Type: Domain, Value: "*", Port: &port, Protocol: HTTP}, hosts: true})
	}
	slices.Sort(out.silent)
	slices.SortFunc(out.rules, func(a, b rule) int { return cmp.Or(compare(a, b), strings.Compare(a.chain, b.chain)) })
	out.rules = slices.CompactFunc(out.rules, func(a, b rule) bool { return a.chain == b.chain })
	return out
}

// compare puts what is more specific first.
func compare(a, b rule) int {
	rank := func(r rule) []int {
		out := []int{0, 0, 0, 0, 0}
		p, ranged := r.match.prefix()
		switch {
		case ranged:
			out[1] = -p.Bits()
		case r.hosts:
			out[0] = 2
		default:
			out[0] = 1
			out[1] = -strings.Count(r.match.Value, ".")
			if r.match.wildcard() {
				out[2] = 1
			}
		}
		if r.match.port() == 0 {
			out[3] = 1
		}
		out[4] = slices.Index([]string{TLS, HTTP, HTTP2, GRPC, TCP, MySQL}, r.match.protocol())
		return out
	}
	return slices.Compare(rank(a), rank(b))
}

// inspectors find out what the bytes of a client are. They wait for these, and so must not where servers speak first.
func (p plan) inspectors() []*listenerv3.ListenerFilter {
	var off *listenerv3.ListenerFilterChainMatchPredicate
	var ports []*listenerv3.ListenerFilterChainMatchPredicate
	for _, port := range p.silent {
		ports = append(ports, &listenerv3.ListenerFilterChainMatchPredicate{
			Rule: &listenerv3.ListenerFilterChainMatchPredicate_DestinationPortRange{DestinationPortRange: portRange(port)},
		})
	}
	switch len(ports) {
	case 0:
	case 1:
		off = ports[0]
	default:
		off = &listenerv3.ListenerFilterChainMatchPredicate{Rule: &listenerv3.ListenerFilterChainMatchPredicate_OrMatch{
			OrMatch: &listenerv3.ListenerFilterChainMatchPredicate_MatchSet{Rules: ports},
		}}
	}
	inspector := func(name string, config proto.Message) *listenerv3.ListenerFilter {
		return &listenerv3.ListenerFilter{
			Name: name, FilterDisabled: off, ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: policy.Pack(config)},
		}
	}
	return []*listenerv3.ListenerFilter{
		inspector("envoy.filters.listener.tls_inspector", &tlsinspectorv3.TlsInspector{}),
		inspector("envoy.filters.listener.http_inspector", &httpinspectorv3.HttpInspector{}),
	}
}

// filter is what a chain does: pass bytes on, or requests.
func (r rule) filter(through *tcpproxyv3.TcpProxy) *listenerv3.Filter {
	switch {
	case r.hosts:
		h := manager(r.chain, through)
		h.RouteSpecifier = &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: r.chain, ConfigSource: policy.OverADS()}}
		return httpFilter(h)
	case r.match.isHTTP():
		h := manager(r.chain, through)
		h.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
			Name: r.chain, ValidateClusters: wrapperspb.Bool(false), VirtualHosts: []*routev3.VirtualHost{host(r.match.name(), r.match.name(), "*")},
		}}
		return httpFilter(h)
	}
	return tcpFilter(through, r.chain)
}

func tcpFilter(through *tcpproxyv3.TcpProxy, name string) *listenerv3.Filter {
	t := proto.CloneOf(through)
	t.StatPrefix = name
	t.ClusterSpecifier = &tcpproxyv3.TcpProxy_Cluster{Cluster: name}
	return networkFilter("envoy.filters.network.tcp_proxy", t)
}

// manager takes requests without meddling with them. It logs as the filter that lets everything through does.
func manager(name string, through *tcpproxyv3.TcpProxy) *hcmv3.HttpConnectionManager {
	return &hcmv3.HttpConnectionManager{
		StatPrefix: name, CodecType: hcmv3.HttpConnectionManager_AUTO,
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{IdleTimeout: durationpb.New(0)},
		InternalAddressConfig:     &hcmv3.HttpConnectionManager_InternalAddressConfig{UnixSockets: true},
		AccessLog:                 clones(through.AccessLog),
		StreamIdleTimeout:         durationpb.New(0),
		UpgradeConfigs:            []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		HttpFilters: []*hcmv3.HttpFilter{{
			Name: "envoy.filters.http.router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: policy.Pack(&routerv3.Router{})},
		}},
	}
}

func clones(list []*accesslogv3.AccessLog) []*accesslogv3.AccessLog {
	var out []*accesslogv3.AccessLog
	for _, l := range list {
		out = append(out, proto.CloneOf(l))
	}
	return out
}

// refuseHTTP answers requests that nothing lets through.
func refuseHTTP(through *tcpproxyv3.TcpProxy) *listenerv3.Filter {
	h := manager(blockedHTTP, through)
	h.AccessLog = append(h.AccessLog, eventLog("%REQ(:METHOD)% %REQ(:AUTHORITY)% at %DOWNSTREAM_LOCAL_ADDRESS%"))
	h.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
		Name: blockedHTTP, VirtualHosts: []*routev3.VirtualHost{refusingHost()},
	}}
	return httpFilter(h)
}

// refuseBytes ends connections that nothing lets through. A cluster without endpoints does, and lets it be counted and logged.
func refuseBytes(through *tcpproxyv3.TcpProxy) *listenerv3.Filter {
	t := proto.CloneOf(through)
	t.StatPrefix = blocked
	t.ClusterSpecifier = &tcpproxyv3.TcpProxy_Cluster{Cluster: blocked}
	t.AccessLog = append(t.AccessLog, eventLog("a connection to %DOWNSTREAM_LOCAL_ADDRESS% %REQUESTED_SERVER_NAME%"))
	return networkFilter("envoy.filters.network.tcp_proxy", t)
}

// eventLog writes a line to the log of the proxy.
func eventLog(what string) *accesslogv3.AccessLog {
	return &accesslogv3.AccessLog{
		Name: "envoy.access_loggers.stderr",
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: policy.Pack(&streamv3.StderrAccessLog{
			AccessLogFormat: &streamv3.StderrAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{
				Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
					Specifier: &corev3.DataSource_InlineString{InlineString: "[%START_TIME%] no MeshPassthrough lets through: " + what + "\n"},
				}},
			}},
		})},
	}
}

func httpFilter(h *hcmv3.HttpConnectionManager) *listenerv3.Filter {
	return networkFilter("envoy.filters.network.http_connection_manager", h)
}

func networkFilter(name string, m proto.Message) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: policy.Pack(m)}}
}

// host leads requests to some domains to a cluster. How long they take is for client and server to agree on.
func host(name, cluster string, domains ...string) *routev3.VirtualHost {
	return &routev3.VirtualHost{Name: name, Domains: domains, Routes: []*routev3.Route{{
		Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}, Timeout: durationpb.New(0),
		}},
	}}}
}

func refusingHost() *routev3.VirtualHost {
	return &routev3.VirtualHost{Name: "no_match", Domains: []string{"*"}, Routes: []*routev3.Route{{
		Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{
			Status: 503, Body: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: refusal}},
		}},
	}}}
}

// additions are the clusters of matches, and the routes of HTTP domains, so that one more costs a cluster and a route update.
func additions(c Conf, self proxy.Self) []policy.Addition {
	if !self.Transparent || c.mode() == All {
		return nil
	}
	out := []policy.Addition{{Cluster: &clusterv3.Cluster{
		Name: blocked, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}, ConnectTimeout: durationpb.New(connectTimeout),
	}}}
	if c.mode() == None {
		return out
	}
	matches := slices.Clone(c.AppendMatch)
	slices.SortStableFunc(matches, func(a, b Match) int { return strings.Compare(a.name(), b.name()) })
	matches = slices.CompactFunc(matches, func(a, b Match) bool { return a.name() == b.name() })
	ports := map[uint32]bool{}
	for _, m := range matches {
		out = append(out, policy.Addition{Cluster: clusterOf(m)})
		if m.Type == Domain && m.isHTTP() {
			ports[m.port()] = true
		}
	}
	for port := range ports {
		out = append(out, policy.Addition{Routes: routesAt(port, matches)})
	}
	slices.SortStableFunc(out, func(a, b policy.Addition) int { return strings.Compare(a.Routes.GetName(), b.Routes.GetName()) })
	return out
}

// clusterOf is wherever the client wanted to go.
func clusterOf(m Match) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name:                 m.name(),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST},
		LbPolicy:             clusterv3.Cluster_CLUSTER_PROVIDED,
		ConnectTimeout:       durationpb.New(connectTimeout),
	}
	if m.isHTTP() { // the server is spoken to as the client speaks
		options := policy.Pack(&httpv3.HttpProtocolOptions{UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_UseDownstreamProtocolConfig{
			UseDownstreamProtocolConfig: &httpv3.HttpProtocolOptions_UseDownstreamHttpConfig{
				HttpProtocolOptions: &corev3.Http1ProtocolOptions{}, Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
			},
		}})
		c.TypedExtensionProtocolOptions = map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}
	}
	return c
}

// routesAt are the routes of all HTTP domains at a port, those without a port at every one. The first of equal domains counts.
func routesAt(port uint32, matches []Match) *routev3.RouteConfiguration {
	rc := &routev3.RouteConfiguration{Name: hostsName(port), ValidateClusters: wrapperspb.Bool(false)}
	taken := map[string]bool{}
	for _, exact := range []bool{true, false} { // those of the port itself come first
		for _, m := range matches {
			if m.Type != Domain || !m.isHTTP() || exact != (m.port() == port) || !exact && m.port() != 0 {
				continue
			}
			name := strings.ToLower(m.Value)
			if taken[name] {
				continue
			}
			taken[name] = true
			domains := []string{name}
			switch {
			case name == "*":
			case port != 0:
				domains = append(domains, name+":"+portText(port))
			default:
				domains = append(domains, name+":*")
			}
			rc.VirtualHosts = append(rc.VirtualHosts, host(name, m.name(), domains...))
		}
	}
	if !taken["*"] {
		rc.VirtualHosts = append(rc.VirtualHosts, refusingHost())
	}
	return rc
}
