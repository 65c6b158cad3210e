package push

import (
	"context"
	"sync"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// A NamesFeed follows what the workload of one dataplane may look up, for one session of its agent.
type NamesFeed struct {
	engine  *Engine
	changed func() // called when there is a newer set; does not wait

	// Owned by the engine's loop.
	root *memo.Root[*view.Names]
	last *view.Names

	mu  sync.Mutex
	set *agentapi.NameSet
}

// OpenNames starts to follow the names of a dataplane. It need not exist yet: there are none until it does.
// Changed is called when there may be a newer set, also at first; it must not wait, nor call the engine.
func (e *Engine) OpenNames(ctx context.Context, dp resource.Key, changed func()) (*NamesFeed, error) {
	f := &NamesFeed{engine: e, changed: changed}
	err := e.do(ctx, func(s *state) {
		f.root = s.view.NamesOf(dp)
		s.names.feeds[f] = struct{}{}
		s.names.offer(f)
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Names is the newest set, nil while there is none. Everybody who gets the same names gets the same set.
func (f *NamesFeed) Names() *agentapi.NameSet {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.set
}

// Close ends the feed. It may be called after the engine has stopped.
func (f *NamesFeed) Close() {
	_ = f.engine.do(context.Background(), func(s *state) { // an engine that stopped has let go already
		delete(s.names.feeds, f)
		f.root.Close()
		s.view.Graph.Settle()
	})
}

// names are the feeds of all sessions, and the sets that they share.
type names struct {
	feeds map[*NamesFeed]struct{}
	sets  map[*view.Names]*agentapi.NameSet
}

func newNames() names {
	return names{map[*NamesFeed]struct{}{}, map[*view.Names]*agentapi.NameSet{}}
}

// publish gives every feed its names if they have changed, and forgets the sets that nobody has.
func (n *names) publish() {
	used := map[*view.Names]bool{}
	for f := range n.feeds {
		n.offer(f)
		used[f.last] = true
	}
	for k := range n.sets {
		if !used[k] {
			delete(n.sets, k)
		}
	}
}

func (n *names) offer(f *NamesFeed) {
	now := f.root.Value()
	if now == nil || now == f.last {
		return
	}
	set := n.sets[now]
	if set == nil {
		set = nameSet(now)
		n.sets[now] = set
	}
	f.last = now
	f.mu.Lock()
	f.set = set
	f.mu.Unlock()
	f.changed()
}

func nameSet(in *view.Names) *agentapi.NameSet {
	records := make([]*agentapi.NameRecord, len(in.List))
	for i, n := range in.List {
		r := &agentapi.NameRecord{Name: n.Host}
		for _, a := range n.Addresses {
			r.Addresses = append(r.Addresses, a.AsSlice())
		}
		records[i] = r
	}
	return agentapi.NewNameSet(records, in.Domains)
}
