// Package memory is a complete store in the memory of one process: the twin of the databases for tests and for roles
// that keep nothing. It does not persist, and one Store is one database: there are no further instances of it.
package memory

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/internal/ledger"
)

var _ store.Store = (*Store)(nil)

// A Store is one database in memory.
type Store struct {
	bell   ledger.Bell
	closed chan struct{}

	mu           sync.RWMutex
	shut         bool
	head         ledger.Head
	objects      map[store.Key]store.Object // values are immutable
	owned        map[store.Key]map[store.Key]struct{}
	history      []store.Committed // from head.Compacted+1 on
	revisions    map[store.BatchID]uint64
	observations map[string]store.Observation
	leases       map[string]lease
}

type lease struct {
	store.Fence
	expires time.Time
}

// New makes an empty store with a lineage of its own.
func New() *Store {
	return &Store{
		closed:       make(chan struct{}),
		head:         ledger.Head{Position: store.Position{Lineage: ledger.NewLineage()}},
		objects:      make(map[store.Key]store.Object),
		owned:        make(map[store.Key]map[store.Key]struct{}),
		revisions:    make(map[store.BatchID]uint64),
		observations: make(map[string]store.Observation),
		leases:       make(map[string]lease),
	}
}

// Commit applies a batch under the lock of the store.
func (s *Store) Commit(ctx context.Context, b store.Batch) (store.Committed, error) {
	if err := b.Validate(); err != nil {
		return store.Committed{}, err
	}
	if err := context.Cause(ctx); err != nil {
		return store.Committed{}, fmt.Errorf("commit: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut {
		return store.Committed{}, ledger.Closed("commit")
	}
	group := ledger.NewGroup(state{s}, s.head.Position, time.Now())
	c, err := group.Apply(b)
	if err != nil {
		return store.Committed{}, err
	}
	for _, c := range group.Commits() {
		s.apply(c)
	}
	return ledger.CloneCommitted(c), nil
}

// apply makes a decided batch part of the state; the lock is held.
func (s *Store) apply(c store.Committed) {
	for _, ch := range c.Changes {
		k := ch.Object.Key
		old, exists := s.objects[k]
		if exists && old.Owner != nil {
			delete(s.owned[*old.Owner], k)
		}
		if ch.Deleted {
			delete(s.objects, k)
			if ch.Object.Secret {
				s.shred(k, ch.Object.UID)
			}
			continue
		}
		s.objects[k] = ch.Object
		if o := ch.Object.Owner; o != nil {
			if s.owned[*o] == nil {
				s.owned[*o] = make(map[store.Key]struct{})
			}
			s.owned[*o][k] = struct{}{}
		}
	}
	s.history = append(s.history, c)
	s.revisions[c.ID] = c.Position.Revision
	s.head.Position = c.Position
	s.bell.Ring()
}

// shred drops the data of one secret from history. Followers may hold the old slices, so they are replaced.
func (s *Store) shred(k store.Key, uid string) {
	for i, c := range s.history {
		match := func(ch store.Change) bool { return ch.Object.Key == k && ch.Object.UID == uid && ch.Object.Data != nil }
		if !slices.ContainsFunc(c.Changes, match) {
			continue
		}
		changes := slices.Clone(c.Changes)
		for j := range changes {
			if match(changes[j]) {
				changes[j].Object.Data = nil
			}
		}
		s.history[i].Changes = changes
	}
}

// state answers a group from the maps of the store.
type state struct{ s *Store }

func (t state) Object(k store.Key) (store.Object, bool) { o, ok := t.s.objects[k]; return o, ok }
func (t state) Owned(k store.Key) []store.Key           { return slices.Collect(maps.Keys(t.s.owned[k])) }

func (t state) Lease(name string) (store.Fence, bool) { l, ok := t.s.leases[name]; return l.Fence, ok }

func (t state) Committed(id store.BatchID) (store.Committed, bool) {
	r, ok := t.s.revisions[id]
	if !ok {
		return store.Committed{}, false
	}
	return t.s.at(r), true
}

// at is the retained batch of a revision, in terms of the present lineage.
func (s *Store) at(revision uint64) store.Committed {
	c := s.history[revision-s.head.Compacted-1]
	c.Position.Lineage = s.head.Lineage
	return c
}

// Follow hands out batches from the retained history and waits for more.
func (s *Store) Follow(ctx context.Context, after store.Position, fn func(store.Committed) error) error {
	for {
		if err := context.Cause(ctx); err != nil {
			return fmt.Errorf("follow: %w", err)
		}
		more := s.bell.Wait()
		page, at, err := s.page(after)
		if err != nil {
			return fmt.Errorf("follow: %w", err)
		}
		after = at
		for _, c := range page {
			if err := context.Cause(ctx); err != nil {
				return fmt.Errorf("follow: %w", err)
			}
			if err := fn(ledger.CloneCommitted(c)); err != nil {
				return err
			}
			after = c.Position
		}
		if len(page) > 0 {
			continue
		}
		select {
		case <-more:
		case <-s.closed:
			return ledger.Closed("follow")
		case <-ctx.Done():
		}
	}
}

// page is what follows a position, and the position in terms of this lineage.
func (s *Store) page(after store.Position) ([]store.Committed, store.Position, error) {
	const most = 256
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.shut {
		return nil, after, ledger.Closed("read history")
	}
	var chain store.Chain
	if after.Revision > s.head.Compacted && after.Revision <= s.head.Revision {
		chain = s.at(after.Revision).Position.Chain
	}
	after, err := s.head.Admit(after, chain)
	if err != nil {
		return nil, after, err
	}
	var page []store.Committed
	for r := after.Revision + 1; r <= s.head.Revision && len(page) < most; r++ {
		page = append(page, s.at(r))
	}
	return page, after, nil
}

// Snapshot reads all objects; writers go on meanwhile.
func (s *Store) Snapshot(ctx context.Context, fn func(store.Object) error) (store.Position, error) {
	s.mu.RLock()
	if s.shut {
		s.mu.RUnlock()
		return store.Position{}, ledger.Closed("snapshot")
	}
	objects, position := slices.Collect(maps.Values(s.objects)), s.head.Position
	s.mu.RUnlock()
	slices.SortFunc(objects, func(a, b store.Object) int { return ledger.Compare(a.Key, b.Key) })
	for _, o := range objects {
		if err := context.Cause(ctx); err != nil {
			return store.Position{}, fmt.Errorf("snapshot: %w", err)
		}
		if err := fn(ledger.Clone(o)); err != nil {
			return store.Position{}, err
		}
	}
	return position, nil
}

// Position is the newest position.
func (s *Store) Position(context.Context) (store.Position, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.shut {
		return store.Position{}, ledger.Closed("position")
	}
	return s.head.Position, nil
}

// History reads the retained batches of one object.
func (s *Store) History(_ context.Context, k store.Key, limit int) ([]store.Committed, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.shut {
		return nil, ledger.Closed("history")
	}
	var found []store.Committed
	for r := s.head.Revision; r > s.head.Compacted && (limit <= 0 || len(found) < limit); r-- {
		c := s.at(r)
		i := slices.IndexFunc(c.Changes, func(ch store.Change) bool { return ch.Object.Key == k })
		if i >= 0 {
			c.Changes = c.Changes[i : i+1]
			found = append(found, ledger.CloneCommitted(c))
		}
	}
	return found, nil
}

// Compact forgets the oldest batches.
func (s *Store) Compact(_ context.Context, upTo uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut {
		return ledger.Closed("compact")
	}
	upTo = min(upTo, s.head.Revision)
	if upTo <= s.head.Compacted {
		return nil
	}
	base := s.at(upTo).Position.Chain
	gone := upTo - s.head.Compacted
	for _, c := range s.history[:gone] {
		delete(s.revisions, c.ID)
	}
	s.history = slices.Clone(s.history[gone:])
	s.head.Compacted, s.head.Base = upTo, base
	return nil
}

// Observe keeps the last observation of each key.
func (s *Store) Observe(_ context.Context, obs ...store.Observation) error {
	obs, err := ledger.Latest(obs)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut {
		return ledger.Closed("observe")
	}
	for _, o := range obs {
		if len(o.Data) == 0 {
			delete(s.observations, o.Key)
			continue
		}
		if o.At.IsZero() {
			o.At = time.Now()
		}
		o.At, o.Data = o.At.UTC().Truncate(time.Microsecond), slices.Clone(o.Data)
		s.observations[o.Key] = o
	}
	return nil
}

// Observations lists by prefix, in key order.
func (s *Store) Observations(_ context.Context, prefix string) ([]store.Observation, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.shut {
		return nil, ledger.Closed("observations")
	}
	var found []store.Observation
	for k, o := range s.observations {
		if strings.HasPrefix(k, prefix) {
			o.Data = slices.Clone(o.Data)
			found = append(found, o)
		}
	}
	slices.SortFunc(found, func(a, b store.Observation) int { return strings.Compare(a.Key, b.Key) })
	return found, nil
}

// Acquire takes or extends a lease by the clock of this process.
func (s *Store) Acquire(_ context.Context, name, holder string, ttl time.Duration) (store.Fence, error) {
	if err := ledger.CheckLease(name, holder, ttl); err != nil {
		return store.Fence{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut {
		return store.Fence{}, ledger.Closed("acquire a lease")
	}
	now := time.Now()
	l, taken := s.leases[name]
	switch {
	case taken && l.Holder != "" && l.Holder != holder && now.Before(l.expires):
		return store.Fence{}, fmt.Errorf("acquire lease %q: %s has it: %w", name, l.Holder, store.ErrFenced)
	case l.Holder != holder:
		l.Fence = store.Fence{Name: name, Holder: holder, Counter: l.Counter + 1}
	}
	l.expires = now.Add(ttl)
	s.leases[name] = l
	return l.Fence, nil
}

// Release gives a lease up; its counter stays, so that the fence is worthless from now on.
func (s *Store) Release(_ context.Context, f store.Fence) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut {
		return ledger.Closed("release a lease")
	}
	l, ok := s.leases[f.Name]
	if !ok || l.Fence != f || f.Holder == "" {
		return fmt.Errorf("release lease %q of %s: %w", f.Name, f.Holder, store.ErrFenced)
	}
	s.leases[f.Name] = lease{Fence: store.Fence{Name: f.Name, Counter: f.Counter}}
	return nil
}

// RaiseEpoch starts a new epoch and ends every Follow.
func (s *Store) RaiseEpoch(context.Context) (store.Lineage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut {
		return store.Lineage{}, ledger.Closed("raise the epoch")
	}
	s.head.Lineage.Epoch++
	s.bell.Ring()
	return s.head.Lineage, nil
}

// Close ends every Follow; what was stored is gone with the process.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.shut {
		s.shut = true
		close(s.closed)
	}
	return nil
}
