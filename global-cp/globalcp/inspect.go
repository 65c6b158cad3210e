package globalcp

import (
	"context"
	"maps"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/hosting"
	"github.com/causeway-mesh/causeway/api/inquiry"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policies"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/role"
	"github.com/causeway-mesh/causeway/api/view"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// inspector answers what global knows by itself: what policies say of a proxy, whether or not its zone is connected. The zone is asked for
// the rest.
type inspector struct {
	global *Global
	free   chan struct{} // bounds how many meshes are looked through at a time
}

// maxExplaining is how many explanations are worked out at a time: each looks through a whole mesh.
const maxExplaining = 2

// Inspect implements rest.Inspector.
func (i inspector) Inspect(ctx context.Context, dp resource.Resource, q *inquiry.Question) ([]byte, error) {
	if !hosting.Explains(q) {
		return i.global.hub.Inspect(ctx, dp, q)
	}
	select {
	case i.free <- struct{}{}:
		defer func() { <-i.free }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	q.Mesh, q.Name = dp.Mesh, dp.Name
	x, ok := envoy.NewCompiler(asSeenIn(dp.Zone(), i.global.catalog.Snapshot(), dp.Mesh)).Explain(dp.Key())
	if !ok {
		return nil, resource.ErrNotFound
	}
	return hosting.Explain(x, q)
}

// asSeenIn is a mesh as its zone sees it, as far as policies and what they refer to are concerned.
func asSeenIn(zone string, snap *catalog.Snapshot, meshName string) *view.View {
	v := view.New(zone, api.Kinds(), policies.All)
	for _, k := range api.Kinds().All() {
		if k.Scope != resource.ScopeMesh || k.Policy == nil && !k.Destination && k.Name != mesh.TypeDataplane && k.Name != mesh.TypeMeshIdentity && k.Name != mesh.TypeMeshOTelBackend {
			continue
		}
		snap.Each(k.Name, meshName, func(r resource.Resource) bool {
			if r.Zone() != "" && r.Zone() != zone {
				if k.Flow&resource.AcrossZones == 0 || k.Policy != nil && role.Stored(r.Meta) != role.Producer {
					return true
				}
				r.Labels = maps.Clone(r.Labels)
				r.Labels[resource.LabelOrigin] = resource.OriginGlobal // that is where the zone has it from
			}
			v.Put(r)
			return true
		})
	}
	return v
}
