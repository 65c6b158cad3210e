package envoy_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policies"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

var (
	steps = flag.Int("steps", 10_000, "random changes in TestIncrementalEqualsScratch, fewer with the race detector")
	seed  = flag.Uint64("seed", 0, "seed of TestIncrementalEqualsScratch; 0 picks one and prints it")
)

// TestIncrementalEqualsScratch applies random changes to a mesh and proves the incremental result byte-equal to a computation
// from scratch, for every proxy.
func TestIncrementalEqualsScratch(t *testing.T) {
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("-seed=%d", s)
	w := newWorld(t, s)
	n := *steps / slowness
	if testing.Short() {
		n = *steps / 10
	}
	for step := range n {
		what := w.change()
		if w.rnd.IntN(3) == 0 {
			continue // several changes in one go
		}
		w.view.Graph.Settle()
		if w.rnd.IntN(60) == 0 {
			w.compare(fmt.Sprintf("step %d, after %s", step, what))
		}
	}
	w.compare("the end")
}

type world struct {
	t        *testing.T
	rnd      *rand.Rand
	kinds    *resource.Kinds
	view     *view.View
	compiler *envoy.Compiler
	roots    map[resource.Key]*memo.Root[envoy.ProxyConfig]
	names    map[resource.Key]*memo.Root[*view.Names]
	now      map[resource.Key]resource.Resource
	facts    map[resource.Key]view.Facts
	statuses map[resource.Key]view.Status
	remotes  map[resource.Key]view.Remote
	gateways map[resource.Key]view.Gateway
	unusable map[resource.Key]string
	envoys   map[resource.Key]string
	refused  map[string]*view.Refusals
	version  uint64
}

// settings let every kind of ingress be reached, and answer for the health of the zone.
var settings = view.Settings{LocalAddresses: true, HealthResponder: "127.0.0.1:5683"}

func newWorld(t *testing.T, seed uint64) *world {
	kinds := api.Kinds()
	v := view.New("east", kinds, policies.All)
	v.Configure(settings)
	return &world{
		t: t, rnd: rand.New(rand.NewPCG(seed, 1)), kinds: kinds, view: v, compiler: envoy.NewCompiler(v),
		roots: map[resource.Key]*memo.Root[envoy.ProxyConfig]{}, names: map[resource.Key]*memo.Root[*view.Names]{}, now: map[resource.Key]resource.Resource{},
		facts: map[resource.Key]view.Facts{}, statuses: map[resource.Key]view.Status{},
		remotes: map[resource.Key]view.Remote{}, gateways: map[resource.Key]view.Gateway{}, unusable: map[resource.Key]string{},
		envoys: map[resource.Key]string{}, refused: map[string]*view.Refusals{},
	}
}

func (w *world) pick(list ...string) string { return list[w.rnd.IntN(len(list))] }

func (w *world) maybe(s string) string {
	if w.rnd.IntN(2) == 0 {
		return s
	}
	return ""
}

var (
	services  = []string{"web", "cart", "pay", "stock", "mail"}
	external  = []string{"aws", "bank"}
	protocols = []string{"http", "tcp", "grpc", "http2"}
)

// change does one random thing and says what.
func (w *world) change() string {
	switch w.rnd.IntN(21) {
	case 16, 17:
		return w.put(w.externalService())
	case 18:
		return w.secrets()
	case 19:
		return w.put(w.pick(w.proxyPatch(), w.proxyPatch(), w.passthrough()))
	case 20:
		return w.refuse()
	case 12, 13:
		return w.learn()
	case 14:
		return w.put(w.pick(w.remoteService(), w.zoneAddress()))
	case 15:
		return w.put(w.ingress())
	case 0, 1, 2:
		return w.put(w.dataplane())
	case 3:
		return w.put(w.service())
	case 4:
		return w.put(w.multiZone())
	case 5, 6, 7:
		return w.put(w.policy())
	case 8:
		return w.remove()
	case 9:
		return w.observe()
	case 10:
		return w.derive()
	default:
		if w.rnd.IntN(4) > 0 {
			return w.connect()
		}
		return w.put(w.identity())
	}
}

