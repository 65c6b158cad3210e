// Package backends runs what telemetry is sent to, for tests: a real Jaeger, a real OpenTelemetry Collector, a sink of lines, and
// what takes the traces of Datadog.
// The programs are built from test/observability, once, by .ci/prepare. All of them are on loopback and end with the test.
// It is no part of the product and knows nothing of meshes.
package backends

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/test/ports"
)

const patience = 30 * time.Second

// program finds a program. Without it the test is skipped; in CI it fails.
func program(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "causeway", "observability", name)
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing; .ci/prepare builds it", path)
		}
		t.Skipf("%s is missing; .ci/prepare builds it", path)
	}
	return path
}

// run starts a program, which ends with the test.
func run(t testing.TB, path string, args ...string) {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		stop()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = cmd.Wait() // ended by a signal
		if t.Failed() {
			s := out.String()
			t.Logf("the end of what %s said:\n%s", filepath.Base(path), s[max(0, len(s)-2000):])
		}
	})
}

func until(t testing.TB, what string, cond func() (any, bool)) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for late := time.Now().Add(patience); ; <-tick.C {
		state, ok := cond()
		if ok {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("%s: not within %s; last seen: %v", what, patience, state)
		}
	}
}

// A Jaeger is a running Jaeger.
type Jaeger struct {
	// GRPC and HTTP take spans by OTLP, Zipkin as Zipkin does; host:port.
	GRPC, HTTP, Zipkin string
	query              string
}

// NewJaeger starts one and waits until it answers.
func NewJaeger(t testing.TB) *Jaeger {
	t.Helper()
	path := program(t, "jaeger-1.62.0")
	free := func() string { return ports.FreeAddress(t, "127.0.0.1") }
	j := &Jaeger{GRPC: free(), HTTP: free(), Zipkin: free(), query: free()}
	run(t, path,
		"--collector.otlp.grpc.host-port="+j.GRPC, "--collector.otlp.http.host-port="+j.HTTP, "--collector.zipkin.host-port="+j.Zipkin,
		"--query.http-server.host-port="+j.query, "--query.grpc-server.host-port="+free(), "--admin.http.host-port="+free(), "--http-server.host-port="+free(),
		"--collector.grpc-server.host-port="+free(), "--collector.http-server.host-port="+free(), "--processor.jaeger-binary.server-host-port="+free(),
		"--processor.jaeger-compact.server-host-port="+free(), "--processor.zipkin-compact.server-host-port="+free(), "--log-level=warn")
	until(t, "Jaeger answers", func() (any, bool) {
		_, err := j.get("/api/services")
		return err, err == nil
	})
	return j
}

func (j *Jaeger) get(path string) ([]byte, error) {
	resp, err := http.Get("http://" + j.query + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return b, err
}

// A Span is one span as Jaeger tells it.
type Span struct {
	Trace, Service string
	Tags           map[string]string
}

// Spans are those of a service that Jaeger has, of all traces.
func (j *Jaeger) Spans(t testing.TB, service string) []Span {
	t.Helper()
	b, err := j.get("/api/traces?limit=1000&lookback=1h&service=" + url.QueryEscape(service))
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Data []struct {
			Spans []struct {
				TraceID, ProcessID string
				Tags               []struct {
					Key   string
					Value any
				}
			}
			Processes map[string]struct{ ServiceName string }
		}
	}
	if err := json.Unmarshal(b, &answer); err != nil {
		t.Fatal(err)
	}
	var out []Span
	for _, tr := range answer.Data {
		for _, s := range tr.Spans {
			span := Span{s.TraceID, tr.Processes[s.ProcessID].ServiceName, map[string]string{}}
			for _, tag := range s.Tags {
				span.Tags[tag.Key] = fmt.Sprint(tag.Value)
			}
			out = append(out, span)
		}
	}
	return out
}

// A Collector is a running OpenTelemetry Collector.
type Collector struct {
	// GRPC and HTTP take logs and spans by OTLP; host:port.
	GRPC, HTTP string

	mu   sync.Mutex
	took []string
}

// NewCollector starts one and waits until it listens.
func NewCollector(t testing.TB) *Collector {
	t.Helper()
	path := program(t, "collector-0.111.0")
	c := &Collector{GRPC: ports.FreeAddress(t, "127.0.0.1"), HTTP: ports.FreeAddress(t, "127.0.0.1")}
	behind := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return // the collector sends it again
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.took = append(c.took, string(b))
	}))
	t.Cleanup(behind.Close)
	config := filepath.Join(t.TempDir(), "collector.yaml")
	text := fmt.Sprintf(`
receivers: {otlp: {protocols: {grpc: {endpoint: %q}, http: {endpoint: %q}}}}
exporters: {otlphttp: {endpoint: %q, encoding: json, compression: none}}
service:
  telemetry: {metrics: {level: none}}
  pipelines:
    logs: {receivers: [otlp], exporters: [otlphttp]}
    traces: {receivers: [otlp], exporters: [otlphttp]}
`, c.GRPC, c.HTTP, behind.URL)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, path, "--config", config)
	until(t, "the collector listens", func() (any, bool) {
		conn, err := net.Dial("tcp", c.GRPC)
		if err == nil {
			_ = conn.Close() // it was only to see
		}
		return err, err == nil
	})
	return c
}

// Took says whether one of the requests that the collector passed on has all of the texts.
func (c *Collector) Took(texts ...string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.took, func(s string) bool {
		return !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(s, text) })
	})
}

// Lines is a TCP collector that takes lines.
type Lines struct {
	Address string

	mu  sync.Mutex
	all []string
}

// NewLines starts one.
func NewLines(t testing.TB) *Lines {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Lines{Address: l.Addr().String()}
	var conns sync.WaitGroup
	open := map[net.Conn]bool{}
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			open[c] = true
			s.mu.Unlock()
			conns.Go(func() {
				for in := bufio.NewScanner(c); in.Scan(); {
					s.mu.Lock()
					s.all = append(s.all, in.Text())
					s.mu.Unlock()
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close() // ends accepting
		s.mu.Lock()
		for c := range open {
			_ = c.Close() // ends reading
		}
		s.mu.Unlock()
		conns.Wait()
	})
	return s
}

// All are the lines so far.
func (s *Lines) All() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

// Has says whether there is such a line.
func (s *Lines) Has(line string) bool { return slices.Contains(s.All(), line) }
