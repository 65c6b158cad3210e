package zones

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/pki"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// authorityOf is the authority of a zone with its key, as whoever broke into its control plane would have it.
func authorityOf(t *testing.T, m *testmesh.Mesh) *pki.Issuer {
	t.Helper()
	id, ok := stored(m, mesh.TypeMeshIdentity, "identity", "")
	if !ok {
		t.Fatalf("zone %s has no MeshIdentity", m.Zone.Name)
	}
	secret := func(suffix string) []byte {
		r, ok := m.ControlPlane().Catalog().Snapshot().Get(resource.Key{Type: mesh.TypeSecret, Mesh: id.Mesh, Name: id.Name + suffix})
		if !ok {
			t.Fatalf("zone %s has no secret %s", m.Zone.Name, id.Name+suffix)
		}
		return r.Spec.(*mesh.Secret).Data
	}
	return issuer(t, secret("-root-ca"), secret("-private-key"))
}

func issuer(t *testing.T, certificate, key []byte) *pki.Issuer {
	t.Helper()
	i, err := pki.ParseIssuer(certificate, key, true, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// stranger is an authority that nobody trusts, with the name of a zone's.
func stranger(t *testing.T, zone string) *pki.Issuer {
	t.Helper()
	certificate, key, err := pki.NewRoot("identity", "default."+zone+".mesh.local", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return issuer(t, certificate, key)
}

func signed(t *testing.T, by *pki.Issuer, id string) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := by.Sign(key.Public(), id, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
}

// A middle stands between an ingress and those who connect to it. It hands everything on, or takes calls for one server name itself.
type middle struct {
	listener net.Listener
	target   string
	name     string // how the names begin that it is after
	done     sync.WaitGroup

	mu      sync.Mutex
	as      *tls.Certificate // whom it pretends to be; nil while it is honest
	open    map[net.Conn]bool
	passed  int      // connections for the name that were handed on
	refused []error  // why clients did not believe it
	callers []string // who sent it a request
}

func newMiddle(t *testing.T, target, name string) *middle {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &middle{listener: l, target: target, name: name, open: map[net.Conn]bool{}}
	m.done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			m.done.Go(func() { m.take(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		m.pretend(nil)
		m.done.Wait()
	})
	return m
}

// pretend says whom to be from now on, and breaks what is open.
func (m *middle) pretend(as *tls.Certificate) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.as, m.refused, m.callers = as, nil, nil
	for c := range m.open {
		_ = c.Close()
	}
}

func (m *middle) seen() (refused []error, callers []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.refused, m.callers
}

// A tape remembers what was read, and writes nothing.
type tape struct {
	net.Conn
	read bytes.Buffer
}

func (c *tape) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Write(p[:n])
	return n, err
}

func (c *tape) Write([]byte) (int, error) { return 0, errors.New("only listening") }

// A replay begins with what was read before.
type replay struct {
	net.Conn
	all io.Reader
}

func (c *replay) Read(p []byte) (int, error) { return c.all.Read(p) }

func (m *middle) take(c net.Conn) {
	defer c.Close()
	m.mu.Lock()
	m.open[c] = true
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.open, c)
		m.mu.Unlock()
	}()
	var hello tls.ClientHelloInfo
	heard := &tape{Conn: c}
	_ = tls.Server(heard, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) { // fails by intent
		hello = *h
		return nil, errors.New("heard enough")
	}}).Handshake()
	in := &replay{c, io.MultiReader(&heard.read, c)}
	m.mu.Lock()
	as, wanted := m.as, strings.HasPrefix(hello.ServerName, m.name)
	if wanted && as == nil {
		m.passed++
	}
	m.mu.Unlock()
	if wanted && as != nil {
		m.impersonate(in, as, hello.SupportedProtos)
		return
	}
	out, err := net.Dial("tcp", m.target)
	if err != nil {
		return
	}
	defer out.Close()
	m.done.Go(func() {
		_, _ = io.Copy(c, out)
		_ = c.Close()
	})
	_, _ = io.Copy(out, in)
}

