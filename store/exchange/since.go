package exchange

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/store"
)

// Beyond these a snapshot is cheaper than finding out what changed.
const (
	maxResumed = 50_000 // objects
	maxGone    = 2_000  // objects of which history must be asked who they were
)

var errReached = errors.New("reached")

// Since is what changed in one scope since a position that the peer has. Errors wrap store.ErrForked when the position is no part of
// the history, and store.ErrCompacted when history does not reach back; both mean a snapshot. Any other error is the store's.
func (o *Offers) Since(ctx context.Context, p Peer, scope string, after *zonesync.Position) (Changes, error) {
	from, err := StorePosition(after)
	if err != nil {
		return Changes{}, fmt.Errorf("resume %s: %w", scope, err)
	}
	if from == (store.Position{}) {
		return Changes{}, fmt.Errorf("resume %s: the peer has no position: %w", scope, store.ErrCompacted)
	}
	at, err := o.reach(ctx, from)
	if err != nil {
		return Changes{}, fmt.Errorf("resume %s: %w", scope, err)
	}
	v := &View{offers: o, pinned: at, peer: p}
	c := Changes{To: at.position, View: v, IDs: map[string]map[string]zonesync.Removal_Cause{}}
	touched, err := o.touched(ctx, from, at.at, scope)
	_, open := p.seesScope(at, scope)
	switch {
	case !open && (err == nil || errors.Is(err, store.ErrCompacted)): // the lineage is the same; nothing of the scope is to be told
		c.Ended = []string{scope}
		return c, nil
	case err != nil:
		return Changes{}, fmt.Errorf("resume %s: %w", scope, err)
	}
	r := resume{ctx: ctx, offers: o, view: v, scope: scope, ids: map[string]zonesync.Removal_Cause{}}
	for k := range touched {
		if err := r.add(k); err != nil {
			return Changes{}, fmt.Errorf("resume %s: %w", scope, err)
		}
	}
	if len(r.ids) > 0 {
		c.IDs[scope] = r.ids
	}
	return c, nil
}

