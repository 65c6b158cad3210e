package derive

import (
	"slices"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

// proxies finds the dataplanes of the zone that a service selects without looking at all of them.
type proxies struct {
	byLabel map[proxyLabel][]*resource.Resource
	byName  map[proxyLabel][]*resource.Resource
}

type proxyLabel struct{ mesh, label, value string }

// indexProxies indexes the labels that services select by, and names when one selects by name.
func (r *run) indexProxies() {
	r.proxies = proxies{byLabel: map[proxyLabel][]*resource.Resource{}, byName: map[proxyLabel][]*resource.Resource{}}
	labels, names := map[string]bool{}, false
	for _, s := range r.byType[mesh.TypeMeshService] {
		spec, ok := s.Spec.(*mesh.MeshService)
		if !ok {
			continue
		}
		names = names || spec.Selector.DataplaneRef != nil
		if l := spec.Selector.DataplaneLabels; l != nil {
			for k := range l.MatchLabels {
				labels[k] = true
			}
		}
	}
	dataplanes := r.byType[mesh.TypeDataplane]
	for i := range dataplanes {
		dp := &dataplanes[i]
		if _, ok := dp.Spec.(*mesh.Dataplane); !ok || !r.local(dp.Meta) {
			continue
		}
		for k := range labels {
			if v, ok := dp.Labels[k]; ok {
				l := proxyLabel{dp.Mesh, k, v}
				r.proxies.byLabel[l] = append(r.proxies.byLabel[l], dp)
			}
		}
		if !names {
			continue
		}
		for _, name := range slices.Compact([]string{dp.Name, dp.DisplayName()}) {
			l := proxyLabel{mesh: dp.Mesh, value: name}
			r.proxies.byName[l] = append(r.proxies.byName[l], dp)
		}
	}
}

// selected lists the dataplanes of a service, by key.
func (p proxies) selected(meshName string, s mesh.DataplaneSelector) []*resource.Resource {
	switch {
	case s.DataplaneRef != nil:
		return p.byName[proxyLabel{mesh: meshName, value: s.DataplaneRef.Name}]
	case s.DataplaneLabels == nil || len(s.DataplaneLabels.MatchLabels) == 0:
		return nil
	}
	var shortest []*resource.Resource
	found := false
	for k, v := range s.DataplaneLabels.MatchLabels {
		if l := p.byLabel[proxyLabel{meshName, k, v}]; !found || len(l) < len(shortest) {
			shortest, found = l, true
		}
	}
	var out []*resource.Resource
	for _, dp := range shortest {
		if s.Selects(dp.Meta) {
			out = append(out, dp)
		}
	}
	return out
}

// identities finds the SPIFFE ID of a dataplane.
type identities struct {
	byMesh map[string][]resource.Resource
	namers map[resource.Key]*mesh.Namer
}

func (r *run) identities() identities {
	ids := identities{map[string][]resource.Resource{}, map[resource.Key]*mesh.Namer{}}
	for _, id := range r.byType[mesh.TypeMeshIdentity] {
		ids.byMesh[id.Mesh] = append(ids.byMesh[id.Mesh], id)
		n, err := mesh.NewNamer(id, r.Zone)
		if err != nil {
			r.problem(id.Key(), err.Error())
			continue
		}
		ids.namers[id.Key()] = n
	}
	return ids
}

func (ids identities) of(dp resource.Meta) string {
	id, ok := mesh.SelectIdentity(ids.byMesh[dp.Mesh], dp)
	if !ok {
		return ""
	}
	n := ids.namers[id.Key()]
	if n == nil {
		return ""
	}
	name, err := n.SPIFFEID(dp)
	if err != nil {
		return "" // reported where the certificate is refused
	}
	return name
}

// serviceStatus derives state, identities and TLS readiness. Those of a service of another zone are its own zone's to say.
func (r *run) serviceStatus(s resource.Resource, ids identities) *mesh.MeshServiceStatus {
	st := &mesh.MeshServiceStatus{}
	if old, ok := r.Inputs.Statuses[s.Key()].(*mesh.MeshServiceStatus); ok {
		st.State, st.Identities, st.TLS = old.State, old.Identities, old.TLS
	}
	if g, ok := r.out.Statuses[s.Key()].(*mesh.MeshServiceStatus); ok { // what generation noted
		st.Conditions, st.UnusedSince, st.DataplaneLabels = g.Conditions, g.UnusedSince, g.DataplaneLabels
	}
	spec, ok := s.Spec.(*mesh.MeshService)
	if !r.local(s.Meta) {
		if said, ok := r.Owners[s.Key()]; ok { // otherwise what was said last stays
			st.State, st.Identities, st.TLS = said.State, said.Identities, said.TLS
		}
		return st
	}
	if !ok {
		return st
	}
	members := r.proxies.selected(s.Mesh, spec.Selector)
	st.State = r.state(spec, members, st.State)
	if st.TLS.Status == "" {
		st.TLS.Status = mesh.TLSNotReady
	}
	if len(members) == 0 {
		return st // identities stay: the members may come back, and clients should not have to reconnect
	}
	st.Identities = serviceIdentities(ids, members)
	if st.TLS.Status != mesh.TLSReady {
		st.TLS.Status = r.tls(members)
	}
	return st
}

// state is Available while an inbound of the service is ready. An inbound with a probe that no agent has reported on yet says nothing:
// after a restart of the control plane the recorded state stays until agents have spoken.
func (r *run) state(s *mesh.MeshService, members []*resource.Resource, recorded mesh.ServiceState) mesh.ServiceState {
	unknown := false
	for _, dp := range members {
		facts := r.Facts[dp.Key()]
		if facts.Draining {
			continue
		}
		for _, in := range dp.Spec.(*mesh.Dataplane).ExposedInbounds() {
			if !slices.ContainsFunc(s.Ports, func(p mesh.Port) bool { return p.Selects(in) }) {
				continue
			}
			state, reported := facts.Inbounds[in.SectionName()]
			if !reported {
				state = in.StateOrReady()
				unknown = unknown || in.ServiceProbe != nil && in.State == "" && in.Health == nil
			}
			if state == mesh.StateReady {
				return mesh.Available
			}
		}
	}
	if unknown && recorded != "" {
		return recorded
	}
	return mesh.Unavailable
}

func serviceIdentities(ids identities, members []*resource.Resource) []mesh.ServiceIdentity {
	var names []string
	for _, dp := range members {
		if name := ids.of(dp.Meta); name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var out []mesh.ServiceIdentity
	for _, n := range slices.Compact(names) {
		out = append(out, mesh.ServiceIdentity{Type: mesh.IdentitySpiffeID, Value: n})
	}
	return out
}

func (r *run) tls(members []*resource.Resource) mesh.TLSReadiness {
	for _, dp := range members {
		if !r.Facts[dp.Key()].Issued {
			return mesh.TLSNotReady
		}
	}
	return mesh.TLSReady
}
