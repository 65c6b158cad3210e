// Package metrics tells what the proxy and its workload measure: it reads Envoy's statistics, asks applications for theirs, joins both with
// the labels of the mesh, serves them to Prometheus and sends them to OpenTelemetry collectors. What is told to whom the zone says,
// while the proxy runs. It measures nothing by itself but how reading went, and keeps nothing.
package metrics

import (
	"cmp"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/dataplane/load"
)

// Config of a Server.
type Config struct {
	// Envoy asks Envoy's administration for a path.
	Envoy func(ctx context.Context, path string) (io.ReadCloser, error)
	// Load is what the proxy sent where, since the start of the agent; nil when nobody counts.
	Load func() []load.Total
	// MeshTLS serves with the identity of the workload and demands one of the mesh; an error while there is none.
	MeshTLS func() (*tls.Config, error)
	// CertFile and KeyFile are what ProvidedTLS serves with.
	CertFile, KeyFile string
	// Env holds the OTEL_* variables beside the agent, which may say more of collectors.
	Env map[string]string
	// Version of this program, for collectors.
	Version string
	Log     *slog.Logger
}

// A Server tells metrics to whom Set says. Run does the work.
type Server struct {
	cfg          Config
	applications *http.Client
	wanted       chan struct{} // holds a token when there are new settings
	changed      chan struct{} // holds a token when the problems changed
	scrapes      chan struct{} // a token for each scrape in progress

	mu       sync.Mutex
	settings *agentapi.Metrics
	problems map[string]string // by backend
}

// maxScrapes is how many may read metrics at once: each costs Envoy and this process some work.
const maxScrapes = 4

// New makes a server that tells nobody anything yet.
func New(cfg Config) *Server {
	return &Server{
		cfg: cfg, applications: newApplicationClient(), wanted: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		scrapes: make(chan struct{}, maxScrapes), settings: &agentapi.Metrics{}, problems: map[string]string{},
	}
}

// Set replaces the settings; nil turns everything off.
func (s *Server) Set(m *agentapi.Metrics) {
	if m == nil {
		m = &agentapi.Metrics{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if proto.Equal(m, s.settings) {
		return
	}
	s.settings = m
	wake(s.wanted)
}

// Status says what does not work of what is set.
func (s *Server) Status() *agentapi.MetricsStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &agentapi.MetricsStatus{}
	for backend, text := range s.problems {
		out.Problems = append(out.Problems, &agentapi.MetricsProblem{Backend: backend, Text: text})
	}
	slices.SortFunc(out.Problems, func(a, b *agentapi.MetricsProblem) int { return cmp.Compare(a.GetBackend(), b.GetBackend()) })
	return out
}

// Renew makes the status be told again, to a zone that may not know it.
func (s *Server) Renew() { wake(s.changed) }

// Changed yields when the status may have changed. One reader.
func (s *Server) Changed() <-chan struct{} { return s.changed }

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// judge notes how a backend fares; nil is well.
func (s *Server) judge(backend string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.problems[backend] == text {
		return
	}
	if err == nil {
		delete(s.problems, backend)
		s.cfg.Log.Info("metrics are told again", "backend", backend)
	} else {
		s.problems[backend] = text
		s.cfg.Log.Warn("metrics are not told", "backend", backend, "err", text)
	}
	wake(s.changed)
}

// forget drops what is known of a backend that is not wanted any more.
func (s *Server) forget(backend string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, had := s.problems[backend]; had {
		delete(s.problems, backend)
		wake(s.changed)
	}
}

func (s *Server) current() *agentapi.Metrics {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settings
}

// Run follows the settings until ctx ends. What an edit does not touch goes on.
func (s *Server) Run(ctx context.Context) error {
	running := map[string]func(){} // how each is stopped
	var work sync.WaitGroup
	defer work.Wait()
	for {
		wanted := s.parts(s.current())
		for name, stop := range running {
			if _, ok := wanted[name]; !ok {
				stop()
				delete(running, name)
			}
		}
		for name, start := range wanted {
			if _, ok := running[name]; ok {
				continue
			}
			ctx, cancel := context.WithCancel(ctx)
			done := make(chan struct{})
			work.Go(func() {
				defer close(done)
				start(ctx)
			})
			running[name] = func() { cancel(); <-done }
		}
		select {
		case <-s.wanted:
		case <-ctx.Done():
			for _, stop := range running {
				stop()
			}
			return nil
		}
	}
}

// parts are what is to run, by what tells it apart from others: ports that are served and collectors that are sent to.
func (s *Server) parts(m *agentapi.Metrics) map[string]func(context.Context) {
	out := map[string]func(context.Context){}
	for _, b := range m.GetPrometheus() {
		p := port{m.GetAddress(), b.GetPort(), b.GetTls()}
		out[p.String()] = func(ctx context.Context) { s.serve(ctx, p) }
	}
	for _, c := range m.GetCollectors() {
		text, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
		if err != nil {
			continue // it was read from bytes just now
		}
		out["collector "+string(text)] = func(ctx context.Context) { s.export(ctx, c) }
	}
	return out
}
