// Package hub is global's side of the links to its zones: it admits zones that join, lets one link of each zone live, and joins the
// links with what is offered to zones, what zones send and what is observed of them. It decides nothing about resources, and
// moves messages only: the protocol itself is package zonesync.
package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/api/inquiry"
	"github.com/causeway-mesh/causeway/api/pki"
	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/global-cp/access"
	"github.com/causeway-mesh/causeway/global-cp/insight"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/exchange"
)

// Config of a Hub.
type Config struct {
	Access  *access.Authority
	Catalog *catalog.Catalog
	Store   store.Store
	Offers  *exchange.Offers
	Board   *insight.Board
	// Instance is this process, Version its software.
	Instance string
	Version  string
	// Alone says that no other instance can have the store open.
	Alone    bool
	Bounds   exchange.Bounds
	Features []string
	// BeatEvery is the interval of beats. Default 5s.
	BeatEvery time.Duration
	// MaxOpening is how many zones may begin their links at a time: after a restart of global all come back at once. Default 32.
	MaxOpening int
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// A Hub serves the links of zones.
type Hub struct {
	zonesync.UnimplementedLinkServer
	inquiry.UnimplementedInquiryServer
	cfg     Config
	opening chan struct{}
	budget  *inquiry.Budget

	mu    sync.Mutex
	links map[string]*live // by zone id
	desks map[string]*inquiry.Desk
}

// live is the one link of a zone.
type live struct {
	session uint64
	cancel  context.CancelCauseFunc
	ended   chan struct{}
}

// New makes a hub.
func New(cfg Config) *Hub {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.BeatEvery <= 0 {
		cfg.BeatEvery = 5 * time.Second
	}
	if cfg.MaxOpening <= 0 {
		cfg.MaxOpening = 32
	}
	h := &Hub{cfg: cfg, links: map[string]*live{}, desks: map[string]*inquiry.Desk{}, opening: make(chan struct{}, cfg.MaxOpening), budget: inquiry.NewBudget(answerBudget)}
	h.register(cfg.Registerer)
	return h
}

// MaxMessage bounds a message of a zone, in bytes.
const MaxMessage = 8 << 20

// ServerOptions are those of the gRPC server, beside its TLS.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.WaitForHandlers(true), // a link gives its lease back before the store is closed
		grpc.MaxConcurrentStreams(16),
		grpc.ConnectionTimeout(10 * time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
}

// Register offers the hub on a gRPC server whose TLS is that of package access.
func (h *Hub) Register(r grpc.ServiceRegistrar) {
	zonesync.RegisterLinkServer(r, h)
	inquiry.RegisterInquiryServer(r, h)
}

// Join implements zonesync.LinkServer.
func (h *Hub) Join(ctx context.Context, req *zonesync.JoinRequest) (*zonesync.JoinReply, error) {
	joined, err := h.cfg.Access.Join(ctx, req.GetToken(), req.GetLineage().GetId(), req.GetRequest())
	var bad *pki.RequestError
	switch {
	case errors.Is(err, access.ErrRefused):
		h.cfg.Log.Warn("a zone may not join", "err", err)
		return nil, status.Error(codes.PermissionDenied, err.Error())
	case errors.As(err, &bad):
		return nil, status.Error(codes.InvalidArgument, err.Error())
	case err != nil:
		h.cfg.Log.Error("a zone cannot join", "err", err)
		return nil, status.Error(codes.Unavailable, "global cannot write to its store now; try again")
	}
	return &zonesync.JoinReply{
		Zone: joined.Zone, ZoneId: joined.ZoneID, Chain: joined.Chain, LifetimeMs: joined.Lifetime.Milliseconds(),
		Lineage: exchange.LineageOf(h.cfg.Catalog.Snapshot().Position().Lineage), ClockMs: time.Now().UnixMilli(),
	}, nil
}

// Sync implements zonesync.LinkServer: the life of one link.
func (h *Hub) Sync(stream zonesync.Link_SyncServer) error {
	cred, left, err := h.credentialOf(stream.Context())
	if err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	if err := h.cfg.Access.Check(cred); err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	select { // admission: those who wait hold nothing but their connection
	case h.opening <- struct{}{}:
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
	var once sync.Once
	admitted := func() { once.Do(func() { <-h.opening }) }
	defer admitted()
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	z := &zoneLink{hub: h, cred: cred, cancel: cancel, admitted: admitted, renewed: make(chan time.Duration), summed: time.Now(), log: h.cfg.Log.With("zone", cred.Zone)}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		cancel(h.watch(ctx, cred, left, z.renewed))
	}()
	err = z.run(ctx, stream)
	cancel(err)
	<-watched
	z.log.Info("the link of a zone ended", "err", err)
	return asStatus(err)
}

// asStatus tells the zone why its link ended.
func asStatus(err error) error {
	var refused *zonesync.RefusedError
	switch {
	case errors.Is(err, access.ErrVoid):
		return status.Error(codes.Unauthenticated, err.Error())
	case errors.As(err, &refused):
		return status.Error(codes.FailedPrecondition, err.Error())
	case err == nil:
		return nil
	}
	return status.Error(codes.Unavailable, err.Error())
}

// errExpired is a certificate that was not renewed while its link lived, until even its grace was over.
var errExpired = fmt.Errorf("%w: its certificate has expired and was not renewed", access.ErrVoid)

// watch ends a link when its credential is void: revoked, replaced, of a zone that was deleted, or not renewed in time. Left is how long
// the certificate may be used; what comes of renewed replaces that.
func (h *Hub) watch(ctx context.Context, cred access.Credential, left time.Duration, renewed <-chan time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	void := make(chan error, 1)
	go func() { void <- h.cfg.Access.Watch(ctx, cred) }()
	end := time.NewTimer(left)
	defer end.Stop()
	for {
		select {
		case err := <-void:
			cancel()
			return err
		case left = <-renewed:
			end.Reset(left)
		case <-end.C:
			cancel()
			<-void //nolint:errcheck // it ends because of cancel
			return errExpired
		}
	}
}

// credentialOf reads the verified certificate of the connection, and how long it may be used.
func (h *Hub) credentialOf(ctx context.Context) (access.Credential, time.Duration, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return access.Credential{}, 0, errors.New("the connection has no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return access.Credential{}, 0, errors.New("the connection has no TLS")
	}
	return h.cfg.Access.Of(info.State)
}

// claim makes a link the one of its zone. An older one with a lower session number is ended and waited for; otherwise the answer
// says why not.
func (h *Hub) claim(zoneID string, session uint64, cancel context.CancelCauseFunc) (l *live, replaced bool, refusal string) {
	for {
		h.mu.Lock()
		old := h.links[zoneID]
		if old == nil {
			l = &live{session: session, cancel: cancel, ended: make(chan struct{})}
			h.links[zoneID] = l
			h.mu.Unlock()
			return l, replaced, ""
		}
		h.mu.Unlock()
		if session <= old.session {
			return nil, false, fmt.Sprintf("a link of this zone with session %d is open, and this one has session %d", old.session, session)
		}
		old.cancel(errReplaced)
		<-old.ended
		replaced = true
	}
}

// errReplaced ends a link for a newer one of the same zone.
var errReplaced = errors.New("a newer link of the zone has taken its place")

func (h *Hub) release(zoneID string, l *live) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.links[zoneID] == l {
		delete(h.links, zoneID)
	}
	close(l.ended)
}

// Connected counts the links that are open.
func (h *Hub) Connected() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.links)
}
