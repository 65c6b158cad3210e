package zonesync

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
)

var update = flag.Bool("update", false, "write the expected output of the scripts anew")

// TestScripts plays the conversations in testdata. A script is a list of blocks: commands, a line of dashes, and what they print.
// Only commit an update if you understand every change in it.
//
//	global put SCOPE ID CONTENT    write at global (zone put: at the zone); global del SCOPE ID
//	global busy N                  N writes that concern nobody
//	global drop SCOPE              offer the scope no more
//	connect                        a new link between both, with what they hold
//	run                            deliver everything and apply it, until nothing moves
//	deliver N                      deliver N messages of each direction, and apply what comes
//	stall zone | go zone           its apply queue stands still, and goes on
//	tick N                         N beats of both ends
//	slow global | answer global    what changed since a position is found out only when told to, with what was true when it was asked
//	lag global N | hear global N   its state machine knows nothing of the last N writes to its store; it is told of N of them
//	cut                            the link breaks; what is under way is lost
//	restore global REVISION        an older backup, without a new epoch; wipe global|zone: an empty store of another lineage
//	spoil zone SCOPE ID            what the zone holds is not what it was sent
//	show global|zone               what it holds of the other one
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld()
			var got strings.Builder
			for block := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n\n") {
				commands, _, _ := strings.Cut(block, "\n----")
				got.WriteString(commands)
				if strings.HasPrefix(commands, "#") && !strings.Contains(commands, "\n") {
					got.WriteString("\n\n")
					continue
				}
				w.out.Reset()
				for line := range strings.SplitSeq(commands, "\n") {
					if !strings.HasPrefix(line, "#") {
						w.do(t, strings.Fields(line))
					}
				}
				fmt.Fprintf(&got, "\n----\n%s\n", w.out.String())
			}
			result := strings.TrimSpace(got.String()) + "\n"
			if *update {
				if err := os.WriteFile(file, []byte(result), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if d := cmp.Diff(string(text), result); d != "" {
				t.Errorf("the conversation differs (-want +got):\n%s", d)
			}
		})
	}
}

// A party is one end with the model of its store and of what it holds of the other.
type party struct {
	name     string
	lineage  string
	revision uint64
	limit    int // bytes of a batch
	scopes   map[string]map[string]string
	log      []entry
	held     map[string]*held
	peer     *Peer
	queue    []Work
	stalled  bool
	outbox   []*Message
	// slow answers what changed only when told to, with what was true when it was asked.
	slow    bool
	answers []func()
	// behind is what the state machine knows when it lags behind the store, and untold what it does not know yet.
	behind *behind
	untold []entry
}

type behind struct {
	revision uint64
	scopes   map[string]map[string]string
}

type entry struct {
	revision uint64
	scope    string
	id       string
	before   *string
	after    *string
}

type held struct {
	at         *Position
	items      map[string]string
	seen       map[string]bool // in the snapshot that is coming
	incomplete bool
	adopting   bool
	pending    []string
}

func newParty(name string) *party {
	return &party{name: name, lineage: name + "-1", scopes: map[string]map[string]string{}, held: map[string]*held{}}
}

func (p *party) position(revision uint64) *Position {
	return &Position{Lineage: &Lineage{Id: p.lineage, Epoch: 1}, Revision: revision, Chain: []byte(p.chain(revision))}
}

// chain of a model is the history itself.
func (p *party) chain(revision uint64) string {
	var b strings.Builder
	for _, e := range p.log {
		if e.revision <= revision {
			fmt.Fprintf(&b, "%s/%s ", e.scope, e.id)
		}
	}
	return b.String()
}

// known is what the state machine knows of.
func (p *party) known() behind {
	if p.behind != nil {
		return *p.behind
	}
	return behind{p.revision, p.scopes}
}

