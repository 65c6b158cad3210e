package catalog

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
)

// A Batch is a set of changes that happen together or not at all.
type Batch struct {
	ID      store.BatchID // random when zero; the same id is never applied twice
	Author  string
	Reason  string
	Puts    []Put
	Deletes []Delete
	Derived []DerivedPut
	// Fence, when set, makes the batch conditional on a lease still held.
	Fence *store.Fence
}

// A Put writes one resource: its mesh, name, labels and Raw. Expect is as in store.Op.
type Put struct {
	Resource resource.Resource
	Expect   int64
	// Owner, when set, is the resource with which this one goes, instead of its mesh.
	Owner *resource.Key
	// TakeUID is as in store.Op.
	TakeUID bool
}

// A Delete removes one resource. Expect is as in store.Op.
type Delete struct {
	Key    resource.Key
	Expect int64
}

// A DerivedPut writes one derived record, or deletes it when Data is nil.
// It goes away with its owner, or else with the resource whose status it is, or else with its mesh.
type DerivedPut struct {
	Key   DerivedKey
	Data  []byte
	Owner *resource.Key
	// Absent makes the batch fail with a conflict when the record exists.
	Absent bool
	// Secret seals the data at rest.
	Secret bool
}

// NewBatchID makes a random id.
func NewBatchID() store.BatchID {
	var id store.BatchID
	rand.Read(id[:]) //nolint:errcheck // it never fails and ends the process if the system has no randomness
	return id
}

// Commit writes a batch and waits until Snapshot includes it, so that whoever wrote can read what was written.
// Errors are the store's. A batch that is committed is reported as such even if its result is slow to become visible,
// which takes Run to be running.
func (c *Catalog) Commit(ctx context.Context, b Batch) (store.Committed, error) {
	sb, err := c.batch(b)
	if err != nil {
		return store.Committed{}, fmt.Errorf("commit: %w", err)
	}
	start := time.Now()
	done, err := c.cfg.Store.Commit(ctx, sb)
	c.metrics.observeCommit(time.Since(start), err)
	if err != nil {
		if errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrUnknownOutcome) {
			c.setAway(err)
		}
		return store.Committed{}, fmt.Errorf("commit: %w", err)
	}
	c.setAway(nil)
	ctx, cancel := context.WithTimeout(ctx, c.cfg.ReadYourWrites)
	defer cancel()
	if err := c.waitFor(ctx, done.Position); err != nil {
		c.metrics.slowReads.Inc()
		c.cfg.Log.Warn("a commit is durable but not yet visible", "position", done.Position.String(), "err", err)
	}
	return done, nil
}

func (c *Catalog) batch(b Batch) (store.Batch, error) {
	sb := store.Batch{ID: b.ID, Author: b.Author, Reason: b.Reason, Fence: b.Fence}
	if sb.ID == (store.BatchID{}) {
		sb.ID = NewBatchID()
	}
	sb.Ops = make([]store.Op, 0, len(b.Puts)+len(b.Deletes)+len(b.Derived))
	for _, p := range b.Puts {
		o, err := c.object(p.Resource)
		if err != nil {
			return store.Batch{}, fmt.Errorf("%s: %w", p.Resource.Key(), err)
		}
		if p.Owner != nil {
			o.Owner = ownedBy(*p.Owner)
		}
		sb.Ops = append(sb.Ops, store.Op{Object: o, Expect: p.Expect, TakeUID: p.TakeUID})
	}
	for _, d := range b.Deletes {
		sb.Ops = append(sb.Ops, store.Op{Object: store.Object{Key: storeKey(d.Key)}, Delete: true, Expect: d.Expect})
	}
	for _, d := range b.Derived {
		op, err := c.derived(d)
		if err != nil {
			return store.Batch{}, fmt.Errorf("%s %s/%s: %w", d.Key.Type, d.Key.Mesh, d.Key.Name, err)
		}
		sb.Ops = append(sb.Ops, op)
	}
	return sb, nil
}

