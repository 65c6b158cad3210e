package agent

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/settings"
	"github.com/causeway-mesh/causeway/api/token"
	"github.com/causeway-mesh/causeway/dataplane/envoy"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/test/ports"
	"github.com/causeway-mesh/causeway/zone-cp/agents"
)

// fake stands for Envoy where its own behaviour is not what is tested: it answers the administration.
type fake struct {
	mu       sync.Mutex
	starts   int
	configs  []envoy.Config
	posts    []string
	open     int // connections it reports
	current  *fakeProxy
	failures int // how many starts fail
}

type fakeProxy struct {
	server *http.Server
	done   chan struct{}
	once   sync.Once
	err    error
}

func (p *fakeProxy) Done() <-chan struct{} { return p.done }
func (p *fakeProxy) Wait() error           { <-p.done; return p.err }

func (p *fakeProxy) Stop(context.Context) error {
	p.end(nil)
	return nil
}

func (p *fakeProxy) end(err error) {
	p.once.Do(func() {
		p.err = err
		p.server.Close()
		close(p.done)
	})
}

func (f *fake) launch(_ context.Context, c envoy.Config) (Proxy, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.starts++
	f.configs = append(f.configs, c)
	if f.failures > 0 {
		f.failures--
		return nil, errors.New("another Envoy still runs")
	}
	l, err := net.Listen("unix", filepath.Join(c.Dir, "admin.sock"))
	if err != nil {
		return nil, err
	}
	f.current = &fakeProxy{server: &http.Server{Handler: f}, done: make(chan struct{})}
	go f.current.server.Serve(l)
	return f.current, nil
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Method == http.MethodPost {
		f.posts = append(f.posts, r.URL.RequestURI())
	}
	if strings.HasPrefix(r.URL.Path, "/stats") {
		fmt.Fprintf(w, "listener.admin.downstream_cx_active: 1\nlistener.127.0.0.1_80.downstream_cx_active: %d\nlistener.127.0.0.1_80.worker_0.downstream_cx_active: %d\n", f.open, f.open)
	}
}

func (f *fake) crash(text string) {
	f.mu.Lock()
	p := f.current
	f.mu.Unlock()
	p.end(errors.New(text))
}

func (f *fake) started() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.starts
}

func TestSettingsAreWellFormed(t *testing.T) {
	if len(settings.Fields(Default())) < 10 {
		t.Error("settings are missing")
	}
	ps := Config{Zone: ZoneConfig{Addresses: []string{"zone"}, CAPin: "xyz", CAFile: "a"}, ReadinessAddress: "here", DrainTime: -1}.Validate()
	var fields []string
	for _, p := range ps {
		fields = append(fields, p.Field)
	}
	want := []string{
		"zone.addresses[0]", "zone.caPin", "zone.caPin", "dataplane", "dataplane.tokenFile", "runtimeDir", "spireSocket", "readinessAddress", "drainTime",
		"envoy.concurrency", "envoy.logLevel", "log.level", "log.format",
	}
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Error(diff)
	}
}

