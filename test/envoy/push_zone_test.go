package envoy

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/dataplane/bootstrap"
	process "github.com/causeway-mesh/causeway/dataplane/envoy"
	"github.com/causeway-mesh/causeway/dataplane/relay"
	"github.com/causeway-mesh/causeway/dataplane/sds"
	"github.com/causeway-mesh/causeway/zone-cp/solo"
	"github.com/causeway-mesh/causeway/zone-cp/xds"
)

// zone is the product's xDS server on a Unix socket. Its tables are made by the test, and it remembers what was said.
type zone struct {
	socket string
	end    context.CancelFunc // of the running server
	ended  sync.WaitGroup

	mu    sync.Mutex
	feeds map[string]*feed // by node
	taps  []*tap           // all streams, oldest first
	spoil func(*tap, *xds.Response) verdict
}

// verdict is what a test does to a response on its way.
type verdict int

const (
	deliver verdict = iota
	cutBefore
	cutAfter
)

func newZone(t testing.TB) *zone {
	t.Helper()
	binary(t)
	z := &zone{socket: filepath.Join(shortDir(t), "zone.sock"), feeds: map[string]*feed{}}
	z.start(t)
	t.Cleanup(z.stop)
	return z
}

// start runs a server that knows nothing of former ones.
func (z *zone) start(t testing.TB) {
	t.Helper()
	server, err := xds.New(xds.Config{Sessions: z, Patience: 2 * patience, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", z.socket)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(append(server.ServerOptions(), grpc.StreamInterceptor(z.intercept))...)
	server.Register(g)
	ctx, cancel := context.WithCancel(context.Background())
	z.end = func() { cancel(); g.Stop() }
	z.ended.Go(func() { server.Run(ctx) }) //nolint:errcheck // ends with ctx
	z.ended.Go(func() { g.Serve(l) })      //nolint:errcheck // ends with stop
}

func (z *zone) stop() {
	z.end()
	z.ended.Wait()
}

// cut ends every stream and leaves the server up.
func (z *zone) cut() {
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, p := range z.taps {
		p.cut()
	}
}

// disturb lets a test decide about each response; nil delivers all.
func (z *zone) disturb(f func(*tap, *xds.Response) verdict) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.spoil = f
}

func (z *zone) feed(node string) *feed {
	z.mu.Lock()
	defer z.mu.Unlock()
	f := z.feeds[node]
	if f == nil {
		f = &feed{}
		z.feeds[node] = f
	}
	return f
}

// Open implements xds.Sessions.
func (z *zone) Open(_ context.Context, node *corev3.Node, changed func()) (xds.Subscription, error) {
	return z.feed(node.GetId()).open(changed), nil
}

// streams are the streams of one proxy, oldest first.
func (z *zone) streams(node string) (out []*tap) {
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, p := range z.taps {
		if p.of() == node {
			out = append(out, p)
		}
	}
	return out
}

// feed is what the zone tells one proxy and hears of it.
type feed struct {
	mu      sync.Mutex
	table   *envoy.Table
	current *subscription
}

// subscription is the feed of one stream.
type subscription struct {
	*feed
	changed  func()
	acked    uint64
	rejected []xds.Rejection
}

func (f *feed) open(changed func()) *subscription {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.current = &subscription{feed: f, changed: changed}
	return f.current
}

func (f *feed) set(table *envoy.Table) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.table = table
	if f.current != nil {
		f.current.changed()
	}
}

// Table implements xds.Subscription.
func (s *subscription) Table() *envoy.Table {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table
}

// Acked implements xds.Subscription.
func (s *subscription) Acked(sequence uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked = sequence
}

// Rejected implements xds.Subscription.
func (s *subscription) Rejected(rs []xds.Rejection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rejected = slices.Clone(rs)
}

// Close implements xds.Subscription.
func (s *subscription) Close() {}

func (s *subscription) Sent(envoy.Type) {}

func (s *subscription) Answered(envoy.Type, bool) {}

// state is what the newest stream has reported.
func (f *feed) state() (acked uint64, rejected []xds.Rejection) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.current == nil {
		return 0, nil
	}
	return f.current.acked, f.current.rejected
}

// tap listens to one stream, and can cut it.
type tap struct {
	grpc.ServerStream
	zone *zone

	mu    sync.Mutex
	heard []*discoveryv3.DeltaDiscoveryRequest
	when  []time.Time // of each request
	sent  []sending
}

// sending is one response as it left.
type sending struct {
	typ       envoy.Type
	nonce     string
	resources []*envoy.Fragment
	removed   []string
	bytes     int
	heard     int // requests that came before it left
	when      time.Time
}

