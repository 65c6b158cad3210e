package xds_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/test/load"
	"github.com/causeway-mesh/causeway/zone-cp/xds"
)

func TestThousandProxiesComeBackAndGetNothingTwice(t *testing.T) {
	n := crowd
	if testing.Short() {
		n = 100
	}
	m := newMarket(t, 20)
	z := newZone(t, m.table())
	f := z.fleet(load.Config{}, n)
	z.until("all have everything", allAt(n, 1))
	if got, want := f.Resources(), int64(n*20*4); got != want {
		t.Errorf("the first configuration took %d resources, want %d", got, want)
	}
	for _, c := range []struct {
		what string
		cut  func()
	}{
		{"all streams are cut", func() {
			for i := range n {
				f.Proxy(i).Cut()
			}
		}},
		{"the server starts anew", func() { addr := z.addr; z.halt(); z.start(addr) }},
	} {
		before, bytes := f.Resources(), f.Bytes()
		begin := time.Now()
		responses := make([]int, n)
		for i := range n {
			responses[i] = f.Proxy(i).Responses()
		}
		c.cut()
		z.until(c.what+" and all are back", func(all []*subscription) bool {
			for i := range n {
				if f.Proxy(i).Responses() == responses[i] { // each stream is greeted
					return false
				}
			}
			return allAt(n, 1)(all)
		})
		t.Logf("%s: all %d are back after %s, with %d bytes", c.what, n, time.Since(begin).Round(time.Millisecond), f.Bytes()-bytes)
		if got := f.Resources() - before; got != 0 {
			t.Errorf("%s: %d resources were sent again", c.what, got)
		}
	}
	for i := range n {
		if r := f.Proxy(i).Repeated(); r != 0 {
			t.Fatalf("proxy %d got %d resources that it had", i, r)
		}
	}
}

func TestStalledReaderDelaysNobody(t *testing.T) {
	const n = 40
	m := newMarket(t, 400)
	z := newZone(t, m.table())
	f := z.fleet(load.Config{}, n)
	z.until("all have everything", allAt(n, 1))
	lazy := f.Proxy(0)
	lazy.Stall()
	had := lazy.Responses()
	var slowest time.Duration
	const rounds = 30
	for round := range rounds { // several times what the connection can hold
		for i := range 400 {
			m.change(i, func(g *generation) { g.endpoints++; g.route = round%2 + 1 })
		}
		table := m.table()
		begin := time.Now()
		z.set(table)
		z.until("the others are not delayed", func(all []*subscription) bool {
			for _, s := range all {
				if s.node != "proxy-0" && s.acked < table.Sequence {
					return false
				}
			}
			return true
		})
		slowest = max(slowest, time.Since(begin))
	}
	t.Logf("slowest of %d pushes to %d proxies beside a stalled one: %s", rounds, n-1, slowest.Round(time.Millisecond))
	lazy.Resume()
	z.until("the lazy one catches up", allAt(n, m.sequence))
	// It jumps to the newest state: what was on its way, at most one response per type, and then the difference.
	if got := lazy.Responses() - had; got > 20 {
		t.Errorf("the lazy one got %d responses for %d tables", got, rounds)
	}
	for typ := range envoy.NumTypes {
		got, want := lazy.Held(typ), f.Proxy(1).Held(typ)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("the lazy one holds other %s than the others", typ)
		}
	}
}

func TestRefusedResourceIsWithheldFromAll(t *testing.T) {
	const n = 50
	m := newMarket(t, 12)
	z := newZone(t, m.table())
	var bad string
	f := z.fleet(load.Config{Refuse: func(typ envoy.Type, _, version string) string {
		if bad != "" && typ == envoy.Route && version == bad {
			return "no such regular expression"
		}
		return ""
	}}, n)
	z.until("all have everything", allAt(n, 1))
	for i := range 12 {
		m.change(i, func(g *generation) { g.route++ })
	}
	bad = m.frags[5][2].Version
	z.set(m.table())
	z.until("all have the rest", func(all []*subscription) bool {
		for _, s := range all {
			if s.acked < 2 || len(s.rejected) != 1 || s.rejected[0].Version != bad || s.rejected[0].Text != "no such regular expression" {
				return false
			}
		}
		return len(all) == n
	})
	for i := range n {
		held := f.Proxy(i).Held(envoy.Route)
		for j := range 12 {
			want := m.frags[j][2].Version
			if got := held[m.frags[j][2].Name]; (got == want) == (j == 5) {
				t.Fatalf("proxy %d holds %s of service %d", i, got, j)
			}
		}
	}
	// Whoever comes later never sees it, and gets nothing that leads to it.
	nacks := f.Nacks()
	late := z.fleet(load.Config{Node: nil, Refuse: f2(t, bad)}, 3)
	z.until("the late ones are done", func(all []*subscription) bool { return len(all) == n+3 && allAt(n+3, 2)(all) })
	if f.Nacks() != nacks || late.Nacks() != 0 {
		t.Errorf("%d and %d more refusals", f.Nacks()-nacks, late.Nacks())
	}
	if got := late.Proxy(0).Held(envoy.Listener)[m.frags[5][3].Name]; got != "" {
		t.Error("a late proxy has a listener without its routes")
	}
}

