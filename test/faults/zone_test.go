// Package faults breaks what a whole zone stands on and feeds it what nobody should send: the database goes away, the
// process is killed, two instances share a store, requests are malformed. Envoys run here only to show that they do not notice;
// faults of the data path are tested elsewhere.
package faults_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/test/ports"
	"github.com/causeway-mesh/causeway/zone-cp/zonecp"
)

// patience bounds every wait; only a test that fails reaches it.
const patience = 30 * time.Second

// until waits for a named condition; what it saw last is shown when it never holds.
func until(t testing.TB, what string, cond func() (seen any, ok bool)) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for start := time.Now(); ; <-tick.C {
		seen, ok := cond()
		if ok {
			return
		}
		if time.Since(start) > patience {
			t.Fatalf("%s: not within %s; last seen: %v", what, patience, seen)
		}
	}
}

// A journal is a log that can be read while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// panics lists the lines of a log that tell of a panic or a data race.
func panics(log string) []string {
	var out []string
	for line := range strings.Lines(log) {
		if strings.Contains(strings.ToLower(line), "panic") || strings.Contains(line, "DATA RACE") {
			out = append(out, line)
		}
	}
	return out
}

func tail(text string, n int) string { return text[max(0, len(text)-n):] }

// settings of a zone in a directory; the ports are chosen anew.
func settings(t testing.TB, dir, store string) zonecp.Config {
	t.Helper()
	c := zonecp.Default()
	c.Zone, c.WorkDir, c.Store.Type, c.Version = "east", dir, store, "test"
	c.API.Address, c.Agents.Address = "127.0.0.1:0", "127.0.0.1:0"
	c.Diagnostics.Address, c.Diagnostics.Profile = ports.FreeAddress(t, "127.0.0.1"), false
	return c
}

// A zone is a control plane in this process.
type zone struct {
	*zonecp.Zone
	*api
	diagnostics string
	log         *journal
}

// start runs a zone until the test ends. Its log must not tell of a panic.
func start(t *testing.T, cfg zonecp.Config) *zone {
	t.Helper()
	z := &zone{log: &journal{}, diagnostics: cfg.Diagnostics.Address}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	log := slog.New(slog.NewTextHandler(z.log, nil))
	var err error
	for range 3 {
		if z.Zone, err = zonecp.New(ctx, cfg, log); !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
		cfg.Diagnostics.Address = ports.FreeAddress(t, "127.0.0.1") // somebody was faster
		z.diagnostics = cfg.Diagnostics.Address
	}
	if err != nil {
		cancel()
		t.Fatalf("start the zone: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- z.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the zone ended: %v", err)
		}
		for _, line := range panics(z.log.String()) {
			t.Errorf("log: %s", line)
		}
		if t.Failed() {
			t.Logf("the end of the log:\n%s", tail(z.log.String(), 4000))
		}
	})
	select {
	case <-z.Ready():
	case err := <-ended:
		ended <- nil
		t.Fatalf("the zone ended before it was ready: %v", err)
	case <-time.After(patience):
		t.Fatal("the zone is not ready")
	}
	z.api = connect(t, z.APIAddress(), z.CAFile(), "")
	if text, err := os.ReadFile(z.AdminTokenFile()); err == nil {
		z.token = strings.TrimSpace(string(text))
	}
	return z
}

