package uplink

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/zone-cp/push"
)

// A tracker says in terms of global's revisions how far the zone has computed, and its proxies have acknowledged. What global sent
// is in the zone's own store at some revision, which the engine computes at some sequence, which proxies acknowledge.
type tracker struct {
	engine Engine
	log    *slog.Logger
	wake   chan struct{} // holds a token when global should be told
	poked  chan struct{}

	mu       sync.Mutex
	steps    []step // not acknowledged yet, oldest first
	computed uint64
	acked    uint64
	proxies  zonesync.Proxies
}

// step is one revision of global's on its way through the zone.
type step struct {
	global   uint64
	local    uint64
	sequence uint64 // 0 until it is computed
}

// settle is how long news is gathered before connected proxies are looked at and global is told.
const settle = 20 * time.Millisecond

func newTracker(e Engine, log *slog.Logger) *tracker {
	return &tracker{engine: e, log: log, wake: make(chan struct{}, 1), poked: make(chan struct{}, 1)}
}

// begin starts with what the zone holds when a link begins.
func (t *tracker) begin(have []*zonesync.ScopeState, local uint64) {
	var newest uint64
	for _, st := range have {
		if !st.GetIncomplete() {
			newest = max(newest, st.GetPosition().GetRevision())
		}
	}
	t.mu.Lock()
	t.steps, t.computed, t.acked = []step{{global: newest, local: local}}, 0, 0
	t.mu.Unlock()
	t.poke()
}

// applied notes that the zone's store holds a revision of global's.
func (t *tracker) applied(global, local uint64) {
	t.mu.Lock()
	if n := len(t.steps); n > 0 {
		global = max(global, t.steps[n-1].global) // scopes come one after the other
	}
	t.steps = append(t.steps, step{global: global, local: local})
	t.mu.Unlock()
	t.poke()
}

func (t *tracker) poke() {
	select {
	case t.poked <- struct{}{}:
	default:
	}
}

// run follows the engine. Proxies are looked at only while something is on its way, or their standing is not known.
func (t *tracker) run(ctx context.Context) error {
	for {
		progressed := t.engine.Progressed()
		s, err := t.engine.Standing(ctx)
		switch {
		case ctx.Err() != nil || errors.Is(err, push.ErrStopped):
			return nil
		case err != nil:
			return err
		}
		if t.take(s) {
			select {
			case t.wake <- struct{}{}:
			default:
			}
		}
		select {
		case <-progressed:
		case <-t.poked:
		case <-ctx.Done():
			return nil
		}
		pause := time.NewTimer(settle)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil
		}
	}
}

// take brings the steps up to a standing and says whether global should hear of it.
func (t *tracker) take(s push.Standing) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	computed, acked := t.computed, t.acked
	for i := range t.steps {
		st := &t.steps[i]
		if st.sequence == 0 && st.local <= s.Position.Revision {
			st.sequence = s.Sequence
		}
		if st.sequence == 0 {
			break
		}
		computed = st.global
	}
	for len(t.steps) > 0 && t.steps[0].sequence > 0 && t.steps[0].sequence <= s.Least {
		acked = t.steps[0].global
		t.steps = t.steps[1:]
	}
	p := zonesync.Proxies{Connected: s.Connected, Acknowledged: s.Acknowledged, Pending: s.Connected - s.Acknowledged}
	moved := computed != t.computed || acked != t.acked || p.Connected != t.proxies.Connected || p.Pending != t.proxies.Pending
	t.computed, t.acked = computed, acked
	t.proxies.Connected, t.proxies.Acknowledged, t.proxies.Pending = p.Connected, p.Acknowledged, p.Pending
	return moved
}

// beat is what global is told.
func (t *tracker) beat() *zonesync.Beat {
	t.mu.Lock()
	defer t.mu.Unlock()
	return &zonesync.Beat{
		Computed: t.computed, Acknowledged: t.acked,
		Proxies: &zonesync.Proxies{Connected: t.proxies.Connected, Acknowledged: t.proxies.Acknowledged, Pending: t.proxies.Pending},
	}
}
