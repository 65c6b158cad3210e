// Package uplink is the zone's side of its link to the global control plane: it joins with a token, keeps the credential, connects
// again whenever the link ends, and tells global how far the zone is. It decides nothing about resources, and the zone needs none of
// it to serve: without global it goes on with what it has.
package uplink

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/exchange"
	"github.com/causeway-mesh/causeway/store/link"
	"github.com/causeway-mesh/causeway/zone-cp/push"
)

// An Engine says how far the zone has computed, and its proxies have acknowledged.
type Engine interface {
	Standing(ctx context.Context) (push.Standing, error)
	Progressed() <-chan struct{}
}

// Reports are the facts that the zone tells global.
type Reports interface {
	// Facts lists what changed since the last call, or with all everything.
	Facts(all bool) []*zonesync.Fact
	// Ready holds a token when there is something new.
	Ready() <-chan struct{}
}

// A Remote takes what is known of services of other zones.
type Remote interface {
	Observe(service resource.Key, counts *view.Remote, sequence uint64)
}

// Config of an Uplink.
type Config struct {
	Catalog *catalog.Catalog
	Store   store.Store
	Offers  *exchange.Offers
	Zone    string
	// Instance is this process, Version its software.
	Instance, Version string
	// JoinToken reads the token with which the zone joins; it is asked only while the zone has no credential that is good.
	JoinToken func() (string, error)
	// Addresses of global, in place of those in the join token.
	Addresses []string
	// Meshes that the zone serves; none means all.
	Meshes   []string
	Features []string

	Engine  Engine
	Reports Reports
	Remote  Remote
	// Exceptions lists what proxies refuse, at most so many, and counts the pieces and the proxies.
	Exceptions func(most int) (list []*zonesync.Exception, total, proxies uint64)
	// Inspector answers what global asks for operators; nil answers nothing.
	Inspector Inspector
	// Fence is the lease under which the zone writes; nil: it is the only one that does.
	Fence func() *store.Fence

	// BeatEvery is the interval of beats. Default 5s.
	BeatEvery time.Duration
	// RetryMin and RetryMax bound the wait before the next link. Defaults 50ms and 2s.
	RetryMin, RetryMax time.Duration
	Log                *slog.Logger
	Registerer         prometheus.Registerer
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// An Uplink keeps the zone linked to global. Run does all of it.
type Uplink struct {
	attempt  attempt // to join
	cfg      Config
	tracker  *tracker
	state    atomic.Pointer[State]
	lastSeen time.Time
	tried    string // the join token that was read last
}

// A State says how the link stands.
type State struct {
	Linked bool
	Since  time.Time
	// Err is why there is no link.
	Err string
	// Clock is how far global's clock is ahead.
	Clock time.Duration
}

// New makes an uplink.
func New(cfg Config) *Uplink {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.RetryMin <= 0 {
		cfg.RetryMin = 50 * time.Millisecond
	}
	if cfg.RetryMax <= 0 {
		cfg.RetryMax = 2 * time.Second
	}
	if cfg.BeatEvery <= 0 {
		cfg.BeatEvery = 5 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	u := &Uplink{cfg: cfg, tracker: newTracker(cfg.Engine, cfg.Log)}
	u.state.Store(&State{Since: time.Now(), Err: "not tried yet"})
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "causeway_uplink_linked", Help: "1 while the zone is linked to global.",
		}, func() float64 {
			if u.State().Linked {
				return 1
			}
			return 0
		}))
	}
	return u
}

// State says how the link stands now.
func (u *Uplink) State() State { return *u.state.Load() }

// Run keeps the zone linked until ctx ends. It fails only when the zone has lost its lease, and may run again once it has it back.
func (u *Uplink) Run(ctx context.Context) error {
	defer u.ended(errors.New("this instance does not hold the link of the zone"))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return u.tracker.run(ctx) })
	g.Go(func() error { return u.keep(ctx) })
	return g.Wait()
}