// lag makes the state machine know nothing of the last n writes.
func (p *party) lag(n int) {
	b := &behind{revision: p.revision, scopes: map[string]map[string]string{}}
	for scope, items := range p.scopes {
		b.scopes[scope] = maps.Clone(items)
	}
	at := len(p.log) - n
	p.behind, p.untold = b, slices.Clone(p.log[at:])
	for _, e := range slices.Backward(p.untold) {
		b.set(e.scope, e.id, e.before)
		b.revision = e.revision - 1
	}
}

func (b *behind) set(scope, id string, content *string) {
	if content == nil {
		delete(b.scopes[scope], id)
		return
	}
	b.scopes[scope][id] = *content
}

func (p *party) Scopes() []string { return slices.Sorted(maps.Keys(p.known().scopes)) }

func (p *party) Cut(scope string) Cut {
	known := p.known()
	c := Cut{Position: p.position(known.revision)}
	for _, id := range slices.Sorted(maps.Keys(known.scopes[scope])) {
		it, _ := p.Item(scope, id)
		c.Items = append(c.Items, it)
	}
	return c
}

func (p *party) Item(scope, id string) (*Item, bool) {
	content, ok := p.known().scopes[scope][id]
	if !ok {
		return nil, false
	}
	it, err := NewItem(&Object{Id: id, Uid: "u-" + id, Spec: []byte(content), Hash: []byte(content)})
	if err != nil {
		panic(err)
	}
	return it, true
}

func (p *party) write(scope, id string, content *string) {
	p.revision++
	if p.scopes[scope] == nil {
		p.scopes[scope] = map[string]string{}
	}
	e := entry{revision: p.revision, scope: scope, id: id, after: content}
	if old, ok := p.scopes[scope][id]; ok {
		e.before = &old
	}
	p.log = append(p.log, e)
	if content == nil {
		delete(p.scopes[scope], id)
		return
	}
	p.scopes[scope][id] = *content
}

// since answers a Resolve as a store with its history does.
func (p *party) since(r Resolve) Resolution {
	after := r.After
	switch {
	case after.GetLineage().GetId() != p.lineage:
		return Resolution{How: ScopeBegin_FORKED, Why: "the position is of another store", To: p.position(p.revision)}
	case after.GetRevision() > p.revision || string(after.GetChain()) != p.chain(after.GetRevision()):
		return Resolution{How: ScopeBegin_FORKED, Why: "the position is no part of this history", To: p.position(p.revision)}
	}
	out := Resolution{To: p.position(p.revision), IDs: map[string]Removal_Cause{}}
	for _, e := range p.log {
		if e.revision > after.GetRevision() && e.scope == r.Scope {
			out.IDs[e.id] = Removal_DELETED
		}
	}
	return out
}

// have is what the party says in its Hello.
func (p *party) have() (out []*ScopeState) {
	for _, scope := range slices.Sorted(maps.Keys(p.held)) {
		h := p.held[scope]
		d := h.digest()
		out = append(out, &ScopeState{Scope: scope, Position: h.at, Digest: d.Bytes(), Count: uint64(len(h.items)), Incomplete: h.incomplete})
	}
	return out
}

func (h *held) digest() (d Digest) {
	for id, content := range h.items {
		d.Add(id, "u-"+id, []byte(content))
	}
	return d
}

// apply does what the apply queue of a real end does.
func (p *party) apply(w Work) *Verdict {
	switch {
	case w.Begin != nil:
		h := p.held[w.Begin.Scope]
		if h == nil {
			h = &held{items: map[string]string{}}
			p.held[w.Begin.Scope] = h
		}
		if w.Begin.How != ScopeBegin_RESUME {
			if h.at == nil { // the beginning of the history that it comes from
				h.at = &Position{Lineage: p.peer.PeerHello().GetLineage()}
			}
			h.incomplete, h.seen = true, map[string]bool{}
			h.adopting = h.adopting || w.Begin.How == ScopeBegin_FORKED
		}
	case w.End != nil:
		delete(p.held, w.End.Scope)
	case w.Batch != nil:
		return p.store(w.Batch)
	}
	return nil
}

