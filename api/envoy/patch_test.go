package envoy_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/view"
)

// unpatched leaves out the problems that patches have.
func unpatched(list []envoy.Problem) []envoy.Problem {
	return slices.DeleteFunc(slices.Clone(list), func(p envoy.Problem) bool { return len(p.Policies) == 1 && p.Policies[0].Short == "mpp" })
}

// proxyPatch edits, adds and removes, but removes no cluster: what leads there would lead nowhere.
func (w *world) proxyPatch() string {
	n := w.rnd.IntN(9) + 1
	var mods []string
	for range w.rnd.IntN(3) + 1 {
		mods = append(mods, w.pick(
			fmt.Sprintf("cluster: {operation: Patch, match: {origin: %s}, value: 'connectTimeout: %ds'}", w.pick("inbound", "outbound", "ingress", "transparent"), n),
			fmt.Sprintf("cluster: {operation: Add, value: '{name: %s, type: STATIC, connectTimeout: %ds, loadAssignment: {clusterName: x}}'}", w.pick("extra", "self_inbound_dp_main"), n),
			"cluster: {operation: Patch, match: {name: extra}, jsonPatches: [{op: test, path: /connectTimeout, value: 3s}, {op: add, path: /perConnectionBufferLimitBytes, value: 9}]}",
			fmt.Sprintf("listener: {operation: Patch, match: {tags: {tier: gold}}, value: 'perConnectionBufferLimitBytes: %d'}", n),
			"listener: {operation: Patch, jsonPatches: [{op: replace, path: /bindToPort, value: false}]}",
			"listener: {operation: Remove, match: {name: self_inbound_dp_8081}}",
			fmt.Sprintf("listener: {operation: Add, value: '{name: extra, address: {socketAddress: {address: 127.0.0.1, portValue: %d}}, filterChains: [{filters: [{name: x, typedConfig: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}]}]}'}", n),
			fmt.Sprintf("httpFilter: {operation: %s, value: 'name: f%d'}", w.pick("AddFirst", "AddLast"), n),
			fmt.Sprintf("httpFilter: {operation: %s, match: {name: %s}, value: 'name: g%d'}", w.pick("AddBefore", "AddAfter"), w.pick("f3", "envoy.filters.http.rbac"), n),
			"httpFilter: {operation: Patch, match: {name: envoy.filters.http.rbac}, value: '{typedConfig: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, rulesStatPrefix: p}}'}",
			fmt.Sprintf("networkFilter: {operation: Patch, match: {name: envoy.filters.network.tcp_proxy}, jsonPatches: [{op: add, path: /maxConnectAttempts, value: %d}]}", n),
			fmt.Sprintf("virtualHost: {operation: Patch, match: {origin: %s}, value: 'includeRequestAttemptCount: true'}", w.pick("inbound", "outbound")),
			"virtualHost: {operation: Add, value: '{name: v, domains: [v.example.com]}'}",
		))
	}
	name := w.pick("mpp1", "mpp2")
	return fmt.Sprintf("\ntype: MeshProxyPatch\nmesh: default\nname: %s\nlabels: {kuma.io/display-name: %s}\nspec:\n  %s\n  default:\n    appendModifications:\n    - %s",
		name, name, w.target(), strings.Join(mods, "\n    - "))
}

// passthrough lets something of everything through.
func (w *world) passthrough() string {
	var matches []string
	for range w.rnd.IntN(4) {
		matches = append(matches, w.pick(
			"{type: CIDR, value: 10.0.0.0/8}", "{type: IP, value: 10.1.1.1, port: 3306, protocol: mysql}", "{type: IP, value: 'fd00::1', port: 80, protocol: http}",
			"{type: Domain, value: '*.example.com', protocol: tls}", fmt.Sprintf("{type: Domain, value: d%d.example.com, port: 80, protocol: http}", w.rnd.IntN(9)),
			"{type: Domain, value: everywhere.example.com, protocol: grpc}"))
	}
	slices.Sort(matches)
	name := w.pick("mp1", "mp2")
	return fmt.Sprintf("\ntype: MeshPassthrough\nmesh: default\nname: %s\nlabels: {kuma.io/display-name: %s}\nspec:\n  %s\n  default: {passthroughMode: %s, appendMatch: [%s]}",
		name, name, w.target(), w.pick("All", "Matched", "None", "Matched"), strings.Join(slices.Compact(matches), ", "))
}

// refuse lets an Envoy refuse something that has been patched, or a proxy run another Envoy.
func (w *world) refuse() string {
	k, ok := w.some(mesh.TypeDataplane)
	if !ok {
		return "nothing"
	}
	root := w.roots[k]
	if root == nil || w.rnd.IntN(3) == 0 {
		w.envoys[k] = w.pick("1.39.0", "1.40.0")
		w.view.SetEnvoy(k, w.envoys[k])
		return k.String() + " runs " + w.envoys[k]
	}
	w.view.Graph.Settle()
	var patched []*envoy.Fragment
	for typ := range envoy.NumTypes {
		for _, f := range slices.Concat(root.Value().Shared.Of(typ), root.Value().Own.Of(typ)) {
			if len(f.Patches) > 0 {
				patched = append(patched, f)
			}
		}
	}
	version := w.envoys[k]
	if len(patched) == 0 || version == "" {
		return "nothing"
	}
	f := patched[w.rnd.IntN(len(patched))]
	w.refused[version] = w.refused[version].With(view.Refusal{Type: f.Type.String(), Base: f.BaseOrVersion(), Patches: f.Patches, Text: "no"})
	if w.rnd.IntN(8) == 0 {
		w.refused[version] = nil // forgotten
	}
	w.view.SetRefused(version, w.refused[version])
	return "refuse " + f.Name
}

