// Package exchange is what zone sync reads and writes: it lists what a control plane offers to a peer, as items that are encoded once
// for all peers, and applies what a peer sends to the catalog, so that it is durable and nothing is lost or deleted by mistake.
// It moves no messages, knows no connections and decides nothing about links.
package exchange

import (
	"errors"
	"fmt"

	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/store"
)

// ErrOutOfStep is a batch that does not follow what was applied before it: the link must end, and the next one resume or send a snapshot.
var ErrOutOfStep = errors.New("batch does not follow what is held")

// ErrMalformed is a message that breaks the protocol.
var ErrMalformed = errors.New("malformed message")

// LineageOf is a lineage for the wire.
func LineageOf(l store.Lineage) *zonesync.Lineage { return &zonesync.Lineage{Id: l.ID, Epoch: l.Epoch} }

// PositionOf is a position for the wire.
func PositionOf(p store.Position) *zonesync.Position {
	return &zonesync.Position{Lineage: LineageOf(p.Lineage), Revision: p.Revision, Chain: p.Chain[:]}
}

// StorePosition reads a position from the wire; none at all is the beginning of any history.
func StorePosition(p *zonesync.Position) (store.Position, error) {
	out := store.Position{Lineage: store.Lineage{ID: p.GetLineage().GetId(), Epoch: p.GetLineage().GetEpoch()}, Revision: p.GetRevision()}
	if len(p.GetChain()) != 0 && len(p.GetChain()) != len(out.Chain) {
		return store.Position{}, fmt.Errorf("%w: a chain of %d bytes", ErrMalformed, len(p.GetChain()))
	}
	copy(out.Chain[:], p.GetChain())
	return out, nil
}
