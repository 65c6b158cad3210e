package faults_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/store/backend"
	"github.com/causeway-mesh/causeway/zone-cp/zonecp"
)

// asZone makes the test binary a zone in the directory that it holds.
const asZone = "CAUSEWAY_FAULTS_ZONE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(asZone); dir != "" {
		if err := serve(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// zoneFile holds the configuration of such a zone, if it is not the usual one.
const zoneFile = "zone.json"

// serve runs a zone, with an embedded store if nothing else is configured, and says where its API is when it is ready.
func serve(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c := zonecp.Default()
	c.Zone, c.WorkDir, c.Store.Type = "east", dir, backend.Embedded
	c.API.Address, c.Agents.Address, c.Diagnostics.Address = "127.0.0.1:0", "127.0.0.1:0", ""
	if text, err := os.ReadFile(filepath.Join(dir, zoneFile)); err == nil {
		if err := json.Unmarshal(text, &c); err != nil {
			return err
		}
	}
	z, err := zonecp.New(ctx, c, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	go func() {
		select {
		case <-z.Ready():
			fmt.Println(z.APIAddress(), z.CAFile())
		case <-ctx.Done():
		}
	}()
	return z.Run(ctx)
}

// A process is a zone of its own process.
type process struct {
	cmd   *exec.Cmd
	ready chan string // the address of its API and the authority; closed when the process ends
	ended chan struct{}
	log   *journal
}

func spawn(t *testing.T, dir string) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(exe, "-test.run=^$"), ready: make(chan string, 1), ended: make(chan struct{}), log: &journal{}}
	p.cmd.Env = append(os.Environ(), asZone+"="+dir)
	p.cmd.Stderr = p.log
	dieWithTest(p.cmd)
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the kernel's signal on our death comes when the thread ends
		defer runtime.UnlockOSThread()
		defer close(p.ended)
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.ready <- lines.Text()
		}
		close(p.ready)
		_ = p.cmd.Wait() // it was killed, or its log says why it ended
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

// kill ends the process as a power cut would, as far as the process can tell.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // gone already is as good
	<-p.ended
}

// stop ends the process gracefully.
func (p *process) stop(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.ended:
	case <-time.After(patience):
		t.Fatalf("the zone does not stop:\n%s", tail(p.log.String(), 4000))
	}
}

