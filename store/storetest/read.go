package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/store"
)

func testFollowResumes(t *testing.T, open Open) {
	stores := open(t, 2)
	s := stores[0]
	var all []store.Committed
	for i := range 5 {
		all = append(all, Commit(t, s, Put(name(i), "", 0)))
	}
	for i, c := range all[:4] {
		f := Follow(t, stores[1], c.Position)
		equal(t, "after "+c.Position.String(), f.Until(t, 4-i), all[i+1:])
		f.Stop(t)
	}
	f := Follow(t, stores[1], all[4].Position)
	all = append(all, Commit(t, s, Put("new", "", 0)))
	equal(t, "a new batch wakes the follower", f.Until(t, 1), all[5:])

	// An error of the callback ends Follow as it is, and the batch counts as not taken.
	full := errors.New("no room")
	var got []store.Committed
	err := s.Follow(deadline(t), all[1].Position, func(c store.Committed) error {
		if got = append(got, c); len(got) == 2 {
			return full
		}
		return nil
	})
	wantErr(t, "follow", err, full)
	equal(t, "until the error", got, all[2:4])

	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	err = s.Follow(ctx, all[5].Position, func(store.Committed) error { return nil })
	wantErr(t, "follow without time", err, context.DeadlineExceeded)
}

func testFollowRefuses(t *testing.T, open Open) {
	s := open(t, 1)[0]
	for i := range 4 {
		Commit(t, s, Put(name(i), "", 0))
	}
	batches := Follow(t, s, store.Position{}).Until(t, 4)
	middle, last := batches[1].Position, batches[3].Position
	with := func(p store.Position, change func(*store.Position)) store.Position { change(&p); return p }
	tests := map[string]store.Position{
		"another chain in the middle": with(middle, func(p *store.Position) { p.Chain[3] ^= 1 }),
		"another chain at the head":   with(last, func(p *store.Position) { p.Chain[31] ^= 1 }),
		"ahead of the store":          with(last, func(p *store.Position) { p.Revision++ }),
		"another store":               with(middle, func(p *store.Position) { p.Lineage.ID = "0123456789abcdef" }),
		"another epoch":               with(middle, func(p *store.Position) { p.Lineage.Epoch++ }),
		"no lineage":                  with(middle, func(p *store.Position) { p.Lineage = store.Lineage{} }),
		"a chain at the beginning":    {Lineage: middle.Lineage, Chain: middle.Chain},
		"the beginning of another":    {Lineage: store.Lineage{ID: "0123456789abcdef", Epoch: 1}},
	}
	for what, p := range tests {
		err := s.Follow(deadline(t), p, func(store.Committed) error { return nil })
		wantErr(t, what, err, store.ErrForked)
	}
	equal(t, "the beginning by its lineage", len(Follow(t, s, store.Position{Lineage: middle.Lineage}).Until(t, 4)), 4)
}

func testCompact(t *testing.T, open Open) {
	stores := open(t, 2)
	s := stores[0]
	for i := range 6 {
		Commit(t, s, Put(name(i%2), fmt.Sprint(i), store.ExpectAny))
	}
	all := Follow(t, s, store.Position{}).Until(t, 6)
	before, at := Objects(t, s)
	for range 2 { // repeating is no error
		if err := s.Compact(deadline(t), 4); err != nil {
			t.Fatalf("compact: %v", err)
		}
	}
	after, now := Objects(t, stores[1])
	equal(t, "objects", after, before)
	equal(t, "position", now, at)
	for _, p := range []store.Position{{}, all[0].Position, all[2].Position} {
		wantErr(t, "from "+p.String(), stores[1].Follow(deadline(t), p, func(store.Committed) error { return nil }), store.ErrCompacted)
	}
	equal(t, "from the last compacted revision", Follow(t, stores[1], all[3].Position).Until(t, 2), all[4:])
	forked := all[3].Position
	forked.Chain[0] ^= 1
	wantErr(t, "a fork at the last compacted revision", s.Follow(deadline(t), forked, func(store.Committed) error { return nil }), store.ErrForked)
	h, err := s.History(deadline(t), Key(name(0)), 0)
	if err != nil || len(h) != 1 || h[0].Position.Revision != 5 {
		t.Fatalf("history after compaction: %v, %v", h, err)
	}
	// Beyond the head it stops at the head, and the history goes on from there.
	if err := s.Compact(deadline(t), 1000); err != nil {
		t.Fatal(err)
	}
	f := Follow(t, s, all[5].Position)
	c := Commit(t, stores[1], Put("after", "", 0))
	equal(t, "revision", c.Position.Revision, uint64(7))
	equal(t, "followed", f.Until(t, 1), []store.Committed{c})
	Consecutive(t, all[5].Position, f.Got())
}

