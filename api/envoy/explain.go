package envoy

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// An Explanation tells what policies put in force for a proxy, part by part: the same answers from which its configuration is built.
type Explanation struct {
	c        *Compiler
	r        *memo.Reader
	resource resource.Resource
	dp       *mesh.Dataplane
	class    Class
	selected []view.Selected
}

// Explain explains a dataplane at present; ok is false when there is none. The explanation is good until the view changes.
func (c *Compiler) Explain(dp resource.Key) (x *Explanation, ok bool) {
	r := c.view.Graph.Untracked()
	res, _ := c.view.Resource(r, dp)
	spec, ok := res.Spec.(*mesh.Dataplane)
	if !ok {
		return nil, false
	}
	return &Explanation{c, r, res, spec, c.class.Get(r, dp), c.view.Selected(r, dp)}, true
}

// types are those of all policies, in the order in which they are applied.
func (x *Explanation) types() []string {
	var out []string
	for _, p := range x.c.view.Policies() {
		out = append(out, p.Resource().Name)
	}
	return out
}

func (x *Explanation) kri() resource.KRI { return x.c.view.KRI(x.resource) }

// outbounds are the destinations that the proxy knows.
func (x *Explanation) outbounds() []view.Destination {
	var out []view.Destination
	for _, o := range x.c.destinationsOf.Get(x.r, x.class) {
		if o.Listed {
			out = append(out, o.Destination)
		}
	}
	return out
}

// Layout tells what the proxy consists of.
func (x *Explanation) Layout() mesh.Layout {
	out := mesh.Layout{
		KRI: x.kri().String(), Labels: x.resource.Labels, Inbounds: []mesh.LayoutPart{}, Outbounds: []mesh.LayoutPart{},
		SpiffeID: x.c.view.IdentityOf(x.r, x.resource.Key()).SPIFFEID,
	}
	for _, in := range x.dp.ExposedInbounds() {
		out.Inbounds = append(out.Inbounds, mesh.LayoutPart{
			KRI: x.kri().WithSection(in.SectionName()).String(), Port: in.Port, Protocol: string(in.ProtocolOrTCP()), ProxyResourceName: inboundName(in),
		})
	}
	for _, d := range x.outbounds() {
		name := d.KRI.String()
		out.Outbounds = append(out.Outbounds, mesh.LayoutPart{KRI: name, Port: d.Port, Protocol: string(d.Protocol), ProxyResourceName: name})
	}
	for _, l := range x.dp.Networking.Listeners {
		out.Listeners = append(out.Listeners, mesh.LayoutPart{
			KRI: x.kri().WithSection(l.SectionName()).String(), Type: string(l.Type), Port: l.Port, ProxyResourceName: zoneListenerName(l),
		})
	}
	return out
}

// Proxy tells what is in force for the proxy as a whole.
func (x *Explanation) Proxy() mesh.InspectedPolicies {
	out := mesh.InspectedPolicies{Policies: []mesh.InspectedPolicy{}}
	wide := x.c.proxyWide(x.r, x.resource.Mesh, x.class.Proxy)
	for _, typ := range x.types() {
		if e, ok := wide(typ); ok && applies(e) {
			out.Policies = append(out.Policies, inspected(typ, e))
		}
	}
	return out
}

// applies says that a policy has decided anything; what is in force without any is no answer to which policies apply.
func applies(e policy.Effective) bool { return len(e.Policies()) > 0 }

func inspected(typ string, e policy.Effective) mesh.InspectedPolicy {
	return mesh.InspectedPolicy{Kind: typ, Conf: json.RawMessage(e.Conf), Origins: originsOf(e)}
}

func originsOf(list ...policy.Effective) []mesh.InspectedOrigin {
	out := []mesh.InspectedOrigin{}
	for _, e := range list {
		for _, o := range e.Origins {
			if o.Policy.IsZero() {
				continue
			}
			kri := o.Policy.String()
			at := slices.IndexFunc(out, func(x mesh.InspectedOrigin) bool { return x.KRI == kri })
			if at < 0 {
				at, out = len(out), append(out, mesh.InspectedOrigin{KRI: kri})
			}
			if o.Field != "" && !slices.Contains(out[at].Fields, o.Field) {
				out[at].Fields = append(out[at].Fields, o.Field)
			}
		}
	}
	return out
}

