package mesh

import (
	"strings"

	"github.com/causeway-mesh/causeway/api/resource"
)

// MeshOpenTelemetryBackend is a collector to which policies send logs, traces and metrics.
type MeshOpenTelemetryBackend struct {
	// Endpoint of the collector. Required unless the environment of the proxy gives one.
	Endpoint *OTelEndpoint `json:"endpoint,omitempty"`
	// Protocol is grpc or http. Default grpc.
	Protocol string `json:"protocol,omitempty"`
	// Env says whether the OTEL_* variables beside the proxy count.
	Env *OTelEnv `json:"env,omitempty"`
}

// OTelEndpoint is the address of a collector.
type OTelEndpoint struct {
	// Address is an IP or DNS name. Default the host of the proxy.
	Address string `json:"address,omitempty"`
	// Port of the collector, 1 to 65535. Default 4317.
	Port uint32 `json:"port,omitempty"`
	// Path before /v1/traces and the like, for protocol http only.
	Path string `json:"path,omitempty"`
}

// OTelEnv says whether the OTEL_* variables beside the proxy count.
type OTelEnv struct {
	// Mode is Disabled, Optional or Required. Default Disabled.
	Mode string `json:"mode,omitempty"`
	// Precedence is ExplicitFirst or EnvFirst. Default ExplicitFirst.
	Precedence string `json:"precedence,omitempty"`
	// AllowSignalOverrides lets variables of one signal differ from the general ones. Default false.
	AllowSignalOverrides *bool `json:"allowSignalOverrides,omitempty"`
}

// MeshOpenTelemetryBackendStatus is what the control plane reports about a collector.
type MeshOpenTelemetryBackendStatus struct {
	// Conditions are aspects of its state.
	Conditions []Condition `json:"conditions,omitempty"`
}

// What is said of collectors and of policies that refer to them.
const (
	ConditionReferencedByPolicies = "ReferencedByPolicies"
	ReasonReferenced              = "Referenced"
	ReasonNotReferenced           = "NotReferenced"

	ConditionBackendRefsResolved = "BackendRefsResolved"
	ReasonBackendRefsResolved    = "ResolvedBackendRefs"
	ReasonBackendRefsUnresolved  = "UnresolvedBackendRefs"
	ReasonBackendRefsOfZones     = "ResolvedInSomeZones"
)

var openTelemetryBackendKind = resource.Kind{
	Name: TypeMeshOTelBackend, Path: "meshopentelemetrybackends", Short: "motb",
	Singular: "Mesh OpenTelemetry Backend", Plural: "Mesh OpenTelemetry Backends",
	Scope: resource.ScopeMesh, Flow: resource.FromGlobal | resource.FromZone,
	New: func() any { return new(MeshOpenTelemetryBackend) }, NewStatus: func() any { return new(MeshOpenTelemetryBackendStatus) }, Validate: validateMeshOpenTelemetryBackend, Requires: requires,
}

func validateMeshOpenTelemetryBackend(r resource.Resource) resource.Problems {
	m := r.Spec.(*MeshOpenTelemetryBackend)
	var ps problems
	at := resource.Path("spec")
	if m.Protocol != "" {
		oneOf(&ps, at.Field("protocol"), m.Protocol, "grpc", "http")
	}
	if e := m.Endpoint; e != nil {
		if e.Address != "" {
			ps.reachable(at.Field("endpoint").Field("address"), e.Address)
		}
		ps.optionalPort(at.Field("endpoint").Field("port"), e.Port)
		switch {
		case e.Path != "" && m.Protocol != "http":
			ps.Add(at.Field("endpoint").Field("path"), "is only possible with protocol http")
		case e.Path != "" && !strings.HasPrefix(e.Path, "/"):
			ps.Add(at.Field("endpoint").Field("path"), "must begin with /")
		}
	}
	mode := ""
	if e := m.Env; e != nil {
		mode = e.Mode
		if e.Mode != "" {
			oneOf(&ps, at.Field("env").Field("mode"), e.Mode, "Disabled", "Optional", "Required")
		}
		if e.Precedence != "" {
			oneOf(&ps, at.Field("env").Field("precedence"), e.Precedence, "ExplicitFirst", "EnvFirst")
		}
	}
	if m.Endpoint == nil && (mode == "" || mode == "Disabled") {
		ps.Add(at.Field("endpoint"), "must be set unless env.mode is Optional or Required")
	}
	return ps.Problems
}
