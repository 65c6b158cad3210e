package metric

import (
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policies/sink"
	"github.com/causeway-mesh/causeway/api/policy"
)

// effective is what is in force: the configuration and the collectors that its backends refer to.
type effective struct {
	Conf
	// Collectors are those of the backends, by their places; nil where there is none.
	Collectors []*linked `json:"collectors,omitempty"`
}

// linked is a collector as the mesh has it.
type linked struct {
	Name    string                         `json:"name"`
	Backend *mesh.MeshOpenTelemetryBackend `json:"backend"`
}

func references(spec any) []policy.Reference {
	s, ok := spec.(*policy.Spec[Conf])
	if !ok || s.Default == nil {
		return nil
	}
	var refs []*sink.Ref
	for _, b := range s.Default.Backends {
		if b.OpenTelemetry != nil {
			refs = append(refs, b.OpenTelemetry.BackendRef)
		}
	}
	return sink.References(refs...)
}

// link finds the collectors.
func link(c *effective, find policy.Find) {
	c.Collectors = nil
	for i, b := range c.Backends {
		if b.OpenTelemetry == nil {
			continue
		}
		name, to, ok := b.OpenTelemetry.BackendRef.Find(find)
		if !ok {
			continue
		}
		if c.Collectors == nil {
			c.Collectors = make([]*linked, len(c.Backends))
		}
		c.Collectors[i] = &linked{name, to.OpenTelemetry}
	}
}
