package agents

import (
	"context"
	"errors"
	"slices"
	"sync"

	"google.golang.org/grpc"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/api/inquiry"
	"github.com/causeway-mesh/causeway/api/resource"
)

// answerBudget bounds what all answers of agents together take in memory while they arrive.
const answerBudget = 256 << 20

// desks are where agents are asked. An agent offers that beside its session, since answers are large and a session must not wait.
type desks struct {
	inquiry.UnimplementedInquiryServer
	budget *inquiry.Budget

	mu   sync.Mutex
	open map[resource.Key]*inquiry.Desk
}

func newDesks() *desks {
	return &desks{budget: inquiry.NewBudget(answerBudget), open: map[resource.Key]*inquiry.Desk{}}
}

// Answer implements inquiry.InquiryServer. The stream ends with the session of the same agent.
func (d *desks) Answer(stream grpc.BidiStreamingServer[inquiry.Part, inquiry.Question]) error {
	dp, err := PeerDataplane(stream.Context())
	if err != nil {
		return err
	}
	desk := inquiry.NewDesk(d.budget)
	d.mu.Lock()
	d.open[dp] = desk // a newer stream takes the place of an older one
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.open[dp] == desk {
			delete(d.open, dp)
		}
	}()
	return desk.Serve(stream.Context(), stream)
}

func (d *desks) of(dp resource.Key) *inquiry.Desk {
	d.mu.Lock()
	defer d.mu.Unlock()
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
	desk := s.desks.of(dp)
	if desk == nil {
		return nil, inquiry.Failf("the agent of dataplane %s has just connected to zone %s and takes no questions yet; try again", dp.Name, s.cfg.Zone)
	}
	b, err := desk.Ask(ctx, q)
	if errors.Is(err, inquiry.ErrAway) {
		return nil, inquiry.Failf("the agent of dataplane %s went away from zone %s before it answered", dp.Name, s.cfg.Zone)
	}
	return b, err
}
