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
	inUse      map[envoy.Ref]struct{} // not in the target and needed by what stays
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
		if h := s.channels[x.typ].holds(x.name); h.held && h.sure && h.version == x.version {
			return // this client has it and is content
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

// protect keeps what a resource needs that stays at an old version.
func (s *Session) protect(d *doubt, ref envoy.Ref) {
	old, stays := s.want(ref)
	made := s.target.Get(ref.Type, ref.Name)
	if h := s.channels[ref.Type].holds(ref.Name); stays && h.frag == nil && h.version != made.Version {
		for _, t := range below[ref.Type] {
			d.guarded[t] = true
		}
	}
	if old == nil || old == made {
		return
	}
	for work := slices.Clone(old.Refs); len(work) > 0; {
		need := work[len(work)-1]
		work = work[:len(work)-1]
		if _, done := d.inUse[need]; done || s.target.Get(need.Type, need.Name) != nil {
			continue
		}
		if d.inUse == nil {
			d.inUse = map[envoy.Ref]struct{}{}
		}
		d.inUse[need] = struct{}{}
		if h := s.channels[need.Type].holds(need.Name); h.frag != nil {
			work = append(work, h.frag.Refs...)
		}
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

// inUse says that something which stays at an old version may need a resource that the target does not have.
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
	if !bad && s.whole(made, false) {
		return answer{frag: made}
	}
	have := s.channels[ref.Type].holds(ref.Name)
	switch {
	case !have.held:
		return answer{}
	case have.prior || have.frag == nil:
		// The client came with it, and may have been serving with it: it is not taken away.
		// Endpoints without known content cannot be sent again, which a changed cluster needs.
		return answer{stays: true, hollow: !bad && have.version == made.Version || ref.Type == envoy.Endpoint && have.frag == nil}
	case bad && have.version == made.Version:
		return answer{stays: true} // taken once and refused later: sending it again leads nowhere
	case s.whole(have.frag, true):
		return answer{frag: have.frag}
	}
	return answer{}
}

// whole says that everything a fragment needs is at the client or can be.
// What the target does not have is not ours to judge, except that what the client was promised has to have come.
func (s *Session) whole(f *envoy.Fragment, held bool) bool {
	for _, ref := range f.Refs {
		if s.target.Get(ref.Type, ref.Name) == nil {
			if _, missed := s.channels[ref.Type].await[ref.Name]; missed && held {
				return false
			}
			continue
		}
		to, stays := s.want(ref)
		if to == nil && !stays || s.doubt.answers[ref].hollow {
			return false
		}
	}
	return true
}

// A Rejection is a resource that a client does not get as the zone made it, because Envoy refuses it or something it needs.
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
		r := Rejection{Type: ref.Type, Name: ref.Name, Version: f.Version, Origins: f.Origins}
		if text, bad := s.doubt.bad[ref]; bad {
			r.Text = text
		} else if need := s.culprit(f); need != nil {
			r.Needs = need
			r.Text = fmt.Sprintf("withheld: it needs %s %s, which is rejected", need.Type, need.Name)
		}
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b Rejection) int {
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
