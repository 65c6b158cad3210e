// Package load takes the load reports of the proxy's Envoy and adds them up: how many requests, errors, connections and bytes went to
// which destination, and to the endpoints of which zone and priority. What was added since the last time goes to the zone; the sums
// since the start of the agent are metrics. It sends nothing by itself and knows no policy.
package load

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	lrsv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/causeway-mesh/causeway/api/agentapi"
)

// maxEntries bounds how many destinations, each per zone and priority, are told apart.
const maxEntries = 5000

// destinations is how the names of clusters begin that are destinations in the mesh.
const destinations = "kri_"

// A Key tells apart what is counted.
type Key struct {
	Destination string // the identifier of the port that is sent to
	Zone        string // of the endpoints
	Priority    uint32
}

// Compare orders keys.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Destination, o.Destination), cmp.Compare(k.Zone, o.Zone), cmp.Compare(k.Priority, o.Priority))
}

// Counts are what was counted of one key.
type Counts struct {
	Requests, Errors               uint64
	Connections, FailedConnections uint64
	BytesSent, BytesReceived       uint64
	// BytesShared says that bytes were counted together with those of other zones or priorities, and divided.
	BytesShared bool
	InProgress  uint64 // now
}

func (c *Counts) add(o Counts) {
	c.Requests += o.Requests
	c.Errors += o.Errors
	c.Connections += o.Connections
	c.FailedConnections += o.FailedConnections
	c.BytesSent += o.BytesSent
	c.BytesReceived += o.BytesReceived
	c.BytesShared = c.BytesShared || o.BytesShared
	c.InProgress = o.InProgress
}

// Bytes are what Envoy has sent and received since its start to one cluster.
type Bytes struct{ Sent, Received uint64 }

// Config of a Server.
type Config struct {
	// Interval is how often Envoy reports.
	Interval time.Duration
	// Bytes reads the bytes of clusters, which load reports do not tell; nil when nobody knows.
	Bytes func(ctx context.Context) (map[string]Bytes, error)
	Log   *slog.Logger
}

// A Server takes the reports of one Envoy.
type Server struct {
	lrsv3.UnimplementedLoadReportingServiceServer
	cfg      Config
	changed  chan struct{} // holds a token when there is something to take
	stopping context.Context

	mu      sync.Mutex
	totals  map[Key]*Counts
	pending map[Key]Counts
	leftOut uint32
	since   time.Time // when the time began that pending counts
	bytes   map[string]Bytes
}

// New makes a server.
func New(cfg Config) *Server {
	return &Server{cfg: cfg, changed: make(chan struct{}, 1), totals: map[Key]*Counts{}, pending: map[Key]Counts{}, bytes: map[string]Bytes{}}
}

// Register offers the service on a gRPC server. Streams end with ctx.
func (s *Server) Register(ctx context.Context, r grpc.ServiceRegistrar) {
	s.stopping = ctx
	lrsv3.RegisterLoadReportingServiceServer(r, s)
}

// StreamLoadStats implements the load reporting service: it asks for everything, at an interval.
func (s *Server) StreamLoadStats(stream lrsv3.LoadReportingService_StreamLoadStatsServer) error {
	if _, err := stream.Recv(); err != nil {
		return ended(err)
	}
	if err := stream.Send(&lrsv3.LoadStatsResponse{SendAllClusters: true, LoadReportingInterval: durationpb.New(s.cfg.Interval)}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)()
	for {
		report, err := stream.Recv()
		if err != nil {
			return ended(err)
		}
		s.add(report.GetClusterStats(), s.bytesNow(ctx))
	}
}

func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// bytesNow reads the bytes; without them the other counts are as good.
func (s *Server) bytesNow(ctx context.Context) map[string]Bytes {
	if s.cfg.Bytes == nil {
		return nil
	}
	now, err := s.cfg.Bytes(ctx)
	if err != nil {
		s.cfg.Log.Debug("bytes of destinations are not known", "err", err)
	}
	return now
}

