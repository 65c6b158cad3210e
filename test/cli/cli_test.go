// Package cli runs the built causeway against a real REST API, session by session as a person would, and compares what comes out.
// What single functions of the command line do is not its business.
package cli_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/hosting"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policies"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/rest"
	"github.com/causeway-mesh/causeway/api/token"
	"github.com/causeway-mesh/causeway/global-cp/globalcp"
	"github.com/causeway-mesh/causeway/store/backend"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/memory"
	"github.com/causeway-mesh/causeway/store/seal"
)

var update = flag.Bool("update", false, "rewrite the sessions with what comes out")

// binary is the directory of the built causeway.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "causeway-cli-")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "causeway"), "github.com/causeway-mesh/causeway")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := binary(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// TestSessions plays the sessions of testdata. Each is a reason, files, and the session itself:
// a line "$ command" for the shell, then its standard output, its standard error with "! " before each line, and "exit N". A line "## words" is a comment.
func TestSessions(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no sessions: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			play(t, file)
		})
	}
}

const (
	sessionName = "session"
	// modeName is the file that says whose session it is: that of a whole global control plane, of an API that tells of zones
	// as a script says, or, without it, of a zone that stands alone.
	modeName     = "mode"
	modeGlobal   = "global"
	modeScripted = "scripted"
)

func play(t *testing.T, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var mode, want string
	for _, f := range archive.Files {
		if f.Name == modeName {
			mode = strings.TrimSpace(string(f.Data))
		}
	}
	s := start(t, mode)
	for _, f := range archive.Files {
		switch f.Name {
		case sessionName:
			want = string(f.Data)
			continue
		case modeName:
			continue
		}
		path := filepath.Join(s.dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var got strings.Builder
	for line := range strings.Lines(want) {
		switch command, isCommand := strings.CutPrefix(line, "$ "); {
		case isCommand:
			got.WriteString(line + s.shell(t, strings.TrimSpace(command)))
		case strings.HasPrefix(line, "## "):
			got.WriteString(line)
		}
	}
	if *update {
		for i := range archive.Files {
			if archive.Files[i].Name == sessionName {
				archive.Files[i].Data = []byte(got.String())
			}
		}
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := gocmp.Diff(want, got.String()); d != "" {
		t.Errorf("the session went another way (-want +got); -update accepts it:\n%s", d)
	}
}

// session is one person's shell with a control plane.
type session struct {
	dir, server, ca, token, path string
}

// start runs a control plane, or its API, on an empty store.
func start(t *testing.T, mode string) *session {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	s := &session{dir: t.TempDir(), path: bin + string(os.PathListSeparator) + os.Getenv("PATH")}
	keep := t.TempDir()
	if mode == modeGlobal {
		s.global(t, keep)
		return s
	}
	s.ca, s.token = filepath.Join(keep, "ca.pem"), filepath.Join(keep, "admin.token")
	c := openCatalog(t)
	cfg := rest.Config{
		Catalog: c, Mode: rest.Standalone, Zone: "east", OnMeshCreated: onMeshCreated, Insights: observed{}, Inspector: explains{c}, Concerns: hosting.Concerns("east"),
		About: rest.About{Hostname: "host", Version: "1.2.3", InstanceID: "host-1", ClusterID: "c1"},
	}
	if mode == modeScripted {
		cfg.Mode, cfg.Zone, cfg.Propagation = rest.Global, "", &scripted{catalog: c}
	}
	server, err := rest.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Bootstrap(t.Context(), rest.Bootstrap{TokenFile: s.token, DefaultMesh: true}); err != nil {
		t.Fatal(err)
	}
	h := httptest.NewTLSServer(server)
	t.Cleanup(h.Close)
	h.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	s.server = h.URL
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw})
	if err := os.WriteFile(s.ca, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// global runs a whole global control plane.
func (s *session) global(t *testing.T, dir string) {
	t.Helper()
	cfg := globalcp.Default()
	cfg.WorkDir, cfg.Store.Type = dir, backend.Memory
	cfg.API.Address, cfg.Zones.Address, cfg.Diagnostics.Address = "127.0.0.1:0", "127.0.0.1:0", ""
	g, err := globalcp.New(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("global control plane: %v", err)
		}
	})
	select {
	case <-g.Ready():
	case err := <-done:
		done <- nil
		t.Fatal(err)
	}
	s.server, s.ca, s.token = "https://"+g.APIAddress(), g.CAFile(), g.AdminTokenFile()
}

// scripted is a zone "east" that goes a step further each time it is asked about a revision, and "west" that is away.
// Once there is a mesh "refused" one proxy of east refuses something; with a mesh "stuck" it never acknowledges.
type scripted struct {
	catalog *catalog.Catalog

	mu    sync.Mutex
	asked map[uint64]int
}

// Status implements rest.Propagation.
func (s *scripted) Status(revision uint64) (mesh.Propagation, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked == nil {
		s.asked = map[uint64]int{}
	}
	exists := func(name string) bool {
		_, ok := s.catalog.Snapshot().Get(resource.Key{Type: mesh.TypeMesh, Name: name})
		return ok
	}
	steps := []mesh.ZonePropagation{
		{State: mesh.PropagationPending, Lag: 1},
		{State: mesh.PropagationReceived},
		{State: mesh.PropagationComputed, Proxies: mesh.ProxyCounts{Connected: 3, Acknowledged: 1, Pending: 2}},
		{State: mesh.PropagationAcknowledged, Proxies: mesh.ProxyCounts{Connected: 3, Acknowledged: 3}},
	}
	if exists("refused") {
		steps[3] = mesh.ZonePropagation{
			State: mesh.PropagationRejected, Proxies: mesh.ProxyCounts{Connected: 3, Acknowledged: 2, Rejected: 1},
			Exceptions: []mesh.PropagationException{{
				Mesh: "default", Dataplane: "web-1", Type: "Cluster", Name: "kri_msvc_default_east__web_80", Reason: "no such \x1b[31mfield",
				Policies: []string{"kri_mpp_default___patch_"},
			}},
			MoreExceptions: 4,
		}
	}
	step := min(s.asked[revision], len(steps)-1)
	if exists("stuck") {
		step = min(step, 2)
	}
	s.asked[revision]++
	east := steps[step]
	east.Zone, east.Online = "east", true
	return mesh.Propagation{Revision: revision, Zones: []mesh.ZonePropagation{east, {Zone: "west", State: mesh.PropagationAway, Lag: 7}}}, true
}

// Wait implements rest.Propagation; the command line asks again and again instead.
func (s *scripted) Wait(context.Context, uint64, string) error {
	return errors.New("nobody waits in these sessions")
}

func openCatalog(t *testing.T) *catalog.Catalog {
	t.Helper()
	key, err := seal.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := seal.New(key)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	c, err := catalog.Open(ctx, catalog.Config{Store: memory.New(), Kinds: api.Kinds(), Sealer: sealer})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("catalog: %v", err)
		}
	})
	return c
}

