// Package authority is a certificate authority that a control plane keeps in a GlobalSecret of its own store, for the certificates
// between it and those that connect to it. Every instance on that store signs and verifies alike. It signs no workload, and what
// a certificate says about its holder is its caller's business.
package authority

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/pki"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// Config of an Authority.
type Config struct {
	Catalog *catalog.Catalog
	// Secret is the name of the GlobalSecret with certificate and key in PEM.
	Secret string
	// Name is the subject of the authority, for people.
	Name string
	// Labels are set on the GlobalSecret, beside its display name.
	Labels map[string]string
	Author string
	// Without says what must be done once the GlobalSecret is deleted, for messages.
	Without string
	// Grace is how long TLS takes a client certificate after its end: for holders that were away and can renew only by coming. It must
	// then be checked in another way that the holder is still welcome, and Verify be asked for the certificate. Zero: not at all.
	Grace time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// An Authority signs client certificates.
type Authority struct {
	issuer *pki.Issuer
	pem    struct{ certificate, key []byte }
	grace  time.Duration
	now    func() time.Time
}

// visible bounds how long an instance waits to see what another one wrote.
const visible = 10 * time.Second

// Open reads the authority, or makes and stores it. Of several instances that start together one makes it. The catalog must run.
func Open(ctx context.Context, cfg Config) (*Authority, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	a, err := open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("authority in GlobalSecret %s: %w", cfg.Secret, err)
	}
	return a, nil
}

func open(ctx context.Context, cfg Config) (*Authority, error) {
	key := resource.Key{Type: mesh.TypeGlobalSecret, Name: cfg.Secret}
	for _, aside := range cfg.Catalog.Snapshot().SetAside() {
		if aside.Key.Type == key.Type && aside.Key.Name == key.Name {
			return nil, fmt.Errorf("it cannot be read: %s; all instances on one store need the same sealing keys", aside.Reason)
		}
	}
	if _, ok := cfg.Catalog.Snapshot().Get(key); !ok {
		if err := create(ctx, cfg, key); err != nil {
			return nil, err
		}
	}
	data, err := await(ctx, cfg.Catalog, key)
	if err != nil {
		return nil, err
	}
	cert, private, ok := pki.SplitPEM(data)
	if !ok {
		return nil, fmt.Errorf("it must hold a certificate and a key; restore it, or delete it and %s", cfg.Without)
	}
	issuer, err := pki.ParseIssuer(cert, private, true, cfg.Now())
	if err != nil {
		return nil, err
	}
	a := &Authority{issuer: issuer, grace: cfg.Grace, now: cfg.Now}
	a.pem.certificate, a.pem.key = cert, private
	return a, nil
}

func create(ctx context.Context, cfg Config, key resource.Key) error {
	cert, private, err := pki.NewRoot(cfg.Name, "", cfg.Now())
	if err != nil {
		return err
	}
	labels := map[string]string{resource.LabelDisplayName: key.Name}
	for k, v := range cfg.Labels {
		labels[k] = v
	}
	r, err := resource.WithSpec(resource.Meta{Type: key.Type, Name: key.Name, Labels: labels}, &mesh.GlobalSecret{Data: append(cert, private...)})
	if err != nil {
		return err
	}
	_, err = cfg.Catalog.Commit(ctx, catalog.Batch{
		Author: cfg.Author, Reason: "authority of this control plane",
		Puts: []catalog.Put{{Resource: r, Expect: store.ExpectAbsent}},
	})
	if errors.Is(err, store.ErrConflict) {
		return nil // another instance was first
	}
	return err
}

// await waits until what was written, perhaps by another instance, can be seen here.
func await(ctx context.Context, c *catalog.Catalog, key resource.Key) ([]byte, error) {
	feed := c.Subscribe()
	defer feed.Close()
	ctx, cancel := context.WithTimeout(ctx, visible)
	defer cancel()
	for {
		if r, ok := c.Snapshot().Get(key); ok {
			if spec, ok := r.Spec.(*mesh.GlobalSecret); ok {
				return spec.Data, nil
			}
		}
		if _, err := feed.Next(ctx); err != nil {
			return nil, fmt.Errorf("it was written but is not visible here; start again: %w", err)
		}
	}
}

// PEM is certificate and key, for whoever signs with them in another way.
func (a *Authority) PEM() (certificate, key []byte) { return a.pem.certificate, a.pem.key }

// Pool holds what the certificates of this authority are verified with.
func (a *Authority) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.issuer.Signing())
	return p
}

// TLS is the server side of connections. A client certificate is optional, since whoever comes to get its first one has none yet,
// but one that is given must be of this authority.
func (a *Authority) TLS(server func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	cfg := &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: server,
		ClientAuth:     tls.VerifyClientCertIfGiven,
		ClientCAs:      a.Pool(),
		NextProtos:     []string{"h2"},
		Time:           a.now,
		// A resumed session would outlive the certificate it began with.
		SessionTicketsDisabled: true,
	}
	if a.grace > 0 {
		// The standard check knows no grace.
		cfg.ClientAuth = tls.RequestClientCert
		cfg.VerifyConnection = func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return nil
			}
			_, err := a.Verify(s.PeerCertificates[0])
			return err
		}
	}
	return cfg
}

// Verify checks that a client certificate is of this authority and not longer at its end than the grace, and says how long it will
// be taken, the grace included.
func (a *Authority) Verify(leaf *x509.Certificate) (left time.Duration, err error) {
	now := a.now()
	at := now
	if over := now.Sub(leaf.NotAfter); over > 0 && over <= a.grace {
		at = leaf.NotAfter
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: a.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, CurrentTime: at})
	if err != nil {
		return 0, fmt.Errorf("client certificate: %w", err)
	}
	return leaf.NotAfter.Add(a.grace).Sub(now), nil
}

// Sign signs a PKCS #10 request for a client certificate that says what the URI says; names in the request are ignored.
// Name is for people. It returns a *pki.RequestError for a bad request.
func (a *Authority) Sign(request []byte, name string, uri *url.URL, lifetime time.Duration) (chain [][]byte, left time.Duration, err error) {
	public, err := pki.ParseRequest(request)
	if err != nil {
		return nil, 0, err
	}
	serial, err := pki.NewSerial()
	if err != nil {
		return nil, 0, err
	}
	now := a.now()
	until := now.Add(lifetime).Truncate(time.Second) // certificates know no parts of seconds
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name[:min(len(name), maxCommonName)]},
		URIs:                  []*url.URL{uri},
		NotBefore:             now.Add(-pki.Backdate),
		NotAfter:              until,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := a.issuer.Create(t, public)
	if err != nil {
		return nil, 0, fmt.Errorf("sign a client certificate: %w", err)
	}
	return [][]byte{der}, until.Sub(now), nil
}

// maxCommonName is the limit of X.520; nothing reads the subject.
const maxCommonName = 64
