package sds

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func start(t testing.TB) (*Server, secretv3.SecretDiscoveryServiceClient) {
	t.Helper()
	s := New(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	g := grpc.NewServer()
	s.Register(ctx, g)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	go g.Serve(l)
	c, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); cancel(); <-done; g.Stop() })
	return s, secretv3.NewSecretDiscoveryServiceClient(c)
}

func certificate(t testing.TB, serial int64) (*ecdsa.PrivateKey, [][]byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{{Scheme: "spiffe", Host: "d", Path: "/w"}}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	return k, [][]byte{der}
}

func bundle(t testing.TB, domain string) Bundle {
	_, chain := certificate(t, 1)
	return Bundle{Domain: domain, PEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: chain[0]}))}
}

// envoyStream is one SDS stream as Envoy opens it: one per secret.
type envoyStream struct {
	t testing.TB
	secretv3.SecretDiscoveryService_DeltaSecretsClient
}

func subscribe(t testing.TB, c secretv3.SecretDiscoveryServiceClient, name string, held map[string]string) *envoyStream {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	st, err := c.DeltaSecrets(ctx)
	if err != nil {
		t.Fatal(err)
	}
	e := &envoyStream{t, st}
	e.send(&discoveryv3.DeltaDiscoveryRequest{
		Node: &corev3.Node{Id: "n"}, TypeUrl: resourcev3.SecretType, ResourceNamesSubscribe: []string{name}, InitialResourceVersions: held,
	})
	return e
}

func (e *envoyStream) send(r *discoveryv3.DeltaDiscoveryRequest) {
	e.t.Helper()
	if err := e.Send(r); err != nil {
		e.t.Fatal(err)
	}
}

func (e *envoyStream) next() (*discoveryv3.DeltaDiscoveryResponse, *tlsv3.Secret) {
	e.t.Helper()
	for {
		r, err := e.Recv()
		if err != nil {
			e.t.Fatal(err)
		}
		if len(r.GetResources()) == 0 {
			e.answer(r, "")
			continue
		}
		s := &tlsv3.Secret{}
		if err := r.GetResources()[0].GetResource().UnmarshalTo(s); err != nil {
			e.t.Fatal(err)
		}
		return r, s
	}
}

func (e *envoyStream) answer(r *discoveryv3.DeltaDiscoveryResponse, nack string) {
	e.t.Helper()
	in := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resourcev3.SecretType, ResponseNonce: r.GetNonce()}
	if nack != "" {
		in.ErrorDetail = &rpcstatus.Status{Message: nack}
	}
	e.send(in)
}

func until(t testing.TB, s *Server, what string, ok func(Status) bool) {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for !ok(s.Status()) {
		select {
		case <-s.Changed():
		case <-timeout:
			t.Fatalf("waited in vain until %s: %+v", what, s.Status())
		}
	}
}

func TestSecretsAreServedAndAcknowledged(t *testing.T) {
	s, c := start(t)
	st := subscribe(t, c, "identity", nil)
	key, chain := certificate(t, 0xab)
	if err := s.SetIdentity(key, chain); err != nil { // after the question: it waits
		t.Fatal(err)
	}
	r, secret := st.next()
	pair := secret.GetTlsCertificate()
	block, _ := pem.Decode(pair.GetPrivateKey().GetInlineBytes())
	got, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil || !key.Equal(got) || secret.GetName() != "identity" {
		t.Errorf("secret %s, key %v", secret.GetName(), err)
	}
	if serial := s.Status().IdentitySerial; serial != "" {
		t.Errorf("acknowledged before Envoy said so: %s", serial)
	}
	st.answer(r, "")
	until(t, s, "the identity is acknowledged", func(x Status) bool { return x.IdentitySerial == "ab" })

	tr := subscribe(t, c, "trust", nil)
	if err := s.SetTrust("v1", []Bundle{bundle(t, "east"), bundle(t, "west")}); err != nil {
		t.Fatal(err)
	}
	r, secret = tr.next()
	v := &tlsv3.SPIFFECertValidatorConfig{}
	if err := secret.GetValidationContext().GetCustomValidatorConfig().GetTypedConfig().UnmarshalTo(v); err != nil {
		t.Fatal(err)
	}
	if len(v.GetTrustDomains()) != 2 || v.GetTrustDomains()[1].GetName() != "west" {
		t.Errorf("trust domains %v", v.GetTrustDomains())
	}
	tr.answer(r, "")
	until(t, s, "the trust is acknowledged", func(x Status) bool { return x.TrustVersion == "v1" })

	key, chain = certificate(t, 0xcd)
	if err := s.SetIdentity(key, chain); err != nil {
		t.Fatal(err)
	}
	r, _ = st.next()
	st.answer(r, "")
	until(t, s, "the renewed identity is acknowledged", func(x Status) bool { return x.IdentitySerial == "cd" })
}

