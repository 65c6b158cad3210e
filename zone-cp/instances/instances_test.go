package instances_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/memory"
	"github.com/causeway-mesh/causeway/zone-cp/instances"
)

const ttl = 10 * time.Second

// A breakable store can be away for one instance.
type breakable struct {
	store.Store
	away atomic.Bool
}

func (b *breakable) err() error {
	if b.away.Load() {
		return store.ErrUnavailable
	}
	return nil
}

func (b *breakable) Observe(ctx context.Context, obs ...store.Observation) error {
	if err := b.err(); err != nil {
		return err
	}
	return b.Store.Observe(ctx, obs...)
}

func (b *breakable) Observations(ctx context.Context, prefix string) ([]store.Observation, error) {
	if err := b.err(); err != nil {
		return nil, err
	}
	return b.Store.Observations(ctx, prefix)
}

func (b *breakable) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (store.Fence, error) {
	if err := b.err(); err != nil {
		return store.Fence{}, err
	}
	return b.Store.Acquire(ctx, name, holder, ttl)
}

// An instance of a zone, running.
type instance struct {
	*instances.Instances
	store  *breakable
	writes atomic.Int32 // tenures that go on now
	stop   func()       // gracefully
	die    func()       // its store hears no more of it
}

func start(t *testing.T, st store.Store, name string) *instance {
	t.Helper()
	b := &breakable{Store: st}
	i, err := instances.Open(t.Context(), instances.Config{Store: b, Zone: "east", Self: name, TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	out := &instance{Instances: i, store: b}
	done := make(chan error, 2)
	go func() { done <- i.Run(ctx) }()
	go func() {
		done <- i.Lead(ctx, func(ctx context.Context) error {
			out.writes.Add(1)
			<-ctx.Done()
			out.writes.Add(-1)
			return nil
		})
	}()
	out.stop = func() {
		cancel()
		for range cap(done) {
			if err := <-done; err != nil {
				t.Errorf("instance %s: %v", name, err)
			}
		}
		done <- nil
		done <- nil
	}
	out.die = func() { b.away.Store(true) }
	t.Cleanup(out.stop)
	return out
}

func expect(t *testing.T, what string, i *instance, others ...string) {
	t.Helper()
	synctest.Wait()
	if got := i.Others(); !slices.Equal(got, others) {
		t.Errorf("%s: %v are up, want %v", what, got, others)
	}
}

// Acceptance: U intercp
func TestInstancesKnowWhoIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := memory.New()
		a := start(t, st, "a")
		expect(t, "alone", a)
		b := start(t, st, "b")
		expect(t, "the later one knows the earlier one at once", b, "a")
		changed := a.Changed()
		time.Sleep(ttl / 5)
		expect(t, "and the earlier one soon", a, "b")
		<-changed
		time.Sleep(10 * ttl)
		expect(t, "nothing changes", a, "b")
		expect(t, "nothing changes", b, "a")

		b.die()
		time.Sleep(ttl / 2)
		expect(t, "a pause is no death", a, "b")
		time.Sleep(ttl)
		expect(t, "silence for the TTL is", a)
		if a.Up("b") || !a.Up("a") || a.Up("c") {
			t.Error("who is up is not what Others says")
		}
		expect(t, "whoever sees nothing keeps what it knows", b, "a")

		b.store.away.Store(false)
		time.Sleep(ttl / 2)
		expect(t, "it was only cut off", a, "b")
		expect(t, "it was only cut off", b, "a")

		b.stop()
		time.Sleep(2 * ttl)
		expect(t, "gone", a)
		a.Heard("b")
		expect(t, "heard in another way", a, "b")
		time.Sleep(2 * ttl)
		expect(t, "gone again", a)
		time.Sleep(40 * ttl)
		beats, err := st.Observations(t.Context(), "zone/east/instance/")
		if err != nil || len(beats) != 1 {
			t.Errorf("beats are kept: %v, %v; want that of a alone", beats, err)
		}
	})
}

// When the store is away for everybody, nobody is given up for it.
func TestAnOutageOfTheStoreIsNoDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := memory.New()
		a, b := start(t, st, "a"), start(t, st, "b")
		time.Sleep(ttl)
		a.die()
		b.die()
		time.Sleep(20 * ttl)
		a.store.away.Store(false)
		time.Sleep(ttl / 2)
		expect(t, "b has had no time yet", a, "b")
		b.store.away.Store(false)
		time.Sleep(3 * ttl)
		expect(t, "both are back", a, "b")
		expect(t, "both are back", b, "a")
	})
}

// Acceptance: U resilience: one instance leads, and stops when it loses the store
func TestOneInstanceWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := memory.New()
		a := start(t, st, "a")
		synctest.Wait()
		b := start(t, st, "b")
		writer := func(what string, want, other *instance) {
			t.Helper()
			synctest.Wait()
			if !want.Writes() || want.writes.Load() != 1 || other.Writes() || other.writes.Load() != 0 {
				t.Errorf("%s: a writes %t, b writes %t", what, a.Writes(), b.Writes())
			}
		}
		commit := func(i *instance) error {
			_, err := st.Commit(t.Context(), store.Batch{
				ID: store.BatchID([]byte(time.Now().Format("150405.000000000"))[:16]), Fence: i.Fence(),
				Ops: []store.Op{{Object: store.Object{Key: store.Key{Type: "t", Name: "n"}}, Expect: store.ExpectAny}},
			})
			return err
		}
		writer("the first", a, b)
		if b.Fence() != nil {
			t.Error("b has a lease")
		}
		time.Sleep(5 * ttl)
		writer("nothing changes", a, b)

		a.die()
		time.Sleep(ttl / 2)
		if b.Writes() {
			t.Error("b did not wait for the end of the lease")
		}
		if !a.Writes() || commit(a) != nil {
			t.Error("a whose store is away, and that nobody replaced, gave up")
		}
		time.Sleep(ttl)
		if !b.Writes() || b.writes.Load() != 1 {
			t.Error("b did not take over")
		}
		if err := commit(a); !errors.Is(err, store.ErrFenced) {
			t.Errorf("a writes after it was replaced: %v", err)
		}
		a.store.away.Store(false)
		time.Sleep(ttl / 2)
		writer("a has found out", b, a)
		if err := commit(a); !errors.Is(err, store.ErrFenced) {
			t.Errorf("a writes after its end: %v", err)
		}

		b.stop()
		time.Sleep(500 * time.Millisecond)
		writer("b gave the lease back", a, b)
		if err := commit(a); err != nil {
			t.Errorf("a writes again: %v", err)
		}
	})
}

// Work that fails ends everything; work that was fenced, or ended with its lease, does not.
func TestWorkThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, err := instances.Open(t.Context(), instances.Config{Store: memory.New(), Zone: "east", Self: "a", TTL: ttl})
		if err != nil {
			t.Fatal(err)
		}
		broken, tries := errors.New("broken"), 0
		err = i.Lead(t.Context(), func(context.Context) error {
			if tries++; tries < 3 {
				return store.ErrFenced
			}
			return broken
		})
		if !errors.Is(err, broken) || tries != 3 {
			t.Errorf("%v after %d tries", err, tries)
		}
	})
}
