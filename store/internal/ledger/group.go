// Package ledger decides what batches do: verdicts, versions, cascades and chains, from what a store has loaded.
// It also queues batches for one writer and wakes followers. It stores nothing, so that every implementation agrees.
package ledger

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/causeway-mesh/causeway/store"
)

// A State answers what a group of batches needs to know of the store before it.
type State interface {
	Object(k store.Key) (store.Object, bool)
	Owned(k store.Key) []store.Key // objects whose owner is k
	Lease(name string) (store.Fence, bool)
	Committed(id store.BatchID) (store.Committed, bool)
}

// A Group is a run of batches that share one transaction; each sees the effect of those before it.
type Group struct {
	state   State
	at      time.Time
	head    store.Position
	changed map[store.Key]*store.Object // nil: deleted by the group
	owned   map[store.Key][]store.Key   // by owner, what the group put under it
	done    map[store.BatchID]int
	commits []store.Committed
}

// NewGroup starts a group on top of a state, whose last position is head, at the time of the transaction.
func NewGroup(state State, head store.Position, at time.Time) *Group {
	return &Group{
		state:   state,
		at:      at.UTC().Truncate(time.Microsecond),
		head:    head,
		changed: make(map[store.Key]*store.Object),
		owned:   make(map[store.Key][]store.Key),
		done:    make(map[store.BatchID]int),
	}
}

// Head is the position after the batches applied so far.
func (g *Group) Head() store.Position { return g.head }

// Commits are the batches to be written, in order; repeated and failed batches are not among them.
func (g *Group) Commits() []store.Committed { return g.commits }

// Changed is the final state of each object that the group touched; nil means deleted.
func (g *Group) Changed() map[store.Key]*store.Object { return g.changed }

// Apply gives a batch its verdict. On an error the batch is left out and the group is as before.
func (g *Group) Apply(b store.Batch) (store.Committed, error) {
	if i, ok := g.done[b.ID]; ok {
		return CloneCommitted(g.commits[i]), nil
	}
	if c, ok := g.state.Committed(b.ID); ok {
		return c, nil
	}
	if err := g.fence(b.Fence); err != nil {
		return store.Committed{}, err
	}
	next := make(map[store.Key]*store.Object, len(b.Ops))
	var changes []store.Change
	for _, op := range b.Ops {
		old, exists := g.object(op.Object.Key)
		if err := expect(op, old, exists); err != nil {
			return store.Committed{}, err
		}
		switch {
		case !op.Delete:
			o := g.put(op, old, exists)
			next[o.Key] = &o
			changes = append(changes, store.Change{Object: o})
		case exists:
			next[old.Key] = nil
			changes = append(changes, deletion(old, g.head.Revision+1))
		}
	}
	changes, err := g.cascade(changes, next)
	if err != nil {
		return store.Committed{}, err
	}
	return g.keep(b, changes, next), nil
}

func (g *Group) fence(f *store.Fence) error {
	if f == nil {
		return nil
	}
	held, ok := g.state.Lease(f.Name)
	if !ok || held != *f {
		return fmt.Errorf("lease %q of %s, counter %d: %w", f.Name, f.Holder, f.Counter, store.ErrFenced)
	}
	return nil
}

// object is the state of one object as this group left it.
func (g *Group) object(k store.Key) (store.Object, bool) {
	if o, ok := g.changed[k]; ok {
		if o == nil {
			return store.Object{}, false
		}
		return *o, true
	}
	return g.state.Object(k)
}

func expect(op store.Op, old store.Object, exists bool) error {
	met := op.Expect == store.ExpectAny ||
		(op.Expect == store.ExpectAbsent && !exists) ||
		(op.Expect > 0 && exists && old.Version == uint64(op.Expect))
	if met {
		return nil
	}
	return &store.ConflictError{Key: op.Object.Key, Expected: op.Expect, Actual: old.Version}
}

