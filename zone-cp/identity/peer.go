package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/pki"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// PeerLifetime is how long the certificate of a control plane lives. It is renewed before half of that.
const PeerLifetime = 24 * time.Hour

// ErrUntrusted is a peer that is not the control plane of a zone whose trust domain this zone knows.
var ErrUntrusted = errors.New("the peer is not a trusted control plane")

// ErrClocks is a peer whose certificate is right but not valid at this time: one of the clocks is wrong.
var ErrClocks = errors.New("the certificate of the peer is not valid now; compare the clocks")

// A ControlPlane is how the control plane of this zone shows itself to those of other zones in one mesh, and whom it believes.
// It is immutable. Its key lives in memory only.
type ControlPlane struct {
	Mesh        string
	TrustDomain string
	SPIFFEID    string
	Certificate tls.Certificate
	NotAfter    time.Time

	renew  time.Time
	issuer string
	peers  map[string]peerDomain // by trust domain
	trust  string                // version of the MeshTrusts behind peers
	now    func() time.Time
}

// A peerDomain is one trust domain with its own authorities, and the zones to which it belongs: the empty name stands for all.
type peerDomain struct {
	roots *x509.CertPool
	zones []string
}

// ControlPlane is the identity of this zone's control plane in a mesh and the trust bundles of the mesh. It signs a new certificate
// when the old one is due or its authority has changed, so callers ask for each connection and keep nothing.
// Without a MeshIdentity that issues here it returns ErrNoIdentity, and ErrNotReady while the authority cannot sign.
func (a *Authority) ControlPlane(in string) (*ControlPlane, error) {
	s := a.cfg.Catalog.Snapshot()
	now := a.cfg.Now()
	a.peersMu.Lock()
	defer a.peersMu.Unlock()
	last := a.peers[in]
	if last.cp != nil && last.snapshot == s && now.Before(last.cp.renew) {
		return last.cp, nil
	}
	old := last.cp
	cp, err := a.certified(s, in, old, now)
	if err != nil {
		return nil, fmt.Errorf("identity of this control plane in mesh %s: %w", in, err)
	}
	trust := peerTrustState(s, in)
	cp.trust, cp.now = trust, a.cfg.Now
	if old != nil && old.trust == trust {
		cp.peers = old.peers
	} else {
		cp.peers = peerDomains(s, in)
	}
	if len(a.peers) > 1000 {
		clear(a.peers)
	}
	a.peers[in] = peerEntry{s, cp}
	return cp, nil
}

type peerEntry struct {
	snapshot *catalog.Snapshot
	cp       *ControlPlane
}

// certified has a certificate: the one that is there while it is good, otherwise a new one. One that is due but cannot be renewed is
// used until it ends.
func (a *Authority) certified(s *catalog.Snapshot, in string, old *ControlPlane, now time.Time) (*ControlPlane, error) {
	domain, issuer, err := a.peerIssuer(s, in)
	cp := &ControlPlane{Mesh: in, TrustDomain: domain, SPIFFEID: mesh.ControlPlaneID(domain)}
	if err == nil && (old == nil || old.issuer != issuer.ID || old.TrustDomain != domain || !now.Before(old.renew)) {
		if err = cp.sign(issuer, now); err == nil {
			return cp, nil
		}
		err = fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	if err != nil && (old == nil || !errors.Is(err, ErrNotReady) || !now.Before(old.NotAfter)) {
		return nil, err
	}
	kept := *old
	return &kept, nil
}

// peerIssuer finds the authority that signs for the control plane: that of the first bundled MeshIdentity by name that can sign,
// one whose authority a MeshTrust holds before others, which nobody would believe.
func (a *Authority) peerIssuer(s *catalog.Snapshot, in string) (domain string, issuer *pki.Issuer, err error) {
	var why error
	trust := a.Trust(in)
	for _, id := range identities(s, in) {
		if z := id.Zone(); bundled(id) == nil || z != "" && z != a.cfg.Zone {
			continue
		}
		d, err := mesh.TrustDomain(id, a.cfg.Zone)
		if err != nil {
			why = errors.Join(why, err)
			continue
		}
		i, err := a.issuer(s, id)
		if err != nil {
			why = errors.Join(why, fmt.Errorf("%s: %w", id.Key(), err))
			continue
		}
		if trust.Trusts(d, i.ID) {
			return d, i, nil
		}
		if issuer == nil {
			domain, issuer = d, i
		}
	}
	switch {
	case issuer != nil:
		return domain, issuer, nil
	case why != nil:
		return "", nil, fmt.Errorf("%w: %w", ErrNotReady, why)
	}
	return "", nil, fmt.Errorf("%w: create a MeshIdentity with a Bundled provider", ErrNoIdentity)
}

// sign makes a key and has it certified.
func (c *ControlPlane) sign(issuer *pki.Issuer, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	leaf, err := issuer.Sign(key.Public(), c.SPIFFEID, PeerLifetime, now)
	if err != nil {
		return err
	}
	c.Certificate = tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: crypto.Signer(key), Leaf: leaf}
	for _, above := range issuer.Between() {
		c.Certificate.Certificate = append(c.Certificate.Certificate, above.Raw)
	}
	c.issuer, c.NotAfter = issuer.ID, leaf.NotAfter
	c.renew = now.Add(leaf.NotAfter.Sub(now) / 2)
	return nil
}

