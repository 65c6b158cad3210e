package policies

import (
	"fmt"
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Each visits the resources of a kind in a mesh until the function says no.
type Each func(kind, meshName string, visit func(resource.Resource) bool)

// Conditions say of a policy whether what it refers to exists, and of a collector whether a policy refers to it. They follow from what
// is declared and nothing else, so they are computed where they are shown. Others have none of them.
func Conditions(r resource.Resource, each Each) []mesh.Condition {
	if r.Type == mesh.TypeMeshOTelBackend {
		return []mesh.Condition{referenced(r, each)}
	}
	for _, p := range All {
		if k := p.Resource(); k.Name == r.Type && k.NewStatus != nil {
			return resolved(r, p.References(r), each)
		}
	}
	return nil
}

// resolved judges the references of a policy. Without any there is nothing to say.
func resolved(r resource.Resource, refs []policy.Reference, each Each) []mesh.Condition {
	if len(refs) == 0 {
		return nil
	}
	var missing, zones []string
	for _, ref := range refs {
		everywhere, of := false, []string{}
		each(ref.Kind, r.Mesh, func(to resource.Resource) bool {
			if !refers(r, ref, to) {
				return true
			}
			everywhere = everywhere || to.Zone() == "" || to.Zone() == r.Zone()
			of = append(of, to.Zone())
			return !everywhere
		})
		switch {
		case everywhere:
		case len(of) == 0:
			missing = append(missing, ref.String())
		default:
			zones = append(zones, of...)
		}
	}
	c := mesh.Condition{Type: mesh.ConditionBackendRefsResolved, Status: mesh.True, Reason: mesh.ReasonBackendRefsResolved}
	switch {
	case len(missing) > 0:
		c.Status, c.Reason = mesh.False, mesh.ReasonBackendRefsUnresolved
		c.Message = fmt.Sprintf("nothing is sent there until it exists: %s", strings.Join(unique(missing), ", "))
	case len(zones) > 0:
		c.Status, c.Reason = mesh.Unknown, mesh.ReasonBackendRefsOfZones
		c.Message = "what is referred to exists in some zones alone: " + strings.Join(unique(zones), ", ")
	}
	return []mesh.Condition{c}
}

// referenced counts the references to a collector.
func referenced(to resource.Resource, each Each) mesh.Condition {
	var by []string
	for _, p := range All {
		k := p.Resource()
		if k.NewStatus == nil {
			continue
		}
		each(k.Name, to.Mesh, func(r resource.Resource) bool {
			for _, ref := range p.References(r) {
				if refers(r, ref, to) {
					by = append(by, k.Name+" "+r.Name)
				}
			}
			return true
		})
	}
	if len(by) == 0 {
		return mesh.Condition{Type: mesh.ConditionReferencedByPolicies, Status: mesh.False, Reason: mesh.ReasonNotReferenced, Message: "no policy refers to it"}
	}
	const most = 5
	names := unique(by)
	message := strings.Join(names[:min(most, len(names))], ", ")
	if more := len(names) - most; more > 0 {
		message += fmt.Sprintf(" and %d more", more)
	}
	return mesh.Condition{Type: mesh.ConditionReferencedByPolicies, Status: mesh.True, Reason: mesh.ReasonReferenced, Message: message}
}

// refers says whether a reference of a policy finds a resource in any zone: what one zone has, no other knows.
func refers(r resource.Resource, ref policy.Reference, to resource.Resource) bool {
	return ref.Kind == to.Type && resource.Selector(ref.Labels).Matches(to.Labels) && (r.Zone() == "" || to.Zone() == "" || r.Zone() == to.Zone())
}

func unique(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}
