package catalog_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/memory"
	"github.com/causeway-mesh/causeway/store/seal"
)

type meshSpec struct{}

type boxSpec struct {
	Size int `json:"size"`
}

type secretSpec struct {
	Data []byte `json:"data"`
}

var (
	meshKind   = resource.Kind{Name: "Mesh", Path: "meshes", Short: "m", Scope: resource.ScopeGlobal, Inline: true, New: func() any { return new(meshSpec) }}
	boxKind    = resource.Kind{Name: "Box", Path: "boxes", Short: "box", Scope: resource.ScopeMesh, New: func() any { return new(boxSpec) }}
	secretKind = resource.Kind{Name: "Secret", Path: "secrets", Short: "s", Scope: resource.ScopeMesh, Inline: true, AdminOnly: true, New: func() any { return new(secretSpec) }}
	gateKind   = resource.Kind{
		Name: "Gate", Path: "gates", Short: "gate", Scope: resource.ScopeMesh, New: func() any { return new(boxSpec) },
		Policy: &resource.PolicyFacts{Restricts: true},
	}
	kinds = resource.NewKinds(meshKind, boxKind, secretKind, gateKind)
)

// flaky is a real store whose connection a test can cut.
type flaky struct {
	store.Store
	cut atomic.Bool
}

func (f *flaky) down() error {
	if f.cut.Load() {
		return fmt.Errorf("dial: %w", store.ErrUnavailable)
	}
	return nil
}

func (f *flaky) Commit(ctx context.Context, b store.Batch) (store.Committed, error) {
	if err := f.down(); err != nil {
		return store.Committed{}, err
	}
	return f.Store.Commit(ctx, b)
}

func (f *flaky) Position(ctx context.Context) (store.Position, error) {
	if err := f.down(); err != nil {
		return store.Position{}, err
	}
	return f.Store.Position(ctx)
}

type fixture struct {
	t     testing.TB
	store *flaky
	*catalog.Catalog
}

