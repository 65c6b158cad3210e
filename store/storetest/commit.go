package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/memory"
)

func testEmpty(t *testing.T, open Open) {
	s := open(t, 1)[0]
	objects, at := Objects(t, s)
	p := Position(t, s)
	equal(t, "position of an empty store", p, at)
	if len(objects) != 0 || p.Revision != 0 || p.Chain != (store.Chain{}) || p.Lineage.Epoch != 1 || len(p.Lineage.ID) < 16 {
		t.Fatalf("an empty store has %d objects at %s", len(objects), p)
	}
	if other := Position(t, open(t, 1)[0]); other.Lineage.ID == p.Lineage.ID {
		t.Fatalf("two stores share the lineage %s", p.Lineage)
	}
}

// testScript applies the same random batches to the store and to the memory store: verdicts, positions and contents agree.
func testScript(t *testing.T, open Open) {
	s, twin := open(t, 1)[0], memory.New()
	defer twin.Close()
	random := rand.New(rand.NewPCG(7, 11))
	for i := range 200 {
		b := randomBatch(random, i)
		got, gotErr := s.Commit(deadline(t), b)
		want, wantErr := twin.Commit(deadline(t), b)
		if fmt.Sprint(gotErr) != fmt.Sprint(wantErr) {
			t.Fatalf("batch %d: got error %v, memory says %v", i, gotErr, wantErr)
		}
		equal(t, fmt.Sprintf("batch %d", i), timeless(got), timeless(want))
	}
	got, at := Objects(t, s)
	want, _ := Objects(t, twin)
	if len(want) < 5 || at.Revision < 50 {
		t.Fatalf("the script left %d objects at revision %d: it proves nothing", len(want), at.Revision)
	}
	for _, m := range []map[store.Key]store.Object{got, want} {
		for k, o := range m {
			o.Created, o.Modified = time.Time{}, time.Time{}
			m[k] = o
		}
	}
	equal(t, "objects", got, want)
	Consecutive(t, store.Position{}, Follow(t, s, store.Position{}).Until(t, int(at.Revision)))
}

func randomBatch(random *rand.Rand, i int) store.Batch {
	b := store.Batch{ID: store.BatchID{1, byte(i), byte(i >> 8)}, Author: "a", Reason: "r"}
	for _, n := range random.Perm(16)[:1+random.IntN(3)] {
		o := store.Object{
			Key:    store.Key{Class: store.Class(n % 2), Type: "T", Mesh: "m", Name: name(n)},
			UID:    fmt.Sprintf("uid-%d-%d", i, n),
			Labels: map[string]string{"n": fmt.Sprint(n), "i": fmt.Sprint(i)},
			Data:   []byte{byte(i), 0, byte(n)},
		}
		if parent := random.IntN(16); random.IntN(3) == 0 {
			o.Owner = &store.Key{Class: store.Class(parent % 2), Type: "T", Mesh: "m", Name: name(parent)}
		}
		expect := []int64{store.ExpectAny, store.ExpectAny, store.ExpectAbsent, 1, 2}[random.IntN(5)]
		b.Ops = append(b.Ops, store.Op{Object: o, Delete: random.IntN(4) == 0, Expect: expect})
	}
	return b
}

// timeless is a batch without what differs between two stores.
func timeless(c store.Committed) store.Committed {
	c.Position.Lineage, c.At = store.Lineage{}, time.Time{}
	for i := range c.Changes {
		c.Changes[i].Object.Created, c.Changes[i].Object.Modified = time.Time{}, time.Time{}
	}
	return c
}

