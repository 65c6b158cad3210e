package envoy

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/test/backends"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// testLogs is MeshAccessLog: what is sent and what is received, at a TCP collector, in files and at a real OpenTelemetry Collector.
//
// Acceptance: U meshaccesslog: outbound, real MS, route-level, JSON, inbound formats; match rules on inbound
func testLogs(t *testing.T, m *testmesh.Mesh) {
	sink, dir := backends.NewLines(t), t.TempDir()
	file := filepath.Join(dir, "access.json")
	m.Apply(t, identity+"---\n"+permission("all", "backend", "allow Prefix spiffe://"))
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "other-1"}, testmesh.Workload{Name: "backend-1"})
	web, other := all[0], all[1]
	web.Reach(t, "backend")
	m.Apply(t, fmt.Sprintf(`
type: MeshHTTPRoute
name: slow
labels: {speed: slow}
spec:
  to:
  - targetRef: {kind: MeshService, labels: {kuma.io/display-name: backend}}
    rules:
    - matches: [{path: {type: PathPrefix, value: /slow}}]
      default: {filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-speed, value: slow}]}}]}
---
type: MeshAccessLog
name: service
spec:
  to:
  - targetRef: {kind: MeshService, labels: {kuma.io/display-name: backend}}
    default:
      backends:
      - type: Tcp
        tcp:
          address: %[1]q
          format: {type: Plain, plain: 'service %%REQ(:PATH)%% %%KUMA_SOURCE_SERVICE%%>%%KUMA_DESTINATION_SERVICE%% %%KUMA_MESH%% %%KUMA_ZONE%% %%KUMA_TRAFFIC_DIRECTION%% %%RESPONSE_CODE%% %%REQ(X-ABSENT)%%'}
---
type: MeshAccessLog
name: route
spec:
  to:
  - targetRef: {kind: MeshHTTPRoute, labels: {speed: slow}}
    default:
      backends:
      - type: Tcp
        tcp:
          address: %[1]q
          format:
            type: Json
            json:
            - {key: path, value: '%%REQ(:PATH)%%'}
            - {key: code, value: '%%RESPONSE_CODE%%'}
            - {key: absent, value: '%%REQ(X-ABSENT)%%'}
            omitEmptyValues: true
---
type: MeshAccessLog
name: received
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: backend}}
  rules:
  - default:
      backends:
      - {type: File, file: {path: %[2]q, format: {type: Json, json: [{key: from, value: '%%KUMA_SOURCE_SERVICE%%'}, {key: path, value: '%%REQ(:PATH)%%'}]}}}
  - matches: [{spiffeID: {type: Exact, value: %[3]q}}]
    default:
      backends:
      - {type: Tcp, tcp: {address: %[1]q, format: {type: Plain, plain: 'other %%REQ(:PATH)%% at %%KUMA_DESTINATION_SERVICE%%'}}}
`, sink.Address, file, spiffe(m, "other")))

	seen := func(line string) {
		t.Helper()
		m.Until(t, "the line "+line, func() (any, bool) { return sink.All(), sink.Has(line) })
	}
	// Until the policies are in force nothing is logged; from then on every request is.
	m.Until(t, "requests are logged", func() (any, bool) {
		web.Expect(t, testmesh.Request{Service: "backend", Path: "/first"}, http.StatusOK)
		other.Expect(t, testmesh.Request{Service: "backend", Path: "/other"}, http.StatusOK)
		text, _ := os.ReadFile(file)
		return sink.All(), sink.Has("service /first web>backend "+m.Name+" "+m.Zone.Name+" OUTBOUND 200 -") && sink.Has("other /other at backend") && len(text) > 0
	})
	web.Expect(t, testmesh.Request{Service: "backend", Path: "/slow/one"}, http.StatusOK)
	web.Expect(t, testmesh.Request{Service: "backend", Path: "/plain?status=404"}, http.StatusNotFound)
	seen(`{"path":"/slow/one","code":"200"}`)
	seen("service /plain?status=404 web>backend " + m.Name + " " + m.Zone.Name + " OUTBOUND 404 -")
	m.Until(t, "the file has both requests, with who asked", func() (any, bool) {
		text, err := os.ReadFile(file)
		if err != nil {
			return err, false
		}
		from := fmt.Sprintf(`"from":%q`, spiffe(m, "web"))
		return string(text), strings.Contains(string(text), "/slow/one") && strings.Contains(string(text), "/plain") && strings.Contains(string(text), from)
	})
	for _, line := range sink.All() {
		if strings.HasPrefix(line, "service /slow") || strings.HasPrefix(line, "other /slow") || strings.HasPrefix(line, "other /plain") {
			t.Errorf("logged twice, or for the wrong client: %s", line)
		}
	}
	testCollected(t, m, web, sink)
}

