package sds

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"sync"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// An External is a secret for an external service, in PEM: authorities, or a certificate with its key.
type External struct {
	Name             string
	Authorities      []byte
	Certificate, Key []byte
}

// externals serves secrets that have nothing to do with each other or with the workload's own. Each is checked before Envoy gets it, so what
// Envoy refuses is only reported.
type externals struct {
	log    *slog.Logger
	news   func()
	system string // file of the authorities of this host; empty means that it is looked for

	mu      sync.Mutex
	values  map[string]version
	refused map[string]string // why, by name
	streams map[chan struct{}]bool
}

func newExternals(log *slog.Logger, news func()) *externals {
	return &externals{log: log, news: news, values: map[string]version{}, refused: map[string]string{}, streams: map[chan struct{}]bool{}}
}

// SetExternals adds or replaces secrets for external services; when the list is complete, others are gone. What cannot be used is left out
// and reported.
func (s *Server) SetExternals(list []External, complete bool) error {
	return s.external.set(list, complete)
}

// UseAuthorities names the file with the authorities that this host trusts, before anything is served.
// Without it the usual places are tried.
func (s *Server) UseAuthorities(file string) { s.external.system = file }

func (e *externals) set(list []External, complete bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	values, errs := maps.Clone(e.values), []error(nil)
	if complete {
		maps.DeleteFunc(values, func(name string, _ version) bool { return name != envoy.SystemAuthorities })
	}
	for _, x := range list {
		v, err := x.version()
		if err != nil {
			errs = append(errs, fmt.Errorf("secret %s: %w", x.Name, err))
			continue
		}
		values[x.Name] = v
	}
	e.values = values
	for c := range e.streams {
		wake(c)
	}
	return errors.Join(errs...)
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (x External) version() (version, error) {
	m := &tlsv3.Secret{Name: x.Name}
	switch {
	case x.Name == "" || isWorkloads(x.Name):
		return version{}, errors.New("it must have a name of its own")
	case x.Authorities != nil:
		if !x509.NewCertPool().AppendCertsFromPEM(x.Authorities) {
			return version{}, errors.New("it holds no certificate")
		}
		m.Type = &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(x.Authorities)}}
	default:
		if _, err := tls.X509KeyPair(x.Certificate, x.Key); err != nil {
			return version{}, errors.New("certificate and key do not belong together")
		}
		m.Type = &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: inline(x.Certificate), PrivateKey: inline(x.Key)}}
	}
	body := &anypb.Any{}
	if err := anypb.MarshalFrom(body, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return version{}, err
	}
	sum := sha256.Sum256(body.GetValue())
	return version{xds: hex.EncodeToString(sum[:]), label: x.Name, body: body}, nil
}

func isWorkloads(name string) bool { return name == envoy.IdentitySecret || name == envoy.TrustSecret }

// systemFiles are where operating systems keep the authorities that they trust.
var systemFiles = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem", "/etc/pki/tls/cacert.pem", "/etc/ssl/cert.pem",
}

// maxAuthorities is the largest file of authorities, in bytes.
const maxAuthorities = 4 << 20

// readSystem reads what this host trusts, when Envoy asks for it.
func (e *externals) readSystem() {
	files := systemFiles
	if e.system != "" {
		files = []string{e.system}
	}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil || info.Size() > maxAuthorities {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(text, []byte("BEGIN CERTIFICATE")) {
			continue
		}
		if err := e.set([]External{{Name: envoy.SystemAuthorities, Authorities: text}}, false); err == nil {
			return
		}
	}
	e.log.Error("the authorities that this host trusts are not found, so external services verified by them are not reached; "+
		"install ca-certificates, set envoy.authoritiesFile, or give the MeshExternalService a caCert", "looked for", files)
}

// An externalStream is what is known of one of Envoy's streams.
type externalStream struct {
	names map[string]bool
	held  map[string]string // by name, what Envoy has
	sent  map[string]string // by nonce, the name
	nonce uint64
}

// serve answers a stream that began with a request for external secrets.
func (e *externals) serve(ctx context.Context, g secretv3.SecretDiscoveryService_DeltaSecretsServer, first *discoveryv3.DeltaDiscoveryRequest) error {
	changed := make(chan struct{}, 1)
	e.mu.Lock()
	e.streams[changed] = true
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.streams, changed)
	}()
	in, end := make(chan *discoveryv3.DeltaDiscoveryRequest), make(chan error, 1)
	var reader sync.WaitGroup
	reader.Go(func() { // ends with the handler, which ends the stream
		for {
			r, err := g.Recv()
			if err != nil {
				end <- err
				return
			}
			select {
			case in <- r:
			case <-g.Context().Done():
				end <- g.Context().Err()
				return
			}
		}
	})
	st := &externalStream{names: map[string]bool{}, held: map[string]string{}, sent: map[string]string{}}
	e.request(st, first)
	for {
		for _, r := range e.due(st) {
			if err := g.Send(r); err != nil {
				return err
			}
		}
		select {
		case r := <-in:
			e.request(st, r)
		case <-changed:
		case err := <-end:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// request takes what Envoy asks for and answers.
func (e *externals) request(st *externalStream, in *discoveryv3.DeltaDiscoveryRequest) {
	maps.Copy(st.held, in.GetInitialResourceVersions())
	for _, name := range in.GetResourceNamesSubscribe() {
		if isWorkloads(name) {
			continue
		}
		if _, first := in.GetInitialResourceVersions()[name]; !first {
			delete(st.held, name)
		}
		st.names[name] = true
		if name == envoy.SystemAuthorities {
			e.readSystem()
		}
	}
	for _, name := range in.GetResourceNamesUnsubscribe() {
		delete(st.names, name)
		delete(st.held, name)
	}
	name, ok := st.sent[in.GetResponseNonce()]
	if !ok {
		return
	}
	delete(st.sent, in.GetResponseNonce())
	e.mu.Lock()
	defer e.mu.Unlock()
	if d := in.GetErrorDetail(); d != nil {
		e.log.Error("envoy refused a secret of an external service; it goes on with the former one", "secret", name, "reason", d.GetMessage())
		e.refused[name] = d.GetMessage()
	} else {
		delete(e.refused, name)
	}
	e.news()
}

// due are the secrets that Envoy asked for and does not have. One at a time, since an answer is to the whole response.
func (e *externals) due(st *externalStream) []*discoveryv3.DeltaDiscoveryResponse {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []*discoveryv3.DeltaDiscoveryResponse
	for _, name := range slices.Sorted(maps.Keys(st.names)) {
		v := e.values[name]
		if !v.exists() || st.held[name] == v.xds {
			continue
		}
		st.nonce++
		nonce := strconv.FormatUint(st.nonce, 10)
		st.held[name], st.sent[nonce] = v.xds, name
		out = append(out, &discoveryv3.DeltaDiscoveryResponse{
			TypeUrl: resourcev3.SecretType, Nonce: nonce, SystemVersionInfo: v.xds,
			Resources: []*discoveryv3.Resource{{Name: name, Version: v.xds, Resource: v.body}},
		})
	}
	return out
}

// rejected says what Envoy refused, by name.
func (e *externals) rejected() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []string
	for _, name := range slices.Sorted(maps.Keys(e.refused)) {
		out = append(out, name+": "+e.refused[name])
	}
	return out
}
