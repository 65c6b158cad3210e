package derive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// A Source yields what is observed about dataplanes. Next waits for a change; a nil value takes the facts away.
// When all is set, dataplanes that are not listed have no facts any more.
type Source interface {
	Next(ctx context.Context) (changed map[resource.Key]*Facts, all bool, err error)
}

// Config of a Controller.
type Config struct {
	Catalog *catalog.Catalog
	// Facts about dataplanes; nil when nothing is observed.
	Facts Source
	// Zone is the name of the zone, and Env its environment: universal (the default) or kubernetes.
	Zone, Env string
	// Grace is how long something generated outlives its last use. Default 1h.
	Grace time.Duration
	// RetryMin and RetryMax bound the wait before a failed write is tried again. Defaults 100ms and 10s.
	RetryMin, RetryMax time.Duration
	// Fence, when set, gives the lease under which the zone writes. Losing it ends Run.
	Fence      func() *store.Fence
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// A Controller keeps the derived records of a zone equal to what Compute says. One runs per zone.
type Controller struct {
	cfg     Config
	metrics *metrics

	// Owned by Run.
	in     Inputs
	unread *factsUpdate          // what Run had taken from the source when it ended
	failed map[resource.Key]bool // what the store does not accept, until it changes
	logged map[Problem]bool      // what the log has said and is still so
}

const (
	author   = "zone derive"
	maxBatch = 500 // operations in one commit
)

// New returns a controller that waits for Run.
func New(cfg Config) *Controller {
	cfg.Grace = orDefault(cfg.Grace, time.Hour)
	cfg.RetryMin = orDefault(cfg.RetryMin, 100*time.Millisecond)
	cfg.RetryMax = orDefault(cfg.RetryMax, 10*time.Second)
	if cfg.Env == "" {
		cfg.Env = EnvUniversal
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Controller{cfg: cfg, metrics: newMetrics(cfg.Registerer), failed: map[resource.Key]bool{}}
}

func orDefault(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}

type factsUpdate struct {
	changed map[resource.Key]*Facts
	all     bool
}

// Run derives and writes until ctx ends or the lease is lost. While the store is away it waits and tries again. It may run again:
// what others wrote meanwhile is read first.
func (c *Controller) Run(ctx context.Context) error {
	c.in = Inputs{Facts: c.in.Facts}
	if c.unread != nil {
		c.observe(*c.unread)
		c.unread = nil
	}
	updates, facts := make(chan catalog.Update), make(chan factsUpdate)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		feed := c.cfg.Catalog.Subscribe()
		defer feed.Close()
		_, err := pump(ctx, updates, feed.Next)
		return err
	})
	if c.cfg.Facts != nil {
		g.Go(func() error {
			unread, err := pump(ctx, facts, func(ctx context.Context) (factsUpdate, error) {
				changed, all, err := c.cfg.Facts.Next(ctx)
				return factsUpdate{changed, all}, err
			})
			c.unread = unread // the source does not say it again
			return err
		})
	}
	g.Go(func() error { return c.loop(ctx, updates, facts) })
	return g.Wait()
}

// pump hands on what next yields until ctx ends, and returns what could not be handed on.
func pump[T any](ctx context.Context, to chan<- T, next func(context.Context) (T, error)) (unread *T, err error) {
	for {
		v, err := next(ctx)
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("derive: %w", err)
		}
		select {
		case to <- v:
		case <-ctx.Done():
			return &v, nil
		}
	}
}

// loop owns the inputs. It wakes when the catalog or the facts changed, when a write is to be tried again,
// and when something generated has outlived its grace.
func (c *Controller) loop(ctx context.Context, updates <-chan catalog.Update, facts <-chan factsUpdate) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	timer.Stop()
	var notBefore time.Time // after a failure
	backoff := c.cfg.RetryMin
	for {
		dirty := false
		select {
		case <-ctx.Done():
			return nil
		case u := <-updates:
			dirty = c.take(u)
		case f := <-facts:
			dirty = c.observe(f)
		case <-timer.C:
			dirty = true
		}
		if !dirty || c.in.Resources == nil {
			continue
		}
		if wait := time.Until(notBefore); wait > 0 {
			timer.Reset(wait)
			continue
		}
		due, err := c.reconcile(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, store.ErrFenced):
			return fmt.Errorf("derive: %w", err)
		case err != nil:
			c.metrics.failures.Inc()
			c.cfg.Log.Warn("derived records cannot be written and are tried again", "in", backoff, "err", err)
			notBefore = time.Now().Add(backoff)
			timer.Reset(backoff)
			backoff = min(2*backoff, c.cfg.RetryMax)
		default:
			notBefore, backoff = time.Time{}, c.cfg.RetryMin
			timer.Stop()
			if !due.IsZero() {
				timer.Reset(time.Until(due))
			}
		}
	}
}

