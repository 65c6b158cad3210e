// Package demo runs a whole mesh of two zones on this machine for people to try: a global control plane, two zones with a control plane,
// an ingress and an egress each, a service outside of the mesh, three services with two instances in both zones behind sidecar Envoys, identities, permissions and a little
// traffic; and it breaks and heals parts of it on demand. Everything is the real thing in processes of its own.
// It is for looking at, not for production: it binds loopback addresses only and keeps nothing when it ends.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/dataplane/envoy"
)

// Options of a demo.
type Options struct {
	// Binary is the causeway program whose control planes and agents are run.
	Binary string
	// Name is how people call it. Default causeway.
	Name string
	// Environ is the environment of what is run; settings of Causeway in it are left out.
	Environ []string
	// Out is where progress is told.
	Out io.Writer
	// Check plays the whole story unattended and fails on any deviation, instead of running until the context ends.
	Check bool
	// Rate is how many requests per second are sent. Default 20.
	Rate int
	// Keep leaves the directory with logs behind.
	Keep bool
	// PostgreSQL is the DSN of an empty database for global; without it global has the embedded store.
	PostgreSQL string
	// Dir is the private directory in which other commands of this user find the running demo. A demo that checks itself has its own.
	Dir string
}

// A Demo is a running demo.
type Demo struct {
	opts      Options
	dir       string
	block     string // first two bytes of all its addresses
	began     time.Time
	envoy     string
	global    *plane
	collector *collector // of the spans of requests
	zones     []*zone
	outsider  *outsider
	traffic   traffic
	door      net.Listener // where people send requests
	control   *control
	end       context.CancelFunc
	// farewell is how the command went that ends a demo which checks itself.
	farewell chan error

	acting sync.Mutex // held while something is broken or healed
	mu     sync.Mutex // guards which processes there are, and the output
	work   sync.WaitGroup
	alive  atomic.Int64 // processes
	ready  atomic.Bool
}

// services are the demo's services in the order of their calls.
var services = []string{"web", "catalog", "stock"}

// zoneNames are its zones; requests come in at the first.
var zoneNames = []string{"east", "west"}

// instancesEach is how many instances a service has in a zone.
const instancesEach = 2

// Run starts everything, then plays the story or waits for the end of ctx, and takes down all it started.
func Run(ctx context.Context, o Options) (err error) {
	if o.Rate <= 0 {
		o.Rate = 20
	}
	if o.Name == "" {
		o.Name = "causeway"
	}
	d := &Demo{opts: o, began: time.Now()}
	if d.envoy, err = envoy.Find(ctx); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	if d.dir, err = os.MkdirTemp("", "cwdemo"); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	if o.Check {
		d.opts.Dir = ControlDir(d.dir)
	}
	run, end := context.WithCancel(ctx)
	defer end()
	d.end = end
	if d.control, err = listenControl(d.opts.Dir); err != nil {
		return errors.Join(fmt.Errorf("demo: %w", err), os.RemoveAll(d.dir))
	}
	defer func() { err = d.finish(ctx, err) }()
	d.control.serve(d.handler(run))
	if err := d.up(run); err != nil {
		return d.unlessEnded(run, fmt.Errorf("demo: %w", err))
	}
	d.open(run)
	if o.Check {
		return d.check(run)
	}
	d.introduce()
	d.showTraffic(run)
	return nil
}

// unlessEnded makes the end that somebody asked for no failure.
func (d *Demo) unlessEnded(run context.Context, err error) error {
	if !d.opts.Check && run.Err() != nil {
		return nil
	}
	return err
}

// finish takes everything down, and cleans up unless the logs are of use.
func (d *Demo) finish(ctx context.Context, err error) error {
	d.takeDown()
	keep := d.opts.Keep || err != nil && ctx.Err() == nil
	if keep {
		d.say("Logs are in %s", d.dir)
	}
	err = errors.Join(err, d.control.close(func() error {
		if keep {
			return nil
		}
		return os.RemoveAll(d.dir)
	}))
	if d.farewell == nil {
		return err
	}
	if bye := <-d.farewell; bye != nil {
		return errors.Join(err, fmt.Errorf("demo: down: %w", bye))
	}
	return errors.Join(err, d.nothingLeft(context.WithoutCancel(ctx)))
}

// nothingLeft says whether anything still listens.
func (d *Demo) nothingLeft(ctx context.Context) error {
	if at := d.taken(ctx); at != "" {
		return fmt.Errorf("demo: something still listens on %s", at)
	}
	return nil
}

func (d *Demo) say(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fmt.Fprintf(d.opts.Out, format+"\n", args...)
}

// done tells of one thing that is up.
func (d *Demo) done(what, format string, args ...any) {
	d.say(" ✓ %-13s %s", what, fmt.Sprintf(format, args...))
}

func (d *Demo) up(ctx context.Context) error {
	if err := d.takeBlock(ctx); err != nil {
		return err
	}
	if err := d.prepare(); err != nil {
		return err
	}
	if err := d.serveOutside(ctx); err != nil {
		return err
	}
	if err := d.serveCollector(ctx); err != nil {
		return err
	}
	if err := d.startGlobal(ctx); err != nil {
		return err
	}
	start, startCtx := errgroup.WithContext(ctx)
	for _, z := range d.zones {
		start.Go(func() error { return z.join(startCtx) })
	}
	if err := start.Wait(); err != nil {
		return err
	}
	for _, z := range d.zones {
		if err := d.untilAnswers(ctx, z); err != nil {
			return err
		}
	}
	d.done("services", "web → catalog → stock in %s and %s, two instances each, behind Envoys with mutual TLS", zoneNames[0], zoneNames[1])
	if err := d.untilReachable(ctx); err != nil {
		return err
	}
	d.done("ingresses", "each zone reaches the other")
	if err := d.untilOutside(services[len(services)-1], http.StatusOK, d.zones...)(ctx); err != nil {
		return err
	}
	d.done("egresses", "stock asks https://%s, which is outside of the mesh, through the egress of its zone", d.at(0, outsideHost, ratesPort))
	return nil
}

