package mesh

import "github.com/causeway-mesh/causeway/api/resource"

// MeshIdentity says which proxies have an identity, what it is called and who issues it.
type MeshIdentity struct {
	// Selector says which proxies get the identity. Absent: none; of several, the one with the most labels wins, then the first by name.
	Selector *IdentitySelector `json:"selector,omitempty"`
	// SpiffeID says how the identity is called.
	SpiffeID *SpiffeIDTemplates `json:"spiffeID,omitempty"`
	// Provider issues the certificates. Absent: the names are computed, and nothing is issued.
	Provider *IdentityProvider `json:"provider,omitempty"`
}

// IdentitySelector selects proxies.
type IdentitySelector struct {
	// Dataplane holds the labels; without labels it selects every proxy of the mesh. Absent: none.
	Dataplane *LabelSelector `json:"dataplane,omitempty"`
}

// SpiffeIDTemplates are the templates of the two parts of a SPIFFE ID.
type SpiffeIDTemplates struct {
	// TrustDomain is a template with .Mesh and .Zone. Default "{{ .Mesh }}.{{ .Zone }}.mesh.local".
	TrustDomain string `json:"trustDomain,omitempty"`
	// Path is a template with .Namespace, .ServiceAccount, .Workload and the function label "key", starting with "/".
	// Default "/workload/{{ .Workload }}", on Kubernetes "/ns/{{ .Namespace }}/sa/{{ .ServiceAccount }}".
	Path string `json:"path,omitempty"`
}

// IdentityProvider issues certificates. Type names the field that applies.
type IdentityProvider struct {
	// Type is Bundled (the control plane of the zone), Spire or Extension. Required.
	Type ProviderType `json:"type"`
	// Bundled configures the certificate authority of the zone.
	Bundled *BundledProvider `json:"bundled,omitempty"`
	// Spire configures the agent of SPIRE.
	Spire *SpireProvider `json:"spire,omitempty"`
	// Extension leaves certificates to software outside Causeway.
	Extension *NamedExtension `json:"extension,omitempty"`
}

// A ProviderType is a way to get certificates.
type ProviderType string

// The providers.
const (
	ProviderBundled   ProviderType = "Bundled"
	ProviderSpire     ProviderType = "Spire"
	ProviderExtension ProviderType = "Extension"
)

// BundledProvider is the certificate authority of the zone.
type BundledProvider struct {
	// MeshTrustCreation is Enabled (a MeshTrust with the authority is kept) or Disabled. Default Enabled.
	MeshTrustCreation string `json:"meshTrustCreation,omitempty"`
	// InsecureAllowSelfSigned accepts a self-signed root in ca. Default false.
	InsecureAllowSelfSigned bool `json:"insecureAllowSelfSigned,omitempty"`
	// Autogenerate lets the zone make its own authority.
	Autogenerate *Autogenerate `json:"autogenerate,omitempty"`
	// CA is an authority of the user. Required unless autogenerate is enabled.
	CA *BundledCA `json:"ca,omitempty"`
	// CertificateParameters of the certificates of workloads.
	CertificateParameters *CertificateParameters `json:"certificateParameters,omitempty"`
}

// Values of meshTrustCreation.
const (
	TrustCreationEnabled  = "Enabled"
	TrustCreationDisabled = "Disabled"
)

// Autogenerate lets the zone make its own authority.
type Autogenerate struct {
	// Enabled makes an authority when there is none. Default false.
	Enabled bool `json:"enabled,omitempty"`
}

// BundledCA is an authority of the user.
type BundledCA struct {
	// Certificate of the authority in PEM, with the intermediates below the root.
	Certificate *SecureDataSource `json:"certificate,omitempty"`
	// PrivateKey of the authority in PEM.
	PrivateKey *SecureDataSource `json:"privateKey,omitempty"`
}

// CertificateParameters of the certificates of workloads.
type CertificateParameters struct {
	// Expiry is how long a certificate is valid, from 1m to 8760h. Renewed before. Default 120h.
	Expiry *Duration `json:"expiry,omitempty"`
}

// SpireProvider is the agent of SPIRE.
type SpireProvider struct {
	// Agent is how the agent is asked.
	Agent *SpireAgent `json:"agent,omitempty"`
}

// SpireAgent is how the agent of SPIRE is asked.
type SpireAgent struct {
	// Timeout of the first answer. Default 1s.
	Timeout *Duration `json:"timeout,omitempty"`
}

// NamedExtension is configuration for software outside Causeway.
type NamedExtension struct {
	// Name of the extension. Required.
	Name string `json:"name"`
	// Config is anything the extension understands.
	Config any `json:"config,omitempty"`
}

// Selects says whether a proxy may get the identity.
func (m *MeshIdentity) Selects(labels map[string]string) bool {
	return m.Selector != nil && m.Selector.Dataplane.Matches(labels)
}

// MeshIdentityStatus is what the control plane reports about an identity.
type MeshIdentityStatus struct {
	// Conditions are aspects of its state.
	Conditions []Condition `json:"conditions,omitempty"`
}

// The aspects of an identity that are reported.
const (
	ConditionReady             = "Ready"
	ConditionProvider          = "Provider"
	ConditionSpiffeIDProvider  = "SpiffeIDProvider"
	ConditionMeshTrustCreated  = "MeshTrustCreated"
	ConditionDependenciesReady = "DependenciesReady"
)

var meshIdentityKind = resource.Kind{
	Name: TypeMeshIdentity, Path: "meshidentities", Short: "mid", Singular: "Mesh Identity", Plural: "Mesh Identities",
	Scope: resource.ScopeMesh, Flow: resource.FromGlobal | resource.FromZone,
	New: func() any { return new(MeshIdentity) }, NewStatus: func() any { return new(MeshIdentityStatus) }, Validate: validateMeshIdentity, Warn: warnMeshIdentity, Requires: requires,
}
