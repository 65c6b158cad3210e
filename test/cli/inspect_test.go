package cli_test

import (
	"context"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/hosting"
	"github.com/causeway-mesh/causeway/api/inquiry"
	"github.com/causeway-mesh/causeway/api/policies"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// explains is a zone that knows what policies say, and whose proxies do not run.
type explains struct{ catalog *catalog.Catalog }

// Inspect implements rest.Inspector.
func (e explains) Inspect(_ context.Context, dp resource.Resource, q *inquiry.Question) ([]byte, error) {
	if !hosting.Explains(q) {
		return nil, inquiry.Failf("no agent of dataplane %s has ever connected to zone east, so its Envoy cannot be asked", dp.Name)
	}
	v := view.New("east", api.Kinds(), policies.All)
	for _, k := range api.Kinds().All() {
		e.catalog.Snapshot().Each(k.Name, dp.Mesh, func(r resource.Resource) bool {
			v.Put(r)
			return true
		})
	}
	x, ok := envoy.NewCompiler(v).Explain(dp.Key())
	if !ok {
		return nil, resource.ErrNotFound
	}
	return hosting.Explain(x, q)
}
