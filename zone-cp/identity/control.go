package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/pki"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// DefaultControlLifetime is how long a control certificate lives; agents renew it before half of that.
const DefaultControlLifetime = time.Hour

// controlSecret holds the control authority of a zone: certificate and key in PEM.
const controlSecret = "agent-control-ca"

// A Control is the authority of a zone for the certificates with which agents connect.
// It signs no workload and no workload trusts it.
type Control struct {
	issuer   *pki.Issuer
	lifetime time.Duration
	now      func() time.Time
}

// A Grant is what a control certificate says about its holder. The token's claims travel in it, so that they
// still bind the holder after the zone restarted.
type Grant struct {
	Mesh     string
	Name     string
	Instance string // one life of an agent process
	Token    string // id of the token, for revocation; empty when tokens are off
	// What the token allows; empty means anything.
	Workload string
	Tags     map[string][]string
}

// Key addresses the Dataplane of the holder.
func (g Grant) Key() resource.Key {
	return resource.Key{Type: mesh.TypeDataplane, Mesh: g.Mesh, Name: g.Name}
}

// OpenControl reads the control authority of a zone, or makes and stores it.
// Lifetime and now may be zero for their defaults.
func OpenControl(ctx context.Context, c *catalog.Catalog, zone string, lifetime time.Duration, now func() time.Time) (*Control, error) {
	if now == nil {
		now = time.Now
	}
	if lifetime <= 0 {
		lifetime = DefaultControlLifetime
	}
	key := resource.Key{Type: mesh.TypeGlobalSecret, Name: controlSecret}
	if _, ok := c.Snapshot().Get(key); !ok {
		if err := makeControl(ctx, c, key, zone, now()); err != nil {
			return nil, fmt.Errorf("control authority: %w", err)
		}
	}
	data, ok := secretData(c.Snapshot(), key)
	if !ok {
		return nil, fmt.Errorf("control authority: GlobalSecret %s was written but is not visible yet; start again", controlSecret)
	}
	cert, private, ok := pki.SplitPEM(data)
	if !ok {
		return nil, fmt.Errorf("control authority: GlobalSecret %s must hold a certificate and a key; restore it, or delete it and let all agents enroll again", controlSecret)
	}
	issuer, err := pki.ParseIssuer(cert, private, true, now())
	if err != nil {
		return nil, fmt.Errorf("control authority: GlobalSecret %s: %w", controlSecret, err)
	}
	return &Control{issuer: issuer, lifetime: lifetime, now: now}, nil
}

func makeControl(ctx context.Context, c *catalog.Catalog, key resource.Key, zone string, now time.Time) error {
	cert, private, err := pki.NewRoot("agents of "+zone, "", now)
	if err != nil {
		return err
	}
	r, err := resource.WithSpec(resource.Meta{Type: key.Type, Name: key.Name, Labels: map[string]string{
		resource.LabelDisplayName: key.Name,
		resource.LabelOrigin:      resource.OriginZone,
		resource.LabelZone:        zone,
		resource.LabelEnv:         "universal",
	}}, &mesh.GlobalSecret{Data: append(cert, private...)})
	if err != nil {
		return err
	}
	_, err = c.Commit(ctx, catalog.Batch{
		Author: author, Reason: "control authority of the zone",
		Puts: []catalog.Put{{Resource: r, Expect: store.ExpectAbsent}},
	})
	if errors.Is(err, store.ErrConflict) {
		return nil // another instance of the zone was first
	}
	return err
}

// Pool holds what control certificates are verified with.
func (c *Control) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c.issuer.Signing())
	return p
}

// TLS is the server side of agent connections. A client certificate is optional, since an agent that enrolls has none yet,
// but one that is given must be a control certificate of this zone.
func (c *Control) TLS(server func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: server,
		ClientAuth:     tls.VerifyClientCertIfGiven,
		ClientCAs:      c.Pool(),
		NextProtos:     []string{"h2"},
		Time:           c.now,
		// A resumed session would outlive the certificate it began with.
		SessionTicketsDisabled: true,
	}
}

// Issue signs the request of an agent for a control certificate. It returns a *pki.RequestError for a bad request.
func (c *Control) Issue(request []byte, g Grant) (chain [][]byte, lifetime time.Duration, err error) {
	public, err := pki.ParseRequest(request)
	if err != nil {
		return nil, 0, err
	}
	serial, err := pki.NewSerial()
	if err != nil {
		return nil, 0, err
	}
	now := c.now()
	until := now.Add(c.lifetime).Truncate(time.Second) // certificates know no parts of seconds
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: g.Mesh + "." + g.Name},
		URIs:                  []*url.URL{g.uri()},
		NotBefore:             now.Add(-pki.Backdate),
		NotAfter:              until,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	if len(t.Subject.CommonName) > 64 { // the limit of X.520; nothing reads the subject
		t.Subject.CommonName = t.Subject.CommonName[:64]
	}
	der, err := c.issuer.Create(t, public)
	if err != nil {
		return nil, 0, fmt.Errorf("sign a control certificate: %w", err)
	}
	return [][]byte{der}, until.Sub(now), nil
}

const grantScheme = "causeway-agent"

func (g Grant) uri() *url.URL {
	q := url.Values{"instance": {g.Instance}}
	set := func(k, v string) {
		if v != "" {
			q.Set(k, v)
		}
	}
	set("token", g.Token)
	set("workload", g.Workload)
	for k, vs := range g.Tags {
		for _, v := range vs {
			q.Add("tag", k+"="+v)
		}
	}
	slices.Sort(q["tag"])
	return &url.URL{Scheme: grantScheme, Host: g.Mesh, Path: "/" + g.Name, RawQuery: q.Encode()}
}

// GrantOf reads what a verified control certificate says.
func GrantOf(cert *x509.Certificate) (Grant, error) {
	if len(cert.URIs) != 1 || cert.URIs[0].Scheme != grantScheme {
		return Grant{}, errors.New("the client certificate is not a control certificate")
	}
	u := cert.URIs[0]
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Grant{}, fmt.Errorf("control certificate: %w", err)
	}
	g := Grant{
		Mesh: u.Host, Name: strings.TrimPrefix(u.Path, "/"),
		Instance: q.Get("instance"), Token: q.Get("token"), Workload: q.Get("workload"),
	}
	for _, tag := range q["tag"] {
		k, v, _ := strings.Cut(tag, "=")
		if g.Tags == nil {
			g.Tags = map[string][]string{}
		}
		g.Tags[k] = append(g.Tags[k], v)
	}
	if g.Mesh == "" || g.Name == "" || g.Instance == "" {
		return Grant{}, errors.New("the control certificate names no dataplane")
	}
	return g, nil
}
