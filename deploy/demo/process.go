package demo

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
)

// A child is a process of the demo with its log.
type child struct {
	name     string
	cmd      *exec.Cmd
	log      string
	done     chan struct{}
	stopping atomic.Bool
}

// environ is the caller's environment without settings of Causeway, which are meant for other processes.
func environ(all []string) []string {
	var out []string
	for _, v := range all {
		if !strings.HasPrefix(v, "CAUSEWAY_") {
			out = append(out, v)
		}
	}
	return out
}

func (d *Demo) spawn(ctx context.Context, name string, args ...string) (*child, error) {
	path := d.file(name + ".log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer log.Close()
	cmd := exec.CommandContext(context.WithoutCancel(ctx), d.opts.Binary, args...)
	cmd.Env = environ(d.opts.Environ)
	cmd.Stdout, cmd.Stderr = log, log
	dieWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	c := &child{name: name, cmd: cmd, log: path, done: make(chan struct{})}
	d.alive.Add(1)
	d.work.Go(func() {
		_ = cmd.Wait() // how it ended stands in its log
		d.alive.Add(-1)
		close(c.done)
	})
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

// stop asks the process to end, or kills it. It asks once: asked again, a process ends without draining.
func (c *child) stop(kill bool) {
	if c.stopping.Swap(true) && !kill {
		return
	}
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

// A unit is one process that can be stopped and started again.
type unit interface {
	// start runs it again where it was, and returns when it is ready.
	start(ctx context.Context) error
	// process is the newest, nil before the first start.
	process() *child
}

// slot holds the process of a unit.
type slot struct{ held atomic.Pointer[child] }

func (s *slot) process() *child { return s.held.Load() }

func running(u unit) bool {
	c := u.process()
	return c != nil && !c.ended() && !c.stopping.Load()
}

// stopAll stops units at the same time and waits until they have ended.
func stopAll(units []unit, kill bool) {
	for _, u := range units {
		if c := u.process(); c != nil {
			c.stop(kill)
		}
	}
	for _, u := range units {
		if c := u.process(); c != nil {
			<-c.done
		}
	}
}

// children are all processes of the demo.
func (d *Demo) children() []*child {
	var out []*child
	for _, p := range d.parts() {
		for _, u := range p.unit {
			if c := u.process(); c != nil {
				out = append(out, c)
			}
		}
	}
	return out
}
