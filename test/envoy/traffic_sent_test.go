package envoy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// tcpRoute divides connections to a service among others: lines are "name weight".
func tcpRoute(service string, backends ...string) string {
	out := fmt.Sprintf("type: MeshTCPRoute\nname: %s\nspec:\n  to:\n  - targetRef: {kind: MeshService, labels: {kuma.io/display-name: %s}}\n    rules:\n    - default:\n        backendRefs:\n", service, service)
	for _, b := range backends {
		f := strings.Fields(b)
		out += fmt.Sprintf("        - {kind: MeshService, labels: {kuma.io/display-name: %s}, weight: %s}\n", f[0], f[1])
	}
	return out
}

// everybody may reach everybody.
func everybody(m *testmesh.Mesh) string {
	return fmt.Sprintf("type: MeshTrafficPermission\nname: everybody\nspec:\n  rules: [{default: {allow: [{spiffeID: {type: Prefix, value: %q}}]}}]\n", spiffe(m, ""))
}

// untilDialled waits until connections to a service are answered by exactly these, "closed" among them, over some in a row.
func untilDialled(t *testing.T, m *testmesh.Mesh, from *testmesh.Instance, service string, names ...string) {
	t.Helper()
	m.Until(t, service+" is answered by exactly the expected", func() (any, bool) {
		by := map[string]int{}
		for range 12 {
			c, err := from.Dial(t, service)
			switch {
			case err == nil:
				by[c.From]++
				c.Close()
			case denied(err):
				by["closed"]++
			default:
				return err, false
			}
		}
		for _, n := range names {
			if by[n] == 0 {
				return by, false
			}
		}
		return by, len(by) == len(names)
	})
}

// testSplits: connections go where a MeshTCPRoute says. An edit closes none, and what does not exist is not made up for.
//
// Acceptance: K meshtcproute: TCP route used; HTTP route wins over TCP for http services; TCP route wins for tcp services
func testSplits(t *testing.T, m *testmesh.Mesh) {
	m.Apply(t, identity)
	m.Apply(t, everybody(m))
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"},
		testmesh.Workload{Name: "db-1", Protocol: mesh.TCP}, testmesh.Workload{Name: "spare-1", Protocol: mesh.TCP},
		testmesh.Workload{Name: "backend-1"}, testmesh.Workload{Name: "canary-1"})
	web := all[0]
	web.ReachTCP(t, "db")
	web.ReachTCP(t, "spare")
	web.Reach(t, "backend")
	web.Reach(t, "canary")

	t.Run("weights change under open connections", func(t *testing.T) {
		m.Apply(t, tcpRoute("db", "db 1", "spare 1"))
		untilDialled(t, m, web, "db", "db-1", "spare-1")
		var kept *testmesh.Conn
		m.Until(t, "a connection goes to the one that will get none", func() (any, bool) {
			c, err := web.Dial(t, "db")
			if err != nil {
				return err, false
			}
			if c.From == "db-1" {
				kept = c
				return nil, true
			}
			c.Close()
			return c.From, false
		})
		defer kept.Close()
		edits := func() int { return web.Stat(t, `listener_manager\.(listener_modified|listener_in_place_updated)`) }
		before := edits()
		m.Apply(t, tcpRoute("db", "db 0", "spare 1"))
		untilDialled(t, m, web, "db", "spare-1")
		if err := kept.Echo("still here"); err != nil {
			t.Errorf("an edit of weights cut a connection: %v", err)
		}
		if n := edits() - before; n != 0 {
			t.Errorf("%d listeners were edited", n)
		}
	})
	t.Run("a patch of what divides", func(t *testing.T) {
		m.Apply(t, tcpRoute("db", "db 1"))
		untilDialled(t, m, web, "db", "db-1")
		edits := func() int { return web.Stat(t, `listener_manager\.(listener_modified|listener_in_place_updated)`) }
		before := edits()
		m.Apply(t, fmt.Sprintf(`
type: MeshProxyPatch
name: detour
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: web}}
  default:
    appendModifications:
    - networkFilter:
        operation: Patch
        match: {name: envoy.filters.network.tcp_proxy, listenerTags: {kuma.io/unified-name: kri_msvc_%[1]s_%[2]s__db_main}}
        value: |
          typedConfig:
            "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
            cluster: kri_msvc_%[1]s_%[2]s__spare_main
`, m.Name, m.Zone.Name))
		untilDialled(t, m, web, "db", "spare-1")
		if n := edits() - before; n != 0 {
			t.Errorf("%d listeners were edited", n)
		}
		m.Delete(t, "MeshProxyPatch", "detour")
		untilDialled(t, m, web, "db", "db-1")
	})
	t.Run("who does not exist", func(t *testing.T) {
		m.Apply(t, tcpRoute("db", "spare 1", "missing 1"))
		untilDialled(t, m, web, "db", "spare-1", "closed")
		m.Apply(t, tcpRoute("db", "missing 1"))
		untilDialled(t, m, web, "db", "closed")
		m.ApplyWarned(t, tcpRoute("db", "spare 0", "db 0"))
		untilDialled(t, m, web, "db", "closed")
	})
	t.Run("a port of bytes knows no requests", func(t *testing.T) {
		m.Apply(t, tcpRoute("db", "spare 1"))
		m.Apply(t, httpRoute("db", "backend"))
		untilDialled(t, m, web, "db", "spare-1")
		m.Delete(t, "MeshHTTPRoute", "db")
		m.Delete(t, "MeshTCPRoute", "db")
		untilDialled(t, m, web, "db", "db-1")
	})
	t.Run("a port of HTTP", func(t *testing.T) {
		m.Apply(t, tcpRoute("backend", "canary 1"))
		untilAnsweredBy(t, m, web, "backend", "canary-1")
		if n := web.Stat(t, `tcp\.kri_msvc.*_backend_main\.downstream_cx_total`); n == 0 {
			t.Error("it is not served as bytes")
		}
		m.Apply(t, httpRoute("backend", "backend"))
		untilAnsweredBy(t, m, web, "backend", "backend-1")
		m.Delete(t, "MeshTCPRoute", "backend")
		m.Delete(t, "MeshHTTPRoute", "backend")
		web.Reach(t, "backend")
	})
}

