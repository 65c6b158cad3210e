package policies_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policies"
	"github.com/causeway-mesh/causeway/api/resource"
)

// declared is a mesh in which collectors exist at global, in east and in west, and policies refer to them from everywhere in their specs.
const declared = `
type: MeshOpenTelemetryBackend
mesh: default
name: global
labels: {of: global}
spec: {endpoint: {address: collector}}
---
type: MeshOpenTelemetryBackend
mesh: default
name: east
labels: {of: zones, kuma.io/zone: east}
spec: {endpoint: {address: collector}}
---
type: MeshOpenTelemetryBackend
mesh: default
name: west
labels: {of: zones, kuma.io/zone: west}
spec: {endpoint: {address: collector}}
---
type: MeshOpenTelemetryBackend
mesh: default
name: unused
labels: {of: nobody}
spec: {endpoint: {address: collector}}
---
type: MeshOpenTelemetryBackend
mesh: other
name: elsewhere
labels: {of: elsewhere}
spec: {endpoint: {address: collector}}
---
type: MeshTrace
mesh: default
name: found
spec: {default: {backends: [{type: OpenTelemetry, openTelemetry: {backendRef: {kind: MeshOpenTelemetryBackend, labels: {of: global}}}}]}}
---
type: MeshTrace
mesh: default
name: elsewhere
spec: {default: {backends: [{type: OpenTelemetry, openTelemetry: {backendRef: {kind: MeshOpenTelemetryBackend, labels: {of: elsewhere}}}}]}}
---
type: MeshTrace
mesh: default
name: zipkin
spec: {default: {backends: [{type: Zipkin, zipkin: {url: "http://zipkin/api/v2/spans"}}]}}
---
type: MeshMetric
mesh: default
name: two
spec:
  default:
    backends:
    - {type: Prometheus, prometheus: {port: 5670}}
    - {type: OpenTelemetry, openTelemetry: {backendRef: {kind: MeshOpenTelemetryBackend, labels: {of: global}}}}
    - {type: OpenTelemetry, openTelemetry: {backendRef: {kind: MeshOpenTelemetryBackend, labels: {of: missing, b: c}}}}
---
type: MeshMetric
mesh: default
name: zones
spec: {default: {backends: [{type: OpenTelemetry, openTelemetry: {backendRef: {kind: MeshOpenTelemetryBackend, labels: {of: zones}}}}]}}
---
type: MeshAccessLog
mesh: default
name: of-east
labels: {kuma.io/zone: east}
spec: {rules: [{default: {backends: [{type: OpenTelemetry, openTelemetry: {backendRef: {kind: MeshOpenTelemetryBackend, labels: {of: zones}}}}]}}]}
---
type: MeshAccessLog
mesh: default
name: of-north
labels: {kuma.io/zone: north}
spec:
  to:
  - targetRef: {kind: Mesh}
    default: {backends: [{type: OpenTelemetry, openTelemetry: {backendRef: {kind: MeshOpenTelemetryBackend, labels: {of: zones}}}}]}
---
type: MeshTimeout
mesh: default
name: other
spec: {to: [{targetRef: {kind: Mesh}, default: {idleTimeout: 1s}}]}
`

func TestConditions(t *testing.T) {
	kinds := resource.NewKinds(append(policies.Kinds(), mesh.Kinds...)...)
	decoded, err := kinds.DecodeYAML([]byte(declared), true)
	if err != nil {
		t.Fatal(err)
	}
	each := func(kind, meshName string, visit func(resource.Resource) bool) {
		for _, d := range decoded {
			if d.Type == kind && d.Mesh == meshName && !visit(d.Resource) {
				return
			}
		}
	}
	resolved, referenced := mesh.ConditionBackendRefsResolved, mesh.ConditionReferencedByPolicies
	unresolved := func(labels string) mesh.Condition {
		return mesh.Condition{Type: resolved, Status: mesh.False, Reason: "UnresolvedBackendRefs", Message: "nothing is sent there until it exists: MeshOpenTelemetryBackend with " + labels}
	}
	used := func(by string) mesh.Condition {
		return mesh.Condition{Type: referenced, Status: mesh.True, Reason: "Referenced", Message: by}
	}
	want := map[string]mesh.Condition{
		"MeshTrace found":        {Type: resolved, Status: mesh.True, Reason: "ResolvedBackendRefs"},
		"MeshTrace elsewhere":    unresolved("of=elsewhere"),
		"MeshMetric two":         unresolved("b=c,of=missing"),
		"MeshMetric zones":       {Type: resolved, Status: mesh.Unknown, Reason: "ResolvedInSomeZones", Message: "what is referred to exists in some zones alone: east, west"},
		"MeshAccessLog of-east":  {Type: resolved, Status: mesh.True, Reason: "ResolvedBackendRefs"},
		"MeshAccessLog of-north": unresolved("of=zones"),

		"MeshOpenTelemetryBackend global":    used("MeshMetric two, MeshTrace found"),
		"MeshOpenTelemetryBackend east":      used("MeshAccessLog of-east, MeshMetric zones"),
		"MeshOpenTelemetryBackend west":      used("MeshMetric zones"),
		"MeshOpenTelemetryBackend unused":    {Type: referenced, Status: mesh.False, Reason: "NotReferenced", Message: "no policy refers to it"},
		"MeshOpenTelemetryBackend elsewhere": {Type: referenced, Status: mesh.False, Reason: "NotReferenced", Message: "no policy refers to it"},
	}
	got := map[string]mesh.Condition{}
	for _, d := range decoded {
		for _, c := range policies.Conditions(d.Resource, each) {
			got[d.Type+" "+d.Name] = c
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("conditions (-want +got):\n%s", diff)
	}
}
