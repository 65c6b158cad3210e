package postgres

import (
	"fmt"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/internal/ledger"
)

// Followers are handed what their instance has committed as long as it continues what they have, and not a batch more.
func TestNewsKeepsWhatFollowsWithoutAGap(t *testing.T) {
	lineage := ledger.NewLineage()
	at := func(revision uint64) store.Position { return store.Position{Lineage: lineage, Revision: revision} }
	batch := func(revision uint64, size int) store.Committed {
		return store.Committed{Position: at(revision), Changes: []store.Change{{Object: store.Object{Data: []byte(strings.Repeat("x", size))}}}}
	}
	var n news
	has := func(after store.Position, want ...uint64) {
		t.Helper()
		var got []uint64
		for _, c := range n.after(after) {
			got = append(got, c.Position.Revision)
			c.Changes[0].Object.Data[0] = 'y' // a follower may do what it likes
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("after %d: %v, want %v", after.Revision, got, want)
		}
	}
	has(store.Position{})
	n.committed(at(4), []store.Committed{batch(5, 10), batch(6, 10)})
	n.committed(at(6), []store.Committed{batch(7, 10)})
	has(at(3))
	has(at(4), 5, 6, 7)
	has(at(5), 6, 7)
	has(at(7))
	has(at(8))
	other := at(5)
	other.Chain[0] = 1
	has(other) // of another history
	if data := n.after(at(6))[0].Changes[0].Object.Data; strings.Contains(string(data), "y") {
		t.Error("followers share memory")
	}

	n.committed(at(8), []store.Committed{batch(9, 10)}) // another instance was first with 8
	has(at(6))
	has(at(7))
	has(at(8), 9)

	n.committed(at(9), []store.Committed{batch(10, freshBytes/2), batch(11, freshBytes/2), batch(12, 2*freshBytes)})
	has(at(10))
	has(at(11), 12)
	for i := range uint64(freshBatches) {
		n.committed(at(12+i), []store.Committed{batch(13+i, 1)})
	}
	has(at(11))
	if got := len(n.after(at(12))); got != freshBatches {
		t.Errorf("%d batches at hand, want %d", got, freshBatches)
	}
}
