package policy_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

func parse(t testing.TB, s string) map[string]any {
	t.Helper()
	var out map[string]any
	if err := json.Unmarshal([]byte(s), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func named(name string) resource.KRI { return resource.KRI{Short: "mt", Mesh: "m", Name: name} }

func TestMergeFields(t *testing.T) {
	for _, c := range []struct {
		name    string
		in      []string // the policies a, b, c and so on, weakest first
		want    string
		origins string
	}{
		{"nothing", nil, `{}`, ""},
		{"field by field", []string{`{"x":1,"o":{"p":1,"q":1}}`, `{"o":{"q":2,"r":2}}`}, `{"o":{"p":1,"q":2,"r":2},"x":1}`, "o.p=a o.q=b o.r=b x=a"},
		{"lists are replaced", []string{`{"l":[1,2]}`, `{"l":[3]}`}, `{"l":[3]}`, "l=b"},
		{"an empty list is a value", []string{`{"l":[1,2]}`, `{"l":[]}`}, `{"l":[]}`, "l=b"},
		{"append lists grow", []string{`{"appendX":[1]}`, `{"appendX":[2]}`}, `{"appendX":[1,2]}`, "appendX=b"},
		{"null removes", []string{`{"x":1,"o":{"p":1,"q":1}}`, `{"x":null,"o":{"p":null}}`}, `{"o":{"q":1}}`, "o.q=a"},
		{"null removes a section", []string{`{"o":{"p":1}}`, `{"o":null}`, `{"o":{"q":2}}`}, `{"o":{"q":2}}`, "o.q=c"},
		{"null of nothing", []string{`{"o":{"p":null}}`}, `{"o":{}}`, "o=a"},
		{"an empty section is there", []string{`{"o":{}}`}, `{"o":{}}`, "o=a"},
		{"an empty section adds nothing", []string{`{"o":{"p":1}}`, `{"o":{}}`}, `{"o":{"p":1}}`, "o.p=a"},
		{"the last field goes", []string{`{"o":{"p":1}}`, `{"o":{"p":null}}`}, `{"o":{}}`, "o=b"},
		{"a section replaces a value", []string{`{"o":1}`, `{"o":{"p":2}}`}, `{"o":{"p":2}}`, "o.p=b"},
		{"a value replaces a section", []string{`{"o":{"p":{"q":1}}}`, `{"o":2}`}, `{"o":2}`, "o=b"},
		{"similar names are different", []string{`{"o":{"p":1},"op":1}`, `{"o":null}`}, `{"op":1}`, "op=a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var in []policy.Sourced
			var before []string
			for i, s := range c.in {
				in = append(in, policy.Sourced{Policy: named(string(rune('a' + i))), Conf: parse(t, s)})
				before = append(before, s)
			}
			got := policy.MergeFields(in)
			if diff := cmp.Diff(parse(t, c.want), got.Conf); diff != "" {
				t.Error(diff)
			}
			var origins []string
			for _, o := range got.Origins {
				origins = append(origins, o.Field+"="+o.Policy.Name)
			}
			if diff := cmp.Diff(c.origins, strings.Join(origins, " ")); diff != "" {
				t.Error(diff)
			}
			for i, s := range before {
				if diff := cmp.Diff(parse(t, s), in[i].Conf); diff != "" {
					t.Errorf("merging changed its input: %s", diff)
				}
			}
		})
	}
}

// anyConf has the shape of a configuration: every field always has the same type.
var anyConf = rapid.Custom(func(t *rapid.T) map[string]any {
	out := map[string]any{}
	set := func(in map[string]any, key string, value func() any) {
		if rapid.Bool().Draw(t, key) {
			in[key] = value()
		}
	}
	number := func() any { return float64(rapid.IntRange(0, 3).Draw(t, "number")) }
	list := func() any { return []any{number()} }
	set(out, "scalar", number)
	set(out, "list", list)
	set(out, "appendList", list)
	set(out, "section", func() any {
		section := map[string]any{}
		set(section, "a", number)
		set(section, "b", number)
		set(section, "deep", func() any {
			deep := map[string]any{}
			set(deep, "c", number)
			set(deep, "appendD", list)
			return deep
		})
		return section
	})
	return out
})

func source(name string, conf map[string]any) policy.Sourced {
	return policy.Sourced{Policy: named(name), Conf: conf}
}

func merged(in ...policy.Sourced) map[string]any { return policy.MergeFields(in).Conf }

// Merging is associative for configurations without null, so it may be done in parts.
func TestMergeIsAssociative(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := source("a", anyConf.Draw(t, "a")), source("b", anyConf.Draw(t, "b")), source("c", anyConf.Draw(t, "c"))
		all := merged(a, b, c)
		left := merged(source("", merged(a, b)), c)
		right := merged(a, source("", merged(b, c)))
		if diff := cmp.Diff(all, left); diff != "" {
			t.Fatal(diff)
		}
		if diff := cmp.Diff(all, right); diff != "" {
			t.Fatal(diff)
		}
	})
}