func testExpectations(t *testing.T, open Open) {
	s := open(t, 1)[0]
	Commit(t, s, Put("present", "1", store.ExpectAbsent))
	Commit(t, s, Put("present", "2", 1))
	tests := []struct {
		name   string
		op     store.Op
		actual int64 // of the conflict, -1 for none
		text   string
	}{
		{"create what exists", Put("present", "", store.ExpectAbsent), 2, "Thing default/present: already exists"},
		{"replace an older version", Put("present", "", 1), 2, "Thing default/present: is at version 2, version 1 was expected"},
		{"replace a version to come", Put("present", "", 3), 2, ""},
		{"replace what is absent", Put("absent", "", 1), 0, "Thing default/absent: does not exist, version 1 was expected"},
		{"delete an older version", Delete("present", 1), 2, ""},
		{"delete what is absent at a version", Delete("absent", 1), 0, ""},
		{"delete what must not exist", Delete("present", store.ExpectAbsent), 2, ""},
		{"delete what is absent", Delete("absent", store.ExpectAny), -1, ""},
		{"replace the version", Put("present", "3", 2), -1, ""},
		{"replace any", Put("present", "4", store.ExpectAny), -1, ""},
		{"delete the version", Delete("present", 4), -1, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := Position(t, s)
			// A sibling that would pass shows that the batch is all or nothing.
			_, err := s.Commit(deadline(t), Batch(Put("sibling of "+tt.name, "", store.ExpectAbsent), tt.op))
			objects, after := Objects(t, s)
			_, sibling := objects[Key("sibling of "+tt.name)]
			if tt.actual < 0 {
				if err != nil || !sibling || after.Revision != before.Revision+1 {
					t.Fatalf("got %v at %s, want success after %s", err, after, before)
				}
				return
			}
			wantErr(t, "commit", err, store.ErrConflict)
			conflict, ok := errors.AsType[*store.ConflictError](err)
			if !ok {
				t.Fatalf("%T is no ConflictError", err)
			}
			equal(t, "conflict", *conflict, store.ConflictError{Key: tt.op.Object.Key, Expected: tt.op.Expect, Actual: uint64(tt.actual)})
			if tt.text != "" {
				equal(t, "text", conflict.Error(), tt.text)
			}
			equal(t, "position", after, before)
			if sibling {
				t.Fatal("half of a failed batch was applied")
			}
		})
	}
}

func testPutKeeps(t *testing.T, open Open) {
	s := open(t, 1)[0]
	owner := Key("owner")
	first := Commit(t, s, store.Op{Object: store.Object{Key: Key("a"), Owner: &owner, Secret: true, Labels: map[string]string{"x": "1"}}, Expect: store.ExpectAny}).Changes[0].Object
	if !regexp.MustCompile(`^[0-9a-f]{16,}$`).MatchString(first.UID) {
		t.Fatalf("uid %q is no lower-case hex", first.UID)
	}
	if first.Created.Location() != time.UTC || !first.Created.Equal(first.Created.Truncate(time.Microsecond)) || !first.Created.Equal(first.Modified) {
		t.Fatalf("created %v, modified %v", first.Created, first.Modified)
	}
	op := Put("a", "new", 1)
	op.Object.UID = "another"
	second := Commit(t, s, op).Changes[0].Object
	want := store.Object{Key: Key("a"), UID: first.UID, Version: 2, Revision: 2, Data: []byte("new"), Created: first.Created, Modified: second.Modified, Owner: &owner, Secret: true}
	equal(t, "replaced", second, want)
	objects, _ := Objects(t, s)
	equal(t, "stored", objects[Key("a")], want)
	if second.Modified.Before(first.Modified) {
		t.Fatalf("modified goes back from %v to %v", first.Modified, second.Modified)
	}
	other := Key("other")
	moved := Commit(t, s, store.Op{Object: store.Object{Key: Key("a"), Owner: &other}, Expect: 2}).Changes[0].Object
	equal(t, "new owner", moved.Owner, &other)

	gone := Commit(t, s, Delete("a", store.ExpectAny))
	equal(t, "deletion", gone.Changes, []store.Change{{Deleted: true, Object: store.Object{Key: Key("a"), UID: first.UID, Version: 3, Revision: 4, Secret: true}}})
	again := Commit(t, s, Put("a", "", store.ExpectAbsent)).Changes[0].Object
	if again.UID == first.UID || again.Version != 1 || again.Owner != nil || again.Secret {
		t.Fatalf("an object put again after its deletion is the old one: %+v", again)
	}
	Commit(t, s, store.Op{Object: store.Object{Key: Key("c"), Owner: &again.Key}})
	taken := Commit(t, s, store.Op{Object: store.Object{Key: Key("a"), UID: "another"}, Expect: store.ExpectAny, TakeUID: true})
	if o := taken.Changes[0].Object; len(taken.Changes) != 1 || o.UID != "another" || o.Version != 2 || !o.Created.Equal(again.Created) {
		t.Fatalf("a put that takes another UID made %+v", taken.Changes)
	}
	objects, _ = Objects(t, s)
	equal(t, "taken uid", objects[Key("a")].UID, "another")
	given := Commit(t, s, store.Op{Object: store.Object{Key: Key("b"), UID: "from-elsewhere"}}).Changes[0].Object
	equal(t, "given uid", given.UID, "from-elsewhere")
}

