package catalog

import (
	"context"
	"errors"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
)

// ErrClosed is a feed that was closed.
var ErrClosed = errors.New("feed is closed")

// maxPending is how many changed keys a slow reader may gather before it is told to compare everything instead.
const maxPending = 20_000

// An Update is what changed since the last one: the newest snapshot and the keys that differ.
type Update struct {
	Snapshot *Snapshot
	Changed  []resource.Key
	Derived  []DerivedKey
	// All means that anything may differ: the first update, a reload, or a reader that fell far behind.
	All bool
}

// A Feed tells one reader about changes. A slow reader gets fewer, larger updates; nobody waits for it.
type Feed struct {
	c      *Catalog
	wake   chan struct{} // holds a token when something is pending
	closed chan struct{}

	// Guarded by the catalog's lock.
	all     bool
	changed map[resource.Key]struct{}
	derived map[DerivedKey]struct{}
}

// Subscribe starts a feed. Its first update has All set.
func (c *Catalog) Subscribe() *Feed {
	f := &Feed{c: c, wake: make(chan struct{}, 1), closed: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.feeds[f] = struct{}{}
	f.everything()
	return f
}

// Close ends the feed; a waiting Next returns ErrClosed. It may be called more than once.
func (f *Feed) Close() {
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	if _, open := f.c.feeds[f]; open {
		delete(f.c.feeds, f)
		close(f.closed)
	}
}

// Next waits for something that the reader does not know yet. One reader at a time.
func (f *Feed) Next(ctx context.Context) (Update, error) {
	select {
	case <-f.closed:
		return Update{}, ErrClosed
	case <-ctx.Done():
		return Update{}, ctx.Err()
	case <-f.wake:
	}
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	u := Update{Snapshot: f.c.Snapshot(), All: f.all}
	if !f.all {
		for k := range f.changed {
			u.Changed = append(u.Changed, k)
		}
		for k := range f.derived {
			u.Derived = append(u.Derived, k)
		}
	}
	f.all, f.changed, f.derived = false, nil, nil
	return u, nil
}

// everything notes that anything may differ; the caller holds the catalog's lock.
func (f *Feed) everything() {
	f.all, f.changed, f.derived = true, nil, nil
	f.notify()
}

// note remembers changes; the caller holds the catalog's lock.
func (f *Feed) note(changes []store.Change) {
	defer f.notify()
	if f.all {
		return
	}
	if len(f.changed)+len(f.derived)+len(changes) > maxPending {
		f.everything()
		return
	}
	if f.changed == nil {
		f.changed, f.derived = map[resource.Key]struct{}{}, map[DerivedKey]struct{}{}
	}
	for _, ch := range changes {
		k := ch.Object.Key
		if k.Class == store.Derived {
			f.derived[DerivedKey{k.Type, k.Mesh, k.Name}] = struct{}{}
		} else {
			f.changed[resourceKey(k)] = struct{}{}
		}
	}
}

func (f *Feed) notify() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}
