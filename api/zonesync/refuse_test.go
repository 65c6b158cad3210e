package zonesync

import (
	"errors"
	"strings"
	"testing"
)

// nothing is the source of an end that offers nothing.
type nothing struct{}

func (nothing) Scopes() []string                  { return nil }
func (nothing) Cut(string) Cut                    { return Cut{} }
func (nothing) Item(string, string) (*Item, bool) { return nil, false }

// Two globals, and peers of versions that have no protocol in common: the Hello is refused with a reason that says what to do, and
// nothing is applied.
func TestRefusedHellos(t *testing.T) {
	good := func() *Hello {
		return &Hello{ProtocolMin: Protocol, ProtocolMax: Protocol, Lineage: &Lineage{Id: "global-1", Epoch: 1}}
	}
	for _, c := range []struct {
		what string
		edit func(h *Hello)
		want string // empty: accepted
	}{
		{"the pinned store", func(*Hello) {}, ""},
		{"the pinned store in a new epoch", func(h *Hello) { h.Lineage.Epoch = 2 }, ""},
		{"another global", func(h *Hello) { h.Lineage.Id = "global-2" }, "the peer has store global-2, this end is joined to global-1"},
		{"no store at all", func(h *Hello) { h.Lineage = nil }, "joined to global-1"},
		{"a peer that speaks newer protocols, too", func(h *Hello) { h.ProtocolMax = Protocol + 3 }, ""},
		{"a peer that is too new", func(h *Hello) { h.ProtocolMin, h.ProtocolMax = Protocol+1, Protocol+1 }, "upgrade the older one"},
		{"a peer that is too old", func(h *Hello) { h.ProtocolMin, h.ProtocolMax = 0, Protocol-1 }, "upgrade the older one"},
	} {
		p := NewPeer(Config{Zone: true, Source: nothing{}, Hello: &Hello{ProtocolMin: Protocol, ProtocolMax: Protocol, ExpectedLineage: "global-1"}})
		h := good()
		c.edit(h)
		s := p.Receive(&Message{Body: &Message_Hello{h}})
		var refused *RefusedError
		switch {
		case c.want == "" && s.Closed != nil:
			t.Errorf("%s: refused: %v", c.what, s.Closed)
		case c.want != "" && (!errors.As(s.Closed, &refused) || !strings.Contains(refused.Reason, c.want)):
			t.Errorf("%s: got %v, want a refusal with %q", c.what, s.Closed, c.want)
		case c.want != "" && (len(s.Send) != 1 || s.Send[0].GetWelcome().GetOutcome() != Welcome_REFUSED || len(s.Work) > 0):
			t.Errorf("%s: sends %v and applies %v, want a refusal and nothing", c.what, s.Send, s.Work)
		}
	}
}

// A newer peer says more: what is not known is ignored and counted, and the link lives.
func TestUnknownMessages(t *testing.T) {
	p := NewPeer(Config{Zone: true, Source: nothing{}, Hello: &Hello{ProtocolMin: Protocol, ProtocolMax: Protocol}})
	p.Receive(&Message{Body: &Message_Hello{&Hello{ProtocolMin: Protocol, ProtocolMax: Protocol, Lineage: &Lineage{Id: "g"}}}})
	s := p.Receive(&Message{})
	if s.Closed != nil || len(s.Send)+len(s.Work) > 0 || p.Ignored() != 1 {
		t.Errorf("got %+v, %d ignored; want a link that lives and one message ignored", s, p.Ignored())
	}
	if s = p.Receive(&Message{Body: &Message_Welcome{&Welcome{}}}); !s.Opened {
		t.Errorf("got %+v, want an open link", s)
	}
}
