package envoy

import (
	"slices"

	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// A Problem is configuration that could not be built as declared. The proxy gets the best that is valid instead.
type Problem struct {
	Ref  Ref
	Text string
	// Policies are those without which it would be valid; empty when no policy is to blame.
	Policies []resource.KRI
}

func sameProblem(a, b Problem) bool {
	return a.Ref == b.Ref && a.Text == b.Text && slices.Equal(a.Policies, b.Policies)
}

// A Compiled is a part with what went wrong while building it.
type Compiled struct {
	Part     *Part
	Problems []Problem
}

func sameCompiled(a, b Compiled) bool {
	return slices.EqualFunc(a.Problems, b.Problems, sameProblem) && samePart(a.Part, b.Part)
}

func samePart(a, b *Part) bool {
	for t := range NumTypes {
		if !slices.Equal(a.Of(t), b.Of(t)) {
			return false
		}
	}
	return true
}

// A ProxyConfig is what one proxy gets, before a sequence is put to it.
type ProxyConfig struct {
	Shared, Own *Part
	// Agent is what its agent is told.
	Agent    AgentMessages
	Problems []Problem
}

// A Class is the set of proxies that share a part: everything that their common configuration depends on, and nothing else.
type Class struct {
	Mesh string
	// Outbound holds the policies that concern what the proxies send, as canonical JSON of type and set.
	Outbound string
	// Proxy holds the policies that configure the proxies as a whole, likewise.
	Proxy string
	// Identity says that the proxies are issued one, so they can speak mesh TLS.
	Identity bool
	// Transparent proxies listen on the virtual IPs themselves; the others have listeners of their own.
	Transparent bool
	// Capture is where the connections of transparent proxies are redirected to.
	Capture Capture
	// Labels holds the labels of the proxies that their policies ask for, as canonical JSON.
	Labels string
	// Ingress proxies take traffic of other zones.
	Ingress bool
	// Reachable holds the destinations the proxies asked for as canonical JSON; empty means all.
	Reachable string
	// Envoy is the version that the proxies run, when they are patched and Envoys of that version have refused anything; else empty.
	Envoy string
}

// self is what policies that add resources know of the proxies.
func (cl Class) self() proxy.Self {
	return proxy.Self{Identity: cl.Identity, Transparent: cl.Transparent}
}

// A built is one fragment, or why there is none.
type built struct {
	frag    *Fragment
	problem *Problem
}

func sameBuilt(a, b built) bool {
	if (a.problem == nil) != (b.problem == nil) || a.problem != nil && !sameProblem(*a.problem, *b.problem) {
		return false
	}
	if a.frag == nil || b.frag == nil {
		return a.frag == b.frag
	}
	return a.frag.Version == b.frag.Version && slices.Equal(a.frag.Refs, b.frag.Refs) && slices.Equal(a.frag.Origins, b.frag.Origins)
}

// A Compiler answers what a proxy gets. It shares the graph of its view, and so its owner.
type Compiler struct {
	view *view.View

	clusters       *memo.Func[clusterKey, built]
	assignments    *memo.Func[assignmentKey, built]
	routes         *memo.Func[routeKey, built]
	splits         *memo.Func[splitKey, built]
	routings       *memo.Func[routingKey, routing]
	outbounds      *memo.Func[outboundKey, *halfListener]
	inbounds       *memo.Func[inboundKey, *halfListener]
	inboundRoutes  *memo.Func[inboundRouteKey, built]
	workloads      *memo.Func[workloadKey, built]
	extensions     *memo.Func[extensionKey, extensionSet]
	clientFilters  *memo.Func[clientFiltersKey, clientFilters]
	additions      *memo.Func[additionKey, []built]
	agents         *memo.Func[resource.Key, AgentMessages]
	class          *memo.Func[resource.Key, Class]
	shared         *memo.Func[sharedKey, Compiled]
	own            *memo.Func[resource.Key, Compiled]
	proxies        *memo.Func[resource.Key, ProxyConfig]
	destinationsOf *memo.Func[Class, []outbound]
	destination    *memo.Func[destinationKey, []built]
	halves         *memo.Func[Class, []listening]
	blocks         *memo.Func[blockKey, []bound]
	captures       *memo.Func[captureKey, []built]
	directs        *memo.Func[directKey, []direct]

	served             *memo.Func[string, []view.Destination]
	ingressClusters    *memo.Func[ingressKey, built]
	ingressAssignments *memo.Func[ingressKey, built]
	responders         *memo.Func[string, built]

	egresses       *memo.Func[egressKey, egressHalf]
	egressServices *memo.Func[egressServiceKey, egressHalf]
	egressChains   *memo.Func[egressChainKey, *halfListener]
	egressClusters *memo.Func[egressClusterKey, built]
	patchLists     *memo.Func[patchListKey, []patchDef]
	boundPatches   *memo.Func[patchConf, policy.Patch]
	parts          *memo.Func[*Fragment, parts]
	patchedFrags   *memo.Func[patchKey, patched]
}

// NewCompiler returns a compiler over a view.
func NewCompiler(v *view.View) *Compiler {
	c := &Compiler{view: v}
	g := v.Graph
	c.clusters = memo.NewFunc(g, "cluster", sameBuilt, c.buildCluster)
	c.assignments = memo.NewFunc(g, "assignment", sameBuilt, c.buildAssignment)
	c.routes = memo.NewFunc(g, "route", sameBuilt, c.buildRoutes)
	c.routings = memo.NewFunc(g, "routing", func(a, b routing) bool { return a == b }, c.buildRouting)
	c.splits = memo.NewFunc(g, "split", sameBuilt, c.buildSplit)
	c.outbounds = memo.NewFunc(g, "outboundListener", sameHalf, c.buildOutbound)
	c.inbounds = memo.NewFunc(g, "inboundListener", sameHalf, c.buildInbound)
	c.inboundRoutes = memo.NewFunc(g, "inboundRoute", sameBuilt, c.buildInboundRoutes)
	c.workloads = memo.NewFunc(g, "workload", sameBuilt, c.buildWorkload)
	c.extensions = memo.NewFunc(g, "extension", sameExtensions, c.buildExtensions)
	c.additions = memo.NewFunc(g, "addition", func(a, b []built) bool { return slices.EqualFunc(a, b, sameBuilt) }, c.buildAdditions)
	c.clientFilters = memo.NewFunc(g, "clientFilters", sameClientFilters, c.buildClientFilters)
	c.agents = memo.NewFunc(g, "agent", func(a, b AgentMessages) bool { return a == b }, c.buildAgent)
	c.class = memo.NewFunc(g, "class", func(a, b Class) bool { return a == b }, c.classOf)
	c.destinationsOf = memo.NewFunc(g, "outbounds", slices.Equal[[]outbound], c.computeOutbounds)
	c.destination = memo.NewFunc(g, "destination", func(a, b []built) bool { return slices.EqualFunc(a, b, sameBuilt) }, c.buildDestination)
	c.halves = memo.NewFunc(g, "outboundListeners", func(a, b []listening) bool { return slices.EqualFunc(a, b, sameListening) }, c.buildHalves)
	c.blocks = memo.NewFunc(g, "blockListeners", sameBounds, c.buildBlock)
	c.directs = memo.NewFunc(g, "direct", sameDirects, c.buildDirects)
	c.captures = memo.NewFunc(g, "capture", func(a, b []built) bool { return slices.EqualFunc(a, b, sameBuilt) }, c.buildCapture)
	c.served = memo.NewFunc(g, "served", slices.Equal[[]view.Destination], c.serves)
	c.ingressClusters = memo.NewFunc(g, "ingressCluster", sameBuilt, c.buildIngressCluster)
	c.ingressAssignments = memo.NewFunc(g, "ingressAssignment", sameBuilt, c.buildIngressAssignment)
	c.responders = memo.NewFunc(g, "healthResponder", sameBuilt, c.buildResponder)
	c.egresses = memo.NewFunc(g, "egress", sameEgress, c.buildEgress)
	c.egressServices = memo.NewFunc(g, "egressService", sameEgress, c.buildEgressService)
	c.egressChains = memo.NewFunc(g, "egressChain", sameHalf, c.buildEgressChain)
	c.egressClusters = memo.NewFunc(g, "egressCluster", sameBuilt, c.buildEgressCluster)
	c.patchLists = memo.NewFunc(g, "patches", slices.Equal[[]patchDef], c.computePatches)
	c.boundPatches = memo.NewFunc(g, "boundPatch", nil, c.bindPatch)
	c.parts = memo.NewFunc(g, "parts", nil, c.computeParts)
	c.patchedFrags = memo.NewFunc(g, "patched", samePatched, c.buildPatched)
	c.shared = memo.NewFunc(g, "shared", sameCompiled, c.compileShared)
	c.own = memo.NewFunc(g, "own", sameCompiled, c.compileOwn)
	c.proxies = memo.NewFunc(g, "proxy", func(a, b ProxyConfig) bool {
		return a.Shared == b.Shared && a.Own == b.Own && a.Agent == b.Agent && len(a.Problems) == len(b.Problems)
	}, c.compileProxy)
	return c
}

// Proxy keeps the configuration of a dataplane up to date until the root is closed.
func (c *Compiler) Proxy(dp resource.Key) *memo.Root[ProxyConfig] { return c.proxies.Root(dp) }

// ClassOf is the class a dataplane belongs to at present.
func (c *Compiler) ClassOf(dp resource.Key) Class { return c.class.Get(c.view.Graph.Untracked(), dp) }

func (c *Compiler) compileProxy(r *memo.Reader, k resource.Key) ProxyConfig {
	if _, ok := c.view.Resource(r, k); !ok {
		return ProxyConfig{Shared: NewPart(nil), Own: NewPart(nil)}
	}
	s := c.shared.Get(r, c.sharedBy(r, k))
	o := c.own.Get(r, k)
	return apart(ProxyConfig{Shared: s.Part, Own: o.Part, Agent: c.agents.Get(r, k), Problems: slices.Concat(s.Problems, o.Problems)})
}

func (c *Compiler) classOf(r *memo.Reader, k resource.Key) Class {
	res, _ := c.view.Resource(r, k)
	dp, ok := res.Spec.(*mesh.Dataplane)
	if !ok {
		return Class{Mesh: k.Mesh}
	}
	ingress := dp.HasListener(mesh.ZoneIngress)
	selected := c.view.Selected(r, k)
	if onlyListens(dp) {
		return Class{
			Mesh: k.Mesh, Proxy: encodeSets(selected, proxySet), Ingress: ingress, Labels: c.labelsFor(r, res.Meta, selected), Reachable: view.EncodeReachable(&mesh.ReachableBackends{}),
			Envoy: c.patchingOf(r, k, selected).Envoy,
		}
	}
	cl := Class{
		Mesh:        k.Mesh,
		Outbound:    encodeSets(selected, outboundSet),
		Proxy:       encodeSets(selected, proxySet),
		Labels:      c.labelsFor(r, res.Meta, selected),
		Ingress:     ingress,
		Identity:    c.view.IdentityOf(r, k).SPIFFEID != "",
		Transparent: dp.Transparent(),
		Capture:     captureOf(dp.Networking.TransparentProxying),
		Envoy:       c.patchingOf(r, k, selected).Envoy,
	}
	if tp := dp.Networking.TransparentProxying; tp != nil {
		cl.Reachable = view.EncodeReachable(tp.ReachableBackends)
	}
	return cl
}

// onlyListens says that a proxy serves its zone and no workload, so that nothing is sent through it but what its listeners take in.
func onlyListens(dp *mesh.Dataplane) bool {
	n := dp.Networking
	return len(n.Listeners) > 0 && len(n.Inbound) == 0 && len(n.Outbound) == 0 && n.OutboundBlock == "" && !dp.Transparent()
}

// labelsFor picks the labels of a proxy that the policies that reach it ask for.
func (c *Compiler) labelsFor(r *memo.Reader, dp resource.Meta, selected []view.Selected) string {
	out := map[string]string{}
	pick := func(labels []string) {
		for _, label := range labels {
			if v, ok := dp.Labels[label]; ok {
				out[label] = v
			}
		}
	}
	for _, s := range selected {
		if s.Outbound != "" {
			pick(c.view.ClientLabels(r, s.Type, dp.Mesh, s.Outbound))
		}
		if s.Proxy != "" {
			pick(c.view.ProxyLabels(r, s.Type, dp.Mesh, s.Proxy))
		}
	}
	if len(out) == 0 {
		return ""
	}
	return encode(out)
}

// collector gathers fragments and problems of one part.
type collector struct {
	pieces   []piece
	problems []Problem
	seen     map[Ref]bool
}

// A piece is a fragment, or a listener that still lacks its address.
type piece struct {
	frag *Fragment
	half *halfListener
	at   place
}

// A place is the address of a listener.
type place struct {
	address string
	port    uint32
	bind    bool
}

func (p piece) ref() Ref {
	if p.half != nil {
		return Ref{Listener, p.half.name}
	}
	return Ref{p.frag.Type, p.frag.Name}
}

// base is the fragment that a piece is or is made of.
func (p piece) base() *Fragment {
	if p.half != nil {
		return p.half.frag
	}
	return p.frag
}

// whole is the fragment with its address.
func (p piece) whole() built {
	if p.half != nil {
		return p.half.at(p.at)
	}
	return built{frag: p.frag}
}

func (c *collector) add(b built) {
	if b.problem != nil && !slices.ContainsFunc(c.problems, func(p Problem) bool { return sameProblem(p, *b.problem) }) {
		c.problems = append(c.problems, *b.problem)
	}
	if b.frag == nil {
		return
	}
	c.collect(piece{frag: b.frag})
}

// listen collects a listener and its address.
func (c *collector) listen(half *halfListener, at place) {
	if half.problem != nil {
		c.problems = append(c.problems, *half.problem)
	}
	if half.frag != nil {
		c.collect(piece{half: half, at: at})
	}
}

// collect adds a piece, unless there is one of its name.
func (c *collector) collect(p piece) {
	ref := p.ref()
	if c.seen[ref] {
		return
	}
	if c.seen == nil {
		c.seen = map[Ref]bool{}
	}
	c.seen[ref] = true
	c.pieces = append(c.pieces, p)
}

func (c *collector) addAll(list []built) {
	for _, b := range list {
		c.add(b)
	}
}

func (c *collector) compiled() Compiled {
	frags := make([]*Fragment, 0, len(c.pieces))
	for _, p := range c.pieces {
		b := p.whole()
		if b.problem != nil {
			c.problems = append(c.problems, *b.problem)
		}
		if b.frag != nil {
			frags = append(frags, b.frag)
		}
	}
	return Compiled{NewPart(frags), c.problems}
}
