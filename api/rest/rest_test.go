package rest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/tools/txtar"

	"github.com/causeway-mesh/causeway/api/inquiry"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/rest"
	"github.com/causeway-mesh/causeway/api/token"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/exchange"
	"github.com/causeway-mesh/causeway/store/memory"
	"github.com/causeway-mesh/causeway/store/seal"
)

var update = flag.Bool("update", false, "rewrite the expected answers")

// The kinds of these tests: enough of each sort, and no more.
type (
	meshSpec struct {
		SkipCreatingInitialPolicies []string `json:"skipCreatingInitialPolicies,omitempty"`
	}
	dataplaneSpec struct {
		Networking map[string]any `json:"networking"`
	}
	zoneSpec struct {
		Enabled *bool `json:"enabled,omitempty"`
	}
	secretSpec struct {
		Data []byte `json:"data"`
	}
	timeoutSpec struct {
		TargetRef *struct {
			Kind string `json:"kind"`
		} `json:"targetRef,omitempty"`
		To []struct {
			Default struct {
				IdleTimeout string `json:"idleTimeout,omitempty"`
				Weight      int    `json:"weight,omitempty"`
			} `json:"default"`
		} `json:"to,omitempty"`
	}
	serviceSpec struct {
		State string `json:"state,omitempty"`
		Ports []struct {
			Name string `json:"name,omitempty"`
			Port int    `json:"port"`
		} `json:"ports"`
	}
)

type serviceStatus struct {
	VIPs []struct {
		IP string `json:"ip"`
	} `json:"vips,omitempty"`
}

func validateTimeout(r resource.Resource) resource.Problems {
	var ps resource.Problems
	for i, to := range r.Spec.(*timeoutSpec).To {
		if to.Default.IdleTimeout == "" {
			ps.Add(resource.Path("spec.to").Index(i).Field("default.idleTimeout"), "must be set")
		}
	}
	return ps
}

const both = resource.FromGlobal | resource.FromZone

var kinds = resource.NewKinds(
	resource.Kind{
		Name: "Mesh", Path: "meshes", Short: "m", Singular: "Mesh", Plural: "Meshes", Scope: resource.ScopeGlobal, Flow: resource.FromGlobal,
		Names: resource.RFC1035Label, Inline: true, New: func() any { return new(meshSpec) },
	},
	resource.Kind{
		Name: "Zone", Path: "zones", Short: "z", Singular: "Zone", Plural: "Zones", Scope: resource.ScopeGlobal, Flow: resource.FromGlobal,
		Names: resource.RFC1035Label, Inline: true, New: func() any { return new(zoneSpec) },
	},
	resource.Kind{
		Name: "Dataplane", Path: "dataplanes", Short: "dp", Singular: "Dataplane", Plural: "Dataplanes", Scope: resource.ScopeMesh, Flow: resource.FromZone,
		Inline: true, New: func() any { return new(dataplaneSpec) },
	},
	resource.Kind{
		Name: "DataplaneInsight", Path: "dataplane-insights", Singular: "Dataplane Insight", Plural: "Dataplane Insights", Scope: resource.ScopeMesh,
		Flow: resource.FromZone | resource.Internal, Inline: true, New: func() any { return new(map[string]any) },
	},
	resource.Kind{
		Name: "Workload", Path: "workloads", Short: "wl", Singular: "Workload", Plural: "Workloads", Scope: resource.ScopeMesh,
		Flow: resource.FromZone | resource.Internal, New: func() any { return new(struct{}) },
	},
	resource.Kind{
		Name: "Secret", Path: "secrets", Short: "s", Singular: "Secret", Plural: "Secrets", Scope: resource.ScopeMesh, Flow: both,
		Inline: true, AdminOnly: true, New: func() any { return new(secretSpec) },
	},
	resource.Kind{
		Name: "GlobalSecret", Path: "globalsecrets", Short: "gs", Singular: "Global Secret", Plural: "Global Secrets", Scope: resource.ScopeGlobal, Flow: both,
		Inline: true, AdminOnly: true, New: func() any { return new(secretSpec) },
	},
	resource.Kind{
		Name: "MeshService", Path: "meshservices", Short: "msvc", Singular: "Mesh Service", Plural: "Mesh Services", Scope: resource.ScopeMesh, Flow: resource.FromZone,
		Names: resource.RFC1035Label, Destination: true, New: func() any { return new(serviceSpec) }, NewStatus: func() any { return new(serviceStatus) },
	},
	resource.Kind{
		Name: "MeshTimeout", Path: "meshtimeouts", Short: "mt", Singular: "Mesh Timeout", Plural: "Mesh Timeouts", Scope: resource.ScopeMesh, Flow: both,
		Policy: &resource.PolicyFacts{HasTo: true, HasRules: true, HasDefault: true}, Validate: validateTimeout, New: func() any { return new(timeoutSpec) },
	},
	resource.Kind{
		Name: "Bomb", Path: "bombs", Singular: "Bomb", Plural: "Bombs", Scope: resource.ScopeGlobal, Flow: both, New: func() any { return new(struct{}) },
		Validate: func(resource.Resource) resource.Problems { panic("kaboom with a secret inside") },
	},
)

