package demo

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// entry is the instance of web that a user reaches: one of the first zone, as long as any runs there.
func (d *Demo) entry(n uint64) *instance {
	for _, z := range d.zones {
		var up []*instance
		for _, i := range z.service(services[0]) {
			if running(i) {
				up = append(up, i)
			}
		}
		if len(up) > 0 {
			return up[n%uint64(len(up))]
		}
	}
	return d.zones[0].service(services[0])[0]
}

// serveDoor lets people ask web at one address, wherever it runs, until ctx ends.
func (d *Demo) serveDoor(ctx context.Context) {
	var n atomic.Uint64
	s := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := d.entry(n.Add(1)).ask(r.Context())
		reply(w, &a)
	}), BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	_ = s.Serve(d.door) // ends when it is closed
}

// load sends requests at the demo's rate until ctx ends.
func (d *Demo) load(ctx context.Context) {
	tick := time.NewTicker(time.Second / time.Duration(d.opts.Rate))
	defer tick.Stop()
	var sent sync.WaitGroup
	defer sent.Wait()
	for n := uint64(0); ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			done := d.traffic.send()
			sent.Go(func() { done(d.entry(n).ask(context.WithoutCancel(ctx))) })
		}
	}
}

// traffic is what became of the requests.
type traffic struct {
	mu      sync.Mutex
	windows map[*window]struct{}
	recent  []outcome // the last ones, the newest last
}

type outcome struct {
	at time.Time
	answer
}

// maxRecent bounds what is remembered.
const maxRecent = 1000

// A window counts the answers to requests that are sent while it is open.
type window struct {
	of *traffic
	tally
	open int // requests without an answer
}

// A tally counts answers.
type tally struct {
	total, failed int
	by            map[string]int // answers by instance and zone
	routes        map[string]int // complete answers by route
	callers       map[string]map[string]int
	first         string // the first failure
}

func (t *tally) add(a *answer) {
	t.total++
	if !a.complete() {
		t.failed++
		if t.first == "" {
			t.first = a.String()
		}
		return
	}
	if t.by == nil {
		t.by, t.routes, t.callers = map[string]int{}, map[string]int{}, map[string]map[string]int{}
	}
	t.routes[a.route()]++
	for p := a.Next; p != nil; p = p.Next {
		t.by[p.Instance+"@"+p.Zone]++
		at := p.Service + "@" + p.Zone
		if t.callers[at] == nil {
			t.callers[at] = map[string]int{}
		}
		t.callers[at][p.Caller]++
	}
}

func (t *tally) clone() tally {
	c := *t
	c.by, c.routes, c.callers = maps.Clone(t.by), maps.Clone(t.routes), map[string]map[string]int{}
	for k, v := range t.callers {
		c.callers[k] = maps.Clone(v)
	}
	return c
}

// String tells routes, the most taken first, and failures.
func (t *tally) String() string {
	routes := slices.SortedFunc(maps.Keys(t.routes), func(a, b string) int {
		if d := t.routes[b] - t.routes[a]; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	var parts []string
	for _, r := range routes {
		if len(routes) == 1 && t.failed == 0 {
			parts = append(parts, r)
			continue
		}
		parts = append(parts, fmt.Sprintf("%s %d%%", r, (100*t.routes[r]+t.total/2)/t.total))
	}
	switch {
	case t.total == 0:
		return "no request was answered yet"
	case t.failed > 0:
		parts = append(parts, fmt.Sprintf("%d of %d requests failed: %s", t.failed, t.total, t.first))
	}
	return strings.Join(parts, " · ")
}

// requests says how many there were.
func (t *tally) requests() string {
	s := fmt.Sprintf("%d requests, %d failed", t.total, t.failed)
	if t.first != "" {
		s += " (the first: " + t.first + ")"
	}
	return s
}

// watch opens a window.
func (t *traffic) watch() *window {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.windows == nil {
		t.windows = map[*window]struct{}{}
	}
	w := &window{of: t}
	t.windows[w] = struct{}{}
	return w
}

// close counts nothing that is sent from now on.
func (w *window) close() {
	w.of.mu.Lock()
	defer w.of.mu.Unlock()
	delete(w.of.windows, w)
}

// seen is what was counted until now, and how many requests have no answer yet.
func (w *window) seen() (tally, int) {
	w.of.mu.Lock()
	defer w.of.mu.Unlock()
	return w.clone(), w.open
}

// complete says whether every request has its answer; a condition to wait for.
func (w *window) complete() (string, bool) {
	_, open := w.seen()
	return fmt.Sprint(open, " are missing"), open == 0
}

// restart forgets what was counted. Requests that are on their way count.
func (w *window) restart() {
	w.of.mu.Lock()
	defer w.of.mu.Unlock()
	w.tally = tally{}
}

// send notes a request and returns what takes its answer.
func (t *traffic) send() func(answer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	windows := slices.Collect(maps.Keys(t.windows))
	for _, w := range windows {
		w.open++
	}
	return func(a answer) {
		t.mu.Lock()
		defer t.mu.Unlock()
		for _, w := range windows {
			w.open--
			w.add(&a)
		}
		if t.recent = append(t.recent, outcome{time.Now(), a}); len(t.recent) > maxRecent {
			t.recent = slices.Delete(t.recent, 0, len(t.recent)-maxRecent)
		}
	}
}

// last counts the answers of the last while.
func (t *traffic) last(while time.Duration) tally {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out tally
	since := time.Now().Add(-while)
	for _, o := range t.recent {
		if o.at.After(since) {
			out.add(&o.answer)
		}
	}
	return out
}

// ways says which routes were taken and whether requests failed, without figures.
func (t *tally) ways() string {
	return fmt.Sprint(slices.Sorted(maps.Keys(t.routes)), t.failed > 0)
}

// showEvery is how often traffic is told while it takes the same way.
const showEvery = 30 * time.Second

// showTraffic tells which way requests take, when it changes and now and then, until ctx ends.
func (d *Demo) showTraffic(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var shown string
	var at time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			t := d.traffic.last(time.Second)
			if t.ways() == shown && now.Sub(at) < showEvery {
				continue
			}
			d.say("%s  %s", now.Format(time.TimeOnly), &t)
			shown, at = t.ways(), now
		}
	}
}
