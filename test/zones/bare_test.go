package zones

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/serving"
	"github.com/causeway-mesh/causeway/api/view"
	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/global-cp/access"
	"github.com/causeway-mesh/causeway/global-cp/hub"
	"github.com/causeway-mesh/causeway/global-cp/insight"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/exchange"
	"github.com/causeway-mesh/causeway/store/memory"
	"github.com/causeway-mesh/causeway/store/seal"
	"github.com/causeway-mesh/causeway/zone-cp/push"
	"github.com/causeway-mesh/causeway/zone-cp/uplink"
)

// patience bounds every wait; it is only reached by a test that fails.
const patience = 3 * time.Minute

// until waits for a named condition.
func until(t testing.TB, what string, cond func() (state any, ok bool)) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for start := time.Now(); ; <-tick.C {
		state, ok := cond()
		if ok {
			return
		}
		if time.Since(start) > patience {
			t.Fatalf("%s: not within %s; last seen: %v", what, patience, state)
		}
	}
}

// A bare control plane is its store, its catalog and its side of sync alone: no API, no agents, no proxies. There can be many of them,
// of other versions and with other clocks.
type bare struct {
	t       testing.TB
	zone    string // empty: global
	store   store.Store
	catalog *catalog.Catalog
	offers  *exchange.Offers
}

// A version is what a control plane understands, and what its clock shows.
type version struct {
	kinds    *resource.Kinds // default all
	features []string
	now      func() time.Time
	store    store.Store // default one in memory
	bounds   exchange.Bounds
	life     time.Duration // of credentials
	instance string
	// poses is the zone as which a zone offers what it has, when it is not honest; facts is what it claims.
	poses string
	facts []*zonesync.Fact
	// beat is the interval of beats. Default 300ms.
	beat time.Duration
}

// run runs something until the test ends, or the returned function is called.
func run(t testing.TB, parts ...func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	for _, part := range parts {
		done.Go(func() {
			if err := part(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("a part ended: %v", err)
			}
		})
	}
	stop = sync.OnceFunc(func() {
		cancel()
		done.Wait()
	})
	t.Cleanup(stop)
	return stop
}

