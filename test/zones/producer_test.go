package zones

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/role"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// produced is a policy of a zone for a service or route, with labels of its own.
func produced(kind, name, labels, target, conf string) string {
	return fmt.Sprintf("type: %s\nmesh: default\nname: %s\nlabels: {%s}\nspec:\n  to: [{targetRef: {%s}, default: %s}]\n", kind, name, labels, target, conf)
}

// What the owner of a service decides for its clients, in a policy of role producer, holds in all zones, also on routes of the owner; services of the
// same name elsewhere are not concerned, and its backends are its own. What is written in a namespace for services of another one stays in the
// zone, and who speaks for services of others is refused.
//
// Acceptance: M producer: namespaces are labels here, as on machines; that objects of Kubernetes carry them needs Kubernetes
func TestOwnersOfServicesDecideForTheirClients(t *testing.T) {
	t.Parallel()
	f := testmesh.Federate(t, testmesh.FederationOptions{}, "east", "west")
	east, west := f.Zone("east"), f.Zone("west")
	f.Apply(t, identities)
	for _, s := range []string{"web", "canary", "store"} {
		f.Apply(t, permit(s, s, "spiffe://default.*"))
	}
	west.Ingress(t, testmesh.Workload{Name: "ingress-1"})
	west.Apply(t, "type: MeshService\nmesh: default\nname: store\nlabels: {k8s.kuma.io/namespace: blue}\nspec:\n"+
		fmt.Sprintf("  selector: {dataplaneLabels: {matchLabels: {kuma.io/workload: store}}}\n  ports: [{name: main, port: %d, appProtocol: http}]\n", west.Port))
	far := west.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "canary-1"}, testmesh.Workload{Name: "store-1"})
	near := east.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "canary-1"}, testmesh.Workload{Name: "client-1"})
	client := near[2]
	for _, s := range []string{"web", "web.west", "canary.west", "store.west"} {
		client.Reach(t, s)
	}
	const (
		owner = "kuma.io/policy-role: producer"
		web   = "kind: MeshService, labels: {kuma.io/display-name: web}"
		store = "kind: MeshService, labels: {kuma.io/display-name: store}"
		short = "{http: {requestTimeout: 150ms}}"
	)
	expect := func(service string, status int) {
		t.Helper()
		client.Expect(t, testmesh.Request{Service: service, Path: "/?delay=600ms"}, status)
	}
	hasRole := func(kind, name, want string) {
		t.Helper()
		if r, ok := stored(west, kind, name, "west"); !ok || r.Label(resource.LabelPolicyRole) != want {
			t.Errorf("%s %s has the role %q, want %s", kind, name, r.Label(resource.LabelPolicyRole), want)
		}
	}

	t.Run("a service", func(t *testing.T) {
		expect("web.west", http.StatusOK)
		west.Apply(t, produced("MeshTimeout", "mine", "team: a", web, short))
		hasRole("MeshTimeout", "mine", role.System)
		west.Apply(t, produced("MeshTimeout", "short", owner, web, short))
		hasRole("MeshTimeout", "short", role.Producer)
		expect("web.west", http.StatusGatewayTimeout)
		expect("web", http.StatusOK)
		if _, there := stored(east, "MeshTimeout", "mine", "west"); there {
			t.Error("a policy that does not speak for the owner has travelled")
		}
	})
	t.Run("its routes", func(t *testing.T) {
		route := func(backend string) string {
			return "type: MeshHTTPRoute\nmesh: default\nname: web-route\nlabels: {" + owner + "}\nspec:\n  to:\n  - targetRef: {" + web + "}\n" +
				"    rules: [{matches: [{path: {type: PathPrefix, value: /}}], default: {" + backend + "}}]\n"
		}
		const its = "kind: MeshHTTPRoute, labels: {kuma.io/display-name: web-route}"
		west.Apply(t, route(""))
		west.Apply(t, produced("MeshTimeout", "patient", owner, its, "{http: {requestTimeout: 9s}}"))
		expect("web.west", http.StatusOK)
		west.Apply(t, produced("MeshRetry", "again", owner, its, "{http: {numRetries: 4, retryOn: [5xx], backOff: {baseInterval: 1ms, maxInterval: 5ms}}}"))
		east.Until(t, "clients in the other zone try again", func() (any, bool) {
			far[0].App.Fail(2, http.StatusInternalServerError)
			r, err := client.Try(t, testmesh.Request{Service: "web.west"})
			return fmt.Sprint(r, err), err == nil && r.Status == http.StatusOK
		})
		far[0].App.Fail(0, 0)
		west.Apply(t, route("backendRefs: [{kind: MeshService, labels: {kuma.io/display-name: canary}}]"))
		east.Until(t, "its backend answers", func() (any, bool) {
			r, err := client.Try(t, testmesh.Request{Service: "web.west"})
			if r.Answer.Instance == "canary-1" && !strings.Contains(r.Answer.Callee(), ".west.") {
				t.Fatalf("%s answers, of the client's zone", r.Answer.Callee())
			}
			return fmt.Sprint(r, err), err == nil && r.Answer.Instance == "canary-1"
		})
		if r := client.Reach(t, "web"); r.Answer.Instance != "web-1" {
			t.Errorf("%s answers for the service of the own zone", r.Answer.Instance)
		}
		west.Delete(t, "MeshTimeout", "patient")
		west.Delete(t, "MeshRetry", "again")
		west.Delete(t, "MeshHTTPRoute", "web-route")
		expect("web.west", http.StatusGatewayTimeout)
		west.Delete(t, "MeshTimeout", "short")
		west.Delete(t, "MeshTimeout", "mine")
		expect("web.west", http.StatusOK)
	})
	t.Run("namespaces", func(t *testing.T) {
		west.Apply(t, produced("MeshTimeout", "foreign", "k8s.kuma.io/namespace: green", "kind: MeshService, labels: {kuma.io/display-name: store, k8s.kuma.io/namespace: blue}", short))
		hasRole("MeshTimeout", "foreign", role.Consumer)
		west.Apply(t, produced("MeshTimeout", "namesake", "k8s.kuma.io/namespace: green", store, short))
		hasRole("MeshTimeout", "namesake", role.Producer)
		untilStored(t, east, "MeshTimeout", "namesake", "west", true) // of green's own, which has none
		atGlobal(t, f, "MeshTimeout", "foreign", "west", true)
		expect("store.west", http.StatusOK)
		west.Apply(t, produced("MeshTimeout", "own", "k8s.kuma.io/namespace: blue", store, short))
		hasRole("MeshTimeout", "own", role.Producer)
		expect("store.west", http.StatusGatewayTimeout)
		if _, there := stored(east, "MeshTimeout", "foreign", "west"); there {
			t.Error("a policy for a service of another namespace has travelled")
		}
	})
	for name, text := range map[string]string{
		"another zone":      produced("MeshTimeout", "x", owner, of("web", "east"), short),
		"everything":        produced("MeshTimeout", "x", owner, "kind: Mesh", short),
		"by another label":  produced("MeshTimeout", "x", owner, "kind: MeshService, labels: {team: shop}", short),
		"a stated role":     produced("MeshTimeout", "x", owner+", k8s.kuma.io/namespace: green", "kind: MeshService, labels: {kuma.io/display-name: store, k8s.kuma.io/namespace: blue}", short),
		"mixed":             produced("MeshTimeout", "x", "k8s.kuma.io/namespace: blue", store+"}, default: "+short+"}, {targetRef: {kind: Mesh", short),
		"nothing is target": "type: MeshTimeout\nmesh: default\nname: x\nlabels: {" + owner + "}\nspec: {rules: [{default: {http: {requestTimeout: 1s}}}]}\n",
	} {
		if err := west.TryApply(t, text); err == nil || !strings.Contains(err.Error(), "spec.to") && !strings.Contains(err.Error(), "policy-role") {
			t.Errorf("%s: %v, want a refusal that names the field", name, err)
		}
	}
}
