package envoy

import (
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/test/testmesh"
)

// TestMain lets this binary be the agent of workloads that run in processes of their own.
func TestMain(m *testing.M) {
	// Groups of traffic mostly wait, so more of them run together than there are cores.
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	testmesh.Main(m)
}

// TestTraffic sends real requests through real proxies of one zone. Each group has a mesh of its own.
func TestTraffic(t *testing.T) {
	zone := testmesh.Start(t, testmesh.Options{})
	for _, g := range []struct {
		name string
		run  func(*testing.T, *testmesh.Mesh)
		skip []string // default policies that the mesh shall not have
	}{
		{name: "renewal", run: testRenewal}, // first, because it waits longest
		{name: "external", run: testExternal, skip: []string{"MeshRetry"}},
		{name: "external-tls", run: testExternalTLS, skip: []string{"MeshRetry"}},
		{name: "external-policies", run: testExternalPolicies},
		{name: "spire", run: testSPIRE},
		{name: "logs", run: testLogs},
		{name: "traces", run: testTraces},
		{name: "zone-logs", run: testZoneLogs},
		{name: "plain", run: testPlain},
		{name: "secure", run: testSecure},
		{name: "permissive", run: testPermissive},
		{name: "routing", run: testRouting},
		{name: "timeouts", run: testTimeouts},
		{name: "retries", run: testRetries},
		{name: "rates", run: testRates, skip: []string{"MeshRetry"}},
		{name: "faults", run: testFaults, skip: []string{"MeshRetry"}},
		{name: "egress", run: testAtEgress, skip: []string{"MeshRetry"}},
		{name: "splits", run: testSplits},
		{name: "checks", run: testChecks, skip: []string{"MeshRetry"}},
		{name: "calls", run: testCalls},
		{name: "limits", run: testLimits, skip: []string{"MeshRetry"}},
		{name: "edits", run: testEdits, skip: []string{"MeshRetry"}},
		{name: "leaving", run: testLeaving, skip: []string{"MeshRetry"}},
		{name: "modes", run: testModes, skip: []string{"MeshRetry"}},
		{name: "signers", run: testSigners},
		{name: "balancing", run: testBalancing},
		{name: "switch", run: testSwitch, skip: []string{"MeshRetry"}},
		{name: "delegated", run: testDelegated, skip: []string{"MeshRetry"}},
		{name: "delegated-observed", run: testDelegatedObserved},
		{name: "dying", run: testDying},
		{name: "probes", run: testProbes, skip: []string{"MeshRetry"}},
		{name: "metrics", run: testMetrics},
		{name: "metrics-tls", run: testMetricsTLS},
	} {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			g.run(t, zone.Mesh(t, g.name, g.skip...))
		})
	}
}

// identity gives every proxy of a mesh an identity.
const identity = `
type: MeshIdentity
name: identity
spec:
  selector: {dataplane: {}}
  provider: {type: Bundled, bundled: {autogenerate: {enabled: true}}}
`

// spiffe is the SPIFFE ID of a workload.
func spiffe(m *testmesh.Mesh, workload string) string {
	return fmt.Sprintf("spiffe://%s.%s.mesh.local/workload/%s", m.Name, m.Zone.Name, workload)
}

// permission is a MeshTrafficPermission for the proxies of a workload. Lines are such as "allow Exact spiffe://…".
func permission(name, workload string, lines ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "type: MeshTrafficPermission\nname: %s\nspec:\n  targetRef: {kind: Dataplane, labels: {kuma.io/workload: %s}}\n", name, workload)
	b.WriteString("  rules:\n")
	for _, l := range lines {
		f := strings.Fields(l)
		fmt.Fprintf(&b, "  - default: {%s: [{spiffeID: {type: %s, value: %q}}]}\n", f[0], f[1], f[2])
	}
	return b.String()
}

// to is a policy for what every proxy sends to a service; conf is the default in flow style.
func to(typ, name, service, conf string) string {
	return fmt.Sprintf("type: %s\nname: %s\nspec:\n  to:\n  - targetRef: {kind: MeshService, labels: {kuma.io/display-name: %s}}\n    default: %s\n",
		typ, name, service, conf)
}
