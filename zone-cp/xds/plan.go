package xds

import (
	"slices"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// A plan is all that separates what the client holds of a type from the target, whether it may be sent yet or not.
type plan struct {
	valid    bool
	shared   []*envoy.Fragment // to send, out of the part that the proxy shares with its class
	own      []*envoy.Fragment // to send, out of the proxy's own part
	removed  []string          // to remove
	missing  []string          // asked for and not there: an answer, not a change
	cleared  []string          // removed, so that what comes next is looked at
	withheld []string          // differs and stays as it is, because of a rejection
	more     bool              // when all of it has been sent, there is more to send
}

func (p *plan) empty() bool {
	return len(p.shared)+len(p.own)+len(p.removed)+len(p.missing)+len(p.cleared) == 0
}

var noPart = envoy.NewPart(nil)

// diff is what changes between two parts, nil for nothing.
func diff(from, to *envoy.Part) *envoy.Diff {
	if from == to {
		return nil
	}
	if to == nil {
		to = noPart
	}
	return to.DiffFrom(from)
}

func (s *Session) planned(c *channel) *plan {
	if !c.plan.valid {
		c.plan = s.draw(c)
		c.plan.valid = true
	}
	return &c.plan
}

// draw compares. Nearly always a stream moves from one table to the next with no exception,
// and the plan is the difference of the two, which all streams of the class share.
func (s *Session) draw(c *channel) plan {
	if !c.asked {
		return plan{}
	}
	if c.base == nil && !c.wildcard {
		return s.judge(c, c.named)
	}
	var from envoy.Table
	if c.base != nil {
		from = *c.base
	}
	shared, own := diff(from.Shared, s.target.Shared), diff(from.Own, s.target.Own)
	if shared == nil {
		shared = &envoy.Diff{}
	}
	if own == nil {
		own = &envoy.Diff{}
	}
	t := c.typ
	moved := len(shared.Removed[t]) > 0 && len(own.Upserts[t]) > 0 || len(own.Removed[t]) > 0 && len(shared.Upserts[t]) > 0
	if len(c.over) > 0 || len(c.resend) > 0 || moved || s.doubtful() {
		var changed []string
		for _, d := range []*envoy.Diff{shared, own} {
			for _, f := range d.Upserts[t] {
				changed = append(changed, f.Name)
			}
			changed = append(changed, d.Removed[t]...)
		}
		return s.judge(c, changed)
	}
	return plan{
		shared:  c.wanted(shared.Upserts[t]),
		own:     c.wanted(own.Upserts[t]),
		removed: slices.Concat(c.of(shared.Removed[t]), c.of(own.Removed[t])),
	}
}

// wanted keeps the fragments that the client subscribes to; it returns the same slice when those are all.
func (c *channel) wanted(fs []*envoy.Fragment) []*envoy.Fragment {
	if c.wildcard {
		return fs
	}
	return keep(fs, func(f *envoy.Fragment) bool { return c.named.has(f.Name) })
}

func (c *channel) of(list []string) []string {
	if c.wildcard {
		return list
	}
	return keep(list, c.named.has)
}

// keep filters without touching the list, which others share, and without a copy when nothing is left out.
func keep[T any](list []T, ok func(T) bool) []T {
	for i, x := range list {
		if ok(x) {
			continue
		}
		out := slices.Clone(list[:i])
		for _, x := range list[i+1:] {
			if ok(x) {
				out = append(out, x)
			}
		}
		return out
	}
	return list
}

// judge decides name by name, over the names that changed and all that are exceptional.
func (s *Session) judge(c *channel, changed []string) plan {
	all := slices.Clone(changed)
	for name := range c.over {
		all = append(all, name)
	}
	for name := range c.resend {
		all = append(all, name)
	}
	all = append(all, s.doubted(c.typ)...)
	slices.Sort(all)
	var p plan
	for _, name := range slices.Compact(all) {
		if c.subscribed(name) {
			s.decide(c, name, &p)
		}
	}
	return p
}

func (s *Session) decide(c *channel, name string, p *plan) {
	made := s.target.Get(c.typ, name)
	want, stays := s.want(envoy.Ref{Type: c.typ, Name: name})
	have := c.holds(name)
	_, again := c.resend[name]
	if made != want {
		p.withheld = append(p.withheld, name)
	}
	switch {
	case want == nil && !c.asks(name): // foreseen, and not to be had: it is answered when the client asks
	case want != nil:
		if !again && have.held && have.sure && have.version == want.Version {
			return
		}
		if again && c.typ == envoy.Endpoint && have.held && have.frag != nil && have.version != want.Version && !s.ward.proven(want) {
			// A cluster warms, and would come out of it empty if these were refused. First it gets what it had.
			want, p.more = have.frag, true
		}
		if c.typ == envoy.Extension && have.maybe(want) && !s.ward.proven(want) {
			// The answer to it was lost, and a second answer would not count. First Envoy gets what it had, or, as it had nothing, a removal.
			p.more = true
			if !have.held {
				p.cleared = append(p.cleared, name)
				return
			}
			want = have.frag
		}
		if s.target.Shared.Get(c.typ, name) == want {
			p.shared = append(p.shared, want)
		} else {
			p.own = append(p.own, want)
		}
	case stays:
	case again && c.typ == envoy.Endpoint:
		// A cluster warms, although it is about to go. It gets back what it had, or what it was to get, or hears that there is nothing.
		if have.held && have.frag != nil {
			p.own, p.withheld = append(p.own, have.frag), append(p.withheld, name)
		} else if f := c.await[name].frag; f != nil && made == nil {
			p.own, p.withheld = append(p.own, f), append(p.withheld, name)
		} else {
			p.missing = append(p.missing, name)
		}
	case s.inUse(envoy.Ref{Type: c.typ, Name: name}):
		if made == nil {
			p.withheld = append(p.withheld, name)
		}
	case have.held || !have.sure:
		p.removed = append(p.removed, name)
	case made == nil && (again || c.unanswered(name)):
		p.missing = append(p.missing, name)
	}
}

// unanswered says that a name was asked for and never answered at all.
func (c *channel) unanswered(name string) bool {
	_, told := c.over[name]
	return c.base == nil && !told && c.named.has(name)
}