// flaky is a real store whose connection a test can cut.
type flaky struct {
	store.Store
	cut     atomic.Bool
	unknown atomic.Bool
}

func (f *flaky) Commit(ctx context.Context, b store.Batch) (store.Committed, error) {
	if f.cut.Load() {
		return store.Committed{}, fmt.Errorf("dial tcp 10.1.2.3:5432: %w", store.ErrUnavailable)
	}
	done, err := f.Store.Commit(ctx, b)
	if err == nil && f.unknown.CompareAndSwap(true, false) {
		return store.Committed{}, fmt.Errorf("commit: %w", store.ErrUnknownOutcome)
	}
	return done, err
}

func (f *flaky) Position(ctx context.Context) (store.Position, error) {
	if f.cut.Load() {
		return store.Position{}, store.ErrUnavailable
	}
	return f.Store.Position(ctx)
}

type insights struct{}

func (insights) Dataplane(mesh, name string) (json.RawMessage, bool) {
	if strings.HasPrefix(name, "off") {
		return nil, false
	}
	return json.RawMessage(`{"subscriptions":[{"id":"1","connectTime":"2026-01-01T00:00:00Z","status":{"total":{}},` +
		`"version":{"kumaDp":{"version":"1.0.0"},"envoy":{"version":"1.40.0"}}}],"mTLS":{"issuedBackend":"kri_mid_default___id_"}}`), true
}

func (insights) Zone(name string) (json.RawMessage, bool) {
	return json.RawMessage(`{"subscriptions":[{"id":"1","connectTime":"2026-01-01T00:00:00Z","status":{"total":{}}}]}`), name == "online"
}

// joinToken admits any zone whose name begins with a letter of the first half of the alphabet, for up to a day.
func joinToken(_ context.Context, zone string, validFor time.Duration) (string, error) {
	var ps resource.Problems
	if zone > "n" {
		ps.Add("zone", "is from the wrong half")
	}
	if validFor > 24*time.Hour {
		ps.Add("validFor", "must be at most 24h")
	}
	return "cwj1." + zone + "-" + validFor.String(), ps.Err()
}

func revokeZone(_ context.Context, zone string) error {
	if zone == "west" {
		return fmt.Errorf("revoke zone %s: %w", zone, resource.ErrNotFound)
	}
	return nil
}

// lacks is the peers of a test: zone east and global lack one thing, zone west does not exist.
type lacks struct{}

func (lacks) Pending(zone string) ([]exchange.PendingRemoval, error) {
	if zone == "west" {
		return nil, fmt.Errorf("zone %s: %w", zone, resource.ErrNotFound)
	}
	if zone != "east" && zone != "" {
		return nil, nil
	}
	return []exchange.PendingRemoval{{
		Scope: "mesh/default", ID: "kri_mt_default_" + zone + "__slow_", Key: resource.Key{Type: "MeshTimeout", Mesh: "default", Name: "slow-x7"},
		Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}}, nil
}

func (l lacks) Confirm(_ context.Context, zone string) (int, error) {
	list, err := l.Pending(zone)
	return len(list), err
}

// spread is zones that receive everything at once, never compute it, and of which one does not even know.
type spread struct{}