// add takes one report.
func (s *Server) add(clusters []*endpointv3.ClusterStats, bytes map[string]Bytes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[Key]bool{}
	for _, c := range clusters {
		if !strings.HasPrefix(c.GetClusterName(), destinations) {
			continue
		}
		counts, busy := map[Key]Counts{}, map[Key]uint64{}
		for _, l := range c.GetUpstreamLocalityStats() {
			k := Key{c.GetClusterName(), l.GetLocality().GetZone(), l.GetPriority()}
			sum := counts[k] // sub-zones are not told apart
			before := sum.InProgress
			sum.add(countsOf(l))
			sum.InProgress += before
			counts[k] = sum
			busy[k] += l.GetTotalSuccessfulRequests() + l.GetTotalErrorRequests() + l.GetTotalRequestsInProgress()
		}
		divide(counts, busy, s.moved(c.GetClusterName(), bytes))
		for k, n := range counts {
			seen[k] = true
			s.note(k, n)
		}
	}
	for k, t := range s.totals {
		if t.InProgress > 0 && !seen[k] {
			s.note(k, Counts{})
		}
	}
	if len(s.pending) > 0 {
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
}

func countsOf(l *endpointv3.UpstreamLocalityStats) Counts {
	return Counts{
		Requests: l.GetTotalIssuedRequests(), Errors: l.GetTotalErrorRequests(), InProgress: l.GetTotalRequestsInProgress(),
		Connections: l.GetTotalNewConnections(), FailedConnections: l.GetTotalFailConnections(),
	}
}

// moved is how many bytes a cluster has sent and received since the last report. Envoy counts from zero when it starts again.
func (s *Server) moved(cluster string, bytes map[string]Bytes) Bytes {
	now, ok := bytes[cluster]
	if !ok {
		return Bytes{}
	}
	last := s.bytes[cluster]
	if now.Sent < last.Sent || now.Received < last.Received {
		last = Bytes{}
	}
	if _, known := s.bytes[cluster]; known || len(s.bytes) < maxEntries {
		s.bytes[cluster] = now
	}
	return Bytes{now.Sent - last.Sent, now.Received - last.Received}
}

// divide shares the bytes of a cluster among the places to which they may have gone: Envoy counts bytes per cluster only, neither its
// load reports nor its statistics of endpoints and zones have any. Bytes are those of the requests that were in progress at some time
// since the last report, and these are known per place. With one place, which is the rule, nothing is estimated.
func divide(counts map[Key]Counts, busy map[Key]uint64, b Bytes) {
	var all uint64
	for k := range counts {
		all += busy[k]
	}
	var keys []Key // of places that may have had bytes
	for _, k := range slices.SortedFunc(maps.Keys(counts), Key.Compare) {
		if all == 0 || busy[k] > 0 {
			keys = append(keys, k)
		}
	}
	for i, k := range keys {
		c := counts[k]
		c.BytesSent, c.BytesReceived = b.Sent, b.Received // the rest
		c.BytesShared = len(keys) > 1 && b != Bytes{}
		if rest := len(keys) - i; rest > 1 {
			part := 1 / float64(rest) // nothing but connections
			if all > 0 {
				part = float64(busy[k]) / float64(all)
			}
			c.BytesSent, c.BytesReceived = min(b.Sent, uint64(part*float64(b.Sent))), min(b.Received, uint64(part*float64(b.Received)))
		}
		b.Sent, b.Received, all = b.Sent-c.BytesSent, b.Received-c.BytesReceived, all-busy[k]
		counts[k] = c
	}
}

// note adds counts to the sums and to what is to be reported.
func (s *Server) note(k Key, n Counts) {
	t := s.totals[k]
	if t == nil {
		if n == (Counts{}) {
			return
		}
		if len(s.totals) >= maxEntries {
			s.leftOut++
			return
		}
		t = &Counts{}
		s.totals[k] = t
	}
	if n == (Counts{InProgress: t.InProgress}) {
		return // nothing new
	}
	t.add(n)
	if len(s.pending) == 0 {
		s.since = time.Now().Add(-s.cfg.Interval)
	}
	p := s.pending[k]
	p.add(n)
	s.pending[k] = p
}

// Changed yields when there is something to take. One reader.
func (s *Server) Changed() <-chan struct{} { return s.changed }

// Take returns what was counted since the last time, and nil when that is nothing.
func (s *Server) Take() *agentapi.LoadReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) == 0 {
		return nil
	}
	out := &agentapi.LoadReport{OverMs: time.Since(s.since).Milliseconds(), LeftOut: s.leftOut}
	for _, k := range slices.SortedFunc(maps.Keys(s.pending), Key.Compare) {
		c := s.pending[k]
		out.Loads = append(out.Loads, &agentapi.Load{
			Destination: k.Destination, Zone: k.Zone, Priority: k.Priority, Requests: c.Requests, Errors: c.Errors,
			Connections: c.Connections, FailedConnections: c.FailedConnections,
			BytesSent: c.BytesSent, BytesReceived: c.BytesReceived, BytesShared: c.BytesShared, InProgress: c.InProgress,
		})
	}
	s.pending, s.leftOut = map[Key]Counts{}, 0
	return out
}

// Renew makes what is in progress now be told again: a zone that this agent has just come to knows nothing of it.
func (s *Server) Renew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, t := range s.totals {
		if t.InProgress > 0 {
			if len(s.pending) == 0 {
				s.since = time.Now()
			}
			p := s.pending[k]
			p.InProgress = t.InProgress
			s.pending[k] = p
		}
	}
}

// A Total is a sum since the start of the agent.
type Total struct {
	Key
	Counts
}

// Totals lists the sums, in order.
func (s *Server) Totals() []Total {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Total, 0, len(s.totals))
	for k, c := range s.totals {
		out = append(out, Total{k, *c})
	}
	slices.SortFunc(out, func(a, b Total) int { return a.Key.Compare(b.Key) })
	return out
}