func openBare(t testing.TB, zone string, v version) *bare {
	t.Helper()
	if v.kinds == nil {
		v.kinds = api.Kinds()
	}
	if v.store == nil {
		v.store = memory.New()
	}
	sealer, err := seal.New(seal.Key{ID: "k1", Secret: []byte(strings.Repeat("k", 32))})
	if err != nil {
		t.Fatal(err)
	}
	b := &bare{t: t, zone: cmp.Or(v.poses, zone), store: v.store}
	if b.catalog, err = catalog.Open(t.Context(), catalog.Config{Store: v.store, Kinds: v.kinds, Sealer: sealer, RetryInterval: 20 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	if b.offers, err = exchange.NewOffers(exchange.OffersConfig{Catalog: b.catalog, Store: v.store, Zone: cmp.Or(v.poses, zone)}); err != nil {
		t.Fatal(err)
	}
	run(t, b.catalog.Run, b.offers.Run)
	return b
}

// put writes resources of this control plane's own. Text is the JSON of the spec, with fields that the kind may not know.
func (b *bare) put(typ, in, name, text string, labels ...string) {
	b.t.Helper()
	b.commit(b.resource(typ, in, name, text, labels...))
}

func (b *bare) resource(typ, in, name, text string, labels ...string) resource.Resource {
	m := resource.Meta{Type: typ, Mesh: in, Name: name, Labels: map[string]string{resource.LabelDisplayName: name, resource.LabelOrigin: resource.OriginGlobal}}
	if b.zone != "" {
		m.Labels[resource.LabelOrigin], m.Labels[resource.LabelZone] = resource.OriginZone, b.zone
	}
	for i := 0; i < len(labels); i += 2 {
		m.Labels[labels[i]] = labels[i+1]
	}
	return resource.Resource{Meta: m, Raw: []byte(text)}
}

func (b *bare) commit(rs ...resource.Resource) {
	b.t.Helper()
	var batch catalog.Batch
	for _, r := range rs {
		batch.Puts = append(batch.Puts, catalog.Put{Resource: r, Expect: store.ExpectAny})
	}
	if _, err := b.catalog.Commit(b.t.Context(), batch); err != nil {
		b.t.Fatal(err)
	}
}

// commitAll writes policies of one spec in one batch.
func (b *bare) commitAll(names []string, text string) {
	b.t.Helper()
	var rs []resource.Resource
	for _, name := range names {
		rs = append(rs, b.resource("MeshTimeout", "default", name, text))
	}
	b.commit(rs...)
}

func (b *bare) delete(typ, in, name string) {
	b.t.Helper()
	_, err := b.catalog.Commit(b.t.Context(), catalog.Batch{Deletes: []catalog.Delete{{Key: resource.Key{Type: typ, Mesh: in, Name: name}, Expect: store.ExpectAny}}})
	if err != nil {
		b.t.Fatal(err)
	}
}

// find looks for a resource by the name that its owner gave.
func (b *bare) find(typ, name, zone string) (resource.Resource, bool) {
	return find(b.catalog.Snapshot(), typ, name, zone)
}

func find(s *catalog.Snapshot, typ, name, zone string) (resource.Resource, bool) {
	var out resource.Resource
	found := false
	s.Each(typ, "", func(r resource.Resource) bool {
		if r.DisplayName() == name && r.Zone() == zone {
			out, found = r, true
		}
		return !found
	})
	return out, found
}

func (b *bare) until(typ, name, zone string, want bool) {
	b.t.Helper()
	until(b.t, fmt.Sprintf("%s has %s %s of zone %q: %t", b.name(), typ, name, zone, want), func() (any, bool) {
		r, ok := b.find(typ, name, zone)
		return r.Meta, ok == want
	})
}

func (b *bare) name() string {
	if b.zone == "" {
		return "global"
	}
	return "zone " + b.zone
}

// A bareGlobal serves links.
type bareGlobal struct {
	*bare
	access  *access.Authority
	board   *insight.Board
	hub     *hub.Hub
	address string
	ca      []byte
	stop    func()
	lost    atomic.Int64 // so many answers to joins are lost from now on
}

// opening is how many links may begin at a time.
const opening = 16

func newBareGlobal(t testing.TB, v version) *bareGlobal {
	t.Helper()
	g := &bareGlobal{bare: openBare(t, "", v)}
	var err error
	if g.access, err = access.Open(t.Context(), access.Config{Catalog: g.catalog, Now: v.now, Lifetime: v.life}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certs, err := serving.Open(serving.Config{Dir: dir, Hosts: []string{"127.0.0.1"}, Now: v.now})
	if err != nil {
		t.Fatal(err)
	}
	if g.ca, err = os.ReadFile(filepath.Join(dir, "ca.pem")); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.address = l.Addr().String()
	if v.instance == "" {
		v.instance = "bare"
	}
	g.board = insight.New(insight.Config{Catalog: g.catalog, Store: g.store, Instance: v.instance, Now: v.now})
	g.hub = hub.New(hub.Config{
		Access: g.access, Catalog: g.catalog, Store: g.store, Offers: g.offers, Board: g.board, Instance: v.instance, Version: "bare",
		Bounds: v.bounds, Features: v.features, BeatEvery: cmp.Or(v.beat, 300*time.Millisecond), MaxOpening: opening,
	})
	srv := grpc.NewServer(append(hub.ServerOptions(), grpc.Creds(credentials.NewTLS(g.access.TLS(certs.Get))), grpc.UnaryInterceptor(g.lose))...)
	g.hub.Register(srv)
	g.stop = run(t, g.board.Run, func(context.Context) error { return srv.Serve(l) }, func(ctx context.Context) error {
		<-ctx.Done()
		srv.Stop()
		return nil
	})
	g.put(mesh.TypeMesh, "", "default", "{}")
	return g
}

// lose answers a join with a broken connection after it was done.
func (g *bareGlobal) lose(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	answer, err := handler(ctx, req)
	if err == nil && g.lost.Add(-1) >= 0 {
		return nil, status.Error(codes.Unavailable, "the answer was lost")
	}
	return answer, err
}

func (g *bareGlobal) token(zone string) string {
	g.t.Helper()
	return g.tokenVia(zone, g.address)
}

// tokenVia lets a zone join through another address.
func (g *bareGlobal) tokenVia(zone, address string) string {
	g.t.Helper()
	text, err := g.access.NewJoinToken(g.t.Context(), zone, time.Hour, []string{address}, g.ca)
	if err != nil {
		g.t.Fatal(err)
	}
	return text
}

// A bareZone keeps a link.
type bareZone struct {
	*bare
	joins  string // as this zone
	uplink *uplink.Uplink
	told   told
	stop   func()

	mu   sync.Mutex
	text string // the join token
}

// idle is the engine and the facts of a zone without proxies.
type idle struct {
	facts []*zonesync.Fact
	ready chan struct{}
}

func (*idle) Standing(context.Context) (push.Standing, error) { return push.Standing{}, nil }
func (*idle) Progressed() <-chan struct{}                     { return nil }
func (i *idle) Facts(bool) []*zonesync.Fact                   { return i.facts }
func (i *idle) Ready() <-chan struct{}                        { return i.ready }

// told is what a zone was told of the services of others.
type told struct {
	mu  sync.Mutex
	all map[string]*view.Remote // by the names of copies
}

func (r *told) Observe(k resource.Key, counts *view.Remote, _ uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil {
		r.all = map[string]*view.Remote{}
	}
	r.all[k.Name] = counts
}

func (r *told) of(name string) *view.Remote {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all[name]
}

// newBareZone makes a zone that joins when it is started.
func newBareZone(t testing.TB, name, token string, v version) *bareZone {
	t.Helper()
	z := &bareZone{bare: openBare(t, name, v), joins: name, text: token}
	z.start(v)
	return z
}

// start begins to keep a link.
func (z *bareZone) start(v version) {
	z.t.Helper()
	claims := &idle{facts: v.facts, ready: make(chan struct{}, 1)}
	z.uplink = uplink.New(uplink.Config{
		Catalog: z.catalog, Store: z.store, Offers: z.offers, Zone: z.joins, Instance: z.joins + v.instance, Version: "bare",
		JoinToken: func() (string, error) {
			z.mu.Lock()
			defer z.mu.Unlock()
			return z.text, nil
		},
		Features: v.features, Engine: claims, Reports: claims, Remote: &z.told, Now: v.now, BeatEvery: cmp.Or(v.beat, 300*time.Millisecond), RetryMax: 300 * time.Millisecond,
		Log: slog.New(slog.DiscardHandler),
	})
	z.stop = run(z.t, z.uplink.Run)
}

// give hands a new join token to the zone.
func (z *bareZone) give(token string) {
	z.mu.Lock()
	z.text = token
	z.mu.Unlock()
}

func (z *bareZone) untilLinked(linked bool, says string) {
	z.t.Helper()
	until(z.t, fmt.Sprintf("zone %s is linked: %t %s", z.zone, linked, says), func() (any, bool) {
		s := z.uplink.State()
		return fmt.Sprintf("%+v", s), s.Linked == linked && strings.Contains(s.Err, says)
	})
}

// gone notes what is deleted from a control plane, from now on; the result says so.
func (b *bare) gone() func() []string {
	b.t.Helper()
	feed := b.catalog.Subscribe()
	var mu sync.Mutex
	var deleted []string
	run(b.t, func(ctx context.Context) error {
		defer feed.Close()
		for {
			u, err := feed.Next(ctx)
			if err != nil {
				return nil // the test is over
			}
			for _, k := range u.Changed {
				if _, ok := u.Snapshot.Get(k); !ok {
					mu.Lock()
					deleted = append(deleted, k.String())
					mu.Unlock()
				}
			}
		}
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return deleted
	}
}