func (p *party) store(b *Batch) *Verdict {
	h := p.held[b.Scope]
	for _, u := range b.Upserts {
		var o Object
		if err := proto.Unmarshal(u, &o); err != nil {
			panic(err)
		}
		h.items[o.Id] = string(o.Spec)
		if h.seen != nil {
			h.seen[o.Id] = true
		}
	}
	for _, r := range b.Removals {
		delete(h.items, r.Id)
	}
	h.pending = slices.DeleteFunc(h.pending, func(id string) bool { _, ok := h.items[id]; return !ok || h.seen[id] })
	if b.Last && b.Snapshot {
		for _, id := range slices.Sorted(maps.Keys(h.items)) {
			switch {
			case h.seen[id]:
			case h.adopting || h.at != nil && !SameLineage(h.at.Lineage, b.To.Lineage):
				if !slices.Contains(h.pending, id) {
					h.pending = append(h.pending, id)
				}
			default:
				delete(h.items, id)
			}
		}
		h.incomplete, h.seen, h.adopting = false, nil, false
	}
	if b.Last {
		h.at = b.To
	}
	return &Verdict{Scope: b.Scope, To: b.To, Part: b.Part, Last: b.Last}
}

type world struct {
	global, zone *party
	session      uint64
	out          strings.Builder
}

func newWorld() *world { return &world{global: newParty("global"), zone: newParty("zone")} }

func (w *world) party(name string) *party {
	if name == "zone" {
		return w.zone
	}
	return w.global
}

func (w *world) other(p *party) *party {
	if p == w.zone {
		return w.global
	}
	return w.zone
}

func (w *world) do(t *testing.T, c []string) {
	number := func(i int) int {
		n, err := strconv.Atoi(c[i])
		if err != nil {
			t.Fatalf("%v: %v", c, err)
		}
		return n
	}
	switch c[0] {
	case "global", "zone":
		w.edit(t, w.party(c[0]), c[1:])
	case "connect":
		w.connect()
	case "run":
		for w.deliver(1) {
			continue
		}
	case "deliver":
		w.deliver(number(1))
	case "stall", "go":
		p := w.party(c[1])
		p.stalled = c[0] == "stall"
		w.work(p)
	case "slow", "answer":
		p := w.party(c[1])
		if p.slow = c[0] == "slow"; !p.slow {
			w.answer(p)
		}
	case "lag":
		w.party(c[1]).lag(number(2))
	case "hear":
		w.hear(w.party(c[1]), number(2))
	case "tick":
		for range number(1) {
			for _, p := range []*party{w.global, w.zone} {
				if p.peer != nil {
					w.step(p, p.peer.Tick(p.status()))
				}
			}
		}
	case "cut":
		w.cut()
	case "restore":
		w.party(c[1]).restore(uint64(number(2)))
	case "wipe":
		p := w.party(c[1])
		n := newParty(p.name)
		n.lineage = p.name + "-2"
		*p = *n
	case "spoil":
		w.party(c[1]).held[c[2]].items[c[3]] = "spoiled"
	case "show":
		w.show(w.party(c[1]))
	default:
		t.Fatalf("%q is no command", c[0])
	}
}

func (w *world) edit(t *testing.T, p *party, c []string) {
	switch {
	case c[0] == "put" && len(c) == 4:
		_, known := p.scopes[c[1]]
		p.write(c[1], c[2], &c[3])
		w.tell(p, c[1], c[2], !known)
	case c[0] == "del" && len(c) == 3:
		p.write(c[1], c[2], nil)
		w.tell(p, c[1], c[2], false)
	case c[0] == "drop" && len(c) == 2:
		w.drop(p, c[1])
	case c[0] == "busy" && len(c) == 2:
		n, _ := strconv.Atoi(c[1])
		p.revision += uint64(n)
		if p.peer != nil {
			p.peer.Head(p.position(p.revision))
		}
	case c[0] == "limit" && len(c) == 2:
		p.limit, _ = strconv.Atoi(c[1])
	default:
		t.Fatalf("%v: no such edit", c)
	}
}