func (w *world) dataplane() string {
	svc := w.pick(services...)
	name := fmt.Sprintf("%s-%d", svc, w.rnd.IntN(3))
	inbounds := fmt.Sprintf("{port: 8080, name: main, servicePort: 9080, protocol: %s%s}", w.pick(protocols...), w.maybe(", state: NotReady"))
	if w.rnd.IntN(3) == 0 {
		inbounds += fmt.Sprintf(", {port: 8081, servicePort: 9081, protocol: %s%s}", w.pick(protocols...), w.maybe(", state: Ignored"))
	}
	mode := w.pick("outboundBlock: 127.7.0.0/16", "outboundBlock: 127.8.0.0/16",
		"transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001"+w.maybe(", ipFamilyMode: IPv4")+w.maybe(", directAccessServices: ["+w.pick("'*'", "cart")+"]")+"}",
		"transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001, reachableBackends: {refs: [{kind: MeshService, labels: {kuma.io/display-name: cart}}]}}",
		"outbound: [{port: 10001, backendRef: {kind: MeshService, name: pay, port: 80}}]")
	return fmt.Sprintf(`
type: Dataplane
mesh: default
name: %s
labels: {kuma.io/display-name: %s, kuma.io/zone: east, kuma.io/workload: %s, tier: %s}
networking: {address: 127.0.%d.1, inbound: [%s], %s}`,
		name, name, svc, w.pick("gold", "silver"), w.rnd.IntN(3)+1, inbounds, mode)
}

func (w *world) service() string {
	name := w.pick(services...)
	return fmt.Sprintf(`
type: MeshService
mesh: default
name: %s
labels: {kuma.io/display-name: %s, kuma.io/zone: east, team: %s}
spec:
  selector: {dataplaneLabels: {matchLabels: {kuma.io/workload: %s%s}}}
  ports: [{port: 80, %s targetPort: main, appProtocol: %s}%s]`,
		name, name, w.pick("a", "b"), name, w.maybe(", tier: gold"), w.maybe("name: main,"), w.pick(protocols...),
		w.maybe(", {port: 81, targetPort: 8081, appProtocol: tcp}"))
}

// remoteService is a service of another zone, which may have the name of one of this zone.
func (w *world) remoteService() string {
	zone := w.pick("west", "south")
	name := w.pick(services[:2]...)
	return fmt.Sprintf(`
type: MeshService
mesh: default
name: %s-%s
labels: {kuma.io/display-name: %s, kuma.io/zone: %s, team: %s}
spec:
  selector: {dataplaneLabels: {matchLabels: {kuma.io/workload: %s}}}
  ports: [{port: 80, %s targetPort: main, appProtocol: %s}]`,
		name, zone, name, zone, w.pick("a", "b"), name, w.maybe("name: main,"), w.pick(protocols...))
}

func (w *world) zoneAddress() string {
	zone := w.pick("west", "south")
	return fmt.Sprintf(`
type: MeshZoneAddress
mesh: default
name: in-%s-%d
labels: {kuma.io/display-name: in, kuma.io/zone: %s}
spec: {address: %s, port: %d}`, zone, w.rnd.IntN(3), zone, w.pick("203.0.113.1", "203.0.113.2", "127.0.0.1", "in.example"), 10001+w.rnd.IntN(2))
}

// ingress is a proxy of the zone, sometimes beside a workload.
func (w *world) ingress() string {
	return fmt.Sprintf(`
type: Dataplane
mesh: default
name: in-%d
labels: {kuma.io/display-name: in, kuma.io/zone: east, kuma.io/workload: %s, kuma.io/listener-zoneegress: enabled}
networking: {address: 127.0.4.1, listeners: [{type: ZoneIngress, address: 127.0.4.1, port: %d}%s]%s}`,
		w.rnd.IntN(2), w.pick(services...), 10001+w.rnd.IntN(2), w.maybe(", {type: ZoneEgress, address: 127.0.4.1, port: 10009, name: out"+w.maybe(", state: NotReady")+"}"),
		w.maybe(", inbound: [{port: 8080, name: main, servicePort: 9080, protocol: http}]"))
}

// sni is the server name of an external service.
func (w *world) sni() string {
	return "sni.extsvc.default." + w.pick(external...) + "." + w.pick("80", "443")
}