// reach waits for a state that includes a position; a position that the store does not have is forked.
func (o *Offers) reach(ctx context.Context, from store.Position) (*offered, error) {
	for asked := false; ; asked = true {
		o.mu.Lock()
		at, changed := o.current.Load(), o.changed
		o.mu.Unlock()
		switch {
		case from.Lineage != at.at.Lineage:
			return nil, fmt.Errorf("%s is not of lineage %s: %w", from, at.at.Lineage, store.ErrForked)
		case from.Revision <= at.at.Revision:
			return at, nil
		}
		if !asked {
			head, err := o.cfg.Store.Position(ctx)
			if err != nil {
				return nil, err
			}
			if from.Lineage != head.Lineage || from.Revision > head.Revision {
				return nil, fmt.Errorf("%s is ahead of the store at %s: %w", from, head, store.ErrForked)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// touched reads from history which stored objects changed between two positions and matter for a scope.
func (o *Offers) touched(ctx context.Context, from, to store.Position, scope string) (map[store.Key]bool, error) {
	if from.Revision == to.Revision {
		if from.Chain != to.Chain {
			return nil, fmt.Errorf("%s has another chain here: %w", from, store.ErrForked)
		}
		return nil, nil
	}
	out := map[store.Key]bool{}
	meshName, _ := zonesync.MeshOf(scope)
	err := o.cfg.Store.Follow(ctx, from, func(c store.Committed) error {
		for _, ch := range c.Changes {
			if k := ch.Object.Key; o.matters(k, meshName) {
				out[k] = true
			}
		}
		switch {
		case len(out) > maxResumed:
			return fmt.Errorf("more than %d objects changed: %w", maxResumed, store.ErrCompacted)
		case c.Position.Revision >= to.Revision:
			return errReached
		}
		return nil
	})
	if errors.Is(err, errReached) {
		return out, nil
	}
	return nil, err
}

func (o *Offers) matters(k store.Key, meshName string) bool {
	if k.Class == store.Derived {
		return k.Type == o.statementSource() && k.Mesh == meshName && meshName != ""
	}
	return k.Mesh == meshName || k.Type == mesh.TypeZone && o.cfg.Zone == ""
}

// A resume gathers what a peer must be told about objects that changed while it was away.
type resume struct {
	ctx    context.Context
	offers *Offers
	view   *View
	scope  string
	ids    map[string]zonesync.Removal_Cause
	gone   int
}

func (r *resume) add(k store.Key) error {
	switch {
	case k.Class == store.Resource && k.Type == mesh.TypeZone:
		r.addZone(k.Name)
		return nil
	case k.Class == store.Derived:
		return r.addStatement(k)
	}
	if k.Type == mesh.TypeMeshIdentity && r.offers.cfg.Zone == "" {
		r.addAuthorities(k.Mesh)
	}
	if k.Type == mesh.TypeMeshService { // what is said of it comes and goes with it
		if e, ok := r.view.pinned.sources.Get(&entry{source: store.Key{Class: store.Derived, Type: r.offers.statementSource(), Mesh: k.Mesh, Name: k.Name}}); ok {
			r.addEntry(e)
		}
	}
	if e, ok := r.view.pinned.sources.Get(&entry{source: k}); ok {
		r.addEntry(e)
		return nil
	}
	return r.addGone(k)
}

// addEntry tells of something that is on offer now, though perhaps not to this peer.
func (r *resume) addEntry(e *entry) {
	at, peer := r.view.pinned, r.view.peer
	switch {
	case peer.sees(at, e.zone, e.mesh):
		r.ids[e.item.ID] = zonesync.Removal_DELETED // it is there, so the cause means nothing
	case at.disabled[e.zone] && e.zone != peer.ToZone:
		r.ids[e.item.ID] = zonesync.Removal_SCOPE_END
	}
}

// addZone tells of everything a zone offers: it may have been enabled or disabled meanwhile.
func (r *resume) addZone(zone string) {
	s := r.view.pinned.scopes[r.scope]
	if _, has := s.sums[zone]; !has {
		return
	}
	s.entries.Scan(func(e *entry) bool {
		if e.zone == zone {
			r.addEntry(e)
		}
		return true
	})
}

// addAuthorities tells of the Secrets that identities may have begun or ceased to refer to.
func (r *resume) addAuthorities(meshName string) {
	kind, ok := r.offers.kinds.ByName(mesh.TypeSecret)
	if !ok {
		return
	}
	r.offers.cfg.Catalog.Snapshot().Each(mesh.TypeSecret, meshName, func(s resource.Resource) bool {
		if _, ca := authorityOf(s.Name); !ca {
			return true
		}
		if id, owner, travels := identity(kind, s.Meta, ""); travels && owner == "" {
			r.ids[id] = zonesync.Removal_WITHDRAWN
		}
		return true
	})
}

func (r *resume) addStatement(k store.Key) error {
	if e, ok := r.view.pinned.sources.Get(&entry{source: k}); ok {
		r.addEntry(e)
		return nil
	}
	service := store.Key{Type: mesh.TypeMeshService, Mesh: k.Mesh, Name: k.Name}
	if e, ok := r.view.pinned.sources.Get(&entry{source: service}); ok {
		if r.view.peer.sees(r.view.pinned, e.zone, "") {
			r.ids[zonesync.StatementID(e.item.ID)] = zonesync.Removal_DELETED
		}
		return nil
	}
	return nil // its service is gone, and history tells of both
}

// addGone tells of something that is not on offer any more. Who it was is in its labels, which history may still have.
func (r *resume) addGone(k store.Key) error {
	kind, ok := r.offers.kinds.ByName(k.Type)
	if !ok || !travels(kind) || r.offers.cfg.Zone == "" && staysHere(k.Type, k.Mesh, k.Name) && !strings.HasPrefix(k.Name, privateKeyPrefix(k.Mesh)) {
		return nil
	}
	if r.never(kind, k) {
		return nil
	}
	if r.gone++; r.gone > maxGone {
		return fmt.Errorf("more than %d objects went: %w", maxGone, store.ErrCompacted)
	}
	history, err := r.offers.cfg.Store.History(r.ctx, k, 0)
	if err != nil {
		return err
	}
	found := false
	deleted := false
	for i, c := range history {
		for _, ch := range c.Changes {
			deleted = deleted || i == 0 && ch.Deleted
			if ch.Deleted {
				continue
			}
			found = true
			m := resource.Meta{Type: k.Type, Mesh: k.Mesh, Name: k.Name, Labels: ch.Object.Labels}
			r.addFormer(kind, m, deleted)
		}
	}
	if !found {
		return fmt.Errorf("history does not say any more who %s was: %w", k, store.ErrCompacted)
	}
	return nil
}

// never says that an object was not on offer before either, without asking history: kinds that only come from the other side, and in a zone
// what came from global.
func (r *resume) never(kind resource.Kind, k store.Key) bool {
	cfg := r.offers.cfg
	if cfg.Zone == "" {
		return kind.Flow&(resource.FromGlobal|resource.AcrossZones) == 0
	}
	if !zoneMayWrite(kind) {
		return true
	}
	stored, ok := cfg.Catalog.Snapshot().Get(resource.Key{Type: k.Type, Mesh: k.Mesh, Name: k.Name})
	return ok && stored.Label(resource.LabelOrigin) == resource.OriginGlobal
}

func (r *resume) addFormer(kind resource.Kind, m resource.Meta, deleted bool) {
	id, owner, ok := identity(kind, m, r.offers.cfg.Zone)
	peer := r.view.peer
	if !ok || !peer.ToGlobal && owner != "" && owner == peer.ToZone || kind.Name == mesh.TypeMesh && !peer.serves(m.Name) {
		return
	}
	if _, back := r.ids[id]; back {
		return
	}
	cause := zonesync.Removal_WITHDRAWN
	if deleted {
		cause = zonesync.Removal_DELETED
	}
	r.ids[id] = cause
	if kind.Name == mesh.TypeMeshService {
		r.ids[zonesync.StatementID(id)] = cause
	}
}
