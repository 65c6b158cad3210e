package zonecp

import (
	"testing"

	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/zone-cp/push"
)

// Instances compute each for itself; what they have in common are revisions of the store.
func TestProgressOfInstancesIsComparedByRevision(t *testing.T) {
	s := newStanding(nil)
	at := func(sequence, revision, least uint64) uint64 {
		return s.note(push.Standing{Progress: push.Progress{Sequence: sequence, Position: store.Position{Revision: revision}}, Least: least})
	}
	for _, c := range []struct{ sequence, revision, least, want uint64 }{
		{1, 10, 1, 10},
		{2, 12, 1, 10}, // proxies have not acknowledged 12 yet
		{3, 12, 1, 10}, // facts changed, and no revision
		{3, 12, 2, 10}, // nor have they all of 12
		{4, 15, 3, 12},
		{4, 15, 4, 15},
		{9, 20, 0, 0}, // somebody has nothing
		{9, 20, 4, 15},
	} {
		if got := at(c.sequence, c.revision, c.least); got != c.want {
			t.Errorf("at computation %d, revision %d, with proxies at %d: all are at revision %d, want %d", c.sequence, c.revision, c.least, got, c.want)
		}
	}
	for revision, want := range map[uint64]uint64{0: 0, 9: 0, 10: 1, 11: 1, 12: 3, 14: 3, 15: 4, 19: 4, 20: 9, 99: 9} {
		if got := s.sequenceAt(revision); got != want {
			t.Errorf("an instance at revision %d has what is computation %d here, want %d", revision, got, want)
		}
	}
	for n := uint64(21); n < 21+2*maxSteps; n++ {
		at(n, n, 9)
	}
	if got := at(99_999, 99_999, 9); got != 0 || len(s.steps) > maxSteps {
		t.Errorf("what is forgotten counts as acknowledged: %d, of %d steps", got, len(s.steps))
	}
}
