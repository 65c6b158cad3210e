package policy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// A Kind is one policy: its names, what it may target, its rules and what it does to Envoy.
// C is the effective configuration that the hooks get; unless NewSpec is set it is also what users write in default.
type Kind[C any] struct {
	Name, Path, Short string
	Singular, Plural  string
	// ToKinds are the target kinds allowed in to; none means the policy has no to.
	ToKinds []string
	// Rules allows the inbound section; RuleMatches allows matches in it.
	Rules, RuleMatches bool
	// Proxy allows the proxy-wide default section. Hooks of such a policy get it for every element of the proxy;
	// what else it says in to or rules they do not see.
	Proxy bool
	// EachRule says that every rule that matches holds, whatever the others say: hooks get all of them together, with their matches.
	EachRule bool
	// ToAndRules allows both sections in one resource.
	ToAndRules bool
	// Restricts marks policies that limit access.
	Restricts bool
	// Raw marks policies that hold configuration of Envoy itself.
	Raw bool

	// Check reports what is wrong with one configuration at a path; where says in which section and with which matches it stands.
	Check func(at resource.Path, c C, where Where) resource.Problems
	// Warn says what is legal in one configuration but will not do what it looks like; nil means nothing to say.
	Warn func(at resource.Path, c C, where Where) []string

	// NewSpec returns an empty spec for kinds whose entries are not {targetRef, default}; nil means Spec[C].
	NewSpec func() any
	// CheckSpec validates such a spec beyond its targets; required with NewSpec.
	CheckSpec func(spec any) resource.Problems
	// WarnSpec is Warn for such a spec.
	WarnSpec func(spec any) []string

	// Labels lists the labels of the sending proxy that one configuration asks for; nil means none.
	Labels func(c C) []string

	// Base is the configuration in force where no policy says anything; nil means none.
	Base func(d proxy.Direction, p string) C
	// Merge combines configurations, the most specific last; nil means MergeFields.
	Merge func(in []Sourced) Merged
	// Link replaces references to other resources by what the hooks need to know of them, so that an edit of the referenced
	// is an edit of the effective configuration; nil means the configuration refers to nothing. A reference that finds nothing is left as it is.
	Link func(c *C, find Find)
	// Refs lists what the spec refers to, so that its status can say whether it exists; nil means that the kind has no status.
	Refs func(spec any) []Reference
	// ForServerName leaves out what concerns other server names, where only one comes; nil means that configurations name none.
	ForServerName func(c C, sni string) C
	Hooks         Hooks[C]
}

// Find returns the resource of a kind in the mesh that carries all labels, the oldest when several do.
type Find func(kind string, labels map[string]string) (Found, bool)

// A Reference names resources by kind and labels.
type Reference struct {
	Kind   string
	Labels map[string]string
}

// String shows a reference in messages.
func (r Reference) String() string { return r.Kind + " with " + resource.Selector(r.Labels).String() }

// Status is what is known of a policy that refers to other resources.
type Status struct {
	// Conditions say whether what it refers to exists.
	Conditions []mesh.Condition `json:"conditions,omitempty"`
}

// Found is a resource with the name under which it is known everywhere.
type Found struct {
	KRI      resource.KRI
	Resource resource.Resource
}

// Where says which part of a policy a configuration stands in.
type Where struct {
	Section string // to, rules or default
	Target  TargetRef
	Matches []Match
}

