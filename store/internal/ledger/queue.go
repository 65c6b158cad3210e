package ledger

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/causeway-mesh/causeway/store"
)

// What one group may hold; more waits for the next.
const (
	MaxGroup      = 256
	maxGroupBytes = 8 << 20
	gatherTime    = 200 * time.Microsecond
)

// A Pending is a batch on its way to the writer, who answers it exactly once.
type Pending struct {
	Batch store.Batch
	done  chan struct{}
	c     store.Committed
	err   error
}

// Answer gives the writer of the batch its verdict.
func (p *Pending) Answer(c store.Committed, err error) {
	p.c, p.err = c, err
	close(p.done)
}

// A Queue holds batches that wait for the one writer of a store.
type Queue struct {
	mu      sync.Mutex
	waiting []*Pending
	closed  bool
	bell    chan struct{} // one token: something waits or the queue was closed
}

// NewQueue is an empty queue.
func NewQueue() *Queue { return &Queue{bell: make(chan struct{}, 1)} }

// Commit validates a batch, queues it and waits for its verdict.
func (q *Queue) Commit(ctx context.Context, b store.Batch) (store.Committed, error) {
	if err := b.Validate(); err != nil {
		return store.Committed{}, err
	}
	if err := context.Cause(ctx); err != nil {
		return store.Committed{}, fmt.Errorf("commit: %w", err)
	}
	p := &Pending{Batch: b, done: make(chan struct{})}
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return store.Committed{}, Closed("commit")
	}
	q.waiting = append(q.waiting, p)
	q.mu.Unlock()
	q.ring()
	select {
	case <-p.done:
		return p.c, p.err
	case <-ctx.Done():
	}
	if q.withdraw(p) {
		return store.Committed{}, fmt.Errorf("commit, withdrawn before it began: %w", context.Cause(ctx))
	}
	select {
	case <-p.done:
		return p.c, p.err
	default:
		return store.Committed{}, fmt.Errorf("commit: %w: %w", context.Cause(ctx), store.ErrUnknownOutcome)
	}
}

func (q *Queue) ring() {
	select {
	case q.bell <- struct{}{}:
	default:
	}
}

// withdraw takes a batch back unless the writer has it already.
func (q *Queue) withdraw(p *Pending) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, p)
	if i < 0 {
		return false
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
	return true
}

// Serve hands groups of batches to the writer until Close; every batch of a group must be answered.
func (q *Queue) Serve(commit func([]*Pending)) {
	for range q.bell {
		for group := q.take(); len(group) > 0; group = q.take() {
			commit(group)
			q.gather(len(group))
		}
		if _, closed := q.state(); closed {
			return
		}
	}
}

// gather gives those who were just answered a moment to come back with their next batch. Without it a few busy writers
// split into a group of one and a group of the others, and each waits for both.
func (q *Queue) gather(last int) {
	if last == 1 {
		return
	}
	enough := time.NewTimer(gatherTime)
	defer enough.Stop()
	for {
		if waiting, closed := q.state(); closed || waiting >= last {
			return
		}
		select {
		case <-q.bell:
		case <-enough.C:
			return
		}
	}
}

func (q *Queue) state() (waiting int, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting), q.closed
}

// take cuts the next group off the queue.
func (q *Queue) take() []*Pending {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, size := 0, 0
	for n < len(q.waiting) && n < MaxGroup {
		for _, op := range q.waiting[n].Batch.Ops {
			size += len(op.Object.Data)
		}
		if n > 0 && size > maxGroupBytes {
			break
		}
		n++
	}
	group := slices.Clone(q.waiting[:n])
	q.waiting = slices.Delete(q.waiting, 0, n)
	return group
}

// Close refuses batches from now on and those that wait; a group in the writer's hands is finished by it.
func (q *Queue) Close() {
	q.mu.Lock()
	waiting := q.waiting
	q.waiting, q.closed = nil, true
	q.mu.Unlock()
	for _, p := range waiting {
		p.Answer(store.Committed{}, Closed("commit"))
	}
	q.ring()
}

// Closed is the answer of a store after Close.
func Closed(what string) error {
	return fmt.Errorf("%s: the store is closed: %w", what, store.ErrUnavailable)
}

func isName(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsRune(s, 0) && len(s) <= store.MaxKey
}

// A Bell wakes all who wait for it; the zero value is ready.
type Bell struct {
	mu sync.Mutex
	ch chan struct{}
}

// Wait is closed by the next Ring; get it before looking at what the bell announces.
func (b *Bell) Wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

// Ring wakes everyone who waits.
func (b *Bell) Ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