// signing keys are slow to make, and one serves every session as well as many would.
var signingKey = sync.OnceValues(token.NewSigningKey)

func onMeshCreated(m resource.Resource) ([]resource.Resource, error) {
	key, err := signingKey()
	if err != nil {
		return nil, err
	}
	spec, ok := m.Spec.(*mesh.Mesh)
	if !ok {
		return nil, fmt.Errorf("the spec of mesh %s is a %T", m.Name, m.Spec)
	}
	out, err := policies.Defaults(m.Name, spec.SkipCreatingInitialPolicies)
	return append(out, token.Secret(token.DataplaneSigningKey(m.Name, 1), key)), err
}

// observed lets the Dataplane "web-1" be connected and every other one not.
type observed struct{}

func (observed) Dataplane(_, name string) (json.RawMessage, bool) {
	return json.RawMessage(`{"subscriptions":[{"id":"1","controlPlaneInstanceId":"host-1","connectTime":"2026-01-01T00:00:00Z",
		"status":{"total":{"responsesSent":"9","responsesAcknowledged":"8","responsesRejected":"1"}},
		"version":{"kumaDp":{"version":"1.0.0"},"envoy":{"version":"1.40.0"}}}],
		"mTLS":{"certificateExpirationTime":"2999-01-01T00:00:00Z","certificateRegenerations":3,"issuedBackend":"kri_mid_default___id_"}}`), name == "web-1"
}

