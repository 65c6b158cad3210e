package zones

import (
	"fmt"
	"runtime/metrics"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/api/mesh"
)

func heap() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// Load: a fresh zone joins a global with 20,000 objects. Outcome: all of them arrive, and what the link itself holds is bounded: beside the
// objects that the zone keeps there are some batches under way, not a second copy of everything for each stage. Nothing is deleted.
func TestTwentyThousandObjectsForAFreshZone(t *testing.T) {
	g := newBareGlobal(t, version{beat: 5 * time.Second})
	const n = 20_000
	g.many(n, "1s")
	before := heap()
	w := newWire(t, g.address)
	z := newBareZone(t, "east", g.tokenVia("east", w.address()), version{beat: 5 * time.Second})
	lost := z.gone()
	peak := before
	until(t, "the zone has 20,000 policies", func() (any, bool) {
		peak = max(peak, heap())
		count := z.catalog.Snapshot().Count("MeshTimeout", "default")
		return count, count == n
	})
	z.untilMany(n, "1s")
	const limit = 256 << 20
	if peak > before+limit {
		t.Errorf("memory went from %d to %d MiB for %d MiB of messages", before>>20, peak>>20, w.sent.Load()>>20)
	}
	t.Logf("memory went from %d to at most %d MiB; %d KiB were sent", before>>20, peak>>20, w.sent.Load()>>10)
	if d := lost(); len(d) > 0 {
		t.Errorf("%d objects were deleted", len(d))
	}
}

// Fault: the network of global is away, and 200 zones come back at once. Outcome: they are admitted some at a time, all are linked again, and
// have what was written meanwhile. Nothing is deleted.
func TestTwoHundredZonesComeBackAtOnce(t *testing.T) {
	g := newBareGlobal(t, version{beat: 5 * time.Second})
	w := newWire(t, g.address)
	const n = 200
	zones := make([]*bareZone, n)
	for i := range zones {
		name := fmt.Sprintf("zone-%03d", i)
		zones[i] = newBareZone(t, name, g.tokenVia(name, w.address()), version{beat: 5 * time.Second})
	}
	all := func(what string, holds func(z *bareZone) bool) {
		t.Helper()
		until(t, what, func() (any, bool) {
			count, others := 0, map[string]int{}
			for _, z := range zones {
				if holds(z) {
					count++
				} else {
					others[z.uplink.State().Err]++
				}
			}
			return fmt.Sprintf("%d of %d; the others: %v", count, n, others), count == n
		})
	}
	linked := func(z *bareZone) bool { return z.uplink.State().Linked }
	all("every zone is linked", linked)
	lost := g.gone()
	w.take(true)
	all("no zone is linked", func(z *bareZone) bool { return !linked(z) })
	g.put("MeshTimeout", "default", "slow", policy)
	var writes errgroup.Group
	writes.SetLimit(8)
	for _, z := range zones[:20] {
		writes.Go(func() error {
			z.put(mesh.TypeMeshService, "default", "web", service)
			return nil
		})
	}
	_ = writes.Wait()
	w.take(false)
	all("every zone is linked again and has the new policy", func(z *bareZone) bool {
		_, ok := z.find("MeshTimeout", "slow", "")
		return ok && linked(z)
	})
	if c := g.hub.Connected(); c != n {
		t.Errorf("%d links are open, want %d", c, n)
	}
	until(t, "global has the services", func() (any, bool) {
		c := g.catalog.Snapshot().Count(mesh.TypeMeshService, "default")
		return c, c == 20
	})
	if d := lost(); len(d) > 0 {
		t.Errorf("deleted: %v", d)
	}
}
