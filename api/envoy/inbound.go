package envoy

import (
	"fmt"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	commonstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/set_filter_state/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policies/tls"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// inboundKey is what the listeners of alike inbounds have in common: replicas of a workload share all but the address.
type inboundKey struct {
	Name      string
	Protocol  mesh.Protocol
	TLS       confs // MeshTLS; only with an identity
	Identity  bool
	HTTP, TCP confs
	Filters   string // what policies such as MeshTrafficPermission add to chains of mesh TLS, as canonical JSON of filterRefs
	Plain     string // the same of plaintext chains
	Places    string // filters that depend on the client, as canonical JSON of their names
	Logs      logging
	// Labels holds the labels of the proxies that their policies ask for, as canonical JSON.
	Labels string
}

type inboundRouteKey struct {
	Name     string
	Protocol mesh.Protocol
	// Clients holds what is in force per client match, as canonical JSON.
	Clients string
	Egress  bool
	// Filters stand in the places of filters that depend on the client.
	Filters confs
}

type workloadKey struct {
	Name     string
	Protocol mesh.Protocol
	Address  string
	Port     uint32
	// Source is the address that the proxy connects from, empty when it does not matter.
	Source string
	Confs  confs
}

type extensionKey struct {
	Listener string
	Protocol mesh.Protocol
	MTLS     bool // the chain is one of mesh TLS
	HTTP     confs
	Network  confs
	// To and SNI are those of a chain of an egress.
	To  proxy.Destination
	SNI string
}

// A clientConf is what is in force for requests of some clients.
type clientConf struct {
	Match policy.Match `json:"m"`
	Confs confs        `json:"c"`
}

// An extensionSet is the filters that policies add to a listener, and the fragments of those that travel by ECDS.
type extensionSet struct {
	refs    []filterRef
	frags   []*Fragment
	problem *Problem
}

// A filterRef is how a listener carries a filter. It holds nothing of the configuration of a dynamic one,
// so that an edit leaves the listener untouched.
type filterRef struct {
	Name    string `json:"n"`
	TypeURL string `json:"t"`
	Dynamic bool   `json:"d"`
	Network bool   `json:"w,omitempty"` // it takes connections, not requests
	Config  []byte `json:"c,omitempty"` // of a filter that does not travel by ECDS
	// Generation changes with the configuration of a filter that judges connections: Envoy judges an open one only once,
	// so a new denial must drain the chain.
	Generation string `json:"g,omitempty"`
}

func sameExtensions(a, b extensionSet) bool {
	return encode(a.refs) == encode(b.refs) && (a.problem == nil) == (b.problem == nil) && (a.problem == nil || sameProblem(*a.problem, *b.problem)) &&
		slices.EqualFunc(a.frags, b.frags, func(x, y *Fragment) bool {
			return x.Version == y.Version && slices.Equal(x.Origins, y.Origins)
		})
}

// compileOwn builds what belongs to one proxy alone: its inbounds, the listeners of its zone, and its own outbound listeners.
func (c *Compiler) compileOwn(r *memo.Reader, k resource.Key) Compiled {
	res, _ := c.view.Resource(r, k)
	dp, ok := res.Spec.(*mesh.Dataplane)
	if !ok {
		return Compiled{Part: NewPart(nil)}
	}
	var out collector
	self := proxy.Self{Identity: c.view.IdentityOf(r, k).SPIFFEID != "", Transparent: dp.Transparent()}
	selected, labels := c.view.Selected(r, k), c.class.Get(r, k).Labels
	for i, in := range dp.ExposedInbounds() {
		c.inbound(r, dp, in, self, labels, c.received(r, k.Mesh, i, in.ProtocolOrTCP(), selected), &out)
	}
	for i, l := range dp.Networking.Listeners {
		switch l.Type {
		case mesh.ZoneIngress:
			everyone := c.receivedByListener(r, k.Mesh, i, selected)
			out.add(c.ingressListener(k.Mesh, l, loggingOf(c.confsFor(policy.HookLogs, everyone))))
			out.addAll(c.additions.Get(r, additionKey{self, c.ownConfs(policy.HookResources, everyone)}))
		case mesh.ZoneEgress:
			c.egress(r, k, self, i, l, selected, &out)
		}
	}
	if dp.Transparent() {
		c.captureInbound(r, k, dp, self.Identity, selected, &out)
		c.directAccess(r, k, dp, &out)
	} else {
		c.ownOutbounds(r, k, &dp.Networking, &out)
	}
	c.patch(r, k.Mesh, c.patchingOf(r, k, selected), res.Labels, true, &out)
	return out.compiled()
}

// received is what is in force for the i-th inbound of a proxy: per policy type, by client.
func (c *Compiler) received(r *memo.Reader, meshName string, i int, protocol mesh.Protocol, selected []view.Selected) func(typ string) []view.Client {
	return c.receivedAt(r, meshName, protocol, selected, func(s view.Selected) view.Set { return s.Inbound[i].Policies })
}

// receivedAt is the same for what the policies of a set say.
func (c *Compiler) receivedAt(r *memo.Reader, meshName string, protocol mesh.Protocol, selected []view.Selected, setOf func(view.Selected) view.Set) func(typ string) []view.Client {
	proxyWide := c.proxyWide(r, meshName, encodeSets(selected, proxySet))
	return func(typ string) []view.Client {
		if e, ok := proxyWide(typ); ok {
			return []view.Client{{Effective: e}}
		}
		var set view.Set
		for _, s := range selected {
			if s.Type == typ {
				set = setOf(s)
			}
		}
		out := slices.Clone(c.view.Inbound(r, typ, meshName, set, protocol))
		for i := range out {
			out[i].Effective = c.view.Linked(r, typ, meshName, out[i].Effective)
		}
		return out
	}
}

// receivedByListener is what is in force for everybody at the i-th listener that a proxy has for its zone.
func (c *Compiler) receivedByListener(r *memo.Reader, meshName string, i int, selected []view.Selected) func(typ string) policy.Effective {
	clients := c.receivedAt(r, meshName, mesh.TCP, selected, func(s view.Selected) view.Set { return s.Listeners[i].Policies })
	return func(typ string) policy.Effective {
		list := clients(typ)
		return list[len(list)-1].Effective
	}
}

// inboundName is what Envoy calls what belongs to an inbound.
func inboundName(in mesh.Inbound) string { return "self_inbound_dp_" + in.SectionName() }

// zoneListenerName is the same for a listener that a proxy has for its zone.
func zoneListenerName(l mesh.Listener) string {
	if l.Type == mesh.ZoneEgress {
		return "self_zoneegress_dp_" + l.SectionName()
	}
	return "self_zoneingress_dp_" + l.SectionName()
}

func (c *Compiler) inbound(r *memo.Reader, dp *mesh.Dataplane, in mesh.Inbound, self proxy.Self, labels string, clients func(typ string) []view.Client, out *collector) {
	name := inboundName(in)
	protocol := in.ProtocolOrTCP()
	everyone := func(typ string) policy.Effective {
		list := clients(typ)
		return list[len(list)-1].Effective
	}
	n := &dp.Networking
	out.add(c.workloads.Get(r, workloadKey{
		Name: name, Protocol: protocol, Address: n.WorkloadAddress(in), Port: in.ServicePortOrPort(),
		Source: sourceTo(dp, n.WorkloadAddress(in)), Confs: c.confsFor(policy.HookCluster, everyone),
	}))

	out.addAll(c.additions.Get(r, additionKey{self, c.ownConfs(policy.HookResources, everyone)}))
	key := inboundKey{Name: name, Protocol: protocol, Identity: self.Identity, Logs: loggingOf(c.confsFor(policy.HookLogs, everyone))}
	filters := func(mtls bool) string {
		k := extensionKey{Listener: name, Protocol: protocol, MTLS: mtls, Network: c.confsFor(policy.HookNetworkFilters, everyone)}
		if protocol.IsHTTP() {
			k.HTTP = c.confsFor(policy.HookHTTPFilters, everyone)
		}
		ext := c.extensions.Get(r, k)
		for _, f := range ext.frags {
			out.add(built{frag: f})
		}
		out.add(built{problem: ext.problem})
		return encode(ext.refs)
	}
	if self.Identity {
		key.TLS = c.confFor(tls.Policy.Resource().Name, everyone)
		key.Filters = filters(true)
	}
	if !self.Identity || tlsSettings(key.TLS.list()).ModeOrStrict() == tls.Permissive {
		key.Plain = filters(false)
	}
	if protocol.IsHTTP() {
		key.HTTP = c.confsFor(policy.HookHTTP, everyone)
		byClient := c.clientFilters.Get(r, clientFiltersKey{Listener: name, Protocol: protocol, Clients: encode(c.typedClients(clients, self.Identity))})
		for _, p := range byClient.problems {
			out.add(built{problem: &p})
		}
		key.Places = encode(byClient.places)
		out.add(c.inboundRoutes.Get(r, inboundRouteKey{name, protocol, encode(c.clientConfs(clients, self.Identity)), false, byClient.contents}))
	} else {
		key.TCP = c.confsFor(policy.HookTCP, everyone)
	}
	key.Labels = c.clientLabels(joinConfs(key.HTTP, key.TCP), labels)
	out.listen(c.inbounds.Get(r, key), place{n.InboundAddress(in), in.Port, !dp.Transparent()})
}

// confFor is the whole effective configuration of one policy type.
func (c *Compiler) confFor(typ string, effective func(string) policy.Effective) confs {
	e := effective(typ)
	if e.Conf == "" {
		return ""
	}
	return confs(encode([]conf{{typ, e.Conf, e.Policies()}}))
}

// clientConfs joins what the policies say per client: for each distinct match of any policy, most specific first,
// every policy contributes what it has in force for such clients.
func (c *Compiler) clientConfs(clients func(string) []view.Client, identity bool) []clientConf {
	matches := []policy.Match{{}}
	for _, p := range c.view.Policies() {
		if !p.MatchesInRules() || !identity {
			continue
		}
		if _, ok := p.Fields(policy.HookRoute); !ok {
			continue
		}
		for _, cl := range clients(p.Resource().Name) {
			// A server name alone says nothing about clients of a sidecar.
			if cl.Match.SpiffeID != nil && !slices.ContainsFunc(matches, func(m policy.Match) bool { return policy.CompareMatches(m, cl.Match) == 0 }) {
				matches = append(matches, cl.Match)
			}
		}
	}
	slices.SortStableFunc(matches, policy.CompareMatches)
	var out []clientConf
	for _, m := range matches {
		out = append(out, clientConf{m, c.confsFor(policy.HookRoute, func(typ string) policy.Effective {
			for _, cl := range clients(typ) {
				if cl.Match.Subsumes(m) {
					return cl.Effective // most specific first, so the first that holds
				}
			}
			return policy.Effective{}
		})})
	}
	return out
}

// buildWorkload is the cluster of the workload behind an inbound.
func (c *Compiler) buildWorkload(_ *memo.Reader, k workloadKey) built {
	return c.buildFragment(Cluster, k.Name, k.Confs, nil, func(cs []conf) (proto.Message, error) {
		m := &clusterv3.Cluster{
			Name:                 k.Name,
			ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
			LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: k.Name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
				LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
					Endpoint: &endpointv3.Endpoint{Address: socket(k.Address, k.Port)},
				}}},
			}}},
		}
		if k.Source != "" {
			m.UpstreamBindConfig = boundTo(k.Source)
		}
		if k.Protocol.IsHTTP() {
			setHTTP(m, k.Protocol.IsHTTP2())
		}
		pc := proxy.Cluster{Direction: proxy.Inbound, Name: k.Name, Protocol: k.Protocol}
		err := c.apply(cs, func(_ string, b policy.Bound) { b.Cluster(pc, m) })
		trackRemaining(m)
		return m, err
	})
}

