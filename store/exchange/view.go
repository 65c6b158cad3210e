package exchange

import (
	"context"
	"fmt"
	"maps"
	"math/bits"
	"slices"

	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// A Peer is who something is offered to: at global a zone, with the meshes that it serves (none means all), or in a zone global.
type Peer struct {
	ToGlobal bool
	ToZone   string
	Meshes   []string
}

func (p Peer) serves(mesh string) bool { return len(p.Meshes) == 0 || slices.Contains(p.Meshes, mesh) }

// sees says whether what an owner has is for the peer; mesh is the name of a Mesh.
func (p Peer) sees(o *offered, zone, mesh string) bool {
	if !p.ToGlobal && zone != "" && (zone == p.ToZone || o.disabled[zone]) {
		return false
	}
	return mesh == "" || p.serves(mesh)
}

func (p Peer) seesScope(o *offered, name string) (*scope, bool) {
	s, ok := o.scopes[name]
	mesh, _ := zonesync.MeshOf(name)
	return s, ok && s.open && (mesh == "" || p.serves(mesh))
}

// A View is what is offered to one peer; it implements zonesync.Source.
type View struct {
	offers *Offers
	pinned *offered
	peer   Peer
}

var _ zonesync.Source = (*View)(nil)

// For is what is offered to one peer. It costs nothing to make.
func (o *Offers) For(p Peer) *View { return &View{offers: o, peer: p} }

// Pin is the same view at the present moment: it does not change any more.
func (v *View) Pin() *View { return &View{offers: v.offers, pinned: v.state(), peer: v.peer} }

func (v *View) state() *offered {
	if v.pinned != nil {
		return v.pinned
	}
	return v.offers.current.Load()
}

// Position is where what is offered is now.
func (v *View) Position() *zonesync.Position { return v.state().position }

// Scopes lists the scopes that are offered, sorted.
func (v *View) Scopes() []string {
	o := v.state()
	var out []string
	for name := range o.scopes {
		if _, ok := v.peer.seesScope(o, name); ok {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Cut is everything of a scope.
func (v *View) Cut(scope string) zonesync.Cut {
	o := v.state()
	cut := zonesync.Cut{Position: o.position}
	s, ok := v.peer.seesScope(o, scope)
	if !ok {
		return cut
	}
	cut.Items = make([]*zonesync.Item, 0, s.entries.Len())
	s.entries.Scan(func(e *entry) bool {
		if v.peer.sees(o, e.zone, e.mesh) {
			cut.Items = append(cut.Items, e.item)
		}
		return true
	})
	return cut
}

// Item is one object of a scope; false when it is not offered any more.
func (v *View) Item(scope, id string) (*zonesync.Item, bool) {
	o := v.state()
	s, ok := v.peer.seesScope(o, scope)
	if !ok {
		return nil, false
	}
	e, ok := s.entries.Get(&entry{item: &zonesync.Item{ID: id}})
	if !ok || !v.peer.sees(o, e.zone, e.mesh) {
		return nil, false
	}
	return e.item, true
}

// State is position, digest and count of a scope, without looking at every object; nil when it is not offered.
func (v *View) State(scope string) *zonesync.ScopeState {
	o := v.state()
	s, ok := v.peer.seesScope(o, scope)
	if !ok {
		return nil
	}
	var total sum
	for zone, t := range s.sums {
		if v.peer.sees(o, zone, "") {
			merge(&total.digest, t.digest)
			total.count += t.count
		}
	}
	for name, e := range s.meshes {
		if !v.peer.serves(name) {
			total.digest.Remove(e.item.ID, e.item.UID, e.item.Hash)
			total.count--
		}
	}
	return &zonesync.ScopeState{Scope: scope, Position: o.position, Digest: total.digest.Bytes(), Count: total.count}
}

// merge adds the sum of other objects.
func merge(d *zonesync.Digest, more zonesync.Digest) {
	var carry uint64
	for i := range d {
		d[i], carry = bits.Add64(d[i], more[i], carry)
	}
}

// Changes is what differs for a peer since it was last told.
type Changes struct {
	// To is where all scopes are now.
	To *zonesync.Position
	// View shows exactly the state at To.
	View *View
	// IDs holds, by scope, the objects that changed, and for those that are not offered any more the cause.
	IDs map[string]map[string]zonesync.Removal_Cause
	// Ended and Begun list scopes, sorted; one in both ended and began anew. For those IDs says nothing.
	Ended, Begun []string
}

// A Feed tells about changes for one peer. A slow reader gets fewer, larger updates; nobody waits for it.
type Feed struct {
	offers *Offers
	peer   Peer
	wake   chan struct{} // holds a token when something is pending
	closed chan struct{}

	// Guarded by the lock of the offers.
	lineage store.Lineage
	ids     map[string]map[string]zonesync.Removal_Cause
	ended   map[string]bool
	begun   map[string]bool
}

// Subscribe starts a feed of what changes for one peer from now on; Close ends it.
// Who looks at the view after subscribing misses nothing.
func (o *Offers) Subscribe(p Peer) *Feed {
	f := &Feed{offers: o, peer: p, wake: make(chan struct{}, 1), closed: make(chan struct{})}
	o.mu.Lock()
	defer o.mu.Unlock()
	f.lineage = o.current.Load().at.Lineage
	f.reset()
	o.feeds[f] = struct{}{}
	return f
}

func (f *Feed) reset() {
	f.ids, f.ended, f.begun = map[string]map[string]zonesync.Removal_Cause{}, map[string]bool{}, map[string]bool{}
}

// Next waits for changes. It fails with an error that wraps store.ErrForked when the store has another history now: the link must begin anew.
// One reader at a time.
func (f *Feed) Next(ctx context.Context) (Changes, error) {
	select {
	case <-f.closed:
		return Changes{}, catalog.ErrClosed
	case <-ctx.Done():
		return Changes{}, ctx.Err()
	case <-f.wake:
	}
	f.offers.mu.Lock()
	defer f.offers.mu.Unlock()
	o := f.offers.current.Load()
	if o.at.Lineage != f.lineage {
		return Changes{}, fmt.Errorf("the store went from %s to %s: %w", f.lineage, o.at, store.ErrForked)
	}
	c := Changes{
		To: o.position, View: &View{offers: f.offers, pinned: o, peer: f.peer}, IDs: f.ids,
		Ended: slices.Sorted(maps.Keys(f.ended)), Begun: slices.Sorted(maps.Keys(f.begun)),
	}
	f.reset()
	return c, nil
}

// Close ends the feed; a waiting Next returns. It may be called more than once.
func (f *Feed) Close() {
	f.offers.mu.Lock()
	defer f.offers.mu.Unlock()
	if _, open := f.offers.feeds[f]; open {
		delete(f.offers.feeds, f)
		close(f.closed)
	}
}

// note remembers what a new state changes for the peer; the caller holds the lock of the offers.
func (f *Feed) note(b *building) {
	for name := range b.touched {
		_, was := f.peer.seesScope(b.old, name)
		_, is := f.peer.seesScope(b.next, name)
		switch {
		case was == is:
		case is:
			f.begun[name] = true
		case f.begun[name]:
			delete(f.begun, name) // the peer never heard of it
		default:
			delete(f.ids, name)
			f.ended[name] = true
		}
	}
	for _, c := range b.changes {
		f.noteObject(b, c)
	}
	if len(f.ids)+len(f.ended)+len(f.begun) > 0 || b.next.at.Lineage != f.lineage {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

func (f *Feed) noteObject(b *building, c change) {
	_, is := f.peer.seesScope(b.next, c.scope)
	if !is || f.begun[c.scope] {
		return
	}
	if !f.peer.sees(b.old, c.zone, c.mesh) && !f.peer.sees(b.next, c.zone, c.mesh) {
		return
	}
	if f.ids[c.scope] == nil {
		f.ids[c.scope] = map[string]zonesync.Removal_Cause{}
	}
	f.ids[c.scope][c.id] = c.cause
}
