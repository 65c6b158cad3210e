package agents

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tidwall/btree"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// Facts is what is known about one dataplane from its agent. A value that was handed out never changes.
type Facts struct {
	// Connected says that a session is open.
	Connected bool
	// Serving says that the proxy may get traffic: its Envoy runs, it is not draining,
	// and its session is open or broke off only a moment ago.
	Serving bool
	// Draining says that the agent announced its end.
	Draining bool
	// ControlPlane is the instance of the zone that has or had the session.
	ControlPlane string
	// Instance is the life of the agent process that is or was connected last, Place where it runs.
	Instance string
	Place    string
	// Session numbers the sessions of an instance.
	Session uint64
	// Inbounds is what service probes found, by section name; inbounds without a probe are absent.
	Inbounds map[string]mesh.InboundState
	// Issued is the workload certificate that the proxy holds.
	Issued Certificate
	// What Envoy has acknowledged of its secrets.
	IdentityAcknowledged string // serial of the certificate
	TrustAcknowledged    string // version of the bundles
	// TrustSent is the version of the bundles that the agent was last sent.
	TrustSent string
	// Rejected is what Envoy did not accept of its secrets.
	Rejected string

	// MetricsProblems say which metrics the agent cannot tell as the mesh wants it.
	MetricsProblems []string

	AgentVersion  string
	AgentCommit   string
	EnvoyVersion  string
	EnvoyBuild    string
	EnvoyRunning  bool
	EnvoyRestarts uint32
	Features      []string
	OutboundBlock string

	ConnectedAt time.Time
	// LastSeen is when the session ended; while it is open, when it began.
	LastSeen time.Time
	// Discovery counts the xDS responses of this session.
	Discovery mesh.DiscoveryStatus

	subscription string                      // id of the current or last session, for insights
	previous     *mesh.DiscoverySubscription // the one before
}

// Certificate describes a workload certificate.
type Certificate struct {
	SPIFFEID string
	Serial   string
	Issuer   string
	NotAfter time.Time
	Identity resource.KRI // the MeshIdentity it follows
	IssuedAt time.Time    // by this zone; zero when it was brought along
	Count    uint32       // how many this zone issued to the proxy
}

// HasIdentity says that the proxy holds a workload certificate at a given time.
func (f Facts) HasIdentity(at time.Time) bool {
	return f.Issued.Serial != "" && at.Before(f.Issued.NotAfter)
}

// Inbound is the state of an inbound, from what its resource declares and what the agent knows.
func (f Facts) Inbound(section string, declared mesh.InboundState) mesh.InboundState {
	switch probed, ok := f.Inbounds[section]; {
	case declared == mesh.StateIgnored:
		return declared
	case !f.Serving:
		return mesh.StateNotReady
	case ok:
		return probed
	}
	return declared
}

// A Snapshot is all facts at one moment. It is immutable and safe for concurrent use.
type Snapshot struct{ tree *btree.BTreeG[entry] }

type entry struct {
	key   resource.Key
	facts *Facts
}

func newTree() *btree.BTreeG[entry] {
	return btree.NewBTreeGOptions(func(a, b entry) bool { return a.key.Compare(b.key) < 0 }, btree.Options{NoLocks: true})
}

// Get returns the facts of a dataplane; false when no agent of it was ever seen.
func (s *Snapshot) Get(k resource.Key) (Facts, bool) {
	e, ok := s.tree.Get(entry{key: k})
	if !ok {
		return Facts{}, false
	}
	return *e.facts, true
}

// Each calls fn for every dataplane of a mesh, or of all with an empty mesh, until fn returns false.
func (s *Snapshot) Each(in string, fn func(resource.Key, Facts) bool) {
	s.tree.Ascend(entry{key: resource.Key{Type: mesh.TypeDataplane, Mesh: in}}, func(e entry) bool {
		if in != "" && e.key.Mesh != in {
			return false
		}
		return fn(e.key, *e.facts)
	})
}

// Len is the number of dataplanes that are known.
func (s *Snapshot) Len() int { return s.tree.Len() }

// Inbound is the state of an inbound: as declared when no agent of the dataplane was ever seen.
func (s *Snapshot) Inbound(k resource.Key, section string, declared mesh.InboundState) mesh.InboundState {
	f, ok := s.Get(k)
	if !ok {
		return declared
	}
	return f.Inbound(section, declared)
}

// TrustGap lists the connected proxies of a mesh whose Envoy has not acknowledged a version of the trust bundles:
// a new authority must not sign before the list is empty.
func (s *Snapshot) TrustGap(in, version string) []resource.Key {
	var out []resource.Key
	s.Each(in, func(k resource.Key, f Facts) bool {
		if f.Connected && f.TrustAcknowledged != version {
			out = append(out, k)
		}
		return true
	})
	return out
}

// A Registry knows which agents are connected and what they reported.
type Registry struct {
	mu      sync.Mutex
	current *Snapshot
	feeds   map[*Feed]struct{}
	live    map[resource.Key]*session
	nextCSR map[resource.Key]time.Time
	dirty   chan struct{} // holds a token when insights changed
}

