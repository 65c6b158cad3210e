// Package sds serves one Envoy the two secrets of its workload: key and certificate, and the bundles it trusts; and where it is
// an egress, those it speaks TLS to external services with. It makes no keys, asks nobody for certificates and opens no socket; what it is given stays in memory.
//
// Envoy judges both secrets together, keeps what it refuses, and refuses with it whatever comes next, so a refusal says little about the
// secret that it names. Therefore only one version that is not proven yet is under way at any time, and after a
// refusal the last good one is sent first: what Envoy then refuses is what is wrong.
package sds

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// Status is what Envoy acknowledged.
type Status struct {
	IdentitySerial string // of the certificate
	TrustVersion   string // of the bundles
	Rejected       string // what Envoy said when it refused a secret, until it accepts a newer version of it
}

// A Bundle is the authorities of one trust domain.
type Bundle struct {
	Domain string
	PEM    string
}

// A Server holds the secrets and knows which of them Envoy took.
type Server struct {
	log     *slog.Logger
	changed chan struct{} // holds a token when the status changed
	due     chan struct{} // holds a token when something may have to be sent

	external *externals

	mu      sync.Mutex
	secrets []*secret // the identity, then the trust: in this order they are sent at first
	streams map[*stream]struct{}
}

// A secret is one of the two, and what Envoy said of it.
type secret struct {
	name   string
	wanted version // what was set last
	good   version // what Envoy acknowledged last
	sent   version // what Envoy was sent last
	// refused is the version that Envoy refused. Offered again it would acknowledge it without using it.
	refused string
	why     string // it did so
	// spoilt says that Envoy may keep a version that it refused, and refuse whatever is used together with it.
	spoilt bool
}

// A version is one value of a secret: how xDS and how the zone call it.
type version struct {
	xds   string // empty when there is none
	label string
	body  *anypb.Any
}

func (v version) is(other version) bool { return v.xds == other.xds }
func (v version) exists() bool          { return v.xds != "" }

// New makes a server without secrets: whoever asks waits until they are set.
func New(log *slog.Logger) *Server {
	s := &Server{
		log: log, changed: make(chan struct{}, 1), due: make(chan struct{}, 1),
		secrets: []*secret{{name: envoy.IdentitySecret}, {name: envoy.TrustSecret}}, streams: map[*stream]struct{}{},
	}
	s.external = newExternals(log, s.news)
	return s
}

// Register offers the secrets on a gRPC server. Nothing is sent after the end of ctx.
func (s *Server) Register(ctx context.Context, r grpc.ServiceRegistrar) {
	secretv3.RegisterSecretDiscoveryServiceServer(r, service{s: s, ctx: ctx})
}

// Run decides what Envoy is sent, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	for {
		select {
		case <-s.due:
			s.dispatch()
		case <-ctx.Done():
			return nil
		}
	}
}

// SetIdentity serves a key with its certificate chain (DER, leaf first). It refuses what Envoy would refuse.
func (s *Server) SetIdentity(key crypto.Signer, chain [][]byte) error {
	if key == nil || len(chain) == 0 {
		return errors.New("identity: key or certificate is missing")
	}
	var text []byte
	for _, der := range chain {
		if _, err := x509.ParseCertificate(der); err != nil {
			return fmt.Errorf("identity: %w", err)
		}
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(leaf.PublicKey) {
		return errors.New("identity: the certificate is for another key")
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	return s.set(hex.EncodeToString(leaf.SerialNumber.Bytes()), &tlsv3.Secret{
		Name: envoy.IdentitySecret,
		Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inline(text),
			PrivateKey:       inline(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		}},
	})
}

// SetTrust serves the bundles, one per trust domain. Trust without a bundle is refused: Envoy would take it for trust in everybody.
func (s *Server) SetTrust(label string, bundles []Bundle) error {
	if len(bundles) == 0 {
		return errors.New("trust: there is no bundle")
	}
	validator := &tlsv3.SPIFFECertValidatorConfig{}
	for _, b := range bundles {
		if b.Domain == "" || !x509.NewCertPool().AppendCertsFromPEM([]byte(b.PEM)) {
			return fmt.Errorf("trust: the bundle of %q holds no certificate", b.Domain)
		}
		validator.TrustDomains = append(validator.TrustDomains, &tlsv3.SPIFFECertValidatorConfig_TrustDomain{
			Name: b.Domain, TrustBundle: inline([]byte(b.PEM)),
		})
	}
	config, err := anypb.New(validator)
	if err != nil {
		return fmt.Errorf("trust: %w", err)
	}
	return s.set(label, &tlsv3.Secret{
		Name: envoy.TrustSecret,
		Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			CustomValidatorConfig: &corev3.TypedExtensionConfig{Name: "envoy.tls.cert_validator.spiffe", TypedConfig: config},
		}},
	})
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}

func (s *Server) set(label string, m *tlsv3.Secret) error {
	if err := m.ValidateAll(); err != nil {
		return fmt.Errorf("%s: %w", m.GetName(), err)
	}
	body := &anypb.Any{}
	if err := anypb.MarshalFrom(body, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return fmt.Errorf("%s: %w", m.GetName(), err)
	}
	sum := sha256.Sum256(body.GetValue())
	v := version{xds: hex.EncodeToString(sum[:]), label: label, body: body}
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.secret(m.GetName())
	x.wanted = v
	// The same value under another label needs no answer of Envoy.
	for _, known := range []*version{&x.good, &x.sent} {
		if known.is(v) {
			known.label = label
		}
	}
	if v.is(x.good) {
		x.refused, x.why = "", "" // what was refused is not wanted any more
	}
	s.news()
	return nil
}

// secret finds a secret by its name; nil when there is none.
func (s *Server) secret(name string) *secret {
	for _, x := range s.secrets {
		if x.name == name {
			return x
		}
	}
	return nil
}

// news wakes whoever sends and whoever reports.
func (s *Server) news() {
	for _, c := range []chan struct{}{s.changed, s.due} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// Status is what Envoy acknowledged so far.
func (s *Server) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rejected []string
	for _, x := range s.secrets {
		if x.why != "" {
			rejected = append(rejected, x.name+": "+x.why)
		}
	}
	rejected = append(rejected, s.external.rejected()...)
	return Status{
		IdentitySerial: s.secret(envoy.IdentitySecret).good.label, TrustVersion: s.secret(envoy.TrustSecret).good.label,
		Rejected: strings.Join(rejected, "; "),
	}
}

// Changed yields when the status may have changed. One reader.
func (s *Server) Changed() <-chan struct{} { return s.changed }
