package httproute_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"pgregory.net/rapid"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policies/httproute"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// A request is what routes look at.
type request struct {
	path, method string
	headers      map[string]string
	query        map[string]string
}

var (
	paths   = []string{"/", "/a", "/a/b", "/a/b/c", "/ab", "/v1/x"}
	methods = []string{"GET", "POST"}
	values  = []string{"", "1", "2"}
)

var anyRequest = rapid.Custom(func(t *rapid.T) request {
	r := request{
		path: rapid.SampledFrom(paths).Draw(t, "path"), method: rapid.SampledFrom(methods).Draw(t, "method"),
		headers: map[string]string{}, query: map[string]string{},
	}
	for _, n := range []string{"x", "y"} {
		if v := rapid.SampledFrom(values).Draw(t, n); v != "" {
			r.headers[n] = v
		}
		if v := rapid.SampledFrom(values).Draw(t, "?"+n); v != "" {
			r.query[n] = v
		}
	}
	return r
})

var anyMatch = rapid.Custom(func(t *rapid.T) httproute.Match {
	var m httproute.Match
	if p := rapid.SampledFrom([]httproute.PathMatch{
		{},
		{Type: "Exact", Value: "/a"},
		{Type: "Exact", Value: "/a/b"},
		{Type: "PathPrefix", Value: "/"},
		{Type: "PathPrefix", Value: "/a"},
		{Type: "PathPrefix", Value: "/a/b"},
		{Type: "RegularExpression", Value: "/a.*"},
		{Type: "RegularExpression", Value: "/v[0-9]/.*"},
	}).Draw(t, "path"); p.Type != "" {
		m.Path = &p
	}
	if rapid.Bool().Draw(t, "by method") {
		m.Method = rapid.SampledFrom(methods).Draw(t, "method")
	}
	for _, n := range rapid.Permutation([]string{"x", "y"}).Draw(t, "names")[:rapid.IntRange(0, 2).Draw(t, "headers")] {
		h := policy.HeaderMatch{Name: n, Type: rapid.SampledFrom([]string{"", "Exact", "Present", "Absent"}).Draw(t, "type")}
		if h.TypeOrExact() == policy.MatchExact {
			h.Value = rapid.SampledFrom(values[1:]).Draw(t, "value")
		}
		m.Headers = append(m.Headers, h)
	}
	if rapid.IntRange(0, 3).Draw(t, "query") == 0 {
		m.QueryParams = []httproute.QueryParamMatch{{Name: "x", Value: "1"}}
	}
	return m
})

// accepts is what a match means, said independently.
func accepts(m httproute.Match, r request) bool {
	if p := m.Path; p != nil {
		switch p.Type {
		case "Exact":
			if r.path != p.Value {
				return false
			}
		case "PathPrefix":
			if p.Value != "/" && r.path != p.Value && !strings.HasPrefix(r.path, p.Value+"/") {
				return false
			}
		default:
			if !regexp.MustCompile("^(?:" + p.Value + ")$").MatchString(r.path) {
				return false
			}
		}
	}
	if m.Method != "" && m.Method != r.method {
		return false
	}
	for _, h := range m.Headers {
		v, ok := r.headers[h.Name]
		if t := h.TypeOrExact(); t == "Present" && !ok || t == "Absent" && ok || t == "Exact" && (!ok || v != h.Value) {
			return false
		}
	}
	for _, q := range m.QueryParams {
		if r.query[q.Name] != q.Value {
			return false
		}
	}
	return true
}

// rank is the precedence of a match as numbers, the higher the better.
func rank(m httproute.Match) []int {
	kind, length := 0, 1
	if p := m.Path; p != nil && *p != (httproute.PathMatch{Type: "PathPrefix", Value: "/"}) {
		kind, length = map[string]int{"Exact": 3, "PathPrefix": 2, "RegularExpression": 1}[p.Type], len(p.Value)
	}
	method := 0
	if m.Method != "" {
		method = 1
	}
	return []int{kind, length, method, len(m.Headers), len(m.QueryParams)}
}

// envoyTakes carries out what Envoy does with a route match.
func envoyTakes(t *rapid.T, m *routev3.RouteMatch, r request) bool {
	switch p := m.PathSpecifier.(type) {
	case *routev3.RouteMatch_Path:
		if r.path != p.Path {
			return false
		}
	case *routev3.RouteMatch_Prefix:
		if !strings.HasPrefix(r.path, p.Prefix) {
			return false
		}
	case *routev3.RouteMatch_SafeRegex:
		if !regexp.MustCompile("^(?:" + p.SafeRegex.Regex + ")$").MatchString(r.path) {
			return false
		}
	default:
		t.Fatalf("a route without a path: %v", m)
	}
	text := func(s *matcherv3.StringMatcher, v string, ok bool) bool { return ok && s.GetExact() == v }
	for _, h := range m.Headers {
		v, ok := r.headers[h.Name]
		if h.Name == ":method" {
			v, ok = r.method, true
		}
		holds := ok
		if s := h.GetStringMatch(); s != nil {
			holds = text(s, v, ok)
		}
		if holds == h.InvertMatch {
			return false
		}
	}
	for _, q := range m.QueryParameters {
		v, ok := r.query[q.Name]
		if !text(q.GetStringMatch(), v, ok) {
			return false
		}
	}
	return true
}

