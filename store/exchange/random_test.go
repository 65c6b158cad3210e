package exchange

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// content is everything that a zone holds of others, as text. Where something is set aside, an older version may be in force, or none.
func content(s *side) []string {
	var out []string
	snap := s.cat.Snapshot()
	old := map[string]bool{}
	snap.EachDerivedUnder(asidePrefix, func(k catalog.DerivedKey, data []byte) bool {
		a := aside{}
		decode(data, &a)
		old[a.ID] = true
		out = append(out, fmt.Sprint(k, a.ID, a.Code, a.UID, a.Hash))
		return true
	})
	for _, k := range s.cat.Kinds().All() {
		snap.Each(k.Name, "", func(r resource.Resource) bool {
			if r.Label(resource.LabelOrigin) == resource.OriginGlobal && !old[resource.KRIOf(k, r.Meta).String()] {
				out = append(out, fmt.Sprint(r.Key(), r.UID, r.Labels, string(r.Raw)))
			}
			return true
		})
	}
	snap.EachDerived(statementType, "", func(k catalog.DerivedKey, data []byte) bool {
		out = append(out, fmt.Sprint(k, string(data)))
		return true
	})
	return out
}

// Whatever happens at global and in one zone, and however links break, another zone ends up with what a fresh one would get.
func TestEveryWayLeadsToTheSameState(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		g := newGlobal(t, "east", "west")
		east, west := newSide(t, "east", nil), newSide(t, "west", nil)
		defer func() { g.stop() }()    // it may have been restarted
		defer func() { east.stop() }() // it may have been restarted
		defer func() { west.stop() }() // it may have been restarted
		up, toWest, toEast := join(east, g), join(g, west), join(g, east)
		for _, w := range []*wire{up, toWest, toEast} {
			w.limit = 300
		}
		toEast.run()
		name := rapid.SampledFrom([]string{"a", "b", "c"})
		meshName := rapid.SampledFrom([]string{demo, demo, "other"})
		disabled := rapid.SampledFrom([]string{"enabled", "enabled", "disabled"})
		has := func(s *side, m string) bool { _, ok := s.get(mesh.TypeMesh, "", m); return ok }
		policy := func(s *side, m string) resource.Resource {
			r := timeoutPolicy(s, name.Draw(rt, "name"), rapid.SampledFrom([]string{"1s", "2s", "3s"}).Draw(rt, "value"))
			r.Mesh = m
			r.Labels[resource.LabelKDSSync] = disabled.Draw(rt, "sync")
			return r
		}
		rt.Repeat(map[string]func(*rapid.T){
			"policy at global": func(rt *rapid.T) {
				if m := meshName.Draw(rt, "mesh"); has(g, m) {
					g.put(policy(g, m))
				}
			},
			"invalid at global": func(rt *rapid.T) {
				if m := meshName.Draw(rt, "mesh"); has(g, m) {
					g.put(g.res("MeshTimeout", m, name.Draw(rt, "name"), map[string]any{"to": []any{map[string]any{"targetRef": map[string]any{"kind": "Bogus"}, "default": map[string]any{}}}}))
				}
			},
			"delete at global": func(rt *rapid.T) {
				g.delete(resource.Key{Type: "MeshTimeout", Mesh: meshName.Draw(rt, "mesh"), Name: name.Draw(rt, "name")})
			},
			"mesh": func(rt *rapid.T) {
				if has(g, "other") {
					g.delete(resource.Key{Type: mesh.TypeMesh, Name: "other"})
				} else {
					g.put(g.res(mesh.TypeMesh, "", "other", &mesh.Mesh{}))
				}
			},
			"secret": func(rt *rapid.T) {
				n := name.Draw(rt, "name") + rapid.SampledFrom([]string{"", "-root-ca"}).Draw(rt, "suffix")
				g.put(g.res(mesh.TypeSecret, demo, n, map[string]any{"data": rapid.SampledFrom([]string{"YQ==", "Yg=="}).Draw(rt, "data")}))
			},
			"secret goes": func(rt *rapid.T) {
				g.delete(resource.Key{Type: mesh.TypeSecret, Mesh: demo, Name: name.Draw(rt, "name")})
			},
			"zone": func(rt *rapid.T) {
				on := rapid.Bool().Draw(rt, "enabled")
				g.put(g.res(mesh.TypeZone, "", "east", &mesh.Zone{Enabled: &on}))
			},
			"service": func(rt *rapid.T) {
				if m := meshName.Draw(rt, "mesh"); has(east, m) {
					r := service(east, name.Draw(rt, "name"), resource.LabelKDSSync, disabled.Draw(rt, "sync"))
					r.Mesh = m
					east.put(r)
				}
			},
			"service goes": func(rt *rapid.T) {
				east.delete(resource.Key{Type: mesh.TypeMeshService, Mesh: meshName.Draw(rt, "mesh"), Name: name.Draw(rt, "name")})
			},
			"status": func(rt *rapid.T) {
				k := resource.Key{Type: mesh.TypeMeshService, Mesh: demo, Name: name.Draw(rt, "name")}
				if _, ok := east.cat.Snapshot().Get(k); !ok {
					return
				}
				state := rapid.SampledFrom([]string{`{"state":"Available"}`, `{"state":"Unavailable"}`, `{}`}).Draw(rt, "status")
				east.commit(catalog.Batch{Derived: []catalog.DerivedPut{{Key: catalog.StatusOf(k), Data: []byte(state)}}})
			},
			"east to global":      func(*rapid.T) { up.run() },
			"east to global live": func(*rapid.T) { up.live() },
			"global to east":      func(*rapid.T) { toEast.run() },
			"global to west":      func(*rapid.T) { toWest.run(); toWest.equal() },
			"global to west live": func(*rapid.T) { toWest.live(); toWest.equal() },
			"broken":              func(rt *rapid.T) { toWest.hangUp(); toWest.broken(rapid.IntRange(1, 4).Draw(rt, "batches")) },
			"broken up":           func(rt *rapid.T) { up.hangUp(); up.broken(rapid.IntRange(1, 4).Draw(rt, "batches")) },
			"west restarts": func(*rapid.T) {
				toWest.hangUp()
				west.restart()
				toWest = join(g, west)
				toWest.limit = 300
			},
			"global restarts": func(*rapid.T) {
				toWest.hangUp()
				up.hangUp()
				g.restart()
				toWest, toEast, up = join(g, west), join(g, east), join(east, g)
				toWest.limit = 300
			},
			"compaction": func(*rapid.T) {
				if err := g.store.Compact(t.Context(), g.cat.Snapshot().Position().Revision); err != nil {
					t.Fatal(err)
				}
			},
			"": func(*rapid.T) {
				if t.Failed() {
					rt.Fatal("see above")
				}
			},
		})
		toWest.hangUp()
		up.hangUp()
		toEast.run()
		up.run()
		up.equal()
		toWest.run()
		toWest.equal()
		fresh := newSide(t, "west", nil)
		defer fresh.stop()
		join(g, fresh).run()
		if diff := cmp.Diff(content(fresh), content(west)); diff != "" {
			rt.Fatalf("the zone holds something else than a fresh one (-fresh +zone):\n%s", diff)
		}
		if n := len(toWest.sink.Pending()); n != 0 {
			rt.Fatalf("%d removals are pending", n)
		}
	})
}

