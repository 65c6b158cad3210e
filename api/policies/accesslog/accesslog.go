// Package accesslog is the MeshAccessLog policy: which requests and connections are logged, in which form, and where to: a file,
// a TCP collector or an OpenTelemetry collector. It delivers nothing; Envoy writes files, and the agent beside it sends to collectors.
package accesslog

import (
	"encoding/json"

	"github.com/causeway-mesh/causeway/api/policies/sink"
	"github.com/causeway-mesh/causeway/api/policy"
)

// Policy is MeshAccessLog.
var Policy = policy.Kind[Effective]{
	Name: "MeshAccessLog", Path: "meshaccesslogs", Short: "mal", Singular: "Mesh Access Log", Plural: "Mesh Access Logs",
	ToKinds: []string{policy.TargetMesh, policy.TargetService, policy.TargetExternal, policy.TargetMultiZone, policy.TargetHTTPRoute},
	Rules:   true, RuleMatches: true, EachRule: true,
	NewSpec: func() any { return new(policy.Spec[Conf]) }, CheckSpec: checkSpec, WarnSpec: warnSpec,
	Merge: merge, Link: link, Refs: references, Hooks: hooks,
}

// Conf is what MeshAccessLog configures.
type Conf struct {
	// Backends are where logs go; each gets all of them. An empty list turns logs off. Required.
	Backends *[]Backend `json:"backends,omitempty"`
}

// The types of backends.
const (
	TypeFile = "File"
	TypeTCP  = "Tcp"
	TypeOTel = "OpenTelemetry"
)

// A Backend is one place where logs go.
type Backend struct {
	// Type is File, Tcp or OpenTelemetry. Required. The field of this name is set.
	Type string `json:"type"`
	// File of type File.
	File *File `json:"file,omitempty"`
	// TCP is the collector of type Tcp.
	TCP *TCP `json:"tcp,omitempty"`
	// OpenTelemetry is the collector of type OpenTelemetry.
	OpenTelemetry *OpenTelemetry `json:"openTelemetry,omitempty"`
}

// A File is written by the proxy itself.
type File struct {
	// Path of the file on the proxy's host, absolute, such as /dev/stdout. Required.
	Path string `json:"path"`
	// Format of an entry. Default one line of text.
	Format *Format `json:"format,omitempty"`
}

// A TCP collector gets one line per entry.
type TCP struct {
	// Address of the collector, host:port. Required.
	Address string `json:"address,omitempty"`
	// Format of an entry. Default one line of text.
	Format *Format `json:"format,omitempty"`
}

// OpenTelemetry is a collector that takes entries as log records.
type OpenTelemetry struct {
	// BackendRef names the MeshOpenTelemetryBackend. Required.
	BackendRef *sink.Ref `json:"backendRef,omitempty"`
	// Attributes of each record.
	Attributes []Attribute `json:"attributes,omitempty"`
	// Body of each record: text, or a value as OTLP writes it in JSON. Default one line of text.
	Body json.RawMessage `json:"body,omitempty"`
}

// An Attribute is one attribute of a log record.
type Attribute struct {
	// Key is an OpenTelemetry name such as http.route. Required.
	Key string `json:"key"`
	// Value may hold placeholders.
	Value string `json:"value"`
}

// The types of formats.
const (
	FormatPlain = "Plain"
	FormatJSON  = "Json"
)

// A Format says what an entry looks like.
type Format struct {
	// Type is Plain or Json. Required. The field of this name is set.
	Type string `json:"type"`
	// Plain is a line with placeholders.
	Plain *string `json:"plain,omitempty"`
	// JSON lists the fields of an object.
	JSON []Field `json:"json,omitempty"`
	// OmitEmptyValues leaves out what has no value instead of writing "-" (Plain), and fields without a value (Json). Default false.
	OmitEmptyValues bool `json:"omitEmptyValues,omitempty"`
}

// A Field is one field of a JSON entry.
type Field struct {
	// Key of the field. Required.
	Key string `json:"key"`
	// Value may hold placeholders. Required.
	Value string `json:"value"`
}
