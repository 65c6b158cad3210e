package xds

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	deltav3 "github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// The same script of tables and requests is played to go-control-plane's delta server and to ours, by a client that takes everything.
// After each step both clients hold the same. Where ours is meant to differ:
//   - a name that is asked for again is sent again, because the client may have dropped it (discovery.proto says so);
//   - a name that does not exist is answered as removed each time, also when the client never had it;
//   - ours sends in an order and in batches of its own.
//
// The scripts hold no NACK, which go-control-plane takes for an ACK, and never leave and rejoin a wildcard on one stream,
// for which it believes that the client still holds what it has dropped.
func TestSameAsGoControlPlane(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		steps := drawScript(r)
		var failure string
		synctest.Test(t, func(t *testing.T) { failure = play(t, steps) })
		if failure != "" {
			r.Fatal(failure)
		}
	})
}

// A step is a new table, or a request, or a new stream.
type step struct {
	table     map[envoy.Type]map[string]int // content by name; nil: not this
	typ       envoy.Type
	subscribe []string
	leave     []string
	reconnect bool
}

func (s step) String() string {
	switch {
	case s.table != nil:
		return fmt.Sprintf("table %v", s.table)
	case s.reconnect:
		return "reconnect"
	}
	return fmt.Sprintf("%s +%v -%v", s.typ, s.subscribe, s.leave)
}

var served = []envoy.Type{envoy.Cluster, envoy.Endpoint, envoy.Listener, envoy.Route}

// drawScript makes a script; what it unsubscribes from was subscribed to.
func drawScript(r *rapid.T) []step {
	all := []string{"a", "b", "c", "d", "e"}
	var wants [envoy.NumTypes]map[string]bool
	var asked, wildcard [envoy.NumTypes]bool
	for i := range wants {
		wants[i] = map[string]bool{}
	}
	// Ours takes a client that asks for listeners and not for clusters for an Envoy whose clusters warm.
	steps := []step{{table: drawTable(r, all)}, {typ: envoy.Cluster}}
	asked[envoy.Cluster], wildcard[envoy.Cluster] = true, true
	for range rapid.IntRange(1, 14).Draw(r, "steps") {
		switch rapid.IntRange(0, 9).Draw(r, "kind") {
		case 0, 1, 2:
			steps = append(steps, step{table: drawTable(r, all)})
		case 3:
			steps = append(steps, step{reconnect: true})
			for t := range asked { // what it asks for after is all it asked for before
				asked[t] = asked[t] && (wildcard[t] || len(wants[t]) > 0)
				if asked[t] && wildcard[t] && len(wants[t]) > 0 {
					wants[t]["*"] = true
				}
			}
		default:
			s := step{typ: rapid.SampledFrom(served).Draw(r, "type")}
			names := all
			if s.typ.Wildcard() && !asked[s.typ] {
				names = append([]string{"*"}, all...)
			}
			for _, n := range names {
				if rapid.IntRange(0, 3).Draw(r, "subscribe") == 0 {
					s.subscribe = append(s.subscribe, n)
				} else if wants[s.typ][n] && n != "*" && rapid.Bool().Draw(r, "leave") {
					s.leave = append(s.leave, n)
				}
			}
			if !asked[s.typ] {
				wildcard[s.typ] = s.typ.Wildcard() && (len(s.subscribe) == 0 || slices.Contains(s.subscribe, "*"))
				if len(s.subscribe) == 0 && !wildcard[s.typ] {
					continue
				}
			}
			asked[s.typ] = true
			for _, n := range s.subscribe {
				wants[s.typ][n] = true
			}
			for _, n := range s.leave {
				delete(wants[s.typ], n)
			}
			steps = append(steps, s)
		}
	}
	return steps
}

func drawTable(r *rapid.T, all []string) map[envoy.Type]map[string]int {
	table := map[envoy.Type]map[string]int{}
	for _, t := range served {
		table[t] = map[string]int{}
		for _, n := range all {
			if content := rapid.IntRange(0, 3).Draw(r, "content"); content > 0 {
				table[t][n] = content
			}
		}
	}
	return table
}

// message is a resource with a name and a content.
func message(t envoy.Type, name string, content int) types.Resource {
	switch t {
	case envoy.Cluster:
		return &clusterv3.Cluster{Name: name, ConnectTimeout: durationpb.New(time.Duration(content) * time.Second)}
	case envoy.Endpoint:
		return &endpointv3.ClusterLoadAssignment{ClusterName: name, NamedEndpoints: map[string]*endpointv3.Endpoint{fmt.Sprint(content): {}}}
	case envoy.Listener:
		return &listenerv3.Listener{Name: name, StatPrefix: fmt.Sprint(content)}
	}
	return &routev3.RouteConfiguration{Name: name, InternalOnlyHeaders: []string{fmt.Sprint(content)}}
}

