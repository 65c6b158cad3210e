package envoy

import (
	"bytes"
	"crypto/sha256"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policies/tls"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// An egressKey is what alike egresses have in common: all but the address.
type egressKey struct {
	Mesh, Listener string
	// To, Rules and Proxy are the policies that concern what goes on, what comes in and the whole proxy, as canonical JSON of type and set.
	To, Rules, Proxy string
	// Labels holds the labels of the proxies that their policies ask for, as canonical JSON.
	Labels string
	Self   proxy.Self
}

// An egressServiceKey is one external service at alike egresses.
type egressServiceKey struct {
	Egress egressKey
	To     view.Destination
}

// An egressChainKey is the chain of an egress for one external service.
type egressChainKey struct {
	Name    string
	To      proxy.Destination
	SNI     string
	TLS     confs
	HTTP    confs
	TCP     confs
	Logs    logging
	Labels  string
	Filters string // as of an inbound
	Places  string // as of an inbound
}

// An egressHalf is an egress without its address: the pieces of its listener, a chain each, and what they need.
type egressHalf struct {
	frags    []*Fragment
	chains   [][]byte
	refs     []Ref
	origins  []resource.KRI
	problems []Problem
}

func sameEgress(a, b egressHalf) bool {
	return slices.EqualFunc(a.frags, b.frags, func(x, y *Fragment) bool {
		return x == y || x.Type == y.Type && x.Name == y.Name && x.Version == y.Version && slices.Equal(x.Origins, y.Origins)
	}) && slices.EqualFunc(a.chains, b.chains, bytes.Equal) && slices.Equal(a.refs, b.refs) && slices.Equal(a.origins, b.origins) &&
		slices.EqualFunc(a.problems, b.problems, sameProblem)
}

func (h *egressHalf) add(b built) {
	if b.problem != nil {
		h.problems = append(h.problems, *b.problem)
	}
	if b.frag != nil {
		h.frags = append(h.frags, b.frag)
	}
}

// egress adds a listener that takes mesh TLS for external services, and all that it needs.
func (c *Compiler) egress(r *memo.Reader, dp resource.Key, self proxy.Self, i int, l mesh.Listener, selected []view.Selected, out *collector) {
	name := zoneListenerName(l)
	if !self.Identity {
		out.add(built{problem: &Problem{Ref: Ref{Listener, name}, Text: "an egress takes nothing without an identity; select its Dataplane with a MeshIdentity"}})
		return
	}
	half := c.egresses.Get(r, egressKey{
		Mesh: dp.Mesh, Listener: name, Self: self, Labels: c.class.Get(r, dp).Labels, To: encodeSets(selected, outboundSet), Proxy: encodeSets(selected, proxySet),
		Rules: encodeSets(selected, func(s view.Selected) view.Set { return s.Listeners[i].Policies }),
	})
	for _, f := range half.frags {
		out.add(built{frag: f})
	}
	out.problems = append(out.problems, half.problems...)
	if len(half.chains) > 0 { // Envoy takes no listener without chains
		out.add(half.at(name, l))
	}
}

// at joins the pieces of the listener with its address.
func (h egressHalf) at(name string, l mesh.Listener) built {
	own, err := Marshal(&listenerv3.Listener{
		Name: name, TrafficDirection: corev3.TrafficDirection_INBOUND,
		Address: socket(l.Address, l.Port), EnableReusePort: wrapperspb.Bool(false),
		ListenerFilters: []*listenerv3.ListenerFilter{{
			Name: "envoy.filters.listener.tls_inspector", ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: tlsInspector},
		}},
	})
	if err != nil {
		return built{problem: &Problem{Ref: Ref{Listener, name}, Text: err.Error()}}
	}
	f := Join(Listener, name, append([][]byte{own}, h.chains...))
	f.Refs, f.Origins = h.refs, h.origins
	return built{frag: f}
}

// buildEgress joins the external services of a mesh. That one comes or goes is no work for the others.
func (c *Compiler) buildEgress(r *memo.Reader, k egressKey) egressHalf {
	var out egressHalf
	for _, d := range c.view.Destinations(r, k.Mesh) {
		if d.Type != mesh.TypeMeshExternalService {
			continue
		}
		s := c.egressServices.Get(r, egressServiceKey{k, d})
		out.frags, out.problems = append(out.frags, s.frags...), append(out.problems, s.problems...)
		out.chains, out.refs = append(out.chains, s.chains...), append(out.refs, s.refs...)
		out.origins = append(out.origins, s.origins...)
	}
	slices.SortFunc(out.origins, resource.KRI.Compare)
	out.origins = slices.Compact(out.origins)
	return out
}

