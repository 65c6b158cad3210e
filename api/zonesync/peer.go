package zonesync

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// ErrDead is a peer that has not answered three beats in a row.
var ErrDead = errors.New("the peer does not answer")

// A RefusedError is a link that one end did not want.
type RefusedError struct {
	Reason     string
	RetryAfter time.Duration
	// Alternatives are other addresses of the peer.
	Alternatives []string
}

// Error says why.
func (e *RefusedError) Error() string { return "refused: " + e.Reason }

// Config of one end.
type Config struct {
	// Hello is what this end says of itself. In a zone it is sent by Open.
	Hello *Hello
	// Zone says that this end is the zone, which speaks first.
	Zone   bool
	Source Source
	// Judge decides about the Hello of the peer; nil accepts. The outcome of a Welcome that is not refused is sent on.
	Judge func(*Hello) *Welcome
	// MaxBatch is the size of a batch in bytes. Default 512 KiB.
	MaxBatch int
	// Misses is how many beats may go unanswered. Default 3.
	Misses uint64
}

// maxScopes bounds what a peer can make this end remember.
const maxScopes = 10_000

// DefaultWindow is how many batches of one scope may be under way.
const DefaultWindow = 8

// A Work is something for the apply queue, which handles one after the other; exactly one field is set.
type Work struct {
	Begin *ScopeBegin
	Batch *Batch
	End   *ScopeEnd
	Echo  uint64 // a beat that passes through
}

// A Resolve asks what has changed in a scope since a position that the peer has. Gone says that the scope is not offered any more.
type Resolve struct {
	Scope string
	After *Position
	Gone  bool
	// anew is why the scope begins anew although it was gone; empty when it does not.
	anew string
}

// A Resolution answers a Resolve: how the scope goes on and, to resume, up to where and which objects changed since.
type Resolution struct {
	How ScopeBegin_How
	Why string
	To  *Position
	IDs map[string]Removal_Cause
}

// A Step is what has to be done because of an event, in this order of fields.
type Step struct {
	Send    []*Message
	Work    []Work
	Resolve []Resolve
	// Facts are observations that came.
	Facts []*Observation
	// Requests are credential messages, which are not for the state machine.
	Requests []*CredentialRequest
	Issued   []*Credential
	// Beats are those that came, for their status.
	Beats []*Beat
	// Opened says that both ends have accepted the link.
	Opened bool
	// Closed ends the link, after what is to be sent has been sent.
	Closed error
}

func (s *Step) send(m *Message) { s.Send = append(s.Send, m) }

// A Peer is one end of a link. It has one owner, as long as the link lives.
type Peer struct {
	cfg    Config
	hello  *Hello // of the peer
	closed bool

	welcomed  bool // the peer accepted
	opened    bool
	begun     uint64 // scopes of this end that have begun, to number them
	resolving map[string]Resolve
	// meanwhile is what was told of scopes that are being resolved: the answer may be of a moment before.
	meanwhile map[string]map[string]Removal_Cause
	begins    []*ScopeBegin
	outcome   Welcome_Outcome
	ends      []*ScopeEnd

	out map[string]*sending
	in  map[string]*receiving

	head           *Position // everything up to here is sent or about to be
	counter, heard uint64    // own beats: sent, and the newest that came back
	echo           uint64    // the peer's newest beat that passed the apply queue
	sequence       uint64    // of observations
	unknown        uint64
}

// sending is one scope of this end's data.
type sending struct {
	scope      string
	generation uint64
	at         *Position // where the receiver is when it has applied everything that was sent
	acked      *Position // what the receiver has made durable
	to         *Position // the newest position of the scope
	dirty      map[string]Removal_Cause
	run        *run // what is being sent in parts
	credit     uint32
	rejected   []*Rejected
}

// run is a snapshot or a delta on its way.
type run struct {
	snapshot bool
	items    []*Item  // of a snapshot
	ids      []string // of a delta
	causes   map[string]Removal_Cause
	from, to *Position
	part     uint32
}

// receiving is one scope of the peer's data.
type receiving struct {
	generation uint64
	at         *Position // where everything that has come leads
	part       uint32    // of the run that is coming, 0 between runs
	to         *Position
	whole      bool // the run is a snapshot
	pending    uint32
	applied    *Position
}

