package derive

import (
	"maps"
	"slices"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

// DefaultMesh is the name of the mesh that a new control plane starts with.
const DefaultMesh = "default"

// built makes a resource of a spec of this package's own, which always encodes.
func built(m resource.Meta, spec any) resource.Resource {
	r, err := resource.WithSpec(m, spec)
	if err != nil {
		panic("derive: " + err.Error())
	}
	return r
}

// A Start describes a zone that starts for the first time.
type Start struct {
	Zone, Env string
	// Federated zones get meshes and the synced generators from global.
	Federated bool
	// SkipMesh and SkipGenerators leave those out.
	SkipMesh, SkipGenerators bool
}

// FirstResources are the resources that a new zone starts with, apart from secrets. What exists already is to be left as it is.
func FirstResources(s Start) []resource.Resource {
	out := []resource.Resource{built(resource.Meta{Type: mesh.TypeZone, Name: s.Zone}, &mesh.Zone{})}
	if !s.Federated && !s.SkipMesh {
		out = append(out, built(resource.Meta{Type: mesh.TypeMesh, Name: DefaultMesh}, &mesh.Mesh{}))
	}
	if !s.SkipGenerators {
		out = append(out, mesh.LocalGenerators()...)
		if !s.Federated {
			out = append(out, mesh.SyncedGenerators()...)
		}
	}
	for i := range out {
		out[i].Labels = stamp(out[i].Meta, s.Zone, s.Env)
	}
	return out
}

// stamp adds the labels that a zone gives to what it writes itself.
func stamp(m resource.Meta, zone, env string) map[string]string {
	labels := maps.Clone(m.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	if m.Mesh != "" {
		labels[resource.LabelMesh] = m.Mesh
	}
	if labels[resource.LabelDisplayName] == "" {
		labels[resource.LabelDisplayName] = m.Name
	}
	labels[resource.LabelOrigin], labels[resource.LabelEnv] = resource.OriginZone, env
	if ofZone(m.Type) {
		labels[resource.LabelZone] = zone
	}
	return labels
}

// ofZone says that resources of a type belong to the zone that writes them.
func ofZone(typ string) bool {
	return slices.ContainsFunc(mesh.Kinds, func(k resource.Kind) bool { return k.Name == typ && k.Flow&resource.FromZone != 0 })
}
