package zonecp

import (
	"encoding/json"
	"sync"

	"github.com/causeway-mesh/causeway/api/hosting"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/zone-cp/agents"
)

// shown completes services and workloads for the API with what is derived (state and identities stand in the spec there)
// and observed (how many proxies are connected and healthy), and others with what follows from all that is declared.
type shown struct {
	registry *agents.Registry

	mu       sync.Mutex
	catalog  *catalog.Snapshot
	observed *agents.Snapshot
	counts   map[resource.Key]mesh.DataplaneProxies
}

// complete implements rest.Config.Complete.
func (s *shown) complete(snap *catalog.Snapshot, r resource.Resource, spec, status []byte) ([]byte, []byte) {
	if r.Type != mesh.TypeMeshService && r.Type != mesh.TypeWorkload || s.registry == nil {
		return spec, hosting.ShowConditions(snap.Each, r, status)
	}
	proxies := s.proxies(snap)[r.Key()]
	if r.Type == mesh.TypeMeshService {
		return hosting.ShowService(spec, status, proxies)
	}
	fields := map[string]any{}
	if len(status) > 0 && json.Unmarshal(status, &fields) != nil {
		return spec, status
	}
	fields["dataplaneProxies"] = proxies
	b, err := json.Marshal(fields)
	if err != nil {
		return spec, status
	}
	return spec, b
}

// proxies counts the proxies of every service and workload in one pass, and again only when something has changed.
func (s *shown) proxies(snap *catalog.Snapshot) map[resource.Key]mesh.DataplaneProxies {
	s.mu.Lock()
	defer s.mu.Unlock()
	observed := s.registry.Snapshot()
	if s.catalog == snap && s.observed == observed {
		return s.counts
	}
	s.catalog, s.observed, s.counts = snap, observed, map[resource.Key]mesh.DataplaneProxies{}
	members := selectors(snap)
	snap.Each(mesh.TypeDataplane, "", func(dp resource.Resource) bool {
		spec, ok := dp.Spec.(*mesh.Dataplane)
		if !ok {
			return true
		}
		f, _ := observed.Get(dp.Key())
		one := mesh.DataplaneProxies{Total: 1}
		if f.Connected {
			one.Connected = 1
			if f.Serving && ready(spec, f) {
				one.Healthy = 1
			}
		}
		for _, k := range members.of(dp) {
			c := s.counts[k]
			s.counts[k] = mesh.DataplaneProxies{Connected: c.Connected + one.Connected, Healthy: c.Healthy + one.Healthy, Total: c.Total + 1}
		}
		return true
	})
	return s.counts
}

func ready(dp *mesh.Dataplane, f agents.Facts) bool {
	for _, in := range dp.ExposedInbounds() {
		if f.Inbound(in.SectionName(), in.StateOrReady()) != mesh.StateReady {
			return false
		}
	}
	return true
}

// A selectorIndex finds the services of a dataplane by one label of their selector.
type selectorIndex map[[3]string][]resource.Resource

func selectors(snap *catalog.Snapshot) selectorIndex {
	out := selectorIndex{}
	snap.Each(mesh.TypeMeshService, "", func(r resource.Resource) bool {
		spec, ok := r.Spec.(*mesh.MeshService)
		if !ok {
			return true
		}
		if sel := spec.Selector.DataplaneLabels; sel != nil {
			for k, v := range sel.MatchLabels {
				key := [3]string{r.Mesh, k, v}
				out[key] = append(out[key], r)
				break // any one label narrows it enough
			}
		} else if ref := spec.Selector.DataplaneRef; ref != nil {
			key := [3]string{r.Mesh, resource.LabelDisplayName, ref.Name}
			out[key] = append(out[key], r)
		}
		return true
	})
	return out
}

// of lists the services and the workload that a dataplane belongs to.
func (x selectorIndex) of(dp resource.Resource) []resource.Key {
	var out []resource.Key
	for k, v := range dp.Labels {
		for _, r := range x[[3]string{dp.Mesh, k, v}] {
			if spec, ok := r.Spec.(*mesh.MeshService); ok && spec.Selector.Selects(dp.Meta) {
				out = append(out, r.Key())
			}
		}
	}
	if w := dp.Label(resource.LabelWorkload); w != "" {
		out = append(out, resource.Key{Type: mesh.TypeWorkload, Mesh: dp.Mesh, Name: w})
	}
	return out
}
