package zones

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/store/backend"
	"github.com/causeway-mesh/causeway/test/testmesh"
	"github.com/causeway-mesh/causeway/zone-cp/zonecp"
)

// many writes so many policies at once, each in a version of its own.
func (b *bare) many(n int, version string) {
	b.t.Helper()
	const atOnce = 1000
	for from := 0; from < n; from += atOnce {
		var batch []string
		for i := from; i < min(from+atOnce, n); i++ {
			batch = append(batch, fmt.Sprintf("policy-%05d", i))
		}
		b.commitAll(batch, fmt.Sprintf(`{"to":[{"targetRef":{"kind":"Mesh"},"default":{"connectionTimeout":%q}}]}`, version))
	}
}

func (b *bare) untilMany(n int, version string) {
	b.t.Helper()
	last := fmt.Sprintf("policy-%05d", n-1)
	until(b.t, fmt.Sprintf("%s has %d policies of version %s", b.name(), n, version), func() (any, bool) {
		count := b.catalog.Snapshot().Count("MeshTimeout", "default")
		if count < n {
			return count, false
		}
		r, ok := b.find("MeshTimeout", last, "")
		return fmt.Sprintf("%d, %s", count, r.Raw), ok && count == n && string(r.Raw) == fmt.Sprintf(`{"to":[{"targetRef":{"kind":"Mesh"},"default":{"connectionTimeout":%q}}]}`, version)
	})
}

// Fault: the connection breaks in the middle of a batch, of the first snapshot and of a change, several times. Outcome: the next link begins
// the snapshot again or goes on after the last durable position, and everything arrives. Nothing is deleted at either end.
func TestLinkCutInTheMiddleOfABatch(t *testing.T) {
	// Calm beats: on a busy machine a large batch may take longer than three short ones.
	g := newBareGlobal(t, version{beat: 5 * time.Second})
	const n = 4000
	g.many(n, "1s")
	w := newWire(t, g.address)
	w.cutAfter.Store(700_000) // in the second part of the snapshot
	z := newBareZone(t, "east", g.tokenVia("east", w.address()), version{beat: 5 * time.Second})
	z.put(mesh.TypeMeshService, "default", "web", service)
	lost, lostAtGlobal := z.gone(), g.gone()
	z.untilMany(n, "1s")
	if w.cuts.Load() != 1 {
		t.Fatalf("the connection broke %d times, want 1; %d bytes came", w.cuts.Load(), w.sent.Load())
	}
	for i, after := range []int64{100_000, 900_000} {
		w.cutAfter.Store(w.sent.Load() + after)
		next := fmt.Sprintf("%ds", i+2)
		g.many(n, next)
		z.untilMany(n, next)
		if w.cuts.Load() != int64(i+2) {
			t.Errorf("the connection broke %d times, want %d", w.cuts.Load(), i+2)
		}
	}
	g.until(mesh.TypeMeshService, "web", "east", true)
	if d := append(lost(), lostAtGlobal()...); len(d) > 0 {
		t.Errorf("%d objects were deleted: %v", len(d), d[:min(len(d), 5)])
	}
}

// Fault: the network between a zone and global dies without a word, and global does not notice. Outcome: the zone finds the link dead by its
// beats, and its next link takes the place of the half-open one. Nothing is deleted.
func TestHalfOpenLinkIsReplaced(t *testing.T) {
	g := newBareGlobal(t, version{beat: time.Hour})
	w := newWire(t, g.address)
	z := newBareZone(t, "east", g.tokenVia("east", w.address()), version{beat: 100 * time.Millisecond})
	z.until(mesh.TypeMesh, "default", "", true)
	z.put(mesh.TypeMeshService, "default", "web", service)
	g.until(mesh.TypeMeshService, "web", "east", true)
	lost, lostAtGlobal := z.gone(), g.gone()
	since := z.uplink.State().Since
	w.swallow()
	g.put("MeshTimeout", "default", "slow", policy)
	z.put(mesh.TypeMeshService, "default", "api", service)
	z.until("MeshTimeout", "slow", "", true)
	g.until(mesh.TypeMeshService, "api", "east", true)
	if s := z.uplink.State(); !s.Linked || s.Since.Equal(since) {
		t.Errorf("the link stands at %+v, want a new one", s)
	}
	if n := g.hub.Connected(); n != 1 {
		t.Errorf("%d links are open, want 1", n)
	}
	text, _ := g.board.Zone("east")
	var o mesh.ZoneInsight
	if err := json.Unmarshal(text, &o); err != nil {
		t.Fatal(err)
	}
	open := 0
	for _, s := range o.Subscriptions {
		if s.DisconnectTime.IsZero() {
			open++
		}
	}
	if open != 1 || len(o.Subscriptions) < 2 {
		t.Errorf("%d of %d connections are shown as open, want the last", open, len(o.Subscriptions))
	}
	if d := append(lost(), lostAtGlobal()...); len(d) > 0 {
		t.Errorf("deleted: %v", d)
	}
}

