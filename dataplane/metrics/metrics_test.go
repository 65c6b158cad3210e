package metrics_test

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/dataplane/load"
	"github.com/causeway-mesh/causeway/dataplane/metrics"
	"github.com/causeway-mesh/causeway/test/ports"
)

const envoyTells = `# TYPE envoy_cluster_upstream_rq_total counter
envoy_cluster_upstream_rq_total{envoy_cluster_name="kri_msvc_default_east__web_main"} 7
envoy_cluster_upstream_rq_total{envoy_cluster_name="system_agent"} 99

# TYPE envoy_runtime_num_keys gauge
envoy_runtime_num_keys{} 4

# TYPE envoy_server_live gauge
envoy_server_live{} 1
# TYPE envoy_cluster_upstream_rq_time histogram
envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="a",le="0.5"} 0
envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="a",le="+Inf"} 3
envoy_cluster_upstream_rq_time_sum{envoy_cluster_name="a"} 30.5
envoy_cluster_upstream_rq_time_count{envoy_cluster_name="a"} 3
`

// world is a server, an Envoy that tells and applications that do.
type world struct {
	t      *testing.T
	server *metrics.Server
	port   uint32
	envoy  string
	asked  string
	fails  error
}

func start(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, port: uint32(ports.Free(t, "127.0.0.1")), envoy: envoyTells}
	w.server = metrics.New(metrics.Config{
		Envoy: func(_ context.Context, path string) (io.ReadCloser, error) {
			w.asked = path
			return io.NopCloser(strings.NewReader(w.envoy)), w.fails
		},
		Load: func() []load.Total {
			return []load.Total{{Key: load.Key{Destination: "kri_msvc_default_east__web_main", Zone: "west", Priority: 1}, Counts: load.Counts{Requests: 5}}}
		},
		MeshTLS: func() (*tls.Config, error) { return nil, errors.New("there is no identity") },
		Log:     slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) settings(edit func(*agentapi.Metrics)) *agentapi.Metrics {
	m := &agentapi.Metrics{
		Address: "127.0.0.1", Labels: map[string]string{"mesh": "default", "zone": "east"},
		Prometheus: []*agentapi.PrometheusBackend{{Port: w.port, Path: "/metrics", Tls: "Disabled"}},
	}
	if edit != nil {
		edit(m)
	}
	return m
}

// set gives settings and waits until a condition on the answer of the port holds.
func (w *world) until(what string, cond func(code int, body string, err error) bool) string {
	w.t.Helper()
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		code, body, err := w.get("/metrics")
		if cond(code, body, err) {
			return body
		}
		if time.Since(start) > time.Minute {
			w.t.Fatalf("%s: not within a minute; last: %d %v\n%s", what, code, err, body)
		}
	}
}

func (w *world) get(path string) (int, string, error) {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(fmt.Sprintf("http://127.0.0.1:%d%s", w.port, path))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func served(code int, _ string, err error) bool { return code == http.StatusOK && err == nil }

// scrape reads the metrics as Prometheus does.
func (w *world) scrape(m *agentapi.Metrics) map[string]*dto.MetricFamily {
	w.t.Helper()
	w.server.Set(m)
	return parsed(w.t, w.until("it is served", served))
}

func parsed(t *testing.T, text string) map[string]*dto.MetricFamily {
	t.Helper()
	p := expfmt.NewTextParser(model.LegacyValidation)
	out, err := p.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("the exposition cannot be parsed: %v\n%s", err, text)
	}
	return out
}

// value finds a sample by its labels, given as name, value and so on; it must have exactly these beside those of the mesh.
func value(f *dto.MetricFamily, labels ...string) (float64, bool) {
	want := map[string]string{"mesh": "default", "zone": "east"}
	for i := 0; i < len(labels); i += 2 {
		want[labels[i]] = labels[i+1]
	}
	for _, m := range f.GetMetric() {
		same := len(m.GetLabel()) == len(want)
		for _, l := range m.GetLabel() {
			same = same && want[l.GetName()] == l.GetValue()
		}
		if same {
			return m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue(), true
		}
	}
	return 0, false
}