// keep begins link after link. The wait grows with failures, has jitter, and begins small after a link that lived.
func (u *Uplink) keep(ctx context.Context) error {
	wait := u.cfg.RetryMin
	for turn := 0; ; turn++ {
		began := time.Now()
		err := u.once(ctx, turn)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, store.ErrFenced) {
			return fmt.Errorf("uplink: %w", err)
		}
		if time.Since(began) > 2*u.cfg.BeatEvery {
			wait = u.cfg.RetryMin
		}
		most := u.cfg.RetryMax
		// Global has decided. Asking again makes it log again, and only an operator can change it: here, with another token.
		decided := status.Code(err) == codes.PermissionDenied
		if decided {
			wait, most = max(wait, time.Second), max(most, refusedMax)
		}
		pause := wait/2 + rand.N(wait)
		var refused *zonesync.RefusedError
		if errors.As(err, &refused) {
			pause = max(pause, refused.RetryAfter)
		}
		u.ended(err)
		u.cfg.Log.Warn("the zone has no link to global and tries again; it goes on with what it has", "in", pause.Round(time.Millisecond), "err", err)
		wait = min(2*wait, most)
		if u.rest(ctx, pause, decided) {
			wait = u.cfg.RetryMin
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

const (
	// refusedMax bounds the wait before global is asked again that has refused the zone.
	refusedMax = 30 * time.Second
	// tokenEvery is how often is looked for another join token meanwhile.
	tokenEvery = 500 * time.Millisecond
)

// rest waits for a time, or for another join token than there was, and says whether there is one.
func (u *Uplink) rest(ctx context.Context, pause time.Duration, forToken bool) (token bool) {
	t := time.NewTimer(pause)
	defer t.Stop()
	if !forToken {
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		return false
	}
	look := time.NewTicker(tokenEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
			return false
		case <-look.C:
			if now, err := u.cfg.JoinToken(); err == nil && now != u.tried {
				return true
			}
		}
	}
}

func (u *Uplink) ended(err error) {
	s := State{Since: time.Now(), Err: err.Error()}
	if old := u.State(); !old.Linked {
		s.Since = old.Since
	}
	u.state.Store(&s)
}

// once lives through one link, joining first when there is no credential.
func (u *Uplink) once(ctx context.Context, turn int) error {
	cred, err := u.credential(ctx, turn)
	if err != nil {
		return err
	}
	address := cred.address(turn, u.cfg.Addresses)
	conn, err := u.dial(address, cred.tls(address, u.cfg.Now))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	session, err := u.nextSession(ctx)
	if err != nil {
		return err
	}
	stream, err := zonesync.NewLinkClient(conn).Sync(ctx)
	if err != nil {
		return u.explain(ctx, cred, err)
	}
	return u.explain(ctx, cred, u.link(ctx, conn, cred, session, stream))
}

func (u *Uplink) dial(address string, config *tls.Config) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to global at %s: %w", address, err)
	}
	return conn, nil
}

// maxMessage bounds a message of global, in bytes.
const maxMessage = 8 << 20

// explain says what an error of the stream means. A credential that is void is forgotten, so that a new join token is used.
func (u *Uplink) explain(ctx context.Context, cred *credential, err error) error {
	if status.Code(err) != codes.Unauthenticated {
		return err
	}
	if e := u.forget(ctx, cred); e != nil {
		return errors.Join(err, e)
	}
	return fmt.Errorf("global does not accept the zone's credential; create a join token with \"causeway zone connect %s\" and give it to this zone: %w", u.cfg.Zone, err)
}

// sessionRecord holds the number of the last link.
var sessionRecord = catalog.DerivedKey{Type: "uplink-session", Name: "last"}

