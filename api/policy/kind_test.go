package policy_test

import (
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// conf is the configuration of a policy that exists for these tests only.
type conf struct {
	Name  string `json:"name,omitempty"`
	Limit *int   `json:"limit,omitempty"`
}

var kind = policy.Kind[conf]{
	Name: "MeshTest", Path: "meshtests", Short: "mtest", Singular: "Mesh Test", Plural: "Mesh Tests",
	ToKinds: []string{policy.TargetMesh, policy.TargetService, policy.TargetExternal},
	Rules:   true,
	Check: func(at resource.Path, c conf, where policy.Where) resource.Problems {
		var ps resource.Problems
		if c.Limit == nil {
			ps.Add(at.Field("limit"), "must be set in %s for %s", where.Section, where.Target.KindOrMesh())
		}
		return ps
	},
	Warn: func(at resource.Path, c conf, _ policy.Where) []string {
		if c.Limit != nil && *c.Limit > 100 {
			return []string{string(at) + " is much"}
		}
		return nil
	},
	Base: func(d proxy.Direction, p string) conf { return conf{Name: string(d) + " " + p} },
	Hooks: policy.Hooks[conf]{
		Cluster: policy.Hook[func(conf, proxy.Cluster, *clusterv3.Cluster)]{
			Fields: []string{"name"},
			Apply:  func(c conf, _ proxy.Cluster, m *clusterv3.Cluster) { m.AltStatName = c.Name },
		},
	},
}

func decode(t *testing.T, k policy.Policy, spec string) (resource.Resource, error) {
	t.Helper()
	d, err := resource.NewKinds(k.Resource()).DecodeYAML([]byte("type: "+k.Resource().Name+"\nmesh: m\nname: n\nspec:\n  "+strings.ReplaceAll(spec, "\n", "\n  ")), true)
	if err != nil {
		return resource.Resource{}, err
	}
	return d[0].Resource, nil
}

func TestValidate(t *testing.T) {
	const ok = "{limit: 1}"
	for _, c := range []struct {
		name, spec string
		want       string // problems, one per line
	}{
		{"fine", "to:\n- targetRef: {kind: Mesh}\n  default: " + ok, ""},
		{"fine with labels", "targetRef: {kind: Dataplane, labels: {a: b}}\nto:\n- targetRef: {kind: MeshService, labels: {a: b}, sectionName: http}\n  default: " + ok, ""},
		{"fine inbound", "targetRef: {kind: Dataplane, sectionName: http}\nrules:\n- default: " + ok, ""},
		{
			"configuration", "targetRef: {kind: Dataplane}\nto:\n- targetRef: {kind: Mesh}\n  default: {}\n- targetRef: {kind: MeshService, labels: {a: b}}\n  default: {}",
			"spec.to[0].default.limit: must be set in to for Mesh\nspec.to[1].default.limit: must be set in to for MeshService",
		},
		{"configuration inbound", "targetRef: {kind: Dataplane}\nrules:\n- default: {}", "spec.rules[0].default.limit: must be set in rules for Dataplane"},
		{"empty", "{}", "spec: must have to or rules"},
		{"both", "to:\n- targetRef: {kind: Mesh}\n  default: " + ok + "\nrules:\n- default: " + ok, "spec: must have either to or rules; write two resources"},
		{"default", "default: " + ok, "spec.default: is not supported by MeshTest"},
		{"matches", "rules:\n- matches: [{sni: {type: Exact, value: a}}]\n  default: " + ok, "spec.rules[0].matches: is not supported by MeshTest"},
		{
			"mesh with labels", "targetRef: {labels: {a: b}, sectionName: x}\nrules:\n- default: " + ok,
			"spec.targetRef.labels: must not be set with kind Mesh; use kind Dataplane\nspec.targetRef.sectionName: must not be set with kind Mesh",
		},
		{"section without rules", "targetRef: {kind: Dataplane, sectionName: x}\nto:\n- targetRef: {kind: Mesh}\n  default: " + ok, "spec.targetRef.sectionName: is only possible in a policy with rules"},
		{
			"removed", "targetRef: {kind: MeshSubset, name: a, namespace: b, mesh: c, tags: {d: e}, proxyTypes: [Sidecar]}\nrules:\n- default: " + ok,
			"spec.targetRef.name: is no longer supported; use labels with kuma.io/display-name\n" +
				"spec.targetRef.namespace: is no longer supported; use labels with k8s.kuma.io/namespace\n" +
				"spec.targetRef.mesh: is no longer supported; a policy stays in its own mesh\n" +
				"spec.targetRef.tags: is no longer supported; use labels\n" +
				"spec.targetRef.proxyTypes: is no longer supported; use kind Dataplane with labels\n" +
				"spec.targetRef.kind: must be Mesh or Dataplane, not \"MeshSubset\"",
		},
		{"to without kind", "to:\n- default: " + ok, "spec.to[0].targetRef.kind: must be one of Mesh, MeshService, MeshExternalService"},
		{
			"to mesh with labels", "to:\n- targetRef: {kind: Mesh, labels: {a: b}, sectionName: x}\n  default: " + ok,
			"spec.to[0].targetRef.labels: must not be set with kind Mesh\nspec.to[0].targetRef.sectionName: must not be set with kind Mesh",
		},
		{"to service without labels", "to:\n- targetRef: {kind: MeshService}\n  default: " + ok, "spec.to[0].targetRef.labels: must be set with kind MeshService"},
		{"to external with section", "to:\n- targetRef: {kind: MeshExternalService, labels: {a: b}, sectionName: x}\n  default: " + ok, "spec.to[0].targetRef.sectionName: must not be set with kind MeshExternalService"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := decode(t, kind, c.spec)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range kind.Resource().Validate(r) {
				got = append(got, p.String())
			}
			if diff := cmp.Diff(c.want, strings.Join(got, "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWarn(t *testing.T) {
	r, err := decode(t, kind, "rules:\n- default: {limit: 5}\n- default: {limit: 500}")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"spec.rules[1].default is much"}, kind.Resource().Warn(r)); diff != "" {
		t.Error(diff)
	}
}

func TestEffective(t *testing.T) {
	limit := policy.Sourced{Policy: named("a"), Index: 2, Conf: map[string]any{"limit": 7.0}}
	e := kind.Effective(proxy.Outbound, "http", []policy.Sourced{limit})
	if want := `{"limit":7,"name":"outbound http"}`; e.Conf != want {
		t.Errorf("got %s, want %s", e.Conf, want)
	}
	want := []policy.Origin{{Field: "limit", Policy: named("a"), Index: 2}, {Field: "name"}}
	if diff := cmp.Diff(want, e.Origins); diff != "" {
		t.Error(diff)
	}
	if !e.Equal(kind.Effective(proxy.Outbound, "http", []policy.Sourced{limit})) {
		t.Error("not equal to the same again")
	}
	limit.Policy = named("b")
	if e.Equal(kind.Effective(proxy.Outbound, "http", []policy.Sourced{limit})) {
		t.Error("equal, although of another policy")
	}
	bare := kind
	bare.Base = nil
	if got := bare.Effective(proxy.Outbound, "http", nil); got.Conf != "" {
		t.Errorf("nothing became %s", got.Conf)
	}
}

func TestBind(t *testing.T) {
	fields, ok := kind.Fields(policy.HookCluster)
	if !ok || len(fields) != 1 {
		t.Errorf("the cluster hook reads %v (%t)", fields, ok)
	}
	if _, ok := kind.Fields(policy.HookRoute); ok {
		t.Error("there is no route hook")
	}
	b, err := kind.Bind(`{"name":"x"}`)
	if err != nil {
		t.Fatal(err)
	}
	if b.Route != nil || b.HTTP != nil || b.TCP != nil || b.Routes != nil || b.HTTPFilters != nil || b.NetworkFilters != nil {
		t.Error("hooks that do not exist are bound")
	}
	var m clusterv3.Cluster
	b.Cluster(proxy.Cluster{}, &m)
	if m.AltStatName != "x" {
		t.Errorf("the hook saw %q", m.AltStatName)
	}
	if _, err := kind.Bind(`{"limit":"many"}`); err == nil || !strings.Contains(err.Error(), "MeshTest") {
		t.Errorf("got %v", err)
	}
}

func TestPartsOfUnreadableSpec(t *testing.T) {
	for _, raw := range []string{`[]`, `{"to":{}}`, `{"to":[{"targetRef":5}]}`, `{"rules":[{"default":5}]}`, `{"default":[]}`, `x`} {
		r := resource.Resource{Meta: resource.Meta{Type: "MeshTest", Mesh: "m", Name: "n"}, Raw: []byte(raw)}
		if _, err := kind.Parts(r); err == nil || !strings.Contains(err.Error(), "MeshTest m/n") {
			t.Errorf("%s: %v", raw, err)
		}
		if ps := kind.Resource().Validate(r); len(ps) == 0 {
			t.Errorf("%s is valid", raw)
		}
	}
}

func TestEditHTTPOptions(t *testing.T) {
	read := func(c *clusterv3.Cluster) *httpv3.HttpProtocolOptions {
		t.Helper()
		var o httpv3.HttpProtocolOptions
		if err := c.TypedExtensionProtocolOptions["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"].UnmarshalTo(&o); err != nil {
			t.Fatal(err)
		}
		if err := o.ValidateAll(); err != nil {
			t.Error(err)
		}
		return &o
	}
	idle := func(seconds int64) func(*httpv3.HttpProtocolOptions) {
		return func(o *httpv3.HttpProtocolOptions) {
			if o.CommonHttpProtocolOptions == nil {
				o.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{}
			}
			o.CommonHttpProtocolOptions.IdleTimeout = &durationpb.Duration{Seconds: seconds}
		}
	}
	c := &clusterv3.Cluster{}
	policy.EditHTTPOptions(c, idle(1))
	if o := read(c); o.GetExplicitHttpConfig().GetHttpProtocolOptions() == nil {
		t.Errorf("a cluster without options speaks %v", o)
	}
	policy.EditHTTPOptions(c, func(o *httpv3.HttpProtocolOptions) {
		o.GetExplicitHttpConfig().ProtocolConfig = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}}
	})
	policy.EditHTTPOptions(c, idle(2))
	o := read(c)
	if o.GetExplicitHttpConfig().GetHttp2ProtocolOptions() == nil || o.CommonHttpProtocolOptions.IdleTimeout.Seconds != 2 {
		t.Errorf("an edit lost what was there: %v", o)
	}
}
