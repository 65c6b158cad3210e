package envoy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	api "github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// luaPatch adds a Lua filter to what the proxies of a workload receive, and a header to what it answers.
func luaPatch(name, workload, code, header string) string {
	return fmt.Sprintf(`
type: MeshProxyPatch
name: %s
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: %s}}
  default:
    appendModifications:
    - httpFilter:
        operation: AddFirst
        match: {origin: inbound}
        value: |
          name: envoy.filters.http.lua
          typedConfig:
            "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
            defaultSourceCode: {inlineString: %q}
    - virtualHost:
        operation: Patch
        match: {origin: inbound}
        jsonPatches:
        - {op: add, path: /response_headers_to_add/-, value: {header: {key: x-patched, value: %q}}}
`, name, workload, code, header)
}

func stamp(value string) string {
	return fmt.Sprintf(`function envoy_on_request(h) h:headers():add("x-lua", "%s") end`, value)
}

// observed is what the zone tells of a proxy.
type observed struct {
	Rejections []struct {
		Type, Name, Reason string
		Policies           []string
	}
	Subscriptions []mesh.DiscoverySubscription
}

func observe(t *testing.T, m *testmesh.Mesh, name string) observed {
	t.Helper()
	var o struct{ DataplaneInsight observed }
	if !m.Overview(t, name, &o) {
		t.Fatalf("%s does not exist", name)
	}
	return o.DataplaneInsight
}

// Modifications of users reach the proxies they are for. One that Envoy refuses is left out alone, and the proxy says which;
// what else changes goes on, and proxies that come later never see it. In the end Envoy has what the zone says.
//
// Acceptance: U/K meshproxypatch: a filter in Lua, JSON patches, what Envoy refuses, and patches of all proxies of the zone or some
// Acceptance: U envoyconfig: of client, server and ingress, all that Envoy has equals what the zone shows
func TestPatches(t *testing.T) {
	t.Parallel()
	m := testmesh.Start(t, testmesh.Options{}).Mesh(t, "patches", "MeshRetry")
	m.Apply(t, identity)
	m.Apply(t, everybody(m))
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "backend-1"}, testmesh.Workload{Name: "other-1"})
	web, backend := all[0], all[1]
	web.Reach(t, "backend")
	web.Reach(t, "other")
	untilStamped := func(lua, header string) {
		t.Helper()
		m.Until(t, fmt.Sprintf("requests are stamped %q and answers %q", lua, header), func() (any, bool) {
			r, err := web.Try(t, testmesh.Request{Service: "backend"})
			if err != nil || r.Status != 200 {
				t.Fatalf("a patch broke a request: %v, %v", r, err)
			}
			got := []string{r.Answer.Header.Get("X-Lua"), r.Header.Get("X-Patched")}
			return got, slices.Equal(got, []string{lua, header})
		})
	}

	m.Apply(t, luaPatch("stamp", "backend", stamp("one"), "one"))
	untilStamped("one", "one")
	if r := web.Get(t, "other", "/"); r.Answer.Header.Get("X-Lua") != "" || r.Header.Get("X-Patched") != "" {
		t.Errorf("a patch of others is in force: %v", r)
	}
	edits := func() int { return backend.Stat(t, `listener_manager\.(listener_modified|listener_in_place_updated)`) }
	before := edits()
	m.Apply(t, luaPatch("stamp", "backend", stamp("one"), "two"))
	untilStamped("one", "two")
	if n := edits() - before; n != 0 {
		t.Errorf("an edit of virtual hosts cost %d edits of listeners", n)
	}

	t.Run("refused by Envoy", func(t *testing.T) {
		m.Apply(t, luaPatch("broken", "backend", "function envoy_on_request(", "broken"))
		m.Until(t, "the proxy tells which modification is left out", func() (any, bool) {
			o := observe(t, m, "backend-1")
			return o.Rejections, len(o.Rejections) == 1 && strings.HasPrefix(o.Rejections[0].Reason, "appendModifications[0] (httpFilter AddFirst) is left out: Envoy refuses it: ") &&
				len(o.Rejections[0].Policies) == 1 && strings.Contains(o.Rejections[0].Policies[0], "_broken_")
		})
		// The other modification of the policy is in force, and so is what comes later.
		m.Until(t, "its other modification is in force", func() (any, bool) {
			r := web.Get(t, "backend", "/")
			return r.Header, slices.Contains(r.Header.Values("X-Patched"), "broken")
		})
		m.Apply(t, luaPatch("stamp", "backend", stamp("three"), "two"))
		m.Until(t, "a later edit is in force", func() (any, bool) {
			r := web.Get(t, "backend", "/")
			return r.Answer.Header, r.Answer.Header.Get("X-Lua") == "three"
		})
		late := m.Workload(t, testmesh.Workload{Name: "backend-2"})
		if n := late.Stat(t, `listener_manager\.lds\.update_rejected`); n != 0 {
			t.Errorf("a proxy that came later was sent %d times what another had refused", n)
		}
		m.Apply(t, luaPatch("broken", "backend", stamp("mended"), "mended"))
		m.Until(t, "what is mended is in force and nothing is left out", func() (any, bool) {
			r, o := web.Get(t, "backend", "/"), observe(t, m, "backend-1")
			got := r.Answer.Header.Values("X-Lua")
			return fmt.Sprint(got, o.Rejections), slices.Contains(got, "mended") && slices.Contains(got, "three") && len(o.Rejections) == 0
		})
		m.Delete(t, "MeshProxyPatch", "broken")
		untilStamped("three", "two")
	})
	t.Run("zone proxies", func(t *testing.T) { testPatchedIngresses(t, m) })
	t.Run("all that Envoy has", func(t *testing.T) { testWholeConfiguration(t, m, web, backend) })
}