// Hooks are the points where a policy changes Envoy configuration. A nil Apply changes nothing.
// A hook sees only the fields it lists (dotted paths in the JSON of C; none means all),
// so an edit of other fields leaves what it makes untouched.
type Hooks[C any] struct {
	Cluster        Hook[func(C, proxy.Cluster, *clusterv3.Cluster)]
	Route          Hook[func(C, proxy.Route, *routev3.Route)]
	HTTP           Hook[func(C, proxy.Listener, *hcmv3.HttpConnectionManager)]
	TCP            Hook[func(C, proxy.Listener, *tcpproxyv3.TcpProxy)]
	HTTPFilters    Hook[func(C, proxy.Listener) []Filter]
	NetworkFilters Hook[func(C, proxy.Listener) []Filter]
	// ClientFilters are the HTTP filters that requests of some clients pass, in this order, on a listener that takes them for a workload.
	// They travel with routes, so that no edit drains anything, and there is one of each per match in rules: what it counts is counted for
	// all clients of that match together.
	ClientFilters Hook[func(C, proxy.Listener) []proto.Message]
	// Endpoints arranges where the traffic to a destination goes.
	Endpoints Hook[func(C, *proxy.Assignment)]
	// Logs are the access logs of a listener, or of a part of its traffic.
	Logs Hook[func(C, proxy.Listener) []*accesslogv3.AccessLog]
	// Passthrough edits a listener that takes redirected connections to destinations that the mesh does not know.
	Passthrough Hook[func(C, proxy.Listener, *listenerv3.Listener)]
	// Resources lists what a proxy needs beside its own elements, such as the cluster of a collector: for proxy-wide policies once,
	// for others with every destination and inbound they apply to. Of several with one name the proxy gets the first.
	Resources Hook[func(C, proxy.Self) []Addition]
	// Agent is what the agent of a proxy is told. It is asked for every proxy, also when no policy is in force there: then what was
	// told before is taken back.
	Agent Hook[func(C, proxy.Agent) *agentapi.ZoneMessage]
	// Routes replaces the default route of an outbound by the policy's own; resolve finds the cluster of a backend.
	Routes Hook[func(c C, d proxy.Destination, resolve Resolve) []RouteOf]
	// Split divides the connections to a destination among clusters; resolve finds the cluster of a backend.
	Split Hook[func(c C, d proxy.Destination, resolve Resolve) []Share]
	// Patches edits what has become of a proxy after all other policies. It gets the default of each policy by itself, unmerged.
	Patches Hook[func(C) []Patch]
}

// A Hook is a function and the fields it reads.
type Hook[F any] struct {
	Fields []string
	Apply  F
}

// A Filter is one HTTP or network filter that a policy adds. Dynamic filters travel by ECDS so that an edit drains nothing.
type Filter struct {
	Name    string // of the filter in its chain, as Envoy's well-known name
	Config  proto.Message
	Dynamic bool
	// Renews says that connections which passed the filter when it was configured otherwise must end: its edit drains the chain of a
	// listener of bytes. Others go on, and only new connections meet the edit.
	Renews bool
}

// An Addition is one resource that a policy adds to a proxy: one of the fields is set.
type Addition struct {
	// Problem says what cannot be added, such as the cluster of a collector that does not exist.
	Problem  string
	Cluster  *clusterv3.Cluster
	Listener *listenerv3.Listener
	Routes   *routev3.RouteConfiguration
}

// Resolve finds the cluster of a backend; ok is false when nothing matches it.
type Resolve func(BackendRef) (cluster string, ok bool)

// A Share is a part of the connections to a destination.
type Share struct {
	Cluster string // empty when the backend does not exist: these connections are closed
	Weight  uint32 // greater than 0
}

// A RouteOf is an Envoy route and the policy rule it comes from.
type RouteOf struct {
	Route  *routev3.Route
	Policy resource.KRI // zero for the default route
}

// A Policy is a Kind of any configuration.
type Policy interface {
	// Resource describes the policy as a resource kind.
	Resource() resource.Kind
	// Parts reads a resource of this kind.
	Parts(r resource.Resource) (Parts, error)
	// ProxyWide says that the policy configures the proxy as a whole, in default.
	ProxyWide() bool
	// Linked is an effective configuration with its references replaced by what the hooks need to know of the referenced.
	Linked(conf string, find Find) string
	// Links says whether a configuration refers to anything.
	Links() bool
	// References lists what a resource of this kind refers to.
	References(r resource.Resource) []Reference
	// HoldsEachRule says that rules hold side by side.
	HoldsEachRule() bool
	// MatchesInRules says whether inbound rules may depend on the client.
	MatchesInRules() bool
	// ClientLabels lists the labels of the sending proxy that one configuration asks for.
	ClientLabels(conf map[string]any) []string
	// Effective merges sources, the most specific last, over the base configuration.
	Effective(d proxy.Direction, protocol string, in []Sourced) Effective
	// Narrowed leaves out of an effective configuration what concerns other server names than the only one that comes.
	Narrowed(e Effective, sni string) Effective
	// Fields returns what a hook reads; ok is false when the policy has no such hook.
	Fields(h HookName) (fields []string, ok bool)
	// Bind decodes an effective configuration (or the projection of one) for use by hooks.
	Bind(conf string) (Bound, error)
}

