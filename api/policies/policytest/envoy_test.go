package policytest_test

import (
	"path/filepath"
	"testing"

	"github.com/causeway-mesh/causeway/api/policies"
	"github.com/causeway-mesh/causeway/api/policies/policytest"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/test/golden"
)

// folders are where the cases of a policy are. A policy without hooks has none: whole proxies show what the compiler makes of it.
var folders = map[string]string{
	"MeshHTTPRoute": "httproute", "MeshTimeout": "timeout", "MeshTrafficPermission": "trafficpermission",
	"MeshCircuitBreaker": "circuitbreaker", "MeshRetry": "retry", "MeshLoadBalancingStrategy": "loadbalancingstrategy",
	"MeshTCPRoute": "tcproute", "MeshFaultInjection": "faultinjection", "MeshRateLimit": "ratelimit", "MeshHealthCheck": "healthcheck",
	"MeshAccessLog": "accesslog", "MeshTrace": "trace", "MeshPassthrough": "passthrough",
}

var hooks = []policy.HookName{
	policy.HookCluster, policy.HookRoutes, policy.HookRoute, policy.HookHTTP, policy.HookTCP, policy.HookHTTPFilters, policy.HookNetworkFilters,
	policy.HookClientFilters, policy.HookSplit,
	policy.HookLogs, policy.HookResources,
}

// A real Envoy accepts what every policy makes in every case, and every hook of every policy is shown in a case.
func TestEnvoyAcceptsEveryCase(t *testing.T) {
	for _, p := range policies.All {
		name := p.Resource().Name
		t.Run(name, func(t *testing.T) {
			missing := map[policy.HookName]bool{}
			for _, h := range hooks {
				if _, ok := p.Fields(h); ok {
					missing[h] = true
				}
			}
			if len(missing) == 0 {
				return
			}
			if folders[name] == "" {
				t.Fatal("it has hooks, and nobody knows where its cases are")
			}
			outputs := policytest.Outputs(t, p, filepath.Join("..", folders[name], "testdata"))
			for _, o := range outputs {
				delete(missing, o.Hook)
			}
			for h := range missing {
				t.Errorf("no case shows the hook %s", h)
			}
			t.Logf("%d outputs", len(outputs))
			golden.ValidateHooks(t, outputs)
		})
	}
}
