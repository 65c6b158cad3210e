// Package link runs one end of a link between the global control plane and a zone: it moves messages between a stream and the pure
// state machine of package zonesync, feeds it with changes, and keeps the apply queue. It opens no connection, decides about no
// credential, and knows neither zones nor proxies.
package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/exchange"
)

// A Stream carries messages; a gRPC stream of either side is one.
type Stream interface {
	Send(*zonesync.Message) error
	Recv() (*zonesync.Message, error)
}

// An Offer is what this end offers to its peer.
type Offer interface {
	// View shows what is offered at a position; Next tells about everything after it.
	View() (zonesync.Source, *zonesync.Position)
	// Since says what changed in a scope since a position that the peer has.
	Since(ctx context.Context, scope string, after *zonesync.Position) (exchange.Changes, error)
	// Next waits for changes of what is offered.
	Next(ctx context.Context) (exchange.Changes, error)
}

// A Sink applies what the peer sends; Apply and End return when that is durable.
type Sink interface {
	Begin(b *zonesync.ScopeBegin, lineage *zonesync.Lineage)
	Apply(ctx context.Context, b *zonesync.Batch) (*zonesync.Verdict, error)
	End(ctx context.Context, e *zonesync.ScopeEnd) error
}

// Config of one end.
type Config struct {
	Peer  zonesync.Config // without its Source
	Offer Offer
	Sink  Sink

	// Status is what this end says in its beats. It is called by the owner of the link, and only then.
	Status func() *zonesync.Beat
	// Wake holds a token when the status should be told at once. Nil: only with the beats.
	Wake <-chan struct{}
	// Facts are the observations for the peer: what changed since the last call, or all at the first one. They are asked for when
	// FactsReady holds a token. Nil: there are none.
	Facts      func(all bool) []*zonesync.Fact
	FactsReady <-chan struct{}

	// What comes from the peer; nil ignores it. All are called by the owner of the link and must not wait.
	OnOpen  func(peer *zonesync.Hello)
	OnFacts func(*zonesync.Observation)
	OnBeat  func(*zonesync.Beat)
	// OnProgress is told how far the peer is, and up to where this end has told it everything.
	OnProgress func(head *zonesync.Position, scopes map[string]zonesync.Progress)
	// OnRequest answers a request for a credential, OnCredential takes one.
	OnRequest    func(*zonesync.CredentialRequest) *zonesync.Credential
	OnCredential func(*zonesync.Credential)
	// Outgoing are messages that others want to send, such as requests for a credential. Nil: nobody does.
	Outgoing <-chan *zonesync.Message

	// BeatEvery is the interval of beats. Default 5s.
	BeatEvery time.Duration
	// RetryApply is how long to wait before something is applied again that could not be made durable. Default 500ms.
	RetryApply time.Duration
	// OpenTimeout bounds how long the peer may take to say Hello and Welcome. Default 15s.
	OpenTimeout time.Duration
	Log         *slog.Logger
}

// ErrOpenTimeout is a peer that did not finish its greeting.
var ErrOpenTimeout = errors.New("the peer did not say Hello and Welcome in time")

// farewell bounds how long the last messages of a link may take.
const farewell = 2 * time.Second

