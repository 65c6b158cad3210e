package mesh

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/api/resource"
)

func TestObjectsRequireTheFeaturesTheyUse(t *testing.T) {
	table := []feature{
		{"zone.disable", TypeZone, func(r resource.Resource) bool { return !r.Spec.(*Zone).IsEnabled() }},
		{"mesh.any", TypeMesh, func(resource.Resource) bool { return true }},
	}
	off := false
	for _, tc := range []struct {
		name string
		spec *Zone
		want []string
	}{{"unused", &Zone{}, nil}, {"used", &Zone{Enabled: &off}, []string{"zone.disable"}}} {
		got := required(table, resource.Resource{Meta: resource.Meta{Type: TypeZone}, Spec: tc.spec})
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}
