package mesh

import "github.com/causeway-mesh/causeway/api/resource"

// MeshTrust says which authorities may sign identities of a trust domain.
type MeshTrust struct {
	// TrustDomain of the identities, at most 253 characters. Required.
	TrustDomain string `json:"trustDomain"`
	// CABundles are the authorities; at least one. Required.
	CABundles []CABundle `json:"caBundles"`
}

// CABundle is a set of authorities.
type CABundle struct {
	// Type is Pem. Required.
	Type string `json:"type"`
	// PEM holds the certificates.
	PEM *PEMBundle `json:"pem,omitempty"`
}

// CABundlePEM is the one type of bundles.
const CABundlePEM = "Pem"

// PEMBundle holds certificates.
type PEMBundle struct {
	// Value is one or more certificates in PEM. Required.
	Value string `json:"value"`
}

// MeshTrustStatus is what the control plane reports about a trust.
type MeshTrustStatus struct {
	// Origin is set when the control plane made the trust for an identity.
	Origin *TrustOrigin `json:"origin,omitempty"`
}

// TrustOrigin names the MeshIdentity that a trust was made for.
type TrustOrigin struct {
	// KRI of the MeshIdentity.
	KRI string `json:"kri"`
}

var meshTrustKind = resource.Kind{
	Name: TypeMeshTrust, Path: "meshtrusts", Short: "mtrust", Singular: "Mesh Trust", Plural: "Mesh Trusts",
	Scope: resource.ScopeMesh, Flow: resource.FromGlobal | resource.FromZone | resource.AcrossZones, // zones learn of each other's authorities through global alone
	New: func() any { return new(MeshTrust) }, NewStatus: func() any { return new(MeshTrustStatus) }, Validate: validateMeshTrust, Requires: requires,
}
