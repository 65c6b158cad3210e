package policy_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

func TestBackendsAreAtHome(t *testing.T) {
	own := policy.BackendRef{Kind: policy.TargetService, Labels: map[string]string{resource.LabelDisplayName: "web"}}
	home := policy.Home{Namespace: "shop", Zone: "east"}
	if got := own.In(home).Labels; got[resource.LabelNamespace] != "shop" || got[resource.LabelZone] != "east" || len(own.Labels) != 1 {
		t.Errorf("a backend of which nothing is said has the labels %v; before %v", got, own.Labels)
	}
	said := policy.BackendRef{Kind: policy.TargetService, Labels: map[string]string{resource.LabelNamespace: "bank", resource.LabelZone: "west"}}
	if got := said.In(home).Labels; got[resource.LabelNamespace] != "bank" || got[resource.LabelZone] != "west" {
		t.Errorf("what is said of a backend is replaced: %v", got)
	}
	outside := policy.BackendRef{Kind: policy.TargetExternal, Labels: map[string]string{resource.LabelDisplayName: "web"}}
	if got := outside.In(home).Labels; len(got) != 1 {
		t.Errorf("a service outside of the mesh is looked for at %v", got)
	}
}
