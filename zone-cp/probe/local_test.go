package probe

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// settled waits until the counts satisfy a condition.
func settled(t testing.TB, l *Local, what string, ok func(map[resource.Key]Count) bool) map[resource.Key]Count {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	feed := l.Subscribe()
	defer feed.Close()
	for {
		now := l.Counts()
		if ok(now) {
			return now
		}
		if _, err := feed.Next(ctx); err != nil {
			t.Fatalf("not within 10s: %s; counts are %v", what, now)
		}
	}
}

func capacity(counts map[resource.Key]Count, service string) view.Capacity {
	return counts[key(mesh.TypeMeshService, service)].Ports["http"]
}

func TestCountsFollowEndpoints(t *testing.T) {
	p := newPlane(t, "west", nil)
	is := func(healthy, total uint32) func(map[resource.Key]Count) bool {
		return func(c map[resource.Key]Count) bool {
			return capacity(c, "web") == view.Capacity{Healthy: healthy, Total: total}
		}
	}
	p.put(ownService("web") + ownService("other"))
	settled(t, p.local, "a service without endpoints", func(c map[resource.Key]Count) bool { return len(c) == 2 })
	p.put(dataplane("web-1", "web", "10.0.0.1", "Ready") + dataplane("web-2", "web", "10.0.0.2", "NotReady"))
	settled(t, p.local, "one of two", is(1, 2))
	p.facts <- factsUpdate{changed: map[resource.Key]*view.Facts{key(mesh.TypeDataplane, "web-2"): {Inbounds: map[string]mesh.InboundState{"http": mesh.StateReady}}}}
	settled(t, p.local, "what the agent found", is(2, 2))
	p.facts <- factsUpdate{changed: map[resource.Key]*view.Facts{key(mesh.TypeDataplane, "web-1"): {Draining: true}}}
	settled(t, p.local, "one leaves", is(1, 2))
	p.put(strings.Replace(dataplane("web-3", "web", "10.0.0.3", "Ready"), "{app:", "{observed: \"yes\", app:", 1))
	settled(t, p.local, "one that is not observed yet", is(1, 3))
	p.facts <- factsUpdate{all: true, changed: map[resource.Key]*view.Facts{key(mesh.TypeDataplane, "web-3"): {}}}
	settled(t, p.local, "facts begin anew", is(2, 3))
	p.put(strings.Replace(dataplane("web-4", "web", "10.0.0.4", "Ready"), "{app:", "{kuma.io/zone: east, app:", 1) + remoteService("east", "web", "web-x"))
	p.remove(key(mesh.TypeDataplane, "web-1"))
	counts := settled(t, p.local, "one is gone", is(1, 2))
	if len(counts) != 2 {
		t.Errorf("services of other zones are counted: %v", counts)
	}
	before := counts[key(mesh.TypeMeshService, "other")].Sequence
	if after := counts[key(mesh.TypeMeshService, "web")].Sequence; after <= before {
		t.Errorf("the newest count has sequence %d, an older one %d", after, before)
	}
	p.remove(key(mesh.TypeMeshService, "web"))
	settled(t, p.local, "a service is gone", func(c map[resource.Key]Count) bool { return len(c) == 1 })
}

