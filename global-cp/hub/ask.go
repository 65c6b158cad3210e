package hub

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/api/inquiry"
	"github.com/causeway-mesh/causeway/api/resource"
)

// answerBudget bounds what all answers of zones together take in memory while they arrive.
const answerBudget = 512 << 20

// Answer implements inquiry.InquiryServer. It shares the connection with Sync and nothing else: neither can hold up the other.
func (h *Hub) Answer(stream grpc.BidiStreamingServer[inquiry.Part, inquiry.Question]) error {
	cred, _, err := h.credentialOf(stream.Context())
	if err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	if err := h.cfg.Access.Check(cred); err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	d := inquiry.NewDesk(h.budget, 0)
	h.mu.Lock()
	h.desks[cred.ZoneID] = d // a newer stream takes the place of an older one
	h.mu.Unlock()
	defer h.closeDesk(cred.ZoneID, d)
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		cancel(h.cfg.Access.Watch(ctx, cred))
	}()
	defer func() { cancel(nil); <-watched }()
	return asStatus(d.Serve(ctx, stream))
}

func (h *Hub) closeDesk(zoneID string, d *inquiry.Desk) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.desks[zoneID] == d {
		delete(h.desks, zoneID)
	}
}

// Inspect implements rest.Inspector: the zone of the dataplane knows.
func (h *Hub) Inspect(ctx context.Context, dp resource.Resource, q *inquiry.Question) ([]byte, error) {
	away := inquiry.Failf("zone %s is not connected to this control plane; ask the zone's own, or wait until it is back", dp.Zone())
	z, ok := h.cfg.Catalog.Snapshot().Get(resource.Key{Type: "Zone", Name: dp.Zone()})
	if !ok {
		return nil, away
	}
	h.mu.Lock()
	d := h.desks[z.UID]
	h.mu.Unlock()
	if d == nil {
		return nil, away
	}
	q.Mesh, q.Name = dp.Mesh, dp.DisplayName()
	b, err := d.Ask(ctx, q)
	if errors.Is(err, inquiry.ErrAway) {
		return nil, away
	}
	return b, err
}
