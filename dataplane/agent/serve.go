package agent

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/causeway-mesh/causeway/api/agentapi"
)

// serving is what the agent itself serves with as its workload: the same identity and trust that its Envoy has.
type serving struct {
	identity *tls.Certificate
	trust    map[string]*x509.CertPool // by trust domain
}

func pools(t *agentapi.Trust) map[string]*x509.CertPool {
	out := map[string]*x509.CertPool{}
	for _, b := range t.GetBundles() {
		pool := x509.NewCertPool()
		if pool.AppendCertsFromPEM([]byte(b.GetPem())) {
			out[b.GetTrustDomain()] = pool
		}
	}
	return out
}

// serverTLS serves with the identity of the workload, to clients with an identity of the mesh and nobody else.
func (l *link) serverTLS() (*tls.Config, error) {
	l.mu.Lock()
	now := l.serving
	l.mu.Unlock()
	if now.identity == nil || len(now.trust) == 0 {
		return nil, errors.New("the proxy has no identity of the mesh; create a MeshIdentity for it")
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*now.identity}, ClientAuth: tls.RequireAnyClientCert,
		// A ticket would let a client in after its certificate has ended.
		SessionTicketsDisabled: true,
		VerifyConnection:       func(c tls.ConnectionState) error { return now.verify(c.PeerCertificates) },
	}, nil
}

// verify checks a client by the bundle of its own trust domain and no other.
func (s serving) verify(chain []*x509.Certificate) error {
	if len(chain) == 0 || len(chain[0].URIs) != 1 || chain[0].URIs[0].Scheme != "spiffe" {
		return errors.New("the client has no identity of a mesh")
	}
	id := chain[0].URIs[0]
	roots := s.trust[id.Host]
	if roots == nil {
		return fmt.Errorf("trust domain %q is not one of this mesh", id.Host)
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}