// A HookName names one of the hooks.
type HookName string

// The hooks by name.
const (
	HookCluster        HookName = "cluster"
	HookRoute          HookName = "route"
	HookHTTP           HookName = "http"
	HookTCP            HookName = "tcp"
	HookHTTPFilters    HookName = "httpFilters"
	HookNetworkFilters HookName = "networkFilters"
	HookEndpoints      HookName = "endpoints"
	HookRoutes         HookName = "routes"
	HookLogs           HookName = "logs"
	HookPassthrough    HookName = "passthrough"
	HookResources      HookName = "resources"
	HookClientFilters  HookName = "clientFilters"
	HookSplit          HookName = "split"
	HookPatches        HookName = "patches"
	HookAgent          HookName = "agent"
)

// Bound is what one effective configuration does to Envoy; absent hooks are nil.
type Bound struct {
	Cluster        func(proxy.Cluster, *clusterv3.Cluster)
	Route          func(proxy.Route, *routev3.Route)
	HTTP           func(proxy.Listener, *hcmv3.HttpConnectionManager)
	TCP            func(proxy.Listener, *tcpproxyv3.TcpProxy)
	HTTPFilters    func(proxy.Listener) []Filter
	NetworkFilters func(proxy.Listener) []Filter
	Endpoints      func(*proxy.Assignment)
	Routes         func(proxy.Destination, Resolve) []RouteOf
	Passthrough    func(proxy.Listener, *listenerv3.Listener)
	Resources      func(proxy.Self) []Addition
	ClientFilters  func(proxy.Listener) []proto.Message
	Split          func(proxy.Destination, Resolve) []Share
	Patches        func() []Patch
	Agent          func(proxy.Agent) *agentapi.ZoneMessage
	Logs           func(proxy.Listener) []*accesslogv3.AccessLog
}

// ProxyWide implements Policy.
func (k Kind[C]) ProxyWide() bool { return k.Proxy }

// Links implements Policy.
func (k Kind[C]) Links() bool { return k.Link != nil }

// References implements Policy.
func (k Kind[C]) References(r resource.Resource) []Reference {
	if k.Refs == nil || r.Spec == nil {
		return nil
	}
	return k.Refs(r.Spec)
}

// Linked implements Policy.
func (k Kind[C]) Linked(conf string, find Find) string {
	var c C
	if k.Link == nil || conf == "" || json.Unmarshal([]byte(conf), &c) != nil {
		return conf // Bind tells what is wrong with it
	}
	k.Link(&c, find)
	b, err := json.Marshal(tree(c))
	if err != nil {
		return conf
	}
	return string(b)
}

// HoldsEachRule implements Policy.
func (k Kind[C]) HoldsEachRule() bool { return k.EachRule }

// MatchesInRules implements Policy.
func (k Kind[C]) MatchesInRules() bool { return k.RuleMatches }

// ClientLabels implements Policy.
func (k Kind[C]) ClientLabels(conf map[string]any) []string {
	if k.Labels == nil {
		return nil
	}
	var c C
	b, err := json.Marshal(conf)
	if err != nil || json.Unmarshal(b, &c) != nil {
		return nil // refused when it was written
	}
	return k.Labels(c)
}

// Parts implements Policy.
func (k Kind[C]) Parts(r resource.Resource) (Parts, error) {
	p, err := parts(r, k.NewSpec != nil)
	if err != nil {
		return Parts{}, fmt.Errorf("read %s: %w", r.Key(), err)
	}
	return p, nil
}

