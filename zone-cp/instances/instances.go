// Package instances is for several control planes of one zone on one store: it knows which of them are up, and which one writes
// what only one may write. What that is, and what follows from an instance that is gone, is decided elsewhere.
package instances

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/causeway-mesh/causeway/store"
)

// Config of Instances.
type Config struct {
	Store store.Store
	// Zone is the name of the zone, Self this life of this process.
	Zone, Self string
	// TTL is how long an instance that shows no sign of life counts as up, and keeps the lease of the writer.
	TTL time.Duration
	// Say is what this instance tells the others with each beat; nil: nothing.
	Say func(context.Context) []byte
	Log *slog.Logger
}

// Instances are the control planes of one zone that share a store. Run keeps what is known of them current.
type Instances struct {
	cfg    Config
	fence  atomic.Pointer[store.Fence]
	writes atomic.Bool
	prefix string

	mu      sync.Mutex
	blind   bool // the last look saw nothing
	others  map[string]*other
	changed chan struct{} // closed and replaced whenever one comes or goes
}

// An other is another instance, as this one sees it.
type other struct {
	beat time.Time // its last beat, by the clock of the store; only compared for equality
	said []byte    // with that beat
	seen time.Time // when that was noticed, by this clock
	up   bool
}

// Open shows that this instance is up and looks which others are. One that has just died counts as up for a TTL.
func Open(ctx context.Context, cfg Config) (*Instances, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	i := &Instances{cfg: cfg, prefix: "zone/" + cfg.Zone + "/instance/", others: map[string]*other{}, changed: make(chan struct{})}
	if err := i.Look(ctx); err != nil {
		return nil, err
	}
	return i, nil
}

// Run shows that this instance is up and watches the others until ctx ends. An instance is down when its beats have stopped for the
// TTL by the clock of whoever watches: no two clocks are compared, and no time counts in which the store could not be asked.
func (i *Instances) Run(ctx context.Context) error {
	tick := time.NewTicker(i.cfg.TTL / 5)
	defer tick.Stop()
	warned := false
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		err := i.Look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !warned {
			i.cfg.Log.Warn("other instances of this zone cannot be watched; they count as before", "err", err)
		}
		warned = err != nil
	}
}

// Said is what each other instance that is up said last.
func (i *Instances) Said() map[string][]byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	out := map[string][]byte{}
	for name, o := range i.others {
		if o.up {
			out[name] = o.said
		}
	}
	return out
}

// Look beats, and takes note of the beats of the others. Run does so all the time; somebody who waits may not want to wait for that.
func (i *Instances) Look(ctx context.Context) error {
	err := i.look(ctx)
	if err != nil {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.blind = true
	}
	return err
}

func (i *Instances) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, i.cfg.TTL/2)
	defer cancel()
	// The time is the store's, for an instance that restores an old clock must not look dead.
	words := []byte("{}")
	if i.cfg.Say != nil {
		words = i.cfg.Say(ctx)
	}
	if err := i.cfg.Store.Observe(ctx, store.Observation{Key: i.prefix + i.cfg.Self, Data: words}); err != nil {
		return fmt.Errorf("show that this instance is up: %w", err)
	}
	beats, err := i.cfg.Store.Observations(ctx, i.prefix)
	if err != nil {
		return fmt.Errorf("look for other instances: %w", err)
	}
	if gone := i.note(beats, time.Now()); len(gone) > 0 {
		if err := i.cfg.Store.Observe(ctx, gone...); err != nil {
			return fmt.Errorf("forget instances that are gone: %w", err)
		}
	}
	return nil
}

// forgetAfter is after how many TTLs the beat of an instance that is down is removed. One that was only cut off beats again.
const forgetAfter = 30

// note compares beats with those known, and lists those to forget.
func (i *Instances) note(beats []store.Observation, now time.Time) (gone []store.Observation) {
	i.mu.Lock()
	defer i.mu.Unlock()
	blind := i.blind
	i.blind = false
	here := map[string]bool{}
	for _, b := range beats {
		name := strings.TrimPrefix(b.Key, i.prefix)
		if name == i.cfg.Self {
			continue
		}
		here[name] = true
		o := i.others[name]
		switch {
		case o == nil:
			i.others[name] = &other{beat: b.At, said: b.Data, seen: now, up: true}
			i.tell("another instance of this zone is up", name)
		case !o.beat.Equal(b.At):
			o.beat, o.said = b.At, b.Data
			i.alive(name, o, now)
		case blind && o.up:
			o.seen = now
		case now.Sub(o.seen) > forgetAfter*i.cfg.TTL:
			gone = append(gone, store.Observation{Key: b.Key})
		}
	}
	for name, o := range i.others {
		switch {
		case o.up && now.Sub(o.seen) > i.cfg.TTL:
			o.up = false
			i.tell("another instance of this zone is down; its agents are expected here", name)
		case !o.up && !here[name]:
			delete(i.others, name)
		}
	}
	return gone
}