func (spread) Status(revision uint64) (mesh.Propagation, bool) {
	return mesh.Propagation{Revision: revision, Zones: []mesh.ZonePropagation{{Zone: "east", State: mesh.PropagationReceived, Online: true, Received: 7}}}, revision < 1000
}

func (spread) Wait(ctx context.Context, _ uint64, until string) error {
	switch until {
	case "received":
		return nil
	case "computed":
		<-ctx.Done()
		return fmt.Errorf("wait: %w", ctx.Err())
	}
	return errors.New("nobody knows")
}

// envoys is an Envoy for every dataplane whose name does not say otherwise. It repeats what it was asked.
type envoys struct{}

func (envoys) Inspect(_ context.Context, dp resource.Resource, q *inquiry.Question) ([]byte, error) {
	switch dp.Name {
	case "away":
		return nil, inquiry.Failf("the agent of dataplane %s is not connected to zone east since yesterday, so its Envoy cannot be asked", dp.Name)
	case "vanished":
		return nil, fmt.Errorf("ask for %s: %w", dp.Name, resource.ErrNotFound)
	case "broken":
		return nil, errors.New("what only the log may tell")
	}
	if q.GetWhat() == inquiry.WhatStats && !q.GetJson() || q.GetWhat() == inquiry.WhatClusters && !q.GetJson() {
		return fmt.Appendf(nil, "%s::unused::%t\n", q.GetWhat(), q.GetUnused()), nil
	}
	return fmt.Appendf(nil, `{"asked":%q,"endpoints":%t,"unused":%t}`, q.GetWhat(), q.GetEndpoints(), q.GetUnused()), nil
}

// onMeshCreated gives a mesh a policy and the key that signs its dataplane tokens.
func onMeshCreated(mesh resource.Resource) ([]resource.Resource, error) {
	if len(mesh.Spec.(*meshSpec).SkipCreatingInitialPolicies) > 0 {
		return nil, nil
	}
	return []resource.Resource{
		token.Secret(token.DataplaneSigningKey(mesh.Name, 1), signingKey()),
		{Meta: resource.Meta{Type: "MeshTimeout", Mesh: mesh.Name, Name: "mesh-timeout-all-" + mesh.Name}, Raw: []byte(`{}`)},
	}, nil
}

var theSigningKey []byte

func signingKey() []byte {
	if theSigningKey == nil {
		var err error
		if theSigningKey, err = token.NewSigningKey(); err != nil {
			panic(err)
		}
	}
	return theSigningKey
}

// plane is one control plane's API over HTTP.
type plane struct {
	t        testing.TB
	store    *flaky
	catalog  *catalog.Catalog
	server   *rest.Server
	http     *httptest.Server
	log      *syncBuffer
	registry *prometheus.Registry
	tokens   map[string]string
	lastTag  string
}

// syncBuffer is a log that handlers write and tests read.
type syncBuffer struct {
	ch chan struct{}
	b  bytes.Buffer
}

func newSyncBuffer() *syncBuffer { return &syncBuffer{ch: make(chan struct{}, 1)} }

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.ch <- struct{}{}
	defer func() { <-s.ch }()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.ch <- struct{}{}
	defer func() { <-s.ch }()
	return s.b.String()
}

