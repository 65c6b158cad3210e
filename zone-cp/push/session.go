package push

import (
	"context"
	"fmt"
	"sync"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// A Session follows the table of one dataplane for one stream.
type Session struct {
	engine  *Engine
	key     resource.Key
	changed func() // called when there is a newer table; does not wait

	mu    sync.Mutex
	table *envoy.Table
	acked uint64
}

// Open starts a session of a proxy that runs a version of Envoy. The dataplane need not exist yet: its table is empty until it does.
// Changed is called for each newer table, the first one included; it must not wait, nor call the engine.
func (e *Engine) Open(ctx context.Context, dp resource.Key, version string, changed func()) (*Session, error) {
	sess := &Session{engine: e, key: dp, changed: changed}
	err := e.do(ctx, func(s *state) {
		e.runs(s, dp, version)
		p := s.proxy(dp)
		p.sessions[sess] = struct{}{}
		sess.offer(p.table)
	})
	if err != nil {
		return nil, err
	}
	return sess, nil
}

// Key is the dataplane of the session.
func (s *Session) Key() resource.Key { return s.key }

// Table is the newest table.
func (s *Session) Table() *envoy.Table {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table
}

// Acked notes that the proxy has acknowledged everything up to a sequence.
func (s *Session) Acked(sequence uint64) {
	s.mu.Lock()
	s.acked = max(s.acked, sequence)
	s.mu.Unlock()
	s.engine.ring()
}

// Applied is the newest sequence that the proxy is at: a change that does not touch it needs no message.
func (s *Session) Applied() uint64 {
	computed := s.engine.Progress().Sequence
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.table != nil && s.acked >= s.table.Sequence {
		return computed
	}
	return s.acked
}

// Close ends the session. It may be called after the engine has stopped.
func (s *Session) Close() {
	_ = s.engine.do(context.Background(), func(st *state) { // an engine that stopped has let go already
		p := st.proxies[s.key]
		if p == nil {
			return
		}
		delete(p.sessions, s)
		defer s.engine.ring()
		if len(p.sessions) == 0 {
			delete(st.envoys, s.key)
			st.view.SetEnvoy(s.key, "")
			st.view.Graph.Settle()
		}
		st.release(s.key, p)
	})
}

// offer is called by the engine's loop.
func (s *Session) offer(t *envoy.Table) {
	s.mu.Lock()
	s.table = t
	s.mu.Unlock()
	s.changed()
}

// Told waits until everybody who has a session has acknowledged that a dataplane drains, or is gone.
func (e *Engine) Told(ctx context.Context, dp resource.Key) error {
	for {
		var wait <-chan struct{}
		var pending int
		err := e.do(ctx, func(s *state) {
			wait = e.listen()
			if !s.facts[dp].Draining {
				pending = -1
				return
			}
			for k, p := range s.proxies {
				for sess := range p.sessions {
					if k != dp && sess.Applied() < s.drained[dp] {
						pending++
					}
				}
			}
		})
		if err != nil || pending == 0 {
			return err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			if pending < 0 {
				return fmt.Errorf("tell others that %s drains: %w", dp, ctx.Err())
			}
			return fmt.Errorf("%d proxies have not acknowledged that %s drains: %w", pending, dp, ctx.Err())
		}
	}
}

// runs notes which version of Envoy a proxy runs. That matters where Envoys of a version have refused something.
func (e *Engine) runs(s *state, dp resource.Key, version string) {
	old := s.envoys[dp]
	if old == version {
		return
	}
	set := func() {
		s.envoys[dp] = version
		s.view.SetEnvoy(dp, version)
	}
	if s.refused[old] == nil && s.refused[version] == nil {
		set()
		return
	}
	e.compute(s, set)
}

// Refuse notes that an Envoy of a version refuses a resource: if patches of users made it what it is, all proxies of that version get
// it without the one that is to blame.
func (e *Engine) Refuse(ctx context.Context, version string, f *envoy.Fragment, text string) error {
	return e.do(ctx, func(s *state) {
		x := view.Refusal{Type: f.Type.String(), Base: f.BaseOrVersion(), Patches: f.Patches, Text: text}
		if next := s.refused[version].With(x); next != s.refused[version] {
			e.compute(s, func() {
				s.refused[version] = next
				s.view.SetRefused(version, next)
			})
		}
	})
}
