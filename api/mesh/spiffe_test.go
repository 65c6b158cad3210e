package mesh_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

func identity(name string, labels map[string]string, spec mesh.MeshIdentity, selector map[string]string) resource.Resource {
	if selector != nil {
		spec.Selector = &mesh.IdentitySelector{Dataplane: &mesh.LabelSelector{MatchLabels: selector}}
	}
	return resource.Resource{Meta: resource.Meta{Type: mesh.TypeMeshIdentity, Mesh: "default", Name: name, Labels: labels}, Spec: &spec}
}

func dataplane(labels map[string]string) resource.Meta {
	return resource.Meta{Type: mesh.TypeDataplane, Mesh: "default", Name: "web-1", Labels: labels}
}

func TestTheBestIdentityIsSelected(t *testing.T) {
	all := map[string]string{}
	ids := []resource.Resource{
		identity("nobody", nil, mesh.MeshIdentity{}, nil),
		identity("all-b", nil, mesh.MeshIdentity{}, all),
		identity("all-a", nil, mesh.MeshIdentity{}, all),
		identity("web", nil, mesh.MeshIdentity{}, map[string]string{"app": "web"}),
		identity("web-v2", nil, mesh.MeshIdentity{}, map[string]string{"app": "web", "version": "v2"}),
		identity("west", map[string]string{resource.LabelZone: "west"}, mesh.MeshIdentity{}, map[string]string{"app": "web", "version": "v2", "team": "a"}),
		identity("renamed-hash", map[string]string{resource.LabelDisplayName: "aa"}, mesh.MeshIdentity{}, map[string]string{"db": "x"}),
		identity("bb", nil, mesh.MeshIdentity{}, map[string]string{"db": "x"}),
	}
	cases := []struct {
		name   string
		labels map[string]string
		want   string
	}{
		{"no labels", nil, "all-a"},
		{"one label", map[string]string{"app": "web"}, "web"},
		{"most labels", map[string]string{"app": "web", "version": "v2"}, "web-v2"},
		{"other zone", map[string]string{"app": "web", "version": "v2", "team": "a", resource.LabelZone: "east"}, "web-v2"},
		{"own zone", map[string]string{"app": "web", "version": "v2", "team": "a", resource.LabelZone: "west"}, "west"},
		{"display name decides", map[string]string{"db": "x"}, "renamed-hash"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := mesh.SelectIdentity(ids, dataplane(tc.labels))
			if !ok || got.Name != tc.want {
				t.Errorf("got %q %v, want %q", got.Name, ok, tc.want)
			}
		})
	}
	if _, ok := mesh.SelectIdentity(ids[:1], dataplane(nil)); ok {
		t.Error("an identity without selector selected a proxy")
	}
	other := dataplane(nil)
	other.Mesh = "other"
	if _, ok := mesh.SelectIdentity(ids, other); ok {
		t.Error("an identity of another mesh selected a proxy")
	}
}

func TestSPIFFEIDs(t *testing.T) {
	templates := func(domain, path string) mesh.MeshIdentity {
		return mesh.MeshIdentity{SpiffeID: &mesh.SpiffeIDTemplates{TrustDomain: domain, Path: path}}
	}
	workload := map[string]string{resource.LabelWorkload: "web"}
	kube := map[string]string{resource.LabelNamespace: "shop", resource.LabelServiceAccount: "web", resource.LabelEnv: "kubernetes"}
	cases := []struct {
		name     string
		identity resource.Resource
		labels   map[string]string
		want     string
		err      string
	}{
		{"universal default", identity("a", nil, mesh.MeshIdentity{}, nil), workload, "spiffe://default.east.mesh.local/workload/web", ""},
		{"kubernetes default", identity("a", nil, mesh.MeshIdentity{}, nil), kube, "spiffe://default.east.mesh.local/ns/shop/sa/web", ""},
		{"zone of the identity", identity("a", map[string]string{resource.LabelZone: "west"}, mesh.MeshIdentity{}, nil), workload, "spiffe://default.west.mesh.local/workload/web", ""},
		{
			"templates", identity("a", nil, templates("{{ .Zone }}.{{ .Mesh }}.example", `/{{ label "team" }}/{{ .Workload -}} -v`), nil),
			map[string]string{"team": "Shop_1", resource.LabelWorkload: "web"},
			"spiffe://east.default.example/Shop_1/web-v", "",
		},
		{"no workload label", identity("a", nil, mesh.MeshIdentity{}, nil), nil, "", "variable .Workload has no value"},
		{"no label", identity("a", nil, templates("", `/{{ label "team" }}`), nil), workload, "", `label "team" is missing`},
		{"bad label value", identity("a", nil, templates("", `/{{ label "team" }}`), nil), map[string]string{"team": ".."}, "", "segments must not be empty"},
		{"bad template", identity("a", nil, templates("{{ .Zon }}", ""), nil), workload, "", "did you mean .Zone?"},
		{"too long", identity("a", nil, templates(strings.Repeat("a", 254), ""), nil), workload, "", "must have 1 to 253 characters"},
		{"path too long", identity("a", nil, templates("a", "/"+strings.Repeat("a", 2048)), nil), workload, "", "at most 2048 are allowed"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			got, err := mesh.SPIFFEID(tc.identity, dataplane(tc.labels), "east")
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("error %v, want one with %q", err, tc.err)
			}
		})
	}
}

func TestPathsSayWhichLabelsTheyNeed(t *testing.T) {
	path := func(p string) *mesh.MeshIdentity {
		return &mesh.MeshIdentity{SpiffeID: &mesh.SpiffeIDTemplates{Path: p}}
	}
	cases := []struct {
		id       *mesh.MeshIdentity
		env      string
		want     []string
		workload bool
	}{
		{&mesh.MeshIdentity{}, "universal", []string{resource.LabelWorkload}, true},
		{&mesh.MeshIdentity{}, "kubernetes", []string{resource.LabelNamespace, resource.LabelServiceAccount}, false},
		{path(`/{{ label "team" }}`), "universal", []string{"team"}, false},
		{path(`/{{ label "kuma.io/workload" }}`), "universal", []string{resource.LabelWorkload}, true},
		{path(`/{{`), "universal", nil, false},
	}
	for _, tc := range cases {
		dp := dataplane(map[string]string{resource.LabelEnv: tc.env})
		if diff := cmp.Diff(tc.want, tc.id.PathLabels(dp)); diff != "" {
			t.Errorf("labels of %+v in %s (-want +got):\n%s", tc.id.SpiffeID, tc.env, diff)
		}
		if got := tc.id.UsesWorkloadLabel(dp); got != tc.workload {
			t.Errorf("%+v in %s: uses the workload label: %v", tc.id.SpiffeID, tc.env, got)
		}
	}
}
