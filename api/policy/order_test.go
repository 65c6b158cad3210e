package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/role"
)

// head makes a head from words such as "dataplane section zone consumer".
func head(name, words string) policy.Head {
	h := policy.Head{KRI: named(name), Target: policy.TargetKey{Kind: policy.TargetMesh}, Role: role.System}
	for _, w := range strings.Fields(words) {
		switch w {
		case "dataplane":
			h.Target.Kind = policy.TargetDataplane
		case "section":
			h.Target.SectionName = "http"
		case "labels":
			h.Target.Labels = "app=web"
		case resource.OriginGlobal, resource.OriginZone:
			h.Origin = w
		default:
			h.Role = w
		}
	}
	return h
}

// The documented order of precedence, one criterion at a time: each list goes from weak to strong.
func TestPrecedence(t *testing.T) {
	for criterion, list := range map[string][]policy.Head{
		"target before origin": {head("a", "zone"), head("b", "dataplane global")},
		"target":               {head("a", ""), head("b", "dataplane"), head("c", "dataplane section")},
		"origin":               {head("a", "global"), head("b", ""), head("c", "zone")},
		"origin before role":   {head("a", "global workload-owner"), head("b", "zone system")},
		"role":                 {head("a", "system"), head("b", "producer"), head("c", "consumer"), head("d", "workload-owner")},
		"labels do not count":  {head("z", "dataplane labels"), head("a", "dataplane")},
		"name":                 {head("c", ""), head("b", ""), head("a", "")},
	} {
		for i := range list {
			for j := range list {
				if got, want := sign(policy.CompareHeads(list[i], list[j])), sign(i-j); got != want {
					t.Errorf("%s: %d compared with %d is %d, want %d", criterion, i, j, got, want)
				}
			}
		}
	}
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

func TestReaches(t *testing.T) {
	subject := policy.Subject{Labels: map[string]string{"app": "web"}, Zone: "east", Namespace: "shop"}
	for _, c := range []struct {
		name   string
		head   policy.Head
		labels map[string]string
		want   bool
	}{
		{"mesh", head("a", ""), nil, true},
		{"every dataplane", head("a", "dataplane"), nil, true},
		{"its labels", head("a", "dataplane"), map[string]string{"app": "web"}, true},
		{"other labels", head("a", "dataplane"), map[string]string{"app": "api"}, false},
		{"more labels", head("a", "dataplane"), map[string]string{"app": "web", "v": "1"}, false},
		{"unknown kind", policy.Head{Target: policy.TargetKey{Kind: "MeshGateway"}, Role: role.System}, nil, false},
		{"of its zone", func() policy.Head { h := head("a", "zone"); h.Zone = "east"; return h }(), nil, true},
		{"of another zone", func() policy.Head { h := head("a", "zone"); h.Zone = "west"; return h }(), nil, false},
		{"of another zone, producer", func() policy.Head { h := head("a", "zone producer"); h.Zone = "west"; return h }(), nil, true},
		{"of global for a zone label", func() policy.Head { h := head("a", "global"); h.Zone = "west"; return h }(), nil, true},
		{"consumer of its namespace", func() policy.Head { h := head("a", "consumer"); h.Namespace = "shop"; return h }(), nil, true},
		{"consumer of another", func() policy.Head { h := head("a", "consumer"); h.Namespace = "bank"; return h }(), nil, false},
		{"owner of another", func() policy.Head { h := head("a", "workload-owner"); h.Namespace = "bank"; return h }(), nil, false},
		{"system elsewhere", func() policy.Head { h := head("a", "system"); h.Namespace = "kuma-system"; return h }(), nil, true},
	} {
		if got := c.head.Reaches(subject, c.labels); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}

func to(h policy.Head, index int, ref policy.TargetRef) policy.Entry {
	return policy.Entry{Head: h, Index: index, Item: policy.Item{Target: ref, Conf: map[string]any{}}}
}

func labels(name string) map[string]string { return map[string]string{resource.LabelDisplayName: name} }

func order(list []policy.Sourced) string {
	var out []string
	for _, s := range list {
		out = append(out, fmt.Sprintf("%s%d", s.Policy.Name, s.Index))
	}
	return strings.Join(out, " ")
}

func TestForDestination(t *testing.T) {
	backend := policy.Target{Kind: policy.TargetService, Labels: labels("backend"), Port: "http"}
	mesh := policy.TargetRef{Kind: policy.TargetMesh}
	service := policy.TargetRef{Kind: policy.TargetService, Labels: labels("backend")}
	port := policy.TargetRef{Kind: policy.TargetService, Labels: labels("backend"), SectionName: "http"}
	route := policy.TargetRef{Kind: policy.TargetHTTPRoute, Labels: labels("canary")}
	canary := &policy.RouteTarget{Labels: labels("canary")}
	for _, c := range []struct {
		name    string
		entries []policy.Entry
		target  policy.Target
		route   *policy.RouteTarget
		want    string // weakest first
	}{
		{"general to specific", []policy.Entry{to(head("a", ""), 0, route), to(head("b", ""), 0, port), to(head("c", ""), 0, service), to(head("d", ""), 0, mesh)}, backend, canary, "d0 c0 b0 a0"},
		{"no route", []policy.Entry{to(head("a", ""), 0, route), to(head("b", ""), 0, mesh)}, backend, nil, "b0"},
		{"another route", []policy.Entry{to(head("a", ""), 0, route)}, backend, &policy.RouteTarget{Labels: labels("blue")}, ""},
		{"another port", []policy.Entry{to(head("a", ""), 0, port)}, policy.Target{Kind: policy.TargetService, Labels: labels("backend"), Port: "grpc"}, nil, ""},
		{"another kind of the name", []policy.Entry{to(head("a", ""), 0, service)}, policy.Target{Kind: policy.TargetExternal, Labels: labels("backend")}, nil, ""},
		{"top level before destination", []policy.Entry{to(head("a", "dataplane"), 0, mesh), to(head("b", ""), 0, port)}, backend, nil, "b0 a0"},
		{"destination before name", []policy.Entry{to(head("z", ""), 0, service), to(head("a", ""), 0, mesh)}, backend, nil, "a0 z0"},
		{"name", []policy.Entry{to(head("a", ""), 0, mesh), to(head("b", ""), 0, mesh)}, backend, nil, "b0 a0"},
		{"later item of a policy", []policy.Entry{to(head("a", ""), 0, mesh), to(head("a", ""), 1, mesh)}, backend, nil, "a0 a1"},
		{"rules do not count", []policy.Entry{{Head: head("a", ""), Inbound: true}}, backend, nil, ""},
		{"no kind is the mesh", []policy.Entry{to(head("a", ""), 0, policy.TargetRef{})}, backend, nil, "a0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for seed := range 5 {
				// Items of one policy come in their order; policies in any.
				entries := c.entries
				if len(entries) > 1 && entries[0].Head != entries[1].Head {
					entries = rapid.Permutation(entries).Example(seed)
				}
				if got := order(policy.ForDestination(entries, c.target, c.route)); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
			}
		})
	}
}

