package envoy

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// An outbound is one destination that a class of proxies can send to.
type outbound struct {
	view.Destination
	// Listed outbounds are reachable by clients; the others are only backends of routes.
	Listed bool
	TLS    bool
}

type clusterKey struct {
	Key   view.DestinationKey
	To    proxy.Destination
	TLS   bool
	Confs confs
}

type assignmentKey struct {
	Key view.DestinationKey
	To  proxy.Destination
	// TLS says that the client uses mesh TLS; without it nothing of other zones is reached.
	TLS bool
	// Confs is what policies say of where traffic goes, Client the labels of the client that they ask for, as canonical JSON.
	Confs  confs
	Client string
}

type routeKey struct {
	Key view.DestinationKey
	To  proxy.Destination
	// Routing is what decides the routes (MeshHTTPRoute), Confs what is said per route: by identifier, "" for the default.
	Routing confs
	Confs   string
}

type outboundKey struct {
	Name string
	To   proxy.Destination
	HTTP confs
	TCP  confs
	// Split says that connections are divided among clusters, by a filter that travels apart.
	Split bool
	Logs  logging
	// Labels holds the labels of the proxies that their policies ask for, as canonical JSON.
	Labels string
}

// effectiveFor is what the policies of a class put in force for a destination.
func (c *Compiler) effectiveFor(r *memo.Reader, cl Class, d view.Destination, route resource.KRI) func(string) policy.Effective {
	sets, proxyWide := decodeSets(cl.Outbound), c.proxyWide(r, cl.Mesh, cl.Proxy)
	return func(typ string) policy.Effective {
		if e, ok := proxyWide(typ); ok {
			return e
		}
		return c.view.Linked(r, typ, cl.Mesh, c.view.Outbound(r, typ, cl.Mesh, sets[typ], d.Key, d.Protocol, route))
	}
}

func (c *Compiler) computeOutbounds(r *memo.Reader, cl Class) []outbound {
	refs := view.DecodeReachable(cl.Reachable)
	var out []outbound
	listed := map[view.DestinationKey]bool{}
	for _, d := range c.view.Destinations(r, cl.Mesh) {
		if c.view.Reaches(r, refs, d) {
			out = append(out, c.outbound(r, cl, d, true))
			listed[d.Key] = true
		}
	}
	for _, o := range slices.Clone(out) {
		for _, d := range c.backends(r, cl, o.Destination) {
			if !listed[d.Key] {
				listed[d.Key] = true
				out = append(out, c.outbound(r, cl, d, false))
			}
		}
	}
	return out
}

func (c *Compiler) outbound(r *memo.Reader, cl Class, d view.Destination, listed bool) outbound {
	// What is behind an ingress or an egress is never spoken to in plaintext; until it is ready it has no endpoints.
	return outbound{d, listed, cl.Identity && (d.Type == mesh.TypeMeshExternalService || c.view.Elsewhere(r, d.Key.Service) || c.view.TLSReady(r, d.Key.Service))}
}

// backends lists the destinations that traffic to a destination is led to.
func (c *Compiler) backends(r *memo.Reader, cl Class, d view.Destination) []view.Destination {
	var out []view.Destination
	resolve := func(ref policy.BackendRef) (string, bool) {
		backend, ok := c.view.Backend(r, cl.Mesh, ref)
		if ok {
			out = append(out, backend)
		}
		return backend.KRI.String(), ok
	}
	to := c.routingOf(r, cl, d)
	_ = c.apply(to.requests.list(), func(_ string, b policy.Bound) { b.Routes(d.Destination, resolve) })
	_ = c.apply(to.connections.list(), func(_ string, b policy.Bound) { b.Split(d.Destination, resolve) })
	return out
}

