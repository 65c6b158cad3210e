package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/global-cp/access"
	"github.com/causeway-mesh/causeway/global-cp/insight"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/exchange"
	"github.com/causeway-mesh/causeway/store/link"
)

// zoneLink is the life of one link.
type zoneLink struct {
	hub      *Hub
	cred     access.Credential
	cancel   context.CancelCauseFunc
	admitted func() // lets the next zone begin
	// renewed takes how long a new certificate may be used.
	renewed chan time.Duration
	log     *slog.Logger

	live   *live
	conn   *insight.Conn
	fence  *fence
	summed time.Time
}

// leaseFor is how long the lease of a link lasts: another instance of global can take a zone over after that.
const leaseFor = 15 * time.Second

// run speaks with the zone. The Hello comes first: it says which meshes the zone serves, so that what is offered can be known.
func (z *zoneLink) run(ctx context.Context, stream zonesync.Link_SyncServer) error {
	hello, err := firstHello(ctx, stream)
	if err != nil {
		return err
	}
	if refusal := z.judge(hello); refusal != nil {
		return refuse(stream, refusal)
	}
	live, replaced, refusal := z.hub.claim(z.cred.ZoneID, hello.GetSession(), z.cancel)
	if refusal != "" {
		return refuse(stream, &zonesync.Welcome{Reason: refusal, RetryAfterMs: 1000})
	}
	z.live = live
	defer z.hub.release(z.cred.ZoneID, live)
	z.fence, err = z.hub.lease(ctx, z.cred.ZoneID, hello.GetSession())
	if errors.Is(err, store.ErrFenced) {
		return refuse(stream, &zonesync.Welcome{Reason: "another instance of global has a link of this zone", RetryAfterMs: 2000})
	}
	if err != nil {
		return fmt.Errorf("take the lease of the link: %w", err)
	}
	defer z.fence.release(ctx)
	sink, err := exchange.NewSink(exchange.SinkConfig{
		Catalog: z.hub.cfg.Catalog, From: exchange.Party{Zone: z.cred.Zone, ID: z.cred.ZoneID}, Features: z.hub.cfg.Features,
		Bounds: z.hub.cfg.Bounds, Log: z.log, Fence: z.fence.current,
	})
	if err != nil {
		return err
	}
	if _, err := sink.Rejudge(ctx); err != nil {
		z.log.Warn("objects that were set aside cannot be judged again now", "err", err)
	}
	to := exchange.Peer{ToZone: z.cred.Zone, Meshes: hello.GetMeshes()}
	offer := link.NewOffered(z.hub.cfg.Offers, to)
	defer offer.Close()
	facts := z.hub.cfg.Board.FactsFor(z.cred.Zone)
	defer facts.Close()
	z.conn = z.hub.cfg.Board.Connected(z.cred.Zone, hello)
	defer z.conn.Ended()
	outcome := zonesync.Welcome_ACCEPTED
	if replaced {
		outcome = zonesync.Welcome_REPLACED
	}
	return link.Run(ctx, link.Config{
		Peer: zonesync.Config{
			Hello: z.hub.hello(sink, z.cred),
			Judge: func(*zonesync.Hello) *zonesync.Welcome { return &zonesync.Welcome{Outcome: outcome} },
		},
		Offer: offer, Sink: sink,
		Status: func() *zonesync.Beat { return z.status(ctx, sink) },
		Facts:  facts.Next, FactsReady: facts.Ready(),
		OnOpen: func(h *zonesync.Hello) {
			z.admitted()
			z.log.Info("a zone is linked", "session", h.GetSession(), "instance", h.GetInstance(), "software", h.GetSoftware())
		},
		OnFacts: z.conn.Observed, OnBeat: z.conn.Beat, OnProgress: z.conn.Progress,
		OnRequest: func(r *zonesync.CredentialRequest) *zonesync.Credential { return z.renew(ctx, r) },
		BeatEvery: z.hub.cfg.BeatEvery, Log: z.log,
	}, &replayed{stream, hello})
}

