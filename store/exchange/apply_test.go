package exchange

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/embedded"
	"github.com/causeway-mesh/causeway/store/memory"
)

var defaultScope = zonesync.ScopeOf(demo)

func permission(s *side, name, id string) resource.Resource {
	return s.res("MeshTrafficPermission", demo, name, map[string]any{
		"rules": []any{map[string]any{"default": map[string]any{"allow": []any{map[string]any{"spiffeID": map[string]any{"type": "Exact", "value": "spiffe://" + id}}}}}},
	})
}

func TestZonesStoreWhatGlobalSends(t *testing.T) {
	for name, open := range map[string]func() store.Store{
		"memory": func() store.Store { return memory.New() },
		"embedded": func() store.Store {
			st, err := embedded.Open(t.Context(), embedded.Config{Path: filepath.Join(t.TempDir(), "zone.db")})
			if err != nil {
				t.Fatal(err)
			}
			return st
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGlobal(t, "east", "west")
			west := openSide(t, "west", open(), nil)
			east := &side{t: t, zone: "east"}
			g.put(timeoutPolicy(g, "slow", "1s"), zoneAtGlobal(g, service(east, "web")), g.res(mesh.TypeSecret, demo, "password", map[string]any{"data": "eA=="}))
			w := join(g, west)
			w.run()
			w.equal()
			for _, c := range []struct {
				typ, name, zone string
			}{{"MeshTimeout", "slow", ""}, {mesh.TypeMeshService, "web", "east"}, {mesh.TypeSecret, "password", ""}} {
				k := copied(c.typ, demo, c.name, c.zone)
				r, ok := west.get(c.typ, demo, k.Name)
				from, _ := g.get(c.typ, demo, c.name)
				if c.zone != "" {
					from, _ = g.get(c.typ, demo, k.Name)
				}
				if !ok || r.Label(resource.LabelOrigin) != resource.OriginGlobal || r.Zone() != c.zone || r.DisplayName() != c.name || r.UID != from.UID || string(r.Raw) != string(from.Raw) {
					t.Errorf("%s %s is stored as %+v", c.typ, c.name, r.Meta)
				}
			}
			if _, hashed := west.get(mesh.TypeSecret, demo, "password"); !hashed {
				t.Error("a secret is not stored under its own name")
			}
			// A deleted mesh takes everything along, the cursor of its scope too.
			g.delete(resource.Key{Type: mesh.TypeMesh, Name: demo})
			w.run()
			w.equal()
			if n := west.cat.Snapshot().Count("MeshTimeout", ""); n != 0 || len(w.sink.Have()) != 1 {
				t.Errorf("%d policies and %d scopes are left of a deleted mesh", n, len(w.sink.Have()))
			}
		})
	}
}

func TestAMeshMayComeAfterWhatIsInIt(t *testing.T) {
	g := newGlobal(t, "east")
	g.put(timeoutPolicy(g, "slow", "1s"))
	e := newSide(t, "east", nil)
	w := join(g, e)
	g.current()
	w.last, w.how = map[string]*zonesync.Verdict{}, map[string]zonesync.ScopeBegin_How{}
	view := g.offers.For(w.peer).Pin()
	w.whole(view, defaultScope, zonesync.ScopeBegin_SNAPSHOT)
	if v := w.last[defaultScope]; len(v.GetRejected()) > 0 {
		t.Errorf("rejected: %v", v.GetRejected())
	}
	w.whole(view, zonesync.ScopeSystem, zonesync.ScopeBegin_SNAPSHOT)
	w.equal()
	// And what is left of a mesh that went first goes with its scope.
	g.delete(resource.Key{Type: mesh.TypeMesh, Name: demo})
	g.current()
	w.whole(g.offers.For(w.peer).Pin(), zonesync.ScopeSystem, zonesync.ScopeBegin_SNAPSHOT)
	w.whole(view, defaultScope, zonesync.ScopeBegin_SNAPSHOT) // was on its way
	if n := e.cat.Snapshot().Count("MeshTimeout", ""); n != 1 {
		t.Fatalf("%d policies", n)
	}
	w.run()
	w.equal()
	if n := e.cat.Snapshot().Count("MeshTimeout", ""); n != 0 {
		t.Errorf("%d policies are left", n)
	}
}

func TestGlobalStoresWhatZonesSend(t *testing.T) {
	g := newGlobal(t, "east", "west")
	e := newSide(t, "east", nil)
	e.put(e.res(mesh.TypeMesh, "", demo, &mesh.Mesh{}, resource.LabelZone, "-"), service(e, "web"), timeoutPolicy(e, "slow", "1s"),
		e.res(mesh.TypeSecret, demo, "mine", map[string]any{"data": "eA=="}))
	e.commit(catalog.Batch{Derived: []catalog.DerivedPut{{
		Key: catalog.StatusOf(resource.Key{Type: mesh.TypeMeshService, Mesh: demo, Name: "web"}), Data: []byte(`{"vips":[{"ip":"241.0.0.1"}],"state":"Available"}`),
	}}})
	w := join(e, g)
	w.run()
	w.equal()
	k := copied(mesh.TypeMeshService, demo, "web", "east")
	r, ok := g.get(k.Type, k.Mesh, k.Name)
	if !ok || r.Label(resource.LabelOrigin) != resource.OriginZone || r.Zone() != "east" {
		t.Fatalf("stored: %v %+v", ok, r.Meta)
	}
	said, ok := g.cat.Snapshot().Derived("owner/MeshService", demo, k.Name)
	if !ok || !strings.Contains(string(said), "241.0.0.1") || !strings.Contains(string(said), "Available") {
		t.Errorf("its owner says %s", said)
	}
	// It goes on to the other zone, with what is said of it, and away with its zone.
	west := newSide(t, "west", nil)
	toWest := join(g, west)
	toWest.run()
	toWest.equal()
	if there, ok := west.cat.Snapshot().Derived("owner/MeshService", demo, k.Name); !ok || string(there) != `{"state":"Available"}` { // its address is none there
		t.Errorf("in the other zone its owner says %s", there)
	}
	if _, ok := west.get("MeshTimeout", demo, copied("MeshTimeout", demo, "slow", "east").Name); ok {
		t.Error("a policy of one zone is in force in the other")
	}
	e.delete(resource.Key{Type: mesh.TypeMeshService, Mesh: demo, Name: "web"})
	w.run()
	w.equal()
	toWest.run()
	toWest.equal()
	if _, ok := west.cat.Snapshot().Derived("owner/MeshService", demo, k.Name); ok {
		t.Error("what was said of a service is left of it")
	}
	g.delete(resource.Key{Type: mesh.TypeZone, Name: "east"})
	if n := g.cat.Snapshot().Count("MeshTimeout", ""); n != 0 || len(w.sink.Have()) != 0 {
		t.Errorf("%d policies and %d scopes are left of a deleted zone", n, len(w.sink.Have()))
	}
	if _, err := w.sink.Apply(t.Context(), &zonesync.Batch{Scope: defaultScope, To: position(e), Snapshot: true, Last: true}); !errors.Is(err, ErrOutOfStep) {
		t.Errorf("a batch of a zone that was deleted: %v", err)
	}
}

