package envoy

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policies/tls"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

const (
	// noDestination is where connections to ports end that are no inbound, when only inbounds may be reached.
	noDestination = "self_transparentproxy_no_destination_inbound"
	// noService is where connections to virtual addresses end whose port no service has.
	noService          = "self_transparentproxy_no_destination_outbound"
	passthroughConnect = 10 * time.Second
)

// A Capture is where the connections of a workload are redirected to, zero without transparent proxying.
type Capture struct {
	Outbound, Inbound uint32 // ports
	IPv4, IPv6        bool
}

func captureOf(tp *mesh.TransparentProxying) Capture {
	if tp == nil {
		return Capture{}
	}
	return Capture{
		Outbound: tp.RedirectPortOutbound, Inbound: tp.RedirectPortInbound,
		IPv4: tp.IPFamilyMode != "IPv6", IPv6: tp.IPFamilyMode != "IPv4",
	}
}

// An ipFamily is what differs between IPv4 and IPv6 where connections are redirected.
type ipFamily struct {
	name string
	any  string // the address that stands for all
	// source marks connections of the proxy to its own workload: with the workload's address as their source, they would be
	// redirected to the proxy again.
	source string
}

var (
	ipv4 = ipFamily{"ipv4", "0.0.0.0", "127.0.0.6"}
	ipv6 = ipFamily{"ipv6", "::", "::6"}
)

func (c Capture) families() []ipFamily {
	var out []ipFamily
	if c.IPv4 {
		out = append(out, ipv4)
	}
	if c.IPv6 {
		out = append(out, ipv6)
	}
	return out
}

// sourceTo is the address from which a proxy connects to its workload.
func sourceTo(dp *mesh.Dataplane, workload string) string {
	a, err := netip.ParseAddr(workload)
	switch {
	case !dp.Transparent() || err != nil || a.IsLoopback():
		return ""
	case a.Unmap().Is4():
		return ipv4.source
	}
	return ipv6.source
}

// A captureKey names the listener and cluster of redirected connections that no other listener takes.
type captureKey struct {
	Direction proxy.Direction
	Family    ipFamily
	Port      uint32
	// Closed inbounds let nothing through: what is not declared is not reached.
	Closed bool
	// TCP is what policies say of the connections, Passthrough what they make of the listener.
	TCP, Passthrough confs
	Logs             logging
}

func (k captureKey) name() string {
	return fmt.Sprintf("self_transparentproxy_passthrough_%s_%s", k.Direction, k.Family.name)
}

// captureOutbound adds where connections arrive that the workloads of a class make to destinations the mesh does not know.
func (c *Compiler) captureOutbound(r *memo.Reader, cl Class, out *collector) {
	effective := c.effectiveFor(r, cl, view.Destination{}, resource.KRI{})
	out.addAll(c.additions.Get(r, additionKey{cl.self(), c.ownConfs(policy.HookResources, effective)}))
	for _, f := range cl.Capture.families() {
		out.addAll(c.captures.Get(r, captureKey{
			Direction: proxy.Outbound, Family: f, Port: cl.Capture.Outbound,
			TCP: c.confsFor(policy.HookTCP, effective), Passthrough: c.confsFor(policy.HookPassthrough, effective),
			Logs: loggingOf(c.confsFor(policy.HookLogs, effective)),
		}))
	}
}

// captureInbound adds where connections to the workload arrive that are to none of its inbounds. With an identity they are
// only let through where plaintext is accepted for the whole proxy: otherwise every port would be a way around mesh TLS.
func (c *Compiler) captureInbound(r *memo.Reader, k resource.Key, dp *mesh.Dataplane, identity bool, selected []view.Selected, out *collector) {
	capture := captureOf(dp.Networking.TransparentProxying)
	closed := identity && c.modeOfProxy(r, k.Mesh, selected) != tls.Permissive
	for _, f := range capture.families() {
		out.addAll(c.captures.Get(r, captureKey{Direction: proxy.Inbound, Family: f, Port: capture.Inbound, Closed: closed}))
	}
}

// modeOfProxy is the mode of MeshTLS where no inbound is concerned.
func (c *Compiler) modeOfProxy(r *memo.Reader, meshName string, selected []view.Selected) string {
	var out tls.Conf
	typ := tls.Policy.Resource().Name
	for _, s := range selected {
		if s.Type == typ {
			list := c.view.Inbound(r, typ, meshName, s.Elsewhere, mesh.TCP)
			decode(list[len(list)-1].Effective.Conf, &out)
		}
	}
	return out.ModeOrStrict()
}

func (c *Compiler) buildCapture(_ *memo.Reader, k captureKey) []built {
	out := []built{c.buildCaptureListener(k)}
	if f := out[0].frag; f != nil && slices.Contains(f.Refs, Ref{Cluster, noService}) {
		out = append(out, c.buildNowhere(noService))
	}
	if f := out[0].frag; f != nil && !k.Closed && !slices.Contains(f.Refs, Ref{Cluster, k.name()}) {
		return out // policies let nothing through, or only what they name
	}
	if k.Closed {
		return append(out, c.buildNowhere(noDestination))
	}
	return append(out, c.buildFragment(Cluster, k.name(), "", nil, func([]conf) (proto.Message, error) {
		m := originalDestination(k.name())
		if k.Direction == proxy.Inbound {
			m.UpstreamBindConfig = boundTo(k.Family.source)
		}
		return m, nil
	}))
}

