// Package xds is the zone's delta ADS server: what each stream asked for, holds and acknowledged, in which order changes are sent,
// and what is withheld because Envoy refuses it. Sessions are pure; only streams and the server do I/O.
// It computes no configuration, authenticates nobody and keeps nothing on disk.
package xds

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/zone-cp/solo"
)

// Sessions finds out whose stream it is and what that proxy gets. The wiring authenticates by the peer of the connection.
type Sessions interface {
	// Open starts following the table of the proxy that opened the stream. Changed is called when there may be a newer table, even before
	// Open returns; it does not wait. The error is a gRPC status.
	Open(ctx context.Context, node *corev3.Node, changed func()) (Subscription, error)
}

// A Subscription follows the table of one proxy.
type Subscription interface {
	Table() *envoy.Table
	// Acked notes that the proxy has acknowledged everything up to a sequence.
	Acked(sequence uint64)
	// Sent counts a response.
	Sent(t envoy.Type)
	// Answered counts what the proxy says to a response.
	Answered(t envoy.Type, accepted bool)
	// Rejected replaces the list of what the proxy does not get, with the reasons.
	Rejected([]Rejection)
	Close()
}

// Config of a Server.
type Config struct {
	Sessions Sessions
	Limits   Limits
	// Refused hears of what a client of a version refused alone in a response, so that what it is made of is to blame. Optional.
	Refused func(ctx context.Context, version string, f *envoy.Fragment, text string)
	// Patience is how long what waits for a client to speak is held back. Default 5s.
	Patience time.Duration
	// Requests is how many requests per second one stream is read at; more wait in the client. Default 200.
	Requests   float64
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// A Server answers delta ADS streams.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	cfg        Config
	quarantine *Quarantine
	metrics    *metrics
	debts      *debts
	open       solo.Group
}

// errStopping sends clients to another instance, or back later.
var errStopping = status.Error(codes.Unavailable, "the control plane is stopping")

// New makes a server. Run must run while it serves.
func New(cfg Config) (*Server, error) {
	if cfg.Sessions == nil {
		return nil, errors.New("xds: sessions are needed")
	}
	if cfg.Patience <= 0 {
		cfg.Patience = 5 * time.Second
	}
	if cfg.Requests <= 0 {
		cfg.Requests = 200
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{
		cfg: cfg, quarantine: NewQuarantine(), metrics: newMetrics(cfg.Registerer), debts: newDebts(),
	}, nil
}

// maxRequest bounds a request: a client that comes back names everything it holds, and a version with it.
const maxRequest = 8 << 20

// ServerOptions are what a gRPC server needs to send shared bytes.
func (s *Server) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{encoding.GetCodecV2("proto")}),
		grpc.ReadBufferSize(0),
		grpc.MaxRecvMsgSize(maxRequest),
	}
}

// Register offers ADS on a gRPC server made with ServerOptions.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(r, s)
}

// Run tells streams when resources leave the quarantine, until ctx ends; then all streams end, which it waits for. It runs once.
func (s *Server) Run(ctx context.Context) error {
	defer s.open.Close(errStopping)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.quarantine.wake:
			for _, x := range s.quarantine.reports() {
				if s.cfg.Refused != nil {
					s.cfg.Refused(ctx, x.version, x.frag, x.text)
				}
			}
		case <-s.quarantine.Released():
			s.open.Wake()
		}
	}
}

// StreamAggregatedResources refuses the older protocol.
func (s *Server) StreamAggregatedResources(discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return status.Error(codes.Unimplemented, "only delta xDS is served; set api_type to DELTA_GRPC")
}

// DeltaAggregatedResources serves one proxy until its stream ends.
func (s *Server) DeltaAggregatedResources(rpc discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return s.open.Serve(rpc, func(running *solo.Stream) error { return s.serve(running, rpc) })
}

func (s *Server) serve(running *solo.Stream, rpc discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	first, err := rpc.Recv()
	if err != nil {
		return ended(err)
	}
	sub, err := s.cfg.Sessions.Open(rpc.Context(), first.GetNode(), running.Wake)
	if err != nil {
		return err
	}
	defer sub.Close()
	node := first.GetNode().GetId()
	st := &stream{
		Stream: running, server: s, rpc: rpc, sub: sub, log: s.cfg.Log.With("node", node),
		session: NewSession(s.quarantine.Ward(EnvoyVersion(first.GetNode())), s.cfg.Limits), ended: make(chan struct{}),
	}
	st.session.Inherit(s.debts.begin(rpc.Context(), node, st))
	defer s.debts.end(node, st)
	s.metrics.streams.Inc()
	defer s.metrics.streams.Dec()
	return st.serve(first)
}

// EnvoyVersion is the version that a client says to be.
func EnvoyVersion(n *corev3.Node) string {
	v := n.GetUserAgentBuildVersion().GetVersion()
	if v == nil {
		return n.GetUserAgentVersion()
	}
	return versionString(v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
}

func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