func application(t *testing.T, name, text string) *agentapi.MetricsApplication {
	t.Helper()
	return serving(t, name, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) })
}

func serving(t *testing.T, name string, handler http.HandlerFunc) *agentapi.MetricsApplication {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return &agentapi.MetricsApplication{Name: name, Address: u.Hostname(), Port: uint32(n), Path: "/metrics"}
}

func TestJoined(t *testing.T) {
	w := start(t)
	got := w.scrape(w.settings(func(m *agentapi.Metrics) {
		m.Applications = []*agentapi.MetricsApplication{
			application(t, "shop", "# TYPE orders_total counter\norders_total{zone=\"mine\"} 3\n# TYPE go_goroutines gauge\ngo_goroutines 8\n"),
			application(t, "", "# TYPE go_goroutines gauge\ngo_goroutines 9\n# TYPE envoy_cluster_upstream_rq_total counter\nenvoy_cluster_upstream_rq_total{of=\"another Envoy\"} 1\n"),
		}
	}))
	for _, c := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"envoy_cluster_upstream_rq_total", []string{"envoy_cluster_name", "kri_msvc_default_east__web_main"}, 7},
		{"envoy_cluster_upstream_rq_total", []string{"of", "another Envoy"}, 1},
		{"envoy_server_live", nil, 1},
		{"orders_total", []string{"application", "shop", "exported_zone", "mine"}, 3}, // the labels of the mesh are not for applications to choose
		{"go_goroutines", []string{"application", "shop"}, 8},
		{"go_goroutines", nil, 9},
		{"causeway_scrape_up", []string{"source", "envoy"}, 1},
		{"causeway_scrape_up", []string{"source", "shop"}, 1},
		{"causeway_traffic_requests_total", []string{"destination", "kri_msvc_default_east__web_main", "peer_zone", "west", "priority", "1"}, 5},
	} {
		if v, ok := value(got[c.name], c.labels...); !ok || v != c.want {
			t.Errorf("%s%v is %v (%t), want %v; there is %v", c.name, c.labels, v, ok, c.want, got[c.name])
		}
	}
	if n := len(got["envoy_cluster_upstream_rq_total"].GetMetric()); n != 2 {
		t.Errorf("%d samples, want those of the system left out", n)
	}
	if got["envoy_runtime_num_keys"] != nil {
		t.Error("the profile Basic tells the number of runtime keys")
	}
	if h := got["envoy_cluster_upstream_rq_time"].GetMetric(); len(h) != 1 || h[0].GetHistogram().GetSampleCount() != 3 {
		t.Errorf("the histogram is %v", h)
	}
	if w.asked != "/stats/prometheus?usedonly" {
		t.Errorf("Envoy was asked for %s", w.asked)
	}
}

