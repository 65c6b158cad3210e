// Package probe checks whether the inbounds of a workload take connections or answer HTTP.
// It judges by counting successes and failures in a row and reports. It does not decide what follows from that.
package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// MinInterval is the least time between two checks of a target, whatever it asks for.
const MinInterval = 50 * time.Millisecond

// A Target is one inbound to check.
type Target struct {
	Section string // name of the inbound, or its port
	Address string
	Port    uint32
	// HTTPPath makes the check a GET that has to answer with 2xx or 3xx; otherwise a TCP connection is enough.
	HTTPPath string
	Interval time.Duration
	Timeout  time.Duration
	// So many failures in a row make the inbound not ready, so many successes ready.
	UnhealthyThreshold uint32
	HealthyThreshold   uint32
}

// A Result is the state of one inbound. Before its first verdict it is not ready.
type Result struct {
	Section string
	Ready   bool
	Reason  string // why it is not ready
}

// A Prober checks a set of targets. Run does the work.
type Prober struct {
	log     *slog.Logger
	changed chan struct{} // holds a token when results changed
	wanted  chan struct{} // holds a token when the targets changed

	mu      sync.Mutex
	targets []Target
	results map[Target]Result
}

// New makes a prober without targets.
func New(log *slog.Logger) *Prober {
	return &Prober{log: log, changed: make(chan struct{}, 1), wanted: make(chan struct{}, 1), results: map[Target]Result{}}
}

// Set replaces the targets. Those that stay as they are keep their verdict.
func (p *Prober) Set(targets []Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.targets = slices.Clone(targets)
	for t := range p.results {
		if !slices.Contains(p.targets, t) {
			delete(p.results, t)
		}
	}
	for _, t := range p.targets {
		if _, ok := p.results[t]; !ok {
			p.results[t] = Result{Section: t.Section, Reason: "not checked yet"}
		}
	}
	wake(p.wanted)
	wake(p.changed)
}

// Results lists the state of all targets, sorted by section.
func (p *Prober) Results() []Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.SortedFunc(maps.Values(p.results), func(a, b Result) int { return strings.Compare(a.Section, b.Section) })
}

// Changed yields when results may have changed. One reader.
func (p *Prober) Changed() <-chan struct{} { return p.changed }

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run checks the targets until ctx ends.
func (p *Prober) Run(ctx context.Context) error {
	running := map[Target]context.CancelFunc{}
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-p.wanted:
		case <-ctx.Done():
			for _, stop := range running {
				stop()
			}
			return nil
		}
		p.mu.Lock()
		targets := slices.Clone(p.targets)
		p.mu.Unlock()
		for t, stop := range running {
			if !slices.Contains(targets, t) {
				stop()
				delete(running, t)
			}
		}
		for _, t := range targets {
			if running[t] != nil {
				continue
			}
			own, stop := context.WithCancel(ctx)
			running[t] = stop
			wg.Go(func() { p.watch(own, t) })
		}
	}
}

// watch checks one target again and again.
func (p *Prober) watch(ctx context.Context, t Target) {
	interval := max(t.Interval, MinInterval)
	var v verdict
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		err := check(ctx, t)
		if ctx.Err() != nil {
			return
		}
		if v.count(err == nil, t) {
			p.report(t, v.ready, err)
		}
		// A tenth of jitter keeps the probes of many proxies on a host from falling into step.
		timer.Reset(interval + rand.N(interval/10+1))
	}
}

// A verdict turns single checks into a state.
type verdict struct {
	ready    bool
	decided  bool
	row      uint32 // equal outcomes in a row
	last     bool
	anything bool
}

// count takes an outcome and says whether the state is new.
func (v *verdict) count(ok bool, t Target) bool {
	if !v.anything || ok != v.last {
		v.row = 0
	}
	v.anything, v.last = true, ok
	v.row++
	need := max(t.UnhealthyThreshold, 1)
	if ok {
		need = max(t.HealthyThreshold, 1)
	}
	// A workload that does not answer at first is not ready already; only the reason is news.
	first := !v.decided && !ok && v.row == 1
	if v.row < need || v.decided && v.ready == ok {
		return first
	}
	v.ready, v.decided = ok, true
	return true
}

func (p *Prober) report(t Target, ready bool, err error) {
	r := Result{Section: t.Section, Ready: ready}
	if err != nil {
		r.Reason = err.Error()
	}
	p.mu.Lock()
	old, wanted := p.results[t]
	if wanted {
		p.results[t] = r
	}
	p.mu.Unlock()
	if !wanted || old == r {
		return
	}
	p.log.Info("service probe", "inbound", t.Section, "ready", ready, "reason", r.Reason)
	wake(p.changed)
}

func check(ctx context.Context, t Target) error {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	address := net.JoinHostPort(t.Address, strconv.FormatUint(uint64(t.Port), 10))
	if t.HTTPPath == "" {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return c.Close()
	}
	return checkHTTP(ctx, address, t.HTTPPath)
}

// client has no memory: a kept connection would say little about the next one, and a redirect is an answer.
var client = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true, Proxy: nil},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func checkHTTP(ctx context.Context, address, path string) error {
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return err
	}
	r.Header.Set("User-Agent", "causeway-probe")
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.CopyN(io.Discard, resp.Body, 64<<10); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return fmt.Errorf("GET %s answers %s", path, resp.Status)
	}
	return nil
}
