package xds

import (
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// reject takes a NACK. Envoy refuses a response as a whole, with one text. Of clusters and listeners it has applied the good
// ones, of the other types those before the bad one in an order of its own, so nobody knows what runs: all of them have to
// go again. The culprits are looked for by sending suspects apart, and what is above suspicion first.
func (s *Session) reject(c *channel, f *flight, text string) {
	s.nacks++
	arrived := s.arrived(c, f, text)
	c.flight = nil
	for x := range f.fragments {
		h := c.holds(x.Name)
		if there, ok := arrived[x.Name]; ok {
			h = there
		}
		for _, ref := range x.Refs {
			if !needs(h, ref) {
				s.channels[ref.Type].unneeded(ref.Name, envoy.Ref{Type: c.typ, Name: x.Name})
			}
		}
		if !c.passed(x.Name, f) && c.subscribed(x.Name) {
			c.set(x.Name, h.doubted(x))
			if w, awaited := c.await[x.Name]; awaited {
				if w.frag == x {
					w.frag = nil
					c.await[x.Name] = w
				}
				c.again(x.Name)
			}
		}
	}
	for _, name := range f.removed { // Envoy has removed it all the same, or at least may have
		if c.subscribed(name) {
			c.set(name, shaken)
		}
	}
	switch {
	case f.len() == 0:
		// A removal that is refused is not repeated: there is nothing else to send.
		for _, name := range f.removed {
			if c.subscribed(name) {
				c.set(name, nothing)
			}
		}
	case f.len() == 1 && len(f.removed) == 0:
		for x := range f.fragments {
			s.refuse(c, x, text)
		}
	default:
		s.split(c, f, text)
	}
}

// arrived finds out which new clusters of a refused response are at the client all the same: it names others as bad, and has taken
// endpoints of these, so that other things may lead there already. A bad one that has endpoints was there before, as nobody knows what.
func (s *Session) arrived(c *channel, f *flight, text string) map[string]holding {
	if c.typ != envoy.Cluster {
		return nil
	}
	var found map[string]holding
	named := false
	for x := range f.fragments {
		bad := blames(text, x.Name)
		named = named || bad
		switch h := c.holds(x.Name); {
		case h.held || !s.provenByEndpoints(x):
		case bad:
			put(&found, x.Name, holding{held: true, tried: h.tried})
		default:
			put(&found, x.Name, holding{frag: x, version: x.Version, held: true})
		}
	}
	if !named {
		return nil
	}
	return found
}

// several stands for more than one version.
const several = "*"

// doubted is the holding after a response with another fragment may or may not have been applied.
func (h holding) doubted(x *envoy.Fragment) holding {
	switch {
	case h.sure:
		h.tried = x.Version
	case h.tried != x.Version:
		h.tried = several
	}
	h.sure = false
	return h
}

// maybe says that the client may have got a fragment which it has not answered for, and that it is known what it had before.
func (h holding) maybe(x *envoy.Fragment) bool {
	return !h.sure && (h.tried == x.Version || h.tried == several) && (!h.held || h.frag != nil && h.frag.Version != x.Version)
}

// shaken is the holding after a refused response that removed it.
var shaken = holding{tried: several}

// refuse records that a fragment was refused alone, which proves it bad.
func (s *Session) refuse(c *channel, x *envoy.Fragment, text string) {
	// What is bad by itself was applied in no response: the former runs. Of an extension Envoy believes to have what it
	// refused, until it is sent something else: the former once more, or a removal.
	switch h := c.holds(x.Name); {
	case h.held && h.version == x.Version:
		h.frag = nil // so it never had it, or can't have it any more: in either case what it runs is not known, and not to be sent again
		c.set(x.Name, h)
	case h.tried == x.Version && c.typ != envoy.Extension:
		h.sure, h.tried = true, ""
		c.set(x.Name, h)
	}
	drop(&c.groups, x.Name)
	if s.refused == nil {
		s.refused = map[defect]string{}
	}
	s.refused[defectOf(x)] = text
	s.faults = s.faults || hostFault(text)
	if !hostFault(text) && !s.misled(x) {
		s.ward.report(x, text)
	}
}

// misled says that a listener may have been refused in the place of an extension, which the client has refused before
// and says to have: that proves nothing.
func (s *Session) misled(x *envoy.Fragment) bool {
	c := &s.channels[envoy.Extension]
	return x.Type == envoy.Listener && slices.ContainsFunc(x.Refs, func(ref envoy.Ref) bool {
		if ref.Type != envoy.Extension {
			return false
		}
		h := c.holds(ref.Name)
		return !h.sure || h.prior || c.underway(ref.Name) != nil
	})
}

// reopen forgets refusals of listeners that use an extension which the client has taken.
func (s *Session) reopen(f *flight) {
	for d := range s.refused {
		if d.typ != envoy.Listener {
			continue
		}
		if l := s.target.Get(d.typ, d.name); l != nil && slices.ContainsFunc(l.Refs, func(ref envoy.Ref) bool {
			return ref.Type == envoy.Extension && f.about(ref.Name)
		}) {
			delete(s.refused, d)
		}
	}
}

// Faulty says that something was refused for a reason that may pass, such as an address in use.
// After a while the caller calls Retry.
func (s *Session) Faulty() bool { return s.faults }

// Retry forgets the refusals whose reason may have passed.
func (s *Session) Retry() {
	s.faults = false
	for d, text := range s.refused {
		if hostFault(text) {
			delete(s.refused, d)
		}
	}
	s.invalidate()
}

// hostFault recognises refusals that say something about the host of one Envoy and nothing about the resource.
func hostFault(text string) bool {
	text = strings.ToLower(text)
	for _, sign := range []string{"cannot bind", "address already in use", "cannot assign requested address", "permission denied", "too many open files"} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}

// split puts the resources of a refused response into groups that are sent apart. Those named in the text go one by one and
// the rest together. When none is named, those that some client has taken before go together, and the others in halves.
func (s *Session) split(c *channel, f *flight, text string) {
	var suspects, proven, rest []string
	for x := range f.fragments {
		switch {
		case blames(text, x.Name):
			suspects = append(suspects, x.Name)
		case s.ward.proven(x):
			proven = append(proven, x.Name)
		default:
			rest = append(rest, x.Name)
		}
	}
	switch {
	case len(suspects) > 0:
		c.group(slices.Concat(proven, rest))
		for _, name := range suspects {
			c.group([]string{name})
		}
		return
	case len(proven) > 0 && len(rest) > 0:
		c.group(proven)
	default:
		rest = slices.Concat(proven, rest)
	}
	if half := len(rest) / 2; half > 0 {
		c.group(rest[:half])
		rest = rest[half:]
	}
	c.group(rest)
}

func (c *channel) group(list []string) {
	if len(list) == 0 {
		return
	}
	if c.groups == nil {
		c.groups = map[string]int{}
	}
	c.newest++
	for _, name := range list {
		c.groups[name] = c.newest
	}
}

// blames says that a refusal names a resource, in one of the places where Envoy puts names. Elsewhere in the text a name
// proves nothing: it may be a dump of the resource that is meant, with all it refers to.
func blames(text, name string) bool {
	if name == "" {
		return false
	}
	if list, ok := strings.CutPrefix(text, "Error adding/updating "); ok {
		if _, list, ok = strings.Cut(list, "(s) "); !ok {
			return false
		}
		entry := name + ": "
		return strings.HasPrefix(list, entry) || strings.Contains(list, ", "+entry) || strings.Contains(list, "\n"+entry)
	}
	if head, dump, ok := strings.Cut(text, "\n"); ok && strings.HasPrefix(head, "goo.gle/debug") {
		return strings.HasPrefix(strings.TrimPrefix(dump, "cluster_"), `name: "`+name+"\"\n")
	}
	return strings.HasPrefix(text, "duplicate name "+name+" found") ||
		strings.HasPrefix(text, "Unexpected ") && strings.Contains(text, " (expecting "+name+"): ")
}
