package exchange

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// An object is one that came, with its encoding.
type object struct {
	*zonesync.Object
	encoded []byte
}

// compareObjects puts what is said of resources behind the resources.
func compareObjects(a, b *object) int {
	_, x := zonesync.IsStatement(a.GetId())
	_, y := zonesync.IsStatement(b.GetId())
	switch {
	case x && !y:
		return 1
	case y && !x:
		return -1
	}
	return strings.Compare(a.GetId(), b.GetId())
}

// A holding is one object of the peer as it is held: stored, set aside, or both.
type holding struct {
	uid     string
	hash    []byte // nil: unknown
	key     resource.Key
	about   *catalog.DerivedKey // of a statement, where it is; key is that of its service
	stored  bool
	pending bool
	aside   *aside
}

// holdings lists what is held of a scope, by id. What is set aside counts as the version that is set aside.
func (s *Sink) holdings(snap *catalog.Snapshot, scope, meshName string) map[string]*holding {
	out := map[string]*holding{}
	add := func(kind resource.Kind, m resource.Meta, raw []byte) {
		h := &holding{uid: m.UID, key: m.Key(), stored: true}
		if raw != nil {
			sum := zonesync.ContentHash(m.Labels, resource.LabelOrigin, raw)
			h.hash = sum[:]
		}
		_, h.pending = snap.Derived(pendingPrefix+m.Type, m.Mesh, m.Name)
		out[resource.KRIOf(kind, m).String()] = h
	}
	for _, kind := range s.cfg.Kinds.All() {
		if !travels(kind) || (kind.Scope == resource.ScopeMesh) != (meshName != "") {
			continue
		}
		snap.Each(kind.Name, meshName, func(r resource.Resource) bool {
			if s.belongs(r.Labels) {
				add(kind, r.Meta, r.Raw)
			}
			return true
		})
	}
	for _, a := range snap.SetAside() {
		kind, ok := s.cfg.Kinds.ByName(a.Key.Type)
		if ok && a.Key.Class == store.Resource && travels(kind) && a.Key.Mesh == meshName && s.belongs(a.Labels) {
			add(kind, resource.Meta{Type: a.Key.Type, Mesh: a.Key.Mesh, Name: a.Key.Name, UID: a.UID, Labels: a.Labels}, a.Data)
		}
	}
	if meshName != "" {
		s.heldStatements(snap, meshName, out)
	}
	for id, a := range s.asides(snap, scope) {
		h := out[id]
		if h == nil {
			h = &holding{}
			out[id] = h
		}
		h.uid, h.hash, h.aside = a.UID, a.Hash, a
	}
	return out
}

func (s *Sink) heldStatements(snap *catalog.Snapshot, meshName string, out map[string]*holding) {
	kind, ok := s.cfg.Kinds.ByName(mesh.TypeMeshService)
	if !ok {
		return
	}
	snap.EachDerived(statementType, meshName, func(k catalog.DerivedKey, data []byte) bool {
		service, ok := snap.Get(resource.Key{Type: mesh.TypeMeshService, Mesh: k.Mesh, Name: k.Name})
		if !ok || !s.belongs(service.Labels) {
			return true
		}
		id := resource.KRIOf(kind, service.Meta).String()
		sum := zonesync.ContentHash(nil, resource.LabelOrigin, data)
		h := &holding{hash: sum[:], key: service.Key(), about: &k, stored: true}
		if of := out[id]; of != nil {
			h.pending = of.pending
		}
		out[zonesync.StatementID(id)] = h
		return true
	})
}

// asides lists what is set aside of the peer's objects, in one scope or in all of them.
func (s *Sink) asides(snap *catalog.Snapshot, scope string) map[string]*aside {
	out := map[string]*aside{}
	snap.EachDerivedUnder(asidePrefix, func(k catalog.DerivedKey, data []byte) bool {
		if !strings.HasPrefix(k.Name, s.peer+"/") {
			return true
		}
		a := &aside{}
		if !decode(data, a) || a.Peer != s.peer || scope != "" && a.Scope != scope {
			return true
		}
		a.key = k
		out[a.ID] = a
		return true
	})
	return out
}

func decode(data []byte, into any) bool { return json.Unmarshal(data, into) == nil }

