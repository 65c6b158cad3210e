// Package insight is what global observes of its zones: whether they are connected, how far each has come, what its proxies refuse,
// and the facts that zones tell about their dataplanes and services. It keeps no resource, moves no message and decides nothing:
// liveness of a link never moves traffic.
package insight

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/exchange"
)

// Observer is the part of a store that keeps observations.
type Observer interface {
	Observe(ctx context.Context, obs ...store.Observation) error
	Observations(ctx context.Context, prefix string) ([]store.Observation, error)
}

// Config of a Board.
type Config struct {
	Catalog *catalog.Catalog
	// Store shares what is observed with other instances of global, and keeps it over restarts.
	Store Observer
	// Instance is this process.
	Instance string
	Log      *slog.Logger
	// ShareEvery is how often what changed is shared, and what others share is read. Default 1s.
	ShareEvery time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// A Board is everything that is observed of zones. Run shares it with other instances.
type Board struct {
	cfg Config

	mu      sync.Mutex
	zones   map[string]*zone
	changed chan struct{} // closed and replaced when anything moved
	readers map[*Facts]struct{}
	counted struct { // dataplanes of a snapshot
		at         *catalog.Snapshot
		dataplanes map[place]uint32
	}
}

// zone is what is known of one zone. The exported half is what instances share.
type zone struct {
	Status status
	facts  map[string]json.RawMessage // by key; of the instance that holds the link, or shared
	conn   *Conn                      // the link, when this instance holds it
	dirty  bool                       // the status is not shared yet
	parts  map[string]bool            // neither are these parts of the facts
	cut    map[string]bool            // facts that claim more than is registered
}

// status is how a zone stands, as it is shared between instances.
type status struct {
	// ZoneID is the UID of the Zone: another one of the same name begins with nothing.
	ZoneID        string                      `json:"zoneId,omitempty"`
	Instance      string                      `json:"instance"`
	Online        bool                        `json:"online"`
	Subscriptions []mesh.KDSSubscription      `json:"subscriptions,omitempty"`
	LastBeat      time.Time                   `json:"lastBeat,omitzero"`
	Skew          time.Duration               `json:"skew,omitempty"` // of the zone's clock
	Received      uint64                      `json:"received"`
	Computed      uint64                      `json:"computed"`
	Acknowledged  uint64                      `json:"acknowledged"`
	Proxies       mesh.ProxyCounts            `json:"proxies"`
	Exceptions    []mesh.PropagationException `json:"exceptions,omitempty"`
	More          uint64                      `json:"more,omitempty"`
	SetAside      []mesh.PropagationException `json:"setAside,omitempty"`
	// Parts counts the versions of each part of the facts, which are shared apart.
	Parts map[string]uint64 `json:"parts,omitempty"`
}

// New makes a board.
func New(cfg Config) *Board {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.ShareEvery <= 0 {
		cfg.ShareEvery = time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Board{cfg: cfg, zones: map[string]*zone{}, changed: make(chan struct{}), readers: map[*Facts]struct{}{}}
}

const (
	sharePrefix = "zone/"
	factsPrefix = "zone-facts/"
	author      = "insight"
)

// maxSubscriptions is how many connections of a zone are remembered.
const maxSubscriptions = 10

// Run shares what is observed here, reads what other instances share, and forgets zones that are gone, until ctx ends.
func (b *Board) Run(ctx context.Context) error {
	if err := b.learn(ctx); err != nil {
		b.cfg.Log.Warn("what was observed of zones before cannot be read", "err", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return b.followZones(ctx) })
	g.Go(func() error {
		// No user waits for this: what concerns the links of this instance is in memory, and zones probe each other themselves.
		tick := time.NewTicker(b.cfg.ShareEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
			if err := errors.Join(b.share(ctx), b.learn(ctx)); err != nil && ctx.Err() == nil {
				b.cfg.Log.Debug("observations are not shared", "err", err)
			}
		}
	})
	return g.Wait()
}

// followZones forgets what is known of zones that are deleted, and tells readers of facts when one is enabled or disabled.
func (b *Board) followZones(ctx context.Context) error {
	feed := b.cfg.Catalog.Subscribe()
	defer feed.Close()
	for {
		u, err := feed.Next(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("%s: %w", author, err)
		}
		for _, k := range u.Changed {
			if k.Type != mesh.TypeZone {
				continue
			}
			if _, ok := u.Snapshot.Get(k); !ok {
				b.forget(ctx, k.Name)
			}
			b.retell(k.Name)
		}
		b.registeredMore(u)
	}
}

func (b *Board) forget(ctx context.Context, name string) {
	b.mu.Lock()
	delete(b.zones, name)
	b.mu.Unlock()
	b.erase(ctx, name)
}

// erase removes what is shared of a zone that is gone.
func (b *Board) erase(ctx context.Context, name string) {
	gone := []store.Observation{{Key: sharePrefix + name}}
	for part := range factParts {
		gone = append(gone, store.Observation{Key: factsPrefix + name + "/" + strconv.Itoa(part)})
	}
	if err := b.cfg.Store.Observe(ctx, gone...); err != nil {
		b.cfg.Log.Debug("observations of a deleted zone stay", "zone", name, "err", err)
	}
}

// factParts is into how many parts the facts of a zone are split: what changes seldom, insights, and traffic, which changes all the time.
const factParts = 1 + 16 + 1

// partOf splits the facts of a zone, so that one that changes does not write all of them again.
func partOf(key string) string {
	switch {
	case strings.HasPrefix(key, zonesync.FactTraffic("")):
		return strconv.Itoa(factParts - 1)
	case !strings.HasPrefix(key, zonesync.FactInsight("")):
		return "0"
	}
	h := fnv.New32a()
	h.Write([]byte(key)) //nolint:errcheck // a hash takes everything
	return strconv.Itoa(1 + int(h.Sum32()%16))
}

// share writes the zones whose links this instance holds, as far as they changed.
func (b *Board) share(ctx context.Context) error {
	obs, shared := b.unshared()
	if len(obs) == 0 {
		return nil
	}
	err := b.cfg.Store.Observe(ctx, obs...)
	if err == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, parts := range shared {
		if z := b.zones[name]; z != nil {
			z.dirty = true
			maps.Copy(z.parts, parts)
		}
	}
	return fmt.Errorf("share observations: %w", err)
}

// unshared takes what is to be shared: the parts of facts before the status that counts them.
func (b *Board) unshared() (obs []store.Observation, shared map[string]map[string]bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	shared = map[string]map[string]bool{}
	add := func(key string, v any) {
		if text, err := json.Marshal(v); err == nil { // it is ours: nothing in it can fail
			obs = append(obs, store.Observation{Key: key, Data: text, At: b.cfg.Now()})
		}
	}
	for name, z := range b.zones {
		if !z.dirty && len(z.parts) == 0 {
			continue
		}
		split := map[string]map[string]json.RawMessage{}
		for key, value := range z.facts {
			if part := partOf(key); z.parts[part] {
				if split[part] == nil {
					split[part] = map[string]json.RawMessage{}
				}
				split[part][key] = value
			}
		}
		for part := range z.parts {
			add(factsPrefix+name+"/"+part, split[part])
		}
		z.Status.Parts = maps.Clone(z.Status.Parts)
		for part := range z.parts {
			if z.Status.Parts == nil {
				z.Status.Parts = map[string]uint64{}
			}
			z.Status.Parts[part]++
		}
		add(sharePrefix+name, z.Status)
		shared[name] = z.parts
		z.dirty, z.parts = false, map[string]bool{}
	}
	return obs, shared
}

// learn takes over what other instances share about zones whose links are not held here.
func (b *Board) learn(ctx context.Context) error {
	list, err := b.cfg.Store.Observations(ctx, sharePrefix)
	if err != nil {
		return fmt.Errorf("read observations: %w", err)
	}
	news := map[string][]string{} // the parts of facts that are new, by zone
	var left []string             // by zones that are gone, and written after they went
	snap := b.cfg.Catalog.Snapshot()
	b.mu.Lock()
	for _, o := range list {
		name := strings.TrimPrefix(o.Key, sharePrefix)
		z := b.zones[name]
		if z != nil && z.conn != nil {
			continue
		}
		var st status
		if json.Unmarshal(o.Data, &st) != nil {
			continue
		}
		if r, ok := snap.Get(resource.Key{Type: mesh.TypeZone, Name: name}); !ok || st.ZoneID != "" && st.ZoneID != r.UID {
			// The snapshot may be behind what another instance shares, but not for so long.
			if b.cfg.Now().Sub(o.At) > staleAfter {
				left = append(left, name)
			}
			continue
		}
		// An instance that ended without a word leaves its zones online for ever: what is not renewed is not.
		if st.Online && (st.Instance == b.cfg.Instance || b.cfg.Now().Sub(st.LastBeat) > staleAfter) {
			st.end(b.cfg.Now())
		}
		if z == nil {
			z = newZone()
			b.zones[name] = z
		}
		for part, version := range st.Parts {
			if z.Status.Parts[part] != version {
				news[name] = append(news[name], part)
			}
		}
		z.Status = st
	}
	if len(list) > 0 {
		b.ring()
	}
	b.mu.Unlock()
	for _, name := range left {
		b.erase(ctx, name)
	}
	for name, parts := range news {
		if err := b.learnFacts(ctx, name, parts); err != nil {
			return err
		}
	}
	return nil
}

func newZone() *zone {
	return &zone{facts: map[string]json.RawMessage{}, parts: map[string]bool{}, cut: map[string]bool{}}
}

// staleAfter is how long a zone counts as online at another instance after its last beat.
const staleAfter = 30 * time.Second

func (b *Board) learnFacts(ctx context.Context, name string, parts []string) error {
	for _, part := range parts {
		key := factsPrefix + name + "/" + part
		list, err := b.cfg.Store.Observations(ctx, key)
		if err != nil {
			return fmt.Errorf("read observations: %w", err)
		}
		for _, o := range list {
			var facts map[string]json.RawMessage
			if o.Key != key || json.Unmarshal(o.Data, &facts) != nil {
				continue
			}
			b.mu.Lock()
			if z := b.zones[name]; z != nil && z.conn == nil {
				maps.DeleteFunc(z.facts, func(k string, _ json.RawMessage) bool { return partOf(k) == part })
				maps.Copy(z.facts, facts)
			}
			b.mu.Unlock()
		}
	}
	b.retell(name)
	return nil
}

func (s *status) end(at time.Time) {
	s.Online = false
	for i := range s.Subscriptions {
		if s.Subscriptions[i].DisconnectTime.IsZero() {
			s.Subscriptions[i].DisconnectTime = at.UTC()
		}
	}
}

// ring wakes everybody who waits for a change; the caller holds the lock.
func (b *Board) ring() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// A Conn is the link of one zone, as it is observed.
type Conn struct {
	b    *Board
	name string

	// Guarded by the board's lock.
	sent  uint64 // the newest revision that the zone was sent anything of
	heard struct{ computed, acknowledged uint64 }
}

// Connected begins a connection of a zone. What an earlier one told is kept until this one tells something else.
func (b *Board) Connected(name string, h *zonesync.Hello) *Conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	z := b.zones[name]
	if z == nil || z.Status.ZoneID != "" && z.Status.ZoneID != h.GetZoneId() {
		z = newZone()
		b.zones[name] = z
	}
	now := b.cfg.Now()
	z.Status.ZoneID = h.GetZoneId()
	z.Status.end(now)
	z.Status.Instance, z.Status.Online, z.Status.LastBeat = b.cfg.Instance, true, now
	z.Status.Skew = skew(now, h.GetClockMs())
	z.Status.Subscriptions = append(z.Status.Subscriptions, mesh.KDSSubscription{
		ID: fmt.Sprintf("%s-%d", h.GetInstance(), h.GetSession()), GlobalInstanceID: b.cfg.Instance, ConnectTime: now.UTC(),
		ZoneInstanceID: h.GetInstance(), AuthTokenProvided: true,
		Version: &mesh.ZoneVersion{KumaCp: mesh.KumaCpVersion{Version: h.GetSoftware(), KumaCpGlobalCompatible: true}},
	})
	if n := len(z.Status.Subscriptions); n > maxSubscriptions {
		z.Status.Subscriptions = slices.Delete(z.Status.Subscriptions, 0, n-maxSubscriptions)
	}
	z.conn = &Conn{b: b, name: name}
	z.dirty = true
	b.ring()
	return z.conn
}

func skew(now time.Time, clockMs int64) time.Duration {
	if clockMs == 0 {
		return 0
	}
	return time.UnixMilli(clockMs).Sub(now).Round(time.Millisecond)
}

// update edits the status of the zone, unless another connection has taken its place.
func (c *Conn) update(edit func(z *zone)) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	z := c.b.zones[c.name]
	if z == nil || z.conn != c {
		return
	}
	edit(z)
	z.dirty = true
	c.b.ring()
}

