package solo_test

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/test/load"
	"github.com/causeway-mesh/causeway/zone-cp/solo"
)

type (
	message = *wrapperspb.BytesValue
	server  = grpc.GenericServerStream[wrapperspb.BytesValue, wrapperspb.BytesValue]
	client  = grpc.GenericClientStream[wrapperspb.BytesValue, wrapperspb.BytesValue]
)

// serve runs a server with one method over TCP and returns how to call it.
func serve(t *testing.T, handler func(*server) error) func(valve *load.Valve) *client {
	t.Helper()
	desc := grpc.StreamDesc{StreamName: "Talk", ClientStreams: true, ServerStreams: true, Handler: func(_ any, rpc grpc.ServerStream) error {
		return handler(&server{ServerStream: rpc})
	}}
	s := grpc.NewServer(grpc.WriteBufferSize(0))
	s.RegisterService(&grpc.ServiceDesc{ServiceName: "test.Test", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{desc}}, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return func(valve *load.Valve) *client {
		t.Helper()
		dial := func(ctx context.Context, addr string) (net.Conn, error) {
			if valve != nil {
				return valve.Dial(ctx, addr)
			}
			return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		}
		conn, err := grpc.NewClient("passthrough:"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dial))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		rpc, err := conn.NewStream(t.Context(), &desc, "/test.Test/Talk")
		if err != nil {
			t.Fatal(err)
		}
		return &client{ClientStream: rpc}
	}
}

// running is what a handler shares with its test.
type running struct {
	*solo.Stream
	rpc  *server
	err  chan error // of React
	took int        // messages; belongs to the turn
}

// solos serves streams of a group: step is what they do, and each that begins is passed on.
func solos(t *testing.T, g *solo.Group, step func(*running) error) (call func(*load.Valve) *client, begun <-chan *running) {
	all := make(chan *running, 100)
	return serve(t, func(rpc *server) error {
		return g.Serve(rpc, func(s *solo.Stream) error {
			r := &running{Stream: s, rpc: rpc, err: make(chan error, 1)}
			all <- r
			err := solo.React(s, rpc.Recv, func(message) error { r.took++; return nil }, func() error { return step(r) })
			r.err <- err
			return err
		})
	}), all
}

func within[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(30 * time.Second):
		t.Fatalf("not within 30s: %s", what)
		panic("unreachable")
	}
}

func until(t *testing.T, what string, cond func() (state any, ok bool)) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); ; <-tick.C {
		state, ok := cond()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within 30s: %s; last seen: %v", what, state)
		}
	}
}

func wantStatus(t *testing.T, c *client, code codes.Code, text string) {
	t.Helper()
	for {
		_, err := c.Recv()
		if err == nil {
			continue
		}
		if s := status.Convert(err); s.Code() != code || s.Message() != text {
			t.Errorf("the stream ended with %v, want %s: %s", err, code, text)
		}
		return
	}
}

func TestEndReachesTheClientOfAStreamThatReceives(t *testing.T) {
	call, begun := solos(t, &solo.Group{}, func(*running) error { return nil })
	c := call(nil)
	r := within(t, "a stream", begun)
	r.End(status.Error(codes.Aborted, "replaced by another"))
	r.End(status.Error(codes.Internal, "too late"))
	wantStatus(t, c, codes.Aborted, "replaced by another")
	if err := within(t, "the stream is over", r.err); status.Code(err) != codes.Aborted {
		t.Errorf("React returned %v", err)
	}
	r.Wake() // nothing comes of it
	r.End(errors.New("nobody is there"))
}

func TestWhatTheWorkerMeetsEndsTheStream(t *testing.T) {
	var bad atomic.Bool
	call, begun := solos(t, &solo.Group{}, func(*running) error {
		if bad.Load() {
			return status.Error(codes.PermissionDenied, "no more")
		}
		return nil
	})
	c := call(nil)
	r := within(t, "a stream", begun)
	bad.Store(true)
	r.Wake()
	wantStatus(t, c, codes.PermissionDenied, "no more")
	if err := within(t, "the stream is over", r.err); status.Code(err) != codes.PermissionDenied {
		t.Errorf("React returned %v", err)
	}
}

