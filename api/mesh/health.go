package mesh

// HealthSNI is the server name under which the control plane of a zone answers, behind the ingresses of a mesh of the zone,
// how healthy the services of that mesh are.
func HealthSNI(meshName, zone string) string { return "health." + meshName + "." + zone }

// ControlPlaneID is the SPIFFE ID of a zone's control plane in a mesh with a trust domain.
func ControlPlaneID(trustDomain string) string { return "spiffe://" + trustDomain + "/causeway/control-plane" }