func newRegistry() *Registry {
	return &Registry{
		current: &Snapshot{newTree()},
		feeds:   map[*Feed]struct{}{},
		live:    map[resource.Key]*session{},
		nextCSR: map[resource.Key]time.Time{},
		dirty:   make(chan struct{}, 1),
	}
}

// Snapshot is the current state. It never waits for anyone.
func (r *Registry) Snapshot() *Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current
}

// update replaces the facts of a dataplane and tells the feeds. The caller does not hold the lock.
func (r *Registry) update(k resource.Key, edit func(*Facts)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.updateLocked(k, edit)
}

func (r *Registry) updateLocked(k resource.Key, edit func(*Facts)) {
	var f Facts
	if e, ok := r.current.tree.Get(entry{key: k}); ok {
		f = *e.facts
	}
	edit(&f)
	next := &Snapshot{r.current.tree.Copy()}
	next.tree.Set(entry{k, &f})
	r.publish(next, k)
}

// updateOf is update for the session that is in charge of a dataplane; it does nothing for one that was replaced.
func (r *Registry) updateOf(s *session, edit func(*Facts)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live[s.key] == s {
		r.updateLocked(s.key, edit)
	}
}

func (r *Registry) forget(k resource.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.nextCSR, k)
	if _, ok := r.current.tree.Get(entry{key: k}); !ok {
		return
	}
	next := &Snapshot{r.current.tree.Copy()}
	next.tree.Delete(entry{key: k})
	r.publish(next, k)
}

// forgetGone forgets every dataplane that is not registered any more and has no session, which would end by itself.
func (s *Service) forgetGone(snapshot *catalog.Snapshot) {
	s.registry.Snapshot().Each("", func(k resource.Key, _ Facts) bool {
		if _, ok := snapshot.Get(k); !ok && s.registry.session(k) == nil {
			s.registry.forget(k)
		}
		return true
	})
}

func (r *Registry) publish(next *Snapshot, changed resource.Key) {
	r.current = next
	for f := range r.feeds {
		f.note(changed)
	}
	wake(r.dirty)
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// SetDiscovery records how the xDS responses of a dataplane fare. It changes insights only: feeds are not told.
func (r *Registry) SetDiscovery(k resource.Key, st mesh.DiscoveryStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.current.tree.Get(entry{key: k})
	if !ok {
		return
	}
	f := *e.facts
	f.Discovery = st
	next := &Snapshot{r.current.tree.Copy()}
	next.tree.Set(entry{k, &f})
	r.current = next
	wake(r.dirty)
}

// sessions lists the open sessions of a mesh, or of all with an empty mesh.
func (r *Registry) sessions(in string) []*session {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*session
	for k, s := range r.live {
		if in == "" || k.Mesh == in {
			out = append(out, s)
		}
	}
	return out
}

func (r *Registry) session(k resource.Key) *session {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.live[k]
}

// allowRequest says whether a dataplane may have a signing request answered now, and if not when.
func (r *Registry) allowRequest(k resource.Key, now time.Time, interval time.Duration) (wait time.Duration, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if next := r.nextCSR[k]; now.Before(next) {
		return next.Sub(now), false
	}
	r.nextCSR[k] = now.Add(interval)
	return 0, true
}

// ErrClosed is a feed that was closed.
var ErrClosed = errors.New("feed is closed")

// maxPending is how many changed keys a slow reader may gather before it is told to compare everything instead.
const maxPending = 20_000

// An Update is what changed since the last one.
type Update struct {
	Snapshot *Snapshot
	Changed  []resource.Key
	// All means that anything may differ: the first update, or a reader that fell far behind.
	All bool
}

// A Feed tells one reader about changes. A slow reader gets fewer, larger updates; nobody waits for it.
type Feed struct {
	r      *Registry
	wake   chan struct{}
	closed chan struct{}

	// Guarded by the registry's lock.
	all     bool
	changed map[resource.Key]struct{}
}

// Subscribe starts a feed. Its first update has All set.
func (r *Registry) Subscribe() *Feed {
	f := &Feed{r: r, wake: make(chan struct{}, 1), closed: make(chan struct{}), all: true}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.feeds[f] = struct{}{}
	wake(f.wake)
	return f
}

// Close ends the feed; a waiting Next returns ErrClosed. It may be called more than once.
func (f *Feed) Close() {
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	if _, open := f.r.feeds[f]; open {
		delete(f.r.feeds, f)
		close(f.closed)
	}
}

// Next waits for something that the reader does not know yet. One reader at a time.
func (f *Feed) Next(ctx context.Context) (Update, error) {
	select {
	case <-f.closed:
		return Update{}, ErrClosed
	case <-ctx.Done():
		return Update{}, ctx.Err()
	case <-f.wake:
	}
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	u := Update{Snapshot: f.r.current, All: f.all}
	if !f.all {
		u.Changed = slices.SortedFunc(maps.Keys(f.changed), resource.Key.Compare)
	}
	f.all, f.changed = false, nil
	return u, nil
}

// note remembers a change; the caller holds the registry's lock.
func (f *Feed) note(k resource.Key) {
	defer wake(f.wake)
	if f.all {
		return
	}
	if len(f.changed) >= maxPending {
		f.all, f.changed = true, nil
		return
	}
	if f.changed == nil {
		f.changed = map[resource.Key]struct{}{}
	}
	f.changed[k] = struct{}{}
}
