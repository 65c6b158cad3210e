package httproute

import (
	"math"
	"net/http"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
)

var hooks = policy.Hooks[Routing]{
	Routes: policy.Hook[func(Routing, proxy.Destination, policy.Resolve) []policy.RouteOf]{Apply: routes},
}

const million = 1_000_000

// routes are the routes of a destination, the most specific first.
// What nothing matches goes to the destination itself, unless a rule takes everything.
func routes(c Routing, d proxy.Destination, resolve policy.Resolve) []policy.RouteOf {
	var out []policy.RouteOf
	complete := false
	for _, e := range c.Routes {
		// The name is the identifier; its section says which rule, which is not part of the policy's own.
		kri := identifier(e.Policy)
		for _, r := range e.routes(d, resolve) {
			out = append(out, policy.RouteOf{Route: r, Policy: kri})
		}
		complete = complete || e.Match.isCatchAll()
	}
	if !complete {
		rest := Entry{Policy: "default", Match: Match{}.normal()}
		for _, r := range rest.routes(d, resolve) {
			out = append(out, policy.RouteOf{Route: r})
		}
	}
	return out
}

// identifier reads the identifier of a rule, whose section holds an underscore that a written identifier may not have.
func identifier(s string) resource.KRI {
	whole, section := s, ""
	if i := strings.LastIndex(s, "_rule_"); i >= 0 {
		whole, section = s[:i+1], s[i+1:]
	}
	kri, err := resource.ParseKRI(whole)
	if err != nil {
		return resource.KRI{}
	}
	return kri.WithSection(section)
}

// routes are the Envoy routes of one match: two for a prefix, and another for the share of backends that do not exist.
func (e Entry) routes(d proxy.Destination, resolve policy.Resolve) []*routev3.Route {
	split := e.backends(d, resolve)
	var out []*routev3.Route
	for _, p := range pathsOf(e.Match.pathOrRoot()) {
		m := e.Match.proto()
		p.set(m)
		if redirect := e.redirect(p); redirect != nil {
			r := &routev3.Route{Name: e.Policy, Match: m, Action: &routev3.Route_Redirect{Redirect: redirect}}
			e.editHeaders(r)
			out = append(out, r)
			continue
		}
		if split.lost > 0 {
			failing := proto.CloneOf(m)
			if split.lost < 1 {
				failing.RuntimeFraction = fraction(split.lost)
			}
			out = append(out, &routev3.Route{Name: e.Policy, Match: failing, Action: &routev3.Route_DirectResponse{
				DirectResponse: &routev3.DirectResponseAction{Status: http.StatusInternalServerError},
			}})
		}
		if split.lost < 1 {
			action := split.action()
			e.rewrite(action, p)
			action.RequestMirrorPolicies = e.mirrors(resolve)
			r := &routev3.Route{Name: e.Policy, Match: m, Action: &routev3.Route_Route{Route: action}}
			e.editHeaders(r)
			out = append(out, r)
		}
	}
	return out
}

// A path is one way in which a path match is written for Envoy.
type path struct {
	value string
	kind  string // Exact, PathPrefix or RegularExpression
	// whole is the exact form of a prefix.
	whole bool
}

// pathsOf writes a prefix as two routes, /a and /a/: Envoy's own prefix of whole elements cannot be rewritten without doubling slashes.
func pathsOf(p PathMatch) []path {
	if p.Type != PathPrefix || p.Value == "/" {
		return []path{{value: p.Value, kind: p.Type}}
	}
	return []path{{value: p.Value, kind: policy.MatchExact, whole: true}, {value: p.Value + "/", kind: PathPrefix}}
}

func (p path) set(m *routev3.RouteMatch) {
	switch p.kind {
	case policy.MatchExact:
		m.PathSpecifier = &routev3.RouteMatch_Path{Path: p.value}
	case policy.MatchRegex:
		m.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: p.value}}
	default:
		m.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: p.value}
	}
}

// replaced is what stands in place of the prefix, with slashes as in the form of the path.
func (p path) replaced(with string) string {
	with = strings.TrimRight(with, "/")
	if p.whole && with != "" {
		return with
	}
	return with + "/"
}

// proto is the match without its path.
func (m Match) proto() *routev3.RouteMatch {
	out := &routev3.RouteMatch{}
	if m.Method != "" {
		out.Headers = append(out.Headers, policy.HeaderMatch{Name: ":method", Value: m.Method}.Proto())
	}
	for _, h := range m.Headers {
		out.Headers = append(out.Headers, h.Proto())
	}
	for _, q := range m.QueryParams {
		s := policy.Exactly(q.Value)
		if q.Type == policy.MatchRegex {
			s = policy.Regex(q.Value)
		}
		out.QueryParameters = append(out.QueryParameters, &routev3.QueryParameterMatcher{
			Name: q.Name, QueryParameterMatchSpecifier: &routev3.QueryParameterMatcher_StringMatch{StringMatch: s},
		})
	}
	return out
}

// A split is where requests go.
type split struct {
	clusters []*routev3.WeightedCluster_ClusterWeight
	// lost is the share of backends that do not exist.
	lost float64
	// external says that the host must be that of the endpoint.
	external bool
}

