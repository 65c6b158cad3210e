package envoy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// external is a MeshExternalService with the servers as its endpoints; more goes into the spec.
func external(name string, p mesh.Protocol, port int, more string, servers ...string) string {
	return fmt.Sprintf("type: MeshExternalService\nname: %s\nlabels: {external: %s}\nspec:\n  match: {port: %d, protocol: %s}\n  endpoints: [%s]\n%s",
		name, name, port, p, strings.Join(servers, ", "), more)
}

func endpoint(a *testmesh.App) string {
	return fmt.Sprintf("{address: %s, port: %d}", a.Host(), a.Port())
}

func toExternal(typ, name, service, conf string) string {
	return strings.Replace(to(typ, name, service, conf), "kind: MeshService", "kind: MeshExternalService", 1)
}

// sniOf is the server name of an external service that was created in the zone.
func sniOf(m *testmesh.Mesh, service string, port int) string {
	return fmt.Sprintf("sni.extsvc.%s.%s.%s.%d", m.Name, m.Zone.Name, service, port)
}

// permitAtEgress is a MeshTrafficPermission for the egress; a line is such as "allow web ext" or "deny batch *".
func permitAtEgress(m *testmesh.Mesh, name string, lines ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "type: MeshTrafficPermission\nname: %s\nspec:\n  targetRef: {kind: Dataplane, labels: {kuma.io/workload: egress}}\n  rules:\n", name)
	for _, l := range lines {
		f := append(strings.Fields(l), "")
		fmt.Fprintf(&b, "  - default: {%s: [{spiffeID: {type: Exact, value: %q}%s}]}\n", f[0], spiffe(m, f[1]), strings.ReplaceAll(f[2], "_", " "))
	}
	return b.String()
}

func onlySNI(m *testmesh.Mesh, service string, port int) string {
	return fmt.Sprintf(",sni:_{type:_Exact,value:_%s}", sniOf(m, service, port))
}

// cut waits until TCP connections to a service are closed unanswered.
func cut(t *testing.T, m *testmesh.Mesh, from *testmesh.Instance, service string) {
	t.Helper()
	m.Until(t, "TCP connections to "+service+" are cut", func() (any, bool) {
		c, err := from.Dial(t, service)
		if err == nil {
			c.Close()
		}
		return err, denied(err)
	})
}

