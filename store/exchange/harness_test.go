package exchange

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"maps"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/memory"
	"github.com/causeway-mesh/causeway/store/seal"
)

// A side is one control plane: global, or a zone.
type side struct {
	t      testing.TB
	ctx    context.Context
	zone   string
	store  store.Store
	cat    *catalog.Catalog
	offers *Offers
	sealer *seal.Sealer
	stop   func()
}

func newSide(t testing.TB, zone string, kinds *resource.Kinds) *side {
	return openSide(t, zone, memory.New(), kinds)
}

func openSide(t testing.TB, zone string, st store.Store, kinds *resource.Kinds) *side {
	t.Helper()
	key, err := seal.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := seal.New(key)
	if err != nil {
		t.Fatal(err)
	}
	s := &side{t: t, ctx: t.Context(), zone: zone, store: st, sealer: sealer}
	s.start(kinds)
	t.Cleanup(func() {
		s.stop()
		st.Close()
	})
	return s
}

// start reads the store, as a new process does.
func (s *side) start(kinds *resource.Kinds) {
	s.t.Helper()
	if kinds == nil {
		kinds = api.Kinds()
	}
	cat, err := catalog.Open(s.ctx, catalog.Config{Store: s.store, Kinds: kinds, Sealer: s.sealer, RetryInterval: time.Millisecond})
	if err != nil {
		s.t.Fatal(err)
	}
	offers, err := NewOffers(OffersConfig{Catalog: cat, Store: s.store, Zone: s.zone})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- cat.Run(ctx) }()
	go func() { done <- offers.Run(ctx) }()
	s.cat, s.offers = cat, offers
	s.stop = func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				s.t.Error(err)
			}
		}
		s.stop = func() {}
	}
}

func (s *side) restart() {
	s.stop()
	s.start(nil)
}

func (s *side) commit(b catalog.Batch) {
	s.t.Helper()
	if _, err := s.cat.Commit(s.ctx, b); err != nil {
		s.t.Fatal(err)
	}
}

