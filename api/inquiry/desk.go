package inquiry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
)

// A Budget bounds what several desks hold of answers that are not complete yet.
type Budget struct{ left atomic.Int64 }

// NewBudget makes a budget of so many bytes.
func NewBudget(size int64) *Budget {
	b := &Budget{}
	b.left.Store(size)
	return b
}

// take says whether there is room for n more bytes; giving back is taking a negative number.
func (b *Budget) take(n int) bool {
	if b.left.Add(int64(-n)) >= 0 || n <= 0 {
		return true
	}
	b.left.Add(int64(n))
	return false
}

// A Desk is where one peer is asked. Questions go out one after the other, answers come in parts and in any order.
type Desk struct {
	budget    *Budget
	patience  time.Duration
	questions chan *Question
	ended     chan struct{}
	wake      chan struct{} // holds a token when there is something to withdraw

	mu        sync.Mutex
	next      uint64
	waiting   map[uint64]*pending
	withdrawn []uint64
	closed    bool // nobody had asked for a while
}

// pending is a question that somebody waits for.
type pending struct {
	data []byte
	done chan error // buffered
}

// NewDesk makes a desk for one stream. It closes, and the stream with it, when nobody has asked for as long as its patience; zero is for ever.
func NewDesk(b *Budget, patience time.Duration) *Desk {
	return &Desk{budget: b, patience: patience, questions: make(chan *Question), ended: make(chan struct{}), wake: make(chan struct{}, 1), waiting: map[uint64]*pending{}}
}

// Serve puts questions to the peer that opened the stream until the stream or ctx ends. A desk serves once.
func (d *Desk) Serve(ctx context.Context, stream grpc.BidiStreamingServer[Part, Question]) error {
	defer d.end()
	failed := make(chan error, 1)
	go func() { // ends with the stream, at the latest when the handler returns
		for {
			p, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			d.take(p)
		}
	}()
	var idle <-chan time.Time
	for {
		if d.patience > 0 {
			idle = time.After(d.patience)
		}
		select {
		case <-idle:
			if d.close() {
				return nil
			}
		case q := <-d.questions:
			if err := stream.Send(q); err != nil {
				return err
			}
		case <-d.wake:
			for _, id := range d.toWithdraw() {
				if err := stream.Send(&Question{Id: id, Withdrawn: true}); err != nil {
					return err
				}
			}
		case err := <-failed:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// close closes the desk unless somebody waits at it.
func (d *Desk) close() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = len(d.waiting) == 0
	return d.closed
}

func (d *Desk) toWithdraw() []uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := d.withdrawn
	d.withdrawn = nil
	return out
}

// take adds a part to the answer that somebody waits for; others are late and ignored.
func (d *Desk) take(p *Part) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q := d.waiting[p.GetId()]
	if q == nil {
		return
	}
	var err error
	switch n := len(p.GetData()); {
	case len(q.data)+n > MaxAnswer:
		err = Failf("the answer has more than %d bytes", MaxAnswer)
	case !d.budget.take(n):
		err = Failf("too many large answers are on their way at the moment; try again")
	default:
		q.data = append(q.data, p.GetData()...)
		if !p.GetLast() {
			return
		}
		err = p.err()
	}
	if !p.GetLast() {
		d.withdrawLocked(p.GetId())
	}
	delete(d.waiting, p.GetId())
	q.done <- err
}

func (d *Desk) withdrawLocked(id uint64) {
	d.withdrawn = append(d.withdrawn, id)
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *Desk) end() {
	close(d.ended)
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, q := range d.waiting {
		delete(d.waiting, id)
		q.done <- ErrAway
	}
}

// Ask puts a question to the peer and waits for the whole answer. It returns resource.ErrNotFound, a Failure that the peer tells, or
// ErrAway, or ErrClosed before the question went out. When ctx ends, the question is withdrawn.
func (d *Desk) Ask(ctx context.Context, q *Question) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	p := &pending{done: make(chan error, 1)}
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil, ErrClosed
	}
	if len(d.waiting) >= MaxWaiting {
		d.mu.Unlock()
		return nil, Failf("there are %d questions to answer already; try again", MaxWaiting)
	}
	d.next++
	id := d.next
	d.waiting[id] = p
	d.mu.Unlock()
	asked := false
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.waiting[id] != nil && asked {
			d.withdrawLocked(id)
		}
		delete(d.waiting, id)
		d.budget.take(-len(p.data))
	}()
	select {
	case d.questions <- q.to(ctx, id):
		asked = true
	case <-d.ended:
		return nil, ErrAway
	case <-ctx.Done():
		return nil, late(ctx)
	}
	select {
	case err := <-p.done:
		if err != nil {
			return nil, err
		}
		return p.data, nil
	case <-ctx.Done():
		return nil, late(ctx)
	}
}

// late says that an answer did not come in time, unless nobody waits for it.
func late(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return Failf("there was no answer within the time that is waited for it")
	}
	return fmt.Errorf("nobody waits for the answer any more: %w", ctx.Err())
}