func (e Entry) backends(d proxy.Destination, resolve policy.Resolve) split {
	if len(e.BackendRefs) == 0 {
		return split{
			clusters: []*routev3.WeightedCluster_ClusterWeight{{Name: d.KRI.String(), Weight: wrapperspb.UInt32(1)}},
			external: d.Type == policy.TargetExternal,
		}
	}
	var s split
	var total, lost float64
	for _, b := range e.BackendRefs {
		w := b.WeightOrDefault()
		if w == 0 {
			continue
		}
		total += float64(w)
		cluster, ok := resolve(b)
		if !ok {
			lost += float64(w)
			continue
		}
		s.clusters = append(s.clusters, &routev3.WeightedCluster_ClusterWeight{Name: cluster, Weight: wrapperspb.UInt32(w)})
		s.external = s.external || b.Kind == policy.TargetExternal
	}
	if len(s.clusters) == 0 { // also when all weights are zero: nobody may get the requests
		return split{lost: 1}
	}
	s.lost = lost / total
	return s
}

func (s split) action() *routev3.RouteAction {
	a := &routev3.RouteAction{}
	if len(s.clusters) == 1 {
		a.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: s.clusters[0].Name}
	} else {
		a.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: &routev3.WeightedCluster{Clusters: s.clusters}}
	}
	if s.external {
		a.HostRewriteSpecifier = &routev3.RouteAction_AutoHostRewrite{AutoHostRewrite: wrapperspb.Bool(true)}
	}
	return a
}

// fraction is a share of requests. A share too small to be expressed is not rounded to nothing.
func fraction(share float64) *corev3.RuntimeFractionalPercent {
	n := uint32(math.Round(share * million))
	return &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{
		Numerator: max(n, 1), Denominator: typev3.FractionalPercent_MILLION,
	}}
}

func (e Entry) filter(typ string) *Filter {
	for i := range e.Filters {
		if e.Filters[i].Type == typ {
			return &e.Filters[i]
		}
	}
	return nil
}

var redirectResponses = map[uint32]routev3.RedirectAction_RedirectResponseCode{
	301: routev3.RedirectAction_MOVED_PERMANENTLY, 302: routev3.RedirectAction_FOUND, 303: routev3.RedirectAction_SEE_OTHER,
	307: routev3.RedirectAction_TEMPORARY_REDIRECT, 308: routev3.RedirectAction_PERMANENT_REDIRECT,
}

func (e Entry) redirect(p path) *routev3.RedirectAction {
	f := e.filter(Redirect)
	if f == nil || f.RequestRedirect == nil {
		return nil
	}
	r := f.RequestRedirect
	out := &routev3.RedirectAction{HostRedirect: r.Hostname, ResponseCode: routev3.RedirectAction_FOUND}
	if r.Scheme != "" {
		out.SchemeRewriteSpecifier = &routev3.RedirectAction_SchemeRedirect{SchemeRedirect: r.Scheme}
	}
	if r.Port != nil {
		out.PortRedirect = *r.Port
	}
	if r.StatusCode != nil {
		out.ResponseCode = redirectResponses[*r.StatusCode]
	}
	switch path := r.Path; {
	case path == nil:
	case path.ReplaceFullPath != nil:
		out.PathRewriteSpecifier = &routev3.RedirectAction_PathRedirect{PathRedirect: *path.ReplaceFullPath}
	case path.ReplacePrefixMatch != nil:
		out.PathRewriteSpecifier = &routev3.RedirectAction_PrefixRewrite{PrefixRewrite: p.replaced(*path.ReplacePrefixMatch)}
	}
	return out
}

func (e Entry) rewrite(a *routev3.RouteAction, p path) {
	f := e.filter(Rewrite)
	if f == nil || f.URLRewrite == nil {
		return
	}
	r := f.URLRewrite
	if r.Hostname != "" {
		a.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: r.Hostname}
	}
	switch path := r.Path; {
	case path == nil:
	case path.ReplaceFullPath != nil:
		a.RegexRewrite = &matcherv3.RegexMatchAndSubstitute{
			Pattern:      &matcherv3.RegexMatcher{Regex: "^/.*$"},
			Substitution: strings.ReplaceAll(*path.ReplaceFullPath, `\`, `\\`),
		}
	case path.ReplacePrefixMatch != nil:
		a.PrefixRewrite = p.replaced(*path.ReplacePrefixMatch)
	}
}

func (e Entry) mirrors(resolve policy.Resolve) []*routev3.RouteAction_RequestMirrorPolicy {
	var out []*routev3.RouteAction_RequestMirrorPolicy
	for _, f := range e.Filters {
		m := f.RequestMirror
		if f.Type != Mirror || m == nil {
			continue
		}
		share := 1.0
		if m.Percentage != nil {
			share = m.Percentage.Float() / 100
		}
		cluster, ok := resolve(m.BackendRef)
		if !ok || share == 0 {
			continue
		}
		out = append(out, &routev3.RouteAction_RequestMirrorPolicy{Cluster: cluster, RuntimeFraction: fraction(share)})
	}
	return out
}

func (e Entry) editHeaders(r *routev3.Route) {
	for _, f := range e.Filters {
		if m := f.RequestHeaderModifier; f.Type == RequestHeaderModifier && m != nil {
			r.RequestHeadersToAdd = append(r.RequestHeadersToAdd, m.Options()...)
			r.RequestHeadersToRemove = append(r.RequestHeadersToRemove, m.Remove...)
		}
		if m := f.ResponseHeaderModifier; f.Type == ResponseHeaderModifier && m != nil {
			r.ResponseHeadersToAdd = append(r.ResponseHeadersToAdd, m.Options()...)
			r.ResponseHeadersToRemove = append(r.ResponseHeadersToRemove, m.Remove...)
		}
	}
}