// nextSession numbers the links of the zone, over restarts. The clock is in it so that a store restored from a backup goes on higher.
func (u *Uplink) nextSession(ctx context.Context) (uint64, error) {
	next := uint64(u.cfg.Now().UnixMilli())
	if data, ok := u.cfg.Catalog.Snapshot().Derived(sessionRecord.Type, sessionRecord.Mesh, sessionRecord.Name); ok {
		var last uint64
		if json.Unmarshal(data, &last) == nil {
			next = max(next, last+1)
		}
	}
	data, err := json.Marshal(next)
	if err != nil {
		return 0, err
	}
	_, err = u.cfg.Catalog.Commit(ctx, catalog.Batch{
		Author: author, Reason: "a link to global begins", Fence: u.fence(), Derived: []catalog.DerivedPut{{Key: sessionRecord, Data: data}},
	})
	if err != nil {
		return 0, fmt.Errorf("number the link: %w", err)
	}
	return next, nil
}

func (u *Uplink) fence() *store.Fence {
	if u.cfg.Fence == nil {
		return nil
	}
	return u.cfg.Fence()
}

const author = "uplink"

// link runs one link.
func (u *Uplink) link(ctx context.Context, conn *grpc.ClientConn, cred *credential, session uint64, stream zonesync.Link_SyncClient) error {
	sink, err := exchange.NewSink(exchange.SinkConfig{
		Catalog: u.cfg.Catalog, Zone: u.cfg.Zone, Features: u.cfg.Features, Log: u.cfg.Log, Fence: u.cfg.Fence,
	})
	if err != nil {
		return err
	}
	if _, err := sink.Rejudge(ctx); err != nil {
		u.cfg.Log.Warn("objects that were set aside cannot be judged again now", "err", err)
	}
	offer := link.NewOffered(u.cfg.Offers, exchange.Peer{ToGlobal: true})
	defer offer.Close()
	renewal := newRenewal(u, cred)
	g, ctx := errgroup.WithContext(ctx)
	ctx, cancel := context.WithCancel(ctx)
	g.Go(func() error { return renewal.run(ctx) })
	g.Go(func() error {
		u.answerQuestions(ctx, conn)
		return nil
	})
	have := sink.Have()
	u.tracker.begin(have, u.cfg.Catalog.Snapshot().Position().Revision)
	known := map[string]bool{}
	g.Go(func() error {
		defer cancel()
		return link.Run(ctx, link.Config{
			Peer:  zonesync.Config{Hello: u.hello(cred, session, have), Zone: true},
			Offer: offer, Sink: &watchedSink{sink, u},
			Status: func() *zonesync.Beat { return u.status(sink) }, Wake: u.tracker.wake,
			Facts: u.cfg.Reports.Facts, FactsReady: u.cfg.Reports.Ready(),
			OnOpen:  func(h *zonesync.Hello) { u.opened(h) },
			OnFacts: func(o *zonesync.Observation) { u.learn(known, o) },
			OnBeat:  u.heard,

			OnCredential: renewal.take, Outgoing: renewal.out,
			BeatEvery: u.cfg.BeatEvery, Log: u.cfg.Log,
		}, stream)
	})
	return g.Wait()
}

func (u *Uplink) hello(cred *credential, session uint64, have []*zonesync.ScopeState) *zonesync.Hello {
	var kinds []string
	for _, k := range u.cfg.Catalog.Kinds().All() {
		kinds = append(kinds, k.Name)
	}
	return &zonesync.Hello{
		ProtocolMin: zonesync.Protocol, ProtocolMax: zonesync.Protocol, ZoneId: cred.ZoneID, Zone: cred.Zone, Instance: u.cfg.Instance,
		Session: session, Lineage: exchange.LineageOf(u.cfg.Catalog.Snapshot().Position().Lineage), ExpectedLineage: cred.Global,
		Have: have, Features: u.cfg.Features, Kinds: kinds, Meshes: u.cfg.Meshes, Software: u.cfg.Version, ClockMs: u.cfg.Now().UnixMilli(),
		Limits: &zonesync.Limits{Window: zonesync.DefaultWindow, MaxObject: store.MaxData, MaxBatch: maxMessage},
	}
}

