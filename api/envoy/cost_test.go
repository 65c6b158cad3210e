package envoy_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policies"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// fragments are the computations that make Envoy resources; the rest finds out which are needed.
var fragments = []string{
	"cluster", "assignment", "route", "outboundListener", "blockListeners", "inboundListener", "inboundRoute", "workload", "extension", "split",
	"ingressCluster", "ingressAssignment", "healthResponder", "capture", "egressService", "egressChain", "egressCluster", "addition",
}

// TestCostFollowsTheChange counts the fragments that each kind of change recomputes, in a mesh of 40 services and 60 proxies of
// two classes, each with a loopback block. A policy that is new makes new classes, whose listeners are put on their block again, once for all
// proxies of the class; an edit does not. The counts must not depend on the number of proxies or classes that the change does not concern.
func TestCostFollowsTheChange(t *testing.T) {
	const services, proxies, classes = 40, 60, 2 // clusters differ by class, routes and listeners do not
	w := newMesh(t, services, proxies)
	for _, c := range []struct {
		name   string
		change func()
		want   map[string]uint64
	}{
		{"an endpoint becomes unready", func() {
			w.view.SetFacts(w.key("svc-3", 0), &view.Facts{Inbounds: map[string]mesh.InboundState{"http": mesh.StateNotReady}})
		}, map[string]uint64{"assignment": 1}},
		{"an endpoint is added", func() { w.put(dataplaneOf("svc-3", 99)) }, map[string]uint64{"assignment": 1}},
		{"a timeout of one service, on routes", func() {
			w.put(timeoutOf("one", "{kind: MeshService, labels: {kuma.io/display-name: svc-5}}", "http: {requestTimeout: 3s}"))
		}, map[string]uint64{"route": 1, "blockListeners": classes}},
		{"the same timeout with another value", func() {
			w.put(timeoutOf("one", "{kind: MeshService, labels: {kuma.io/display-name: svc-5}}", "http: {requestTimeout: 4s}"))
		}, map[string]uint64{"route": 1}},
		{"a timeout of one service, in its cluster", func() {
			w.put(timeoutOf("one", "{kind: MeshService, labels: {kuma.io/display-name: svc-5}}", "connectionTimeout: 4s"))
		}, map[string]uint64{"route": 1, "cluster": classes}}, // the route loses what the former edit gave it
		{"a request timeout of the whole mesh", func() {
			w.put(timeoutOf("all", "{kind: Mesh}", "http: {requestTimeout: 9s}"))
		}, map[string]uint64{"route": services, "blockListeners": classes}},
		{"a service is added", func() { w.put(serviceOf("svc-new")) }, map[string]uint64{"cluster": classes, "assignment": 1, "route": 1}},
		{"it gets its address", func() {
			w.view.SetStatus(resource.Key{Type: mesh.TypeMeshService, Mesh: "default", Name: "svc-new"}, view.Status{VIPs: []string{"241.0.9.9"}})
		}, map[string]uint64{"outboundListener": 1, "blockListeners": classes}}, // the proxies of a class have the same block here
		{"an unrelated secret", func() {
			w.put("type: Secret\nmesh: default\nname: other\ndata: aGVsbG8=")
		}, nil},
		{"a permission of one workload", func() {
			w.put(`type: MeshTrafficPermission
mesh: default
name: p
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: svc-0}}
  rules: [{default: {allow: [{spiffeID: {type: Exact, value: "spiffe://default.east.mesh.local/workload/svc-1"}}]}}]`)
		}, map[string]uint64{"extension": 1}},
		{"the permission is edited", func() {
			w.put(`type: MeshTrafficPermission
mesh: default
name: p
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: svc-0}}
  rules: [{default: {allow: [{spiffeID: {type: Exact, value: "spiffe://default.east.mesh.local/workload/svc-2"}}]}}]`)
		}, map[string]uint64{"extension": 1}},
		{"a rate of one workload", func() { w.put(rateOf("svc-0", "requestRate: {num: 5, interval: 1s}")) }, map[string]uint64{"inboundRoute": 1}},
		{"the rate is edited", func() { w.put(rateOf("svc-0", "requestRate: {num: 6, interval: 1s}")) }, map[string]uint64{"inboundRoute": 1}},
		{"faults of one workload", func() { w.put(faultsOf("svc-0", "{delay: {value: 1s, percentage: 1}}")) }, map[string]uint64{"inboundRoute": 1}},
		{"its faults are edited", func() {
			w.put(faultsOf("svc-0", "{delay: {value: 1s, percentage: 1}, abort: {httpStatus: 503, percentage: 1}}"))
		}, map[string]uint64{"inboundRoute": 1}},
		{"there are more faults than one filter can make", func() {
			w.put(faultsOf("svc-0", "{abort: {httpStatus: 500, percentage: 1}}, {abort: {httpStatus: 503, percentage: 1}}"))
		}, map[string]uint64{"inboundRoute": 1, "inboundListener": 1}},
		{"a rate of connections", func() {
			w.put(strings.Replace(rateOf("svc-1", "disabled: true"), "http: {disabled: true}", "tcp: {connectionRate: {num: 5, interval: 1s}}", 1))
		}, map[string]uint64{"extension": 1, "inboundListener": 1}},
		{"another rate of connections", func() {
			w.put(strings.Replace(rateOf("svc-1", "disabled: true"), "http: {disabled: true}", "tcp: {connectionRate: {num: 6, interval: 1s}}", 1))
		}, map[string]uint64{"extension": 1}},
		{"health checks of one service", func() { w.put(checksOf("svc-7", "/ready")) }, map[string]uint64{"cluster": classes, "blockListeners": classes}},
		{"they ask for another path", func() { w.put(checksOf("svc-7", "/live")) }, map[string]uint64{"cluster": classes}},
		{"a service of bytes", func() {
			w.put(strings.Replace(serviceOf("raw"), "appProtocol: http", "appProtocol: tcp", 1))
			w.view.SetStatus(resource.Key{Type: mesh.TypeMeshService, Mesh: "default", Name: "raw"}, view.Status{VIPs: []string{"241.0.9.10"}})
		}, map[string]uint64{"cluster": classes, "assignment": 1, "outboundListener": classes, "blockListeners": classes}}, // idle timeouts differ by class
		{
			"its connections are divided", func() { w.put(splitOf("raw", 9)) },
			map[string]uint64{"split": classes, "outboundListener": 1, "blockListeners": classes},
		},
		{"the weights are edited", func() { w.put(splitOf("raw", 8)) }, map[string]uint64{"split": classes}},
	} {
		w.costs(c.name, c.change, c.want)
	}
}

