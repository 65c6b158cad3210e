// Package metric is the MeshMetric policy: which metrics of proxies and workloads are told, and to whom. Envoy is not configured by it:
// the agent beside it reads its statistics, so that an edit touches no listener and no cluster.
package metric

import (
	"time"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/api/policies/sink"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
)

// Policy is MeshMetric.
var Policy = policy.Kind[effective]{
	Name: "MeshMetric", Path: "meshmetrics", Short: "mm", Singular: "Mesh Metric", Plural: "Mesh Metrics",
	Proxy: true, NewSpec: func() any { return new(policy.Spec[Conf]) }, CheckSpec: checkSpec, WarnSpec: warnSpec, Link: link, Refs: references,
	Hooks: policy.Hooks[effective]{Agent: policy.Hook[func(effective, proxy.Agent) *agentapi.ZoneMessage]{Apply: tell}},
}

// Conf is what MeshMetric configures. Without a backend nothing is told to anybody.
type Conf struct {
	// Sidecar chooses among the metrics of Envoy.
	Sidecar *Sidecar `json:"sidecar,omitempty"`
	// Applications are where the workload tells metrics in the text format of Prometheus. Zone proxies have no workload and ignore them.
	Applications []Application `json:"applications,omitempty"`
	// Backends are who is told.
	Backends []Backend `json:"backends,omitempty"`
}

// Sidecar chooses among the metrics of Envoy.
type Sidecar struct {
	// Profiles choose by name. Default Basic.
	Profiles *Profiles `json:"profiles,omitempty"`
	// IncludeUnused tells metrics that Envoy has never written to as well. Default false.
	IncludeUnused *bool `json:"includeUnused,omitempty"`
}

// Profiles choose metrics by name: include wins over exclude, and that over the profiles.
type Profiles struct {
	// AppendProfiles are those of all policies together; the widest counts.
	AppendProfiles []Profile `json:"appendProfiles,omitempty"`
	// Exclude leaves metrics out.
	Exclude []Selector `json:"exclude,omitempty"`
	// Include takes metrics in.
	Include []Selector `json:"include,omitempty"`
}

// Profile is a ready choice.
type Profile struct {
	// Name is All, Basic (what dashboards and alerts are made of) or None. Required.
	Name string `json:"name"`
}

// Selector matches names of metrics as Prometheus has them.
type Selector struct {
	// Type is Prefix, Regex, Exact or Contains. Required.
	Type string `json:"type"`
	// Match is what is matched. A regular expression may match anywhere in the name. Required.
	Match string `json:"match"`
}

// Application is where a workload tells metrics.
type Application struct {
	// Name becomes the label application of its metrics.
	Name string `json:"name,omitempty"`
	// Path of the metrics. Default /metrics.
	Path string `json:"path,omitempty"`
	// Address where it listens. Default that of the workload.
	Address string `json:"address,omitempty"`
	// Port where it listens, 1 to 65535. Required.
	Port uint32 `json:"port"`
}

// Backend is who is told: one of the two, by type.
type Backend struct {
	// Type is Prometheus or OpenTelemetry. Required.
	Type string `json:"type"`
	// Prometheus asks the proxy, with that type.
	Prometheus *Prometheus `json:"prometheus,omitempty"`
	// OpenTelemetry is sent metrics, with that type.
	OpenTelemetry *OpenTelemetry `json:"openTelemetry,omitempty"`
}

// Prometheus is told when it asks the proxy.
type Prometheus struct {
	// ClientID lets one Prometheus of several discover the proxy: the one with that client id. Default any without one of its own.
	ClientID string `json:"clientId,omitempty"`
	// Port at the address of the Dataplane, 1 to 65535. Default 5670.
	Port uint32 `json:"port,omitempty"`
	// Path of the metrics. Default /metrics.
	Path string `json:"path,omitempty"`
	// TLS is how it connects. Default in plaintext.
	TLS *PrometheusTLS `json:"tls,omitempty"`
}

// PrometheusTLS is how Prometheus connects.
type PrometheusTLS struct {
	// Mode is Disabled (plaintext, the default), ProvidedTLS (with a certificate that the agent was given) or ActiveMTLSBackend (with
	// the identity of the workload, to clients with an identity of the mesh).
	Mode string `json:"mode,omitempty"`
}

// OpenTelemetry is a collector that metrics are sent to.
type OpenTelemetry struct {
	// BackendRef names the MeshOpenTelemetryBackend. Required.
	BackendRef *sink.Ref `json:"backendRef,omitempty"`
	// RefreshInterval is how often metrics are sent. Default 1m.
	RefreshInterval *policy.Duration `json:"refreshInterval,omitempty"`
}

// The types of backends, and the modes of TLS.
const (
	typePrometheus = "Prometheus"
	typeOTel       = "OpenTelemetry"

	modeDisabled = "Disabled"
	modeProvided = "ProvidedTLS"
	modeMesh     = "ActiveMTLSBackend"
)

const (
	defaultPort     = 5670
	defaultPath     = "/metrics"
	defaultInterval = time.Minute
)
