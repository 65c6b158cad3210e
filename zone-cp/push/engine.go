// Package push keeps the tables of connected proxies equal to what the mesh declares: it feeds committed changes and observed
// facts into the compiler and tells each session when its table has changed. It owns the compiler and is its only caller.
// It speaks no xDS and keeps nothing on disk.
package push

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// Facts yields what is observed about dataplanes. Next waits for a change; a nil value takes the facts away.
// When all is set, dataplanes that are not listed have no facts any more.
type Facts interface {
	Next(ctx context.Context) (changed map[resource.Key]*view.Facts, all bool, err error)
}

// Remote yields what is known of other zones. Next waits for a change.
type Remote interface {
	Next(ctx context.Context) (RemoteUpdate, error)
}

// A RemoteUpdate is what has become known of other zones: of services, and of ingresses by the key of their MeshZoneAddress.
// A nil value takes away what was known; when All is set, so does not being listed.
type RemoteUpdate struct {
	Services map[resource.Key]*view.Remote
	Gateways map[resource.Key]*view.Gateway
	All      bool
}

// Config of an Engine.
type Config struct {
	Zone    string
	Catalog *catalog.Catalog
	Facts   Facts  // nil: nothing is observed
	Remote  Remote // nil: nothing is known of other zones
	// HealthResponder is the host:port to which an ingress forwards the health SNI of its zone; empty means nowhere.
	HealthResponder string
	// AllowLocalAddresses lets ingresses of other zones have loopback and link-local addresses, as in a demo on one host.
	AllowLocalAddresses bool
	// MeshDomains are the domains in which there is nothing but names of the mesh.
	MeshDomains []string
	// Derives says that somebody derives the status of every service. One that has just appeared is then offered to proxies
	// together with its address and identities, in one go instead of piece by piece.
	Derives bool
	// Expected says of a dataplane that has just appeared that facts about it will follow: until then it gets no traffic. Nil: never.
	Expected func(resource.Meta) bool
	Kinds    *resource.Kinds
	Policies []policy.Policy
	// AuditEvery is the interval of the background audit. Zero means 5 minutes.
	AuditEvery time.Duration
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// ErrStopped is an engine that no longer runs.
var ErrStopped = errors.New("the control plane is stopping")

// An Engine computes tables. Run must be running for anything else to make progress.
type Engine struct {
	cfg     Config
	metrics *metrics
	calls   chan func(*state)
	// previewing holds a token while somebody previews.
	previewing chan struct{}
	stopped    chan struct{}
	// progress is what has been computed, for readers outside the loop.
	progress atomic.Pointer[Progress]
	// bell is closed and replaced whenever proxies or the loop make progress; nil while nobody waits.
	bell struct {
		sync.Mutex
		c chan struct{}
	}
}

// listen returns a channel that is closed at the next progress.
func (e *Engine) listen() <-chan struct{} {
	e.bell.Lock()
	defer e.bell.Unlock()
	if e.bell.c == nil {
		e.bell.c = make(chan struct{})
	}
	return e.bell.c
}

func (e *Engine) ring() {
	e.bell.Lock()
	defer e.bell.Unlock()
	if e.bell.c != nil {
		close(e.bell.c)
		e.bell.c = nil
	}
}

// Progress says how far the zone has computed.
type Progress struct {
	// Sequence numbers the inputs of the zone: every batch of changes has one.
	Sequence uint64
	// Position is the newest position of the store that the sequence includes.
	Position store.Position
}

// New returns an engine that waits for Run.
func New(cfg Config) *Engine {
	if cfg.AuditEvery == 0 {
		cfg.AuditEvery = 5 * time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	e := &Engine{cfg: cfg, calls: make(chan func(*state)), previewing: make(chan struct{}, 1), stopped: make(chan struct{})}
	e.progress.Store(&Progress{})
	e.metrics = newMetrics(cfg.Registerer, e)
	return e
}

// Progress returns how far the zone has computed.
func (e *Engine) Progress() Progress { return *e.progress.Load() }

// Run computes until ctx ends. Call it once.
func (e *Engine) Run(ctx context.Context) error {
	defer close(e.stopped)
	updates := make(chan catalog.Update)
	facts := make(chan factsUpdate)
	remote := make(chan RemoteUpdate)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return e.readCatalog(ctx, updates) })
	if e.cfg.Facts != nil {
		g.Go(func() error { return e.readFacts(ctx, facts) })
	}
	if e.cfg.Remote != nil {
		g.Go(func() error { return e.readRemote(ctx, remote) })
	}
	g.Go(func() error { return e.loop(ctx, updates, facts, remote) })
	return g.Wait()
}