// testCollected sends logs to a real collector, and shows that an edit of the collector cuts no connection.
func testCollected(t *testing.T, m *testmesh.Mesh, web *testmesh.Instance, sink *backends.Lines) {
	collector := backends.NewCollector(t)
	backend := func(protocol, address string) string {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("type: MeshOpenTelemetryBackend\nname: main\nspec: {protocol: %s, endpoint: {address: %s, port: %s}}\n", protocol, host, port)
	}
	m.Apply(t, backend("grpc", collector.GRPC)+`---
type: MeshAccessLog
name: service
spec:
  to:
  - targetRef: {kind: MeshService, labels: {kuma.io/display-name: backend}}
    default:
      backends:
      - type: OpenTelemetry
        openTelemetry:
          backendRef: {kind: MeshOpenTelemetryBackend, labels: {kuma.io/display-name: main}}
          attributes: [{key: direction, value: '%KUMA_TRAFFIC_DIRECTION%'}]
          body: {kvlistValue: {values: [{key: path, value: {stringValue: '%REQ(:PATH)%'}}]}}
`)
	took := func(path string) {
		t.Helper()
		m.Until(t, "the collector has "+path, func() (any, bool) {
			web.Expect(t, testmesh.Request{Service: "backend", Path: path}, http.StatusOK)
			return len(sink.All()), collector.Took(path, `"OUTBOUND"`, `"kuma.workload"`, `"web"`, `"MeshAccessLog"`)
		})
	}
	took("/by-grpc")
	before := web.Expect(t, testmesh.Request{Service: "backend", Path: "/before"}, http.StatusOK)
	m.Apply(t, backend("http", collector.HTTP))
	took("/by-http")
	if after := web.Expect(t, testmesh.Request{Service: "backend", Path: "/after"}, http.StatusOK); before.Status != 200 || !after.Reused {
		t.Error("an edit of the collector cut the connection of a client")
	}
}

// testTraces is MeshTrace: both proxies of a request leave a span of one trace at a real Jaeger, and it shows which workload they are of.
//
// Acceptance: U observability: spans reach Jaeger
func testTraces(t *testing.T, m *testmesh.Mesh) {
	jaeger := backends.NewJaeger(t)
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "backend-1"})
	web := all[0]
	web.Reach(t, "backend")
	host, port, err := net.SplitHostPort(jaeger.GRPC)
	if err != nil {
		t.Fatal(err)
	}
	m.Apply(t, fmt.Sprintf(`
type: MeshOpenTelemetryBackend
name: jaeger
spec: {endpoint: {address: %s, port: %s}}
---
type: MeshTrace
name: all
spec:
  default:
    backends: [{type: OpenTelemetry, openTelemetry: {backendRef: {kind: MeshOpenTelemetryBackend, labels: {kuma.io/display-name: jaeger}}}}]
    tags: [{name: team, literal: core}, {name: tenant, header: {name: x-tenant, default: none}}]
`, host, port))
	traced := func(what string, read func() []backends.Span) {
		t.Helper()
		m.Until(t, "a trace with a span of either side, by "+what, func() (any, bool) {
			web.Expect(t, testmesh.Request{Service: "backend", Path: "/" + what}, http.StatusOK)
			spans := read()
			return spans, slices.ContainsFunc(spans, func(s backends.Span) bool {
				return s.Service == "web" && strings.HasSuffix(s.Tags["http.url"], "/"+what) && s.Tags["kuma.workload"] == "web" && s.Tags["kuma.mesh"] == m.Name &&
					s.Tags["kuma.zone"] == m.Zone.Name && s.Tags["team"] == "core" && s.Tags["tenant"] == "none" &&
					slices.ContainsFunc(spans, func(o backends.Span) bool {
						return o.Trace == s.Trace && o.Service == "backend" && o.Tags["kuma.workload"] == "backend"
					})
			})
		})
	}
	ofWeb := func() []backends.Span { return jaeger.Spans(t, "web") }
	traced("opentelemetry", ofWeb)
	m.Apply(t, fmt.Sprintf(`
type: MeshTrace
name: all
spec:
  default:
    backends: [{type: Zipkin, zipkin: {url: "http://%s/api/v2/spans", traceId128bit: true}}]
    tags: [{name: team, literal: core}, {name: tenant, header: {name: x-tenant, default: none}}]
`, jaeger.Zipkin))
	traced("zipkin", ofWeb)
	datadog := backends.NewDatadog(t)
	m.Apply(t, fmt.Sprintf(`
type: MeshTrace
name: all
spec:
  default:
    backends: [{type: Datadog, datadog: {url: %q}}]
    tags: [{name: team, literal: core}, {name: tenant, header: {name: x-tenant, default: none}}]
`, datadog.URL))
	traced("datadog", func() []backends.Span { return datadog.Spans(t) })
}

