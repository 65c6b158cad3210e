package role_test

import (
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/role"
)

func TestRoles(t *testing.T) {
	const (
		named   = `{"targetRef":{"kind":"MeshService","labels":{"kuma.io/display-name":"web"}}}`
		here    = `{"targetRef":{"kind":"MeshService","labels":{"kuma.io/display-name":"web","k8s.kuma.io/namespace":"shop","kuma.io/zone":"east"},"sectionName":"http"}}`
		route   = `{"targetRef":{"kind":"MeshHTTPRoute","labels":{"kuma.io/display-name":"web"}}}`
		there   = `{"targetRef":{"kind":"MeshService","labels":{"kuma.io/display-name":"web","k8s.kuma.io/namespace":"bank"}}}`
		far     = `{"targetRef":{"kind":"MeshService","labels":{"kuma.io/display-name":"web","kuma.io/zone":"west"}}}`
		several = `{"targetRef":{"kind":"MeshService","labels":{"kuma.io/display-name":"web","team":"a"}}}`
		any     = `{"targetRef":{"kind":"MeshService"}}`
		outside = `{"targetRef":{"kind":"MeshExternalService","labels":{"kuma.io/display-name":"web"}}}`
		all     = `{"targetRef":{"kind":"Mesh"}}`
	)
	for _, c := range []struct {
		items    []string
		want     string // in a namespace; empty: refused
		producer bool   // may say that it is
	}{
		{nil, role.WorkloadOwner, false},
		{[]string{named}, role.Producer, true},
		{[]string{named, here, route}, role.Producer, true},
		{[]string{there}, role.Consumer, false},
		{[]string{far}, role.Consumer, false},
		{[]string{several}, role.Consumer, false},
		{[]string{any}, role.Consumer, false},
		{[]string{outside}, role.Consumer, false},
		{[]string{all, there}, role.Consumer, false},
		{[]string{named, all}, "", false},
		{[]string{there, route}, "", false},
	} {
		r := resource.Resource{
			Meta: resource.Meta{Labels: map[string]string{resource.LabelNamespace: "shop", resource.LabelZone: "east"}},
			Raw:  []byte(`{"to":[` + strings.Join(c.items, ",") + `]}`),
		}
		got, ps := role.InNamespace(r)
		if got != c.want || (len(ps) == 0) != (c.want != "") {
			t.Errorf("%v: role %q, problems %v, want %q", c.items, got, ps, c.want)
		}
		for _, p := range append(ps, role.CheckProducer(r)...) {
			if !strings.HasPrefix(p.Field, "spec.to") {
				t.Errorf("%v: the problem is at %s", c.items, p.Field)
			}
		}
		if ps := role.CheckProducer(r); (len(ps) == 0) != c.producer {
			t.Errorf("%v as a producer's: %v", c.items, ps)
		}
	}
}