// testExternal is how services outside of the mesh are reached: through an egress that judges by server name, or not at all.
//
// Acceptance: M meshtrafficpermission egress
// Acceptance: U meshexternalservice: plain, same host with different ports
// Acceptance: K meshexternalservice: http, tcp, permissions switched off and on
func testExternal(t *testing.T, m *testmesh.Mesh) {
	m.Apply(t, identity)
	one, other := testmesh.Outside(t, "one", mesh.HTTP, "127.0.0.1", nil), testmesh.Outside(t, "other", mesh.HTTP, "127.0.0.1", nil)
	modern, db := testmesh.Outside(t, "modern", mesh.HTTP2, "", nil), testmesh.Outside(t, "db", mesh.TCP, "", nil)
	m.Apply(t, external("one", mesh.HTTP, 80, "", fmt.Sprintf("{address: localhost, port: %d}", one.Port()))+"\n---\n"+
		external("other", mesh.HTTP, 80, "", endpoint(other))+"\n---\n"+
		external("modern", mesh.HTTP2, 80, "", endpoint(modern))+"\n---\n"+external("db", mesh.TCP, 5432, "", endpoint(db)))
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "batch-1"})
	web, batch := all[0], all[1]

	t.Run("closed without an egress", func(t *testing.T) {
		web.Expect(t, testmesh.Request{Service: "one"}, http.StatusServiceUnavailable)
		cut(t, m, web, "db")
		untilCondition(t, m, "one", mesh.False, mesh.ReasonNoEgress)
	})
	// An egress beside a workload, so that one proxy plays several roles.
	egress := m.Workload(t, testmesh.Workload{Name: "egress-1", Egress: true})
	t.Run("nobody is allowed at first", func(t *testing.T) {
		web.Expect(t, testmesh.Request{Service: "one"}, http.StatusForbidden)
		cut(t, m, web, "db")
		untilCondition(t, m, "one", mesh.True, mesh.ReasonEgressReady)
		for _, a := range []*testmesh.App{one, other, modern, db} {
			if n := a.Seen("/"); n != 0 {
				t.Errorf("%d requests got out before anything was allowed", n)
			}
		}
	})
	t.Run("allowed by server name", func(t *testing.T) {
		m.Apply(t, permitAtEgress(m, "some", "allow web "+onlySNI(m, "one", 80), "allow web "+onlySNI(m, "db", 5432)))
		got := web.Reach(t, "one").Answer
		if got.Instance != "one" || got.Host != "localhost" {
			t.Errorf("answered by %q that was asked for %q", got.Instance, got.Host)
		}
		if got.Header.Get("X-Forwarded-Client-Cert") != "" {
			t.Error("an external service is told who its client is in the mesh")
		}
		if from := web.ReachTCP(t, "db"); from != "db" {
			t.Errorf("answered by %q", from)
		}
		web.Expect(t, testmesh.Request{Service: "other"}, http.StatusForbidden)
		batch.Expect(t, testmesh.Request{Service: "one"}, http.StatusForbidden)
		cut(t, m, batch, "db")
		// The permission of the egress says nothing about the workload beside it.
		web.Expect(t, testmesh.Request{Service: "egress"}, http.StatusForbidden)
	})
	t.Run("same host, different ports", func(t *testing.T) {
		m.Apply(t, permitAtEgress(m, "some", "allow web ", "allow batch "))
		if got := web.Reach(t, "other").Answer; got.Instance != "other" {
			t.Errorf("answered by %q", got.Instance)
		}
		if got := web.Reach(t, "one").Answer; got.Instance != "one" {
			t.Errorf("answered by %q", got.Instance)
		}
		if got := web.Reach(t, "modern").Answer; got.Instance != "modern" || got.Proto != "HTTP/2.0" {
			t.Errorf("answered by %q over %s", got.Instance, got.Proto)
		}
		batch.Reach(t, "one")
	})
	t.Run("a denial ends what is open, and of its server name only", func(t *testing.T) {
		c, err := web.Dial(t, "db")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		before := egress.Stat(t, `listener\..*\.downstream_cx_destroy`)
		m.Apply(t, permitAtEgress(m, "none", "deny web "+onlySNI(m, "one", 80)))
		web.Expect(t, testmesh.Request{Service: "one"}, http.StatusForbidden)
		batch.Reach(t, "one")
		if err := c.Echo("still open"); err != nil {
			t.Errorf("a denial of another server name cut a connection: %v", err)
		}
		if now := egress.Stat(t, `listener\..*\.downstream_cx_destroy`); now > before+2 { // the administration's
			t.Errorf("the denial closed connections: %d before, %d after", before, now)
		}
		m.Delete(t, "MeshTrafficPermission", "none")
		web.Reach(t, "one")
	})
	t.Run("a service is added and drains nobody", func(t *testing.T) {
		c, err := web.Dial(t, "db")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		draining := func() int { return egress.Stat(t, `listener_manager\.total_filter_chains_draining`) }
		m.Until(t, "what drained before is gone", func() (any, bool) { return draining(), draining() == 0 })
		m.Apply(t, external("late", mesh.HTTP, 80, "", endpoint(other)))
		web.Reach(t, "late")
		if err := c.Echo("still open"); err != nil {
			t.Errorf("a new external service cut a connection: %v", err)
		}
		if n := draining(); n != 0 {
			t.Errorf("%d chains drain", n)
		}
	})
	t.Run("seen in statistics", func(t *testing.T) {
		if n := egress.Stat(t, `cluster\.self_zoneegress_dp_egress_kri_extsvc_`+m.Name+`_.*_one_80\.upstream_rq_200`); n == 0 {
			t.Error("the egress counts no request")
		}
	})
}

