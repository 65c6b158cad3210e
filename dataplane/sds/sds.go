// Package sds serves one Envoy the two secrets of its workload: key and certificate, and the bundles it trusts.
// It makes no keys, asks nobody for certificates and opens no socket; what it is given stays in memory.
package sds

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// Status is what Envoy acknowledged.
type Status struct {
	IdentitySerial string // of the certificate
	TrustVersion   string // of the bundles
	Rejected       string // what Envoy said when it refused a secret, until it accepts one again
}

// A Bundle is the authorities of one trust domain.
type Bundle struct {
	Domain string
	PEM    string
}

// A Server holds the secrets and knows which of them Envoy took.
type Server struct {
	log     *slog.Logger
	cache   *cache.LinearCache
	changed chan struct{} // holds a token when the status changed
	reverts chan string   // names of secrets whose last good version has to be sent again
	retries chan struct{} // holds a token when a doubted version may be offered again

	mu      sync.Mutex
	current map[string]version // by secret name: what is served
	good    map[string]version // what Envoy acknowledged last
	labels  map[string]version // by name and xDS version: what was served
	sent    map[sentKey][]version
	refused string
	// bad holds the versions that Envoy refused, by name. Offered once more on another stream it acknowledges them without
	// using them, so their acknowledgement means nothing.
	bad map[string]string
	// doubted holds versions that were refused while another secret was unproven: Envoy may have blamed the wrong one,
	// so each is offered once more, alone.
	doubted map[string]version
	retried map[string]string
}

// A version is one value of a secret: how xDS and how the zone call it.
type version struct {
	name   string
	xds    string
	label  string
	secret *tlsv3.Secret
}

type sentKey struct {
	stream int64
	nonce  string
}

// New makes a server without secrets: whoever asks waits until they are set.
func New(log *slog.Logger) *Server {
	return &Server{
		log: log, cache: cache.NewLinearCache(resourcev3.SecretType),
		changed: make(chan struct{}, 1), reverts: make(chan string, 8),
		current: map[string]version{}, good: map[string]version{}, labels: map[string]version{}, sent: map[sentKey][]version{}, bad: map[string]string{},
		doubted: map[string]version{}, retried: map[string]string{}, retries: make(chan struct{}, 1),
	}
}

// Register offers the secrets on a gRPC server; streams end with ctx.
func (s *Server) Register(ctx context.Context, r grpc.ServiceRegistrar) {
	secretv3.RegisterSecretDiscoveryServiceServer(r, service{delta: delta.NewServer(ctx, s.cache, callbacks{s})})
}

// service speaks the incremental protocol only, which is what the configuration of our Envoys asks for.
type service struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer
	delta delta.Server
}

// DeltaSecrets serves one stream.
func (s service) DeltaSecrets(stream secretv3.SecretDiscoveryService_DeltaSecretsServer) error {
	return s.delta.DeltaStreamHandler(stream, resourcev3.SecretType)
}

// callbacks lets the server see what streams say.
type callbacks struct{ s *Server }

func (callbacks) OnDeltaStreamOpen(context.Context, int64, string) error { return nil }

func (c callbacks) OnDeltaStreamClosed(stream int64, _ *corev3.Node) { c.s.closed(stream) }

func (c callbacks) OnStreamDeltaRequest(stream int64, in *discoveryv3.DeltaDiscoveryRequest) error {
	c.s.request(stream, in)
	return nil
}

func (c callbacks) OnStreamDeltaResponse(stream int64, _ *discoveryv3.DeltaDiscoveryRequest, out *discoveryv3.DeltaDiscoveryResponse) {
	c.s.response(stream, out)
}

// Run sends the last good version of a secret that Envoy refused, until ctx ends. Without it Envoy would go on refusing whatever
// is used together with the refused one.
func (s *Server) Run(ctx context.Context) error {
	for {
		select {
		case name := <-s.reverts:
			s.mu.Lock()
			good, ok := s.good[name]
			if ok && s.current[name].xds != good.xds {
				s.current[name] = good
				s.publish(good)
			}
			s.mu.Unlock()
		case <-s.retries:
			s.mu.Lock()
			s.retry()
			s.mu.Unlock()
		case <-ctx.Done():
			return nil
		}
	}
}