// manyObjects is a global control plane with policies in one mesh.
func manyObjects(t testing.TB, n int) *side {
	g := newGlobal(t, "east")
	for from := 0; from < n; from += 1000 {
		var b catalog.Batch
		for i := from; i < min(n, from+1000); i++ {
			b.Puts = append(b.Puts, catalog.Put{Resource: timeoutPolicy(g, fmt.Sprintf("p-%05d", i), "1s"), Expect: store.ExpectAny})
		}
		g.commit(b)
	}
	g.current()
	return g
}

// A resumed link costs what changed, not what there is.
func TestResumingCostsWhatChanged(t *testing.T) {
	g, e := manyObjects(t, 2000), newSide(t, "east", nil)
	w := join(g, e)
	w.limit = 512 << 10
	w.run()
	full := w.sent
	g.put(timeoutPolicy(g, "p-00007", "9s"))
	g.delete(resource.Key{Type: "MeshTimeout", Mesh: demo, Name: "p-00008"})
	e.restart()
	w = join(g, e)
	w.run()
	w.equal()
	if w.how[defaultScope] != zonesync.ScopeBegin_RESUME || w.sent > 1000 || full < 2000*200 {
		t.Errorf("%v: %d bytes for two changes, %d for everything", w.how, w.sent, full)
	}
}

// asked counts the questions to history.
type asked struct {
	store.Store
	times int
}

func (a *asked) History(ctx context.Context, k store.Key, limit int) ([]store.Committed, error) {
	a.times++
	return a.Store.History(ctx, k, limit)
}

