package mesh

import "github.com/causeway-mesh/causeway/api/resource"

// HostnameGenerator gives hostnames to the services it selects.
type HostnameGenerator struct {
	// Selector says which services get a hostname; exactly one kind is set.
	Selector HostnameSelector `json:"selector,omitzero"`
	// Template of the hostname, with the variables .Name, .DisplayName, .Namespace, .Mesh and .Zone and the function label "key".
	// The result must be a DNS name. Required unless an extension is set.
	Template string `json:"template,omitempty"`
	// Extension leaves hostnames to software outside Causeway.
	Extension *Extension `json:"extension,omitempty"`
}

// HostnameSelector selects services of one kind by labels.
type HostnameSelector struct {
	// MeshService selects services of one zone. An empty selector selects all.
	MeshService *LabelSelector `json:"meshService,omitempty"`
	// MeshExternalService selects services outside the mesh. An empty selector selects all.
	MeshExternalService *LabelSelector `json:"meshExternalService,omitempty"`
	// MeshMultiZoneService selects services of several zones. An empty selector selects all.
	MeshMultiZoneService *LabelSelector `json:"meshMultiZoneService,omitempty"`
}

// Selects says whether a service gets a hostname.
func (s HostnameSelector) Selects(service resource.Meta) bool {
	switch service.Type {
	case TypeMeshService:
		return s.MeshService.Matches(service.Labels)
	case TypeMeshExternalService:
		return s.MeshExternalService.Matches(service.Labels)
	case TypeMeshMultiZoneService:
		return s.MeshMultiZoneService.Matches(service.Labels)
	}
	return false
}

var hostnameGeneratorKind = resource.Kind{
	Name: TypeHostnameGenerator, Path: "hostnamegenerators", Short: "hg", Singular: "Hostname Generator", Plural: "Hostname Generators",
	Scope: resource.ScopeGlobal, Flow: resource.FromGlobal | resource.FromZone,
	New: func() any { return new(HostnameGenerator) }, Validate: validateHostnameGenerator, Requires: requires,
}
