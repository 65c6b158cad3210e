package zones

import (
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/resource"
)

// Fault: a zone leaves its socket unread while policies change again and again. Outcome: global does not wait for it, the others get every
// change as fast as before, and what is held for it is bounded: when it reads again it gets the newest state, not every state on the way.
func TestAZoneThatDoesNotReadDelaysNobody(t *testing.T) {
	const n, changes = 200, 40
	g := newBareGlobal(t, version{beat: 5 * time.Second})
	w := newWire(t, g.address)
	lazy := newBareZone(t, "lazy", g.tokenVia("lazy", w.address()), version{beat: 5 * time.Second})
	others := []*bareZone{
		newBareZone(t, "east", g.token("east"), version{beat: 5 * time.Second}),
		newBareZone(t, "west", g.token("west"), version{beat: 5 * time.Second}),
	}
	// What is written cannot be compressed, so that little of it fits into buffers on the way.
	write := func() (mark string) {
		var rs []resource.Resource
		mark = rand.Text()
		for i := range n {
			var noise strings.Builder
			for noise.Len() < 4000 {
				noise.WriteString(rand.Text())
			}
			rs = append(rs, g.resource("MeshTimeout", "default", fmt.Sprintf("policy-%05d", i),
				fmt.Sprintf(`{"to":[{"targetRef":{"kind":"Mesh"},"default":{"connectionTimeout":"1s"}}],"mark":%q,"noise":%q}`, mark, &noise)))
		}
		g.commit(rs...)
		return mark
	}
	has := func(z *bareZone, mark string) {
		t.Helper()
		until(t, z.name()+" has the newest policies", func() (any, bool) {
			r, ok := z.find("MeshTimeout", fmt.Sprintf("policy-%05d", n-1), "")
			return r.Meta, ok && strings.Contains(string(r.Raw), mark)
		})
	}
	push := func() (mark string, took time.Duration) {
		t.Helper()
		begin := time.Now()
		for range changes {
			mark = write()
			for _, z := range others {
				has(z, mark)
			}
		}
		return mark, time.Since(begin)
	}
	mark := write()
	for _, z := range append(others, lazy) {
		has(z, mark)
	}
	before := w.sent.Load()
	has(lazy, write())
	each := w.sent.Load() - before
	mark, all := push()
	has(lazy, mark)

	w.stall(true)
	before = w.sent.Load()
	mark, beside := push()
	w.stall(false)
	has(lazy, mark)
	got := w.sent.Load() - before
	t.Logf("%d changes of %d KiB: %s when all read, %s beside a zone that does not; it then got %d KiB",
		changes, each>>10, all.Round(time.Millisecond), beside.Round(time.Millisecond), got>>10)
	// The machine is shared, so the bound is generous; whoever waited for the unread socket would wait until the link is given up.
	if limit := 4*all + 2*time.Second; beside > limit {
		t.Errorf("%d changes took %s beside a stalled zone and %s without", changes, beside, all)
	}
	if got > each*changes/2 {
		t.Errorf("the stalled zone got %d KiB afterwards, of %d KiB in all states on the way", got>>10, each*changes>>10)
	}
}