// compileShared joins what all proxies of a class have in common.
func (c *Compiler) compileShared(r *memo.Reader, k sharedKey) Compiled {
	var out collector
	cl := k.Class
	for _, o := range c.destinationsOf.Get(r, cl) {
		for _, b := range c.destination.Get(r, destinationKey{cl, o}) {
			out.add(b)
		}
	}
	if cl.Transparent {
		for _, l := range c.halves.Get(r, cl) {
			out.listen(l.half, place{l.vip, l.port, false})
		}
		c.captureOutbound(r, cl, &out)
	}
	if k.Block != "" {
		for _, l := range c.blocks.Get(r, blockKey(k)) {
			out.add(l.built)
		}
	}
	if cl.Ingress {
		c.compileIngress(r, cl.Mesh, &out)
	}
	out.addAll(c.additions.Get(r, additionKey{cl.self(), c.wideConfs(policy.HookResources, c.proxyWide(r, cl.Mesh, cl.Proxy))}))
	c.patch(r, cl.Mesh, c.patching(cl.Proxy, cl.Envoy), nil, false, &out)
	return out.compiled()
}

// A sharedKey names proxies that get the same for all that they send.
type sharedKey struct {
	Class Class
	// Block is the loopback block on which they bind their outbounds; empty when they have none, or listeners of their own in it.
	Block string
}

// sharedBy says with which proxies a dataplane shares what it sends. A destination that comes or goes is then no work per proxy.
func (c *Compiler) sharedBy(r *memo.Reader, k resource.Key) sharedKey {
	out := sharedKey{Class: c.class.Get(r, k)}
	res, _ := c.view.Resource(r, k)
	if dp, ok := res.Spec.(*mesh.Dataplane); ok && !dp.Transparent() && len(dp.Networking.Outbound) == 0 {
		out.Block = dp.Networking.OutboundBlock
	}
	return out
}

// A destinationKey names what a class of proxies gets for one destination.
type destinationKey struct {
	Class Class
	To    outbound
}

// buildDestination makes the cluster, endpoints and routes of one destination, so that a change of one is no work for the others.
func (c *Compiler) buildDestination(r *memo.Reader, k destinationKey) []built {
	o := k.To
	effective := c.effectiveFor(r, k.Class, o.Destination, resource.KRI{})
	out := []built{
		c.clusters.Get(r, clusterKey{o.Key, o.Destination.Destination, o.TLS, c.confsFor(policy.HookCluster, effective)}),
		c.assignments.Get(r, c.assignmentKeyOf(r, k.Class, o, effective)),
	}
	if o.Listed {
		switch connections := c.routingOf(r, k.Class, o.Destination).connections; {
		case connections != "":
			out = append(out, c.splits.Get(r, splitKey{o.Key, o.Destination.Destination, c.confsFor(policy.HookTCP, effective), connections}))
		case o.Protocol.IsHTTP():
			out = append(out, c.routes.Get(r, c.routeKeyOf(r, k.Class, o.Destination)))
		}
	}
	if o.Listed {
		out = append(out, c.additions.Get(r, additionKey{k.Class.self(), c.ownConfs(policy.HookResources, effective)})...)
	}
	if o.Listed && c.logsAnything(k.Class) {
		for _, kri := range c.confsFor(policy.HookRoutes, effective).origins() {
			more := c.ownConfs(policy.HookResources, c.effectiveFor(r, k.Class, o.Destination, kri))
			out = append(out, c.additions.Get(r, additionKey{k.Class.self(), more})...)
		}
	}
	return out
}

// A listening is a listener of a class that lacks the address.
type listening struct {
	half *halfListener
	vip  string
	port uint32
}

func sameListening(a, b listening) bool {
	return a.vip == b.vip && a.port == b.port && sameHalf(a.half, b.half)
}

// buildHalves makes the listeners of all destinations once per class; own addresses are put to them per proxy.
func (c *Compiler) buildHalves(r *memo.Reader, cl Class) []listening {
	var out []listening
	for _, o := range c.destinationsOf.Get(r, cl) {
		if !o.Listed {
			continue
		}
		for i, vip := range c.view.StatusOf(r, o.Key.Service).VIPs {
			half := c.outbounds.Get(r, c.outboundKeyOf(r, cl, o.Destination, listenerName(o.KRI, i)))
			out = append(out, listening{half, vip, o.Port})
		}
	}
	return out
}

func listenerName(kri resource.KRI, i int) string {
	if i == 0 {
		return kri.String()
	}
	return fmt.Sprintf("%s_%d", kri, i)
}

