package mesh

import (
	"time"

	"github.com/causeway-mesh/causeway/api/resource"
)

// DataplaneInsight is what a zone observes about one proxy.
type DataplaneInsight struct {
	// Subscriptions are the connections of the proxy, the newest last.
	Subscriptions []DiscoverySubscription `json:"subscriptions,omitempty"`
	// MTLS is the certificate of the proxy.
	MTLS *DataplaneMTLS `json:"mTLS,omitempty"`
	// Metadata that the proxy reported.
	Metadata map[string]any `json:"metadata,omitempty"`
	// OpenTelemetry is the state of collectors at the proxy.
	OpenTelemetry *DataplaneOTel `json:"openTelemetry,omitempty"`
}

// DiscoverySubscription is one connection of a proxy to a control plane.
type DiscoverySubscription struct {
	// ID identifies the connection.
	ID string `json:"id"`
	// ControlPlaneInstanceID is the instance of the control plane that took the connection.
	ControlPlaneInstanceID string `json:"controlPlaneInstanceId"`
	// ConnectTime is when the connection began.
	ConnectTime time.Time `json:"connectTime,omitzero"`
	// DisconnectTime is when the connection ended. Absent while it is open.
	DisconnectTime time.Time `json:"disconnectTime,omitzero"`
	// Generation counts the states of a connection that were reported.
	Generation uint32 `json:"generation,omitempty"`
	// Status counts what was sent over the connection.
	Status DiscoveryStatus `json:"status"`
	// Version is the software of the proxy.
	Version *DataplaneVersion `json:"version,omitempty"`
}

// IsOnline says that the connection is open.
func (s DiscoverySubscription) IsOnline() bool {
	return !s.ConnectTime.IsZero() && s.DisconnectTime.IsZero()
}

// DiscoveryStatus counts the responses of a connection.
type DiscoveryStatus struct {
	// LastUpdateTime is when something was sent or answered last.
	LastUpdateTime time.Time `json:"lastUpdateTime,omitzero"`
	// Total counts the responses of all types.
	Total DiscoveryTypeStats `json:"total"`
	// CDS counts clusters.
	CDS DiscoveryTypeStats `json:"cds"`
	// EDS counts endpoints.
	EDS DiscoveryTypeStats `json:"eds"`
	// LDS counts listeners.
	LDS DiscoveryTypeStats `json:"lds"`
	// RDS counts routes.
	RDS DiscoveryTypeStats `json:"rds"`
}

// DiscoveryTypeStats counts the responses of one type.
type DiscoveryTypeStats struct {
	// ResponsesSent to the peer.
	ResponsesSent Count `json:"responsesSent,omitempty"`
	// ResponsesAcknowledged by the peer.
	ResponsesAcknowledged Count `json:"responsesAcknowledged,omitempty"`
	// ResponsesRejected by the peer.
	ResponsesRejected Count `json:"responsesRejected,omitempty"`
}

// DataplaneVersion is the software of a proxy.
type DataplaneVersion struct {
	// KumaDp is the agent, under the name the Kuma API gives it.
	KumaDp KumaDpVersion `json:"kumaDp"`
	// Envoy is the Envoy that the agent runs.
	Envoy EnvoyVersion `json:"envoy"`
	// Dependencies are versions of other software beside the proxy, by name.
	Dependencies map[string]string `json:"dependencies,omitempty"`
}

// KumaDpVersion is the version of the agent, under the name the Kuma API gives it.
type KumaDpVersion struct {
	// Version of the agent.
	Version string `json:"version"`
	// GitTag that it was built from.
	GitTag string `json:"gitTag"`
	// GitCommit that it was built from.
	GitCommit string `json:"gitCommit"`
	// BuildDate is when it was built.
	BuildDate string `json:"buildDate"`
	// KumaCpCompatible says that the control plane and this version understand each other.
	KumaCpCompatible bool `json:"kumaCpCompatible"`
}

// EnvoyVersion is the version of Envoy.
type EnvoyVersion struct {
	// Version of Envoy.
	Version string `json:"version"`
	// Build is the whole version that Envoy reports.
	Build string `json:"build"`
	// KumaDpCompatible says that the agent and this version fit together.
	KumaDpCompatible bool `json:"kumaDpCompatible"`
}

// DataplaneMTLS is the certificate of a proxy.
type DataplaneMTLS struct {
	// CertificateExpirationTime is when the certificate ends.
	CertificateExpirationTime time.Time `json:"certificateExpirationTime,omitzero"`
	// LastCertificateRegeneration is when the certificate was issued.
	LastCertificateRegeneration time.Time `json:"lastCertificateRegeneration,omitzero"`
	// CertificateRegenerations counts the certificates of this connection.
	CertificateRegenerations uint32 `json:"certificateRegenerations,omitempty"`
	// IssuedBackend is the KRI of the MeshIdentity the certificate follows.
	IssuedBackend string `json:"issuedBackend,omitempty"`
	// SupportedBackends are the KRIs of the identities whose certificates the proxy accepts.
	SupportedBackends []string `json:"supportedBackends,omitempty"`
}

// DataplaneOTel is the state of collectors at a proxy.
type DataplaneOTel struct {
	// Backends are the collectors by name.
	Backends []DataplaneOTelBackend `json:"backends,omitempty"`
}

// DataplaneOTelBackend is the state of one collector at a proxy.
type DataplaneOTelBackend struct {
	// Name of the MeshOpenTelemetryBackend.
	Name string `json:"name"`
	// Traces is the state of traces.
	Traces *OTelSignal `json:"traces,omitempty"`
	// Logs is the state of logs.
	Logs *OTelSignal `json:"logs,omitempty"`
	// Metrics is the state of metrics.
	Metrics *OTelSignal `json:"metrics,omitempty"`
}

// OTelSignal is the state of one signal of a collector at a proxy.
type OTelSignal struct {
	// Enabled says that a policy wants the signal sent.
	Enabled bool `json:"enabled"`
	// EnvAllowed says that variables beside the proxy count.
	EnvAllowed bool `json:"envAllowed"`
	// EnvInputPresent says that there are such variables.
	EnvInputPresent bool `json:"envInputPresent"`
	// State in one word.
	State string `json:"state,omitempty"`
	// OverrideKinds are the settings that variables replace.
	OverrideKinds []string `json:"overrideKinds,omitempty"`
	// MissingFields are the settings that nothing gives.
	MissingFields []string `json:"missingFields,omitempty"`
	// BlockedReasons say why nothing is sent.
	BlockedReasons []string `json:"blockedReasons,omitempty"`
}

// IsOnline says that some connection of the proxy is open.
func (i *DataplaneInsight) IsOnline() bool {
	for _, s := range i.Subscriptions {
		if s.IsOnline() {
			return true
		}
	}
	return false
}

var dataplaneInsightKind = resource.Kind{
	Name: TypeDataplaneInsight, Path: "dataplane-insights", Singular: "Dataplane Insight", Plural: "Dataplane Insights",
	Scope: resource.ScopeMesh, Flow: resource.FromZone | resource.Internal, Inline: true,
	New: func() any { return new(DataplaneInsight) }, Requires: requires,
}
