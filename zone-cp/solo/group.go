package solo

import (
	"maps"
	"runtime"
	"slices"
	"sync"

	"google.golang.org/grpc"
)

// A Group is the streams that one service has open. The zero value is ready.
type Group struct {
	mu      sync.Mutex
	open    map[*Stream]struct{}
	closed  error
	serving sync.WaitGroup
}

// Serve is all of a handler: it has a goroutine run the stream, and end it with the status of the error of that. It returns only to refuse
// the stream. Otherwise it ends the goroutine that it is called in, and with it the frames of gRPC below the handler: together with those of
// Recv they need a stack of 16 KiB, and Recv alone does with 8.
func (g *Group) Serve(rpc grpc.ServerStream, run func(*Stream) error) error {
	s, err := g.begin(rpc)
	if err != nil {
		return err
	}
	go func() { // Close waits
		defer g.leave(s)
		End(rpc, run(s))
	}()
	runtime.Goexit() // gRPC takes the stream for open until it has a status
	return nil
}

// begin makes a stream of the group. After Close it returns the error of that.
func (g *Group) begin(rpc grpc.ServerStream) (*Stream, error) {
	if _, ok := enderOf(rpc.Context()); !ok {
		return nil, errForeign
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed != nil {
		return nil, g.closed
	}
	if g.open == nil {
		g.open = map[*Stream]struct{}{}
	}
	s := &Stream{rpc: rpc}
	g.open[s] = struct{}{}
	g.serving.Add(1)
	return s, nil
}

func (g *Group) leave(s *Stream) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.open, s)
	g.serving.Done()
}

// Wake wakes all streams.
func (g *Group) Wake() {
	for _, s := range g.streams() {
		s.Wake()
	}
}

// Close ends all streams with the status of an error, and waits until they have left.
func (g *Group) Close(err error) {
	g.mu.Lock()
	g.closed = err
	g.mu.Unlock()
	for _, s := range g.streams() {
		s.End(err)
	}
	g.serving.Wait()
}

func (g *Group) streams() []*Stream {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Collect(maps.Keys(g.open))
}