// take brings the inputs up to an update and says whether they changed.
func (c *Controller) take(u catalog.Update) bool {
	if u.All {
		c.read(u.Snapshot)
		return true
	}
	changed := false
	for _, k := range u.Changed {
		changed = c.refresh(u.Snapshot, k) || changed
	}
	for _, d := range u.Derived {
		if d.Type == ownerType {
			changed = c.refreshOwner(u.Snapshot, d) || changed
		}
		if typ, ok := statusTypeOf(d.Type); ok {
			changed = c.refreshStatus(u.Snapshot, resource.Key{Type: typ, Mesh: d.Mesh, Name: d.Name}) || changed
		}
	}
	c.in.Aside = asideOf(u.Snapshot)
	return changed
}

func (c *Controller) read(s *catalog.Snapshot) {
	facts := c.in.Facts
	c.in = Inputs{
		Zone: c.cfg.Zone, Env: c.cfg.Env, Grace: c.cfg.Grace, Facts: facts,
		Resources: map[resource.Key]resource.Resource{}, Statuses: map[resource.Key]any{}, Aside: asideOf(s),
		Owners: map[resource.Key]mesh.MeshServiceStatus{}, Appeared: map[resource.Key]time.Time{},
	}
	clear(c.failed)
	for _, typ := range Reads {
		s.Each(typ, "", func(r resource.Resource) bool {
			c.in.Resources[r.Key()] = r
			c.appear(r)
			return true
		})
	}
	for typ := range statusTypes {
		s.EachDerived(catalog.StatusOf(resource.Key{Type: typ}).Type, "", func(d catalog.DerivedKey, _ []byte) bool {
			c.refreshStatus(s, resource.Key{Type: typ, Mesh: d.Mesh, Name: d.Name})
			return true
		})
	}
	s.EachDerived(ownerType, "", func(d catalog.DerivedKey, _ []byte) bool {
		c.refreshOwner(s, d)
		return true
	})
}

// ownerType is the type of the records that hold what other zones say of their MeshServices, by mesh and name.
const ownerType = "owner/" + mesh.TypeMeshService

func (c *Controller) refreshOwner(s *catalog.Snapshot, d catalog.DerivedKey) bool {
	k := resource.Key{Type: mesh.TypeMeshService, Mesh: d.Mesh, Name: d.Name}
	old, had := c.in.Owners[k]
	data, ok := s.Derived(d.Type, d.Mesh, d.Name)
	if !ok {
		delete(c.in.Owners, k)
		return had
	}
	var now mesh.MeshServiceStatus
	if err := json.Unmarshal(data, &now); err != nil {
		c.cfg.Log.Error("what another zone says of its service cannot be read; what it said before stays", "mesh", k.Mesh, "name", k.Name, "err", err)
		return false
	}
	c.in.Owners[k] = now
	return !had || !reflect.DeepEqual(old, now)
}

func asideOf(s *catalog.Snapshot) map[resource.Key]bool {
	out := map[resource.Key]bool{}
	for _, a := range s.SetAside() {
		if a.Key.Class == store.Resource {
			out[resource.Key{Type: a.Key.Type, Mesh: a.Key.Mesh, Name: a.Key.Name}] = true
		}
	}
	return out
}

func (c *Controller) refresh(s *catalog.Snapshot, k resource.Key) bool {
	if !slices.Contains(Reads, k.Type) {
		return false
	}
	delete(c.failed, k)
	old, had := c.in.Resources[k]
	now, has := s.Get(k)
	if !has {
		delete(c.in.Resources, k)
		delete(c.in.Appeared, k)
		return had
	}
	if !had {
		c.appear(now)
	}
	c.in.Resources[k] = now
	return !had || old.UID != now.UID || old.Version != now.Version
}

// appear notes since when a service of another zone is known.
func (c *Controller) appear(r resource.Resource) {
	if zone := r.Zone(); r.Type == mesh.TypeMeshService && zone != "" && zone != c.cfg.Zone {
		c.in.Appeared[r.Key()] = time.Now()
	}
}

func (c *Controller) refreshStatus(s *catalog.Snapshot, k resource.Key) bool {
	d := catalog.StatusOf(k)
	data, ok := s.Derived(d.Type, d.Mesh, d.Name)
	old, had := c.in.Statuses[k]
	if !ok {
		delete(c.in.Statuses, k)
		return had
	}
	now := statusTypes[k.Type]()
	if err := json.Unmarshal(data, now); err != nil {
		c.cfg.Log.Error("recorded status cannot be read and is derived anew", "type", k.Type, "mesh", k.Mesh, "name", k.Name, "err", err)
		delete(c.in.Statuses, k)
		return true
	}
	c.in.Statuses[k] = now
	return !had || !reflect.DeepEqual(old, now)
}

// statusTypes makes an empty status of each type that is derived.
var statusTypes = map[string]func() any{
	mesh.TypeMeshService:          func() any { return new(mesh.MeshServiceStatus) },
	mesh.TypeMeshMultiZoneService: func() any { return new(mesh.MeshMultiZoneServiceStatus) },
	mesh.TypeMeshExternalService:  func() any { return new(mesh.MeshExternalServiceStatus) },
	mesh.TypeWorkload:             func() any { return new(mesh.WorkloadStatus) },
}

