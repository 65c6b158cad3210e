package exchange

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
)

func ids(v *View, scope string) []string {
	var out []string
	for _, it := range v.Cut(scope).Items {
		out = append(out, it.ID)
	}
	return out
}

func service(s *side, name string, labels ...string) resource.Resource {
	return s.res(mesh.TypeMeshService, demo, name, &mesh.MeshService{Ports: []mesh.Port{{Port: 80}}}, labels...)
}

func timeoutPolicy(s *side, name, connect string) resource.Resource {
	return s.res("MeshTimeout", demo, name, map[string]any{"to": []any{map[string]any{"targetRef": map[string]any{"kind": "Mesh"}, "default": map[string]any{"connectionTimeout": connect}}}})
}

// zoneAtGlobal stores what a zone owns as its sink would.
func zoneAtGlobal(g *side, r resource.Resource) resource.Resource {
	r.Name = storedName(r.Type, r.Mesh, r.Name, r.Zone(), r.Namespace())
	return r
}

func TestZonesGetWhatIsForThem(t *testing.T) {
	g := newGlobal(t, "east", "west")
	east := &side{t: t, zone: "east"}
	g.put(timeoutPolicy(g, "slow", "1s"), zoneAtGlobal(g, service(east, "web")), g.res(mesh.TypeMesh, "", "other", &mesh.Mesh{}))
	g.commit(catalog.Batch{Derived: []catalog.DerivedPut{{
		Key: statementKey(copied(mesh.TypeMeshService, demo, "web", "east")), Data: []byte(`{"tls":{},"state":"Available"}`),
	}}})
	g.current()
	toEast, toWest := g.offers.For(Peer{ToZone: "east"}), g.offers.For(Peer{ToZone: "west"})
	scope := zonesync.ScopeOf(demo)
	if got := ids(toEast, scope); !slices.Equal(got, []string{"kri_mt_default___slow_"}) {
		t.Errorf("east is offered %v", got)
	}
	all := []string{"kri_msvc_default_east__web_", "kri_mt_default___slow_", "owner/kri_msvc_default_east__web_"}
	if got := ids(toWest, scope); !slices.Equal(got, all) {
		t.Errorf("west is offered %v", got)
	}
	a, _ := toEast.Item(scope, "kri_mt_default___slow_")
	if b, _ := toWest.Item(scope, "kri_mt_default___slow_"); a == nil || a != b {
		t.Error("zones get their own copies of one item")
	}
	if _, ok := toEast.Item(scope, all[0]); ok {
		t.Error("east gets its own service back")
	}
	if got := toWest.Scopes(); !slices.Equal(got, []string{scope, "mesh/other", "system"}) {
		t.Errorf("scopes %v", got)
	}
	some := g.offers.For(Peer{ToZone: "west", Meshes: []string{"other"}})
	if got := some.Scopes(); !slices.Equal(got, []string{"mesh/other", "system"}) {
		t.Errorf("scopes for one mesh %v", got)
	}
	if got := ids(some, "system"); !slices.Equal(got, []string{"kri_m____other_"}) {
		t.Errorf("of system, one mesh: %v", got)
	}
	st, cut := some.State("system"), some.Cut("system")
	if d := cut.Digest(); st.GetCount() != 1 || !slices.Equal(st.GetDigest(), d.Bytes()) {
		t.Error("the state for one mesh is not that of its cut")
	}

	feedWest, feedEast := g.offers.Subscribe(Peer{ToZone: "west"}), g.offers.Subscribe(Peer{ToZone: "east"})
	defer feedWest.Close()
	defer feedEast.Close()
	off := false
	g.put(g.res(mesh.TypeZone, "", "east", &mesh.Zone{Enabled: &off}))
	next := func(f *Feed) Changes {
		t.Helper()
		c, err := f.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	want := map[string]map[string]zonesync.Removal_Cause{scope: {all[0]: zonesync.Removal_SCOPE_END, all[2]: zonesync.Removal_SCOPE_END}}
	if diff := cmp.Diff(want, next(feedWest).IDs); diff != "" {
		t.Errorf("a disabled zone (-want +got):\n%s", diff)
	}
	if got := ids(toWest, scope); !slices.Equal(got, []string{"kri_mt_default___slow_"}) {
		t.Errorf("of a disabled zone, west is offered %v", got)
	}
	// What a disabled zone does is nobody's business; that it is enabled again is.
	g.put(zoneAtGlobal(g, service(east, "api")))
	g.put(g.res(mesh.TypeZone, "", "east", &mesh.Zone{}))
	c := next(feedWest)
	if got := slices.Sorted(maps.Keys(c.IDs[scope])); !slices.Equal(got, []string{"kri_msvc_default_east__api_", all[0], all[2]}) {
		t.Errorf("a zone enabled again: %v", got)
	}
	// A policy that changes is told to both, one that stays here any more is withdrawn.
	g.current()
	g.put(timeoutPolicy(g, "slow", "2s"))
	if got := next(feedEast).IDs; !maps.Equal(got[scope], map[string]zonesync.Removal_Cause{all[1]: zonesync.Removal_DELETED}) {
		t.Errorf("east is told of %v", got)
	}
	r := timeoutPolicy(g, "slow", "2s")
	r.Labels[resource.LabelKDSSync] = "disabled"
	g.put(r)
	if got := next(feedEast).IDs[scope]; got[all[1]] != zonesync.Removal_WITHDRAWN {
		t.Errorf("a policy that is not to be synced: %v", got)
	}
	g.delete(resource.Key{Type: mesh.TypeMesh, Name: "other"})
	c = next(feedEast)
	if !slices.Equal(c.Ended, []string{"mesh/other"}) || len(c.IDs["system"]) != 1 {
		t.Errorf("a mesh is deleted: %+v", c)
	}
	g.put(g.res(mesh.TypeMesh, "", "third", &mesh.Mesh{}))
	if c = next(feedEast); !slices.Equal(c.Begun, []string{"mesh/third"}) {
		t.Errorf("a mesh is made: %+v", c)
	}
	feedEast.Close()
	if _, err := feedEast.Next(t.Context()); !errors.Is(err, catalog.ErrClosed) {
		t.Errorf("a closed feed says %v", err)
	}
}

func TestAuthoritiesGoOnlyWhereAnIdentityNeedsThem(t *testing.T) {
	g := newGlobal(t, "east")
	secret := func(name string) resource.Resource {
		return g.res(mesh.TypeSecret, demo, name, map[string]any{"data": "c2VjcmV0"})
	}
	source := func(name string) *mesh.SecureDataSource {
		return &mesh.SecureDataSource{Type: "Secret", SecretRef: &mesh.SecretRef{Kind: "Secret", Name: name}}
	}
	g.put(secret("id-root-ca"), secret("id-private-key"), secret("password"))
	g.current()
	scope := zonesync.ScopeOf(demo)
	if got := ids(g.offers.For(Peer{ToZone: "east"}), scope); !slices.Equal(got, []string{"kri_s_default___password_"}) {
		t.Fatalf("offered: %v", got)
	}
	before := position(g)
	g.put(g.res(mesh.TypeMeshIdentity, demo, "mine", &mesh.MeshIdentity{Provider: &mesh.IdentityProvider{
		Type: mesh.ProviderBundled, Bundled: &mesh.BundledProvider{CA: &mesh.BundledCA{Certificate: source("id-root-ca"), PrivateKey: source("id-private-key")}},
	}}))
	g.current()
	if got := ids(g.offers.For(Peer{ToZone: "east"}), scope); len(got) != 4 {
		t.Errorf("an identity takes its authority from secrets, and offered is %v", got)
	}
	c, err := g.offers.Since(t.Context(), Peer{ToZone: "east"}, scope, before)
	if err != nil || len(c.IDs[scope]) != 3 {
		t.Errorf("since then: %v, %v", c.IDs, err)
	}
	g.delete(resource.Key{Type: mesh.TypeMeshIdentity, Mesh: demo, Name: "mine"})
	g.current()
	if got := ids(g.offers.For(Peer{ToZone: "east"}), scope); !slices.Equal(got, []string{"kri_s_default___password_"}) {
		t.Errorf("without the identity, offered is %v", got)
	}
}

func TestSince(t *testing.T) {
	g := newGlobal(t, "east", "west")
	east := &side{t: t, zone: "east"}
	scope, peer := zonesync.ScopeOf(demo), Peer{ToZone: "west"}
	g.put(timeoutPolicy(g, "keep", "1s"), timeoutPolicy(g, "gone", "1s"), zoneAtGlobal(g, service(east, "web")), zoneAtGlobal(g, service(east, "api")))
	g.current()
	from := position(g)
	since := func(p Peer, scope string, from *zonesync.Position) (map[string]zonesync.Removal_Cause, error) {
		g.current()
		c, err := g.offers.Since(t.Context(), p, scope, from)
		if err == nil && !zonesync.SamePosition(c.To, position(g)) {
			t.Errorf("since leads to %v", c.To)
		}
		return c.IDs[scope], err
	}
	if got, err := since(peer, scope, from); err != nil || len(got) != 0 {
		t.Errorf("at the head: %v, %v", got, err)
	}
	g.put(timeoutPolicy(g, "new", "1s"))
	g.put(timeoutPolicy(g, "brief", "1s"))
	g.delete(resource.Key{Type: "MeshTimeout", Mesh: demo, Name: "gone"}, resource.Key{Type: "MeshTimeout", Mesh: demo, Name: "brief"}, copied(mesh.TypeMeshService, demo, "web", "east"))
	g.put(globalSecret("user-token-signing-key-9"))
	got, err := since(peer, scope, from)
	want := map[string]zonesync.Removal_Cause{
		"kri_mt_default___new_": 0, "kri_mt_default___gone_": 0, "kri_mt_default___brief_": 0,
		"kri_msvc_default_east__web_": 0, "owner/kri_msvc_default_east__web_": 0,
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("since (-want +got): %v\n%s", err, diff)
	}
	if got, err := since(Peer{ToZone: "east"}, scope, from); err != nil || len(got) != 3 {
		t.Errorf("east is told of its own: %v, %v", got, err)
	}
	if got, err := since(peer, "system", from); err != nil || len(got) != 0 {
		t.Errorf("of another scope: %v, %v", got, err)
	}
	off := false
	at := position(g)
	g.put(g.res(mesh.TypeZone, "", "east", &mesh.Zone{Enabled: &off}))
	if got, err := since(peer, scope, at); err != nil || got["kri_msvc_default_east__api_"] != zonesync.Removal_SCOPE_END || len(got) != 1 {
		t.Errorf("a zone was disabled: %v, %v", got, err)
	}

	for name, change := range map[string]func(p *zonesync.Position){
		"another chain":   func(p *zonesync.Position) { p.Chain = slices.Clone(p.Chain); p.Chain[0] ^= 1 },
		"another lineage": func(p *zonesync.Position) { p.Lineage.Id = "other" },
		"another epoch":   func(p *zonesync.Position) { p.Lineage.Epoch++ },
		"the future":      func(p *zonesync.Position) { p.Revision = 10_000 },
	} {
		for base, p := range map[string]*zonesync.Position{"past": from, "head": position(g)} {
			p = proto.CloneOf(p)
			change(p)
			if _, err := since(peer, scope, p); !errors.Is(err, store.ErrForked) {
				t.Errorf("%s, %s: %v", name, base, err)
			}
		}
	}
	if _, err := since(peer, scope, nil); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("without a position: %v", err)
	}
	// History that does not say any more who something was asks for a snapshot.
	mid := position(g)
	g.delete(resource.Key{Type: "MeshTimeout", Mesh: demo, Name: "keep"})
	if err := g.store.Compact(t.Context(), mid.GetRevision()); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*zonesync.Position{from, mid} {
		if _, err := since(peer, scope, p); !errors.Is(err, store.ErrCompacted) {
			t.Errorf("after compaction, from %d: %v", p.GetRevision(), err)
		}
	}
}

