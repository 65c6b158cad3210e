package zones

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/causeway-mesh/causeway/store/backend"
	"github.com/causeway-mesh/causeway/test/testmesh"
	"github.com/causeway-mesh/causeway/zone-cp/zonecp"
)

// Fault: the disk of a zone is full. Outcome: the zone acknowledges nothing that it cannot keep, and says why; it serves what it has, to readers and to
// global; with space again it has everything. Nothing is deleted.
func TestDiskOfAZoneIsFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("no small file system to fill: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	f := testmesh.Federate(t, testmesh.FederationOptions{Store: backend.Embedded, ConfigureZone: func(zone string, c *zonecp.Config) {
		if zone == "east" {
			c.Store.Path = filepath.Join(dir, "store.db")
		}
	}}, "east", "west")
	east, west := f.Zone("east"), f.Zone("west")
	f.Apply(t, named("MeshTimeout", "kept"))
	east.Apply(t, named("MeshService", "web"))
	untilStored(t, east, "MeshTimeout", "kept", "", true)
	untilStored(t, west, "MeshService", "web", "east", true)

	filler := filepath.Join(dir, "filler")
	file, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = file.Write(make([]byte, 4<<10))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill the disk: %v", err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	// A write of the zone itself shows that there is no space left.
	until(t, "the zone refuses writes", func() (any, bool) {
		err := east.TryApply(t, named("MeshService", fmt.Sprintf("filler-%d", os.Getpid())))
		return err, err != nil
	})
	f.Apply(t, named("MeshTimeout", "later"))
	untilStored(t, west, "MeshTimeout", "later", "", true)
	revision := f.GlobalPlane().Catalog().Snapshot().Position().Revision
	until(t, "west has acknowledged what was written", func() (any, bool) {
		r := received(t, f, "west")
		return r, r >= revision
	})
	if r := received(t, f, "east"); r >= revision {
		t.Errorf("the zone acknowledged revision %d, which it cannot keep", r)
	}
	has(t, east, "MeshTimeout", "", "kept")
	var service map[string]any
	if !east.Read(t, "MeshService", "web", &service) {
		t.Error("the zone does not answer readers any more")
	}
	has(t, west, "MeshService", "east", "web")

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	untilStored(t, east, "MeshTimeout", "later", "", true)
	f.UntilLinked(t, "east")
	has(t, east, "MeshTimeout", "", "kept")
	has(t, east, "MeshService", "east", "web")
	has(t, west, "MeshService", "east", "web")
	east.Apply(t, named("MeshService", "api"))
	untilStored(t, west, "MeshService", "api", "east", true)
}

// received is the revision that a zone has made durable, as global sees it.
func received(t *testing.T, f *testmesh.Federation, zone string) uint64 {
	t.Helper()
	var o struct {
		ZoneInsight struct{ Received uint64 }
	}
	if !f.ZoneOverview(t, zone, &o) {
		t.Fatalf("there is no zone %s", zone)
	}
	return o.ZoneInsight.Received
}