// Fault: global and a zone are set to beat at intervals that differ a thousandfold, either way. Outcome: the link lives.
func TestBeatsOfDifferentIntervals(t *testing.T) {
	for _, c := range []struct{ global, zone time.Duration }{{100 * time.Millisecond, time.Hour}, {time.Hour, 100 * time.Millisecond}} {
		t.Run(fmt.Sprintf("global every %s", c.global), func(t *testing.T) {
			g := newBareGlobal(t, version{beat: c.global})
			z := newBareZone(t, "east", g.token("east"), version{beat: c.zone})
			z.untilLinked(true, "")
			since := z.uplink.State().Since
			until(t, "ten of the faster beats have passed", func() (any, bool) {
				s := z.uplink.State()
				if !s.Linked || !s.Since.Equal(since) {
					t.Fatalf("the link stands at %+v, want the one of %s", s, since)
				}
				return s, time.Since(since) > 10*min(c.global, c.zone)
			})
			z.put(mesh.TypeMeshService, "default", "web", service)
			g.until(mesh.TypeMeshService, "web", "east", true)
		})
	}
}

// Fault: global is killed: its process ends at once, and what its disk holds at that moment is all that is left. Outcome: zones serve and take
// writes; when it is back everything written meanwhile is exchanged. Nothing is deleted.
//
// Acceptance: M resilience: global is killed and starts again
func TestGlobalKilled(t *testing.T) {
	f := testmesh.Federate(t, testmesh.FederationOptions{Store: backend.Embedded}, "east", "west")
	east, west := f.Zone("east"), f.Zone("west")
	east.Apply(t, named("MeshService", "web"))
	f.Apply(t, named("MeshTimeout", "slow"))
	untilStored(t, west, "MeshService", "web", "east", true)
	untilStored(t, east, "MeshTimeout", "slow", "", true)
	untilStored(t, west, "MeshTimeout", "slow", "", true)
	f.CrashGlobal(t)
	east.Apply(t, named("MeshService", "api"))
	east.Delete(t, "MeshService", "web")
	has(t, west, "MeshService", "east", "web")
	has(t, west, "MeshTimeout", "", "slow")
	f.StartGlobal(t)
	untilStored(t, west, "MeshService", "api", "east", true)
	untilStored(t, west, "MeshService", "web", "east", false) // its owner deleted it
	has(t, east, "MeshTimeout", "", "slow")
	has(t, west, "MeshTimeout", "", "slow")
	if n := east.Pending(t) + west.Pending(t) + f.Pending(t, "east") + f.Pending(t, "west"); n != 0 {
		t.Errorf("%d removals are pending, want none", n)
	}
}

// Fault: the control plane of a zone is killed. Outcome: what it owns stays at global and in other zones; when it is back it goes on where its
// disk says. Nothing is deleted.
//
// Acceptance: M resilience: a zone whose control plane is killed is seen as away
func TestZoneKilled(t *testing.T) {
	f := testmesh.Federate(t, testmesh.FederationOptions{Store: backend.Embedded}, "east", "west")
	east, west := f.Zone("east"), f.Zone("west")
	east.Apply(t, named("MeshService", "web"))
	untilStored(t, west, "MeshService", "web", "east", true)
	east.Crash(t)
	until(t, "global sees that the zone is away", func() (any, bool) { return nil, !f.GlobalPlane().Board().Online("east") })
	f.Apply(t, named("MeshTimeout", "slow"))
	untilStored(t, west, "MeshTimeout", "slow", "", true)
	has(t, west, "MeshService", "east", "web")
	atGlobal(t, f, "MeshService", "web", "east", true)
	east.Start(t)
	f.UntilLinked(t, "east")
	untilStored(t, east, "MeshTimeout", "slow", "", true)
	has(t, east, "MeshService", "east", "web")
	has(t, west, "MeshService", "east", "web")
	if n := east.Pending(t) + f.Pending(t, "east"); n != 0 {
		t.Errorf("%d removals are pending, want none", n)
	}
}

// Change: a zone serves one mesh more, and later one less. Outcome: the mesh comes with everything in it that is older, and goes again from
// this zone alone; other meshes, and what global holds, are as before.
func TestMeshesOfAZone(t *testing.T) {
	serves := []string{"default"}
	f := testmesh.Federate(t, testmesh.FederationOptions{Store: backend.Embedded, ConfigureZone: func(_ string, c *zonecp.Config) {
		c.Global.Meshes = serves
	}}, "east")
	east := f.Zone("east")
	f.Apply(t, "type: Mesh\nname: blue\n---\ntype: MeshTimeout\nmesh: blue\nname: older\nspec: {targetRef: {kind: Mesh}, to: [{targetRef: {kind: Mesh}, default: {connectionTimeout: 3s}}]}\n")
	f.Apply(t, named("MeshTimeout", "slow"))
	untilStored(t, east, "MeshTimeout", "slow", "", true)
	untilStored(t, east, "MeshTimeout", "older", "", false)
	untilStored(t, east, mesh.TypeMesh, "blue", "", false)
	restart := func(meshes ...string) {
		t.Helper()
		serves = meshes
		east.Halt(t)
		east.Start(t)
		f.UntilLinked(t, "east")
	}
	restart("default", "blue")
	untilStored(t, east, mesh.TypeMesh, "blue", "", true)
	untilStored(t, east, "MeshTimeout", "older", "", true)
	has(t, east, "MeshTimeout", "", "slow")
	restart("default")
	untilStored(t, east, "MeshTimeout", "older", "", false)
	has(t, east, "MeshTimeout", "", "slow")
	atGlobal(t, f, "MeshTimeout", "older", "", true)
	atGlobal(t, f, mesh.TypeMesh, "blue", "", true)
}

