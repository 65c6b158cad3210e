package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/api/client"
)

// A plane is a control plane in a process of its own, at addresses that stay.
type plane struct {
	*client.Client
	name, binary, work, api, diagnostics, agents string
	args                                         []string
	log                                          string
	cmd                                          *exec.Cmd
	done                                         chan struct{}
}

// newPlane prepares a control plane; start runs it.
func newPlane(binary, dir, name string, args ...string) (*plane, error) {
	free, err := ports(2)
	if err != nil {
		return nil, err
	}
	p := &plane{name: name, binary: binary, work: filepath.Join(dir, name), log: filepath.Join(dir, name+".log"), api: free[0], diagnostics: free[1]}
	p.args = append(args, "--work-dir", p.work, "--api-address", p.api, "--diagnostics-address", p.diagnostics, "--log-level", "warn")
	return p, nil
}

// ports are free addresses of this host.
func ports(n int) (out []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close()
		out = append(out, l.Addr().String())
	}
	return out, nil
}

// start runs the process and waits until its API answers.
func (p *plane) start(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(p.log), 0o700); err != nil {
		return err
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(context.WithoutCancel(ctx), p.binary, p.args...)
	cmd.Stdout, cmd.Stderr = log, log
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "CAUSEWAY_") { // settings that are meant for other processes
			cmd.Env = append(cmd.Env, v)
		}
	}
	leash(cmd)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.cmd, p.done = cmd, make(chan struct{})
	go func(done chan struct{}) { // ends with the process, which kill waits for
		_ = cmd.Wait() // how it ended stands in its log
		close(done)
	}(p.done)
	return until(ctx, "the API of "+p.name, func() (any, bool) {
		select {
		case <-p.done:
			return errors.New("it ended: " + p.tail()), false
		default:
		}
		if p.Client == nil {
			c, err := client.New(client.Config{
				Server: "https://" + p.api, CAFile: filepath.Join(p.work, "tls", "ca.pem"), TokenFile: filepath.Join(p.work, "admin.token"),
			})
			if err != nil {
				return err, false
			}
			p.Client = c
		}
		_, err := p.Index(ctx)
		return err, err == nil
	})
}

// kill ends the process as when its host dies.
func (p *plane) kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
	if p.Client != nil {
		p.Close()
	}
}

// gone says that the process has ended.
func (p *plane) gone() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// tail is the end of the log.
func (p *plane) tail() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}

func (p *plane) pid() int { return p.cmd.Process.Pid }

// collect lets the process give back what it does not need.
func (p *plane) collect(ctx context.Context) error {
	for range 2 {
		if _, err := p.diagnose(ctx, "/debug/pprof/heap?gc=1"); err != nil {
			return err
		}
	}
	return nil
}

// gauge reads a metric without labels.
func (p *plane) gauge(ctx context.Context, name string) (float64, error) {
	b, err := p.diagnose(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		var v float64
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			_, err := fmt.Sscan(rest, &v)
			return v, err
		}
	}
	return 0, fmt.Errorf("%s has no metric %s", p.name, name)
}

func (p *plane) diagnose(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.diagnostics+path, nil)
	if err != nil {
		return nil, err
	}
	hc := http.Client{Timeout: time.Minute}
	resp, err := hc.Do(req)
	if err != nil {
		return nil, fmt.Errorf("diagnostics of %s: %w", p.name, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("diagnostics of %s: %s", p.name, resp.Status)
	}
	return b, err
}

// patience bounds every wait; it is only reached when something is wrong.
const patience = 4 * time.Minute

// until waits for a named condition.
func until(ctx context.Context, what string, cond func() (state any, ok bool)) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	begin := time.Now()
	for {
		state, ok := cond()
		if ok {
			return nil
		}
		if time.Since(begin) > patience {
			return fmt.Errorf("%s: not within %s; last seen: %v", what, patience, state)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w; last seen: %v", what, ctx.Err(), state)
		}
	}
}