// testSnapshot writes two objects in every batch with equal data: a snapshot that sees different data is torn, and the
// snapshot plus what follows its position must give the state at the end.
func testSnapshot(t *testing.T, open Open) {
	stores := open(t, 2)
	const batches = 60
	written := make(chan struct{})
	go func() {
		defer close(written)
		for i := range batches {
			if _, err := stores[0].Commit(deadline(t), Batch(Put("left", fmt.Sprint(i), store.ExpectAny), Put("right", fmt.Sprint(i), store.ExpectAny), Put(name(i), "", 0), Delete(name(i-2), store.ExpectAny))); err != nil {
				t.Errorf("write: %v", err)
				return
			}
		}
	}()
	type seen struct {
		objects map[store.Key]store.Object
		at      store.Position
	}
	var snapshots []seen
	for busy := true; busy || len(snapshots) == 0; {
		select {
		case <-written:
			busy = false
		default:
		}
		objects, at := Objects(t, stores[1])
		if l, r := string(objects[Key("left")].Data), string(objects[Key("right")].Data); l != r {
			t.Fatalf("at %s left is %q and right is %q", at, l, r)
		}
		if n := len(snapshots); n == 0 || snapshots[n-1].at != at {
			snapshots = append(snapshots, seen{objects, at})
		}
	}
	final, at := Objects(t, stores[0])
	equal(t, "revision", at.Revision, uint64(batches))
	for _, s := range snapshots[:min(len(snapshots), 8)] {
		for _, c := range Follow(t, stores[1], s.at).Until(t, batches-int(s.at.Revision)) {
			for _, ch := range c.Changes {
				if ch.Deleted {
					delete(s.objects, ch.Object.Key)
				} else {
					s.objects[ch.Object.Key] = ch.Object
				}
			}
		}
		equal(t, "snapshot plus batches", s.objects, final)
	}
	// The callback may use the store, and its error ends the snapshot.
	enough := errors.New("enough")
	_, err := stores[1].Snapshot(deadline(t), func(o store.Object) error {
		Commit(t, stores[1], Put("from the callback", "", store.ExpectAny))
		return enough
	})
	wantErr(t, "snapshot", err, enough)
}

func testHistory(t *testing.T, open Open) {
	stores := open(t, 2)
	first := Commit(t, stores[0], Put("a", "1", 0), Put("b", "1", 0))
	Commit(t, stores[0], Put("b", "2", 1))
	third := Commit(t, stores[0], Put("a", "3", 1), Put("c", "1", 0))
	fourth := Commit(t, stores[0], Delete("b", 2), Delete("a", 2))
	only := func(c store.Committed, i int) store.Committed { c.Changes = c.Changes[i : i+1]; return c }
	want := []store.Committed{only(fourth, 1), only(third, 0), only(first, 0)}
	for limit, n := range map[int]int{0: 3, 1: 1, 2: 2, 9: 3} {
		got, err := stores[1].History(deadline(t), Key("a"), limit)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, fmt.Sprintf("history with limit %d", limit), got, want[:n])
	}
	if got, err := stores[1].History(deadline(t), Key("nobody"), 0); err != nil || len(got) != 0 {
		t.Fatalf("history of what never was: %v, %v", got, err)
	}
}

func testSecrets(t *testing.T, open Open) {
	stores := open(t, 2)
	secret := func(data string) store.Op {
		op := Put("key", data, store.ExpectAny)
		op.Object.Secret = true
		return op
	}
	Commit(t, stores[0], secret("sealed 1"), Put("open", "readable", 0))
	Commit(t, stores[0], Put("key", "sealed 2", store.ExpectAny)) // once secret, always secret
	h, err := stores[1].History(deadline(t), Key("key"), 0)
	if err != nil || len(h) != 2 || string(h[1].Changes[0].Object.Data) != "sealed 1" {
		t.Fatalf("history of a living secret: %v, %v", h, err)
	}
	Commit(t, stores[0], Delete("key", store.ExpectAny))
	Commit(t, stores[0], secret("sealed 3"))
	h, err = stores[1].History(deadline(t), Key("key"), 0)
	if err != nil || len(h) != 4 {
		t.Fatalf("history of a deleted secret: %v, %v", h, err)
	}
	equal(t, "the new secret", string(h[0].Changes[0].Object.Data), "sealed 3")
	for _, c := range h[1:] {
		if len(c.Changes[0].Object.Data) != 0 {
			t.Errorf("revision %d still holds %q", c.Position.Revision, c.Changes[0].Object.Data)
		}
	}
	got := Follow(t, stores[1], store.Position{}).Until(t, 4)
	equal(t, "shredded for followers", got[0].Changes[0].Object.Data, []byte(nil))
	equal(t, "its sibling stays", string(got[0].Changes[1].Object.Data), "readable")
	equal(t, "positions stay", got[3].Position, Position(t, stores[0]))
}

