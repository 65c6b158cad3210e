package agents

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// What happens to a dataplane whose agent stays away.
type fate uint8

const (
	stopServing fate = iota // its endpoints become not ready
	deregister              // its Dataplane is deleted
)

type deadline struct {
	key  resource.Key
	fate fate
	at   time.Time
}

// deadlines holds what is due when, at most one time per dataplane and fate. A handful of hosts leave at once,
// or all of them: a scan per wake-up is cheap enough for both.
type deadlines struct {
	mu    sync.Mutex
	at    map[deadlineKey]time.Time
	wakes chan struct{}
}

type deadlineKey struct {
	key  resource.Key
	fate fate
}

func newDeadlines() *deadlines {
	return &deadlines{at: map[deadlineKey]time.Time{}, wakes: make(chan struct{}, 1)}
}

func (d *deadlines) set(x deadline) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at[deadlineKey{x.key, x.fate}] = x.at
	wake(d.wakes)
}

// clear forgets what was due for a dataplane, because it is back.
func (d *deadlines) clear(k resource.Key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.at, deadlineKey{k, stopServing})
	delete(d.at, deadlineKey{k, deregister})
}

// take removes what is due and says when the next is.
func (d *deadlines) take(now time.Time) (due []deadline, next time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for k, at := range d.at {
		switch {
		case !at.After(now):
			due = append(due, deadline{k.key, k.fate, at})
			delete(d.at, k)
		case next.IsZero() || at.Before(next):
			next = at
		}
	}
	return due, next
}

// keepDeadlines lets fates happen in time until ctx ends.
func (s *Service) keepDeadlines(ctx context.Context) error {
	for {
		now := s.cfg.Now()
		due, next := s.due.take(now)
		for _, d := range due {
			s.happen(ctx, d)
		}
		if len(due) > 0 {
			continue
		}
		wait := time.Hour
		if !next.IsZero() {
			wait = min(wait, next.Sub(now))
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-s.due.wakes:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		timer.Stop()
	}
}

func (s *Service) happen(ctx context.Context, d deadline) {
	switch d.fate {
	case stopServing:
		s.stopServing(d.key)
	case deregister:
		s.deregister(ctx, d.key)
	}
}

func (s *Service) stopServing(k resource.Key) {
	r := s.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	e, known := r.current.tree.Get(entry{key: k})
	if !known || r.live[k] != nil || s.connectedElsewhere(*e.facts) {
		return
	}
	r.updateLocked(k, func(f *Facts) { f.Serving, f.Connected = false, false })
}

// deregister deletes the Dataplane of an agent that stayed away. Dataplanes that people wrote stay.
func (s *Service) deregister(ctx context.Context, k resource.Key) {
	if s.registry.session(k) != nil {
		return
	}
	if f, ok := s.registry.Snapshot().Get(k); ok && s.connectedElsewhere(f) {
		return
	}
	stored, ok := s.cfg.Catalog.Snapshot().Get(k)
	if !ok {
		s.registry.forget(k)
		return
	}
	if stored.Label(resource.LabelManagedBy) != managedByAgent {
		return
	}
	var fence *store.Fence
	if s.cfg.Writer != nil {
		var writes bool
		if fence, writes = s.cfg.Writer(); !writes {
			// Another instance does it, and if that dies this one may.
			s.due.set(deadline{k, deregister, s.cfg.Now().Add(s.cfg.DeregisterAfter)})
			return
		}
	}
	_, err := s.cfg.Catalog.Commit(ctx, catalog.Batch{
		Fence: fence, Author: author, Reason: "agent of " + k.String() + " is gone",
		Deletes: []catalog.Delete{{Key: k, Expect: int64(stored.Version)}},
	})
	if err != nil {
		if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrFenced) {
			s.cfg.Log.Warn("dataplane cannot be deregistered and is tried again", "mesh", k.Mesh, "dataplane", k.Name, "err", err)
		}
		s.due.set(deadline{k, deregister, s.cfg.Now().Add(s.cfg.DeregisterAfter)})
		return
	}
	s.registry.forget(k)
	s.cfg.Log.Info("dataplane deregistered", "mesh", k.Mesh, "dataplane", k.Name)
}

// connectedElsewhere says that an agent has its session with another instance.
func (s *Service) connectedElsewhere(f Facts) bool {
	return s.cfg.Peers != nil && f.Connected && f.ControlPlane != s.cfg.Instance
}