func globalSecret(name string) resource.Resource {
	return resource.Resource{Meta: resource.Meta{Type: mesh.TypeGlobalSecret, Name: name}, Raw: []byte(`{"data":"eA=="}`)}
}

func TestFeedEndsWithTheHistory(t *testing.T) {
	g := newGlobal(t, "east")
	f := g.offers.Subscribe(Peer{ToZone: "east"})
	defer f.Close()
	if _, err := g.store.RaiseEpoch(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Next(t.Context()); !errors.Is(err, store.ErrForked) {
		t.Errorf("after another history began: %v", err)
	}
}

func TestFeedStopsWithItsContext(t *testing.T) {
	g := newGlobal(t, "east")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.offers.Subscribe(Peer{ToZone: "east"}).Next(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// An item is encoded again only when its content changes.
func TestUnchangedContentIsNotSentAgain(t *testing.T) {
	e := newSide(t, "east", nil)
	e.put(e.res(mesh.TypeMesh, "", demo, &mesh.Mesh{}, resource.LabelZone, "-"), service(e, "web"))
	status := func(label, state string) {
		e.commit(catalog.Batch{Derived: []catalog.DerivedPut{{
			Key:  catalog.StatusOf(resource.Key{Type: mesh.TypeMeshService, Mesh: demo, Name: "web"}),
			Data: []byte(`{"dataplaneLabels":["` + label + `"],"tls":{"status":"Ready"},"state":"` + state + `"}`),
		}}})
		e.current()
	}
	status("team", "Available")
	view, scope := e.offers.For(Peer{ToGlobal: true}), zonesync.ScopeOf(demo)
	if got := ids(view, scope); !slices.Equal(got, []string{"kri_msvc_default_east__web_", "owner/kri_msvc_default_east__web_"}) {
		t.Fatalf("offered: %v", got)
	}
	f := e.offers.Subscribe(Peer{ToGlobal: true})
	defer f.Close()
	said, _ := view.Item(scope, "owner/kri_msvc_default_east__web_")
	status("app", "Available")
	e.put(service(e, "web"))
	e.current()
	if now, _ := view.Item(scope, said.ID); now != said {
		t.Error("a statement that says the same is another item")
	}
	status("app", "Unavailable")
	c, err := f.Next(t.Context())
	if err != nil || len(c.IDs[scope]) != 1 {
		t.Errorf("told: %v, %v", c.IDs, err)
	}
	if now, _ := view.Item(scope, said.ID); now == said || !strings.Contains(string(now.Encoded), "Unavailable") {
		t.Error("a statement that says something else is the same item")
	}
	e.delete(resource.Key{Type: mesh.TypeMeshService, Mesh: demo, Name: "web"})
	if c, err = f.Next(t.Context()); err != nil || len(c.IDs[scope]) != 2 {
		t.Errorf("a service is deleted, told: %v, %v", c.IDs, err)
	}
}