func (w *world) externalService() string {
	name := w.pick(external...)
	endpoints := w.pick("{address: 192.0.2.1, port: 80}", "{address: api.example.com, port: 443}, {address: 192.0.2.2, port: 81, priority: 4}",
		"{address: 'unix:///run/x.sock'}, {address: 192.0.2.3, port: 1, priority: 2}")
	tls := w.pick("", "tls: {enabled: true}", "tls: {enabled: true, verification: {mode: SkipAll}}",
		"tls: {enabled: true, version: {min: TLS12}, verification: {serverName: x.example, caCert: {type: Secret, secretRef: {kind: Secret, name: ca}}}}")
	return fmt.Sprintf(`
type: MeshExternalService
mesh: default
name: %s
labels: {kuma.io/display-name: %s, team: %s}
spec:
  match: {port: %s, protocol: %s}
  endpoints: [%s]
  %s`, name, name, w.pick("a", "b"), w.pick("80", "443"), w.pick(protocols...), endpoints, tls)
}

// secrets says that those of an external service are missing or there.
func (w *world) secrets() string {
	k, ok := w.some(mesh.TypeMeshExternalService)
	if !ok {
		return "nothing"
	}
	if w.unusable[k] = w.maybe("there is no Secret ca"); w.unusable[k] == "" {
		delete(w.unusable, k)
	}
	w.view.SetUnusable(k, w.unusable[k])
	return "secrets of " + k.String()
}

// learn is news of another zone.
func (w *world) learn() string {
	if w.rnd.IntN(2) == 0 {
		k, ok := w.some(mesh.TypeMeshZoneAddress)
		if !ok {
			return "nothing"
		}
		if w.rnd.IntN(3) == 0 {
			delete(w.gateways, k)
			w.view.SetGateway(k, nil)
			return "forget " + k.String()
		}
		g := view.Gateway{Down: w.rnd.IntN(3) == 0, Draining: w.rnd.IntN(4) == 0}
		if w.rnd.IntN(2) == 0 {
			g.IP = netip.AddrFrom4([4]byte{203, 0, 113, byte(w.rnd.IntN(4))})
		}
		w.gateways[k] = g
		w.view.SetGateway(k, &g)
		return "learn of " + k.String()
	}
	k, ok := w.some(mesh.TypeMeshService)
	if !ok {
		return "nothing"
	}
	if w.rnd.IntN(3) == 0 {
		delete(w.remotes, k)
		w.view.SetRemote(k, nil)
		return "forget " + k.String()
	}
	total := uint32(w.rnd.IntN(5))
	m := view.Remote{Ports: map[string]view.Capacity{w.pick("main", "80"): {Healthy: uint32(w.rnd.IntN(6)), Total: total}}}
	w.remotes[k] = m
	w.view.SetRemote(k, &m)
	return "learn of " + k.String()
}

func (w *world) loadBalancing(n int) string {
	conf := w.pick("localityAwareness: {disabled: true}",
		"localityAwareness: {localZone: {affinityTags: [{key: tier}, {key: kuma.io/workload}]}}",
		fmt.Sprintf("localityAwareness: {localZone: {affinityTags: [{key: tier, weight: %d}]}}", n),
		fmt.Sprintf("localityAwareness: {crossZone: {failover: [{from: {zones: [%s]}, to: {type: Only, zones: [%s]}}, {to: {type: %s}}]}}",
			w.pick("east", "west"), w.pick("west", "south"), w.pick("Any", "None")),
		fmt.Sprintf("localityAwareness: {crossZone: {failover: [{to: {type: AnyExcept, zones: [%s]}}], failoverThreshold: {percentage: %d}}}", w.pick("west", "south"), 10*n),
		fmt.Sprintf("{loadBalancer: {type: RingHash, ringHash: {minRingSize: %d}}, hashPolicies: [{type: Header, header: {name: x-%d}}, {type: Connection, connection: {sourceIP: true}}]}", n, n),
		"loadBalancer: {type: LeastRequest}")
	to := w.pick("{kind: Mesh}", "{kind: MeshMultiZoneService, labels: {kuma.io/display-name: all}}")
	if !strings.Contains(conf, "crossZone") {
		to = w.to()
	}
	return fmt.Sprintf("%s\n  to: [{targetRef: %s, default: %s}]", w.target(), to, braced(conf))
}

func braced(conf string) string {
	if strings.HasPrefix(conf, "{") {
		return conf
	}
	return "{" + conf + "}"
}

func (w *world) multiZone() string {
	return fmt.Sprintf(`
type: MeshMultiZoneService
mesh: default
name: all
labels: {kuma.io/display-name: all}
spec:
  selector: {meshService: {matchLabels: {team: %s}}}
  ports: [{port: 80, name: main, appProtocol: %s}]`, w.pick("a", "b"), w.pick(protocols...))
}

