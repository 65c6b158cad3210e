package ledger

import (
	"fmt"
	"time"

	"github.com/causeway-mesh/causeway/store"
)

// A Head is what a store says of its own history at one moment.
type Head struct {
	store.Position
	Compacted uint64      // the last revision that history no longer holds; 0 when it is whole
	Base      store.Chain // the chain at Compacted
}

// Admit says whether a follower at a position can go on. At is the chain stored at the revision of the position and is
// only looked at between Compacted and the head; the result is the position in terms of this lineage.
func (h Head) Admit(after store.Position, at store.Chain) (store.Position, error) {
	start := after == store.Position{}
	switch {
	case !start && after.Lineage != h.Lineage:
		return after, fmt.Errorf("%s is not of lineage %s: %w", after, h.Lineage, store.ErrForked)
	case after.Revision > h.Revision:
		return after, fmt.Errorf("%s is ahead of the store at %s: %w", after, h.Position, store.ErrForked)
	case after.Revision < h.Compacted:
		return after, fmt.Errorf("%s is older than revision %d: %w", after, h.Compacted, store.ErrCompacted)
	case after.Revision == 0:
		at = store.Chain{}
	case after.Revision == h.Compacted:
		at = h.Base
	case after.Revision == h.Revision:
		at = h.Chain
	}
	if after.Chain != at {
		return after, fmt.Errorf("%s has another chain here: %w", after, store.ErrForked)
	}
	after.Lineage = h.Lineage
	return after, nil
}

// CheckLease refuses leases that no implementation could keep.
func CheckLease(name, holder string, ttl time.Duration) error {
	switch {
	case name == "":
		return fmt.Errorf("acquire a lease: %w: it has no name", store.ErrInvalid)
	case holder == "":
		return fmt.Errorf("acquire lease %q: %w: it has no holder", name, store.ErrInvalid)
	case !isName(name) || !isName(holder):
		return fmt.Errorf("acquire lease %.100q for %.100q: %w: both must be UTF-8 text without NUL, at most %d bytes", name, holder, store.ErrInvalid, store.MaxKey)
	case ttl <= 0:
		return fmt.Errorf("acquire lease %q: %w: its duration is %s", name, store.ErrInvalid, ttl)
	}
	return nil
}

// Latest keeps the last of the observations with equal keys, in order of their first mention, and refuses one without a key.
func Latest(obs []store.Observation) ([]store.Observation, error) {
	at := make(map[string]int, len(obs))
	var latest []store.Observation
	for _, o := range obs {
		if o.Key == "" || !isName(o.Key) {
			return nil, fmt.Errorf("observe %.100q: %w: the key must be UTF-8 text without NUL, at most %d bytes", o.Key, store.ErrInvalid, store.MaxKey)
		}
		if i, ok := at[o.Key]; ok {
			latest[i] = o
			continue
		}
		at[o.Key] = len(latest)
		latest = append(latest, o)
	}
	return latest, nil
}
