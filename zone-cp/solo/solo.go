// Package solo serves a gRPC stream with one goroutine, which stands in Recv. Whatever else makes something new for the client is
// done by a goroutine that exists only as long as there is something to do, so an idle stream costs one small stack.
// It knows nothing of what is said on a stream.
package solo

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A Stream is the server's end of one stream. It is woken for nothing before and after React.
type Stream struct {
	rpc  grpc.ServerStream
	turn sync.Mutex // of whoever takes steps: the one who receives or the worker

	mu       sync.Mutex
	step     func() error // nil before React
	woken    bool         // something may be new since the last step began
	stepping bool         // who has the turn looks at woken before giving it up
	working  bool         // there is a worker
	over     bool         // nobody begins a step any more
	ended    bool         // by End
	why      error
	workers  sync.WaitGroup
}

// errForeign is a stream that is not one of gRPC's own server.
var errForeign = status.Error(codes.Internal, "this server cannot end streams from outside their handlers; the version of gRPC does not suit")

// React receives messages until the stream ends, from either side. It takes a step at the beginning, after each message and
// after each wake-up; never two at a time, and take is never called during one. A step that an unread connection blocks is given up when the stream ends.
func React[M any](s *Stream, recv func() (M, error), take func(M) error, step func() error) error {
	s.mu.Lock()
	s.step = step
	s.mu.Unlock()
	err := s.hold(func() error { return nil })
	for err == nil {
		var m M
		if m, err = recv(); err == nil {
			err = s.hold(func() error { return take(m) })
		}
	}
	return s.finish(err)
}

// hold does something in a turn, and steps after it.
func (s *Stream) hold(do func() error) error {
	s.turn.Lock()
	defer s.turn.Unlock()
	if err := do(); err != nil {
		return err
	}
	s.mu.Lock()
	s.woken = true
	s.mu.Unlock()
	return s.advance(false)
}

// advance takes steps while something is new. The caller has the turn.
func (s *Stream) advance(worker bool) error {
	for {
		s.mu.Lock()
		if s.stepping = s.woken && !s.over && !s.ended; !s.stepping {
			s.working = s.working && !worker
			s.mu.Unlock()
			return nil
		}
		s.woken = false
		s.mu.Unlock()
		if err := s.step(); err != nil {
			return err // stepping stays: there are no more steps
		}
	}
}

// Wake has a step taken soon. It never waits and may be called by anybody at any time.
func (s *Stream) Wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.woken = true
	if s.step == nil || s.stepping || s.working || s.over || s.ended {
		return
	}
	s.working = true
	s.workers.Go(s.work) // finish waits
}

func (s *Stream) work() {
	s.turn.Lock()
	defer s.turn.Unlock()
	if err := s.advance(true); err != nil {
		s.End(err)
	}
}

// End ends the stream, with the status of an error, whatever it does at the moment; the first error counts. It never waits.
func (s *Stream) End(err error) {
	s.mu.Lock()
	if s.over || s.ended {
		s.mu.Unlock()
		return
	}
	s.ended, s.why = true, err
	s.mu.Unlock()
	End(s.rpc, err)
}

// finish waits for the worker and says how the stream ended.
func (s *Stream) finish(err error) error {
	if errors.Is(err, io.EOF) {
		err = nil
	}
	s.mu.Lock()
	if s.ended {
		err = s.why
	}
	interrupt := s.working && !s.ended
	s.over = true
	s.mu.Unlock()
	if interrupt {
		End(s.rpc, err) // the worker may wait for the client to read
	}
	s.workers.Wait()
	return err
}

// End ends a stream of gRPC's server from outside its handler: the client gets the status of an error at once, and whoever receives or sends
// returns. Nothing that the stream is ended with after that counts.
func End(rpc grpc.ServerStream, err error) {
	e, ok := enderOf(rpc.Context())
	if !ok {
		return
	}
	st, ok := status.FromError(err)
	if !ok {
		st = status.FromContextError(err)
	}
	if st == nil {
		st = status.New(codes.OK, "")
	}
	_ = e.WriteStatus(st) // fails when there is no client any more
}

// An ender is what gRPC's stream can do beyond its interface. Cancelling the context of a stream is no way to end it: Recv would then
// send a status of its own making before the handler can.
type ender interface {
	WriteStatus(*status.Status) error
}

func enderOf(ctx context.Context) (ender, bool) {
	e, ok := grpc.ServerTransportStreamFromContext(ctx).(ender)
	return e, ok
}
