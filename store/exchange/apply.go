package exchange

import (
	"context"
	"log/slog"
	"time"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// A Party is a peer as the link authenticated it: a zone by name and id, or global when Zone is empty.
type Party struct {
	Zone string
	ID   string
}

// Bounds limit what a zone may claim.
type Bounds struct {
	// AllowLocalAddresses lets zones publish ingress addresses that mean something else on every host, for demos on one machine.
	AllowLocalAddresses bool
	// Allowed refuses a resource of a zone in a mesh; nil means DefaultAllowed.
	Allowed func(mesh, zone string, r resource.Resource) error
}

// SinkConfig is what a Sink needs.
type SinkConfig struct {
	Catalog *catalog.Catalog
	// From is the peer whose objects are applied.
	From Party
	// Zone is the name of this zone; empty at global.
	Zone string
	// Kinds are those that this control plane understands; the catalog's when nil.
	Kinds *resource.Kinds
	// Features that this control plane understands.
	Features []string
	Bounds   Bounds
	Log      *slog.Logger
	// Fence gives the lease under which batches are written; nil means none.
	Fence func() *store.Fence
	// Now is the clock, time.Now when nil.
	Now func() time.Time
}

// A Sink applies what one peer sends. Its methods may be called by several goroutines; batches are applied one at a time.
type Sink struct{ cfg SinkConfig }

// NewSink makes a sink.
func NewSink(cfg SinkConfig) (*Sink, error) { return &Sink{cfg: cfg}, nil }

// Have says what is held of the peer's data, by scope, for Hello and Beat.
func (s *Sink) Have() []*zonesync.ScopeState { return nil }

// Begin takes note of how a scope goes on; lineage is that of the peer's store.
func (s *Sink) Begin(b *zonesync.ScopeBegin, lineage *zonesync.Lineage) {}

// Apply writes a batch. When it returns a verdict the batch is durable; applying it again is harmless. An error that wraps ErrOutOfStep or
// ErrMalformed means that the link must end; any other one that the store cannot be written now, and the same batch is to be applied again.
func (s *Sink) Apply(ctx context.Context, b *zonesync.Batch) (*zonesync.Verdict, error) {
	return nil, errUnfinished
}

// End removes what is held of a scope from the peer, and nothing else.
func (s *Sink) End(ctx context.Context, e *zonesync.ScopeEnd) error { return errUnfinished }

// Rejudge applies again what is set aside; to be called at the start, after an upgrade, and when the reasons may be gone.
// It says how many objects are not set aside any more.
func (s *Sink) Rejudge(ctx context.Context) (int, error) { return 0, errUnfinished }

// Rejected lists the objects of a scope that are set aside.
func (s *Sink) Rejected(scope string) []*zonesync.Rejected { return nil }

// A PendingRemoval is an object that the peer's new store lacks. It stays in force until the owner or an operator decides.
type PendingRemoval struct {
	Scope string
	ID    string
	Key   resource.Key
	Since time.Time
}

// Pending lists the pending removals.
func (s *Sink) Pending() []PendingRemoval { return nil }

// Confirm is the operator's decision to delete what is pending in a scope. It says how many objects that were.
func (s *Sink) Confirm(ctx context.Context, scope string) (int, error) { return 0, errUnfinished }
