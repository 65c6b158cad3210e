package xds

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// Limits bound what one client can make the server remember, and the size of a response.
type Limits struct {
	Names    int // subscribed names per type; 20,000 when zero
	Bytes    int // bytes of subscribed names per type that no resource has; 1 MiB when zero
	Response int // bytes of resources in one response; 1 MiB when zero
}

func (l Limits) orDefaults() Limits {
	if l.Names == 0 {
		l.Names = 20_000
	}
	if l.Bytes == 0 {
		l.Bytes = 1 << 20
	}
	if l.Response == 0 {
		l.Response = 1 << 20
	}
	return l
}

// A Session is the state of one delta ADS stream: what the client has asked for, what it holds, and what it should hold.
// It is pure: no goroutine, socket or clock. It is not safe for concurrent use.
type Session struct {
	ward   *Ward
	limits Limits

	target   *envoy.Table
	channels [envoy.NumTypes]channel
	nonces   uint64

	refused map[defect]string // proved bad on this stream, with Envoy's words
	faults  bool              // some of it may be taken another time
	doubt   doubt
	rush    bool // waiting has taken too long: send what is held back
	given   bool // types that the client has not asked for are not waited for any more
	sent    uint64
	acked   uint64
	acks    uint64
	nacks   uint64
	stale   uint64 // answers to responses that are not in flight
}

// order is the order in which types are looked at for something to send. A response never waits for a later type
// except a removal, which waits for everything that may still lead to what it removes.
var order = [envoy.NumTypes]envoy.Type{envoy.Cluster, envoy.Endpoint, envoy.Extension, envoy.Listener, envoy.Route}

// NewSession starts the state of a stream whose client belongs to a ward; nil is a ward of its own.
func NewSession(ward *Ward, limits Limits) *Session {
	if ward == nil {
		ward = NewQuarantine().Ward("")
	}
	s := &Session{ward: ward, limits: limits.orDefaults()}
	for t := range envoy.NumTypes {
		s.channels[t].typ = t
	}
	return s
}

// Receive takes a request: an answer to a response, a change of subscriptions, or both.
// An error means that the client broke a bound and the stream has to end. Types that are not served here are ignored.
func (s *Session) Receive(req *discoveryv3.DeltaDiscoveryRequest) error {
	t, ok := envoy.TypeOf(req.GetTypeUrl())
	if !ok {
		return nil
	}
	c := &s.channels[t]
	add := s.own(c, req.GetResourceNamesSubscribe())
	if req.GetErrorDetail() != nil {
		c.looked(add)
	}
	s.answer(c, req)
	gone := names(nil).with(slices.Clone(req.GetResourceNamesUnsubscribe()))
	switch {
	case !c.asked:
		c.open(add, req.GetInitialResourceVersions())
		c.unsubscribe(gone)
		s.foresee(c)
		s.presume(c)
		s.infer(c)
	case len(add)+len(gone) > 0:
		c.subscribe(add)
		c.unsubscribe(gone)
	default:
		return nil
	}
	s.invalidate()
	return s.bounded(c)
}

// own copies names from a request, preferring the strings of fragments.
func (s *Session) own(c *channel, from []string) names {
	if len(from) == 0 {
		return nil
	}
	out := make([]string, len(from))
	for i, name := range from {
		out[i] = name
		if f := s.target.Get(c.typ, name); f != nil {
			out[i] = f.Name
		}
	}
	return names(nil).with(out)
}

func (s *Session) bounded(c *channel) error {
	if n := max(len(c.named), len(c.over)); n > s.limits.Names {
		return fmt.Errorf("%s: %d resource names, at most %d are allowed", c.typ, n, s.limits.Names)
	}
	strange := 0
	for _, name := range c.named {
		if s.target.Get(c.typ, name) == nil {
			strange += len(name)
		}
	}
	if strange > s.limits.Bytes {
		return fmt.Errorf("%s: %d bytes of names that do not exist, at most %d are allowed", c.typ, strange, s.limits.Bytes)
	}
	return nil
}

