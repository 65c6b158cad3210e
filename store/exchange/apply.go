package exchange

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api/mesh"
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
//
// Objects of a mesh are stored whether or not the Mesh has come already: scopes do not wait for each other, no proxy is in a mesh
// that does not exist, and what is stored goes with the Mesh, or when its scope ends.
type Sink struct {
	cfg  SinkConfig
	peer string

	mu          sync.Mutex // held while something is applied
	runs        map[string]*run
	adopt       map[string]bool   // scopes that the peer called forked
	quarantined map[string]string // by hash: objects on which this process panicked, and how

	haveMu sync.Mutex
	haveAt *catalog.Snapshot
	have   []*zonesync.ScopeState
}

// A run is a snapshot that comes in parts.
type run struct {
	to         *zonesync.Position
	next       uint32
	seen       map[string]bool
	adopting   bool
	unreadable bool
}

// NewSink makes a sink.
func NewSink(cfg SinkConfig) (*Sink, error) {
	switch {
	case cfg.Catalog == nil:
		return nil, errors.New("sink: a catalog is needed")
	case (cfg.From.Zone == "") == (cfg.Zone == ""):
		return nil, errors.New("sink: one end must be global and the other a zone")
	}
	if cfg.Kinds == nil {
		cfg.Kinds = cfg.Catalog.Kinds()
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Bounds.Allowed == nil {
		cfg.Bounds.Allowed = DefaultAllowed
	}
	s := &Sink{cfg: cfg, peer: cfg.From.Zone, runs: map[string]*run{}, adopt: map[string]bool{}, quarantined: map[string]string{}}
	if s.peer == "" {
		s.peer = "global"
	}
	return s, nil
}

// belongs says that what is stored with these labels came from the peer.
func (s *Sink) belongs(labels map[string]string) bool {
	if s.cfg.Zone != "" {
		return labels[resource.LabelOrigin] == resource.OriginGlobal
	}
	return labels[resource.LabelOrigin] == resource.OriginZone && labels[resource.LabelZone] == s.cfg.From.Zone
}

// owner is what everything from the peer goes with: at global its Zone, in a zone the mesh as for everything else.
func (s *Sink) owner() *resource.Key {
	if s.cfg.From.Zone == "" {
		return nil
	}
	return &resource.Key{Type: mesh.TypeZone, Name: s.cfg.From.Zone}
}

// Have says what is held of the peer's data, by scope, for Hello and Beat. A digest is left out while it says nothing:
// between the parts of a change, or when something came that cannot be told apart.
func (s *Sink) Have() []*zonesync.ScopeState {
	s.haveMu.Lock()
	defer s.haveMu.Unlock()
	snap := s.cfg.Catalog.Snapshot()
	if snap == s.haveAt {
		return slices.Clone(s.have)
	}
	var out []*zonesync.ScopeState
	snap.EachDerived(syncPrefix+s.peer, "", func(k catalog.DerivedKey, data []byte) bool {
		meshName, ok := zonesync.MeshOf(k.Name)
		c, readable := decodeCursor(data)
		if !ok || !readable {
			return true
		}
		st := &zonesync.ScopeState{Scope: k.Name, Position: c.position(), Incomplete: c.Incomplete}
		var d zonesync.Digest
		known := !c.Incomplete && !c.Between && !c.Unreadable
		for id, h := range s.holdings(snap, k.Name, meshName) {
			if h.pending && h.aside == nil {
				continue
			}
			st.Count++
			known = known && h.hash != nil
			d.Add(id, h.uid, h.hash)
		}
		if known {
			st.Digest = d.Bytes()
		}
		out = append(out, st)
		return true
	})
	s.haveAt, s.have = snap, out
	return slices.Clone(out)
}

// Begin takes note of how a scope goes on; lineage is that of the peer's store.
func (s *Sink) Begin(b *zonesync.ScopeBegin, lineage *zonesync.Lineage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.runs, b.GetScope())
	c, had := s.cursor(s.cfg.Catalog.Snapshot(), b.GetScope())
	if b.GetHow() == zonesync.ScopeBegin_RESUME {
		delete(s.adopt, b.GetScope())
	}
	if b.GetHow() == zonesync.ScopeBegin_FORKED || had && c.Lineage != "" && !c.sameLineage(lineage) {
		s.adopt[b.GetScope()] = true
		s.cfg.Log.Warn("the peer has another history: what it lacks stays in force until somebody decides", "scope", b.GetScope(), "why", b.GetWhy())
	}
}