func rateOf(workload, http string) string {
	return fmt.Sprintf("type: MeshRateLimit\nmesh: default\nname: rate-%s\nspec:\n  targetRef: {kind: Dataplane, labels: {kuma.io/workload: %s}}\n"+
		"  rules: [{default: {local: {http: {%s}}}}]", workload, workload, http)
}

func faultsOf(workload, faults string) string {
	return fmt.Sprintf("type: MeshFaultInjection\nmesh: default\nname: faults\nspec:\n  targetRef: {kind: Dataplane, labels: {kuma.io/workload: %s}}\n"+
		"  rules: [{default: {http: [%s]}}]", workload, faults)
}

func checksOf(service, path string) string {
	return fmt.Sprintf("type: MeshHealthCheck\nmesh: default\nname: checks\nspec:\n"+
		"  to: [{targetRef: {kind: MeshService, labels: {kuma.io/display-name: %s}}, default: {http: {path: %s}}}]", service, path)
}

func splitOf(service string, weight int) string {
	return fmt.Sprintf("type: MeshTCPRoute\nmesh: default\nname: split\nspec:\n"+
		"  to:\n  - targetRef: {kind: MeshService, labels: {kuma.io/display-name: %s}}\n    rules: [{default: {backendRefs: ["+
		"{kind: MeshService, labels: {kuma.io/display-name: %s}, port: 8080, weight: %d}, {kind: MeshService, labels: {kuma.io/display-name: svc-9}, port: 8080, weight: 1}]}}]",
		service, service, weight)
}