// Inbound tells what is in force at one inbound or listener of the proxy; ok is false when it has none of that name.
func (x *Explanation) Inbound(kri resource.KRI) (out mesh.InspectedPolicies, ok bool) {
	clients, ok := x.at(kri.Section)
	if !ok || kri.WithSection("") != x.kri() {
		return out, false
	}
	out.Policies = []mesh.InspectedPolicy{}
	for _, typ := range x.types() {
		if p := (mesh.InspectedPolicy{Kind: typ}); x.rules(typ, clients(typ), &p) {
			out.Policies = append(out.Policies, p)
		}
	}
	return out, true
}

// at finds an inbound or a listener for the zone, and what is in force there by client.
func (x *Explanation) at(section string) (clients func(typ string) []view.Client, ok bool) {
	for i, in := range x.dp.ExposedInbounds() {
		if in.SectionName() == section {
			return x.c.received(x.r, x.resource.Mesh, i, in.ProtocolOrTCP(), x.selected), true
		}
	}
	for i, l := range x.dp.Networking.Listeners {
		if l.SectionName() == section {
			return x.c.receivedAt(x.r, x.resource.Mesh, mesh.TCP, x.selected, func(s view.Selected) view.Set { return s.Listeners[i].Policies }), true
		}
	}
	return nil, false
}

func (x *Explanation) rules(typ string, clients []view.Client, out *mesh.InspectedPolicy) bool {
	if x.c.view.IsProxyWide(typ) {
		return false
	}
	var effective []policy.Effective
	for _, c := range clients {
		if !applies(c.Effective) {
			continue
		}
		effective = append(effective, c.Effective)
		from := c.Effective.Policies()
		rule := mesh.InspectedRule{KRI: from[len(from)-1].String(), Conf: json.RawMessage(c.Effective.Conf)}
		if !c.Match.IsZero() {
			rule.Matches = []any{c.Match}
		}
		out.Rules = append(out.Rules, rule)
	}
	out.Origins = originsOf(effective...)
	return len(out.Rules) > 0
}

// destination finds a destination that the proxy knows.
func (x *Explanation) destination(kri resource.KRI) (view.Destination, bool) {
	for _, d := range x.outbounds() {
		if d.KRI == kri {
			return d, true
		}
	}
	return view.Destination{}, false
}

// Outbound tells what is in force for a destination, or with route for the requests to it that the route governs; ok is false when the
// proxy does not know it.
func (x *Explanation) Outbound(kri, route resource.KRI) (out mesh.InspectedPolicies, ok bool) {
	d, ok := x.destination(kri)
	if !ok {
		return out, false
	}
	out.Policies = []mesh.InspectedPolicy{}
	effective := x.c.effectiveFor(x.r, x.class, d, route)
	for _, typ := range x.types() {
		if e := effective(typ); applies(e) && !x.c.view.IsProxyWide(typ) && !x.routes(typ) {
			out.Policies = append(out.Policies, inspected(typ, e))
		}
	}
	return out, true
}

// routes says that policies of a type lead traffic to backends.
func (x *Explanation) routes(typ string) bool {
	for _, p := range x.c.view.Policies() {
		if p.Resource().Name == typ {
			_, requests := p.Fields(policy.HookRoutes)
			_, connections := p.Fields(policy.HookSplit)
			return requests || connections
		}
	}
	return false
}

// Routes tells how traffic to a destination is led to backends.
func (x *Explanation) Routes(kri resource.KRI) (out mesh.InspectedRoutes, ok bool) {
	d, ok := x.destination(kri)
	if !ok {
		return out, false
	}
	out.Routes = []mesh.InspectedPolicy{}
	effective := x.c.effectiveFor(x.r, x.class, d, resource.KRI{})
	for _, typ := range x.types() {
		e := effective(typ)
		if !x.routes(typ) || !applies(e) {
			continue
		}
		p := inspected(typ, e)
		p.Rules, p.Conf = routeRules(e), nil
		out.Routes = append(out.Routes, p)
	}
	return out, true
}