// NewPeer makes one end of a link.
func NewPeer(cfg Config) *Peer {
	if cfg.MaxBatch <= 0 {
		cfg.MaxBatch = 512 << 10
	}
	if cfg.Misses == 0 {
		cfg.Misses = 3
	}
	return &Peer{cfg: cfg, out: map[string]*sending{}, in: map[string]*receiving{}}
}

// Open begins the link; in a zone it speaks.
func (p *Peer) Open() Step {
	var s Step
	if p.cfg.Zone {
		s.send(&Message{Body: &Message_Hello{p.cfg.Hello}})
	}
	return s
}

// Receive takes a message of the peer.
func (p *Peer) Receive(m *Message) Step {
	var s Step
	if p.closed {
		return s
	}
	if p.hello == nil && m.GetHello() == nil && m.GetGoAway() == nil && m.GetWelcome().GetOutcome() != Welcome_REFUSED {
		p.fail(&s, errors.New("the first message is no Hello"))
		return s
	}
	switch b := m.GetBody().(type) {
	case *Message_Hello:
		p.greet(&s, b.Hello)
	case *Message_Welcome:
		p.welcome(&s, b.Welcome)
	case *Message_ScopeBegin:
		p.begin(&s, b.ScopeBegin)
	case *Message_ScopeEnd:
		delete(p.in, b.ScopeEnd.GetScope())
		s.Work = append(s.Work, Work{End: b.ScopeEnd})
	case *Message_Batch:
		p.take(&s, b.Batch)
	case *Message_Verdict:
		p.heard = p.counter // it comes out of the apply queue, as an echo does
		p.verdict(b.Verdict)
	case *Message_Credit:
		if o := p.out[b.Credit.GetScope()]; o != nil && o.generation == b.Credit.GetGeneration() {
			o.credit = min(o.credit+b.Credit.GetBatches(), p.window())
			p.flush(&s)
		}
	case *Message_Beat:
		p.heard = max(p.heard, min(b.Beat.GetEcho(), p.counter))
		s.Work = append(s.Work, Work{Echo: b.Beat.GetCounter()})
		s.Beats = append(s.Beats, b.Beat)
		p.compare(&s, b.Beat)
	case *Message_Observation:
		s.Facts = append(s.Facts, b.Observation)
	case *Message_CredentialRequest:
		s.Requests = append(s.Requests, b.CredentialRequest)
	case *Message_Credential:
		s.Issued = append(s.Issued, b.Credential)
	case *Message_GoAway:
		p.closed = true
		s.Closed = &RefusedError{
			Reason: b.GoAway.GetReason(), RetryAfter: time.Duration(b.GoAway.GetRetryAfterMs()) * time.Millisecond, Alternatives: b.GoAway.GetAlternatives(),
		}
	default:
		p.unknown++
	}
	return s
}

// fail ends the link because the peer broke the protocol.
func (p *Peer) fail(s *Step, err error) {
	p.closed = true
	s.send(&Message{Body: &Message_GoAway{&GoAway{Reason: err.Error()}}})
	s.Closed = err
}

func (p *Peer) greet(s *Step, h *Hello) {
	switch {
	case p.hello != nil:
		p.fail(s, errors.New("a second Hello came"))
		return
	case len(h.GetHave()) > maxScopes:
		p.fail(s, fmt.Errorf("the Hello lists more than %d scopes", maxScopes))
		return
	case h.GetProtocolMin() > Protocol || h.GetProtocolMax() < Protocol:
		p.refuse(s, &Welcome{Reason: fmt.Sprintf("the peer speaks protocol %d to %d, this end %d; upgrade the older one", h.GetProtocolMin(), h.GetProtocolMax(), Protocol)})
		return
	case p.cfg.Hello.GetExpectedLineage() != "" && p.cfg.Hello.GetExpectedLineage() != h.GetLineage().GetId():
		p.refuse(s, &Welcome{Reason: fmt.Sprintf("the peer has store %s, this end is joined to %s", h.GetLineage().GetId(), p.cfg.Hello.GetExpectedLineage())})
		return
	}
	var judged *Welcome
	if p.cfg.Judge != nil {
		judged = p.cfg.Judge(h)
	}
	if judged.GetOutcome() == Welcome_REFUSED {
		p.refuse(s, judged)
		return
	}
	p.hello, p.outcome = h, judged.GetOutcome()
	if !p.cfg.Zone {
		s.send(&Message{Body: &Message_Hello{p.cfg.Hello}})
	}
	have := map[string]*ScopeState{}
	for _, st := range h.GetHave() {
		have[st.GetScope()] = st
	}
	p.resolving, p.meanwhile = map[string]Resolve{}, map[string]map[string]Removal_Cause{}
	for _, scope := range p.cfg.Source.Scopes() {
		st := have[scope]
		delete(have, scope)
		if st.GetIncomplete() || st.GetPosition().GetLineage().GetId() == "" {
			p.start(scope, Resolution{How: ScopeBegin_SNAPSHOT, Why: "the receiver has no complete state"})
			continue
		}
		p.resolve(s, Resolve{Scope: scope, After: st.GetPosition()})
	}
	for _, scope := range slices.Sorted(maps.Keys(have)) {
		p.resolve(s, Resolve{Scope: scope, After: have[scope].GetPosition(), Gone: true})
	}
	p.answerHello(s)
}