// A producer policy that names no namespace or zone means its own: it must not reach a service of the same name elsewhere.
func TestProducersReachTheirOwnServicesOnly(t *testing.T) {
	producer := head("a", "zone producer")
	producer.Namespace, producer.Zone = "shop", "east"
	service := func(namespace, zone string) policy.Target {
		l := labels("backend")
		l[resource.LabelNamespace], l[resource.LabelZone] = namespace, zone
		return policy.Target{Kind: policy.TargetService, Labels: l}
	}
	ref := policy.TargetRef{Kind: policy.TargetService, Labels: labels("backend")}
	for _, c := range []struct {
		namespace, zone string
		want            int
	}{{"shop", "east", 1}, {"bank", "east", 0}, {"shop", "west", 0}} {
		if got := policy.ForDestination([]policy.Entry{to(producer, 0, ref)}, service(c.namespace, c.zone), nil); len(got) != c.want {
			t.Errorf("%s in %s: %d, want %d", c.namespace, c.zone, len(got), c.want)
		}
		consumer := head("a", "consumer")
		if got := policy.ForDestination([]policy.Entry{to(consumer, 0, ref)}, service(c.namespace, c.zone), nil); len(got) != 1 {
			t.Errorf("a consumer does not reach %s in %s", c.namespace, c.zone)
		}
	}
}

func rule(h policy.Head, index int, matches ...policy.Match) policy.Entry {
	return policy.Entry{Head: h, Index: index, Inbound: true, Item: policy.Item{Matches: matches, Conf: map[string]any{}}}
}