func (s *Sink) cursor(snap *catalog.Snapshot, scope string) (cursor, bool) {
	b, ok := snap.Derived(syncPrefix+s.peer, "", scope)
	if !ok {
		return cursor{}, false
	}
	return decodeCursor(b)
}

// Apply writes a batch. When it returns a verdict the batch is durable; applying it again is harmless. An error that wraps ErrOutOfStep or
// ErrMalformed means that the link must end; any other one that the store cannot be written now, and the same batch is to be applied again.
func (s *Sink) Apply(ctx context.Context, b *zonesync.Batch) (*zonesync.Verdict, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	to, err := StorePosition(b.GetTo())
	if err != nil {
		return nil, err
	}
	if err := s.checkScope(b.GetScope()); err != nil {
		return nil, err
	}
	if to.Lineage.ID == "" || len(to.Lineage.ID) > 128 || strings.ContainsRune(to.Lineage.ID, 0) {
		return nil, fmt.Errorf("%w: a batch of %s leads nowhere", ErrMalformed, b.GetScope())
	}
	var objects []*object
	unreadable := 0
	for _, encoded := range b.GetUpserts() {
		o := &zonesync.Object{}
		if err := proto.Unmarshal(encoded, o); err != nil || o.GetId() == "" {
			unreadable++
			continue
		}
		objects = append(objects, &object{Object: o, encoded: encoded})
	}
	if unreadable > 0 {
		s.cfg.Log.Error("objects came that cannot be read at all", "scope", b.GetScope(), "count", unreadable)
	}
	p, err := s.write(ctx, fmt.Sprintf("%s of %s up to revision %d", b.GetScope(), s.peer, to.Revision), func(p *plan) error {
		if err := p.enter(b.GetScope()); err != nil {
			return err
		}
		return p.batch(b, to, objects, unreadable > 0)
	})
	if err != nil {
		return nil, fmt.Errorf("apply a batch of %s: %w", b.GetScope(), err)
	}
	if r := s.runs[b.GetScope()]; r != nil && b.GetSnapshot() {
		r.next = b.GetPart() + 1
	}
	if b.GetLast() {
		delete(s.runs, b.GetScope())
		if b.GetSnapshot() {
			delete(s.adopt, b.GetScope())
		}
	}
	v := &zonesync.Verdict{Scope: b.GetScope(), To: b.GetTo(), Part: b.GetPart(), Last: b.GetLast(), Rejected: p.rejected()}
	for range unreadable {
		v.Rejected = append(v.Rejected, &zonesync.Rejected{Code: codeUnreadable, Reason: "it cannot be decoded and does not say what it is", Retry: zonesync.Rejected_ON_UPGRADE})
	}
	return v, nil
}

func (s *Sink) checkScope(scope string) error {
	meshName, ok := zonesync.MeshOf(scope)
	if !ok || meshName != "" && len(resource.CheckName("mesh", resource.RFC1035Label, meshName)) > 0 {
		return fmt.Errorf("%w: %s is no scope", ErrMalformed, resource.Quote(scope))
	}
	return nil
}

// write plans on the newest snapshot and commits, again when somebody else was faster.
func (s *Sink) write(ctx context.Context, reason string, fill func(*plan) error) (*plan, error) {
	var err error
	for try := range 20 {
		p := s.plan()
		if err := fill(p); err != nil {
			// What was applied last may be durable and not visible yet.
			if try == 0 && errors.Is(err, ErrOutOfStep) && s.cfg.Catalog.CatchUp(ctx) == nil {
				continue
			}
			return nil, err
		}
		var b catalog.Batch
		if first := p.first(); first != nil {
			b = *first
		} else {
			b = p.commit()
			if len(b.Puts)+len(b.Deletes)+len(b.Derived) == 0 {
				return p, nil
			}
		}
		b.Author, b.Reason = s.author(), reason
		if s.cfg.Fence != nil {
			b.Fence = s.cfg.Fence()
		}
		_, err = s.cfg.Catalog.Commit(ctx, b)
		if err == nil && p.first() == nil {
			p.log()
			return p, nil
		}
		if err != nil && !errors.Is(err, store.ErrConflict) {
			return nil, err
		}
		if err := s.cfg.Catalog.CatchUp(ctx); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("others were faster every time: %w", err)
}

func (s *Sink) author() string {
	if s.cfg.From.Zone == "" {
		return "global"
	}
	return "zone " + s.cfg.From.Zone
}

// End removes what is held of a scope from the peer, and nothing else. When the peer has another history than what is held,
// nothing is deleted: it becomes pending.
func (s *Sink) End(ctx context.Context, e *zonesync.ScopeEnd) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.checkScope(e.GetScope()); err != nil {
		return err
	}
	delete(s.runs, e.GetScope())
	_, err := s.write(ctx, fmt.Sprintf("%s of %s ended: %s", e.GetScope(), s.peer, clip(e.GetCause())), func(p *plan) error {
		if err := p.enter(e.GetScope()); err != nil {
			return err
		}
		return p.end(e)
	})
	if err != nil {
		return fmt.Errorf("end %s: %w", e.GetScope(), err)
	}
	delete(s.adopt, e.GetScope())
	return nil
}