func TestProfiles(t *testing.T) {
	w := start(t)
	for _, c := range []struct {
		name    string
		sidecar *agentapi.MetricsSidecar
		want    string // of rq_total, num_keys, live and traffic, those that are told
	}{
		{"default", nil, "rq_total live traffic"},
		{"all", &agentapi.MetricsSidecar{Profiles: []string{"Basic", "All"}}, "rq_total num_keys live traffic"},
		{"none", &agentapi.MetricsSidecar{Profiles: []string{"None"}}, ""},
		{"exclude", &agentapi.MetricsSidecar{Exclude: []*agentapi.MetricsSelector{{Type: "Contains", Match: "_live"}, {Type: "Prefix", Match: "causeway_"}}}, "rq_total"},
		{"include wins", &agentapi.MetricsSidecar{
			Profiles: []string{"None"}, Exclude: []*agentapi.MetricsSelector{{Type: "Regex", Match: ".*"}},
			Include: []*agentapi.MetricsSelector{{Type: "Exact", Match: "envoy_runtime_num_keys"}, {Type: "Regex", Match: "rq_t.tal$"}},
		}, "rq_total num_keys"},
		{"unused", &agentapi.MetricsSidecar{IncludeUnused: true}, "rq_total live traffic"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := w.scrape(w.settings(func(m *agentapi.Metrics) { m.Sidecar = c.sidecar }))
			var told []string
			for name, short := range map[string]string{"envoy_cluster_upstream_rq_total": "rq_total", "envoy_runtime_num_keys": "num_keys", "envoy_server_live": "live", "causeway_traffic_requests_total": "traffic"} {
				if (got[name] != nil) != strings.Contains(c.want, short) {
					t.Errorf("%s is told: %t", name, got[name] != nil)
				}
				told = append(told, name)
			}
			if want := !c.sidecar.GetIncludeUnused(); strings.HasSuffix(w.asked, "usedonly") != want {
				t.Errorf("Envoy was asked for %s (of %v)", w.asked, told)
			}
		})
	}
}

// Nothing that an application does takes anything away from what Envoy tells, and no application suffers for another.
func TestBadApplications(t *testing.T) {
	w := start(t)
	endless := strings.Repeat("# HELP x "+strings.Repeat("y", 1000)+"\n", 100)
	bad := map[string]*agentapi.MetricsApplication{
		"malformed": application(t, "malformed", "this is no metric{\n"),
		"html":      application(t, "html", "<html><body>hello</body></html>"),
		"duplicate": application(t, "duplicate", "# TYPE a gauge\na 1\n# TYPE a counter\na 2\n"),
		"missing":   serving(t, "missing", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }),
		"redirects": serving(t, "redirects", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		}),
		"endless": serving(t, "endless", func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := io.WriteString(w, endless); err != nil {
					return
				}
			}
		}),
		"hangs": serving(t, "hangs", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }),
		"utf-8": application(t, "utf-8", "# TYPE x gauge\n{\"with.dots\"} 1\n"),
	}
	m := w.settings(func(m *agentapi.Metrics) {
		for _, a := range bad {
			m.Applications = append(m.Applications, a)
		}
		m.Applications = append(m.Applications, application(t, "good", "orders_total 3\n"))
	})
	w.server.Set(m)
	w.until("it is served", func(_ int, _ string, err error) bool { return err == nil })
	r, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/metrics", w.port), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", "3")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	got := parsed(t, string(text))
	if v, ok := value(got["envoy_server_live"]); !ok || v != 1 {
		t.Errorf("what Envoy tells is gone: %v", got["envoy_server_live"])
	}
	if v, ok := value(got["orders_total"], "application", "good"); !ok || v != 3 {
		t.Errorf("the good application suffers: %v", got["orders_total"])
	}
	for name := range bad {
		if v, ok := value(got["causeway_scrape_up"], "source", name); !ok || v != 0 {
			t.Errorf("%s: up is %v (%t), want 0", name, v, ok)
		}
	}
}

// Metrics of one name and two types cannot stand in one exposition: the first application keeps it.
func TestTypesDiffer(t *testing.T) {
	w := start(t)
	got := w.scrape(w.settings(func(m *agentapi.Metrics) {
		m.Applications = []*agentapi.MetricsApplication{
			application(t, "one", "# TYPE a gauge\na 1\n"), application(t, "two", "# TYPE a counter\na 2\n"),
			application(t, "three", "# TYPE envoy_server_live counter\nenvoy_server_live 2\n"),
		}
	}))
	if n := len(got["a"].GetMetric()); n != 1 || got["a"].GetType() != dto.MetricType_GAUGE {
		t.Errorf("a is %v", got["a"])
	}
	if v, ok := value(got["envoy_server_live"]); !ok || v != 1 || len(got["envoy_server_live"].GetMetric()) != 1 {
		t.Errorf("envoy_server_live is %v", got["envoy_server_live"])
	}
}

