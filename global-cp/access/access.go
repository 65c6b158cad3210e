// Package access decides who may be a zone of this global control plane: single-use join tokens, the short-lived client certificates
// that zones get for them, and their revocation. It opens no connection and knows nothing of what zones send.
//
// A zone is its Zone resource, and the zone id is the UID of that: a zone deleted and created again under its name is another one.
// What a zone proved lives in counters, not in clocks, which differ between the instances of global: every event that voids what
// was given out before raises the generation of the zone, and certificates and join tokens carry the generation of their time.
package access

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/pki"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/authority"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// DefaultLifetime is how long a client certificate of a zone lives; zones renew it before half of that.
const DefaultLifetime = 24 * time.Hour

// Grace is how long after its end a client certificate still lets a zone connect, to renew it: global may have been away for days.
// What shuts a zone out is its generation, which is checked in any case.
const Grace = 30 * 24 * time.Hour

// The GlobalSecrets of this package. None of them may leave global; their label kuma.io/kds-sync says so.
const (
	caSecret      = "zone-control-ca"
	membersSecret = "zone-members"
	joinPrefix    = "zone-join-"
)

const author = "zone access"

// The outcomes that callers distinguish; each is wrapped with what was being done.
var (
	// ErrRefused is a join token that admits nobody; the message says why.
	ErrRefused = errors.New("join token is refused")
	// ErrVoid is a credential that is not good any more; the message says why.
	ErrVoid = errors.New("credential of the zone is void")
)

// Config is what an Authority needs.
type Config struct {
	Catalog *catalog.Catalog
	Log     *slog.Logger
	// Lifetime of client certificates. Default DefaultLifetime.
	Lifetime time.Duration
	// MaxOutstanding is how many join tokens may wait to be used. Default 1000.
	MaxOutstanding int
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// An Authority says who may be a zone. It keeps everything in the catalog, so that all instances agree.
type Authority struct {
	cfg Config
	ca  *authority.Authority
}

// Open reads the authority of the zones, or makes and stores it. The catalog must run.
func Open(ctx context.Context, cfg Config) (*Authority, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Lifetime <= 0 {
		cfg.Lifetime = DefaultLifetime
	}
	if cfg.MaxOutstanding <= 0 {
		cfg.MaxOutstanding = 1000
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	ca, err := authority.Open(ctx, authority.Config{
		Catalog: cfg.Catalog, Secret: caSecret, Name: "zones of this global control plane", Labels: ownLabels(caSecret),
		Author: author, Without: "let all zones join again", Grace: Grace, Now: cfg.Now,
	})
	if err != nil {
		return nil, fmt.Errorf("zone credentials: %w", err)
	}
	return &Authority{cfg, ca}, nil
}

// ownLabels marks what never leaves global.
func ownLabels(name string) map[string]string {
	return map[string]string{
		resource.LabelDisplayName: name, resource.LabelOrigin: resource.OriginGlobal, resource.LabelKDSSync: "disabled",
	}
}

// A Credential is what the client certificate of a zone says.
type Credential struct {
	ZoneID string // UID of the Zone
	Zone   string
	// Generation of the zone in which it was given out.
	Generation uint64
	Serial     string
	Issued     time.Time // for people; instances may differ in their clocks
}

const credentialScheme = "causeway-zone"

func (c Credential) uri() *url.URL {
	q := url.Values{"generation": {strconv.FormatUint(c.Generation, 10)}, "issued": {c.Issued.UTC().Format(time.RFC3339)}}
	return &url.URL{Scheme: credentialScheme, Host: c.ZoneID, Path: "/" + c.Zone, RawQuery: q.Encode()}
}

// CredentialOf reads what a verified client certificate says.
func CredentialOf(cert *x509.Certificate) (Credential, error) {
	if len(cert.URIs) != 1 || cert.URIs[0].Scheme != credentialScheme {
		return Credential{}, errors.New("the client certificate is not that of a zone")
	}
	u := cert.URIs[0]
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Credential{}, fmt.Errorf("client certificate of a zone: %w", err)
	}
	c := Credential{ZoneID: u.Host, Zone: strings.TrimPrefix(u.Path, "/"), Serial: pki.Serial(cert)}
	if c.Generation, err = strconv.ParseUint(q.Get("generation"), 10, 64); err != nil {
		return Credential{}, fmt.Errorf("client certificate of a zone: generation: %w", err)
	}
	if c.Issued, err = time.Parse(time.RFC3339, q.Get("issued")); err != nil {
		return Credential{}, fmt.Errorf("client certificate of a zone: issued: %w", err)
	}
	if c.ZoneID == "" || c.Zone == "" {
		return Credential{}, errors.New("the client certificate names no zone")
	}
	return c, nil
}

// A Signed is a client certificate of a zone.
type Signed struct {
	Chain    [][]byte      // DER, leaf first
	Lifetime time.Duration // from now
}

func (a *Authority) sign(c Credential, csr []byte) (Signed, error) {
	c.Issued = a.cfg.Now()
	chain, left, err := a.ca.Sign(csr, "zone "+c.Zone, c.uri(), a.cfg.Lifetime)
	return Signed{chain, left}, err
}

// Renew signs another client certificate for a zone whose credential is good. It returns ErrVoid, or a *pki.RequestError for a bad
// request.
func (a *Authority) Renew(c Credential, csr []byte) (Signed, error) {
	if err := a.Check(c); err != nil {
		return Signed{}, err
	}
	s, err := a.sign(c, csr)
	if err != nil {
		return Signed{}, fmt.Errorf("renew the credential of zone %s: %w", c.Zone, err)
	}
	return s, nil
}

// Check returns ErrVoid with the reason when a credential is not good any more. Whether its certificate is from here, and not
// too old, is checked by TLS and Of.
func (a *Authority) Check(c Credential) error { return check(a.cfg.Catalog.Snapshot(), c) }

func check(s *catalog.Snapshot, c Credential) error {
	z, ok := s.Get(zoneKey(c.Zone))
	if !ok || z.UID != c.ZoneID {
		return fmt.Errorf("%w: zone %s was deleted; create a join token and let it join again", ErrVoid, c.Zone)
	}
	members, _, err := readMembers(s)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrVoid, err) // a list that cannot be read must not let anyone in
	}
	if m := members[c.ZoneID]; m.Generation != c.Generation {
		return fmt.Errorf("%w: zone %s %s since it was given out", ErrVoid, c.Zone, m.since())
	}
	return nil
}