func TestEnrollRunAndLeave(t *testing.T) {
	w := newWorld(t)
	told := make(chan struct{})
	z := w.start(func(c *agents.Config) {
		c.DeregisterAfter = 50 * time.Millisecond
		c.Announced = func(ctx context.Context, _ resourceKey) error {
			select {
			case <-told:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	cfg, f := z.web()
	cfg.ReadinessAddress = "unix:" + filepath.Join(cfg.RuntimeDir, "r.sock")
	a := run(t, cfg)
	z.untilServing("web-1")
	facts := z.facts("web-1")
	if facts.Issued.SPIFFEID != "spiffe://default.east.mesh.local/workload/web" || facts.OutboundBlock == "" || facts.AgentVersion != "test" {
		t.Errorf("facts %+v", facts)
	}
	r, _ := z.catalog.Snapshot().Get(dataplane("web-1"))
	if got := r.Spec.(*mesh.Dataplane).Networking.OutboundBlock; got != facts.OutboundBlock {
		t.Errorf("registered block %q, bound %q", got, facts.OutboundBlock)
	}
	if got := ready(t, cfg); got != "READY" {
		t.Errorf("readiness %q", got)
	}
	if !strings.Contains(string(f.configs[0].Bootstrap), "id: default.web-1") {
		t.Errorf("bootstrap:\n%s", f.configs[0].Bootstrap)
	}
	a.stop()
	until(t, "the zone knows that it drains", func() bool { return z.facts("web-1").Draining })
	if got := ready(t, cfg); got != "TERMINATING" {
		t.Errorf("readiness while draining %q", got)
	}
	if len(f.posts) != 0 {
		t.Errorf("Envoy was drained before peers were told: %v", f.posts)
	}
	close(told)
	if err := a.ended(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"/healthcheck/fail", "/drain_listeners?graceful"}, f.posts); diff != "" {
		t.Error(diff)
	}
	select {
	case <-f.current.done:
	default:
		t.Error("Envoy still runs")
	}
	until(t, "the Dataplane is deregistered", func() bool {
		_, ok := z.catalog.Snapshot().Get(dataplane("web-1"))
		return !ok
	})
}

func ready(t *testing.T, cfg Config) string {
	t.Helper()
	path := strings.TrimPrefix(cfg.ReadinessAddress, "unix:")
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	resp, err := c.Get("http://agent/ready")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b := make([]byte, 200)
	n, _ := resp.Body.Read(b)
	return strings.TrimSpace(string(b[:n]))
}

func TestDrainTimeBoundsTheEnd(t *testing.T) {
	z := newWorld(t).start()
	cfg, f := z.web()
	f.open, cfg.DrainTime = 3, 200*time.Millisecond
	a := run(t, cfg)
	z.untilServing("web-1")
	if err := a.end(); err != nil {
		t.Error(err)
	}
	if !a.says("connections are still open", "connections=3") {
		t.Error("nobody said that connections were cut")
	}
}

func TestAgentGivesUpAtTheStart(t *testing.T) {
	w := newWorld(t)
	z := w.start()
	past := token.NewIssuer(token.SecretsFunc(func() token.Secrets { return z.catalog.Snapshot() }), func() time.Time { return time.Now().Add(-2 * time.Hour) })
	expired, err := past.Dataplane(token.Dataplane{Mesh: "default", Name: "web-1", Workload: "web"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	good := z.token(webToken)
	for name, c := range map[string]struct {
		token string
		yaml  string
		edit  func(*Config)
		want  string
	}{
		"workload not covered": {z.token(token.Dataplane{Name: "web-1"}), webYAML(1), nil, "does not cover label kuma.io/workload=web"},
		"another's token":      {z.token(token.Dataplane{Name: "web-2", Workload: "web"}), webYAML(1), nil, `for dataplane "web-2"`},
		"expired token":        {expired, webYAML(1), nil, "expired 1h0m"},
		"no token in the file": {" ", webYAML(1), nil, "causeway token create dataplane"},
		"invalid Dataplane":    {good, strings.Replace(webYAML(1), "address: 127.0.0.1", "address: '::'", 1), nil, "networking.address"},
		"no Dataplane file":    {good, webYAML(1), func(c *Config) { c.Dataplane.File = "/nowhere.yaml" }, "/nowhere.yaml"},
		"two names":            {good, webYAML(1), func(c *Config) { c.Dataplane.Name = "web-2" }, `"web-2"`},
		"no CA file":           {good, webYAML(1), func(c *Config) { c.Zone.CAFile = "/nowhere.pem" }, "/nowhere.pem"},
		"CA file without CA":   {good, webYAML(1), func(c *Config) { c.Zone.CAFile = c.Dataplane.TokenFile }, "no certificate in PEM"},
		"bad settings":         {good, webYAML(1), func(c *Config) { c.Zone.Addresses = nil }, "zone.addresses"},
		"readiness port taken": {good, webYAML(1), func(c *Config) { c.ReadinessAddress = w.addr }, "readinessAddress"},
		"block not possible": {
			good, strings.Replace(webYAML(1), "address: 127.0.0.1", "address: 127.0.0.1\n  outboundBlock: 127.0.0.0/16", 1),
			nil, "networking.outboundBlock",
		},
		"runtime directory open to others": {good, webYAML(1), func(c *Config) {
			if err := errors.Join(os.MkdirAll(c.RuntimeDir, 0o755), os.Chmod(c.RuntimeDir, 0o755)); err != nil {
				t.Fatal(err)
			}
		}, "chmod 700"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := w.config("", c.yaml, c.token)
			cfg.Launch = (&fake{}).launch
			if c.edit != nil {
				c.edit(&cfg)
			}
			a := run(t, cfg)
			err := a.ended()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("ended with %v, want %q", err, c.want)
			}
			if err != nil && strings.TrimSpace(c.token) != "" && strings.Contains(err.Error()+a.logs.String(), c.token) {
				t.Error("the token is shown")
			}
		})
	}
}

func TestMissingEnvoyIsNamed(t *testing.T) {
	w := newWorld(t)
	cfg := w.config("", webYAML(1), "x")
	t.Setenv(envoy.PathVariable, "/nowhere/envoy")
	err := run(t, cfg).ended()
	if !errors.Is(err, envoy.ErrNotFound) || !strings.Contains(err.Error(), "causeway envoy fetch") {
		t.Errorf("ended with %v", err)
	}
}

func TestWrongAuthorityIsNamed(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	z := w.start()
	for name, edit := range map[string]func(*Config){
		"file": func(c *Config) { c.Zone.CAFile = other.config("", "", "").Zone.CAFile },
		"pin":  func(c *Config) { c.Zone.CAFile, c.Zone.CAPin = "", other.pin },
	} {
		t.Run(name, func(t *testing.T) {
			cfg, _ := z.web()
			edit(&cfg)
			a := run(t, cfg)
			until(t, "the reason is logged", func() bool {
				return a.says("certificate signed by unknown authority") || a.says("no certificate with the hash zone.caPin")
			})
			if _, ok := z.catalog.Snapshot().Get(dataplane("web-1")); ok {
				t.Error("the token was shown to a zone that was not recognised")
			}
		})
	}
}

func TestPinAndSecondAddress(t *testing.T) {
	w := newWorld(t)
	z := w.start(func(c *agents.Config) { c.Addresses = []string{w.addr} })
	cfg, _ := z.web()
	cfg.Zone = ZoneConfig{Addresses: []string{"127.0.0.1:1", w.addr}, CAPin: w.pin}
	run(t, cfg)
	z.untilServing("web-1")
}

func TestSecondAgentIsToldWhoTheFirstIs(t *testing.T) {
	z := newWorld(t).start()
	cfg, _ := z.web()
	run(t, cfg)
	z.untilServing("web-1")
	first := z.facts("web-1").Instance

	replay, f := z.web() // the same name from another place
	b := run(t, replay)
	until(t, "it is refused by name", func() bool { return b.says(first, "is served by another agent") })
	if f.started() != 0 || z.facts("web-1").Instance != first {
		t.Error("the second agent got in")
	}

	same := cfg
	same.Launch = f.launch
	if err := run(t, same).ended(); err == nil || !strings.Contains(err.Error(), "another agent listens on") {
		t.Errorf("a second agent with the same directory ended with %v", err)
	}
}

// What Envoy could not bind ends the agent by name: otherwise the workload would talk to whoever has the address.
func TestAddressesThatCannotBeBoundAreNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	outbound := func(address, port string) string {
		return webYAML(1) + fmt.Sprintf("  outbound: [{port: 2, backendRef: {kind: MeshService, name: web, port: 80}}, {address: %s, port: %s, backendRef: {kind: MeshService, name: stock, port: 80}}]\n", address, port)
	}
	for name, c := range map[string]struct {
		yaml string
		want []string
	}{
		"inbound in use":  {strings.Replace(webYAML(1), "port: 1,", "port: "+port+",", 1), []string{"networking.inbound[0]: inbound http cannot be bound on 127.0.0.1:" + port, "stop it or choose another port"}},
		"outbound in use": {outbound("127.0.0.1", port), []string{"networking.outbound[1]: outbound to MeshService stock cannot be bound on 127.0.0.1:" + port, "stop it or choose another port"}},
		"ingress in use":  {strings.Replace(webYAML(1), "inbound: [{port: 1, name: http}]", "listeners: [{type: ZoneIngress, address: 127.0.0.1, port: "+port+"}]", 1), []string{"networking.listeners[0]: listener " + port + " cannot be bound on 127.0.0.1:" + port}},
		"no such address": {outbound("192.0.2.1", "80"), []string{"networking.outbound[1]: outbound to MeshService stock cannot be bound on 192.0.2.1:80", "this host has no such address"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			z := w.start()
			cfg, f := z.faked(c.yaml, webToken)
			err := run(t, cfg).ended()
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("ended with %v, want %q", err, want)
				}
			}
			if f.started() != 0 {
				t.Error("Envoy was started")
			}
		})
	}
}