// A plan is one catalog batch in the making, on one snapshot.
type plan struct {
	sink   *Sink
	snap   *catalog.Snapshot
	scope  string
	mesh   string
	asides map[string]*aside // as they will be

	puts     map[resource.Key]catalog.Put
	ids      map[resource.Key]string // of what is put
	before   map[resource.Key]bool   // to be deleted in a batch of its own, before
	deletes  map[resource.Key]catalog.Delete
	derived  map[catalog.DerivedKey]catalog.DerivedPut
	domains  map[string]bool // trust domains of global, once they are needed
	accepted map[resource.Key]bool
	news     []*aside
}

func (s *Sink) plan() *plan {
	return &plan{
		sink: s, snap: s.cfg.Catalog.Snapshot(),
		puts: map[resource.Key]catalog.Put{}, ids: map[resource.Key]string{}, before: map[resource.Key]bool{},
		deletes: map[resource.Key]catalog.Delete{}, derived: map[catalog.DerivedKey]catalog.DerivedPut{}, accepted: map[resource.Key]bool{},
	}
}

// enter begins to plan for a scope.
func (p *plan) enter(scope string) error {
	if zone := p.sink.cfg.From.Zone; zone != "" {
		if _, ok := p.snap.Get(resource.Key{Type: mesh.TypeZone, Name: zone}); !ok {
			return fmt.Errorf("%w: there is no zone %s any more", ErrOutOfStep, zone)
		}
	}
	p.scope = scope
	p.mesh, _ = zonesync.MeshOf(scope)
	p.asides = p.sink.asides(p.snap, scope)
	return nil
}

// batch plans everything that a batch says, and where its scope is then.
func (p *plan) batch(b *zonesync.Batch, to store.Position, objects []*object, unreadable bool) error {
	c, had := p.sink.cursor(p.snap, p.scope)
	if b.GetSnapshot() {
		return p.snapshot(b, to, objects, unreadable, c, had)
	}
	again := had && zonesync.SamePosition(c.position(), b.GetTo())
	switch {
	case !had || c.Incomplete:
		return fmt.Errorf("%w: nothing complete is held", ErrOutOfStep)
	case !again && !zonesync.SamePosition(c.position(), b.GetFrom()):
		return fmt.Errorf("%w: it goes on from revision %d, and revision %d is held", ErrOutOfStep, b.GetFrom().GetRevision(), c.Revision)
	case !c.sameLineage(b.GetTo().GetLineage()) || c.ZoneID != p.sink.cfg.From.ID:
		return fmt.Errorf("%w: it is of another history", ErrOutOfStep)
	}
	p.removals(b.GetRemovals(), objects)
	p.upserts(objects)
	c.Between = !b.GetLast()
	c.Unreadable = c.Unreadable || unreadable
	if b.GetLast() {
		c.moveTo(to)
	}
	p.moved(c)
	return nil
}

// snapshot plans one part of a snapshot, and with the last one what happens to everything that was in none.
func (p *plan) snapshot(b *zonesync.Batch, to store.Position, objects []*object, unreadable bool, c cursor, had bool) error {
	r := p.sink.runs[p.scope]
	switch {
	case b.GetPart() == 0:
		r = &run{to: b.GetTo(), seen: map[string]bool{}}
		r.adopting = p.sink.adopt[p.scope] || had && (c.Adopting || !c.sameLineage(b.GetTo().GetLineage()) || c.ZoneID != p.sink.cfg.From.ID) ||
			!had && len(p.sink.holdings(p.snap, p.scope, p.mesh)) > 0
		p.sink.runs[p.scope] = r
	case r == nil || !zonesync.SamePosition(r.to, b.GetTo()) || b.GetPart() != r.next && b.GetPart()+1 != r.next:
		return fmt.Errorf("%w: part %d of a snapshot", ErrOutOfStep, b.GetPart())
	}
	r.unreadable = r.unreadable || unreadable
	for _, o := range objects {
		r.seen[o.GetId()] = true
	}
	if !b.GetLast() {
		p.upserts(objects)
		if !had {
			c.moveTo(store.Position{Lineage: to.Lineage})
		}
		c.Incomplete, c.Adopting = true, r.adopting
		p.moved(c)
		return nil
	}
	// What cannot be told apart may be any of them.
	keep := r.adopting || r.unreadable
	for id, h := range p.sink.holdings(p.snap, p.scope, p.mesh) {
		if !r.seen[id] {
			p.absent(id, h, keep, r.seen)
		}
	}
	p.upserts(objects) // after what goes, so that nothing is said of a service that goes
	c = cursor{Unreadable: r.unreadable}
	c.moveTo(to)
	p.moved(c)
	return nil
}