func (z *zone) intercept(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	p := &tap{ServerStream: ss, zone: z}
	z.mu.Lock()
	z.taps = append(z.taps, p)
	z.mu.Unlock()
	return handler(srv, p)
}

var errCut = status.Error(codes.Canceled, "cut by the test")

// cut ends the stream, if it has not ended.
func (p *tap) cut() { solo.End(p.ServerStream, errCut) }

// RecvMsg implements grpc.ServerStream.
func (p *tap) RecvMsg(m any) error {
	if err := p.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard = append(p.heard, m.(*discoveryv3.DeltaDiscoveryRequest))
	p.when = append(p.when, time.Now())
	return nil
}

// SendMsg implements grpc.ServerStream.
func (p *tap) SendMsg(m any) error {
	r := m.(*xds.Response)
	p.zone.mu.Lock()
	spoil := p.zone.spoil
	p.zone.mu.Unlock()
	fate := deliver
	if spoil != nil {
		fate = spoil(p, r)
	}
	if fate == cutBefore {
		p.cut()
		return errCut
	}
	p.mu.Lock()
	p.sent = append(p.sent, sending{
		typ: r.Type, nonce: r.Nonce, resources: slices.Collect(r.Fragments), removed: r.Removed(), bytes: r.Buffers().Len(),
		heard: len(p.heard), when: time.Now(),
	})
	p.mu.Unlock()
	err := p.ServerStream.SendMsg(m)
	if fate == cutAfter {
		p.cut()
	}
	return err
}

func (p *tap) of() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.heard) == 0 {
		return ""
	}
	return p.heard[0].GetNode().GetId()
}

func (p *tap) responses() []sending {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.sent)
}

// resources counts what was sent on the stream.
func (p *tap) resources() (n, bytes int) {
	for _, r := range p.responses() {
		n += len(r.resources)
		bytes += r.bytes
	}
	return n, bytes
}

// asked says that the proxy has spoken of every type that it uses.
func (p *tap) asked(types ...envoy.Type) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range types {
		if !slices.ContainsFunc(p.heard, func(r *discoveryv3.DeltaDiscoveryRequest) bool { return r.GetTypeUrl() == t.URL() }) {
			return false
		}
	}
	return true
}

// refusals are the NACKs on the stream.
func (p *tap) refusals() (out []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.heard {
		if e := r.GetErrorDetail(); e != nil {
			out = append(out, short(r.GetTypeUrl())+": "+e.GetMessage())
		}
	}
	return out
}

// answered says at which request of the stream a response was answered, -1 when it was not.
func (p *tap) answered(nonce string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.IndexFunc(p.heard, func(r *discoveryv3.DeltaDiscoveryRequest) bool { return r.GetResponseNonce() == nonce })
}

// talk is what was said on the stream, for people.
func (p *tap) talk() string {
	out := ""
	p.mu.Lock()
	defer p.mu.Unlock()
	next := 0
	const clock = "05.000"
	hear := func(to int) {
		for ; next < to; next++ {
			out += "\n" + p.when[next].Format(clock) + strings.TrimPrefix(describe(p.heard[next:next+1]), "\n")
		}
	}
	for _, r := range p.sent {
		hear(r.heard)
		out += fmt.Sprintf("\n%s      %s nonce=%s", r.when.Format(clock), r.typ, r.nonce)
		for _, f := range r.resources {
			out += " " + f.Name + "@" + f.Version[:4]
			if f.Type == envoy.Route {
				for _, to := range f.Refs {
					out += "→" + to.Name
				}
			}
		}
		if len(r.removed) > 0 {
			out += fmt.Sprint(" removed=", r.removed)
		}
	}
	hear(len(p.heard))
	return out
}

// sidecar is an Envoy that is connected to a zone as an agent does it: by a relay, with secrets beside it.
type sidecar struct {
	*proxy
	*feed
	zone     *zone
	name     string
	node     string
	secrets  *sds.Server
	agentLog *logLines
	end      func() // ends Envoy
	// cutSecrets ends all streams of Envoy, those of secrets included, as if the agent's socket were made anew.
	cutSecrets func()
}

// join starts an Envoy whose first table is given.
func (z *zone) join(t testing.TB, name string, table *envoy.Table) *sidecar {
	t.Helper()
	s := z.prepare(t, name, table)
	s.launch(t)
	return s
}

