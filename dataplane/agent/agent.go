// Package agent is a dataplane's agent: it enrolls with the zone, keeps the workload's key and certificate, passes Envoy's
// configuration through, runs Envoy, probes the workload, and takes all of it down without cutting connections.
// It decides nothing about configuration and knows no policy; what Envoy does comes from the zone.
//
// The agent ends with an error when an address that its Dataplane lists cannot be bound. It does not notice that of virtual
// addresses: they come by xDS, which it passes on unread. Envoy's log, which is part of the agent's, then says
// "cannot bind", the zone reports the listener as rejected, and agents never share a block of these addresses.
package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/dataplane/dns"
	"github.com/causeway-mesh/causeway/dataplane/envoy"
	"github.com/causeway-mesh/causeway/dataplane/load"
	"github.com/causeway-mesh/causeway/dataplane/metrics"
	"github.com/causeway-mesh/causeway/dataplane/probe"
	"github.com/causeway-mesh/causeway/dataplane/relay"
	"github.com/causeway-mesh/causeway/dataplane/sds"
	"github.com/causeway-mesh/causeway/dataplane/spire"
	"github.com/causeway-mesh/causeway/dataplane/telemetry"
)

// agent is one running agent.
type agent struct {
	cfg      Config
	log      *slog.Logger
	self     self
	dir      string // of this dataplane, below the runtime directory
	block    *block // nil with transparent proxying
	instance string // of this process, random
	place    string
	binary   string // Envoy
	version  string // of Envoy
	build    string

	names      *dns.Server // nil when no lookups are answered
	prober     *probe.Prober
	secrets    *sds.Server
	load       *load.Server
	metrics    *metrics.Server
	telemetry  *telemetry.Forwarder
	spire      *spire.Source
	relay      *relay.Server
	link       *link
	supervisor *supervisor

	ending atomic.Bool
}

// Run is a whole life: it returns nil when ctx ended and everything was taken down, and otherwise why it had to give up.
// Wrong settings and refusals that waiting does not heal end it at the start; later it goes on with what it has.
func Run(ctx context.Context, cfg Config, log *slog.Logger) error {
	if err := cfg.Validate().Err(); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	a := &agent{cfg: cfg, log: log}
	if err := a.prepare(ctx); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	defer a.block.release()
	if err := a.run(ctx); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	return nil
}

// prepare claims what the agent needs of this host.
func (a *agent) prepare(ctx context.Context) (err error) {
	if a.self, err = a.cfg.Dataplane.readSelf(); err != nil {
		return err
	}
	a.log = a.log.With("mesh", a.self.mesh, "dataplane", a.self.name)
	if err := a.findEnvoy(ctx); err != nil {
		return err
	}
	id := make([]byte, 8)
	if _, err := rand.Read(id); err != nil {
		return fmt.Errorf("name this instance: %w", err)
	}
	a.instance = hex.EncodeToString(id)
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	a.place = fmt.Sprintf("%s, process %d", host, os.Getpid())
	if err := relay.PrivateDir(a.cfg.RuntimeDir); err != nil {
		return err
	}
	a.dir = filepath.Join(a.cfg.RuntimeDir, a.self.dirName())
	if err := relay.PrivateDir(a.dir); err != nil {
		return err
	}
	if a.cfg.BindOutbounds && !a.self.transparent {
		if a.block, err = newBlocks(a.cfg.RuntimeDir).claim(a.self); err != nil {
			return err
		}
		a.log.Info("outbounds are bound on a loopback block", "block", a.block.prefix)
	}
	return nil
}

func (a *agent) findEnvoy(ctx context.Context) (err error) {
	a.binary, a.version = a.cfg.Envoy.Binary, envoy.Version
	if a.cfg.Launch != nil && a.binary == "" {
		return nil // whoever launches it knows
	}
	if a.binary == "" {
		if a.binary, err = envoy.Find(ctx); err != nil {
			return err
		}
	}
	a.version, a.build, err = envoyVersion(ctx, a.binary)
	return err
}

func (a *agent) agentSocket() string { return filepath.Join(a.dir, mesh.AgentSocket) }
func (a *agent) adminSocket() string { return filepath.Join(a.dir, "admin.sock") }

// outboundBlock is where outbounds are bound, empty with transparent proxying.
func (a *agent) outboundBlock() string {
	if a.block == nil {
		return ""
	}
	return a.block.prefix
}

