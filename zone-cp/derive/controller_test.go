package derive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/memory"
)

// A troubled store does what a test wants before it commits.
type troubled struct {
	store.Store
	mu     sync.Mutex
	before func(store.Batch) error
}

func (s *troubled) trouble(before func(store.Batch) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = before
}

func (s *troubled) Commit(ctx context.Context, b store.Batch) (store.Committed, error) {
	s.mu.Lock()
	before := s.before
	s.mu.Unlock()
	if before != nil && b.Author == author {
		if err := before(b); err != nil {
			return store.Committed{}, err
		}
	}
	return s.Store.Commit(ctx, b)
}

// facts is a Source that tests write to.
type facts chan map[resource.Key]*Facts

func (f facts) Next(ctx context.Context) (map[resource.Key]*Facts, bool, error) {
	select {
	case m := <-f:
		return m, false, nil
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
}

// A fixture is a zone with a store, a catalog and a controller, inside a synctest bubble.
type fixture struct {
	t     *testing.T
	store *troubled
	*catalog.Catalog
	facts facts
	reg   *prometheus.Registry
	stop  func() error
}

func start(t *testing.T, st *troubled, change func(*Config)) *fixture {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c, err := catalog.Open(ctx, catalog.Config{Store: st, Kinds: kinds})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	f := &fixture{t: t, store: st, Catalog: c, facts: make(facts), reg: prometheus.NewRegistry()}
	cfg := Config{Catalog: c, Facts: f.facts, Zone: "east", Registerer: f.reg}
	if change != nil {
		change(&cfg)
	}
	catalogDone, done := make(chan error, 1), make(chan error, 1)
	go func() { catalogDone <- c.Run(ctx) }()
	go func() { done <- New(cfg).Run(ctx) }()
	f.stop = func() error {
		cancel()
		if err := <-catalogDone; err != nil {
			t.Errorf("catalog: %v", err)
		}
		return <-done
	}
	return f
}

func (f *fixture) end() {
	f.t.Helper()
	if err := f.stop(); err != nil {
		f.t.Errorf("run: %v", err)
	}
}

func (f *fixture) put(rs ...resource.Resource) {
	f.t.Helper()
	b := catalog.Batch{Author: "user"}
	for _, r := range rs {
		r.Labels = stamp(r.Meta, "east", EnvUniversal)
		b.Puts = append(b.Puts, catalog.Put{Resource: r, Expect: store.ExpectAny})
	}
	if _, err := f.Commit(context.Background(), b); err != nil {
		f.t.Fatal(err)
	}
	synctest.Wait()
}

func (f *fixture) delete(k resource.Key) {
	f.t.Helper()
	_, err := f.Commit(context.Background(), catalog.Batch{Author: "user", Deletes: []catalog.Delete{{Key: k, Expect: store.ExpectAny}}})
	if err != nil {
		f.t.Fatal(err)
	}
	synctest.Wait()
}

func (f *fixture) observe(m map[resource.Key]*Facts) {
	f.facts <- m
	synctest.Wait()
}

func (f *fixture) service(name string) (mesh.MeshServiceStatus, bool) {
	f.t.Helper()
	var st mesh.MeshServiceStatus
	d := catalog.StatusOf(resource.Key{Type: mesh.TypeMeshService, Mesh: "default", Name: name})
	data, ok := f.Snapshot().Derived(d.Type, d.Mesh, d.Name)
	if ok {
		if err := json.Unmarshal(data, &st); err != nil {
			f.t.Fatal(err)
		}
	}
	return st, ok
}

func theMesh() resource.Resource {
	return built(resource.Meta{Type: mesh.TypeMesh, Name: "default"}, &mesh.Mesh{})
}

func theDataplane(name string) resource.Resource {
	return built(resource.Meta{Type: mesh.TypeDataplane, Mesh: "default", Name: name, Labels: map[string]string{resource.LabelWorkload: "web"}},
		&mesh.Dataplane{Networking: mesh.Networking{Address: "10.0.0.1", Inbound: []mesh.Inbound{{Port: 80}}}})
}

func key(typ, name string) resource.Key { return resource.Key{Type: typ, Mesh: "default", Name: name} }

func TestADataplaneBecomesAService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, &troubled{Store: memory.New()}, nil)
		f.put(append(mesh.LocalGenerators(), theMesh(), theDataplane("web-1"))...)

		st, ok := f.service("web")
		if !ok || len(st.VIPs) != 1 || len(st.Addresses) != 1 || st.Addresses[0].Hostname != "web.svc.mesh.local" || st.State != mesh.Available || st.TLS.Status != mesh.TLSNotReady {
			t.Fatalf("status %+v", st)
		}
		if r := f.Snapshot().Position().Revision; r != 2 {
			t.Errorf("everything that follows from one commit is one commit; the store is at revision %d", r)
		}

		f.observe(map[resource.Key]*Facts{key(mesh.TypeDataplane, "web-1"): {Issued: true}})
		if st, _ := f.service("web"); st.TLS.Status != mesh.TLSReady {
			t.Errorf("status %+v after the certificate was issued", st)
		}
		f.observe(map[resource.Key]*Facts{key(mesh.TypeDataplane, "web-1"): {Issued: true, Draining: true}})
		if st, _ := f.service("web"); st.State != mesh.Unavailable {
			t.Errorf("status %+v while the only proxy leaves", st)
		}
		at := f.Snapshot().Position().Revision
		f.observe(map[resource.Key]*Facts{key(mesh.TypeDataplane, "web-1"): {Issued: true, Draining: true}})
		time.Sleep(time.Minute)
		if now := f.Snapshot().Position().Revision; now != at {
			t.Errorf("nothing changed, but the store went from revision %d to %d", at, now)
		}
		f.end()

		// Another life of the control plane finds everything as it should be.
		f2 := start(t, f.store, nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		again, _ := f2.service("web")
		if again.VIPs[0] != st.VIPs[0] || again.TLS.Status != mesh.TLSReady {
			t.Errorf("after a restart %+v, before %+v", again, st)
		}
		f2.end()
	})
}

func TestUnusedServicesGoAfterTheGracePeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, &troubled{Store: memory.New()}, nil)
		f.put(theMesh(), theDataplane("web-1"))
		before, _ := f.service("web")
		f.delete(key(mesh.TypeDataplane, "web-1"))

		time.Sleep(30 * time.Minute)
		f.end() // the grace period outlives the control plane
		f = start(t, f.store, nil)
		time.Sleep(29 * time.Minute)
		synctest.Wait()
		if st, ok := f.service("web"); !ok || st.VIPs[0] != before.VIPs[0] || st.UnusedSince.IsZero() {
			t.Errorf("within the grace period the status is %+v", st)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if _, ok := f.service("web"); ok {
			t.Error("the status outlived the grace period")
		}
		for _, typ := range []string{mesh.TypeMeshService, mesh.TypeWorkload} {
			if _, ok := f.Snapshot().Get(key(typ, "web")); ok {
				t.Errorf("the %s outlived the grace period", typ)
			}
		}
		f.put(theDataplane("web-2"))
		if st, _ := f.service("web"); len(st.VIPs) != 1 || !st.UnusedSince.IsZero() {
			t.Errorf("the service came back as %+v", st)
		}
		f.end()
	})
}

func TestWritesAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &troubled{Store: memory.New()}
		var attempts atomic.Int32
		st.trouble(func(store.Batch) error {
			if attempts.Add(1) <= 5 {
				return fmt.Errorf("commit: %w", store.ErrUnavailable)
			}
			return nil
		})
		f := start(t, st, nil)
		f.put(theMesh(), theDataplane("web-1"))
		if _, ok := f.service("web"); ok || attempts.Load() != 1 {
			t.Fatalf("%d attempts at once", attempts.Load())
		}
		for i := range 20 { // events do not shorten the wait
			f.observe(map[resource.Key]*Facts{key(mesh.TypeDataplane, "web-1"): {Issued: i%2 == 0}})
		}
		if n := attempts.Load(); n != 1 {
			t.Errorf("%d attempts without waiting", n)
		}
		time.Sleep(100*time.Millisecond + 200*time.Millisecond)
		synctest.Wait()
		if n := attempts.Load(); n != 3 {
			t.Errorf("%d attempts after 300ms, each wait is twice the last", n)
		}
		time.Sleep(400*time.Millisecond + 800*time.Millisecond + 1600*time.Millisecond)
		synctest.Wait()
		if _, ok := f.service("web"); !ok || attempts.Load() != 6 {
			t.Errorf("after %d attempts the service exists: %v", attempts.Load(), ok)
		}
		if n := counter(t, f.reg, "causeway_derive_failures_total"); n != 5 {
			t.Errorf("%v failures counted", n)
		}
		f.end()
	})
}

