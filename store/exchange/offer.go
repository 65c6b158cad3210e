package exchange

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tidwall/btree"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// OffersConfig is what Offers needs.
type OffersConfig struct {
	Catalog *catalog.Catalog
	// Store is the catalog's store, whose history says what changed since a position.
	Store store.Store
	// Zone is the name of this zone; empty at global.
	Zone string
	Log  *slog.Logger
}

// Offers is everything that a control plane offers to its peers, encoded once for all of them. Run keeps it current.
type Offers struct {
	cfg     OffersConfig
	kinds   *resource.Kinds
	current atomic.Pointer[offered]

	mu      sync.Mutex // held while a new state is published
	feeds   map[*Feed]struct{}
	changed chan struct{} // closed and replaced with every state
}

// An entry is one item on offer.
type entry struct {
	item     *zonesync.Item
	scope    string
	zone     string // its owner; empty: global
	mesh     string // of a Mesh, its name
	requires []string
	source   store.Key // what it was made of, at a version
	uid      string
	version  uint64
}

// offered is everything on offer at one position. It is immutable once published.
type offered struct {
	at       store.Position
	position *zonesync.Position
	scopes   map[string]*scope
	sources  *btree.BTreeG[*entry] // by what they were made of
	disabled map[string]bool       // zones whose offers are kept from the others
}

type scope struct {
	open    bool // its mesh exists
	entries *btree.BTreeG[*entry]
	sums    map[string]sum    // by owner
	meshes  map[string]*entry // of the scope of the system: Meshes by name
}

// A sum is the digest and count of what one owner has in a scope.
type sum struct {
	digest zonesync.Digest
	count  uint64
}

func newTree(less func(a, b *entry) bool) *btree.BTreeG[*entry] {
	return btree.NewBTreeGOptions(less, btree.Options{NoLocks: true})
}

func byID(a, b *entry) bool { return a.item.ID < b.item.ID }

func bySource(a, b *entry) bool {
	x, y := a.source, b.source
	if x.Class != y.Class {
		return x.Class < y.Class
	}
	for _, c := range [...]int{strings.Compare(x.Type, y.Type), strings.Compare(x.Mesh, y.Mesh)} {
		if c != 0 {
			return c < 0
		}
	}
	return x.Name < y.Name
}

func newScope(open bool) *scope {
	return &scope{open: open, entries: newTree(byID), sums: map[string]sum{}, meshes: map[string]*entry{}}
}

// NewOffers lists what the current snapshot of the catalog offers.
func NewOffers(cfg OffersConfig) (*Offers, error) {
	if cfg.Catalog == nil || cfg.Store == nil {
		return nil, errors.New("offers: a catalog and its store are needed")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	o := &Offers{cfg: cfg, kinds: cfg.Catalog.Kinds(), feeds: map[*Feed]struct{}{}, changed: make(chan struct{})}
	o.current.Store(&offered{
		scopes:  map[string]*scope{zonesync.ScopeSystem: newScope(true)},
		sources: newTree(bySource), disabled: map[string]bool{},
	})
	o.take(catalog.Update{Snapshot: cfg.Catalog.Snapshot(), All: true})
	return o, nil
}

// Run follows the catalog until ctx ends.
func (o *Offers) Run(ctx context.Context) error {
	feed := o.cfg.Catalog.Subscribe()
	defer feed.Close()
	for {
		u, err := feed.Next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("follow what is on offer: %w", err)
		}
		o.take(u)
	}
}

