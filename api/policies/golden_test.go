package policies_test

import (
	"path/filepath"
	"testing"

	"github.com/causeway-mesh/causeway/test/golden"
)

// TestProxies compiles whole proxies with each policy.
func TestProxies(t *testing.T) {
	for _, policy := range []string{"timeout", "trafficpermission", "circuitbreaker", "retry", "httproute", "loadbalancingstrategy", "accesslog", "trace", "proxypatch", "passthrough"} {
		t.Run(policy, func(t *testing.T) { golden.Run(t, filepath.Join("testdata", policy)) })
	}
}