func (observed) Zone(string) (json.RawMessage, bool) { return nil, false }

// shell runs one command line and renders what came out, with what differs from run to run replaced.
func (s *session) shell(t *testing.T, line string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", line)
	cmd.Dir = s.dir
	cmd.Env = []string{
		"PATH=" + s.path, "HOME=" + s.dir, "SERVER=" + s.server, "CA=" + s.ca, "ADMIN=" + s.token,
		"CAUSEWAY_SERVER=" + s.server, "CAUSEWAY_CA_FILE=" + s.ca, "CAUSEWAY_TOKEN_FILE=" + s.token,
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", line, err)
	}
	var out strings.Builder
	out.WriteString(s.stable(stdout.String()))
	for l := range strings.Lines(s.stable(stderr.String())) {
		out.WriteString("! " + l)
	}
	if exit != nil {
		fmt.Fprintf(&out, "exit %d\n", exit.ExitCode())
	}
	return out.String()
}

var replacements = []struct {
	pattern *regexp.Regexp
	by      string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`TIME \(\w+ ago\)`), "TIME (AGE ago)"},
	{regexp.MustCompile(`connected \w+ ago`), "connected AGE ago"},
	{regexp.MustCompile(`( {3})\d+s\b`), "${1}AGE"},
	{regexp.MustCompile(`, request [\w-]+`), ", request ID"},
	{regexp.MustCompile(`cwj1\.[\w-]+`), "JOINTOKEN"},
	{regexp.MustCompile(`revision \d+`), "revision N"},
	{regexp.MustCompile(`zones after [\d.]+m?s`), "zones after A WHILE"},
	{regexp.MustCompile(`eyJ[\w-]+\.[\w-]+\.[\w-]+`), "TOKEN"},
	{regexp.MustCompile(`causeway \S+ \(commit [^)]*\)`), "causeway VERSION (BUILD)"},
	{regexp.MustCompile(`go1\.[\w.]+`), "GO"},
}

func (s *session) stable(text string) string {
	for _, name := range []struct{ value, by string }{{s.server, "https://SERVER"}, {s.ca, "CA"}, {s.token, "ADMIN"}, {s.dir, "HOME"}} {
		text = strings.ReplaceAll(text, cmp.Or(name.value, "\x00"), name.by)
	}
	for _, r := range replacements {
		text = r.pattern.ReplaceAllString(text, r.by)
	}
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return text
}

// TestEveryCommandHelps walks the tree of commands by their own help: each says what it does and shows two examples.
func TestEveryCommandHelps(t *testing.T) {
	s := start(t, "")
	var walk func(path string)
	walk = func(path string) {
		help := s.shell(t, path+" --help")
		if failed.MatchString(help) {
			t.Errorf("%s --help fails:\n%s", path, help)
		}
		_, examples, _ := strings.Cut(help, "Examples:\n")
		examples, _, _ = strings.Cut(examples, "\n\n")
		if n := strings.Count(examples, "causeway"); n < 2 {
			t.Errorf("%s shows %d examples, two are the least:\n%s", path, n, examples)
		}
		for _, child := range children(help) {
			if child != "help" {
				walk(path + " " + child)
			}
		}
	}
	walk("causeway")
}

var failed = regexp.MustCompile(`(?m)^exit \d`)

var childLine = regexp.MustCompile(`(?m)^  ([a-z]+) +[A-Z]`)

// children reads the subcommands from the sections of a help text that list them.
func children(help string) []string {
	_, list, _ := strings.Cut(help, "Examples:\n")
	_, list, _ = strings.Cut(list, "\n\n")
	list, _, _ = strings.Cut(list, "\nFlags:")
	var out []string
	for _, m := range childLine.FindAllStringSubmatch(list, -1) {
		out = append(out, m[1])
	}
	return out
}

func TestVersionStartsQuickly(t *testing.T) {
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	best := time.Hour
	for range 10 {
		began := time.Now()
		if out, err := exec.Command(filepath.Join(bin, "causeway"), "version").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		best = min(best, time.Since(began))
	}
	t.Logf("the best of ten starts took %s", best)
	if best > 50*time.Millisecond {
		t.Errorf("causeway version takes %s, 50ms are the most", best)
	}
}