// absent plans what happens to something that a complete snapshot did not hold.
func (p *plan) absent(id string, h *holding, keep bool, seen map[string]bool) {
	if h.aside != nil {
		p.unset(id)
	}
	switch {
	case !h.stored || h.pending:
	case h.about != nil:
		if of, _ := zonesync.IsStatement(id); !keep || seen[of] {
			p.derived[*h.about] = catalog.DerivedPut{Key: *h.about}
		}
	case keep:
		p.hold(h.key)
	default:
		p.delete(h.key)
	}
}

// hold makes a removal pending.
func (p *plan) hold(k resource.Key) {
	key := pendingKey(k)
	p.derived[key] = catalog.DerivedPut{Key: key, Data: encode(pending{Since: p.now()}), Owner: &k}
}

// end plans the end of a scope.
func (p *plan) end(e *zonesync.ScopeEnd) error {
	c, had := p.sink.cursor(p.snap, p.scope)
	keep := had && (c.Adopting || p.sink.adopt[p.scope] || !c.sameLineage(e.GetAt().GetLineage()) || c.ZoneID != p.sink.cfg.From.ID)
	for id, h := range p.sink.holdings(p.snap, p.scope, p.mesh) {
		p.absent(id, h, keep, nil)
	}
	switch {
	case keep:
		c.Adopting = true
		p.moved(c)
	case had:
		key := p.cursorKey()
		p.derived[key] = catalog.DerivedPut{Key: key}
	}
	return nil
}

func (p *plan) cursorKey() catalog.DerivedKey {
	return catalog.DerivedKey{Type: syncPrefix + p.sink.peer, Name: p.scope}
}

// moved writes where the scope is. The record goes with what it speaks of.
func (p *plan) moved(c cursor) {
	c.ZoneID = p.sink.cfg.From.ID
	owner := p.sink.owner()
	if owner == nil && p.mesh != "" {
		owner = &resource.Key{Type: mesh.TypeMesh, Name: p.mesh}
	}
	key, data := p.cursorKey(), encodeCursor(c)
	if old, ok := p.snap.Derived(key.Type, key.Mesh, key.Name); ok && bytes.Equal(old, data) {
		return
	}
	p.derived[key] = catalog.DerivedPut{Key: key, Data: data, Owner: owner}
}

// upserts plans what comes; resources first, then what is said of them. The last of several with one id counts.
func (p *plan) upserts(objects []*object) {
	last := map[string]*object{}
	for _, o := range objects {
		last[o.GetId()] = o
	}
	for _, o := range slices.SortedFunc(maps.Values(last), compareObjects) {
		if _, statement := zonesync.IsStatement(o.GetId()); !statement {
			p.upsert(o)
			if a := p.asides[zonesync.StatementID(o.GetId())]; a != nil && a.Code == codeNoService && last[a.ID] == nil && p.asides[o.GetId()] == nil {
				p.again(a)
			}
			continue
		}
		p.upsert(o)
	}
}

// again judges a statement anew whose service has come.
func (p *plan) again(a *aside) {
	if o, ok := a.decode(); ok {
		p.upsert(o)
	}
}

func (p *plan) upsert(o *object) {
	if kri, ok := zonesync.IsStatement(o.GetId()); ok {
		p.statement(o, kri)
		return
	}
	r, bad := p.judge(o)
	if bad == nil {
		bad = p.store(o, r)
	}
	if bad != nil {
		p.set(o, bad)
		return
	}
	p.unset(o.GetId())
}

