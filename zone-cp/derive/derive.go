// Package derive computes the derived records of a zone: virtual addresses, hostnames, the services and workloads that dataplanes imply,
// members of multi-zone services, and the state, identities and TLS readiness of services.
//
// Compute is pure: it takes everything it depends on, time included, and gives the same answer to equal inputs in any order.
// Controller runs it when something changes and writes the differences. The package counts no proxies (that is observed, not derived),
// issues no certificates and serves nobody.
package derive

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Facts are what is observed about a dataplane and matters for what is derived.
type Facts struct {
	// Issued says that the proxy has a certificate of its identity.
	Issued bool
	// Draining says that the proxy is about to leave.
	Draining bool
	// Inbounds holds the state of inbounds by section, where the agent reported it.
	Inbounds map[string]mesh.InboundState
}

// Equal compares facts.
func (f Facts) Equal(o Facts) bool {
	return f.Issued == o.Issued && f.Draining == o.Draining && maps.Equal(f.Inbounds, o.Inbounds)
}

// Inputs are everything that Compute depends on. It changes nothing in them.
type Inputs struct {
	// Zone is the name of the zone, and Env its environment: universal or kubernetes.
	Zone, Env string
	// Now and Grace decide when something generated goes: Grace after it was last used.
	Now   time.Time
	Grace time.Duration
	// Resources of the types in Reads.
	Resources map[resource.Key]resource.Resource
	// Statuses as recorded, by the resource they belong to: pointers to the status types of package mesh.
	Statuses map[resource.Key]any
	// Owners holds what other zones say of their MeshServices: state, identities and TLS readiness.
	Owners map[resource.Key]mesh.MeshServiceStatus
	// Appeared says since when services of other zones are known about which nothing is recorded yet. What their zone says of them
	// follows on the link, and is waited for a little, so that the service comes to proxies in one piece.
	Appeared map[resource.Key]time.Time
	// Aside holds the resources that exist but cannot be read now. What is recorded for them stays.
	Aside map[resource.Key]bool
	// Facts about dataplanes; missing ones are unknown.
	Facts map[resource.Key]Facts
}

// Reads lists the types of resources that Compute depends on.
var Reads = []string{
	mesh.TypeMesh, mesh.TypeDataplane, mesh.TypeWorkload, mesh.TypeMeshService, mesh.TypeMeshMultiZoneService, mesh.TypeMeshExternalService,
	mesh.TypeHostnameGenerator, mesh.TypeMeshIdentity,
}

// Outputs are the complete derived state. What is recorded and not listed here is to be forgotten.
type Outputs struct {
	// Statuses by the resource they belong to, of the same types as in Inputs.
	Statuses map[resource.Key]any
	// Put lists generated resources to write, in order of their keys. Version is what is replaced, 0 for a new one.
	Put []resource.Resource
	// Delete lists generated resources that nothing has used for the grace period.
	Delete []resource.Resource
	// Forget lists the recorded statuses whose resource is gone or has nothing derived any more.
	Forget []resource.Key
	// Due is when the answer changes although nothing else does; zero means never.
	Due time.Time
	// Problems say what could not be derived, for the log.
	Problems []Problem
}

// A Problem is something that could not be derived for a resource.
type Problem struct {
	Key    resource.Key
	Reason string
}

// run is the state of one computation.
type run struct {
	Inputs
	out      Outputs
	byType   map[string][]resource.Resource // sorted by key; generated ones included
	proxies  proxies
	services []resource.Resource // all destinations, sorted by KRI
}

// Compute derives everything anew.
func Compute(in Inputs) Outputs {
	r := &run{Inputs: in, byType: map[string][]resource.Resource{}}
	r.out.Statuses = map[resource.Key]any{}
	for _, res := range in.Resources {
		r.byType[res.Type] = append(r.byType[res.Type], res)
	}
	for _, list := range r.byType {
		slices.SortFunc(list, func(a, b resource.Resource) int { return a.Key().Compare(b.Key()) })
	}
	r.generate()
	r.indexProxies()
	r.listServices()
	vips := r.assignVIPs()
	names := mesh.AssignHostnames(r.services, r.byType[mesh.TypeHostnameGenerator], r.Zone)
	identities, egress := r.identities(), r.egresses()
	for _, s := range r.services {
		if r.awaitsOwner(s) {
			continue
		}
		r.out.Statuses[s.Key()] = r.status(s, vips[s.Key()], names[s.Key()], identities, egress)
	}
	r.forget()
	slices.SortFunc(r.out.Problems, func(a, b Problem) int { return cmp.Or(a.Key.Compare(b.Key), strings.Compare(a.Reason, b.Reason)) })
	return r.out
}

