package zones

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/dataplane/agent"
	"github.com/causeway-mesh/causeway/dataplane/envoy"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// Proxies of the release of Envoy before ours take the same configuration, policies included, and talk with those of ours in both
// directions, with mesh TLS, and with other zones through an ingress that is older, too.
//
// Acceptance: U compatibility: a real Envoy of the release before beside the present one
func TestOlderEnvoyBesideThePresentOne(t *testing.T) {
	t.Parallel()
	path, err := envoy.FindVersion(t.Context(), envoy.Older)
	if errors.Is(err, envoy.ErrNotFound) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	older := func(c *agent.Config) { c.Envoy.Binary = path }
	f := testmesh.Federate(t, testmesh.FederationOptions{}, "east", "west")
	east, west := f.Zone("east"), f.Zone("west")
	f.Apply(t, identities+`---
type: MeshTrafficPermission
mesh: default
name: everybody
spec: {rules: [{default: {allow: [{spiffeID: {type: Prefix, value: "spiffe://"}}]}}]}
---
type: MeshRetry
mesh: default
name: retry
spec: {to: [{targetRef: {kind: Mesh}, default: {http: {numRetries: 2}, tcp: {maxConnectAttempt: 2}}}]}
---
type: MeshCircuitBreaker
mesh: default
name: breaker
spec: {to: [{targetRef: {kind: Mesh}, default: {outlierDetection: {detectors: {totalFailures: {consecutive: 20}}}}}], rules: [{default: {connectionLimits: {maxConnections: 500}}}]}
---
type: MeshRateLimit
mesh: default
name: limit
spec: {rules: [{default: {local: {http: {requestRate: {num: 1000, interval: 1s}}}}}]}
---
type: MeshFaultInjection
mesh: default
name: none
spec: {rules: [{default: {http: [{abort: {httpStatus: 500, percentage: 0}}]}}]}
---
type: MeshHealthCheck
mesh: default
name: checks
spec: {to: [{targetRef: {kind: Mesh}, default: {interval: 5s, timeout: 2s, unhealthyThreshold: 3, healthyThreshold: 1, tcp: {}}}]}
---
type: MeshLoadBalancingStrategy
mesh: default
name: balance
spec: {to: [{targetRef: {kind: Mesh}, default: {loadBalancer: {type: LeastRequest, leastRequest: {choiceCount: 2}}}}]}
---
type: MeshAccessLog
mesh: default
name: logs
spec: {rules: [{default: {backends: [{type: File, file: {path: /dev/null}}]}}]}
---
type: MeshHTTPRoute
mesh: default
name: route
spec:
  to:
  - targetRef: {kind: MeshService, labels: {kuma.io/display-name: present}}
    rules: [{matches: [{path: {type: PathPrefix, value: /marked}}], default: {filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-marked, value: "yes"}]}}]}}]
`)
	ingress := west.Ingress(t, testmesh.Workload{Name: "ingress-1", Configure: older})
	all := []*testmesh.Instance{
		ingress,
		east.Workload(t, testmesh.Workload{Name: "present-1"}),
		east.Workload(t, testmesh.Workload{Name: "older-1", Configure: older}),
		east.Workload(t, testmesh.Workload{Name: "bytes-1", Protocol: mesh.TCP, Configure: older}),
		west.Workload(t, testmesh.Workload{Name: "far-1"}),
		west.Workload(t, testmesh.Workload{Name: "farolder-1", Configure: older}),
	}
	present, old := all[1], all[2]
	for _, c := range []struct {
		from             *testmesh.Instance
		service, answers string
	}{
		{present, "older", "older-1"},
		{old, "present", "present-1"},
		{present, "far.west", "far-1"},
		{old, "far.west", "far-1"},
		{present, "farolder.west", "farolder-1"},
	} {
		got := c.from.Reach(t, c.service)
		if got.Answer.Instance != c.answers {
			t.Errorf("%s reaches %q at %s", c.from.Name, got.Answer.Instance, c.service)
		}
		if want := spiffe("east", strings.TrimSuffix(c.from.Name, "-1")); got.Answer.Caller() != want {
			t.Errorf("%s is %q for %s, want %q", c.from.Name, got.Answer.Caller(), c.service, want)
		}
	}
	if from := present.ReachTCP(t, "bytes"); from != "bytes-1" {
		t.Errorf("bytes are answered by %q", from)
	}
	old.Expect(t, testmesh.Request{Service: "present", Path: "/marked"}, http.StatusOK)
	for _, i := range all {
		version := envoy.Version
		if i.Configure != nil {
			version = envoy.Older
		}
		zone := east
		if i == ingress || i == all[4] || i == all[5] {
			zone = west
		}
		var seen struct {
			Insight mesh.DataplaneInsight `json:"dataplaneInsight"`
		}
		zone.Until(t, i.Name+" has acknowledged what it was sent", func() (any, bool) {
			if !zone.Overview(t, i.Name, &seen) || len(seen.Insight.Subscriptions) == 0 {
				return seen, false
			}
			s := seen.Insight.Subscriptions[len(seen.Insight.Subscriptions)-1]
			return fmt.Sprintf("Envoy %s, %+v", s.Version.Envoy.Version, s.Status), s.Version.Envoy.Version == version && s.Status.Total.ResponsesAcknowledged > 0
		})
		if s := seen.Insight.Subscriptions[len(seen.Insight.Subscriptions)-1]; s.Status.Total.ResponsesRejected != 0 {
			t.Errorf("%s with Envoy %s rejected configuration: %+v", i.Name, version, s.Status)
		}
		if n := i.Stat(t, `(cds|lds|rds|eds)\.update_rejected`); n != 0 {
			t.Errorf("Envoy %s of %s rejected %d updates", version, i.Name, n)
		}
	}
}