// Ended ends the connection.
func (c *Conn) Ended() {
	c.update(func(z *zone) {
		z.Status.end(c.b.cfg.Now())
		z.conn = nil
	})
}

// Progress takes how far the zone is with what global sends: head is the newest position that it was told of.
func (c *Conn) Progress(head *zonesync.Position, scopes map[string]zonesync.Progress) {
	c.update(func(z *zone) {
		received := head.GetRevision()
		z.Status.SetAside = nil
		for scope, p := range scopes {
			c.sent = max(c.sent, p.Sent.GetRevision())
			if p.Outstanding {
				received = min(received, p.Durable.GetRevision())
			}
			for _, r := range p.Rejected {
				in, _ := zonesync.MeshOf(scope)
				z.Status.SetAside = append(z.Status.SetAside, mesh.PropagationException{Mesh: in, Type: "object", Name: r.GetId(), Reason: r.GetReason()})
			}
		}
		z.Status.Received = received
		c.settle(z)
	})
}

// Beat takes what the zone says of itself.
func (c *Conn) Beat(b *zonesync.Beat) {
	c.update(func(z *zone) {
		now := c.b.cfg.Now()
		z.Status.LastBeat, z.Status.Skew = now, skew(now, b.GetClockMs())
		c.heard.computed, c.heard.acknowledged = b.GetComputed(), b.GetAcknowledged()
		p := b.GetProxies()
		z.Status.Proxies = mesh.ProxyCounts{Connected: p.GetConnected(), Acknowledged: p.GetAcknowledged(), Pending: p.GetPending(), Rejected: p.GetRejected()}
		z.Status.Exceptions = nil
		for _, e := range b.GetExceptions() {
			z.Status.Exceptions = append(z.Status.Exceptions, mesh.PropagationException{
				Mesh: e.GetMesh(), Dataplane: e.GetDataplane(), Type: e.GetType(), Name: e.GetName(), Reason: e.GetReason(), Policies: e.GetPolicies(),
			})
		}
		z.Status.More = b.GetExceptionsTotal() - min(b.GetExceptionsTotal(), uint64(len(b.GetExceptions())))
		c.settle(z)
	})
}

