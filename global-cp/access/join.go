package access

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/pki"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/token"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// How long a join token may wait to be used.
const (
	DefaultValidity = time.Hour
	MaxValidity     = 7 * 24 * time.Hour
)

// An invitation is what global remembers of a join token: enough to recognise it, not to make it.
type invitation struct {
	Zone string `json:"zone"`
	// ZoneID and Generation are those of the zone when the token was made; empty when there was no such zone.
	ZoneID     string    `json:"zoneId,omitempty"`
	Generation uint64    `json:"generation"`
	Hash       string    `json:"hash"` // of the secret
	Expires    time.Time `json:"expires"`
	Used       *use      `json:"used,omitempty"`
}

// A use is who used a join token. The same zone may repeat its request while the token is valid, in case the answer was lost.
type use struct {
	ZoneID     string `json:"zoneId"`
	Lineage    string `json:"lineage"`
	Key        string `json:"key"` // hash of the public key that was signed
	Generation uint64 `json:"generation"`
}

// NewJoinToken makes a token with which one zone can join once. A zone of that name need not exist. The addresses are those of the
// sync port of this control plane, and caPEM holds the authority by which the zone recognises it. It returns resource.Problems for
// what cannot be met as asked.
func (a *Authority) NewJoinToken(ctx context.Context, zone string, validFor time.Duration, addresses []string, caPEM []byte) (string, error) {
	text, err := a.newJoinToken(ctx, zone, validFor, addresses, caPEM)
	if err != nil {
		return "", fmt.Errorf("join token for zone %s: %w", resource.Quote(zone), err)
	}
	return text, nil
}

func (a *Authority) newJoinToken(ctx context.Context, zone string, validFor time.Duration, addresses []string, caPEM []byte) (string, error) {
	if validFor == 0 {
		validFor = DefaultValidity
	}
	ps := resource.CheckName("zone", resource.RFC1035Label, zone)
	if validFor < 0 || validFor > MaxValidity {
		ps.Add("validFor", "must be more than zero and at most %s", MaxValidity)
	}
	if len(ps) > 0 {
		return "", ps
	}
	ca, err := pki.ParseCertificates(caPEM)
	if err != nil {
		return "", fmt.Errorf("certificate authority of the sync port: %w", err)
	}
	var random [8 + 32]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", err
	}
	t := token.JoinToken{
		Zone: zone, ID: hex.EncodeToString(random[:8]), Secret: base64.RawURLEncoding.EncodeToString(random[8:]),
		Addresses: addresses, Pin: token.PinOf(ca[len(ca)-1]),
	}
	text, err := t.Encode()
	if err != nil {
		return "", err
	}
	err = a.retry(ctx, func(s *catalog.Snapshot) (catalog.Batch, error) {
		inv := invitation{Zone: zone, Hash: hash([]byte(t.Secret)), Expires: a.cfg.Now().Add(validFor).UTC()}
		members, _, err := readMembers(s)
		if err != nil {
			return catalog.Batch{}, err
		}
		if z, ok := s.Get(zoneKey(zone)); ok {
			inv.ZoneID, inv.Generation = z.UID, members[z.UID].Generation
		}
		put, err := secretPut(joinPrefix+t.ID, inv, store.ExpectAbsent)
		b := catalog.Batch{Reason: "join token for zone " + zone, Puts: []catalog.Put{put}}
		outstanding := 0
		b.Deletes, outstanding = a.expired(s)
		if err == nil && outstanding >= a.cfg.MaxOutstanding {
			err = resource.Problems{{Reason: fmt.Sprintf("%d join tokens wait to be used; delete GlobalSecrets named %s… that nobody needs", outstanding, joinPrefix)}}
		}
		return b, err
	})
	return text, err
}

// expired lists what can be forgotten, and counts the tokens that can still be used.
func (a *Authority) expired(s *catalog.Snapshot) (gone []catalog.Delete, outstanding int) {
	s.EachSecret("", joinPrefix, func(r resource.Resource) bool {
		var inv invitation
		switch err := readSecret(r, &inv); {
		case err != nil: // not ours to judge
		case !a.cfg.Now().Before(inv.Expires):
			gone = append(gone, catalog.Delete{Key: r.Key(), Expect: int64(r.Version)})
		case inv.Used == nil:
			outstanding++
		}
		return true
	})
	return gone, outstanding
}

// Joined is what a zone gets for its join token.
type Joined struct {
	Zone   string
	ZoneID string // stays the same while the Zone exists
	Signed
}

// Join admits a zone: it uses up the token, creates the Zone if there is none, and signs the request for a client certificate.
// Lineage names the zone's own store, to tell a zone that comes back from another installation under its name; credentials of
// such another installation are void from then on. It returns ErrRefused, or a *pki.RequestError for a bad request.
func (a *Authority) Join(ctx context.Context, text, lineage string, csr []byte) (Joined, error) {
	j, err := a.join(ctx, text, lineage, csr)
	if err != nil {
		return Joined{}, fmt.Errorf("join: %w", err)
	}
	return j, nil
}