func (p *Peer) refuse(s *Step, w *Welcome) {
	p.closed = true
	w.Outcome = Welcome_REFUSED
	s.send(&Message{Body: &Message_Welcome{w}})
	s.Closed = &RefusedError{Reason: w.GetReason(), RetryAfter: time.Duration(w.GetRetryAfterMs()) * time.Millisecond}
}

func (p *Peer) resolve(s *Step, r Resolve) {
	p.resolving[r.Scope] = r
	s.Resolve = append(s.Resolve, r)
}

// Resolved takes the answer to a Resolve.
func (p *Peer) Resolved(scope string, r Resolution) Step {
	var s Step
	asked, ok := p.resolving[scope]
	if !ok || p.closed {
		return s
	}
	delete(p.resolving, scope)
	defer delete(p.meanwhile, scope)
	switch {
	case asked.anew != "" && r.How != ScopeBegin_FORKED:
		// Whatever the peer has of before is of the history that it knows, and goes with the whole of what is there now.
		p.start(scope, Resolution{How: ScopeBegin_SNAPSHOT, Why: asked.anew})
	case !asked.Gone:
		if r.How == ScopeBegin_RESUME {
			p.start(scope, r)
			p.out[scope].resume(asked.After, p.head, p.meanwhile[scope])
		} else {
			p.start(scope, r)
		}
	case r.How == ScopeBegin_FORKED:
		// What this history never knew it cannot end: the receiver keeps what it has until somebody decides.
		p.start(scope, r)
	default:
		p.ends = append(p.ends, &ScopeEnd{Scope: scope, Cause: "it is not offered any more", At: r.To})
	}
	p.answerHello(&s)
	return s
}

// resume goes on from where the receiver is. The answer may be of a moment before what was told meanwhile, or ahead of what is known here: it is
// told as what is known, and what comes after that will be told yet. A receiver that is ahead itself has all of it.
func (o *sending) resume(after, known *Position, meanwhile map[string]Removal_Cause) {
	o.at, o.acked = after, after
	if known.GetRevision() <= after.GetRevision() {
		o.to = after
		clear(o.dirty)
		return
	}
	o.to = known
	maps.Copy(o.dirty, meanwhile)
}

// start makes a scope ready to be sent.
func (p *Peer) start(scope string, r Resolution) {
	p.begun++
	o := &sending{scope: scope, generation: p.begun, dirty: map[string]Removal_Cause{}, credit: p.window()}
	p.out[scope] = o
	p.begins = append(p.begins, &ScopeBegin{Scope: scope, How: r.How, Why: r.Why, Generation: o.generation})
	if r.How == ScopeBegin_RESUME {
		o.to = r.To
		maps.Copy(o.dirty, r.IDs)
		return
	}
	o.whole(p.cfg.Source.Cut(scope))
}

// whole makes a scope be sent in full.
func (o *sending) whole(c Cut) {
	o.run = &run{snapshot: true, items: c.Items, to: c.Position}
	o.to = c.Position
	clear(o.dirty)
}

// window is how many batches of a scope the peer takes at a time.
func (p *Peer) window() uint32 {
	return cmp.Or(p.hello.GetLimits().GetWindow(), DefaultWindow)
}

