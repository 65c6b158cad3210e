// Package storetest is the acceptance suite of the store contract: an implementation is one when it passes.
// It knows no implementation except the memory store, which it compares the others with.
package storetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/store"
)

// Open makes a fresh, empty database and opens instances of the store on it; they are closed when the test ends.
// A store that allows one instance gives the same one several times.
type Open func(t testing.TB, instances int) []store.Store

// Run proves that a store keeps the contract.
func Run(t *testing.T, open Open) {
	tests := []struct {
		name string
		run  func(*testing.T, Open)
	}{
		{"Empty", testEmpty},
		{"ScriptEqualsMemory", testScript},
		{"Expectations", testExpectations},
		{"PutKeepsIdentity", testPutKeeps},
		{"DataIsVerbatim", testVerbatim},
		{"InvalidBatches", testInvalid},
		{"Cascade", testCascade},
		{"RepeatedBatchID", testRepeated},
		{"ContextAndClose", testContextAndClose},
		{"ConcurrentWriters", testConcurrentWriters},
		{"CompareAndSetRace", testRace},
		{"GroupVerdicts", testGroupVerdicts},
		{"FollowResumes", testFollowResumes},
		{"FollowRefuses", testFollowRefuses},
		{"Compact", testCompact},
		{"SnapshotWhileWriting", testSnapshot},
		{"History", testHistory},
		{"SecretsAreShredded", testSecrets},
		{"Observations", testObservations},
		{"Leases", testLeases},
		{"Fences", testFences},
		{"Epoch", testEpoch},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, open) })
	}
}

// Limit bounds each wait of the suite; nothing comes near it when all is well.
const limit = 30 * time.Second

func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

// ID is a fresh batch id.
func ID() store.BatchID {
	var id store.BatchID
	rand.Read(id[:])
	return id
}

// Put is an operation that writes a resource of a test type.
func Put(name, data string, expect int64) store.Op {
	return store.Op{Object: store.Object{Key: Key(name), Data: []byte(data)}, Expect: expect}
}

// Delete is an operation that removes it.
func Delete(name string, expect int64) store.Op {
	return store.Op{Object: store.Object{Key: Key(name)}, Delete: true, Expect: expect}
}

// Key is the key of a resource of a test type.
func Key(name string) store.Key { return store.Key{Type: "Thing", Mesh: "default", Name: name} }

// Batch is a batch with a fresh id.
func Batch(ops ...store.Op) store.Batch {
	return store.Batch{ID: ID(), Ops: ops, Author: "tester", Reason: "test"}
}

// Commit commits operations or fails the test.
func Commit(t testing.TB, s store.Store, ops ...store.Op) store.Committed {
	t.Helper()
	c, err := s.Commit(deadline(t), Batch(ops...))
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	return c
}

// Position is the position of a store, or the test fails.
func Position(t testing.TB, s store.Store) store.Position {
	t.Helper()
	p, err := s.Position(deadline(t))
	if err != nil {
		t.Fatalf("position: %v", err)
	}
	return p
}

// Objects is a snapshot by name, and its position.
func Objects(t testing.TB, s store.Store) (map[store.Key]store.Object, store.Position) {
	t.Helper()
	objects := make(map[store.Key]store.Object)
	p, err := s.Snapshot(deadline(t), func(o store.Object) error { objects[o.Key] = o; return nil })
	if err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	return objects, p
}

// A Follower collects what Follow hands out, on a goroutine of its own.
type Follower struct {
	stop context.CancelFunc
	mu   sync.Mutex
	got  []store.Committed
	more chan struct{}
	done chan struct{}
	err  error
}

// Follow starts to follow after a position; the follower is stopped when the test ends.
func Follow(t testing.TB, s store.Store, after store.Position) *Follower {
	ctx, cancel := context.WithCancel(context.Background())
	f := &Follower{stop: cancel, more: make(chan struct{}, 1), done: make(chan struct{})}
	go func() {
		defer close(f.done)
		f.err = s.Follow(ctx, after, func(c store.Committed) error {
			f.mu.Lock()
			f.got = append(f.got, c)
			f.mu.Unlock()
			select {
			case f.more <- struct{}{}:
			default:
			}
			return nil
		})
	}()
	t.Cleanup(func() { f.Stop(t) })
	return f
}

// Stop ends the follower and gives the error of Follow.
func (f *Follower) Stop(t testing.TB) error {
	f.stop()
	return f.End(t)
}

// End waits until Follow has ended by itself and gives its error.
func (f *Follower) End(t testing.TB) error {
	t.Helper()
	select {
	case <-f.done:
		return f.err
	case <-time.After(limit):
		t.Errorf("the follower did not end in %s", limit)
		return nil
	}
}

// Until waits for n batches and gives all that came.
func (f *Follower) Until(t testing.TB, n int) []store.Committed {
	t.Helper()
	late := time.After(limit)
	for {
		got := f.Got()
		if len(got) >= n {
			return got
		}
		select {
		case <-f.more:
		case <-f.done:
			if got := f.Got(); len(got) >= n {
				return got
			}
			t.Fatalf("follow ended after %d of %d batches: %v", len(got), n, f.err)
		case <-late:
			t.Fatalf("follow: %d of %d batches after %s", len(got), n, limit)
		}
	}
}

// Got is what came so far.
func (f *Follower) Got() []store.Committed {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]store.Committed(nil), f.got...)
}

// Consecutive proves that batches follow a position without gap, repetition or broken chain.
func Consecutive(t testing.TB, after store.Position, batches []store.Committed) {
	t.Helper()
	seen := make(map[store.BatchID]bool)
	for _, c := range batches {
		if c.Position.Revision != after.Revision+1 {
			t.Fatalf("revision %d comes after %d", c.Position.Revision, after.Revision)
		}
		if seen[c.ID] {
			t.Fatalf("batch %x came twice", c.ID)
		}
		seen[c.ID] = true
		if want := after.Chain.Next(c.Position.Revision, c.ID, c.Changes); c.Position.Chain != want {
			t.Fatalf("chain at revision %d: got %s, want %s", c.Position.Revision, c.Position.Chain, want)
		}
		after = c.Position
	}
}

func equal(t testing.TB, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.Comparer(bytes.Equal)); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: got error %v, want %v", what, err, want)
	}
}

// together runs n functions at once and waits for all.
func together(n int, run func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			run(i)
		})
	}
	close(start)
	wg.Wait()
}

func name(i int) string { return fmt.Sprintf("thing-%d", i) }