// drop deletes everything of a scope in one batch, as the deletion of a mesh does, and offers it no more.
func (w *world) drop(p *party, scope string) {
	p.revision++
	for id, content := range p.scopes[scope] {
		p.log = append(p.log, entry{revision: p.revision, scope: scope, id: id, before: &content})
	}
	delete(p.scopes, scope)
	if p.peer != nil {
		w.step(p, p.peer.Ended(scope, "deleted", p.position(p.revision)))
	}
}

func (w *world) tell(p *party, scope, id string, begun bool) {
	if p.peer == nil {
		return
	}
	if begun {
		w.step(p, p.peer.Begun(scope, "it is new"))
	} else {
		w.step(p, p.peer.Changed(scope, p.position(p.revision), map[string]Removal_Cause{id: Removal_DELETED}))
	}
	p.peer.Head(p.position(p.revision))
}

// hear tells a party of writes that it did not know of, one after the other.
func (w *world) hear(p *party, n int) {
	for _, e := range p.untold[:n] {
		p.behind.set(e.scope, e.id, e.after)
		p.behind.revision = e.revision
		w.step(p, p.peer.Changed(e.scope, p.position(e.revision), map[string]Removal_Cause{e.id: Removal_DELETED}))
		p.peer.Head(p.position(e.revision))
	}
	if p.untold = p.untold[n:]; len(p.untold) == 0 {
		p.behind = nil
	}
}

func (p *party) status() *Beat {
	return &Beat{Applied: p.have()}
}

func (w *world) connect() {
	w.cut()
	w.session++
	for _, p := range []*party{w.global, w.zone} {
		h := &Hello{
			ProtocolMin: 1, ProtocolMax: 1, Lineage: &Lineage{Id: p.lineage, Epoch: 1}, Have: p.have(), Session: w.session,
			Limits: &Limits{Window: 2},
		}
		p.peer = NewPeer(Config{Hello: h, Zone: p == w.zone, Source: p, MaxBatch: p.limit})
		p.peer.Head(p.position(p.known().revision))
	}
	w.step(w.zone, w.zone.peer.Open())
}

func (w *world) cut() {
	for _, p := range []*party{w.global, w.zone} {
		p.peer, p.outbox, p.queue, p.stalled, p.answers = nil, nil, nil, false, nil
	}
}

// restore takes a store back to a revision, and makes it go on differently from there.
func (p *party) restore(revision uint64) {
	for len(p.log) > 0 && p.log[len(p.log)-1].revision > revision {
		e := p.log[len(p.log)-1]
		p.log = p.log[:len(p.log)-1]
		if e.before != nil {
			p.scopes[e.scope][e.id] = *e.before
		} else {
			delete(p.scopes[e.scope], e.id)
		}
	}
	p.revision = revision
}

// deliver moves up to n messages each way and says whether anything moved.
func (w *world) deliver(n int) bool {
	moved := false
	for range n {
		for _, from := range []*party{w.zone, w.global} {
			to := w.other(from)
			if len(from.outbox) == 0 || to.peer == nil {
				continue
			}
			m := from.outbox[0]
			from.outbox = from.outbox[1:]
			fmt.Fprintf(&w.out, "%s → %s: %s\n", from.name, to.name, describe(m))
			w.step(to, to.peer.Receive(m))
			moved = true
		}
	}
	return moved
}

func (w *world) answer(p *party) {
	for len(p.answers) > 0 {
		next := p.answers[0]
		p.answers = p.answers[1:]
		next()
	}
}