// peerURI and peerName are the facts about a client that routes match on, noted when its TLS handshake ends.
const (
	peerURI  = "causeway.peer.uri"
	peerName = "causeway.peer.sni"
)

func (c *Compiler) buildInboundRoutes(_ *memo.Reader, k inboundRouteKey) built {
	var clients []clientConf
	decode(k.Clients, &clients)
	var all confs
	for _, cl := range clients {
		all = joinConfs(all, cl.Confs)
	}
	all = joinConfs(all, k.Filters)
	return c.buildFragment(Route, k.Name, all, routeRefs, func(kept []conf) (proto.Message, error) {
		vh := &routev3.VirtualHost{Name: k.Name, Domains: []string{"*"}, TypedPerFilterConfig: fill(keep(k.Filters.list(), kept))}
		for i, cl := range clients {
			name := "default"
			if !cl.Match.IsZero() {
				name = fmt.Sprintf("client_%d", i)
			}
			ro := forward(name, k.Name)
			ro.Match.FilterState = peerMatchers(cl.Match)
			if k.Egress {
				ro.GetRoute().HostRewriteSpecifier = &routev3.RouteAction_AutoHostRewrite{AutoHostRewrite: wrapperspb.Bool(true)}
			}
			pr := proxy.Route{Direction: proxy.Inbound, Name: name, Protocol: k.Protocol, Egress: k.Egress}
			if err := c.apply(keep(cl.Confs.list(), kept), func(_ string, b policy.Bound) { b.Route(pr, ro) }); err != nil {
				return nil, err
			}
			vh.Routes = append(vh.Routes, ro)
		}
		return routeConfiguration(k.Name, vh), nil
	})
}

