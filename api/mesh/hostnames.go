package mesh

import (
	"cmp"
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/api/resource"
)

// Hostnames are the names of one service, and what each generator did for it.
type Hostnames struct {
	Addresses  []Address
	Generators []HostnameGeneratorStatus
}

type generator struct {
	name     string
	selector HostnameSelector
	template HostnameTemplate
	err      error
}

// AssignHostnames lets every generator name the services it selects, as a zone does it. Within a mesh a hostname belongs to one service:
// the oldest gets it, by the generator that comes first: those of a zone, then the oldest, then by name. Services of equal age count in
// the order of the list. Without a zone, names that need one are not made.
func AssignHostnames(services, generators []resource.Resource, zone string) map[resource.Key]Hostnames {
	ordered := inOrder(generators)
	type claim struct{ mesh, hostname string }
	taken := map[claim]resource.Key{}
	out := make(map[resource.Key]Hostnames, len(services))
	for _, s := range slices.SortedStableFunc(slices.Values(services), ByAge) {
		var h Hostnames
		for _, g := range ordered {
			if !g.selector.Selects(s.Meta) {
				continue
			}
			name, err := g.hostname(s.Meta, zone)
			if err != nil {
				h.note(g, False, ReasonTemplateError, err.Error())
				continue
			}
			c := claim{s.Mesh, name}
			owner, dup := taken[c]
			if dup && owner != s.Key() {
				h.note(g, False, ReasonCollision, "hostname "+name+" belongs to "+owner.String())
				continue
			}
			taken[c] = s.Key()
			h.note(g, True, ReasonGenerated, "")
			if !dup {
				h.Addresses = append(h.Addresses, Address{
					Hostname: name, Origin: OriginHostnameGenerator, HostnameGeneratorRef: &HostnameGeneratorRef{CoreName: g.name},
				})
			}
		}
		out[s.Key()] = h
	}
	return out
}

func inOrder(generators []resource.Resource) []generator {
	sorted := slices.SortedFunc(slices.Values(generators), func(a, b resource.Resource) int {
		return cmp.Or(cmp.Compare(originRank(a), originRank(b)), ByAge(a, b), strings.Compare(a.Name, b.Name))
	})
	var out []generator
	for _, res := range sorted {
		spec, ok := res.Spec.(*HostnameGenerator)
		if !ok || spec.Extension != nil {
			continue // an extension makes its names elsewhere
		}
		g := generator{name: res.Name, selector: spec.Selector}
		g.template, g.err = spec.ParseHostname()
		out = append(out, g)
	}
	return out
}

// ByAge orders the older first; what is not stored yet is the youngest.
func ByAge(a, b resource.Resource) int {
	if a.Created.IsZero() != b.Created.IsZero() {
		if a.Created.IsZero() {
			return 1
		}
		return -1
	}
	return cmp.Compare(a.Created.UnixNano(), b.Created.UnixNano())
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

func (h *Hostnames) note(g generator, status ConditionStatus, reason, message string) {
	h.Generators = append(h.Generators, HostnameGeneratorStatus{
		HostnameGeneratorRef: HostnameGeneratorRef{CoreName: g.name},
		Conditions:           []Condition{{Type: ConditionGenerated, Status: status, Reason: reason, Message: message}},
	})
}
