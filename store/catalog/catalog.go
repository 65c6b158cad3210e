// Package catalog keeps all resources of a store in memory as immutable, indexed snapshots, fed by the store's own history,
// and commits changes back to it. Reads never wait for the store. It validates nothing, computes no labels and serves no protocol.
//
// A resource is stored as the raw JSON of its spec, verbatim; specs of kinds that are for administrators only are sealed.
// Labels, UID, version and times are the store's own fields. The status of a resource is the derived record of type
// "status/<Type>" with the same mesh and name.
package catalog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/seal"
)

// Config is what a catalog needs.
type Config struct {
	Store store.Store
	Kinds *resource.Kinds
	// Sealer seals and opens the specs of kinds that are for administrators only; without one those cannot be used.
	Sealer     *seal.Sealer
	Log        *slog.Logger
	Registerer prometheus.Registerer
	// ProbeInterval is how often a store that is away is asked whether it is back. Default 2s.
	ProbeInterval time.Duration
	// RetryInterval is how long to wait before following or reloading again after an error. Default 1s.
	RetryInterval time.Duration
	// ReadYourWrites bounds how long Commit waits for its own result to become visible. Default 5s.
	ReadYourWrites time.Duration
}

var errNoSealer = errors.New("there is no sealing key; configure one to use secrets")

// A Catalog is the view of one store. Run keeps it current.
type Catalog struct {
	cfg     Config
	metrics *metrics
	current atomic.Pointer[Snapshot]

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every new snapshot
	feeds   map[*Feed]struct{}
	away    error // why the store cannot be used, nil when it can
}

// Open reads the whole store. It fails when the store cannot be read: nothing can be served without a first snapshot.
func Open(ctx context.Context, cfg Config) (*Catalog, error) {
	if cfg.Store == nil || cfg.Kinds == nil {
		return nil, errors.New("open catalog: a store and kinds are needed")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.ProbeInterval = orDefault(cfg.ProbeInterval, 2*time.Second)
	cfg.RetryInterval = orDefault(cfg.RetryInterval, time.Second)
	cfg.ReadYourWrites = orDefault(cfg.ReadYourWrites, 5*time.Second)
	c := &Catalog{cfg: cfg, changed: make(chan struct{}), feeds: map[*Feed]struct{}{}}
	c.metrics = newMetrics(cfg.Registerer, c)
	s, err := c.load(ctx)
	if err != nil {
		return nil, fmt.Errorf("open catalog: %w", err)
	}
	c.current.Store(s)
	return c, nil
}

func orDefault(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}

// Snapshot is the current state. It never blocks.
func (c *Catalog) Snapshot() *Snapshot { return c.current.Load() }

// Kinds lists the kinds that the catalog understands.
func (c *Catalog) Kinds() *resource.Kinds { return c.cfg.Kinds }

// Available is nil when the store can be written, as far as is known; otherwise it says why not. Reads go on either way.
func (c *Catalog) Available() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.away
}

// Run follows the store until ctx ends. While the store is away it keeps serving what it has;
// after a fork or a compaction it reloads everything.
func (c *Catalog) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.follow(ctx) })
	g.Go(func() error { return c.probe(ctx) })
	err := g.Wait()
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

func (c *Catalog) follow(ctx context.Context) error {
	for {
		err := c.cfg.Store.Follow(ctx, c.Snapshot().position, func(b store.Committed) error {
			c.take(b)
			return nil
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, store.ErrForked) || errors.Is(err, store.ErrCompacted) {
			c.cfg.Log.Warn("catalog cannot continue from its position and reloads", "position", c.Snapshot().position.String(), "err", err)
			err = c.reload(ctx)
			if err == nil {
				continue
			}
		}
		c.setAway(err)
		c.cfg.Log.Warn("catalog lost its feed and retries; memory is served meanwhile", "err", err)
		if err := sleep(ctx, c.cfg.RetryInterval); err != nil {
			return err
		}
	}
}

// probe notices that a store is back, so that Available turns without waiting for a write.
func (c *Catalog) probe(ctx context.Context) error {
	for {
		if err := sleep(ctx, c.cfg.ProbeInterval); err != nil {
			return err
		}
		if c.Available() == nil {
			continue
		}
		if _, err := c.position(ctx); err == nil {
			c.setAway(nil)
		}
	}
}

func (c *Catalog) position(ctx context.Context) (store.Position, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.ProbeInterval)
	defer cancel()
	return c.cfg.Store.Position(ctx)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (c *Catalog) load(ctx context.Context) (*Snapshot, error) {
	b := newSnapshot(c.cfg.Kinds).next(c.cfg.Sealer)
	pos, err := c.cfg.Store.Snapshot(ctx, func(o store.Object) error {
		b.apply(store.Change{Object: o})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	b.s.position = pos
	for _, a := range b.s.SetAside() {
		c.logAside(a)
	}
	return b.s, nil
}

func (c *Catalog) reload(ctx context.Context) error {
	s, err := c.load(ctx)
	if err != nil {
		return err
	}
	c.metrics.reloads.Inc()
	c.publish(s, func(f *Feed) { f.everything() })
	return nil
}

// take applies one batch. Only the follower calls it, so snapshots are made one after the other.
func (c *Catalog) take(batch store.Committed) {
	b := c.Snapshot().next(c.cfg.Sealer)
	b.s.position = batch.Position
	for _, ch := range batch.Changes {
		b.apply(ch)
		if a, ok := b.s.aside.Get(SetAside{Key: ch.Object.Key}); ok {
			c.logAside(a)
		}
	}
	c.metrics.lag.Observe(max(0, time.Since(batch.At).Seconds()))
	c.publish(b.s, func(f *Feed) { f.note(batch.Changes) })
	c.setAway(nil)
}

// publish makes a snapshot current and tells every feed what is new in it.
func (c *Catalog) publish(s *Snapshot, tell func(*Feed)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current.Store(s)
	for f := range c.feeds {
		tell(f)
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Catalog) logAside(a SetAside) {
	c.cfg.Log.Error("object cannot be read and is set aside; the rest is served", "object", a.Key.String(), "revision", a.Revision, "reason", a.Reason)
}

func (c *Catalog) setAway(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && c.away != nil {
		c.cfg.Log.Info("store is back")
	}
	c.away = err
}

// waitFor returns once the current snapshot includes a position, or belongs to a later epoch and never will.
func (c *Catalog) waitFor(ctx context.Context, p store.Position) error {
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		at := c.Snapshot().position
		if at.Lineage == p.Lineage && at.Revision >= p.Revision || at.Lineage.Epoch > p.Lineage.Epoch {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// CatchUp waits until Snapshot includes everything that is committed by now, by whomever.
func (c *Catalog) CatchUp(ctx context.Context) error {
	p, err := c.cfg.Store.Position(ctx)
	if err != nil {
		return fmt.Errorf("read position: %w", err)
	}
	if err := c.waitFor(ctx, p); err != nil {
		return fmt.Errorf("catch up with the store: %w", err)
	}
	return nil
}

// Current says whether the store holds nothing newer than the snapshot. It asks the store.
func (c *Catalog) Current(ctx context.Context, s *Snapshot) (bool, error) {
	p, err := c.cfg.Store.Position(ctx)
	if err != nil {
		return false, fmt.Errorf("read position: %w", err)
	}
	return p == s.position, nil
}