// answerHello welcomes the peer once it is known how every scope goes on.
func (p *Peer) answerHello(s *Step) {
	if len(p.resolving) > 0 || p.opened {
		return
	}
	p.opened = true
	slices.SortFunc(p.begins, func(a, b *ScopeBegin) int { return cmp.Compare(a.Scope, b.Scope) })
	s.send(&Message{Body: &Message_Welcome{&Welcome{Outcome: p.outcome, Scopes: p.begins}}})
	for _, e := range p.ends {
		s.send(&Message{Body: &Message_ScopeEnd{e}})
	}
	p.begins, p.ends = nil, nil
	s.Opened = p.welcomed
	p.flush(s)
}

func (p *Peer) welcome(s *Step, w *Welcome) {
	if w.GetOutcome() == Welcome_REFUSED {
		p.closed = true
		s.Closed = &RefusedError{Reason: w.GetReason(), RetryAfter: time.Duration(w.GetRetryAfterMs()) * time.Millisecond}
		return
	}
	if p.welcomed {
		p.fail(s, errors.New("a second Welcome came"))
		return
	}
	p.welcomed = true
	for _, b := range w.GetScopes() {
		p.begin(s, b)
	}
	s.Opened = p.opened && !p.closed
}

// begin takes that a scope of the peer begins or goes on.
func (p *Peer) begin(s *Step, b *ScopeBegin) {
	if len(p.in) >= maxScopes {
		p.fail(s, fmt.Errorf("more than %d scopes were begun", maxScopes))
		return
	}
	r := &receiving{generation: b.GetGeneration()}
	if b.GetHow() == ScopeBegin_RESUME {
		for _, st := range p.cfg.Hello.GetHave() {
			if st.GetScope() == b.GetScope() {
				r.at, r.applied = st.GetPosition(), st.GetPosition()
			}
		}
	}
	p.in[b.GetScope()] = r
	s.Work = append(s.Work, Work{Begin: b})
}

// take checks that a batch goes on where the last one ended.
func (p *Peer) take(s *Step, b *Batch) {
	r := p.in[b.GetScope()]
	switch {
	case r == nil || r.generation != b.GetGeneration():
		p.fail(s, fmt.Errorf("a batch of scope %q came, which was not begun", b.GetScope()))
		return
	case r.pending >= cmp.Or(p.cfg.Hello.GetLimits().GetWindow(), DefaultWindow):
		p.fail(s, fmt.Errorf("scope %q: more batches came than were allowed", b.GetScope()))
		return
	case b.GetPart() != r.part:
		p.fail(s, fmt.Errorf("scope %q: part %d came, part %d was expected", b.GetScope(), b.GetPart(), r.part))
		return
	case r.part == 0 && !b.GetSnapshot() && !SamePosition(b.GetFrom(), r.at):
		p.fail(s, fmt.Errorf("scope %q: a batch from revision %d came, revision %d was expected", b.GetScope(), b.GetFrom().GetRevision(), r.at.GetRevision()))
		return
	case r.part > 0 && (b.GetSnapshot() != r.whole || !SamePosition(b.GetTo(), r.to)):
		p.fail(s, fmt.Errorf("scope %q: part %d belongs to another batch", b.GetScope(), b.GetPart()))
		return
	}
	r.pending++
	if b.GetLast() {
		r.at, r.part = b.GetTo(), 0
	} else {
		r.part, r.to, r.whole = r.part+1, b.GetTo(), b.GetSnapshot()
	}
	s.Work = append(s.Work, Work{Batch: b})
}

// Applied takes that the apply queue is done with something; v is the verdict about a batch.
func (p *Peer) Applied(w Work, v *Verdict) Step {
	var s Step
	switch {
	case p.closed:
	case w.Echo > 0:
		p.echo = max(p.echo, w.Echo)
	case w.Batch != nil:
		scope := w.Batch.GetScope()
		r := p.in[scope]
		if r == nil || r.generation != w.Batch.GetGeneration() {
			return s // the scope has ended meanwhile
		}
		r.pending--
		if w.Batch.GetLast() {
			r.applied = w.Batch.GetTo()
		}
		v.Generation = r.generation
		s.send(&Message{Body: &Message_Verdict{v}})
		s.send(&Message{Body: &Message_Credit{&Credit{Scope: scope, Batches: 1, Generation: r.generation}}})
	}
	return s
}

func (p *Peer) verdict(v *Verdict) {
	o := p.out[v.GetScope()]
	if o == nil || o.generation != v.GetGeneration() {
		return
	}
	o.rejected = v.GetRejected()
	if v.GetLast() {
		o.acked = v.GetTo()
	}
}

