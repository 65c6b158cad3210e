package agents

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/api/inquiry"
	"github.com/causeway-mesh/causeway/api/resource"
)

// answerBudget bounds what all answers of agents together take in memory while they arrive.
const answerBudget = 256 << 20

// deskPatience is how long an agent is there to be asked again after a question.
const deskPatience = time.Minute

// desks are where agents are asked: on a stream beside their sessions, since answers are large and a session must not wait. An agent opens
// it when it is called, and few are asked at a time: a stream that is there for nothing costs memory.
type desks struct {
	inquiry.UnimplementedInquiryServer
	budget   *inquiry.Budget
	patience time.Duration

	mu    sync.Mutex
	open  map[resource.Key]*inquiry.Desk
	calls map[resource.Key]*call
}

// A call is an agent that has been told to open a stream, and has not yet.
type call struct {
	opened  chan struct{}
	waiting int
}

func newDesks(patience time.Duration) *desks {
	return &desks{budget: inquiry.NewBudget(answerBudget), patience: patience, open: map[resource.Key]*inquiry.Desk{}, calls: map[resource.Key]*call{}}
}

// Answer implements inquiry.InquiryServer. The stream ends with the session of the same agent, or when nobody asks.
func (d *desks) Answer(stream grpc.BidiStreamingServer[inquiry.Part, inquiry.Question]) error {
	dp, err := PeerDataplane(stream.Context())
	if err != nil {
		return err
	}
	desk := inquiry.NewDesk(d.budget, d.patience)
	d.mu.Lock()
	d.open[dp] = desk // a newer stream takes the place of an older one
	if c := d.calls[dp]; c != nil {
		close(c.opened)
		delete(d.calls, dp)
	}
	d.mu.Unlock()
	defer d.left(dp, desk)
	return desk.Serve(stream.Context(), stream)
}

func (d *desks) of(dp resource.Key) *inquiry.Desk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open[dp]
}

// left forgets a desk.
func (d *desks) left(dp resource.Key, desk *inquiry.Desk) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open[dp] == desk {
		delete(d.open, dp)
	}
}

// at finds the desk of an agent, which is called to it if need be. It returns nil when the agent does not come before ctx ends.
func (d *desks) at(ctx context.Context, dp resource.Key, summon func()) *inquiry.Desk {
	d.mu.Lock()
	if desk := d.open[dp]; desk != nil {
		d.mu.Unlock()
		return desk
	}
	c := d.calls[dp]
	if c == nil {
		c = &call{opened: make(chan struct{})}
		d.calls[dp] = c
	}
	c.waiting++
	first := c.waiting == 1
	d.mu.Unlock()
	if first {
		summon()
	}
	select {
	case <-c.opened:
	case <-ctx.Done():
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if c.waiting--; c.waiting == 0 && d.calls[dp] == c {
		delete(d.calls, dp)
	}
	return d.open[dp]
}

// Ask asks the agent of a dataplane about its Envoy.
func (s *Service) Ask(ctx context.Context, dp resource.Key, q *inquiry.Question) ([]byte, error) {
	f, known := s.registry.Snapshot().Get(dp)
	switch {
	case !known:
		return nil, inquiry.Failf("no agent of dataplane %s has ever connected to zone %s, so its Envoy cannot be asked", dp.Name, s.cfg.Zone)
	case !f.Connected:
		return nil, inquiry.Failf("the agent of dataplane %s is not connected to zone %s since %s, so its Envoy cannot be asked",
			dp.Name, s.cfg.Zone, f.LastSeen.UTC().Format("2006-01-02 15:04:05 MST"))
	case !slices.Contains(f.Features, agentapi.FeatureInquiry):
		return nil, inquiry.Failf("the agent of dataplane %s has version %s, which answers no questions about its Envoy; upgrade it", dp.Name, resource.Quote(f.AgentVersion))
	}
	if f.ControlPlane != s.cfg.Instance {
		return nil, inquiry.Failf("the agent of dataplane %s is connected to instance %s of zone %s's control plane, and this is %s; ask that one",
			dp.Name, f.ControlPlane, s.cfg.Zone, s.cfg.Instance)
	}
	ss := s.registry.session(dp)
	if ss == nil {
		return nil, gone(s.cfg.Zone, dp)
	}
	ctx, cancel := context.WithTimeout(ctx, inquiry.Timeout)
	defer cancel()
	defer context.AfterFunc(ss.ctx, cancel)()
	for {
		desk := s.desks.at(ctx, dp, ss.inquire)
		switch {
		case desk != nil:
		case ss.ctx.Err() != nil:
			return nil, gone(s.cfg.Zone, dp)
		case ctx.Err() == context.DeadlineExceeded:
			return nil, inquiry.Failf("the agent of dataplane %s was told that there is a question, and did not take it in time", dp.Name)
		default:
			return nil, fmt.Errorf("ask the agent of dataplane %s: %w", dp.Name, ctx.Err())
		}
		b, err := desk.Ask(ctx, q)
		switch {
		case errors.Is(err, inquiry.ErrClosed):
			s.desks.left(dp, desk)
			continue
		case errors.Is(err, inquiry.ErrAway), err != nil && ss.ctx.Err() != nil:
			return nil, gone(s.cfg.Zone, dp)
		}
		return b, err
	}
}

func gone(zone string, dp resource.Key) error {
	return inquiry.Failf("the agent of dataplane %s went away from zone %s before it answered", dp.Name, zone)
}