// settle says in terms of global's revisions what the zone has computed and acknowledged: a zone that has done everything that it was
// sent has done everything that does not concern it, too.
func (c *Conn) settle(z *zone) {
	of := func(heard uint64) uint64 {
		if heard >= c.sent {
			return z.Status.Received
		}
		return min(heard, z.Status.Received)
	}
	z.Status.Computed, z.Status.Acknowledged = of(c.heard.computed), of(c.heard.acknowledged)
}

// Observed takes facts that the zone tells.
func (c *Conn) Observed(o *zonesync.Observation) {
	var keys []string
	c.update(func(z *zone) {
		before := z.facts
		if o.GetAll() {
			z.facts = map[string]json.RawMessage{}
			for k := range before {
				z.parts[partOf(k)] = true
			}
		}
		for _, f := range o.GetFacts() {
			keys = append(keys, f.GetKey())
			z.parts[partOf(f.GetKey())] = true
			if len(f.GetValue()) == 0 {
				delete(z.facts, f.GetKey())
				continue
			}
			if len(z.facts) < maxFacts && len(f.GetValue()) <= maxFact && json.Valid(f.GetValue()) {
				z.facts[f.GetKey()] = f.GetValue()
			}
		}
		for k := range before {
			if _, ok := z.facts[k]; o.GetAll() && !ok {
				keys = append(keys, k)
			}
		}
	})
	c.b.tell(c.name, keys)
}