// Without Envoy the rest is told, and that it is missing.
func TestEnvoyIsAway(t *testing.T) {
	w := start(t)
	w.fails = errors.New("connection refused")
	got := w.scrape(w.settings(func(m *agentapi.Metrics) {
		m.Applications = []*agentapi.MetricsApplication{application(t, "shop", "orders_total 3\n")}
	}))
	if v, ok := value(got["causeway_scrape_up"], "source", "envoy"); !ok || v != 0 {
		t.Errorf("up is %v (%t)", v, ok)
	}
	if _, ok := value(got["orders_total"], "application", "shop"); !ok {
		t.Error("the application is not told")
	}
}

// Ports follow the settings; what is not asked for is not there.
func TestPorts(t *testing.T) {
	w := start(t)
	w.scrape(w.settings(nil))
	for path, want := range map[string]int{"/metrics": 200, "/other": 404, "/": 404} {
		if code, _, err := w.get(path); err != nil || code != want {
			t.Errorf("%s: %d %v, want %d", path, code, err, want)
		}
	}
	w.server.Set(w.settings(func(m *agentapi.Metrics) { m.Prometheus[0].Path = "/other" }))
	w.until("the path has moved", func(code int, _ string, _ error) bool { return code == http.StatusNotFound })
	w.server.Set(nil)
	w.until("the port is closed", func(_ int, _ string, err error) bool { return err != nil })

	// What cannot be served with TLS as asked for is not served at all, and the agent says why.
	for mode, why := range map[string]string{"ProvidedTLS": "certFile", "Other": "not known"} {
		w.server.Set(w.settings(func(m *agentapi.Metrics) { m.Prometheus[0].Tls = mode }))
		w.problem(fmt.Sprintf("prometheus %d", w.port), why)
		if code, _, err := w.get("/metrics"); err == nil {
			t.Errorf("%s: answers %d in plaintext", mode, code)
		}
	}
	w.server.Set(w.settings(func(m *agentapi.Metrics) { m.Prometheus[0].Tls = "ActiveMTLSBackend" }))
	w.problem(fmt.Sprintf("prometheus %d", w.port), "")
	if _, body, err := w.get("/metrics"); err == nil && strings.Contains(body, "envoy") {
		t.Error("metrics are told in plaintext, and without an identity")
	}
	// A port that somebody else has is tried again.
	s := httptest.NewServer(http.NotFoundHandler())
	u, _ := url.Parse(s.URL)
	n, _ := strconv.Atoi(u.Port())
	w.server.Set(w.settings(func(m *agentapi.Metrics) { m.Prometheus[0].Port = uint32(n) }))
	w.problem(fmt.Sprintf("prometheus %d", n), "in use")
	s.Close()
	w.port = uint32(n)
	w.until("the port was taken when it was free", served)
	w.problem(fmt.Sprintf("prometheus %d", n), "")
}

// problem waits for what the server says of a backend; nothing for a backend that works.
func (w *world) problem(backend, text string) {
	w.t.Helper()
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		status := w.server.Status()
		found := ""
		for _, p := range status.GetProblems() {
			if p.GetBackend() == backend {
				found = p.GetText()
			}
		}
		if text == "" && found == "" || text != "" && strings.Contains(found, text) {
			return
		}
		if time.Since(start) > time.Minute {
			w.t.Fatalf("problem of %s: %v, want %q", backend, status, text)
		}
	}
}

func TestCompressed(t *testing.T) {
	w := start(t)
	w.scrape(w.settings(nil))
	r, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/metrics", w.port), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept-Encoding", "gzip")
	resp, err := (&http.Transport{DisableCompression: true}).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	z, err := gzip.NewReader(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil || !strings.Contains(string(text), "envoy_server_live") {
		t.Errorf("%v\n%s", err, text)
	}
}
