package load_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	lrsv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/dataplane/load"
)

const web = "kri_msvc_default_east__web_main"

// reporter is an Envoy that reports.
type reporter struct {
	t      *testing.T
	server *load.Server
	stream lrsv3.LoadReportingService_StreamLoadStatsClient
	bytes  map[string]load.Bytes
	fails  error
}

func report(t *testing.T) *reporter {
	t.Helper()
	r := &reporter{t: t, bytes: map[string]load.Bytes{}}
	r.server = load.New(load.Config{Interval: time.Second, Log: slog.New(slog.DiscardHandler), Bytes: func(context.Context) (map[string]load.Bytes, error) {
		return r.bytes, r.fails
	}})
	l, g := bufconn.Listen(1<<20), grpc.NewServer()
	r.server.Register(t.Context(), g)
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	c, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	if r.stream, err = lrsv3.NewLoadReportingServiceClient(c).StreamLoadStats(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.stream.Send(&lrsv3.LoadStatsRequest{}); err != nil {
		t.Fatal(err)
	}
	asked, err := r.stream.Recv()
	if err != nil || !asked.GetSendAllClusters() || asked.GetLoadReportingInterval().AsDuration() != time.Second {
		t.Fatalf("Envoy is asked for %v, %v", asked, err)
	}
	return r
}

// send reports, and waits for what there is to take.
func (r *reporter) send(clusters ...*endpointv3.ClusterStats) *agentapi.LoadReport {
	r.t.Helper()
	if err := r.stream.Send(&lrsv3.LoadStatsRequest{ClusterStats: clusters}); err != nil {
		r.t.Fatal(err)
	}
	select {
	case <-r.server.Changed():
	case <-time.After(time.Minute):
		r.t.Fatal("there is nothing to take")
	}
	return r.server.Take()
}

func cluster(name string, stats ...*endpointv3.UpstreamLocalityStats) *endpointv3.ClusterStats {
	return &endpointv3.ClusterStats{ClusterName: name, UpstreamLocalityStats: stats}
}

func to(zone string, priority uint32, requests, errors, active uint64) *endpointv3.UpstreamLocalityStats {
	return &endpointv3.UpstreamLocalityStats{
		Locality: &corev3.Locality{Zone: zone}, Priority: priority, TotalIssuedRequests: requests, TotalErrorRequests: errors,
		TotalSuccessfulRequests: requests - errors, TotalRequestsInProgress: active, TotalNewConnections: 1,
	}
}

func (r *reporter) want(got *agentapi.LoadReport, loads ...*agentapi.Load) {
	r.t.Helper()
	if diff := cmp.Diff(loads, got.GetLoads(), protocmp.Transform()); diff != "" {
		r.t.Errorf("report (-want +got):\n%s", diff)
	}
}

func TestReports(t *testing.T) {
	r := report(t)
	r.bytes[web] = load.Bytes{Sent: 1000, Received: 9000}
	got := r.send(cluster("self_inbound_dp_main", to("", 0, 5, 0, 0)), cluster(web, to("east", 0, 30, 1, 0), to("west", 1, 10, 2, 0)))
	// Bytes are known per cluster: they are divided by the requests that were in progress.
	r.want(got,
		&agentapi.Load{Destination: web, Zone: "east", Requests: 30, Errors: 1, Connections: 1, BytesSent: 750, BytesReceived: 6750, BytesShared: true},
		&agentapi.Load{Destination: web, Zone: "west", Priority: 1, Requests: 10, Errors: 2, Connections: 1, BytesSent: 250, BytesReceived: 2250, BytesShared: true})
	if over := got.GetOverMs(); over < 1000 || over > 60_000 {
		t.Errorf("the counts are of %d ms, want the interval", over)
	}
	r.bytes[web] = load.Bytes{Sent: 1100, Received: 9100}
	r.want(r.send(cluster(web, to("east", 0, 1, 0, 2))),
		&agentapi.Load{Destination: web, Zone: "east", Requests: 1, Connections: 1, BytesSent: 100, BytesReceived: 100, InProgress: 2})

	// Envoy starts again: its bytes begin anew, and nothing is in progress any more.
	r.bytes[web] = load.Bytes{Sent: 7, Received: 8}
	r.want(r.send(cluster(web, to("west", 1, 1, 0, 0))),
		&agentapi.Load{Destination: web, Zone: "east"},
		&agentapi.Load{Destination: web, Zone: "west", Priority: 1, Requests: 1, Connections: 1, BytesSent: 7, BytesReceived: 8})
	want := []load.Total{
		{Key: load.Key{Destination: web, Zone: "east"}, Counts: load.Counts{Requests: 31, Errors: 1, Connections: 2, BytesSent: 850, BytesReceived: 6850, BytesShared: true}},
		{Key: load.Key{Destination: web, Zone: "west", Priority: 1}, Counts: load.Counts{Requests: 11, Errors: 2, Connections: 2, BytesSent: 257, BytesReceived: 2258, BytesShared: true}},
	}
	if diff := cmp.Diff(want, r.server.Totals()); diff != "" {
		t.Errorf("totals (-want +got):\n%s", diff)
	}
	if again := r.server.Take(); again != nil {
		t.Errorf("taken twice: %v", again)
	}
}

// Bytes belong to whatever was in progress, also when it began before the time of the report, and when there was nothing but connections.
func TestBytesOfLongRequests(t *testing.T) {
	ended := func(zone string, succeeded, active uint64) *endpointv3.UpstreamLocalityStats {
		return &endpointv3.UpstreamLocalityStats{Locality: &corev3.Locality{Zone: zone}, TotalSuccessfulRequests: succeeded, TotalRequestsInProgress: active}
	}
	r := report(t)
	r.send(cluster(web, to("east", 0, 1, 0, 3), to("west", 0, 1, 0, 1)))
	r.bytes[web] = load.Bytes{Sent: 4, Received: 400}
	r.want(r.send(cluster(web, ended("east", 3, 0), ended("north", 0, 0), ended("west", 0, 1))),
		&agentapi.Load{Destination: web, Zone: "east", BytesSent: 3, BytesReceived: 300, BytesShared: true},
		&agentapi.Load{Destination: web, Zone: "west", BytesSent: 1, BytesReceived: 100, BytesShared: true, InProgress: 1})
	r.bytes[web] = load.Bytes{Sent: 14, Received: 401}
	r.want(r.send(cluster(web, ended("west", 1, 0), ended("east", 0, 0))),
		&agentapi.Load{Destination: web, Zone: "west", BytesSent: 10, BytesReceived: 1})
	r.bytes[web] = load.Bytes{Sent: 17, Received: 401}
	r.want(r.send(cluster(web, ended("west", 0, 0), ended("east", 0, 0))),
		&agentapi.Load{Destination: web, Zone: "east", BytesSent: 1, BytesShared: true},
		&agentapi.Load{Destination: web, Zone: "west", BytesSent: 2, BytesShared: true})
}

// Without the bytes the other counts are as good.
func TestUnknownBytes(t *testing.T) {
	r := report(t)
	r.fails = errors.New("Envoy does not answer")
	r.bytes = nil
	r.want(r.send(cluster(web, to("east", 0, 1, 0, 0))), &agentapi.Load{Destination: web, Zone: "east", Requests: 1, Connections: 1})
}

// What is in progress is told to every zone that the agent comes to.
func TestRenew(t *testing.T) {
	r := report(t)
	r.send(cluster(web, to("east", 0, 1, 0, 3)))
	r.server.Renew()
	r.want(r.send(cluster(web, to("east", 0, 0, 0, 3))), &agentapi.Load{Destination: web, Zone: "east", Connections: 1, InProgress: 3})
}

// An Envoy with very many destinations makes neither the agent's memory nor its reports grow without end.
func TestBounds(t *testing.T) {
	r := report(t)
	var many []*endpointv3.ClusterStats
	for i := range 6000 {
		many = append(many, cluster("kri_msvc_default_east__web"+strings.Repeat("x", i%10)+"_"+string(rune('a'+i/1000))+strings.Repeat("y", i%1000/10), to("east", uint32(i), 1, 0, 0)))
	}
	got := r.send(many...)
	if len(got.GetLoads()) != 5000 || got.GetLeftOut() != 1000 {
		t.Errorf("%d entries and %d left out, want 5000 and 1000", len(got.GetLoads()), got.GetLeftOut())
	}
}

func TestReadBytes(t *testing.T) {
	got, err := load.ReadBytes(strings.NewReader("cluster." + web + ".upstream_cx_rx_bytes_total: 12\ncluster." + web + ".upstream_cx_tx_bytes_total: 3\nother\nx: y\n"))
	if diff := cmp.Diff(map[string]load.Bytes{web: {Sent: 3, Received: 12}}, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	if _, err := load.ReadBytes(strings.NewReader("cluster.a.upstream_cx_rx_bytes_total: many\n")); err == nil {
		t.Error("a number that is none is taken")
	}
}
