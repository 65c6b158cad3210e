package zonesync

import (
	"fmt"
	"maps"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// Whatever is written, cut, stalled, lost and wiped: once the link is left alone, both ends hold what the other one has, and
// nothing is missing that its owner did not delete.
func TestBothEndsConverge(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld()
		w.global.limit, w.zone.limit = rapid.IntRange(10, 200).Draw(r, "limit"), 40
		w.connect()
		for range rapid.IntRange(1, 60).Draw(r, "steps") {
			p := rapid.SampledFrom([]*party{w.global, w.zone}).Draw(r, "end")
			scope := fmt.Sprintf("mesh/%d", rapid.IntRange(0, 2).Draw(r, "scope"))
			id := fmt.Sprint("id", rapid.IntRange(0, 5).Draw(r, "id"))
			switch rapid.IntRange(0, 11).Draw(r, "what") {
			case 0, 1, 2, 3:
				content := fmt.Sprint(rapid.IntRange(0, 99).Draw(r, "content"))
				_, known := p.scopes[scope]
				p.write(scope, id, &content)
				w.tell(p, scope, id, !known)
			case 4, 5:
				if _, ok := p.scopes[scope][id]; ok {
					p.write(scope, id, nil)
					w.tell(p, scope, id, false)
				}
			case 6, 7, 8:
				w.deliver(rapid.IntRange(1, 5).Draw(r, "messages"))
			case 9:
				p.stalled = p.peer != nil && !p.stalled
				w.work(p)
			case 10:
				w.connect()
			case 11:
				if _, ok := p.scopes[scope]; ok {
					w.drop(p, scope)
				}
			}
		}
		if rapid.Bool().Draw(r, "reconnect") {
			w.connect()
		}
		for _, p := range []*party{w.global, w.zone} {
			p.stalled = false
			w.work(p)
		}
		for w.deliver(1) {
			continue
		}
		for _, p := range []*party{w.global, w.zone} {
			o := w.other(p)
			if p.peer.closed {
				r.Fatalf("%s closed the link:\n%s", p.name, w.out.String())
			}
			for scope, items := range o.scopes {
				if h := p.held[scope]; h == nil || !maps.Equal(h.items, items) {
					r.Fatalf("%s holds %v of %s, %s has %v:\n%s", p.name, h, scope, o.name, items, w.out.String())
				}
			}
			for scope := range p.held {
				if _, ok := o.scopes[scope]; !ok {
					r.Fatalf("%s still holds %s:\n%s", p.name, scope, w.out.String())
				}
			}
			for scope, progress := range o.peer.Progress() {
				if progress.Outstanding {
					r.Fatalf("%s of %s counts as outstanding:\n%s", scope, o.name, w.out.String())
				}
			}
		}
	})
}

// No message ends anything but the link.
func FuzzReceive(f *testing.F) {
	for _, m := range []*Message{
		{Body: &Message_Hello{&Hello{ProtocolMin: 1, ProtocolMax: 1, Have: []*ScopeState{{Scope: "system"}}}}},
		{Body: &Message_Welcome{&Welcome{Scopes: []*ScopeBegin{{Scope: "system"}}}}},
		{Body: &Message_Batch{&Batch{Scope: "system", Snapshot: true, Last: true, Upserts: [][]byte{{1}}}}},
		{Body: &Message_Beat{&Beat{Counter: 3, Echo: 99, Applied: []*ScopeState{{Scope: "mesh/default", Digest: []byte("x")}}}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, b)
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		content := "1"
		w := newWorld()
		w.global.write("mesh/default", "a", &content)
		w.connect()
		w.deliver(4)
		for _, b := range [][]byte{first, second} {
			var m Message
			if proto.Unmarshal(b, &m) == nil && w.global.peer != nil {
				s := w.global.peer.Receive(&m)
				for _, job := range s.Work {
					if job.Batch != nil {
						w.global.peer.Applied(job, &Verdict{Scope: job.Batch.Scope})
					}
				}
			}
		}
		fresh := NewPeer(Config{Hello: &Hello{}, Source: w.global})
		var m Message
		if proto.Unmarshal(first, &m) == nil {
			fresh.Receive(&m)
		}
	})
}