// Effective implements Policy.
func (k Kind[C]) Effective(d proxy.Direction, protocol string, in []Sourced) Effective {
	merge := k.Merge
	if merge == nil {
		merge = MergeFields
	}
	if k.Base != nil {
		in = append([]Sourced{{Conf: tree(k.Base(d, protocol))}}, in...)
	}
	if len(in) == 0 {
		return Effective{}
	}
	return merge(in).effective()
}

// Narrowed implements Policy.
func (k Kind[C]) Narrowed(e Effective, sni string) Effective {
	var c C
	if k.ForServerName == nil || e.Conf == "" || json.Unmarshal([]byte(e.Conf), &c) != nil {
		return e
	}
	if b, err := json.Marshal(tree(k.ForServerName(c, sni))); err == nil { // through a tree, for sorted keys
		e.Conf = string(b)
	}
	return e
}

// Fields implements Policy.
func (k Kind[C]) Fields(h HookName) ([]string, bool) {
	hooks := k.Hooks
	switch h {
	case HookCluster:
		return hooks.Cluster.Fields, hooks.Cluster.Apply != nil
	case HookRoute:
		return hooks.Route.Fields, hooks.Route.Apply != nil
	case HookHTTP:
		return hooks.HTTP.Fields, hooks.HTTP.Apply != nil
	case HookTCP:
		return hooks.TCP.Fields, hooks.TCP.Apply != nil
	case HookHTTPFilters:
		return hooks.HTTPFilters.Fields, hooks.HTTPFilters.Apply != nil
	case HookNetworkFilters:
		return hooks.NetworkFilters.Fields, hooks.NetworkFilters.Apply != nil
	case HookEndpoints:
		return hooks.Endpoints.Fields, hooks.Endpoints.Apply != nil
	case HookResources:
		return hooks.Resources.Fields, hooks.Resources.Apply != nil
	case HookAgent:
		return hooks.Agent.Fields, hooks.Agent.Apply != nil
	case HookLogs:
		return hooks.Logs.Fields, hooks.Logs.Apply != nil
	case HookRoutes:
		return hooks.Routes.Fields, hooks.Routes.Apply != nil
	case HookPassthrough:
		return hooks.Passthrough.Fields, hooks.Passthrough.Apply != nil
	case HookClientFilters:
		return hooks.ClientFilters.Fields, hooks.ClientFilters.Apply != nil
	case HookSplit:
		return hooks.Split.Fields, hooks.Split.Apply != nil
	case HookPatches:
		return hooks.Patches.Fields, hooks.Patches.Apply != nil
	}
	return nil, false
}

// Bind implements Policy.
func (k Kind[C]) Bind(conf string) (Bound, error) {
	var c C
	if err := json.Unmarshal([]byte(conf), &c); err != nil {
		return Bound{}, fmt.Errorf("decode effective %s: %w", k.Name, err)
	}
	var b Bound
	h := k.Hooks
	if f := h.Cluster.Apply; f != nil {
		b.Cluster = func(pc proxy.Cluster, ec *clusterv3.Cluster) { f(c, pc, ec) }
	}
	if f := h.Route.Apply; f != nil {
		b.Route = func(pr proxy.Route, er *routev3.Route) { f(c, pr, er) }
	}
	if f := h.HTTP.Apply; f != nil {
		b.HTTP = func(l proxy.Listener, m *hcmv3.HttpConnectionManager) { f(c, l, m) }
	}
	if f := h.TCP.Apply; f != nil {
		b.TCP = func(l proxy.Listener, m *tcpproxyv3.TcpProxy) { f(c, l, m) }
	}
	if f := h.HTTPFilters.Apply; f != nil {
		b.HTTPFilters = func(l proxy.Listener) []Filter { return f(c, l) }
	}
	if f := h.NetworkFilters.Apply; f != nil {
		b.NetworkFilters = func(l proxy.Listener) []Filter { return f(c, l) }
	}
	if f := h.Endpoints.Apply; f != nil {
		b.Endpoints = func(a *proxy.Assignment) { f(c, a) }
	}
	if f := h.Resources.Apply; f != nil {
		b.Resources = func(s proxy.Self) []Addition { return f(c, s) }
	}
	if f := h.Agent.Apply; f != nil {
		b.Agent = func(a proxy.Agent) *agentapi.ZoneMessage { return f(c, a) }
	}
	if f := h.Logs.Apply; f != nil {
		b.Logs = func(l proxy.Listener) []*accesslogv3.AccessLog { return f(c, l) }
	}
	if f := h.Routes.Apply; f != nil {
		b.Routes = func(d proxy.Destination, r Resolve) []RouteOf { return f(c, d, r) }
	}
	if f := h.Passthrough.Apply; f != nil {
		b.Passthrough = func(l proxy.Listener, m *listenerv3.Listener) { f(c, l, m) }
	}
	if f := h.ClientFilters.Apply; f != nil {
		b.ClientFilters = func(l proxy.Listener) []proto.Message { return f(c, l) }
	}
	if f := h.Split.Apply; f != nil {
		b.Split = func(d proxy.Destination, r Resolve) []Share { return f(c, d, r) }
	}
	if f := h.Patches.Apply; f != nil {
		b.Patches = func() []Patch { return f(c) }
	}
	return b, nil
}