func TestEnvoyIsRestarted(t *testing.T) {
	z := newWorld(t).start()
	cfg, f := z.web()
	f.failures = 1
	a := run(t, cfg)
	z.untilServing("web-1")
	f.crash("segmentation fault")
	until(t, "the crash is reported and the next one serves", func() bool {
		x := z.facts("web-1")
		return x.EnvoyRestarts == 1 && x.Serving
	})
	if !a.says("segmentation fault") {
		t.Error("the crash is not in the log")
	}
	if f.started() != 3 {
		t.Errorf("%d starts, want a failed one, the crashed one and the current one", f.started())
	}
}

func TestZoneRestartReissuesNothing(t *testing.T) {
	w := newWorld(t)
	z := w.start()
	cfg, f := z.web()
	run(t, cfg)
	z.untilServing("web-1")
	before := z.facts("web-1")
	z.stop()
	z = w.start()
	until(t, "the agent is back", func() bool { return z.facts("web-1").Connected && z.facts("web-1").Serving })
	after := z.facts("web-1")
	if after.Issued.Serial != before.Issued.Serial || after.Issued.Count != before.Issued.Count || after.Session <= before.Session {
		t.Errorf("issued %+v in session %d, before %+v in %d", after.Issued, after.Session, before.Issued, before.Session)
	}
	if after.Instance != before.Instance || f.started() != 1 {
		t.Errorf("instance %s, %d starts", after.Instance, f.started())
	}
}

