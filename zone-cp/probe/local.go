package probe

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tidwall/btree"
	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/zone-cp/push"
)

// epochShift is where the epoch of a sequence begins: one life of a control plane counts below it.
const epochShift = 32

// LocalConfig is what a Local needs.
type LocalConfig struct {
	Zone    string
	Catalog *catalog.Catalog
	// Facts about the dataplanes of the zone, as the engine gets them; nil: nothing is observed.
	Facts push.Facts
	// Expected says of a dataplane that has just appeared that facts about it will follow: until then it does not count. Nil: never.
	Expected func(resource.Meta) bool
	// Instance names this life of the control plane.
	Instance string
	// Epoch is higher in each life of the control plane than in those before. Zero means the time in seconds.
	Epoch uint32
}

// A Local counts what serves each MeshService of this zone, by the rules with which its own proxies are told of endpoints.
// A change costs as much as the services that it concerns. Run must be running.
type Local struct {
	cfg LocalConfig

	// Owned by Run.
	view    *view.View
	counts  *memo.Func[resource.Key, view.Remote]
	roots   map[resource.Key]*memo.Root[view.Remote]
	touched map[resource.Key]struct{} // recomputed since the last look
	known   map[resource.Key]struct{} // dataplanes with facts

	mu       sync.Mutex
	sequence uint64
	meshes   map[string]*tally
	feeds    map[*LocalFeed]struct{}
}

// A Count says how much serves a service, or that the service is gone. The sequence grows with every change in the zone.
type Count struct {
	view.Remote
	Sequence uint64
	Gone     bool

	kri string
}

// A tally is the counts of one mesh.
type tally struct {
	byKey      map[resource.Key]Count
	bySequence *btree.BTreeG[tallied]
	gone       *btree.BTreeG[tallied] // those of bySequence that are gone
	floor      uint64                 // whoever knows less than this cannot be told of all that is gone
}

type tallied struct {
	sequence uint64
	key      resource.Key
}

// maxGone is how many services that are gone a mesh remembers for those who ask what has changed.
const maxGone = 4096

// NewLocal returns a Local that waits for Run.
func NewLocal(cfg LocalConfig) *Local {
	if cfg.Epoch == 0 {
		cfg.Epoch = uint32(time.Now().Unix())
	}
	l := &Local{
		cfg: cfg, view: view.New(cfg.Zone, cfg.Catalog.Kinds(), nil), roots: map[resource.Key]*memo.Root[view.Remote]{},
		touched: map[resource.Key]struct{}{}, known: map[resource.Key]struct{}{},
		sequence: uint64(cfg.Epoch) << epochShift, meshes: map[string]*tally{}, feeds: map[*LocalFeed]struct{}{},
	}
	l.counts = memo.NewFunc(l.view.Graph, "counts", view.Remote.Equal, func(r *memo.Reader, k resource.Key) view.Remote {
		l.touched[k] = struct{}{} // beside the value: it only says where to look for one that may differ
		return l.count(r, k)
	})
	return l
}

func (l *Local) count(r *memo.Reader, k resource.Key) view.Remote {
	res, _ := l.view.Resource(r, k)
	s, ok := res.Spec.(*mesh.MeshService)
	if !ok {
		return view.Remote{}
	}
	out := view.Remote{Ports: make(map[string]view.Capacity, len(s.Ports))}
	for _, p := range s.Ports {
		var c view.Capacity
		for _, e := range l.view.Endpoints(r, view.DestinationKey{Service: k, Port: p.SectionName()}, false) {
			c.Total++
			if e.Health == view.Healthy {
				c.Healthy++
			}
		}
		out.Ports[p.SectionName()] = c
	}
	return out
}

type factsUpdate struct {
	changed map[resource.Key]*view.Facts
	all     bool
}

// Run counts until ctx ends. Call it once.
func (l *Local) Run(ctx context.Context) error {
	updates, facts := make(chan catalog.Update), make(chan factsUpdate)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		feed := l.cfg.Catalog.Subscribe()
		defer feed.Close()
		return pump(ctx, updates, feed.Next)
	})
	if l.cfg.Facts != nil {
		g.Go(func() error {
			return pump(ctx, facts, func(ctx context.Context) (factsUpdate, error) {
				changed, all, err := l.cfg.Facts.Next(ctx)
				return factsUpdate{changed, all}, err
			})
		})
	}
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case u := <-updates:
				l.apply(u)
			case f := <-facts:
				l.observe(f)
			}
			l.publish()
		}
	})
	return g.Wait()
}

