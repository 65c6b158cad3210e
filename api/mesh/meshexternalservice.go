package mesh

import "github.com/causeway-mesh/causeway/api/resource"

// MeshExternalService is a destination outside the mesh, reached through the egress of the zone.
type MeshExternalService struct {
	// Match is the port under which clients find the service.
	Match ExternalMatch `json:"match"`
	// Extension hands the service to software outside Causeway.
	Extension *Extension `json:"extension,omitempty"`
	// Endpoints of the service. Required unless an extension is set.
	Endpoints []ExternalEndpoint `json:"endpoints,omitempty"`
	// TLS is what the egress speaks to the endpoints. Absent: plain text.
	TLS *ExternalTLS `json:"tls,omitempty"`
}

// ExternalMatch is the port under which clients find an external service.
type ExternalMatch struct {
	// Type is HostnameGenerator. Default HostnameGenerator.
	Type string `json:"type,omitempty"`
	// Port under which clients find it, 1 to 65535. Required.
	Port uint32 `json:"port"`
	// Protocol is tcp, http, http2 or grpc. Default tcp.
	Protocol Protocol `json:"protocol,omitempty"`
}

// SectionName is how KRIs and SNIs refer to the one port of the service.
func (m ExternalMatch) SectionName() string { return sectionName("", m.Port) }

// ProtocolOrTCP is the protocol with its default.
func (m ExternalMatch) ProtocolOrTCP() Protocol { return m.Protocol.OrTCP() }

// MatchHostnameGenerator is the one type of match.
const MatchHostnameGenerator = "HostnameGenerator"

// ExternalEndpoint is one address of an external service.
type ExternalEndpoint struct {
	// Address is an IP, a DNS name or a Unix socket (unix:///path). Required.
	Address string `json:"address"`
	// Port of the endpoint, 1 to 65535. Required except for a Unix socket.
	Port uint32 `json:"port,omitempty"`
	// Priority, 0 to 128: endpoints with a higher number are used when too few of the lower ones are healthy. Default 0.
	Priority uint32 `json:"priority,omitempty"`
}

// ExternalTLS is how the egress speaks TLS to an external service.
type ExternalTLS struct {
	// Enabled turns TLS on. Default false.
	Enabled bool `json:"enabled,omitempty"`
	// Version limits the TLS versions.
	Version *TLSVersion `json:"version,omitempty"`
	// AllowRenegotiation lets the server renegotiate, which is insecure. Default false.
	AllowRenegotiation bool `json:"allowRenegotiation,omitempty"`
	// Verification says how the server is recognised.
	Verification *ExternalVerification `json:"verification,omitempty"`
}

// TLSVersion limits the TLS versions.
type TLSVersion struct {
	// Min is TLSAuto, TLS10, TLS11, TLS12 or TLS13. Default TLSAuto.
	Min string `json:"min,omitempty"`
	// Max is TLSAuto, TLS10, TLS11, TLS12 or TLS13. Default TLSAuto.
	Max string `json:"max,omitempty"`
}

// TLSVersions lists the TLS versions from any and the oldest to the newest.
var TLSVersions = []string{"TLSAuto", "TLS10", "TLS11", "TLS12", "TLS13"}

// ExternalVerification says how the server is recognised and the client presents itself.
type ExternalVerification struct {
	// Mode is Secured, SkipSAN (any name), SkipCA (any signer) or SkipAll. Default Secured.
	Mode VerificationMode `json:"mode,omitempty"`
	// ServerName is the SNI sent, and the name expected when no subjectAltNames are given. Default the address of the endpoint.
	ServerName string `json:"serverName,omitempty"`
	// SubjectAltNames lists the names the server may have; one suffices.
	SubjectAltNames []SANMatch `json:"subjectAltNames,omitempty"`
	// CACert signs the certificate of the server: a Secret or InsecureInline. Default the authorities of the system.
	CACert *SecureDataSource `json:"caCert,omitempty"`
	// ClientCert is presented to the server, together with clientKey.
	ClientCert *SecureDataSource `json:"clientCert,omitempty"`
	// ClientKey belongs to clientCert.
	ClientKey *SecureDataSource `json:"clientKey,omitempty"`
}

// A VerificationMode says what of the server is checked.
type VerificationMode string

// The modes of verification.
const (
	VerifySecured VerificationMode = "Secured"
	VerifySkipSAN VerificationMode = "SkipSAN"
	VerifySkipCA  VerificationMode = "SkipCA"
	VerifySkipAll VerificationMode = "SkipAll"
)

// SANMatch accepts a name in the certificate of the server.
type SANMatch struct {
	// Type is Exact or Prefix. Default Exact.
	Type string `json:"type,omitempty"`
	// Value of the name. Required.
	Value string `json:"value"`
}

// ModeOrSecured is the mode with its default.
func (v *ExternalVerification) ModeOrSecured() VerificationMode {
	if v == nil || v.Mode == "" {
		return VerifySecured
	}
	return v.Mode
}

// MeshExternalServiceStatus is what the control plane computes for an external service.
type MeshExternalServiceStatus struct {
	// VIP is the virtual address of the service.
	VIP VIP `json:"vip,omitzero"`
	// Addresses are the hostnames under which the service is found.
	Addresses []Address `json:"addresses,omitempty"`
	// HostnameGenerators say what each generator did for the service.
	HostnameGenerators []HostnameGeneratorStatus `json:"hostnameGenerators,omitempty"`
	// Conditions say whether the zone has an egress, without which nothing is sent to the service.
	Conditions []Condition `json:"conditions,omitempty"`
}

// ConditionEgressAvailable says whether an egress of the zone takes traffic to external services, and why not.
const (
	ConditionEgressAvailable = "EgressAvailable"
	ReasonEgressReady        = "EgressReady"
	ReasonNoEgress           = "NoEgress"
	ReasonEgressNotReady     = "EgressNotReady"
)

var meshExternalServiceKind = resource.Kind{
	Name: TypeMeshExternalService, Path: "meshexternalservices", Short: "extsvc", Singular: "Mesh External Service", Plural: "Mesh External Services",
	Scope: resource.ScopeMesh, Flow: resource.FromGlobal | resource.FromZone, Names: resource.RFC1035Label, Destination: true,
	New: func() any { return new(MeshExternalService) }, NewStatus: func() any { return new(MeshExternalServiceStatus) }, Validate: validateMeshExternalService, Warn: warnMeshExternalService, Requires: requires,
}