func TestCertificatesAreRenewed(t *testing.T) {
	w := newWorld(t)
	z := w.startWith(fmt.Sprintf(objects, ", certificateParameters: {expiry: 3s}"), 3*time.Second)
	cfg, f := z.web()
	run(t, cfg)
	until(t, "several certificates were issued", func() bool { return z.facts("web-1").Issued.Count >= 3 })
	if x := z.facts("web-1"); x.Session != 1 || f.started() != 1 || !x.HasIdentity(time.Now()) {
		t.Errorf("renewal took sessions %d, starts %d, facts %+v", x.Session, f.started(), x)
	}
	// The first control certificate has ended by now; only a renewed one opens a new session without the token.
	if err := os.WriteFile(cfg.Dataplane.TokenFile, []byte("gone"), 0o600); err != nil {
		t.Fatal(err)
	}
	z.stop()
	z = w.startWith("", 3*time.Second)
	until(t, "the agent is back without a token", func() bool { return z.facts("web-1").Connected })
}

// Somebody replaces the token in its file before it ends, as Kubernetes does: an agent that has to enroll again needs no restart.
//
// Acceptance: U projectedsatoken
func TestTokenIsReadAgain(t *testing.T) {
	const short = 4 * time.Second
	w := newWorld(t)
	z := w.startWith(fmt.Sprintf(objects, ""), short)
	cfg, f := z.web()
	write := func(lifetime time.Duration) {
		d := webToken
		d.Mesh = "default"
		text, err := z.issuer.Dataplane(d, lifetime)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(cfg.Dataplane.TokenFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(short)
	began := time.Now()
	run(t, cfg)
	z.untilServing("web-1")
	write(time.Hour)
	z.stop()
	stopped := time.Now()
	until(t, "the first token and the control certificate have ended", func() bool {
		return time.Since(began) > short+2*time.Second && time.Since(stopped) > short
	})
	z = w.startWith("", short)
	until(t, "the agent is back", func() bool { return z.facts("web-1").Connected })
	if f.started() != 1 {
		t.Errorf("Envoy was started %d times", f.started())
	}
}

func TestWithoutIdentity(t *testing.T) {
	w := newWorld(t)
	z := w.startWith("type: Mesh\nname: default\n", 0)
	cfg, _ := z.web()
	run(t, cfg)
	z.untilServing("web-1")
	if x := z.facts("web-1"); x.Issued.Serial != "" {
		t.Errorf("issued %+v", x.Issued)
	}
	z.apply(strings.SplitN(fmt.Sprintf(objects, ""), "---", 2)[1])
	until(t, "the proxy has the identity that appeared", func() bool { return z.facts("web-1").Issued.Serial != "" })
}

// Acceptance: U/K/M workload: a proxy whose identity needs a label it lacks is refused.
func TestIdentityThatCannotBeGivenHoldsEnvoyBack(t *testing.T) {
	z := newWorld(t).start()
	cfg, f := z.faked(strings.Replace(webYAML(1), "labels: {kuma.io/workload: web}", "", 1), token.Dataplane{Name: "web-1"})
	a := run(t, cfg)
	until(t, "the reason is logged", func() bool { return a.says("no identity can be given", "lacks label kuma.io/workload") })
	if f.started() != 0 {
		t.Error("Envoy was started without the identity it must have")
	}
}

// A certificate for the right name by a signer that the mesh does not trust for that trust domain is not served.
func TestWrongSignerIsRefused(t *testing.T) {
	w := newWorld(t)
	z := w.startWith(fmt.Sprintf(objects, ", meshTrustCreation: Disabled"), 0)
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.server.Certificate[1]})
	z.apply(fmt.Sprintf("type: MeshTrust\nmesh: default\nname: t\nspec: {trustDomain: default.east.mesh.local, caBundles: [{type: Pem, pem: {value: %q}}]}\n", root))
	cfg, f := z.web()
	a := run(t, cfg)
	until(t, "the certificate is refused", func() bool { return a.says("its own mesh would refuse it", "unknown authority") })
	if f.started() != 0 {
		t.Error("Envoy was started with a certificate of the wrong signer")
	}
	own, _ := z.catalog.Snapshot().Get(resourceKey{Type: mesh.TypeSecret, Mesh: "default", Name: "identity-root-ca"})
	z.apply(fmt.Sprintf("type: MeshTrust\nmesh: default\nname: t\nspec: {trustDomain: default.east.mesh.local, caBundles: [{type: Pem, pem: {value: %q}}]}\n", []byte(own.Spec.(*mesh.Secret).Data)))
	until(t, "the right bundle lets it start", func() bool { return z.facts("web-1").Serving })
}