// probe asks the diagnostics.
func (z *zone) probe(t testing.TB, path string) (int, string) {
	t.Helper()
	res, err := http.Get("http://" + z.diagnostics + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// An api is one client of a zone's API, with a token.
type api struct {
	address string
	token   string
	http    *http.Client
}

func connect(t testing.TB, address, caFile, token string) *api {
	t.Helper()
	pem, err := os.ReadFile(caFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("%s holds no certificate", caFile)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, MaxIdleConnsPerHost: 16}
	t.Cleanup(transport.CloseIdleConnections)
	return &api{address: address, token: token, http: &http.Client{Transport: transport, Timeout: patience}}
}

// as is the same client with another token.
func (a *api) as(token string) *api {
	return &api{address: a.address, token: token, http: a.http}
}

// An answer of the API, read to its end.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) ok() bool { return a.status >= 200 && a.status < 300 }

func (a answer) String() string {
	return fmt.Sprintf("%d %s", a.status, a.body[:min(len(a.body), 600)])
}

// version is that of the ETag, zero without one.
func (a answer) version() int { return versionOf(a.header.Get("ETag")) }

func versionOf(etag string) int {
	parts := strings.Split(strings.Trim(etag, `"`), ".")
	if len(parts) < 2 {
		return 0
	}
	n, _ := strconv.Atoi(parts[1]) // zero is no version
	return n
}

// A refusal is the body of an answer that is not a success.
type refusal struct {
	Title   string
	Detail  string
	Invalid []struct{ Field, Reason string } `json:"invalid_parameters"`
}

func (r refusal) names(field string) bool {
	for _, p := range r.Invalid {
		if p.Field == field || strings.HasPrefix(p.Field, field+".") || strings.HasPrefix(p.Field, field+"[") {
			return true
		}
	}
	return false
}

func (a answer) refusal(t testing.TB) refusal {
	t.Helper()
	var r refusal
	if err := json.Unmarshal([]byte(a.body), &r); err != nil {
		t.Errorf("%s is no refusal: %v", a, err)
	}
	return r
}

// try makes one request; pairs are names and values of headers.
func (a *api) try(ctx context.Context, method, path, body string, pairs ...string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, "https://"+a.address+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(pairs); i += 2 {
		req.Header.Set(pairs[i], pairs[i+1])
	}
	res, err := a.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, string(b)}, err
}

// call is try for requests that must be answered.
func (a *api) call(t testing.TB, method, path, body string, pairs ...string) answer {
	t.Helper()
	out, err := a.try(context.WithoutCancel(t.Context()), method, path, body, pairs...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return out
}

// must is call for requests that must succeed.
func (a *api) must(t testing.TB, method, path, body string, pairs ...string) answer {
	t.Helper()
	out := a.call(t, method, path, body, pairs...)
	if !out.ok() {
		t.Fatalf("%s %s: %s", method, path, out)
	}
	return out
}

const timeouts = "/meshes/default/meshtimeouts/"

// timeout is a small policy that carries a number.
func timeout(name string, n int) string {
	return fmt.Sprintf(`{"type":"MeshTimeout","mesh":"default","name":%q,"spec":{"to":[{"targetRef":{"kind":"Mesh"},"default":{"connectionTimeout":"%ds"}}]}}`, name, n)
}

// stored is a policy of timeout as it is stored.
type stored struct{ version, n int }

// read gets one policy of timeout.
func (a *api) read(ctx context.Context, name string) (stored, error) {
	res, err := a.try(ctx, "GET", timeouts+name, "")
	if err != nil {
		return stored{}, err
	}
	if res.status == http.StatusNotFound {
		return stored{}, nil
	}
	if !res.ok() {
		return stored{}, fmt.Errorf("GET %s: %s", name, res)
	}
	n, err := number([]byte(res.body))
	return stored{res.version(), n}, err
}

// number is what a policy of timeout carries.
func number(body []byte) (int, error) {
	var r struct {
		Spec struct {
			To []struct {
				Default struct{ ConnectionTimeout string }
			}
		}
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return 0, err
	}
	if len(r.Spec.To) != 1 {
		return 0, fmt.Errorf("%s has not one rule", body)
	}
	d, err := time.ParseDuration(r.Spec.To[0].Default.ConnectionTimeout)
	return int(d.Seconds()), err
}

// numbers lists every policy of timeout by name.
func (a *api) numbers(t testing.TB) map[string]int {
	t.Helper()
	out := map[string]int{}
	for offset := 0; ; {
		res := a.must(t, "GET", fmt.Sprintf("/meshes/default/meshtimeouts?size=500&offset=%d", offset), "")
		var page struct {
			Items []json.RawMessage
			Next  *string
		}
		if err := json.Unmarshal([]byte(res.body), &page); err != nil {
			t.Fatal(err)
		}
		for _, raw := range page.Items {
			var r struct{ Name string }
			if err := json.Unmarshal(raw, &r); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(r.Name, "mesh-timeout") {
				continue // of the mesh itself
			}
			n, err := number(raw)
			if err != nil {
				t.Fatal(err)
			}
			out[r.Name] = n
		}
		if offset += len(page.Items); page.Next == nil {
			return out
		}
	}
}
