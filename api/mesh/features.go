package mesh

import "github.com/causeway-mesh/causeway/api/resource"

// A feature is an addition to a kind that a peer of the first version would not understand.
// An object that uses it says so, and such a peer sets it aside instead of serving half of it.
type feature struct {
	name string // as announced between control planes: "dataplane.outbound-block"
	kind string
	used func(r resource.Resource) bool
}

// features lists the additions since the first version, which has none.
var features []feature

func requires(r resource.Resource) []string { return required(features, r) }

func required(features []feature, r resource.Resource) []string {
	var out []string
	for _, f := range features {
		if f.kind == r.Type && f.used(r) {
			out = append(out, f.name)
		}
	}
	return out
}
