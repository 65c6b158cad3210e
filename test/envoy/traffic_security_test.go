package envoy

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// testSecure is what holds where proxies have identities: strict mutual TLS, and nobody is let in unasked.
func testSecure(t *testing.T, m *testmesh.Mesh) {
	m.Apply(t, identity)
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "batch-1"},
		testmesh.Workload{Name: "backend-1"}, testmesh.Workload{Name: "store-1", Protocol: mesh.TCP})
	s := secure{m, all[0], all[1], all[2], all[3]}
	for _, c := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"nobody is allowed at first", s.testDefaultDeny},
		{"allow by exact and by prefix, a deny is stronger", s.testPermissions},
		{"a new deny reaches open connections", s.testDenyOpenConnections},
		{"outsiders", s.testOutsiders},
		{"timeouts per client", s.testTimeoutsPerClient},
		{"each sidecar of a host has its own identity", s.testManyConnections},
		{"tokens", s.testTokens},
	} {
		t.Run(c.name, c.run)
	}
}

type secure struct {
	m                          *testmesh.Mesh
	web, batch, backend, store *testmesh.Instance
}

// denied says whether a TCP connection is closed before the workload answers. (Envoy judges it at the client's first byte:
// a workload that speaks first could be heard until then.)
func denied(err error) bool { return err != nil && !strings.Contains(err.Error(), "refused") }

func (s secure) testDefaultDeny(t *testing.T) {
	s.web.Expect(t, testmesh.Request{Service: "backend"}, http.StatusForbidden)
	s.m.Until(t, "TCP connections are cut", func() (any, bool) {
		c, err := s.web.Dial(t, "store")
		if err == nil {
			c.Close()
		}
		return err, denied(err)
	})
	if n := s.backend.App.Seen("/"); n != 0 {
		t.Errorf("%d requests got through before anything was allowed", n)
	}
	if n := s.store.App.Seen("/"); n != 0 {
		t.Errorf("%d TCP connections got through before anything was allowed", n)
	}
}

// Acceptance: U/K meshtrafficpermission: exact and prefix, HTTP and TCP
func (s secure) testPermissions(t *testing.T) {
	m := s.m
	m.Apply(t, permission("backend", "backend", "allow Exact "+spiffe(m, "web")))
	got := s.web.Reach(t, "backend").Answer
	if got.Caller() != spiffe(m, "web") || got.Callee() != spiffe(m, "backend") {
		t.Errorf("caller %q, callee %q", got.Caller(), got.Callee())
	}
	s.batch.Expect(t, testmesh.Request{Service: "backend"}, http.StatusForbidden)

	m.Apply(t, permission("backend", "backend", "allow Prefix "+spiffe(m, "")))
	s.batch.Reach(t, "backend")
	s.web.Reach(t, "backend")

	m.Apply(t, permission("no-batch", "backend", "deny Exact "+spiffe(m, "batch")))
	s.batch.Expect(t, testmesh.Request{Service: "backend"}, http.StatusForbidden)
	s.web.Reach(t, "backend")
	m.Delete(t, "MeshTrafficPermission", "no-batch")
	s.batch.Reach(t, "backend")

	m.Apply(t, permission("store", "store", "allow Exact "+spiffe(m, "web")))
	s.web.ReachTCP(t, "store")
	if c, err := s.batch.Dial(t, "store"); !denied(err) {
		t.Errorf("who is not allowed gets %v, %v", c, err)
	}
}

// testDenyOpenConnections: over HTTP a denial holds for the next request, over TCP open connections end within the drain time.
func (s secure) testDenyOpenConnections(t *testing.T) {
	m, web := s.m, s.web
	s.web.Reach(t, "backend")
	conn, err := web.Dial(t, "store")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	chains := s.backend.Stat(t, `listener\..*\.downstream_cx_destroy`)
	start := time.Now()
	m.Apply(t, permission("no-web", "backend", "deny Exact "+spiffe(m, "web")))
	resp := web.Expect(t, testmesh.Request{Service: "backend"}, http.StatusForbidden)
	t.Logf("a denial was in force for HTTP after %s", time.Since(start).Round(time.Millisecond))
	if !resp.Reused {
		t.Error("the request came on a new connection")
	}
	if now := s.backend.Stat(t, `listener\..*\.downstream_cx_destroy`); now > chains+1 { // one is the administration's
		t.Errorf("the denial closed connections: %d before, %d after", chains, now)
	}
	if err := conn.Echo("still open"); err != nil {
		t.Errorf("a permission of another workload cut a connection: %v", err)
	}

	start = time.Now()
	m.Apply(t, permission("no-web-store", "store", "deny Exact "+spiffe(m, "web")))
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn.Conn); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Fatalf("the open TCP connection is not cut: %v", err)
	}
	took := time.Since(start)
	t.Logf("an open TCP connection was cut after %s, the drain time is %s", took.Round(time.Millisecond), s.web.Drain)
	if limit := s.web.Drain + 3*time.Second; took > limit {
		t.Errorf("that is later than %s", limit)
	}
	if _, err := web.Dial(t, "store"); !denied(err) {
		t.Errorf("a new connection gives %v", err)
	}
	m.Delete(t, "MeshTrafficPermission", "no-web")
	m.Delete(t, "MeshTrafficPermission", "no-web-store")
	web.Reach(t, "backend")
	web.ReachTCP(t, "store")
}