// TestCostOfTelemetry counts the same for logs and traces. What is edited of a collector costs its cluster, once for all proxies, and no listener.
func TestCostOfTelemetry(t *testing.T) {
	const services, proxies, classes = 20, 40, 2
	w := newMesh(t, services, proxies)
	collector := func(address string) {
		w.put("type: MeshOpenTelemetryBackend\nmesh: default\nname: main\nlabels: {kuma.io/display-name: main}\nspec: {endpoint: {address: " + address + "}}")
	}
	ref := "openTelemetry: {backendRef: {kind: MeshOpenTelemetryBackend, labels: {kuma.io/display-name: main}}}"
	logs := func(name, to, backend string) {
		w.put(fmt.Sprintf("type: MeshAccessLog\nmesh: default\nname: %s\nspec:\n  to: [{targetRef: %s, default: {backends: [%s]}}]", name, to, backend))
	}
	metrics := func(target, backend string) {
		w.put(fmt.Sprintf("type: MeshMetric\nmesh: default\nname: all\nspec: {targetRef: %s, default: {backends: [%s]}}", target, backend))
	}
	const one = "{kind: MeshService, labels: {kuma.io/display-name: svc-5}}"
	collector("10.0.0.1")
	for _, c := range []struct {
		name   string
		change func()
		want   map[string]uint64
	}{
		{
			"logs of one service", func() { logs("one", one, "{type: Tcp, tcp: {address: '10.0.0.1:5000'}}") },
			map[string]uint64{"outboundListener": 1, "blockListeners": classes, "addition": 1},
		},
		{"its collector moves", func() { logs("one", one, "{type: Tcp, tcp: {address: '10.0.0.2:5000'}}") }, map[string]uint64{"addition": 1}},
		{
			"it is sent to another collector", func() { logs("one", one, "{type: OpenTelemetry, "+ref+"}") },
			map[string]uint64{"outboundListener": 1, "blockListeners": classes, "addition": 1},
		},
		{"this moves, too", func() { collector("10.0.0.2") }, map[string]uint64{"addition": 1}},
		{"traces of the mesh", func() {
			w.put("type: MeshTrace\nmesh: default\nname: all\nspec: {default: {backends: [{type: OpenTelemetry, " + ref + "}]}}")
		}, map[string]uint64{"outboundListener": services, "inboundListener": 1, "blockListeners": classes, "addition": 1}},
		{"their collector moves", func() { collector("10.0.0.3") }, map[string]uint64{"addition": 2}},
		{"another collector", func() {
			w.put("type: MeshOpenTelemetryBackend\nmesh: default\nname: other\nlabels: {kuma.io/display-name: other}\nspec: {endpoint: {address: x}}")
		}, nil},
		// Metrics are made by the agents: no resource of Envoy knows of them. Classes are new as with any new policy.
		{"metrics of the mesh", func() { metrics("{kind: Mesh}", "{type: OpenTelemetry, "+ref+"}") }, map[string]uint64{"blockListeners": classes}},
		{"metrics of one workload", func() {
			metrics("{kind: Dataplane, labels: {kuma.io/workload: svc-3}}", "{type: Prometheus, prometheus: {port: 5671}}")
		}, map[string]uint64{"blockListeners": classes}},
		{"another port", func() {
			metrics("{kind: Dataplane, labels: {kuma.io/workload: svc-3}}", "{type: Prometheus, prometheus: {port: 5672}}")
		}, nil},
		{"the collector of metrics moves", func() { collector("10.0.0.4") }, map[string]uint64{"addition": 2}},
	} {
		w.costs(c.name, c.change, c.want)
	}
}

