package policies_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/api/policies"
	"github.com/causeway-mesh/causeway/api/policies/retry"
	"github.com/causeway-mesh/causeway/api/policies/timeout"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// problemsOf decodes a policy strictly and validates it, as a write does.
func problemsOf(t *testing.T, kind, spec string) []string {
	t.Helper()
	kinds := resource.NewKinds(policies.Kinds()...)
	text := "type: " + kind + "\nmesh: default\nname: x\nspec:\n  " + strings.ReplaceAll(strings.TrimSpace(spec), "\n", "\n  ")
	decoded, err := kinds.DecodeYAML([]byte(text), true)
	if err != nil {
		return strings.Split(err.Error(), "\n")
	}
	k, _ := kinds.ByName(kind)
	var out []string
	for _, p := range k.Validate(decoded[0].Resource) {
		out = append(out, p.String())
	}
	return out
}

func TestRefused(t *testing.T) {
	for _, tc := range []struct {
		name, kind, spec string
		want             []string // fields that are named, in order
	}{
		{"timeout without any", "MeshTimeout", `to: [{targetRef: {kind: Mesh}, default: {}}]`, []string{"spec.to[0].default"}},
		{"empty http", "MeshTimeout", `to: [{targetRef: {kind: Mesh}, default: {http: {}}}]`, []string{"spec.to[0].default.http"}},
		{
			"timeouts out of range", "MeshTimeout", `to: [{targetRef: {kind: Mesh}, default: {connectionTimeout: 0s, idleTimeout: -1s, http: {requestTimeout: 200000h}}}]`,
			[]string{"spec.to[0].default.connectionTimeout", "spec.to[0].default.idleTimeout", "spec.to[0].default.http.requestTimeout"},
		},
		{"both directions", "MeshTimeout", "to: [{targetRef: {kind: Mesh}, default: {idleTimeout: 1s}}]\nrules: [{default: {idleTimeout: 1s}}]", []string{"spec"}},
		{
			"per connection for a route", "MeshTimeout", `to: [{targetRef: {kind: MeshHTTPRoute, labels: {a: b}}, default: {idleTimeout: 1s, http: {requestTimeout: 1s, maxStreamDuration: 1s}}}]`,
			[]string{"spec.to[0].default.idleTimeout", "spec.to[0].default.http.maxStreamDuration"},
		},
		{
			"per connection for clients", "MeshTimeout", `rules: [{matches: [{spiffeID: {type: Exact, value: "spiffe://m/w"}}], default: {connectionTimeout: 1s, http: {streamIdleTimeout: 1s, requestHeadersTimeout: 1s}}}]`,
			[]string{"spec.rules[0].default.connectionTimeout", "spec.rules[0].default.http.requestHeadersTimeout"},
		},

		{"permission without lists", "MeshTrafficPermission", `rules: [{default: {}}]`, []string{"spec.rules[0].default"}},
		{"permission without rules", "MeshTrafficPermission", `targetRef: {kind: Mesh}`, []string{"spec"}},
		{
			"matches of permissions", "MeshTrafficPermission", `rules: [{default: {allow: [{}, {spiffeID: {type: Like, value: web}}], deny: [{sni: {type: Exact, value: "a_b"}}]}}]`,
			[]string{"spec.rules[0].default.deny[0].sni.value", "spec.rules[0].default.allow[0]", "spec.rules[0].default.allow[1].spiffeID.type", "spec.rules[0].default.allow[1].spiffeID.value"},
		},

		{
			"limits of zero", "MeshCircuitBreaker", `to: [{targetRef: {kind: Mesh}, default: {connectionLimits: {maxConnections: 0, maxRetries: 0}}}]`,
			[]string{"spec.to[0].default.connectionLimits.maxConnections", "spec.to[0].default.connectionLimits.maxRetries"},
		},
		{"no detector", "MeshCircuitBreaker", `rules: [{default: {outlierDetection: {interval: 1s, detectors: {}}}}]`, []string{"spec.rules[0].default.outlierDetection.detectors"}},
		{
			"threshold above all", "MeshCircuitBreaker", `rules: [{default: {outlierDetection: {healthyPanicThreshold: "100.5", detectors: {totalFailures: {}}}}}]`,
			[]string{"spec.rules[0].default.outlierDetection.healthyPanicThreshold"},
		},

		{"tcp without attempts", "MeshRetry", `to: [{targetRef: {kind: Mesh}, default: {tcp: {}}}]`, []string{"spec.to[0].default.tcp.maxConnectAttempt"}},
		{
			"unknown conditions", "MeshRetry", `to: [{targetRef: {kind: Mesh}, default: {http: {retryOn: ["5xx", "700", HttpMethodFetch]}, grpc: {retryOn: [Retriable4xx]}}}]`,
			[]string{"spec.to[0].default.http.retryOn[1]", "spec.to[0].default.http.retryOn[2]", "spec.to[0].default.grpc.retryOn[0]"},
		},
		{
			"tags nowhere", "MeshRetry", `to: [{targetRef: {kind: Mesh}, default: {http: {hostSelection: [{predicate: OmitHostsWithTags}]}}}]`,
			[]string{"spec.to[0].default.http.hostSelection[0].tags"},
		},
		{
			"backing off down", "MeshRetry", `to: [{targetRef: {kind: Mesh}, default: {http: {backOff: {baseInterval: 2s, maxInterval: 1s}}}}]`,
			[]string{"spec.to[0].default.http.backOff.maxInterval"},
		},

		{"route of the whole mesh", "MeshHTTPRoute", `to: [{targetRef: {kind: Mesh}, rules: [{matches: [{}], default: {}}]}]`, []string{"spec.to[0].targetRef.kind"}},
		{"rule without match", "MeshHTTPRoute", `to: [{targetRef: {kind: MeshService, labels: {a: b}}, rules: [{default: {}}]}]`, []string{"spec.to[0].rules[0].matches"}},
		{
			"prefix with a slash", "MeshHTTPRoute", `to: [{targetRef: {kind: MeshService, labels: {a: b}}, rules: [{matches: [{path: {type: PathPrefix, value: /a/}}], default: {}}]}]`,
			[]string{"spec.to[0].rules[0].matches[0].path.value"},
		},
		{
			"prefix of an exact path", "MeshHTTPRoute", `to: [{targetRef: {kind: MeshService, labels: {a: b}}, rules: [{matches: [{path: {type: Exact, value: /a}}], default: {filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]}}]}]`,
			[]string{"spec.to[0].rules[0].default.filters[0].urlRewrite.path.type"},
		},
		{
			"field of another filter", "MeshHTTPRoute", `to: [{targetRef: {kind: MeshService, labels: {a: b}}, rules: [{matches: [{}], default: {filters: [{type: RequestMirror, urlRewrite: {hostname: a}}]}}]}]`,
			[]string{"spec.to[0].rules[0].default.filters[0].urlRewrite", "spec.to[0].rules[0].default.filters[0].requestMirror"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var fields []string
			all := problemsOf(t, tc.kind, tc.spec)
			for _, p := range all {
				field, reason, _ := strings.Cut(p, ": ")
				if reason == "" {
					t.Errorf("%q gives no reason", p)
				}
				fields = append(fields, field)
			}
			if d := cmp.Diff(tc.want, fields); d != "" {
				t.Errorf("-want +got\n%s%s", d, strings.Join(all, "\n"))
			}
		})
	}
}