// prepare says what there will be, before anything runs.
func (d *Demo) prepare() error {
	global, err := d.newGlobal()
	if err != nil {
		return err
	}
	d.global = global
	if _, err := d.write("canary.yaml", canary()); err != nil {
		return err
	}
	for i, name := range zoneNames {
		d.zones = append(d.zones, d.newZone(name, i+1))
	}
	return nil
}

// untilAnswers waits for an answer through all three services of a zone.
func (d *Demo) untilAnswers(ctx context.Context, z *zone) error {
	return d.until(ctx, "an answer through all three services of zone "+z.name, func() (string, bool) {
		a := z.service(services[0])[0].ask(ctx)
		return a.String(), a.complete() && a.route() == route(z.name, z.name, z.name)
	})
}

// open lets people in and traffic flow, until ctx ends.
func (d *Demo) open(ctx context.Context) {
	d.work.Go(func() { d.serveDoor(ctx) })
	d.work.Go(func() { d.load(ctx) })
	d.ready.Store(true)
}

// The ports of control planes, as everywhere, and of the door.
const (
	apiPort    = 5682
	agentsPort = 5678
	zonesPort  = 5685
	probesPort = 5686
	doorPort   = 8080
	// collectorPort is where OTLP is spoken over HTTP, as everywhere.
	collectorPort = 4318
)

// firstBlock and lastBlock bound the 127.X.0.0/16 of which a demo takes one for itself.
const (
	firstBlock = 20
	lastBlock  = 69
)

// takeBlock takes the first block that no other demo has, not even what is left of one that was killed. Fixed ports in a block of one's
// own collide with nobody's.
func (d *Demo) takeBlock(ctx context.Context) error {
	var lc net.ListenConfig
	var failed error
	for x := firstBlock; x <= lastBlock; x++ {
		d.block = fmt.Sprintf("127.%d", x)
		door, err := lc.Listen(ctx, "tcp", d.at(0, 1, doorPort))
		if err != nil {
			failed = err
			continue
		}
		at := d.taken(ctx)
		if at == "" {
			d.door = door
			return nil
		}
		failed = errors.Join(fmt.Errorf("%s is taken", at), door.Close())
	}
	return fmt.Errorf("find loopback addresses for the demo, which needs all of 127.0.0.0/8 on the loopback interface, as Linux has it: %w", failed)
}

// taken is an address of the block where somebody listens, the door apart; empty when there is none.
func (d *Demo) taken(ctx context.Context) string {
	var lc net.ListenConfig
	for row := 0; row <= len(zoneNames); row++ {
		for host := 1; host <= 10*len(services)+instancesEach; host++ {
			for _, port := range []int{apiPort, agentsPort, zonesPort, probesPort, ingressPort, egressPort, readyPort, servicePort, appPort, ratesPort} {
				if row == 0 && host == 1 && port == doorPort {
					continue
				}
				l, err := lc.Listen(ctx, "tcp", d.at(row, host, port))
				if err != nil {
					return d.at(row, host, port)
				}
				_ = l.Close() // nothing was accepted
			}
		}
	}
	return ""
}

// ip is a host of the demo: row 0 is global's, the others are those of zones.
func (d *Demo) ip(row, host int) string { return fmt.Sprintf("%s.%d.%d", d.block, row, host) }

func (d *Demo) at(row, host, port int) string { return fmt.Sprintf("%s:%d", d.ip(row, host), port) }

// patience is how long anything may take that will come; a busy machine is no failure.
const patience = 3 * time.Minute

// until waits for a named condition; the last state is told when it does not come.
func (d *Demo) until(ctx context.Context, what string, cond func() (state string, ok bool)) error {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		state, ok := cond()
		if ok {
			return nil
		}
		for _, c := range d.children() {
			if c.ended() && !c.stopping.Load() {
				return fmt.Errorf("wait for %s: %s ended: %s", what, c.name, c.lastWords())
			}
		}
		select {
		case <-tick.C:
		case <-limit.C:
			return fmt.Errorf("not within %s: %s; last seen: %s", patience, what, state)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// canaryFile is a policy for people to apply and edit.
func (d *Demo) canaryFile() string { return d.file("canary.yaml") }

func (d *Demo) file(name string) string { return filepath.Join(d.dir, name) }

// write makes a file that only this user reads.
func (d *Demo) write(name, text string) (string, error) {
	if err := os.WriteFile(d.file(name), []byte(text), 0o600); err != nil {
		return "", fmt.Errorf("prepare %s: %w", name, err)
	}
	return d.file(name), nil
}

// takeDown ends everything: proxies first, so that nobody misses a control plane.
func (d *Demo) takeDown() {
	d.end()
	proxies, planes := apart(d.parts())
	stopAll(proxies, false)
	stopAll(planes, false)
	d.collector.close()
	for _, z := range d.zones {
		for _, i := range z.instances {
			i.close()
		}
	}
	d.outsider.close()
	if d.door != nil {
		_ = d.door.Close() // closed already when it was served
	}
	d.work.Wait()
	for _, p := range planes {
		p.(*plane).close()
	}
}