func newPlane(t testing.TB, change func(*rest.Config)) *plane {
	t.Helper()
	p := &plane{t: t, store: &flaky{Store: memory.New()}, log: newSyncBuffer(), registry: prometheus.NewRegistry(), tokens: map[string]string{"anonymous": ""}}
	log := slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	p.catalog = p.openCatalog(p.store, kinds)
	access := rest.DefaultAccess()
	access[rest.WriteResources] = rest.Subjects{Groups: []string{"writers"}}
	access[rest.GenerateUserToken] = rest.Subjects{Users: []string{"minter"}}
	cfg := rest.Config{
		Catalog: p.catalog, Mode: rest.Standalone, Zone: "east", Access: access, Insights: insights{}, OnMeshCreated: onMeshCreated, Log: log, Registerer: p.registry,
		EffectiveConfig: func() any { return map[string]any{"mode": "zone", "store": map[string]string{"dsn": "*****"}} },
		About:           rest.About{Hostname: "host", Version: "1.2.3", InstanceID: "host-1", ClusterID: "c1", GUI: "/gui", BasedOnKuma: "3.0.0"},
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if p.server, err = rest.New(cfg); err != nil {
		t.Fatal(err)
	}
	p.putKey(token.UserSigningKey(1))
	p.http = httptest.NewUnstartedServer(p.server)
	p.http.Config = p.server.HTTPServer()
	p.http.Start()
	t.Cleanup(p.http.Close)
	for name, groups := range map[string][]string{"admin": {rest.AdminGroup}, "ann": nil, "writer": {"writers"}, "minter": nil} {
		p.tokens[name], err = token.SignUser(signingKey(), 1, token.User{Name: name, Groups: groups}, time.Hour, time.Now())
		if err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// openCatalog starts a catalog that stops with the test.
func (p *plane) openCatalog(st store.Store, kinds *resource.Kinds) *catalog.Catalog {
	p.t.Helper()
	sealer, err := seal.New(seal.Key{ID: "k1", Secret: bytes.Repeat([]byte("k"), 32)})
	if err != nil {
		p.t.Fatal(err)
	}
	cfg := catalog.Config{Store: st, Kinds: kinds, Sealer: sealer, ProbeInterval: time.Millisecond}
	if p.log != nil {
		cfg.Log = slog.New(slog.NewTextHandler(p.log, nil))
	}
	ctx, cancel := context.WithCancel(context.Background())
	c, err := catalog.Open(ctx, cfg)
	if err != nil {
		cancel()
		p.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	p.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			p.t.Errorf("catalog: %v", err)
		}
	})
	return c
}

func (p *plane) putKey(k resource.Key) {
	p.t.Helper()
	_, err := p.catalog.Commit(context.Background(), catalog.Batch{Puts: []catalog.Put{{Resource: token.Secret(k, signingKey()), Expect: store.ExpectAny}}})
	if err != nil {
		p.t.Fatal(err)
	}
}

type answer struct {
	status int
	header http.Header
	body   string
}

// do sends one request as a user of the test.
func (p *plane) do(user, method, path string, body io.Reader, headers ...string) answer {
	p.t.Helper()
	req, err := http.NewRequest(method, p.http.URL+path, body)
	if err != nil {
		p.t.Fatal(err)
	}
	tok, known := p.tokens[user]
	if !known {
		p.t.Fatalf("nobody is called %q", user)
	}
	if tok != "" {
		req.Header.Set("Authorization", "Bearer "+tok)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := p.http.Client().Do(req)
	if err != nil {
		p.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatalf("%s %s: %v", method, path, err)
	}
	a := answer{res.StatusCode, res.Header, string(b)}
	p.contract().check(p.t, method, path, a)
	return a
}

// mustPut writes as administrator what has to work.
func (p *plane) mustPut(path, body string) answer {
	p.t.Helper()
	a := p.do("admin", "PUT", path, strings.NewReader(body))
	if a.status != http.StatusOK && a.status != http.StatusCreated {
		p.t.Fatalf("PUT %s: %d %s", path, a.status, a.body)
	}
	return a
}

// TestConversations plays the requests of each file against a fresh control plane and compares the answers.
// A file is sections in pairs, "request" and "response"; -update writes the responses.
//
// Acceptance: U auth user: access.txtar
// Acceptance: M validation: labels.txtar, mode_global.txtar, mode_zone.txtar
// Acceptance: K/U api: lists.txtar, system.txtar, crud.txtar
func TestConversations(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no conversations: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, ar)
			if *update {
				if err := os.WriteFile(file, txtar.Format(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(txtar.Format(ar)), string(txtar.Format(got))); diff != "" {
				t.Errorf("run with -update after checking that this is meant:\n%s", diff)
			}
		})
	}
}