func (w *world) step(p *party, s Step) {
	p.outbox = append(p.outbox, s.Send...)
	p.queue = append(p.queue, s.Work...)
	for _, r := range s.Resolve {
		found := p.since(r)
		p.answers = append(p.answers, func() { w.step(p, p.peer.Resolved(r.Scope, found)) })
	}
	if !p.slow {
		w.answer(p)
	}
	if s.Closed != nil {
		var refused *RefusedError
		how := "ends the link"
		if errors.As(s.Closed, &refused) {
			how = "has no link"
		}
		fmt.Fprintf(&w.out, "%s %s: %v\n", p.name, how, s.Closed)
	}
	w.work(p)
}

func (w *world) work(p *party) {
	for len(p.queue) > 0 && !p.stalled {
		job := p.queue[0]
		p.queue = p.queue[1:]
		w.step(p, p.peer.Applied(job, p.apply(job)))
	}
}

func (w *world) show(p *party) {
	if len(p.held) == 0 {
		fmt.Fprintf(&w.out, "%s holds nothing\n", p.name)
	}
	for _, scope := range slices.Sorted(maps.Keys(p.held)) {
		h := p.held[scope]
		fmt.Fprintf(&w.out, "%s holds %s at %s:", p.name, scope, place(h.at))
		for _, id := range slices.Sorted(maps.Keys(h.items)) {
			fmt.Fprintf(&w.out, " %s=%s", id, h.items[id])
		}
		if h.incomplete {
			w.out.WriteString(" (incomplete)")
		}
		if len(h.pending) > 0 {
			fmt.Fprintf(&w.out, " (pending removal: %s)", strings.Join(h.pending, " "))
		}
		w.out.WriteByte('\n')
	}
}

func place(p *Position) string {
	if p == nil {
		return "nothing"
	}
	return fmt.Sprintf("%s@%d", p.GetLineage().GetId(), p.GetRevision())
}

func describe(m *Message) string {
	switch b := m.Body.(type) {
	case *Message_Hello:
		return "Hello" + states(" has", b.Hello.Have)
	case *Message_Welcome:
		s := "Welcome " + strings.ToLower(b.Welcome.Outcome.String())
		for _, x := range b.Welcome.Scopes {
			s += ", " + begun(x)
		}
		return s
	case *Message_ScopeBegin:
		return "begin " + begun(b.ScopeBegin)
	case *Message_ScopeEnd:
		return fmt.Sprintf("end %s (%s)", b.ScopeEnd.Scope, b.ScopeEnd.Cause)
	case *Message_Batch:
		return "Batch " + batch(b.Batch)
	case *Message_Verdict:
		return fmt.Sprintf("Verdict %s durable at %s", b.Verdict.Scope, place(b.Verdict.To))
	case *Message_Credit:
		return fmt.Sprintf("Credit %s +%d", b.Credit.Scope, b.Credit.Batches)
	case *Message_Beat:
		return fmt.Sprintf("Beat %d echo %d", b.Beat.Counter, b.Beat.Echo)
	case *Message_GoAway:
		return "GoAway: " + b.GoAway.Reason
	}
	return fmt.Sprintf("%T", m.Body)
}

func begun(b *ScopeBegin) string {
	s := strings.ToLower(b.How.String()) + " " + b.Scope
	if b.Why != "" {
		s += " (" + b.Why + ")"
	}
	return s
}

func states(word string, list []*ScopeState) string {
	var out []string
	for _, st := range list {
		out = append(out, st.Scope+" "+place(st.Position))
	}
	if out == nil {
		return word + " nothing"
	}
	return word + " " + strings.Join(out, ", ")
}

func batch(b *Batch) string {
	s := b.Scope
	if b.Snapshot {
		s += " whole"
	} else {
		s += " from " + place(b.From)
	}
	s += " to " + place(b.To)
	if b.Part > 0 || !b.Last {
		s += fmt.Sprintf(" part %d", b.Part)
		if b.Last {
			s += " (last)"
		}
	}
	for _, u := range b.Upserts {
		var o Object
		if proto.Unmarshal(u, &o) == nil {
			s += fmt.Sprintf(" +%s=%s", o.Id, o.Spec)
		}
	}
	for _, r := range b.Removals {
		s += " -" + r.Id
	}
	return s
}
