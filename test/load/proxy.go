package load

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// A Proxy is one client that speaks delta ADS as Envoy does and proxies nothing.
type Proxy struct {
	fleet *Fleet
	index int

	// Of the goroutine that reads the stream.
	stream  grpc.ClientStream
	scratch response
	asked   [envoy.NumTypes]bool
	warming map[string]bool // assignments that changed clusters wait for
	kept    []any           // answers about clusters, which Envoy keeps back while one of them warms
	live    bool            // the first clusters are warm, and listeners were asked for

	mu      sync.Mutex
	has     [envoy.NumTypes]map[string]string   // what it would report on reconnect: versions by name
	needs   [envoy.NumTypes]map[string][]string // names that a cluster or listener asks for, "RDS x"
	wants   [envoy.NumTypes]map[string]int      // named subscriptions, counted
	stalled chan struct{}                       // closed when it reads on; nil when it reads
	cut     context.CancelFunc
	twice   int
	answers int
	settled time.Time
}

func newProxy(f *Fleet, i int) *Proxy {
	p := &Proxy{fleet: f, index: i}
	for t := range envoy.NumTypes {
		p.has[t], p.needs[t], p.wants[t] = map[string]string{}, map[string][]string{}, map[string]int{}
	}
	return p
}

// Held is what the proxy holds of a type: versions by name.
func (p *Proxy) Held(t envoy.Type) map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.has[t])
}

// Responses is how many responses the proxy has had.
func (p *Proxy) Responses() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answers
}

// Settled is when the proxy last had answered everything that it was sent.
func (p *Proxy) Settled() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.settled
}

// Repeated is how many resources came although the proxy had them and no changed cluster waited for them.
func (p *Proxy) Repeated() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.twice
}

// Stall makes the proxy read nothing more until Resume.
func (p *Proxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stalled == nil {
		p.stalled = make(chan struct{})
	}
}

// Resume ends Stall.
func (p *Proxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stalled != nil {
		close(p.stalled)
		p.stalled = nil
	}
}

// Cut ends the stream; the proxy comes back with what it holds.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut != nil {
		p.cut()
	}
}

// connector opens what the next stream goes over.
type connector func(ctx context.Context) (conn grpc.ClientConnInterface, end func(), err error)

// run keeps a stream until ctx ends.
func (p *Proxy) run(ctx context.Context, connect connector) error {
	for ctx.Err() == nil {
		one, cut := context.WithCancel(ctx)
		p.mu.Lock()
		p.cut = cut
		p.mu.Unlock()
		err := p.over(one, connect)
		ended := one.Err() != nil
		cut()
		if err != nil && !ended && !errors.Is(err, io.EOF) && !p.fleet.lost(ctx, p, err) {
			return err
		}
	}
	return nil
}

// over holds one stream on a connection of its own choice.
func (p *Proxy) over(ctx context.Context, connect connector) error {
	conn, end, err := connect(ctx)
	if err != nil {
		return err
	}
	defer end()
	return p.serve(ctx, conn)
}

var deltaADS = &grpc.StreamDesc{StreamName: "DeltaAggregatedResources", ServerStreams: true, ClientStreams: true}

