package view

import (
	"slices"
	"strconv"

	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

// An Identity is what a proxy is called in the mesh. The zero value is a proxy without one: it speaks plaintext.
type Identity struct {
	SPIFFEID    string
	TrustDomain string
}

func (v *View) defineIdentities() {
	v.identity = memo.NewFunc(v.Graph, "identity", func(a, b Identity) bool { return a == b }, v.computeIdentity)
	v.spiffeIDs = memo.NewFunc(v.Graph, "spiffeIDs", slices.Equal[[]string], v.computeSpiffeIDs)
}

// IdentityOf is the identity that a dataplane is issued.
func (v *View) IdentityOf(r *memo.Reader, dp resource.Key) Identity { return v.identity.Get(r, dp) }

func (v *View) computeIdentity(r *memo.Reader, k resource.Key) Identity {
	dp, ok := v.Resource(r, k)
	if !ok {
		return Identity{}
	}
	mid, ok := mesh.SelectIdentity(v.All(r, mesh.TypeMeshIdentity, k.Mesh), dp.Meta)
	if !ok {
		return Identity{}
	}
	if spec, ok := mid.Spec.(*mesh.MeshIdentity); !ok || spec.Provider == nil {
		return Identity{} // names only: nothing is issued
	}
	id, err := mesh.SPIFFEID(mid, dp.Meta, v.zoneOf(dp))
	if err != nil {
		return Identity{} // shown in the status of the MeshIdentity
	}
	domain, err := mesh.TrustDomain(mid, v.zoneOf(dp))
	if err != nil {
		return Identity{}
	}
	return Identity{SPIFFEID: id, TrustDomain: domain}
}

// ServiceIdentities lists the SPIFFE IDs that proxies of a destination may present, sorted: those of its present members
// and those recorded for it, so that neither a member that just came nor one that just left is refused.
func (v *View) ServiceIdentities(r *memo.Reader, service resource.Key) []string {
	return v.spiffeIDs.Get(r, service)
}

func (v *View) computeSpiffeIDs(r *memo.Reader, k resource.Key) []string {
	res, ok := v.Resource(r, k)
	if !ok {
		return nil
	}
	out := slices.Clone(v.StatusOf(r, k).Identities)
	switch s := res.Spec.(type) {
	case *mesh.MeshService:
		if v.zoneOf(res) != v.zone {
			break // its own zone says who serves it
		}
		for _, dp := range v.Members(r, res) {
			if id := v.IdentityOf(r, dp.Key()).SPIFFEID; id != "" {
				out = append(out, id)
			}
		}
	case *mesh.MeshMultiZoneService:
		for _, m := range v.Select(r, mesh.TypeMeshService, res.Mesh, s.Selector.MeshService.MatchLabels) {
			out = append(out, v.ServiceIdentities(r, m.Key())...)
		}
	case *mesh.MeshExternalService:
		out = append(out, v.egressIdentities(r, k.Mesh)...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// TLSReady says that clients with an identity may use mesh TLS to a destination. A multi-zone service is ready when one
// of its members is; the others get no traffic until they are.
func (v *View) TLSReady(r *memo.Reader, service resource.Key) bool {
	res, ok := v.Resource(r, service)
	if !ok {
		return false
	}
	s, ok := res.Spec.(*mesh.MeshMultiZoneService)
	if !ok {
		return v.StatusOf(r, service).TLSReady
	}
	return slices.ContainsFunc(v.Select(r, mesh.TypeMeshService, res.Mesh, s.Selector.MeshService.MatchLabels), func(m resource.Resource) bool {
		return v.TLSReady(r, m.Key())
	})
}

// Elsewhere says that a destination is a service of another zone, so that it is reached through an ingress and with mesh TLS only.
func (v *View) Elsewhere(r *memo.Reader, service resource.Key) bool {
	res, ok := v.Resource(r, service)
	return ok && service.Type == mesh.TypeMeshService && v.zoneOf(res) != v.zone
}

func number(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