// costs checks which fragments a change recomputes.
func (w *testMesh) costs(name string, change func(), want map[string]uint64) {
	w.t.Helper()
	before := w.view.Graph.Recomputed()
	change()
	w.view.Graph.Settle()
	got := map[string]uint64{}
	for _, f := range fragments {
		if n := w.view.Graph.Recomputed()[f] - before[f]; n > 0 {
			got[f] = n
		}
	}
	if !maps.Equal(got, want) && len(got)+len(want) > 0 {
		w.t.Errorf("%s: recomputed %v, want %v", name, got, want)
	}
}

// TestServiceIsNoWorkPerProxy adds a service and gives it an address: nothing that belongs to one proxy alone is computed again.
func TestServiceIsNoWorkPerProxy(t *testing.T) {
	w := newMesh(t, 10, 30)
	before := w.view.Graph.Recomputed()["own"]
	w.put(serviceOf("svc-new"))
	w.view.Graph.Settle()
	w.view.SetStatus(resource.Key{Type: mesh.TypeMeshService, Mesh: "default", Name: "svc-new"}, view.Status{VIPs: []string{"241.0.9.9"}})
	w.view.Graph.Settle()
	if n := w.view.Graph.Recomputed()["own"] - before; n > 0 {
		t.Errorf("what belongs to single proxies was computed %d times", n)
	}
}