// keep drops the policy types that were left out.
func keep(list, kept []conf) []conf {
	return slices.DeleteFunc(list, func(c conf) bool {
		return !slices.ContainsFunc(kept, func(o conf) bool { return o.Type == c.Type })
	})
}

func peerMatchers(m policy.Match) []*matcherv3.FilterStateMatcher {
	var out []*matcherv3.FilterStateMatcher
	add := func(key string, s *matcherv3.StringMatcher) {
		out = append(out, &matcherv3.FilterStateMatcher{Key: key, Matcher: &matcherv3.FilterStateMatcher_StringMatch{StringMatch: s}})
	}
	if id := m.SpiffeID; id != nil {
		s := &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: id.Value}}
		if id.Type == policy.MatchPrefix {
			s.MatchPattern = &matcherv3.StringMatcher_Prefix{Prefix: id.Value}
		}
		add(peerURI, s)
	}
	if m.SNI != nil {
		add(peerName, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: m.SNI.Value}})
	}
	return out
}

// buildExtensions makes the filters that policies add to a listener. Those that change often travel by ECDS:
// the listener then only names them, and an edit drains no connection.
func (c *Compiler) buildExtensions(_ *memo.Reader, k extensionKey) extensionSet {
	l := proxy.Listener{Direction: proxy.Inbound, Name: k.Listener, Protocol: k.Protocol, Destination: k.To, MTLS: k.MTLS, SNI: k.SNI}
	var out extensionSet
	add := func(cs confs, network bool) {
		for _, co := range cs.list() {
			var filters []policy.Filter
			err := c.apply([]conf{co}, func(_ string, b policy.Bound) {
				if network {
					filters = b.NetworkFilters(l)
				} else {
					filters = b.HTTPFilters(l)
				}
			})
			for _, f := range filters {
				if err == nil {
					err = out.add(k.Listener, f, network, co.Policies)
				}
			}
			if err != nil {
				out.problem = &Problem{Ref{Extension, k.Listener}, err.Error(), co.Policies}
			}
		}
	}
	add(k.HTTP, false)
	add(k.Network, true)
	return out
}