func (w *world) identity() string {
	return fmt.Sprintf(`
type: MeshIdentity
mesh: default
name: %s
labels: {kuma.io/display-name: id}
spec:
  selector: {dataplane: {matchLabels: {%s}}}
  provider: {type: Bundled, bundled: {autogenerate: {enabled: true}}}`, w.pick("id", "other"), w.maybe("tier: gold"))
}

func (w *world) target() string {
	return w.pick("", "targetRef: {kind: Mesh}", "targetRef: {kind: Dataplane}",
		"targetRef: {kind: Dataplane, labels: {kuma.io/workload: "+w.pick(services...)+"}}",
		"targetRef: {kind: Dataplane, labels: {tier: gold}}")
}

func (w *world) inboundTarget() string {
	if w.rnd.IntN(4) == 0 {
		return "targetRef: {kind: Dataplane, labels: {kuma.io/workload: " + w.pick(services...) + "}, sectionName: " + w.pick("main", "out") + "}"
	}
	return w.target()
}

func (w *world) to() string {
	return w.pick("{kind: Mesh}", "{kind: MeshService, labels: {kuma.io/display-name: "+w.pick(services...)+"}}",
		"{kind: MeshService, labels: {team: a}, sectionName: main}", "{kind: MeshMultiZoneService, labels: {kuma.io/display-name: all}}",
		"{kind: MeshService, labels: {kuma.io/display-name: "+w.pick(services...)+"}, sectionName: '80'}",
		"{kind: MeshExternalService, labels: {kuma.io/display-name: "+w.pick(external...)+"}}", "{kind: MeshExternalService, labels: {team: a}}")
}

func (w *world) toOrRoute() string {
	if w.rnd.IntN(4) == 0 {
		return "{kind: MeshHTTPRoute, labels: {kuma.io/display-name: " + w.pick("r1", "r2") + "}}"
	}
	return w.to()
}