// TestCostOfOtherZones counts the same for what happens in other zones and at the ingress of this one: 20 services here, a few
// in west, one multi-zone service over both, 40 proxies of two classes, and two ingresses.
func TestCostOfOtherZones(t *testing.T) {
	const classes = 2
	w := newMesh(t, 20, 40)
	w.view.Configure(view.Settings{HealthResponder: "127.0.0.1:5683"})
	remote := func(name string) string {
		return fmt.Sprintf(`type: MeshService
mesh: default
name: %s-west
labels: {kuma.io/display-name: %s, kuma.io/zone: west, team: joined}
spec:
  selector: {dataplaneLabels: {matchLabels: {kuma.io/workload: %s}}}
  ports: [{name: http, port: 8080, targetPort: http, appProtocol: http}]`, name, name, name)
	}
	address := func(name, ip string) resource.Key {
		return w.put(fmt.Sprintf("type: MeshZoneAddress\nmesh: default\nname: %s\nlabels: {kuma.io/zone: west}\nspec: {address: %s, port: 10001}", name, ip)).Key()
	}
	strategy := func(name, to, conf string) {
		w.put(fmt.Sprintf("type: MeshLoadBalancingStrategy\nmesh: default\nname: %s\nspec:\n  to: [{targetRef: %s, default: {%s}}]", name, to, conf))
	}
	gateway := address("in-1", "203.0.113.1")
	far, other := w.put(remote("far")).Key(), w.put(remote("other")).Key()
	for _, k := range []resource.Key{far, other} {
		w.view.SetStatus(k, view.Status{VIPs: []string{"241.0.1.1"}, TLSReady: true, Identities: []string{"spiffe://default.west.mesh.local/workload/far"}})
	}
	multi := w.put(`type: MeshMultiZoneService
mesh: default
name: joined
spec:
  selector: {meshService: {matchLabels: {team: joined}}}
  ports: [{name: http, port: 8080, appProtocol: http}]`).Key()
	w.view.SetStatus(multi, view.Status{VIPs: []string{"243.0.0.1"}})
	w.view.SetRemote(far, &view.Remote{Ports: map[string]view.Capacity{"http": {Healthy: 3, Total: 3}}})
	for i := range 2 {
		w.put(fmt.Sprintf("type: Dataplane\nmesh: default\nname: in-%d\nnetworking: {address: 127.0.9.%d, listeners: [{type: ZoneIngress, address: 127.0.9.%d, port: 10001}]}", i, i+1, i+1))
		w.compile.Proxy(w.key("in", i))
	}
	w.view.Graph.Settle()

	joined := "{kind: MeshMultiZoneService, labels: {kuma.io/display-name: joined}}"
	w.costs("an endpoint of a service of the other zone is lost", func() {
		w.view.SetRemote(far, &view.Remote{Ports: map[string]view.Capacity{"http": {Healthy: 2, Total: 3}}})
	}, map[string]uint64{"assignment": 2}) // of the service, and of the multi-zone service that it is in
	w.costs("the same counts again", func() {
		w.view.SetRemote(far, &view.Remote{Ports: map[string]view.Capacity{"http": {Healthy: 2, Total: 3}}})
	}, nil)
	w.costs("a service of the other zone becomes unavailable, while its counts say more", func() {
		w.view.SetStatus(far, view.Status{VIPs: []string{"241.0.1.1"}, TLSReady: true, Unavailable: true, Identities: []string{"spiffe://default.west.mesh.local/workload/far"}})
	}, nil)
	w.costs("the ingress of the other zone is down", func() { w.view.SetGateway(gateway, &view.Gateway{Down: true}) },
		map[string]uint64{"assignment": 3}) // both services and the multi-zone service
	w.costs("the other zone gets another ingress", func() { address("in-2", "203.0.113.2") }, map[string]uint64{"assignment": 3})
	w.costs("an address of a third zone", func() {
		w.put("type: MeshZoneAddress\nmesh: default\nname: in-3\nlabels: {kuma.io/zone: south}\nspec: {address: 203.0.113.3, port: 10001}")
	}, nil)
	w.costs("failover of the multi-zone service", func() {
		strategy("failover", joined, "localityAwareness: {crossZone: {failoverThreshold: {percentage: 70}}}")
	}, map[string]uint64{"assignment": 1, "blockListeners": classes})
	w.costs("another threshold", func() {
		strategy("failover", joined, "localityAwareness: {crossZone: {failoverThreshold: {percentage: 80}}}")
	}, map[string]uint64{"assignment": 1})
	w.costs("endpoints are told apart by a label of which the clients have two values", func() {
		strategy("affinity", joined, "localityAwareness: {localZone: {affinityTags: [{key: tier}]}}")
	}, map[string]uint64{"assignment": 2, "cluster": classes, "blockListeners": classes})
	w.costs("a timeout beside it", func() { w.put(timeoutOf("t", joined, "connectionTimeout: 3s")) },
		map[string]uint64{"cluster": classes, "blockListeners": classes})
	w.costs("requests of one service are hashed", func() {
		strategy("hash", "{kind: MeshService, labels: {kuma.io/display-name: svc-1}}", "hashPolicies: [{type: Header, header: {name: x}}]")
	}, map[string]uint64{"route": 1, "blockListeners": classes})
	w.costs("a service is added", func() { w.put(serviceOf("svc-new")) },
		map[string]uint64{"cluster": classes, "assignment": 1, "route": 1, "ingressCluster": 1, "ingressAssignment": 1})
	w.costs("an endpoint here becomes unready", func() {
		w.view.SetFacts(w.key("svc-3", 0), &view.Facts{Inbounds: map[string]mesh.InboundState{"http": mesh.StateNotReady}})
	}, map[string]uint64{"assignment": 1, "ingressAssignment": 1})
	w.costs("a service of another zone is added", func() { w.put(remote("new")) },
		map[string]uint64{"cluster": classes, "assignment": 1, "route": 1})
}

// TestCostOfCaptures counts what concerns the listeners of redirected connections: there are four for all alike proxies.
func TestCostOfCaptures(t *testing.T) {
	w := newMesh(t, 5, 0)
	for i := range 20 {
		w.put(fmt.Sprintf(`type: Dataplane
mesh: default
name: t-%d
labels: {kuma.io/workload: t-%d}
networking:
  address: 192.0.2.%d
  transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001}
  inbound: [{name: http, port: 8080, protocol: http}]`, i, i%2, i+1))
		w.compile.Proxy(w.key("t", i))
	}
	w.view.Graph.Settle()
	w.costs("what may idle for how long", func() { w.put(timeoutOf("idle", "{kind: Mesh}", "idleTimeout: 7m")) },
		map[string]uint64{"cluster": 5, "capture": 2}) // of what goes out; clusters of HTTP have it, too
	w.costs("a service is added", func() { w.put(serviceOf("svc-new")) }, map[string]uint64{"cluster": 1, "assignment": 1, "route": 1})
	w.costs("plaintext is accepted", func() {
		w.put("type: MeshTLS\nmesh: default\nname: open\nspec: {rules: [{default: {mode: Permissive}}]}")
	}, map[string]uint64{"inboundListener": 1, "extension": 1, "capture": 2}) // of the filters of the chain that takes it
}

