package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os/exec"
	"regexp"
	"sync"
	"time"

	"github.com/causeway-mesh/causeway/dataplane/bootstrap"
	"github.com/causeway-mesh/causeway/dataplane/envoy"
)

// A restart waits at first restartBase, then twice as long each time, at most restartMax; an Envoy that ran
// for restartReset begins anew.
const (
	restartBase  = 100 * time.Millisecond
	restartMax   = 30 * time.Second
	restartReset = time.Minute
	// startPatience is how long a first start may fail: a former Envoy needs a moment to die and to leave its addresses.
	startPatience = 5 * time.Second
)

// supervisor keeps one Envoy running.
type supervisor struct {
	log    *slog.Logger
	launch Launcher
	admin  *admin
	check  func() error // what would keep Envoy from serving; asked before the first start

	changed chan struct{} // holds a token when the status changed

	mu     sync.Mutex
	status proxyStatus
}

type proxyStatus struct {
	running  bool // it has its configuration
	restarts uint32
	lastExit string
}

func newSupervisor(launch Launcher, a *admin, log *slog.Logger) *supervisor {
	if launch == nil {
		launch = func(ctx context.Context, c envoy.Config) (Proxy, error) { return envoy.Start(ctx, c) }
	}
	return &supervisor{log: log, launch: launch, admin: a, check: func() error { return nil }, changed: make(chan struct{}, 1)}
}

// Status is how Envoy fares.
func (s *supervisor) Status() proxyStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

func (s *supervisor) update(edit func(*proxyStatus)) {
	s.mu.Lock()
	before := s.status
	edit(&s.status)
	news := s.status != before
	s.mu.Unlock()
	if news {
		wake(s.changed)
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run starts Envoy, and starts it again when it ends, until ctx does; then it stops it.
func (s *supervisor) run(ctx context.Context, c envoy.Config) error {
	wait, everRan, first := restartBase, false, time.Now()
	for {
		began := time.Now()
		p, err := s.start(ctx, c, !everRan)
		switch {
		case ctx.Err() != nil && p == nil:
			return nil
		case err != nil && !everRan && time.Since(first) > startPatience:
			return err
		case err != nil:
			s.log.Error("envoy cannot be started and is tried again", "err", err, "in", wait)
		default:
			everRan = true
			s.watch(ctx, p)
			if ctx.Err() != nil {
				return s.stop(p)
			}
			s.ended(p.Wait())
		}
		if time.Since(began) > restartReset {
			wait = restartBase
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		wait = min(2*wait, restartMax)
	}
}

// start checks the host before the first start only: an Envoy that served is worth more with one listener less than not at all.
func (s *supervisor) start(ctx context.Context, c envoy.Config, first bool) (Proxy, error) {
	if first {
		if err := s.check(); err != nil {
			return nil, err
		}
	}
	return s.launch(ctx, c)
}

func (s *supervisor) ended(err error) {
	text := "exit status 0"
	if err != nil {
		text = err.Error()
	}
	s.log.Error("envoy ended by itself and is started again", "err", text)
	s.update(func(st *proxyStatus) { st.running, st.lastExit, st.restarts = false, text, st.restarts+1 })
}

func (s *supervisor) stop(p Proxy) error {
	s.update(func(st *proxyStatus) { st.running = false })
	// Envoy must be gone before anything else is: its addresses and the directory are claimed until then.
	if err := p.Stop(context.Background()); err != nil {
		return err
	}
	s.log.Info("envoy stopped")
	return nil
}

// watch waits for the first configuration, then for the end of Envoy or of ctx.
func (s *supervisor) watch(ctx context.Context, p Proxy) {
	// Envoy cannot tell when it is ready, so it is asked, less and less often.
	wait := 10 * time.Millisecond
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-p.Done():
			return
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if s.admin.live(ctx) {
			break
		}
		wait = min(wait*5/4, time.Second)
		timer.Reset(wait)
	}
	s.log.Info("envoy is ready")
	s.update(func(st *proxyStatus) { st.running = true })
	select {
	case <-p.Done():
	case <-ctx.Done():
	}
}

var versionLine = regexp.MustCompile(`version: ([0-9a-f]+)/([^/\s]+)/`)

// envoyVersion asks the binary what it is.
func envoyVersion(ctx context.Context, binary string) (version, build string, err error) {
	out, err := exec.CommandContext(ctx, binary, "--version").Output()
	if err != nil {
		return "", "", fmt.Errorf("ask %s for its version: %w", binary, err)
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return "", "", fmt.Errorf("%s is not Envoy: it does not tell its version", binary)
	}
	return string(m[2]), string(m[1]), nil
}

// envoyConfig is how Envoy is started.
func (a *agent) envoyConfig() (envoy.Config, error) {
	text, err := bootstrap.Render(bootstrap.Params{
		Mesh: a.self.mesh, Name: a.self.name, Zone: a.link.zone(), Workload: a.link.about().GetWorkload(),
		Agent: a.agentSocket(), Admin: a.adminSocket(), MaxHeap: a.cfg.Envoy.MaxHeapBytes,
		LoadReports: a.cfg.LoadInterval > 0,
		Metadata:    map[string]string{"causeway.agent.version": a.cfg.Version},
	})
	if err != nil {
		return envoy.Config{}, err
	}
	return envoy.Config{
		Binary: a.binary, Bootstrap: text, Dir: a.dir, LogLevel: a.cfg.Envoy.LogLevel, Concurrency: a.cfg.Envoy.Concurrency,
		DrainTime: a.cfg.DrainTime, Args: bootstrap.Args(), Log: a.log.With("process", "envoy"),
		Env: a.environment(), Stdout: a.cfg.Stdout,
	}, nil
}
