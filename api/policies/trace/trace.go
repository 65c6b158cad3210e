// Package trace is the MeshTrace policy: which requests leave spans, what they say, and which collector gets them.
// It delivers nothing itself, and a trace only goes on where a workload passes on the headers that it got.
package trace

import (
	"github.com/causeway-mesh/causeway/api/policies/sink"
	"github.com/causeway-mesh/causeway/api/policy"
)

// Policy is MeshTrace.
var Policy = policy.Kind[Effective]{
	Name: "MeshTrace", Path: "meshtraces", Short: "mtr", Singular: "Mesh Trace", Plural: "Mesh Traces",
	Proxy:   true,
	NewSpec: func() any { return new(policy.Spec[Conf]) }, CheckSpec: checkSpec,
	Merge: merge, Link: link, Refs: references, Labels: labels, Hooks: hooks,
}

// Conf is what MeshTrace configures.
type Conf struct {
	// Backends has the one collector that gets the spans. An empty list turns traces off. Required.
	Backends *[]Backend `json:"backends,omitempty"`
	// Sampling says which requests are traced. Default all.
	Sampling *Sampling `json:"sampling,omitempty"`
	// Tags are added to every span.
	Tags []Tag `json:"tags,omitempty"`
}

// The types of backends.
const (
	TypeZipkin  = "Zipkin"
	TypeDatadog = "Datadog"
	TypeOTel    = "OpenTelemetry"
)

// A Backend is a collector.
type Backend struct {
	// Type is Zipkin, Datadog or OpenTelemetry. Required. The field of this name is set.
	Type string `json:"type"`
	// Zipkin is the collector of type Zipkin.
	Zipkin *Zipkin `json:"zipkin,omitempty"`
	// Datadog is the collector of type Datadog.
	Datadog *Datadog `json:"datadog,omitempty"`
	// OpenTelemetry is the collector of type OpenTelemetry.
	OpenTelemetry *OpenTelemetry `json:"openTelemetry,omitempty"`
}

// Zipkin is a collector that takes spans as Zipkin does.
type Zipkin struct {
	// URL of the collector, such as http://zipkin:9411/api/v2/spans. Required.
	URL string `json:"url"`
	// TraceID128Bit makes identifiers of new traces 128 bits long. Default false: 64.
	TraceID128Bit bool `json:"traceId128bit,omitempty"`
	// APIVersion is httpJson or httpProto. Default httpJson.
	APIVersion string `json:"apiVersion,omitempty"`
	// SharedSpanContext lets the spans of client and server have one identifier. Default true.
	SharedSpanContext *bool `json:"sharedSpanContext,omitempty"`
}

// Datadog is an agent of Datadog.
type Datadog struct {
	// URL of the agent: http, host and port, and nothing more. Required.
	URL string `json:"url"`
	// SplitService names the service by direction and destination, too, such as web_OUTBOUND_backend. Default false.
	SplitService bool `json:"splitService,omitempty"`
}

// OpenTelemetry is a collector that takes spans by OTLP.
type OpenTelemetry struct {
	// BackendRef names the MeshOpenTelemetryBackend. Required.
	BackendRef *sink.Ref `json:"backendRef,omitempty"`
}

// Sampling says which requests are traced, in percent. Default 100 each.
type Sampling struct {
	// Overall bounds what the others let through.
	Overall *policy.Decimal `json:"overall,omitempty"`
	// Client is for requests whose client asks for it with x-client-trace-id.
	Client *policy.Decimal `json:"client,omitempty"`
	// Random is for requests that come with no decision.
	Random *policy.Decimal `json:"random,omitempty"`
}

// A Tag is added to every span: one of literal and header is set.
type Tag struct {
	// Name of the tag. Required.
	Name string `json:"name"`
	// Literal is its value.
	Literal *string `json:"literal,omitempty"`
	// Header is a header of the request that holds it.
	Header *HeaderTag `json:"header,omitempty"`
}

// A HeaderTag takes the value of a tag from a header.
type HeaderTag struct {
	// Name of the header. Required.
	Name string `json:"name"`
	// Default is the value without the header; without a default there is no tag.
	Default *string `json:"default,omitempty"`
}
