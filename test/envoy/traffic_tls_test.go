package envoy

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// meshTLS is a MeshTLS for the proxies that a target selects; conf is the default in flow style.
func meshTLS(name, target, conf string) string {
	return fmt.Sprintf("type: MeshTLS\nname: %s\nspec:\n  targetRef: %s\n  rules: [{default: %s}]\n", name, target, conf)
}

const (
	ofMesh   = "{kind: Mesh}"
	ofTarget = "{kind: Dataplane, labels: {kuma.io/workload: %s}}"
)

// testModes: who may speak plaintext or TLS of its own to a workload, and with which version and cipher the mesh speaks.
//
// Acceptance: U mtls: permissive takes mesh TLS, plaintext and TLS of the workload from outside; strict takes mesh TLS alone
// Acceptance: U meshtls: one proxy alone permissive, or strict; TLS 1.3 and a cipher suite are enforced
// Acceptance: U/K meshtrafficpermission: also in permissive mode; a denial for one proxy beats an allow for the mesh
// Acceptance: K meshtls delegated gateway
func testModes(t *testing.T, m *testmesh.Mesh) {
	own := newAuthority(t, "own").issue(t, "spiffe://shop/own").tls(t)
	m.Apply(t, identity)
	m.Apply(t, everybody(m))
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "batch-1"}, testmesh.Workload{Name: "backend-1"},
		testmesh.Workload{Name: "shop-1", Protocol: mesh.TCP, TLS: &own}, testmesh.Workload{Name: "door-1", Gateway: true})
	s := modes{m, all[0], all[1], all[2], all[3], all[4], own.Certificate[0]}
	s.web.Reach(t, "backend")
	s.batch.Reach(t, "backend")
	for _, c := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"strict", s.testStrict},
		{"one permissive", s.testOnePermissive},
		{"one strict", s.testOneStrict},
		{"permissions of a permissive workload", s.testPermissivePermissions},
		{"version", s.testVersion},
		{"cipher", s.testCipher},
	} {
		t.Run(c.name, c.run)
	}
}

type modes struct {
	m                               *testmesh.Mesh
	web, batch, backend, shop, door *testmesh.Instance
	own                             []byte // the certificate of the shop's own server
}

// plaintext waits until plaintext from outside is taken, or refused.
func (s modes) plaintext(t *testing.T, want bool) {
	t.Helper()
	s.m.Until(t, fmt.Sprintf("plaintext of an outsider is taken: %t", want), func() (any, bool) {
		resp, err := http.Get("http://" + s.backend.Direct() + "/")
		if err == nil {
			resp.Body.Close()
		}
		return err, (err == nil && resp.StatusCode == http.StatusOK) == want
	})
}

// ownTLS waits until TLS from outside reaches the server of the shop itself, or does not.
func (s modes) ownTLS(t *testing.T, want bool) {
	t.Helper()
	s.m.Until(t, fmt.Sprintf("TLS of an outsider reaches the workload: %t", want), func() (any, bool) {
		err := s.talk(s.shop.Direct())
		return err, (err == nil) == want
	})
}

// talk speaks TLS to the server of the shop, wherever that is found, and wants its certificate and its answer.
func (s modes) talk(address string) error {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", address, &tls.Config{InsecureSkipVerify: true}) // compared below
	if err != nil {
		return err
	}
	defer c.Close()
	if got := c.ConnectionState().PeerCertificates[0].Raw; string(got) != string(s.own) {
		return fmt.Errorf("the certificate is not that of the workload's own server")
	}
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(c, "who is there?"); err != nil {
		return err
	}
	line := make([]byte, len("shop-1"))
	_, err = io.ReadFull(c, line)
	if err == nil && string(line) != "shop-1" {
		err = fmt.Errorf("answered by %q", line)
	}
	return err
}

// inMesh wants the client's proxy to reach both workloads by mesh TLS.
func (s modes) inMesh(t *testing.T) {
	t.Helper()
	if got := s.web.Reach(t, "backend").Answer.Caller(); got != spiffe(s.m, "web") {
		t.Errorf("the caller is %q", got)
	}
	s.m.Until(t, "TLS of the workload passes through mesh TLS", func() (any, bool) {
		err := s.talk(s.web.Address(t, "shop"))
		return err, err == nil
	})
}

func (s modes) testStrict(t *testing.T) {
	s.plaintext(t, false)
	s.ownTLS(t, false)
	s.inMesh(t)
}

func (s modes) testOnePermissive(t *testing.T) {
	s.m.Apply(t, meshTLS("one", fmt.Sprintf(ofTarget, "shop"), "{mode: Permissive}"))
	s.ownTLS(t, true)
	s.plaintext(t, false)
	s.inMesh(t)
	s.m.Delete(t, "MeshTLS", "one")
	s.ownTLS(t, false)
}

func (s modes) testOneStrict(t *testing.T) {
	s.m.Apply(t, meshTLS("all", ofMesh, "{mode: Permissive}"))
	s.plaintext(t, true)
	s.ownTLS(t, true)
	s.m.Apply(t, meshTLS("one", fmt.Sprintf(ofTarget, "backend"), "{mode: Strict}"))
	s.plaintext(t, false)
	s.ownTLS(t, true)
	s.inMesh(t)
	s.m.Delete(t, "MeshTLS", "one")
	s.plaintext(t, true)
}

