package hub

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/causeway-mesh/causeway/store"
)

// A fence is the lease of a zone's link: of several instances of global only one applies what the zone sends.
type fence struct {
	store store.Store
	holds store.Fence

	mu      sync.Mutex
	renewal *sync.WaitGroup
	until   time.Time
}

// lease takes the lease of a zone for a link. Another link of this instance has let go of it already. On a store that nobody else can have
// open, what a former process left behind is no obstacle.
func (h *Hub) lease(ctx context.Context, zoneID string, session uint64) (*fence, error) {
	holder := fmt.Sprintf("%s/%d", h.cfg.Instance, session)
	if h.cfg.Alone {
		holder = "the one instance"
	}
	f, err := h.cfg.Store.Acquire(ctx, "zone-link/"+zoneID, holder, leaseFor)
	if err != nil {
		return nil, err
	}
	return &fence{store: h.cfg.Store, holds: f, until: time.Now().Add(leaseFor), renewal: &sync.WaitGroup{}}, nil
}

// current implements exchange.SinkConfig.Fence.
func (f *fence) current() *store.Fence { return &f.holds }

// renew extends the lease beside the link, when a third of it is over. While the store is away nothing is written under it either.
func (f *fence) renew(ctx context.Context, lost func(error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Until(f.until) > leaseFor*2/3 {
		return
	}
	f.until = time.Now().Add(leaseFor)
	f.renewal.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, leaseFor/3)
		defer cancel()
		if _, err := f.store.Acquire(ctx, f.holds.Name, f.holds.Holder, leaseFor); isFenced(err) {
			lost(err)
		}
	})
}

// release gives the lease back, so that another instance need not wait for its end.
func (f *fence) release(ctx context.Context) {
	f.renewal.Wait()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	_ = f.store.Release(ctx, f.holds) // it ends by itself
}