func untilCondition(t *testing.T, m *testmesh.Mesh, service string, status mesh.ConditionStatus, reason string) {
	t.Helper()
	m.Until(t, fmt.Sprintf("%s has condition %s %s", service, mesh.ConditionEgressAvailable, status), func() (any, bool) {
		var got struct {
			Status mesh.MeshExternalServiceStatus `json:"status"`
		}
		if !m.Read(t, mesh.TypeMeshExternalService, service, &got) || len(got.Status.Conditions) == 0 {
			return got, false
		}
		c := got.Status.Conditions[0]
		return c, c.Type == mesh.ConditionEgressAvailable && c.Status == status && c.Reason == reason
	})
}

// serverCert signs a certificate for DNS names and IP addresses.
func (a *authority) serverCert(t testing.TB, names ...string) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(t), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{
		cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}
}

func secretResource(name string, data []byte) string {
	return fmt.Sprintf("type: Secret\nname: %s\ndata: %s\n", name, base64.StdEncoding.EncodeToString(data))
}

func fromSecret(field, name string) string {
	return fmt.Sprintf("%s: {type: Secret, secretRef: {kind: Secret, name: %s}}", field, name)
}

func withTLS(verification string, more ...string) string {
	return fmt.Sprintf("  tls: {enabled: true%s, verification: {%s}}\n", strings.Join(more, ""), verification)
}

