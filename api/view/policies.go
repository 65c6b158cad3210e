package view

import (
	"cmp"
	"encoding/json"
	"reflect"
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// head is a policy's head with the labels its target selects.
type head struct {
	policy.Head
	labels                      map[string]string
	hasTo, hasRules, hasDefault bool
}

// A Selected is the policies of one type that reach a proxy, weakest first.
type Selected struct {
	Type string
	// Outbound lists the policies that concern what the proxy sends, as a Set.
	Outbound Set
	// Inbound holds, per inbound section, the policies that concern what the proxy receives.
	Inbound []SectionSet
	// Elsewhere lists the policies that concern what the proxy receives outside of its inbounds.
	Elsewhere Set
	// Proxy lists the policies that configure the proxy as a whole.
	Proxy Set
	// Listeners holds the same per listener that the proxy has for its zone.
	Listeners []SectionSet
}

// A SectionSet is the policies that concern one inbound.
type SectionSet struct {
	Section  string
	Policies Set
}

// A Set is an ordered list of policy names as one comparable value.
type Set string

// SetOf joins names; policy names hold no line breaks.
func SetOf(names []string) Set { return Set(strings.Join(names, "\n")) }

// Names are the members of the set in order.
func (s Set) Names() []string {
	if s == "" {
		return nil
	}
	return strings.Split(string(s), "\n")
}

type setKey struct {
	Type, Mesh string
	Set        Set
}

type effectiveKey struct {
	Policies    setKey
	Destination DestinationKey
	Protocol    mesh.Protocol
	Route       resource.KRI
}

type linkKey struct{ Type, Mesh, Conf string }

type inboundKey struct {
	Policies setKey
	Protocol mesh.Protocol
}

// A Client is what is in force for received traffic of the clients that match.
type Client struct {
	Match     policy.Match
	Effective policy.Effective
}

func (v *View) definePolicies() {
	deep := func(a, b any) bool { return reflect.DeepEqual(a, b) }
	v.heads = memo.NewFunc(v.Graph, "policyHeads", func(a, b []head) bool { return deep(a, b) }, v.computeHeads)
	v.selected = memo.NewFunc(v.Graph, "selectedPolicies", func(a, b []Selected) bool { return deep(a, b) }, v.computeSelected)
	v.entries = memo.NewFunc(v.Graph, "policyEntries", func(a, b []policy.Entry) bool { return deep(a, b) }, v.computeEntries)
	v.effective = memo.NewFunc(v.Graph, "effective", policy.Effective.Equal, v.computeEffective)
	v.clientLabels = memo.NewFunc(v.Graph, "clientLabels", slices.Equal[[]string], v.computeClientLabels)
	v.proxyWide = memo.NewFunc(v.Graph, "effectiveProxy", policy.Effective.Equal, v.computeProxyWide)
	v.linked = memo.NewFunc(v.Graph, "linked", func(a, b string) bool { return a == b }, v.computeLinked)
	v.inbound = memo.NewFunc(v.Graph, "effectiveInbound", sameClients, v.computeInbound)
}

func sameClients(a, b []Client) bool { return reflect.DeepEqual(a, b) }

func (v *View) computeHeads(r *memo.Reader, k typeKey) []head {
	var out []head
	for _, res := range v.All(r, k.Type, k.Mesh) {
		if res.Label(resource.LabelEffect) == resource.EffectShadow && !v.settings.Shadow {
			continue
		}
		if h, ok := headOf(v.byName[k.Type], res); ok { // others were set aside when they were decoded; they never stop the rest
			out = append(out, h)
		}
	}
	slices.SortStableFunc(out, func(a, b head) int { return policy.CompareHeads(a.Head, b.Head) })
	return out
}

func headOf(p policy.Policy, res resource.Resource) (head, bool) {
	parts, err := p.Parts(res)
	if err != nil {
		return head{}, false
	}
	return head{policy.HeadOf(p.Resource(), res, parts), parts.Target.Labels, len(parts.To) > 0, len(parts.Rules) > 0, parts.Default != nil}, true
}

// Concerns returns which dataplanes a policy concerns, given the zone of those that name none. It is what Selected asks, the other way
// round, and holds for policies that only cast their shadow as if they did not.
func Concerns(p policy.Policy, res resource.Resource, zone string) func(dp resource.Resource) bool {
	h, ok := headOf(p, res)
	if !ok {
		return func(resource.Resource) bool { return false }
	}
	return func(dp resource.Resource) bool {
		spec, ok := dp.Spec.(*mesh.Dataplane)
		subject := policy.Subject{Labels: dp.Labels, Zone: cmp.Or(dp.Zone(), zone), Namespace: dp.Namespace()}
		if !ok || dp.Mesh != res.Mesh || !h.Reaches(subject, h.labels) {
			return false
		}
		if h.outbound() || h.hasDefault || h.hasRules && h.Target.SectionName == "" {
			return true
		}
		return slices.ContainsFunc(spec.ExposedInbounds(), func(in mesh.Inbound) bool { return h.receives(in.SectionName()) }) ||
			slices.ContainsFunc(spec.Networking.Listeners, func(l mesh.Listener) bool { return h.receives(l.SectionName()) })
	}
}

// outbound says that the policy concerns what proxies send.
func (h head) outbound() bool { return h.hasTo && h.Target.SectionName == "" }

// receives says that the policy concerns what is received at an inbound or listener.
func (h head) receives(section string) bool {
	return h.hasRules && (h.Target.SectionName == "" || h.Target.SectionName == section)
}

// Selected lists, per policy type, what reaches a dataplane.
func (v *View) Selected(r *memo.Reader, dp resource.Key) []Selected { return v.selected.Get(r, dp) }

func (v *View) computeSelected(r *memo.Reader, k resource.Key) []Selected {
	dp, ok := v.Resource(r, k)
	if !ok {
		return nil
	}
	spec, ok := dp.Spec.(*mesh.Dataplane)
	if !ok {
		return nil
	}
	subject := policy.Subject{Labels: dp.Labels, Zone: v.zoneOf(dp), Namespace: dp.Namespace()}
	var out []Selected
	for _, p := range v.policies {
		sel := Selected{Type: p.Resource().Name}
		var reaching []head
		for _, h := range v.heads.Get(r, typeKey{sel.Type, k.Mesh}) {
			if h.Reaches(subject, h.labels) {
				reaching = append(reaching, h)
			}
		}
		sel.Outbound = setOf(reaching, head.outbound)
		sel.Proxy = setOf(reaching, func(h head) bool { return h.hasDefault })
		rulesFor := func(section string) SectionSet {
			return SectionSet{section, setOf(reaching, func(h head) bool { return h.receives(section) })}
		}
		for _, in := range spec.ExposedInbounds() {
			sel.Inbound = append(sel.Inbound, rulesFor(in.SectionName()))
		}
		for _, l := range spec.Networking.Listeners {
			sel.Listeners = append(sel.Listeners, rulesFor(l.SectionName()))
		}
		sel.Elsewhere = setOf(reaching, func(h head) bool { return h.hasRules && h.Target.SectionName == "" })
		out = append(out, sel)
	}
	return out
}

func setOf(hs []head, keep func(head) bool) Set {
	var names []string
	for _, h := range hs {
		if keep(h) {
			names = append(names, h.Key.Name)
		}
	}
	return SetOf(names)
}

func (v *View) computeEntries(r *memo.Reader, k setKey) []policy.Entry {
	p := v.byName[k.Type]
	var out []policy.Entry
	for _, name := range k.Set.Names() {
		res, ok := v.Resource(r, resource.Key{Type: k.Type, Mesh: k.Mesh, Name: name})
		if !ok {
			continue
		}
		parts, err := p.Parts(res)
		if err != nil {
			continue
		}
		h := policy.HeadOf(p.Resource(), res, parts)
		for i, it := range parts.To {
			out = append(out, policy.Entry{Head: h, Index: i, Item: it})
		}
		for i, it := range parts.Rules {
			out = append(out, policy.Entry{Head: h, Index: i, Item: it, Inbound: true})
		}
	}
	return out
}

// ClientLabels lists the labels of a sending proxy that the policies of a set ask for, sorted.
func (v *View) ClientLabels(r *memo.Reader, typ, meshName string, set Set) []string {
	return v.clientLabels.Get(r, setKey{typ, meshName, set})
}

func (v *View) computeClientLabels(r *memo.Reader, k setKey) []string {
	var out []string
	for _, e := range v.entries.Get(r, k) {
		if !e.Inbound {
			out = append(out, v.byName[k.Type].ClientLabels(e.Item.Conf)...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// ProxyLabels lists the labels of a proxy that what is in force for it as a whole asks for.
func (v *View) ProxyLabels(r *memo.Reader, typ, meshName string, set Set) []string {
	var conf map[string]any
	if e := v.ProxyWide(r, typ, meshName, set); json.Unmarshal([]byte(e.Conf), &conf) != nil {
		return nil
	}
	return v.byName[typ].ClientLabels(conf)
}

// Outbound is what the policies of a set put in force for a destination (the zero key: for what is none of the mesh); route, when not zero,
// adds what is said about that MeshHTTPRoute.
func (v *View) Outbound(r *memo.Reader, typ, meshName string, set Set, d DestinationKey, p mesh.Protocol, route resource.KRI) policy.Effective {
	return v.effective.Get(r, effectiveKey{setKey{typ, meshName, set}, d, p, route})
}

func (v *View) computeEffective(r *memo.Reader, k effectiveKey) policy.Effective {
	var t policy.Target // of no destination in particular: what is said for all of them
	if k.Destination != (DestinationKey{}) {
		var ok bool
		if t, ok = v.Target(r, k.Destination); !ok {
			return policy.Effective{}
		}
	}
	var route *policy.RouteTarget
	if !k.Route.IsZero() {
		route = v.routeTarget(r, k.Policies.Mesh, k.Route)
	}
	sources := policy.ForDestination(v.entries.Get(r, k.Policies), t, route)
	return v.byName[k.Policies.Type].Effective(proxy.Outbound, string(k.Protocol), sources)
}

// routeTarget finds the labels of a MeshHTTPRoute by its identifier.
func (v *View) routeTarget(r *memo.Reader, meshName string, kri resource.KRI) *policy.RouteTarget {
	kri.Section = ""
	for _, res := range v.Select(r, policy.TargetHTTPRoute, meshName, resource.Selector{resource.LabelDisplayName: kri.Name}) {
		if v.KRI(res) == kri {
			return &policy.RouteTarget{KRI: kri, Labels: res.Labels}
		}
	}
	return &policy.RouteTarget{KRI: kri}
}

// Inbound is what the policies of a set put in force for an inbound: per distinct client match, most specific first,
// the catch-all last. Policies without matches have only the catch-all.
func (v *View) Inbound(r *memo.Reader, typ, meshName string, set Set, p mesh.Protocol) []Client {
	return v.inbound.Get(r, inboundKey{setKey{typ, meshName, set}, p})
}

func (v *View) computeInbound(r *memo.Reader, k inboundKey) []Client {
	p := v.byName[k.Policies.Type]
	var out []Client
	clients := policy.ForInbound
	if p.HoldsEachRule() {
		clients = policy.EveryRule
	}
	for _, c := range clients(v.inboundEntries(r, k.Policies)) {
		out = append(out, Client{c.Match, p.Effective(proxy.Inbound, string(k.Protocol), c.Sources)})
	}
	return out
}

// IsProxyWide says that policies of a type configure the proxy as a whole.
func (v *View) IsProxyWide(typ string) bool { return v.byName[typ].ProxyWide() }

// ProxyWide is what the policies of a set put in force for the proxy as a whole; empty when there are none.
func (v *View) ProxyWide(r *memo.Reader, typ, meshName string, set Set) policy.Effective {
	return v.proxyWide.Get(r, setKey{typ, meshName, set})
}

func (v *View) computeProxyWide(r *memo.Reader, k setKey) policy.Effective {
	sources := v.Defaults(r, k.Type, k.Mesh, k.Set)
	if len(sources) == 0 {
		return policy.Effective{}
	}
	return v.byName[k.Type].Effective("", "", sources)
}

// Defaults are what each policy of a set says of the proxy as a whole, the weakest first.
func (v *View) Defaults(r *memo.Reader, typ, meshName string, set Set) []policy.Sourced {
	var out []policy.Sourced
	for _, name := range set.Names() {
		res, ok := v.Resource(r, resource.Key{Type: typ, Mesh: meshName, Name: name})
		if !ok {
			continue
		}
		if parts, err := v.byName[typ].Parts(res); err == nil && parts.Default != nil {
			out = append(out, policy.Sourced{Policy: v.KRI(res), Conf: parts.Default})
		}
	}
	return out
}

// Linked is an effective configuration with what it refers to.
func (v *View) Linked(r *memo.Reader, typ, meshName string, e policy.Effective) policy.Effective {
	if e.Conf != "" && v.byName[typ].Links() {
		e.Conf = v.linked.Get(r, linkKey{typ, meshName, e.Conf})
	}
	return e
}

func (v *View) computeLinked(r *memo.Reader, k linkKey) string {
	return v.byName[k.Type].Linked(k.Conf, func(kind string, labels map[string]string) (policy.Found, bool) {
		found := v.Select(r, kind, k.Mesh, labels)
		if len(found) == 0 {
			return policy.Found{}, false
		}
		oldest := slices.MinFunc(found, func(a, b resource.Resource) int {
			return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.Name, b.Name))
		})
		return policy.Found{KRI: v.KRI(oldest), Resource: oldest}, true
	})
}

func (v *View) inboundEntries(r *memo.Reader, k setKey) []policy.Entry {
	var out []policy.Entry
	for _, e := range v.entries.Get(r, k) {
		if e.Inbound {
			out = append(out, e)
		}
	}
	return out
}
