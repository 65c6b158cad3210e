package globalcp

import (
	"encoding/json"
	"sync"

	"github.com/causeway-mesh/causeway/api/hosting"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/global-cp/insight"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/exchange"
)

// shown completes services for the API: those of zones with what their zones say of them, multi-zone services with what follows from
// the services that global knows, and others with what follows from all that is declared. Virtual addresses are those of each zone,
// so global shows none.
type shown struct {
	board *insight.Board

	mu      sync.Mutex
	catalog *catalog.Snapshot
	names   map[string]map[resource.Key]mesh.Hostnames // by mesh, as of that snapshot
}

// complete implements rest.Config.Complete.
func (s *shown) complete(snap *catalog.Snapshot, r resource.Resource, spec, status []byte) ([]byte, []byte) {
	switch r.Type {
	case mesh.TypeMeshService:
		if said, ok := snap.Derived(exchange.StatementOfService, r.Mesh, r.Name); ok {
			status = said
		}
		return hosting.ShowService(spec, status, s.board.Proxies(r))
	case mesh.TypeMeshMultiZoneService:
		return spec, s.multiZone(snap, r, status)
	}
	return spec, hosting.ShowConditions(snap.Each, r, status)
}

func (s *shown) multiZone(snap *catalog.Snapshot, r resource.Resource, status []byte) []byte {
	m, ok := r.Spec.(*mesh.MeshMultiZoneService)
	if !ok {
		return status
	}
	var st mesh.MeshMultiZoneServiceStatus
	st.MeshServices, st.Conditions = m.Members(r.Mesh, "", listed(snap, mesh.TypeMeshService, r.Mesh))
	names := s.hostnames(snap, r.Mesh)[r.Key()]
	st.Addresses, st.HostnameGenerators = names.Addresses, names.Generators
	b, err := json.Marshal(st)
	if err != nil {
		return status
	}
	return b
}

// hostnames are those that generators of all zones give to the services of a mesh, made once per snapshot.
func (s *shown) hostnames(snap *catalog.Snapshot, meshName string) map[resource.Key]mesh.Hostnames {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.catalog != snap {
		s.catalog, s.names = snap, map[string]map[resource.Key]mesh.Hostnames{}
	}
	if names, ok := s.names[meshName]; ok {
		return names
	}
	var services, generators []resource.Resource
	for _, typ := range []string{mesh.TypeMeshService, mesh.TypeMeshExternalService, mesh.TypeMeshMultiZoneService} {
		services = append(services, listed(snap, typ, meshName)...)
	}
	for _, g := range listed(snap, mesh.TypeHostnameGenerator, "") {
		if g.Zone() == "" { // one of a zone names what is there
			generators = append(generators, g)
		}
	}
	s.names[meshName] = mesh.AssignHostnames(services, generators, "")
	return s.names[meshName]
}

func listed(snap *catalog.Snapshot, typ, meshName string) []resource.Resource {
	var out []resource.Resource
	snap.Each(typ, meshName, func(r resource.Resource) bool {
		out = append(out, r)
		return true
	})
	return out
}