// httpRoute sends all requests to a service to another.
func httpRoute(service, to string) string {
	return fmt.Sprintf(`
type: MeshHTTPRoute
name: %s
labels: {route: %s}
spec:
  to:
  - targetRef: {kind: MeshService, labels: {kuma.io/display-name: %s}}
    rules:
    - matches: [{path: {type: PathPrefix, value: /}}]
      default: {backendRefs: [{kind: MeshService, labels: {kuma.io/display-name: %s}}]}
`, service, service, service, to)
}

// testChecks: an endpoint that says it is not well leaves the pool of those that ask it, and comes back.
//
// Acceptance: U meshhealthcheck: http by Mesh and by MS, tcp, tcp in permissive, grpc
func testChecks(t *testing.T, m *testmesh.Mesh) {
	m.Apply(t, identity)
	m.Apply(t, everybody(m))
	ws := []testmesh.Workload{{Name: "web-1"}}
	for _, s := range []struct {
		service  string
		protocol mesh.Protocol
	}{{"backend", mesh.HTTP}, {"store", mesh.TCP}, {"call", mesh.GRPC}} {
		for n := range 2 {
			ws = append(ws, testmesh.Workload{Name: fmt.Sprintf("%s-%d", s.service, n+1), Protocol: s.protocol})
		}
	}
	all := m.Workloads(t, ws...)
	web := all[0]
	const often = "interval: 100ms, noTrafficInterval: 100ms, timeout: 2s, unhealthyThreshold: 2"
	send, receive := testmesh.TCPProbe()
	// both waits until both instances of a service answer, one until the second does not.
	both := func(service string) { untilChecked(t, m, web, service, service+"-1", service+"-2") }
	one := func(service string) { untilChecked(t, m, web, service, service+"-1") }
	checks := func(name, target, how string) string {
		return fmt.Sprintf("type: MeshHealthCheck\nname: %s\nspec:\n  to:\n  - targetRef: %s\n    default: {%s, %s}\n", name, target, often, how)
	}
	service := func(name string) string { return "{kind: MeshService, labels: {kuma.io/display-name: " + name + "}}" }
	unwell := func(t *testing.T, second *testmesh.Instance) {
		t.Helper()
		both(second.Service)
		second.App.SetWell(false)
		one(second.Service)
		if n := web.Stat(t, `cluster\.kri_msvc.*_`+second.Service+`_.*\.health_check\.failure`); n == 0 {
			t.Error("Envoy counts no failed check")
		}
		second.App.SetWell(true)
		both(second.Service)
	}
	t.Run("http by Mesh", func(t *testing.T) {
		m.Apply(t, checks("all", "{kind: Mesh}", "http: {path: "+testmesh.ProbePath+"}"))
		unwell(t, all[2])
	})
	t.Run("http by service", func(t *testing.T) {
		m.Apply(t, checks("all", "{kind: Mesh}", "http: {path: /always}"))
		m.Apply(t, checks("backend", service("backend"), "http: {path: "+testmesh.ProbePath+"}"))
		unwell(t, all[2])
		m.Delete(t, "MeshHealthCheck", "all")
	})
	t.Run("tcp", func(t *testing.T) {
		m.Apply(t, checks("store", service("store"), fmt.Sprintf("tcp: {send: %q, receive: [%q]}", send, receive)))
		unwell(t, all[4])
	})
	t.Run("tcp in permissive", func(t *testing.T) {
		m.Apply(t, "type: MeshTLS\nname: permissive\nspec:\n  rules: [{default: {mode: Permissive}}]\n")
		unwell(t, all[4])
		m.Delete(t, "MeshTLS", "permissive")
	})
	t.Run("grpc", func(t *testing.T) {
		m.Apply(t, checks("call", service("call"), "grpc: {}"))
		unwell(t, all[6])
	})
	t.Run("not well at first, and never used", func(t *testing.T) {
		late := m.Workloads(t, testmesh.Workload{Name: "late-1", Protocol: mesh.TCP})[0]
		late.App.SetWell(false)
		m.Apply(t, fmt.Sprintf("type: MeshHealthCheck\nname: late\nspec:\n  to:\n  - targetRef: %s\n    default: {interval: 100ms, timeout: 2s, tcp: {send: %q, receive: [%q]}}\n",
			service("late"), send, receive))
		m.Until(t, "it is passed over", func() (any, bool) {
			healthy, failed := web.Stat(t, `cluster\.kri_msvc.*_late_.*\.membership_healthy`), web.Stat(t, `cluster\.kri_msvc.*_late_.*\.health_check\.failure`)
			return []any{healthy, failed}, healthy == 0 && failed > 0
		})
		late.App.SetWell(true)
		untilDialled(t, m, web, "late", "late-1")
	})
	t.Run("an endpoint that is gone is not asked any more", func(t *testing.T) {
		all[2].StopAgent(t)
		one("backend")
	})
}

