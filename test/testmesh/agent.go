package testmesh

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"testing"

	"github.com/causeway-mesh/causeway/dataplane/agent"
	"github.com/causeway-mesh/causeway/dataplane/envoy"
	"github.com/causeway-mesh/causeway/global-cp/globalcp"
	"github.com/causeway-mesh/causeway/zone-cp/zonecp"
)

// errKilled is why Envoy of a killed workload is not started again.
var errKilled = errors.New("the workload was killed by the test")

// inside is an agent in this process.
type inside struct {
	cancel context.CancelFunc
	ended  chan struct{}
	result error

	mu     sync.Mutex
	envoy  *envoy.Process
	killed bool
}

func startInside(ctx context.Context, c agent.Config, logs *journal) *inside {
	ctx, cancel := context.WithCancel(ctx)
	a := &inside{cancel: cancel, ended: make(chan struct{})}
	c.Launch = a.launch
	go func() {
		defer close(a.ended)
		a.result = agent.Run(ctx, c, slog.New(logs))
	}()
	return a
}

// launch starts Envoy and remembers it, so that it can be killed.
func (a *inside) launch(ctx context.Context, c envoy.Config) (agent.Proxy, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.killed {
		return nil, errKilled
	}
	p, err := envoy.Start(ctx, c)
	if err != nil {
		return nil, err
	}
	a.envoy = p
	return p, nil
}

func (a *inside) stop()                 { a.cancel() }
func (a *inside) done() <-chan struct{} { return a.ended }
func (a *inside) err() error            { return a.result }

func (a *inside) kill() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.killed = true
	if a.envoy == nil {
		return
	}
	select {
	case <-a.envoy.Done():
	default:
		_ = syscall.Kill(a.envoy.PID(), syscall.SIGKILL) // it may end at this moment
		<-a.envoy.Done()
	}
}

// Variables of the environment that tell a process which part it is, and where its configuration is.
const (
	partVariable   = "CAUSEWAY_TESTMESH_PART"
	configVariable = "CAUSEWAY_TESTMESH_CONFIG"
)

// Parts that run in processes of their own.
const (
	partAgent  = "agent"
	partZone   = "zone"
	partGlobal = "global"
)

// Main is TestMain of a package whose workloads run apart: such an agent is this binary again, and so are control planes at places.
func Main(m *testing.M) {
	part := os.Getenv(partVariable)
	if part == "" {
		os.Exit(m.Run())
	}
	if err := be(part, os.Getenv(configVariable)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// be runs a part until SIGTERM, or until the test is gone, which closes the standard input.
func be(part, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(2)
	}()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	switch part {
	case partZone:
		var c zonecp.Config
		if err := json.Unmarshal(text, &c); err != nil {
			return err
		}
		c.Version = "test"
		z, err := zonecp.New(ctx, c, log)
		if err != nil {
			return err
		}
		return z.Run(ctx)
	case partGlobal:
		var c globalcp.Config
		if err := json.Unmarshal(text, &c); err != nil {
			return err
		}
		c.Version = "test"
		g, err := globalcp.New(ctx, c, log)
		if err != nil {
			return err
		}
		return g.Run(ctx)
	}
	var c agent.Config
	if err := json.Unmarshal(text, &c); err != nil {
		return err
	}
	return agent.Run(ctx, c, log)
}

// apart is a part in a process of its own.
type apart struct {
	cmd    *exec.Cmd
	ended  chan struct{}
	result error
}

// startApart starts a part, here or at a place.
func startApart(t testing.TB, part, file string, config any, p Place, logs *journal) *apart {
	t.Helper()
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	a := &apart{cmd: exec.Command(self), ended: make(chan struct{})}
	a.cmd.Env = append(os.Environ(), partVariable+"="+part, configVariable+"="+file)
	in, err := a.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := a.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	start := a.cmd.Start
	if p != nil {
		start = func() error { return p.Start(a.cmd) }
	}
	if err := start(); err != nil {
		t.Fatalf("start %s: %v", part, err)
	}
	go func() {
		defer close(a.ended)
		log, last := slog.New(logs), []byte(nil)
		for s := bufio.NewScanner(out); s.Scan(); {
			log.Info(s.Text())
			last = bytes.Clone(s.Bytes())
		}
		if err := a.cmd.Wait(); err != nil {
			a.result = fmt.Errorf("%w: %s", err, last)
		}
		_ = in.Close()
	}()
	return a
}

func (a *apart) stop()                 { _ = a.cmd.Process.Signal(syscall.SIGTERM) } // it may have ended
func (a *apart) kill()                 { _ = a.cmd.Process.Kill() }
func (a *apart) done() <-chan struct{} { return a.ended }
func (a *apart) err() error            { return a.result }