// testPatchedIngresses patches all proxies of the zone, and then those with a label.
func testPatchedIngresses(t *testing.T, m *testmesh.Mesh) {
	public := m.Ingress(t, testmesh.Workload{Name: "public-1", Labels: map[string]string{"edge": "public"}})
	internal := m.Ingress(t, testmesh.Workload{Name: "internal-1", Labels: map[string]string{"edge": "internal"}})
	limit := func(name, target string, n int) string {
		return fmt.Sprintf("type: MeshProxyPatch\nname: %s\nspec:\n  targetRef: %s\n  default:\n    appendModifications:\n"+
			"    - listener: {operation: Patch, match: {origin: ingress}, value: 'perConnectionBufferLimitBytes: %d'}\n", name, target, n)
	}
	until := func(i *testmesh.Instance, want string) {
		t.Helper()
		m.Until(t, i.Name+" has a limit of "+want, func() (any, bool) {
			dump, err := i.Admin("/config_dump?resource=dynamic_listeners")
			return "", err == nil && strings.Contains(dump, `"per_connection_buffer_limit_bytes": `+want+",")
		})
	}
	m.Apply(t, limit("all", "{kind: Mesh}", 4096))
	until(public, "4096")
	until(internal, "4096")
	m.Apply(t, limit("some", "{kind: Dataplane, labels: {edge: public}}", 8192))
	until(public, "8192")
	until(internal, "4096")
}