// testZoneLogs is MeshAccessLog and MeshTrace at an ingress and an egress: of what passes there, only what goes to the named service is logged.
//
// Acceptance: M meshaccesslog: an ingress logs only the server name that a rule matches
// Acceptance: U meshaccesslog: match rules on an egress
// Acceptance: U observability: spans of an egress carry the tag of its workload
func testZoneLogs(t *testing.T, m *testmesh.Mesh) {
	sink, jaeger := backends.NewLines(t), backends.NewJaeger(t)
	m.Apply(t, identity+"---\n"+permission("all", "backend", "allow Prefix spiffe://"))
	a, b := testmesh.Outside(t, "a", mesh.HTTP, "", nil), testmesh.Outside(t, "b", mesh.HTTP, "", nil)
	m.Apply(t, external("a", mesh.HTTP, 80, "", endpoint(a))+"\n---\n"+external("b", mesh.HTTP, 80, "", endpoint(b)))
	m.Apply(t, permitAtEgress(m, "egress", "allow web "))
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "backend-1"})
	web := all[0]
	m.Egress(t, testmesh.Workload{Name: "egress-1"})
	ingress := m.Ingress(t, testmesh.Workload{Name: "ingress-1"})
	web.Reach(t, "a")
	web.Reach(t, "b")
	m.Apply(t, fmt.Sprintf(`
type: MeshAccessLog
name: egress
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/listener-zoneegress: enabled}}
  rules:
  - matches: [{sni: {type: Exact, value: %[2]s}}]
    default: {backends: [{type: Tcp, tcp: {address: %[1]q, format: {type: Plain, plain: 'egress %%REQ(:PATH)%% %%KUMA_SOURCE_SERVICE%% %%KUMA_DESTINATION_SERVICE%%'}}}]}
---
type: MeshAccessLog
name: ingress
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/listener-zoneingress: enabled}}
  rules:
  - matches: [{sni: {type: Exact, value: sni.one}}]
    default: {backends: [{type: Tcp, tcp: {address: %[1]q, format: {type: Plain, plain: 'ingress %%REQUESTED_SERVER_NAME%%'}}}]}
---
type: MeshTrace
name: all
spec:
  default: {backends: [{type: Zipkin, zipkin: {url: "http://%[3]s/api/v2/spans"}}]}
`, sink.Address, sniOf(m, "a", 80), jaeger.Zipkin))
	knock := func(name string) {
		c, err := tls.Dial("tcp", net.JoinHostPort(ingress.Host, fmt.Sprint(m.Port)), &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if err == nil {
			_ = c.Close() // nobody is behind such a name
		}
	}
	line := "egress /a " + spiffe(m, "web") + " a"
	m.Until(t, "both log", func() (any, bool) {
		web.Expect(t, testmesh.Request{Service: "b", Path: "/b"}, http.StatusOK)
		web.Expect(t, testmesh.Request{Service: "a", Path: "/a"}, http.StatusOK)
		knock("sni.two")
		knock("sni.one")
		return sink.All(), sink.Has(line) && sink.Has("ingress sni.one")
	})
	for _, l := range sink.All() {
		if l != line && l != "ingress sni.one" {
			t.Errorf("logged without a rule that matches: %s", l)
		}
	}
	m.Until(t, "a span of the egress with its workload", func() (any, bool) {
		web.Expect(t, testmesh.Request{Service: "a", Path: "/a"}, http.StatusOK)
		spans := jaeger.Spans(t, "egress")
		return spans, slices.ContainsFunc(spans, func(s backends.Span) bool { return s.Tags["kuma.workload"] == "egress" })
	})
}
