package envoy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/test/backends"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// testDelegatedObserved: what a gateway of others sends leaves spans and lines in logs, is changed by patches, and leaves the mesh as far as it is let,
// by policies for that gateway alone. A sidecar beside it that sends the same notices nothing.
//
// Acceptance: K gateway delegated observed: redirection is played by a PROXY header
func testDelegatedObserved(t *testing.T, m *testmesh.Mesh) {
	m.Apply(t, identity)
	m.Apply(t, everybody(m))
	port := freePort(t)
	all := m.Workloads(t, testmesh.Workload{Name: "door-1", Gateway: true}, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "backend-1"},
		testmesh.Workload{Name: "gate-1", Gateway: true, Transparent: &mesh.TransparentProxying{RedirectPortOutbound: port, RedirectPortInbound: freePort(t), IPFamilyMode: "IPv4"}})
	door, web := all[0], all[1]
	door.Reach(t, "backend")
	web.Reach(t, "backend")
	both := func(path string) (byDoor, byWeb testmesh.Response) {
		t.Helper()
		r := testmesh.Request{Service: "backend", Path: path}
		return door.Expect(t, r, http.StatusOK), web.Expect(t, r, http.StatusOK)
	}

	t.Run("logged", func(t *testing.T) {
		sink := backends.NewLines(t)
		m.Apply(t, fmt.Sprintf(`
type: MeshAccessLog
name: door
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: door}}
  to:
  - targetRef: {kind: MeshService, labels: {kuma.io/display-name: backend}}
    default:
      backends:
      - type: Tcp
        tcp: {address: %q, format: {type: Plain, plain: 'log %%REQ(:PATH)%% %%KUMA_SOURCE_SERVICE%%>%%KUMA_DESTINATION_SERVICE%% %%KUMA_TRAFFIC_DIRECTION%% %%RESPONSE_CODE%%'}}
`, sink.Address))
		m.Until(t, "requests of the gateway are logged", func() (any, bool) {
			both("/logged")
			return sink.All(), sink.Has("log /logged door>backend OUTBOUND 200")
		})
		both("/again")
		m.Until(t, "the next one, too", func() (any, bool) { return sink.All(), sink.Has("log /again door>backend OUTBOUND 200") })
		if lines := sink.All(); slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, "web>") }) {
			t.Errorf("a sidecar's requests are logged, too: %q", lines)
		}
	})
	t.Run("traced", func(t *testing.T) {
		jaeger := backends.NewJaeger(t)
		m.Apply(t, fmt.Sprintf(`
type: MeshTrace
name: door
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: door}}
  default:
    backends: [{type: Zipkin, zipkin: {url: "http://%s/api/v2/spans", traceId128bit: true}}]
    tags: [{name: team, literal: entrance}]
`, jaeger.Zipkin))
		m.Until(t, "a request of the gateway leaves a span", func() (any, bool) {
			both("/traced")
			spans := jaeger.Spans(t, "door")
			return spans, slices.ContainsFunc(spans, func(s backends.Span) bool {
				return strings.HasSuffix(s.Tags["http.url"], "/traced") && s.Tags["kuma.workload"] == "door" && s.Tags["kuma.mesh"] == m.Name && s.Tags["team"] == "entrance"
			})
		})
		if spans := jaeger.Spans(t, "web"); len(spans) > 0 {
			t.Errorf("a sidecar's requests are traced, too: %v", spans)
		}
	})
	t.Run("patched", func(t *testing.T) {
		m.Apply(t, fmt.Sprintf(`
type: MeshProxyPatch
name: door
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: door}}
  default:
    appendModifications:
    - httpFilter:
        operation: AddFirst
        match: {origin: outbound}
        value: |
          name: envoy.filters.http.lua
          typedConfig:
            "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
            defaultSourceCode: {inlineString: %q}
`, stamp("door")))
		m.Until(t, "requests of the gateway are stamped", func() (any, bool) {
			byDoor, byWeb := both("/patched")
			if s := byWeb.Answer.Header.Get("X-Lua"); s != "" {
				t.Fatalf("a sidecar's requests are stamped %q, too", s)
			}
			return byDoor.Answer.Header, byDoor.Answer.Header.Get("X-Lua") == "door"
		})
	})
	t.Run("let past", func(t *testing.T) { testGatewayPasses(t, m, port) })
}

// testGatewayPasses: the proxy of a gateway, to which what that sends is redirected, lets past what a policy says.
func testGatewayPasses(t *testing.T, m *testmesh.Mesh, redirected uint32) {
	in, out := testmesh.Outside(t, "partner", mesh.HTTP, "", nil), testmesh.Outside(t, "stranger", mesh.HTTP, "", nil)
	m.Apply(t, strings.NewReplacer("mesh: default\n", "", "spec:\n", "spec:\n  targetRef: {kind: Dataplane, labels: {kuma.io/workload: gate}}\n").Replace(believe))
	get := func(to *testmesh.App, host string) string {
		c, err := net.DialTimeout("tcp", address(redirected), time.Second)
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience)) //nolint:errcheck // reading fails then
		fmt.Fprintf(c, "PROXY TCP4 127.0.0.1 %s 40000 %d\r\nGET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", to.Host(), to.Port(), host)
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
			return hungUp
		}
		if err != nil {
			return err.Error()
		}
		defer r.Body.Close()
		body, _ := io.ReadAll(r.Body)
		return fmt.Sprint(r.StatusCode, " ", string(body))
	}
	expect := func(when string, partner, stranger bool) {
		t.Helper()
		m.Until(t, when, func() (any, bool) {
			a, b := get(in, "partner.example.com"), get(out, "stranger.example.com")
			return []string{a, b}, strings.Contains(a, `"instance":"partner"`) == partner && strings.Contains(b, `"instance":"stranger"`) == stranger &&
				(partner || strings.HasPrefix(a, "503 ")) && (stranger || strings.HasPrefix(b, "503 "))
		})
	}
	allow := func(conf string) {
		t.Helper()
		m.Apply(t, "type: MeshPassthrough\nname: gate\nspec:\n  targetRef: {kind: Dataplane, labels: {kuma.io/workload: gate}}\n  default: "+conf)
	}
	expect("without a policy everything passes", true, true)
	allow("{passthroughMode: None}")
	expect("with None nothing passes", false, false)
	allow(fmt.Sprintf("{passthroughMode: Matched, appendMatch: [{type: Domain, value: partner.example.com, port: %d, protocol: http}]}", in.Port()))
	expect("what matches passes", true, false)
}