func TestProbesReachTheZone(t *testing.T) {
	z := newWorld(t).start()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	cfg, _ := z.faked(strings.Replace(webYAML(1), "name: http}", fmt.Sprintf("name: http, servicePort: %d, serviceProbe: {interval: 100ms, tcp: {}}}", port), 1), webToken)
	run(t, cfg)
	state := func() mesh.InboundState {
		return z.service.Registry().Snapshot().Inbound(dataplane("web-1"), "http", mesh.StateNotReady)
	}
	until(t, "the inbound is ready", func() bool { return state() == mesh.StateReady })
	l.Close()
	until(t, "the inbound is not ready", func() bool { return state() == mesh.StateNotReady })
}

func TestNameOnly(t *testing.T) {
	w := newWorld(t)
	z := w.start()
	cfg := w.config("web-1", "", z.token(webToken))
	cfg.Launch = (&fake{}).launch
	a := run(t, cfg)
	until(t, "the agent says what is missing", func() bool { return a.says("web-1 does not exist", "create it first") })
	z.apply(webYAML(1))
	z.untilServing("web-1")
}

func TestDeletedDataplaneIsRegisteredAgain(t *testing.T) {
	z := newWorld(t).start()
	cfg, f := z.web()
	run(t, cfg)
	z.untilServing("web-1")
	before, _ := z.catalog.Snapshot().Get(dataplane("web-1"))
	if _, err := z.catalog.Commit(t.Context(), catalog.Batch{Deletes: []catalog.Delete{{Key: dataplane("web-1"), Expect: -1}}}); err != nil {
		t.Fatal(err)
	}
	until(t, "it is registered again", func() bool {
		r, ok := z.catalog.Snapshot().Get(dataplane("web-1"))
		return ok && r.UID != before.UID && z.facts("web-1").Serving
	})
	if f.started() != 1 {
		t.Errorf("%d starts", f.started())
	}
}

// testBlocks are blocks of the test's own: on another port than those that agents use. Their directory does not exist yet.
func testBlocks(t *testing.T) blocks {
	t.Helper()
	return blocks{dir: filepath.Join(t.TempDir(), "blocks"), port: ports.Free(t, "127.0.0.1")}
}

// claim takes a block until the test ends.
func claim(t *testing.T, bs blocks, s self) *block {
	t.Helper()
	b, err := bs.claim(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.release)
	return b
}

func TestBlocks(t *testing.T) {
	bs := testBlocks(t)
	web, stock := self{mesh: "default", name: "web-1"}, self{mesh: "default", name: "stock-1"}
	a, b := claim(t, bs, web), claim(t, bs, stock)
	c := claim(t, bs, web) // a second proxy whose first choice is taken
	if a.prefix == b.prefix || a.prefix == c.prefix || b.prefix == c.prefix {
		t.Errorf("blocks %s, %s, %s overlap", a.prefix, b.prefix, c.prefix)
	}
	_, err := bs.claim(self{mesh: "default", name: "x", block: a.prefix})
	if err == nil || !strings.Contains(err.Error(), "taken by dataplane web-1 of mesh default, process") {
		t.Errorf("a taken block: %v", err)
	}
	a.release()
	if again := claim(t, bs, web); again.prefix != a.prefix {
		t.Errorf("after a restart the block is %s, was %s", again.prefix, a.prefix)
	}
	wanted := "127.200.0.0/16"
	if wanted == a.prefix || wanted == b.prefix || wanted == c.prefix {
		wanted = "127.204.0.0/16"
	}
	if d := claim(t, bs, self{name: "y", block: wanted}); d.prefix != wanted {
		t.Errorf("wanted block %s: %s", wanted, d.prefix)
	}
	for range 300 {
		b, err := bs.claim(web)
		if err == nil {
			t.Cleanup(b.release)
			continue
		}
		if !strings.Contains(err.Error(), "all 254 loopback blocks are taken") {
			t.Errorf("when none is left: %v", err)
		}
		return
	}
	t.Error("more blocks than there are")
}