// TestAnEndpointCostsItsServicesOnly counts recomputations.
func TestAnEndpointCostsItsServicesOnly(t *testing.T) {
	p := newPlane(t, "west", nil)
	var text strings.Builder
	for i := range 300 {
		text.WriteString(ownService(fmt.Sprint("s", i)))
		text.WriteString(dataplane(fmt.Sprint("d", i), fmt.Sprint("s", i), fmt.Sprintf("10.0.%d.%d", i/250, i%250+1), "Ready"))
	}
	p.put(text.String())
	settled(t, p.local, "all services", func(c map[resource.Key]Count) bool { return len(c) == 300 })
	feed := p.local.Subscribe()
	defer feed.Close()
	if u, err := feed.Next(t.Context()); err != nil || !u.All || len(u.Services) != 300 {
		t.Fatalf("first update: %d services, all %t, %v", len(u.Services), u.All, err)
	}
	p.facts <- factsUpdate{changed: map[resource.Key]*view.Facts{key(mesh.TypeDataplane, "d7"): {Down: true}}}
	u, err := feed.Next(t.Context())
	if err != nil || u.All || len(u.Services) != 1 || capacity(u.Services, "s7") != (view.Capacity{Total: 1}) {
		t.Errorf("update %+v, %v", u, err)
	}
	before := p.local.view.Graph.Recomputed()["counts"]
	p.facts <- factsUpdate{changed: map[resource.Key]*view.Facts{key(mesh.TypeDataplane, "d7"): nil}}
	if u, err = feed.Next(t.Context()); err != nil || len(u.Services) != 1 {
		t.Errorf("update %+v, %v", u, err)
	}
	if n := p.local.view.Graph.Recomputed()["counts"] - before; n != 1 {
		t.Errorf("%d services were counted for one endpoint", n)
	}
}

// TestCountsEqualAComputationFromScratch applies random changes and compares with a fresh count.
func TestCountsEqualAComputationFromScratch(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	p := newPlane(t, "west", nil)
	known := map[resource.Key]*view.Facts{}
	for range 60 {
		dp, app := fmt.Sprint("d", rnd.IntN(12)), fmt.Sprint("s", rnd.IntN(4))
		switch rnd.IntN(6) {
		case 0:
			p.put(ownService(app))
		case 1:
			if _, ok := p.catalog.Snapshot().Get(key(mesh.TypeMeshService, app)); ok {
				p.remove(key(mesh.TypeMeshService, app))
			}
		case 2, 3:
			p.put(dataplane(dp, app, fmt.Sprint("10.0.0.", 1+rnd.IntN(9)), []string{"Ready", "NotReady", "Ignored"}[rnd.IntN(3)]))
		case 4:
			if _, ok := p.catalog.Snapshot().Get(key(mesh.TypeDataplane, dp)); ok {
				p.remove(key(mesh.TypeDataplane, dp))
			}
		case 5:
			f := &view.Facts{Down: rnd.IntN(2) == 0, Draining: rnd.IntN(3) == 0}
			known[key(mesh.TypeDataplane, dp)] = f
			p.facts <- factsUpdate{changed: map[resource.Key]*view.Facts{key(mesh.TypeDataplane, dp): f}}
		}
	}
	fresh := NewLocal(LocalConfig{Zone: "west", Catalog: p.catalog, Facts: make(facts), Instance: "fresh", Epoch: 1})
	feed := p.catalog.Subscribe()
	defer feed.Close()
	u, err := feed.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fresh.apply(u)
	fresh.observe(factsUpdate{changed: known})
	fresh.publish()
	plain := func(c map[resource.Key]Count) map[resource.Key]map[string]view.Capacity {
		out := map[resource.Key]map[string]view.Capacity{}
		for k, v := range c {
			out[k] = v.Ports
		}
		return out
	}
	want := plain(fresh.Counts())
	settled(t, p.local, fmt.Sprint("what a fresh count gives: ", want), func(c map[resource.Key]Count) bool { return cmp.Equal(plain(c), want) })
}

// ask plays a peer that remembers what it was told.
type asker struct {
	instance string
	sequence uint64
	pages    int
	known    map[string]uint32 // healthy by KRI
}

func (a *asker) ask(l *Local) {
	a.pages = 0
	for more := true; more; a.pages++ {
		r := l.page("default", Request{Version: 1, Instance: a.instance, After: a.sequence})
		if r.Reset {
			a.known = map[string]uint32{}
		}
		for _, s := range r.Services {
			a.known[s.KRI] = 0
			if s.Gone {
				delete(a.known, s.KRI)
			}
			for _, p := range s.Ports {
				a.known[s.KRI] += p.Healthy
			}
		}
		a.instance, a.sequence, more = r.Instance, r.Sequence, r.More
	}
}

