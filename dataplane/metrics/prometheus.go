package metrics

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/causeway-mesh/causeway/api/agentapi"
)

// The ways in which Prometheus is served.
const (
	tlsProvided = "ProvidedTLS"
	tlsMesh     = "ActiveMTLSBackend"
)

// Between two attempts to serve a port that is in use.
const (
	bindBase = 100 * time.Millisecond
	bindMax  = 10 * time.Second
)

// serve answers Prometheus on one port until ctx ends. A port in use is tried again: whoever has it may go.
func (s *Server) serve(ctx context.Context, p port) {
	defer s.forget(p.backend())
	for wait := bindBase; ; wait = min(2*wait, bindMax) {
		err := s.serveOnce(ctx, p)
		if ctx.Err() != nil {
			return
		}
		s.judge(p.backend(), err)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

func (s *Server) serveOnce(ctx context.Context, p port) error {
	config, err := s.tlsFor(p.tls)
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(p.address, strconv.FormatUint(uint64(p.number), 10)))
	if err != nil {
		return fmt.Errorf("serve Prometheus: %w; free the port, or choose another one in the MeshMetric", err)
	}
	s.judge(p.backend(), nil)
	srv := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.answer(w, r, p) }),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		// A slow reader holds one of few places.
		WriteTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if config != nil {
		l = tls.NewListener(l, config)
	}
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve Prometheus: %w", err)
	}
	return nil
}

// tlsFor is how a port is served; nil in plaintext, when that is asked for. Anything unknown is refused, never served in plaintext.
func (s *Server) tlsFor(mode string) (*tls.Config, error) {
	switch mode {
	case "", "Disabled":
		return nil, nil
	case tlsProvided:
		if s.cfg.CertFile == "" || s.cfg.KeyFile == "" {
			return nil, errors.New("tls.mode is ProvidedTLS, and this agent was given no certificate; set metrics.certFile and metrics.keyFile")
		}
		if _, err := tls.LoadX509KeyPair(s.cfg.CertFile, s.cfg.KeyFile); err != nil {
			return nil, fmt.Errorf("tls.mode is ProvidedTLS: %w", err)
		}
		return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.provided}, nil
	case tlsMesh:
		return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return s.cfg.MeshTLS()
		}}, nil
	}
	return nil, fmt.Errorf("tls.mode %q is not known to this agent", mode)
}

// provided reads the files anew for each connection, of which there are few: they may have been renewed.
func (s *Server) provided(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(s.cfg.CertFile, s.cfg.KeyFile)
	if err != nil {
		return nil, err
	}
	return &c, nil
}

// answer tells everything at the paths that are set for a port.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, p port) {
	m := s.current()
	if !slices.ContainsFunc(m.GetPrometheus(), func(b *agentapi.PrometheusBackend) bool {
		return b.GetPort() == p.number && b.GetTls() == p.tls && "/"+strings.TrimPrefix(b.GetPath(), "/") == r.URL.Path
	}) {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "only GET is answered", http.StatusMethodNotAllowed)
		return
	}
	select {
	case s.scrapes <- struct{}{}:
		defer func() { <-s.scrapes }()
	default:
		http.Error(w, "metrics are being read by several others", http.StatusServiceUnavailable)
		return
	}
	s.tell(w, r, m)
}

// tell writes all metrics.
func (s *Server) tell(w http.ResponseWriter, r *http.Request, m *agentapi.Metrics) {
	ctx, cancel := context.WithTimeout(r.Context(), timeoutOf(r))
	defer cancel()
	w.Header().Set("Content-Type", string(expfmt.NewFormat(expfmt.TypeTextPlain)))
	to := io.Writer(w)
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer z.Close()
		w.Header().Set("Content-Encoding", "gzip")
		to = z
	}
	out := &exposition{w: bufio.NewWriterSize(to, 32<<10)}
	err := s.gather(ctx, m, out)
	if err == nil {
		err = out.w.Flush()
	}
	if err != nil {
		s.cfg.Log.Debug("metrics were not told to the end", "to", r.RemoteAddr, "err", err)
		panic(http.ErrAbortHandler) // half of the metrics must not look like all of them
	}
}

// timeoutOf is the time that Prometheus gives, a little shortened so that what is known arrives in it.
func timeoutOf(r *http.Request) time.Duration {
	seconds, err := strconv.ParseFloat(r.Header.Get("X-Prometheus-Scrape-Timeout-Seconds"), 64)
	if err != nil || !(seconds > 0) || seconds > 60 {
		return scrapeTimeout
	}
	return time.Duration(seconds * 0.9 * float64(time.Second))
}

// exposition writes the text format.
type exposition struct {
	w   *bufio.Writer
	tmp bytes.Buffer
}

func (e *exposition) envoy(f family, more *dto.MetricFamily) error {
	fmt.Fprintf(e.w, "# TYPE %s %s\n", f.name, f.typ) //nolint:errcheck // the writer keeps its error for the next line
	if _, err := e.w.Write(f.samples); err != nil || more == nil {
		return err
	}
	e.tmp.Reset()
	if _, err := expfmt.MetricFamilyToText(&e.tmp, more); err != nil {
		return nil //nolint:nilerr // it was parsed from text; if it cannot be text again, the rest is told without it
	}
	for line := range bytes.Lines(e.tmp.Bytes()) {
		if line[0] != '#' {
			if _, err := e.w.Write(line); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *exposition) family(f *dto.MetricFamily) error {
	e.tmp.Reset()
	if _, err := expfmt.MetricFamilyToText(&e.tmp, f); err != nil {
		return nil //nolint:nilerr // see above
	}
	_, err := e.w.Write(e.tmp.Bytes())
	return err
}
