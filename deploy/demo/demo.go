// Package demo runs a whole mesh on this machine for people to try: one zone control plane, three services with two instances
// each behind sidecar Envoys, identities, permissions and a little traffic. Everything is the real thing in processes of its own.
// It is for looking at, not for production: it binds loopback addresses only and keeps nothing when it ends.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/client"
)

// Options of a demo.
type Options struct {
	// Binary is the causeway program whose control plane and agents are run.
	Binary string
	// Out is where progress is told.
	Out io.Writer
	// Check plays the whole story unattended and fails on any deviation, instead of running until the context ends.
	Check bool
	// Rate is how many requests per second are sent. Default 20.
	Rate int
	// Keep leaves the directory with logs behind.
	Keep bool
}

// zone is the name of the demo's zone.
const zone = "east"

// A Demo is a running demo.
type Demo struct {
	opts   Options
	dir    string
	block  string // first three bytes of the addresses of instances
	client *client.Client
	api    string
	agents string
	zone   *child
	nodes  []*instance
	work   sync.WaitGroup
}

// services are the demo's services in the order of their calls.
var services = []string{"web", "catalog", "stock"}

// Run starts everything, then plays the story or waits for the end of ctx, and takes down all it started.
func Run(ctx context.Context, o Options) (err error) {
	if o.Rate <= 0 {
		o.Rate = 20
	}
	dir, err := os.MkdirTemp("", "cwdemo")
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	d := &Demo{opts: o, dir: dir, block: fmt.Sprintf("127.%d.%d", 100+os.Getpid()%100, 1+os.Getpid()/100%250)}
	defer func() {
		d.down()
		switch {
		case o.Keep || err != nil && ctx.Err() == nil:
			d.say("Logs are in %s", dir)
		default:
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	start := time.Now()
	if err := d.up(ctx); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	d.say("Ready after %s.", time.Since(start).Round(100*time.Millisecond))
	if o.Check {
		return d.check(ctx)
	}
	d.introduce()
	return d.showTraffic(ctx)
}

func (d *Demo) say(format string, args ...any) { fmt.Fprintf(d.opts.Out, format+"\n", args...) }

func (d *Demo) up(ctx context.Context) error {
	d.say("Starting the control plane of zone %s …", zone)
	if err := d.startZone(ctx); err != nil {
		return err
	}
	d.say("Starting %s, two instances each, behind sidecar Envoys …", strings.Join(services, " → "))
	if err := d.apply(ctx, identity); err != nil {
		return err
	}
	for i, name := range services {
		next := ""
		if i+1 < len(services) {
			next = services[i+1]
		}
		for n := 1; n <= 2; n++ {
			inst, err := d.newInstance(ctx, name, next, i+1, n)
			if err != nil {
				return err
			}
			d.nodes = append(d.nodes, inst)
			if err := inst.start(ctx); err != nil {
				return err
			}
		}
	}
	d.say("Waiting for a request to be refused by everyone, as nothing is permitted yet …")
	if err := d.until(ctx, "a refusal with 403 by catalog", func() (string, bool) {
		r := d.ask(ctx)
		return r.String(), r.Next != nil && r.Next.Status == 403
	}); err != nil {
		return err
	}
	d.say("Permitting web → catalog → stock …")
	if err := d.apply(ctx, permissions); err != nil {
		return err
	}
	return d.until(ctx, "an answer through all three services", func() (string, bool) {
		r := d.ask(ctx)
		return r.String(), r.complete()
	})
}

func (d *Demo) startZone(ctx context.Context) error {
	var err error
	if d.api, err = freeAddress(ctx, "127.0.0.1"); err != nil {
		return err
	}
	if d.agents, err = freeAddress(ctx, "127.0.0.1"); err != nil {
		return err
	}
	return d.startZoneAgain(ctx)
}

// startZoneAgain runs the control plane on the addresses it has.
func (d *Demo) startZoneAgain(ctx context.Context) error {
	work := filepath.Join(d.dir, "zone")
	var err error
	if d.zone, err = d.spawn(ctx, "zone-"+zone, "run", "zone", "--zone", zone, "--work-dir", work,
		"--api-address", d.api, "--agents-address", d.agents, "--diagnostics-address", "", "--agents-deregister-after", "1s"); err != nil {
		return err
	}
	token := filepath.Join(work, "admin.token")
	return d.until(ctx, "the control plane answers", func() (string, bool) {
		if d.client == nil {
			c, err := client.New(client.Config{Server: "https://" + d.api, TokenFile: token, CAFile: filepath.Join(work, "tls", "ca.pem")})
			if err != nil {
				return err.Error(), false
			}
			d.client = c
		}
		mesh, _ := api.Kinds().ByName("Mesh")
		_, err := d.client.Get(ctx, mesh, "", "default")
		return fmt.Sprint(err), err == nil
	})
}

// apply writes the resources of a YAML text in one batch.
func (d *Demo) apply(ctx context.Context, text string) error {
	docs, err := api.Kinds().DecodeYAML([]byte(text), true)
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	for _, doc := range docs {
		k, _ := api.Kinds().ByName(doc.Type)
		body, err := k.Encode(doc.Resource, nil)
		if err != nil {
			return fmt.Errorf("apply: %w", err)
		}
		if _, err := d.client.Put(ctx, k, doc.Mesh, doc.Name, body, client.Precondition{}); err != nil {
			return fmt.Errorf("apply %s: %w", doc.Key(), err)
		}
	}
	return nil
}

// remove deletes a resource of the default mesh.
func (d *Demo) remove(ctx context.Context, typ, name string) error {
	k, err := api.Kinds().Lookup(typ)
	if err != nil {
		return err
	}
	if err := d.client.Delete(ctx, k, "default", name, client.Precondition{}); err != nil {
		return fmt.Errorf("delete %s %s: %w", typ, name, err)
	}
	return nil
}

// until waits for a named condition; the last state is told when it does not come.
func (d *Demo) until(ctx context.Context, what string, cond func() (state string, ok bool)) error {
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		state, ok := cond()
		if ok {
			return nil
		}
		for _, c := range d.children() {
			if c.ended() && !c.stopping {
				return fmt.Errorf("wait until %s: %s ended: %s", what, c.name, c.lastWords())
			}
		}
		select {
		case <-tick.C:
		case <-limit.C:
			return fmt.Errorf("not within 30s: %s; last seen: %s", what, state)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (d *Demo) children() []*child {
	out := []*child{d.zone}
	for _, n := range d.nodes {
		if n.agent != nil {
			out = append(out, n.agent)
		}
	}
	return out
}

// down ends everything, agents first so that nobody misses the control plane.
func (d *Demo) down() {
	for _, n := range d.nodes {
		n.agentStop(false)
	}
	for _, n := range d.nodes {
		n.wait()
		n.closeApp()
	}
	if d.zone != nil {
		d.zone.stop(false)
		<-d.zone.done
	}
	if d.client != nil {
		d.client.Close()
	}
	d.work.Wait()
}

func freeAddress(ctx context.Context, host string) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", host+":0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// A child is a process of the demo with its log.
type child struct {
	name     string
	cmd      *exec.Cmd
	log      string
	done     chan struct{}
	stopping bool
}

func (d *Demo) spawn(ctx context.Context, name string, args ...string) (*child, error) {
	path := filepath.Join(d.dir, name+".log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer log.Close()
	cmd := exec.CommandContext(context.WithoutCancel(ctx), d.opts.Binary, args...)
	cmd.Stdout, cmd.Stderr = log, log
	dieWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	c := &child{name: name, cmd: cmd, log: path, done: make(chan struct{})}
	d.work.Add(1)
	go func() {
		defer d.work.Done()
		_ = cmd.Wait() // how it ended stands in its log
		close(c.done)
	}()
	return c, nil
}

func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// stop asks the process to end, or kills it.
func (c *child) stop(kill bool) {
	c.stopping = true
	sig := os.Interrupt
	if kill {
		sig = os.Kill
	}
	_ = c.cmd.Process.Signal(sig) // it may have ended
}

// lastWords is the end of the log.
func (c *child) lastWords() string {
	b, err := os.ReadFile(c.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], " | ")
}