type factsUpdate struct {
	changed map[resource.Key]*view.Facts
	all     bool
}

func (e *Engine) readCatalog(ctx context.Context, to chan<- catalog.Update) error {
	feed := e.cfg.Catalog.Subscribe()
	defer feed.Close()
	for {
		u, err := feed.Next(ctx)
		if err != nil {
			return ignoreEnd(ctx, err)
		}
		select {
		case to <- u:
		case <-ctx.Done():
			return nil
		}
	}
}

func (e *Engine) readFacts(ctx context.Context, to chan<- factsUpdate) error {
	for {
		changed, all, err := e.cfg.Facts.Next(ctx)
		if err != nil {
			return ignoreEnd(ctx, err)
		}
		select {
		case to <- factsUpdate{changed, all}:
		case <-ctx.Done():
			return nil
		}
	}
}

func (e *Engine) readRemote(ctx context.Context, to chan<- RemoteUpdate) error {
	for {
		u, err := e.cfg.Remote.Next(ctx)
		if err != nil {
			return ignoreEnd(ctx, err)
		}
		select {
		case to <- u:
		case <-ctx.Done():
			return nil
		}
	}
}

func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// loop is the one owner of the state. It wakes for: committed changes, observed facts, news of other zones, calls of sessions and inspectors,
// the audit's timer and its result. There is no hold-off: what arrives while it computes is taken together by the feeds.
func (e *Engine) loop(ctx context.Context, updates <-chan catalog.Update, facts <-chan factsUpdate, remote <-chan RemoteUpdate) error {
	s := newState(e.cfg)
	audits := make(chan auditResult, 1)
	running := false
	timer := time.NewTicker(e.cfg.AuditEvery)
	defer timer.Stop()
	defer func() {
		if running {
			<-audits // started here, so waited for here
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case u := <-updates:
			e.compute(s, func() { s.apply(u) })
		case f := <-facts:
			e.compute(s, func() { s.observe(f) })
		case u := <-remote:
			e.compute(s, func() { s.learn(u) })
		case call := <-e.calls:
			call(s)
		case <-timer.C:
			if !running {
				running = true
				a := s.prepareAudit()
				go func() { audits <- a.run() }()
			}
		case r := <-audits:
			running = false
			e.report(s, r)
		}
	}
}

// compute takes changes in and publishes what became of them.
func (e *Engine) compute(s *state, change func()) {
	start := time.Now()
	change()
	s.sequence++
	s.view.Graph.Settle()
	s.publish()
	s.names.publish()
	e.progress.Store(&Progress{Sequence: s.sequence, Position: s.position})
	e.ring()
	e.metrics.computed(time.Since(start), s.view.Graph.Recomputed())
}

// do runs a function inside the loop.
func (e *Engine) do(ctx context.Context, fn func(*state)) error {
	done := make(chan struct{})
	select {
	case e.calls <- func(s *state) { fn(s); close(done) }:
	case <-ctx.Done():
		return ctx.Err()
	case <-e.stopped:
		return ErrStopped
	}
	<-done // the loop finishes a call that it has taken
	return nil
}

// state belongs to the loop.
type state struct {
	cfg      Config
	view     *view.View
	compiler *envoy.Compiler
	position store.Position
	sequence uint64
	proxies  map[resource.Key]*proxy
	facts    map[resource.Key]view.Facts
	remotes  map[resource.Key]view.Remote
	gateways map[resource.Key]view.Gateway
	statuses map[catalog.DerivedKey]view.Status
	envoys   map[resource.Key]string   // the version of Envoy that each proxy runs
	refused  map[string]*view.Refusals // by version of Envoy
	drained  map[resource.Key]uint64   // the sequence at which a dataplane was seen draining
	names    names
}

// A proxy is a dataplane that at least one session or follower asks for.
type proxy struct {
	root     *memo.Root[envoy.ProxyConfig]
	last     envoy.ProxyConfig
	table    *envoy.Table
	sessions map[*Session]struct{}
	// followers are agents that are told what concerns them.
	followers map[*Follower]struct{}
}

func newState(cfg Config) *state {
	v := newView(cfg, false)
	return &state{
		cfg: cfg, view: v, compiler: envoy.NewCompiler(v),
		proxies: map[resource.Key]*proxy{}, facts: map[resource.Key]view.Facts{}, statuses: map[catalog.DerivedKey]view.Status{},
		drained: map[resource.Key]uint64{}, names: newNames(),
		remotes: map[resource.Key]view.Remote{}, gateways: map[resource.Key]view.Gateway{},
		envoys: map[resource.Key]string{}, refused: map[string]*view.Refusals{},
	}
}