func (s *extensionSet) add(listener string, f policy.Filter, network bool, origins []resource.KRI) error {
	a, err := pack(f.Config)
	if err != nil {
		return err
	}
	ref := filterRef{Name: listener + "_" + f.Name, TypeURL: a.TypeUrl, Dynamic: f.Dynamic, Network: network}
	if !f.Dynamic {
		ref.Config = a.Value
		s.refs = append(s.refs, ref)
		return nil
	}
	frag, err := NewFragment(Extension, ref.Name, &corev3.TypedExtensionConfig{Name: ref.Name, TypedConfig: a})
	if err != nil {
		return err
	}
	frag.Origins = origins
	if f.Renews {
		ref.Generation = frag.Version
	}
	s.refs, s.frags = append(s.refs, ref), append(s.frags, frag)
	return nil
}

// buildInbound is the listener of an inbound without its address.
func (c *Compiler) buildInbound(_ *memo.Reader, k inboundKey) *halfListener {
	var filters, plainFilters []filterRef
	decode(k.Filters, &filters)
	decode(k.Plain, &plainFilters)
	return c.half(k.Name, joinConfs(k.TLS, k.HTTP, k.TCP, k.Logs.confs()), func(cs []conf) (*listenerv3.Listener, []Ref, error) {
		m := &listenerv3.Listener{Name: k.Name, TrafficDirection: corev3.TrafficDirection_INBOUND}
		refs := []Ref{{Cluster, k.Name}}
		if k.Protocol.IsHTTP() {
			refs = append(refs, Ref{Route, k.Name})
		}
		for _, f := range slices.Concat(filters, plainFilters) {
			if ref := (Ref{Extension, f.Name}); f.Dynamic && !slices.Contains(refs, ref) {
				refs = append(refs, ref)
			}
		}
		if !k.Identity {
			plain, err := c.inboundChain(k, cs, false, plainFilters)
			if err != nil {
				return nil, nil, err
			}
			m.FilterChains = []*listenerv3.FilterChain{plain}
			return m, refs, c.addLogs(m, k.Logs, cs, proxy.Listener{Direction: proxy.Inbound, Name: k.Name, Protocol: k.Protocol})
		}
		settings := tlsSettings(cs)
		secured, err := c.inboundChain(k, cs, true, filters)
		if err != nil {
			return nil, nil, err
		}
		if secured.TransportSocket, err = downstreamTLS(settings.Parameters(), k.Protocol.IsHTTP()); err != nil {
			return nil, nil, err
		}
		// Always there, so that server names can be matched and a change of mode edits chains only.
		m.ListenerFilters = []*listenerv3.ListenerFilter{{
			Name: "envoy.filters.listener.tls_inspector", ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: tlsInspector},
		}}
		// A client of a protocol in which the server speaks first sends nothing to inspect; it is plaintext, not broken.
		m.ContinueOnListenerFiltersTimeout = true
		m.FilterChains = []*listenerv3.FilterChain{secured}
		if settings.ModeOrStrict() == tls.Permissive {
			if err := c.permit(m, k, cs, plainFilters); err != nil {
				return nil, nil, err
			}
		}
		return m, refs, c.addLogs(m, k.Logs, cs, proxy.Listener{Direction: proxy.Inbound, Name: k.Name, Protocol: k.Protocol})
	})
}