// TestCostOfEgress counts the same where 30 external services are reached through two egresses, by the proxies of two classes.
func TestCostOfEgress(t *testing.T) {
	const classes, services = 2, 30
	w := newMesh(t, 4, 8)
	external := func(i int, endpoint string) resource.Key {
		return w.put(fmt.Sprintf("type: MeshExternalService\nmesh: default\nname: ext-%d\nspec: {match: {port: 80, protocol: http}, endpoints: [{address: %s, port: 80}]}", i, endpoint)).Key()
	}
	for i := range services {
		external(i, "192.0.2.1")
	}
	egress := func(i int) string {
		return fmt.Sprintf("type: Dataplane\nmesh: default\nname: out-%d\nlabels: {kuma.io/workload: out, kuma.io/listener-zoneegress: enabled}\n"+
			"networking: {address: 127.0.9.%d, listeners: [{type: ZoneEgress, address: 127.0.9.%d, port: 10002, name: out}]}", i, i+1, i+1)
	}
	for i := range 2 {
		w.put(egress(i))
		w.compile.Proxy(w.key("out", i))
	}
	w.view.Graph.Settle()
	rule := func(typ, sni, conf string) {
		matches := ""
		if sni != "" {
			matches = "matches: [{sni: {type: Exact, value: " + sni + "}}], "
		}
		w.put(fmt.Sprintf("type: %s\nmesh: default\nname: p\nspec:\n  targetRef: {kind: Dataplane, labels: {kuma.io/workload: out}}\n  rules: [{%sdefault: {%s}}]", typ, matches, conf))
	}
	w.costs("an external service is added", func() { external(99, "192.0.2.9") },
		map[string]uint64{"cluster": classes, "assignment": 1, "route": 1, "egressService": 1, "egressChain": 1, "egressCluster": 1, "inboundRoute": 1, "extension": 1})
	w.costs("its endpoint is another", func() { external(99, "192.0.2.8") }, map[string]uint64{"egressService": 1, "egressCluster": 1})
	w.costs("its secret is missing", func() {
		w.view.SetUnusable(resource.Key{Type: mesh.TypeMeshExternalService, Mesh: "default", Name: "ext-99"}, "there is no Secret")
	}, map[string]uint64{"egressService": 1, "egressCluster": 1})
	w.costs("an egress drains", func() { w.view.SetFacts(w.key("out", 1), &view.Facts{Draining: true}) }, map[string]uint64{"assignment": services + 1})
	// A policy that is new concerns every service until its rules are looked at; what it does not change is not made again.
	w.costs("a timeout of one server name", func() { rule("MeshTimeout", "sni.extsvc.default.east.ext-7.80", "http: {requestTimeout: 3s}") },
		map[string]uint64{"egressService": services + 1, "inboundRoute": 1})
	w.costs("the same with another value", func() { rule("MeshTimeout", "sni.extsvc.default.east.ext-7.80", "http: {requestTimeout: 4s}") },
		map[string]uint64{"egressService": 1, "inboundRoute": 1})
	w.costs("a field of its cluster", func() {
		rule("MeshTimeout", "sni.extsvc.default.east.ext-7.80", "connectionTimeout: 2s, http: {requestTimeout: 4s}")
	}, map[string]uint64{"egressService": 1, "egressCluster": 1})
	allow := func(sni string) {
		rule("MeshTrafficPermission", "", "allow: [{spiffeID: {type: Prefix, value: 'spiffe://default.east.mesh.local/'}, sni: {type: Exact, value: "+sni+"}}]")
	}
	w.costs("a permission for one server name", func() { allow("sni.extsvc.default.east.ext-7.80") }, map[string]uint64{"egressService": services + 1, "extension": services + 1})
	w.costs("the permission is for another server name", func() { allow("sni.extsvc.default.east.ext-8.80") }, map[string]uint64{"egressService": 2, "extension": 2})
}