// Resource implements Policy.
func (k Kind[C]) Resource() resource.Kind {
	newSpec := k.NewSpec
	if newSpec == nil {
		newSpec = func() any { return new(Spec[C]) }
	}
	var newStatus func() any
	if k.Refs != nil {
		newStatus = func() any { return new(Status) }
	}
	return resource.Kind{
		Name: k.Name, Path: k.Path, Short: k.Short, Singular: k.Singular, Plural: k.Plural,
		Scope: resource.ScopeMesh, Flow: resource.FromGlobal | resource.FromZone | resource.AcrossZones, Raw: k.Raw,
		Policy: &resource.PolicyFacts{HasTo: len(k.ToKinds) > 0, HasRules: k.Rules, HasDefault: k.Proxy, Restricts: k.Restricts, ToKinds: k.ToKinds, RuleMatches: k.RuleMatches},
		New:    newSpec, NewStatus: newStatus, Validate: k.validate, Warn: k.warn,
	}
}

func (k Kind[C]) warn(r resource.Resource) []string {
	if k.WarnSpec != nil {
		return k.WarnSpec(r.Spec)
	}
	spec, ok := r.Spec.(*Spec[C])
	if !ok || k.Warn == nil {
		return nil
	}
	var out []string
	spec.each(func(at resource.Path, c C, where Where) { out = append(out, k.Warn(at, c, where)...) })
	return out
}

// each visits every configuration of the spec.
func (s *Spec[C]) each(visit func(at resource.Path, c C, where Where)) {
	at := resource.Path("spec")
	var top TargetRef
	if s.TargetRef != nil {
		top = *s.TargetRef
	}
	for i, t := range s.To {
		visit(at.Field("to").Index(i).Field("default"), t.Default, Where{Section: "to", Target: t.TargetRef})
	}
	for i, rule := range s.Rules {
		visit(at.Field("rules").Index(i).Field("default"), rule.Default, Where{Section: "rules", Target: top, Matches: rule.Matches})
	}
	if s.Default != nil {
		visit(at.Field("default"), *s.Default, Where{Section: "default", Target: top})
	}
}

func (k Kind[C]) validate(r resource.Resource) resource.Problems {
	p, err := k.Parts(r)
	if err != nil {
		return resource.Problems{{Field: "spec", Reason: err.Error()}}
	}
	at := resource.Path("spec")
	ps := k.checkTop(at.Field("targetRef"), p)
	ps.Append(k.checkSections(at, p))
	for i, it := range p.To {
		ps.Append(k.checkTo(at.Field("to").Index(i).Field("targetRef"), it.Target))
	}
	for i, it := range p.Rules {
		mat := at.Field("rules").Index(i).Field("matches")
		if len(it.Matches) > 0 && !k.RuleMatches {
			ps.Add(mat, "is not supported by %s", k.Name)
			continue
		}
		for j, m := range it.Matches {
			ps.Append(CheckMatch(mat.Index(j), m))
		}
	}
	if k.NewSpec != nil {
		ps.Append(k.CheckSpec(r.Spec))
		return ps
	}
	spec, ok := r.Spec.(*Spec[C])
	if !ok || k.Check == nil {
		return ps
	}
	spec.each(func(at resource.Path, c C, where Where) { ps.Append(k.Check(at, c, where)) })
	return ps
}

