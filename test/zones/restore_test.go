package zones

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/global-cp/globalcp"
	"github.com/causeway-mesh/causeway/store/backend"
	"github.com/causeway-mesh/causeway/store/embedded"
	"github.com/causeway-mesh/causeway/test/pg"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

func named(kind, name string) string {
	switch kind {
	case "MeshTimeout":
		return fmt.Sprintf("type: MeshTimeout\nmesh: default\nname: %s\nspec: {targetRef: {kind: Mesh}, to: [{targetRef: {kind: Mesh}, default: {connectionTimeout: 3s}}]}\n", name)
	default:
		return fmt.Sprintf("type: MeshService\nmesh: default\nname: %s\nspec: {selector: {dataplaneLabels: {matchLabels: {app: %s}}}, ports: [{port: 80, appProtocol: http}]}\n", name, name)
	}
}

// atGlobal waits until global has, or has not, a resource of a zone.
func atGlobal(t *testing.T, f *testmesh.Federation, typ, name, zone string, want bool) {
	t.Helper()
	until(t, fmt.Sprintf("global has %s %s of zone %q: %t", typ, name, zone, want), func() (any, bool) {
		r, ok := find(f.GlobalPlane().Catalog().Snapshot(), typ, name, zone)
		return r.Meta, ok == want
	})
}

// has fails the test when something is not stored at this moment that nobody deleted.
func has(t *testing.T, m *testmesh.Mesh, typ, zone string, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, ok := stored(m, typ, name, zone); !ok {
			t.Errorf("zone %s lost %s %s of zone %q, which nobody deleted", m.Zone.Name, typ, name, zone)
		}
	}
}

func untilPending(t *testing.T, what string, want int, pending func() int) {
	t.Helper()
	until(t, fmt.Sprintf("%d removals are pending %s", want, what), func() (any, bool) {
		n := pending()
		return n, n == want
	})
}

