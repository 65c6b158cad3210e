package backends

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
)

// A Datadog takes traces as the agent of Datadog does: MessagePack over HTTP, as "Tracing HTTP API" of its trace agent, v0.4. The agent itself
// comes from no package registry that this repository uses.
type Datadog struct {
	// URL is where a tracer sends.
	URL string

	mu    sync.Mutex
	spans []Span
	err   error
}

// NewDatadog starts one.
func NewDatadog(t testing.TB) *Datadog {
	t.Helper()
	d := &Datadog{}
	s := httptest.NewServer(http.HandlerFunc(d.take))
	t.Cleanup(s.Close)
	d.URL = s.URL
	return d
}

func (d *Datadog) take(w http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.URL.Path, "/traces") {
		return // what the tracer tells of itself
	}
	// An array of traces, each an array of spans.
	var traces [][]struct {
		Trace   uint64            `msgpack:"trace_id"`
		Service string            `msgpack:"service"`
		Meta    map[string]string `msgpack:"meta"`
	}
	b, err := io.ReadAll(r.Body)
	if err == nil {
		err = msgpack.Unmarshal(b, &traces)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.err = fmt.Errorf("%s %s: %w", r.Method, r.URL.Path, err)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for _, trace := range traces {
		for _, s := range trace {
			d.spans = append(d.spans, Span{Trace: fmt.Sprint(s.Trace), Service: s.Service, Tags: s.Meta})
		}
	}
	fmt.Fprint(w, `{"rate_by_service": {}}`)
}

// Spans are all that have come.
func (d *Datadog) Spans(t testing.TB) []Span {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		t.Fatal(d.err)
	}
	return slices.Clone(d.spans)
}