// buildEgressService makes the chain, routes, filters and cluster of one external service. To policies it is offered as an inbound
// listener that takes one server name only, and as a cluster with that destination.
func (c *Compiler) buildEgressService(r *memo.Reader, k egressServiceKey) egressHalf {
	var out egressHalf
	d := k.To
	sni, err := d.KRI.SNI()
	if err != nil {
		out.add(built{problem: &Problem{Ref: Ref{Cluster, d.KRI.String()}, Text: "it cannot be reached through an egress: " + err.Error()}})
		return out
	}
	name := k.Egress.Listener + "_" + d.KRI.String()
	clients, upstream := c.atEgress(r, k, sni)
	everyone := func(typ string) policy.Effective {
		list := clients(typ)
		return list[len(list)-1].Effective
	}
	out.add(c.egressClusters.Get(r, egressClusterKey{name, d.Key.Service, d.Destination, c.confsFor(policy.HookCluster, upstream)}))

	for _, b := range c.additions.Get(r, additionKey{k.Egress.Self, c.ownConfs(policy.HookResources, everyone)}) {
		out.add(b)
	}

	key := egressChainKey{Name: name, To: d.Destination, SNI: sni, TLS: c.confFor(tls.Policy.Resource().Name, everyone)}
	key.Logs = loggingOf(c.confsFor(policy.HookLogs, everyone))
	ek := extensionKey{Listener: name, Protocol: d.Protocol, MTLS: true, Network: c.confsFor(policy.HookNetworkFilters, everyone), To: d.Destination, SNI: sni}
	if d.Protocol.IsHTTP() {
		ek.HTTP = c.confsFor(policy.HookHTTPFilters, everyone)
		key.HTTP = c.confsFor(policy.HookHTTP, everyone)
		byClient := c.clientFilters.Get(r, clientFiltersKey{name, d.Protocol, d.Destination, sni, encode(c.typedClients(clients, true))})
		for _, p := range byClient.problems {
			out.add(built{problem: &p})
		}
		key.Places = encode(byClient.places)
		out.add(c.inboundRoutes.Get(r, inboundRouteKey{name, d.Protocol, encode(c.clientConfs(clients, true)), true, byClient.contents}))
	} else {
		key.TCP = c.confsFor(policy.HookTCP, everyone)
	}
	key.Labels = c.clientLabels(joinConfs(key.HTTP, key.TCP), k.Egress.Labels)
	ext := c.extensions.Get(r, ek)
	key.Filters = encode(ext.refs)
	for _, f := range ext.frags {
		out.add(built{frag: f})
	}
	out.add(built{problem: ext.problem})

	chain := c.egressChains.Get(r, key)
	out.add(built{problem: chain.problem})
	if chain.frag != nil {
		out.chains, out.refs, out.origins = [][]byte{chain.bytes}, chain.frag.Refs, chain.frag.Origins
	}
	return out
}

// atEgress is what is in force at an egress for one external service: by client for what it takes in, and for what it sends on.
// Policies that know no received traffic are asked what they say of sent traffic.
func (c *Compiler) atEgress(r *memo.Reader, k egressServiceKey, sni string) (clients func(typ string) []view.Client, upstream func(typ string) policy.Effective) {
	d, in := k.To, k.Egress.Mesh
	to, rules, proxyWide := decodeSets(k.Egress.To), decodeSets(k.Egress.Rules), c.proxyWide(r, in, k.Egress.Proxy)
	clients = func(typ string) []view.Client {
		if e, ok := proxyWide(typ); ok {
			return []view.Client{{Effective: e}}
		}
		if !c.hasRules(typ) {
			return []view.Client{{Effective: c.view.Linked(r, typ, in, c.view.Outbound(r, typ, in, to[typ], d.Key, d.Protocol, resource.KRI{}))}}
		}
		out := slices.Clone(c.view.EgressInbound(r, typ, in, rules[typ], d.Protocol, sni))
		for i := range out {
			out[i].Effective = c.view.Linked(r, typ, in, out[i].Effective)
		}
		return out
	}
	upstream = func(typ string) policy.Effective {
		if e, ok := proxyWide(typ); ok {
			return e
		}
		return c.view.Linked(r, typ, in, c.view.EgressUpstream(r, typ, in, to[typ], rules[typ], d.Key, d.Protocol, sni))
	}
	return clients, upstream
}

func (c *Compiler) hasRules(typ string) bool {
	for _, p := range c.view.Policies() {
		if res := p.Resource(); res.Name == typ {
			return res.Policy.HasRules
		}
	}
	return false
}

// buildEgressChain is a listener with nothing but the chain, to be joined with others.
func (c *Compiler) buildEgressChain(_ *memo.Reader, k egressChainKey) *halfListener {
	var filters []filterRef
	decode(k.Filters, &filters)
	var places []string
	decode(k.Places, &places)
	return c.half(k.Name, joinConfs(k.TLS, k.HTTP, k.TCP, k.Logs.confs()), func(cs []conf) (*listenerv3.Listener, []Ref, error) {
		refs := []Ref{{Cluster, k.Name}}
		if k.To.Protocol.IsHTTP() {
			refs = append(refs, Ref{Route, k.Name})
		}
		for _, f := range filters {
			if f.Dynamic {
				refs = append(refs, Ref{Extension, f.Name})
			}
		}
		l := proxy.Listener{Direction: proxy.Inbound, Name: k.Name, Protocol: k.To.Protocol, Destination: k.To, MTLS: true, SNI: k.SNI}
		decode(k.Labels, &l.Labels)
		chain, err := c.chain(l, cs, filters, places)
		if err != nil {
			return nil, nil, err
		}
		chain.Name = k.Name
		chain.FilterChainMatch = &listenerv3.FilterChainMatch{TransportProtocol: "tls", ServerNames: []string{k.SNI}}
		chain.TransportSocket, err = downstreamTLS(tlsSettings(cs).Parameters(), k.To.Protocol.IsHTTP())
		if err != nil {
			return nil, nil, err
		}
		m := &listenerv3.Listener{FilterChains: []*listenerv3.FilterChain{chain}}
		return m, refs, c.addLogs(m, k.Logs, cs, l)
	})
}

// Join makes a fragment of pieces of one message, which may be shared.
func Join(t Type, name string, pieces [][]byte) *Fragment {
	h := sha256.New()
	for _, p := range pieces {
		sum := sha256.Sum256(p)
		h.Write(sum[:])
	}
	return freeze(t, name, [sha256.Size]byte(h.Sum(nil)), pieces...)
}