func (k Kind[C]) checkSections(at resource.Path, p Parts) resource.Problems {
	var ps resource.Problems
	var allowed []string
	if len(k.ToKinds) > 0 {
		allowed = append(allowed, "to")
	} else if len(p.To) > 0 {
		ps.Add(at.Field("to"), "is not supported by %s", k.Name)
	}
	if k.Rules {
		allowed = append(allowed, "rules")
	} else if len(p.Rules) > 0 {
		ps.Add(at.Field("rules"), "is not supported by %s", k.Name)
	}
	if k.Proxy {
		allowed = append(allowed, "default")
	} else if p.Default != nil {
		ps.Add(at.Field("default"), "is not supported by %s", k.Name)
	}
	switch {
	case len(ps) > 0:
	case len(p.To) == 0 && len(p.Rules) == 0 && p.Default == nil:
		ps.Add(at, "must have %s", strings.Join(allowed, " or "))
	case len(p.To) > 0 && len(p.Rules) > 0 && !k.ToAndRules:
		ps.Add(at, "must have either to or rules; write two resources")
	}
	return ps
}

func (k Kind[C]) checkTop(at resource.Path, p Parts) resource.Problems {
	t := p.Target
	ps := checkRemoved(at, t)
	switch t.KindOrMesh() {
	case TargetMesh:
		if len(t.Labels) > 0 {
			ps.Add(at.Field("labels"), "must not be set with kind Mesh; use kind Dataplane")
		}
		if t.SectionName != "" {
			ps.Add(at.Field("sectionName"), "must not be set with kind Mesh")
		}
	case TargetDataplane:
		if t.SectionName != "" && len(p.Rules) == 0 {
			ps.Add(at.Field("sectionName"), "is only possible in a policy with rules")
		}
		ps.Append(resource.CheckLabels(at.Field("labels"), t.Labels))
	default:
		ps.Add(at.Field("kind"), "must be Mesh or Dataplane, not %s", resource.Quote(t.Kind))
	}
	return ps
}

func (k Kind[C]) checkTo(at resource.Path, t TargetRef) resource.Problems {
	ps := checkRemoved(at, t)
	if len(k.ToKinds) == 0 {
		return ps
	}
	if !slices.Contains(k.ToKinds, t.KindOrMesh()) || t.Kind == "" {
		ps.Add(at.Field("kind"), "must be one of %s", strings.Join(k.ToKinds, ", "))
		return ps
	}
	if t.Kind == TargetMesh {
		if len(t.Labels) > 0 {
			ps.Add(at.Field("labels"), "must not be set with kind Mesh")
		}
	} else {
		if len(t.Labels) == 0 {
			ps.Add(at.Field("labels"), "must be set with kind %s", t.Kind)
		}
		ps.Append(resource.CheckLabels(at.Field("labels"), t.Labels))
	}
	if t.SectionName != "" && !slices.Contains([]string{TargetService, TargetMultiZone}, t.Kind) {
		ps.Add(at.Field("sectionName"), "must not be set with kind %s", t.Kind)
	}
	return ps
}

func checkRemoved(at resource.Path, t TargetRef) resource.Problems {
	var ps resource.Problems
	for _, f := range []struct {
		name string
		set  bool
		hint string
	}{
		{"name", t.Name != "", "use labels with " + resource.LabelDisplayName},
		{"namespace", t.Namespace != "", "use labels with " + resource.LabelNamespace},
		{"mesh", t.Mesh != "", "a policy stays in its own mesh"},
		{"tags", len(t.Tags) > 0, "use labels"},
		{"proxyTypes", len(t.ProxyTypes) > 0, "use kind Dataplane with labels"},
	} {
		if f.set {
			ps.Add(at.Field(f.name), "is no longer supported; %s", f.hint)
		}
	}
	return ps
}