// Changed takes that objects of a scope have changed, or with a cause other than deletion are not for the peer any more.
func (p *Peer) Changed(scope string, to *Position, ids map[string]Removal_Cause) Step {
	var s Step
	o := p.out[scope]
	if _, asked := p.resolving[scope]; asked && o == nil {
		if p.meanwhile[scope] == nil {
			p.meanwhile[scope] = map[string]Removal_Cause{}
		}
		maps.Copy(p.meanwhile[scope], ids)
	}
	if p.closed || o == nil || o.run == nil && SameLineage(o.at.GetLineage(), to.GetLineage()) && to.GetRevision() <= o.at.GetRevision() {
		return s // nobody is there, or further already
	}
	o.to = to
	maps.Copy(o.dirty, ids)
	p.flush(&s)
	return s
}

// Head takes that every change up to a position was told.
func (p *Peer) Head(to *Position) { p.head = to }

// Begun takes that a scope is offered from now on.
func (p *Peer) Begun(scope, why string) Step {
	var s Step
	if p.closed || p.hello == nil || p.out[scope] != nil {
		return s
	}
	if asked, ok := p.resolving[scope]; ok {
		if asked.Gone {
			asked.Gone, asked.anew = false, why
			p.resolving[scope] = asked
		}
		return s
	}
	p.start(scope, Resolution{How: ScopeBegin_SNAPSHOT, Why: why})
	if p.opened {
		s.send(&Message{Body: &Message_ScopeBegin{p.begins[0]}})
		p.begins = nil
		p.flush(&s)
	}
	return s
}

// Ended takes that a scope is not offered any more.
func (p *Peer) Ended(scope, cause string, at *Position) Step {
	var s Step
	if asked, ok := p.resolving[scope]; ok && p.out[scope] == nil {
		// Whether the peer can be told of the end, the answer says.
		asked.Gone, asked.anew = true, ""
		p.resolving[scope] = asked
		delete(p.meanwhile, scope)
		return s
	}
	if p.closed || p.out[scope] == nil {
		return s
	}
	delete(p.out, scope)
	end := &ScopeEnd{Scope: scope, Cause: cause, At: at}
	if !p.opened {
		p.begins = slices.DeleteFunc(p.begins, func(b *ScopeBegin) bool { return b.Scope == scope })
		p.ends = append(p.ends, end)
		return s
	}
	s.send(&Message{Body: &Message_ScopeEnd{end}})
	return s
}

// flush sends what there is, as far as the peer allows. Scopes take turns, so that a large one does not hold up the others.
func (p *Peer) flush(s *Step) {
	if !p.opened {
		return
	}
	scopes := slices.Sorted(maps.Keys(p.out))
	for more := true; more; {
		more = false
		for _, scope := range scopes {
			if b := p.out[scope].next(p.cfg.Source, p.cfg.MaxBatch); b != nil {
				s.send(&Message{Body: &Message_Batch{b}})
				more = true
			}
		}
	}
}

// next makes the next batch of a scope, nil when there is none or the peer allows none.
func (o *sending) next(src Source, limit int) *Batch {
	if o.credit == 0 {
		return nil
	}
	if o.run == nil {
		if len(o.dirty) == 0 {
			return nil
		}
		o.run = &run{ids: slices.Sorted(maps.Keys(o.dirty)), causes: o.dirty, from: o.at, to: o.to}
		o.dirty = map[string]Removal_Cause{}
	}
	r := o.run
	b := &Batch{Scope: o.scope, From: r.from, To: r.to, Snapshot: r.snapshot, Part: r.part, Generation: o.generation}
	size := 0
	room := func(n int) bool {
		if size > 0 && size+n > limit {
			return false
		}
		size += n
		return true
	}
	for len(r.items) > 0 && room(len(r.items[0].Encoded)) {
		b.Upserts = append(b.Upserts, r.items[0].Encoded)
		r.items = r.items[1:]
	}
	for len(r.ids) > 0 {
		id := r.ids[0]
		it, ok := src.Item(o.scope, id)
		switch {
		case !ok && room(len(id)+64):
			b.Removals = append(b.Removals, &Removal{Id: id, Revision: r.to.GetRevision(), Cause: r.causes[id]})
		case ok && room(len(it.Encoded)):
			b.Upserts = append(b.Upserts, it.Encoded)
		default:
			o.part()
			return b
		}
		r.ids = r.ids[1:]
	}
	if len(r.items) > 0 {
		o.part()
		return b
	}
	b.Last = true
	o.credit--
	o.at, o.run = r.to, nil
	return b
}