// res is a resource as it is written at this side.
func (s *side) res(typ, meshName, name string, spec any, labels ...string) resource.Resource {
	s.t.Helper()
	m := resource.Meta{Type: typ, Mesh: meshName, Name: name, Labels: map[string]string{resource.LabelDisplayName: name, resource.LabelOrigin: resource.OriginGlobal}}
	if s.zone != "" {
		m.Labels[resource.LabelOrigin], m.Labels[resource.LabelZone] = resource.OriginZone, s.zone
	}
	for i := 0; i < len(labels); i += 2 {
		m.Labels[labels[i]] = labels[i+1]
		if labels[i+1] == "-" {
			delete(m.Labels, labels[i])
		}
	}
	r, err := resource.WithSpec(m, spec)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func (s *side) put(rs ...resource.Resource) {
	s.t.Helper()
	var b catalog.Batch
	for _, r := range rs {
		b.Puts = append(b.Puts, catalog.Put{Resource: r, Expect: store.ExpectAny})
	}
	s.commit(b)
}

func (s *side) delete(keys ...resource.Key) {
	s.t.Helper()
	var b catalog.Batch
	for _, k := range keys {
		b.Deletes = append(b.Deletes, catalog.Delete{Key: k, Expect: store.ExpectAny})
	}
	s.commit(b)
}

// current waits until what is on offer includes everything that is stored.
func (s *side) current() {
	s.t.Helper()
	if _, err := s.offers.reach(s.ctx, s.cat.Snapshot().Position()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *side) get(typ, meshName, name string) (resource.Resource, bool) {
	return s.cat.Snapshot().Get(resource.Key{Type: typ, Mesh: meshName, Name: name})
}

// copied is where a side stores what another wrote.
func copied(typ, meshName, name, zone string) resource.Key {
	return resource.Key{Type: typ, Mesh: meshName, Name: storedName(typ, meshName, name, zone, "")}
}

// A wire carries what one side offers to the sink of another.
type wire struct {
	t     testing.TB
	from  *side
	peer  Peer
	sink  *Sink
	limit int // bytes of a batch
	sent  int // bytes so far
	last  map[string]*zonesync.Verdict
	how   map[string]zonesync.ScopeBegin_How
	cut   int // batches until the link breaks; 0: it holds
	feed  *Feed
}

type brokenLink struct{}

// join connects a zone and global in one direction.
func join(from, to *side, change ...func(*SinkConfig)) *wire {
	from.t.Helper()
	w := &wire{t: from.t, from: from, limit: 4 << 10}
	cfg := SinkConfig{Catalog: to.cat, Zone: to.zone}
	if from.zone == "" {
		w.peer = Peer{ToZone: to.zone}
	} else {
		w.peer, cfg.From = Peer{ToGlobal: true}, Party{Zone: from.zone, ID: "id-of-" + from.zone}
	}
	for _, c := range change {
		c(&cfg)
	}
	var err error
	if w.sink, err = NewSink(cfg); err != nil {
		w.t.Fatal(err)
	}
	return w
}

func (w *wire) apply(b *zonesync.Batch) *zonesync.Verdict {
	w.t.Helper()
	if w.cut > 0 {
		if w.cut--; w.cut == 0 {
			panic(brokenLink{})
		}
	}
	w.sent += proto.Size(b)
	v, err := w.sink.Apply(w.t.Context(), b)
	if err != nil {
		w.t.Fatal(err)
	}
	w.last[b.GetScope()] = v
	return v
}

// broken is a link that breaks after some batches, and says whether it did.
func (w *wire) broken(after int) (broke bool) {
	defer func() {
		w.cut = 0
		if cause := recover(); cause != nil {
			if _, ok := cause.(brokenLink); !ok {
				panic(cause)
			}
			broke = true
		}
	}()
	w.cut = after
	w.run()
	return false
}

// live is a link that stays: it tells what its feed says.
func (w *wire) live() {
	w.t.Helper()
	if w.feed == nil {
		w.feed = w.from.offers.Subscribe(w.peer)
		w.run()
	}
	w.from.current()
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	for {
		if len(w.feed.wake) == 0 {
			return
		}
		c, err := w.feed.Next(ctx)
		if err != nil {
			w.t.Fatal(err)
		}
		have := map[string]*zonesync.Position{}
		for _, st := range w.sink.Have() {
			have[st.GetScope()] = st.GetPosition()
		}
		for _, scope := range c.Ended {
			if err := w.sink.End(ctx, &zonesync.ScopeEnd{Scope: scope, At: c.To}); err != nil {
				w.t.Fatal(err)
			}
		}
		for _, scope := range c.Begun {
			w.whole(c.View, scope, zonesync.ScopeBegin_SNAPSHOT)
		}
		for scope, ids := range c.IDs {
			w.delta(c.View, scope, have[scope], c.To, ids)
		}
	}
}

// hangUp ends a live link.
func (w *wire) hangUp() {
	if w.feed != nil {
		w.feed.Close()
		w.feed = nil
	}
}

// run is one whole link: what the sink has, resumed or in full, until nothing is left.
func (w *wire) run() {
	w.t.Helper()
	w.from.current()
	w.last, w.how = map[string]*zonesync.Verdict{}, map[string]zonesync.ScopeBegin_How{}
	view := w.from.offers.For(w.peer).Pin()
	have := map[string]*zonesync.ScopeState{}
	for _, st := range w.sink.Have() {
		have[st.GetScope()] = st
	}
	for _, scope := range view.Scopes() {
		w.scope(view, scope, have[scope])
		delete(have, scope)
	}
	for scope, st := range have {
		c, err := w.from.offers.Since(w.t.Context(), w.peer, scope, st.GetPosition())
		if errors.Is(err, store.ErrForked) {
			w.whole(view, scope, zonesync.ScopeBegin_FORKED)
			continue
		}
		if err != nil {
			w.t.Fatal(err)
		}
		if err := w.sink.End(w.t.Context(), &zonesync.ScopeEnd{Scope: scope, At: c.To}); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *wire) scope(view *View, scope string, st *zonesync.ScopeState) {
	w.t.Helper()
	if st == nil || st.GetIncomplete() || st.GetPosition() == nil {
		w.whole(view, scope, zonesync.ScopeBegin_SNAPSHOT)
		return
	}
	c, err := w.from.offers.Since(w.t.Context(), w.peer, scope, st.GetPosition())
	switch {
	case errors.Is(err, store.ErrForked):
		w.whole(view, scope, zonesync.ScopeBegin_FORKED)
	case errors.Is(err, store.ErrCompacted):
		w.whole(view, scope, zonesync.ScopeBegin_SNAPSHOT)
	case err != nil:
		w.t.Fatal(err)
	default:
		w.begin(scope, zonesync.ScopeBegin_RESUME)
		w.delta(c.View, scope, st.GetPosition(), c.To, c.IDs[scope])
	}
}

func (w *wire) begin(scope string, how zonesync.ScopeBegin_How) {
	w.how[scope] = how
	w.sink.Begin(&zonesync.ScopeBegin{Scope: scope, How: how}, LineageOf(w.from.offers.current.Load().at.Lineage))
}

// parts of a snapshot.
func (w *wire) parts(view *View, scope string) []*zonesync.Batch {
	cut := view.Cut(scope)
	var out []*zonesync.Batch
	b := &zonesync.Batch{Scope: scope, To: cut.Position, Snapshot: true}
	size := 0
	for _, it := range cut.Items {
		if size > w.limit {
			out = append(out, b)
			b = &zonesync.Batch{Scope: scope, To: cut.Position, Snapshot: true, Part: b.GetPart() + 1}
			size = 0
		}
		b.Upserts = append(b.Upserts, it.Encoded)
		size += len(it.Encoded)
	}
	b.Last = true
	return append(out, b)
}

func (w *wire) whole(view *View, scope string, how zonesync.ScopeBegin_How) {
	w.t.Helper()
	w.begin(scope, how)
	for _, b := range w.parts(view, scope) {
		w.apply(b)
	}
}

func (w *wire) delta(view *View, scope string, from, to *zonesync.Position, ids map[string]zonesync.Removal_Cause) {
	w.t.Helper()
	if zonesync.SamePosition(from, to) {
		return
	}
	b := &zonesync.Batch{Scope: scope, From: from, To: to}
	size := 0
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		if size > w.limit {
			w.apply(b)
			b = &zonesync.Batch{Scope: scope, From: from, To: to, Part: b.GetPart() + 1}
			size = 0
		}
		if it, ok := view.Item(scope, id); ok {
			b.Upserts = append(b.Upserts, it.Encoded)
			size += len(it.Encoded)
			continue
		}
		b.Removals = append(b.Removals, &zonesync.Removal{Id: id, Cause: ids[id]})
		size += len(id)
	}
	b.Last = true
	w.apply(b)
}

// equal checks that the sink holds exactly what is offered: by digest, and by the digest of what the view counts itself.
func (w *wire) equal() {
	w.t.Helper()
	w.from.current()
	view := w.from.offers.For(w.peer).Pin()
	have := map[string]*zonesync.ScopeState{}
	for _, st := range w.sink.Have() {
		have[st.GetScope()] = st
	}
	for _, scope := range view.Scopes() {
		cut := view.Cut(scope)
		d, got, counted := cut.Digest(), have[scope], view.State(scope)
		delete(have, scope)
		if got.GetCount() != uint64(len(cut.Items)) || !bytes.Equal(got.GetDigest(), d.Bytes()) {
			w.t.Errorf("%s: %d objects are held, %d are offered; equal digests: %v", scope, got.GetCount(), len(cut.Items), bytes.Equal(got.GetDigest(), d.Bytes()))
			w.show(scope)
		}
		if counted.GetCount() != uint64(len(cut.Items)) || !bytes.Equal(counted.GetDigest(), d.Bytes()) {
			w.t.Errorf("%s: the view counts %d objects, %d are offered", scope, counted.GetCount(), len(cut.Items))
		}
	}
	for scope := range have {
		w.t.Errorf("scope %s is held and not offered", scope)
	}
}

func (w *wire) show(scope string) {
	meshName, _ := zonesync.MeshOf(scope)
	held := w.sink.holdings(w.sink.cfg.Catalog.Snapshot(), scope, meshName)
	for _, it := range w.from.offers.For(w.peer).Cut(scope).Items {
		h := held[it.ID]
		switch {
		case h == nil:
			w.t.Log("  missing", it.ID)
		case !bytes.Equal(h.hash, it.Hash) || h.uid != it.UID:
			w.t.Log("  differs", it.ID, h.uid, it.UID)
		}
		delete(held, it.ID)
	}
	for id := range held {
		w.t.Log("  too much", id)
	}
}

func (w *wire) rejected(scope string) map[string]string {
	out := map[string]string{}
	for _, r := range w.sink.Rejected(scope) {
		out[r.GetId()] = r.GetCode()
	}
	return out
}

// encodeObject completes an object as its owner would and encodes it.
func encodeObject(o *zonesync.Object) []byte {
	if o.GetHash() == nil {
		sum := zonesync.ContentHash(o.GetLabels(), resource.LabelOrigin, o.GetSpec())
		o.Hash = sum[:]
	}
	b, err := proto.Marshal(o)
	if err != nil {
		panic(err)
	}
	return b
}

func position(s *side) *zonesync.Position { return PositionOf(s.cat.Snapshot().Position()) }

// caPEM is a root certificate.
var caPEM = sync.OnceValue(func() string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
})

const demo = "default"

// newGlobal is a global control plane with mesh "default" and some zones.
func newGlobal(t testing.TB, zones ...string) *side {
	g := newSide(t, "", nil)
	g.put(g.res(mesh.TypeMesh, "", demo, &mesh.Mesh{}))
	for _, z := range zones {
		g.put(g.res(mesh.TypeZone, "", z, &mesh.Zone{}))
	}
	return g
}
