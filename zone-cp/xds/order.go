package xds

import (
	"maps"
	"slices"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// A load is the part of a plan that goes into the next response.
type load struct {
	shared, own []*envoy.Fragment
	removed     []string
	complete    bool // nothing of the plan is left behind
}

func (l *load) empty() bool { return len(l.shared)+len(l.own)+len(l.removed) == 0 }

// load picks what may be sent now: what nothing stands in the way of, of one group, up to the size of a response.
func (s *Session) load(c *channel, p *plan) load {
	l := load{shared: p.shared, own: p.own}
	if ready := s.gate(c); ready != nil {
		l.shared, l.own = keep(l.shared, ready), keep(l.own, ready)
	}
	blocked := len(l.shared)+len(l.own) < len(p.shared)+len(p.own)
	if len(p.removed)+len(p.missing) > 0 && s.mayRemove(c, blocked) {
		l.removed = slices.Concat(p.removed, p.missing)
	} else if c.typ == envoy.Endpoint || !s.channels[envoy.Listener].asked {
		l.removed = p.missing
	}
	l.removed = slices.Concat(l.removed, p.cleared)
	if c.typ == envoy.Endpoint {
		s.safe(c, &l)
	}
	if len(c.groups) > 0 {
		if len(l.removed) > 0 {
			return load{removed: l.removed} // alone, so that it is under no suspicion
		}
		c.apart(&l)
	}
	if c.typ == envoy.Extension {
		s.single(&l)
	}
	l.cut(s.limits.Response)
	l.complete = !p.more && len(l.shared)+len(l.own) == len(p.shared)+len(p.own) && len(l.removed) == len(p.removed)+len(p.missing)+len(p.cleared)
	return l
}

// single keeps what some client has taken before, or else one fragment alone. Envoy's first answer to the content of an
// extension is the only one that counts: what it has refused once it acknowledges the second time, and does not apply.
// So a culprit can't be looked for by sending again; it has to be alone the first time.
func (s *Session) single(l *load) {
	if len(l.shared)+len(l.own)+len(l.removed) < 2 {
		return
	}
	shared, own := keep(l.shared, s.ward.proven), keep(l.own, s.ward.proven)
	switch {
	case len(shared)+len(own) > 0:
		l.shared, l.own = shared, own
	case len(l.shared) > 0:
		l.shared, l.own, l.removed = l.shared[:1], nil, nil
	case len(l.own) > 0:
		l.own, l.removed = l.own[:1], nil
	}
}

// safe keeps what Envoy is known to take, if there is any: when a response with endpoints is refused, clusters that warm come out
// of it without, so that those must not depend on what has never been tried, in the same response or in one before theirs.
func (s *Session) safe(c *channel, l *load) {
	if len(c.await)+len(c.resend) == 0 {
		return
	}
	known := func(f *envoy.Fragment) bool { return c.holds(f.Name).version == f.Version || s.ward.proven(f) }
	if shared, own := keep(l.shared, known), keep(l.own, known); len(shared)+len(own) > 0 {
		l.shared, l.own = shared, own
	}
}

// cut keeps as many fragments as fit, and at least one.
func (l *load) cut(limit int) {
	size := 0
	fit := func(fs []*envoy.Fragment) []*envoy.Fragment {
		for i, f := range fs {
			n := f.Size()
			if size > 0 && size+n > limit {
				size = limit + 1
				return fs[:i]
			}
			size += n
		}
		return fs
	}
	l.shared = fit(l.shared)
	l.own = fit(l.own)
}

// apart keeps one group: what is under suspicion does not travel with what is not.
// Groups and the rest take turns, so that neither can hold up the other.
func (c *channel) apart(l *load) {
	pick, rest := 0, false
	look := func(fs []*envoy.Fragment) {
		for _, f := range fs {
			if g := c.groups[f.Name]; g == 0 {
				rest = true
			} else if pick == 0 || g < pick {
				pick = g
			}
		}
	}
	look(l.shared)
	look(l.own)
	if rest && !c.groupsTurn {
		pick = 0
	}
	c.groupsTurn = pick == 0
	same := func(f *envoy.Fragment) bool { return c.groups[f.Name] == pick }
	l.shared, l.own = keep(l.shared, same), keep(l.own, same)
}

// gate returns what has to be true of a fragment before it may be sent, nil when nothing stands in the way.
//
//   - Clusters wait for nothing, except that one which changes together with its endpoints waits for those to be taken when nobody has
//     taken them before and it is not known what the client had: if they were refused while it warms, it would be left with none.
//   - Endpoints do not overtake a change of their cluster that is not sent yet. They never wait for an answer about
//     clusters: Envoy holds those answers back while a cluster warms, and it warms until it has its endpoints.
//   - Listeners, routes and extensions wait until the clusters they lead to are at the client, and, where a cluster
//     is new, until its endpoints are acknowledged. What leads only to clusters that are there waits for nothing:
//     one cluster that is refused, or in flight for long, holds up nobody else. What is new itself, so that nothing is lost
//     should the client refuse a cluster all the same, follows at once when another client has taken all that is on the way.
//   - Listeners wait for the answers about extensions that they use and that change, too.
//   - Envoy does not ask for clusters while one of them warms, be it after a reconnect. So a client that has not asked is
//     waited for, and is thought to have its clusters from somewhere else only when that takes too long.
func (s *Session) gate(c *channel) func(*envoy.Fragment) bool {
	switch {
	case s.rush:
		return nil
	case c.typ == envoy.Cluster:
		return s.affords(c)
	case c.typ == envoy.Endpoint:
		later := s.laterEndpoints()
		if len(later) == 0 {
			return nil
		}
		return func(f *envoy.Fragment) bool {
			_, wait := later[f.Name]
			_, again := c.resend[f.Name]
			h := c.holds(f.Name)
			return !wait || again || !h.held || !h.sure // only a plain update may wait: without the others a cluster may warm
		}
	}
	steady, pending := s.steady(), s.pendingExtensions(c)
	if steady && len(pending) == 0 {
		return nil
	}
	return func(f *envoy.Fragment) bool {
		for _, ref := range f.Refs {
			if _, wait := pending[ref.Name]; wait && ref.Type == envoy.Extension {
				return false
			}
		}
		return steady || s.ready(f, 0, !c.holds(f.Name).held)
	}
}

// affords is the gate of clusters: those that the client has may change when they will not be left without endpoints.
func (s *Session) affords(c *channel) func(*envoy.Fragment) bool {
	e := &s.channels[envoy.Endpoint]
	unknown := func(h holding) bool { return h.held && h.frag == nil }
	if len(c.over) == 0 || e.asked && !slices.ContainsFunc(slices.Collect(maps.Values(e.over)), unknown) || !e.asked && s.given {
		return nil
	}
	return func(f *envoy.Fragment) bool {
		if !c.holds(f.Name).held {
			return true
		}
		for _, ref := range f.Refs {
			if ref.Type != envoy.Endpoint {
				continue
			}
			want, _ := s.want(ref)
			if want == nil || s.ward.proven(want) {
				continue
			}
			if h := e.holds(ref.Name); !e.asked || unknown(h) && h.version != want.Version {
				return false
			}
		}
		return true
	}
}

// pendingExtensions are those that Envoy has and is about to be given anew. A listener that names one waits for the answer:
// it would be refused in the place of an extension that Envoy has just refused, be it on the stream before.
func (s *Session) pendingExtensions(c *channel) map[string]struct{} {
	x := &s.channels[envoy.Extension]
	if c.typ != envoy.Listener || c.base == nil && len(c.over) == 0 {
		return nil // without a listener at the client nothing uses them yet
	}
	var pending map[string]struct{}
	if !x.asked {
		for name, h := range x.over {
			if !h.sure && !s.given && c.uses(envoy.Ref{Type: envoy.Extension, Name: name}) { // it is going to ask
				put(&pending, name, struct{}{})
			}
		}
		return pending
	}
	if x.flight != nil {
		for f := range x.flight.fragments {
			put(&pending, f.Name, struct{}{})
		}
	}
	p := s.planned(x)
	for _, fs := range [][]*envoy.Fragment{p.shared, p.own} {
		for _, f := range fs {
			put(&pending, f.Name, struct{}{})
		}
	}
	return pending
}

// laterEndpoints are the assignments of clusters that still have to be sent.
func (s *Session) laterEndpoints() map[string]struct{} {
	c := &s.channels[envoy.Cluster]
	if !c.asked || c.flight == nil || c.flight.complete && c.flight.to == s.target {
		return nil // with nothing in flight, clusters have just been looked at and there were none to send
	}
	under := make(map[string]struct{}, c.flight.len())
	for f := range c.flight.fragments {
		under[f.Name] = struct{}{}
	}
	var later map[string]struct{}
	p := s.planned(c)
	for _, fs := range [][]*envoy.Fragment{p.shared, p.own} {
		for _, f := range fs {
			if _, warms := under[f.Name]; warms {
				continue // it needs its endpoints to be answered for, and gets them again with the next change
			}
			for _, ref := range f.Refs {
				if ref.Type == envoy.Endpoint {
					if later == nil {
						later = map[string]struct{}{}
					}
					later[ref.Name] = struct{}{}
				}
			}
		}
	}
	return later
}

// steady says, cheaply, that all clusters are ready: nothing about clusters or endpoints is outstanding or exceptional.
func (s *Session) steady() bool {
	c, e := &s.channels[envoy.Cluster], &s.channels[envoy.Endpoint]
	switch {
	case !c.asked:
		return s.given
	case c.flight != nil || e.flight != nil || len(c.over)+len(e.over)+len(e.await) > 0:
		return false
	}
	p := s.planned(c)
	return len(p.shared)+len(p.own) == 0 && s.planned(e).empty()
}

// ready says that everything a fragment leads to is at the client.
// A route or extension that the client does not hold yet is looked through: it will be asked for and must be ready then.
// For what is new, clusters may be on the way.
func (s *Session) ready(f *envoy.Fragment, depth int, fresh bool) bool {
	for _, ref := range f.Refs {
		switch {
		case ref.Type == envoy.Cluster:
			if !s.clusterReady(ref.Name, fresh) {
				return false
			}
		case ref.Type == envoy.Endpoint || depth >= int(envoy.NumTypes):
		case s.channels[ref.Type].holds(ref.Name).held:
		default:
			if to, _ := s.want(ref); to != nil && !s.ready(to, depth+1, fresh) {
				return false
			}
		}
	}
	return true
}

func (s *Session) clusterReady(name string, fresh bool) bool {
	c := &s.channels[envoy.Cluster]
	if !c.asked {
		return s.given
	}
	made := s.target.Get(envoy.Cluster, name)
	have := c.holds(name)
	if c.flight != nil && slices.Contains(c.flight.removed, name) {
		return false
	}
	if !have.held {
		return made == nil || // not ours: one of the bootstrap's
			s.provenByEndpoints(made) ||
			fresh && s.coming(made)
	}
	if have.frag != nil {
		made = have.frag
	}
	if made == nil {
		return true
	}
	for _, ref := range made.Refs {
		if ref.Type == envoy.Endpoint && !s.endpointsReady(ref) {
			return false
		}
	}
	return true
}

// coming says that a cluster and its endpoints are on the way, in responses of which all has been taken by some client.
// The client reads them before anything that is sent now.
func (s *Session) coming(made *envoy.Fragment) bool {
	some := s.channels[envoy.Cluster].underway(made.Name) == made && s.channels[envoy.Cluster].flight.sound(s.ward)
	for _, ref := range made.Refs {
		if ref.Type == envoy.Endpoint {
			c := &s.channels[envoy.Endpoint]
			some = some && c.underway(ref.Name) != nil && c.flight.serial > s.channels[envoy.Cluster].flight.serial && c.flight.sound(s.ward)
		}
	}
	return some
}

// provenByEndpoints says that a cluster whose response is not answered is at the client all the same, because endpoints
// that were sent after it are acknowledged. The answer about clusters can take long: until none of them warms.
func (s *Session) provenByEndpoints(made *envoy.Fragment) bool {
	f := s.channels[envoy.Cluster].flight
	if f == nil || !f.about(made.Name) {
		return false
	}
	some := false
	for _, ref := range made.Refs {
		if ref.Type == envoy.Endpoint {
			if !s.channels[envoy.Endpoint].holds(ref.Name).held || !s.endpointsReady(ref) {
				return false
			}
			some = true
		}
	}
	return some
}

// endpointsReady says that a cluster at the client has had its endpoints.
func (s *Session) endpointsReady(ref envoy.Ref) bool {
	c := &s.channels[envoy.Endpoint]
	w, awaited := c.await[ref.Name]
	switch want, _ := s.want(ref); {
	case w.fresh:
		return false
	case want == nil: // there are none to be had; the cluster was there before
		return true
	case !c.asked:
		return !awaited
	}
	return c.holds(ref.Name).held
}

// mayRemove says that nothing at the client leads to what is to be removed.
//
//   - Listeners go with the upserts: Envoy removes first and can then bind the address again. They wait for upserts that
//     wait, so that a renamed listener does not leave a gap.
//   - Routes and extensions go when no listener is outstanding, clusters when no listener and no route is,
//     endpoints when no cluster is.
//   - A route or extension that was asked for and does not exist is answered under the same rule: the listener that asked
//     for it may be about to go. Endpoints are answered at once, or their cluster would warm.
//   - After a reconnect the types are asked for one by one: one that the client has not asked for yet, and will, counts as
//     outstanding until waiting for it is given up. A response that is never answered keeps removals back for good:
//     a resource too many does no harm.
func (s *Session) mayRemove(c *channel, blocked bool) bool {
	switch c.typ {
	case envoy.Listener:
		return !blocked
	case envoy.Cluster:
		return s.settled(envoy.Listener) && s.settled(envoy.Route) &&
			(!s.channels[envoy.Extension].asked || s.settled(envoy.Extension))
	case envoy.Endpoint:
		return s.settled(envoy.Cluster)
	}
	return s.settled(envoy.Listener)
}

func (s *Session) settled(t envoy.Type) bool {
	c := &s.channels[t]
	if !c.asked {
		return s.given || !t.Wildcard() && len(c.await) == 0
	}
	return c.flight == nil && len(c.await) == 0 && s.planned(c).empty()
}
