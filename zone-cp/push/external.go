package push

import (
	"slices"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// judgeExternal finds out whether external services that a change concerns can be spoken to as declared. The compiler learns the verdict only:
// secrets are no part of what it knows.
func (s *state) judgeExternal(snap *catalog.Snapshot, k resource.Key) {
	switch k.Type {
	case mesh.TypeMeshExternalService:
		r, _ := snap.Get(k)
		s.view.SetUnusable(k, unusable(snap, r))
	case mesh.TypeSecret:
		snap.Each(mesh.TypeMeshExternalService, k.Mesh, func(r resource.Resource) bool {
			if spec, ok := r.Spec.(*mesh.MeshExternalService); ok && slices.Contains(spec.SecretsOf(), k.Name) {
				s.view.SetUnusable(r.Key(), unusable(snap, r))
			}
			return true
		})
	}
}

func unusable(snap *catalog.Snapshot, r resource.Resource) string {
	spec, ok := r.Spec.(*mesh.MeshExternalService)
	if !ok {
		return ""
	}
	_, err := spec.Material(func(name string) ([]byte, bool) {
		s, _ := snap.Get(resource.Key{Type: mesh.TypeSecret, Mesh: r.Mesh, Name: name})
		secret, ok := s.Spec.(*mesh.Secret)
		if !ok {
			return nil, false
		}
		return secret.Data, true
	})
	if err != nil {
		return err.Error()
	}
	return ""
}
