package demo_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/dataplane/envoy"
	"github.com/causeway-mesh/causeway/deploy/demo"
	"github.com/causeway-mesh/causeway/test/pg"
)

// patience is for machines that do many things beside.
const patience = 15 * time.Minute

var built struct {
	sync.Once
	path string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.path != "" {
		_ = os.RemoveAll(filepath.Dir(built.path))
	}
	os.Exit(code)
}

// binary builds the program once.
func binary(t *testing.T) string {
	t.Helper()
	if _, err := envoy.Find(t.Context()); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	built.Do(func() {
		dir, err := os.MkdirTemp("", "cwdemobin")
		if err != nil {
			built.err = err
			return
		}
		built.path = filepath.Join(dir, "causeway")
		if out, err := exec.Command("go", "build", "-o", built.path, "../..").CombinedOutput(); err != nil {
			built.err = fmt.Errorf("build: %w: %s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

// TestStory plays the demo as a newcomer gets it: the built binary, real Envoys, processes that are stopped and killed.
func TestStory(t *testing.T) {
	binary := binary(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := demo.Run(ctx, demo.Options{Binary: binary, Environ: os.Environ(), Out: t.Output(), Check: true}); err != nil {
		t.Fatal(err)
	}
}

// A demo that is killed leaves no process behind. Global stands on PostgreSQL here.
func TestKilled(t *testing.T) {
	binary := binary(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	base, err := os.MkdirTemp("", "cw") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(base)
	dsn := pg.Database(t)
	run := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, binary, append([]string{"demo"}, args...)...)
		cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+base, "TMPDIR="+base, "CAUSEWAY_DEMO_STORE="+dsn)
		cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
		return cmd
	}
	up := run("up")
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- up.Wait() }()
	running := demo.Find(demo.ControlDir(base))
	var status demo.Status
	until(ctx, t, "the demo is up", func() bool {
		select {
		case err := <-ended:
			t.Fatalf("it ended: %v", err)
		default:
		}
		status, err = running.Status(ctx)
		return err == nil
	})
	for _, args := range [][]string{{"break", "global", "--kill"}, {"heal"}} {
		if err := run(args...).Run(); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
	}
	if err := up.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
	if runtime.GOOS == "linux" { // elsewhere children do not learn that their parent was killed
		api := strings.TrimPrefix(status.Global, "https://")
		until(ctx, t, "global has ended", func() bool { return !listens(ctx, api) })
	}
	if _, err := running.Status(ctx); !errors.Is(err, demo.ErrNotRunning) {
		t.Errorf("status: %v, want %v", err, demo.ErrNotRunning)
	}
	if runtime.GOOS == "linux" {
		until(ctx, t, "no process of the demo runs", func() bool { return len(processesOf(t, binary)) == 0 })
	}
}

func listens(ctx context.Context, address string) bool {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// processesOf lists the processes that run a program.
func processesOf(t *testing.T, program string) []string {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range links {
		if exe, err := os.Readlink(l); err == nil && exe == program {
			out = append(out, l)
		}
	}
	return out
}

func until(ctx context.Context, t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// The place where commands find a demo is the user's alone: others could otherwise stop it, or answer in its name.
func TestPlaceOfCommandsIsPrivate(t *testing.T) {
	if _, err := envoy.Find(t.Context()); err != nil {
		t.Skip(err)
	}
	dir := demo.ControlDir(t.TempDir())
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	err := demo.Run(t.Context(), demo.Options{Binary: "nothing", Out: io.Discard, Dir: dir})
	if err == nil || !strings.Contains(err.Error(), dir+" must be a directory that only you may enter") {
		t.Errorf("a demo starts in a directory that others may enter: %v", err)
	}
}
