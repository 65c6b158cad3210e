package push

import (
	"context"
	"sync"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// A Session follows the table of one dataplane for one stream.
type Session struct {
	engine  *Engine
	key     resource.Key
	changed chan struct{} // holds a token when there is a newer table

	mu    sync.Mutex
	table *envoy.Table
	acked uint64
}

// Open starts a session. The dataplane need not exist yet: its table is empty until it does.
func (e *Engine) Open(ctx context.Context, dp resource.Key) (*Session, error) {
	sess := &Session{engine: e, key: dp, changed: make(chan struct{}, 1)}
	err := e.do(ctx, func(s *state) {
		p := s.proxies[dp]
		if p == nil {
			p = &proxy{root: s.compiler.Proxy(dp), sessions: map[*Session]struct{}{}}
			p.update(p.root.Value(), s.sequence)
			s.proxies[dp] = p
		}
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

// Changed receives when there may be a newer table than the last one seen. One reader.
func (s *Session) Changed() <-chan struct{} { return s.changed }

// Acked notes that the proxy has acknowledged everything up to a sequence.
func (s *Session) Acked(sequence uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked = max(s.acked, sequence)
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
		if len(p.sessions) == 0 {
			p.root.Close()
			delete(st.proxies, s.key)
			st.view.Graph.Settle()
		}
	})
}

// offer is called by the engine's loop.
func (s *Session) offer(t *envoy.Table) {
	s.mu.Lock()
	s.table = t
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}