// Agents of different runtime directories, such as those of two users, share the host's network all the same.
func TestBlocksAreClaimedPerNetwork(t *testing.T) {
	one := testBlocks(t)
	two := blocks{dir: filepath.Join(t.TempDir(), "blocks"), port: one.port}
	web := self{mesh: "default", name: "web-1"}
	a := claim(t, one, web)
	if b := claim(t, two, web); b.prefix == a.prefix {
		t.Errorf("both have %s", a.prefix)
	}
	same := web
	same.block = a.prefix
	if _, err := two.claim(same); err == nil || !strings.Contains(err.Error(), "another runtime directory") || !strings.Contains(err.Error(), a.prefix) {
		t.Errorf("a block that an agent of another directory holds: %v", err)
	}
	a.release()
	if b := claim(t, two, same); b.prefix != a.prefix {
		t.Errorf("what was given back is not given out again: %s, want %s", b.prefix, a.prefix)
	}
	// Who held it before is no longer named, now that somebody unknown holds it.
	if _, err := one.claim(same); err == nil || strings.Contains(err.Error(), "web-1") {
		t.Errorf("a block that went to an agent of another directory: %v", err)
	}
}

// The mark is on an address of the block that no destination can have.
func TestBlockMarksLeaveRoomForAddresses(t *testing.T) {
	bs := testBlocks(t)
	b := claim(t, bs, self{mesh: "default", name: "web-1"})
	block := netip.MustParsePrefix(b.prefix).Addr().As4()
	for _, low := range [][2]byte{{0, 1}, {255, 254}} {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, block[1], low[0], low[1]}), uint16(bs.port))
		l, err := net.Listen("tcp4", at.String())
		if err != nil {
			t.Errorf("an outbound on %s: %v", at, err)
			continue
		}
		l.Close()
	}
}

// A program that listens on the port of the marks at every address takes no blocks, but no agent can claim any.
func TestBlocksWithTheirPortTaken(t *testing.T) {
	bs := testBlocks(t)
	l, err := net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", bs.port))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	want := fmt.Sprintf("another program listens on port %d of every address", bs.port)
	if _, err := bs.claim(self{mesh: "default", name: "web-1"}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("ended with %v, want %q", err, want)
	}
}

// Two sidecars on one block would take each other's requests, whichever directories and zones they have.
func TestAgentsWithDifferentRuntimeDirectoriesShareNoBlock(t *testing.T) {
	var taken string
	for range 2 {
		w := newWorld(t) // a zone, a directory and a proxy that is called the same
		z := w.start()
		cfg, _ := z.web()
		run(t, cfg)
		z.untilServing("web-1")
		if block := z.facts("web-1").OutboundBlock; block == taken || block == "" {
			t.Errorf("two proxies are bound on %q", block)
		} else {
			taken = block
		}
	}
	w := newWorld(t)
	z := w.start()
	cfg, _ := z.faked(strings.Replace(webYAML(1), "address: 127.0.0.1", "address: 127.0.0.1\n  outboundBlock: "+taken, 1), webToken)
	err := run(t, cfg).ended()
	if err == nil || !strings.Contains(err.Error(), "outbound block "+taken+" is taken by an agent with another runtime directory") {
		t.Errorf("ended with %v", err)
	}
}

func TestDirNames(t *testing.T) {
	long := self{mesh: "default", name: strings.Repeat("a", 250)}
	other := self{mesh: "default", name: strings.Repeat("a", 249) + "b"}
	if d := long.dirName(); len(d) > 40 || d == other.dirName() {
		t.Errorf("%s, %s", d, other.dirName())
	}
	if d := (self{mesh: "default", name: "web-1"}).dirName(); d != "default.web-1" {
		t.Error(d)
	}
}