func testVerbatim(t *testing.T, open Open) {
	s := open(t, 1)[0]
	big := bytes.Repeat([]byte("0123456789abcdef"), store.MaxData/16)
	objects := []store.Object{
		{Key: store.Key{Type: "A", Name: "bytes"}, Data: []byte{0, 255, 0, 254, '\'', '"', '\\', 0}},
		{Key: store.Key{Type: "A", Mesh: "größe", Name: "ünïcode \"quoted\" 'and' \\ % _"}, Labels: map[string]string{"kuma.io/display-name": "ß, {}\"\\", "empty": ""}, Data: []byte("{ \"b\":1,\n \"a\": 2}")},
		{Key: store.Key{Class: store.Derived, Type: "A", Name: "bytes"}, Data: []byte("derived")},
		{Key: store.Key{Type: "A", Name: "big"}, Data: big},
		{Key: store.Key{Type: "A", Name: "empty"}, Data: []byte{}, Labels: map[string]string{}},
		{Key: store.Key{Type: "a", Mesh: "z", Name: "Z"}},
		{Key: store.Key{Type: "a", Mesh: "z", Name: "a"}},
		{Key: store.Key{Type: "a", Mesh: "Z", Name: "b"}},
	}
	var ops []store.Op
	for _, o := range objects {
		ops = append(ops, store.Op{Object: o})
	}
	c := Commit(t, s, ops...)
	var order []store.Key
	got := make(map[store.Key]store.Object)
	if _, err := s.Snapshot(deadline(t), func(o store.Object) error { order = append(order, o.Key); got[o.Key] = o; return nil }); err != nil {
		t.Fatal(err)
	}
	for i, ch := range c.Changes {
		want := objects[i]
		want.UID, want.Version, want.Revision, want.Created, want.Modified = ch.Object.UID, 1, 1, c.At, c.At
		if len(want.Data) == 0 {
			want.Data, want.Labels = nil, nil
		}
		equal(t, "committed "+want.Key.String(), ch.Object, want)
		equal(t, "stored "+want.Key.String(), got[want.Key], want)
	}
	equal(t, "key order", order, []store.Key{objects[3].Key, objects[0].Key, objects[4].Key, objects[1].Key, objects[7].Key, objects[5].Key, objects[6].Key, objects[2].Key})
	equal(t, "followed", Follow(t, s, store.Position{}).Until(t, 1), []store.Committed{c})

	// What comes out belongs to the caller.
	big[0], c.Changes[0].Object.Data[0] = 'X', 'X'
	objects[1].Labels["empty"] = "changed"
	again, _ := Objects(t, s)
	if again[objects[3].Key].Data[0] != '0' || again[objects[0].Key].Data[0] != 0 || again[objects[1].Key].Labels["empty"] != "" {
		t.Fatal("the store shares memory with its caller")
	}
}

func testInvalid(t *testing.T, open Open) {
	s := open(t, 1)[0]
	good := Put("a", "", store.ExpectAny)
	noType, noName, nul, wrong, owner := good, good, good, good, good
	noType.Object.Type, noName.Object.Name, nul.Object.Name, wrong.Expect = "", "", "a\x00b", -2
	owner.Object.Owner = &store.Key{}
	label := good
	label.Object.Labels = map[string]string{"k": "\xff"}
	large := good
	large.Object.Data = make([]byte, store.MaxData+1)
	tests := []struct{ name, text string }{
		{"no id", "no id"},
		{"no ops", "no operations"},
		{"no type", "lacks a type"},
		{"no name", "lacks a type or name"},
		{"twice", "appears twice"},
		{"large", "at most 2097152"},
		{"expect", "expects version -2"},
		{"nul", "UTF-8"},
		{"label", "UTF-8"},
		{"owner", "owner of"},
		{"author", "author"},
		{"fence", "fence"},
		{"long", "more than 1024 bytes"},
	}
	batches := []store.Batch{
		{Ops: []store.Op{good}},
		{ID: ID()},
		Batch(noType), Batch(noName), Batch(good, good), Batch(large), Batch(wrong), Batch(nul), Batch(label), Batch(owner),
		{ID: ID(), Ops: []store.Op{good}, Author: "\x00"},
		{ID: ID(), Ops: []store.Op{good}, Fence: &store.Fence{}},
		Batch(Put(strings.Repeat("n", store.MaxKey), "", 0)),
	}
	for i, tt := range tests {
		_, err := s.Commit(deadline(t), batches[i])
		wantErr(t, tt.name, err, store.ErrInvalid)
		if !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %q does not say %q", tt.name, err, tt.text)
		}
	}
	equal(t, "revision", Position(t, s).Revision, uint64(0))
}