// put is the object as it will be stored; it shares no memory with the caller's.
func (g *Group) put(op store.Op, old store.Object, exists bool) store.Object {
	o := Clone(op.Object)
	o.Version, o.Created = 1, g.at
	if exists {
		if o.UID == "" || !op.TakeUID {
			o.UID = old.UID
		}
		o.Version, o.Created = old.Version+1, old.Created
		o.Secret = o.Secret || old.Secret
		if o.Owner == nil && old.Owner != nil {
			owner := *old.Owner
			o.Owner = &owner
		}
	}
	if o.UID == "" {
		o.UID = newUID()
	}
	o.Revision, o.Modified = g.head.Revision+1, g.at
	return o
}

func deletion(old store.Object, revision uint64) store.Change {
	return store.Change{Deleted: true, Object: store.Object{Key: old.Key, UID: old.UID, Version: old.Version, Revision: revision, Secret: old.Secret}}
}

// cascade adds the deletions of everything owned by what the batch deletes, breadth first and in key order.
func (g *Group) cascade(changes []store.Change, next map[store.Key]*store.Object) ([]store.Change, error) {
	byOwner := make(map[store.Key][]store.Key)
	for k, o := range next {
		if o != nil && o.Owner != nil {
			byOwner[*o.Owner] = append(byOwner[*o.Owner], k)
		}
	}
	for i := 0; i < len(changes); i++ {
		if !changes[i].Deleted {
			continue
		}
		owner := changes[i].Object.Key
		keys := slices.Concat(byOwner[owner], g.owned[owner], g.state.Owned(owner))
		slices.SortFunc(keys, Compare)
		for _, k := range slices.Compact(keys) {
			o, put := next[k]
			if put && o == nil {
				continue
			}
			if put && o.Owner != nil && *o.Owner == owner {
				return nil, fmt.Errorf("%w: %s is put and its owner %s is deleted", store.ErrInvalid, k, owner)
			}
			old, exists := g.object(k)
			if put || !exists || old.Owner == nil || *old.Owner != owner {
				continue
			}
			next[k] = nil
			changes = append(changes, deletion(old, g.head.Revision+1))
		}
	}
	return changes, nil
}

// keep records a batch that passed.
func (g *Group) keep(b store.Batch, changes []store.Change, next map[store.Key]*store.Object) store.Committed {
	g.head.Revision++
	g.head.Chain = g.head.Chain.Next(g.head.Revision, b.ID, changes)
	maps.Copy(g.changed, next)
	for k, o := range next {
		if o != nil && o.Owner != nil {
			g.owned[*o.Owner] = append(g.owned[*o.Owner], k)
		}
	}
	c := store.Committed{Position: g.head, ID: b.ID, Author: b.Author, Reason: b.Reason, At: g.at, Changes: changes}
	g.done[b.ID] = len(g.commits)
	g.commits = append(g.commits, c)
	return c
}

// Compare orders keys as Snapshot gives them: by class, type, mesh and name, bytewise.
func Compare(a, b store.Key) int {
	return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Mesh, b.Mesh), cmp.Compare(a.Name, b.Name))
}

// Clone is a copy that shares no memory; empty labels and data become nil, as every implementation returns them.
func Clone(o store.Object) store.Object {
	if len(o.Labels) == 0 {
		o.Labels = nil
	}
	if len(o.Data) == 0 {
		o.Data = nil
	}
	o.Labels, o.Data = maps.Clone(o.Labels), slices.Clone(o.Data)
	if o.Owner != nil {
		owner := *o.Owner
		o.Owner = &owner
	}
	return o
}

// CloneCommitted is a copy that shares no memory.
func CloneCommitted(c store.Committed) store.Committed {
	c.Changes = slices.Clone(c.Changes)
	for i := range c.Changes {
		c.Changes[i].Object = Clone(c.Changes[i].Object)
	}
	return c
}

// NewLineage is the identity of a fresh store.
func NewLineage() store.Lineage { return store.Lineage{ID: newUID(), Epoch: 1} }

func newUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