// buildNowhere is a cluster without endpoints: connections that are led there end.
func (c *Compiler) buildNowhere(name string) built {
	return c.buildFragment(Cluster, name, "", nil, func([]conf) (proto.Message, error) {
		return &clusterv3.Cluster{
			Name:                 name,
			ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
			ConnectTimeout:       durationpb.New(passthroughConnect),
		}, nil
	})
}

// originalDestination is the cluster of whatever its clients wanted to reach.
func originalDestination(name string) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST},
		LbPolicy:             clusterv3.Cluster_CLUSTER_PROVIDED,
		ConnectTimeout:       durationpb.New(passthroughConnect),
	}
}

func boundTo(source string) *corev3.BindConfig {
	return &corev3.BindConfig{SourceAddress: &corev3.SocketAddress{Address: source, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 0}}}
}

// buildCaptureListener is the one listener that binds the port to which connections are redirected. It hands each to the listener
// of its destination, which binds nothing, and deals itself with those that have none. A connection that was made to the port
// directly has no other destination, and ends: the proxy does not connect to itself.
func (c *Compiler) buildCaptureListener(k captureKey) built {
	name := k.name()
	l := proxy.Listener{Direction: k.Direction, Name: name, Protocol: mesh.TCP, Passthrough: true}
	return c.buildFragment(Listener, name, joinConfs(k.TCP, k.Passthrough, k.Logs.confs()), listenerRefs, func(cs []conf) (proto.Message, error) {
		cluster := name
		if k.Closed {
			cluster = noDestination
		}
		filter, err := c.tcpFilterOf(l, cluster, keep(k.TCP.list(), cs))
		if err != nil {
			return nil, err
		}
		m := &listenerv3.Listener{
			Name: name, TrafficDirection: corev3.TrafficDirection_OUTBOUND,
			Address: socket(k.Family.any, k.Port), EnableReusePort: wrapperspb.Bool(false),
			UseOriginalDst: wrapperspb.Bool(true),
			FilterChains:   []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{filter}}},
		}
		if k.Direction == proxy.Inbound {
			m.TrafficDirection = corev3.TrafficDirection_INBOUND
		}
		err = c.apply(keep(k.Passthrough.list(), cs), func(_ string, b policy.Bound) {
			if b.Passthrough != nil {
				b.Passthrough(l, m)
			}
		})
		if err != nil {
			return nil, err
		}
		if k.Direction == proxy.Outbound && k.Family == ipv4 && m.FilterChainMatcher == nil {
			filter, err := c.tcpFilterOf(l, noService, keep(k.TCP.list(), cs))
			if err != nil {
				return nil, err
			}
			m.FilterChains = append(m.FilterChains, &listenerv3.FilterChain{
				Name: noService, FilterChainMatch: &listenerv3.FilterChainMatch{PrefixRanges: virtualRanges()}, Filters: []*listenerv3.Filter{filter},
			})
		}
		return m, c.addLogs(m, k.Logs, cs, l)
	})
}

// virtualRanges are where nothing can be but services of the mesh. A connection that no listener of a service takes must not leave the
// host: it would go to whoever answers there.
func virtualRanges() []*corev3.CidrRange {
	var out []*corev3.CidrRange
	for _, p := range mesh.VirtualRanges {
		out = append(out, &corev3.CidrRange{AddressPrefix: p.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(p.Bits()))})
	}
	return out
}

// listenerRefs are the clusters and routes that the filters of a listener name.
func listenerRefs(m proto.Message) []Ref {
	l, ok := m.(*listenerv3.Listener)
	if !ok {
		return nil
	}
	var out []Ref
	seen := map[Ref]bool{}
	add := func(typ Type, name string) {
		if ref := (Ref{typ, name}); name != "" && !seen[ref] {
			seen[ref] = true
			out = append(out, ref)
		}
	}
	for _, ref := range collectorRefs(l) {
		add(ref.Type, ref.Name)
	}
	for _, chain := range chainsOf(l) {
		for _, f := range chain.Filters {
			if f.GetConfigDiscovery() != nil {
				add(Extension, f.Name)
			}
			var tcp tcpproxyv3.TcpProxy
			var http hcmv3.HttpConnectionManager
			switch a := f.GetTypedConfig(); {
			case a.UnmarshalTo(&tcp) == nil:
				add(Cluster, tcp.GetCluster())
				for _, w := range tcp.GetWeightedClusters().GetClusters() {
					add(Cluster, w.Name)
				}
			case a.UnmarshalTo(&http) == nil:
				add(Route, http.GetRds().GetRouteConfigName())
				for _, ref := range routeRefs(http.GetRouteConfig()) {
					add(ref.Type, ref.Name)
				}
				for _, x := range http.HttpFilters {
					if x.GetConfigDiscovery() != nil {
						add(Extension, x.Name)
					}
				}
			}
		}
	}
	return out
}

// chainsOf are all filter chains of a listener.
func chainsOf(l *listenerv3.Listener) []*listenerv3.FilterChain {
	if d := l.GetDefaultFilterChain(); d != nil {
		return append(slices.Clone(l.GetFilterChains()), d)
	}
	return l.GetFilterChains()
}