// impersonate takes a request as somebody, and leaves it unanswered.
func (m *middle) impersonate(c net.Conn, as *tls.Certificate, protocols []string) {
	s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*as}, ClientAuth: tls.RequireAnyClientCert, NextProtos: protocols})
	err := s.Handshake()
	if err == nil {
		_, err = s.Read(make([]byte, 4<<10)) // with TLS 1.3 it is here that the client refuses
	}
	m.mu.Lock()
	if err != nil {
		m.refused = append(m.refused, err)
	} else {
		m.callers = append(m.callers, s.ConnectionState().PeerCertificates[0].URIs[0].String())
	}
	m.mu.Unlock()
}

// testWrongSigner: between the zones stands somebody with certificates. A client believes only the authority of the zone that it
// calls, and of that only the certificate of the workload that it calls.
func testWrongSigner(t *testing.T, east, west *testmesh.Mesh, client, ingress *testmesh.Instance) {
	m := newMiddle(t, ingress.Direct(), "sni.msvc.default.west.far.")
	at := m.listener.Addr().(*net.TCPAddr)
	ingress.Declare(t, at.IP.String(), uint32(at.Port))
	defer ingress.Declare(t, ingress.Host, west.Port)
	east.Until(t, "calls go through the middle", func() (any, bool) {
		client.Reach(t, "far.west")
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.passed, m.passed > 0
	})
	far := spiffe("west", "far")
	for _, k := range []struct {
		what string
		as   *tls.Certificate
		well bool
	}{
		{"of an authority that nobody knows", signed(t, stranger(t, "west"), far), false},
		{"of the client's own zone", signed(t, authorityOf(t, east), far), false},
		{"of another workload", signed(t, authorityOf(t, west), spiffe("west", "late")), false},
		{"of the workload itself", signed(t, authorityOf(t, west), far), true},
	} {
		m.pretend(k.as)
		east.Until(t, "the client meets a certificate "+k.what, func() (any, bool) {
			r := client.Get(t, "far.west", "/")
			refused, callers := m.seen()
			if k.well {
				return fmt.Sprint(r, refused, callers), len(callers) > 0 && callers[0] == spiffe("east", "client")
			}
			if r.Status == http.StatusOK || len(callers) > 0 {
				t.Fatalf("a certificate %s was believed: %s, callers %v", k.what, r, callers)
			}
			told := slices.ContainsFunc(refused, func(err error) bool { return strings.Contains(err.Error(), "certificate") })
			return fmt.Sprint(r, refused), told && r.Status == http.StatusServiceUnavailable
		})
	}
	m.pretend(nil)
	client.Reach(t, "far.west")
}

// testForeignCaller: who calls from another zone is believed by the authority of that zone only, whatever identity is claimed.
func testForeignCaller(t *testing.T, east, west *testmesh.Mesh, ingress *testmesh.Instance) {
	client := spiffe("east", "client")
	for _, k := range []struct {
		what string
		as   *tls.Certificate
		want string
	}{
		{"its zone", signed(t, authorityOf(t, east), client), "200"},
		{"its zone, for another workload", signed(t, authorityOf(t, east), spiffe("east", "batch")), "403"},
		{"the zone that is called", signed(t, authorityOf(t, west), client), "refused"},
		{"nobody", signed(t, stranger(t, "east"), client), "refused"},
	} {
		if got := call(t, ingress.Direct(), "sni.msvc.default.west.far.main", k.as); got != k.want {
			t.Errorf("a caller with a certificate of %s: %s, want %s", k.what, got, k.want)
		}
	}
}

// call sends a request to a server name and gives the status, or "refused" when TLS fails.
func call(t *testing.T, address, name string, as *tls.Certificate) string {
	t.Helper()
	raw, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if err := raw.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	// Whom the server is does not matter here.
	c := tls.Client(raw, &tls.Config{ServerName: name, Certificates: []tls.Certificate{*as}, InsecureSkipVerify: true})
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nhost: far\r\nconnection: close\r\n\r\n"); err != nil {
		return "refused"
	}
	answer, err := io.ReadAll(c)
	var alert tls.AlertError
	switch _, status, ok := strings.Cut(string(answer), " "); {
	case errors.As(err, &alert), err != nil && strings.Contains(err.Error(), "tls:"):
		return "refused"
	case ok && len(status) > 3:
		return status[:3]
	}
	return fmt.Sprintf("%q, %v", answer, err)
}