func (w *world) policy() string {
	n := w.rnd.IntN(9) + 1
	name := w.pick("p1", "p2", "p3")
	var typ, spec string
	switch w.rnd.IntN(20) {
	case 19:
		typ = "MeshMetric"
		spec = w.metrics(n)
	case 15, 16:
		typ = "MeshAccessLog"
		spec = w.accessLog(n)
	case 17:
		typ = "MeshTrace"
		spec = w.trace(n)
	case 18:
		return w.collector(n)
	case 7, 8:
		typ = "MeshLoadBalancingStrategy"
		spec = w.loadBalancing(n)
	case 0:
		typ = "MeshTimeout"
		spec = fmt.Sprintf("%s\n  to: [{targetRef: %s, default: {connectionTimeout: %ds, http: {requestTimeout: %ds}}}]", w.target(), w.toOrRoute(), n, n)
		if strings.Contains(spec, "MeshHTTPRoute") {
			spec = strings.Replace(spec, fmt.Sprintf("connectionTimeout: %ds, ", n), "", 1)
		}
	case 1:
		typ = "MeshTimeout"
		spec = fmt.Sprintf("%s\n  rules: [{default: {http: {requestTimeout: %ds}}}%s]", w.inboundTarget(), n,
			w.maybe(fmt.Sprintf(", {matches: [{spiffeID: {type: Exact, value: 'spiffe://default.east.mesh.local/workload/%s'}}], default: {http: {requestTimeout: %dms}}}", w.pick(services...), n))+
				w.maybe(fmt.Sprintf(", {matches: [{sni: {type: Exact, value: %s}}], default: {connectionTimeout: %ds, http: {requestTimeout: %dms}}}", w.sni(), n, n)))
	case 2:
		typ = "MeshRetry"
		spec = fmt.Sprintf("%s\n  to: [{targetRef: %s, default: {http: {numRetries: %d}}}]", w.target(), w.toOrRoute(), n)
	case 3:
		typ = "MeshCircuitBreaker"
		spec = fmt.Sprintf("%s\n  to: [{targetRef: %s, default: {connectionLimits: {maxConnections: %d}}}]", w.target(), w.to(), n)
	case 4:
		typ = "MeshTrafficPermission"
		spec = fmt.Sprintf("%s\n  rules: [{default: {%s: [{spiffeID: {type: Prefix, value: 'spiffe://default.east.mesh.local/workload/%s'}%s}]}}]",
			w.inboundTarget(), w.pick("allow", "deny", "allowWithShadowDeny"), w.pick(services...), w.maybe(", sni: {type: Exact, value: "+w.sni()+"}"))
	case 5:
		typ = "MeshTLS"
		spec = fmt.Sprintf("%s\n  rules: [{default: {mode: %s}}]", w.inboundTarget(), w.pick("Strict", "Permissive"))
	case 9:
		typ = "MeshRateLimit"
		spec = fmt.Sprintf("%s\n  rules: [{default: {local: {http: {requestRate: {num: %d, interval: 1s}}%s}}}%s]", w.inboundTarget(), n,
			w.maybe(fmt.Sprintf(", tcp: {connectionRate: {num: %d, interval: 1s}}", n)),
			w.maybe(fmt.Sprintf(", {matches: [%s], default: {local: {http: {disabled: true}}}}", w.client())))
	case 10:
		typ = "MeshFaultInjection"
		spec = fmt.Sprintf("%s\n  rules: [{default: {http: [{delay: {value: %dms, percentage: 1}}%s]}}%s]", w.inboundTarget(), n,
			w.maybe(fmt.Sprintf(", {abort: {httpStatus: 503, percentage: %d}}, {abort: {httpStatus: 500, percentage: 1}}", n)),
			w.maybe(fmt.Sprintf(", {matches: [%s], default: {http: []}}", w.client())))
	case 11:
		typ = "MeshHealthCheck"
		spec = fmt.Sprintf("%s\n  to: [{targetRef: %s, default: {interval: %ds, http: {path: /%d}, tcp: {}%s}}]", w.target(), w.to(), n, n, w.maybe(", grpc: {}"))
	case 12, 13:
		typ, name = "MeshTCPRoute", w.pick("r1", "r2")
		spec = fmt.Sprintf(`%s
  to:
  - targetRef: {kind: MeshService, labels: {kuma.io/display-name: %s}}
    rules: [{default: {backendRefs: [{kind: MeshService, labels: {kuma.io/display-name: %s}, port: 80, weight: %d}, {kind: MeshService, labels: {kuma.io/display-name: %s}, port: %s}]}}]`,
			w.target(), w.pick(services...), w.pick(services...), n-1, w.pick(services...), w.pick("80", "81"))
	default:
		typ, name = "MeshHTTPRoute", w.pick("r1", "r2")
		spec = fmt.Sprintf(`%s
  to:
  - targetRef: {kind: MeshService, labels: {kuma.io/display-name: %s}}
    rules:
    - matches: [{path: {type: PathPrefix, value: /v%d}}]
      default: {backendRefs: [{kind: MeshService, labels: {kuma.io/display-name: %s}, port: 80, weight: %d}, %s]}`,
			w.target(), w.pick(services...), n, w.pick(services...), n, w.backend())
	}
	return fmt.Sprintf("\ntype: %s\nmesh: default\nname: %s\nlabels: {kuma.io/display-name: %s, kuma.io/origin: %s%s}\nspec:\n  %s",
		typ, name, name, w.pick("global", "zone"), w.maybe(", kuma.io/zone: east"), spec)
}

func (w *world) backend() string {
	return w.pick("{kind: MeshService, labels: {kuma.io/display-name: "+w.pick(services...)+"}, port: 80}",
		"{kind: MeshExternalService, labels: {kuma.io/display-name: "+w.pick(external...)+"}}")
}

// client is a match of clients in rules.
func (w *world) client() string {
	if w.rnd.IntN(3) == 0 {
		return "{sni: {type: Exact, value: " + w.sni() + "}}"
	}
	return fmt.Sprintf("{spiffeID: {type: %s, value: 'spiffe://default.east.mesh.local/workload/%s'}}", w.pick("Exact", "Prefix"), w.pick(services...))
}

// collector is where logs and traces go, when there is one.
func (w *world) collector(n int) string {
	name := w.pick("c1", "c2")
	return fmt.Sprintf(`
type: MeshOpenTelemetryBackend
mesh: default
name: %s
labels: {kuma.io/display-name: %s}
spec: {endpoint: {address: 10.0.0.%d}, protocol: %s}`, name, name, n, w.pick("grpc", "http"))
}

func (w *world) collectorRef() string {
	return "{backendRef: {kind: MeshOpenTelemetryBackend, labels: {kuma.io/display-name: " + w.pick("c1", "c2") + "}}}"
}