func newView(cfg Config, shadow bool) *view.View {
	v := view.New(cfg.Zone, cfg.Kinds, cfg.Policies)
	v.Configure(view.Settings{LocalAddresses: cfg.AllowLocalAddresses, HealthResponder: cfg.HealthResponder, MeshDomains: cfg.MeshDomains, Shadow: shadow})
	return v
}

// statusTypes are the derived records that the compiler reads.
var statusTypes = []string{mesh.TypeMeshService, mesh.TypeMeshMultiZoneService, mesh.TypeMeshExternalService}

// relevant says that a type can change what proxies get.
func (s *state) relevant(typ string) bool {
	switch typ {
	case mesh.TypeDataplane, mesh.TypeMeshService, mesh.TypeMeshMultiZoneService, mesh.TypeMeshExternalService, mesh.TypeMeshOTelBackend,
		mesh.TypeMeshIdentity, mesh.TypeMeshZoneAddress:
		return true
	}
	k, ok := s.cfg.Kinds.ByName(typ)
	return ok && k.Policy != nil
}

func (s *state) apply(u catalog.Update) {
	s.position = u.Snapshot.Position()
	if u.All {
		s.applyAll(u.Snapshot)
		return
	}
	for _, k := range u.Changed {
		s.judgeExternal(u.Snapshot, k)
		if !s.relevant(k.Type) {
			continue
		}
		r, ok := u.Snapshot.Get(k)
		switch {
		case !ok:
			s.view.Remove(k)
		case !s.awaits(u.Snapshot, k):
			s.expect(r)
			s.view.Put(r)
		}
	}
	for _, d := range u.Derived {
		data, _ := u.Snapshot.Derived(d.Type, d.Mesh, d.Name)
		s.setStatus(d, data)
		if typ := describes(d); typ != "" {
			if r, ok := u.Snapshot.Get(resource.Key{Type: typ, Mesh: d.Mesh, Name: d.Name}); ok {
				s.view.Put(r) // it may have waited for its status
			}
		}
	}
}

// awaits says that a service has just appeared and its status has not.
func (s *state) awaits(snap *catalog.Snapshot, k resource.Key) bool {
	if !s.cfg.Derives || !slices.Contains(statusTypes, k.Type) {
		return false
	}
	if _, had := s.view.Resource(s.view.Graph.Untracked(), k); had {
		return false
	}
	d := catalog.StatusOf(k)
	_, derived := snap.Derived(d.Type, d.Mesh, d.Name)
	return !derived
}

// describes is the type of the services whose status a derived record is; empty when it is something else.
func describes(d catalog.DerivedKey) string {
	for _, t := range statusTypes {
		if catalog.StatusOf(resource.Key{Type: t}).Type == d.Type {
			return t
		}
	}
	return ""
}

// expect keeps traffic away from a dataplane that has just appeared: it is registered before its proxy runs, and what is observed
// of it comes on another way, which may be the slower one.
func (s *state) expect(r resource.Resource) {
	k := r.Key()
	if k.Type != mesh.TypeDataplane || s.cfg.Expected == nil || !s.cfg.Expected(r.Meta) {
		return
	}
	_, known := s.facts[k]
	_, had := s.view.Resource(s.view.Graph.Untracked(), k)
	if !known && !had {
		s.observe(factsUpdate{changed: map[resource.Key]*view.Facts{k: {Down: true}}})
	}
}

func (s *state) applyAll(snap *catalog.Snapshot) {
	gone := s.view.Keys()
	for _, k := range s.cfg.Kinds.All() {
		if !s.relevant(k.Name) {
			continue
		}
		snap.Each(k.Name, "", func(r resource.Resource) bool {
			s.view.Put(r)
			s.judgeExternal(snap, r.Key())
			delete(gone, r.Key())
			return true
		})
	}
	for k := range gone {
		s.view.Remove(k)
		s.judgeExternal(snap, k)
	}
	lost := s.statuses
	s.statuses = map[catalog.DerivedKey]view.Status{}
	for _, typ := range statusTypes {
		snap.EachDerived(catalog.StatusOf(resource.Key{Type: typ}).Type, "", func(k catalog.DerivedKey, data []byte) bool {
			s.setStatus(k, data)
			delete(lost, k)
			return true
		})
	}
	for k := range lost {
		s.setStatus(k, nil)
	}
}

