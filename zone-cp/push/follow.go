package push

import (
	"context"
	"sync"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

// A Follower follows what the agent of one dataplane is told, for one session of that agent.
type Follower struct {
	engine  *Engine
	key     resource.Key
	changed func() // called when there is something new; does not wait

	mu   sync.Mutex
	news envoy.AgentMessages
}

// Follow starts a follower. The dataplane need not be known here yet: until then there is nothing to tell.
// Changed is called when there may be something new, also at first; it must not wait, nor call the engine.
func (e *Engine) Follow(ctx context.Context, dp resource.Key, changed func()) (*Follower, error) {
	f := &Follower{engine: e, key: dp, changed: changed}
	err := e.do(ctx, func(s *state) {
		p := s.proxy(dp)
		p.followers[f] = struct{}{}
		f.offer(p.last.Agent)
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Messages are what the agent is to be told now, all of it.
func (f *Follower) Messages() []*agentapi.ZoneMessage {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.news.List()
}

// Close ends the follower. It may be called after the engine has stopped.
func (f *Follower) Close() {
	_ = f.engine.do(context.Background(), func(s *state) { // an engine that stopped has let go already
		if p := s.proxies[f.key]; p != nil {
			delete(p.followers, f)
			s.release(f.key, p)
		}
	})
}

// offer is called by the engine's loop.
func (f *Follower) offer(m envoy.AgentMessages) {
	f.mu.Lock()
	f.news = m
	f.mu.Unlock()
	f.changed()
}

// Agents are what the agents of the zone's own dataplanes in a mesh are told, connected or not; an empty mesh means all.
func (e *Engine) Agents(ctx context.Context, meshName string) (map[resource.Key][]*agentapi.ZoneMessage, error) {
	out := map[resource.Key][]*agentapi.ZoneMessage{}
	err := e.do(ctx, func(s *state) {
		for k := range s.view.Keys() {
			if k.Type != mesh.TypeDataplane || meshName != "" && k.Mesh != meshName {
				continue
			}
			r, _ := s.view.Resource(s.view.Graph.Untracked(), k)
			if zone := r.Zone(); zone == "" || zone == s.cfg.Zone {
				out[k] = s.compiler.Agent(k).List()
			}
		}
		s.view.Graph.Settle()
	})
	return out, err
}