// Every reason for which an object is set aside, by who sent it; each beside a good one that is taken all the same.
func TestWhatIsSetAside(t *testing.T) {
	timeout := []byte(`{"to":[{"targetRef":{"kind":"Mesh"},"default":{"connectionTimeout":"1s"}}]}`)
	east := map[string]string{resource.LabelZone: "east", resource.LabelOrigin: resource.OriginZone}
	with := func(labels map[string]string, more ...string) map[string]string {
		out := maps.Clone(labels)
		if out == nil {
			out = map[string]string{}
		}
		for i := 0; i < len(more); i += 2 {
			out[more[i]] = more[i+1]
		}
		return out
	}
	object := func(kind, short, zone, name, spec string, labels map[string]string) *zonesync.Object {
		return &zonesync.Object{
			Id: "kri_" + short + "_default_" + zone + "_" + labels[resource.LabelNamespace] + "_" + name + "_", Uid: "u-" + name, Kind: kind, Mesh: demo, Name: name,
			OriginZone: zone, Labels: with(labels, resource.LabelDisplayName, name), Spec: []byte(spec),
		}
	}
	address := func(a string) *zonesync.Object {
		return object(mesh.TypeMeshZoneAddress, "mza", "east", "in", `{"address":"`+a+`","port":80}`, east)
	}
	change := func(o *zonesync.Object, f func(*zonesync.Object)) *zonesync.Object { f(o); return o }
	toGlobal := map[string]struct {
		o     *zonesync.Object
		code  string
		retry zonesync.Rejected_Retry
	}{
		"kind":              {object("MeshFuture", "mfut", "east", "x", "{}", east), codeUnknownKind, zonesync.Rejected_ON_UPGRADE},
		"feature":           {change(object("MeshTimeout", "mt", "east", "x", string(timeout), east), func(o *zonesync.Object) { o.Requires = []string{"future"} }), codeFeature, zonesync.Rejected_NEEDS_FEATURE},
		"no json":           {object("MeshTimeout", "mt", "east", "x", "{", east), codeInvalid, zonesync.Rejected_ON_UPGRADE},
		"invalid":           {object("MeshTimeout", "mt", "east", "x", `{"to":[{"targetRef":{"kind":"Bogus"},"default":{}}]}`, east), codeInvalid, zonesync.Rejected_ON_UPGRADE},
		"label":             {object("MeshTimeout", "mt", "east", "x", string(timeout), with(east, "a b", "c")), codeInvalid, zonesync.Rejected_ON_UPGRADE},
		"too big":           {object("MeshTimeout", "mt", "east", "x", `{"a":"`+strings.Repeat("a", resource.MaxObject)+`"}`, east), codeTooBig, zonesync.Rejected_PERMANENT},
		"hash":              {change(object("MeshTimeout", "mt", "east", "x", string(timeout), east), func(o *zonesync.Object) { o.Hash = []byte("no") }), codeCorrupt, zonesync.Rejected_PERMANENT},
		"id":                {change(object("MeshTimeout", "mt", "east", "x", string(timeout), east), func(o *zonesync.Object) { o.Id = "kri_mt_default_east__y_" }), codeCorrupt, zonesync.Rejected_PERMANENT},
		"bad id":            {change(object("MeshTimeout", "mt", "east", "x", string(timeout), east), func(o *zonesync.Object) { o.Id = "\x00" }), codeCorrupt, zonesync.Rejected_PERMANENT},
		"display name":      {change(object("MeshTimeout", "mt", "east", "x", string(timeout), east), func(o *zonesync.Object) { o.Labels[resource.LabelDisplayName] = "y" }), codeCorrupt, zonesync.Rejected_PERMANENT},
		"no display name":   {change(object("MeshTimeout", "mt", "east", "x", string(timeout), east), func(o *zonesync.Object) { delete(o.Labels, resource.LabelDisplayName) }), codeCorrupt, zonesync.Rejected_PERMANENT},
		"scope":             {change(object("MeshTimeout", "mt", "east", "x", string(timeout), east), func(o *zonesync.Object) { o.Mesh, o.Id = "m", "kri_mt_m_east__x_" }), codeCorrupt, zonesync.Rejected_PERMANENT},
		"no uid":            {change(object("MeshTimeout", "mt", "east", "x", string(timeout), east), func(o *zonesync.Object) { o.Uid = "" }), codeCorrupt, zonesync.Rejected_PERMANENT},
		"other zone":        {object("MeshTimeout", "mt", "west", "x", string(timeout), with(east, resource.LabelZone, "west")), codeForeignZone, zonesync.Rejected_PERMANENT},
		"claims zone":       {change(object("MeshTimeout", "mt", "east", "x", string(timeout), east), func(o *zonesync.Object) { o.OriginZone = "west" }), codeForeignZone, zonesync.Rejected_PERMANENT},
		"as global":         {object("MeshTimeout", "mt", "", "x", string(timeout), nil), codeForeignZone, zonesync.Rejected_PERMANENT},
		"secret":            {object(mesh.TypeSecret, "s", "east", "x", `{"data":"eA=="}`, east), codeNotAllowed, zonesync.Rejected_PERMANENT},
		"multi-zone":        {object(mesh.TypeMeshMultiZoneService, "mzsvc", "east", "x", `{}`, east), codeNotAllowed, zonesync.Rejected_PERMANENT},
		"producer":          {object("MeshTimeout", "mt", "east", "x", string(timeout), with(east, resource.LabelPolicyRole, "producer")), codeNotAllowed, zonesync.Rejected_PERMANENT},
		"loopback":          {address("127.0.0.1"), codeLocalAddress, zonesync.Rejected_PERMANENT},
		"loopback 6":        {address("::1"), codeLocalAddress, zonesync.Rejected_PERMANENT},
		"loopback mapped":   {address("::ffff:127.0.0.1"), codeLocalAddress, zonesync.Rejected_PERMANENT},
		"localhost":         {address("localhost"), codeLocalAddress, zonesync.Rejected_PERMANENT},
		"link-local":        {address("169.254.169.254"), codeLocalAddress, zonesync.Rejected_PERMANENT},
		"no service":        {&zonesync.Object{Id: "owner/kri_msvc_default_east__none_", Kind: statementKind, Mesh: demo, OriginZone: "east", Spec: []byte(`{"state":"Available"}`)}, codeNoService, zonesync.Rejected_ON_UPGRADE},
		"foreign statement": {&zonesync.Object{Id: "owner/kri_msvc_default_west__web_", Kind: statementKind, Mesh: demo, OriginZone: "west", Spec: []byte(`{"state":"Available"}`)}, codeForeignZone, zonesync.Rejected_PERMANENT},
	}
	run := func(t *testing.T, w *wire, to *side, o *zonesync.Object, code string, retry zonesync.Rejected_Retry, good *zonesync.Object) {
		t.Helper()
		pos := &zonesync.Position{Lineage: &zonesync.Lineage{Id: "a", Epoch: 1}, Revision: 1, Chain: make([]byte, 32)}
		b := &zonesync.Batch{Scope: defaultScope, To: pos, Snapshot: true, Last: true, Upserts: [][]byte{encodeObject(o), encodeObject(good)}}
		v, err := w.sink.Apply(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		if len(v.GetRejected()) != 1 || v.GetRejected()[0].GetCode() != code || v.GetRejected()[0].GetRetry() != retry || v.GetRejected()[0].GetId() != o.GetId() {
			t.Fatalf("rejected: %v", v.GetRejected())
		}
		var d zonesync.Digest
		for _, o := range []*zonesync.Object{o, good} {
			d.Add(o.GetId(), o.GetUid(), o.GetHash())
		}
		if have := w.sink.Have(); len(have) != 1 || have[0].GetCount() != 2 || string(have[0].GetDigest()) != string(d.Bytes()) {
			t.Errorf("what is set aside does not count: %v", have)
		}
		kind, _ := api.Kinds().ByName(good.GetKind())
		if _, ok := to.cat.Snapshot().ByKRI(resource.KRI{Short: kind.Short, Mesh: demo, Zone: good.GetOriginZone(), Name: good.GetName()}); !ok {
			t.Error("the good object beside it was not taken")
		}
		if again, err := w.sink.Apply(t.Context(), b); err != nil || !proto.Equal(again, v) {
			t.Errorf("applied again: %v, %v", again, err)
		}
	}
	for name, c := range toGlobal {
		t.Run("to global: "+name, func(t *testing.T) {
			g := newGlobal(t, "east", "west")
			run(t, join(&side{t: t, zone: "east"}, g), g, c.o, c.code, c.retry, object("MeshTimeout", "mt", "east", "good", string(timeout), east))
		})
	}
	west := map[string]string{resource.LabelZone: "west", resource.LabelOrigin: resource.OriginZone}
	for name, c := range map[string]struct {
		o    *zonesync.Object
		code string
	}{
		"own":            {object("MeshTimeout", "mt", "east", "x", string(timeout), east), codeForeignZone},
		"dataplane":      {object(mesh.TypeDataplane, "dp", "west", "x", `{"networking":{"address":"10.0.0.1"}}`, west), codeNotAllowed},
		"service":        {object(mesh.TypeMeshService, "msvc", "", "x", `{"ports":[{"port":80}]}`, nil), codeNotAllowed},
		"private key":    {object(mesh.TypeSecret, "s", "", "dataplane-token-signing-key-default-1", `{"data":"eA=="}`, nil), codeNotAllowed},
		"taken":          {object(mesh.TypeSecret, "s", "", "mine", `{"data":"eA=="}`, nil), codeNameTaken},
		"own statement":  {&zonesync.Object{Id: "owner/kri_msvc_default_east__web_", Kind: statementKind, Mesh: demo, OriginZone: "east", Spec: []byte(`{"state":"Available"}`)}, codeForeignZone},
		"statement kind": {&zonesync.Object{Id: "owner/kri_msvc_default_west__web_", Kind: "owner/Other", Mesh: demo, OriginZone: "west", Spec: []byte(`{"state":"Available"}`)}, codeUnknownKind},
	} {
		t.Run("to a zone: "+name, func(t *testing.T) {
			g, e := &side{t: t}, newSide(t, "east", nil)
			e.put(e.res(mesh.TypeSecret, demo, "mine", map[string]any{"data": "bWluZQ=="}))
			retry := zonesync.Rejected_PERMANENT
			if c.code == codeUnknownKind {
				retry = zonesync.Rejected_ON_UPGRADE
			}
			run(t, join(g, e), e, c.o, c.code, retry, object("MeshTimeout", "mt", "", "good", string(timeout), nil))
			if mine, ok := e.get(mesh.TypeSecret, demo, "mine"); !ok || !strings.Contains(string(mine.Raw), "bWluZQ==") {
				t.Errorf("the zone's own secret is %s", mine.Raw)
			}
		})
	}
	t.Run("local addresses are allowed", func(t *testing.T) {
		g := newGlobal(t, "east")
		w := join(&side{t: t, zone: "east"}, g, func(c *SinkConfig) { c.Bounds.AllowLocalAddresses = true })
		b := &zonesync.Batch{Scope: defaultScope, To: position(g), Snapshot: true, Last: true, Upserts: [][]byte{encodeObject(address("127.0.0.1"))}}
		if v, err := w.sink.Apply(t.Context(), b); err != nil || len(v.GetRejected()) > 0 {
			t.Errorf("rejected: %v, %v", v.GetRejected(), err)
		}
	})
}

func TestLocalAddresses(t *testing.T) {
	for address, local := range map[string]bool{
		"10.0.0.1": false, "2001:db8::1": false, "ingress.example.com": false, "ingress": false,
		"127.0.0.1": true, "127.1": true, "0x7f000001": true, "0.0.0.0": true, "::": true, "224.0.0.1": true, "ff02::1": true, "fe80::1": true,
		"::ffff:169.254.169.254": true, "a.localhost": true, "LOCALHOST": true, "255.255.255.255": true, "localhost.": true,
	} {
		if got := isLocal(&mesh.MeshZoneAddress{Address: address, Port: 1}); got != local {
			t.Errorf("%s is local: %v", address, got)
		}
	}
}

// What was good stays in force until something better comes, and what is set aside is judged again after an upgrade.
func TestTheLastGoodVersionStays(t *testing.T) {
	g := newGlobal(t, "east")
	e := newSide(t, "east", nil)
	g.put(permission(g, "allow", "a/b"))
	w := join(g, e)
	w.run()
	k := copied("MeshTrafficPermission", demo, "allow", "")
	good, ok := e.get(k.Type, k.Mesh, k.Name)
	if !ok {
		t.Fatal("not stored")
	}
	// The next version uses something that this zone lacks.
	view := g.offers.For(w.peer)
	it, _ := view.Item(defaultScope, "kri_mtp_default___allow_")
	o := &zonesync.Object{}
	if err := proto.Unmarshal(it.Encoded, o); err != nil {
		t.Fatal(err)
	}
	o.Requires, o.Spec, o.Hash = []string{"permission.future"}, []byte(`{"rules":[],"future":1}`), nil
	from := position(g)
	g.put(permission(g, "other", "a/c"))
	to := position(g)
	b := &zonesync.Batch{Scope: defaultScope, From: from, To: to, Last: true, Upserts: [][]byte{encodeObject(o)}}
	v := w.apply(b)
	if len(v.GetRejected()) != 1 || v.GetRejected()[0].GetCode() != codeFeature {
		t.Fatalf("rejected: %v", v.GetRejected())
	}
	if now, ok := e.get(k.Type, k.Mesh, k.Name); !ok || string(now.Raw) != string(good.Raw) || now.Version != good.Version {
		t.Errorf("in force is %s", now.Raw)
	}
	if n, err := w.sink.Rejudge(t.Context()); n != 0 || err != nil {
		t.Errorf("judged again: %d, %v", n, err)
	}
	e.restart()
	newer := api.Kinds().All()
	for i := range newer {
		if newer[i].Name == "MeshTrafficPermission" {
			newer[i].New, newer[i].Validate = func() any {
				return new(struct {
					Rules  []any `json:"rules"`
					Future int   `json:"future"`
				})
			}, nil
		}
	}
	upgraded := join(g, e, func(c *SinkConfig) {
		c.Features, c.Kinds = []string{"permission.future"}, resource.NewKinds(newer...)
	})
	if got := upgraded.rejected(defaultScope); !maps.Equal(got, map[string]string{o.GetId(): codeFeature}) {
		t.Errorf("after a restart, set aside: %v", got)
	}
	o.Spec = []byte(`{"rules":[{"default":{"deny":[{"spiffeID":{"type":"Exact","value":"spiffe://a/b"}}]}}],"future":1}`)
	o.Hash = nil
	b.Upserts = [][]byte{encodeObject(o)}
	w2 := join(g, e)
	w2.last = map[string]*zonesync.Verdict{}
	w2.apply(b)
	if n, err := upgraded.sink.Rejudge(t.Context()); n != 1 || err != nil {
		t.Errorf("judged again after the upgrade: %d, %v", n, err)
	}
	if now, _ := e.get(k.Type, k.Mesh, k.Name); !strings.Contains(string(now.Raw), "future") {
		t.Errorf("after the upgrade, in force is %s", now.Raw)
	}
	if got := upgraded.rejected(defaultScope); len(got) != 0 {
		t.Errorf("after the upgrade, set aside: %v", got)
	}
}

func TestAPanicConcernsOneObject(t *testing.T) {
	var runs atomic.Int32
	list := api.Kinds().All()
	for i := range list {
		if list[i].Name == "MeshTimeout" {
			validate := list[i].Validate
			list[i].Validate = func(r resource.Resource) resource.Problems {
				if r.DisplayName() == "bomb" {
					runs.Add(1)
					panic("boom")
				}
				return validate(r)
			}
		}
	}
	g := newGlobal(t, "east")
	e := newSide(t, "east", nil)
	g.put(timeoutPolicy(g, "bomb", "1s"), timeoutPolicy(g, "good", "1s"))
	w := join(g, e, func(c *SinkConfig) { c.Kinds = resource.NewKinds(list...) })
	w.run()
	w.equal()
	for range 2 {
		w.whole(g.offers.For(w.peer), defaultScope, zonesync.ScopeBegin_SNAPSHOT)
	}
	if got := w.rejected(defaultScope); !maps.Equal(got, map[string]string{"kri_mt_default___bomb_": codePanic}) {
		t.Errorf("set aside: %v", got)
	}
	if n := runs.Load(); n != 1 {
		t.Errorf("it was run %d times", n)
	}
	if _, ok := e.get("MeshTimeout", demo, copied("MeshTimeout", demo, "good", "").Name); !ok {
		t.Error("the good one is not stored")
	}
	if n, err := join(g, e).sink.Rejudge(t.Context()); n != 1 || err != nil {
		t.Errorf("after an upgrade: %d, %v", n, err)
	}
}

func TestUnknownKindsWaitSealedForAnUpgrade(t *testing.T) {
	g, e := newGlobal(t, "east"), newSide(t, "east", nil)
	older := resource.NewKinds(slices.DeleteFunc(api.Kinds().All(), func(k resource.Kind) bool { return k.Name == mesh.TypeSecret })...)
	g.put(g.res(mesh.TypeSecret, demo, "password", map[string]any{"data": "c2VjcmV0LXdvcmQ="}))
	w := join(g, e, func(c *SinkConfig) { c.Kinds = older })
	w.run()
	if got := w.rejected(defaultScope); !maps.Equal(got, map[string]string{"kri_s_default___password_": codeUnknownKind}) {
		t.Fatalf("set aside: %v", got)
	}
	found := false
	_, err := e.store.Snapshot(t.Context(), func(o store.Object) error {
		found = found || strings.HasPrefix(o.Type, asidePrefix) && o.Secret && !strings.Contains(string(o.Data), "password")
		return nil
	})
	if err != nil || !found {
		t.Errorf("it is not sealed: %v", err)
	}
	e.restart()
	newer := join(g, e)
	if n, err := newer.sink.Rejudge(t.Context()); n != 1 || err != nil {
		t.Errorf("after the upgrade: %d, %v", n, err)
	}
	newer.equal()
}

// A snapshot of the same history deletes what it lacks; one of another history does not.
func TestSnapshotsOfOtherHistoriesDeleteNothing(t *testing.T) {
	g, e := newGlobal(t, "east"), newSide(t, "east", nil)
	e.put(service(e, "own"))
	g.put(timeoutPolicy(g, "a", "1s"), timeoutPolicy(g, "b", "1s"), timeoutPolicy(g, "c", "1s"), timeoutPolicy(g, "d", "1s"))
	w := join(g, e)
	w.run()
	g.delete(resource.Key{Type: "MeshTimeout", Mesh: demo, Name: "a"})
	g.current()
	w.whole(g.offers.For(w.peer).Pin(), defaultScope, zonesync.ScopeBegin_SNAPSHOT)
	w.whole(g.offers.For(w.peer).Pin(), zonesync.ScopeSystem, zonesync.ScopeBegin_SNAPSHOT)
	w.equal()
	stored := func() (out []string) {
		e.cat.Snapshot().Each("MeshTimeout", "", func(r resource.Resource) bool {
			out = append(out, r.DisplayName())
			return true
		})
		return out
	}
	if got := stored(); !slices.Equal(got, []string{"b", "c", "d"}) || len(w.sink.Pending()) != 0 {
		t.Fatalf("stored: %v, pending: %v", got, w.sink.Pending())
	}

	// Global is lost and made anew: another lineage, the same mesh with another UID, one of the policies.
	fresh := newGlobal(t, "east")
	fresh.put(timeoutPolicy(fresh, "b", "2s"))
	w2 := join(fresh, e)
	w2.limit = 100
	w2.run()
	if w2.how[defaultScope] != zonesync.ScopeBegin_FORKED {
		t.Errorf("the scope went on as %v", w2.how[defaultScope])
	}
	if got := stored(); !slices.Equal(got, []string{"b", "c", "d"}) {
		t.Errorf("stored: %v", got)
	}
	if _, ok := e.get(mesh.TypeMeshService, demo, "own"); !ok {
		t.Error("what was in the mesh went with the mesh's old UID")
	}
	m, _ := e.get(mesh.TypeMesh, "", demo)
	now, _ := fresh.get(mesh.TypeMesh, "", demo)
	if m.UID != now.UID {
		t.Error("the mesh did not take its new UID")
	}
	pendingIDs := func() (out []string) {
		for _, p := range w2.sink.Pending() {
			if p.Scope != defaultScope || p.Since.IsZero() {
				t.Errorf("pending: %+v", p)
			}
			out = append(out, p.ID)
		}
		return out
	}
	if got := pendingIDs(); !slices.Equal(got, []string{"kri_mt_default___c_", "kri_mt_default___d_"}) {
		t.Errorf("pending: %v", got)
	}
	w2.equal() // what is pending does not count
	// A snapshot of the new history decides nothing about what is pending; its owner and the operator do.
	w2.whole(fresh.offers.For(w2.peer).Pin(), defaultScope, zonesync.ScopeBegin_SNAPSHOT)
	if got := pendingIDs(); len(got) != 2 {
		t.Errorf("pending after a snapshot: %v", got)
	}
	fresh.put(timeoutPolicy(fresh, "c", "3s"))
	w2.run()
	w2.equal()
	if got := pendingIDs(); !slices.Equal(got, []string{"kri_mt_default___d_"}) {
		t.Errorf("pending after it was written again: %v", got)
	}
	if n, err := w2.sink.Confirm(t.Context(), zonesync.ScopeSystem); n != 0 || err != nil {
		t.Errorf("confirmed elsewhere: %d, %v", n, err)
	}
	if n, err := w2.sink.Confirm(t.Context(), defaultScope); n != 1 || err != nil {
		t.Errorf("confirmed: %d, %v", n, err)
	}
	if got := stored(); !slices.Equal(got, []string{"b", "c"}) || len(pendingIDs()) != 0 {
		t.Errorf("after the decision: %v", got)
	}
	w2.equal()
	// A history that never had the mesh cannot end its scope.
	empty := newSide(t, "", nil)
	w3 := join(empty, e)
	w3.run()
	if got := stored(); !slices.Equal(got, []string{"b", "c"}) || len(w3.sink.Pending()) != 3 {
		t.Errorf("stored: %v, pending: %v", got, w3.sink.Pending())
	}
	if _, ok := e.get(mesh.TypeMesh, "", demo); !ok {
		t.Error("the mesh is gone")
	}
}

func TestScopeEnds(t *testing.T) {
	g, e := newGlobal(t, "east"), newSide(t, "east", nil)
	g.put(timeoutPolicy(g, "a", "1s"))
	e.put(service(e, "own"))
	w := join(g, e)
	w.run()
	at := position(g)
	foreign := proto.CloneOf(at)
	foreign.Lineage.Id = "other"
	for _, p := range []*zonesync.Position{foreign, nil} {
		if err := w.sink.End(t.Context(), &zonesync.ScopeEnd{Scope: defaultScope, At: p}); err != nil {
			t.Fatal(err)
		}
		if len(w.sink.Pending()) != 1 || e.cat.Snapshot().Count("MeshTimeout", "") != 1 {
			t.Errorf("an end of another history: pending %v", w.sink.Pending())
		}
	}
	w.whole(g.offers.For(w.peer).Pin(), defaultScope, zonesync.ScopeBegin_SNAPSHOT)
	w.equal()
	if err := w.sink.End(t.Context(), &zonesync.ScopeEnd{Scope: defaultScope, Cause: "\x00\xff", At: at}); err != nil {
		t.Fatal(err)
	}
	if n := e.cat.Snapshot().Count("MeshTimeout", ""); n != 0 || len(w.sink.Have()) != 1 {
		t.Errorf("left of the scope: %d policies, %v", n, w.sink.Have())
	}
	if _, ok := e.get(mesh.TypeMeshService, demo, "own"); !ok {
		t.Error("the zone's own service went, too")
	}
}

// A mesh that is withdrawn from a zone does not take along what is the zone's own; one that its owner deletes does.
func TestWithdrawnMeshes(t *testing.T) {
	g, e := newGlobal(t, "east"), newSide(t, "east", nil)
	g.put(g.res(mesh.TypeMesh, "", "used", &mesh.Mesh{}), g.res(mesh.TypeMesh, "", "unused", &mesh.Mesh{}))
	w := join(g, e)
	w.run()
	own := service(e, "own")
	own.Mesh = "used"
	e.put(own)
	from := position(g)
	g.put(timeoutPolicy(g, "x", "1s"))
	b := &zonesync.Batch{Scope: zonesync.ScopeSystem, From: from, To: position(g), Last: true, Removals: []*zonesync.Removal{
		{Id: "kri_m____used_", Cause: zonesync.Removal_WITHDRAWN}, {Id: "kri_m____unused_", Cause: zonesync.Removal_WITHDRAWN},
	}}
	w.apply(b)
	if _, ok := e.get(mesh.TypeMeshService, "used", "own"); !ok || len(w.sink.Pending()) != 1 {
		t.Errorf("pending: %v", w.sink.Pending())
	}
	if _, ok := e.get(mesh.TypeMesh, "", "unused"); ok {
		t.Error("an unused mesh is left")
	}
	b.From = b.To
	g.put(timeoutPolicy(g, "y", "1s"))
	b.To = position(g)
	b.Removals[0].Cause = zonesync.Removal_DELETED
	w.apply(b)
	if _, ok := e.get(mesh.TypeMeshService, "used", "own"); ok {
		t.Error("a deleted mesh is left with what is in it")
	}
}

func TestSnapshotsInPartsThatBreakOff(t *testing.T) {
	g, e := newGlobal(t, "east"), newSide(t, "east", nil)
	for i := range 30 {
		g.put(timeoutPolicy(g, fmt.Sprintf("p-%02d", i), "1s"))
	}
	g.current()
	w := join(g, e)
	w.limit, w.last, w.how = 600, map[string]*zonesync.Verdict{}, map[string]zonesync.ScopeBegin_How{}
	parts := w.parts(g.offers.For(w.peer).Pin(), defaultScope)
	if len(parts) < 4 {
		t.Fatalf("%d parts", len(parts))
	}
	w.begin(defaultScope, zonesync.ScopeBegin_SNAPSHOT)
	w.apply(parts[0])
	w.apply(parts[1])
	w.apply(parts[1]) // again
	if _, err := w.sink.Apply(t.Context(), parts[3]); !errors.Is(err, ErrOutOfStep) {
		t.Errorf("a part is missing: %v", err)
	}
	have := w.sink.Have()
	if len(have) != 1 || !have[0].GetIncomplete() || have[0].GetDigest() != nil {
		t.Errorf("between parts: %v", have)
	}
	// A delta onto an incomplete state is refused, also by a new process; so is the rest of the snapshot.
	e.restart()
	w = join(g, e)
	w.limit = 600
	for _, b := range []*zonesync.Batch{parts[2], {Scope: defaultScope, From: parts[0].GetTo(), To: position(g), Last: true}} {
		if _, err := w.sink.Apply(t.Context(), b); !errors.Is(err, ErrOutOfStep) {
			t.Errorf("a new process takes part %d: %v", b.GetPart(), err)
		}
	}
	g.delete(resource.Key{Type: "MeshTimeout", Mesh: demo, Name: "p-00"})
	w.run()
	w.equal()
	if len(w.sink.Pending()) != 0 {
		t.Errorf("pending: %v", w.sink.Pending())
	}
}

func TestBatchesMustFollow(t *testing.T) {
	g, e := newGlobal(t, "east"), newSide(t, "east", nil)
	w := join(g, e)
	w.run()
	at := position(g)
	other := proto.CloneOf(at)
	other.Revision++
	short := proto.CloneOf(at)
	short.Chain = short.Chain[:3]
	foreign := proto.CloneOf(at)
	foreign.Lineage.Id = "other"
	for name, c := range map[string]struct {
		b    *zonesync.Batch
		want error
	}{
		"gap":         {&zonesync.Batch{Scope: defaultScope, From: other, To: other, Last: true}, ErrOutOfStep},
		"no from":     {&zonesync.Batch{Scope: defaultScope, To: other, Last: true}, ErrOutOfStep},
		"foreign to":  {&zonesync.Batch{Scope: defaultScope, From: at, To: foreign, Last: true}, ErrOutOfStep},
		"no scope":    {&zonesync.Batch{To: other, Snapshot: true, Last: true}, ErrMalformed},
		"bad scope":   {&zonesync.Batch{Scope: "mesh/a b", To: other, Snapshot: true, Last: true}, ErrMalformed},
		"no to":       {&zonesync.Batch{Scope: defaultScope, Snapshot: true, Last: true}, ErrMalformed},
		"bad chain":   {&zonesync.Batch{Scope: defaultScope, Snapshot: true, Last: true, To: short}, ErrMalformed},
		"not begun":   {&zonesync.Batch{Scope: "mesh/new", From: at, To: at, Last: true}, ErrOutOfStep},
		"middle part": {&zonesync.Batch{Scope: defaultScope, To: other, Snapshot: true, Part: 2}, ErrOutOfStep},
	} {
		if _, err := w.sink.Apply(t.Context(), c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.equal()
}

func TestObjectsMadeAnewKeepWhatIsTheirs(t *testing.T) {
	g, e := newGlobal(t, "east"), newSide(t, "east", nil)
	secret := func(data string) resource.Resource {
		return g.res(mesh.TypeSecret, demo, "password", map[string]any{"data": data})
	}
	g.put(timeoutPolicy(g, "a", "1s"), secret("YQ=="))
	w := join(g, e)
	w.run()
	g.delete(resource.Key{Type: "MeshTimeout", Mesh: demo, Name: "a"}, resource.Key{Type: mesh.TypeSecret, Mesh: demo, Name: "password"})
	g.put(timeoutPolicy(g, "a", "2s"), secret("Yg=="))
	w.run()
	w.equal()
	for _, k := range []resource.Key{copied("MeshTimeout", demo, "a", ""), {Type: mesh.TypeSecret, Mesh: demo, Name: "password"}} {
		there, _ := e.cat.Snapshot().Get(k)
		here, _ := g.get(k.Type, demo, there.DisplayName())
		if there.UID != here.UID || string(there.Raw) != string(here.Raw) {
			t.Errorf("%s has UID %s, its owner's is %s", k, there.UID, here.UID)
		}
	}
}

// Names under which objects of different owners are stored may be equal: nobody gets what is another's.
func TestNamesThatCollide(t *testing.T) {
	g := newGlobal(t, "a", "ab")
	names := map[string]resource.Key{}
	sinks := map[string]*wire{}
	for zone, namespace := range map[string]string{"a": "bc", "ab": "c"} {
		z := newSide(t, zone, nil)
		z.put(z.res(mesh.TypeMesh, "", demo, &mesh.Mesh{}, resource.LabelZone, "-"), service(z, "web", resource.LabelNamespace, namespace))
		names[zone] = resource.Key{Type: mesh.TypeMeshService, Mesh: demo, Name: storedName(mesh.TypeMeshService, demo, "web", zone, namespace)}
		sinks[zone] = join(z, g)
	}
	if names["a"] != names["ab"] {
		t.Fatal("the names do not collide")
	}
	sinks["a"].run()
	sinks["ab"].run()
	if got := sinks["ab"].rejected(defaultScope); !slices.Equal(slices.Collect(maps.Values(got)), []string{codeNameTaken}) {
		t.Errorf("set aside: %v", got)
	}
	if r, _ := g.cat.Snapshot().Get(names["a"]); r.Zone() != "a" {
		t.Errorf("stored is that of zone %s", r.Zone())
	}
	sinks["a"].equal()
	sinks["ab"].equal()
	// Nor can the other delete it.
	v, err := sinks["ab"].sink.Apply(t.Context(), &zonesync.Batch{Scope: defaultScope, From: position(sinks["ab"].from), To: position(sinks["ab"].from), Last: true, Removals: []*zonesync.Removal{
		{Id: "kri_msvc_default_a_bc_web_"}, {Id: "kri_msvc_default_ab_c_web_"}, {Id: "nonsense"}, {Id: "kri_zzz_default_ab_c_web_"},
	}})
	if _, ok := g.cat.Snapshot().Get(names["a"]); !ok || err != nil || len(v.GetRejected()) != 0 {
		t.Errorf("a zone deleted what is another's: %v, %v", v, err)
	}
}

func trust(s *side, name, domain string) resource.Resource {
	return s.res(mesh.TypeMeshTrust, demo, name, &mesh.MeshTrust{TrustDomain: domain, CABundles: []mesh.CABundle{{Type: mesh.CABundlePEM, PEM: &mesh.PEMBundle{Value: caPEM()}}}})
}

func TestTrustDomainsHaveOneOwner(t *testing.T) {
	g := newGlobal(t, "east", "west")
	g.put(trust(g, "company", "company.example"))
	zones := map[string]*side{}
	wires := map[string]*wire{}
	for _, name := range []string{"east", "west"} {
		zones[name] = newSide(t, name, nil)
		zones[name].put(zones[name].res(mesh.TypeMesh, "", demo, &mesh.Mesh{}, resource.LabelZone, "-"))
		wires[name] = join(zones[name], g)
	}
	e, w := zones["east"], zones["west"]
	e.put(trust(e, "own", "default.east.mesh.local"), trust(e, "first", "shared.example"), trust(e, "global", "company.example"))
	w.put(trust(w, "own", "default.west.mesh.local"), trust(w, "second", "shared.example"), trust(w, "stolen", "default.east.mesh.local"))
	wires["east"].run()
	wires["west"].run()
	for zone, want := range map[string]map[string]string{
		"east": {"kri_mtrust_default_east__global_": codeForeignTrust},
		"west": {"kri_mtrust_default_west__second_": codeForeignTrust, "kri_mtrust_default_west__stolen_": codeForeignTrust},
	} {
		if diff := cmp.Diff(want, wires[zone].rejected(defaultScope)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", zone, diff)
		}
		wires[zone].equal()
	}
	var c claim
	data, ok := g.cat.Snapshot().Derived("trust-domain/", "", "shared.example")
	if !ok || !decode(data, &c) || c.Zone != "east" || c.Since.IsZero() {
		t.Errorf("the registry says %s", data)
	}
	// A good trust that changes its domain to a foreign one stays as it was.
	w.put(trust(w, "own", "default.east.mesh.local"))
	wires["west"].run()
	stored, _ := g.cat.Snapshot().Get(copied(mesh.TypeMeshTrust, demo, "own", "west"))
	if got := stored.Spec.(*mesh.MeshTrust).TrustDomain; got != "default.west.mesh.local" {
		t.Errorf("in force is %s", got)
	}
	// A claim lasts until its zone is deleted, not only as long as its trust.
	e.delete(resource.Key{Type: mesh.TypeMeshTrust, Mesh: demo, Name: "first"})
	wires["east"].run()
	if n, err := wires["west"].sink.Rejudge(t.Context()); n != 0 || err != nil {
		t.Errorf("a domain changed hands: %d, %v", n, err)
	}
	g.delete(resource.Key{Type: mesh.TypeZone, Name: "east"})
	if n, err := wires["west"].sink.Rejudge(t.Context()); n != 1 || err != nil {
		t.Errorf("after the zone was deleted: %d, %v", n, err)
	}
}

// Of two zones that claim one domain at the same time, exactly one gets it.
func TestTrustDomainsUnderRace(t *testing.T) {
	g := newGlobal(t, "east", "west")
	done := make(chan error)
	wires := map[string]*wire{}
	for _, zone := range []string{"east", "west"} {
		z := newSide(t, zone, nil)
		z.put(z.res(mesh.TypeMesh, "", demo, &mesh.Mesh{}, resource.LabelZone, "-"))
		for i := range 20 {
			z.put(trust(z, fmt.Sprintf("t-%d", i), fmt.Sprintf("d%d.example", i)))
		}
		z.current()
		w := join(z, g)
		w.limit = 10
		wires[zone] = w
		go func() {
			for _, b := range w.parts(z.offers.For(w.peer).Pin(), defaultScope) {
				if _, err := w.sink.Apply(t.Context(), b); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	stored := g.cat.Snapshot().Count(mesh.TypeMeshTrust, demo)
	rejected := len(wires["east"].rejected(defaultScope)) + len(wires["west"].rejected(defaultScope))
	if stored != 20 || rejected != 20 {
		t.Errorf("%d are stored, %d set aside", stored, rejected)
	}
}

// flaky is a store whose commits can be made to fail, before or after they happen.
type flaky struct {
	store.Store
	fail atomic.Pointer[error]
	lose atomic.Bool
}

func (f *flaky) Commit(ctx context.Context, b store.Batch) (store.Committed, error) {
	if err := f.fail.Load(); err != nil {
		return store.Committed{}, *err
	}
	c, err := f.Store.Commit(ctx, b)
	if err == nil && f.lose.CompareAndSwap(true, false) {
		return store.Committed{}, fmt.Errorf("connection lost: %w", store.ErrUnknownOutcome)
	}
	return c, err
}

func TestBatchesWaitForTheStore(t *testing.T) {
	g := newGlobal(t, "east")
	g.put(timeoutPolicy(g, "a", "1s"), g.res(mesh.TypeSecret, demo, "password", map[string]any{"data": "YQ=="}))
	g.current()
	st := &flaky{Store: memory.New()}
	e := openSide(t, "east", st, nil)
	w := join(g, e)
	b := w.parts(g.offers.For(w.peer).Pin(), defaultScope)[0]
	down := fmt.Errorf("dial: %w", store.ErrUnavailable)
	st.fail.Store(&down)
	if v, err := w.sink.Apply(t.Context(), b); !errors.Is(err, store.ErrUnavailable) || v != nil {
		t.Errorf("while the store is away: %v, %v", v, err)
	}
	st.fail.Store(nil)
	st.lose.Store(true)
	if v, err := w.sink.Apply(t.Context(), b); !errors.Is(err, store.ErrUnknownOutcome) || v != nil {
		t.Errorf("when the outcome is unknown: %v, %v", v, err)
	}
	if v, err := w.sink.Apply(t.Context(), b); err != nil || len(v.GetRejected()) > 0 {
		t.Errorf("again: %v, %v", v, err)
	}
	head := position(e)
	if v, err := w.sink.Apply(t.Context(), b); err != nil || len(v.GetRejected()) > 0 || !zonesync.SamePosition(head, position(e)) {
		t.Errorf("what is applied already is written again: %v, %v", v, err)
	}
	fenced := join(g, e, func(c *SinkConfig) {
		c.Fence = func() *store.Fence { return &store.Fence{Name: "sync", Holder: "old", Counter: 1} }
	})
	g.put(timeoutPolicy(g, "b", "1s"))
	g.current()
	if _, err := fenced.sink.Apply(t.Context(), fenced.parts(g.offers.For(w.peer).Pin(), defaultScope)[0]); !errors.Is(err, store.ErrFenced) {
		t.Errorf("under a lost lease: %v", err)
	}
}

// Bytes that cannot be read at all neither stop the rest nor let anything be deleted in their place.
func TestUnreadableBytes(t *testing.T) {
	g, e := newGlobal(t, "east"), newSide(t, "east", nil)
	g.put(timeoutPolicy(g, "a", "1s"), timeoutPolicy(g, "b", "1s"))
	w := join(g, e)
	w.run()
	view := g.offers.For(w.peer).Pin()
	b := w.parts(view, defaultScope)[0]
	b.Upserts[0] = []byte{0xff, 0xff}
	v := w.apply(b)
	if len(v.GetRejected()) != 1 || v.GetRejected()[0].GetCode() != codeUnreadable {
		t.Errorf("rejected: %v", v.GetRejected())
	}
	if n := e.cat.Snapshot().Count("MeshTimeout", demo); n != 2 || len(w.sink.Pending()) != 1 {
		t.Errorf("%d policies, pending: %v", n, w.sink.Pending())
	}
	for _, st := range w.sink.Have() {
		if st.GetScope() == defaultScope && st.GetDigest() != nil {
			t.Error("the digest of something unknown is known")
		}
	}
	w.whole(view, defaultScope, zonesync.ScopeBegin_SNAPSHOT)
	w.equal()
	if len(w.sink.Pending()) != 0 {
		t.Errorf("pending: %v", w.sink.Pending())
	}
}

// A zone that had a mesh of its own before it joined adopts global's mesh of that name, and keeps what is in it.
func TestJoiningAdoptsTheMesh(t *testing.T) {
	g, e := newGlobal(t, "east"), newSide(t, "east", nil)
	e.put(e.res(mesh.TypeMesh, "", demo, &mesh.Mesh{SkipCreatingInitialPolicies: []string{"*"}}, resource.LabelZone, "-"), service(e, "own"))
	w := join(g, e)
	w.run()
	w.equal()
	m, _ := e.get(mesh.TypeMesh, "", demo)
	if m.Label(resource.LabelOrigin) != resource.OriginGlobal || len(m.Spec.(*mesh.Mesh).SkipCreatingInitialPolicies) != 0 {
		t.Errorf("the mesh is %+v, %s", m.Meta, m.Raw)
	}
	if _, ok := e.get(mesh.TypeMeshService, demo, "own"); !ok {
		t.Error("what was in the mesh is gone")
	}
}

// A statement that comes before its service waits for it.
func TestStatementsWaitForTheirService(t *testing.T) {
	g := newGlobal(t, "east")
	e := newSide(t, "east", nil)
	e.put(e.res(mesh.TypeMesh, "", demo, &mesh.Mesh{}, resource.LabelZone, "-"), service(e, "web"))
	e.commit(catalog.Batch{Derived: []catalog.DerivedPut{{
		Key: catalog.StatusOf(resource.Key{Type: mesh.TypeMeshService, Mesh: demo, Name: "web"}), Data: []byte(`{"state":"Available"}`),
	}}})
	e.current()
	w := join(e, g)
	w.last, w.how = map[string]*zonesync.Verdict{}, map[string]zonesync.ScopeBegin_How{}
	b := w.parts(e.offers.For(w.peer).Pin(), defaultScope)[0]
	first, second := proto.CloneOf(b), proto.CloneOf(b)
	first.Upserts, first.Last = b.Upserts[1:], false
	second.Upserts, second.Part = b.Upserts[:1], 1
	w.apply(first)
	if got := w.rejected(defaultScope); !maps.Equal(got, map[string]string{"owner/kri_msvc_default_east__web_": codeNoService}) {
		t.Errorf("set aside: %v", got)
	}
	if v := w.apply(second); len(v.GetRejected()) != 0 {
		t.Errorf("rejected: %v", v.GetRejected())
	}
	if _, ok := g.cat.Snapshot().Derived(statementType, demo, copied(mesh.TypeMeshService, demo, "web", "east").Name); !ok {
		t.Error("the statement was forgotten")
	}
}

func TestSinksAreForOneDirection(t *testing.T) {
	g := newGlobal(t, "east")
	for _, cfg := range []SinkConfig{{}, {Catalog: g.cat}, {Catalog: g.cat, Zone: "east", From: Party{Zone: "west"}}} {
		if _, err := NewSink(cfg); err == nil {
			t.Errorf("%+v makes a sink", cfg)
		}
	}
}