// setStatus takes what the compiler needs from a derived status.
func (s *state) setStatus(k catalog.DerivedKey, data []byte) {
	typ := describes(k)
	if typ == "" {
		return
	}
	// The statuses of the destination kinds agree in these fields; an external service has one address instead of a list.
	var st struct {
		VIPs       []mesh.VIP             `json:"vips"`
		VIP        mesh.VIP               `json:"vip"`
		TLS        mesh.TLSStatus         `json:"tls"`
		Identities []mesh.ServiceIdentity `json:"identities"`
		State      mesh.ServiceState      `json:"state"`
		Addresses  []mesh.Address         `json:"addresses"`
	}
	if len(data) > 0 {
		if err := json.Unmarshal(data, &st); err != nil {
			s.cfg.Log.Error("derived status cannot be read", "type", typ, "mesh", k.Mesh, "name", k.Name, "err", err)
			return
		}
	}
	if st.VIP.IP != "" {
		st.VIPs = append(st.VIPs, st.VIP)
	}
	out := view.Status{TLSReady: st.TLS.Status == mesh.TLSReady, Unavailable: st.State == mesh.Unavailable}
	for _, v := range st.VIPs {
		out.VIPs = append(out.VIPs, v.IP)
	}
	for _, id := range st.Identities {
		out.Identities = append(out.Identities, id.Value)
	}
	for _, a := range st.Addresses {
		out.Hostnames = append(out.Hostnames, a.Hostname)
	}
	s.statuses[k] = out
	s.view.SetStatus(resource.Key{Type: typ, Mesh: k.Mesh, Name: k.Name}, out)
}

func (s *state) observe(f factsUpdate) {
	if f.all {
		for k := range s.facts {
			if f.changed[k] == nil {
				s.view.SetFacts(k, nil)
				delete(s.facts, k)
			}
		}
	}
	for k, v := range f.changed {
		s.view.SetFacts(k, v)
		switch {
		case v == nil || !v.Draining:
			delete(s.drained, k)
		case !s.facts[k].Draining:
			s.drained[k] = s.sequence + 1 // the one these changes will have
		}
		if v == nil {
			delete(s.facts, k)
		} else {
			s.facts[k] = *v
		}
	}
}

// learn takes what has become known of other zones.
func (s *state) learn(u RemoteUpdate) {
	if u.All {
		for k := range s.remotes {
			if u.Services[k] == nil {
				s.view.SetRemote(k, nil)
				delete(s.remotes, k)
			}
		}
		for k := range s.gateways {
			if u.Gateways[k] == nil {
				s.view.SetGateway(k, nil)
				delete(s.gateways, k)
			}
		}
	}
	for k, m := range u.Services {
		s.view.SetRemote(k, m)
		if m == nil {
			delete(s.remotes, k)
		} else {
			s.remotes[k] = *m
		}
	}
	for k, g := range u.Gateways {
		s.view.SetGateway(k, g)
		if g == nil {
			delete(s.gateways, k)
		} else {
			s.gateways[k] = *g
		}
	}
}

// publish gives every proxy whose parts have changed its new table.
func (s *state) publish() {
	for k, p := range s.proxies {
		cfg := p.root.Value()
		if cfg.Agent != p.last.Agent {
			p.last.Agent = cfg.Agent
			for f := range p.followers {
				f.offer(cfg.Agent)
			}
		}
		if cfg.Shared != p.last.Shared || cfg.Own != p.last.Own {
			p.update(cfg, s.sequence)
			for sess := range p.sessions {
				sess.offer(p.table)
			}
			s.cfg.Log.Debug("proxy has a new table", "mesh", k.Mesh, "dataplane", k.Name, "sequence", s.sequence)
		}
	}
}

func (p *proxy) update(cfg envoy.ProxyConfig, sequence uint64) {
	p.last = cfg
	p.table = &envoy.Table{Shared: cfg.Shared, Own: cfg.Own, Sequence: sequence, Problems: cfg.Problems}
}

// proxy finds a proxy, or begins to compute it.
func (s *state) proxy(dp resource.Key) *proxy {
	p := s.proxies[dp]
	if p == nil {
		p = &proxy{root: s.compiler.Proxy(dp), sessions: map[*Session]struct{}{}, followers: map[*Follower]struct{}{}}
		p.update(p.root.Value(), s.sequence)
		s.proxies[dp] = p
	}
	return p
}

// release stops computing a proxy that nobody asks for any more.
func (s *state) release(dp resource.Key, p *proxy) {
	if len(p.sessions) == 0 && len(p.followers) == 0 {
		p.root.Close()
		delete(s.proxies, dp)
		s.view.Graph.Settle()
	}
}