// What one zone may make global remember.
const (
	maxFacts = 200_000
	maxFact  = 64 << 10
)

// Zone implements rest.Insights: the ZoneInsight of a zone, with what Causeway adds to it.
func (b *Board) Zone(name string) (json.RawMessage, bool) {
	refused := b.refused(name)
	b.mu.Lock()
	defer b.mu.Unlock()
	z := b.zones[name]
	if z == nil {
		return nil, false
	}
	out := struct {
		mesh.ZoneInsight
		Online       bool                        `json:"online"`
		ClockSkew    string                      `json:"clockSkew,omitempty"`
		Received     uint64                      `json:"received"`
		Computed     uint64                      `json:"computed"`
		Acknowledged uint64                      `json:"acknowledged"`
		Proxies      mesh.ProxyCounts            `json:"proxies"`
		Exceptions   []mesh.PropagationException `json:"exceptions,omitempty"`
		Reachability json.RawMessage             `json:"reachability,omitempty"`
	}{
		ZoneInsight: mesh.ZoneInsight{Subscriptions: z.Status.Subscriptions}, Online: z.Status.Online,
		Received: z.Status.Received, Computed: z.Status.Computed, Acknowledged: z.Status.Acknowledged, Proxies: z.Status.Proxies,
		Exceptions: slices.Concat(z.Status.Exceptions, z.Status.SetAside, refused), Reachability: z.facts[zonesync.FactReachability],
	}
	if !z.Status.LastBeat.IsZero() {
		out.HealthCheck = &mesh.ZoneHealthCheck{Time: z.Status.LastBeat.UTC()}
	}
	if z.Status.Online && len(z.Status.Subscriptions) > 0 {
		s := &mesh.KDSStream{GlobalInstanceID: z.Status.Instance, ConnectTime: z.Status.Subscriptions[len(z.Status.Subscriptions)-1].ConnectTime}
		out.KDSStreams = &mesh.KDSStreams{GlobalToZone: s, ZoneToGlobal: s}
	}
	if s := z.Status.Skew; s > maxSkew || s < -maxSkew {
		out.ClockSkew = s.String()
	}
	text, err := json.Marshal(out)
	return text, err == nil
}

