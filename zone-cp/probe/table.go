package probe

import (
	"context"
	"maps"
	"sync"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
	"github.com/causeway-mesh/causeway/zone-cp/push"
)

// A Table holds what is known of other zones, from their own answers and from what arrives through global. It is safe for concurrent
// use. Its one reader is the engine, by Next.
type Table struct {
	// limit bounds how many endpoints a service of another zone may claim.
	limit func(service resource.Key) uint32

	mu       sync.Mutex
	services map[resource.Key]*service
	names    map[string]resource.Key // of placed services, by KRI
	peers    map[peer]*claims
	gateways map[resource.Key]view.Gateway
	told     map[resource.Key]view.Remote // what the reader knows
	changed  map[resource.Key]struct{}    // services to look at
	moved    map[resource.Key]struct{}    // gateways to hand on
	first    bool
	wake     chan struct{}
}

// A peer is a mesh of another zone.
type peer struct{ mesh, zone string }

// A service is one MeshService of another zone.
type service struct {
	peer   peer
	name   string // KRI; empty until the service is known here
	synced *said
}

// said is a statement about a service; without counts it says that there are none.
type said struct {
	counts   *view.Remote
	sequence uint64
}

// claims is what a peer has answered itself.
type claims struct {
	said      map[string]said // by KRI
	epoch     uint64          // of the control plane that answers
	answering bool
	lapsed    bool
}

// maxClaims bounds how many services a peer can speak of.
const maxClaims = 50_000

// NewTable makes an empty table. Limit bounds how many endpoints a service may claim; nil trusts every claim.
func NewTable(limit func(service resource.Key) uint32) *Table {
	t := &Table{
		limit: limit, services: map[resource.Key]*service{}, names: map[string]resource.Key{}, peers: map[peer]*claims{},
		gateways: map[resource.Key]view.Gateway{}, told: map[resource.Key]view.Remote{},
		changed: map[resource.Key]struct{}{}, moved: map[resource.Key]struct{}{}, first: true, wake: make(chan struct{}, 1),
	}
	t.ring()
	return t
}

// Observe takes counts of a service that arrive through global, by the key under which it is stored here; nil says that there are none.
// The sequence is the one with which its zone counted: what is older than what is known is ignored.
func (t *Table) Observe(key resource.Key, counts *view.Remote, sequence uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.service(key)
	if s.synced != nil && s.synced.sequence >= sequence {
		return
	}
	s.synced = &said{clone(counts), sequence}
	t.touch(key)
}

func clone(r *view.Remote) *view.Remote {
	if r == nil {
		return nil
	}
	return &view.Remote{Ports: maps.Clone(r.Ports)}
}

// Next waits for something that the reader does not know yet. It implements push.Remote.
func (t *Table) Next(ctx context.Context) (push.RemoteUpdate, error) {
	for {
		select {
		case <-ctx.Done():
			return push.RemoteUpdate{}, ctx.Err()
		case <-t.wake:
		}
		if u := t.collect(); u.All || len(u.Services)+len(u.Gateways) > 0 {
			return u, nil
		}
	}
}

func (t *Table) collect() push.RemoteUpdate {
	t.mu.Lock()
	defer t.mu.Unlock()
	u := push.RemoteUpdate{Services: map[resource.Key]*view.Remote{}, Gateways: map[resource.Key]*view.Gateway{}, All: t.first}
	for k := range t.changed {
		now := t.effective(k)
		was, had := t.told[k]
		switch {
		case now == nil && had:
			delete(t.told, k)
			u.Services[k] = nil
		case now != nil && (!had || !was.Equal(*now)):
			t.told[k] = *now
			u.Services[k] = now
		}
	}
	for k := range t.moved {
		u.Gateways[k] = nil
		if g, ok := t.gateways[k]; ok {
			u.Gateways[k] = &g
		}
	}
	clear(t.changed)
	clear(t.moved)
	t.first = false
	return u
}

// effective is what routing goes by: the newer of the two statements. While the zone answers itself, another life of its control plane
// is not believed through others, and once it has lapsed nothing is.
func (t *Table) effective(k resource.Key) *view.Remote {
	s, ok := t.services[k]
	if !ok {
		return nil
	}
	best := s.synced
	if c := t.peers[s.peer]; c != nil {
		if c.lapsed {
			return nil
		}
		if best != nil && c.answering && best.sequence>>epochShift != c.epoch {
			best = nil
		}
		if own, ok := c.said[s.name]; ok && (best == nil || own.sequence >= best.sequence) {
			best = &own
		}
	}
	if best == nil || best.counts == nil {
		return nil
	}
	return t.bounded(k, best.counts)
}