// answer takes the verdict on the response in flight. A nonce of anything else is an answer to nothing.
func (s *Session) answer(c *channel, req *discoveryv3.DeltaDiscoveryRequest) {
	nonce := req.GetResponseNonce()
	if nonce == "" {
		return
	}
	f := c.flight
	if f == nil || f.nonce != nonce {
		s.stale++
		return
	}
	if detail := req.GetErrorDetail(); detail != nil {
		s.reject(c, f, detail.GetMessage())
	} else {
		s.acks++
		c.land(f)
		s.release(c, f)
		s.ward.accepted(c.typ, f, c.asks)
		if c.typ == envoy.Extension {
			s.reopen(f)
		}
	}
	s.invalidate()
}

// Target sets what the client should hold from now on. What is in flight is not disturbed.
func (s *Session) Target(t *envoy.Table) {
	if t == nil || t == s.target {
		return
	}
	s.target = t
	for i := range s.channels {
		s.channels[i].plan = plan{}
	}
	for d := range s.refused {
		if f := t.Get(d.typ, d.name); f == nil || f.Version != d.version {
			delete(s.refused, d)
		}
	}
	s.doubt = doubt{}
}

// invalidate makes plans be computed again. One channel's holdings can decide what another may have.
func (s *Session) invalidate() {
	for i := range s.channels {
		s.channels[i].plan = plan{}
	}
	s.doubt = doubt{}
}

// Next returns the next response to send, computed from the newest target; the caller sends it before it asks again.
func (s *Session) Next() (*Response, bool) {
	if s.target == nil {
		return nil, false
	}
	s.reconsider()
	for settled := true; settled; { // what an earlier type waits for may be settled by a later one
		settled = false
		for _, t := range order {
			c := &s.channels[t]
			awaited := len(c.await)
			if r := s.compose(c); r != nil {
				return r, true
			}
			settled = settled || len(c.await) < awaited
		}
	}
	if !s.Waiting() {
		s.rush = false
	}
	s.advance()
	return nil, false
}

// compose makes the next response of a type, nil when there is none to make now.
func (s *Session) compose(c *channel) *Response {
	if !c.asked || c.flight != nil {
		return nil
	}
	p := s.planned(c)
	if p.empty() && !c.greet {
		s.settle(c, p)
		return nil
	}
	l := s.load(c, p)
	if l.empty() && !(c.greet && p.empty()) {
		return nil
	}
	c.greet = false
	s.nonces++
	f := &flight{
		nonce: strconv.FormatUint(s.nonces, 10), serial: s.nonces, to: s.target, complete: l.complete,
		own: l.own, removed: l.removed, withheld: p.withheld,
	}
	if len(l.shared) > 0 {
		f.shared = s.ward.bodies.of(l.shared)
	}
	c.flight, c.plan = f, plan{}
	s.depart(c, f)
	return &Response{Type: c.typ, Nonce: f.nonce, Version: s.target.Sequence, flight: f}
}

// settle records that the client holds the target, as far as it may.
func (s *Session) settle(c *channel, p *plan) {
	if c.base != s.target || len(c.over) > len(p.withheld) {
		c.rebase(s.target, p.withheld)
	}
	for name, w := range c.await {
		if c.subscribed(name) && c.holds(name).held {
			c.enough(name)
			continue
		}
		// What is withheld is not going to come, and what needs it goes, unless it stays from before.
		if want, stays := s.want(envoy.Ref{Type: c.typ, Name: name}); want == nil && !stays {
			if !slices.ContainsFunc(w.by, func(by envoy.Ref) bool { _, stays := s.want(by); return !stays }) {
				c.enough(name)
			}
		}
	}
	c.groups = nil
}

// depart notes what a response that leaves makes necessary.
func (s *Session) depart(c *channel, f *flight) {
	for x := range f.fragments {
		drop(&c.resend, x.Name)
		s.need(c, x)
	}
	for _, name := range f.removed {
		drop(&c.resend, name)
	}
}

