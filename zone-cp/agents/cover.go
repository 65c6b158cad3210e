package agents

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/zone-cp/identity"
)

// covers says why the token behind a grant does not allow to be a Dataplane with these labels; nil when it does.
// Labels that a SPIFFE ID is made of must be named by the token: otherwise whoever holds the token of one workload
// could take the identity of another.
func covers(s *catalog.Snapshot, g identity.Grant, dp resource.Meta) error {
	for _, k := range slices.Sorted(maps.Keys(g.Tags)) {
		if !slices.Contains(g.Tags[k], dp.Label(k)) {
			return fmt.Errorf("the token allows label %s to be %s, the Dataplane has %s; change the label or issue another token",
				k, strings.Join(g.Tags[k], " or "), orNone(dp.Label(k)))
		}
	}
	workload := dp.Label(resource.LabelWorkload)
	if g.Workload != "" && g.Workload != workload {
		return fmt.Errorf("the token is for workload %s, the Dataplane has label %s %s; change the label or issue another token",
			resource.Quote(g.Workload), resource.LabelWorkload, orNone(workload))
	}
	if role := dp.Label(resource.LabelZoneEgress); role != "" && !slices.Contains(g.Tags[resource.LabelZoneEgress], role) {
		// An egress is sent what workloads say to external services, and the keys for it: more than any workload is trusted with.
		return fmt.Errorf("the token is not for an egress, and the Dataplane has a listener of type ZoneEgress; "+
			"issue a token with --tag %s=%s, or take the listener away", resource.LabelZoneEgress, role)
	}
	needed := []string{resource.LabelWorkload}
	if id, ok := mesh.SelectIdentity(identitiesOf(s, dp.Mesh), dp); ok {
		needed = append(needed, id.Spec.(*mesh.MeshIdentity).PathLabels(dp)...)
	}
	for _, k := range needed {
		v := dp.Label(k)
		if v == "" || k == resource.LabelWorkload && g.Workload == v || slices.Contains(g.Tags[k], v) {
			continue
		}
		return fmt.Errorf("the token does not cover label %s=%s, which an identity is made of; issue a token for that %s",
			k, v, strings.TrimPrefix(k, "kuma.io/"))
	}
	return nil
}

func orNone(v string) string {
	if v == "" {
		return "none"
	}
	return resource.Quote(v)
}

func identitiesOf(s *catalog.Snapshot, in string) []resource.Resource {
	var out []resource.Resource
	s.Each(mesh.TypeMeshIdentity, in, func(r resource.Resource) bool {
		out = append(out, r)
		return true
	})
	return out
}