func tlsSettings(cs []conf) tls.Conf {
	var out tls.Conf
	for _, co := range cs {
		if co.Type == tls.Policy.Resource().Name {
			decode(co.Conf, &out)
		}
	}
	return out
}

var tlsInspector = mustPack(&tlsinspectorv3.TlsInspector{})

// permit adds the chains of a permissive listener: plaintext, and TLS that is the workload's own affair.
func (c *Compiler) permit(m *listenerv3.Listener, k inboundKey, cs []conf, filters []filterRef) error {
	m.FilterChains[0].Name = "mesh_tls"
	m.FilterChains[0].FilterChainMatch = &listenerv3.FilterChainMatch{TransportProtocol: "tls", ApplicationProtocols: []string{alpn}}
	through, err := c.tcpFilterOf(proxy.Listener{Direction: proxy.Inbound, Name: k.Name, Protocol: mesh.TCP}, k.Name, nil)
	if err != nil {
		return err
	}
	plain, err := c.inboundChain(k, cs, false, filters)
	if err != nil {
		return err
	}
	plain.Name = "plaintext"
	plain.FilterChainMatch = &listenerv3.FilterChainMatch{TransportProtocol: "raw_buffer"}
	m.FilterChains = append(m.FilterChains,
		&listenerv3.FilterChain{Name: "workload_tls", FilterChainMatch: &listenerv3.FilterChainMatch{TransportProtocol: "tls"}, Filters: []*listenerv3.Filter{through}},
		plain)
	return nil
}