func play(t *testing.T, ar *txtar.Archive) *txtar.Archive {
	t.Helper()
	out := &txtar.Archive{Comment: ar.Comment}
	mode := rest.Standalone
	for _, f := range ar.Files {
		if f.Name == "mode" {
			mode = rest.Mode(strings.TrimSpace(string(f.Data)))
			out.Files = append(out.Files, f)
		}
	}
	p := newPlane(t, func(c *rest.Config) {
		c.Mode = mode
		c.Access[rest.ViewStats] = rest.Subjects{Users: []string{"ann"}}
		if mode == rest.Global {
			c.Zone = ""
			c.Join, c.Revoke, c.Propagation = joinToken, revokeZone, spread{}
		}
		if mode != rest.Standalone {
			c.Adoption = lacks{}
			c.Inspector = envoys{}
		}
	})
	if mode == rest.Zone { // meshes come from global
		p.seed(resource.Resource{Meta: resource.Meta{Type: "Mesh", Name: "default", Labels: map[string]string{resource.LabelOrigin: "global"}}, Raw: []byte("{}")})
		p.seed(resource.Resource{Meta: resource.Meta{Type: "MeshTimeout", Mesh: "default", Name: "from-global", Labels: map[string]string{resource.LabelOrigin: "global"}}, Raw: []byte("{}")})
	}
	if mode == rest.Global {
		p.seed(resource.Resource{
			Meta: resource.Meta{Type: "MeshTimeout", Mesh: "default", Name: "slow-x7", Labels: map[string]string{resource.LabelOrigin: "zone", resource.LabelZone: "east", resource.LabelDisplayName: "slow"}},
			Raw:  []byte("{}"),
		})
	}
	for _, f := range ar.Files {
		if f.Name == "request" {
			out.Files = append(out.Files, f, txtar.File{Name: "response", Data: p.converse(string(f.Data))})
		}
	}
	return out
}

func (p *plane) seed(r resource.Resource) {
	p.t.Helper()
	if _, err := p.catalog.Commit(context.Background(), catalog.Batch{Puts: []catalog.Put{{Resource: r, Expect: store.ExpectAny}}}); err != nil {
		p.t.Fatal(err)
	}
}

// converse sends a request written as: "user METHOD path", headers, an empty line, the body.
func (p *plane) converse(text string) []byte {
	p.t.Helper()
	head, body, _ := strings.Cut(text, "\n\n")
	lines := strings.Split(strings.TrimSpace(head), "\n")
	words := strings.Fields(lines[0])
	if len(words) != 3 {
		p.t.Fatalf("a request begins with user, method and path, not %q", lines[0])
	}
	if words[1] == "STORE" {
		p.store.cut.Store(words[2] == "away")
		p.store.unknown.Store(words[2] == "forgetful")
		return []byte("ok\n")
	}
	var headers []string
	for _, l := range lines[1:] {
		k, v, _ := strings.Cut(l, ": ")
		headers = append(headers, k, strings.ReplaceAll(v, "$ETAG", p.lastTag))
	}
	a := p.do(words[0], words[1], words[2], strings.NewReader(body), headers...)
	if tag := a.header.Get("ETag"); tag != "" {
		p.lastTag = tag
	}
	return []byte(p.normal(a))
}

var (
	times    = regexp.MustCompile(`"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"`)
	uids     = regexp.MustCompile(`(\\?")[0-9a-f]{8}\.(\d+)`)
	incident = regexp.MustCompile(`"instance": "[0-9a-f]{16}"`)
	keys     = regexp.MustCompile(`"data": "LS0t[^"]+"`)
	jwts     = regexp.MustCompile(`^eyJ[\w-]+\.[\w-]+\.[\w-]+$`)
)

// normal writes an answer without what differs from run to run.
func (p *plane) normal(a answer) string {
	var b strings.Builder
	fmt.Fprintln(&b, a.status)
	for _, h := range []string{"ETag", "Retry-After", "WWW-Authenticate", "Cache-Control", "Causeway-Propagation"} {
		if v := a.header.Get(h); v != "" {
			fmt.Fprintf(&b, "%s: %s\n", h, uids.ReplaceAllString(v, `${1}uid.$2`))
		}
	}
	body := a.body
	var pretty bytes.Buffer
	if json.Indent(&pretty, []byte(body), "", "  ") == nil {
		body = strings.TrimSpace(pretty.String())
	}
	body = strings.ReplaceAll(body, p.http.URL, "http://api")
	body = times.ReplaceAllString(body, `"TIME"`)
	body = uids.ReplaceAllString(body, `${1}uid.$2`)
	body = incident.ReplaceAllString(body, `"instance": "ID"`)
	body = keys.ReplaceAllString(body, `"data": "KEY"`)
	body = jwts.ReplaceAllString(body, "TOKEN")
	if body != "" {
		b.WriteString("\n" + body + "\n")
	}
	return b.String()
}
