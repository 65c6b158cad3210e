// Package mesh holds the plain resource kinds: what a mesh consists of (zones, dataplanes, services, identities, addresses, secrets),
// as Go types with the JSON of the Kuma 3 API, their validation, and the few questions only they can answer, such as which
// SPIFFE ID a dataplane has. It holds no policies, does no I/O and knows neither Envoy, SQL nor Kubernetes.
package mesh

import "github.com/causeway-mesh/causeway/api/resource"

// The type names of the plain kinds.
const (
	TypeMesh                 = "Mesh"
	TypeZone                 = "Zone"
	TypeZoneInsight          = "ZoneInsight"
	TypeDataplane            = "Dataplane"
	TypeDataplaneInsight     = "DataplaneInsight"
	TypeMeshService          = "MeshService"
	TypeMeshMultiZoneService = "MeshMultiZoneService"
	TypeMeshExternalService  = "MeshExternalService"
	TypeHostnameGenerator    = "HostnameGenerator"
	TypeMeshIdentity         = "MeshIdentity"
	TypeMeshTrust            = "MeshTrust"
	TypeMeshZoneAddress      = "MeshZoneAddress"
	TypeWorkload             = "Workload"
	TypeMeshOTelBackend      = "MeshOpenTelemetryBackend"
	TypeSecret               = "Secret"
	TypeGlobalSecret         = "GlobalSecret"
)

// Kinds lists the plain kinds, in the order people meet them.
var Kinds = []resource.Kind{
	meshKind, zoneKind, zoneInsightKind,
	dataplaneKind, dataplaneInsightKind, workloadKind,
	meshServiceKind, meshMultiZoneServiceKind, meshExternalServiceKind, hostnameGeneratorKind,
	meshIdentityKind, meshTrustKind, meshZoneAddressKind, openTelemetryBackendKind,
	secretKind, globalSecretKind,
}

// Mesh is an isolated set of proxies and services with its own policies and identities.
type Mesh struct {
	// SkipCreatingInitialPolicies lists the policy types of which no default is created with the mesh; "*" means all. Default none.
	SkipCreatingInitialPolicies []string `json:"skipCreatingInitialPolicies,omitempty"`
}

// SkipsDefault says that no default policy of the type is wanted.
func (m *Mesh) SkipsDefault(policyType string) bool {
	for _, s := range m.SkipCreatingInitialPolicies {
		if s == "*" || s == policyType {
			return true
		}
	}
	return false
}

var meshKind = resource.Kind{
	Name: TypeMesh, Path: "meshes", Short: "m", Singular: "Mesh", Plural: "Meshes",
	Scope: resource.ScopeGlobal, Flow: resource.FromGlobal, Names: resource.RFC1035Label, Inline: true,
	New: func() any { return new(Mesh) }, Validate: validateMesh, Requires: requires,
}

func validateMesh(r resource.Resource) resource.Problems {
	var ps problems
	seen := map[string]bool{}
	for i, s := range r.Spec.(*Mesh).SkipCreatingInitialPolicies {
		at := resource.Path("skipCreatingInitialPolicies").Index(i)
		switch {
		case s == "":
			ps.Add(at, "must be the name of a policy type or *")
		case seen[s]:
			ps.Add(at, "%s is listed twice", resource.Quote(s))
		}
		seen[s] = true
	}
	return ps.Problems
}