// store plans to write a resource, unless it is stored already.
func (p *plan) store(o *object, r resource.Resource) *rejection {
	kind, _ := p.sink.cfg.Kinds.ByName(r.Type)
	key := r.Key()
	if id, twice := p.ids[key]; twice && id != o.GetId() {
		return reject(codeNameTaken, zonesync.Rejected_PERMANENT, "it would be stored as %s, as %s is", key, id)
	}
	put := catalog.Put{Resource: r, Expect: store.ExpectAbsent, Owner: p.sink.owner()}
	old, readable := p.snap.Get(key)
	a, unreadable := p.snap.Unreadable(key)
	if unreadable {
		old.Meta = resource.Meta{Type: key.Type, Mesh: key.Mesh, Name: key.Name, Labels: a.Labels, UID: a.UID, Version: a.Version}
	}
	if readable || unreadable {
		ours := p.sink.belongs(old.Labels)
		switch {
		case kind.Name == mesh.TypeMesh && p.sink.cfg.Zone != "": // global says what meshes there are, and zones that join adopt them
		case !ours:
			return reject(codeNameTaken, zonesync.Rejected_PERMANENT, "%s is somebody else's here", key)
		case resource.KRIOf(kind, old.Meta).String() != o.GetId():
			return reject(codeNameTaken, zonesync.Rejected_PERMANENT, "it would be stored as %s, as %s is", key, resource.KRIOf(kind, old.Meta))
		}
		put.Expect = int64(old.Version)
		put.TakeUID = old.UID != r.UID
		if put.TakeUID && kind.AdminOnly {
			p.before[key] = true // its history is shredded with it
		}
		if !put.TakeUID && readable && !unreadable && maps.Equal(old.Labels, r.Labels) && bytes.Equal(old.Raw, r.Raw) {
			p.accept(o, r)
			return nil
		}
	}
	p.accept(o, r)
	p.puts[key] = put
	return nil
}

func (p *plan) accept(o *object, r resource.Resource) {
	key := r.Key()
	p.resolve(key)
	p.claim(r)
	p.ids[key], p.accepted[key] = o.GetId(), true
}

// resolve ends a pending removal.
func (p *plan) resolve(k resource.Key) {
	key := pendingKey(k)
	if _, ok := p.snap.Derived(key.Type, key.Mesh, key.Name); ok {
		p.derived[key] = catalog.DerivedPut{Key: key}
	}
}

// statement plans to write what the owner of a MeshService says of it.
func (p *plan) statement(o *object, kri string) {
	service, bad := p.judgeStatement(o, kri)
	if bad != nil {
		p.set(o, bad)
		return
	}
	p.unset(o.GetId())
	key := statementKey(service)
	if old, ok := p.snap.Derived(key.Type, key.Mesh, key.Name); ok && bytes.Equal(old, o.GetSpec()) {
		return
	}
	p.derived[key] = catalog.DerivedPut{Key: key, Data: o.GetSpec(), Owner: &service}
}

// removals plans what goes. What comes in the same batch stays.
func (p *plan) removals(removals []*zonesync.Removal, objects []*object) {
	comes := map[string]bool{}
	for _, o := range objects {
		comes[o.GetId()] = true
	}
	for _, r := range removals {
		if !comes[r.GetId()] {
			p.removal(r)
		}
	}
}

func (p *plan) removal(r *zonesync.Removal) {
	p.unset(r.GetId())
	id, about := zonesync.IsStatement(r.GetId())
	if !about {
		id = r.GetId()
	}
	kri, err := resource.ParseKRI(id)
	if err != nil || kri.Mesh != p.mesh {
		return
	}
	kind, ok := p.sink.cfg.Kinds.ByShort(kri.Short)
	if !ok {
		return
	}
	key := storedKey(kind, kri)
	old, exists := p.snap.Get(key)
	if a, unreadable := p.snap.Unreadable(key); unreadable {
		old.Meta, exists = resource.Meta{Type: key.Type, Mesh: key.Mesh, Name: key.Name, Labels: a.Labels, Version: a.Version}, true
	}
	if !exists || !p.sink.belongs(old.Labels) || resource.KRIOf(kind, old.Meta) != kri {
		return
	}
	switch {
	case about:
		said := statementKey(key)
		if _, ok := p.snap.Derived(said.Type, said.Mesh, said.Name); ok && kind.Name == mesh.TypeMeshService {
			p.derived[said] = catalog.DerivedPut{Key: said}
		}
	case kind.Name == mesh.TypeMesh && r.GetCause() != zonesync.Removal_DELETED && p.inUse(key.Name):
		p.hold(key) // a mesh goes with everything in it, also what is this zone's own: that takes its owner or an operator
	default:
		p.delete(key)
	}
}