func counter(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func TestSomebodyElseWritesAtTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &troubled{Store: memory.New()}
		f := start(t, st, nil)
		f.put(theMesh())
		once := sync.Once{}
		st.trouble(func(store.Batch) error {
			var err error
			once.Do(func() { // a user takes the name in the last moment
				own := built(resource.Meta{Type: mesh.TypeMeshService, Mesh: "default", Name: "web"}, &mesh.MeshService{Ports: []mesh.Port{{Port: 1}}})
				_, err = st.Store.Commit(context.Background(), store.Batch{ID: catalog.NewBatchID(), Ops: []store.Op{{
					Object: store.Object{Key: store.Key{Type: own.Type, Mesh: own.Mesh, Name: own.Name}, Data: own.Raw},
				}}})
			})
			return err
		})
		f.put(theDataplane("web-1"))
		time.Sleep(time.Second)
		synctest.Wait()
		r, _ := f.Snapshot().Get(key(mesh.TypeMeshService, "web"))
		if ms, ok := r.Spec.(*mesh.MeshService); !ok || ms.Ports[0].Port != 1 {
			t.Errorf("the user's service was overwritten: %s", r.Raw)
		}
		if st, _ := f.service("web"); len(st.VIPs) != 1 {
			t.Errorf("the user's service has status %+v", st)
		}
		f.end()
	})
}

func TestOneRefusedRecordHurtsOnlyItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &troubled{Store: memory.New()}
		var refusals atomic.Int32
		st.trouble(func(b store.Batch) error {
			for _, op := range b.Ops {
				if op.Object.Type == "status/MeshService" && op.Object.Name == "b" {
					refusals.Add(1)
					return fmt.Errorf("too large: %w", store.ErrInvalid)
				}
			}
			return nil
		})
		f := start(t, st, nil)
		list := []resource.Resource{theMesh()}
		for _, name := range []string{"a", "b", "c"} {
			list = append(list, built(resource.Meta{Type: mesh.TypeMeshService, Mesh: "default", Name: name}, &mesh.MeshService{Ports: []mesh.Port{{Port: 80}}}))
		}
		f.put(list...)
		for name, want := range map[string]bool{"a": true, "b": false, "c": true} {
			if _, ok := f.service(name); ok != want {
				t.Errorf("status of %s exists: %v", name, ok)
			}
		}
		before := refusals.Load()
		f.put(theDataplane("web-1"))
		if refusals.Load() != before {
			t.Error("what was refused is tried again although it did not change")
		}
		st.trouble(nil)
		f.put(list[2]) // changed, so it is tried again
		if _, ok := f.service("b"); !ok {
			t.Error("b was not tried again after it changed")
		}
		f.end()
	})
}

func TestStatusesOfVanishedServicesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, &troubled{Store: memory.New()}, nil)
		orphan := catalog.StatusOf(key(mesh.TypeMeshService, "never"))
		_, err := f.Commit(context.Background(), catalog.Batch{Derived: []catalog.DerivedPut{{Key: orphan, Data: []byte(`{"vips":[{"ip":"241.0.0.1"}]}`)}}})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, ok := f.service("never"); ok {
			t.Error("the status of a service that does not exist stayed")
		}
		f.end()
	})
}

// What another zone says of its services is taken over, addresses stay ours, and about our own services nobody else has a say.
func TestOtherZonesSayWhatTheirServicesAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, &troubled{Store: memory.New()}, nil)
		say := func(name, data string) {
			t.Helper()
			p := catalog.DerivedPut{Key: catalog.DerivedKey{Type: "owner/MeshService", Mesh: "default", Name: name}}
			if data != "" {
				p.Data = []byte(data)
			}
			if _, err := f.Commit(context.Background(), catalog.Batch{Derived: []catalog.DerivedPut{p}}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		service := func(name, zone string) resource.Resource {
			return built(resource.Meta{Type: mesh.TypeMeshService, Mesh: "default", Name: name, Labels: map[string]string{resource.LabelZone: zone}},
				&mesh.MeshService{Ports: []mesh.Port{{Port: 80}}})
		}
		const ready = `{"state":"Available","tls":{"status":"Ready"},"identities":[{"type":"SpiffeID","value":"spiffe://west/web"}]}`
		say("web-x9w", ready) // before the service itself
		f.put(theMesh())
		if _, err := f.Commit(context.Background(), catalog.Batch{Puts: []catalog.Put{
			{Resource: service("web-x9w", "west"), Expect: store.ExpectAny}, {Resource: service("own", "east"), Expect: store.ExpectAny},
		}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		st, _ := f.service("web-x9w")
		if st.State != mesh.Available || st.TLS.Status != mesh.TLSReady || len(st.Identities) != 1 || len(st.VIPs) != 1 {
			t.Errorf("the service of the other zone is %+v", st)
		}
		vip := st.VIPs
		say("web-x9w", `{"state":"Unavailable","tls":{"status":"Ready"}}`)
		if st, _ = f.service("web-x9w"); st.State != mesh.Unavailable || len(st.Identities) != 0 || !slices.Equal(st.VIPs, vip) {
			t.Errorf("after news it is %+v", st)
		}
		say("web-x9w", "") // a peer that is away takes nothing back
		if st, _ = f.service("web-x9w"); st.State != mesh.Unavailable || st.TLS.Status != mesh.TLSReady {
			t.Errorf("without news it is %+v", st)
		}
		say("web-x9w", `not JSON`)
		if st, _ = f.service("web-x9w"); st.State != mesh.Unavailable {
			t.Errorf("after nonsense it is %+v", st)
		}
		// One that appears before anything is said of it is waited for a little, so that it comes in one piece.
		if _, err := f.Commit(context.Background(), catalog.Batch{Puts: []catalog.Put{
			{Resource: service("first", "west"), Expect: store.ExpectAny}, {Resource: service("mute", "west"), Expect: store.ExpectAny},
		}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, ok := f.service("first"); ok {
			t.Error("a service of another zone has a status before that zone has said anything")
		}
		say("first", ready)
		if st, ok := f.service("first"); !ok || st.State != mesh.Available || len(st.VIPs) != 1 {
			t.Errorf("what its zone says came, and it is %+v", st)
		}
		if _, ok := f.service("mute"); ok {
			t.Error("a service whose zone has said nothing so far is not waited for")
		}
		time.Sleep(statementWait)
		synctest.Wait()
		if st, ok := f.service("mute"); !ok || len(st.VIPs) != 1 {
			t.Errorf("a service whose zone says nothing is waited for for ever: %+v", st)
		}
		say("own", ready)
		if st, _ = f.service("own"); st.State == mesh.Available || st.TLS.Status == mesh.TLSReady || len(st.Identities) > 0 {
			t.Errorf("somebody else has a say about our own service: %+v", st)
		}
		f.end()
	})
}

func TestALostLeaseEndsTheController(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &troubled{Store: memory.New()}
		mine, err := st.Acquire(context.Background(), "zone", "one", time.Second)
		if err != nil {
			t.Fatal(err)
		}
		f := start(t, st, func(c *Config) { c.Fence = func() *store.Fence { return &mine } })
		f.put(theMesh(), theDataplane("web-1"))
		if _, ok := f.service("web"); !ok {
			t.Fatal("nothing was written under the lease")
		}
		time.Sleep(2 * time.Second)
		if _, err := st.Acquire(context.Background(), "zone", "two", time.Hour); err != nil {
			t.Fatal(err)
		}
		f.observe(map[resource.Key]*Facts{key(mesh.TypeDataplane, "web-1"): {Issued: true}})
		if err := f.stop(); !errors.Is(err, store.ErrFenced) {
			t.Errorf("run ended with %v", err)
		}
	})
}

// A controller that runs again reads what was written meanwhile, and knows what it was told before.
func TestAControllerRunsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, &troubled{Store: memory.New()}, nil)
		defer f.end()
		other := make(facts)
		c := New(Config{Catalog: f.Catalog, Facts: other, Zone: "east"})
		tenure := func(do func()) {
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- c.Run(ctx) }()
			synctest.Wait()
			do()
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		tenure(func() { other <- map[resource.Key]*Facts{key(mesh.TypeDataplane, "web-1"): {Issued: true}} })
		f.put(theMesh(), theDataplane("web-1"))
		before, ok := f.service("web")
		if !ok || len(before.VIPs) != 1 {
			t.Fatalf("the controller that ran meanwhile did nothing: %+v", before)
		}
		position := f.Snapshot().Position()
		tenure(func() {
			synctest.Wait()
			if got := c.in.Facts[key(mesh.TypeDataplane, "web-1")]; !got.Issued {
				t.Errorf("what it was told is lost: %+v", c.in.Facts)
			}
			if c.in.Statuses[key(mesh.TypeMeshService, "web")] == nil {
				t.Error("it has not read what the other one wrote")
			}
		})
		if after, _ := f.service("web"); after.VIPs[0] != before.VIPs[0] {
			t.Errorf("the address is %v, was %v; revision %d", after.VIPs, before.VIPs, position.Revision)
		}
	})
}

