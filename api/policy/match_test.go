package policy_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/causeway-mesh/causeway/api/policy"
)

func exact(id string) policy.Match {
	return policy.Match{SpiffeID: &policy.SpiffeIDMatch{Type: policy.MatchExact, Value: id}}
}

func prefix(id string) policy.Match {
	return policy.Match{SpiffeID: &policy.SpiffeIDMatch{Type: policy.MatchPrefix, Value: id}}
}

func sni(name string) policy.Match {
	return policy.Match{SNI: &policy.SNIMatch{Type: policy.MatchExact, Value: name}}
}

func both(a, b policy.Match) policy.Match { return policy.Match{SpiffeID: a.SpiffeID, SNI: b.SNI} }

func TestCheckMatch(t *testing.T) {
	for _, m := range []policy.Match{
		exact("spiffe://mesh.local/ns/a"), exact("spiffe://mesh.local"), prefix("spiffe://mesh"), prefix("spiffe://mesh."),
		prefix("spiffe://"), prefix("spiffe://mesh.local/"), sni("a.b-c.d"), both(exact("spiffe://a/b"), sni("x")),
	} {
		if ps := policy.CheckMatch("m", m); len(ps) > 0 {
			t.Errorf("%+v: %v", m, ps)
		}
	}
	for want, m := range map[string]policy.Match{
		"m: must have spiffeID or sni":           {},
		"m.spiffeID.value: \"mesh.local/a\"":     exact("mesh.local/a"),
		"m.spiffeID.value: \"spiffe://\" has no": exact("spiffe://"),
		"m.spiffeID.value: \"spiffe:///a\"":      prefix("spiffe:///a"),
		"must consist of a trust domain":         exact("spiffe://user@a/b"),
		"m.sni.value: \"\" is not":               sni(""),
		"m.sni.value: \"*.a\" is not":            sni("*.a"),
		"m.spiffeID.type: must be Exact":         {SpiffeID: &policy.SpiffeIDMatch{Value: "spiffe://a"}},
		"m.sni.type: must be Exact":              {SNI: &policy.SNIMatch{Type: policy.MatchPrefix, Value: "a"}},
		"is not a SPIFFE ID":                     exact("spiffe://a/" + strings.Repeat("x", 2048)),
	} {
		if got := policy.CheckMatch("m", m).Error(); !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestMatchOrder(t *testing.T) {
	want := []policy.Match{
		both(exact("spiffe://m/a"), sni("x")), exact("spiffe://m/a"),
		both(prefix("spiffe://m/a"), sni("x")), prefix("spiffe://m/a"), both(prefix("spiffe://m"), sni("x")), prefix("spiffe://m"),
		sni("x"), sni("y"),
		{},
	}
	for seed := range 20 {
		got := rapid.Permutation(want).Example(seed)
		slices.SortFunc(got, policy.CompareMatches)
		for i := range want {
			if policy.CompareMatches(got[i], want[i]) != 0 {
				t.Fatalf("place %d has %+v, want %+v", i, got[i], want[i])
			}
		}
	}
}

var anyMatch = rapid.Custom(func(t *rapid.T) policy.Match {
	var m policy.Match
	id := rapid.SampledFrom([]string{"spiffe://m", "spiffe://m/a", "spiffe://m/a/b", "spiffe://n"}).Draw(t, "id")
	switch rapid.IntRange(0, 2).Draw(t, "type") {
	case 0:
		m.SpiffeID = exact(id).SpiffeID
	case 1:
		m.SpiffeID = prefix(id).SpiffeID
	}
	if rapid.Bool().Draw(t, "sni") {
		m.SNI = sni(rapid.SampledFrom([]string{"x", "y"}).Draw(t, "name")).SNI
	}
	return m
})

// accepts is what a match means, said independently.
func accepts(m policy.Match, id, name string) bool {
	if m.SNI != nil && m.SNI.Value != name {
		return false
	}
	switch s := m.SpiffeID; {
	case s == nil:
		return true
	case s.Type == policy.MatchExact:
		return id == s.Value
	default:
		return strings.HasPrefix(id, s.Value)
	}
}

// What subsumes another match accepts all its clients and is not more specific; specificity is a total order.
func TestSubsumes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := anyMatch.Draw(t, "a"), anyMatch.Draw(t, "b"), anyMatch.Draw(t, "c")
		if !a.Subsumes(a) {
			t.Fatal("a match does not subsume itself")
		}
		if a.Subsumes(b) && b.Subsumes(c) && !a.Subsumes(c) {
			t.Fatal("not transitive")
		}
		if a.Subsumes(b) && policy.CompareMatches(a, b) < 0 {
			t.Fatal("the general match is the more specific one")
		}
		if x := policy.CompareMatches(a, b); x != -policy.CompareMatches(b, a) || x <= 0 && policy.CompareMatches(b, c) <= 0 && policy.CompareMatches(a, c) > 0 {
			t.Fatal("not an order")
		}
		for _, id := range []string{"spiffe://m", "spiffe://m/a", "spiffe://m/a/b", "spiffe://m/ab", "spiffe://n", "spiffe://nn"} {
			for _, name := range []string{"", "x", "y"} {
				if a.Subsumes(b) && accepts(b, id, name) && !accepts(a, id, name) {
					t.Fatalf("%s asking for %q is accepted by %+v alone", id, name, b)
				}
			}
		}
	})
}