func testCascade(t *testing.T, open Open) {
	s := open(t, 1)[0]
	under := func(name, owner string) store.Op {
		k := Key(owner)
		return store.Op{Object: store.Object{Key: Key(name), Owner: &k, Data: []byte(name)}, Expect: store.ExpectAny}
	}
	Commit(t, s, Put("root", "", 0), under("b", "root"), under("a", "root"), under("leaf", "a"), Put("free", "", 0), under("moved", "root"), under("early", "later"))
	Commit(t, s, under("moved", "free"))

	_, err := s.Commit(deadline(t), Batch(Delete("root", store.ExpectAny), under("c", "root")))
	wantErr(t, "put under a deleted owner", err, store.ErrInvalid)

	c := Commit(t, s, Put("unrelated", "", 0), Delete("root", store.ExpectAny))
	var deleted []string
	for _, ch := range c.Changes {
		if ch.Deleted {
			deleted = append(deleted, ch.Object.Name)
		}
	}
	equal(t, "deleted", deleted, []string{"root", "a", "b", "leaf"})
	equal(t, "followed", Follow(t, s, store.Position{}).Until(t, 3)[2], c)
	objects, _ := Objects(t, s)
	if len(objects) != 4 {
		t.Fatalf("%d objects are left, want free, moved, early and unrelated", len(objects))
	}
	Commit(t, s, Put("later", "", 0))
	Commit(t, s, Delete("later", store.ExpectAny), Delete("free", store.ExpectAny), under("moved", "unrelated"))
	objects, _ = Objects(t, s)
	if _, ok := objects[Key("moved")]; !ok || len(objects) != 2 {
		t.Fatalf("%d objects are left, want moved (saved by its new owner) and unrelated", len(objects))
	}
}

func testRepeated(t *testing.T, open Open) {
	for _, s := range open(t, 2) {
		b := Batch(Put("a", "1", store.ExpectAny), Delete("nothing", store.ExpectAny))
		b.Author, b.Reason = "who", "why"
		first, err := s.Commit(deadline(t), b)
		if err != nil {
			t.Fatal(err)
		}
		Commit(t, s, Put("a", "2", store.ExpectAny))
		before := Position(t, s)
		again, err := s.Commit(deadline(t), b)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "repeated batch", again, first)
		equal(t, "position", Position(t, s), before)
	}
	// The same batch from several callers at once happens once, whoever carries it.
	stores := open(t, 3)
	b := Batch(Put("b", "", store.ExpectAbsent))
	var mu sync.Mutex
	var got []store.Committed
	together(12, func(i int) {
		c, err := stores[i%3].Commit(deadline(t), b)
		if err != nil {
			t.Errorf("caller %d: %v", i, err)
		}
		mu.Lock()
		defer mu.Unlock()
		got = append(got, c)
	})
	for _, c := range got {
		equal(t, "outcome", c, got[0])
	}
	equal(t, "revision", Position(t, stores[0]).Revision, uint64(1))
}

func testContextAndClose(t *testing.T, open Open) {
	s := open(t, 1)[0]
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := s.Commit(ctx, Batch(Put("a", "", 0)))
	wantErr(t, "commit without time", err, context.Canceled)
	equal(t, "revision", Position(t, s).Revision, uint64(0))
	f := Follow(t, s, store.Position{})
	Commit(t, s, Put("a", "", 0))
	f.Until(t, 1)
	if err := s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	wantErr(t, "follow over a close", f.End(t), store.ErrUnavailable)
	_, err = s.Commit(deadline(t), Batch(Put("b", "", 0)))
	wantErr(t, "commit after close", err, store.ErrUnavailable)
	_, err = s.Position(deadline(t))
	wantErr(t, "position after close", err, store.ErrUnavailable)
	wantErr(t, "observe after close", s.Observe(deadline(t), store.Observation{Key: "k", Data: []byte("x")}), store.ErrUnavailable)
	if err := s.Close(); err != nil {
		t.Fatalf("second close: %v", err)
	}
}