func (p *Proxy) serve(ctx context.Context, conn grpc.ClientConnInterface) (err error) {
	p.stream, err = conn.NewStream(ctx, deltaADS, discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName)
	if err != nil {
		return err
	}
	if err := p.connect(); err != nil {
		return err
	}
	p.fleet.streams.Add(1)
	defer p.fleet.streams.Add(-1)
	for {
		p.mu.Lock()
		gate := p.stalled
		p.mu.Unlock()
		if gate != nil {
			select {
			case <-gate:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		var f frame
		if err := p.stream.RecvMsg(&f); err != nil {
			return err
		}
		p.fleet.bytes.Add(int64(f.buffer.Len()))
		parse(f.buffer.ReadOnlyData(), &p.scratch)
		err := p.take(&p.scratch)
		f.buffer.Free()
		if err != nil {
			return err
		}
	}
}

// connect asks for everything the proxy had asked for, clusters first. Envoy asks for listeners when its first clusters are warm,
// and for nothing about clusters while one of them warms.
func (p *Proxy) connect() error {
	p.asked, p.kept = [envoy.NumTypes]bool{}, nil
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range []envoy.Type{envoy.Cluster, envoy.Endpoint, envoy.Listener, envoy.Route, envoy.Extension} {
		if t == envoy.Listener && !p.live || t == envoy.Cluster && p.live && len(p.warming) > 0 {
			continue
		}
		if err := p.ask(t, nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// ask changes the subscriptions of a type; the first request of a type on a stream carries all of them.
func (p *Proxy) ask(t envoy.Type, add, gone []string) error {
	req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: t.URL(), ResourceNamesSubscribe: add, ResourceNamesUnsubscribe: gone}
	if !p.asked[t] {
		if len(p.wants[t]) == 0 && !t.Wildcard() {
			return nil
		}
		p.asked[t] = true
		req.ResourceNamesSubscribe = slices.Sorted(maps.Keys(p.wants[t]))
		req.ResourceNamesUnsubscribe = nil
		req.InitialResourceVersions = p.has[t]
		req.Node = p.fleet.cfg.Node(p.index)
	} else if len(add)+len(gone) == 0 {
		return nil
	}
	return p.stream.SendMsg(req)
}

// take applies a response and answers it.
func (p *Proxy) take(r *response) error {
	if !r.known {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers++
	p.fleet.responses.Add(1)
	p.fleet.resources.Add(int64(len(r.resources)))
	if text := p.refusal(r); text != "" {
		p.fleet.nacks.Add(1)
		return p.answer(r.typ, &discoveryv3.DeltaDiscoveryRequest{
			TypeUrl: r.typ.URL(), ResponseNonce: r.nonce, ErrorDetail: &rpcstatus.Status{Code: 3, Message: text},
		})
	}
	for _, name := range r.removed {
		p.drop(r.typ, name)
	}
	for i := range r.resources {
		p.keep(r.typ, &r.resources[i])
	}
	if err := p.follow(r); err != nil {
		return err
	}
	if err := p.answer(r.typ, acknowledgement(r.typ, r.nonce)); err != nil {
		return err
	}
	p.fleet.acked(r.version)
	if len(p.kept) == 0 {
		p.settled = time.Now()
		if p.fleet.cfg.Settled != nil {
			p.fleet.cfg.Settled(p.index)
		}
	}
	return nil
}

func (p *Proxy) refusal(r *response) string {
	if p.fleet.cfg.Refuse == nil {
		return ""
	}
	for _, x := range r.resources {
		if text := p.fleet.cfg.Refuse(r.typ, string(x.name), string(x.version)); text != "" {
			return text
		}
	}
	return ""
}

// answer sends a verdict, or keeps it back as Envoy does with those about clusters while one warms.
func (p *Proxy) answer(t envoy.Type, a any) error {
	if t == envoy.Cluster && p.live && len(p.warming) > 0 {
		p.kept = append(p.kept, a)
		return nil
	}
	return p.stream.SendMsg(a)
}

func (p *Proxy) keep(t envoy.Type, x *byteResource) {
	if !t.Wildcard() && p.wants[t][string(x.name)] == 0 {
		return // Envoy does not look at what nothing asks for
	}
	if p.fleet.cfg.Took != nil {
		p.fleet.cfg.Took(p.index, t, p.fleet.intern(x.name), x.body)
	}
	old, had := p.has[t][string(x.name)]
	changed := !had || old != string(x.version)
	switch {
	case changed:
		p.has[t][p.fleet.intern(x.name)] = p.fleet.intern(x.version)
	case t == envoy.Endpoint && p.warming[string(x.name)]:
	default:
		p.twice++
	}
	if t == envoy.Endpoint {
		delete(p.warming, string(x.name))
	}
	if !changed || !t.Wildcard() {
		return
	}
	name := p.fleet.intern(x.name)
	var needs []string
	need := func(t envoy.Type, wanted []byte) { needs = append(needs, t.String()+" "+p.fleet.intern(wanted)) }
	if t == envoy.Cluster {
		if e := endpointsOf(x.body); e != nil {
			need(envoy.Endpoint, e)
			if p.warming == nil {
				p.warming = map[string]bool{}
			}
			p.warming[p.fleet.intern(e)] = true
		}
	} else {
		needsOf(x.body, func(n []byte) { need(envoy.Route, n) }, func(n []byte) { need(envoy.Extension, n) })
	}
	p.needs[t][name] = needs
}

func (p *Proxy) drop(t envoy.Type, name string) {
	delete(p.has[t], name)
	if t.Wildcard() {
		delete(p.needs[t], name)
	}
	if t == envoy.Endpoint {
		delete(p.warming, name) // Envoy gives up waiting
	}
}

// follow subscribes to what clusters and listeners now ask for, and to nothing else.
func (p *Proxy) follow(r *response) error {
	if r.typ.Wildcard() {
		types := []envoy.Type{envoy.Endpoint}
		if r.typ == envoy.Listener {
			types = []envoy.Type{envoy.Route, envoy.Extension}
		}
		for _, t := range types {
			if err := p.resubscribe(r.typ, t); err != nil {
				return err
			}
		}
	}
	if !p.live && r.typ != envoy.Listener && len(p.warming) == 0 && p.asked[envoy.Cluster] {
		p.live = true
		if err := p.ask(envoy.Listener, nil, nil); err != nil {
			return err
		}
	}
	if len(p.warming) > 0 || !p.live {
		return nil
	}
	if err := p.ask(envoy.Cluster, nil, nil); err != nil { // only when it could not be asked before
		return err
	}
	for _, a := range p.kept {
		if err := p.stream.SendMsg(a); err != nil {
			return err
		}
	}
	p.kept = nil
	return nil
}

func (p *Proxy) resubscribe(by, t envoy.Type) error {
	now := map[string]int{}
	prefix := t.String() + " "
	for _, needs := range p.needs[by] {
		for _, n := range needs {
			if name, ok := cutPrefix(n, prefix); ok {
				now[name]++
			}
		}
	}
	var add, gone []string
	for name := range now {
		if p.wants[t][name] == 0 {
			add = append(add, name)
		}
	}
	for name := range p.wants[t] {
		if now[name] == 0 {
			gone = append(gone, name)
			delete(p.has[t], name)
			if t == envoy.Endpoint {
				delete(p.warming, name)
			}
		}
	}
	p.wants[t] = now
	return p.ask(t, add, gone)
}

func cutPrefix(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || s[:len(prefix)] != prefix {
		return "", false
	}
	return s[len(prefix):], true
}
