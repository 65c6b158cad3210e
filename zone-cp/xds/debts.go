package xds

import (
	"context"
	"sync"
	"time"
)

const (
	// maxDebts bounds how many clients that do not come back are remembered.
	maxDebts = 20_000
	// debtLife is how long one is: a debt holds on to what its client was given, which may be in no table any more.
	debtLife = 10 * time.Minute
	// handover is how long a stream waits for the end of the one before, which is about to notice that it has been cut.
	handover = 100 * time.Millisecond
)

// debts hands what a stream leaves open to the next one of the same node.
type debts struct {
	mu    sync.Mutex
	live  map[string]*stream // by node, the newest
	owed  map[string]owed
	swept time.Time
}

type owed struct {
	debt  *Debt
	since time.Time
}

func newDebts() *debts {
	return &debts{live: map[string]*stream{}, owed: map[string]owed{}, swept: time.Now()}
}

// begin makes a stream the newest of its node and returns what the one before left open. When that one goes on, because nobody
// told it that its client has gone, or because two clients claim one name, nothing is known.
func (d *debts) begin(ctx context.Context, node string, st *stream) *Debt {
	d.mu.Lock()
	if before := d.live[node]; before != nil {
		d.mu.Unlock()
		timeout := time.NewTimer(handover)
		defer timeout.Stop()
		select {
		case <-before.ended:
		case <-timeout.C:
		case <-ctx.Done():
		}
		d.mu.Lock()
	}
	defer d.mu.Unlock()
	d.live[node] = st
	o := d.owed[node]
	delete(d.owed, node)
	return o.debt
}

// end keeps what a stream leaves open, unless a newer one has begun without it.
func (d *debts) end(node string, st *stream) {
	debt := st.session.Debt()
	d.mu.Lock()
	defer d.mu.Unlock()
	defer close(st.ended)
	if d.live[node] != st {
		return
	}
	delete(d.live, node)
	now := time.Now()
	if now.Sub(d.swept) > debtLife/10 {
		d.swept = now
		for n, o := range d.owed {
			if now.Sub(o.since) > debtLife {
				delete(d.owed, n)
			}
		}
	}
	if debt != nil && len(d.owed) < maxDebts {
		d.owed[node] = owed{debt, now}
	}
}
