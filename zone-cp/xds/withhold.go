package xds

import (
	"fmt"
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// A doubt is what a client may not get as the target has it: the fragments known bad, and what needs them.
type doubt struct {
	valid      bool
	generation uint64
	bad        map[envoy.Ref]string // with Envoy's words
	touched    map[envoy.Ref]struct{}
	answers    map[envoy.Ref]answer
	inUse      map[envoy.Ref]struct{} // not wanted for itself, and needed by what stays
	guarded    [envoy.NumTypes]bool   // something stays whose content is not known, and may need any resource of the type
}

// An answer is what the client should hold of a resource: a fragment, or what it has.
type answer struct {
	frag   *envoy.Fragment
	stays  bool
	hollow bool // it stays, and lacks something: nothing new may lead to it
}

// reconsider computes the doubt anew when something it rests on has changed. Whatever looks at plans calls it first.
func (s *Session) reconsider() {
	generation := s.ward.generation.Load()
	if s.doubt.valid && s.doubt.generation == generation {
		return
	}
	if s.doubt.valid {
		s.invalidate()
	}
	s.doubt = doubt{valid: true, generation: generation}
	d := &s.doubt
	if s.target == nil || len(s.refused) == 0 && s.ward.size.Load() == 0 {
		return
	}
	note := func(x defect, text string) {
		f := s.target.Get(x.typ, x.name)
		if f == nil || f.Version != x.version {
			return
		}
		h := s.channels[x.typ].holds(x.name)
		if h.held && h.sure && h.version == x.version && !(h.prior && x.typ == envoy.Extension) {
			return // this client has it and is content; of extensions Envoy claims even those it refused
		}
		if d.bad == nil {
			d.bad = map[envoy.Ref]string{}
		}
		d.bad[envoy.Ref{Type: x.typ, Name: x.name}] = text
	}
	s.ward.each(note)
	for x, text := range s.refused {
		note(x, text)
	}
	if len(d.bad) > 0 {
		s.spread(d)
	}
}

// spread finds everything that needs a bad fragment, and what must not be removed for the sake of what stays.
func (s *Session) spread(d *doubt) {
	d.touched = map[envoy.Ref]struct{}{}
	d.answers = map[envoy.Ref]answer{}
	var work []envoy.Ref
	touch := func(ref envoy.Ref) {
		if _, ok := d.touched[ref]; !ok {
			d.touched[ref] = struct{}{}
			work = append(work, ref)
		}
	}
	for ref := range d.bad {
		touch(ref)
	}
	users := s.ward.users(s.target.Shared)
	own := usersOf(s.target.Own)
	for len(work) > 0 {
		ref := work[len(work)-1]
		work = work[:len(work)-1]
		for _, f := range users[ref] {
			touch(envoy.Ref{Type: f.Type, Name: f.Name})
		}
		for _, f := range own[ref] {
			touch(envoy.Ref{Type: f.Type, Name: f.Name})
		}
	}
	for ref := range d.touched {
		s.protect(d, ref)
	}
}

// protect keeps what a resource needs that stays as it is, and that the client would not get by itself.
func (s *Session) protect(d *doubt, ref envoy.Ref) {
	made := s.target.Get(ref.Type, ref.Name)
	old, stays := s.want(ref)
	if h := s.channels[ref.Type].holds(ref.Name); stays {
		switch old = h.frag; {
		case old == nil && h.version == made.Version:
			old = made
		case old == nil || !h.sure:
			d.guard(ref.Type)
		}
	}
	if old == nil || old == made && !stays {
		return
	}
	for work := slices.Clone(old.Refs); len(work) > 0; {
		need := work[len(work)-1]
		work = work[:len(work)-1]
		if _, done := d.inUse[need]; done {
			continue
		}
		if want, stays := s.want(need); want != nil || stays {
			continue
		}
		if d.inUse == nil {
			d.inUse = map[envoy.Ref]struct{}{}
		}
		d.inUse[need] = struct{}{}
		if h := s.channels[need.Type].holds(need.Name); h.frag != nil {
			work = append(work, h.frag.Refs...)
		} else if h.held || s.unheard(need.Type) {
			d.guard(need.Type)
		}
	}
}

// guard keeps all that something of unknown content may need.
func (d *doubt) guard(user envoy.Type) {
	for _, t := range below[user] {
		d.guarded[t] = true
	}
}

func (s *Session) doubtful() bool { return len(s.doubt.touched) > 0 }

// doubted names the resources of a type that are bad or need something bad.
func (s *Session) doubted(t envoy.Type) (list []string) {
	for ref := range s.doubt.touched {
		if ref.Type == t {
			list = append(list, ref.Name)
		}
	}
	return list
}

// inUse says that something which stays as it is may need a resource that is not wanted for itself.
func (s *Session) inUse(ref envoy.Ref) bool {
	_, used := s.doubt.inUse[ref]
	return used || s.doubt.guarded[ref.Type]
}

// below lists what resources of a type can lead to.
var below = [envoy.NumTypes][]envoy.Type{
	envoy.Cluster:   {envoy.Endpoint},
	envoy.Listener:  {envoy.Cluster, envoy.Endpoint, envoy.Route, envoy.Extension},
	envoy.Route:     {envoy.Cluster, envoy.Endpoint},
	envoy.Extension: {envoy.Cluster, envoy.Endpoint},
}

// want is what the client should hold of a resource. Without a doubt it is what the target has.
// Otherwise, in this order: the target's fragment when it is good and all it needs can be had;
// what the client has, when that is whole; nothing.
func (s *Session) want(ref envoy.Ref) (f *envoy.Fragment, stays bool) {
	made := s.target.Get(ref.Type, ref.Name)
	if _, touched := s.doubt.touched[ref]; !touched || made == nil {
		return made, false
	}
	if a, ok := s.doubt.answers[ref]; ok {
		return a.frag, a.stays
	}
	s.doubt.answers[ref] = answer{stays: true} // for references in a circle
	a := s.weigh(ref, made)
	s.doubt.answers[ref] = a
	return a.frag, a.stays
}

func (s *Session) weigh(ref envoy.Ref, made *envoy.Fragment) answer {
	_, bad := s.doubt.bad[ref]
	have := s.channels[ref.Type].holds(ref.Name)
	same := have.held && have.version == made.Version
	if !bad && s.whole(made, false) && (same && have.sure || s.canWarm(made)) {
		return answer{frag: made}
	}
	sure := have.sure || bad && have.tried == made.Version // what is bad by itself was not applied
	switch {
	case s.unheard(ref.Type):
		return answer{stays: true, hollow: true}
	case !have.held:
		x := s.channels[ref.Type].underway(ref.Name)
		// The listener that asked for it is not to go before it comes. A cluster that asks for endpoints does not serve yet.
		return answer{stays: x != nil && x != made && (ref.Type == envoy.Route || ref.Type == envoy.Extension) && s.whole(x, true)}
	case bad && same:
		return answer{stays: true} // taken once and refused later: sending it again leads nowhere
	case have.frag != nil && s.whole(have.frag, true):
		return answer{frag: have.frag}
	case have.prior || have.frag == nil || !sure:
		// The client came with it, or runs something newer out of a refused response, and may be serving with it:
		// it is not taken away, but nothing new leads there when it lacks something.
		// Of an extension Envoy keeps what it refused until it gets something else, and refuses each new listener that names it.
		return answer{stays: true, hollow: have.frag != nil || same || ref.Type == envoy.Cluster && !s.whole(made, false) ||
			ref.Type == envoy.Extension && !have.sure}
	}
	return answer{}
}

// canWarm says that a changed cluster can be given its endpoints again: not when the client keeps some of unknown content.
func (s *Session) canWarm(made *envoy.Fragment) bool {
	for _, ref := range made.Refs {
		if ref.Type == envoy.Endpoint {
			if _, stays := s.want(ref); stays {
				return false
			}
		}
	}
	return true
}

// whole says that everything a fragment needs is at the client or can be.
// Of what the target does not have, a fragment that is held needs what the client asks for by name, and may be about to get.
// A cluster can be one of the bootstrap's.
func (s *Session) whole(f *envoy.Fragment, held bool) bool {
	for _, ref := range f.Refs {
		unheard := s.unheard(ref.Type)
		if s.target.Get(ref.Type, ref.Name) == nil {
			if c := &s.channels[ref.Type]; held && !unheard && !ref.Type.Wildcard() && !c.holds(ref.Name).held && c.underway(ref.Name) == nil {
				return false
			}
			continue
		}
		to, stays := s.want(ref)
		fits := held && (unheard || ref.Type == envoy.Extension) // with what it has, it was served so far
		if to == nil && !stays || s.doubt.answers[ref].hollow && !fits {
			return false
		}
	}
	return true
}

// unheard says that the client may hold resources of a type and has not had the time to say so.
func (s *Session) unheard(t envoy.Type) bool { return !s.channels[t].asked && !s.given }

// A Rejection is a resource that a client does not get as declared: because Envoy refuses it or something it needs, or because what
// a policy says of it was left out when it was made.
type Rejection struct {
	Type    envoy.Type
	Name    string
	Version string
	Text    string // what Envoy said, or what the resource needs and cannot have
	Origins []resource.KRI
	// Needs is the rejected resource that this one leads to, nil when Envoy refuses the resource itself.
	Needs *envoy.Ref
}

// Rejections lists what is withheld from the client, ordered by type and name.
func (s *Session) Rejections() []Rejection {
	if s.target == nil {
		return nil
	}
	s.reconsider()
	var list []Rejection
	for ref := range s.doubt.touched {
		f := s.target.Get(ref.Type, ref.Name)
		if want, _ := s.want(ref); want == f {
			continue
		}
		if h := s.channels[ref.Type].holds(ref.Name); h.held && h.sure && h.version == f.Version {
			continue
		}
		r := Rejection{Type: ref.Type, Name: ref.Name, Version: f.Version, Origins: f.Origins}
		if text, bad := s.doubt.bad[ref]; bad {
			r.Text = text
		} else if need := s.culprit(f); need != nil {
			r.Needs = need
			r.Text = fmt.Sprintf("withheld: it needs %s %s, which is rejected", need.Type, need.Name)
		}
		list = append(list, r)
	}
	for _, p := range s.target.Problems {
		if len(p.Policies) > 0 {
			list = append(list, Rejection{Type: p.Ref.Type, Name: p.Ref.Name, Text: p.Text, Origins: p.Policies})
		}
	}
	slices.SortStableFunc(list, func(a, b Rejection) int {
		if a.Type != b.Type {
			return int(a.Type) - int(b.Type)
		}
		return strings.Compare(a.Name, b.Name)
	})
	return list
}

// culprit follows what a fragment needs down to a bad one.
func (s *Session) culprit(f *envoy.Fragment) *envoy.Ref {
	for _, ref := range f.Refs {
		if _, bad := s.doubt.bad[ref]; bad {
			return &ref
		}
	}
	for _, ref := range f.Refs {
		if _, touched := s.doubt.touched[ref]; touched {
			if found := s.culprit(s.target.Get(ref.Type, ref.Name)); found != nil {
				return found
			}
		}
	}
	return nil
}