// pump hands on what next yields until ctx ends.
func pump[T any](ctx context.Context, to chan<- T, next func(context.Context) (T, error)) error {
	for {
		v, err := next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("probe: %w", err)
		}
		select {
		case to <- v:
		case <-ctx.Done():
			return nil
		}
	}
}

var counted = []string{mesh.TypeDataplane, mesh.TypeMeshService}

func (l *Local) apply(u catalog.Update) {
	if !u.All {
		for _, k := range u.Changed {
			if !slices.Contains(counted, k.Type) {
				continue
			}
			if r, ok := u.Snapshot.Get(k); ok {
				l.expect(r)
				l.put(r)
			} else {
				l.remove(k)
			}
		}
		return
	}
	gone := l.view.Keys()
	for _, typ := range counted {
		u.Snapshot.Each(typ, "", func(r resource.Resource) bool {
			l.put(r)
			delete(gone, r.Key())
			return true
		})
	}
	for k := range gone {
		l.remove(k)
	}
}

// expect does not count a dataplane that has just appeared before it is observed: its proxy does not run yet.
func (l *Local) expect(r resource.Resource) {
	k := r.Key()
	if k.Type != mesh.TypeDataplane || l.cfg.Expected == nil || !l.cfg.Expected(r.Meta) {
		return
	}
	_, observed := l.known[k]
	if _, had := l.view.Resource(l.view.Graph.Untracked(), k); !observed && !had {
		l.observe(factsUpdate{changed: map[resource.Key]*view.Facts{k: {Down: true}}})
	}
}

func (l *Local) put(r resource.Resource) {
	k := r.Key()
	own := r.Zone() == "" || r.Zone() == l.cfg.Zone
	if !own {
		l.remove(k)
		return
	}
	l.view.Put(r)
	if k.Type == mesh.TypeMeshService && l.roots[k] == nil {
		l.roots[k] = l.counts.Root(k)
	}
}

func (l *Local) remove(k resource.Key) {
	if root := l.roots[k]; root != nil {
		root.Close()
		delete(l.roots, k)
		l.touched[k] = struct{}{}
	}
	l.view.Remove(k)
}

func (l *Local) observe(f factsUpdate) {
	if f.all {
		for k := range l.known {
			if f.changed[k] == nil {
				l.view.SetFacts(k, nil)
				delete(l.known, k)
			}
		}
	}
	for k, v := range f.changed {
		l.view.SetFacts(k, v)
		if v == nil {
			delete(l.known, k)
		} else {
			l.known[k] = struct{}{}
		}
	}
}

// publish hands on the counts that differ.
func (l *Local) publish() {
	l.view.Graph.Settle()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range slices.SortedFunc(maps.Keys(l.touched), resource.Key.Compare) {
		root := l.roots[k]
		t := l.meshes[k.Mesh]
		if t == nil {
			t = newTally()
			l.meshes[k.Mesh] = t
		}
		old, had := t.byKey[k]
		now := Count{Gone: true, kri: old.kri}
		if root != nil {
			now = Count{Remote: root.Value(), kri: l.kri(k)}
		}
		if had && old.Gone == now.Gone && old.kri == now.kri && old.Equal(now.Remote) || !had && now.Gone {
			continue
		}
		l.sequence++
		now.Sequence = l.sequence
		t.set(k, now)
		for f := range l.feeds {
			f.note(k)
		}
	}
	clear(l.touched)
}

// kri names a service to other zones.
func (l *Local) kri(k resource.Key) string {
	res, _ := l.view.Resource(l.view.Graph.Untracked(), k)
	kind, _ := l.cfg.Catalog.Kinds().ByName(k.Type)
	kri := resource.KRIOf(kind, res.Meta)
	kri.Zone = l.cfg.Zone
	return kri.String()
}

func newTally() *tally {
	less := func(a, b tallied) bool { return a.sequence < b.sequence }
	return &tally{
		byKey:      map[resource.Key]Count{},
		bySequence: btree.NewBTreeGOptions(less, btree.Options{NoLocks: true}),
		gone:       btree.NewBTreeGOptions(less, btree.Options{NoLocks: true}),
	}
}

