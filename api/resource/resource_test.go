package resource_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/causeway-mesh/causeway/api/resource"
)

func TestLookup(t *testing.T) {
	for _, word := range []string{"MeshThing", "meshthing", "mesh-thing", "meshthings", "mesh-things", "MESHTHINGS", "mthing"} {
		if k, err := kinds.Lookup(word); err != nil || k.Name != "MeshThing" {
			t.Errorf("%s is %q (%v)", word, k.Name, err)
		}
	}
	for word, want := range map[string]string{"MeshThnig": "did you mean MeshThing?", "x": `unknown resource type: "x"`, "": `unknown resource type: ""`} {
		if _, err := kinds.Lookup(word); !errors.Is(err, resource.ErrUnknownKind) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", word, err)
		}
	}
	if k, ok := kinds.ByShort("mthing"); !ok || k.Name != "MeshThing" {
		t.Error("not found by short name")
	}
	if k, ok := kinds.ByPath("plains"); !ok || k.Name != "Plain" {
		t.Error("not found by path")
	}
	if _, ok := kinds.ByShort(""); ok {
		t.Error("a kind without short name is found by none")
	}
	if got := len(kinds.All()); got != 2 {
		t.Errorf("%d kinds", got)
	}
}

func TestKindsListedTwice(t *testing.T) {
	defer func() {
		if r, ok := recover().(string); !ok || !strings.Contains(r, "meshthings") {
			t.Errorf("got %v", r)
		}
	}()
	resource.NewKinds(thing, resource.Kind{Name: "Other", Path: "meshthings"})
}

func TestNearest(t *testing.T) {
	known := []string{"connectionTimeout", "idleTimeout", "http", "to"}
	for word, want := range map[string]string{
		"connectionTimeuot": "connectionTimeout", "idletimeout": "idleTimeout", "htp": "http", "HTTP": "http", "tO": "to",
		"completelyDifferent": "", "": "to", strings.Repeat("a", 10_000): "",
	} {
		if got := resource.Nearest(word, known); got != want {
			t.Errorf("%.20s: got %q, want %q", word, got, want)
		}
	}
}

// A word with one letter dropped, doubled or replaced is still found.
func TestNearestFindsSlips(t *testing.T) {
	known := []string{"connectionTimeout", "maxStreamDuration", "hostSelection", "retriableResponseHeaders"}
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SampledFrom(known).Draw(t, "word")
		i := rapid.IntRange(0, len(want)-1).Draw(t, "place")
		slip := rapid.SampledFrom([]string{want[:i] + want[i+1:], want[:i] + want[i:i+1] + want[i:], want[:i] + "x" + want[i+1:]}).Draw(t, "slip")
		if got := resource.Nearest(slip, known); got != want {
			t.Fatalf("%s: got %q", slip, got)
		}
	})
}

func TestSelector(t *testing.T) {
	labels := map[string]string{"a": "1", "b": ""}
	for _, c := range []struct {
		selector resource.Selector
		want     bool
	}{
		{nil, true},
		{resource.Selector{"a": "1"}, true},
		{resource.Selector{"a": "1", "b": ""}, true},
		{resource.Selector{"a": "2"}, false},
		{resource.Selector{"c": ""}, false},
		{resource.Selector{"a": "1", "c": "1"}, false},
	} {
		if got := c.selector.Matches(labels); got != c.want {
			t.Errorf("%s: %t", c.selector, got)
		}
	}
	if got := (resource.Selector{"b": "2", "a": "1"}).String(); got != "a=1,b=2" {
		t.Errorf("got %s", got)
	}
}

func TestCheckLabels(t *testing.T) {
	if ps := resource.CheckLabels("labels", map[string]string{"a": "", "kuma.io/zone": "east-1", "a-b.c/D": "X_y.z"}); len(ps) > 0 {
		t.Error(ps)
	}
	for key, value := range map[string]string{"": "a", "a b": "c", "-a": "b", "a/b/c": "d", "ok": "no space", "long": strings.Repeat("a", 64), strings.Repeat("k", 400): "v"} {
		ps := resource.CheckLabels("labels", map[string]string{key: value})
		if len(ps) == 0 {
			t.Errorf("%q: %q is accepted", key, value)
		}
		for _, p := range ps {
			if !strings.HasPrefix(p.Field, `labels["`) || len(p.Field) > 100 {
				t.Errorf("the path of %q is %s", key, p.Field)
			}
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, c := range []struct {
		rule resource.NameRule
		name string
		ok   bool
	}{
		{resource.RFC1123Subdomain, "a.b-1", true},
		{resource.RFC1123Subdomain, "1a", true},
		{resource.RFC1123Subdomain, strings.Repeat("a", 253), true},
		{resource.RFC1123Subdomain, strings.Repeat("a", 254), false},
		{resource.RFC1123Subdomain, "A", false},
		{resource.RFC1123Subdomain, "a_b", false},
		{resource.RFC1035Label, "a-1", true},
		{resource.RFC1035Label, "1a", false},
		{resource.RFC1035Label, "a.b", false},
		{resource.RFC1035Label, strings.Repeat("a", 64), false},
		{resource.RFC1123Subdomain, "", false},
		{resource.RFC1035Label, "", false},
	} {
		if got := len(resource.CheckName("name", c.rule, c.name)) == 0; got != c.ok {
			t.Errorf("%.30s: %t", c.name, got)
		}
	}
}

func TestProblems(t *testing.T) {
	var ps resource.Problems
	if ps.Err() != nil {
		t.Error("no problem is an error")
	}
	at := resource.Path("").Field("spec").Field("to").Index(3).Key("a\"b")
	ps.Add(at, "must be %d", 5)
	ps.Append(resource.Problems{{Reason: "is bad"}})
	if got := ps.Err().Error(); got != `spec.to[3]["a\"b"]: must be 5; is bad` {
		t.Errorf("got %s", got)
	}
	if got := resource.Quote(strings.Repeat("x", 1000) + "\n"); len(got) > 100 {
		t.Errorf("a quote of %d characters", len(got))
	}
	if got := resource.Quote("a\nb"); got != `"a\nb"` {
		t.Errorf("got %s", got)
	}
}

func TestKeys(t *testing.T) {
	want := []resource.Key{{Type: "A", Mesh: "m", Name: "n"}, {Type: "B", Name: "a"}, {Type: "B", Mesh: "m", Name: "a"}, {Type: "B", Mesh: "m", Name: "b"}}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, resource.Key.Compare)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if s := want[0].String() + ", " + want[1].String(); s != "A m/n, B a" {
		t.Errorf("got %s", s)
	}
	m := resource.Meta{Type: "A", Mesh: "m", Name: "n-7f3", Labels: map[string]string{resource.LabelDisplayName: "n"}}
	if m.DisplayName() != "n" || m.Key().Name != "n-7f3" || (resource.Meta{Name: "x"}).DisplayName() != "x" {
		t.Error("the display name is the user's, the key the store's")
	}
}