// need notes which resources the client will want because of one that is being sent.
func (s *Session) need(c *channel, x *envoy.Fragment) {
	by := envoy.Ref{Type: c.typ, Name: x.Name}
	for _, ref := range x.Refs {
		to := &s.channels[ref.Type]
		made := s.target.Get(ref.Type, ref.Name)
		if ref.Type.Wildcard() || made == nil {
			continue
		}
		known := to.holds(ref.Name).held
		if c.typ == envoy.Cluster {
			// A changed cluster warms until it is given its endpoints, and Envoy does not ask again for those it has:
			// they go again, the same bytes, right behind the cluster.
			to.wait(ref.Name, by, wait{fresh: !c.holds(x.Name).held, sequence: s.target.Sequence, after: s.nonces, frag: made})
			if !to.asked || to.subscribed(ref.Name) {
				to.again(ref.Name)
				to.plan = plan{}
			}
		} else if !known {
			to.wait(ref.Name, by, wait{fresh: true, sequence: s.target.Sequence, after: s.nonces})
		} else {
			continue
		}
		if to.asked && !to.subscribed(ref.Name) { // of a type that it has not spoken of Envoy would not even answer
			to.foresee(ref.Name)
		}
	}
}

// presume finds out that clusters warm in a client that comes back. Envoy asks for clusters before listeners, except while
// one of its clusters warms: it then says nothing about clusters at all, and the endpoints it waits for were lost with the
// server that knew. Nobody knows which they are, so all go again.
func (s *Session) presume(c *channel) {
	endpoints := &s.channels[envoy.Endpoint]
	if c.typ != envoy.Listener && c.typ != envoy.Endpoint || s.channels[envoy.Cluster].asked || !s.channels[envoy.Listener].asked {
		return
	}
	for _, name := range endpoints.named {
		endpoints.again(name)
	}
}

// infer finds out that a client that comes back has clusters which it does not declare, out of refused responses:
// it asks for their endpoints.
func (s *Session) infer(c *channel) {
	clusters, endpoints := &s.channels[envoy.Cluster], &s.channels[envoy.Endpoint]
	if c != clusters && c != endpoints || !clusters.asked || !endpoints.asked {
		return
	}
	for name, h := range clusters.over {
		if !h.held && !h.sure && endpoints.named.has(name) {
			h.held = true
			clusters.set(name, h)
		}
	}
}

// release ends waiting for what the client needed only because of something that is gone or has another content now.
func (s *Session) release(c *channel, f *flight) {
	if !c.typ.Wildcard() {
		return
	}
	for i := range s.channels {
		to := &s.channels[i]
		for name, w := range to.await {
			for _, by := range slices.Clone(w.by) {
				if by.Type == c.typ && f.about(by.Name) && !needs(c.holds(by.Name), envoy.Ref{Type: to.typ, Name: name}) {
					to.unneeded(name, by)
				}
			}
		}
	}
}

// needs says that what is held of a resource refers to another.
func needs(h holding, ref envoy.Ref) bool {
	return h.held && h.frag != nil && slices.Contains(h.frag.Refs, ref)
}

// foresee notes which resources a client that comes back is going to ask for, because of what it holds.
func (s *Session) foresee(c *channel) {
	for name, h := range c.over {
		f := s.target.Get(c.typ, name)
		if f == nil || f.Version != h.version {
			continue
		}
		for _, ref := range f.Refs {
			if to := &s.channels[ref.Type]; !ref.Type.Wildcard() && !to.asked && s.target.Get(ref.Type, ref.Name) != nil {
				to.wait(ref.Name, envoy.Ref{Type: c.typ, Name: name}, wait{sequence: s.target.Sequence, after: s.nonces})
			}
		}
	}
}

// A Debt is what a stream leaves open that the client will not speak of when it comes back.
type Debt struct {
	// Assignments that the client needs again and may not have received. When a stream ends between a changed cluster and
	// its endpoints, the client comes back with the versions of both, and would warm until its fetch timeout.
	endpoints []string
	// Resources of refused responses, as they were before. Envoy may have applied them, and reports none of them.
	unsure [envoy.NumTypes]map[string]holding
	// What else the client holds, or may. It will only say which versions, and to judge what leads where takes the content.
	past [envoy.NumTypes]*past
}

// A past is the content of what one stream gave a client of a type, or was about to.
type past struct {
	base *envoy.Table
	over map[string]holding
	sent map[string]*envoy.Fragment // not answered
}

// of finds the content of a version, nil when it is not known.
func (p *past) of(t envoy.Type, name, version string) *envoy.Fragment {
	if p == nil {
		return nil
	}
	f := p.sent[name]
	if f == nil || f.Version != version {
		f = p.over[name].frag
	}
	if (f == nil || f.Version != version) && p.base != nil {
		f = p.base.Get(t, name)
	}
	if f == nil || f.Version != version {
		return nil
	}
	return f
}