// inboundChain is a chain towards the workload.
func (c *Compiler) inboundChain(k inboundKey, cs []conf, mtls bool, filters []filterRef) (*listenerv3.FilterChain, error) {
	var names []string
	decode(k.Places, &names)
	l := proxy.Listener{Direction: proxy.Inbound, Name: k.Name, Protocol: k.Protocol, MTLS: mtls}
	decode(k.Labels, &l.Labels)
	return c.chain(l, cs, filters, names)
}

// chain leads to the cluster that is called as the listener. Facts about the client only exist where the peer is known.
// Places are those of filters that depend on the client.
func (c *Compiler) chain(l proxy.Listener, cs []conf, filters []filterRef, places []string) (*listenerv3.FilterChain, error) {
	chain := &listenerv3.FilterChain{}
	var requests []filterRef
	for _, f := range filters {
		if !f.Network {
			requests = append(requests, f)
			continue
		}
		nf := &listenerv3.Filter{Name: f.Name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: f.any()}}
		if f.Dynamic {
			nf.ConfigType = &listenerv3.Filter_ConfigDiscovery{ConfigDiscovery: f.discovery()}
		}
		if f.Generation != "" {
			chain.Metadata = generation(chain.Metadata, f)
		}
		chain.Filters = append(chain.Filters, nf)
	}
	if l.Protocol.IsHTTP() {
		return chain, c.inboundHTTP(chain, l, cs, requests, places)
	}
	tcp, err := c.tcpFilterOf(l, l.Name, cs)
	chain.Filters = append(chain.Filters, tcp)
	return chain, err
}

func (c *Compiler) inboundHTTP(chain *listenerv3.FilterChain, l proxy.Listener, cs []conf, filters []filterRef, places []string) error {
	if l.MTLS {
		note, err := notePeer()
		if err != nil {
			return err
		}
		chain.Filters = append(chain.Filters, note)
	}
	var more []*hcmv3.HttpFilter
	for _, f := range filters {
		hf := httpFilter(f.Name, f.any())
		if f.Dynamic {
			hf.ConfigType = &hcmv3.HttpFilter_ConfigDiscovery{ConfigDiscovery: f.discovery()}
		}
		more = append(more, hf)
	}
	more = append(more, placeholders(places)...)
	http, err := c.httpFilterOf(l, l.Name, cs, more, func(m *hcmv3.HttpConnectionManager) {
		if l.MTLS && !l.Egress() { // who is outside of the mesh is not told who is inside
			m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE_SET
			m.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{Uri: true}
		}
	})
	chain.Filters = append(chain.Filters, http)
	return err
}

func (f filterRef) any() *anypb.Any { return &anypb.Any{TypeUrl: f.TypeURL, Value: f.Config} }

func (f filterRef) discovery() *corev3.ExtensionConfigSource {
	return &corev3.ExtensionConfigSource{ConfigSource: overADS(), TypeUrls: []string{f.TypeURL}}
}

// generation notes the generation of a filter in the metadata of its chain.
func generation(m *corev3.Metadata, f filterRef) *corev3.Metadata {
	if m == nil {
		m = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"causeway": {Fields: map[string]*structpb.Value{}}}}
	}
	m.FilterMetadata["causeway"].Fields[f.Name] = structpb.NewStringValue(f.Generation)
	return m
}

// notePeer keeps what the handshake said about the client where routes can match it.
func notePeer() (*listenerv3.Filter, error) {
	value := func(key, format string) *commonstatev3.FilterStateValue {
		return &commonstatev3.FilterStateValue{
			Key:        &commonstatev3.FilterStateValue_ObjectKey{ObjectKey: key},
			FactoryKey: "envoy.string",
			Value:      &commonstatev3.FilterStateValue_FormatString{FormatString: plainText(format)},
		}
	}
	return networkFilter("envoy.filters.network.set_filter_state", &setstatev3.Config{
		OnDownstreamTlsHandshake: []*commonstatev3.FilterStateValue{
			value(peerURI, "%DOWNSTREAM_PEER_URI_SAN%"), value(peerName, "%REQUESTED_SERVER_NAME%"),
		},
	})
}

func plainText(format string) *corev3.SubstitutionFormatString {
	return &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
		Specifier: &corev3.DataSource_InlineString{InlineString: format},
	}}}
}
