package policy

import (
	"cmp"
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/role"
)

// A Head is what decides whether and in which order a policy applies; it does not change when only configuration is edited.
type Head struct {
	Key       resource.Key
	KRI       resource.KRI
	Target    TargetKey
	Origin    string
	Role      string
	Zone      string
	Namespace string
}

// A TargetKey is a comparable top-level targetRef.
type TargetKey struct {
	Kind        string
	Labels      string // canonical selector
	SectionName string
}

// HeadOf reads the head of a policy.
func HeadOf(k resource.Kind, r resource.Resource, p Parts) Head {
	return Head{
		Key: r.Key(), KRI: resource.KRIOf(k, r.Meta),
		Target: TargetKey{p.Target.KindOrMesh(), resource.Selector(p.Target.Labels).String(), p.Target.SectionName},
		Origin: r.Label(resource.LabelOrigin), Role: role.Stored(r.Meta), Zone: r.Zone(), Namespace: r.Namespace(),
	}
}

// A Subject is a proxy as policies see it.
type Subject struct {
	Labels    map[string]string // with the computed display name
	Zone      string
	Namespace string
}

// Reaches says whether the policy may affect the proxy at all: by zone of origin, by role and namespace, and by target labels.
// Sections are a separate question.
func (h Head) Reaches(s Subject, labels map[string]string) bool {
	if h.Origin == resource.OriginZone && h.Zone != "" && h.Zone != s.Zone && h.Role != role.Producer {
		return false
	}
	if (h.Role == role.Consumer || h.Role == role.WorkloadOwner) && h.Namespace != s.Namespace {
		return false
	}
	return h.Target.Kind == TargetMesh || h.Target.Kind == TargetDataplane && resource.Selector(labels).Matches(s.Labels)
}

// CompareHeads orders policies from the weakest to the strongest:
// Mesh before Dataplane, without before with section, global before zone origin,
// system, producer, consumer, workload-owner; last, the alphabetically first name wins.
func CompareHeads(a, b Head) int {
	return cmp.Or(comparePrefix(a, b), CompareNames(a, b))
}

func comparePrefix(a, b Head) int {
	return cmp.Or(
		cmp.Compare(targetRank(a.Target), targetRank(b.Target)),
		cmp.Compare(originRank(a.Origin), originRank(b.Origin)),
		cmp.Compare(roleRank(a.Role), roleRank(b.Role)),
	)
}

// CompareNames is the last tie-break: reverse alphabetical, so that the first name is applied last and wins.
func CompareNames(a, b Head) int {
	return cmp.Or(strings.Compare(b.KRI.Name, a.KRI.Name), b.KRI.Compare(a.KRI))
}

func targetRank(t TargetKey) int {
	switch {
	case t.Kind != TargetDataplane:
		return 0
	case t.SectionName == "":
		return 1
	default:
		return 2
	}
}

func originRank(o string) int {
	switch o {
	case resource.OriginGlobal:
		return 0
	case resource.OriginZone:
		return 2
	default:
		return 1
	}
}

func roleRank(r string) int {
	return slices.Index([]string{role.System, role.Producer, role.Consumer, role.WorkloadOwner}, r)
}

// A Target is a destination, or one of its routes, as items of to see it.
type Target struct {
	Kind   string // MeshService, MeshMultiZoneService, MeshExternalService
	Labels map[string]string
	Port   string // port name, or number when unnamed
	Routes []RouteTarget
}

// A RouteTarget is a MeshHTTPRoute that governs (part of) a destination.
type RouteTarget struct {
	KRI    resource.KRI
	Labels map[string]string
}

// An Entry is one item of to or rules with the policy it stands in.
type Entry struct {
	Head    Head
	Index   int
	Item    Item
	Inbound bool // it stands in rules
}

// Sourced returns the entry's configuration with its origin.
func (e Entry) Sourced() Sourced {
	s := Sourced{Policy: e.Head.KRI, Index: e.Index, Rule: e.Inbound, Home: Home{Namespace: e.Head.Namespace}, Conf: e.Item.Conf}
	if e.Head.Role == role.Producer {
		s.Home.Zone = e.Head.Zone
	}
	return s
}

// ForDestination returns the entries of to that concern a destination, weakest first.
// With a route, entries that target this MeshHTTPRoute are included: configuration of a route adds to that of its service.
func ForDestination(entries []Entry, t Target, route *RouteTarget) []Sourced {
	var hit []Entry
	for _, e := range entries {
		if !e.Inbound && e.concerns(t, route) {
			hit = append(hit, e)
		}
	}
	slices.SortStableFunc(hit, func(a, b Entry) int {
		return cmp.Or(
			comparePrefix(a.Head, b.Head),
			cmp.Compare(toRank(a.Item.Target), toRank(b.Item.Target)),
			CompareNames(a.Head, b.Head),
			cmp.Compare(a.Index, b.Index),
		)
	})
	out := make([]Sourced, len(hit))
	for i, e := range hit {
		out[i] = e.Sourced()
	}
	return out
}