func TestPagesTellWhatHasChanged(t *testing.T) {
	p := newPlane(t, "west", nil)
	l := p.local
	const n = 2*maxServices + 10
	var batch strings.Builder
	for i := range n {
		batch.WriteString(ownService(fmt.Sprint("s", i)))
		if i%500 == 499 || i == n-1 {
			p.put(batch.String())
			batch.Reset()
		}
	}
	settled(t, l, "all services", func(c map[resource.Key]Count) bool { return len(c) == n })
	a := &asker{}
	a.ask(l)
	if len(a.known) != n || a.pages != 3 {
		t.Fatalf("%d services on %d pages, want %d on 3", len(a.known), a.pages, n)
	}
	if r := l.page("default", Request{Version: 1, Instance: a.instance, After: a.sequence}); len(r.Services) > 0 || r.Reset || r.More {
		t.Errorf("nothing has changed and the answer has %d services, reset %t", len(r.Services), r.Reset)
	}
	p.put(dataplane("web-1", "s3", "10.0.0.1", "Ready"))
	settled(t, l, "an endpoint", func(c map[resource.Key]Count) bool { return capacity(c, "s3").Healthy == 1 })
	p.remove(key(mesh.TypeMeshService, "s4"))
	settled(t, l, "one less", func(c map[resource.Key]Count) bool { return len(c) == n-1 })
	r := l.page("default", Request{Version: 1, Instance: a.instance, After: a.sequence})
	if len(r.Services) != 2 || r.Reset || !r.Services[1].Gone || r.Services[1].KRI != "kri_msvc_default_west__s4_" {
		t.Errorf("two have changed and the answer is %+v", r)
	}
	a.ask(l)
	if len(a.known) != n-1 || a.known["kri_msvc_default_west__s3_"] != 1 {
		t.Errorf("%d services are known, s3 with %d", len(a.known), a.known["kri_msvc_default_west__s3_"])
	}
	for _, q := range []Request{
		{Instance: "another life", After: a.sequence},
		{Instance: a.instance, After: a.sequence + 1}, // from the future
		{Instance: a.instance, After: 5},              // from before this life
	} {
		if r := l.page("default", q); !r.Reset || !r.More {
			t.Errorf("%+v was answered without a reset", q)
		}
	}
	if r := l.page("nowhere", Request{}); len(r.Services) > 0 || !r.Reset {
		t.Errorf("a mesh that is not there has %v", r.Services)
	}
}

// TestWhoKnowsTooLittleStartsAnew forgets more services than a mesh remembers.
func TestWhoKnowsTooLittleStartsAnew(t *testing.T) {
	tl := newTally()
	for i := range uint64(maxGone + 10) {
		tl.set(key(mesh.TypeMeshService, fmt.Sprint("s", i)), Count{Sequence: 100 + i, Gone: true})
	}
	if tl.gone.Len() != maxGone || len(tl.byKey) != maxGone || tl.bySequence.Len() != maxGone || tl.floor != 109 {
		t.Errorf("%d, %d and %d are remembered, floor %d", tl.gone.Len(), len(tl.byKey), tl.bySequence.Len(), tl.floor)
	}
	l := &Local{cfg: LocalConfig{Zone: "west", Instance: "a"}, sequence: 5000, meshes: map[string]*tally{"default": tl}}
	if r := l.page("default", Request{Instance: "a", After: 108}); !r.Reset || len(r.Services) > 0 {
		t.Errorf("who cannot be told of all that is gone gets %d services, reset %t", len(r.Services), r.Reset)
	}
	if r := l.page("default", Request{Instance: "a", After: 109}); r.Reset || len(r.Services) != maxServices {
		t.Errorf("who can be told gets %d services, reset %t", len(r.Services), r.Reset)
	}
}