func TestAccepted(t *testing.T) {
	for _, tc := range []struct{ name, kind, spec string }{
		{"request headers alone", "MeshTimeout", `to: [{targetRef: {kind: Mesh}, default: {http: {requestHeadersTimeout: 1s}}}]`},
		{"no limits", "MeshTimeout", `rules: [{default: {idleTimeout: 0s, http: {requestTimeout: 0s, maxStreamDuration: 0s}}}]`},
		{"per request for a server name", "MeshTimeout", `rules: [{matches: [{sni: {type: Exact, value: a.b}}], default: {connectionTimeout: 1s}}]`},
		{"both sides of a circuit", "MeshCircuitBreaker", "to: [{targetRef: {kind: Mesh}, default: {connectionLimits: {maxRetries: 1}}}]\nrules: [{default: {connectionLimits: {maxRetries: 1}}}]"},
		{"detection off", "MeshCircuitBreaker", `to: [{targetRef: {kind: Mesh}, default: {outlierDetection: {disabled: true}}}]`},
		{"nothing is retried", "MeshRetry", `to: [{targetRef: {kind: Mesh}, default: {http: {retryOn: []}}}]`},
		{"empty match", "MeshHTTPRoute", `to: [{targetRef: {kind: MeshService, labels: {a: b}}, rules: [{matches: [{}], default: {}}]}]`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if ps := problemsOf(t, tc.kind, tc.spec); len(ps) > 0 {
				t.Errorf("refused: %s", strings.Join(ps, "\n"))
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	names := func(skip ...string) []string {
		rs, err := policies.Defaults("shop", skip)
		if err != nil {
			t.Fatal(err)
		}
		kinds := resource.NewKinds(policies.Kinds()...)
		var out []string
		for _, r := range rs {
			k, err := kinds.Lookup(r.Type)
			if err != nil {
				t.Fatal(err)
			}
			if err := k.Validate(r).Err(); err != nil {
				t.Errorf("%s: %v", r.Key(), err)
			}
			out = append(out, r.Key().String())
		}
		slices.Sort(out)
		return out
	}
	all := []string{
		"MeshCircuitBreaker shop/mesh-circuit-breaker-all-shop", "MeshRetry shop/mesh-retry-all-shop",
		"MeshTimeout shop/mesh-timeout-all-shop", "MeshTimeout shop/mesh-timeout-to-all-shop",
	}
	if d := cmp.Diff(all, names()); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(all[:2], names("MeshTimeout")); d != "" {
		t.Error(d)
	}
	if got := names("*"); got != nil {
		t.Errorf("skipping everything leaves %v", got)
	}
}

// TestDefaultRetryHelpsSlowServices: a try that hangs must end early enough for another one to succeed.
func TestDefaultRetryHelpsSlowServices(t *testing.T) {
	rs, err := policies.Defaults("shop", nil)
	if err != nil {
		t.Fatal(err)
	}
	kinds := resource.NewKinds(policies.Kinds()...)
	for _, r := range rs {
		if r.Type != "MeshRetry" {
			continue
		}
		k, _ := kinds.ByName(r.Type)
		if w := k.Warn(r); len(w) > 0 {
			t.Errorf("warnings: %s", strings.Join(w, "\n"))
		}
		e := policyNamed(t, r.Type).Effective(proxy.Outbound, "http", sourcesOf(t, r))
		var c retry.Conf
		if err := json.Unmarshal([]byte(e.Conf), &c); err != nil {
			t.Fatalf("%s: %v", e.Conf, err)
		}
		if try := c.HTTP.PerTryTimeout; try == nil || try.Duration <= 0 || 2*try.Duration > timeout.DefaultRequest {
			t.Errorf("a try of %v leaves no time for another within %s", try, timeout.DefaultRequest)
		}
		if !slices.ContainsFunc(c.HTTP.HostSelection, func(h retry.HostSelection) bool { return h.Predicate == retry.OmitPreviousHosts }) {
			t.Errorf("a retry may go to the endpoint that just failed: %s", e.Conf)
		}
	}
}

func policyNamed(t *testing.T, name string) policy.Policy {
	t.Helper()
	i := slices.IndexFunc(policies.All, func(p policy.Policy) bool { return p.Resource().Name == name })
	if i < 0 {
		t.Fatalf("no policy %s", name)
	}
	return policies.All[i]
}

func sourcesOf(t *testing.T, r resource.Resource) []policy.Sourced {
	t.Helper()
	parts, err := policyNamed(t, r.Type).Parts(r)
	if err != nil {
		t.Fatal(err)
	}
	var out []policy.Sourced
	for i, it := range slices.Concat(parts.To, parts.Rules) {
		out = append(out, policy.Sourced{Policy: resource.KRI{Name: r.Name}, Index: i, Conf: it.Conf})
	}
	return out
}

// TestPermissionsAddUp: no rule hides another, a repeated match names the strongest policy, and without rules everybody is denied.
func TestPermissionsAddUp(t *testing.T) {
	p := policyNamed(t, "MeshTrafficPermission")
	if got := p.Effective(proxy.Inbound, "http", nil).Conf; got != `{"otherwise":"Deny"}` {
		t.Errorf("without rules: %s", got)
	}
	if got := p.Effective(proxy.Outbound, "http", nil).Conf; got != "" {
		t.Errorf("for what is sent: %s", got)
	}
	rule := func(name, list, id string) policy.Sourced {
		match := map[string]any{"spiffeID": map[string]any{"type": "Exact", "value": id}}
		return policy.Sourced{Policy: resource.KRI{Short: "mtp", Name: name}, Conf: map[string]any{"default": map[string]any{list: []any{match}}}}
	}
	weak, strong, other := rule("weak", "allow", "spiffe://m/a"), rule("strong", "allow", "spiffe://m/a"), rule("other", "deny", "spiffe://m/b")
	want := `{"allow":[{"origin":"kri_mtp____strong_","spiffeID":{"type":"Exact","value":"spiffe://m/a"}}],` +
		`"deny":[{"origin":"kri_mtp____other_","spiffeID":{"type":"Exact","value":"spiffe://m/b"}}],"otherwise":"Deny"}`
	e := p.Effective(proxy.Inbound, "http", []policy.Sourced{weak, other, strong})
	if d := cmp.Diff(want, e.Conf); d != "" {
		t.Error(d)
	}
	if got := len(e.Policies()); got != 3 {
		t.Errorf("%d policies contribute, want 3: %v", got, e.Origins)
	}
	if again := p.Effective(proxy.Inbound, "http", []policy.Sourced{weak, other, strong}); !again.Equal(e) {
		t.Errorf("not the same again: %v", again)
	}
}