// due notes that the answer changes at a time.
func (r *run) due(at time.Time) {
	if r.out.Due.IsZero() || at.Before(r.out.Due) {
		r.out.Due = at
	}
}

func (r *run) problem(k resource.Key, reason string) {
	r.out.Problems = append(r.out.Problems, Problem{k, reason})
}

func (r *run) listServices() {
	for _, typ := range []string{mesh.TypeMeshService, mesh.TypeMeshExternalService, mesh.TypeMeshMultiZoneService} {
		r.services = append(r.services, r.byType[typ]...)
	}
	kris := make(map[resource.Key]resource.KRI, len(r.services))
	for _, s := range r.services {
		kris[s.Key()] = kriOf(s)
	}
	slices.SortFunc(r.services, func(a, b resource.Resource) int {
		return cmp.Or(kris[a.Key()].Compare(kris[b.Key()]), a.Key().Compare(b.Key()))
	})
}

// statementWait is how long the first status of a service of another zone waits for what that zone says of it. A zone that is there
// says it within milliseconds; of one that is away the service is offered with what is known.
const statementWait = time.Second

// awaitsOwner says that a service of another zone has just appeared and nothing has been said of it.
func (r *run) awaitsOwner(s resource.Resource) bool {
	since, ok := r.Appeared[s.Key()]
	if !ok || s.Type != mesh.TypeMeshService || r.local(s.Meta) || r.Inputs.Statuses[s.Key()] != nil {
		return false
	}
	if _, said := r.Owners[s.Key()]; said {
		return false
	}
	due := since.Add(statementWait)
	if !r.Now.Before(due) {
		return false
	}
	r.due(due)
	return true
}

// local says that a resource belongs to this zone.
func (r *run) local(m resource.Meta) bool { return m.Zone() == "" || m.Zone() == r.Zone }

func (r *run) forget() {
	gone := map[resource.Key]bool{}
	for _, d := range r.out.Delete {
		gone[d.Key()] = true // its status goes with it
	}
	for k := range r.Inputs.Statuses {
		if _, ok := r.out.Statuses[k]; !ok && !r.Aside[k] && !gone[k] {
			r.out.Forget = append(r.out.Forget, k)
		}
	}
	slices.SortFunc(r.out.Forget, resource.Key.Compare)
}

func kriOf(r resource.Resource) resource.KRI {
	return resource.KRIOf(resource.Kind{Short: families[r.Type].short}, r.Meta)
}

// status is what is recorded for one destination.
func (r *run) status(s resource.Resource, vip string, names mesh.Hostnames, ids identities, egress func(mesh string) mesh.Condition) any {
	var vips []mesh.VIP
	if vip != "" {
		vips = []mesh.VIP{{IP: vip}}
	}
	switch s.Type {
	case mesh.TypeMeshService:
		st := r.serviceStatus(s, ids)
		st.VIPs, st.Addresses, st.HostnameGenerators = vips, names.Addresses, names.Generators
		return st
	case mesh.TypeMeshMultiZoneService:
		st := &mesh.MeshMultiZoneServiceStatus{}
		if spec, ok := s.Spec.(*mesh.MeshMultiZoneService); ok {
			st.MeshServices, st.Conditions = spec.Members(s.Mesh, r.Zone, r.byType[mesh.TypeMeshService])
		}
		st.VIPs, st.Addresses, st.HostnameGenerators = vips, names.Addresses, names.Generators
		return st
	default:
		return &mesh.MeshExternalServiceStatus{
			VIP: mesh.VIP{IP: vip}, Addresses: names.Addresses, HostnameGenerators: names.Generators, Conditions: []mesh.Condition{egress(s.Mesh)},
		}
	}
}