func (e Entry) concerns(t Target, route *RouteTarget) bool {
	ref := e.Item.Target
	switch ref.KindOrMesh() {
	case TargetMesh:
		return true
	case TargetHTTPRoute:
		return route != nil && e.sees(ref.Labels, route.Labels)
	case t.Kind:
		return e.sees(ref.Labels, t.Labels) && (ref.SectionName == "" || ref.SectionName == t.Port)
	}
	return false
}

// sees applies a selector. A producer policy that names no namespace or zone means its own:
// its role was computed on that assumption, so a wider match would reach services of others.
func (e Entry) sees(selector, labels map[string]string) bool {
	if !resource.Selector(selector).Matches(labels) {
		return false
	}
	if e.Head.Role != role.Producer {
		return true
	}
	implicit := func(key, own string) bool {
		_, named := selector[key]
		return named || own == "" || labels[key] == own
	}
	return implicit(resource.LabelNamespace, e.Head.Namespace) && implicit(resource.LabelZone, e.Head.Zone)
}

// toRank orders targets from general to specific.
func toRank(t TargetRef) int {
	rank := 2 * slices.Index([]string{TargetMesh, TargetService, TargetExternal, TargetMultiZone, TargetHTTPRoute}, t.KindOrMesh())
	if t.SectionName != "" {
		rank++
	}
	return rank
}

// A ClientConf is the configuration for the clients that match.
type ClientConf struct {
	Match   Match // zero for every client
	Sources []Sourced
}

// EveryRule is all rules, for policies of which each holds by itself.
func EveryRule(entries []Entry) []ClientConf {
	var c ClientConf
	for _, e := range entries {
		c.Sources = append(c.Sources, e.Sourced())
	}
	return []ClientConf{c}
}

// EveryRuleFor is EveryRule where only clients of one server name come: rules for other names are left out.
func EveryRuleFor(entries []Entry, name string) []ClientConf {
	return EveryRule(slices.DeleteFunc(slices.Clone(entries), func(e Entry) bool {
		return len(e.Item.Matches) > 0 && !slices.ContainsFunc(e.Item.Matches, func(m Match) bool { return m.SNI == nil || m.SNI.Value == name })
	}))
}

// ForInbound evaluates rules: for each distinct match, most specific first and the catch-all last,
// all sources that apply to such clients, weakest first. A more specific match is stronger than a more general one;
// among equal matches the order of policies decides.
func ForInbound(entries []Entry) []ClientConf {
	matches := []Match{{}}
	for _, e := range entries {
		for _, m := range e.Item.Matches {
			if !slices.ContainsFunc(matches, func(o Match) bool { return o.key() == m.key() }) {
				matches = append(matches, m)
			}
		}
	}
	slices.SortStableFunc(matches, CompareMatches)
	out := make([]ClientConf, len(matches))
	for i, m := range matches {
		out[i] = ClientConf{Match: m, Sources: sourcesFor(entries, m)}
	}
	return out
}

func sourcesFor(entries []Entry, m Match) []Sourced {
	type hit struct {
		e    Entry
		best Match
	}
	var hits []hit
	for _, e := range entries {
		if len(e.Item.Matches) == 0 {
			hits = append(hits, hit{e, Match{}})
			continue
		}
		var best *Match
		for _, em := range e.Item.Matches {
			if em.Subsumes(m) && (best == nil || CompareMatches(em, *best) < 0) {
				best = &em
			}
		}
		if best != nil {
			hits = append(hits, hit{e, *best})
		}
	}
	slices.SortStableFunc(hits, func(a, b hit) int {
		return cmp.Or(-CompareMatches(a.best, b.best), CompareHeads(a.e.Head, b.e.Head), cmp.Compare(a.e.Index, b.e.Index))
	})
	out := make([]Sourced, len(hits))
	for i, h := range hits {
		out[i] = h.e.Sourced()
	}
	return out
}

// ForServerName evaluates rules where only clients of one server name come: those for other names do not apply, and
// the matches of the rest are of identities alone.
func ForServerName(entries []Entry, name string) []ClientConf {
	sni := &SNIMatch{Type: MatchExact, Value: name}
	matches := []Match{{SNI: sni}}
	for _, e := range entries {
		for _, m := range e.Item.Matches {
			full := Match{m.SpiffeID, sni}
			if m.Subsumes(full) && !slices.ContainsFunc(matches, func(o Match) bool { return o.key() == full.key() }) {
				matches = append(matches, full)
			}
		}
	}
	slices.SortStableFunc(matches, CompareMatches)
	out := make([]ClientConf, len(matches))
	for i, m := range matches {
		out[i] = ClientConf{Match: Match{SpiffeID: m.SpiffeID}, Sources: sourcesFor(entries, m)}
	}
	return out
}

// ForUpstream returns the rules that hold for every client of a server name, weakest first: those that name no server, and those that name it.
func ForUpstream(entries []Entry, name string) (all, named []Sourced) {
	everyone := Match{SNI: &SNIMatch{Type: MatchExact, Value: name}}
	var catchAll, rest []Entry
	for _, e := range entries {
		switch {
		case len(e.Item.Matches) == 0:
			catchAll = append(catchAll, e)
		default:
			rest = append(rest, e)
		}
	}
	return sourcesFor(catchAll, everyone), sourcesFor(rest, everyone)
}