// firstHello waits for the first message, which must be a Hello.
func firstHello(ctx context.Context, stream zonesync.Link_SyncServer) (*zonesync.Hello, error) {
	type result struct {
		m   *zonesync.Message
		err error
	}
	got := make(chan result, 1)
	go func() { // ends with the stream, at the latest when the handler returns
		m, err := stream.Recv()
		got <- result{m, err}
	}()
	late := time.NewTimer(10 * time.Second)
	defer late.Stop()
	select {
	case r := <-got:
		if r.err != nil {
			return nil, fmt.Errorf("wait for the Hello: %w", r.err)
		}
		if r.m.GetHello() == nil {
			return nil, errors.New("the first message is no Hello")
		}
		return r.m.GetHello(), nil
	case <-late.C:
		return nil, link.ErrOpenTimeout
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// replayed is a stream whose first message was read already.
type replayed struct {
	zonesync.Link_SyncServer
	first *zonesync.Hello
}

// Recv implements link.Stream.
func (r *replayed) Recv() (*zonesync.Message, error) {
	if h := r.first; h != nil {
		r.first = nil
		return &zonesync.Message{Body: &zonesync.Message_Hello{Hello: h}}, nil
	}
	return r.Link_SyncServer.Recv()
}

func refuse(stream zonesync.Link_SyncServer, w *zonesync.Welcome) error {
	w.Outcome = zonesync.Welcome_REFUSED
	_ = stream.Send(&zonesync.Message{Body: &zonesync.Message_Welcome{Welcome: w}}) // the zone may be gone; the status says it again
	return &zonesync.RefusedError{Reason: w.GetReason(), RetryAfter: time.Duration(w.GetRetryAfterMs()) * time.Millisecond}
}

// judge says why a zone is not who its credential says it is.
func (z *zoneLink) judge(h *zonesync.Hello) *zonesync.Welcome {
	joined := z.hub.cfg.Access.Lineage(z.cred.ZoneID)
	switch {
	case h.GetZoneId() != z.cred.ZoneID || h.GetZone() != z.cred.Zone:
		return &zonesync.Welcome{Reason: fmt.Sprintf("the Hello is of zone %s (%s), the certificate of zone %s (%s)", h.GetZone(), h.GetZoneId(), z.cred.Zone, z.cred.ZoneID)}
	case joined != "" && h.GetLineage().GetId() != joined:
		return &zonesync.Welcome{Reason: fmt.Sprintf(
			"the store of this zone is %s, the zone joined with store %s: two installations share a name, or the store was replaced; let the right one join again with a new token",
			h.GetLineage().GetId(), joined)}
	}
	return nil
}

func (h *Hub) hello(sink *exchange.Sink, cred access.Credential) *zonesync.Hello {
	var kinds []string
	for _, k := range h.cfg.Catalog.Kinds().All() {
		kinds = append(kinds, k.Name)
	}
	return &zonesync.Hello{
		ProtocolMin: zonesync.Protocol, ProtocolMax: zonesync.Protocol, Zone: cred.Zone, ZoneId: cred.ZoneID, Instance: h.cfg.Instance,
		Lineage: exchange.LineageOf(h.cfg.Catalog.Snapshot().Position().Lineage), Have: sink.Have(),
		Features: h.cfg.Features, Kinds: kinds, Software: h.cfg.Version, ClockMs: time.Now().UnixMilli(),
		Limits: &zonesync.Limits{Window: zonesync.DefaultWindow, MaxObject: store.MaxData, MaxBatch: MaxMessage},
	}
}

// digestEvery is how often what is held of the zone is summed up, for the zone to compare.
const digestEvery = 2 * time.Minute

// status is what global says of itself: now and then what it holds of the zone's data. It also keeps the lease.
func (z *zoneLink) status(ctx context.Context, sink *exchange.Sink) *zonesync.Beat {
	z.fence.renew(ctx, func(err error) { z.cancel(fmt.Errorf("the lease of the link is lost: %w", err)) })
	b := &zonesync.Beat{ClockMs: time.Now().UnixMilli()}
	if time.Since(z.summed) > digestEvery {
		z.summed = time.Now()
		b.Applied = sink.Have()
	}
	return b
}

// renew answers a request for the next client certificate.
func (z *zoneLink) renew(ctx context.Context, r *zonesync.CredentialRequest) *zonesync.Credential {
	signed, err := z.hub.cfg.Access.Renew(z.cred, r.GetRequest())
	if err != nil {
		z.log.Warn("the credential of a zone is not renewed", "err", err)
		return &zonesync.Credential{Error: err.Error()}
	}
	select {
	case z.renewed <- signed.Lifetime + access.Grace:
	case <-ctx.Done():
	}
	return &zonesync.Credential{Chain: signed.Chain, LifetimeMs: signed.Lifetime.Milliseconds()}
}
