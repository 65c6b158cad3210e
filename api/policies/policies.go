// Package policies is the one complete list of policies, in the order in which they are applied, what of them a new mesh gets, and whether
// what they refer to exists.
// What a policy means stands in its own folder. It does no I/O and holds no rules of selection or merging; package policy does.
package policies

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policies/accesslog"
	"github.com/causeway-mesh/causeway/api/policies/circuitbreaker"
	"github.com/causeway-mesh/causeway/api/policies/faultinjection"
	"github.com/causeway-mesh/causeway/api/policies/healthcheck"
	"github.com/causeway-mesh/causeway/api/policies/httproute"
	"github.com/causeway-mesh/causeway/api/policies/loadbalancingstrategy"
	"github.com/causeway-mesh/causeway/api/policies/metric"
	"github.com/causeway-mesh/causeway/api/policies/passthrough"
	"github.com/causeway-mesh/causeway/api/policies/proxypatch"
	"github.com/causeway-mesh/causeway/api/policies/ratelimit"
	"github.com/causeway-mesh/causeway/api/policies/retry"
	"github.com/causeway-mesh/causeway/api/policies/tcproute"
	"github.com/causeway-mesh/causeway/api/policies/timeout"
	"github.com/causeway-mesh/causeway/api/policies/tls"
	"github.com/causeway-mesh/causeway/api/policies/trace"
	"github.com/causeway-mesh/causeway/api/policies/trafficpermission"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// All lists every policy. Later ones see what earlier ones did.
var All = []policy.Policy{
	httproute.Policy,
	tcproute.Policy,
	tls.Policy,
	loadbalancingstrategy.Policy,
	passthrough.Policy,
	accesslog.Policy,
	trace.Policy,
	faultinjection.Policy,
	ratelimit.Policy,
	timeout.Policy,
	trafficpermission.Policy,
	healthcheck.Policy,
	circuitbreaker.Policy,
	retry.Policy,
	metric.Policy,
	proxypatch.Policy,
}

// Kinds lists the policies as resource kinds.
func Kinds() []resource.Kind {
	var out []resource.Kind
	for _, p := range All {
		out = append(out, p.Resource())
	}
	return out
}

// Defaults makes the policies that a new mesh starts with, apart from the types to skip; "*" skips all.
func Defaults(meshName string, skip []string) ([]resource.Resource, error) {
	var out []resource.Resource
	for _, d := range []struct {
		kind, name string
		spec       any
	}{
		{timeout.Policy.Name, "mesh-timeout-all-", receiving},
		{timeout.Policy.Name, "mesh-timeout-to-all-", toAll(sending)},
		{circuitbreaker.Policy.Name, "mesh-circuit-breaker-all-", toAll(limits)},
		{retry.Policy.Name, "mesh-retry-all-", toAll(retry.Default())},
	} {
		if slices.Contains(skip, d.kind) || slices.Contains(skip, "*") {
			continue
		}
		r, err := resource.WithSpec(resource.Meta{Type: d.kind, Mesh: meshName, Name: d.name + meshName}, d.spec)
		if err != nil {
			return nil, fmt.Errorf("make default %s of mesh %s: %w", d.kind, meshName, err)
		}
		out = append(out, r)
	}
	return out, nil
}

// Ineffective says what of the policies in force for a destination has no effect beside the others.
func Ineffective(protocol mesh.Protocol, effective func(typ string) policy.Effective) []string {
	var b loadbalancingstrategy.Conf
	var h healthcheck.Conf
	var out []string
	if read(effective(loadbalancingstrategy.Policy.Name), &b) {
		out = loadbalancingstrategy.Ineffective(b, protocol.IsHTTP())
	}
	if read(effective(healthcheck.Policy.Name), &h) {
		out = append(out, healthcheck.Ineffective(h, protocol)...)
	}
	out = append(out, ineffectiveRoutes(protocol, effective)...)
	return append(out, ineffectiveRetries(protocol, effective)...)
}

// ineffectiveRoutes: a port is routed by requests or by connections.
func ineffectiveRoutes(protocol mesh.Protocol, effective func(typ string) policy.Effective) []string {
	byRequest, byConnection := effective(httproute.Policy.Name).Conf != "", effective(tcproute.Policy.Name).Conf != ""
	switch {
	case byRequest && !protocol.IsHTTP():
		return []string{"MeshHTTPRoute: a port of protocol " + string(protocol) + " carries no requests that could be routed; use MeshTCPRoute"}
	case byRequest && byConnection:
		return []string{"MeshTCPRoute: the port is routed by requests, as there is a MeshHTTPRoute for it"}
	}
	return nil
}

func ineffectiveRetries(protocol mesh.Protocol, effective func(typ string) policy.Effective) []string {
	var t timeout.Conf
	var r retry.Conf
	if !protocol.IsHTTP() || !read(effective(timeout.Policy.Name), &t) || !read(effective(retry.Policy.Name), &r) {
		return nil
	}
	if t.HTTP == nil || t.HTTP.RequestTimeout == nil {
		return nil
	}
	return retry.Ineffective(r, string(protocol), t.HTTP.RequestTimeout.Duration)
}

func read(e policy.Effective, into any) bool {
	return e.Conf != "" && json.Unmarshal([]byte(e.Conf), into) == nil
}

func toAll[C any](c C) *policy.Spec[C] {
	return &policy.Spec[C]{To: []policy.To[C]{{TargetRef: policy.TargetRef{Kind: policy.TargetMesh}, Default: c}}}
}

func after(d time.Duration) *policy.Duration { return &policy.Duration{Duration: d} }

var receiving = &policy.Spec[timeout.Conf]{Rules: []policy.Rule[timeout.Conf]{{Default: timeout.Conf{
	ConnectionTimeout: after(10 * time.Second),
	IdleTimeout:       after(2 * time.Hour),
	HTTP: &timeout.HTTP{
		RequestTimeout: after(0), StreamIdleTimeout: after(time.Hour), MaxStreamDuration: after(0),
	},
}}}}

// sending sets no request timeout: the policy has a default of its own, which spares grpc, and this would not.
var sending = timeout.Conf{
	ConnectionTimeout: after(5 * time.Second),
	IdleTimeout:       after(time.Hour),
	HTTP:              &timeout.HTTP{StreamIdleTimeout: after(30 * time.Minute)},
}

// limits are far beyond what a healthy destination needs. Retries get the limit of requests: with fewer, the end of an endpoint
// under load would be seen, because most of the requests it took along could not be tried again.
var limits = circuitbreaker.Conf{ConnectionLimits: &circuitbreaker.ConnectionLimits{
	MaxConnections: new(uint32(1024)), MaxPendingRequests: new(uint32(1024)), MaxRequests: new(uint32(1024)), MaxRetries: new(uint32(1024)),
}}