// clip makes words of a peer fit for the history.
func clip(s string) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "")
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "")
	}
	return s
}

// Rejudge applies again what is set aside; to be called at the start, after an upgrade, and when the reasons may be gone.
// It says how many objects are not set aside any more.
func (s *Sink) Rejudge(ctx context.Context) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	byScope := map[string][]*object{}
	for _, a := range s.asides(s.cfg.Catalog.Snapshot(), "") {
		o := &zonesync.Object{}
		if len(a.Object) == 0 || proto.Unmarshal(a.Object, o) != nil {
			continue
		}
		byScope[a.Scope] = append(byScope[a.Scope], &object{Object: o, encoded: a.Object})
	}
	resolved := 0
	for _, scope := range slices.Sorted(maps.Keys(byScope)) {
		if s.checkScope(scope) != nil {
			continue
		}
		objects := byScope[scope]
		slices.SortFunc(objects, compareObjects)
		for chunk := range slices.Chunk(objects, 500) {
			p, err := s.write(ctx, "what was set aside is judged again", func(p *plan) error {
				if err := p.enter(scope); err != nil {
					return err
				}
				p.upserts(chunk)
				return nil
			})
			if err != nil {
				return resolved, fmt.Errorf("judge again what is set aside in %s: %w", scope, err)
			}
			for _, o := range chunk {
				if p.asides[o.GetId()] == nil {
					resolved++
				}
			}
		}
	}
	return resolved, nil
}

// Rejected lists the objects of a scope that are set aside.
func (s *Sink) Rejected(scope string) []*zonesync.Rejected {
	return sortedRejections(s.asides(s.cfg.Catalog.Snapshot(), scope))
}

func sortedRejections(asides map[string]*aside) []*zonesync.Rejected {
	var out []*zonesync.Rejected
	for _, id := range slices.Sorted(maps.Keys(asides)) {
		out = append(out, asides[id].rejected())
	}
	return out
}

// A PendingRemoval is an object that the peer's new store lacks. It stays in force until the owner or an operator decides.
type PendingRemoval struct {
	Scope string
	ID    string
	Key   resource.Key
	Since time.Time
}

// Pending lists the pending removals.
func (s *Sink) Pending() []PendingRemoval {
	snap := s.cfg.Catalog.Snapshot()
	var out []PendingRemoval
	snap.EachDerivedUnder(pendingPrefix, func(k catalog.DerivedKey, data []byte) bool {
		key := resource.Key{Type: strings.TrimPrefix(k.Type, pendingPrefix), Mesh: k.Mesh, Name: k.Name}
		kind, known := s.cfg.Kinds.ByName(key.Type)
		r, ok := snap.Get(key)
		if !known || !ok || !s.belongs(r.Labels) {
			return true
		}
		var p pending
		if !decode(data, &p) {
			return true
		}
		out = append(out, PendingRemoval{Scope: zonesync.ScopeOf(key.Mesh), ID: resource.KRIOf(kind, r.Meta).String(), Key: key, Since: p.Since})
		return true
	})
	return out
}

// Confirm is the operator's decision to delete what is pending in a scope. It says how many objects that were.
func (s *Sink) Confirm(ctx context.Context, scope string) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	_, err := s.write(ctx, "pending removals of "+scope+" are confirmed", func(p *plan) error {
		n = 0
		for _, r := range s.Pending() {
			if r.Scope == scope {
				p.delete(r.Key)
				n++
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("delete what is pending in %s: %w", scope, err)
	}
	return n, nil
}
