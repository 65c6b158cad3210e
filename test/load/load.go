// Package load is a fleet of clients that speak delta ADS as Envoy does: what they ask for and when, how they answer, what they
// report when they come back; and fake agents around them, with enrollment, session and workload certificate.
// It is cheap enough for thousands in a process. They carry no traffic, serve no secrets and validate nothing.
package load

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// Config of a Fleet.
type Config struct {
	// Dial opens the connection of a proxy, with DialOptions. It serves all streams of the proxy.
	Dial func(i int) (*grpc.ClientConn, error)
	// Connect, instead of Dial, opens a connection for each stream of a proxy, with DialOptions; end closes it.
	// It is for connections that carry more than the stream, such as those of agents.
	Connect func(ctx context.Context, i int) (conn grpc.ClientConnInterface, end func(), err error)
	// Node is what a proxy says of itself. Default: id "proxy-<i>", Envoy 1.40.0.
	Node func(i int) *corev3.Node
	// Refuse returns the text of the refusal of a resource, empty to take it. Nil takes everything.
	Refuse func(t envoy.Type, name, version string) string
	// Lost is asked whether a proxy comes back after an error of its stream. Nil: it does, after a short pause.
	Lost func(i int, err error) bool
	// Took sees each resource that a proxy takes; the body is only good during the call. Nil: nobody looks.
	Took func(i int, t envoy.Type, name string, body []byte)
	// Settled is called when a proxy has answered everything that it was sent. Nil: nobody asks.
	Settled func(i int)
}

// A Fleet is many proxies. Its counters are of all of them, since the start.
type Fleet struct {
	cfg     Config
	proxies []*Proxy

	streams, bytes, responses, resources, nacks atomic.Int64

	strings sync.Map // names and versions, which all proxies have in common

	mu      sync.Mutex
	acks    map[uint64]Acks
	changed chan struct{} // closed and replaced at each acknowledgement that somebody may wait for
	waiting int
}

// Acks are the acknowledgements of responses made from one version of the tables.
type Acks struct {
	Count int
	Last  time.Time
}

// New makes a fleet of n proxies; Run connects them.
func New(cfg Config, n int) *Fleet {
	if cfg.Node == nil {
		cfg.Node = defaultNode
	}
	f := &Fleet{cfg: cfg, acks: map[uint64]Acks{}, changed: make(chan struct{})}
	for i := range n {
		f.proxies = append(f.proxies, newProxy(f, i))
	}
	return f
}

func defaultNode(i int) *corev3.Node {
	return &corev3.Node{
		Id: fmt.Sprintf("proxy-%d", i), UserAgentName: "envoy",
		UserAgentVersionType: &corev3.Node_UserAgentVersion{UserAgentVersion: "1.40.0"},
	}
}

// Run connects all proxies and keeps them connected until ctx ends.
func (f *Fleet) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for i, p := range f.proxies {
		g.Go(func() error {
			connect, end, err := f.connector(i)
			if err != nil {
				return fmt.Errorf("dial for proxy %d: %w", i, err)
			}
			defer end()
			if err := p.run(ctx, connect); err != nil {
				return fmt.Errorf("proxy %d: %w", i, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// connector opens the connection for each stream of a proxy; one that serves all of them is closed by end.
func (f *Fleet) connector(i int) (c connector, end func(), err error) {
	if f.cfg.Connect != nil {
		return func(ctx context.Context) (grpc.ClientConnInterface, func(), error) { return f.cfg.Connect(ctx, i) }, func() {}, nil
	}
	conn, err := f.cfg.Dial(i)
	if err != nil {
		return nil, nil, err
	}
	one := func(context.Context) (grpc.ClientConnInterface, func(), error) { return conn, func() {}, nil }
	return one, func() { _ = conn.Close() }, nil // its streams have ended, so nobody would act on the error
}

// lost says whether a proxy comes back after an error.
func (f *Fleet) lost(ctx context.Context, p *Proxy, err error) bool {
	if f.cfg.Lost != nil {
		return f.cfg.Lost(p.index, err)
	}
	select {
	case <-time.After(20 * time.Millisecond):
	case <-ctx.Done():
	}
	return true
}

// Proxy is one of the fleet.
func (f *Fleet) Proxy(i int) *Proxy { return f.proxies[i] }

// Len is the number of proxies.
func (f *Fleet) Len() int { return len(f.proxies) }

// Streams is the number of open streams.
func (f *Fleet) Streams() int { return int(f.streams.Load()) }

// Bytes is the number of bytes of all responses.
func (f *Fleet) Bytes() int64 { return f.bytes.Load() }

// Responses is the number of responses.
func (f *Fleet) Responses() int64 { return f.responses.Load() }

// Resources is the number of resources in all responses.
func (f *Fleet) Resources() int64 { return f.resources.Load() }

// Nacks is the number of refused responses.
func (f *Fleet) Nacks() int64 { return f.nacks.Load() }

// Acks are the acknowledgements of one version.
func (f *Fleet) Acks(version uint64) Acks {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.acks[version]
}

// Forget drops the acknowledgements of all versions.
func (f *Fleet) Forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.acks)
}

func (f *Fleet) acked(version uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.acks[version]
	a.Count++
	a.Last = time.Now()
	f.acks[version] = a
	if f.waiting > 0 {
		close(f.changed)
		f.changed = make(chan struct{})
		f.waiting = 0
	}
}

// Until waits until a version has been acknowledged n times.
func (f *Fleet) Until(ctx context.Context, version uint64, n int) (Acks, error) {
	for {
		f.mu.Lock()
		a, changed := f.acks[version], f.changed
		if a.Count >= n {
			f.mu.Unlock()
			return a, nil
		}
		f.waiting++
		f.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return a, fmt.Errorf("%d of %d acknowledgements of version %d: %w", a.Count, n, version, ctx.Err())
		}
	}
}

// intern returns one string for equal bytes, whoever has them.
func (f *Fleet) intern(b []byte) string {
	if s, ok := f.strings.Load(string(b)); ok {
		return s.(string)
	}
	s := string(b)
	got, _ := f.strings.LoadOrStore(s, s)
	return got.(string)
}