type testMesh struct {
	t       testing.TB
	kinds   *resource.Kinds
	view    *view.View
	compile *envoy.Compiler
	version uint64
}

func newMesh(t testing.TB, services, proxies int) *testMesh {
	kinds := api.Kinds()
	w := &testMesh{t: t, kinds: kinds, view: view.New("east", kinds, policies.All)}
	w.put(`type: MeshIdentity
mesh: default
name: identity
spec:
  selector: {dataplane: {matchLabels: {}}}
  provider: {type: Bundled, bundled: {autogenerate: {enabled: true}}}`)
	// The policies give classes of proxies, which differ in their clusters.
	for i := range 2 {
		w.put(fmt.Sprintf(`type: MeshTimeout
mesh: default
name: tier-%d
spec:
  targetRef: {kind: Dataplane, labels: {tier: "%d"}}
  to: [{targetRef: {kind: Mesh}, default: {idleTimeout: 3%dm}}]`, i, i, i))
	}
	for i := range services {
		name := fmt.Sprintf("svc-%d", i)
		r := w.put(serviceOf(name))
		w.view.SetStatus(r.Key(), view.Status{VIPs: []string{fmt.Sprintf("241.0.0.%d", i+1)}, TLSReady: true})
	}
	w.compile = envoy.NewCompiler(w.view)
	for i := range proxies {
		svc := fmt.Sprintf("svc-%d", i%services)
		w.put(dataplaneOf(svc, i/services))
	}
	for i := range proxies {
		w.compile.Proxy(w.key(fmt.Sprintf("svc-%d", i%services), i/services))
	}
	w.view.Graph.Settle()
	return w
}

func (w *testMesh) key(svc string, n int) resource.Key {
	return resource.Key{Type: mesh.TypeDataplane, Mesh: "default", Name: fmt.Sprintf("%s-%d", svc, n)}
}

func (w *testMesh) put(text string) resource.Resource {
	w.t.Helper()
	ds, err := w.kinds.DecodeYAML([]byte(text), true)
	if err != nil || len(ds) != 1 {
		w.t.Fatalf("%s\n%v", text, err)
	}
	r := ds[0].Resource
	labels := map[string]string{resource.LabelDisplayName: r.Name, resource.LabelZone: "east"}
	maps.Copy(labels, r.Labels)
	if k, _ := w.kinds.ByName(r.Type); k.Policy != nil {
		delete(labels, resource.LabelZone)
	}
	r.Labels = labels
	w.version++
	r.Version = w.version
	w.view.Put(r)
	return r
}

func dataplaneOf(svc string, n int) string {
	return fmt.Sprintf(`type: Dataplane
mesh: default
name: %s-%d
labels: {kuma.io/workload: %s, tier: "%d"}
networking:
  address: 127.1.%d.1
  outboundBlock: 127.%d.0.0/16
  inbound: [{name: http, port: 8080, servicePort: 9080, protocol: http}]`, svc, n, svc, n%2, n, 2+n%200)
}

func serviceOf(name string) string {
	return fmt.Sprintf(`type: MeshService
mesh: default
name: %s
spec:
  selector: {dataplaneLabels: {matchLabels: {kuma.io/workload: %s}}}
  ports: [{name: http, port: 8080, targetPort: http, appProtocol: http}]`, name, name)
}

func timeoutOf(name, to, conf string) string {
	return fmt.Sprintf("type: MeshTimeout\nmesh: default\nname: %s\nspec:\n  to: [{targetRef: %s, default: {%s}}]", name, to, conf)
}
