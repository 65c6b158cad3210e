package ledger

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"

	"github.com/causeway-mesh/causeway/store"
)

func batch(n byte, size int) store.Batch {
	return store.Batch{ID: store.BatchID{n}, Ops: []store.Op{{Object: store.Object{Key: store.Key{Type: "T", Name: "n"}, Data: make([]byte, size)}}}}
}

// TestContextEnds separates a batch that still waits, which is withdrawn, from one in the writer's hands.
func TestContextEnds(t *testing.T) {
	q := NewQueue()
	taken, finish := make(chan int, 10), make(chan struct{})
	var serving sync.WaitGroup
	serving.Go(func() {
		q.Serve(func(group []*Pending) {
			taken <- len(group)
			<-finish
			for _, p := range group {
				p.Answer(store.Committed{ID: p.Batch.ID}, nil)
			}
		})
	})
	ctx, cancel := context.WithCancel(context.Background())
	outcome := make(chan error, 2)
	go func() { _, err := q.Commit(ctx, batch(1, 0)); outcome <- err }()
	<-taken
	waiting, give := context.WithCancel(context.Background())
	go func() { _, err := q.Commit(waiting, batch(2, 0)); outcome <- err }()
	for n := 0; n == 0; runtime.Gosched() {
		n, _ = q.state()
	}
	give()
	if err := <-outcome; !errors.Is(err, context.Canceled) || errors.Is(err, store.ErrUnknownOutcome) {
		t.Fatalf("a waiting batch: %v, want it withdrawn", err)
	}
	cancel()
	if err := <-outcome; !errors.Is(err, store.ErrUnknownOutcome) || !errors.Is(err, context.Canceled) {
		t.Fatalf("a batch being written: %v, want an unknown outcome", err)
	}
	close(finish)
	if c, err := q.Commit(context.Background(), batch(3, 0)); err != nil || c.ID != (store.BatchID{3}) {
		t.Fatalf("the next batch: %v, %v", c, err)
	}
	q.Close()
	serving.Wait()
	if n := len(taken); n != 1 {
		t.Fatalf("%d further groups were written, want 1: the withdrawn batch came through", n)
	}
	if _, err := q.Commit(context.Background(), batch(4, 0)); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("after close: %v", err)
	}
}

func TestGroupsAreBounded(t *testing.T) {
	q := NewQueue()
	for i := range MaxGroup + 10 {
		q.waiting = append(q.waiting, &Pending{Batch: batch(byte(i), 10)})
	}
	if n := len(q.take()); n != MaxGroup {
		t.Fatalf("%d small batches in a group", n)
	}
	if n := len(q.take()); n != 10 {
		t.Fatalf("%d batches were left", n)
	}
	for i := range 10 {
		q.waiting = append(q.waiting, &Pending{Batch: batch(byte(i), store.MaxData)})
	}
	for _, want := range []int{4, 4, 2, 0} {
		if n := len(q.take()); n != want {
			t.Fatalf("%d large batches in a group, want %d", n, want)
		}
	}
}
