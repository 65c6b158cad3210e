package xds_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/test/load"
	"github.com/causeway-mesh/causeway/zone-cp/xds"
)

const streams = 1000

// push is one size of change, as routes.
type push struct {
	name             string
	resources, bytes int
}

var pushes = []push{{"1x1KB", 1, 1000}, {"50x1.5KB", 50, 1500}}

// BenchmarkPush measures a change of routes until the last of a thousand proxies has acknowledged it, beside the ceiling:
// a server that only sends the same bytes ready made. Clients and server share the process and its cores.
func BenchmarkPush(b *testing.B) {
	for _, p := range pushes {
		b.Run(p.name+"/ours", func(b *testing.B) { p.ours(b) })
		b.Run(p.name+"/ceiling", func(b *testing.B) { p.ceiling(b) })
	}
}

// grow changes the routes of the first services to a size that is new each time.
func (p push) grow(m *market, round int) {
	for i := range p.resources {
		m.change(i, func(g *generation) { g.route = p.bytes - 560 + round%32 + 1 })
	}
}

func (p push) ours(b *testing.B) {
	m := newMarket(b, 50)
	z := newZone(b, m.table())
	f := z.fleet(load.Config{}, streams)
	z.until("all have everything", allAt(streams, 1))
	tables := make([]*envoy.Table, 64)
	for i := range tables {
		p.grow(m, i)
		tables[i] = m.table()
	}
	measure(b, f, func(version uint64) {
		t := *tables[version%64]
		t.Sequence = version + 1000
		z.set(&t)
	})
}

func (p push) ceiling(b *testing.B) {
	c := load.NewCeiling()
	cert := certificate(b)
	server := grpc.NewServer(append(c.ServerOptions(), grpc.Creds(credentials.NewServerTLSFromCert(&cert)))...)
	c.Register(server)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go server.Serve(l) //nolint:errcheck // ends with Stop
	b.Cleanup(server.Stop)
	f := connect(b, load.Config{}, streams, l.Addr().String)
	for c.Streams() < streams {
		<-time.After(10 * time.Millisecond)
	}
	m := newMarket(b, 50)
	bodies := make([][]byte, 64)
	for i := range bodies {
		p.grow(m, i)
		for s := range p.resources {
			bodies[i] = append(bodies[i], slices.Concat(m.frags[s][2].Chunks...)...)
		}
	}
	measure(b, f, func(version uint64) { c.Push(envoy.Route, version+1000, bodies[version%64], streams) })
}

// measure pushes version after version and reports the median time to the last acknowledgement and the processor time of a push.
func measure(b *testing.B, f *load.Fleet, push func(version uint64)) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
	defer cancel()
	var took []float64
	before, bytes := processorTime(b), f.Bytes()
	version := uint64(0)
	for b.Loop() {
		version++
		begin := time.Now()
		push(version)
		a, err := f.Until(ctx, version+1000, streams)
		if err != nil {
			b.Fatal(err)
		}
		took = append(took, a.Last.Sub(begin).Seconds()*1000)
	}
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2], "ms-to-last-ack")
	b.ReportMetric((processorTime(b)-before).Seconds()*1000/float64(len(took)), "cpu-ms/push")
	b.ReportMetric(float64(f.Bytes()-bytes)/float64(len(took))/streams, "bytes/proxy")
}

func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkSession measures one stream's share of a change, without transport.
func BenchmarkSession(b *testing.B) {
	m := newMarket(b, 200)
	ward := xds.NewQuarantine().Ward("1")
	s, done := serve(b, ward, m.table(), 200)
	p := push{"", 50, 1500}
	tables := make([]*envoy.Table, 8)
	for i := range tables {
		p.grow(m, i)
		tables[i] = m.table()
	}
	b.ReportAllocs()
	sequence := uint64(1000)
	for b.Loop() {
		sequence++
		t := *tables[sequence%8]
		t.Sequence = sequence
		s.Target(&t)
		done()
	}
	if s.Acked() != sequence {
		b.Fatalf("acknowledged %d of %d", s.Acked(), sequence)
	}
}

// serve brings a session to hold a table of n services; done takes and answers all that it sends.
func serve(b testing.TB, ward *xds.Ward, t *envoy.Table, n int) (*xds.Session, func()) {
	s := xds.NewSession(ward, xds.Limits{})
	s.Target(t)
	answer := &discoveryv3.DeltaDiscoveryRequest{}
	receive := func() {
		if err := s.Receive(answer); err != nil {
			b.Fatal(err)
		}
	}
	done := func() {
		for {
			r, ok := s.Next()
			if !ok {
				return
			}
			r.Buffers()
			answer.TypeUrl, answer.ResponseNonce = r.Type.URL(), r.Nonce
			receive()
		}
	}
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("kri_msvc_default_zone-1__svc-%d_http", i)
	}
	for _, typ := range []envoy.Type{envoy.Cluster, envoy.Endpoint, envoy.Listener, envoy.Route} {
		answer = &discoveryv3.DeltaDiscoveryRequest{TypeUrl: typ.URL()}
		if !typ.Wildcard() {
			answer.ResourceNamesSubscribe = names
		}
		receive()
		answer = &discoveryv3.DeltaDiscoveryRequest{}
		done()
	}
	return s, done
}

// BenchmarkDiff measures what a class of proxies pays once for a change.
func BenchmarkDiff(b *testing.B) {
	m := newMarket(b, 1000)
	old := m.table()
	push{"", 50, 1500}.grow(m, 1)
	cur := m.table()
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		var all []*envoy.Fragment
		for t := range envoy.NumTypes {
			all = append(all, cur.Shared.Of(t)...)
		}
		fresh := envoy.NewPart(all)
		b.StartTimer()
		if d := fresh.DiffFrom(old.Shared); len(d.Upserts[envoy.Route]) != 50 {
			b.Fatal(len(d.Upserts[envoy.Route]))
		}
	}
}

const fleetVariable = "CAUSEWAY_TEST_FLEET"

func TestMain(m *testing.M) {
	if addr := os.Getenv(fleetVariable); addr != "" {
		fleetProcess(addr)
		return
	}
	os.Exit(m.Run())
}

// fleetProcess is a fleet in a process of its own, until its standard input ends.
func fleetProcess(spec string) {
	addr, count, _ := strings.Cut(spec, "|")
	n, err := strconv.Atoi(count)
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, bufio.NewReader(os.Stdin))
		cancel()
	}()
	if err := load.New(load.Config{Dial: dialer(func() string { return addr })}, n).Run(ctx); err != nil {
		panic(err)
	}
}

// A proxy costs the zone less than 100 KiB, transport included.
func TestMemoryOfAProxy(t *testing.T) {
	n := 300
	const services = 100
	m := newMarket(t, services)
	z := newZone(t, m.table())
	before := memory()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self) //nolint:gosec // ourselves
	cmd.Env = append(os.Environ(), fleetVariable+"="+z.addr+"|"+strconv.Itoa(n))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}()
	z.until("all have everything", allAt(n, 1))
	push{"", 50, 1500}.grow(m, 1)
	z.set(m.table())
	z.until("all have the change", allAt(n, 2))
	each := (memory() - before) / n
	t.Logf("%d bytes per proxy of %d services", each, services)
	if each > 100<<10 {
		t.Errorf("%d bytes per proxy, at most %d are allowed", each, 100<<10)
	}
}

// memory is the heap and the stacks in use.
func memory() int {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int(s.HeapInuse + s.StackInuse)
}
