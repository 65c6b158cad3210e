package envoy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// everyService in a list of services stands for all of them.
const everyService = "*"

// A directKey names the endpoints that proxies of a class may address directly.
type directKey struct {
	Class    Class
	Services string // names, sorted, one a line
}

// A direct is the listener at one endpoint and the cluster behind it.
type direct struct {
	at                netip.AddrPort
	listener, cluster built
}

func sameDirects(a, b []direct) bool {
	return slices.EqualFunc(a, b, func(a, b direct) bool {
		return a.at == b.at && sameBuilt(a.listener, b.listener) && sameBuilt(a.cluster, b.cluster)
	})
}

// directAccess adds a listener for every endpoint that the workload may address directly, apart from its own: what programs send
// there would otherwise go out as it is, which a proxy that accepts mesh TLS only refuses.
func (c *Compiler) directAccess(r *memo.Reader, k resource.Key, dp *mesh.Dataplane, out *collector) {
	services := slices.Compact(slices.Sorted(slices.Values(dp.Networking.TransparentProxying.DirectAccessServices)))
	if len(services) == 0 {
		return
	}
	own := map[netip.AddrPort]bool{}
	for _, in := range dp.Networking.Inbound {
		own[addrPort(dp.Networking.InboundAddress(in), in.Port)] = true
	}
	for _, d := range c.directs.Get(r, directKey{c.class.Get(r, k), strings.Join(services, "\n")}) {
		if !own[d.at] {
			out.add(d.listener)
			out.add(d.cluster)
		}
	}
}

// buildDirects makes them once for all proxies that are alike. An endpoint of several services is that of the first.
func (c *Compiler) buildDirects(r *memo.Reader, k directKey) []direct {
	services := strings.Split(k.Services, "\n")
	var out []direct
	seen := map[netip.AddrPort]bool{}
	for _, d := range c.view.Destinations(r, k.Class.Mesh) {
		if d.Type != mesh.TypeMeshService || c.view.Elsewhere(r, d.Key.Service) {
			continue // endpoints of other zones are behind their ingresses
		}
		if !slices.Contains(services, everyService) && !slices.Contains(services, d.KRI.Name) {
			continue
		}
		o := c.outbound(r, k.Class, d, true)
		cluster := c.buildDirectCluster(r, o)
		for _, e := range c.view.Endpoints(r, d.Key, o.TLS) {
			at := addrPort(e.Address, e.Port)
			if !at.IsValid() || seen[at] {
				continue
			}
			seen[at] = true
			out = append(out, direct{at, c.buildDirectListener(r, k.Class, d, at), cluster})
		}
	}
	return out
}

func directCluster(d proxy.Destination) string { return "direct_access_" + d.KRI.String() }

// buildDirectCluster is the cluster of whichever endpoint of a service was addressed.
func (c *Compiler) buildDirectCluster(r *memo.Reader, o outbound) built {
	name := directCluster(o.Destination.Destination)
	var identities []string
	if o.TLS {
		identities = c.view.ServiceIdentities(r, o.Key.Service)
	}
	return c.buildFragment(Cluster, name, "", nil, func([]conf) (proto.Message, error) {
		m := originalDestination(name)
		if !o.TLS {
			return m, nil
		}
		// What the program speaks is passed on as it is, so only HTTP/2 may be negotiated for HTTP/2.
		ts, err := upstreamTLS(o.KRI, o.Protocol.IsHTTP2(), identities)
		m.TransportSocket = ts
		return m, err
	})
}

func (c *Compiler) buildDirectListener(r *memo.Reader, cl Class, d view.Destination, at netip.AddrPort) built {
	name := fmt.Sprintf("direct_access_%s", at)
	l := proxy.Listener{Direction: proxy.Outbound, Name: name, Protocol: mesh.TCP, Destination: d.Destination}
	tcp := c.confsFor(policy.HookTCP, c.effectiveFor(r, cl, d, resource.KRI{}))
	return c.buildFragment(Listener, name, tcp, listenerRefs, func(cs []conf) (proto.Message, error) {
		filter, err := c.tcpFilterOf(l, directCluster(d.Destination), cs)
		if err != nil {
			return nil, err
		}
		return &listenerv3.Listener{
			Name: name, TrafficDirection: corev3.TrafficDirection_OUTBOUND,
			Address: socket(at.Addr().String(), uint32(at.Port())), BindToPort: wrapperspb.Bool(false), EnableReusePort: wrapperspb.Bool(false),
			FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{filter}}},
		}, nil
	})
}