func TestForInbound(t *testing.T) {
	weak, strong := head("weak", ""), head("strong", "dataplane")
	a, under, name := exact("spiffe://m/ns/a"), prefix("spiffe://m/ns/"), sni("x")
	got := policy.ForInbound([]policy.Entry{
		rule(strong, 0), rule(strong, 1, under), rule(weak, 0, a), rule(weak, 1), rule(weak, 2, under, name), rule(strong, 2, exact("spiffe://other")),
	})
	want := []struct {
		match   policy.Match
		sources string
	}{
		{a, "weak1 strong0 weak2 strong1 weak0"}, // a match is stronger than any policy
		{exact("spiffe://other"), "weak1 strong0 strong2"},
		{under, "weak1 strong0 weak2 strong1"},
		{name, "weak1 strong0 weak2"},
		{policy.Match{}, "weak1 strong0"},
	}
	if len(got) != len(want) {
		t.Fatalf("%d distinct matches, want %d", len(got), len(want))
	}
	for i, w := range want {
		if diff := cmp.Diff(w.match, got[i].Match); diff != "" {
			t.Errorf("%d: %s", i, diff)
		}
		if sources := order(got[i].Sources); sources != w.sources {
			t.Errorf("%+v: got %q, want %q", w.match, sources, w.sources)
		}
	}
	if none := policy.ForInbound(nil); len(none) != 1 || !none[0].Match.IsZero() || len(none[0].Sources) != 0 {
		t.Errorf("without rules there is the catch-all alone, not %v", none)
	}
}

// For any client, the first match that accepts it has as sources exactly the rules that accept all clients of this match,
// whatever order the entries come in.
func TestForInboundIsComplete(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var entries []policy.Entry
		for i := range rapid.IntRange(0, 5).Draw(t, "rules") {
			h := head(fmt.Sprintf("p%d", i), rapid.SampledFrom([]string{"", "dataplane", "zone", "dataplane section"}).Draw(t, "head"))
			entries = append(entries, rule(h, 0, rapid.SliceOfN(anyMatch, 0, 2).Draw(t, "matches")...))
		}
		got := policy.ForInbound(entries)
		shuffled := policy.ForInbound(rapid.Permutation(entries).Draw(t, "order"))
		if diff := cmp.Diff(got, shuffled); diff != "" {
			t.Fatalf("the order of entries matters: %s", diff)
		}
		if last := got[len(got)-1]; !last.Match.IsZero() {
			t.Fatal("the catch-all is not last")
		}
		for _, c := range got {
			for _, e := range entries {
				applies := len(e.Item.Matches) == 0 || slices.ContainsFunc(e.Item.Matches, func(m policy.Match) bool { return m.Subsumes(c.Match) })
				listed := slices.ContainsFunc(c.Sources, func(s policy.Sourced) bool { return s.Policy == e.Head.KRI })
				if applies != listed {
					t.Fatalf("%s applies to %+v: %t, listed: %t", e.Head.KRI.Name, c.Match, applies, listed)
				}
			}
		}
	})
}

// An unrelated policy changes nothing for a destination.
func TestUnrelatedPoliciesDoNotMatter(t *testing.T) {
	refs := []policy.TargetRef{
		{Kind: policy.TargetMesh}, {Kind: policy.TargetService, Labels: labels("backend")}, {Kind: policy.TargetService, Labels: labels("backend"), SectionName: "http"},
	}
	unrelated := []policy.TargetRef{
		{Kind: policy.TargetService, Labels: labels("other")},
		{Kind: policy.TargetService, Labels: labels("backend"), SectionName: "grpc"},
		{Kind: policy.TargetExternal, Labels: labels("backend")},
		{Kind: policy.TargetHTTPRoute, Labels: labels("backend")},
	}
	target := policy.Target{Kind: policy.TargetService, Labels: labels("backend"), Port: "http"}
	words := rapid.SampledFrom([]string{"", "dataplane", "zone", "global", "consumer"})
	rapid.Check(t, func(t *rapid.T) {
		var entries []policy.Entry
		for i := range rapid.IntRange(0, 5).Draw(t, "policies") {
			entries = append(entries, to(head(fmt.Sprintf("p%d", i), words.Draw(t, "head")), 0, rapid.SampledFrom(refs).Draw(t, "ref")))
		}
		before := order(policy.ForDestination(entries, target, nil))
		for i := range rapid.IntRange(1, 3).Draw(t, "more") {
			entries = append(entries, to(head(fmt.Sprintf("u%d", i), words.Draw(t, "head")), 0, rapid.SampledFrom(unrelated).Draw(t, "ref")))
		}
		entries = rapid.Permutation(entries).Draw(t, "order")
		if after := order(policy.ForDestination(entries, target, nil)); after != before {
			t.Fatalf("%s became %s", before, after)
		}
	})
}