// Fault: global is restored from an older backup; once its operator raises the epoch of the store, once he forgets. Outcome: zones keep what the
// backup lacks, serve with it and show it as pending; what zones own is at global again; new writes travel both ways. Only an
// operator of the zone ends what is pending. Nothing else is deleted.
func TestGlobalRestoredFromABackup(t *testing.T) {
	for _, raise := range []bool{true, false} {
		t.Run(fmt.Sprintf("epoch raised %t", raise), func(t *testing.T) {
			f := testmesh.Federate(t, testmesh.FederationOptions{Store: backend.Embedded}, "east", "west")
			east, west := f.Zone("east"), f.Zone("west")
			f.Apply(t, named("MeshTimeout", "kept"))
			untilStored(t, east, "MeshTimeout", "kept", "", true)
			f.HaltGlobal(t)
			backup := f.Backup(t)
			f.StartGlobal(t)
			f.Apply(t, named("MeshTimeout", "lost"))
			east.Apply(t, named("MeshService", "web"))
			for _, z := range []*testmesh.Mesh{east, west} {
				untilStored(t, z, "MeshTimeout", "lost", "", true)
			}
			untilStored(t, west, "MeshService", "web", "east", true)

			f.HaltGlobal(t)
			f.Restore(t, backup)
			if raise {
				s, err := embedded.Open(t.Context(), embedded.Config{Path: f.WorkDir() + "/store.db", Holder: "the operator"})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.RaiseEpoch(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			f.StartGlobal(t)
			f.UntilLinked(t, "east")
			atGlobal(t, f, "MeshService", "web", "east", true)
			for _, z := range []*testmesh.Mesh{east, west} {
				until(t, "the loss is pending in zone "+z.Zone.Name, func() (any, bool) { n := z.Pending(t); return n, n >= 1 })
				has(t, z, "MeshTimeout", "", "kept", "lost")
			}
			has(t, west, "MeshService", "east", "web")
			f.Apply(t, named("MeshTimeout", "later"))
			untilStored(t, east, "MeshTimeout", "later", "", true)
			has(t, east, "MeshTimeout", "", "kept", "lost")
			east.Apply(t, named("MeshService", "api"))
			untilStored(t, west, "MeshService", "api", "east", true)

			if n := east.AdoptGlobal(t); n < 1 {
				t.Errorf("%d removals were confirmed", n)
			}
			untilStored(t, east, "MeshTimeout", "lost", "", false)
			has(t, east, "MeshTimeout", "", "kept", "later")
			has(t, west, "MeshTimeout", "", "kept", "lost", "later")
		})
	}
}

// Fault: global is wiped and starts empty. Outcome: zones do not know it, keep everything and serve; after a join with a new token they bring what
// they own, and what came from the old global is pending until their operators decide. Nothing is deleted.
func TestGlobalWiped(t *testing.T) {
	f := testmesh.Federate(t, testmesh.FederationOptions{Store: backend.Embedded}, "east")
	east := f.Zone("east")
	f.Apply(t, named("MeshTimeout", "slow"))
	untilStored(t, east, "MeshTimeout", "slow", "", true)
	east.Apply(t, named("MeshService", "web"))
	atGlobal(t, f, "MeshService", "web", "east", true)
	f.HaltGlobal(t)
	f.WipeGlobal(t)
	f.StartGlobal(t)
	east.Until(t, "the zone does not take the new global for the old one", func() (any, bool) {
		s := east.ControlPlane().Uplink().State()
		return fmt.Sprintf("%+v", s), !s.Linked
	})
	has(t, east, "MeshTimeout", "", "slow")
	has(t, east, "MeshService", "east", "web")

	f.NewToken(t, "east")
	f.UntilLinked(t, "east")
	atGlobal(t, f, "MeshService", "web", "east", true)
	until(t, "what the new global lacks is pending", func() (any, bool) { n := east.Pending(t); return n, n >= 1 })
	has(t, east, "MeshTimeout", "", "slow")
	f.Apply(t, named("MeshTimeout", "new"))
	untilStored(t, east, "MeshTimeout", "new", "", true)
	has(t, east, "MeshTimeout", "", "slow")
	has(t, east, "MeshService", "east", "web")
	has(t, east, mesh.TypeMesh, "", "default")
	east.AdoptGlobal(t)
	untilStored(t, east, "MeshTimeout", "slow", "", false)
	has(t, east, "MeshTimeout", "", "new")
	has(t, east, "MeshService", "east", "web")
}

// Fault: the store of a zone is deleted, and it joins again with a new token. Outcome: nothing of it is deleted at global or in other zones; global
// shows what the new store lacks; what the zone writes again is taken and not pending any more; the rest goes when an operator of global decides.
func TestZoneStoreDeleted(t *testing.T) {
	f := testmesh.Federate(t, testmesh.FederationOptions{Store: backend.Embedded}, "east", "west")
	east, west := f.Zone("east"), f.Zone("west")
	f.Apply(t, named("MeshTimeout", "slow"))
	east.Apply(t, named("MeshService", "web")+"---\n"+named("MeshService", "api"))
	untilStored(t, west, "MeshService", "web", "east", true)
	untilStored(t, west, "MeshService", "api", "east", true)
	before, _ := stored(west, "MeshService", "web", "east")

	east.Halt(t)
	east = f.Rebuild(t, "east")
	f.UntilLinked(t, "east")
	untilStored(t, east, "MeshTimeout", "slow", "", true)
	untilPending(t, "of zone east", 2, func() int { return f.Pending(t, "east") })
	var overview struct {
		PendingRemovals struct{ Total int }
	}
	if !f.ZoneOverview(t, "east", &overview) || overview.PendingRemovals.Total != 2 {
		t.Errorf("the overview says %+v, want 2 pending removals", overview)
	}
	has(t, west, "MeshService", "east", "web", "api")

	east.Apply(t, named("MeshService", "web"))
	untilPending(t, "of zone east", 1, func() int { return f.Pending(t, "east") })
	has(t, west, "MeshService", "east", "web", "api")
	if n := f.Adopt(t, "east"); n != 1 {
		t.Errorf("%d removals were confirmed, want 1", n)
	}
	untilStored(t, west, "MeshService", "api", "east", false)
	has(t, west, "MeshService", "east", "web")
	has(t, east, "MeshService", "east", "web")
	after, _ := stored(west, "MeshService", "web", "east")
	if own, _ := stored(east, "MeshService", "web", "east"); after.UID != own.UID || after.UID == before.UID {
		t.Errorf("the copy has UID %s, want that of the new original, %s", after.UID, own.UID)
	}
}

// Fault: the store of a zone is restored from an older backup. Outcome: it links without a new token, gets what it lacks from global, and what it
// owned and the backup lacks stays at global and in other zones as pending. Nothing is deleted.
func TestZoneRestoredFromABackup(t *testing.T) {
	f := testmesh.Federate(t, testmesh.FederationOptions{Store: backend.Embedded}, "east", "west")
	east, west := f.Zone("east"), f.Zone("west")
	east.Apply(t, named("MeshService", "web"))
	untilStored(t, west, "MeshService", "web", "east", true)
	east.Halt(t)
	backup := east.Backup(t)
	east.Start(t)
	f.UntilLinked(t, "east")
	east.Apply(t, named("MeshService", "api"))
	f.Apply(t, named("MeshTimeout", "slow"))
	untilStored(t, west, "MeshService", "api", "east", true)
	untilStored(t, east, "MeshTimeout", "slow", "", true)

	east.Halt(t)
	east.Restore(t, backup)
	east.Start(t)
	f.UntilLinked(t, "east")
	untilStored(t, east, "MeshTimeout", "slow", "", true)
	untilPending(t, "of zone east", 1, func() int { return f.Pending(t, "east") })
	has(t, west, "MeshService", "east", "web", "api")
	east.Apply(t, named("MeshService", "later"))
	untilStored(t, west, "MeshService", "later", "east", true)
	has(t, west, "MeshService", "east", "web", "api")
	east.Apply(t, named("MeshService", "api")) // its owner has it again
	untilPending(t, "of zone east", 0, func() int { return f.Pending(t, "east") })
	has(t, west, "MeshService", "east", "web", "api", "later")
}

// Fault: the PostgreSQL of global fails over to a standby that lacks the last commits: the same lineage, a lower revision, and then another chain.
// Outcome: zones that have seen the lost commits keep them as pending, and follow the new history. Nothing is deleted.
func TestStandbyLacksTheLastCommits(t *testing.T) {
	server := pg.Start(t)
	dsn := server.Database(t)
	f := testmesh.Federate(t, testmesh.FederationOptions{
		Store: backend.Postgres, DSN: dsn, ConfigureGlobal: func(c *globalcp.Config) { c.Store.Postgres.DSN = dsn },
	}, "east")
	east := f.Zone("east")
	f.Apply(t, named("MeshTimeout", "kept"))
	untilStored(t, east, "MeshTimeout", "kept", "", true)
	f.HaltGlobal(t)
	primary, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	server.Exec(t, "CREATE DATABASE standby TEMPLATE "+strings.TrimPrefix(primary.Path, "/"))
	f.StartGlobal(t)
	f.Apply(t, named("MeshTimeout", "lost"))
	untilStored(t, east, "MeshTimeout", "lost", "", true)
	east.Apply(t, named("MeshService", "web"))
	atGlobal(t, f, "MeshService", "web", "east", true)
	before := f.GlobalPlane().Catalog().Snapshot().Position()
	f.HaltGlobal(t)
	dsn = server.DSN("standby")
	f.StartGlobal(t)
	f.Apply(t, named("MeshTimeout", "other")) // takes a revision that the zone has seen with another content
	f.UntilLinked(t, "east")
	untilStored(t, east, "MeshTimeout", "other", "", true)
	until(t, "the lost commit is pending", func() (any, bool) { n := east.Pending(t); return n, n >= 1 })
	has(t, east, "MeshTimeout", "", "kept", "lost")
	atGlobal(t, f, "MeshService", "web", "east", true)
	if now := f.GlobalPlane().Catalog().Snapshot().Position(); now.Lineage != before.Lineage {
		t.Errorf("the lineage went from %s to %s: this fault is one that nobody announced", before.Lineage, now.Lineage)
	}
	f.Delete(t, "MeshTimeout", "kept")
	untilStored(t, east, "MeshTimeout", "kept", "", false)
	has(t, east, "MeshTimeout", "", "lost", "other")
	has(t, east, mesh.TypeMesh, "", "default")
}