// A peer is one server and the client that talks to it.
type peer struct {
	name     string
	send     func(*discoveryv3.DeltaDiscoveryRequest)
	receive  func() *discoveryv3.DeltaDiscoveryResponse // nil: quiet
	set      func(sequence int, table map[envoy.Type]map[string]int)
	restart  func()
	versions [envoy.NumTypes]map[string]string
	bodies   [envoy.NumTypes]map[string]string
	sent     map[string]string // in this step, by type and name
}

func (p *peer) reset() {
	for i := range p.versions {
		p.versions[i], p.bodies[i] = map[string]string{}, map[string]string{}
	}
}

// drain takes responses and acknowledges them until the server is quiet.
func (p *peer) drain(wants *[envoy.NumTypes]subscriptions) {
	p.sent = map[string]string{}
	for {
		r := p.receive()
		if r == nil {
			return
		}
		t, _ := envoy.TypeOf(r.TypeUrl)
		for _, x := range r.Resources {
			p.sent[t.String()+" "+x.Name] = string(x.Resource.Value)
			if wants[t].has(x.Name) {
				p.versions[t][x.Name], p.bodies[t][x.Name] = x.Version, string(x.Resource.Value)
			}
		}
		for _, n := range r.RemovedResources {
			p.sent[t.String()+" "+n] = "removed"
			delete(p.versions[t], n)
			delete(p.bodies[t], n)
		}
		p.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce})
	}
}

// subscriptions is what the client asked for of a type.
type subscriptions struct {
	asked, wildcard bool
	names           map[string]bool
}

func (s *subscriptions) has(name string) bool { return s.wildcard || s.names[name] }

func play(t *testing.T, steps []step) string {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	peers := []*peer{reference(ctx), ours(t)}
	for _, p := range peers {
		p.reset()
		p.restart()
	}
	var wants [envoy.NumTypes]subscriptions
	for i := range wants {
		wants[i].names = map[string]bool{}
	}
	var log strings.Builder
	for i, s := range steps {
		fmt.Fprintln(&log, s)
		asked := map[string]bool{} // names asked for in this step, which ours answers in any case
		switch {
		case s.table != nil:
			for _, p := range peers {
				p.set(i, s.table)
			}
		case s.reconnect:
			for i := range wants { // to ask for no name at all would be to ask for everything
				wants[i].asked = wants[i].asked && (wants[i].wildcard || len(wants[i].names) > 0)
			}
			for _, p := range peers {
				p.restart()
				for _, typ := range served {
					if wants[typ].asked {
						p.send(reopen(typ, &wants[typ], p.versions[typ]))
					}
				}
			}
			for _, typ := range served {
				for n := range wants[typ].names {
					asked[typ.String()+" "+n] = true
				}
			}
		default:
			w := &wants[s.typ]
			if !w.asked {
				w.wildcard = s.typ.Wildcard() && (len(s.subscribe) == 0 || slices.Contains(s.subscribe, "*"))
			}
			w.asked = true
			for _, n := range s.subscribe {
				if n != "*" {
					w.names[n] = true
					asked[s.typ.String()+" "+n] = true
				}
			}
			for _, n := range s.leave {
				delete(w.names, n)
				asked[s.typ.String()+" "+n] = true
			}
			for _, p := range peers {
				p.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: s.typ.URL(), ResourceNamesSubscribe: s.subscribe, ResourceNamesUnsubscribe: s.leave})
				for _, n := range s.leave {
					if !w.has(n) {
						delete(p.versions[s.typ], n)
						delete(p.bodies[s.typ], n)
					}
				}
			}
		}
		for _, p := range peers {
			p.drain(&wants)
		}
		if d := differ(peers[0], peers[1], asked); d != "" {
			return fmt.Sprintf("%sthen %s", log.String(), d)
		}
	}
	return ""
}

func reopen(t envoy.Type, w *subscriptions, versions map[string]string) *discoveryv3.DeltaDiscoveryRequest {
	r := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: t.URL(), InitialResourceVersions: maps.Clone(versions), ResourceNamesSubscribe: slices.Sorted(maps.Keys(w.names))}
	if w.wildcard && len(w.names) > 0 {
		r.ResourceNamesSubscribe = append(r.ResourceNamesSubscribe, "*")
	}
	return r
}

// differ compares what the clients hold, and what they were sent of names that nobody asked for just now.
func differ(theirs, ours *peer, asked map[string]bool) string {
	for _, t := range served {
		if !maps.Equal(theirs.bodies[t], ours.bodies[t]) {
			return fmt.Sprintf("the client of go-control-plane holds %s %q, ours %q", t, theirs.bodies[t], ours.bodies[t])
		}
	}
	for name, what := range theirs.sent {
		if got := ours.sent[name]; got != what {
			return fmt.Sprintf("go-control-plane sends %s %q, ours %q", name, what, got)
		}
	}
	for name, what := range ours.sent {
		if _, ok := theirs.sent[name]; !ok && !asked[name] {
			return fmt.Sprintf("only ours sends %s %q", name, what)
		}
	}
	return ""
}