// Change: a zone is disabled and enabled again. Outcome: what it owns leaves the other zones and comes back, with what it wrote meanwhile; global
// keeps it, and the zone itself goes on with it, with global's policies, and with what other zones offer. Nothing is deleted at its owner.
func TestZoneDisabled(t *testing.T) {
	f := testmesh.Federate(t, testmesh.FederationOptions{}, "east", "west")
	east, west := f.Zone("east"), f.Zone("west")
	east.Apply(t, named("MeshService", "web"))
	west.Apply(t, named("MeshService", "api"))
	untilStored(t, west, "MeshService", "web", "east", true)
	untilStored(t, east, "MeshService", "api", "west", true)
	f.Enable(t, "east", false)
	untilStored(t, west, "MeshService", "web", "east", false)
	atGlobal(t, f, "MeshService", "web", "east", true)
	east.Apply(t, named("MeshService", "later"))
	f.Apply(t, named("MeshTimeout", "slow"))
	untilStored(t, east, "MeshTimeout", "slow", "", true)
	atGlobal(t, f, "MeshService", "later", "east", true)
	has(t, east, "MeshService", "east", "web", "later")
	has(t, east, "MeshService", "west", "api")
	if s := east.ControlPlane().Uplink().State(); !s.Linked {
		t.Errorf("a disabled zone has no link: %+v", s)
	}
	f.Enable(t, "east", true)
	untilStored(t, west, "MeshService", "web", "east", true)
	untilStored(t, west, "MeshService", "later", "east", true)
	has(t, east, "MeshService", "east", "web", "later")
}

// Change: a zone is deleted at global. Outcome: not while it is linked; once it is, it finds its credential void when it comes back; what it owned goes at global and from the other zones; the
// zone itself keeps and serves everything. With a new token it comes back as a new zone, and brings what it owns.
func TestZoneDeleted(t *testing.T) {
	var through *wire
	f := testmesh.Federate(t, testmesh.FederationOptions{Through: func(zone, global string) string {
		if zone != "east" {
			return global
		}
		if through == nil {
			through = newWire(t, global)
		}
		return through.address()
	}}, "east", "west")
	east, west := f.Zone("east"), f.Zone("west")
	f.Apply(t, named("MeshTimeout", "slow"))
	east.Apply(t, named("MeshService", "web"))
	untilStored(t, west, "MeshService", "web", "east", true)
	untilStored(t, east, "MeshTimeout", "slow", "", true)
	if err := f.TryDeleteZone(t, "east"); err == nil || !strings.Contains(err.Error(), "online") {
		t.Errorf("a zone that is linked was deleted without a warning: %v", err)
	}
	through.take(true)
	until(t, "global sees that the zone is away", func() (any, bool) { return nil, !f.GlobalPlane().Board().Online("east") })
	if err := f.TryDeleteZone(t, "east"); err != nil {
		t.Fatal(err)
	}
	through.take(false)
	east.Until(t, "the credential is void", func() (any, bool) {
		s := east.ControlPlane().Uplink().State()
		return fmt.Sprintf("%+v", s), !s.Linked
	})
	atGlobal(t, f, "MeshService", "web", "east", false)
	untilStored(t, west, "MeshService", "web", "east", false)
	has(t, east, "MeshService", "east", "web")
	has(t, east, "MeshTimeout", "", "slow")
	has(t, west, "MeshTimeout", "", "slow")
	east.Apply(t, named("MeshService", "api"))
	f.NewToken(t, "east")
	f.UntilLinked(t, "east")
	untilStored(t, west, "MeshService", "web", "east", true)
	untilStored(t, west, "MeshService", "api", "east", true)
	has(t, east, "MeshTimeout", "", "slow")
}

// Change: the resource of a zone goes from global's store under a living link, as when an instance that lost the link deletes it. Outcome: the
// link is cut at once and the credential void; what the zone owned goes with its Zone at global, and nothing at the zone.
func TestZoneGoesUnderItsLink(t *testing.T) {
	g := newBareGlobal(t, version{})
	z := newBareZone(t, "east", g.token("east"), version{})
	z.until(mesh.TypeMesh, "default", "", true)
	z.put(mesh.TypeMeshService, "default", "web", service)
	g.until(mesh.TypeMeshService, "web", "east", true)
	lost := z.gone()
	g.delete(mesh.TypeZone, "", "east")
	z.untilLinked(false, "was deleted")
	g.until(mesh.TypeMeshService, "web", "east", false)
	if n := g.hub.Connected(); n != 0 {
		t.Errorf("%d links are open, want none", n)
	}
	if d := lost(); len(d) > 0 {
		t.Errorf("the zone lost %v", d)
	}
}