// testExternalTLS: the egress speaks TLS to external services, with what is in Secrets, and keeps that to itself.
//
// Acceptance: U meshexternalservice: TLS
// Acceptance: K meshexternalservice: https, TLS 1.3
func testExternalTLS(t *testing.T, m *testmesh.Mesh) {
	ca, clients, foreign := newAuthority(t, "servers"), newAuthority(t, "clients"), newAuthority(t, "foreign")
	var presented atomic.Pointer[string]
	accept := x509.NewCertPool()
	accept.AppendCertsFromPEM(clients.pem)
	serve := func(name string, p mesh.Protocol, host string, cert pair, edit func(*tls.Config)) *testmesh.App {
		c := &tls.Config{Certificates: []tls.Certificate{cert.tls(t)}}
		if edit != nil {
			edit(c)
		}
		return testmesh.Outside(t, name, p, host, c)
	}
	named := ca.serverCert(t, "api.example.com", "127.0.0.1")
	plain := serve("plain", mesh.HTTP, "127.0.0.1", named, nil)
	modern := serve("modern", mesh.HTTP2, "127.0.0.1", named, func(c *tls.Config) { c.MinVersion, c.NextProtos = tls.VersionTLS13, []string{"h2"} })
	mutual := serve("mutual", mesh.HTTP, "127.0.0.1", named, func(c *tls.Config) {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, accept
		c.VerifyConnection = func(s tls.ConnectionState) error {
			presented.Store(&s.PeerCertificates[0].DNSNames[0])
			return nil
		}
	})
	mutual.CloseConnections()
	db := serve("db", mesh.TCP, "127.0.0.1", named, nil)
	stranger := serve("stranger", mesh.HTTP, "127.0.0.1", foreign.serverCert(t, "elsewhere.example"), nil)

	authorities := filepath.Join(t.TempDir(), "authorities.pem")
	if err := os.WriteFile(authorities, ca.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	first, second := clients.serverCert(t, "first.client"), clients.serverCert(t, "second.client")
	m.Apply(t, identity+"\n---\n"+secretResource("ca", ca.pem)+"\n---\n"+secretResource("cert", first.cert)+"\n---\n"+secretResource("key", first.key))
	m.Apply(t, strings.Join([]string{
		external("plain", mesh.HTTP, 443, withTLS("serverName: api.example.com, "+fromSecret("caCert", "ca")), endpoint(plain)),
		external("by-address", mesh.HTTP, 443, withTLS(""), endpoint(plain)), // verified by the authorities of the host
		external("modern", mesh.HTTP2, 443, withTLS("serverName: api.example.com, "+fromSecret("caCert", "ca"), ", version: {min: TLS13}"), endpoint(modern)),
		external("old", mesh.HTTP2, 443, withTLS("serverName: api.example.com, "+fromSecret("caCert", "ca"), ", version: {max: TLS12}"), endpoint(modern)),
		external("mutual", mesh.HTTP, 443, withTLS("serverName: api.example.com, "+fromSecret("caCert", "ca")+", "+fromSecret("clientCert", "cert")+", "+
			fromSecret("clientKey", "key")), endpoint(mutual)),
		external("db", mesh.TCP, 443, withTLS("subjectAltNames: [{type: Prefix, value: api.}], "+fromSecret("caCert", "ca")), endpoint(db)),
		external("wrong-name", mesh.HTTP, 443, withTLS("serverName: other.example.com, "+fromSecret("caCert", "ca")), endpoint(plain)),
		external("any-name", mesh.HTTP, 443, withTLS("mode: SkipSAN, serverName: other.example.com, "+fromSecret("caCert", "ca")), endpoint(plain)),
		external("wrong-signer", mesh.HTTP, 443, withTLS("serverName: elsewhere.example, "+fromSecret("caCert", "ca")), endpoint(stranger)),
		external("any-signer", mesh.HTTP, 443, withTLS("mode: SkipCA, serverName: elsewhere.example"), endpoint(stranger)),
		external("anybody", mesh.HTTP, 443, withTLS("mode: SkipAll"), endpoint(stranger)),
		external("no-secret", mesh.HTTP, 443, withTLS(fromSecret("caCert", "late")+", serverName: api.example.com"), endpoint(plain)),
		permitAtEgress(m, "web", "allow web "),
	}, "\n---\n"))
	egress := m.Egress(t, testmesh.Workload{Name: "egress-1", Authorities: authorities})
	web := m.Workload(t, testmesh.Workload{Name: "web-1"})

	for service, server := range map[string]string{
		"plain": "plain", "by-address": "plain", "modern": "modern", "any-name": "plain", "any-signer": "stranger", "anybody": "stranger", "mutual": "mutual",
	} {
		if got := web.Reach(t, service).Answer; got.Instance != server {
			t.Errorf("%s is answered by %q", service, got.Instance)
		}
	}
	if from := web.ReachTCP(t, "db"); from != "db" {
		t.Errorf("answered by %q", from)
	}
	for _, service := range []string{"old", "wrong-name", "wrong-signer", "no-secret"} {
		web.Expect(t, testmesh.Request{Service: service}, http.StatusServiceUnavailable)
	}
	if got := *presented.Load(); got != "first.client" {
		t.Errorf("the egress presented %s", got)
	}

	t.Run("replaced without replacing the cluster", func(t *testing.T) {
		added := egress.Stat(t, `cluster_manager\.cluster_(added|modified)`)
		m.Apply(t, secretResource("cert", second.cert)+"\n---\n"+secretResource("key", second.key))
		m.Until(t, "the new certificate is presented", func() (any, bool) {
			web.Reach(t, "mutual")
			got := *presented.Load()
			return got, got == "second.client"
		})
		if now := egress.Stat(t, `cluster_manager\.cluster_(added|modified)`); now != added {
			t.Errorf("clusters were added or changed: %d before, %d after", added, now)
		}
	})
	t.Run("a secret that comes late", func(t *testing.T) {
		m.Apply(t, secretResource("late", ca.pem))
		web.Reach(t, "no-secret")
		m.Delete(t, "Secret", "late")
		web.Expect(t, testmesh.Request{Service: "no-secret"}, http.StatusServiceUnavailable)
	})
	t.Run("keys stay where they belong", func(t *testing.T) {
		for _, of := range []*testmesh.Instance{egress, web} {
			dump, err := of.Admin("/config_dump?include_eds")
			if err != nil {
				t.Fatal(err)
			}
			if leaks(dump, second.key) || leaks(dump, first.key) {
				t.Errorf("the configuration of %s shows a key", of.Name)
			}
			if got := strings.Contains(dump, "certificate_kri_extsvc"); got != (of == egress) {
				t.Errorf("%s knows of the certificate: %v", of.Name, got)
			}
		}
	})
}

// leaks says whether a text holds a key, as text or in base64.
func leaks(text string, key []byte) bool {
	block, _ := pem.Decode(key)
	return strings.Contains(text, base64.StdEncoding.EncodeToString(block.Bytes)[:40]) ||
		strings.Contains(text, base64.StdEncoding.EncodeToString(key)[:60])
}

// testExternalPolicies: policies concern external services as any other destination, at the client for requests and at the egress for endpoints,
// and rules with a server name concern that service alone.
//
// Acceptance: U meshexternalservice: retry, timeout, http and tcp route, access log, endpoint priority failover
// Acceptance: K meshexternalservice: route to a MeshExternalService
// Acceptance: K mt zone_proxy
// Acceptance: U mrl zone_proxy
// Acceptance: U mfi zone_proxy
func testExternalPolicies(t *testing.T, m *testmesh.Mesh) {
	m.Apply(t, identity)
	a, b, spare := testmesh.Outside(t, "a", mesh.HTTP, "", nil), testmesh.Outside(t, "b", mesh.HTTP, "", nil), testmesh.Outside(t, "spare", mesh.HTTP, "", nil)
	first := fmt.Sprintf("{address: %s, port: %d, priority: 0}", a.Host(), a.Port())
	m.Apply(t, strings.Join([]string{
		external("a", mesh.HTTP, 80, "", endpoint(a)), external("b", mesh.HTTP, 80, "", endpoint(b)),
		external("ring", mesh.HTTP, 80, "", endpoint(a), endpoint(b), endpoint(spare)),
		permitAtEgress(m, "web", "allow web "),
	}, "\n---\n"))
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "backend-1"})
	web := all[0]
	egress := m.Egress(t, testmesh.Workload{Name: "egress-1"})
	m.Apply(t, permission("backend", "backend", "allow Exact "+spiffe(m, "web")))
	for _, s := range []string{"a", "b", "ring", "backend"} {
		web.Reach(t, s)
	}
	slow := func(service string) testmesh.Request {
		return testmesh.Request{Service: service, Path: "/?delay=400ms"}
	}

	t.Run("timeout of the client", func(t *testing.T) {
		m.Apply(t, toExternal("MeshTimeout", "impatient", "a", "{http: {requestTimeout: 100ms}}"))
		web.Expect(t, slow("a"), http.StatusGatewayTimeout)
		if resp := web.Send(t, slow("b")); resp.Status != http.StatusOK {
			t.Errorf("another service gives %s", resp)
		}
		m.Delete(t, "MeshTimeout", "impatient")
		web.Expect(t, slow("a"), http.StatusOK)
	})
	t.Run("timeout of the egress for a server name", func(t *testing.T) {
		m.Apply(t, fmt.Sprintf(`
type: MeshTimeout
name: impatient-egress
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/listener-zoneegress: enabled}, sectionName: egress}
  rules:
  - matches: [{sni: {type: Exact, value: %s}}]
    default: {http: {requestTimeout: 100ms}}
`, sniOf(m, "b", 80)))
		web.Expect(t, slow("b"), http.StatusGatewayTimeout)
		if resp := web.Send(t, slow("a")); resp.Status != http.StatusOK {
			t.Errorf("another service gives %s", resp)
		}
		m.Delete(t, "MeshTimeout", "impatient-egress")
		web.Expect(t, slow("b"), http.StatusOK)
	})
	for _, c := range []struct{ name, typ, conf string }{
		{"rate limit", "MeshRateLimit", "{local: {http: {requestRate: {num: 1, interval: 60s}, onRateLimit: {status: 429}}}}"},
		{"fault", "MeshFaultInjection", "{http: [{abort: {httpStatus: 429, percentage: 100}}]}"},
	} {
		t.Run(c.name+" of the egress for a server name", func(t *testing.T) {
			m.Apply(t, fmt.Sprintf(`
type: %s
name: selected
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: egress}}
  rules:
  - matches: [{sni: {type: Exact, value: %s}}]
    default: %s
`, c.typ, sniOf(m, "b", 80), c.conf))
			web.Expect(t, testmesh.Request{Service: "b"}, http.StatusTooManyRequests)
			for range 5 {
				if resp := web.Get(t, "a", "/"); resp.Status != http.StatusOK {
					t.Errorf("another service gives %s", resp)
				}
			}
			m.Delete(t, c.typ, "selected")
			web.Expect(t, testmesh.Request{Service: "b"}, http.StatusOK)
		})
	}
	t.Run("logs of the client, and of the egress for a server name", func(t *testing.T) {
		dir := t.TempDir()
		log := func(name string) string {
			return fmt.Sprintf(`{backends: [{type: File, file: {path: %q, format: {type: Plain, plain: "%%REQ(:PATH)%%"}}}]}`, filepath.Join(dir, name))
		}
		m.Apply(t, toExternal("MeshAccessLog", "sent", "a", log("client"))+fmt.Sprintf(`---
type: MeshAccessLog
name: passed
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: egress}}
  rules:
  - matches: [{sni: {type: Exact, value: %s}}]
    default: %s
`, sniOf(m, "b", 80), log("egress")))
		for file, path := range map[string]string{"client": "/of-a", "egress": "/of-b"} {
			m.Until(t, "the log of the "+file+" has "+path, func() (any, bool) {
				web.Get(t, "a", "/of-a")
				web.Get(t, "b", "/of-b")
				text, err := os.ReadFile(filepath.Join(dir, file))
				return fmt.Sprint(string(text), err), strings.Contains(string(text), path)
			})
			text, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				t.Fatal(err)
			}
			for _, other := range []string{"/of-a", "/of-b"} {
				if other != path && strings.Contains(string(text), other) {
					t.Errorf("the log of the %s has %s", file, other)
				}
			}
		}
		m.Delete(t, "MeshAccessLog", "sent")
		m.Delete(t, "MeshAccessLog", "passed")
	})
	t.Run("connections are led to another external service", func(t *testing.T) {
		one, two := testmesh.Outside(t, "one", mesh.TCP, "", nil), testmesh.Outside(t, "two", mesh.TCP, "", nil)
		m.Apply(t, external("one", mesh.TCP, 5432, "", endpoint(one))+"\n---\n"+external("two", mesh.TCP, 5432, "", endpoint(two)))
		if from := web.ReachTCP(t, "one"); from != "one" {
			t.Errorf("answered by %q", from)
		}
		m.Apply(t, `
type: MeshTCPRoute
name: elsewhere
spec:
  to:
  - targetRef: {kind: MeshExternalService, labels: {kuma.io/display-name: one}}
    rules: [{default: {backendRefs: [{kind: MeshExternalService, labels: {kuma.io/display-name: two}}]}}]
`)
		m.Until(t, "two answers for one", func() (any, bool) {
			from := web.ReachTCP(t, "one")
			return from, from == "two"
		})
	})
	t.Run("retry", func(t *testing.T) {
		before := a.Seen("/flaky")
		a.Fail(1, http.StatusServiceUnavailable)
		if resp := web.Get(t, "a", "/flaky"); resp.Status != http.StatusOK {
			t.Errorf("after a failure: %s", resp)
		}
		if n := a.Seen("/flaky") - before; n != 2 {
			t.Errorf("the service was asked %d times", n)
		}
	})
	t.Run("routes to and of external services", func(t *testing.T) {
		m.Apply(t, `
type: MeshHTTPRoute
name: to-outside
spec:
  to:
  - targetRef: {kind: MeshService, labels: {kuma.io/display-name: backend}}
    rules:
    - matches: [{path: {type: PathPrefix, value: /outside}}]
      default: {backendRefs: [{kind: MeshExternalService, labels: {kuma.io/display-name: a}}]}
---
type: MeshHTTPRoute
name: of-outside
spec:
  to:
  - targetRef: {kind: MeshExternalService, labels: {kuma.io/display-name: a}}
    rules:
    - matches: [{path: {type: PathPrefix, value: /other}}]
      default: {backendRefs: [{kind: MeshExternalService, labels: {kuma.io/display-name: b}}]}
    - matches: [{path: {type: PathPrefix, value: /inside}}]
      default: {backendRefs: [{kind: MeshService, labels: {kuma.io/display-name: backend}}]}
`)
		for _, c := range []struct{ service, path, want string }{
			{"backend", "/outside", "a"}, {"backend", "/", "backend-1"}, {"a", "/other", "b"}, {"a", "/inside", "backend-1"}, {"a", "/", "a"},
		} {
			m.Until(t, c.path+" of "+c.service+" is answered by "+c.want, func() (any, bool) {
				resp, err := web.Try(t, testmesh.Request{Service: c.service, Path: c.path})
				return fmt.Sprint(resp, err), err == nil && resp.Answer.Instance == c.want
			})
		}
		m.Delete(t, "MeshHTTPRoute", "to-outside")
		m.Delete(t, "MeshHTTPRoute", "of-outside")
	})
	t.Run("requests are hashed to endpoints", func(t *testing.T) {
		m.Apply(t, toExternal("MeshLoadBalancingStrategy", "sticky", "ring",
			"{loadBalancer: {type: RingHash}, hashPolicies: [{type: Header, header: {name: x-user}}]}"))
		m.Until(t, "requests of one user are answered by one endpoint, of many by several", func() (any, bool) {
			users := map[string]bool{}
			for user := range 12 {
				by := map[string]bool{}
				for range 3 {
					answer := web.Get(t, "ring", "/", fmt.Sprintf("x-user: %d", user)).Answer.Instance
					by[answer], users[answer] = true, true
				}
				if len(by) != 1 {
					return by, false
				}
			}
			return users, len(users) > 1
		})
	})
	t.Run("endpoints of a lower priority take over", func(t *testing.T) {
		m.Apply(t, external("failover", mesh.HTTP, 80, "", first, fmt.Sprintf("{address: %s, port: %d, priority: 3}", spare.Host(), spare.Port())))
		for range 5 {
			if got := web.Reach(t, "failover").Answer.Instance; got != "a" {
				t.Fatalf("answered by %q while the first endpoint is well", got)
			}
		}
		a.Stop()
		m.Until(t, "the second endpoint answers", func() (any, bool) {
			resp, err := web.Try(t, testmesh.Request{Service: "failover"})
			return fmt.Sprint(resp, err), err == nil && resp.Answer.Instance == "spare"
		})
		for range 5 {
			if got := web.Get(t, "failover", "/"); got.Status != http.StatusOK || got.Answer.Instance != "spare" {
				t.Errorf("then %s", got)
			}
		}
	})
	t.Run("an egress that leaves loses no request, and without any the way is closed", func(t *testing.T) {
		second := m.Egress(t, testmesh.Workload{Name: "egress-2"})
		m.Until(t, "both egresses are used", func() (any, bool) {
			web.Reach(t, "b")
			n := second.Stat(t, `cluster\.self_zoneegress_.*_b_80\.upstream_rq_200`)
			return n, n > 0
		})
		load := m.Load(t, web, testmesh.Request{Service: "b"}, 50)
		egress.Stop(t)
		load.Stop().NoFailure(t)
		second.Stop(t)
		web.Expect(t, testmesh.Request{Service: "b"}, http.StatusServiceUnavailable)
	})
}