func (c *Compiler) outboundKeyOf(r *memo.Reader, cl Class, d view.Destination, name string) outboundKey {
	effective := c.effectiveFor(r, cl, d, resource.KRI{})
	k := outboundKey{Name: name, To: d.Destination, Logs: c.loggingTo(r, cl, d)}
	if c.routingOf(r, cl, d).connections != "" {
		k.Split = true
		return k
	}
	if d.Protocol.IsHTTP() {
		k.HTTP = c.confsFor(policy.HookHTTP, effective)
	} else {
		k.TCP = c.confsFor(policy.HookTCP, effective)
	}
	k.Labels = c.clientLabels(joinConfs(k.HTTP, k.TCP), cl.Labels)
	return k
}

func (c *Compiler) routeKeyOf(r *memo.Reader, cl Class, d view.Destination) routeKey {
	effective := c.effectiveFor(r, cl, d, resource.KRI{})
	k := routeKey{Key: d.Key, To: d.Destination, Routing: c.routingOf(r, cl, d).requests}
	perRoute := map[string]confs{"": c.confsFor(policy.HookRoute, effective)}
	for _, kri := range k.Routing.origins() {
		perRoute[kri.String()] = c.confsFor(policy.HookRoute, c.effectiveFor(r, cl, d, kri))
	}
	k.Confs = encode(perRoute)
	return k
}

func (c *Compiler) buildCluster(r *memo.Reader, k clusterKey) built {
	name := k.To.KRI.String()
	identities := []string(nil)
	if k.TLS {
		identities = c.view.ServiceIdentities(r, k.Key.Service)
	}
	return c.buildFragment(Cluster, name, k.Confs, clusterRefs, func(cs []conf) (proto.Message, error) {
		m := &clusterv3.Cluster{
			Name:                 name,
			ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
			EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: overADS()},
			CommonLbConfig: &clusterv3.Cluster_CommonLbConfig{
				// A zone that loses most of its endpoints must spill over, not spread over the dead.
				HealthyPanicThreshold: percent(0),
			},
		}
		if k.To.Protocol.IsHTTP() {
			setHTTP(m, true) // between proxies HTTP/2 is spoken, whatever the workloads speak
		}
		if k.TLS {
			ts, err := upstreamTLS(k.To.KRI, k.To.Protocol.IsHTTP(), identities)
			if err != nil {
				return nil, err
			}
			m.TransportSocket = ts
		}
		pc := proxy.Cluster{Direction: proxy.Outbound, Name: name, Protocol: k.To.Protocol, Destination: k.To}
		err := c.apply(cs, func(_ string, b policy.Bound) { b.Cluster(pc, m) })
		trackRemaining(m)
		return m, err
	})
}

func clusterRefs(m proto.Message) []Ref {
	c, ok := m.(*clusterv3.Cluster)
	if ok && c.GetType() == clusterv3.Cluster_EDS {
		return []Ref{{Endpoint, c.Name}}
	}
	return nil
}

// trackRemaining lets the statistics show how close a cluster is to its limits.
func trackRemaining(m *clusterv3.Cluster) {
	if m.CircuitBreakers == nil {
		m.CircuitBreakers = &clusterv3.CircuitBreakers{}
	}
	if len(m.CircuitBreakers.Thresholds) == 0 {
		m.CircuitBreakers.Thresholds = []*clusterv3.CircuitBreakers_Thresholds{{}}
	}
	for _, t := range m.CircuitBreakers.Thresholds {
		t.TrackRemaining = true
	}
}

func (c *Compiler) buildRoutes(r *memo.Reader, k routeKey) built {
	name := k.To.KRI.String()
	var perRoute map[string]confs
	decode(k.Confs, &perRoute)
	// Only the routing policy can be left out alone; what is said per route comes and goes with its route.
	return c.buildFragment(Route, name, k.Routing, routeRefs, func(routing []conf) (proto.Message, error) {
		routes, err := c.routesOf(r, k, routing)
		if err != nil {
			return nil, err
		}
		vh := &routev3.VirtualHost{Name: name, Domains: []string{"*"}}
		for _, ro := range routes {
			key := ""
			if !ro.Policy.IsZero() {
				key = ro.Policy.WithSection("").String()
			}
			pr := proxy.Route{Direction: proxy.Outbound, Name: ro.Route.Name, Protocol: k.To.Protocol, Policy: ro.Policy}
			said, ok := perRoute[key]
			if !ok {
				said = perRoute[""]
			}
			if err := c.apply(said.list(), func(_ string, b policy.Bound) { b.Route(pr, ro.Route) }); err != nil {
				return nil, err
			}
			vh.Routes = append(vh.Routes, ro.Route)
		}
		return routeConfiguration(name, vh), nil
	})
}