func (t *tally) set(k resource.Key, c Count) {
	if old, had := t.byKey[k]; had {
		t.bySequence.Delete(tallied{sequence: old.Sequence})
		t.gone.Delete(tallied{sequence: old.Sequence})
	}
	t.byKey[k] = c
	t.bySequence.Set(tallied{c.Sequence, k})
	if !c.Gone {
		return
	}
	t.gone.Set(tallied{c.Sequence, k})
	for t.gone.Len() > maxGone {
		oldest, _ := t.gone.PopMin()
		t.bySequence.Delete(oldest)
		delete(t.byKey, oldest.key)
		t.floor = oldest.sequence
	}
}

// Counts is what serves every service of the zone now.
func (l *Local) Counts() map[resource.Key]Count {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[resource.Key]Count{}
	for _, t := range l.meshes {
		t.each(out)
	}
	return out
}

// each adds what is not gone.
func (t *tally) each(to map[resource.Key]Count) {
	for k, c := range t.byKey {
		if !c.Gone {
			to[k] = c
		}
	}
}

// maxReplyText is roughly how much of a reply services may take; it leaves room for one more and for the rest.
const maxReplyText = maxReply / 2

// page answers what has changed in a mesh since a point of an instance.
func (l *Local) page(in string, q Request) Reply {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := Reply{Version: Version, Zone: l.cfg.Zone, Mesh: in, Instance: l.cfg.Instance, Sequence: l.sequence}
	t := l.meshes[in]
	after := q.After
	if q.Instance != l.cfg.Instance || after > l.sequence || after < uint64(l.cfg.Epoch)<<epochShift || t != nil && after < t.floor {
		after, out.Reset = 0, true
	}
	if t == nil {
		return out
	}
	size := 0
	t.bySequence.Ascend(tallied{sequence: after + 1}, func(at tallied) bool {
		c := t.byKey[at.key]
		if c.Gone && out.Reset {
			return true
		}
		if len(out.Services) == maxServices || size > maxReplyText {
			out.More = true
			out.Sequence = out.Services[len(out.Services)-1].Sequence
			return false
		}
		s := ServiceCounts{KRI: c.kri, Sequence: c.Sequence, Gone: c.Gone}
		for _, section := range slices.Sorted(maps.Keys(c.Ports)) {
			if len(s.Ports) == maxPorts {
				break
			}
			s.Ports = append(s.Ports, PortCounts{section, c.Ports[section].Healthy, c.Ports[section].Total})
		}
		size += 100 + len(s.KRI) + 150*len(s.Ports)
		out.Services = append(out.Services, s)
		return true
	})
	return out
}

// LocalUpdate is what has changed in the counts of the zone. When All is set, services that are not listed are gone, too.
type LocalUpdate struct {
	Services map[resource.Key]Count
	All      bool
}

// A LocalFeed tells one reader of changed counts. A slow reader gets fewer, larger updates; nobody waits for it.
type LocalFeed struct {
	l       *Local
	wake    chan struct{}
	all     bool                      // guarded by the lock of l, as is
	changed map[resource.Key]struct{} // what the reader does not know yet
}

// Subscribe starts a feed. Its first update has All set.
func (l *Local) Subscribe() *LocalFeed {
	f := &LocalFeed{l: l, wake: make(chan struct{}, 1), all: true}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.feeds[f] = struct{}{}
	f.wake <- struct{}{}
	return f
}

// Close ends the feed.
func (f *LocalFeed) Close() {
	f.l.mu.Lock()
	defer f.l.mu.Unlock()
	delete(f.l.feeds, f)
}

// note remembers a change; the caller holds the lock.
func (f *LocalFeed) note(k resource.Key) {
	if !f.all {
		if f.changed == nil {
			f.changed = map[resource.Key]struct{}{}
		}
		f.changed[k] = struct{}{}
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Next waits for something that the reader does not know yet. One reader at a time.
func (f *LocalFeed) Next(ctx context.Context) (LocalUpdate, error) {
	select {
	case <-ctx.Done():
		return LocalUpdate{}, ctx.Err()
	case <-f.wake:
	}
	f.l.mu.Lock()
	defer f.l.mu.Unlock()
	u := LocalUpdate{Services: map[resource.Key]Count{}, All: f.all}
	if f.all {
		for _, t := range f.l.meshes {
			t.each(u.Services)
		}
	}
	for k := range f.changed {
		c, ok := f.l.meshes[k.Mesh].byKey[k]
		if !ok { // gone for long
			c = Count{Gone: true, Sequence: f.l.sequence}
		}
		u.Services[k] = c
	}
	f.all, f.changed = false, nil
	return u, nil
}