// alive notes a sign of life; the caller holds the lock.
func (i *Instances) alive(name string, o *other, now time.Time) {
	o.seen = now
	if !o.up {
		o.up = true
		i.tell("another instance of this zone is up again", name)
	}
}

func (i *Instances) tell(what, name string) {
	i.cfg.Log.Info(what, "instance", name)
	close(i.changed)
	i.changed = make(chan struct{})
}

// Heard notes another sign of life of an instance than a beat.
func (i *Instances) Heard(name string) {
	if name == i.cfg.Self {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	o := i.others[name]
	if o == nil {
		i.others[name] = &other{seen: time.Now(), up: true}
		i.tell("another instance of this zone is up", name)
		return
	}
	i.alive(name, o, time.Now())
}

// Others lists the other instances that are up.
func (i *Instances) Others() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	var out []string
	for name, o := range i.others {
		if o.up {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Up says whether an instance is up, as far as is known.
func (i *Instances) Up(name string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	o := i.others[name]
	return name == i.cfg.Self || o != nil && o.up
}

// Changed is closed when an instance comes or goes. Take it before looking.
func (i *Instances) Changed() <-chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.changed
}

// writer is the lease of the one instance that writes for the zone.
const writer = "zone-writer"

// Fence is the lease under which this instance writes for the zone, or wrote: what is late is refused by the store. Nil: it never did.
func (i *Instances) Fence() *store.Fence { return i.fence.Load() }

// Writes says whether this instance writes for the zone, as far as it knows.
func (i *Instances) Writes() bool { return i.writes.Load() }

// Lead lets work run while this instance is the one that writes for the zone, again and again until ctx ends. Work
// writes under Fence, ends with its context, and may end with store.ErrFenced. A writer whose store is away stays the writer: nobody else can write either.
func (i *Instances) Lead(ctx context.Context, work func(context.Context) error) error {
	retry := time.NewTicker(min(i.cfg.TTL/20, 500*time.Millisecond))
	defer retry.Stop()
	failing := false
	for {
		f, err := i.acquire(ctx)
		switch {
		case ctx.Err() != nil:
			if err == nil {
				i.release(ctx, f)
			}
			return nil
		case err == nil:
			failing = false
			if err := i.tenure(ctx, f, work); err != nil {
				return err
			}
		case !errors.Is(err, store.ErrFenced) && !failing:
			failing = true
			i.cfg.Log.Warn("it cannot be found out which instance of this zone writes; tried again", "err", err)
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (i *Instances) acquire(ctx context.Context) (store.Fence, error) {
	ctx, cancel := context.WithTimeout(ctx, i.cfg.TTL/2)
	defer cancel()
	return i.cfg.Store.Acquire(ctx, writer, i.cfg.Self, i.cfg.TTL)
}

// release gives the lease back, so that another instance need not wait for its end.
func (i *Instances) release(ctx context.Context, f store.Fence) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	_ = i.cfg.Store.Release(ctx, f) // it ends by itself
}

// tenure is the time in which this instance writes. It ends with ctx, when the lease is lost, or when work fails.
func (i *Instances) tenure(ctx context.Context, f store.Fence, work func(context.Context) error) error {
	i.cfg.Log.Info("this instance writes for the zone now")
	i.fence.Store(&f)
	i.writes.Store(true)
	defer i.release(ctx, f)
	defer i.writes.Store(false)
	inner, cancel := context.WithCancel(ctx)
	var renewing sync.WaitGroup
	renewing.Go(func() {
		defer cancel()
		i.renew(inner, f)
	})
	err := work(inner)
	cancel()
	renewing.Wait()
	switch {
	case ctx.Err() != nil:
		return nil
	case err == nil || errors.Is(err, store.ErrFenced) || errors.Is(err, context.Canceled):
		i.cfg.Log.Warn("another instance writes for the zone now")
		return nil
	}
	return err
}

// renew extends the lease until it is lost or ctx ends.
func (i *Instances) renew(ctx context.Context, f store.Fence) {
	tick := time.NewTicker(i.cfg.TTL / 5)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, err := i.acquire(ctx)
		if errors.Is(err, store.ErrFenced) || err == nil && now != f {
			return
		}
	}
}