// take brings what is on offer up to an update. Only one goroutine calls it at a time.
func (o *Offers) take(u catalog.Update) {
	old := o.current.Load()
	b := &building{
		offers: o, snapshot: u.Snapshot, old: old, touched: map[string]bool{},
		next: &offered{
			at: u.Snapshot.Position(), position: PositionOf(u.Snapshot.Position()), scopes: maps.Clone(old.scopes),
			sources: old.sources.Copy(), disabled: maps.Clone(old.disabled),
		},
	}
	if u.All {
		b.everything()
	} else {
		for _, k := range u.Changed {
			b.resource(k)
		}
		for _, d := range u.Derived {
			if d.Type == o.statementSource() {
				b.service(resource.Key{Type: mesh.TypeMeshService, Mesh: d.Mesh, Name: d.Name})
			}
		}
	}
	for name := range b.touched {
		if s := b.next.scopes[name]; !s.open && s.entries.Len() == 0 {
			delete(b.next.scopes, name)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.current.Store(b.next)
	for f := range o.feeds {
		f.note(b)
	}
	close(o.changed)
	o.changed = make(chan struct{})
}

// statementSource is the type of the derived records that statements are made of.
func (o *Offers) statementSource() string {
	if o.cfg.Zone == "" {
		return statementType
	}
	return catalog.StatusOf(resource.Key{Type: mesh.TypeMeshService}).Type
}

// A change is one object that differs between two states.
type change struct {
	scope, id, zone, mesh string
	gone                  bool
	cause                 zonesync.Removal_Cause
}

// A building is the next state in the making.
type building struct {
	offers   *Offers
	snapshot *catalog.Snapshot
	old      *offered
	next     *offered
	touched  map[string]bool
	changes  []change
}

// everything compares all that the snapshot holds with all that was on offer.
func (b *building) everything() {
	for _, k := range b.offers.kinds.All() {
		b.snapshot.Each(k.Name, "", func(r resource.Resource) bool {
			b.resource(r.Key())
			return true
		})
	}
	for _, a := range b.snapshot.SetAside() {
		if a.Key.Class == store.Resource {
			b.resource(resource.Key{Type: a.Key.Type, Mesh: a.Key.Mesh, Name: a.Key.Name})
		}
	}
	b.old.sources.Scan(func(e *entry) bool {
		if e.source.Class == store.Resource {
			b.resource(resource.Key{Type: e.source.Type, Mesh: e.source.Mesh, Name: e.source.Name})
		} else {
			b.service(resource.Key{Type: mesh.TypeMeshService, Mesh: e.source.Mesh, Name: e.source.Name})
		}
		return true
	})
	for zone := range b.old.disabled {
		b.resource(resource.Key{Type: mesh.TypeZone, Name: zone})
	}
	for name := range b.old.scopes {
		if m, _ := zonesync.MeshOf(name); m != "" {
			b.resource(resource.Key{Type: mesh.TypeMesh, Name: m})
		}
	}
}

// read is a resource as it is stored: what this version cannot read is passed on as it is. Same is true when nothing can be said of it.
func (b *building) read(k resource.Key) (r resource.Resource, exists, same bool) {
	if a, ok := b.snapshot.Unreadable(k); ok {
		m := resource.Meta{Type: k.Type, Mesh: k.Mesh, Name: k.Name, UID: a.UID, Version: a.Version, Revision: a.Revision, Labels: a.Labels}
		return resource.Resource{Meta: m, Raw: a.Data}, true, a.Data == nil
	}
	r, exists = b.snapshot.Get(k)
	return r, exists, false
}

// resource brings one resource up to date, and what depends on it.
func (b *building) resource(k resource.Key) {
	switch k.Type {
	case mesh.TypeMeshService:
		b.service(k)
		return
	case mesh.TypeZone:
		b.enable(k)
		return
	}
	r, exists, same := b.read(k)
	if k.Type == mesh.TypeMesh {
		b.openScope(zonesync.ScopeOf(k.Name), exists)
	}
	if same {
		return
	}
	source := store.Key{Type: k.Type, Mesh: k.Mesh, Name: k.Name}
	f, ok := b.flow(r, exists)
	b.put(source, f, ok, exists, r)
	if k.Type == mesh.TypeMeshIdentity && b.offers.cfg.Zone == "" {
		b.authorities(k.Mesh)
	}
}

func (b *building) flow(r resource.Resource, exists bool) (flow, bool) {
	kind, known := b.offers.kinds.ByName(r.Type)
	if !exists || !known {
		return flow{}, false
	}
	if zone := b.offers.cfg.Zone; zone != "" {
		return fromZone(kind, r, zone)
	}
	return fromGlobal(kind, r, b.named(r))
}

// named says that an identity takes its authority from a Secret.
func (b *building) named(r resource.Resource) bool {
	if r.Type != mesh.TypeSecret {
		return false
	}
	if _, ca := authorityOf(r.Name); !ca {
		return false
	}
	found := false
	b.snapshot.Each(mesh.TypeMeshIdentity, r.Mesh, func(id resource.Resource) bool {
		found = id.Zone() == "" && refersTo(id, r.Name)
		return !found
	})
	return found
}

// authorities looks at the Secrets again that identities of a mesh may refer to.
func (b *building) authorities(meshName string) {
	b.snapshot.Each(mesh.TypeSecret, meshName, func(r resource.Resource) bool {
		if _, ca := authorityOf(r.Name); ca {
			b.resource(r.Key())
		}
		return true
	})
}

// service brings a MeshService up to date, and what its owner says of it.
func (b *building) service(k resource.Key) {
	r, exists, same := b.read(k)
	if same {
		return
	}
	f, ok := b.flow(r, exists)
	b.put(store.Key{Type: k.Type, Mesh: k.Mesh, Name: k.Name}, f, ok, exists, r)
	typ := b.offers.statementSource()
	data, said := b.snapshot.Derived(typ, k.Mesh, k.Name)
	if said {
		data, said = statementOf(data, b.offers.cfg.Zone != "")
	}
	source := store.Key{Class: store.Derived, Type: typ, Mesh: k.Mesh, Name: k.Name}
	b.put(source, f.about(data), ok && said, exists, resource.Resource{})
}

// put makes the entry of a source what flows from it now.
func (b *building) put(source store.Key, f flow, ok, exists bool, r resource.Resource) {
	old, had := b.next.sources.Get(&entry{source: source})
	if !ok {
		if had {
			cause := zonesync.Removal_DELETED
			if exists {
				cause = zonesync.Removal_WITHDRAWN
			}
			b.remove(old, cause)
		}
		return
	}
	if had && r.UID != "" && old.uid == r.UID && old.version == r.Version && old.item.ID == f.id {
		return
	}
	e := &entry{scope: f.scope, zone: f.zone, mesh: f.mesh, source: source, uid: r.UID, version: r.Version}
	if f.kind.Requires != nil && r.Spec != nil && f.kindOf == "" {
		e.requires = f.kind.Requires(r)
	}
	hash := f.hash()
	same := had && old.item.ID == f.id && old.item.UID == f.meta.UID && old.zone == f.zone &&
		bytes.Equal(old.item.Hash, hash[:]) && slices.Equal(old.requires, e.requires)
	if same {
		e.item = old.item // written again without a change
		b.replace(old, e)
		return
	}
	item, err := f.item(e.requires)
	if err != nil {
		b.offers.cfg.Log.Error("a resource cannot be encoded for other control planes and stays as they know it", "id", f.id, "err", err)
		return
	}
	e.item = item
	if had && (old.item.ID != f.id || old.scope != f.scope) {
		b.remove(old, zonesync.Removal_DELETED)
	}
	s := b.scope(e.scope)
	if twin, taken := s.entries.Get(e); taken {
		s.account(twin, false)
	}
	s.entries.Set(e)
	s.account(e, true)
	b.next.sources.Set(e)
	b.changes = append(b.changes, change{scope: e.scope, id: f.id, zone: f.zone, mesh: f.mesh})
}

// replace swaps entries of equal content.
func (b *building) replace(old, e *entry) {
	b.next.sources.Set(e)
	s := b.scope(e.scope)
	if at, ok := s.entries.Get(e); ok && at.source == old.source {
		s.entries.Set(e)
		if e.mesh != "" {
			s.meshes[e.mesh] = e
		}
	}
}

func (b *building) remove(e *entry, cause zonesync.Removal_Cause) {
	b.next.sources.Delete(e)
	s := b.scope(e.scope)
	if at, ok := s.entries.Get(e); !ok || at.source != e.source {
		return // another resource has its identity now
	}
	s.entries.Delete(e)
	s.account(e, false)
	b.changes = append(b.changes, change{scope: e.scope, id: e.item.ID, zone: e.zone, mesh: e.mesh, gone: true, cause: cause})
}

func (s *scope) account(e *entry, add bool) {
	t := s.sums[e.zone]
	if add {
		t.digest.Add(e.item.ID, e.item.UID, e.item.Hash)
		t.count++
	} else {
		t.digest.Remove(e.item.ID, e.item.UID, e.item.Hash)
		t.count--
	}
	s.sums[e.zone] = t
	if t.count == 0 {
		delete(s.sums, e.zone)
	}
	switch {
	case e.mesh == "":
	case add:
		s.meshes[e.mesh] = e
	default:
		delete(s.meshes, e.mesh)
	}
}

// scope is a scope that may be written.
func (b *building) scope(name string) *scope {
	s, ok := b.next.scopes[name]
	switch {
	case !ok:
		s = newScope(false)
	case b.touched[name]:
		return s
	default:
		s = &scope{open: s.open, entries: s.entries.Copy(), sums: maps.Clone(s.sums), meshes: maps.Clone(s.meshes)}
	}
	b.touched[name] = true
	b.next.scopes[name] = s
	return s
}

func (b *building) openScope(name string, open bool) {
	if s, ok := b.next.scopes[name]; ok && s.open == open || !ok && !open {
		return
	}
	s := b.scope(name)
	s.open = open
}

// enable notes whether a zone is enabled: what a disabled one offers is kept from the others.
func (b *building) enable(k resource.Key) {
	if b.offers.cfg.Zone != "" {
		return
	}
	off := false
	if r, ok := b.snapshot.Get(k); ok {
		spec, readable := r.Spec.(*mesh.Zone)
		off = readable && !spec.IsEnabled()
	}
	if b.next.disabled[k.Name] == off {
		return
	}
	if off {
		b.next.disabled[k.Name] = true
	} else {
		delete(b.next.disabled, k.Name)
	}
	for name, s := range b.next.scopes {
		if _, has := s.sums[k.Name]; !has {
			continue
		}
		s.entries.Scan(func(e *entry) bool {
			if e.zone == k.Name {
				b.changes = append(b.changes, change{scope: name, id: e.item.ID, zone: e.zone, mesh: e.mesh, gone: off, cause: zonesync.Removal_SCOPE_END})
			}
			return true
		})
	}
}