func testObservations(t *testing.T, open Open) {
	stores := open(t, 2)
	before := Position(t, stores[0])
	at := time.Date(2031, 2, 3, 4, 5, 6, 7000, time.UTC)
	ob := func(key, data string) store.Observation {
		return store.Observation{Key: key, Data: []byte(data), At: at}
	}
	if err := stores[0].Observe(deadline(t), ob("zone/east/a", "1"), ob("zone/east/b", "\x00\xff"), ob("zone/eastern", "3"), ob("zone/east/a", "2"), ob("zone/%", "4"), ob("Zone/east/a", "5")); err != nil {
		t.Fatal(err)
	}
	list := func(prefix string) []store.Observation {
		t.Helper()
		got, err := stores[1].Observations(deadline(t), prefix)
		if err != nil {
			t.Fatalf("observations of %q: %v", prefix, err)
		}
		return got
	}
	equal(t, "by prefix", list("zone/east/"), []store.Observation{ob("zone/east/a", "2"), ob("zone/east/b", "\x00\xff")})
	equal(t, "prefix with a wildcard", list("zone/%"), []store.Observation{ob("zone/%", "4")})
	equal(t, "all", len(list("")), 5)
	equal(t, "none", len(list("zone/west")), 0)
	for _, s := range stores {
		if err := s.Observe(deadline(t), store.Observation{Key: "zone/east/a", Data: []byte("newer")}, store.Observation{Key: "zone/east/b"}, store.Observation{Key: "zone/absent"}); err != nil {
			t.Fatal(err)
		}
	}
	got := list("zone/east/")
	if len(got) != 1 || string(got[0].Data) != "newer" || time.Since(got[0].At).Abs() > time.Hour || got[0].At.Location() != time.UTC {
		t.Fatalf("after an update without time and a deletion: %v", got)
	}
	wantErr(t, "no key", stores[0].Observe(deadline(t), ob("", "x")), store.ErrInvalid)
	wantErr(t, "key with NUL", stores[0].Observe(deadline(t), ob("a\x00", "x")), store.ErrInvalid)
	if err := stores[0].Observe(deadline(t)); err != nil {
		t.Fatalf("nothing to observe: %v", err)
	}
	together(6, func(i int) {
		for range 10 {
			if err := stores[i%2].Observe(deadline(t), ob("r/b", fmt.Sprint(i)), ob("r/a", fmt.Sprint(i))); err != nil {
				t.Errorf("observer %d: %v", i, err)
			}
		}
	})
	if got := list("r/"); len(got) != 2 || string(got[0].Data) != string(got[1].Data) {
		t.Fatalf("a call of Observe is not one step: %v", got)
	}
	equal(t, "position", Position(t, stores[0]), before)
}

