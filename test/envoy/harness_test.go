// Package envoy holds tests against the real Envoy. The spike tests record how the pinned release
// behaves where the push design depends on it: they are driven by a scripted delta ADS server of
// their own and use nothing of the product but the way to find and run Envoy.
package envoy

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/dataplane/envoy"
	"github.com/causeway-mesh/causeway/test/ports"
)

// patience bounds every wait; it is only reached by a test that fails.
const patience = 15 * time.Second

// until polls a named condition; the last state it returned is shown when it never holds.
func until(t testing.TB, what string, cond func() (state any, ok bool)) time.Duration {
	t.Helper()
	start := time.Now()
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	for {
		state, ok := cond()
		if ok {
			return time.Since(start)
		}
		if time.Since(start) > patience {
			t.Fatalf("%s: not within %s; last seen: %v", what, patience, state)
		}
		<-tick.C
	}
}

// loopbackIP is an address of this test process alone, so that its ports meet nobody else's.
var loopbackIP = func() string {
	var b [3]byte
	rand.Read(b[:])
	return fmt.Sprintf("127.%d.%d.%d", 64+b[0]%128, b[1], 1+b[2]%250)
}()

func freePort(t testing.TB) uint32 {
	t.Helper()
	return uint32(ports.Free(t, loopbackIP))
}

func address(port uint32) string { return net.JoinHostPort(loopbackIP, strconv.Itoa(int(port))) }

// shortDir is a temporary directory whose name leaves room for a Unix socket's 107 bytes.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// proxy is one Envoy under test.
type proxy struct {
	*envoy.Process
	dir   string
	admin *http.Client
	logs  *logBuffer
}

// binary returns Envoy's path; a machine without it skips, CI fails.
func binary(t testing.TB) string {
	t.Helper()
	path, err := envoy.Find(t.Context())
	if errors.Is(err, envoy.ErrNotFound) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

type envoyConfig = envoy.Config

type option func(*envoyConfig)

func drainTime(d time.Duration) option { return func(c *envoy.Config) { c.DrainTime = d } }

// startProxy runs Envoy from a bootstrap without its admin and node parts, which are added here.
func startProxy(t testing.TB, bootstrap string, opts ...option) *proxy {
	t.Helper()
	path := binary(t)
	dir := shortDir(t)
	p := &proxy{dir: dir, logs: &logBuffer{}}
	head := fmt.Sprintf("node: {id: %q, cluster: spike}\nadmin: {address: {pipe: {path: %s/admin.sock}}}\n", t.Name(), dir)
	c := envoy.Config{
		Binary: path, Bootstrap: []byte(head + bootstrap), Dir: dir, Log: slog.New(p.logs), StopTimeout: 3 * time.Second,
	}
	for _, o := range opts {
		o(&c)
	}
	process, err := envoy.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	p.Process = process
	p.admin = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, "admin.sock"))
		},
	}}
	t.Cleanup(func() {
		p.admin.CloseIdleConnections()
		if err := process.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the end of envoy's log:\n%s", p.logs.tail(20))
		}
	})
	until(t, "admin answers", func() (any, bool) {
		select {
		case <-p.Done():
			t.Fatalf("envoy ended: %v", p.Wait())
		default:
		}
		_, err := p.get("/server_info")
		return err, err == nil
	})
	return p
}

func (p *proxy) get(path string) (string, error) {
	resp, err := p.admin.Get("http://admin" + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), err
}

func (p *proxy) mustGet(t testing.TB, path string) string {
	t.Helper()
	body, err := p.get(path)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// stat reads one counter or gauge; one that Envoy has not made yet is zero.
func (p *proxy) stat(t testing.TB, name string) int {
	t.Helper()
	for line := range strings.Lines(p.mustGet(t, "/stats?filter="+strings.ReplaceAll(name, ".", `\.`)+"$")) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && key == name {
			n, err := strconv.Atoi(value)
			if err != nil {
				t.Fatalf("stat %s: %v", name, err)
			}
			return n
		}
	}
	return 0
}

// untilStat waits until a counter or gauge has a value.
func (p *proxy) untilStat(t testing.TB, name string, want int) time.Duration {
	t.Helper()
	return until(t, fmt.Sprintf("%s is %d", name, want), func() (any, bool) {
		got := p.stat(t, name)
		return got, got == want
	})
}

func (p *proxy) untilLive(t testing.TB) {
	t.Helper()
	until(t, "envoy is live", func() (any, bool) {
		body, err := p.get("/ready")
		return body, err == nil
	})
}

// dump is the part of a config dump that says which version of what is active.
func (p *proxy) dump(t testing.TB, resource string) []map[string]any {
	t.Helper()
	var out struct {
		Configs []map[string]any `json:"configs"`
	}
	body := p.mustGet(t, "/config_dump?resource="+resource)
	if err := json.Unmarshal([]byte(body), &out); err != nil {
		t.Fatalf("config dump: %v", err)
	}
	return out.Configs
}

// logBuffer keeps Envoy's log for the output of a failed test.
type logBuffer struct{ lines syncBuffer }

func (b *logBuffer) Enabled(context.Context, slog.Level) bool { return true }
func (b *logBuffer) WithAttrs([]slog.Attr) slog.Handler       { return b }
func (b *logBuffer) WithGroup(string) slog.Handler            { return b }
func (b *logBuffer) Handle(_ context.Context, r slog.Record) error {
	b.lines.add(r.Level.String() + " " + r.Message)
	return nil
}

func (b *logBuffer) tail(n int) string {
	lines := b.lines.all()
	lines = lines[max(0, len(lines)-n):]
	for i, l := range lines {
		lines[i] = l[:min(len(l), 300)]
	}
	return strings.Join(lines, "\n")
}

// echo is an upstream that answers with its name and what it saw.
func echo(t testing.TB, name string) (port uint32) {
	t.Helper()
	return serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("x-served-by", name)
		fmt.Fprint(w, name)
	}))
}

func serveHTTP(t testing.TB, h http.Handler) (port uint32) {
	t.Helper()
	l, err := net.Listen("tcp", loopbackIP+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	s.Start()
	t.Cleanup(s.Close)
	return uint32(l.Addr().(*net.TCPAddr).Port)
}

// client is an HTTP client that keeps its connections to itself.
func client(t testing.TB) *http.Client {
	t.Helper()
	tr := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

// fetch asks a listener for a path and returns the status and the body.
func fetch(c *http.Client, port uint32, path string) (int, string, error) {
	resp, err := c.Get("http://" + address(port) + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}