func (c *Compiler) routesOf(r *memo.Reader, k routeKey, routing []conf) ([]policy.RouteOf, error) {
	var routes []policy.RouteOf
	err := c.apply(routing, func(_ string, b policy.Bound) {
		routes = append(routes, b.Routes(k.To, func(ref policy.BackendRef) (string, bool) {
			d, ok := c.view.Backend(r, k.Key.Service.Mesh, ref)
			return d.KRI.String(), ok
		})...)
	})
	if len(routes) == 0 {
		routes = []policy.RouteOf{{Route: forward("default", k.To.KRI.String())}}
	}
	return routes, err
}

// A halfListener is the part of a listener that many proxies share; the address is each proxy's own.
type halfListener struct {
	name    string
	frag    *Fragment // without the address; nil when there is none
	bytes   []byte
	hash    [sha256.Size]byte
	problem *Problem
}

func newHalf(f *Fragment, problem *Problem) *halfListener {
	body := f.Body()
	return &halfListener{name: f.Name, frag: f, bytes: body, hash: sha256.Sum256(body), problem: problem}
}

func sameHalf(a, b *halfListener) bool {
	return a == b || a.name == b.name && sameBuilt(built{a.frag, a.problem}, built{b.frag, b.problem})
}

// at gives the half its address. Listeners bind exclusively: with SO_REUSEPORT a second proxy of the same host would
// silently take a share of the connections under its own identity.
func (h *halfListener) at(p place) built {
	shell := &listenerv3.Listener{Address: socket(p.address, p.port), EnableReusePort: wrapperspb.Bool(false)}
	if !p.bind {
		shell.BindToPort = wrapperspb.Bool(false)
	}
	own, err := Marshal(shell)
	if err != nil {
		return built{problem: &Problem{Ref: Ref{Listener, h.name}, Text: err.Error()}}
	}
	f := Splice(Listener, h.name, h.bytes, h.hash, own)
	f.Refs, f.Origins, f.Base, f.Patches = h.frag.Refs, h.frag.Origins, h.frag.BaseOrVersion(), h.frag.Patches
	return built{frag: f}
}

// half builds the shared half of a listener.
func (c *Compiler) half(name string, cs confs, build func([]conf) (*listenerv3.Listener, []Ref, error)) *halfListener {
	var refs []Ref
	b := c.buildFragment(Listener, name, cs, func(proto.Message) []Ref { return refs }, func(list []conf) (proto.Message, error) {
		m, more, err := build(list)
		refs = more
		if err == nil && c.addsResources(list) {
			refs = append(refs, collectorRefs(m)...)
		}
		return m, err
	})
	if b.frag == nil {
		return &halfListener{name: name, problem: b.problem}
	}
	return newHalf(b.frag, b.problem)
}

func (c *Compiler) buildOutbound(_ *memo.Reader, k outboundKey) *halfListener {
	route := k.To.KRI.String()
	l := proxy.Listener{Direction: proxy.Outbound, Name: k.Name, Protocol: k.To.Protocol, Destination: k.To}
	decode(k.Labels, &l.Labels)
	return c.half(k.Name, joinConfs(k.HTTP, k.TCP, k.Logs.confs()), func(cs []conf) (*listenerv3.Listener, []Ref, error) {
		var filter *listenerv3.Filter
		var before []*listenerv3.Filter
		var err error
		refs := []Ref{{Cluster, route}}
		switch {
		case k.Split:
			refs = []Ref{{Extension, splitName(route)}}
			filter = splitFilter(route)
			before, err = splitPrologue(k.To.Protocol)
		case k.To.Protocol.IsHTTP():
			refs = []Ref{{Route, route}}
			filter, err = c.httpFilterOf(l, route, cs, nil, func(m *hcmv3.HttpConnectionManager) {
				m.NormalizePath = wrapperspb.Bool(true)
			})
		default:
			filter, err = c.tcpFilterOf(l, route, cs)
		}
		if err != nil {
			return nil, nil, err
		}
		m := &listenerv3.Listener{
			Name: k.Name, TrafficDirection: corev3.TrafficDirection_OUTBOUND,
			FilterChains: []*listenerv3.FilterChain{{Filters: append(before, filter)}},
		}
		return m, refs, c.addLogs(m, k.Logs, cs, l)
	})
}

