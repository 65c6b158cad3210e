package agents

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
)

// A crowd says which instances are up.
type crowd struct {
	mu      sync.Mutex
	up      []string
	changed chan struct{}
}

func newCrowd(up ...string) *crowd { return &crowd{up: up, changed: make(chan struct{})} }

func (c *crowd) set(up ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up = up
	close(c.changed)
	c.changed = make(chan struct{})
}

// A member is one instance's view of the crowd.
type member struct {
	*crowd
	self string
}

func (m member) Up(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return name == m.self || slices.Contains(m.up, name)
}

func (m member) Others() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(m.up), func(name string) bool { return name == m.self })
}

func (m member) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

func (member) Heard(string) {}

// startShared runs one of several instances.
func (w *world) startShared(c *crowd, name string, edit ...func(*Config)) *zone {
	w.t.Helper()
	return w.start(append([]func(*Config){func(cfg *Config) { cfg.Instance, cfg.Peers = name, member{c, name} }}, edit...)...)
}

func TestInstancesShareWhatAgentsReport(t *testing.T) {
	w, c := newWorld(t), newCrowd("a", "b")
	a, b := w.startShared(c, "a"), w.startShared(c, "b")
	tok := a.token(webToken)
	one := a.agent("one")
	if _, err := one.enroll(tok); err != nil {
		t.Fatal(err)
	}
	b.until("the other instance knows of the registration", func() bool { return b.registry.Snapshot().Len() == 1 })
	if f := b.facts(web); f.Connected || f.Serving {
		t.Errorf("before there is a session: %+v", f)
	}
	s := one.open()
	s.welcome()
	id := s.identity(one.key)
	s.send(&agentapi.AgentMessage{Message: &agentapi.AgentMessage_Inbounds{Inbounds: &agentapi.InboundStates{Inbounds: []*agentapi.InboundState{{Section: "9090"}}}}})
	s.send(&agentapi.AgentMessage{Message: &agentapi.AgentMessage_Secrets{Secrets: &agentapi.SecretStatus{IdentitySerial: id.GetSerial(), TrustVersion: "7"}}})
	b.until("the other instance knows what the agent reports", func() bool {
		f := b.facts(web)
		return f.Connected && f.Serving && f.ControlPlane == "a" && f.Issued.Serial == id.GetSerial() && f.Inbounds["9090"] == mesh.StateNotReady &&
			f.IdentityAcknowledged == id.GetSerial() && f.TrustAcknowledged == "7"
	})
	ours, _ := a.registry.Snapshot().Insight(web, "a")
	theirs, _ := b.registry.Snapshot().Insight(web, "b")
	if n := len(theirs.Subscriptions); n != 1 || theirs.Subscriptions[0].ControlPlaneInstanceID != "a" || theirs.MTLS.IssuedBackend != ours.MTLS.IssuedBackend {
		t.Errorf("the other instance shows %+v, want %+v", theirs, ours)
	}

	// Another agent of the same name is refused there as it is here.
	two := b.agent("two")
	_, err := two.enroll(tok)
	wantCode(t, err, codes.AlreadyExists, `"one"`, `"host-one"`)
	two.cert = one.cert
	two.session = one.session - 1
	wantCode(t, two.open().end(), codes.AlreadyExists) // a copy of the certificate with an older session

	// Nothing is written when nothing changes.
	b.until("both are done", func() bool { return quiet(a) && quiet(b) })
	position, err := w.store.Position(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.send(&agentapi.AgentMessage{Message: &agentapi.AgentMessage_Secrets{Secrets: &agentapi.SecretStatus{IdentitySerial: id.GetSerial(), TrustVersion: "7"}}})
	s.send(&agentapi.AgentMessage{Message: &agentapi.AgentMessage_Goodbye{Goodbye: &agentapi.Goodbye{}}})
	b.until("the other instance knows that it drains", func() bool { return b.facts(web).Draining && !b.facts(web).Serving })
	if now, _ := w.store.Position(t.Context()); now.Revision > position.Revision+2 { // the goodbye, and that the other instance's proxies know
		t.Errorf("%d batches were written for one change", now.Revision-position.Revision)
	}
	s.next("goodbye done", func(m *agentapi.ZoneMessage) bool { return m.GetGoodbyeDone() != nil })

	r, _ := a.catalog.Snapshot().Get(web)
	if _, err := w.store.Commit(t.Context(), store.Batch{ID: store.BatchID{1}, Ops: []store.Op{{
		Object: store.Object{Key: store.Key{Type: r.Type, Mesh: r.Mesh, Name: r.Name}}, Delete: true, Expect: store.ExpectAny,
	}}}); err != nil {
		t.Fatal(err)
	}
	b.until("the facts go with the Dataplane", func() bool { return b.registry.Snapshot().Len() == 0 })
	b.until("and the records", func() bool {
		_, standing := b.catalog.Snapshot().Derived(standingType, "default", "web-1")
		_, told := b.catalog.Snapshot().Derived(toldPrefix+"b", "default", "web-1")
		return !standing && !told
	})
}

// quiet says that an instance has nothing left to write.
func quiet(z *zone) bool {
	z.sharing.mu.Lock()
	defer z.sharing.mu.Unlock()
	return len(z.sharing.due) == 0 && len(z.sharing.wakes) == 0
}

func TestAgentMovesToAnotherInstance(t *testing.T) {
	w, c := newWorld(t), newCrowd("a", "b")
	quick := func(c *Config) { c.Grace = 100 * time.Millisecond }
	a, b := w.startShared(c, "a", quick), w.startShared(c, "b", quick)
	one := a.agent("one")
	if _, err := one.enroll(a.token(webToken)); err != nil {
		t.Fatal(err)
	}
	s := one.open()
	s.welcome()
	id := s.identity(one.key)
	b.until("the other instance knows of the certificate", func() bool { return b.facts(web).Issued.Serial == id.GetSerial() })

	// The first session looks open to its instance still.
	one.z = b
	moved := one.open(func(h *agentapi.Hello) { h.IdentityLeaf = id.GetChain()[0] })
	moved.welcome()
	wantCode(t, s.end(), codes.Aborted, "replaced by a newer session")
	for _, z := range []*zone{a, b} {
		z.until("the second instance has the dataplane", func() bool {
			f := z.facts(web)
			return f.ControlPlane == "b" && f.Session == 2 && f.Serving && f.Issued.Serial == id.GetSerial() && f.Issued.Count == 1
		})
	}
	in, _ := a.registry.Snapshot().Insight(web, "a")
	if len(in.Subscriptions) != 2 || in.Subscriptions[0].ControlPlaneInstanceID != "a" || in.Subscriptions[1].ControlPlaneInstanceID != "b" {
		t.Errorf("subscriptions %+v", in.Subscriptions)
	}
	moved.cancel()
	a.until("the break is known", func() bool { return !a.facts(web).Connected })
	a.until("its grace is over", func() bool { return !a.facts(web).Serving })
	one.z = a
	one.open().welcome()
	b.until("it is back at the first instance", func() bool { return b.facts(web).Serving && b.facts(web).ControlPlane == "a" })
}

// Two agents of one name that come at the same moment, each to another instance: one stays, and both instances say which.
func TestTwoAgentsAtTwoInstances(t *testing.T) {
	w, c := newWorld(t), newCrowd("a", "b")
	a, b := w.startShared(c, "a"), w.startShared(c, "b")
	tok := a.token(webToken)
	one, two := a.agent("one"), a.agent("two")
	for _, x := range []*agent{one, two} {
		if _, err := x.enroll(tok); err != nil {
			t.Fatal(err)
		}
	}
	two.z = b
	b.until("the Dataplane is known", func() bool {
		_, ok := b.catalog.Snapshot().Get(web)
		return ok
	})
	ends := make(chan error, 2)
	for _, x := range []*agent{one, two} {
		s := x.open()
		go func() { ends <- s.end() }()
	}
	wantCode(t, <-ends, codes.AlreadyExists)
	a.until("both instances agree", func() bool {
		x, y := a.facts(web), b.facts(web)
		return x.Connected && y.Connected && x.Instance == y.Instance && x.ControlPlane == y.ControlPlane && len(a.registry.sessions(""))+len(b.registry.sessions("")) == 1
	})
	if len(ends) != 0 {
		t.Error("the other one was ended, too")
	}
}

// An instance that is gone takes nobody with it: its dataplanes serve until they had the time to go elsewhere.
func TestDataplanesOutliveTheirInstance(t *testing.T) {
	w, c := newWorld(t), newCrowd("a", "b")
	quick := func(c *Config) { c.StartGrace, c.ForgetAfter = 300*time.Millisecond, time.Hour }
	a := w.startShared(c, "a", quick)
	one := a.agent("one")
	if _, err := one.enroll(a.token(webToken)); err != nil {
		t.Fatal(err)
	}
	one.open().welcome()
	b := w.startShared(c, "b", quick)
	b.until("the later instance knows what was there", func() bool { return b.facts(web).Serving && b.facts(web).ControlPlane == "a" })
	a.stop()
	if f := b.facts(web); !f.Connected || !f.Serving {
		t.Errorf("an instance that stops is not yet gone: %+v", f)
	}
	c.set("b")
	b.until("its dataplane is taken over", func() bool { return b.facts(web).ControlPlane == "b" })
	if f := b.facts(web); f.Connected || !f.Serving {
		t.Errorf("right after the end of its instance: %+v", f)
	}
	b.until("it does not come", func() bool { return !b.facts(web).Serving })
	d := w.startShared(c, "d", quick)
	d.until("a later instance knows it, too", func() bool { return d.registry.Snapshot().Len() == 1 && !d.facts(web).Serving })
	one.z = d
	one.open().welcome()
	b.until("it has come", func() bool { return b.facts(web).Serving && b.facts(web).ControlPlane == "d" })
}

func TestGoodbyeIsKnownAtEveryInstance(t *testing.T) {
	w, c := newWorld(t), newCrowd("a", "b")
	release := make(chan error)
	a := w.startShared(c, "a", func(c *Config) { c.Announced = func(context.Context, resource.Key) error { return nil } })
	b := w.startShared(c, "b", func(c *Config) {
		c.Announced = func(ctx context.Context, k resource.Key) error {
			select {
			case err := <-release:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	goodbye := func(instance string) *stream {
		one := a.agent(instance)
		if _, err := one.enroll(a.token(webToken)); err != nil {
			t.Fatal(err)
		}
		s := one.open()
		s.welcome()
		b.until("the session is known", func() bool { return b.facts(web).Connected && b.facts(web).Instance == instance })
		s.send(&agentapi.AgentMessage{Message: &agentapi.AgentMessage_Goodbye{Goodbye: &agentapi.Goodbye{}}})
		b.until("it drains at the other instance", func() bool { return b.facts(web).Draining })
		return s
	}
	done := func(s *stream) *agentapi.GoodbyeDone {
		return s.next("goodbye done", func(m *agentapi.ZoneMessage) bool { return m.GetGoodbyeDone() != nil }).GetGoodbyeDone()
	}
	s := goodbye("one")
	select { // nothing may come before the other instance's proxies know
	case release <- nil:
	case <-time.After(10 * time.Second):
		t.Fatal("the other instance does not ask its proxies")
	}
	if got := done(s).GetUnconfirmed(); got != "" {
		t.Errorf("unconfirmed: %q", got)
	}
	s.cancel()
	a.until("it is gone", func() bool { return !b.facts(web).Connected })

	// What the other instance's proxies do not confirm in time is not waited for once that instance is gone.
	s = goodbye("two")
	release <- errors.New("two proxies are slow")
	c.set("a")
	if got := done(s).GetUnconfirmed(); got != "" {
		t.Errorf("unconfirmed: %q", got)
	}
}

func TestOnlyTheWriterDeregisters(t *testing.T) {
	w, c := newWorld(t), newCrowd("a", "b")
	var mu sync.Mutex
	writer := "nobody"
	edit := func(name string) func(*Config) {
		return func(c *Config) {
			c.DeregisterAfter = 20 * time.Millisecond
			c.Writer = func() (*store.Fence, bool) {
				mu.Lock()
				defer mu.Unlock()
				return nil, writer == name
			}
		}
	}
	a, b := w.startShared(c, "a", edit("a")), w.startShared(c, "b", edit("b"))
	one := a.agent("one")
	if _, err := one.enroll(a.token(webToken)); err != nil {
		t.Fatal(err)
	}
	s := one.open()
	s.welcome()
	s.send(&agentapi.AgentMessage{Message: &agentapi.AgentMessage_Goodbye{Goodbye: &agentapi.Goodbye{}}})
	s.next("goodbye done", func(m *agentapi.ZoneMessage) bool { return m.GetGoodbyeDone() != nil })
	s.cancel()
	b.until("it is gone", func() bool { return b.facts(web).Draining && !b.facts(web).Connected })
	for range 2 { // the instance it was at is tried twice, and puts it off
		var first time.Time
		a.until("the deadline is put off", func() bool {
			a.due.mu.Lock()
			defer a.due.mu.Unlock()
			at := a.due.at[deadlineKey{web, deregister}]
			if first.IsZero() {
				first = at
			}
			return at.After(first)
		})
	}
	if _, ok := a.catalog.Snapshot().Get(web); !ok {
		t.Fatal("it was deregistered by an instance that does not write")
	}
	mu.Lock()
	writer = "b"
	mu.Unlock()
	a.until("the other one does it", func() bool {
		_, ok := a.catalog.Snapshot().Get(web)
		return !ok
	})
	a.until("and both forget it", func() bool { return a.registry.Snapshot().Len()+b.registry.Snapshot().Len() == 0 })
}

// However agents wander between instances, and whatever of their sessions those take for open: in the end all instances agree with
// where each agent is.
func TestInstancesAgreeInTheEnd(t *testing.T) {
	w, c := newWorld(t), newCrowd("a", "b", "d")
	var zones []*zone
	for _, name := range []string{"a", "b", "d"} {
		zones = append(zones, w.startShared(c, name, func(c *Config) { c.Grace = 5 * time.Millisecond }))
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	one := zones[0].agent("one")
	if _, err := one.enroll(zones[0].token(webToken)); err != nil {
		t.Fatal(err)
	}
	for _, z := range zones {
		z.until("the Dataplane is known", func() bool {
			_, ok := z.catalog.Snapshot().Get(web)
			return ok
		})
	}
	var last *stream
	var at *zone
	for step := range 60 {
		at = zones[random.IntN(len(zones))]
		one.z = at
		next := one.open()
		next.welcome()
		if last != nil && random.IntN(2) == 0 {
			last.cancel()
		}
		last = next
		if random.IntN(4) == 0 {
			next.cancel()
			last, at = nil, nil
		}
		if step%10 != 9 {
			continue
		}
		for _, z := range zones {
			z.until(fmt.Sprintf("all agree after step %d", step), func() bool {
				f := z.facts(web)
				if at == nil {
					return !f.Connected && !f.Serving && f.Session == one.session
				}
				return f.Connected && f.Serving && f.Session == one.session && f.ControlPlane == at.cfg.Instance
			})
		}
	}
}