// A zone that tells global what it missed does not look up what global itself has sent meanwhile, however much that is.
func TestResumingIgnoresWhatTheOtherSent(t *testing.T) {
	g, e := manyObjects(t, 500), newSide(t, "east", nil)
	e.put(service(e, "kept"), service(e, "goes"))
	e.current()
	before := e.offers.For(Peer{ToGlobal: true}).Position()
	join(g, e).run()
	e.delete(service(e, "goes").Key())
	e.put(service(e, "new"))
	e.current()
	history := &asked{Store: e.store}
	e.offers.cfg.Store = history
	ch, err := e.offers.Since(t.Context(), Peer{ToGlobal: true}, defaultScope, before)
	if err != nil {
		t.Fatal(err)
	}
	ids := ch.IDs[defaultScope]
	if _, gone := ids["kri_msvc_default_east__goes_"]; !gone || history.times != 1 {
		t.Errorf("history was asked %d times for %d changes, want once for what is gone: %v", history.times, len(ids), ids)
	}
	if _, told := ids["kri_msvc_default_east__new_"]; !told {
		t.Errorf("the new service is missing: %v", ids)
	}
}

// Arbitrary bytes never break a batch: everything is taken, set aside or counted, and the next batch goes on.
func FuzzApply(f *testing.F) {
	g := newGlobal(f, "east")
	east := &side{t: f, zone: "east"}
	g.put(zoneAtGlobal(g, service(east, "web")), timeoutPolicy(g, "slow", "1s"))
	g.current()
	for _, it := range g.offers.For(Peer{ToZone: "west"}).Cut(defaultScope).Items {
		f.Add(it.Encoded, it.ID)
	}
	statement := &zonesync.Object{Id: "owner/kri_msvc_default_east__web_", Kind: statementKind, Mesh: demo, OriginZone: "east", Spec: []byte(`{"state":"Available"}`)}
	f.Add(encodeObject(statement), statement.GetId())
	f.Add(encodeObject(&zonesync.Object{Id: "\x00", Kind: "\x00", Mesh: demo, Labels: map[string]string{"\x00": "\x00"}}), "\x00")
	f.Add([]byte(nil), "")
	w := join(&side{t: f, zone: "east"}, g)
	revision := uint64(0)
	f.Fuzz(func(t *testing.T, encoded []byte, remove string) {
		revision++
		// What may be anything is also tried with a hash that is right.
		fixed := []byte{}
		if o := (&zonesync.Object{}); proto.Unmarshal(encoded, o) == nil {
			o.Hash = nil
			fixed = encodeObject(o)
		}
		at := &zonesync.Position{Lineage: &zonesync.Lineage{Id: "a", Epoch: 1}, Revision: revision, Chain: make([]byte, 32)}
		b := &zonesync.Batch{Scope: defaultScope, To: at, Snapshot: true, Last: true, Upserts: [][]byte{encoded, fixed}}
		v, err := w.sink.Apply(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := w.sink.Apply(t.Context(), b); err != nil || !proto.Equal(v, again) {
			t.Fatalf("applied again: %v, %v", again, err)
		}
		next := proto.CloneOf(at)
		next.Revision++
		revision++
		d := &zonesync.Batch{Scope: defaultScope, From: at, To: next, Last: true}
		if strings.ToValidUTF8(remove, "") == remove {
			d.Removals = []*zonesync.Removal{{Id: remove}}
		}
		if _, err := w.sink.Apply(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		if _, ok := g.get(mesh.TypeMesh, "", demo); !ok {
			t.Fatal("the mesh is gone")
		}
		if _, ok := g.get("MeshTimeout", demo, "slow"); !ok {
			t.Fatal("what is global's own is gone")
		}
	})
}

// BenchmarkFreshZone sends 20,000 objects to a zone that has none.
func BenchmarkFreshZone(b *testing.B) {
	g := manyObjects(b, 20_000)
	for b.Loop() {
		b.StopTimer()
		e := newSide(b, "east", nil)
		w := join(g, e)
		w.limit = 512 << 10
		b.StartTimer()
		w.run()
		b.StopTimer()
		if n := e.cat.Snapshot().Count("MeshTimeout", ""); n != 20_000 {
			b.Fatal(n)
		}
		b.ReportMetric(float64(w.sent)/20_000, "B/object")
		e.stop()
		b.StartTimer()
	}
}

// BenchmarkOneChange tells one of 20,000 objects to 100 zones.
func BenchmarkOneChange(b *testing.B) {
	g := manyObjects(b, 20_000)
	var feeds []*Feed
	for i := range 100 {
		feeds = append(feeds, g.offers.Subscribe(Peer{ToZone: fmt.Sprintf("z-%d", i)}))
	}
	i := 0
	for b.Loop() {
		i++
		g.put(timeoutPolicy(g, "p-00001", fmt.Sprintf("%ds", i+1)))
		for _, f := range feeds {
			if c, err := f.Next(b.Context()); err != nil || len(c.IDs[defaultScope]) != 1 {
				b.Fatal(c.IDs, err)
			}
		}
	}
}