func (o *sending) part() {
	o.run.part++
	o.credit--
}

// compare finds a receiver that is where this end is and holds something else, which is a bug somewhere: it gets everything again.
func (p *Peer) compare(s *Step, b *Beat) {
	for _, st := range b.GetApplied() {
		o := p.out[st.GetScope()]
		if o == nil || len(st.GetDigest()) == 0 || !o.quiet() || !SamePosition(st.GetPosition(), o.at) {
			continue
		}
		c := p.cfg.Source.Cut(st.GetScope())
		if !SamePosition(c.Position, p.head) || string(c.Digest().Bytes()) == string(st.GetDigest()) {
			continue
		}
		p.start(o.scope, Resolution{How: ScopeBegin_SNAPSHOT, Why: "the digests differ"})
		s.send(&Message{Body: &Message_ScopeBegin{p.begins[0]}})
		p.begins = nil
	}
	p.flush(s)
}

func (o *sending) quiet() bool {
	return o.run == nil && len(o.dirty) == 0 && SamePosition(o.at, o.acked)
}

// Tick is called at every interval of the beat with what this end has to say; the peer is dead when it has missed too many.
func (p *Peer) Tick(status *Beat) Step {
	var s Step
	switch {
	case p.closed:
	case p.counter > p.heard+p.cfg.Misses:
		p.fail(&s, ErrDead)
	case p.hello == nil: // nothing goes before the Hello
		p.counter++
	default:
		p.counter++
		p.beat(&s, status)
		p.advance(&s)
	}
	return s
}

// advanceAfter is how far the history may run ahead of a scope in which nothing changes before its receiver is told so: its cursor must
// not fall behind what the history retains.
const advanceAfter = 1000

// advance moves the cursors of quiet scopes, with a batch that holds nothing.
func (p *Peer) advance(s *Step) {
	for _, scope := range slices.Sorted(maps.Keys(p.out)) {
		o := p.out[scope]
		if o.credit == 0 || !o.quiet() || !SameLineage(o.at.GetLineage(), p.head.GetLineage()) || p.head.GetRevision() < o.at.GetRevision()+advanceAfter {
			continue
		}
		o.credit--
		s.send(&Message{Body: &Message_Batch{&Batch{Scope: scope, From: o.at, To: p.head, Last: true, Generation: o.generation}}})
		o.at = p.head
	}
}

// Tell sends the status between two ticks.
func (p *Peer) Tell(status *Beat) Step {
	var s Step
	if !p.closed && p.opened {
		p.beat(&s, status)
	}
	return s
}

func (p *Peer) beat(s *Step, status *Beat) {
	status.Counter, status.Echo = p.counter, p.echo
	s.send(&Message{Body: &Message_Beat{status}})
}

// Observe sends observations; all says that facts which are not listed are gone.
func (p *Peer) Observe(facts []*Fact, all bool) Step {
	var s Step
	if p.closed || !p.opened {
		return s
	}
	p.sequence++
	s.send(&Message{Body: &Message_Observation{&Observation{Sequence: p.sequence, Facts: facts, All: all}}})
	return s
}

// A Progress says how far one scope is at the receiver.
type Progress struct {
	// Sent is where the receiver will be, Durable what it has confirmed.
	Sent, Durable *Position
	// Outstanding says that something is to be sent or confirmed.
	Outstanding bool
	// Rejected are the objects that the receiver has set aside.
	Rejected []*Rejected
}

// Progress is how far every scope is that this end sends.
func (p *Peer) Progress() map[string]Progress {
	out := make(map[string]Progress, len(p.out))
	for scope, o := range p.out {
		out[scope] = Progress{Sent: o.at, Durable: o.acked, Outstanding: !o.quiet(), Rejected: o.rejected}
	}
	return out
}

// AppliedScopes are the positions of the peer's data that are applied here, by scope.
func (p *Peer) AppliedScopes() map[string]*Position {
	out := make(map[string]*Position, len(p.in))
	for scope, r := range p.in {
		out[scope] = r.applied
	}
	return out
}

// PeerHello is what the peer said of itself; nil before it did.
func (p *Peer) PeerHello() *Hello { return p.hello }

// Ignored counts messages of kinds that this version does not know.
func (p *Peer) Ignored() uint64 { return p.unknown }