func newSealer(t testing.TB, id string) *seal.Sealer {
	t.Helper()
	s, err := seal.New(seal.Key{ID: id, Secret: bytes.Repeat([]byte(id)[:1], 32)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// open starts a catalog on a store and stops it with the test.
func open(t testing.TB, st store.Store, change func(*catalog.Config)) *fixture {
	t.Helper()
	fs, ok := st.(*flaky)
	if !ok {
		fs = &flaky{Store: st}
	}
	cfg := catalog.Config{Store: fs, Kinds: kinds, Sealer: newSealer(t, "k1"), ProbeInterval: time.Millisecond, RetryInterval: time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c, err := catalog.Open(ctx, cfg)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return &fixture{t: t, store: fs, Catalog: c}
}

func box(mesh, name string, size int, labels ...string) resource.Resource {
	r := resource.Resource{Meta: resource.Meta{Type: "Box", Mesh: mesh, Name: name}, Raw: fmt.Appendf(nil, `{"size":%d}`, size)}
	for i := 0; i+1 < len(labels); i += 2 {
		if r.Labels == nil {
			r.Labels = map[string]string{}
		}
		r.Labels[labels[i]] = labels[i+1]
	}
	return r
}

func (f *fixture) put(rs ...resource.Resource) store.Committed {
	f.t.Helper()
	b := catalog.Batch{Author: "test"}
	for _, r := range rs {
		b.Puts = append(b.Puts, catalog.Put{Resource: r, Expect: store.ExpectAny})
	}
	return f.commit(b)
}

func (f *fixture) commit(b catalog.Batch) store.Committed {
	f.t.Helper()
	done, err := f.Commit(context.Background(), b)
	if err != nil {
		f.t.Fatal(err)
	}
	return done
}

// until waits for a condition on the snapshot, by the feed and not by the clock.
func (f *fixture) until(what string, ok func(*catalog.Snapshot) bool) *catalog.Snapshot {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	feed := f.Subscribe()
	defer feed.Close()
	for {
		u, err := feed.Next(ctx)
		if err != nil {
			f.t.Fatalf("waiting until %s: %v", what, err)
		}
		if ok(u.Snapshot) {
			return u.Snapshot
		}
	}
}

func TestWriterReadsItsOwnWrite(t *testing.T) {
	f := open(t, memory.New(), nil)
	for i := range 100 {
		done := f.put(box("default", "b", i, "a", "b"))
		r, ok := f.Snapshot().Get(resource.Key{Type: "Box", Mesh: "default", Name: "b"})
		if !ok || r.Spec.(*boxSpec).Size != i || r.Version != uint64(i+1) || r.Revision != done.Position.Revision {
			t.Fatalf("write %d: got %+v, %v", i, r, ok)
		}
		if string(r.Raw) != fmt.Sprintf(`{"size":%d}`, i) || r.Label("a") != "b" || r.UID == "" || r.Created.IsZero() || r.Modified.Before(r.Created) {
			t.Fatalf("write %d: fields are missing: %+v", i, r)
		}
	}
	if got := f.Snapshot().Position(); got != must(f.store.Position(context.Background())) {
		t.Errorf("snapshot is at %s, the store elsewhere", got)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestSnapshotsDoNotChange(t *testing.T) {
	f := open(t, memory.New(), nil)
	f.put(box("default", "a", 1), box("default", "b", 1))
	before := f.Snapshot()
	f.put(box("default", "a", 2), box("default", "c", 1))
	f.commit(catalog.Batch{Deletes: []catalog.Delete{{Key: resource.Key{Type: "Box", Mesh: "default", Name: "b"}, Expect: store.ExpectAny}}})
	var got []string
	before.Each("Box", "", func(r resource.Resource) bool {
		got = append(got, fmt.Sprint(r.Name, r.Spec.(*boxSpec).Size))
		return true
	})
	if diff := gocmp.Diff([]string{"a1", "b1"}, got); diff != "" || before.Count("Box", "default") != 2 {
		t.Errorf("the old snapshot changed: %s", diff)
	}
	if f.Snapshot().Count("Box", "default") != 2 || f.Snapshot().Count("Box", "other") != 0 {
		t.Errorf("counts are wrong: %d", f.Snapshot().Count("Box", "default"))
	}
}

func TestExpectationsAreTheStores(t *testing.T) {
	f := open(t, memory.New(), nil)
	f.put(box("default", "a", 1))
	_, err := f.Commit(context.Background(), catalog.Batch{Puts: []catalog.Put{
		{Resource: box("default", "b", 1), Expect: store.ExpectAbsent},
		{Resource: box("default", "a", 2), Expect: store.ExpectAbsent},
	}})
	var conflict *store.ConflictError
	if !errors.As(err, &conflict) || conflict.Key.Name != "a" {
		t.Fatalf("got %v, want a conflict about a", err)
	}
	if f.Snapshot().Count("Box", "") != 1 {
		t.Error("half a batch was applied")
	}
	_, err = f.Commit(context.Background(), catalog.Batch{Puts: []catalog.Put{{Resource: resource.Resource{Meta: resource.Meta{Type: "Nothing", Name: "x"}}}}})
	if !errors.Is(err, resource.ErrUnknownKind) {
		t.Errorf("unknown kind: got %v", err)
	}
	id := catalog.NewBatchID()
	first := f.commit(catalog.Batch{ID: id, Puts: []catalog.Put{{Resource: box("default", "c", 1), Expect: store.ExpectAbsent}}})
	again := f.commit(catalog.Batch{ID: id, Puts: []catalog.Put{{Resource: box("default", "c", 1), Expect: store.ExpectAbsent}}})
	if first.Position != again.Position {
		t.Errorf("the same batch was applied twice: %s and %s", first.Position, again.Position)
	}
}

func secret(name, data string) resource.Resource {
	return resource.Resource{Meta: resource.Meta{Type: "Secret", Mesh: "default", Name: name}, Raw: fmt.Appendf(nil, `{"data":%q}`, data)}
}

func TestSecretsAreSealedAtRestAndOpenInMemory(t *testing.T) {
	st := memory.New()
	f := open(t, st, nil)
	f.put(secret("s", "aHVudGVyMg=="), box("default", "b", 1))
	r, ok := f.Snapshot().Get(secret("s", "").Key())
	if !ok || string(r.Spec.(*secretSpec).Data) != "hunter2" {
		t.Fatalf("got %+v, %v", r, ok)
	}
	_, err := st.Snapshot(context.Background(), func(o store.Object) error {
		if o.Type == "Secret" && (!o.Secret || bytes.Contains(o.Data, []byte("aHVudGVyMg")) || bytes.Contains(o.Data, []byte("hunter2"))) {
			t.Errorf("the store sees the secret: %+v", o)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}

	other := open(t, st, func(c *catalog.Config) { c.Sealer = newSealer(t, "z9") })
	aside := other.Snapshot().SetAside()
	if len(aside) != 1 || aside[0].Key.Name != "s" || !strings.Contains(aside[0].Reason, `"k1"`) {
		t.Errorf("with another key: set aside %+v, want the secret and the key it needs", aside)
	}
	if other.Snapshot().Count("Box", "") != 1 {
		t.Error("the rest is not served")
	}
	none := open(t, st, func(c *catalog.Config) { c.Sealer = nil })
	if _, err := none.Commit(context.Background(), catalog.Batch{Puts: []catalog.Put{{Resource: secret("t", "YQ=="), Expect: store.ExpectAny}}}); err == nil {
		t.Error("a secret was written without a sealing key")
	}
	if len(none.Snapshot().SetAside()) != 1 {
		t.Error("without any key the secret must be set aside")
	}
}

func TestRewrapMovesSecretsToTheNewestKey(t *testing.T) {
	st := memory.New()
	open(t, st, nil).put(secret("s", "YQ=="), secret("t", "Yg=="))
	k1 := seal.Key{ID: "k1", Secret: bytes.Repeat([]byte("k"), 32)}
	k2 := seal.Key{ID: "k2", Secret: bytes.Repeat([]byte("l"), 32)}
	both := open(t, st, func(c *catalog.Config) { c.Sealer = must(seal.New(k1, k2)) })
	for want := range []int{2, 0} {
		n, err := both.Rewrap(context.Background(), "test")
		if err != nil || n != []int{2, 0}[want] {
			t.Fatalf("rewrap %d: %d, %v", want, n, err)
		}
	}
	only := open(t, st, func(c *catalog.Config) { c.Sealer = must(seal.New(k2)) })
	if r, ok := only.Snapshot().Get(secret("t", "").Key()); !ok || string(r.Spec.(*secretSpec).Data) != "b" {
		t.Errorf("with the new key alone: %+v, %v, aside %v", r, ok, only.Snapshot().SetAside())
	}
}

func rawPut(t testing.TB, st store.Store, typ, name, data string) {
	t.Helper()
	op := store.Op{Object: store.Object{Key: store.Key{Type: typ, Mesh: "default", Name: name}, Data: []byte(data)}, Expect: store.ExpectAny}
	if _, err := st.Commit(context.Background(), store.Batch{ID: catalog.NewBatchID(), Ops: []store.Op{op}}); err != nil {
		t.Fatal(err)
	}
}

func TestWhatCannotBeReadIsSetAside(t *testing.T) {
	st := memory.New()
	rawPut(t, st, "Future", "f", `{"x":1}`)
	rawPut(t, st, "Box", "bad", `{"size":"large"}`)
	rawPut(t, st, "Box", "good", `{"size":1}`)
	f := open(t, st, nil)
	if got := len(f.Snapshot().SetAside()); got != 2 || f.Snapshot().Count("Box", "") != 1 {
		t.Fatalf("%d set aside, %d boxes; want 2 and 1", got, f.Snapshot().Count("Box", ""))
	}

	// While it runs: a bad new version hides the object, except for what restricts access.
	rawPut(t, st, "Gate", "g", `{"size":1}`)
	rawPut(t, st, "Gate", "g", `{"size":"?"}`)
	rawPut(t, st, "Box", "good", `{"size":"?"}`)
	s := f.until("the bad box is set aside", func(s *catalog.Snapshot) bool { return len(s.SetAside()) == 4 })
	if s.Count("Box", "") != 0 {
		t.Error("an old version of a box is still served")
	}
	if g, ok := s.Get(resource.Key{Type: "Gate", Mesh: "default", Name: "g"}); !ok || g.Version != 1 {
		t.Errorf("the last readable gate must stay: %+v %v", g, ok)
	}

	// Mended, deleted, and understood after an upgrade.
	rawPut(t, st, "Box", "good", `{"size":2}`)
	f.commit(catalog.Batch{Deletes: []catalog.Delete{{Key: resource.Key{Type: "Box", Mesh: "default", Name: "bad"}, Expect: store.ExpectAny}}})
	s = f.Snapshot()
	if s.Count("Box", "") != 1 || len(s.SetAside()) != 2 {
		t.Errorf("after mending: %d boxes, aside %+v", s.Count("Box", ""), s.SetAside())
	}
	upgraded := resource.NewKinds(meshKind, boxKind, secretKind, gateKind, resource.Kind{Name: "Future", Path: "futures", Scope: resource.ScopeMesh, New: func() any { return new(map[string]any) }})
	after := open(t, st, func(c *catalog.Config) { c.Kinds = upgraded })
	if after.Snapshot().Count("Future", "default") != 1 {
		t.Error("an upgrade does not read what was set aside")
	}
}

func TestDeletingAMeshDeletesWhatIsInIt(t *testing.T) {
	f := open(t, memory.New(), nil)
	mesh := resource.Resource{Meta: resource.Meta{Type: "Mesh", Name: "default"}}
	f.commit(catalog.Batch{
		Puts: []catalog.Put{{Resource: mesh, Expect: 0}, {Resource: box("default", "a", 1), Expect: 0}, {Resource: box("other", "a", 1), Expect: 0}},
		Derived: []catalog.DerivedPut{
			{Key: catalog.StatusOf(box("default", "a", 1).Key()), Data: []byte(`{"ok":true}`)},
			{Key: catalog.DerivedKey{Type: "vip", Mesh: "default", Name: "a"}, Data: []byte(`1`)},
			{Key: catalog.DerivedKey{Type: "vip", Mesh: "other", Name: "a"}, Data: []byte(`2`)},
		},
	})
	if d, ok := f.Snapshot().Derived("status/Box", "default", "a"); !ok || string(d) != `{"ok":true}` {
		t.Fatalf("status: %s %v", d, ok)
	}
	f.commit(catalog.Batch{Deletes: []catalog.Delete{{Key: mesh.Key(), Expect: store.ExpectAny}}})
	s := f.Snapshot()
	if s.Count("Box", "default") != 0 || s.Count("Box", "other") != 1 {
		t.Errorf("boxes left: %d in the deleted mesh, %d in the other", s.Count("Box", "default"), s.Count("Box", "other"))
	}
	var left []string
	for _, typ := range []string{"status/Box", "vip"} {
		s.EachDerived(typ, "", func(k catalog.DerivedKey, data []byte) bool {
			left = append(left, k.Type+" "+k.Mesh+" "+string(data))
			return true
		})
	}
	if diff := gocmp.Diff([]string{"vip other 2"}, left); diff != "" {
		t.Errorf("derived records: %s", diff)
	}
	f.commit(catalog.Batch{Derived: []catalog.DerivedPut{{Key: catalog.DerivedKey{Type: "vip", Mesh: "other", Name: "a"}}}})
	if _, ok := f.Snapshot().Derived("vip", "other", "a"); ok {
		t.Error("a derived record without data must be deleted")
	}
}

func TestByKRI(t *testing.T) {
	f := open(t, memory.New(), nil)
	f.put(box("default", "local", 1), box("default", "local-x7", 2, resource.LabelDisplayName, "local", resource.LabelZone, "east"))
	find := func(kri string) string {
		k := must(resource.ParseKRI(kri))
		r, ok := f.Snapshot().ByKRI(k)
		if !ok {
			return ""
		}
		return r.Name
	}
	for kri, want := range map[string]string{
		"kri_box_default___local_":         "local",
		"kri_box_default___local_80":       "local",
		"kri_box_default_east__local_":     "local-x7",
		"kri_box_default_west__local_":     "",
		"kri_box_other___local_":           "",
		"kri_unknown_default_east__local_": "",
	} {
		if got := find(kri); got != want {
			t.Errorf("%s: got %q, want %q", kri, got, want)
		}
	}
	f.put(box("default", "local-x7", 2, resource.LabelDisplayName, "local", resource.LabelZone, "west"))
	if find("kri_box_default_east__local_") != "" || find("kri_box_default_west__local_") != "local-x7" {
		t.Error("the index keeps an old identifier")
	}
}

func TestFeedCoalescesAndNamesWhatChanged(t *testing.T) {
	f := open(t, memory.New(), nil)
	feed := f.Subscribe()
	defer feed.Close()
	next := func() catalog.Update {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		u, err := feed.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	if u := next(); !u.All || u.Snapshot == nil {
		t.Errorf("first update: %+v, want All", u)
	}
	f.put(box("default", "a", 1))
	f.put(box("default", "b", 1))
	f.put(box("default", "a", 2))
	f.commit(catalog.Batch{Derived: []catalog.DerivedPut{{Key: catalog.DerivedKey{Type: "vip", Name: "x"}, Data: []byte("1")}}})
	u := next()
	slices.SortFunc(u.Changed, resource.Key.Compare)
	want := []resource.Key{{Type: "Box", Mesh: "default", Name: "a"}, {Type: "Box", Mesh: "default", Name: "b"}}
	if u.All || !slices.Equal(u.Changed, want) || len(u.Derived) != 1 || u.Snapshot != f.Snapshot() {
		t.Errorf("second update: %+v, want a, b and one derived record at the newest snapshot", u)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if u, err := feed.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nothing changed: got %+v, %v", u, err)
	}
	feed.Close()
	feed.Close()
	if _, err := feed.Next(context.Background()); !errors.Is(err, catalog.ErrClosed) {
		t.Errorf("closed: got %v", err)
	}
}

func TestAForkReloadsEverything(t *testing.T) {
	st := memory.New()
	f := open(t, st, nil)
	f.put(box("default", "a", 1))
	feed := f.Subscribe()
	defer feed.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := feed.Next(ctx); err != nil {
		t.Fatal(err)
	}
	lineage, err := st.RaiseEpoch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for {
		u, err := feed.Next(ctx)
		if err != nil {
			t.Fatalf("waiting for the reload: %v", err)
		}
		if u.Snapshot.Position().Lineage == lineage {
			if !u.All {
				t.Error("after a reload anything may differ, All must be set")
			}
			break
		}
	}
	f.put(box("default", "b", 1))
	if f.Snapshot().Count("Box", "") != 2 {
		t.Errorf("%d boxes after the reload, want 2", f.Snapshot().Count("Box", ""))
	}
}

func TestStoreAway(t *testing.T) {
	f := open(t, memory.New(), nil)
	f.put(box("default", "a", 1))
	f.store.cut.Store(true)
	_, err := f.Commit(context.Background(), catalog.Batch{Puts: []catalog.Put{{Resource: box("default", "b", 1), Expect: 0}}})
	if !errors.Is(err, store.ErrUnavailable) || f.Available() == nil {
		t.Errorf("write while away: %v, available %v", err, f.Available())
	}
	if _, ok := f.Snapshot().Get(box("default", "a", 1).Key()); !ok {
		t.Error("memory is not served while the store is away")
	}
	f.store.cut.Store(false)
	waitUntil(t, "the store is available again without a write", func() bool { return f.Available() == nil })
	f.put(box("default", "b", 1))
}

func waitUntil(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func TestOpenWithoutStoreFails(t *testing.T) {
	st := memory.New()
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := catalog.Open(context.Background(), catalog.Config{Store: st, Kinds: kinds}); err == nil {
		t.Error("a closed store was opened")
	}
	if _, err := catalog.Open(context.Background(), catalog.Config{}); err == nil {
		t.Error("no store and no kinds were accepted")
	}
}

// TestListAgainstAModel compares pages with what sorting and cutting a plain list gives.
func TestListAgainstAModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ctx, cancel := context.WithCancel(context.Background())
		st := memory.New()
		c := must(catalog.Open(ctx, catalog.Config{Store: st, Kinds: kinds}))
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		defer func() { cancel(); <-done }()

		model := map[resource.Key]resource.Resource{}
		for range rapid.IntRange(1, 40).Draw(rt, "writes") {
			mesh := rapid.SampledFrom([]string{"a", "b", "bb", "c"}).Draw(rt, "mesh")
			name := rapid.StringMatching(`[a-c]{1,2}`).Draw(rt, "name")
			r := box(mesh, name, 1, "color", rapid.SampledFrom([]string{"red", "blue"}).Draw(rt, "color"))
			b := catalog.Batch{Puts: []catalog.Put{{Resource: r, Expect: store.ExpectAny}}}
			model[r.Key()] = r
			if rapid.IntRange(0, 3).Draw(rt, "delete") == 0 {
				b = catalog.Batch{Deletes: []catalog.Delete{{Key: r.Key(), Expect: store.ExpectAny}}}
				delete(model, r.Key())
			}
			must(c.Commit(ctx, b))
		}
		q := catalog.Query{
			Type: "Box", Mesh: rapid.SampledFrom([]string{"", "a", "b", "bb", "zz"}).Draw(rt, "in mesh"),
			Name:  rapid.SampledFrom([]string{"", "", "a", "bc"}).Draw(rt, "part"),
			Limit: rapid.IntRange(1, 10).Draw(rt, "limit"),
		}
		if rapid.Bool().Draw(rt, "by label") {
			q.Labels = resource.Selector{"color": "red"}
		}
		var want []resource.Key
		for k, r := range model {
			if (q.Mesh == "" || k.Mesh == q.Mesh) && strings.Contains(k.Name, q.Name) && q.Labels.Matches(r.Labels) {
				want = append(want, k)
			}
		}
		slices.SortFunc(want, resource.Key.Compare)

		var byKey []resource.Key
		for page := c.Snapshot().List(q); ; page = c.Snapshot().List(q) {
			if page.Total != len(want) {
				rt.Fatalf("total %d, want %d", page.Total, len(want))
			}
			offset := q
			offset.After, offset.Offset = nil, len(byKey)
			if diff := gocmp.Diff(keys(page.Items), keys(c.Snapshot().List(offset).Items)); diff != "" {
				rt.Fatalf("by key and by offset %d differ: %s", offset.Offset, diff)
			}
			byKey = append(byKey, keys(page.Items)...)
			if page.Next == nil {
				break
			}
			q.After = page.Next
		}
		if !slices.Equal(byKey, want) {
			rt.Fatalf("got %v, want %v", byKey, want)
		}
	})
}

func keys(rs []resource.Resource) []resource.Key {
	out := []resource.Key{}
	for _, r := range rs {
		out = append(out, r.Key())
	}
	return out
}

// TestReadersWhileWriting is for the race detector: every page a reader sees must be whole and in order.
func TestReadersWhileWriting(t *testing.T) {
	f := open(t, memory.New(), nil)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			for ctx.Err() == nil {
				page := f.Snapshot().List(catalog.Query{Type: "Box", Offset: i % 7, Limit: 20})
				if !slices.IsSortedFunc(page.Items, func(a, b resource.Resource) int {
					return cmp.Or(cmp.Compare(a.Mesh, b.Mesh), cmp.Compare(a.Name, b.Name))
				}) {
					t.Error("a page is out of order")
					return
				}
				f.Snapshot().ByKRI(resource.KRI{Short: "box", Mesh: "m1", Name: "b1"})
			}
		})
	}
	for i := range 300 {
		f.put(box(fmt.Sprint("m", i%3), fmt.Sprint("b", i%60), i))
		if i%5 == 0 {
			f.commit(catalog.Batch{Deletes: []catalog.Delete{{Key: resource.Key{Type: "Box", Mesh: fmt.Sprint("m", i%3), Name: fmt.Sprint("b", i%60)}, Expect: store.ExpectAny}}})
		}
	}
	cancel()
	wg.Wait()
}

func BenchmarkListPage(b *testing.B) {
	for _, total := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprint(total), func(b *testing.B) {
			f := open(b, memory.New(), nil)
			var rs []resource.Resource
			for i := range total {
				rs = append(rs, box("default", fmt.Sprintf("b%06d", i), i))
			}
			f.put(rs...)
			for b.Loop() {
				if p := f.Snapshot().List(catalog.Query{Type: "Box", Mesh: "default", Offset: total / 2, Limit: 100}); len(p.Items) != 100 || p.Total != total {
					b.Fatal("wrong page")
				}
			}
		})
	}
}
