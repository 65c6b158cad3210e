package load_test

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policies"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/memory"
	"github.com/causeway-mesh/causeway/test/load"
	"github.com/causeway-mesh/causeway/zone-cp/push"
	"github.com/causeway-mesh/causeway/zone-cp/xds"
)

// engine computes tables of what is written into a catalog, and gives proxies the one of the Dataplane they name as their node.
type engine struct {
	*push.Engine
	catalog *catalog.Catalog

	mu       sync.Mutex
	sessions map[string]*push.Session
}

func newEngine(t *testing.T) *engine {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	c, err := catalog.Open(ctx, catalog.Config{Store: memory.New(), Kinds: api.Kinds()})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	e := &engine{
		Engine:  push.New(push.Config{Zone: "east", Catalog: c, Kinds: c.Kinds(), Policies: policies.All, Log: slog.New(slog.DiscardHandler)}),
		catalog: c, sessions: map[string]*push.Session{},
	}
	var done sync.WaitGroup
	for _, run := range []func(context.Context) error{c.Run, e.Run} {
		done.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() { cancel(); done.Wait() })
	return e
}

// Open implements xds.Sessions.
func (e *engine) Open(ctx context.Context, node *corev3.Node, changed func()) (xds.Subscription, error) {
	s, err := e.Engine.Open(ctx, resource.Key{Type: mesh.TypeDataplane, Mesh: "default", Name: node.GetId()}, xds.EnvoyVersion(node), changed)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sessions[node.GetId()] = s
	return silent{s}, nil
}

// session is the newest of a proxy.
func (e *engine) session(node string) *push.Session {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.sessions[node]
}

// silent counts nothing.
type silent struct{ *push.Session }

func (silent) Sent(envoy.Type)           {}
func (silent) Answered(envoy.Type, bool) {}
func (silent) Rejected([]xds.Rejection)  {}

// write commits resources and returns once they are computed.
func (e *engine) write(t *testing.T, texts ...string) {
	t.Helper()
	b := catalog.Batch{Author: "test"}
	for _, text := range texts {
		docs, err := e.catalog.Kinds().DecodeYAML([]byte(text), true)
		if err != nil || len(docs) != 1 {
			t.Fatal(docs, err)
		}
		b.Puts = append(b.Puts, catalog.Put{Resource: docs[0].Resource, Expect: store.ExpectAny})
	}
	done, err := e.catalog.Commit(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	within(t, "the change is computed", func() bool { return e.Progress().Position.Revision >= done.Position.Revision })
}

// within waits for a named condition.
func within(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(patience)
	for !cond() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

func TestChangeOfOthersCountsAsAppliedWithoutAMessage(t *testing.T) {
	e := newEngine(t)
	e.write(t, "type: Mesh\nname: default\n", string(dataplane(t, 0, 2)), string(dataplane(t, 1, 2)))
	address := serve(t, xds.Config{Sessions: e}, nil)
	f := connect(t, load.Config{Node: func(i int) *corev3.Node { return &corev3.Node{Id: name(i)} }}, 2, address)
	applied := func(i int) bool {
		s := e.session(name(i))
		return s != nil && s.Applied() >= e.Progress().Sequence
	}
	within(t, "both are configured", func() bool {
		return applied(0) && applied(1) && len(f.Proxy(0).Held(envoy.Listener)) > 0 && len(f.Proxy(1).Held(envoy.Listener)) > 0
	})

	before, responses := f.Proxy(0).Held(envoy.Route), f.Proxy(1).Responses()
	reached := e.Progress().Sequence
	e.write(t, `
type: MeshTimeout
mesh: default
name: inbound
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: svc-0}}
  rules:
  - default: {http: {requestTimeout: 7s}}
`)
	if e.Progress().Sequence <= reached {
		t.Fatal("the change has no sequence")
	}
	if !applied(1) { // no message has to go there and back first
		t.Errorf("a proxy that the change does not concern is at %d of %d", e.session(name(1)).Applied(), e.Progress().Sequence)
	}
	within(t, "the proxy that the change concerns has it", func() bool {
		return applied(0) && !maps.Equal(before, f.Proxy(0).Held(envoy.Route))
	})
	if got := f.Proxy(1).Responses(); got != responses {
		t.Errorf("the other one got %d responses", got-responses)
	}
}
