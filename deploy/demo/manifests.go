package demo

import (
	"fmt"
	"strings"
)

// servicePort is the port of every service in the mesh.
const servicePort = 18080

const identity = `
type: MeshIdentity
mesh: default
name: identity
spec:
  selector: {dataplane: {matchLabels: {}}}
  provider: {type: Bundled, bundled: {autogenerate: {enabled: true}, insecureAllowSelfSigned: true}}
`

// spread sends what calls stock to both zones alike.
const spread = `
type: MeshLoadBalancingStrategy
mesh: default
name: spread-stock
spec:
  to:
  - targetRef: {kind: MeshMultiZoneService, labels: {kuma.io/display-name: stock}}
    default: {localityAwareness: {disabled: true}}
`

// canaried is the service whose second instance in each zone is its version 2.
const canaried = "catalog"

// version is what of a service the n-th instance runs.
func version(n int) string { return fmt.Sprintf("v%d", n) }

// versioned is one version of the canaried service, in one zone.
func versioned(n int) string {
	return fmt.Sprintf(`
type: MeshService
mesh: default
name: %[1]s-%[2]s
spec:
  selector: {dataplaneLabels: {matchLabels: {kuma.io/workload: %[1]s, version: %[2]s}}}
  ports: [{name: http, port: %[3]d, targetPort: %[3]d, appProtocol: http}]
`, canaried, version(n), servicePort)
}

// canary sends one in four calls of the canaried service to its version 2, wherever the callers are.
func canary() string {
	share := func(n, weight int) string {
		return fmt.Sprintf("{kind: MeshMultiZoneService, labels: {kuma.io/display-name: %s-%s}, port: %d, weight: %d}", canaried, version(n), servicePort, weight)
	}
	return fmt.Sprintf(`type: MeshHTTPRoute
mesh: default
name: %[1]s-canary
spec:
  to:
  - targetRef: {kind: MeshMultiZoneService, labels: {kuma.io/display-name: %[1]s}}
    rules:
    - matches: [{path: {type: PathPrefix, value: /}}]
      default:
        backendRefs:
        - %[2]s
        - %[3]s
`, canaried, share(1, 3), share(2, 1))
}

// spiffeID is who a service is in a zone.
func spiffeID(zone, service string) string {
	return fmt.Sprintf("spiffe://%s.%s.mesh.local/workload/%s", meshName, zone, service)
}

// joined is a service of all zones under one name: the instances of the caller's zone first.
func joined(service string) string {
	return fmt.Sprintf(`
type: MeshMultiZoneService
mesh: default
name: %s
spec:
  selector: {meshService: {matchLabels: {kuma.io/display-name: %s}}}
  ports: [{port: %d, name: http, appProtocol: http}]
`, service, service, servicePort)
}

// permission lets the caller of a service in, whichever zone it runs in. Nobody else is.
func permission(caller, service string) string {
	var ids []string
	for _, z := range zoneNames {
		ids = append(ids, fmt.Sprintf("{spiffeID: {type: Exact, value: %q}}", spiffeID(z, caller)))
	}
	return fmt.Sprintf(`
type: MeshTrafficPermission
mesh: default
name: %s-to-%s
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: %s}}
  rules: [{default: {allow: [%s]}}]
`, caller, service, service, strings.Join(ids, ", "))
}

// tracing sends what proxies see of requests to the collector of the demo.
func (d *Demo) tracing() string {
	return fmt.Sprintf(`
type: MeshOpenTelemetryBackend
mesh: default
name: demo
spec: {protocol: http, endpoint: {address: %s, port: %d}}
---
type: MeshTrace
mesh: default
name: everything
spec:
  default:
    backends: [{type: OpenTelemetry, openTelemetry: {backendRef: {kind: MeshOpenTelemetryBackend, labels: {kuma.io/display-name: demo}}}}]
`, d.ip(0, 1), collectorPort)
}

// declarations are what is written at global, once for all zones.
func (d *Demo) declarations() string {
	docs := []string{identity}
	for i, s := range services[1:] {
		docs = append(docs, joined(s), permission(services[i], s))
	}
	for n := 1; n <= instancesEach; n++ {
		docs = append(docs, joined(canaried+"-"+version(n)))
	}
	docs = append(docs, d.external(), d.tracing())
	return strings.Join(docs, "---")
}

// ingress is where other zones reach a zone.
func ingress(ip string, port int) string {
	return fmt.Sprintf("type: MeshZoneAddress\nmesh: default\nname: ingress\nspec: {address: %s, port: %d}\n", ip, port)
}