// prepare starts all of a sidecar but Envoy.
func (z *zone) prepare(t testing.TB, name string, table *envoy.Table) *sidecar {
	t.Helper()
	s := &sidecar{zone: z, name: name, node: "shop." + name, agentLog: &logLines{}, proxy: &proxy{dir: shortDir(t), logs: &logBuffer{}}}
	s.secrets = sds.New(slog.New(slog.NewTextHandler(s.agentLog, nil)))
	s.feed = z.feed(s.node)
	s.set(table)
	z.relay(t, s, filepath.Join(s.dir, "agent.sock"))
	return s
}

// launch starts Envoy.
func (s *sidecar) launch(t testing.TB) {
	t.Helper()
	dir := s.dir
	config, err := bootstrap.Render(bootstrap.Params{
		Mesh: "shop", Name: s.name, Zone: "east", Agent: filepath.Join(dir, "agent.sock"), Admin: filepath.Join(dir, "admin.sock"),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.admin = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, "admin.sock"))
		},
	}}
	s.Process, err = process.Start(t.Context(), process.Config{
		Binary: binary(t), Bootstrap: config, Dir: dir, Log: slog.New(s.logs),
		DrainTime: 2 * time.Second, StopTimeout: 3 * time.Second, Args: bootstrap.Args(),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.end = sync.OnceFunc(func() {
		s.admin.CloseIdleConnections()
		if err := s.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		s.end()
		if t.Failed() {
			for i, p := range s.zone.streams(s.node) {
				talk := p.talk()
				t.Logf("stream %d of %s:%s", i, s.node, talk[max(0, len(talk)-30000):])
			}
			t.Logf("the end of envoy's log:\n%s", s.logs.tail(20))
		}
	})
}

// logLines keeps what the agent logs.
type logLines struct{ lines syncBuffer }

// Write implements io.Writer.
func (l *logLines) Write(line []byte) (int, error) {
	l.lines.add(string(line))
	return len(line), nil
}

// relay runs the agent's socket until the test ends.
func (z *zone) relay(t testing.TB, s *sidecar, socket string) {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+z.socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1, MaxDelay: 20 * time.Millisecond}}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { s.secrets.Run(ctx) }) //nolint:errcheck // ends with ctx
	t.Cleanup(func() {
		cancel()
		run.Wait()
	})
	serve := func() (stop func()) {
		l, err := relay.Listen(socket)
		if err != nil {
			t.Fatal(err)
		}
		r := relay.New(func(context.Context) (grpc.ClientConnInterface, error) { return conn, nil }, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(context.Background())
		s.secrets.Register(ctx, r)
		var serving sync.WaitGroup
		serving.Go(func() {
			if err := r.Serve(ctx, l); err != nil {
				t.Error(err)
			}
		})
		return func() {
			cancel()
			serving.Wait()
		}
	}
	stop := serve()
	t.Cleanup(func() { stop() })
	s.cutSecrets = func() {
		stop()
		stop = serve()
	}
}

// untilAcked waits until the zone knows that a table is in force.
func (s *sidecar) untilAcked(t testing.TB, table *envoy.Table) time.Duration {
	t.Helper()
	return until(t, fmt.Sprintf("table %d is acknowledged", table.Sequence), func() (any, bool) {
		acked, rejected := s.state()
		return fmt.Sprintf("acknowledged %d, rejected %v", acked, rejected), acked >= table.Sequence
	})
}

// refusals are all NACKs of the proxy.
func (s *sidecar) refusals() (out []string) {
	for _, p := range s.zone.streams(s.node) {
		out = append(out, p.refusals()...)
	}
	return out
}

// received counts how often a version of a resource was sent to the proxy.
func (s *sidecar) received(f *envoy.Fragment) (n int) {
	for _, p := range s.zone.streams(s.node) {
		for _, r := range p.responses() {
			for _, x := range r.resources {
				if x.Type == f.Type && x.Name == f.Name && x.Version == f.Version {
					n++
				}
			}
		}
	}
	return n
}

// reconnect cuts the stream and waits until the proxy has come back and asked for everything again.
func (s *sidecar) reconnect(t testing.TB) *tap {
	t.Helper()
	before := len(s.zone.streams(s.node))
	s.zone.cut()
	return s.returned(t, before)
}

// returned waits for the stream that follows a number of earlier ones.
func (s *sidecar) returned(t testing.TB, before int) *tap {
	t.Helper()
	var p *tap
	until(t, "the proxy comes back and asks for all types", func() (any, bool) {
		all := s.zone.streams(s.node)
		if len(all) <= before {
			return len(all), false
		}
		p = all[len(all)-1]
		return p.talk(), p.asked(envoy.Cluster, envoy.Endpoint, envoy.Listener, envoy.Route, envoy.Extension)
	})
	return p
}
