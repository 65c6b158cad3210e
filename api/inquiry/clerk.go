package inquiry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// An Answerer writes the answer to a question, in as many pieces as it likes. It ends with ctx. What was written before an error
// does not count.
type Answerer func(ctx context.Context, q *Question, w io.Writer) error

// to is the question as it goes to a peer.
func (q *Question) to(ctx context.Context, id uint64) *Question {
	out := proto.CloneOf(q)
	out.Id, out.TimeoutMs = id, Timeout.Milliseconds()
	if until, ok := ctx.Deadline(); ok {
		out.TimeoutMs = max(time.Until(until).Milliseconds(), 1)
	}
	return out
}

// bounded is ctx with the time that an answer may take.
func (q *Question) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	wait := min(time.Duration(q.GetTimeoutMs())*time.Millisecond, Timeout)
	if wait > 2*margin {
		wait -= margin
	}
	return context.WithTimeout(ctx, max(wait, time.Millisecond))
}

// Serve opens a stream of Answer on a connection and answers questions, at most so many at a time, until the stream or ctx ends.
// It always returns an error.
func Serve(ctx context.Context, conn grpc.ClientConnInterface, atOnce int, answer Answerer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := NewInquiryClient(conn).Answer(ctx)
	if err != nil {
		return fmt.Errorf("offer answers: %w", err)
	}
	c := &clerk{stream: stream, answer: answer, free: make(chan struct{}, atOnce), working: map[uint64]context.CancelFunc{}}
	defer c.work.Wait()
	defer cancel()
	// A stream that has been refused already is told by what is received.
	if err := c.send(&Part{}); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("offer answers: %w", err)
	}
	for {
		q, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("take questions: %w", err)
		}
		if err := c.question(ctx, q); err != nil {
			return fmt.Errorf("refuse a question: %w", err)
		}
	}
}

// A clerk answers the questions of one stream.
type clerk struct {
	stream interface{ Send(*Part) error }
	answer Answerer
	free   chan struct{}
	work   sync.WaitGroup

	sending sync.Mutex
	mu      sync.Mutex
	working map[uint64]context.CancelFunc
}

func (c *clerk) send(p *Part) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	return c.stream.Send(p)
}

// question begins to work on a question, or gives one up.
func (c *clerk) question(ctx context.Context, q *Question) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := q.GetId()
	if q.GetWithdrawn() {
		if cancel := c.working[id]; cancel != nil {
			cancel()
		}
		return nil
	}
	if len(c.working) >= MaxWaiting || c.working[id] != nil {
		return c.send(end(id, Failf("there are %d questions to answer already; try again", len(c.working))))
	}
	ctx, cancel := q.bounded(ctx)
	c.working[id] = cancel
	c.work.Go(func() {
		defer func() {
			cancel()
			c.mu.Lock()
			defer c.mu.Unlock()
			delete(c.working, id)
		}()
		select {
		case c.free <- struct{}{}:
			defer func() { <-c.free }()
		case <-ctx.Done():
			_ = stopped(ctx, id, c.send) // that it does not arrive is noticed by who receives
			return
		}
		_ = write(ctx, q, c.answer, c.send)
	})
	return nil
}

// write sends an answer in parts, or why there is none.
func write(ctx context.Context, q *Question, answer Answerer, send func(*Part) error) error {
	w := &parts{ctx: ctx, id: q.GetId(), send: send}
	err := answer(ctx, q, w)
	if err == nil {
		err = w.flush()
	}
	if ctx.Err() != nil {
		return stopped(ctx, q.GetId(), send)
	}
	return send(end(q.GetId(), err))
}

// stopped says that the time was up. To a question that was withdrawn nothing is said, nor after the end of the stream.
func stopped(ctx context.Context, id uint64, send func(*Part) error) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ctx.Err()
	}
	return send(end(id, late(ctx)))
}

// parts gathers what is written to parts of one size.
type parts struct {
	ctx  context.Context
	id   uint64
	send func(*Part) error
	held []byte
	sum  int
}

// Write implements io.Writer.
func (w *parts) Write(b []byte) (int, error) {
	if w.sum += len(b); w.sum > MaxAnswer {
		return 0, Failf("the answer has more than %d bytes", MaxAnswer)
	}
	for rest := b; len(rest) > 0; {
		n := min(partSize-len(w.held), len(rest))
		w.held, rest = append(w.held, rest[:n]...), rest[n:]
		if len(w.held) == partSize {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return len(b), nil
}

func (w *parts) flush() error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if len(w.held) == 0 {
		return nil
	}
	data := w.held
	w.held = nil // the stream may keep what it sends
	return w.send(&Part{Id: w.id, Data: data})
}