func testLeases(t *testing.T, open Open) {
	stores := open(t, 2)
	ctx := deadline(t)
	acquire := func(s store.Store, holder string, ttl time.Duration) store.Fence {
		t.Helper()
		f, err := s.Acquire(ctx, "writer", holder, ttl)
		if err != nil {
			t.Fatalf("acquire for %s: %v", holder, err)
		}
		return f
	}
	a := acquire(stores[0], "a", time.Hour)
	equal(t, "first fence", a, store.Fence{Name: "writer", Holder: "a", Counter: 1})
	equal(t, "extended", acquire(stores[1], "a", time.Hour), a)
	_, err := stores[1].Acquire(ctx, "writer", "b", time.Hour)
	wantErr(t, "held", err, store.ErrFenced)
	if other, err := stores[1].Acquire(ctx, "another", "b", time.Hour); err != nil || other.Counter != 1 {
		t.Fatalf("another lease: %v, %v", other, err)
	}
	wantErr(t, "release by a stranger", stores[1].Release(ctx, store.Fence{Name: "writer", Holder: "b", Counter: 1}), store.ErrFenced)
	if err := stores[1].Release(ctx, a); err != nil {
		t.Fatalf("release: %v", err)
	}
	wantErr(t, "release again", stores[0].Release(ctx, a), store.ErrFenced)
	again := acquire(stores[0], "a", time.Hour)
	equal(t, "counter after a release", again.Counter, uint64(2))
	if err := stores[0].Release(ctx, again); err != nil {
		t.Fatal(err)
	}
	short := acquire(stores[0], "a", time.Millisecond)
	b, err := stores[1].Acquire(ctx, "writer", "b", time.Hour)
	for late := time.Now().Add(limit); errors.Is(err, store.ErrFenced) && time.Now().Before(late); {
		b, err = stores[1].Acquire(ctx, "writer", "b", time.Hour)
	}
	if err != nil || b.Counter != short.Counter+1 {
		t.Fatalf("after expiry: %v, %v", b, err)
	}
	for _, bad := range []struct {
		name, holder string
		ttl          time.Duration
	}{{"", "a", 1}, {"l", "", 1}, {"l", "a", 0}, {"l\x00", "a", 1}} {
		_, err := stores[0].Acquire(ctx, bad.name, bad.holder, bad.ttl)
		wantErr(t, fmt.Sprint(bad), err, store.ErrInvalid)
	}
	var won int
	results := make(chan error, 10)
	together(10, func(i int) {
		_, err := stores[i%2].Acquire(ctx, "race", name(i), time.Hour)
		results <- err
	})
	for range 10 {
		if err := <-results; err == nil {
			won++
		} else {
			wantErr(t, "race", err, store.ErrFenced)
		}
	}
	equal(t, "winners of a race", won, 1)
}

func testFences(t *testing.T, open Open) {
	stores := open(t, 2)
	ctx := deadline(t)
	fenced := func(s store.Store, f store.Fence) error {
		b := Batch(Put("derived", f.Holder, store.ExpectAny))
		b.Fence = &f
		_, err := s.Commit(ctx, b)
		return err
	}
	wantErr(t, "no such lease", fenced(stores[0], store.Fence{Name: "writer", Holder: "a", Counter: 1}), store.ErrFenced)
	a, err := stores[0].Acquire(ctx, "writer", "a", time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if err := fenced(stores[1], a); err != nil {
		t.Fatalf("write under a lease: %v", err)
	}
	var b store.Fence
	for late := time.Now().Add(limit); ; {
		if b, err = stores[1].Acquire(ctx, "writer", "b", time.Hour); err == nil || time.Now().After(late) {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	before := Position(t, stores[0])
	wantErr(t, "the old holder", fenced(stores[0], a), store.ErrFenced)
	wantErr(t, "the old holder with the new counter", fenced(stores[0], store.Fence{Name: "writer", Holder: "a", Counter: b.Counter}), store.ErrFenced)
	equal(t, "position", Position(t, stores[0]), before)
	if err := fenced(stores[0], b); err != nil {
		t.Fatalf("the new holder: %v", err)
	}
	if err := stores[0].Release(ctx, b); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "after the release", fenced(stores[1], b), store.ErrFenced)
}

func testEpoch(t *testing.T, open Open) {
	stores := open(t, 2)
	c := Commit(t, stores[0], Put("a", "", 0))
	f := Follow(t, stores[1], store.Position{})
	f.Until(t, 1)
	lineage, err := stores[0].RaiseEpoch(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "lineage", lineage, store.Lineage{ID: c.Position.Lineage.ID, Epoch: 2})
	wantErr(t, "a follower of the old epoch", f.End(t), store.ErrForked)
	wantErr(t, "a position of the old epoch", stores[1].Follow(deadline(t), c.Position, func(store.Committed) error { return nil }), store.ErrForked)
	want := store.Position{Lineage: lineage, Revision: 1, Chain: c.Position.Chain}
	for _, s := range stores {
		_, at := Objects(t, s)
		equal(t, "snapshot", at, want)
	}
	next := Commit(t, stores[1], Put("b", "", 0))
	equal(t, "lineage of the next batch", next.Position.Lineage, lineage)
	got := Follow(t, stores[0], want).Until(t, 1)
	equal(t, "history goes on", got, []store.Committed{next})
	Consecutive(t, want, got)
}