func TestRefusedSecretIsReplacedByTheLastGoodOne(t *testing.T) {
	s, c := start(t)
	first := []Bundle{bundle(t, "east")}
	if err := s.SetTrust("good", first); err != nil {
		t.Fatal(err)
	}
	st := subscribe(t, c, "trust", nil)
	r, good := st.next()
	st.answer(r, "")
	until(t, s, "the first is acknowledged", func(x Status) bool { return x.TrustVersion == "good" })
	if err := s.SetTrust("bad", []Bundle{bundle(t, "east")}); err != nil {
		t.Fatal(err)
	}
	r, _ = st.next()
	st.answer(r, "no such thing")
	r, again := st.next()
	if again.String() != good.String() {
		t.Error("what came after the refusal is not the last good one")
	}
	if x := s.Status(); x.Rejected != "trust: no such thing" || x.TrustVersion != "good" {
		t.Errorf("status %+v", x)
	}
	st.answer(r, "")
	if err := s.SetTrust("better", []Bundle{bundle(t, "east")}); err != nil {
		t.Fatal(err)
	}
	r, _ = st.next()
	if x := s.Status(); x.Rejected == "" || x.TrustVersion != "good" {
		t.Errorf("before the better one is acknowledged: status %+v", x)
	}
	st.answer(r, "")
	until(t, s, "the refusal is over", func(x Status) bool { return x.Rejected == "" && x.TrustVersion == "better" })
}

func TestReconnectSendsNothingTwice(t *testing.T) {
	s, c := start(t)
	if err := s.SetTrust("v1", []Bundle{bundle(t, "east")}); err != nil {
		t.Fatal(err)
	}
	st := subscribe(t, c, "trust", nil)
	r, _ := st.next()
	st.answer(r, "")
	until(t, s, "acknowledged", func(x Status) bool { return x.TrustVersion == "v1" })
	if err := st.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); !errors.Is(err, io.EOF) {
		t.Fatalf("the stream ended with %v", err)
	}
	held := map[string]string{"trust": r.GetResources()[0].GetVersion()}
	again := subscribe(t, c, "trust", held)
	if err := s.SetTrust("v2", []Bundle{bundle(t, "east")}); err != nil {
		t.Fatal(err)
	}
	r, _ = again.next()
	if got := r.GetResources()[0].GetVersion(); got == held["trust"] {
		t.Error("what Envoy holds was sent again")
	}
	again.answer(r, "")
	until(t, s, "acknowledged", func(x Status) bool { return x.TrustVersion == "v2" })
}

func TestWhatEnvoyWouldMisunderstandIsRefused(t *testing.T) {
	s, _ := start(t)
	key, chain := certificate(t, 1)
	other, _ := certificate(t, 2)
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"no bundle":       {s.SetTrust("v", nil), "no bundle"},
		"empty bundle":    {s.SetTrust("v", []Bundle{{Domain: "east"}}), "holds no certificate"},
		"no domain":       {s.SetTrust("v", []Bundle{{PEM: bundle(t, "x").PEM}}), "holds no certificate"},
		"no key":          {s.SetIdentity(nil, chain), "missing"},
		"no certificate":  {s.SetIdentity(key, nil), "missing"},
		"key of another":  {s.SetIdentity(other, chain), "another key"},
		"broken":          {s.SetIdentity(key, [][]byte{{1, 2}}), "identity: "},
		"broken in chain": {s.SetIdentity(key, [][]byte{chain[0], {1}}), "identity: "},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, c.err, c.want)
		}
		if c.err != nil && strings.Contains(c.err.Error(), "PRIVATE") {
			t.Errorf("%s: the message shows a key", name)
		}
	}
}