// Watch returns ErrVoid with the reason as soon as a credential is not good any more, or the error of ctx. Whoever holds a
// connection open under a credential runs it beside.
func (a *Authority) Watch(ctx context.Context, c Credential) error {
	feed := a.cfg.Catalog.Subscribe()
	defer feed.Close()
	for {
		u, err := feed.Next(ctx)
		if err != nil {
			return fmt.Errorf("watch the credential of zone %s: %w", c.Zone, err)
		}
		if !concerns(u, c.Zone) {
			continue
		}
		if err := check(u.Snapshot, c); err != nil {
			return err
		}
	}
}

func concerns(u catalog.Update, zone string) bool {
	if u.All {
		return true
	}
	for _, k := range u.Changed {
		if k == zoneKey(zone) || k == membersKey {
			return true
		}
	}
	return false
}

// Revoke voids every credential and every unused join token of a zone. The zone is admitted again only with a new join token.
// It returns resource.ErrNotFound when there is no such zone.
func (a *Authority) Revoke(ctx context.Context, zone string) error {
	err := a.retry(ctx, func(s *catalog.Snapshot) (catalog.Batch, error) {
		z, ok := s.Get(zoneKey(zone))
		if !ok {
			return catalog.Batch{}, resource.ErrNotFound
		}
		members, at, err := readMembers(s)
		if err != nil {
			return catalog.Batch{}, err
		}
		m := members[z.UID]
		m.Zone, m.Generation, m.Revoked = zone, m.Generation+1, m.Generation+1
		members[z.UID] = m
		put, err := members.put(s, at)
		return catalog.Batch{Reason: "credentials of zone " + zone + " revoked", Puts: []catalog.Put{put}}, err
	})
	if err != nil {
		return fmt.Errorf("revoke zone %s: %w", zone, err)
	}
	a.cfg.Log.Info("zone revoked", "zone", zone)
	return nil
}

// Of reads the client certificate of a connection, which it verifies once more, and says how long it may be used, Grace included.
func (a *Authority) Of(s tls.ConnectionState) (c Credential, left time.Duration, err error) {
	if len(s.PeerCertificates) == 0 {
		return Credential{}, 0, errors.New("a zone needs its client certificate; join first")
	}
	if left, err = a.ca.Verify(s.PeerCertificates[0]); err != nil {
		return Credential{}, 0, err
	}
	c, err = CredentialOf(s.PeerCertificates[0])
	return c, left, err
}

// TLS is the server side of connections of zones. A client certificate is optional, since a zone that joins has none yet; the
// handler has to ask Of and Check.
func (a *Authority) TLS(server func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	return a.ca.TLS(server)
}

func zoneKey(name string) resource.Key { return resource.Key{Type: mesh.TypeZone, Name: name} }

func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