// client waits until the zone is ready.
func (p *process) client(t *testing.T, dir string) *api {
	t.Helper()
	where, ok := <-p.ready
	address, ca, _ := strings.Cut(where, " ")
	if !ok {
		t.Fatalf("the zone did not start:\n%s", tail(p.log.String(), 4000))
	}
	token, err := os.ReadFile(filepath.Join(dir, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	return connect(t, address, ca, strings.TrimSpace(string(token)))
}

// check looks for what no process may write.
func (p *process) check(t *testing.T) {
	t.Helper()
	for _, line := range panics(p.log.String()) {
		t.Errorf("log: %s", line)
	}
}

func TestKilledWhileItStarts(t *testing.T) {
	dir := t.TempDir()
	for _, file := range []string{"sealing.keys", "store.db", "store.db-wal", "admin.token"} {
		p := spawn(t, dir)
		until(t, "the zone has made "+file, func() (any, bool) {
			_, err := os.Stat(filepath.Join(dir, file))
			return tail(p.log.String(), 1000), err == nil
		})
		p.kill()
		p.check(t)
	}
	p := spawn(t, dir)
	a := p.client(t, dir)
	for _, path := range []string{
		"/meshes/default", "/meshes/default/meshtimeouts/mesh-timeout-to-all-default", "/zones/east",
		"/meshes/default/secrets/dataplane-token-signing-key-default-1",
	} {
		a.must(t, "GET", path, "")
	}
	a.must(t, "PUT", timeouts+"first", timeout("first", 1))
	a.must(t, "POST", "/tokens/dataplane", `{"mesh":"default"}`)
	a.must(t, "POST", "/tokens/zone", `{"zone":"east","validFor":"1h"}`)
	p.kill()
	p.check(t)
}

func TestKilledWhileItIsWrittenTo(t *testing.T) {
	const rounds, writers = 8, 3
	dir := t.TempDir()
	// What writers were told is stored, and what they asked for last: that may be stored or not.
	var told, asked [writers]atomic.Int64
	for round := 1; round <= rounds; round++ {
		p := spawn(t, dir)
		a := p.client(t, dir)
		have := a.numbers(t)
		for w := range writers {
			if n := int64(have[fmt.Sprintf("k%d", w)]); n < told[w].Load() || n > asked[w].Load() {
				t.Fatalf("round %d: the counter is %d; %d was acknowledged and %d asked for", round, n, told[w].Load(), asked[w].Load())
			}
			for n := int64(1); n <= told[w].Load(); n++ {
				if name := fmt.Sprintf("k%d-%d", w, n); have[name] != int(n) {
					t.Fatalf("round %d: %s was acknowledged and is lost", round, name)
				}
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		enough := make(chan struct{})
		var count atomic.Int64
		var running sync.WaitGroup
		for w := range writers {
			running.Go(func() {
				for ctx.Err() == nil {
					n := asked[w].Load()
					if n == told[w].Load() {
						n = asked[w].Add(1)
					} // else the last one again: it may have been done
					body := fmt.Sprintf("[%s,%s]", timeout(fmt.Sprintf("k%d", w), int(n)), timeout(fmt.Sprintf("k%d-%d", w, n), int(n)))
					res, err := a.try(ctx, "POST", "/batch", body, "Idempotency-Key", fmt.Sprintf("k%d/%d", w, n))
					if err != nil {
						return // killed
					}
					if res.status != http.StatusOK {
						t.Errorf("write: %s", res)
						return
					}
					told[w].Store(n)
					if count.Add(1) == int64(7*round) {
						close(enough)
					}
				}
			})
		}
		select {
		case <-enough:
		case <-p.ended:
			t.Errorf("round %d: the zone ended by itself:\n%s", round, tail(p.log.String(), 4000))
		}
		p.kill()
		cancel()
		running.Wait()
		p.check(t)
	}
	p := spawn(t, dir)
	a := p.client(t, dir)
	have := a.numbers(t)
	for w := range writers {
		for n := int64(1); n <= told[w].Load(); n++ {
			s, err := a.read(t.Context(), fmt.Sprintf("k%d-%d", w, n))
			if name := fmt.Sprintf("k%d-%d", w, n); have[name] != int(n) || err != nil || s.version != 1 {
				t.Errorf("%s is %+v (%v), want version 1", name, s, err)
			}
		}
		s, err := a.read(t.Context(), fmt.Sprintf("k%d", w))
		if err != nil || s.version != s.n {
			t.Errorf("counter %d: version %d of value %d (%v); a repeated write was done twice, or one is lost", w, s.version, s.n, err)
		}
		t.Logf("writer %d: %d acknowledged of %d", w, told[w].Load(), asked[w].Load())
	}
	p.kill()
	p.check(t)
}

func TestSecondProcessIsToldWhoHoldsTheStore(t *testing.T) {
	dir := t.TempDir()
	p := spawn(t, dir)
	a := p.client(t, dir)
	second := spawn(t, dir)
	if where, ok := <-second.ready; ok {
		t.Fatalf("two processes serve one store, the second at %s", where)
	}
	<-second.ended
	for _, want := range []string{"store.db", "held by", fmt.Sprintf("pid %d", p.cmd.Process.Pid), "zone east", "stop it"} {
		if !strings.Contains(second.log.String(), want) {
			t.Errorf("the second process said %q, which lacks %q", tail(second.log.String(), 1000), want)
		}
	}
	a.must(t, "PUT", timeouts+"undisturbed", timeout("undisturbed", 1))
	p.kill()
	p.check(t)
	third := spawn(t, dir) // the claim ends with the process that made it
	if s, err := third.client(t, dir).read(t.Context(), "undisturbed"); err != nil || s.n != 1 {
		t.Errorf("after the holder was killed: %+v %v", s, err)
	}
}