// testOutsiders: no plaintext, no certificate, none of another signer, whatever identity it claims.
func (s secure) testOutsiders(t *testing.T) {
	if resp, err := http.Get("http://" + s.backend.Direct() + "/"); err == nil {
		resp.Body.Close()
		t.Errorf("plaintext is answered with %s", resp.Status)
	}
	foreign := newAuthority(t, "foreign").issue(t, spiffe(s.m, "web")).tls(t)
	for name, cert := range map[string]*tls.Certificate{"none": {}, "of another signer": &foreign} {
		got, err := overTLS(s.backend.Direct(), cert)
		if err == nil {
			t.Errorf("with a certificate %s: %s", name, got)
		}
	}
	if n := s.backend.Stat(t, `listener\..*\.ssl\.fail_verify_(error|no_cert|san)`); n < 1 {
		t.Error("Envoy counts no failed verification")
	}
}

// overTLS sends a request with a certificate that the server did not ask for, and says what came back.
func overTLS(address string, cert *tls.Certificate) (string, error) {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", address, &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{"kuma"}, // the server is not what is tested
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil },
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: backend\r\nConnection: close\r\n\r\n"); err != nil {
		return "", err
	}
	body, err := io.ReadAll(c)
	return string(body), err
}

// testTimeoutsPerClient: what a workload grants may depend on who asks.
func (s secure) testTimeoutsPerClient(t *testing.T) {
	m := s.m
	m.Apply(t, fmt.Sprintf(`
type: MeshTimeout
name: impatient-with-batch
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: backend}}
  rules:
  - matches: [{spiffeID: {type: Exact, value: %q}}]
    default: {http: {requestTimeout: 100ms}}
`, spiffe(m, "batch")))
	slow := testmesh.Request{Service: "backend", Path: "/?delay=400ms"}
	s.batch.Expect(t, slow, http.StatusGatewayTimeout)
	if resp := s.web.Send(t, slow); resp.Status != http.StatusOK {
		t.Errorf("another client gets %s", resp)
	}
	m.Delete(t, "MeshTimeout", "impatient-with-batch")
}

// testManyConnections: two sidecars of one host never send under each other's name.
func (s secure) testManyConnections(t *testing.T) {
	const each = 500
	for _, from := range []*testmesh.Instance{s.web, s.batch} {
		from.Reach(t, "backend")
		seen := map[string]int{}
		for range each {
			resp := from.Send(t, testmesh.Request{Service: "backend", Fresh: true})
			if resp.Reused {
				t.Fatal("the connection is not a new one")
			}
			seen[resp.Answer.Caller()]++
		}
		if want := spiffe(s.m, from.Service); len(seen) != 1 || seen[want] != each {
			t.Errorf("%s was seen as %v", from.Name, seen)
		}
	}
}

// testTokens: an agent is only what its token allows.
//
// Acceptance: U auth dp: tokens of another workload, name, or without a workload
func (s secure) testTokens(t *testing.T) {
	for name, c := range map[string]struct {
		token testmesh.Token
		want  string
	}{
		"of another workload": {testmesh.Token{Workload: "web"}, "workload"},
		"without a workload":  {testmesh.Token{Name: "intruder-1"}, "does not cover label kuma.io/workload=intruder"},
		"of another name":     {testmesh.Token{Name: "web-1", Workload: "intruder"}, "web-1"},
	} {
		err := s.m.Refused(t, testmesh.Workload{Name: "intruder-1", Token: c.token})
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("token %s: %v", name, err)
		}
	}
	if s.m.Read(t, mesh.TypeDataplane, "intruder-1", &mesh.Dataplane{}) {
		t.Error("a refused agent has registered its Dataplane")
	}
}

