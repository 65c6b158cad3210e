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
	ID                     string            `json:"id"`
	ControlPlaneInstanceID string            `json:"controlPlaneInstanceId"`
	ConnectTime            time.Time         `json:"connectTime,omitzero"`
	DisconnectTime         time.Time         `json:"disconnectTime,omitzero"`
	Generation             uint32            `json:"generation,omitempty"`
	Status                 DiscoveryStatus   `json:"status"`
	Version                *DataplaneVersion `json:"version,omitempty"`
}

// IsOnline says that the connection is open.
func (s DiscoverySubscription) IsOnline() bool {
	return !s.ConnectTime.IsZero() && s.DisconnectTime.IsZero()
}

// DiscoveryStatus counts the responses of a connection.
type DiscoveryStatus struct {
	LastUpdateTime time.Time          `json:"lastUpdateTime,omitzero"`
	Total          DiscoveryTypeStats `json:"total"`
	CDS            DiscoveryTypeStats `json:"cds"`
	EDS            DiscoveryTypeStats `json:"eds"`
	LDS            DiscoveryTypeStats `json:"lds"`
	RDS            DiscoveryTypeStats `json:"rds"`
}

// DiscoveryTypeStats counts the responses of one type.
type DiscoveryTypeStats struct {
	ResponsesSent         Count `json:"responsesSent,omitempty"`
	ResponsesAcknowledged Count `json:"responsesAcknowledged,omitempty"`
	ResponsesRejected     Count `json:"responsesRejected,omitempty"`
}

// DataplaneVersion is the software of a proxy.
type DataplaneVersion struct {
	KumaDp       KumaDpVersion     `json:"kumaDp"`
	Envoy        EnvoyVersion      `json:"envoy"`
	Dependencies map[string]string `json:"dependencies,omitempty"`
}

// KumaDpVersion is the version of the agent, under the name the Kuma API gives it.
type KumaDpVersion struct {
	Version          string `json:"version"`
	GitTag           string `json:"gitTag"`
	GitCommit        string `json:"gitCommit"`
	BuildDate        string `json:"buildDate"`
	KumaCpCompatible bool   `json:"kumaCpCompatible"`
}

// EnvoyVersion is the version of Envoy.
type EnvoyVersion struct {
	Version          string `json:"version"`
	Build            string `json:"build"`
	KumaDpCompatible bool   `json:"kumaDpCompatible"`
}

// DataplaneMTLS is the certificate of a proxy.
type DataplaneMTLS struct {
	CertificateExpirationTime   time.Time `json:"certificateExpirationTime,omitzero"`
	LastCertificateRegeneration time.Time `json:"lastCertificateRegeneration,omitzero"`
	CertificateRegenerations    uint32    `json:"certificateRegenerations,omitempty"`
	// IssuedBackend is the KRI of the MeshIdentity the certificate follows.
	IssuedBackend     string   `json:"issuedBackend,omitempty"`
	SupportedBackends []string `json:"supportedBackends,omitempty"`
}

// DataplaneOTel is the state of collectors at a proxy.
type DataplaneOTel struct {
	Backends []DataplaneOTelBackend `json:"backends,omitempty"`
}

// DataplaneOTelBackend is the state of one collector at a proxy.
type DataplaneOTelBackend struct {
	Name    string      `json:"name"`
	Traces  *OTelSignal `json:"traces,omitempty"`
	Logs    *OTelSignal `json:"logs,omitempty"`
	Metrics *OTelSignal `json:"metrics,omitempty"`
}

// OTelSignal is the state of one signal of a collector at a proxy.
type OTelSignal struct {
	Enabled         bool     `json:"enabled"`
	EnvAllowed      bool     `json:"envAllowed"`
	EnvInputPresent bool     `json:"envInputPresent"`
	State           string   `json:"state,omitempty"`
	OverrideKinds   []string `json:"overrideKinds,omitempty"`
	MissingFields   []string `json:"missingFields,omitempty"`
	BlockedReasons  []string `json:"blockedReasons,omitempty"`
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