// retry offers one doubted version again, once everything else is proven.
func (s *Server) retry() {
	for _, name := range []string{envoy.IdentitySecret, envoy.TrustSecret} {
		v, ok := s.doubted[name]
		if !ok || s.othersUnproven(name) {
			continue
		}
		delete(s.doubted, name)
		if s.current[name].xds != s.good[name].xds {
			continue // something newer is on its way
		}
		delete(s.bad, name)
		s.retried[name] = v.xds
		s.current[name] = v
		s.remember(v)
		s.publish(v)
		return
	}
}

// othersUnproven says that another secret is served that Envoy has not accepted.
func (s *Server) othersUnproven(name string) bool {
	for other, v := range s.current {
		if other != name && s.good[other].xds != v.xds {
			return true
		}
	}
	return false
}

// SetIdentity serves a key with its certificate chain (DER, leaf first). It refuses what Envoy would refuse.
func (s *Server) SetIdentity(key *ecdsa.PrivateKey, chain [][]byte) error {
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
	if !key.PublicKey.Equal(leaf.PublicKey) {
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

func (s *Server) set(label string, secret *tlsv3.Secret) error {
	if err := secret.ValidateAll(); err != nil {
		return fmt.Errorf("%s: %w", secret.GetName(), err)
	}
	raw, err := cache.MarshalResource(secret)
	if err != nil {
		return fmt.Errorf("%s: %w", secret.GetName(), err)
	}
	v := version{name: secret.GetName(), xds: cache.HashResource(raw), label: label, secret: secret}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current[v.name] = v
	s.remember(v)
	s.publish(v)
	return nil
}

// remember keeps the versions that Envoy may still speak of: the current and the last good one of each secret.
func (s *Server) remember(v version) {
	s.labels[v.name+" "+v.xds] = v
	for k, old := range s.labels {
		if s.current[old.name].xds != old.xds && s.good[old.name].xds != old.xds {
			delete(s.labels, k)
		}
	}
}

func (s *Server) publish(v version) {
	if err := s.cache.UpdateResource(v.name, types.Resource(v.secret)); err != nil {
		s.log.Error("secret cannot be served", "secret", v.name, "err", err)
	}
}

// Status is what Envoy acknowledged so far.
func (s *Server) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Status{
		IdentitySerial: s.good[envoy.IdentitySecret].label, TrustVersion: s.good[envoy.TrustSecret].label, Rejected: s.refused,
	}
}

// Changed yields when the status may have changed. One reader.
func (s *Server) Changed() <-chan struct{} { return s.changed }

// response notes what a response carries, to know what its acknowledgement means.
func (s *Server) response(stream int64, out *discoveryv3.DeltaDiscoveryResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var vs []version
	for _, r := range out.GetResources() {
		if v, ok := s.labels[r.GetName()+" "+r.GetVersion()]; ok {
			vs = append(vs, v)
		}
	}
	s.sent[sentKey{stream, out.GetNonce()}] = vs
}

func (s *Server) request(stream int64, in *discoveryv3.DeltaDiscoveryRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, xds := range in.GetInitialResourceVersions() {
		if v, ok := s.labels[name+" "+xds]; ok {
			s.accept(v)
		}
	}
	key := sentKey{stream, in.GetResponseNonce()}
	vs, ok := s.sent[key]
	if !ok {
		return
	}
	delete(s.sent, key)
	for _, v := range vs {
		if in.GetErrorDetail() == nil {
			s.accept(v)
		} else {
			s.refuse(v, in.GetErrorDetail().GetMessage())
		}
	}
}

func (s *Server) accept(v version) {
	if s.bad[v.name] == v.xds {
		return
	}
	s.good[v.name], s.refused = v, ""
	if len(s.doubted) > 0 {
		select {
		case s.retries <- struct{}{}:
		default:
		}
	}
	s.tell()
}

func (s *Server) refuse(v version, text string) {
	s.log.Error("envoy refused a secret; the last good one is sent again", "secret", v.name, "version", v.label, "reason", text)
	s.refused = v.name + ": " + text
	if s.good[v.name].xds != v.xds {
		s.bad[v.name] = v.xds
		if s.othersUnproven(v.name) && s.retried[v.name] != v.xds {
			s.doubted[v.name] = v
		}
	}
	select {
	case s.reverts <- v.name:
	default: // a revert of this secret or a newer one is under way
	}
	s.tell()
}

func (s *Server) tell() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *Server) closed(stream int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.sent {
		if k.stream == stream {
			delete(s.sent, k)
		}
	}
}
