package push

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Inspect computes what a dataplane gets, connected or not.
func (e *Engine) Inspect(ctx context.Context, dp resource.Key) (*envoy.Table, []envoy.Problem, error) {
	var table *envoy.Table
	var problems []envoy.Problem
	err := e.do(ctx, func(s *state) {
		if _, ok := s.view.Resource(s.view.Graph.Untracked(), dp); !ok {
			return
		}
		root := s.compiler.Proxy(dp)
		cfg := root.Value()
		table = &envoy.Table{Shared: cfg.Shared, Own: cfg.Own, Sequence: s.sequence}
		problems = cfg.Problems
		root.Close()
		s.view.Graph.Settle()
	})
	if err == nil && table == nil {
		err = fmt.Errorf("inspect %s: %w", dp, resource.ErrNotFound)
	}
	return table, problems, err
}

// Explain lets tell work with an explanation of what policies put in force for a dataplane. It holds up the computation meanwhile.
func (e *Engine) Explain(ctx context.Context, dp resource.Key, tell func(*envoy.Explanation)) error {
	found := false
	err := e.do(ctx, func(s *state) {
		var x *envoy.Explanation
		if x, found = s.compiler.Explain(dp); found {
			tell(x)
			s.view.Graph.Settle()
		}
	})
	if err == nil && !found {
		err = fmt.Errorf("explain %s: %w", dp, resource.ErrNotFound)
	}
	return err
}

// Preview renders what a dataplane would get if policies that only cast their shadow were real ones, and with diff what is different from
// what it gets. It computes from scratch and beside everything else, for one caller at a time.
func (e *Engine) Preview(ctx context.Context, dp resource.Key, diff bool) (json.RawMessage, error) {
	select {
	case e.previewing <- struct{}{}:
		defer func() { <-e.previewing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var inputs audit
	if err := e.do(ctx, func(s *state) { inputs = s.prepareAudit() }); err != nil {
		return nil, err
	}
	after, err := inputs.render(dp, true)
	if err != nil || !diff {
		return after, err
	}
	before, err := inputs.render(dp, false)
	if err != nil {
		return nil, err
	}
	return envoy.WithDiff(before, after)
}

func (a audit) render(dp resource.Key, shadow bool) (json.RawMessage, error) {
	c := a.compiler(shadow)
	if _, ok := c.Explain(dp); !ok {
		return nil, fmt.Errorf("preview %s: %w", dp, resource.ErrNotFound)
	}
	cfg := c.Proxy(dp).Value()
	return envoy.Render(&envoy.Table{Shared: cfg.Shared, Own: cfg.Own, Sequence: a.sequence}, cfg.Problems)
}