// Run serves a link until it ends, and says why: a *zonesync.RefusedError, zonesync.ErrDead, or what broke. A clean end of the
// stream is an error too: nobody leaves without a word. The caller ends the stream when Run has returned.
func Run(ctx context.Context, cfg Config, stream Stream) error {
	if cfg.BeatEvery <= 0 {
		cfg.BeatEvery = 5 * time.Second
	}
	if cfg.RetryApply <= 0 {
		cfg.RetryApply = 500 * time.Millisecond
	}
	if cfg.OpenTimeout <= 0 {
		cfg.OpenTimeout = 15 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	l := &link{
		cfg: cfg, source: &source{},
		in: make(chan received), out: make(chan *zonesync.Message),
		work: make(chan zonesync.Work), done: make(chan applied),
		ask: make(chan zonesync.Resolve), answers: make(chan resolved),
		changes: make(chan exchange.Changes),
	}
	l.source.Source, l.head = cfg.Offer.View()
	cfg.Peer.Source = l.source
	l.peer = zonesync.NewPeer(cfg.Peer)
	l.peer.Head(l.head)
	g, inner := errgroup.WithContext(ctx)
	g.Go(func() error { return l.write(inner, stream) })
	g.Go(func() error { return l.apply(inner) })
	g.Go(func() error { return l.resolve(inner) })
	g.Go(func() error { return l.follow(inner) })
	g.Go(func() error { return l.loop(inner) })
	// Recv ends only with the stream, whose owner is the caller: it is not waited for.
	go l.read(inner, stream)
	err := g.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// link is the state of a running link; peer and the queues belong to loop.
type link struct {
	cfg    Config
	peer   *zonesync.Peer
	source *source
	head   *zonesync.Position // everything up to here was told to the peer's state machine
	heard  atomic.Pointer[zonesync.Lineage]

	in      chan received
	out     chan *zonesync.Message
	work    chan zonesync.Work
	done    chan applied
	ask     chan zonesync.Resolve
	answers chan resolved
	changes chan exchange.Changes

	outbox []*zonesync.Message
	jobs   []zonesync.Work
	asks   []zonesync.Resolve
	echoed uint64 // the newest beat of the peer that was answered
	opened bool
	told   bool  // the peer has had all facts once
	closed error // why the link ends, once everything is sent
}

// source is what is offered at the moment that the state machine knows of.
type source struct{ zonesync.Source }

type applied struct {
	work    zonesync.Work
	verdict *zonesync.Verdict
}

type resolved struct {
	scope      string
	resolution zonesync.Resolution
}

// brokenError is a stream that ended without a word.
type brokenError struct{ cause error }

func (e brokenError) Error() string { return "the connection ended: " + e.cause.Error() }
func (e brokenError) Unwrap() error { return e.cause }

// received is a message, or why none comes any more.
type received struct {
	message *zonesync.Message
	err     error
}

// read hands on what comes.
func (l *link) read(ctx context.Context, stream Stream) {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		select {
		case l.in <- received{m, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// write sends what the loop gives it. A peer that reads slowly holds up only this.
func (l *link) write(ctx context.Context, stream Stream) error {
	for {
		select {
		case m := <-l.out:
			if err := stream.Send(m); err != nil {
				return brokenError{err}
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// apply is the apply queue: one thing after the other, each until it is durable.
func (l *link) apply(ctx context.Context) error {
	for {
		var w zonesync.Work
		select {
		case w = <-l.work:
		case <-ctx.Done():
			return nil
		}
		a := applied{work: w}
		for {
			var err error
			switch {
			case w.Begin != nil:
				l.cfg.Sink.Begin(w.Begin, l.heard.Load())
			case w.End != nil:
				err = l.cfg.Sink.End(ctx, w.End)
			case w.Batch != nil:
				a.verdict, err = l.cfg.Sink.Apply(ctx, w.Batch)
			}
			if err == nil {
				break
			}
			switch {
			case ctx.Err() != nil:
				return nil
			case errors.Is(err, exchange.ErrOutOfStep) || errors.Is(err, exchange.ErrMalformed) || errors.Is(err, store.ErrFenced):
				return fmt.Errorf("apply what came from the peer: %w", err)
			}
			l.cfg.Log.Warn("what came from the peer cannot be made durable and is tried again; nothing is acknowledged meanwhile", "in", l.cfg.RetryApply, "err", err)
			if !sleep(ctx, l.cfg.RetryApply) {
				return nil
			}
		}
		select {
		case l.done <- a:
		case <-ctx.Done():
			return nil
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// resolve finds out what changed since positions that the peer has, one scope after the other.
func (l *link) resolve(ctx context.Context) error {
	for {
		var r zonesync.Resolve
		select {
		case r = <-l.ask:
		case <-ctx.Done():
			return nil
		}
		answer, err := l.since(ctx, r)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("find out what changed in %s: %w", r.Scope, err)
		}
		select {
		case l.answers <- resolved{r.Scope, answer}:
		case <-ctx.Done():
			return nil
		}
	}
}

func (l *link) since(ctx context.Context, r zonesync.Resolve) (zonesync.Resolution, error) {
	ch, err := l.cfg.Offer.Since(ctx, r.Scope, r.After)
	switch {
	case errors.Is(err, store.ErrForked):
		return zonesync.Resolution{How: zonesync.ScopeBegin_FORKED, Why: "the position of the receiver is no part of this history"}, nil
	case errors.Is(err, store.ErrCompacted):
		return zonesync.Resolution{How: zonesync.ScopeBegin_SNAPSHOT, Why: "history does not reach back that far"}, nil
	case err != nil:
		return zonesync.Resolution{}, err
	}
	return zonesync.Resolution{How: zonesync.ScopeBegin_RESUME, To: ch.To, IDs: ch.IDs[r.Scope]}, nil
}

// follow hands on changes of what is offered.
func (l *link) follow(ctx context.Context) error {
	for {
		ch, err := l.cfg.Offer.Next(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("follow what is offered: %w", err)
		}
		select {
		case l.changes <- ch:
		case <-ctx.Done():
			return nil
		}
	}
}

// loop owns the state machine. It wakes for: messages, what is applied and resolved, changes of what is offered, news of the status
// and of facts, messages of others, and the beat. What is to be sent, applied and resolved is handed on whenever somebody takes it.
func (l *link) loop(ctx context.Context) error {
	beat := time.NewTicker(l.cfg.BeatEvery)
	defer beat.Stop()
	opening := time.NewTimer(l.cfg.OpenTimeout)
	defer opening.Stop()
	l.take(l.peer.Open())
	for l.closed == nil {
		moved := false
		out, first := queue(l.out, l.outbox)
		work, job := queue(l.work, l.jobs)
		ask, question := queue(l.ask, l.asks)
		facts := l.cfg.FactsReady
		if !l.opened || len(l.outbox) > 0 {
			facts = nil // a peer that reads slowly gets fewer, newer facts
		}
		select {
		case <-ctx.Done():
			return nil
		case out <- first:
			l.outbox = l.outbox[1:]
		case work <- job:
			l.jobs = l.jobs[1:]
		case ask <- question:
			l.asks = l.asks[1:]
		case r := <-l.in:
			if r.err != nil {
				return brokenError{r.err}
			}
			if h := r.message.GetHello(); h != nil {
				l.heard.CompareAndSwap(nil, h.GetLineage())
			}
			moved = r.message.GetVerdict() != nil || r.message.GetWelcome() != nil
			l.take(l.peer.Receive(r.message))
		case a := <-l.done:
			l.take(l.peer.Applied(a.work, a.verdict))
			if a.work.Echo > l.echoed { // at once: the peer may beat faster than this end
				l.echoed = a.work.Echo
				l.take(l.peer.Tell(l.cfg.Status()))
			}
		case r := <-l.answers:
			l.take(l.peer.Resolved(r.scope, r.resolution))
		case ch := <-l.changes:
			l.change(ch)
			moved = true
		case <-l.cfg.Wake:
			l.take(l.peer.Tell(l.cfg.Status()))
		case <-facts:
			l.tellFacts()
		case m := <-l.cfg.Outgoing:
			l.outbox = append(l.outbox, m)
		case <-beat.C:
			l.take(l.peer.Tick(l.cfg.Status()))
		case <-opening.C:
			if !l.opened {
				return ErrOpenTimeout
			}
		}
		if moved && l.opened && l.cfg.OnProgress != nil {
			l.cfg.OnProgress(l.head, l.peer.Progress())
		}
	}
	l.sayGoodbye(ctx)
	return l.closed
}

// queue is a channel and the first of what waits for it; nil when nothing waits.
func queue[T any](to chan T, waiting []T) (chan T, T) {
	var none T
	if len(waiting) == 0 {
		return nil, none
	}
	return to, waiting[0]
}

// sayGoodbye sends what is left, within a time: mostly the reason.
func (l *link) sayGoodbye(ctx context.Context) {
	late := time.NewTimer(farewell)
	defer late.Stop()
	for _, m := range l.outbox {
		select {
		case l.out <- m:
		case <-late.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// take does what the state machine wants.
func (l *link) take(s zonesync.Step) {
	l.outbox = append(l.outbox, s.Send...)
	l.jobs = append(l.jobs, s.Work...)
	l.asks = append(l.asks, s.Resolve...)
	for _, o := range s.Facts {
		if l.cfg.OnFacts != nil {
			l.cfg.OnFacts(o)
		}
	}
	for _, r := range s.Requests {
		if l.cfg.OnRequest != nil {
			l.outbox = append(l.outbox, &zonesync.Message{Body: &zonesync.Message_Credential{Credential: l.cfg.OnRequest(r)}})
		}
	}
	for _, c := range s.Issued {
		if l.cfg.OnCredential != nil {
			l.cfg.OnCredential(c)
		}
	}
	for _, b := range s.Beats {
		if l.cfg.OnBeat != nil {
			l.cfg.OnBeat(b)
		}
	}
	if s.Opened {
		l.opened = true
		if l.cfg.OnOpen != nil {
			l.cfg.OnOpen(l.peer.PeerHello())
		}
		l.take(l.peer.Tell(l.cfg.Status()))
		l.tellFacts()
	}
	if s.Closed != nil {
		l.closed = s.Closed
	}
}

func (l *link) tellFacts() {
	if l.cfg.Facts == nil {
		return
	}
	if facts := l.cfg.Facts(!l.told); len(facts) > 0 || !l.told {
		l.take(l.peer.Observe(facts, !l.told))
	}
	l.told = true
}

// change tells the state machine what is new in what is offered.
func (l *link) change(ch exchange.Changes) {
	l.source.Source, l.head = ch.View, ch.To
	for _, scope := range ch.Ended {
		l.take(l.peer.Ended(scope, "it is not offered any more", ch.To))
	}
	for _, scope := range ch.Begun {
		l.take(l.peer.Begun(scope, "it is new"))
	}
	for scope, ids := range ch.IDs {
		l.take(l.peer.Changed(scope, ch.To, ids))
	}
	l.peer.Head(ch.To)
}
