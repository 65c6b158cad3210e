package load_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/test/load"
	"github.com/causeway-mesh/causeway/zone-cp/xds"
)

// BenchmarkPush measures from a new table to its last acknowledgement by 1,000 streams over TLS, both sides in this process,
// beside what the same bytes take when nothing has to be decided about them.
func BenchmarkPush(b *testing.B) {
	const streams = 1000
	for _, c := range []struct{ resources, size int }{{1, 1000}, {50, 1500}} {
		what := fmt.Sprintf("%dx%dB", c.resources, c.size)
		b.Run(what+"/ours", func(b *testing.B) {
			s := &sessions{subs: map[*subscription]bool{}}
			s.set(table(b, 1, c.resources, c.size))
			f := connect(b, load.Config{}, streams, serve(b, xds.Config{Sessions: s}, nil))
			measure(b, f, streams, func(version uint64) func() {
				t := table(b, version, c.resources, c.size)
				return func() { s.set(t) }
			})
		})
		b.Run(what+"/ceiling", func(b *testing.B) {
			ceiling := load.NewCeiling()
			f := connect(b, load.Config{}, streams, serve(b, xds.Config{}, ceiling))
			within(b, "all streams are open", func() bool { return ceiling.Streams() == streams })
			measure(b, f, streams, func(version uint64) func() {
				var bytes []byte
				for _, x := range table(b, version, c.resources, c.size).Shared.Of(envoy.Cluster) {
					bytes = append(bytes, slices.Concat(x.Chunks...)...)
				}
				return func() { ceiling.Push(envoy.Cluster, version, bytes, streams) }
			})
		})
	}
}

// measure pushes versions one after another and reports the median time to the last acknowledgement.
func measure(b *testing.B, f *load.Fleet, streams int, prepare func(version uint64) (push func())) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
	defer cancel()
	version := uint64(1)
	once := func() time.Duration {
		version++
		f.Forget()
		push := prepare(version)
		begin := time.Now()
		push()
		last, err := f.Until(ctx, version, streams)
		if err != nil {
			b.Fatal(err)
		}
		return last.Last.Sub(begin)
	}
	within(b, "all streams are open", func() bool { return f.Streams() == streams })
	once() // what comes with the first connection
	bytes := f.Bytes()
	var took []time.Duration
	for b.Loop() {
		took = append(took, once())
	}
	slices.Sort(took)
	b.ReportMetric(0, "ns/op") // with the preparation it would mislead
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-median")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "ms-max")
	b.ReportMetric(float64(f.Bytes()-bytes)/float64(len(took)*streams), "B/stream")
}

// table has clusters that differ from those of every other version.
func table(t testing.TB, version uint64, resources, size int) *envoy.Table {
	t.Helper()
	var all []*envoy.Fragment
	for i := range resources {
		name := fmt.Sprintf("cluster-%d", i)
		f, err := envoy.NewFragment(envoy.Cluster, name, &clusterv3.Cluster{
			Name: name, ConnectTimeout: durationpb.New(time.Duration(version) * time.Millisecond), AltStatName: strings.Repeat("x", size-130),
		})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
	return &envoy.Table{Shared: envoy.NewPart(all), Sequence: version}
}

// sessions gives one table to every proxy.
type sessions struct {
	mu    sync.Mutex
	table *envoy.Table
	subs  map[*subscription]bool
}

func (s *sessions) set(t *envoy.Table) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table = t
	for sub := range s.subs {
		sub.changed()
	}
}

// Open implements xds.Sessions.
func (s *sessions) Open(_ context.Context, _ *corev3.Node, changed func()) (xds.Subscription, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := &subscription{s, changed}
	s.subs[sub] = true
	return sub, nil
}

type subscription struct {
	*sessions
	changed func()
}

func (s *subscription) Table() *envoy.Table {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table
}

func (s *subscription) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.subs, s)
}

func (*subscription) Acked(uint64)              {}
func (*subscription) Sent(envoy.Type)           {}
func (*subscription) Answered(envoy.Type, bool) {}
func (*subscription) Rejected([]xds.Rejection)  {}
