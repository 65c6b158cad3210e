package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/rest"
	"github.com/causeway-mesh/causeway/api/zonesync"
)

// What an operator's question may cost.
const (
	maxAnswer    = 64 << 20 // bytes
	maxQuestions = 16       // of one zone at a time
	askTimeout   = 20 * time.Second
)

// desk is the admin stream of one zone: questions go out one after the other, answers come in parts and in any order.
type desk struct {
	questions chan *zonesync.Question
	ended     chan struct{}

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]*inquiry
}

// inquiry is a question that somebody waits for.
type inquiry struct {
	data []byte
	done chan error // buffered
}

// Admin implements zonesync.LinkServer. It shares the connection with Sync and nothing else: neither can hold up the other.
func (h *Hub) Admin(stream zonesync.Link_AdminServer) error {
	cred, _, err := h.credentialOf(stream.Context())
	if err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	if err := h.cfg.Access.Check(cred); err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	d := &desk{questions: make(chan *zonesync.Question), ended: make(chan struct{}), waiting: map[uint64]*inquiry{}}
	defer d.end()
	h.mu.Lock()
	h.desks[cred.ZoneID] = d // a newer stream takes the place of an older one
	h.mu.Unlock()
	defer h.closeDesk(cred.ZoneID, d)
	failed := make(chan error, 1)
	go func() { // ends with the stream, at the latest when the handler returns
		for {
			a, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			d.take(a)
		}
	}()
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		cancel(h.cfg.Access.Watch(ctx, cred))
	}()
	defer func() { cancel(nil); <-watched }()
	for {
		select {
		case q := <-d.questions:
			if err := stream.Send(q); err != nil {
				return err
			}
		case err := <-failed:
			return err
		case <-ctx.Done():
			return asStatus(context.Cause(ctx))
		}
	}
}

func (h *Hub) closeDesk(zoneID string, d *desk) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.desks[zoneID] == d {
		delete(h.desks, zoneID)
	}
}

// take adds a part to the answer that somebody waits for; others are late and ignored.
func (d *desk) take(a *zonesync.Answer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q := d.waiting[a.GetId()]
	if q == nil {
		return
	}
	q.data = append(q.data, a.GetPart()...)
	var err error
	switch {
	case a.GetNotFound():
		err = resource.ErrNotFound
	case a.GetError() != "":
		err = errors.New(a.GetError())
	case len(q.data) > maxAnswer:
		err = fmt.Errorf("the answer has more than %d bytes", maxAnswer)
	case !a.GetLast():
		return
	}
	delete(d.waiting, a.GetId())
	q.done <- err
}

func (d *desk) end() {
	close(d.ended)
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, q := range d.waiting {
		delete(d.waiting, id)
		q.done <- rest.ErrZoneAway
	}
}

// ask puts a question to the zone and waits for the whole answer.
func (d *desk) ask(ctx context.Context, what string, dp resource.Key) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	q := &inquiry{done: make(chan error, 1)}
	d.mu.Lock()
	if len(d.waiting) >= maxQuestions {
		d.mu.Unlock()
		return nil, fmt.Errorf("the zone has %d questions to answer already; try again", maxQuestions)
	}
	d.next++
	id := d.next
	d.waiting[id] = q
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.waiting, id)
		d.mu.Unlock()
	}()
	select {
	case d.questions <- &zonesync.Question{Id: id, What: what, Mesh: dp.Mesh, Name: dp.Name, TimeoutMs: askTimeout.Milliseconds()}:
	case <-d.ended:
		return nil, rest.ErrZoneAway
	case <-ctx.Done():
		return nil, fmt.Errorf("ask the zone: %w", ctx.Err())
	}
	select {
	case err := <-q.done:
		return q.data, err
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the zone's answer: %w", ctx.Err())
	}
}

// Config implements rest.Inspector: the zone of the dataplane is asked what it computed.
func (h *Hub) Config(ctx context.Context, dp resource.Resource) (json.RawMessage, error) {
	z, ok := h.cfg.Catalog.Snapshot().Get(resource.Key{Type: "Zone", Name: dp.Zone()})
	if !ok {
		return nil, rest.ErrZoneAway
	}
	h.mu.Lock()
	d := h.desks[z.UID]
	h.mu.Unlock()
	if d == nil {
		return nil, rest.ErrZoneAway
	}
	b, err := d.ask(ctx, zonesync.AskConfig, resource.Key{Type: dp.Type, Mesh: dp.Mesh, Name: dp.DisplayName()})
	if err != nil {
		return nil, fmt.Errorf("configuration of %s: %w", dp.Key(), err)
	}
	return b, nil
}