func (u *Uplink) opened(h *zonesync.Hello) {
	clock := time.UnixMilli(h.GetClockMs()).Sub(u.cfg.Now()).Round(time.Millisecond)
	u.state.Store(&State{Linked: true, Since: time.Now(), Clock: clock})
	u.cfg.Log.Info("the zone is linked to global", "instance", h.GetInstance(), "software", h.GetSoftware())
	if clock > maxSkew || clock < -maxSkew {
		u.cfg.Log.Warn("the clocks of this zone and global differ; certificates and tokens may be refused: set the clocks", "by", clock)
	}
}

// maxSkew is how far clocks may differ before somebody is told.
const maxSkew = 5 * time.Second

func (u *Uplink) heard(b *zonesync.Beat) {
	s := u.State()
	s.Clock = time.UnixMilli(b.GetClockMs()).Sub(u.cfg.Now()).Round(time.Millisecond)
	u.state.Store(&s)
}

// learn takes facts about other zones.
func (u *Uplink) learn(known map[string]bool, o *zonesync.Observation) {
	told := map[string]bool{}
	for _, f := range o.GetFacts() {
		told[f.GetKey()] = true
		u.learnOne(known, f)
	}
	if !o.GetAll() {
		return
	}
	for key := range known {
		if !told[key] {
			u.learnOne(known, &zonesync.Fact{Key: key})
		}
	}
}

func (u *Uplink) learnOne(known map[string]bool, f *zonesync.Fact) {
	text, ok := zonesync.FactOfCounts(f.GetKey())
	if !ok || u.cfg.Remote == nil {
		return // a newer global tells more
	}
	kri, err := resource.ParseKRI(text)
	if err != nil || kri.Zone == "" || kri.Zone == u.cfg.Zone {
		return
	}
	key := resource.Key{Type: "MeshService", Mesh: kri.Mesh, Name: resource.SyncedName(kri.Mesh, kri.Name, kri.Zone, kri.Namespace)}
	if len(f.GetValue()) == 0 {
		delete(known, f.GetKey())
		u.cfg.Remote.Observe(key, nil, 0)
		return
	}
	var c zonesync.Counts
	if json.Unmarshal(f.GetValue(), &c) != nil {
		return
	}
	known[f.GetKey()] = true
	counts := &view.Remote{Ports: map[string]view.Capacity{}}
	for section, p := range c.Ports {
		counts.Ports[section] = view.Capacity{Healthy: p.Healthy, Total: p.Total}
	}
	u.cfg.Remote.Observe(key, counts, c.Sequence)
}

// digestEvery is how often what is held of global's data is summed up, for global to compare.
const digestEvery = 2 * time.Minute

// status is what the zone says of itself.
func (u *Uplink) status(sink *exchange.Sink) *zonesync.Beat {
	b := u.tracker.beat()
	b.ClockMs = u.cfg.Now().UnixMilli()
	if u.cfg.Exceptions != nil {
		const most = 20
		var proxies uint64
		b.Exceptions, b.ExceptionsTotal, proxies = u.cfg.Exceptions(most)
		b.Proxies.Rejected = proxies
	}
	if time.Since(u.lastSeen) > digestEvery {
		u.lastSeen = time.Now()
		b.Applied = sink.Have()
	}
	return b
}

// watchedSink notes which revision of the zone's own store holds which of global's.
type watchedSink struct {
	*exchange.Sink
	u *Uplink
}

// Apply implements link.Sink.
func (s *watchedSink) Apply(ctx context.Context, b *zonesync.Batch) (*zonesync.Verdict, error) {
	v, err := s.Sink.Apply(ctx, b)
	if err == nil && b.GetLast() {
		s.u.tracker.applied(b.GetTo().GetRevision(), s.u.cfg.Catalog.Snapshot().Position().Revision)
	}
	return v, err
}
