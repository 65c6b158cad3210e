package envoy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/test/testmesh"
)

// workloadAPI speaks the protocol of a SPIRE agent on a socket and issues from an authority of its own. It attests nobody: whoever
// asks gets every identity, and has to take the one that is its own.
type workloadAPI struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	socket string
	root   *x509.Certificate
	key    *ecdsa.PrivateKey

	mu     sync.Mutex
	svids  []*workload.X509SVID
	serial int64
	news   chan struct{} // closed and replaced when there are others
}

func newWorkloadAPI(t *testing.T) *workloadAPI {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "SPIRE"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &workloadAPI{socket: filepath.Join(shortDir(t), "spire.sock"), root: root, key: key, serial: 1, news: make(chan struct{})}
	l, err := net.Listen("unix", a.socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(s, a)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return a
}

// issue replaces all identities by new certificates for these.
func (a *workloadAPI) issue(t *testing.T, ids ...string) {
	t.Helper()
	var out []*workload.X509SVID
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range ids {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		uri, err := url.Parse(id)
		if err != nil {
			t.Fatal(err)
		}
		a.serial++
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(a.serial), URIs: []*url.URL{uri}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(30 * time.Minute),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			BasicConstraintsValid: true,
		}, a.root, key.Public(), a.key)
		if err != nil {
			t.Fatal(err)
		}
		secret, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, &workload.X509SVID{SpiffeId: id, X509Svid: der, X509SvidKey: secret, Bundle: a.root.Raw})
	}
	a.svids = out
	close(a.news)
	a.news = make(chan struct{})
}

// FetchX509SVID sends the identities now and whenever there are others.
func (a *workloadAPI) FetchX509SVID(_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	if md, _ := metadata.FromIncomingContext(stream.Context()); len(md.Get("workload.spiffe.io")) != 1 {
		return status.Error(codes.InvalidArgument, "the security header is missing")
	}
	for {
		a.mu.Lock()
		svids, news := a.svids, a.news
		a.mu.Unlock()
		if len(svids) > 0 {
			if err := stream.Send(&workload.X509SVIDResponse{Svids: svids}); err != nil {
				return err
			}
		}
		select {
		case <-news:
		case <-stream.Context().Done():
			return nil
		}
	}
}

// testSPIRE lets workloads have their identities from SPIRE: traffic is mutual TLS with what it issued, permissions hold,
// and rotation loses no request.
//
// Acceptance: U/K meshidentity spire: over the protocol of SPIRE's agent; the agent itself is not run here
func testSPIRE(t *testing.T, m *testmesh.Mesh) {
	spire := newWorkloadAPI(t)
	m.Apply(t, `
type: MeshIdentity
name: identity
spec:
  selector: {dataplane: {}}
  provider: {type: Spire, spire: {}}
`)
	m.Apply(t, permission("backend", "backend", "allow Exact "+spiffe(m, "web")))
	spire.issue(t, spiffe(m, "other"), spiffe(m, "web"), spiffe(m, "stranger"), spiffe(m, "backend"))
	all := m.Workloads(t, testmesh.Workload{Name: "web-1", SPIRE: spire.socket}, testmesh.Workload{Name: "backend-1", SPIRE: spire.socket},
		testmesh.Workload{Name: "stranger-1", SPIRE: spire.socket})
	web, stranger := all[0], all[2]
	m.Until(t, "web is known to its server as what SPIRE calls it", func() (any, bool) {
		got, err := web.Try(t, testmesh.Request{Service: "backend"})
		if err != nil {
			return err, false
		}
		return got, got.Answer.Caller() == spiffe(m, "web") && got.Answer.Callee() == spiffe(m, "backend")
	})
	stranger.Expect(t, testmesh.Request{Service: "backend"}, 403)
	before := serials(t, all[1])
	load := m.Load(t, web, testmesh.Request{Service: "backend", Fresh: true}, 40)
	load.More(t, 20)
	spire.issue(t, spiffe(m, "web"), spiffe(m, "backend"), spiffe(m, "stranger"))
	m.Until(t, "backend serves its next certificate", func() (any, bool) {
		now := serials(t, all[1])
		return now, now != before
	})
	load.More(t, 40)
	load.Stop().NoFailure(t)
}