func ours(t *testing.T) *peer {
	p := &peer{name: "ours"}
	var s *Session
	var current *envoy.Table
	p.restart = func() {
		s = NewSession(nil, Limits{})
		s.Target(current)
	}
	p.send = func(r *discoveryv3.DeltaDiscoveryRequest) {
		if err := s.Receive(proto.CloneOf(r)); err != nil {
			t.Error(err)
		}
	}
	p.receive = func() *discoveryv3.DeltaDiscoveryResponse {
		r, ok := s.Next()
		if !ok && s.Waiting() {
			s.Overdue() // the script need not ask for what a client like Envoy asks for
			r, ok = s.Next()
		}
		if !ok {
			return nil
		}
		var m discoveryv3.DeltaDiscoveryResponse
		if err := proto.Unmarshal(r.Buffers().Materialize(), &m); err != nil {
			t.Error(err)
		}
		return &m
	}
	p.set = func(sequence int, table map[envoy.Type]map[string]int) {
		var all []*envoy.Fragment
		for typ, names := range table {
			for n, content := range names {
				f, err := envoy.NewFragment(typ, n, message(typ, n, content))
				if err != nil {
					t.Error(err)
				}
				all = append(all, f)
			}
		}
		current = &envoy.Table{Shared: envoy.NewPart(all), Sequence: uint64(sequence)}
		s.Target(current)
	}
	return p
}

// reference is go-control-plane's delta server with its snapshot cache.
func reference(ctx context.Context) *peer {
	p := &peer{name: "go-control-plane"}
	cache := cachev3.NewSnapshotCache(false, cachev3.IDHash{}, nil)
	var rpc *pipe
	p.restart = func() {
		if rpc != nil {
			rpc.cancel()
			synctest.Wait()
		}
		rpc = newPipe(ctx)
		server := deltav3.NewServer(ctx, cache, nil, deltav3.DeactivateLegacyWildcardForTypes([]string{envoy.Endpoint.URL(), envoy.Route.URL()}))
		go func(rpc *pipe) { _ = server.DeltaStreamHandler(rpc, "") }(rpc)
	}
	p.send = func(r *discoveryv3.DeltaDiscoveryRequest) {
		r = proto.CloneOf(r)
		r.Node = &corev3.Node{Id: "client"}
		rpc.requests <- r
		synctest.Wait()
	}
	p.receive = func() *discoveryv3.DeltaDiscoveryResponse {
		synctest.Wait()
		select {
		case r := <-rpc.responses:
			return r
		default:
			return nil
		}
	}
	p.set = func(sequence int, table map[envoy.Type]map[string]int) {
		resources := map[string][]types.Resource{}
		for typ, names := range table {
			resources[typ.URL()] = []types.Resource{}
			for n, content := range names {
				resources[typ.URL()] = append(resources[typ.URL()], message(typ, n, content))
			}
		}
		snapshot, err := cachev3.NewSnapshot(fmt.Sprint(sequence), resources)
		if err != nil {
			panic(err)
		}
		if err := cache.SetSnapshot(ctx, "client", snapshot); err != nil {
			panic(err)
		}
	}
	return p
}

// pipe is a gRPC stream without gRPC.
type pipe struct {
	ctx       context.Context
	cancel    context.CancelFunc
	requests  chan *discoveryv3.DeltaDiscoveryRequest
	responses chan *discoveryv3.DeltaDiscoveryResponse
}

func newPipe(ctx context.Context) *pipe {
	ctx, cancel := context.WithCancel(ctx)
	return &pipe{ctx, cancel, make(chan *discoveryv3.DeltaDiscoveryRequest), make(chan *discoveryv3.DeltaDiscoveryResponse, 100)}
}

func (p *pipe) Send(r *discoveryv3.DeltaDiscoveryResponse) error {
	p.responses <- r
	return nil
}

func (p *pipe) Recv() (*discoveryv3.DeltaDiscoveryRequest, error) {
	select {
	case r := <-p.requests:
		return r, nil
	case <-p.ctx.Done():
		return nil, io.EOF
	}
}

func (p *pipe) Context() context.Context     { return p.ctx }
func (p *pipe) SetHeader(metadata.MD) error  { return nil }
func (p *pipe) SendHeader(metadata.MD) error { return nil }
func (p *pipe) SetTrailer(metadata.MD)       {}
func (p *pipe) SendMsg(any) error            { return nil }
func (p *pipe) RecvMsg(any) error            { return io.EOF }