// Debt is what the next stream of the same client should be told, nil when there is nothing. The session has ended with it.
func (s *Session) Debt() *Debt {
	var d Debt
	c := &s.channels[envoy.Endpoint]
	for name, w := range c.await {
		if w.frag != nil { // its cluster was sent; others only were to be asked for
			d.endpoints = append(d.endpoints, name)
		}
	}
	d.endpoints = slices.AppendSeq(d.endpoints, maps.Keys(c.resend))
	open := len(d.endpoints) > 0
	for i := range s.channels {
		c := &s.channels[i]
		for name, h := range c.over {
			if !h.sure {
				put(&d.unsure[i], name, h)
				open = true
			}
		}
		if c.flight != nil { // the refusal may be what was lost
			for x := range c.flight.fragments {
				put(&d.unsure[i], x.Name, c.holds(x.Name).doubted(x))
				if c.typ == envoy.Endpoint {
					d.endpoints = append(d.endpoints, x.Name)
				}
				open = true
			}
			for _, name := range c.flight.removed {
				put(&d.unsure[i], name, shaken)
				if c.typ == envoy.Endpoint {
					d.endpoints = append(d.endpoints, name)
				}
				open = true
			}
		}
		if d.past[i] = c.past; c.asked {
			d.past[i] = &past{base: c.base, over: c.over}
			if c.flight != nil {
				for x := range c.flight.fragments {
					put(&d.past[i].sent, x.Name, x)
				}
			}
		}
		open = open || d.past[i] != nil
	}
	if !open {
		return nil
	}
	return &d
}

func put[V any](m *map[string]V, name string, v V) {
	if *m == nil {
		*m = map[string]V{}
	}
	(*m)[name] = v
}

// Inherit takes over what the last stream of the client left open. It comes before the first request.
func (s *Session) Inherit(d *Debt) {
	if d == nil {
		return
	}
	for _, name := range d.endpoints {
		s.channels[envoy.Endpoint].again(name)
	}
	for i := range s.channels {
		for name, h := range d.unsure[i] {
			s.channels[i].set(name, h)
		}
		s.channels[i].past = d.past[i]
	}
}

// Waiting says that something is held back, or not called acknowledged, until the client speaks.
// After a while without progress the caller calls Overdue.
func (s *Session) Waiting() bool {
	if s.target == nil {
		return false
	}
	s.reconsider()
	for i := range s.channels {
		c := &s.channels[i]
		switch {
		case len(c.await) > 0:
			return true
		case !c.asked:
			if !s.given && c.typ.Wildcard() {
				return true
			}
		case c.flight == nil && !s.planned(c).empty():
			return true
		}
	}
	return false
}

// Overdue ends all waiting for the client: types and resources it has not asked for are given up,
// and what waits for clusters goes without them. Removals of what may be in use still wait.
func (s *Session) Overdue() {
	s.given, s.rush = true, true
	for i := range s.channels {
		s.channels[i].await = nil
		s.channels[i].forget()
	}
	s.invalidate()
}

// advance moves the sent and acknowledged sequences.
func (s *Session) advance() {
	sent, acked := s.target.Sequence, s.target.Sequence
	for i := range s.channels {
		c := &s.channels[i]
		if !c.asked && c.typ.Wildcard() && !s.given {
			return
		}
		for _, w := range c.await {
			acked = min(acked, max(w.sequence, 1)-1)
		}
		if !c.asked {
			continue
		}
		if c.flight == nil && !s.planned(c).empty() || c.flight != nil && c.flight.to != s.target {
			sent = s.sent
		}
		acked = min(acked, c.at)
	}
	s.sent, s.acked = max(s.sent, sent), max(s.acked, acked)
}

// Sent is the sequence up to which everything has been sent, except what is withheld.
func (s *Session) Sent() uint64 { return s.sent }

// Acked is the sequence up to which the client has acknowledged everything, except what is withheld.
func (s *Session) Acked() uint64 { return s.acked }

// Answers counts the responses that the client took and those it refused.
func (s *Session) Answers() (acks, nacks uint64) { return s.acks, s.nacks }

// InFlight says that the client has not answered everything that was sent.
func (s *Session) InFlight() bool {
	return slices.ContainsFunc(s.channels[:], func(c channel) bool { return c.flight != nil })
}
