package insight

import (
	"context"
	"fmt"
	"slices"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Status says how far a revision of global's store has come; ok is false for one that does not exist yet.
func (b *Board) Status(revision uint64) (mesh.Propagation, bool) {
	s := b.cfg.Catalog.Snapshot()
	head := s.Position()
	out := mesh.Propagation{Revision: revision, Position: head.String(), Zones: []mesh.ZonePropagation{}}
	if revision == 0 || revision > head.Revision {
		return out, false
	}
	s.Each(mesh.TypeZone, "", func(r resource.Resource) bool {
		out.Zones = append(out.Zones, b.propagation(r.Name, revision, head.Revision))
		return true
	})
	return out, true
}

func (b *Board) propagation(name string, revision, head uint64) mesh.ZonePropagation {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := mesh.ZonePropagation{Zone: name, State: mesh.PropagationAway}
	z := b.zones[name]
	if z == nil {
		out.Lag = head
		return out
	}
	st := z.Status
	out.Online, out.Received, out.Computed, out.Acknowledged, out.Proxies = st.Online, st.Received, st.Computed, st.Acknowledged, st.Proxies
	out.Exceptions, out.MoreExceptions = slices.Concat(st.Exceptions, st.SetAside), st.More
	out.Lag = head - min(head, st.Received)
	switch {
	case st.Acknowledged >= revision && len(out.Exceptions) > 0:
		out.State = mesh.PropagationRejected
	case st.Acknowledged >= revision:
		out.State = mesh.PropagationAcknowledged
	case st.Computed >= revision:
		out.State = mesh.PropagationComputed
	case st.Received >= revision:
		out.State = mesh.PropagationReceived
	case st.Online:
		out.State = mesh.PropagationPending
	}
	return out
}

// Wait returns once a revision has come at least as far as a state in every zone that is connected. Zones that are away are not
// waited for: the answer of Status names them.
func (b *Board) Wait(ctx context.Context, revision uint64, until string) error {
	want := mesh.PropagationState(until)
	for {
		b.mu.Lock()
		changed := b.changed
		b.mu.Unlock()
		st, ok := b.Status(revision)
		if ok && !slices.ContainsFunc(st.Zones, func(z mesh.ZonePropagation) bool { return z.Online && !z.State.Reached(want) }) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait until revision %d is %s: %w", revision, until, ctx.Err())
		}
	}
}