// testConcurrentWriters proves that writers on all instances get consecutive revisions and that each instance's Follow
// hands out every batch once, in one order, exactly as Commit answered it.
func testConcurrentWriters(t *testing.T, open Open) {
	const instances, writers, each = 3, 4, 20
	stores := open(t, instances)
	var followers []*Follower
	for _, s := range stores {
		followers = append(followers, Follow(t, s, store.Position{}))
	}
	var mu sync.Mutex
	answered := make(map[store.BatchID]store.Committed)
	together(instances*writers, func(i int) {
		for n := range each {
			c, err := stores[i%instances].Commit(deadline(t), Batch(Put(fmt.Sprintf("w%d-%d", i, n), "x", 0), Put("shared", fmt.Sprint(i, n), store.ExpectAny)))
			if err != nil {
				t.Errorf("writer %d: %v", i, err)
				return
			}
			mu.Lock()
			answered[c.ID] = c
			mu.Unlock()
		}
	})
	const total = instances * writers * each
	first := followers[0].Until(t, total)
	Consecutive(t, store.Position{}, first)
	for _, c := range first {
		equal(t, "followed as answered", c, answered[c.ID])
	}
	for _, f := range followers[1:] {
		equal(t, "another instance", f.Until(t, total), first)
	}
	for _, f := range followers {
		wantErr(t, "stopped", f.Stop(t), context.Canceled)
		equal(t, "batches", len(f.Got()), total)
	}
	objects, at := Objects(t, stores[1])
	equal(t, "version of the shared object", objects[Key("shared")].Version, uint64(total))
	equal(t, "position", at, first[total-1].Position)
}

// testRace has all writers increase one object by compare-and-set: each version has one winner.
func testRace(t *testing.T, open Open) {
	stores := open(t, 2)
	Commit(t, stores[0], Put("counter", "", 0))
	var mu sync.Mutex
	winners := make(map[uint64]int)
	together(8, func(i int) {
		for version := int64(1); version <= 10; version++ {
			c, err := stores[i%2].Commit(deadline(t), Batch(Put("counter", fmt.Sprint(i), version)))
			if err != nil && !errors.Is(err, store.ErrConflict) {
				t.Errorf("writer %d: %v", i, err)
			}
			if err == nil {
				mu.Lock()
				winners[c.Changes[0].Object.Version]++
				mu.Unlock()
			}
		}
	})
	for v, n := range winners {
		if n != 1 {
			t.Errorf("version %d was written %d times", v, n)
		}
	}
	objects, at := Objects(t, stores[1])
	equal(t, "version", objects[Key("counter")].Version, uint64(len(winners)+1))
	equal(t, "revision", at.Revision, uint64(len(winners)+1))
}

// testGroupVerdicts queues many batches at once: those that fail leave no revision behind, the rest commit around them.
func testGroupVerdicts(t *testing.T, open Open) {
	s := open(t, 1)[0]
	const names, rivals = 8, 12
	var mu sync.Mutex
	var won []store.Committed
	var lost int
	together(names*rivals, func(i int) {
		c, err := s.Commit(deadline(t), Batch(Put(name(i%names), fmt.Sprint(i), store.ExpectAbsent), Put(fmt.Sprintf("mine-%d", i), "", 0)))
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			won = append(won, c)
		case errors.Is(err, store.ErrConflict):
			lost++
		default:
			t.Errorf("rival %d: %v", i, err)
		}
	})
	if len(won) != names || lost != names*(rivals-1) {
		t.Fatalf("%d won and %d lost, want %d and %d", len(won), lost, names, names*(rivals-1))
	}
	got := Follow(t, s, store.Position{}).Until(t, names)
	Consecutive(t, store.Position{}, got)
	equal(t, "revision", Position(t, s).Revision, uint64(names))
	byID := make(map[store.BatchID]store.Committed)
	for _, c := range won {
		byID[c.ID] = c
	}
	for _, c := range got {
		equal(t, "a winner in history", c, byID[c.ID])
	}
	objects, _ := Objects(t, s)
	equal(t, "objects", len(objects), 2*names)
}
