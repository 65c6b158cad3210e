// Package identity is the certificate authority of a zone: it keeps the authority of each MeshIdentity, signs the requests of
// workloads for the SPIFFE ID that their registered Dataplane has, and keeps the MeshTrusts that others validate with.
// It opens no connection, never sees the key of a workload, and does not decide who may register as what.
package identity

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/pki"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// DefaultExpiry is how long a workload certificate lives when its MeshIdentity says nothing.
const DefaultExpiry = 120 * time.Hour

// The outcomes that callers distinguish; each is wrapped with what was being done.
var (
	// ErrNoIdentity is a Dataplane that no MeshIdentity with a bundled provider selects.
	ErrNoIdentity = errors.New("the mesh has no identity for it")
	// ErrNotReady is an authority that cannot sign yet; asking again later may help.
	ErrNotReady = errors.New("the certificate authority is not ready")
	// ErrUnknownDataplane is a Dataplane that is not registered.
	ErrUnknownDataplane = errors.New("the Dataplane is not registered")
)

// Config is what an Authority needs.
type Config struct {
	Catalog *catalog.Catalog
	// Zone is the name of the zone whose authority this is.
	Zone string
	Log  *slog.Logger
	// LookupEnv reads the environment for authorities that users keep there; nil means they cannot.
	LookupEnv func(string) (string, bool)
	// Fence gives the lease under which the authority writes; nil: it is the only one that does.
	Fence func() *store.Fence
	// RetryInterval is how long to wait before trying again to write what could not be written. Default 2s.
	RetryInterval time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// An Authority signs for the workloads of one zone. Run keeps its authorities and trusts.
type Authority struct {
	cfg Config

	mu      sync.Mutex
	issuers map[[sha256.Size]byte]*pki.Issuer // by what they were parsed from
	trusts  map[string]*Trust                 // by mesh

	peersMu sync.Mutex // held while signing; taken before mu
	peers   map[string]peerEntry
}

// New makes an authority over a catalog.
func New(cfg Config) *Authority {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.RetryInterval <= 0 {
		cfg.RetryInterval = 2 * time.Second
	}
	return &Authority{cfg: cfg, issuers: map[[sha256.Size]byte]*pki.Issuer{}, trusts: map[string]*Trust{}, peers: map[string]peerEntry{}}
}

// An Offer says which identity a Dataplane has; the zero value means none.
type Offer struct {
	SPIFFEID string
	// Issuer names the certificate that signs; empty while the authority is not ready.
	Issuer string
	// Elsewhere says that the workload gets its certificate from an agent of SPIRE on its host and not here.
	Elsewhere bool
	// Identity is the MeshIdentity that gives it.
	Identity resource.KRI
}

// IsZero says that there is no identity.
func (o Offer) IsZero() bool { return o.SPIFFEID == "" }

// Offer computes the identity of a registered Dataplane from its labels as they are stored.
// It returns ErrNoIdentity, ErrUnknownDataplane, or why the name cannot be made; an authority that cannot sign is no error here.
func (a *Authority) Offer(dataplane resource.Key) (Offer, error) {
	s := a.cfg.Catalog.Snapshot()
	o, _, err := a.offer(s, dataplane)
	return o, err
}

func (a *Authority) offer(s *catalog.Snapshot, dataplane resource.Key) (Offer, resource.Resource, error) {
	dp, ok := s.Get(dataplane)
	if !ok {
		return Offer{}, resource.Resource{}, fmt.Errorf("identity of %s: %w", dataplane, ErrUnknownDataplane)
	}
	id, ok := mesh.SelectIdentity(identities(s, dp.Mesh), dp.Meta)
	if !ok || bundled(id) == nil && !fromSPIRE(id) {
		return Offer{}, resource.Resource{}, fmt.Errorf("identity of %s: %w", dataplane, ErrNoIdentity)
	}
	name, err := mesh.SPIFFEID(id, dp.Meta, a.cfg.Zone)
	if err != nil {
		for _, l := range id.Spec.(*mesh.MeshIdentity).PathLabels(dp.Meta) {
			if spec, ok := dp.Spec.(*mesh.Dataplane); dp.Label(l) == "" && ok && spec.PassesOnly() {
				return Offer{}, resource.Resource{}, fmt.Errorf("identity of %s: %w", dataplane, ErrNoIdentity)
			}
			if dp.Label(l) == "" {
				return Offer{}, resource.Resource{}, fmt.Errorf("the Dataplane lacks label %s: %w", l, err)
			}
		}
		return Offer{}, resource.Resource{}, err
	}
	if id, err := url.Parse(name); err != nil || name == mesh.ControlPlaneID(id.Host) {
		return Offer{}, resource.Resource{}, fmt.Errorf("identity of %s: %s is the control plane's; choose another path in the MeshIdentity", dataplane, name)
	}
	o := Offer{SPIFFEID: name, Identity: a.kri(id), Elsewhere: fromSPIRE(id)}
	if o.Elsewhere {
		return o, id, nil
	}
	if i, err := a.issuer(s, id); err == nil {
		o.Issuer = i.ID
	}
	return o, id, nil
}

func (a *Authority) kri(r resource.Resource) resource.KRI {
	k, _ := a.cfg.Catalog.Kinds().ByName(r.Type)
	return resource.KRIOf(k, r.Meta)
}

func identities(s *catalog.Snapshot, in string) []resource.Resource {
	var out []resource.Resource
	s.Each(mesh.TypeMeshIdentity, in, func(r resource.Resource) bool {
		out = append(out, r)
		return true
	})
	return out
}

// fromSPIRE says that workloads get their certificates from agents of SPIRE on their hosts.
func fromSPIRE(id resource.Resource) bool {
	spec, ok := id.Spec.(*mesh.MeshIdentity)
	return ok && spec.Provider != nil && spec.Provider.Type == mesh.ProviderSpire
}

// bundled returns the bundled provider of an identity, nil when certificates come from elsewhere or nowhere.
func bundled(id resource.Resource) *mesh.BundledProvider {
	spec, ok := id.Spec.(*mesh.MeshIdentity)
	if !ok || spec.Provider == nil || spec.Provider.Type != mesh.ProviderBundled {
		return nil
	}
	if spec.Provider.Bundled == nil {
		return &mesh.BundledProvider{}
	}
	return spec.Provider.Bundled
}

// Issued is a signed workload certificate.
type Issued struct {
	Chain    [][]byte // DER, leaf first, without the root
	SPIFFEID string
	Serial   string
	Issuer   string
	NotAfter time.Time
	Lifetime time.Duration // from now
	Identity resource.KRI
}

// Sign signs a PKCS #10 request for the SPIFFE ID of a registered Dataplane. Names in the request are ignored.
// It returns a *pki.RequestError for a bad request, and otherwise what Offer returns or ErrNotReady.
func (a *Authority) Sign(ctx context.Context, dataplane resource.Key, request []byte) (Issued, error) {
	public, err := pki.ParseRequest(request)
	if err != nil {
		return Issued{}, err
	}
	if err := ctx.Err(); err != nil {
		return Issued{}, err
	}
	s := a.cfg.Catalog.Snapshot()
	o, id, err := a.offer(s, dataplane)
	if err != nil {
		return Issued{}, err
	}
	issuer, err := a.issuer(s, id)
	if err != nil {
		return Issued{}, fmt.Errorf("sign for %s: %w: %s: %w", dataplane, ErrNotReady, id.Key(), err)
	}
	now := a.cfg.Now()
	leaf, err := issuer.Sign(public, o.SPIFFEID, expiry(bundled(id)), now)
	if err != nil {
		return Issued{}, fmt.Errorf("sign for %s: %w: %w", dataplane, ErrNotReady, err)
	}
	out := Issued{
		Chain: [][]byte{leaf.Raw}, SPIFFEID: o.SPIFFEID, Serial: pki.Serial(leaf), Issuer: issuer.ID,
		NotAfter: leaf.NotAfter, Lifetime: leaf.NotAfter.Sub(now), Identity: o.Identity,
	}
	for _, c := range issuer.Between() {
		out.Chain = append(out.Chain, c.Raw)
	}
	return out, nil
}

func expiry(p *mesh.BundledProvider) time.Duration {
	if p.CertificateParameters == nil || p.CertificateParameters.Expiry == nil {
		return DefaultExpiry
	}
	return p.CertificateParameters.Expiry.Duration
}

// Held judges a certificate that a workload already holds: whether this authority signed it for the identity
// that the Dataplane has now, and it is still valid.
func (a *Authority) Held(dataplane resource.Key, der []byte) (Issued, bool) {
	if len(der) == 0 || len(der) > 64<<10 {
		return Issued{}, false
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return Issued{}, false
	}
	s := a.cfg.Catalog.Snapshot()
	o, id, err := a.offer(s, dataplane)
	if err != nil || !hasURI(leaf, o.SPIFFEID) {
		return Issued{}, false
	}
	if o.Elsewhere {
		// Who signed it is for peers to judge; here it only counts that there is one.
		if now := a.cfg.Now(); now.After(leaf.NotAfter) {
			return Issued{}, false
		}
		return Issued{SPIFFEID: o.SPIFFEID, Serial: pki.Serial(leaf), NotAfter: leaf.NotAfter, Lifetime: leaf.NotAfter.Sub(a.cfg.Now()), Identity: o.Identity}, true
	}
	issuer, err := a.issuer(s, id)
	if err != nil {
		return Issued{}, false
	}
	signer, err := issuer.Verify(leaf, a.cfg.Now())
	if err != nil {
		return Issued{}, false
	}
	out := Issued{SPIFFEID: o.SPIFFEID, Serial: pki.Serial(leaf), NotAfter: leaf.NotAfter, Lifetime: leaf.NotAfter.Sub(a.cfg.Now()), Identity: o.Identity}
	if signer.Equal(issuer.Signing()) {
		out.Issuer = issuer.ID
	}
	return out, true
}

func hasURI(c *x509.Certificate, want string) bool {
	u, err := url.Parse(want)
	return err == nil && len(c.URIs) == 1 && *c.URIs[0] == *u
}

// issuer finds the authority of an identity; parsed ones are remembered by their content.
func (a *Authority) issuer(s *catalog.Snapshot, id resource.Resource) (*pki.Issuer, error) {
	p := bundled(id)
	if p == nil {
		return nil, errors.New("its certificates do not come from this control plane")
	}
	if z := id.Zone(); z != "" && z != a.cfg.Zone {
		return nil, fmt.Errorf("it belongs to zone %s", z)
	}
	cert, key, own, err := a.material(s, id, p)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%d %d %t ", len(cert), len(key), own || p.InsecureAllowSelfSigned)
	h.Write(cert)
	h.Write(key)
	var at [sha256.Size]byte
	h.Sum(at[:0])
	a.mu.Lock()
	defer a.mu.Unlock()
	if i, ok := a.issuers[at]; ok {
		if err := i.Check(a.cfg.Now()); err != nil {
			return nil, err
		}
		return i, nil
	}
	i, err := pki.ParseIssuer(cert, key, own || p.InsecureAllowSelfSigned, a.cfg.Now())
	if err != nil {
		return nil, err
	}
	if len(a.issuers) > 1000 {
		clear(a.issuers)
	}
	a.issuers[at] = i
	return i, nil
}

// material finds certificate and key of an authority; own says that this control plane generated them.
func (a *Authority) material(s *catalog.Snapshot, id resource.Resource, p *mesh.BundledProvider) (cert, key []byte, own bool, err error) {
	if generates(p) {
		var okCert, okKey bool
		cert, okCert = secretData(s, rootSecret(id))
		key, okKey = secretData(s, keySecret(id))
		if !okCert || !okKey {
			return nil, nil, true, errors.New("it is not generated yet")
		}
		return cert, key, true, nil
	}
	if p.CA == nil {
		return nil, nil, false, errors.New("neither autogenerate.enabled nor ca is set")
	}
	if cert, err = a.read(s, id.Mesh, p.CA.Certificate); err != nil {
		return nil, nil, false, fmt.Errorf("ca.certificate: %w", err)
	}
	if key, err = a.read(s, id.Mesh, p.CA.PrivateKey); err != nil {
		return nil, nil, false, fmt.Errorf("ca.privateKey: %w", err)
	}
	return cert, key, false, nil
}

func generates(p *mesh.BundledProvider) bool { return p.Autogenerate != nil && p.Autogenerate.Enabled }

func rootSecret(id resource.Resource) resource.Key {
	return resource.Key{Type: mesh.TypeSecret, Mesh: id.Mesh, Name: id.Name + "-root-ca"}
}

func keySecret(id resource.Resource) resource.Key {
	return resource.Key{Type: mesh.TypeSecret, Mesh: id.Mesh, Name: id.Name + "-private-key"}
}