func (w *world) accessLog(n int) string {
	backend := w.pick(fmt.Sprintf("{type: File, file: {path: /l%d, format: {type: Plain, plain: '%%KUMA_DESTINATION_SERVICE%%'}}}", n),
		fmt.Sprintf("{type: Tcp, tcp: {address: '10.0.0.1:%d'}}", n), "{type: OpenTelemetry, openTelemetry: "+w.collectorRef()+"}", "")
	if w.rnd.IntN(2) == 0 {
		return fmt.Sprintf("%s\n  to: [{targetRef: %s, default: {backends: [%s]}}]", w.target(), w.toOrRoute(), backend)
	}
	return fmt.Sprintf("%s\n  rules: [{default: {backends: [%s]}}%s]", w.inboundTarget(), backend,
		w.maybe(fmt.Sprintf(", {matches: [{sni: {type: Exact, value: sni.x%d}}], default: {backends: [%s]}}", n, backend)))
}

func (w *world) metrics(n int) string {
	backend := w.pick(fmt.Sprintf("{type: Prometheus, prometheus: {port: %d, path: /m%d}}", 5670+n, n), "{type: OpenTelemetry, openTelemetry: "+w.collectorRef()+"}", "")
	return fmt.Sprintf("%s\n  default: {sidecar: {profiles: {appendProfiles: [{name: %s}]}}, applications: [{port: %d}], backends: [%s]}",
		w.target(), w.pick("All", "Basic", "None"), 8000+n, backend)
}

func (w *world) trace(n int) string {
	backend := w.pick(fmt.Sprintf("{type: Zipkin, zipkin: {url: 'http://10.0.0.%d/api'}}", n),
		fmt.Sprintf("{type: Datadog, datadog: {url: 'http://10.0.0.%d:1', splitService: %s}}", n, w.pick("true", "false")),
		"{type: OpenTelemetry, openTelemetry: "+w.collectorRef()+"}", "")
	return fmt.Sprintf("%s\n  default: {backends: [%s], sampling: {random: %d}}", w.target(), backend, n)
}

func (w *world) put(text string) string {
	w.t.Helper()
	ds, err := w.kinds.DecodeYAML([]byte(text), true)
	if err != nil || len(ds) != 1 {
		w.t.Fatalf("%s\n%v", text, err)
	}
	r := ds[0].Resource
	if k, _ := w.kinds.ByName(r.Type); k.Validate != nil {
		if err := k.Validate(r).Err(); err != nil {
			w.t.Fatalf("%s\n%v", text, err)
		}
	}
	w.version++
	r.Version = w.version
	w.view.Put(r)
	w.now[r.Key()] = r
	return "put " + text
}

