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

// declarations are what is written at global, once for all zones.
func declarations() string {
	docs := []string{identity}
	for i, s := range services[1:] {
		docs = append(docs, joined(s), permission(services[i], s))
	}
	return strings.Join(docs, "---")
}

// ingress is where other zones reach a zone.
func ingress(ip string, port int) string {
	return fmt.Sprintf("type: MeshZoneAddress\nmesh: default\nname: ingress\nspec: {address: %s, port: %d}\n", ip, port)
}