// run lets all parts work until ctx ends, drains, and waits for them. Parts outlive ctx by the time of draining.
func (a *agent) run(ctx context.Context) error {
	socket, err := relay.Listen(a.agentSocket())
	if err != nil {
		return err
	}
	ready, err := a.listenReadiness()
	if err != nil {
		socket.Close()
		return err
	}
	if a.names, err = a.listenNames(); err != nil {
		socket.Close()
		closeAny(ready)
		return err
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, work := errgroup.WithContext(work)
	a.prober = probe.New(a.log)
	a.secrets = sds.New(a.log)
	a.secrets.UseAuthorities(a.cfg.Envoy.AuthoritiesFile)
	a.spire = spire.New(a.cfg.SPIRESocket, a.secrets, a.log)
	a.supervisor = newSupervisor(a.cfg.Launch, newAdmin(a.adminSocket()), a.log)
	a.supervisor.check = func() error { return checkSockets(a.self.sockets) }
	a.link = newLink(a)
	a.relay = relay.New(a.link.upstream, a.log)
	a.secrets.Register(work, a.relay)
	a.measure(work)
	a.telemetry = telemetry.New(collectorVariables(a.cfg.Environ), a.log)
	a.telemetry.Register(a.relay)
	proxyContext, stopProxy := context.WithCancel(work)
	defer stopProxy()
	proxyStopped := make(chan struct{})

	g.Go(func() error { return a.relay.Serve(work, socket) })
	g.Go(func() error { return a.secrets.Run(work) })
	g.Go(func() error { return a.prober.Run(work) })
	g.Go(func() error { return a.metrics.Run(work) })
	g.Go(func() error { return a.telemetry.Run(work) })
	g.Go(func() error { return a.spire.Run(work) })
	g.Go(func() error { return a.link.run(work) })
	g.Go(func() error {
		defer close(proxyStopped)
		return a.runProxy(proxyContext)
	})
	if ready != nil {
		g.Go(func() error { return a.serveReadiness(work, ready) })
	}
	if a.names != nil {
		g.Go(func() error { return a.names.Run(work) })
	}
	g.Go(func() error {
		select {
		case <-ctx.Done():
			a.drain(work)
			stopProxy()
			<-proxyStopped
			stop()
		case <-work.Done():
		}
		return nil
	})
	return ignoreEnd(g.Wait())
}

// closeAny closes a listener if there is one.
func closeAny(l net.Listener) {
	if l != nil {
		_ = l.Close()
	}
}

// measure makes what counts the traffic of the proxy and tells its metrics.
func (a *agent) measure(ctx context.Context) {
	admin := a.supervisor.admin
	a.load = load.New(load.Config{Interval: a.cfg.LoadInterval, Bytes: admin.bytes, Log: a.log})
	a.load.Register(ctx, a.relay)
	a.metrics = metrics.New(metrics.Config{
		Envoy: admin.open, Load: a.load.Totals, MeshTLS: a.link.serverTLS, CertFile: a.cfg.Metrics.CertFile, KeyFile: a.cfg.Metrics.KeyFile,
		Env: collectorVariables(a.cfg.Environ), Version: a.cfg.Version, Log: a.log,
	})
}

func ignoreEnd(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// runProxy starts Envoy once it can have its identity: an Envoy without would answer before anybody may trust it.
func (a *agent) runProxy(ctx context.Context) error {
	select {
	case <-a.link.ready:
	case <-ctx.Done():
		return nil
	}
	c, err := a.envoyConfig()
	if err != nil {
		return err
	}
	return a.supervisor.run(ctx, c)
}

// drain takes the proxy out of service: peers are told first, then connections may end, then Envoy does.
func (a *agent) drain(ctx context.Context) {
	a.ending.Store(true)
	if a.cfg.DrainTime == 0 {
		return
	}
	a.log.Info("draining", "atMost", a.cfg.DrainTime)
	ctx, cancel := context.WithTimeout(ctx, a.cfg.DrainTime)
	defer cancel()
	// At least half of the time is left for connections to end, however slow peers are.
	telling, told := context.WithTimeout(ctx, a.cfg.DrainTime/2)
	err := a.link.goodbye(telling)
	told()
	if err != nil {
		a.log.Warn("the zone did not confirm that peers were told; their requests may still come", "err", err)
	}
	if !a.supervisor.Status().running {
		return
	}
	// The deadline is for connections, not for telling Envoy.
	tell := context.WithoutCancel(ctx)
	for _, path := range []string{"/healthcheck/fail", "/drain_listeners?graceful"} {
		if _, err := a.supervisor.admin.do(tell, http.MethodPost, path); err != nil {
			a.log.Warn("envoy cannot be drained", "err", err)
			return
		}
	}
	a.awaitIdle(ctx)
}

// awaitIdle waits until no connection is open, or the time is up.
func (a *agent) awaitIdle(ctx context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	open := 0
	for {
		n, err := a.supervisor.admin.connections(ctx)
		if err == nil {
			open = n
		}
		if err == nil && n == 0 {
			a.log.Info("all connections ended")
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			a.log.Warn("connections are still open after the drain time and are cut", "connections", open)
			return
		}
	}
}

// listenReadiness opens the readiness endpoint early, so that a port in use is an error at the start.
func (a *agent) listenReadiness() (net.Listener, error) {
	address := a.cfg.ReadinessAddress
	switch path, ok := strings.CutPrefix(address, "unix:"); {
	case address == "":
		return nil, nil
	case ok:
		return relay.Listen(path)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("readinessAddress: %w", err)
	}
	return l, nil
}

func (a *agent) serveReadiness(ctx context.Context, l net.Listener) error {
	s := &http.Server{Handler: http.HandlerFunc(a.readiness), ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("readiness: %w", err)
	}
	return nil
}

// readiness answers whether the proxy takes traffic.
func (a *agent) readiness(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/ready" {
		http.NotFound(w, r)
		return
	}
	switch {
	case a.ending.Load():
		http.Error(w, "TERMINATING", http.StatusServiceUnavailable)
	case !a.supervisor.Status().running:
		http.Error(w, "NOT READY: "+a.link.waitsFor(), http.StatusServiceUnavailable)
	case !a.knowsNames():
		http.Error(w, "NOT READY: the names of the mesh", http.StatusServiceUnavailable)
	default:
		fmt.Fprintln(w, "READY")
	}
}

// knowsNames says that lookups of names of the mesh are answered, if they are to be.
func (a *agent) knowsNames() bool {
	if a.names == nil {
		return true
	}
	select {
	case <-a.names.Ready():
		return true
	default:
		return false
	}
}