// routeRules takes the rules of an effective routing policy apart, each with the policy that it comes from.
func routeRules(e policy.Effective) []mesh.InspectedRule {
	from := func(i int) string {
		for _, o := range e.Origins {
			if (o.Field == "routes["+strconv.Itoa(i)+"]" || o.Field == "" || !strings.HasPrefix(o.Field, "routes[")) && !o.Policy.IsZero() {
				return o.Policy.String()
			}
		}
		return ""
	}
	var conf struct {
		Routes []struct {
			Matches []any `json:"matches"`
		} `json:"routes"`
	}
	var parts struct {
		Routes []json.RawMessage `json:"routes"`
	}
	if json.Unmarshal([]byte(e.Conf), &conf) != nil || json.Unmarshal([]byte(e.Conf), &parts) != nil || len(parts.Routes) == 0 {
		return []mesh.InspectedRule{{KRI: from(0), Conf: json.RawMessage(e.Conf)}}
	}
	var out []mesh.InspectedRule
	for i, r := range conf.Routes {
		out = append(out, mesh.InspectedRule{KRI: from(i), Matches: r.Matches, Conf: parts.Routes[i]})
	}
	return out
}

// Rules tells everything that is in force, in one answer.
func (x *Explanation) Rules() mesh.InspectedRules {
	out := mesh.InspectedRules{Resource: x.meta(x.resource), HTTPMatches: []any{}, Rules: []mesh.TypeRules{}}
	for _, typ := range x.types() {
		t := mesh.TypeRules{Type: typ, ToResourceRules: []mesh.ToResourceRule{}, InboundRules: []mesh.InboundRules{}, Warnings: []string{}}
		if x.c.view.IsProxyWide(typ) {
			if e, _ := x.c.proxyWide(x.r, x.resource.Mesh, x.class.Proxy)(typ); applies(e) {
				t.ProxyRule = &mesh.RuleConf{Conf: json.RawMessage(e.Conf)}
				for _, o := range x.origin(typ, e) {
					t.ProxyRule.Origin = append(t.ProxyRule.Origin, o.ResourceMeta)
				}
				out.Rules = append(out.Rules, t)
			}
			continue
		}
		for _, d := range x.outbounds() {
			if e := x.c.effectiveFor(x.r, x.class, d, resource.KRI{})(typ); applies(e) {
				service, _ := x.c.view.Resource(x.r, d.Key.Service)
				t.ToResourceRules = append(t.ToResourceRules, mesh.ToResourceRule{
					ResourceMeta: x.meta(service), ResourceSectionName: d.KRI.Section, Conf: []any{json.RawMessage(e.Conf)}, Origin: x.origin(typ, e),
				})
			}
		}
		add := func(section string, port uint32) {
			clients, _ := x.at(section)
			in := mesh.InboundRules{Inbound: mesh.RuleInbound{Port: port}}
			for _, c := range clients(typ) {
				if !applies(c.Effective) {
					continue
				}
				rule := mesh.InboundRule{Conf: []any{json.RawMessage(c.Effective.Conf)}, Origin: x.origin(typ, c.Effective)}
				if !c.Match.IsZero() {
					rule.Match = c.Match
				}
				in.Rules = append(in.Rules, rule)
			}
			if len(in.Rules) > 0 {
				t.InboundRules = append(t.InboundRules, in)
			}
		}
		for _, in := range x.dp.ExposedInbounds() {
			add(in.SectionName(), in.Port)
		}
		for _, l := range x.dp.Networking.Listeners {
			add(l.SectionName(), l.Port)
		}
		if len(t.ToResourceRules)+len(t.InboundRules) > 0 {
			out.Rules = append(out.Rules, t)
		}
	}
	return out
}

func (x *Explanation) meta(r resource.Resource) mesh.ResourceMeta {
	return mesh.ResourceMeta{Type: r.Type, Mesh: r.Mesh, Name: r.Name, KRI: x.c.view.KRI(r).String(), Labels: r.Labels}
}

// origin lists the entries of policies that decided a configuration.
func (x *Explanation) origin(typ string, e policy.Effective) []mesh.RuleOrigin {
	type entry struct {
		kri   resource.KRI
		index int
	}
	out, seen := []mesh.RuleOrigin{}, map[entry]bool{}
	for _, o := range e.Origins {
		if o.Policy.IsZero() || seen[entry{o.Policy, o.Index}] {
			continue
		}
		seen[entry{o.Policy, o.Index}] = true
		for _, r := range x.c.view.All(x.r, typ, x.resource.Mesh) {
			if x.c.view.KRI(r) == o.Policy {
				out = append(out, mesh.RuleOrigin{ResourceMeta: x.meta(r), RuleIndex: o.Index})
			}
		}
	}
	return out
}