func (a *Authority) join(ctx context.Context, text, lineage string, csr []byte) (Joined, error) {
	t, err := token.ParseJoinToken(text)
	if err != nil {
		return Joined{}, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if lineage == "" || len(lineage) > maxLineage {
		return Joined{}, fmt.Errorf("%w: the zone must name its lineage in at most %d characters", ErrRefused, maxLineage)
	}
	key, err := publicKey(csr)
	if err != nil {
		return Joined{}, err
	}
	var cred Credential
	err = a.retry(ctx, func(s *catalog.Snapshot) (catalog.Batch, error) {
		r, inv, err := a.find(s, t)
		if err != nil {
			return catalog.Batch{}, err
		}
		if inv.Used != nil {
			if cred, err = repeat(s, inv, lineage, key); err == nil {
				err = errRepeated
			}
			return catalog.Batch{}, err
		}
		var b catalog.Batch
		b, cred, err = admit(s, inv, lineage)
		if err != nil {
			return catalog.Batch{}, err
		}
		inv.Used = &use{ZoneID: cred.ZoneID, Lineage: lineage, Key: key, Generation: cred.Generation}
		put, err := secretPut(r.Name, inv, int64(r.Version))
		b.Puts = append(b.Puts, put)
		return b, err
	})
	repeated := errors.Is(err, errRepeated)
	if err != nil && !repeated {
		return Joined{}, err
	}
	signed, err := a.sign(cred, csr)
	if err != nil {
		return Joined{}, err
	}
	a.cfg.Log.Info("zone joined", "zone", cred.Zone, "id", cred.ZoneID, "generation", cred.Generation, "repeated", repeated)
	return Joined{cred.Zone, cred.ZoneID, signed}, nil
}

const maxLineage = 128

// errRepeated ends a change without a commit.
var errRepeated = errors.New("this zone used the token before")

func publicKey(csr []byte) (string, error) {
	public, err := pki.ParseRequest(csr)
	if err != nil {
		return "", err
	}
	return pki.KeyFingerprint(public)
}

// find returns what global remembers of a token, if the token is genuine and not too old.
func (a *Authority) find(s *catalog.Snapshot, t token.JoinToken) (resource.Resource, invitation, error) {
	unknown := fmt.Errorf("%w: it is not known here; it is from another control plane, was deleted, or expired long ago", ErrRefused)
	r, ok := s.Get(resource.Key{Type: mesh.TypeGlobalSecret, Name: joinPrefix + t.ID})
	if !ok {
		return r, invitation{}, unknown
	}
	var inv invitation
	if err := readSecret(r, &inv); err != nil {
		return r, inv, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if subtle.ConstantTimeCompare([]byte(inv.Hash), []byte(hash([]byte(t.Secret)))) != 1 || inv.Zone != t.Zone {
		return r, inv, unknown
	}
	if !a.cfg.Now().Before(inv.Expires) {
		return r, inv, fmt.Errorf("%w: it expired at %s; ask for a new one", ErrRefused, inv.Expires.Format(time.RFC3339))
	}
	return r, inv, nil
}

// repeat answers a zone that asks again with the token and key that it was admitted with.
func repeat(s *catalog.Snapshot, inv invitation, lineage, key string) (Credential, error) {
	if inv.Used.Lineage != lineage || inv.Used.Key != key {
		return Credential{}, fmt.Errorf("%w: it was used before; ask for a new one", ErrRefused)
	}
	c := Credential{ZoneID: inv.Used.ZoneID, Zone: inv.Zone, Generation: inv.Used.Generation}
	if err := check(s, c); err != nil {
		return Credential{}, fmt.Errorf("%w: it was used before, and since then: %w", ErrRefused, err)
	}
	return c, nil
}

// admit computes what changes when a zone joins with an unused token.
func admit(s *catalog.Snapshot, inv invitation, lineage string) (catalog.Batch, Credential, error) {
	b := catalog.Batch{Reason: "zone " + inv.Zone + " joined"}
	members, at, err := readMembers(s)
	if err != nil {
		return b, Credential{}, err
	}
	z, exists := s.Get(zoneKey(inv.Zone))
	if inv.ZoneID != "" && z.UID != inv.ZoneID {
		return b, Credential{}, fmt.Errorf("%w: zone %s was deleted since it was made; ask for a new one", ErrRefused, inv.Zone)
	}
	if !exists {
		if z, err = newZone(inv.Zone); err != nil {
			return b, Credential{}, err
		}
		b.Puts = append(b.Puts, catalog.Put{Resource: z, Expect: store.ExpectAbsent})
	}
	m := members[z.UID]
	if same := m.Lineage == lineage && inv.Generation >= m.Revoked; inv.Generation != m.Generation && !same {
		return b, Credential{}, fmt.Errorf("%w: zone %s %s since it was made; ask for a new one", ErrRefused, inv.Zone, m.since())
	}
	if m.Lineage != lineage {
		m.Generation++
	}
	m.Zone, m.Lineage = inv.Zone, lineage
	members[z.UID] = m
	put, err := members.put(s, at, z.UID)
	b.Puts = append(b.Puts, put)
	return b, Credential{ZoneID: z.UID, Zone: inv.Zone, Generation: m.Generation}, err
}

// newZone makes the Zone of a zone that joins. Its UID is chosen here, because members and credentials are named by it.
func newZone(name string) (resource.Resource, error) {
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return resource.Resource{}, err
	}
	m := resource.Meta{Type: mesh.TypeZone, Name: name, UID: hex.EncodeToString(id[:]), Labels: map[string]string{
		resource.LabelDisplayName: name, resource.LabelOrigin: resource.OriginGlobal,
	}}
	return resource.WithSpec(m, &mesh.Zone{})
}

// Internal says whether a GlobalSecret belongs to this package and must never be sent to a zone.
func Internal(name string) bool {
	return name == caSecret || name == membersSecret || strings.HasPrefix(name, joinPrefix)
}
