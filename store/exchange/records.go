package exchange

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"regexp"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// The types of the derived records that a sink keeps, by their beginnings.
const (
	syncPrefix    = "sync/"    // and the peer: how far each scope is
	asidePrefix   = "aside/"   // and the kind: objects that cannot be used now
	pendingPrefix = "pending/" // and the kind: objects that the peer's new store lacks
	trustType     = "trust-domain/"
)

// A cursor says how far one scope of a peer is.
type cursor struct {
	Lineage  string      `json:"lineage"`
	Epoch    uint64      `json:"epoch"`
	Revision uint64      `json:"revision"`
	Chain    store.Chain `json:"-"`
	ChainHex string      `json:"chain"`
	// ZoneID is the id that the zone had.
	ZoneID string `json:"zoneId,omitempty"`
	// Incomplete: a snapshot was begun and not finished.
	Incomplete bool `json:"incomplete,omitempty"`
	// Adopting: that snapshot must delete nothing.
	Adopting bool `json:"adopting,omitempty"`
	// Between: some parts of a change are applied, and not all.
	Between bool `json:"between,omitempty"`
	// Unreadable: something came that does not say what it is, so the digest is unknown.
	Unreadable bool `json:"unreadable,omitempty"`
}

func (c *cursor) position() *zonesync.Position {
	if c.Lineage == "" {
		return nil
	}
	return PositionOf(store.Position{Lineage: store.Lineage{ID: c.Lineage, Epoch: c.Epoch}, Revision: c.Revision, Chain: c.Chain})
}

func (c *cursor) moveTo(p store.Position) {
	c.Lineage, c.Epoch, c.Revision, c.Chain = p.Lineage.ID, p.Lineage.Epoch, p.Revision, p.Chain
}

func (c *cursor) sameLineage(l *zonesync.Lineage) bool {
	return zonesync.SameLineage(&zonesync.Lineage{Id: c.Lineage, Epoch: c.Epoch}, l)
}

func encodeCursor(c cursor) []byte {
	c.ChainHex = hex.EncodeToString(c.Chain[:])
	return encode(c)
}

func decodeCursor(b []byte) (cursor, bool) {
	var c cursor
	if json.Unmarshal(b, &c) != nil {
		return cursor{}, false
	}
	chain, err := hex.DecodeString(c.ChainHex)
	if err != nil || len(chain) != len(c.Chain) {
		return cursor{}, false
	}
	copy(c.Chain[:], chain)
	return c, true
}

// encode writes a record of this package, which always encodes.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("exchange: " + err.Error())
	}
	return b
}

// An aside is an object that cannot be used now, as it came.
type aside struct {
	Peer   string                  `json:"peer"`
	Scope  string                  `json:"scope"`
	ID     string                  `json:"id"`
	UID    string                  `json:"uid,omitempty"`
	Kind   string                  `json:"kind"`
	Name   string                  `json:"name,omitempty"`
	Hash   []byte                  `json:"hash"`
	Object []byte                  `json:"object,omitempty"` // encoded; nothing when it may not be kept
	Code   string                  `json:"code"`
	Reason string                  `json:"reason"`
	Retry  zonesync.Rejected_Retry `json:"retry"`
	Since  time.Time               `json:"since"`
	key    catalog.DerivedKey
}

func (a aside) rejected() *zonesync.Rejected {
	return &zonesync.Rejected{Id: a.ID, Uid: a.UID, Code: a.Code, Reason: a.Reason, Retry: a.Retry}
}

var plainKind = regexp.MustCompile(`^(owner/)?[A-Za-z0-9]{1,64}$`)

// asideKey is where an object is kept that is set aside. Its id may be anything, so the name is a hash of it.
func (s *Sink) asideKey(meshName, kind, id string) catalog.DerivedKey {
	if !plainKind.MatchString(kind) {
		kind = "unknown"
	}
	h := sha256.Sum256([]byte(id))
	return catalog.DerivedKey{Type: asidePrefix + kind, Mesh: meshName, Name: s.peer + "/" + hex.EncodeToString(h[:16])}
}

// pending is an object that the peer's new store lacks.
type pending struct {
	Since time.Time `json:"since"`
}

func pendingKey(k resource.Key) catalog.DerivedKey {
	return catalog.DerivedKey{Type: pendingPrefix + k.Type, Mesh: k.Mesh, Name: k.Name}
}

// A claim says who owns a trust domain: a zone, or global when Zone is empty.
type claim struct {
	Zone  string    `json:"zone"`
	Since time.Time `json:"since"`
}

func trustKey(domain string) catalog.DerivedKey {
	return catalog.DerivedKey{Type: trustType, Name: domain}
}

func statementKey(service resource.Key) catalog.DerivedKey {
	return catalog.DerivedKey{Type: statementType, Mesh: service.Mesh, Name: service.Name}
}

// storedName is the name under which something received is stored.
func storedName(typ, meshName, name, zone, namespace string) string {
	switch typ {
	case mesh.TypeMesh, mesh.TypeSecret, mesh.TypeGlobalSecret:
		return name
	}
	return resource.SyncedName(meshName, name, zone, namespace)
}

func storedKey(k resource.Kind, id resource.KRI) resource.Key {
	return resource.Key{Type: k.Name, Mesh: id.Mesh, Name: storedName(k.Name, id.Mesh, id.Name, id.Zone, id.Namespace)}
}

// claim plans to note that the trust domain of a MeshTrust is the zone's, until the zone is deleted: a domain that changed hands by
// itself could be taken in a weak moment. Of two zones that come at once, one gets a conflict and looks again.
func (p *plan) claim(r resource.Resource) {
	t, ok := r.Spec.(*mesh.MeshTrust)
	if !ok || p.sink.cfg.Zone != "" {
		return
	}
	key := trustKey(t.TrustDomain)
	if _, claimed := p.snap.Derived(key.Type, key.Mesh, key.Name); claimed {
		return
	}
	p.derived[key] = catalog.DerivedPut{Key: key, Data: encode(claim{Zone: p.sink.cfg.From.Zone, Since: p.now()}), Owner: p.sink.owner(), Absent: true}
}