const lua = `type: MeshProxyPatch
mesh: default
name: %s
spec:
  targetRef: {kind: Dataplane, labels: {%s}}
  default:
    appendModifications:
    - httpFilter:
        operation: AddFirst
        match: {origin: %s}
        value: |
          name: envoy.filters.http.lua
          typedConfig: {"@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua, defaultSourceCode: {inlineString: "-- %s"}}
    - cluster: {operation: Patch, match: {name: kri_msvc_default_east__svc-1_http}, value: "connectTimeout: %ds"}`

// TestCostOfPatches counts what is patched when patches change: 20 services, 40 proxies of two classes, two replicas of each workload.
// What no patch matches is not computed again, nor sent.
func TestCostOfPatches(t *testing.T) {
	w := newMesh(t, 20, 40)
	counts := func() uint64 { return w.view.Graph.Recomputed()["patched"] }
	before := w.versions()
	step := func(name, text string, want uint64, changed ...string) {
		t.Helper()
		n := counts()
		w.put(text)
		w.view.Graph.Settle()
		if got := counts() - n; got != want {
			t.Errorf("%s: %d fragments patched, want %d", name, got, want)
		}
		now := w.versions()
		names := map[string]bool{}
		for ref, v := range now {
			if before[ref] != v {
				names[ref.Name[:strings.LastIndex(ref.Name, "@")]] = true
			}
		}
		if got := slices.Sorted(maps.Keys(names)); !slices.Equal(got, changed) {
			t.Errorf("%s: changed %v, want %v", name, got, changed)
		}
		before = now
	}
	patch := func(name, labels, origin, code string, timeout int) string {
		return fmt.Sprintf(lua, name, labels, origin, code, timeout)
	}
	// The replicas of a workload share the listener without its address. The cluster is patched once for each class.
	step("inbounds of one workload, and a cluster", patch("a", "kuma.io/workload: svc-3", "inbound", "1", 1), 1+2, "CDS kri_msvc_default_east__svc-1_http", "LDS self_inbound_dp_http")
	step("the filter is edited", patch("a", "kuma.io/workload: svc-3", "inbound", "2", 1), 1, "LDS self_inbound_dp_http")
	step("the cluster is edited", patch("a", "kuma.io/workload: svc-3", "inbound", "2", 2), 2, "CDS kri_msvc_default_east__svc-1_http")
	step("a policy of others", patch("b", "kuma.io/workload: svc-4", "nowhere", "2", 2), 2, "CDS kri_msvc_default_east__svc-1_http")
	step("an endpoint changes", dataplaneOf("svc-1", 7), 0, "EDS kri_msvc_default_east__svc-1_http")
}

// A problem that stays the same but for the policy is told anew: whoever is named can mend it.
func TestBlameFollowsThePolicy(t *testing.T) {
	w := newMesh(t, 2, 2)
	const failing = "cluster: {operation: Patch, match: {name: kri_msvc_default_east__svc-1_http}, jsonPatches: [{op: test, path: /connectTimeout, value: 77s}]}"
	patch := func(name, what string) {
		w.put(fmt.Sprintf("type: MeshProxyPatch\nmesh: default\nname: %s\nspec:\n  default:\n    appendModifications:\n    - %s", name, what))
	}
	blamed := func() []string {
		var out []string
		for _, p := range w.compile.Proxy(w.key("svc-0", 0)).Value().Problems {
			for _, k := range p.Policies {
				out = append(out, k.Name)
			}
		}
		return out
	}
	const harmless = "cluster: {operation: Patch, match: {name: nowhere}, value: 'connectTimeout: 1s'}"
	for _, owner := range []string{"a", "b", "a"} {
		for _, name := range []string{"a", "b"} {
			what := harmless
			if name == owner {
				what = failing
			}
			patch(name, what)
		}
		w.view.Graph.Settle()
		if got := blamed(); !slices.Equal(got, []string{owner}) {
			t.Errorf("the patch of %s fails, and %v is blamed", owner, got)
		}
	}
}

// versions are those of everything that each proxy has.
func (w *testMesh) versions() map[envoy.Ref]string {
	out := map[envoy.Ref]string{}
	for i := range 40 {
		k := w.key(fmt.Sprintf("svc-%d", i%20), i/20)
		cfg := w.compile.Proxy(k).Value()
		for typ := range envoy.NumTypes {
			for _, f := range slices.Concat(cfg.Shared.Of(typ), cfg.Own.Of(typ)) {
				out[envoy.Ref{Type: typ, Name: fmt.Sprintf("%s %s@%s", typ, f.Name, k.Name)}] = f.Version
			}
		}
	}
	return out
}