// Merging a configuration with itself changes nothing, but for lists that grow.
func TestMergeIsIdempotent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		conf := anyConf.Draw(t, "conf")
		delete(conf, "appendList")
		if s, ok := conf["section"].(map[string]any); ok {
			delete(s, "deep")
		}
		if diff := cmp.Diff(merged(source("a", conf)), merged(source("a", conf), source("b", conf))); diff != "" {
			t.Fatal(diff)
		}
	})
}

// Policies that set different fields may come in any order.
func TestMergeOfUnrelatedPoliciesCommutes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		conf := anyConf.Draw(t, "conf")
		a, b := map[string]any{}, map[string]any{}
		for _, k := range slices.Sorted(maps.Keys(conf)) {
			into := a
			if rapid.Bool().Draw(t, k+" is b's") {
				into = b
			}
			into[k] = conf[k]
		}
		ab, ba := policy.MergeFields([]policy.Sourced{source("a", a), source("b", b)}), policy.MergeFields([]policy.Sourced{source("b", b), source("a", a)})
		if diff := cmp.Diff(ab, ba); diff != "" {
			t.Fatal(diff)
		}
	})
}

// Every value has exactly one origin, and that is the strongest policy that sets it.
func TestMergeKnowsWhereValuesComeFrom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := []string{"a", "b", "c"}
		var in []policy.Sourced
		for _, n := range names {
			in = append(in, source(n, anyConf.Draw(t, n)))
		}
		m := policy.MergeFields(in)
		origins := map[string]string{}
		for _, o := range m.Origins {
			if _, twice := origins[o.Field]; twice {
				t.Fatalf("%s has two origins", o.Field)
			}
			origins[o.Field] = o.Policy.Name
		}
		for field := range leaves(m.Conf, "") {
			strongest := ""
			for _, s := range in {
				if _, ok := leaves(s.Conf, "")[field]; ok {
					strongest = s.Policy.Name
				}
			}
			if origins[field] != strongest {
				t.Fatalf("%s comes from %q, not %q", field, strongest, origins[field])
			}
		}
	})
}

// leaves are the paths of values that are not sections.
func leaves(conf map[string]any, at string) map[string]any {
	out := map[string]any{}
	for k, v := range conf {
		if section, ok := v.(map[string]any); ok {
			maps.Copy(out, leaves(section, at+k+"."))
			continue
		}
		out[at+k] = v
	}
	return out
}

func TestProject(t *testing.T) {
	const conf = `{"a":1,"o":{"p":1,"q":{"r":2}},"z":[]}`
	for _, c := range []struct {
		fields []string
		want   string
	}{
		{nil, conf},
		{[]string{"a"}, `{"a":1}`},
		{[]string{"o.p", "z"}, `{"o":{"p":1},"z":[]}`},
		{[]string{"o"}, `{"o":{"p":1,"q":{"r":2}}}`},
		{[]string{"o.q.r", "o.p"}, `{"o":{"p":1,"q":{"r":2}}}`},
		{[]string{"b", "o.x", "a.b"}, ``},
	} {
		if got := policy.Project(conf, c.fields); got != c.want {
			t.Errorf("%v: got %s, want %s", c.fields, got, c.want)
		}
	}
	if got := policy.Project("", []string{"a"}); got != "" {
		t.Errorf("nothing has the part %s", got)
	}
}

// A hook that lists fields sees the same, whatever changes in the others.
func TestProjectIgnoresOtherFields(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fields := []string{"list", "section.b", "section.deep"}
		conf, other := anyConf.Draw(t, "conf"), anyConf.Draw(t, "other")
		for _, k := range []string{"scalar", "appendList"} {
			delete(other, k)
			if v, ok := anyConf.Draw(t, k)[k]; ok {
				other[k] = v
			}
		}
		other["list"], other["section"] = conf["list"], maps.Clone(section(conf))
		section(other)["a"] = 42.0
		if _, ok := conf["list"]; !ok {
			delete(other, "list")
		}
		if a, b := policy.Project(text(t, conf), fields), policy.Project(text(t, other), fields); a != b {
			t.Fatalf("%s\n%s", a, b)
		}
	})
}

func section(conf map[string]any) map[string]any {
	s, ok := conf["section"].(map[string]any)
	if !ok || s == nil {
		s = map[string]any{}
		conf["section"] = s
	}
	return s
}

func text(t interface{ Fatal(...any) }, v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestContributors(t *testing.T) {
	e := policy.Effective{Origins: []policy.Origin{
		{Field: "a", Policy: named("x")}, {Field: "o.p", Policy: named("y")}, {Field: "o.q", Policy: named("x")}, {Field: "z"},
	}}
	for _, c := range []struct {
		fields []string
		want   []string
	}{
		{nil, []string{"x", "y"}},
		{[]string{"o"}, []string{"y", "x"}},
		{[]string{"o.p.deeper"}, []string{"y"}},
		{[]string{"z"}, nil},
		{[]string{"op"}, nil},
	} {
		var got []string
		for _, k := range e.Policies(c.fields...) {
			got = append(got, k.Name)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%v: %s", c.fields, diff)
		}
	}
}