func (s modes) testPermissivePermissions(t *testing.T) {
	m := s.m
	s.inMesh(t)
	m.Apply(t, permission("no-batch", "backend", "deny Exact "+spiffe(m, "batch")))
	s.batch.Expect(t, testmesh.Request{Service: "backend"}, http.StatusForbidden)
	s.web.Reach(t, "backend")
	m.Delete(t, "MeshTrafficPermission", "no-batch")
	s.batch.Reach(t, "backend")
	m.Delete(t, "MeshTLS", "all")
	s.plaintext(t, false)
}

// handshake is how a handshake with the backend's proxy ends; a client certificate is not asked for before it is done in TLS 1.3.
func (s modes) handshake(c *tls.Config) error {
	c.InsecureSkipVerify, c.NextProtos = true, []string{"kuma"} // who the server is is not what is tested
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", s.backend.Direct(), c)
	if err == nil {
		conn.Close()
	}
	return err
}

func (s modes) testVersion(t *testing.T) {
	m := s.m
	m.Apply(t, meshTLS("version", ofMesh, "{tlsVersion: {min: TLS13, max: TLS13}}"))
	m.Until(t, "TLS 1.2 is refused", func() (any, bool) {
		err := s.handshake(&tls.Config{MaxVersion: tls.VersionTLS12})
		return err, err != nil && strings.Contains(err.Error(), "protocol version")
	})
	if err := s.handshake(&tls.Config{MinVersion: tls.VersionTLS13}); err != nil {
		t.Errorf("TLS 1.3: %v", err)
	}
	for _, from := range []*testmesh.Instance{s.web, s.door} {
		m.Until(t, from.Name+" speaks TLS 1.3", func() (any, bool) {
			r, err := from.Try(t, testmesh.Request{Service: "backend", Fresh: true})
			n := from.Stat(t, `cluster\.kri_msvc.*_backend_.*\.ssl\.versions\.TLSv1\.3`)
			return fmt.Sprint(r, err, n), err == nil && r.Answer.Caller() == spiffe(m, from.Service) && n > 0
		})
	}
	m.Delete(t, "MeshTLS", "version")
}

func (s modes) testCipher(t *testing.T) {
	m := s.m
	const suite = "ECDHE-ECDSA-AES256-GCM-SHA384"
	m.Apply(t, meshTLS("cipher", ofMesh, "{tlsVersion: {max: TLS12}, tlsCiphers: ["+suite+"]}"))
	m.Until(t, "another cipher suite is refused", func() (any, bool) {
		err := s.handshake(&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}})
		return err, err != nil && strings.Contains(err.Error(), "handshake failure")
	})
	m.Until(t, "the proxies speak "+suite, func() (any, bool) {
		r, err := s.web.Try(t, testmesh.Request{Service: "backend", Fresh: true})
		n := s.backend.Stat(t, `listener\..*\.ssl\.ciphers\.`+suite)
		return fmt.Sprint(r, err, n), err == nil && r.Status == http.StatusOK && n > 0
	})
	m.Delete(t, "MeshTLS", "cipher")
	s.inMesh(t)
}

// testSigners: the authority is generated, or given by the user: a root, or an intermediate below one. With each nobody is let in unasked.
//
// Acceptance: U mtls table: generated authority, given root, given intermediate
func testSigners(t *testing.T, m *testmesh.Mesh) {
	root := newAuthority(t, "root")
	below := root.below(t, "intermediate")
	for name, provider := range map[string]string{
		"generated":    "{autogenerate: {enabled: true}}",
		"root":         supplied(t, root.pem, root),
		"intermediate": supplied(t, append(below.pem, root.pem...), below),
	} {
		t.Run(name, func(t *testing.T) {
			m := m.Mesh(t, "signers-"+name)
			m.Apply(t, "type: MeshIdentity\nname: identity\nspec: {selector: {dataplane: {}}, provider: {type: Bundled, bundled: "+provider+"}}\n")
			all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "backend-1"})
			web := all[0]
			web.Expect(t, testmesh.Request{Service: "backend"}, http.StatusForbidden)
			m.Apply(t, permission("backend", "backend", "allow Exact "+spiffe(m, "web")))
			got := web.Reach(t, "backend").Answer
			if got.Caller() != spiffe(m, "web") || got.Callee() != spiffe(m, "backend") {
				t.Errorf("caller %q, callee %q", got.Caller(), got.Callee())
			}
		})
	}
}

// supplied is a provider with an authority of the user.
func supplied(t *testing.T, chain []byte, a *authority) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		t.Fatal(err)
	}
	source := func(text []byte) string {
		return fmt.Sprintf("{type: InsecureInline, insecureInline: {value: %q}}", text)
	}
	return fmt.Sprintf("{insecureAllowSelfSigned: true, ca: {certificate: %s, privateKey: %s}}",
		source(chain), source(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}
