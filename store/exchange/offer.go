package exchange

import (
	"context"
	"errors"
	"log/slog"

	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
)

var errUnfinished = errors.New("not written yet")

// OffersConfig is what Offers needs.
type OffersConfig struct {
	Catalog *catalog.Catalog
	// Store is the catalog's store, whose history says what changed since a position.
	Store store.Store
	// Zone is the name of this zone; empty at global.
	Zone string
	Log  *slog.Logger
}

// Offers is everything that a control plane offers to its peers, encoded once for all of them. Run keeps it current.
type Offers struct{ cfg OffersConfig }

// A Peer is who something is offered to: at global a zone, with the meshes that it serves (none means all), or in a zone global.
type Peer struct {
	ToGlobal bool
	ToZone   string
	Meshes   []string
}

// NewOffers lists what the current snapshot of the catalog offers.
func NewOffers(cfg OffersConfig) (*Offers, error) { return &Offers{cfg: cfg}, nil }

// Run follows the catalog until ctx ends.
func (o *Offers) Run(ctx context.Context) error { return errUnfinished }

// For is what is offered to one peer. It costs nothing to make.
func (o *Offers) For(p Peer) *View { return &View{} }

// Subscribe starts a feed of what changes for one peer from now on; Close ends it.
func (o *Offers) Subscribe(p Peer) *Feed { return &Feed{} }

// Since is what changed in one scope since a position that the peer has. Errors wrap store.ErrForked when the position is no part of
// the history, and store.ErrCompacted when history does not reach back; both mean a snapshot.
func (o *Offers) Since(ctx context.Context, p Peer, scope string, after *zonesync.Position) (Changes, error) {
	return Changes{}, errUnfinished
}

// A View is what is offered to one peer; it implements zonesync.Source.
type View struct{}

var _ zonesync.Source = (*View)(nil)

// Scopes lists the scopes that are offered, sorted.
func (v *View) Scopes() []string { return nil }

// Cut is everything of a scope.
func (v *View) Cut(scope string) zonesync.Cut { return zonesync.Cut{} }

// Item is one object of a scope; false when it is not offered any more.
func (v *View) Item(scope, id string) (*zonesync.Item, bool) { return nil, false }

// State is position, digest and count of a scope, without looking at every object.
func (v *View) State(scope string) *zonesync.ScopeState { return nil }

// Pin is the same view at the present moment: it does not change any more.
func (v *View) Pin() *View { return v }

// Changes is what differs for a peer since it was last told.
type Changes struct {
	// To is where all scopes are now.
	To *zonesync.Position
	// View shows exactly the state at To.
	View *View
	// IDs holds, by scope, the objects that changed, and for those that are not offered any more the cause.
	IDs map[string]map[string]zonesync.Removal_Cause
	// Ended and Begun list scopes, sorted; one in both ended and began anew. For those IDs says nothing.
	Ended, Begun []string
}

// A Feed tells about changes for one peer. A slow reader gets fewer, larger updates; nobody waits for it.
type Feed struct{}

// Next waits for changes. It fails with an error that wraps store.ErrForked when the store has another history now: the link must begin anew.
func (f *Feed) Next(ctx context.Context) (Changes, error) { return Changes{}, errUnfinished }

// Close ends the feed.
func (f *Feed) Close() {}