// peerTrustState names the MeshTrusts of a mesh and the zones they come from.
func peerTrustState(s *catalog.Snapshot, in string) string {
	state := ""
	s.Each(mesh.TypeMeshTrust, in, func(r resource.Resource) bool {
		state += fmt.Sprintf("%s %s %d %s\n", r.Name, r.UID, r.Version, r.Zone())
		return true
	})
	return state
}

// peerDomains collects one bundle per trust domain, never one for several, and the zones whose MeshTrusts they come from.
func peerDomains(s *catalog.Snapshot, in string) map[string]peerDomain {
	out := map[string]peerDomain{}
	for _, b := range collect(s, in).Bundles {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM([]byte(b.PEM))
		out[b.Domain] = peerDomain{roots: roots}
	}
	s.Each(mesh.TypeMeshTrust, in, func(r resource.Resource) bool {
		if spec, ok := r.Spec.(*mesh.MeshTrust); ok {
			if d, ok := out[spec.TrustDomain]; ok {
				d.zones = append(d.zones, r.Zone())
				out[spec.TrustDomain] = d
			}
		}
		return true
	})
	return out
}

// Knows says whether the control plane of a zone could be believed: a bundle of a trust domain that belongs to it is here.
func (c *ControlPlane) Knows(zone string) bool {
	for _, d := range c.peers {
		if d.of(zone) {
			return true
		}
	}
	return false
}

// Owns says whether a trust domain belongs to a zone, or to all.
func (c *ControlPlane) Owns(zone, trustDomain string) bool {
	d, ok := c.peers[trustDomain]
	return ok && d.of(zone)
}

func (d peerDomain) of(zone string) bool {
	return slices.Contains(d.zones, zone) || slices.Contains(d.zones, "")
}

// maxChain bounds what a peer presents.
const maxChain = 8

// Verify accepts the certificates that a peer presents, leaf first, when they make it the control plane of a zone: its id is that of a
// control plane, and the bundle of exactly the trust domain of that id verifies it. It returns the trust domain, ErrUntrusted or ErrClocks.
func (c *ControlPlane) Verify(presented []*x509.Certificate) (trustDomain string, err error) {
	return c.verify(presented, func(id *url.URL) bool { return id.String() == mesh.ControlPlaneID(id.Host) })
}

// VerifyWorkload accepts the certificates that a peer presents, leaf first, when a trust domain that belongs to a zone has issued them,
// whoever of that zone it is.
func (c *ControlPlane) VerifyWorkload(zone string, presented []*x509.Certificate) error {
	_, err := c.verify(presented, func(id *url.URL) bool { return c.Owns(zone, id.Host) })
	return err
}

func (c *ControlPlane) verify(presented []*x509.Certificate, wanted func(id *url.URL) bool) (trustDomain string, err error) {
	if len(presented) == 0 || len(presented) > maxChain {
		return "", fmt.Errorf("%w: it presents %d certificates", ErrUntrusted, len(presented))
	}
	leaf := presented[0]
	if len(leaf.URIs) != 1 || leaf.IsCA {
		return "", fmt.Errorf("%w: its certificate must have one SPIFFE ID", ErrUntrusted)
	}
	id := leaf.URIs[0]
	if !wanted(id) {
		return "", fmt.Errorf("%w: it is %s", ErrUntrusted, resource.Quote(id.String()))
	}
	domain, ok := c.peers[id.Host]
	if !ok {
		return "", fmt.Errorf("%w: no MeshTrust of mesh %s holds a bundle of trust domain %s", ErrUntrusted, c.Mesh, resource.Quote(id.Host))
	}
	between := x509.NewCertPool()
	for _, above := range presented[1:] {
		between.AddCert(above)
	}
	now := c.now()
	within := now // the time nearest to now at which the certificate is valid, so that a signature is judged apart from a clock
	if within.Before(leaf.NotBefore) {
		within = leaf.NotBefore
	} else if within.After(leaf.NotAfter) {
		within = leaf.NotAfter
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: domain.roots, Intermediates: between, CurrentTime: within,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, // what the authorities of a mesh sign serves both ways
	}); err != nil {
		return "", fmt.Errorf("%w: the bundle of trust domain %s does not verify it: %w", ErrUntrusted, resource.Quote(id.Host), err)
	}
	if !within.Equal(now) {
		return "", fmt.Errorf("%w: it is valid from %s to %s, and here it is %s", ErrClocks,
			leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return id.Host, nil
}
