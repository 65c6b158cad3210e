package derive

import (
	"cmp"
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

// hostnames are the names of one destination and what each generator did for it.
type hostnames struct {
	addresses  []mesh.Address
	generators []mesh.HostnameGeneratorStatus
}

type generator struct {
	name     string
	selector mesh.HostnameSelector
	template mesh.HostnameTemplate
	err      error
}

// assignHostnames lets every generator name the destinations it selects. Within a mesh a hostname belongs to one destination:
// the oldest gets it, by the generator that comes first: those of the zone, then the oldest, then by name.
func (r *run) assignHostnames() map[resource.Key]hostnames {
	generators := r.generators()
	type claim struct{ mesh, hostname string }
	taken := map[claim]resource.Key{}
	out := make(map[resource.Key]hostnames, len(r.services))
	for _, s := range slices.SortedStableFunc(slices.Values(r.services), byAge) {
		var h hostnames
		for _, g := range generators {
			if !g.selector.Selects(s.Meta) {
				continue
			}
			name, err := g.hostname(s.Meta, r.Zone)
			if err != nil {
				h.note(g, mesh.False, mesh.ReasonTemplateError, err.Error())
				continue
			}
			c := claim{s.Mesh, name}
			owner, dup := taken[c]
			if dup && owner != s.Key() {
				h.note(g, mesh.False, mesh.ReasonCollision, "hostname "+name+" belongs to "+owner.String())
				continue
			}
			taken[c] = s.Key()
			h.note(g, mesh.True, mesh.ReasonGenerated, "")
			if !dup {
				h.addresses = append(h.addresses, mesh.Address{
					Hostname: name, Origin: mesh.OriginHostnameGenerator, HostnameGeneratorRef: &mesh.HostnameGeneratorRef{CoreName: g.name},
				})
			}
		}
		out[s.Key()] = h
	}
	return out
}

func (r *run) generators() []generator {
	sorted := slices.SortedFunc(slices.Values(r.byType[mesh.TypeHostnameGenerator]), func(a, b resource.Resource) int {
		return cmp.Or(cmp.Compare(originRank(a), originRank(b)), byAge(a, b), strings.Compare(a.Name, b.Name))
	})
	var out []generator
	for _, res := range sorted {
		spec, ok := res.Spec.(*mesh.HostnameGenerator)
		if !ok || spec.Extension != nil {
			continue // an extension makes its names elsewhere
		}
		g := generator{name: res.Name, selector: spec.Selector}
		g.template, g.err = spec.ParseHostname()
		out = append(out, g)
	}
	return out
}

func originRank(r resource.Resource) int {
	if r.Label(resource.LabelOrigin) == resource.OriginZone {
		return 0
	}
	return 1
}

func (g generator) hostname(service resource.Meta, zone string) (string, error) {
	if g.err != nil {
		return "", g.err
	}
	return g.template.Hostname(service, zone)
}

func (h *hostnames) note(g generator, status mesh.ConditionStatus, reason, message string) {
	h.generators = append(h.generators, mesh.HostnameGeneratorStatus{
		HostnameGeneratorRef: mesh.HostnameGeneratorRef{CoreName: g.name},
		Conditions:           []mesh.Condition{{Type: mesh.ConditionGenerated, Status: status, Reason: reason, Message: message}},
	})
}