func f2(t *testing.T, bad string) func(envoy.Type, string, string) string {
	return func(_ envoy.Type, name, version string) string {
		if version == bad {
			t.Errorf("%s was sent to a late proxy", name)
		}
		return ""
	}
}

// dial opens one connection with the ordinary codec.
func (z *zone) dial() *grpc.ClientConn {
	z.t.Helper()
	conn, err := grpc.NewClient(z.addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}))) //nolint:gosec // nothing is secret here
	if err != nil {
		z.t.Fatal(err)
	}
	z.t.Cleanup(func() { conn.Close() })
	return conn
}

func TestStreamsThatAskForTooMuchEnd(t *testing.T) {
	z := newZone(t, newMarket(t, 1).table())
	for what, req := range map[string]*discoveryv3.DeltaDiscoveryRequest{
		"names": {TypeUrl: envoy.Endpoint.URL(), ResourceNamesSubscribe: many(30_000, 5)},
		"bytes": {TypeUrl: envoy.Route.URL(), ResourceNamesSubscribe: many(1500, 900)},
	} {
		rpc, err := discoveryv3.NewAggregatedDiscoveryServiceClient(z.dial()).DeltaAggregatedResources(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := rpc.Send(req); err != nil {
			t.Fatal(err)
		}
		if _, err = rpc.Recv(); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "at most") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func many(n, length int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%0*d", length, i)
	}
	return out
}

func TestOlderProtocolIsRefusedWithAdvice(t *testing.T) {
	z := newZone(t, newMarket(t, 1).table())
	rpc, err := discoveryv3.NewAggregatedDiscoveryServiceClient(z.dial()).StreamAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = rpc.Recv()
	if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "DELTA_GRPC") {
		t.Error(err)
	}
}

func TestStoppingEndsStreams(t *testing.T) {
	m := newMarket(t, 2)
	z := newZone(t, m.table())
	rpc, err := discoveryv3.NewAggregatedDiscoveryServiceClient(z.dial()).DeltaAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := rpc.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: envoy.Cluster.URL()}); err != nil {
		t.Fatal(err)
	}
	if r, err := rpc.Recv(); err != nil || len(r.Resources) != 2 {
		t.Fatal(r, err)
	}
	z.stop()
	if _, err := rpc.Recv(); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
	z.until("the subscription is closed", func(all []*subscription) bool { return len(all) == 0 })
}

// A client that subscribes to clusters only, and never to what follows, is served its clusters and holds up nobody.
func TestSilentClientIsNotWaitedForForEver(t *testing.T) {
	m := newMarket(t, 2)
	z := newZone(t, m.table())
	z.halt()
	z.patient = 50 * time.Millisecond
	z.start("127.0.0.1:0")
	rpc, err := discoveryv3.NewAggregatedDiscoveryServiceClient(z.dial()).DeltaAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range []envoy.Type{envoy.Cluster, envoy.Listener} { // no ACK, no endpoints
		if err := rpc.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typ.URL()}); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []envoy.Type{envoy.Cluster, envoy.Listener} {
		r, err := rpc.Recv()
		if err != nil || r.TypeUrl != want.URL() || len(r.Resources) != 2 {
			t.Fatalf("want %s, got %s with %d resources, %v", want, r.GetTypeUrl(), len(r.GetResources()), err)
		}
	}
}

func TestOpenErrorEndsTheStream(t *testing.T) {
	if _, err := xds.New(xds.Config{}); err == nil {
		t.Error("a server without sessions was made")
	}
	z := newZone(t, nil) // no table yet: the stream waits for one
	rpc, err := discoveryv3.NewAggregatedDiscoveryServiceClient(z.dial()).DeltaAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := rpc.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: envoy.Cluster.URL()}); err != nil {
		t.Fatal(err)
	}
	z.until("the stream is open", func(all []*subscription) bool { return len(all) == 1 })
	z.set(newMarket(t, 3).table())
	if r, err := rpc.Recv(); err != nil || len(r.Resources) != 3 {
		t.Error(r, err)
	}
	if err := rpc.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = rpc.Recv()
	}
	if !errors.Is(err, io.EOF) && status.Code(err) != codes.Canceled && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