// testWholeConfiguration compares what Envoy holds with what the zone says to have computed, for a client, a server and an ingress, with
// every policy in force that a mesh starts with, routes, permissions, rates, faults and patches beside.
func testWholeConfiguration(t *testing.T, m *testmesh.Mesh, proxies ...*testmesh.Instance) {
	m.Apply(t, to("MeshTimeout", "slow", "backend", "{connectionTimeout: 4s, http: {requestTimeout: 21s}}"))
	m.Apply(t, to("MeshCircuitBreaker", "breaker", "backend", "{outlierDetection: {detectors: {totalFailures: {consecutive: 7}}}}"))
	m.Apply(t, to("MeshHealthCheck", "checks", "backend", "{interval: 31s, timeout: 2s, http: {path: /}}"))
	m.Apply(t, to("MeshLoadBalancingStrategy", "balance", "backend", "{loadBalancer: {type: LeastRequest}}"))
	m.Apply(t, httpRoute("other", "backend"))
	m.Apply(t, tcpRoute("backend", "backend 1", "other 1"))
	m.Apply(t, "type: MeshFaultInjection\nname: faults\nspec:\n  rules: [{default: {http: [{delay: {value: 1ms, percentage: 1}}]}}]\n")
	m.Apply(t, "type: MeshRateLimit\nname: rates\nspec:\n  targetRef: {kind: Dataplane}\n  rules: [{default: {local: {http: {requestRate: {num: 10000, interval: 1s}}}}}]\n")
	ingress := m.Ingress(t, testmesh.Workload{Name: "ingress-1"})
	for _, p := range append(proxies, ingress) {
		m.Until(t, "what "+p.Name+" holds is what was computed", func() (any, bool) {
			computed, held := computedFor(t, m, p.Name), heldBy(t, p)
			for key, want := range computed {
				got, ok := held[key]
				if !ok && strings.Contains(key, "RouteConfiguration") {
					continue // Envoy asks only for routes that a listener uses
				}
				if !ok || !proto.Equal(got, want) {
					return key, false
				}
			}
			for key := range held {
				if _, ok := computed[key]; !ok {
					return key + " is not computed", false
				}
			}
			return nil, len(computed) > 3
		})
	}
}

// computedFor reads what the zone has computed for a proxy, by type and name.
func computedFor(t *testing.T, m *testmesh.Mesh, name string) map[string]proto.Message {
	t.Helper()
	r, err := m.Client().Do(t.Context(), api.Request{Method: "GET", Path: fmt.Sprintf("/meshes/%s/dataplanes/%s/_config", m.Name, name)})
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		XDS map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(r.Body, &config); err != nil {
		t.Fatal(err)
	}
	out := map[string]proto.Message{}
	for _, all := range config.XDS {
		for name, text := range all {
			if m := unpacked(t, text); m != nil {
				out[string(m.ProtoReflect().Descriptor().Name())+" "+name] = m
			}
		}
	}
	return out
}

// heldBy reads what Envoy runs with. It keeps secrets for itself, and endpoints in another form.
func heldBy(t *testing.T, p *testmesh.Instance) map[string]proto.Message {
	t.Helper()
	text, err := p.Admin("/config_dump")
	if err != nil {
		t.Fatal(err)
	}
	var dump struct{ Configs []map[string]json.RawMessage }
	if err := json.Unmarshal([]byte(text), &dump); err != nil {
		t.Fatal(err)
	}
	out := map[string]proto.Message{}
	for _, config := range dump.Configs {
		for list, path := range map[string][]string{
			"dynamic_active_clusters": {"cluster"}, "dynamic_listeners": {"active_state", "listener"},
			"dynamic_route_configs": {"route_config"}, "ecds_filters": {"ecds_filter"},
		} {
			var entries []map[string]json.RawMessage
			if config[list] != nil {
				if err := json.Unmarshal(config[list], &entries); err != nil {
					t.Fatal(err)
				}
			}
			for _, e := range entries {
				for _, field := range path[:len(path)-1] {
					var inner map[string]json.RawMessage
					if json.Unmarshal(e[field], &inner) == nil {
						e = inner
					}
				}
				if m := unpacked(t, e[path[len(path)-1]]); m != nil {
					named, _ := m.(interface{ GetName() string })
					out[string(m.ProtoReflect().Descriptor().Name())+" "+named.GetName()] = m
				}
			}
		}
	}
	return out
}

// unpacked reads a resource with its type; nil for assignments of endpoints, which are compared by none.
func unpacked(t *testing.T, text json.RawMessage) proto.Message {
	t.Helper()
	a := new(anypb.Any)
	if len(text) == 0 {
		return nil
	}
	if err := protojson.Unmarshal(text, a); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	m, err := a.UnmarshalNew()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := m.(interface{ GetName() string }); !ok {
		return nil
	}
	return m
}