// Whatever wakes a stream, steps and messages come one after the other, none is lost, and many wake-ups are one step.
func TestStepsTakeTurns(t *testing.T) {
	const messages, wakes = 200, 20_000
	var atOnce, wanted, seen, steps atomic.Int64
	gate := make(chan struct{})
	reached := make(chan struct{}, 1)
	call, begun := solos(t, &solo.Group{}, func(r *running) error {
		if atOnce.Add(1) != 1 {
			t.Error("two steps at a time")
		}
		defer atOnce.Add(-1)
		if steps.Add(1) == 2 {
			<-gate
		}
		seen.Store(wanted.Load())
		if r.took == messages && seen.Load() == wakes {
			select {
			case reached <- struct{}{}:
			default:
			}
		}
		return nil
	})
	c := call(nil)
	r := within(t, "a stream", begun)
	until(t, "the first step", func() (any, bool) { return nil, steps.Load() > 0 })
	r.Wake() // its step waits at the gate
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range wakes / 4 {
				wanted.Add(1)
				r.Wake()
			}
		})
	}
	all.Wait()
	close(gate)
	for range messages {
		if err := c.Send(&wrapperspb.BytesValue{}); err != nil {
			t.Fatal(err)
		}
	}
	within(t, "all is seen", reached)
	if got := steps.Load(); got > messages+4 {
		t.Errorf("%d steps for %d messages and %d wake-ups during one step", got, messages, wakes)
	}
	if err := c.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := within(t, "the stream is over", r.err); err != nil {
		t.Error(err)
	}
}

// fill sends until the stream ends, and says when gRPC takes no more without the client reading.
func fill(r *running, full func()) error {
	large := &wrapperspb.BytesValue{Value: make([]byte, 1<<20)} // far more than gRPC lets a stream have on its way
	err := r.rpc.Send(large)
	full()
	for err == nil {
		err = r.rpc.Send(large)
	}
	return err
}

// A client that does not read its socket holds up a worker, and nobody else; whoever ends the stream need not wait for it.
func TestStalledReader(t *testing.T) {
	for what, end := range map[string]func(*running, *client){
		"from outside":  func(r *running, _ *client) { r.End(status.Error(codes.Aborted, "enough")) },
		"by the client": func(_ *running, c *client) { _ = c.CloseSend() },
	} {
		t.Run(what, func(t *testing.T) {
			var flood atomic.Bool
			blocked := make(chan struct{})
			call, begun := solos(t, &solo.Group{}, func(r *running) error {
				if !flood.Load() {
					return nil
				}
				return fill(r, func() { close(blocked) })
			})
			valve := load.NewValve()
			c := call(valve)
			r := within(t, "a stream", begun)
			flood.Store(true)
			valve.Stall()
			r.Wake()
			within(t, "the worker sends", blocked)
			for range 100 {
				r.Wake() // returns at once
			}
			end(r, c)
			within(t, "the stream is over", r.err)
			valve.Resume()
		})
	}
}

func TestGroup(t *testing.T) {
	const n = 20
	var g solo.Group
	steps := make(chan struct{}, 10*n)
	call, begun := solos(t, &g, func(*running) error { steps <- struct{}{}; return nil })
	var all []*client
	for range n {
		all = append(all, call(nil))
		within(t, "a stream", begun)
		within(t, "its first step", steps)
	}
	g.Wake()
	for range n {
		within(t, "a step of each", steps)
	}
	g.Close(status.Error(codes.Unavailable, "we stop"))
	for _, c := range all {
		wantStatus(t, c, codes.Unavailable, "we stop")
	}
	wantStatus(t, call(nil), codes.Unavailable, "we stop")
}

// An idle stream is one goroutine, which stands in Recv.
func TestIdleStreamIsOneGoroutine(t *testing.T) {
	const n = 50
	steps := make(chan struct{}, 10*n)
	call, begun := solos(t, &solo.Group{}, func(*running) error { steps <- struct{}{}; return nil })
	for range n {
		call(nil)
		r := within(t, "a stream", begun)
		within(t, "its first step", steps)
		r.Wake()
		within(t, "a step", steps)
	}
	until(t, "there is one goroutine for each stream", func() (any, bool) { // workers end a moment after their step
		var b strings.Builder
		if err := pprof.Lookup("goroutine").WriteTo(&b, 2); err != nil {
			t.Fatal(err)
		}
		receiving, others := 0, 0
		for g := range strings.SplitSeq(b.String(), "\n\n") {
			switch {
			case strings.Contains(g, "solo.React"):
				receiving++
			case strings.Contains(g, "zone-cp/solo."):
				others++
			}
		}
		return [2]int{receiving, others}, receiving == n && others == 0
	})
}

// A stream of something else than gRPC's server is refused, not left without an end.
func TestForeignStream(t *testing.T) {
	if err := (&solo.Group{}).Serve(foreign{}, nil); status.Code(err) != codes.Internal {
		t.Errorf("got %v", err)
	}
	solo.End(foreign{}, io.EOF)
}

type foreign struct{ grpc.ServerStream }

func (foreign) Context() context.Context { return context.Background() }