func (c *Catalog) derived(d DerivedPut) (store.Op, error) {
	key := store.Key{Class: store.Derived, Type: d.Key.Type, Mesh: d.Key.Mesh, Name: d.Key.Name}
	op := store.Op{Object: store.Object{Key: key, Data: d.Data, Owner: ownerOf(key)}, Delete: d.Data == nil, Expect: store.ExpectAny}
	if d.Owner != nil {
		op.Object.Owner = ownedBy(*d.Owner)
	}
	if d.Absent {
		op.Expect = store.ExpectAbsent
	}
	if !d.Secret || op.Delete {
		return op, nil
	}
	if c.cfg.Sealer == nil {
		return store.Op{}, errNoSealer
	}
	sealed, err := c.cfg.Sealer.Seal(d.Data, sealContext(resourceKey(key)))
	op.Object.Data, op.Object.Secret = sealed, true
	return op, err
}

// Seals says whether secrets can be kept.
func (c *Catalog) Seals() bool { return c.cfg.Sealer != nil }

func ownedBy(k resource.Key) *store.Key {
	owner := storeKey(k)
	return &owner
}

func (c *Catalog) object(r resource.Resource) (store.Object, error) {
	kind, ok := c.cfg.Kinds.ByName(r.Type)
	if !ok {
		return store.Object{}, fmt.Errorf("%w: %s", resource.ErrUnknownKind, resource.Quote(r.Type))
	}
	key := storeKey(r.Key())
	o := store.Object{Key: key, UID: r.UID, Labels: r.Labels, Data: r.Raw, Owner: ownerOf(key), Secret: kind.AdminOnly}
	if len(o.Data) == 0 {
		o.Data = []byte("{}")
	}
	if !kind.AdminOnly {
		return o, nil
	}
	if c.cfg.Sealer == nil {
		return store.Object{}, errNoSealer
	}
	sealed, err := c.cfg.Sealer.Seal(o.Data, sealContext(r.Key()))
	o.Data = sealed
	return o, err
}

func storeKey(k resource.Key) store.Key { return store.Key{Type: k.Type, Mesh: k.Mesh, Name: k.Name} }

// ownerOf is the object with which another one goes away: a status with its resource, everything else with its mesh.
func ownerOf(k store.Key) *store.Key {
	if typ, ok := strings.CutPrefix(k.Type, statusPrefix); ok && k.Class == store.Derived {
		return &store.Key{Type: typ, Mesh: k.Mesh, Name: k.Name}
	}
	if k.Mesh == "" {
		return nil
	}
	return &store.Key{Type: "Mesh", Name: k.Mesh}
}

// Rewrap re-seals every secret that an older key sealed, and says how many. Concurrent writers win.
// The older key is needed until history that was written under it is compacted.
func (c *Catalog) Rewrap(ctx context.Context, author string) (int, error) {
	var stale []store.Object
	_, err := c.cfg.Store.Snapshot(ctx, func(o store.Object) error {
		if o.Secret && c.cfg.Sealer != nil && c.cfg.Sealer.Stale(o.Data) {
			stale = append(stale, o)
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("rewrap secrets: %w", err)
	}
	n := 0
	for _, o := range stale {
		o.Data, err = c.cfg.Sealer.Rewrap(o.Data, sealContext(resourceKey(o.Key)))
		if err != nil {
			return n, fmt.Errorf("rewrap %s: %w", o.Key, err)
		}
		op := store.Op{Object: o, Expect: int64(o.Version)}
		_, err := c.cfg.Store.Commit(ctx, store.Batch{ID: NewBatchID(), Author: author, Reason: "sealing key rotated", Ops: []store.Op{op}})
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return n, fmt.Errorf("rewrap %s: %w", o.Key, err)
		}
		n++
	}
	return n, nil
}