func joinConfs(list ...confs) confs {
	var out []conf
	for _, cs := range list {
		out = append(out, cs.list()...)
	}
	if out == nil {
		return ""
	}
	return confs(encode(out))
}

// ownOutbounds builds the outbound listeners of a proxy whose Dataplane lists some: those, and one per destination
// on its loopback block where they leave room.
func (c *Compiler) ownOutbounds(r *memo.Reader, k resource.Key, n *mesh.Networking, out *collector) {
	if len(n.Outbound) == 0 {
		return
	}
	cl := c.class.Get(r, k)
	taken := map[netip.AddrPort]bool{}
	for _, o := range n.Outbound {
		d, ok := c.explicit(r, k.Mesh, o)
		if !ok {
			continue // shown as a problem when the destination exists nowhere
		}
		name := fmt.Sprintf("self_outbound_dp_%s_%d", o.AddressOrDefault(), o.Port)
		taken[addrPort(o.AddressOrDefault(), o.Port)] = true
		out.listen(c.outbounds.Get(r, c.outboundKeyOf(r, cl, d, name)), place{o.AddressOrDefault(), o.Port, true})
	}
	if n.OutboundBlock == "" {
		return
	}
	for _, l := range c.blocks.Get(r, blockKey{cl, n.OutboundBlock}) {
		if !taken[l.at] {
			out.add(l.built)
		}
	}
}

// A blockKey names the proxies of a class that bind their outbounds on equal loopback blocks: as hosts have a loopback each, most do.
type blockKey struct {
	Class Class
	Block string
}

// A bound is a listener with its address.
type bound struct {
	at    netip.AddrPort
	built built
}

func sameBounds(a, b []bound) bool {
	return slices.EqualFunc(a, b, func(a, b bound) bool { return a.at == b.at && sameBuilt(a.built, b.built) })
}

// buildBlock puts the listeners of all destinations on a block, once for all proxies that have the same.
func (c *Compiler) buildBlock(r *memo.Reader, k blockKey) []bound {
	block, err := netip.ParsePrefix(k.Block)
	if err != nil {
		return nil
	}
	var out []bound
	for _, l := range c.halves.Get(r, k.Class) {
		if address, ok := inBlock(block, l.vip); ok {
			b := built{problem: l.half.problem}
			if l.half.frag != nil {
				b = l.half.at(place{address, l.port, true})
				b.problem = l.half.problem
			}
			out = append(out, bound{addrPort(address, l.port), b})
		}
	}
	return out
}

func (c *Compiler) explicit(r *memo.Reader, meshName string, o mesh.Outbound) (view.Destination, bool) {
	if o.BackendRef == nil {
		return view.Destination{}, false
	}
	ref := policy.BackendRef{Kind: o.BackendRef.Kind, Labels: o.BackendRef.Labels}
	if o.BackendRef.Name != "" {
		ref.Labels = map[string]string{resource.LabelDisplayName: o.BackendRef.Name}
	}
	if o.BackendRef.Port != 0 {
		ref.Port = &o.BackendRef.Port
	}
	return c.view.Backend(r, meshName, ref)
}

func addrPort(address string, port uint32) netip.AddrPort {
	a, _ := netip.ParseAddr(address)
	return netip.AddrPortFrom(a, uint16(port))
}

// inBlock maps a virtual IP to the proxy's own block by its low 16 bits.
func inBlock(block netip.Prefix, vip string) (string, bool) {
	a, err := netip.ParseAddr(vip)
	if err != nil || !a.Is4() || block.Bits() != 16 {
		return "", false
	}
	b, low := block.Addr().As4(), a.As4()
	return netip.AddrFrom4([4]byte{b[0], b[1], low[2], low[3]}).String(), true
}
