package demo

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// traced are the headers with which a workload passes on which trace a request belongs to.
var traced = []string{"Traceparent", "Tracestate"}

// A collector takes spans over OTLP/HTTP and keeps those of the last traces. It stands in for the collector of a real mesh.
type collector struct {
	http *http.Server
	mu   sync.Mutex
	// spans by trace, and the traces in the order in which they appeared.
	spans map[string][]span
	order []string
}

// maxTraces and maxExport bound what is kept, and what is read at once.
const (
	maxTraces = 2000
	maxExport = 4 << 20
)

// A span is what one proxy saw of a request.
type span struct {
	id, parent     string
	workload, zone string
	server         bool // the proxy received the request, instead of sending it
	begin, end     uint64
}

func (d *Demo) serveCollector(ctx context.Context) error {
	c := &collector{spans: map[string][]span{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", c.export)
	c.http = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", d.at(0, 1, collectorPort))
	if err != nil {
		return fmt.Errorf("start the collector of traces: %w", err)
	}
	d.collector = c
	d.work.Go(func() {
		_ = c.http.Serve(l) // ends when it is closed
	})
	return nil
}

func (c *collector) close() {
	if c != nil {
		_ = c.http.Close()
	}
}

func (c *collector) export(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxExport))
	var in collectorv1.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &in)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range in.GetResourceSpans() {
		for _, ss := range rs.GetScopeSpans() {
			for _, s := range ss.GetSpans() {
				c.keep(hex.EncodeToString(s.GetTraceId()), spanOf(s))
			}
		}
	}
}

func spanOf(s *tracev1.Span) span {
	return span{
		id: hex.EncodeToString(s.GetSpanId()), parent: hex.EncodeToString(s.GetParentSpanId()),
		workload: attribute(s.GetAttributes(), "kuma.workload"), zone: attribute(s.GetAttributes(), "kuma.zone"),
		server: s.GetKind() == tracev1.Span_SPAN_KIND_SERVER, begin: s.GetStartTimeUnixNano(), end: s.GetEndTimeUnixNano(),
	}
}

func attribute(list []*commonv1.KeyValue, key string) string {
	for _, kv := range list {
		if kv.GetKey() == key {
			return kv.GetValue().GetStringValue()
		}
	}
	return ""
}

func (c *collector) keep(trace string, s span) {
	if _, ok := c.spans[trace]; !ok {
		c.order = append(c.order, trace)
		if len(c.order) > maxTraces {
			delete(c.spans, c.order[0])
			c.order = c.order[1:]
		}
	}
	c.spans[trace] = append(c.spans[trace], s)
}

// of is a trace, the earliest span first.
func (c *collector) of(trace string) []span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.SortedFunc(slices.Values(c.spans[trace]), func(a, b span) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(b.end, a.end))
	})
}

// spansEach is how many proxies see a request: those of the caller and of the called, for every call of the demo.
var spansEach = 2 * (len(services) - 1)

// trace follows one request through the proxies and tells what they saw of it.
func (d *Demo) trace(ctx context.Context, tell func(string)) error {
	_, err := d.traceOnce(ctx, tell)
	return err
}

// traceOnce also says in which zones the request was seen.
func (d *Demo) traceOnce(ctx context.Context, tell func(string)) (zones []string, err error) {
	var id [24]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, err
	}
	trace := hex.EncodeToString(id[:16])
	a := *call(ctx, "http://"+d.entry(0).at(appPort)+"/", http.Header{"Traceparent": {"00-" + trace + "-" + hex.EncodeToString(id[16:]) + "-01"}})
	if !a.complete() {
		return nil, errors.New("the request failed: " + a.String())
	}
	var spans []span
	err = d.until(ctx, "all spans of the request", func() (string, bool) {
		spans = d.collector.of(trace)
		return fmt.Sprintf("%d of %d", len(spans), spansEach), len(spans) >= spansEach
	})
	if err != nil {
		return nil, err
	}
	tell(fmt.Sprintf("Trace %s, by %s:", trace, a.route()))
	seen := map[string]bool{}
	for _, line := range tree(spans) {
		tell(line)
	}
	for _, s := range spans {
		seen[s.zone] = true
	}
	return slices.Sorted(maps.Keys(seen)), nil
}

// tree shows spans below those that caused them.
func tree(spans []span) []string {
	depth := map[string]int{}
	var out []string
	for _, s := range spans {
		depth[s.id] = depth[s.parent] + 1
		does := "calls"
		if s.server {
			does = "is called"
		}
		out = append(out, fmt.Sprintf("%s%s@%s %s: %.1f ms", strings.Repeat("  ", depth[s.id]), s.workload, s.zone, does, float64(s.end-s.begin)/1e6))
	}
	return out
}