// untilChecked waits until one of the services with checks is answered by exactly these instances, over some tries in a row.
func untilChecked(t *testing.T, m *testmesh.Mesh, from *testmesh.Instance, service string, names ...string) {
	t.Helper()
	switch service {
	case "store":
		untilDialled(t, m, from, service, names...)
	case "call":
		untilCalled(t, m, from.Caller(t, service), names...)
	default:
		untilAnsweredBy(t, m, from, service, names...)
	}
}

// untilCalled waits until calls are answered by exactly these instances, over some in a row.
func untilCalled(t *testing.T, m *testmesh.Mesh, c testmesh.Caller, names ...string) {
	t.Helper()
	m.Until(t, "calls are answered by exactly the expected", func() (any, bool) {
		by := map[string]int{}
		for range 12 {
			got, err := c.Call(t)
			if err != nil {
				return err, false
			}
			by[got.From]++
		}
		missing := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return by[n] > 0 })
		return by, len(missing) == 0 && len(by) == len(names)
	})
}

// testCalls: calls of grpc are counted by service and method on both sides, and routed as requests.
//
// Acceptance: U grpc: grpc stats from both sides; HTTP route splits grpc
func testCalls(t *testing.T, m *testmesh.Mesh) {
	m.Apply(t, identity)
	m.Apply(t, everybody(m))
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "call-1", Protocol: mesh.GRPC}, testmesh.Workload{Name: "other-1", Protocol: mesh.GRPC})
	web, server := all[0], all[1]
	caller := web.Caller(t, "call")
	untilCalled(t, m, caller, "call-1")
	const method = `\.grpc\.grpc\.health\.v1\.Health\.Check\.success`
	for name, i := range map[string]*testmesh.Instance{"the client's": web, "the server's": server} {
		if n := i.Stat(t, `cluster\..*`+method); n < 12 {
			t.Errorf("%s proxy counts %d successful calls\n%v", name, n, i.Stats(t, `.*grpc.*`))
		}
	}
	m.Apply(t, `
type: MeshHTTPRoute
name: calls
spec:
  to:
  - targetRef: {kind: MeshService, labels: {kuma.io/display-name: call}}
    rules:
    - matches: [{path: {type: PathPrefix, value: /grpc.health.v1.Health}}]
      default:
        backendRefs:
        - {kind: MeshService, labels: {kuma.io/display-name: call}, weight: 1}
        - {kind: MeshService, labels: {kuma.io/display-name: other}, weight: 1}
`)
	untilCalled(t, m, caller, "call-1", "other-1")
	t.Run("a limit is RESOURCE_EXHAUSTED", func(t *testing.T) {
		m.Delete(t, "MeshHTTPRoute", "calls")
		untilCalled(t, m, caller, "call-1")
		m.Apply(t, to("MeshRetry", "none", "call", "{grpc: {numRetries: 0}}"))
		m.Apply(t, rules("MeshRateLimit", "call", "call", "default: {local: {http: {requestRate: {num: 1, interval: 1h}}}}"))
		m.Until(t, "calls are refused", func() (any, bool) {
			got, err := caller.Call(t)
			return fmt.Sprint(got, err), err != nil && strings.Contains(err.Error(), "ResourceExhausted")
		})
	})
}
