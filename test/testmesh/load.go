package testmesh

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// workers is how many connections a load uses.
const workers = 4

// A Load is a constant stream of requests of one workload to one service.
type Load struct {
	zone  *Zone
	stop  context.CancelFunc
	done  sync.WaitGroup
	fresh bool

	mu     sync.Mutex
	report Report
}

// A Report says how a load fared.
type Report struct {
	Sent        int
	Failures    map[string]int // by kind
	First       []string       // failures and lost connections, with when they happened
	By          map[string]int // who answered
	Connections int            // that were opened to the own sidecar
	Longest     time.Duration
}

// Failed is the number of requests that failed.
func (r Report) Failed() int {
	n := 0
	for _, f := range r.Failures {
		n += f
	}
	return n
}

// String shows a report in the message of a failed test.
func (r Report) String() string {
	return fmt.Sprintf("%d requests on %d connections, longest %s, answered by %v, failures %v: %s",
		r.Sent, r.Connections, r.Longest.Round(time.Millisecond), r.By, r.Failures, strings.Join(r.First, "; "))
}

// NoFailure fails the test when a request failed.
func (r Report) NoFailure(t testing.TB) {
	t.Helper()
	if r.Sent == 0 || r.Failed() > 0 {
		t.Errorf("load: %s", r)
	}
}

// NoDrop fails the test when a connection was closed on the way, on top of NoFailure.
func (r Report) NoDrop(t testing.TB) {
	t.Helper()
	r.NoFailure(t)
	if r.Connections > workers {
		t.Errorf("connections were dropped: %s", r)
	}
}

// Load sends requests at a constant rate on a few connections until Stop, at the latest at the end of the test.
// A response that is no 200 of a workload is a failure.
func (m *Mesh) Load(t testing.TB, from *Instance, r Request, perSecond int) *Load {
	t.Helper()
	address := from.Address(t, r.Service)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	l := &Load{zone: m.Zone, stop: stop, fresh: r.Fresh, report: Report{Failures: map[string]int{}, By: map[string]int{}}}
	for range workers {
		l.done.Add(1)
		go l.run(ctx, from, r, address, time.Second*workers/time.Duration(perSecond))
	}
	t.Cleanup(func() { l.stop(); l.done.Wait() })
	return l
}

func (l *Load) run(ctx context.Context, from *Instance, r Request, address string, every time.Duration) {
	defer l.done.Done()
	c := from.newClient(1)
	defer c.CloseIdleConnections()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if r.Fresh {
			c.CloseIdleConnections()
		}
		// A request that has begun is finished even when the load stops.
		resp, err := r.send(context.WithoutCancel(ctx), c, address)
		l.note(resp, err)
	}
}

func (l *Load) note(r Response, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report.Sent++
	l.report.Longest = max(l.report.Longest, r.Took)
	if !r.Reused {
		l.report.Connections++
		if l.report.Connections > workers && err == nil && !l.fresh {
			l.remember("another connection", r)
		}
	}
	if r.Answer.Instance != "" {
		l.report.By[r.Answer.Instance]++
	}
	var failure string
	switch {
	case err != nil:
		failure = err.Error()
	case r.Status != http.StatusOK:
		failure = r.String()
	case r.Answer.Instance == "":
		failure = "200 of no workload"
	default:
		return
	}
	l.report.Failures[clip(failure)]++
	l.remember(clip(failure), r)
}

func (l *Load) remember(what string, r Response) {
	if len(l.report.First) < 5 {
		l.report.First = append(l.report.First, fmt.Sprintf("%s at %s, sent %s before", what, time.Now().Format("05.000"), r.Took.Round(time.Millisecond)))
	}
}

// SoFar is what has happened until now.
func (l *Load) SoFar() Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.report
	out.Failures, out.By, out.First = maps.Clone(out.Failures), maps.Clone(out.By), slices.Clone(out.First)
	return out
}

// More waits until n further requests were answered.
func (l *Load) More(t testing.TB, n int) {
	t.Helper()
	goal := l.SoFar().Sent + n
	l.zone.Until(t, fmt.Sprintf("%d further requests are answered", n), func() (any, bool) {
		r := l.SoFar()
		return r, r.Sent >= goal
	})
}

// Stop ends the load and says how it fared.
func (l *Load) Stop() Report {
	l.stop()
	l.done.Wait()
	return l.SoFar()
}