func (w *world) some(typ string) (resource.Key, bool) {
	var keys []resource.Key
	for k := range w.now {
		if typ == "" || k.Type == typ {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return resource.Key{}, false
	}
	slices.SortFunc(keys, resource.Key.Compare)
	return keys[w.rnd.IntN(len(keys))], true
}

func (w *world) remove() string {
	k, ok := w.some("")
	if !ok {
		return "nothing"
	}
	w.view.Remove(k)
	delete(w.now, k)
	return "remove " + k.String()
}

func (w *world) observe() string {
	k, ok := w.some(mesh.TypeDataplane)
	if !ok {
		return "nothing"
	}
	if w.rnd.IntN(3) == 0 {
		delete(w.facts, k)
		w.view.SetFacts(k, nil)
		return "forget " + k.String()
	}
	f := view.Facts{Draining: w.rnd.IntN(4) == 0, Inbounds: map[string]mesh.InboundState{
		w.pick("main", "8081"): mesh.InboundState(w.pick("Ready", "NotReady")),
	}}
	w.facts[k] = f
	w.view.SetFacts(k, &f)
	return "observe " + k.String()
}

func (w *world) derive() string {
	k, ok := w.some(w.pick(mesh.TypeMeshService, mesh.TypeMeshMultiZoneService, mesh.TypeMeshExternalService))
	if !ok {
		return "nothing"
	}
	st := view.Status{VIPs: []string{fmt.Sprintf("241.0.%d.%d", w.rnd.IntN(3), w.rnd.IntN(200)+1)}, TLSReady: w.rnd.IntN(3) > 0}
	st.Unavailable = w.rnd.IntN(4) == 0
	if w.rnd.IntN(2) == 0 {
		st.Hostnames = []string{k.Name + w.pick(".svc.mesh.local", ".Svc.East.mesh.local")}
	}
	if w.rnd.IntN(3) == 0 {
		st.Identities = []string{"spiffe://default.east.mesh.local/workload/" + w.pick(services...)}
	}
	w.statuses[k] = st
	w.view.SetStatus(k, st)
	return "derive " + k.String()
}

func (w *world) connect() string {
	k, ok := w.some(mesh.TypeDataplane)
	if !ok {
		return "nothing"
	}
	if r := w.roots[k]; r != nil && w.rnd.IntN(3) == 0 {
		r.Close()
		w.names[k].Close()
		delete(w.roots, k)
		delete(w.names, k)
		return "disconnect " + k.String()
	} else if r == nil {
		w.roots[k], w.names[k] = w.compiler.Proxy(k), w.view.NamesOf(k)
	}
	return "connect " + k.String()
}

func (w *world) compare(when string) {
	w.t.Helper()
	w.view.Graph.Settle()
	v := view.New("east", w.kinds, policies.All)
	v.Configure(settings)
	keys := make([]resource.Key, 0, len(w.now))
	for k := range w.now {
		keys = append(keys, k) // in random order: the order of arrival must not matter
	}
	for _, k := range keys {
		v.Put(w.now[k])
	}
	for k, f := range w.facts {
		v.SetFacts(k, &f)
	}
	for k, s := range w.statuses {
		v.SetStatus(k, s)
	}
	for k, m := range w.remotes {
		v.SetRemote(k, &m)
	}
	for k, g := range w.gateways {
		v.SetGateway(k, &g)
	}
	for k, reason := range w.unusable {
		v.SetUnusable(k, reason)
	}
	for k, version := range w.envoys {
		v.SetEnvoy(k, version)
	}
	for version, x := range w.refused {
		v.SetRefused(version, x)
	}
	c := envoy.NewCompiler(v)
	for k, root := range w.roots {
		got, want := root.Value(), c.Proxy(k).Value()
		w.equal(when, k, got.Shared, want.Shared)
		w.equal(when, k, got.Own, want.Own)
		for _, p := range unpatched(got.Problems) {
			if !strings.Contains(p.Text, "there is no Secret") && !strings.Contains(p.Text, "without an identity") &&
				!strings.HasPrefix(p.Text, "no MeshOpenTelemetryBackend") {
				w.t.Fatalf("%s: %s: problems with valid resources: %v", when, k, p)
			}
		}
		if !reflect.DeepEqual(got.Problems, want.Problems) {
			w.t.Fatalf("%s: %s: problems %v, from scratch %v", when, k, got.Problems, want.Problems)
		}
		if got.Agent != want.Agent {
			w.t.Fatalf("%s: %s: its agent is told %v, from scratch %v", when, k, got.Agent.List(), want.Agent.List())
		}
		w.complete(when, k, got)
		if got, want := w.names[k].Value(), v.NamesOf(k).Value(); !reflect.DeepEqual(got, want) {
			w.t.Fatalf("%s: %s: names %v, from scratch %v", when, k, got, want)
		}
	}
}

func (w *world) equal(when string, k resource.Key, got, want *envoy.Part) {
	w.t.Helper()
	for typ := range envoy.NumTypes {
		a, b := got.Of(typ), want.Of(typ)
		if len(a) != len(b) {
			w.t.Fatalf("%s: %s has %d %s, from scratch %d", when, k, len(a), typ, len(b))
		}
		for i := range a {
			if a[i].Name != b[i].Name || string(a[i].Body()) != string(b[i].Body()) || a[i].Version != b[i].Version {
				w.t.Fatalf("%s: %s: %s %s differs from %s computed from scratch", when, k, typ, a[i].Name, b[i].Name)
			}
		}
	}
}

// complete checks that no fragment refers to one that is missing, except clusters of backends that do not exist.
func (w *world) complete(when string, k resource.Key, cfg envoy.ProxyConfig) {
	w.t.Helper()
	table := envoy.Table{Shared: cfg.Shared, Own: cfg.Own}
	for _, p := range []*envoy.Part{cfg.Shared, cfg.Own} {
		for typ := range envoy.NumTypes {
			for _, f := range p.Of(typ) {
				for _, ref := range f.Refs {
					if table.Get(ref.Type, ref.Name) == nil {
						w.t.Fatalf("%s: %s: %s %s needs %s %s, which is missing", when, k, typ, f.Name, ref.Type, ref.Name)
					}
				}
			}
		}
	}
}
