package derive

import "github.com/causeway-mesh/causeway/api/mesh"

// egresses finds out, once per mesh, whether an egress of the zone takes traffic to external services.
func (r *run) egresses() func(inMesh string) mesh.Condition {
	present, ready := map[string]bool{}, map[string]bool{}
	for _, res := range r.byType[mesh.TypeDataplane] {
		dp, ok := res.Spec.(*mesh.Dataplane)
		if !ok || !r.local(res.Meta) {
			continue
		}
		facts := r.Facts[res.Key()]
		for _, l := range dp.Networking.Listeners {
			if l.Type == mesh.ZoneEgress {
				present[res.Mesh] = true
				ready[res.Mesh] = ready[res.Mesh] || facts.Issued && !facts.Draining && l.StateOrReady() == mesh.StateReady
			}
		}
	}
	return func(inMesh string) mesh.Condition {
		c := mesh.Condition{Type: mesh.ConditionEgressAvailable, Status: mesh.False}
		switch {
		case ready[inMesh]:
			c.Status, c.Reason = mesh.True, mesh.ReasonEgressReady
		case present[inMesh]:
			c.Reason = mesh.ReasonEgressNotReady
			c.Message = "no egress of zone " + r.Zone + " has an identity and is ready, so nothing is sent to the service; select the egress with a MeshIdentity and see that it is connected"
		default:
			c.Reason = mesh.ReasonNoEgress
			c.Message = "zone " + r.Zone + " has no egress for the mesh, so nothing is sent to the service; run a Dataplane with a listener of type ZoneEgress"
		}
		return c
	}
}
