package probe

import (
	"cmp"
	"container/heap"
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/zone-cp/identity"
)

// Config of a Prober.
type Config struct {
	Zone      string
	Catalog   *catalog.Catalog
	Authority *identity.Authority
	// Table takes what is found.
	Table *Table
	// AllowLocalAddresses lets ingresses of other zones have loopback and link-local addresses, as in a demo on one host.
	AllowLocalAddresses bool
	// Interval is how often an ingress is asked, give or take a tenth, and Timeout how long an answer may take. Defaults 1s and 1s.
	Interval, Timeout time.Duration
	// Reconnect is how long a connection is used. A new one shows that the ingress still takes connections. Default 10s.
	Reconnect time.Duration
	Rules     Rules
	// StaleAfter is how long the counts of a zone are kept that no ingress leads to. Default 1m.
	StaleAfter time.Duration
	// MaxConcurrent bounds how many are asked at the same time. Those that are down get at most half of it. Default 64.
	MaxConcurrent int
	// MaxPerZone bounds how many ingresses of a zone are asked per mesh; the rest stays unknown. Default 64.
	MaxPerZone int
	// Dial and Resolve reach the network; nil means the real one.
	Dial       func(ctx context.Context, network, address string) (net.Conn, error)
	Resolve    func(ctx context.Context, host string) ([]netip.Addr, error)
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// A Prober asks the control planes of other zones through each of their ingresses.
type Prober struct {
	cfg     Config
	metrics *metrics

	// Owned by Run.
	targets map[resource.Key]*target
	peers   map[peer]*peerState
	lanes   [2]lane // those that are not down, and those that are

	mu    sync.Mutex
	shown map[resource.Key]mesh.ZoneReachability
	bell  chan struct{} // closed and replaced when a state changes
}

// A target is one ingress of another zone.
type target struct {
	key  resource.Key
	peer peer
	host string
	port uint32
	judge
	ip      netip.Addr
	conn    *conn
	at      time.Time // when it is asked next
	lane    int       // in which it waits or is asked
	index   int       // in the queue of its lane; -1 while it is asked or not at all
	gone    bool
	failing bool // the last attempt failed
	mute    bool // in the last attempt the ingress was well and no control plane answered

	lastAnswer time.Time
	lastError  string
	took       time.Duration
}

// peerState is what belongs to a zone and mesh, whichever ingress leads there.
type peerState struct {
	targets  map[*target]struct{}
	instance string
	sequence uint64
	draining bool
	lostAt   time.Time // since when no ingress leads there; zero while one does or none was judged
}

// New makes a prober that waits for Run.
func New(cfg Config) *Prober {
	cfg.Interval = orDefault(cfg.Interval, time.Second)
	cfg.Timeout = orDefault(cfg.Timeout, time.Second)
	cfg.Reconnect = orDefault(cfg.Reconnect, 10*time.Second)
	cfg.StaleAfter = orDefault(cfg.StaleAfter, time.Minute)
	cfg.Rules = cfg.Rules.withDefaults()
	if cfg.MaxConcurrent <= 0 {
		cfg.MaxConcurrent = 64
	}
	cfg.MaxConcurrent = max(cfg.MaxConcurrent, 2)
	if cfg.MaxPerZone <= 0 {
		cfg.MaxPerZone = 64
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.Resolve == nil {
		cfg.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	p := &Prober{
		cfg: cfg, targets: map[resource.Key]*target{}, peers: map[peer]*peerState{},
		shown: map[resource.Key]mesh.ZoneReachability{}, bell: make(chan struct{}),
	}
	p.metrics = newMetrics(cfg.Registerer, p)
	return p
}

// Run asks until ctx ends. Call it once.
func (p *Prober) Run(ctx context.Context) error {
	updates := make(chan catalog.Update)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		feed := p.cfg.Catalog.Subscribe()
		defer feed.Close()
		return pump(ctx, updates, feed.Next)
	})
	g.Go(func() error { return p.loop(ctx, updates) })
	return g.Wait()
}

// loop owns the targets. It wakes when the catalog changes, when an attempt has ended, and when the next one is due.
func (p *Prober) loop(ctx context.Context, updates <-chan catalog.Update) error {
	results := make(chan result, p.cfg.MaxConcurrent) // so that no worker waits for the loop
	var workers sync.WaitGroup
	defer func() {
		workers.Wait()
		close(results)
		for r := range results {
			r.hangUp()
		}
		for _, t := range p.targets {
			t.hangUp()
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case u := <-updates:
			p.apply(u)
		case r := <-results:
			p.take(r, time.Now())
		case <-timer.C:
		}
		for t := p.next(time.Now()); t != nil; t = p.next(time.Now()) {
			j := p.begin(t)
			workers.Go(func() { results <- p.attempt(ctx, j) })
		}
		timer.Stop()
		if at := p.wake(); !at.IsZero() {
			timer.Reset(max(0, time.Until(at)))
		}
	}
}

// A lane is a queue of targets by when they are due, and how many of its targets are asked at present.
type lane struct {
	queue
	busy int
}

const (
	livingLane = iota
	deadLane
)

// free says whether another target of a lane may be asked: those that are down wait for timeouts and must not keep the others waiting.
func (p *Prober) free(l int) bool {
	all := p.lanes[livingLane].busy + p.lanes[deadLane].busy
	return all < p.cfg.MaxConcurrent && (l == livingLane || p.lanes[deadLane].busy < p.cfg.MaxConcurrent/2)
}

// next is a target that is to be asked now; nil when there is none.
func (p *Prober) next(now time.Time) *target {
	for l := range p.lanes {
		if q := &p.lanes[l].queue; len(*q) > 0 && p.free(l) && !(*q)[0].at.After(now) {
			t := heap.Pop(q).(*target)
			p.lanes[l].busy++
			return t
		}
	}
	return nil
}

// wake is when a target is due that may be asked; zero while none is.
func (p *Prober) wake() time.Time {
	var at time.Time
	for l := range p.lanes {
		if q := p.lanes[l].queue; len(q) > 0 && p.free(l) && (at.IsZero() || q[0].at.Before(at)) {
			at = q[0].at
		}
	}
	return at
}

func (p *Prober) begin(t *target) job {
	j := job{
		target: t, peer: t.peer, host: t.host, port: t.port, ip: t.ip, rotate: t.failing, conn: t.conn,
		ask: Request{Version: Version, Zone: p.cfg.Zone},
	}
	if s := p.peers[t.peer]; s != nil {
		j.ask.Instance, j.ask.After = s.instance, s.sequence
	}
	t.conn = nil
	return j
}

// schedule queues a target for its next attempt.
func (p *Prober) schedule(t *target, at time.Time) {
	t.at, t.lane = at, livingLane
	if t.down() {
		t.lane = deadLane
	}
	heap.Push(&p.lanes[t.lane].queue, t)
}

// take draws the conclusions from an attempt.
func (p *Prober) take(r result, now time.Time) {
	t := r.target
	p.lanes[t.lane].busy--
	if t.gone {
		r.hangUp()
		return
	}
	p.metrics.attempted(r)
	t.conn, t.ip, t.failing, t.mute = r.conn, r.ip, r.outcome == failed, r.outcome == mute
	wait := p.cfg.Interval
	var changed bool
	switch r.outcome {
	case well:
		t.lastAnswer, t.lastError, t.took = now, "", r.took
		changed = t.well(now)
		p.learn(t, r.replies)
	case mute:
		t.lastError = r.err.Error()
		changed = t.well(now)
	case failed:
		t.lastError = r.err.Error()
		changed = t.failed(now)
	default:
		t.lastError = r.err.Error()
		changed = t.unjudged(now)
		wait *= 5 // nothing is lost by waiting
	}
	if changed {
		p.cfg.Log.Info("ingress of another zone changed its state", "peer", t.peer.zone, "mesh", t.peer.mesh, "address", t.address(),
			"state", t.state, "until", t.until, "err", t.lastError)
	}
	p.conclude(t.peer, now)
	p.tell(t)
	p.show(t, changed)
	next := r.began.Add(wait*9/10 + rand.N(wait/5))
	if soonest := now.Add(p.cfg.Interval / 10); next.Before(soonest) {
		next = soonest // it took long
	}
	p.schedule(t, next)
}

// learn takes what a zone said.
func (p *Prober) learn(t *target, replies []Reply) {
	s := p.peers[t.peer]
	last := replies[len(replies)-1]
	s.instance, s.sequence = last.Instance, last.Sequence
	p.cfg.Table.claim(t.peer, replies)
	if s.draining != last.Draining {
		s.draining = last.Draining
		p.cfg.Log.Info("another zone changed whether it takes new traffic", "peer", t.peer.zone, "mesh", t.peer.mesh, "draining", s.draining)
		for other := range s.targets {
			p.tell(other)
			p.show(other, true)
		}
	}
}

// conclude looks at all ingresses of a zone together.
func (p *Prober) conclude(of peer, now time.Time) {
	s := p.peers[of]
	answering, lost := false, len(s.targets) > 0
	for t := range s.targets {
		answering = answering || !t.mute && (t.state == mesh.ReachabilityUp || t.state == mesh.ReachabilityReturning)
		lost = lost && t.state == mesh.ReachabilityDown
	}
	if !answering {
		p.cfg.Table.silent(of)
	}
	switch {
	case !lost:
		s.lostAt = time.Time{}
	case s.lostAt.IsZero():
		s.lostAt = now
	case now.Sub(s.lostAt) >= p.cfg.StaleAfter:
		p.cfg.Table.lapse(of)
	}
}

// tell hands what is known of an ingress to the table.
func (p *Prober) tell(t *target) {
	g := view.Gateway{Down: t.down()}
	g.Draining = p.peers[t.peer].draining && !g.Down
	if _, err := netip.ParseAddr(t.host); err != nil {
		g.IP = t.ip
	}
	p.cfg.Table.gateway(t.key, g)
}

func (t *target) address() string {
	return net.JoinHostPort(t.host, strconv.FormatUint(uint64(t.port), 10))
}

func (t *target) hangUp() {
	if t.conn != nil {
		_ = t.conn.NetConn().Close()
		t.conn = nil
	}
}

// show publishes the state of a target.
func (p *Prober) show(t *target, changed bool) {
	s := p.peers[t.peer]
	z := mesh.ZoneReachability{
		Zone: t.peer.zone, Mesh: t.peer.mesh, Name: t.key.Name, Address: t.address(), Reachable: t.state == mesh.ReachabilityUp, State: t.state,
		Draining: s.draining, Since: t.since, Until: t.until, LastAnswer: t.lastAnswer, LastError: t.lastError,
		RoundTrip: mesh.Duration{Duration: t.took}, Sequence: s.sequence,
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shown[t.key] = z
	if changed {
		p.ring()
	}
}

// ring tells those who wait for a change; the caller holds the lock.
func (p *Prober) ring() {
	close(p.bell)
	p.bell = make(chan struct{})
}

// Changed returns a channel that is closed at the next change of a state.
func (p *Prober) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bell
}

// Reachability lists the ingresses of other zones with what is known of them, by zone, mesh and name.
func (p *Prober) Reachability() []mesh.ZoneReachability {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]mesh.ZoneReachability, 0, len(p.shown))
	for _, z := range p.shown {
		out = append(out, z)
	}
	slices.SortFunc(out, func(a, b mesh.ZoneReachability) int {
		return cmp.Or(cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.Mesh, b.Mesh), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// apply follows the catalog: which ingresses there are, and which services of other zones.
func (p *Prober) apply(u catalog.Update) {
	if !u.All {
		// In order of their names: of several that come together and are too many, the same ones are asked every time.
		for _, k := range slices.SortedFunc(slices.Values(u.Changed), resource.Key.Compare) {
			p.refresh(u.Snapshot, k)
		}
		return
	}
	services := map[resource.Key]struct{}{}
	for _, typ := range []string{mesh.TypeMeshZoneAddress, mesh.TypeMeshService} {
		u.Snapshot.Each(typ, "", func(r resource.Resource) bool {
			p.refresh(u.Snapshot, r.Key())
			services[r.Key()] = struct{}{}
			return true
		})
	}
	for k := range p.targets {
		if _, ok := u.Snapshot.Get(k); !ok {
			p.forget(k)
		}
	}
	p.cfg.Table.keep(services)
}

func (p *Prober) refresh(s *catalog.Snapshot, k resource.Key) {
	r, ok := s.Get(k)
	foreign := ok && r.Zone() != "" && r.Zone() != p.cfg.Zone
	switch k.Type {
	case mesh.TypeMeshService:
		if !foreign {
			p.cfg.Table.drop(k)
			return
		}
		kind, _ := p.cfg.Catalog.Kinds().ByName(k.Type)
		p.cfg.Table.place(k, peer{r.Mesh, r.Zone()}, resource.KRIOf(kind, r.Meta).String())
	case mesh.TypeMeshZoneAddress:
		a, ok := r.Spec.(*mesh.MeshZoneAddress)
		if !foreign || !ok {
			p.forget(k)
			return
		}
		p.watch(k, peer{r.Mesh, r.Zone()}, a)
	}
}

// watch begins to ask at an address, or goes on when nothing of it has changed.
func (p *Prober) watch(k resource.Key, of peer, a *mesh.MeshZoneAddress) {
	if t := p.targets[k]; t != nil {
		if t.peer == of && t.host == a.Address && t.port == a.Port {
			return
		}
		p.forget(k)
	}
	s := p.peers[of]
	if s == nil {
		s = &peerState{targets: map[*target]struct{}{}}
		p.peers[of] = s
	}
	t := &target{key: k, peer: of, host: a.Address, port: a.Port, judge: newJudge(p.cfg.Rules, time.Now()), index: -1}
	p.targets[k] = t
	if len(s.targets) >= p.cfg.MaxPerZone {
		t.lastError = "it is not asked: the zone has more ingresses than are asked"
		p.cfg.Log.Warn("a zone has more ingresses than are asked", "peer", of.zone, "mesh", of.mesh, "address", t.address(), "asked", p.cfg.MaxPerZone)
	} else {
		p.ask(s, t)
	}
	p.show(t, true)
}

// ask begins to ask at an address.
func (p *Prober) ask(s *peerState, t *target) {
	s.targets[t] = struct{}{}
	t.lastError = ""
	p.schedule(t, time.Now())
}

// forget stops asking at an address.
func (p *Prober) forget(k resource.Key) {
	t := p.targets[k]
	if t == nil {
		return
	}
	delete(p.targets, k)
	t.gone = true
	t.hangUp()
	if t.index >= 0 {
		heap.Remove(&p.lanes[t.lane].queue, t.index)
	}
	s := p.peers[t.peer]
	if _, asked := s.targets[t]; asked {
		delete(s.targets, t)
		p.admit(s, t.peer)
	}
	p.cfg.Table.gateway(k, view.Gateway{})
	p.mu.Lock()
	delete(p.shown, k)
	p.ring()
	p.mu.Unlock()
	if len(s.targets) == 0 {
		delete(p.peers, t.peer)
		p.cfg.Table.leave(t.peer)
	} else {
		p.conclude(t.peer, time.Now())
	}
}

// admit begins to ask at an address for which there was no room.
func (p *Prober) admit(s *peerState, of peer) {
	if len(s.targets)+1 < p.cfg.MaxPerZone {
		return // nobody waited
	}
	for _, t := range p.targets {
		if _, asked := s.targets[t]; t.peer == of && !asked {
			p.ask(s, t)
			return
		}
	}
}

// A queue orders targets by when they are due.
type queue []*target

// Len implements heap.Interface.
func (q queue) Len() int { return len(q) }

// Less implements heap.Interface.
func (q queue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }

// Swap implements heap.Interface.
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push implements heap.Interface.
func (q *queue) Push(x any) {
	t := x.(*target)
	t.index = len(*q)
	*q = append(*q, t)
}

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	old := *q
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	t.index = -1
	return t
}
