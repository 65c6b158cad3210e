package xds

import (
	"slices"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// star subscribes to a whole type.
const star = "*"

// A channel is the state of one xDS type on one stream.
type channel struct {
	typ envoy.Type

	asked    bool // the client has spoken of this type
	wildcard bool
	legacy   bool // wildcard by an empty first request, with no star and no name so far
	greet    bool // owes the first wildcard request an answer, even an empty one
	named    names
	past     *past // what the last stream left at the client; until the first request

	// What the client holds is the fragments of base that it subscribes to, except what over says.
	base *envoy.Table
	over map[string]holding

	resend map[string]struct{} // sent again although held
	await  map[string]wait     // needed by something already sent, and not acknowledged yet
	flight *flight
	plan   plan

	groups     map[string]int // names that go apart from others, while a culprit is looked for
	newest     int            // the last group number given
	groupsTurn bool           // the next response is for a group

	at uint64 // sequence up to which the client has acknowledged this type
}

// A holding is one resource at the client.
type holding struct {
	frag    *envoy.Fragment // nil: content that this server does not have
	version string
	held    bool
	sure    bool   // false after a NACK: nobody knows what Envoy applied of that response
	tried   string // when not sure: the one version that was refused since, or several
	prior   bool   // declared by the client when the stream began
}

// nothing says that the client does not have the resource.
var nothing = holding{sure: true}

// A wait is a reason to hold back what depends on a resource, or to call a table acknowledged.
type wait struct {
	by       []envoy.Ref     // what needs it
	fresh    bool            // what needs it is new, so that nothing may lead there yet
	sequence uint64          // of the table that needs it
	after    uint64          // the response that needs it: what left before does not count
	frag     *envoy.Fragment // the endpoints that a cluster was to get when it was sent
	// foreseen says that the client has not asked for it and will as soon as it has read what needs it, so that it is sent
	// right behind that. Nothing is known to be held until the client has asked.
	foreseen bool
}

// A flight is the one response of a type that is not answered.
type flight struct {
	nonce    string
	serial   uint64 // counts the responses of the stream
	to       *envoy.Table
	complete bool // with it the client holds everything of the type that it should
	shared   *body
	own      []*envoy.Fragment
	removed  []string
	withheld []string
}

func (f *flight) fragments(yield func(*envoy.Fragment) bool) {
	if f.shared != nil {
		for _, x := range f.shared.fragments {
			if !yield(x) {
				return
			}
		}
	}
	for _, x := range f.own {
		if !yield(x) {
			return
		}
	}
}

func (f *flight) len() int {
	n := len(f.own)
	if f.shared != nil {
		n += len(f.shared.fragments)
	}
	return n
}

// sound says that some client has taken every fragment of a flight, so that this one can be expected to.
func (f *flight) sound(w *Ward) bool {
	return (f.shared == nil || f.shared.taken.Load()) && !slices.ContainsFunc(f.own, func(x *envoy.Fragment) bool { return !w.proven(x) })
}

// about says that a flight changes a resource.
func (f *flight) about(name string) bool {
	for x := range f.fragments {
		if x.Name == name {
			return true
		}
	}
	return slices.Contains(f.removed, name)
}

// asks says that the client has subscribed to a name, or to everything.
func (c *channel) asks(name string) bool { return c.wildcard || c.named.has(name) }

// subscribed says that a name is to be sent to the client: it asks for it, or is about to.
func (c *channel) subscribed(name string) bool { return c.asks(name) || c.await[name].foreseen }

// foresee makes a name that the client is about to ask for be sent as if it had asked.
func (c *channel) foresee(name string) {
	w := c.await[name]
	w.foreseen = true
	c.await[name] = w
	c.set(name, nothing)
	c.plan = plan{}
}

// unforeseen ends it: what was sent in advance, if anything, up to a response has found nobody.
func (c *channel) unforeseen(name string, upTo uint64) {
	w := c.await[name]
	w.foreseen, w.after = false, max(w.after, upTo)
	c.await[name] = w
	c.neglect(name)
}

// enough ends waiting for a name.
func (c *channel) enough(name string) {
	drop(&c.await, name)
	c.neglect(name)
}

// neglect forgets what is remembered of a name that is not subscribed to.
func (c *channel) neglect(name string) {
	if !c.subscribed(name) {
		drop(&c.over, name)
		drop(&c.resend, name)
	}
}

func (c *channel) holds(name string) holding {
	if h, ok := c.over[name]; ok {
		return h
	}
	if c.base == nil || !c.asks(name) {
		return nothing
	}
	if f := c.base.Get(c.typ, name); f != nil {
		return holding{frag: f, version: f.Version, held: true, sure: true}
	}
	return nothing
}

// underway is the fragment of a name that is on its way to the client, nil when there is none.
func (c *channel) underway(name string) *envoy.Fragment {
	if c.flight != nil {
		for x := range c.flight.fragments {
			if x.Name == name {
				return x
			}
		}
	}
	return nil
}

// uses says that something the client holds refers to a resource.
func (c *channel) uses(ref envoy.Ref) bool {
	for _, h := range c.over {
		if needs(h, ref) {
			return true
		}
	}
	if c.base == nil {
		return false
	}
	for _, p := range []*envoy.Part{c.base.Shared, c.base.Own} {
		for _, f := range p.Of(c.typ) {
			if needs(c.holds(f.Name), ref) {
				return true
			}
		}
	}
	return false
}

func (c *channel) set(name string, h holding) {
	put(&c.over, name, h)
}

func (c *channel) again(name string) {
	put(&c.resend, name, struct{}{})
}

func (c *channel) wait(name string, by envoy.Ref, w wait) {
	w.by = []envoy.Ref{by}
	if old, ok := c.await[name]; ok {
		if w.by = old.by; !slices.Contains(w.by, by) {
			w.by = append(w.by, by)
		}
		w.fresh = w.fresh || old.fresh
		w.sequence = min(w.sequence, old.sequence)
		w.after = max(w.after, old.after)
		w.foreseen = old.foreseen
		if w.frag == nil {
			w.frag = old.frag
		}
	}
	put(&c.await, name, w)
}

// unneeded ends waiting for the sake of one resource.
func (c *channel) unneeded(name string, by envoy.Ref) {
	w, ok := c.await[name]
	if !ok {
		return
	}
	if w.by = slices.DeleteFunc(w.by, func(r envoy.Ref) bool { return r == by }); len(w.by) == 0 {
		c.enough(name)
	} else {
		c.await[name] = w
	}
}

func (c *channel) arrived(name string, by *flight) {
	if c.await[name].after < by.serial {
		c.enough(name)
	}
}

// drop deletes from a map that is nil when empty: maps do not shrink, and most streams need none.
func drop[V any](m *map[string]V, name string) {
	if len(*m) == 0 {
		return
	}
	delete(*m, name)
	if len(*m) == 0 {
		*m = nil
	}
}

// open takes the first request of the type on a stream.
func (c *channel) open(subscribe names, initial map[string]string) {
	c.asked = true
	c.legacy = len(subscribe) == 0 && c.typ.Wildcard()
	c.wildcard = c.legacy || subscribe.has(star)
	c.named = subscribe.without([]string{star})
	c.greet = c.wildcard
	for name, h := range c.over { // of the last stream
		if _, declared := initial[name]; !declared {
			c.over[name] = holding{tried: h.tried}
		}
	}
	for name, version := range initial {
		if !c.subscribed(name) {
			continue
		}
		h := holding{version: version, held: true, sure: true, prior: true}
		if f := c.past.of(c.typ, name, version); f != nil {
			h.frag, h.prior = f, false
		}
		if old := c.over[name]; old.tried == several {
			h.sure, h.tried = false, several
		} else if old.held && old.version == version {
			h.sure, h.frag, h.tried = false, old.frag, old.tried // refused meanwhile: what the client declares may not be what it runs
		}
		c.set(name, h)
	}
	c.past = nil
	c.forget()
}

// forget drops what is remembered of names that are not subscribed to.
func (c *channel) forget() {
	for name := range c.over {
		c.neglect(name)
	}
	for name := range c.resend {
		c.neglect(name)
	}
}

// subscribe adds names. A client that asks by name is answered even if it seems to hold the resource:
// it may have dropped it meanwhile. Only what has been sent to it in advance, and is not answered yet, is the answer already.
func (c *channel) subscribe(add names) {
	if len(add) == 0 {
		return
	}
	c.legacy = false
	if add.has(star) {
		if !c.wildcard {
			c.widen()
		}
		add = add.without([]string{star})
	}
	for _, name := range add {
		if c.advanced(name) {
			continue
		}
		if !c.asks(name) {
			c.set(name, nothing)
		}
		c.again(name)
	}
	c.expect(add)
}

// expect adds names to the subscriptions, whether they were foreseen or not.
func (c *channel) expect(add names) {
	for _, name := range add {
		if w := c.await[name]; w.foreseen {
			w.foreseen = false
			c.await[name] = w
		}
	}
	c.named = c.named.with(add)
}

// looked takes a subscription that stands in the refusal of what was sent in advance: nobody knows whether that was looked at.
func (c *channel) looked(add names) {
	c.expect(keep(add, c.advanced))
}

// advanced says that a foreseen name is in flight, and was sent after what makes the client ask for it.
func (c *channel) advanced(name string) bool {
	w := c.await[name]
	return w.foreseen && c.underway(name) != nil && w.after < c.flight.serial
}

// widen makes a named subscription a wildcard: of what was not named, the client holds nothing.
func (c *channel) widen() {
	for _, name := range c.named {
		c.set(name, c.holds(name))
	}
	c.base, c.wildcard, c.greet = nil, true, true
	c.spoil()
}

// spoil keeps a response in flight from standing for the whole type.
func (c *channel) spoil() {
	if c.flight != nil {
		c.flight.complete = false
	}
}

// unsubscribe drops names. What is awaited stays awaited: the client may have dropped a name just before it gets
// something that needs it, and will ask again. Under a wildcard a name that was also asked for is answered once more, as the protocol wants.
func (c *channel) unsubscribe(gone names) {
	if gone.has(star) && c.wildcard {
		c.wildcard, c.legacy, c.greet = false, false, false
		c.spoil()
	}
	for _, name := range gone {
		if c.wildcard && c.named.has(name) {
			c.again(name)
		}
	}
	c.named = c.named.without(gone)
	if len(gone) > 0 {
		c.forget()
	}
}

// land records that the client accepted a flight.
func (c *channel) land(f *flight) {
	c.flight = nil
	c.plan = plan{}
	if f.complete && len(f.withheld)+len(c.over)+len(c.await)+len(c.groups) == 0 { // nearly always
		c.rebase(f.to, nil)
		return
	}
	special := func(name string) bool {
		return (!f.complete || slices.Contains(f.withheld, name)) && c.asks(name)
	}
	for x := range f.fragments {
		drop(&c.groups, x.Name)
		if c.passed(x.Name, f) {
			continue
		}
		if special(x.Name) {
			c.set(x.Name, holding{frag: x, version: x.Version, held: true, sure: true})
		} else {
			drop(&c.over, x.Name)
		}
		c.arrived(x.Name, f)
	}
	for _, name := range f.removed {
		if special(name) {
			c.set(name, nothing)
		} else {
			drop(&c.over, name)
		}
		if c.typ != envoy.Endpoint { // a cluster that hears there are no endpoints is not ready for anything
			c.arrived(name, f)
		}
	}
	if f.complete {
		c.rebase(f.to, f.withheld)
	}
}

// passed says that a client has answered a response without having asked for a name in it that was foreseen. It has not looked at it,
// and is answered when it asks, however late, unless the name became foreseen after the response was sent.
func (c *channel) passed(name string, f *flight) bool {
	w := c.await[name]
	if w.foreseen && w.after < f.serial {
		c.unforeseen(name, f.serial)
	}
	return w.foreseen
}

// rebase says that the client holds a table, except what is withheld from it.
func (c *channel) rebase(to *envoy.Table, withheld []string) {
	for _, name := range withheld {
		c.set(name, c.holds(name))
	}
	c.base = to
	c.at = max(c.at, to.Sequence)
	for name, h := range c.over {
		if slices.Contains(withheld, name) || !h.sure {
			continue
		}
		f := to.Get(c.typ, name)
		if f == nil && !h.held || f != nil && h.held && h.version == f.Version {
			drop(&c.over, name)
		}
	}
}