// testPermissive turns identities on under load: a permissive workload takes mesh TLS, plaintext and its own TLS at once.
//
// Acceptance: U meshservice: permissive mTLS comes while requests run
func testPermissive(t *testing.T, m *testmesh.Mesh) {
	m.Apply(t, "type: MeshTLS\nname: permissive\nspec:\n  rules: [{default: {mode: Permissive}}]\n")
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "backend-1"})
	web, backend := all[0], all[1]
	if got := web.Reach(t, "backend").Answer.Caller(); got != "" {
		t.Fatalf("the caller is %q before there are identities", got)
	}
	m.Apply(t, permission("backend", "backend", "allow Exact "+spiffe(m, "web")))
	load := m.Load(t, web, testmesh.Request{Service: "backend"}, 100)
	m.Apply(t, identity)
	m.Until(t, "the caller is known", func() (any, bool) {
		resp, err := web.Try(t, testmesh.Request{Service: "backend"})
		return fmt.Sprint(resp, resp.Answer.Caller(), err), resp.Answer.Caller() == spiffe(m, "web")
	})
	load.More(t, 50)
	load.Stop().NoFailure(t)
	if resp, err := http.Get("http://" + backend.Direct() + "/"); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("plaintext: %v, %v", resp, err)
	} else {
		resp.Body.Close()
	}

	m.Apply(t, "type: MeshTLS\nname: strict\nspec:\n  targetRef: {kind: Dataplane, labels: {kuma.io/workload: backend}}\n  rules: [{default: {mode: Strict}}]\n")
	m.Until(t, "plaintext is refused", func() (any, bool) {
		resp, err := http.Get("http://" + backend.Direct() + "/")
		if err == nil {
			resp.Body.Close()
		}
		return err, err != nil
	})
	web.Reach(t, "backend")
}

// testRenewal renews the certificates of all proxies under load, each request on a connection of its own.
func testRenewal(t *testing.T, m *testmesh.Mesh) {
	m.Apply(t, strings.Replace(identity, "enabled: true}", "enabled: true}, certificateParameters: {expiry: 1m}", 1))
	m.Apply(t, permission("backend", "backend", "allow Prefix "+spiffe(m, "")))
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "backend-1"})
	web := all[0]
	web.Reach(t, "backend")
	load := m.Load(t, web, testmesh.Request{Service: "backend", Fresh: true, Header: http.Header{"X-Renewal": {"1"}}}, 40)
	var before []string
	for _, i := range all {
		if n := issued(t, m, i); n != 1 {
			t.Errorf("%s was issued %d certificates at the start", i.Name, n)
		}
		before = append(before, serials(t, i))
	}
	m.Within(t, 80*time.Second, "both certificates are renewed", func() (any, bool) {
		a, b := issued(t, m, all[0]), issued(t, m, all[1])
		return fmt.Sprintf("issued %d and %d times", a, b), a >= 2 && b >= 2
	})
	for n, i := range all {
		m.Until(t, i.Name+" serves another certificate", func() (any, bool) {
			now := serials(t, i)
			return now, now != before[n]
		})
	}
	load.More(t, 80)
	load.Stop().NoFailure(t)
}

// serials are those of the certificates that Envoy presents.
func serials(t *testing.T, i *testmesh.Instance) string {
	t.Helper()
	text, err := i.Admin("/certs")
	if err != nil {
		t.Fatal(err)
	}
	var certs struct {
		Certificates []struct {
			Chain []struct {
				Serial string `json:"serial_number"`
			} `json:"cert_chain"`
		} `json:"certificates"`
	}
	if err := json.Unmarshal([]byte(text), &certs); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, c := range certs.Certificates {
		for _, link := range c.Chain {
			seen[link.Serial] = true
		}
	}
	return fmt.Sprint(slices.Sorted(maps.Keys(seen)))
}

// overview is what the zone observes of a proxy.
func overview(t *testing.T, m *testmesh.Mesh, i *testmesh.Instance) mesh.DataplaneInsight {
	t.Helper()
	var o struct {
		Insight mesh.DataplaneInsight `json:"dataplaneInsight"`
	}
	if !m.Overview(t, i.Name, &o) {
		t.Fatalf("%s has no overview", i.Name)
	}
	return o.Insight
}

// issued is how many workload certificates the zone has issued to a proxy.
func issued(t *testing.T, m *testmesh.Mesh, i *testmesh.Instance) int {
	t.Helper()
	if o := overview(t, m, i); o.MTLS != nil {
		return int(o.MTLS.CertificateRegenerations)
	}
	return 0
}