// inUse says that a mesh holds something that did not come from the peer.
func (p *plan) inUse(meshName string) bool {
	for _, k := range p.sink.cfg.Kinds.All() {
		if k.Scope != resource.ScopeMesh {
			continue
		}
		used := false
		p.snap.Each(k.Name, meshName, func(r resource.Resource) bool {
			used = !p.sink.belongs(r.Labels)
			return !used
		})
		if used {
			return true
		}
	}
	return false
}

func (p *plan) delete(k resource.Key) {
	version := store.ExpectAny
	if r, ok := p.snap.Get(k); ok {
		version = int64(r.Version)
	}
	if a, ok := p.snap.Unreadable(k); ok {
		version = int64(a.Version)
	}
	p.deletes[k] = catalog.Delete{Key: k, Expect: version}
}

// set plans to set an object aside; what is stored of it stays in force.
func (p *plan) set(o *object, bad *rejection) {
	if kri, err := resource.ParseKRI(o.GetId()); err == nil {
		if kind, ok := p.sink.cfg.Kinds.ByShort(kri.Short); ok {
			if r, stored := p.snap.Get(storedKey(kind, kri)); stored && p.sink.belongs(r.Labels) {
				p.resolve(r.Key())
			}
		}
	}
	s := p.sink
	a := &aside{
		Peer: s.peer, Scope: p.scope, ID: o.GetId(), UID: o.GetUid(), Kind: o.GetKind(), Name: o.GetName(), Hash: o.GetHash(),
		Code: bad.code, Reason: clip(bad.reason), Retry: bad.retry, Since: p.now(), key: s.asideKey(p.mesh, o.GetKind(), o.GetId()),
	}
	kind, known := s.cfg.Kinds.ByName(o.GetKind())
	secret := o.GetKind() != statementKind && (!known || kind.AdminOnly)
	if len(o.encoded) <= maxKept && (!secret || s.cfg.Catalog.Seals()) {
		a.Object = o.encoded
	}
	if old := p.asides[a.ID]; old != nil {
		if old.key != a.key {
			p.derived[old.key] = catalog.DerivedPut{Key: old.key}
		}
		a.Since = old.Since
		if old.key == a.key && old.Code == a.Code && old.Reason == a.Reason && bytes.Equal(old.Hash, a.Hash) && old.UID == a.UID && bytes.Equal(old.Object, a.Object) {
			return
		}
	}
	p.asides[a.ID] = a
	p.news = append(p.news, a)
	p.derived[a.key] = catalog.DerivedPut{Key: a.key, Data: encode(a), Owner: s.owner(), Secret: s.cfg.Catalog.Seals()}
}

// unset plans that an object is not set aside any more.
func (p *plan) unset(id string) {
	if a := p.asides[id]; a != nil {
		p.derived[a.key] = catalog.DerivedPut{Key: a.key}
		delete(p.asides, id)
	}
}

func (p *plan) rejected() []*zonesync.Rejected { return sortedRejections(p.asides) }

// first is a batch that must be committed before the plan is made again; nil when there is none.
func (p *plan) first() *catalog.Batch {
	if len(p.before) == 0 {
		return nil
	}
	b := &catalog.Batch{}
	for k := range p.before {
		b.Deletes = append(b.Deletes, catalog.Delete{Key: k, Expect: store.ExpectAny})
	}
	return b
}

// commit is the whole plan as one batch. What would be owned by something that goes in the same batch is left out.
func (p *plan) commit() catalog.Batch {
	var b catalog.Batch
	goes := func(owner *resource.Key, meshName string) bool {
		if owner == nil {
			owner = &resource.Key{Type: mesh.TypeMesh, Name: meshName}
		}
		_, gone := p.deletes[*owner]
		return gone
	}
	for _, d := range p.deletes {
		b.Deletes = append(b.Deletes, d)
	}
	for k, put := range p.puts {
		if !goes(put.Owner, k.Mesh) {
			b.Puts = append(b.Puts, put)
		}
	}
	for k, d := range p.derived {
		if d.Data == nil || !goes(d.Owner, k.Mesh) {
			b.Derived = append(b.Derived, d)
		}
	}
	return b
}

// log tells of what is set aside from now on.
func (p *plan) log() {
	for _, a := range p.news {
		p.sink.cfg.Log.Warn("an object of the peer is set aside; its last good version stays in force", "id", resource.Quote(a.ID), "code", a.Code, "reason", a.Reason)
	}
}