// A wanted is a match with the backend that its rule names, so that it shows which rule was taken.
type wanted struct {
	match   httproute.Match
	backend string
}

// Every request takes the rule that the documented precedence says, of whatever policy it is.
func TestPrecedence(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var in []policy.Sourced // weakest first
		var best []wanted       // strongest policy and earliest rule first
		for i := range rapid.IntRange(1, 3).Draw(t, "policies") {
			var rules []httproute.Rule
			var own []wanted
			for j := range rapid.IntRange(1, 3).Draw(t, "rules") {
				backend := fmt.Sprintf("p%d-r%d", i, j)
				matches := rapid.SliceOfN(anyMatch, 1, 2).Draw(t, "matches")
				for _, m := range matches {
					own = append(own, wanted{m, backend})
				}
				rules = append(rules, httproute.Rule{Matches: matches, Default: httproute.RuleConf{
					BackendRefs: []policy.BackendRef{{Kind: policy.TargetService, Labels: map[string]string{resource.LabelDisplayName: backend}}},
				}})
			}
			kri := resource.KRI{Short: "mhttpr", Mesh: "m", Name: fmt.Sprintf("p%d", i)}
			in = append(in, policy.Sourced{Policy: kri, Conf: tree(t, httproute.To{Rules: rules})})
			best = append(own, best...)
		}
		slices.SortStableFunc(best, func(a, b wanted) int { return -slices.Compare(rank(a.match), rank(b.match)) })
		routes := routesOf(t, in)
		for range 20 {
			r := anyRequest.Draw(t, "request")
			want := "kri_msvc_m___own_"
			if i := slices.IndexFunc(best, func(w wanted) bool { return accepts(w.match, r) }); i >= 0 {
				want = best[i].backend
			}
			i := slices.IndexFunc(routes, func(ro policy.RouteOf) bool { return envoyTakes(t, ro.Route.Match, r) })
			if i < 0 {
				t.Fatalf("%+v takes no route", r)
			}
			if got := routes[i].Route.GetRoute().GetCluster(); got != want {
				t.Fatalf("%+v goes to %s, want %s", r, got, want)
			}
			// Every route keeps the identifier of its own policy, so that other policies can target it.
			if owner := cmp.Or(routes[i].Policy.Name, "kri"); !strings.HasPrefix(want, owner) {
				t.Fatalf("the route to %s is said to be of %s", want, owner)
			}
		}
	})
}

func routesOf(t *rapid.T, in []policy.Sourced) []policy.RouteOf {
	b, err := httproute.Policy.Bind(httproute.Policy.Effective(proxy.Outbound, string(mesh.HTTP), in).Conf)
	if err != nil {
		t.Fatal(err)
	}
	own := proxy.Destination{KRI: resource.KRI{Short: "msvc", Mesh: "m", Name: "own"}, Type: policy.TargetService, Protocol: mesh.HTTP}
	return b.Routes(own, func(ref policy.BackendRef) (string, bool) { return ref.Labels[resource.LabelDisplayName], true })
}

func tree(t *rapid.T, v any) map[string]any {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// The share of what does not exist is answered with 500, in whatever proportion.
func TestLostShare(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var refs []policy.BackendRef
		var total, lost uint64
		for range rapid.IntRange(1, 4).Draw(t, "backends") {
			w := rapid.Uint32Range(0, 100).Draw(t, "weight")
			name := rapid.SampledFrom([]string{"there", "gone"}).Draw(t, "name")
			refs = append(refs, policy.BackendRef{Kind: policy.TargetService, Labels: map[string]string{resource.LabelDisplayName: name}, Weight: &w})
			total += uint64(w)
			if name == "gone" {
				lost += uint64(w)
			}
		}
		rule := httproute.Rule{Matches: []httproute.Match{{}}, Default: httproute.RuleConf{BackendRefs: refs}}
		kri := resource.KRI{Short: "mhttpr", Mesh: "m", Name: "p"}
		b, err := httproute.Policy.Bind(httproute.Policy.Effective(proxy.Outbound, "http", []policy.Sourced{{Policy: kri, Conf: tree(t, httproute.To{Rules: []httproute.Rule{rule}})}}).Conf)
		if err != nil {
			t.Fatal(err)
		}
		routes := b.Routes(proxy.Destination{}, func(ref policy.BackendRef) (string, bool) {
			name := ref.Labels[resource.LabelDisplayName]
			return name, name == "there"
		})
		failing := 0.0
		if first := routes[0].Route; first.GetDirectResponse() != nil {
			if first.GetDirectResponse().Status != 500 {
				t.Fatalf("answered with %d", first.GetDirectResponse().Status)
			}
			failing = 1
			if f := first.Match.RuntimeFraction; f != nil {
				failing = float64(f.DefaultValue.Numerator) / 1e6
			}
		}
		want := 1.0
		if total > lost {
			want = float64(lost) / float64(total)
		}
		if d := failing - want; d < -1e-6 || d > 1e-6 {
			t.Fatalf("%f of the requests fail, want %f", failing, want)
		}
		var sum uint64
		last := routes[len(routes)-1].Route.GetRoute()
		for _, c := range last.GetWeightedClusters().GetClusters() {
			sum += uint64(c.Weight.Value)
		}
		if last.GetWeightedClusters() != nil && sum != total-lost {
			t.Fatalf("weights add up to %d, want %d", sum, total-lost)
		}
	})
}