func TestFirstResourcesAreValid(t *testing.T) {
	cases := []struct {
		name string
		list []resource.Resource
		want int
	}{
		{"alone", FirstResources(Start{Zone: "east", Env: EnvUniversal}), 9},
		{"federated", FirstResources(Start{Zone: "east", Env: EnvUniversal, Federated: true}), 3},
		{"bare", FirstResources(Start{Zone: "east", Env: EnvUniversal, SkipMesh: true, SkipGenerators: true}), 1},
	}
	for _, tc := range cases {
		if len(tc.list) != tc.want {
			t.Errorf("%s: %d resources, want %d", tc.name, len(tc.list), tc.want)
		}
		for _, r := range tc.list {
			k := kindOf(r.Type)
			ps := resource.CheckName("name", k.Names, r.Name)
			ps.Append(resource.CheckLabels("labels", r.Labels))
			if k.Validate != nil {
				ps.Append(k.Validate(r))
			}
			if len(ps) > 0 {
				t.Errorf("%s: %s: %v", tc.name, r.Key(), ps)
			}
			if zone := r.Zone(); (zone != "") != (r.Type == mesh.TypeHostnameGenerator) {
				t.Errorf("%s: %s belongs to zone %q", tc.name, r.Key(), zone)
			}
		}
	}
}