// bounded is a claim within what the zone may claim.
func (t *Table) bounded(k resource.Key, r *view.Remote) *view.Remote {
	out := &view.Remote{Ports: make(map[string]view.Capacity, len(r.Ports))}
	limit := ^uint32(0)
	if t.limit != nil {
		limit = t.limit(k)
	}
	for section, c := range r.Ports {
		total := min(c.Total, limit)
		out.Ports[section] = view.Capacity{Healthy: min(c.Healthy, total), Total: total}
	}
	return out
}

func (t *Table) service(k resource.Key) *service {
	s := t.services[k]
	if s == nil {
		s = &service{}
		t.services[k] = s
	}
	return s
}

func (t *Table) touch(k resource.Key) {
	t.changed[k] = struct{}{}
	t.ring()
}

func (t *Table) ring() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// place says which service of which peer is stored under a key.
func (t *Table) place(k resource.Key, p peer, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.service(k)
	if s.peer == p && s.name == name {
		return
	}
	if s.name != "" && t.names[s.name] == k {
		delete(t.names, s.name)
	}
	s.peer, s.name = p, name
	t.names[name] = k
	t.touch(k)
}

// drop forgets a service that is gone.
func (t *Table) drop(k resource.Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.services[k]
	if !ok {
		return
	}
	if s.name != "" && t.names[s.name] == k {
		delete(t.names, s.name)
	}
	delete(t.services, k)
	t.touch(k)
}

// keep drops the placed services that are not listed.
func (t *Table) keep(listed map[resource.Key]struct{}) {
	t.mu.Lock()
	var gone []resource.Key
	for k, s := range t.services {
		if _, ok := listed[k]; !ok && s.name != "" {
			gone = append(gone, k)
		}
	}
	t.mu.Unlock()
	for _, k := range gone {
		t.drop(k)
	}
}

// claim takes what a peer answered.
func (t *Table) claim(p peer, replies []Reply) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.peers[p]
	if c == nil {
		c = &claims{said: map[string]said{}}
		t.peers[p] = c
	}
	if !c.answering || c.lapsed {
		c.answering, c.lapsed = true, false
		t.touchAll(p)
	}
	for _, r := range replies {
		if epoch := r.Sequence >> epochShift; c.epoch != epoch {
			c.epoch = epoch
			t.touchAll(p)
		}
		if r.Reset {
			t.touchAll(p)
			c.said = map[string]said{}
		}
		for _, s := range r.Services {
			old, had := c.said[s.KRI]
			if had && old.sequence >= s.Sequence || !had && len(c.said) >= maxClaims {
				continue
			}
			c.said[s.KRI] = said{s.remote(), s.Sequence}
			k, placed := t.names[s.KRI]
			if s.Gone {
				delete(c.said, s.KRI)
				if placed && t.services[k].synced != nil && t.services[k].synced.sequence < s.Sequence {
					t.services[k].synced = nil // otherwise what is older would count again
				}
			}
			if placed {
				t.touch(k)
			}
		}
	}
}

// touchAll marks every service of a peer.
func (t *Table) touchAll(p peer) {
	for k, s := range t.services {
		if s.peer == p {
			t.touch(k)
		}
	}
}

// silent says that a peer does not answer at present; what it said last stays.
func (t *Table) silent(p peer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.peers[p]; c != nil && c.answering {
		c.answering = false
		t.touchAll(p)
	}
}

// lapse forgets the counts of a peer that has been away for long: when it comes back, it is as if it had just been met.
func (t *Table) lapse(p peer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.peers[p]
	if c == nil {
		c = &claims{said: map[string]said{}}
		t.peers[p] = c
	}
	if !c.lapsed {
		c.lapsed = true
		t.touchAll(p)
	}
}

// leave forgets a peer that has no ingress any more.
func (t *Table) leave(p peer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.peers[p]; c != nil {
		delete(t.peers, p)
		t.touchAll(p)
	}
}

// gateway takes what is known of an ingress; the zero value says that nothing is.
func (t *Table) gateway(k resource.Key, g view.Gateway) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gateways[k] == g {
		return
	}
	t.gateways[k] = g
	if g == (view.Gateway{}) {
		delete(t.gateways, k)
	}
	t.moved[k] = struct{}{}
	t.ring()
}