func statusTypeOf(derivedType string) (string, bool) {
	typ := strings.TrimPrefix(derivedType, catalog.StatusOf(resource.Key{}).Type)
	_, ok := statusTypes[typ]
	return typ, ok && typ != derivedType
}

// observe brings the facts up to an update and says whether they changed.
func (c *Controller) observe(f factsUpdate) bool {
	changed := false
	if c.in.Facts == nil {
		c.in.Facts = map[resource.Key]Facts{}
	}
	if f.all {
		for k := range c.in.Facts {
			if f.changed[k] == nil {
				delete(c.in.Facts, k)
				changed = true
			}
		}
	}
	for k, now := range f.changed {
		old, had := c.in.Facts[k]
		if now == nil {
			delete(c.in.Facts, k)
			changed = changed || had
			continue
		}
		c.in.Facts[k] = *now
		changed = changed || !had || !old.Equal(*now)
	}
	return changed
}

// reconcile writes what differs and says when to look again although nothing changed.
func (c *Controller) reconcile(ctx context.Context) (time.Time, error) {
	start := time.Now()
	c.in.Now = start
	out := Compute(c.in)
	c.metrics.computed.Observe(time.Since(start).Seconds())
	c.logNew(out.Problems)
	for batch := range slices.Chunk(c.changes(out), maxBatch) {
		if err := c.write(ctx, batch); err != nil {
			return time.Time{}, err
		}
	}
	return out.Due, nil
}

// logNew logs problems once.
func (c *Controller) logNew(problems []Problem) {
	known := c.logged
	c.logged = map[Problem]bool{}
	for _, p := range problems {
		c.logged[p] = true
		if !known[p] {
			c.cfg.Log.Warn("something cannot be derived", "type", p.Key.Type, "mesh", p.Key.Mesh, "name", p.Key.Name, "reason", p.Reason)
		}
	}
}

// A change is one resource or status to write or delete.
type change struct {
	key     resource.Key
	put     *resource.Resource
	remove  *resource.Resource
	derived bool
	status  any // nil forgets it
}

// changes lists what differs from what is recorded, resources before the statuses that belong to them.
func (c *Controller) changes(out Outputs) []change {
	var list []change
	for i := range out.Put {
		list = append(list, change{key: out.Put[i].Key(), put: &out.Put[i]})
	}
	for i := range out.Delete {
		list = append(list, change{key: out.Delete[i].Key(), remove: &out.Delete[i]})
	}
	for k, st := range out.Statuses {
		if old, ok := c.in.Statuses[k]; !ok || !reflect.DeepEqual(old, st) {
			list = append(list, change{key: k, derived: true, status: st})
		}
	}
	for _, k := range out.Forget {
		list = append(list, change{key: k, derived: true})
	}
	list = slices.DeleteFunc(list, func(ch change) bool { return c.failed[ch.key] })
	slices.SortStableFunc(list, func(a, b change) int {
		if a.derived != b.derived {
			if b.derived {
				return -1
			}
			return 1
		}
		return a.key.Compare(b.key)
	})
	return list
}

// write commits changes and takes the result over. A change that the store refuses for itself is set aside and the rest is written.
func (c *Controller) write(ctx context.Context, list []change) error {
	b := catalog.Batch{Author: author, Reason: "derived from resources"}
	if c.cfg.Fence != nil {
		b.Fence = c.cfg.Fence()
	}
	for _, ch := range list {
		if err := ch.addTo(&b); err != nil {
			return err
		}
	}
	_, err := c.cfg.Catalog.Commit(ctx, b)
	if errors.Is(err, store.ErrInvalid) {
		if len(list) == 1 {
			c.failed[list[0].key] = true
			c.cfg.Log.Error("the store refuses a derived record", "key", list[0].key.String(), "err", err)
			return nil
		}
		half := len(list) / 2
		return errors.Join(c.write(ctx, list[:half]), c.write(ctx, list[half:]))
	}
	s := c.cfg.Catalog.Snapshot()
	for _, ch := range list {
		c.refresh(s, ch.key)
		if _, ok := statusTypes[ch.key.Type]; ok {
			c.refreshStatus(s, ch.key)
		}
	}
	if err == nil {
		c.metrics.writes.Add(float64(len(list)))
	}
	return err
}

func (ch change) addTo(b *catalog.Batch) error {
	switch {
	case ch.put != nil:
		b.Puts = append(b.Puts, catalog.Put{Resource: *ch.put, Expect: int64(ch.put.Version)})
	case ch.remove != nil:
		b.Deletes = append(b.Deletes, catalog.Delete{Key: ch.key, Expect: int64(ch.remove.Version)})
	case ch.status == nil:
		b.Derived = append(b.Derived, catalog.DerivedPut{Key: catalog.StatusOf(ch.key)})
	default:
		data, err := json.Marshal(ch.status)
		if err != nil {
			return fmt.Errorf("encode status of %s: %w", ch.key, err)
		}
		b.Derived = append(b.Derived, catalog.DerivedPut{Key: catalog.StatusOf(ch.key), Data: data})
	}
	return nil
}
