package xds

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// Sessions finds out whose stream it is and what that proxy gets. The wiring authenticates by the peer of the connection.
type Sessions interface {
	// Open starts following the table of the proxy that opened the stream. Its error is a gRPC status.
	Open(ctx context.Context, node *corev3.Node) (Subscription, error)
}

// A Subscription follows the table of one proxy.
type Subscription interface {
	Table() *envoy.Table
	// Changed receives when there may be a newer table.
	Changed() <-chan struct{}
	// Acked notes that the proxy has acknowledged everything up to a sequence.
	Acked(sequence uint64)
	// Rejected replaces the list of what the proxy does not get, with the reasons.
	Rejected([]Rejection)
	Close()
}

// Config of a Server.
type Config struct {
	Sessions Sessions
	Limits   Limits
	// Patience is how long a client may stay silent before what waits for it goes ahead. Default 5s.
	Patience   time.Duration
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// A Server answers delta ADS streams.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	cfg        Config
	quarantine *Quarantine
	metrics    *metrics

	mu       sync.Mutex
	debts    map[string]*Debt // by node, for its next stream
	released chan struct{}    // closed and replaced when withheld resources may be looked at again
}

// maxDebts bounds what is remembered of clients that do not come back.
const maxDebts = 20_000

// New makes a server. Run must run while it serves.
func New(cfg Config) (*Server, error) {
	if cfg.Sessions == nil {
		return nil, errors.New("xds: sessions are needed")
	}
	if cfg.Patience <= 0 {
		cfg.Patience = 5 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{
		cfg: cfg, quarantine: NewQuarantine(), metrics: newMetrics(cfg.Registerer),
		debts: map[string]*Debt{}, released: make(chan struct{}),
	}, nil
}

// ServerOptions are what a gRPC server needs to send shared bytes.
func (s *Server) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{encoding.GetCodecV2("proto")}),
		grpc.SharedWriteBuffer(true),
		grpc.ReadBufferSize(0),
	}
}

// Register offers ADS on a gRPC server made with ServerOptions.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(r, s)
}

// Run tells streams when resources leave the quarantine, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.quarantine.Released():
			s.mu.Lock()
			close(s.released)
			s.released = make(chan struct{})
			s.mu.Unlock()
		}
	}
}

// StreamAggregatedResources refuses the older protocol.
func (s *Server) StreamAggregatedResources(discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return status.Error(codes.Unimplemented, "only delta xDS is served; set api_type to DELTA_GRPC")
}

// DeltaAggregatedResources serves one proxy until its stream ends.
func (s *Server) DeltaAggregatedResources(rpc discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	first, err := rpc.Recv()
	if err != nil {
		return ended(err)
	}
	sub, err := s.cfg.Sessions.Open(rpc.Context(), first.GetNode())
	if err != nil {
		return err
	}
	defer sub.Close()
	node := first.GetNode().GetId()
	st := &stream{
		server: s, rpc: rpc, sub: sub, log: s.cfg.Log.With("node", node),
		session: NewSession(s.quarantine.Ward(envoyVersion(first.GetNode())), s.cfg.Limits),
	}
	st.session.Inherit(s.takeDebt(node))
	defer func() { s.keepDebt(node, st.session.Debt()) }()
	s.metrics.streams.Inc()
	defer s.metrics.streams.Dec()
	st.session.Target(sub.Table())
	return st.serve(first)
}

func envoyVersion(n *corev3.Node) string {
	v := n.GetUserAgentBuildVersion().GetVersion()
	if v == nil {
		return n.GetUserAgentVersion()
	}
	return versionString(v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
}

func (s *Server) takeDebt(node string) *Debt {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.debts[node]
	delete(s.debts, node)
	return d
}

func (s *Server) keepDebt(node string, d *Debt) {
	if d == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.debts) < maxDebts {
		s.debts[node] = d
	}
}

func (s *Server) nextRelease() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.released
}

func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// A stream is one proxy's connection: one goroutine reads, and this one owns the session and writes.
// A reader that does not read blocks only its own writer.
type stream struct {
	server  *Server
	rpc     discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	sub     Subscription
	session *Session
	log     *slog.Logger

	acked, nacks uint64
	reported     int
}

func (st *stream) serve(first *discoveryv3.DeltaDiscoveryRequest) error {
	requests := make(chan *discoveryv3.DeltaDiscoveryRequest)
	failed := make(chan error, 1)
	ctx := st.rpc.Context()
	go func() { // ends when the stream does, at the latest when this handler returns
		for {
			r, err := st.rpc.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				failed <- ctx.Err()
				return
			}
		}
	}()
	patience := time.NewTimer(st.server.cfg.Patience)
	defer patience.Stop()
	request := first
	released := st.server.nextRelease()
	for {
		if request != nil {
			if err := st.receive(request); err != nil {
				return err
			}
			request = nil
		}
		if err := st.send(); err != nil {
			return err
		}
		st.report()
		select {
		case request = <-requests:
			patience.Reset(st.server.cfg.Patience)
		case <-st.sub.Changed():
			st.session.Target(st.sub.Table())
			patience.Reset(st.server.cfg.Patience)
		case <-released:
			released = st.server.nextRelease()
		case <-patience.C:
			if st.session.Waiting() {
				st.session.Overdue()
			}
		case err := <-failed:
			return ended(err)
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

func (st *stream) receive(r *discoveryv3.DeltaDiscoveryRequest) error {
	if err := st.session.Receive(r); err != nil {
		st.log.Warn("stream ended: the client asks for too much", "err", err)
		return status.Error(codes.ResourceExhausted, err.Error())
	}
	if n := st.session.Nacks(); n != st.nacks {
		st.nacks = n
		st.server.metrics.nacks.Inc()
		st.log.Warn("the proxy refuses configuration", "type", r.GetTypeUrl(), "err", r.GetErrorDetail().GetMessage())
	}
	return nil
}

func (st *stream) send() error {
	for {
		r, ok := st.session.Next()
		if !ok {
			return nil
		}
		if err := st.rpc.SendMsg(r); err != nil {
			return err
		}
		st.server.metrics.responses.WithLabelValues(r.Type.String()).Inc()
		st.server.metrics.resources.WithLabelValues(r.Type.String()).Add(float64(r.Len()))
	}
}

// report passes on what has become acknowledged or is refused.
func (st *stream) report() {
	if a := st.session.Acked(); a != st.acked {
		st.acked = a
		st.sub.Acked(a)
	}
	if rs := st.session.Rejections(); len(rs) > 0 || st.reported > 0 {
		st.reported = len(rs)
		st.sub.Rejected(rs)
	}
}