// maxRefused bounds how much is shown of what a zone sent and global did not take.
const maxRefused = 100

// refused lists what global has set aside of a zone's objects.
func (b *Board) refused(name string) []mesh.PropagationException {
	sink, err := exchange.NewSink(exchange.SinkConfig{Catalog: b.cfg.Catalog, From: exchange.Party{Zone: name}})
	if err != nil {
		return nil
	}
	list := sink.Rejected("")
	var out []mesh.PropagationException
	for _, r := range list[:min(len(list), maxRefused)] {
		out = append(out, mesh.PropagationException{Type: "object", Name: r.GetId(), Reason: "global does not take it: " + r.GetReason()})
	}
	return out
}

// maxSkew is how far a zone's clock may be off before it is shown.
const maxSkew = 5 * time.Second

// Dataplane implements rest.Insights: what the zone of a dataplane tells of it.
func (b *Board) Dataplane(in, name string) (json.RawMessage, bool) {
	r, ok := b.cfg.Catalog.Snapshot().Get(resource.Key{Type: mesh.TypeDataplane, Mesh: in, Name: name})
	if !ok {
		return nil, false
	}
	k, _ := b.cfg.Catalog.Kinds().ByName(mesh.TypeDataplane)
	b.mu.Lock()
	defer b.mu.Unlock()
	z := b.zones[r.Zone()]
	if z == nil {
		return nil, false
	}
	fact, ok := z.facts[zonesync.FactInsight(resource.KRIOf(k, r.Meta).String())]
	return fact, ok
}

// Online says whether a zone is connected to some instance of global.
func (b *Board) Online(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	z := b.zones[name]
	return z != nil && z.Status.Online
}

// Names lists the zones that something is known of, sorted.
func (b *Board) Names() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.zones))
}

// Proxies counts the proxies of a MeshService as its zone tells: those of the port that has least. How many are connected is not told; it is
// at least as many as are healthy.
func (b *Board) Proxies(service resource.Resource) mesh.DataplaneProxies {
	k, _ := b.cfg.Catalog.Kinds().ByName(service.Type)
	b.mu.Lock()
	defer b.mu.Unlock()
	z := b.zones[service.Zone()]
	if z == nil {
		return mesh.DataplaneProxies{}
	}
	var c zonesync.Counts
	if json.Unmarshal(z.facts[zonesync.FactCounts(resource.KRIOf(k, service.Meta).String())], &c) != nil {
		return mesh.DataplaneProxies{}
	}
	var out mesh.DataplaneProxies
	first := true
	for _, p := range c.Ports {
		if first || int(p.Healthy) < out.Healthy {
			out = mesh.DataplaneProxies{Connected: int(p.Healthy), Healthy: int(p.Healthy), Total: int(p.Total)}
		}
		first = false
	}
	return out
}
