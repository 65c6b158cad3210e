package demo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

const identity = `
type: MeshIdentity
mesh: default
name: identity
spec:
  selector: {dataplane: {matchLabels: {}}}
  provider: {type: Bundled, bundled: {autogenerate: {enabled: true}, insecureAllowSelfSigned: true}}
`

const permissions = `
type: MeshTrafficPermission
mesh: default
name: web-to-catalog
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: catalog}}
  rules: [{default: {allow: [{spiffeID: {type: Exact, value: "spiffe://default.east.mesh.local/workload/web"}}]}}]
---
type: MeshTrafficPermission
mesh: default
name: catalog-to-stock
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: stock}}
  rules: [{default: {allow: [{spiffeID: {type: Exact, value: "spiffe://default.east.mesh.local/workload/catalog"}}]}}]
`

func (d *Demo) instance(name string) *instance {
	return d.nodes[slices.IndexFunc(d.nodes, func(i *instance) bool { return i.name == name })]
}

// ask is one request of a user to the first instance of web.
func (d *Demo) ask(ctx context.Context) answer {
	return *call(ctx, "http://"+d.instance("web-1").appAddress+"/")
}

func (d *Demo) introduce() {
	work := d.dir + "/zone"
	d.say(`
Zone %[1]s runs: API https://%[2]s
  web → catalog → stock, two instances each; %[3]d requests per second.
Try in another terminal:
  causeway context add demo --server https://%[2]s --ca-file %[4]s/tls/ca.pem --token-file %[4]s/admin.token
  causeway get dataplanes
  causeway get meshservices
  causeway describe dataplane web-1
  causeway delete meshtrafficpermission web-to-catalog     # and watch web being refused
  curl http://%[5]s/
Ctrl-C takes everything down.
`, zone, d.api, d.opts.Rate, work, d.instance("web-1").appAddress)
}

// A tally counts the answers of a period.
type tally struct {
	sync.Mutex
	total, failed int
	by            map[string]int
	first         string // the first failure
}

func (t *tally) add(a answer) {
	t.Lock()
	defer t.Unlock()
	t.total++
	if !a.complete() {
		t.failed++
		if t.first == "" {
			t.first = a.String()
		}
		return
	}
	if t.by == nil {
		t.by = map[string]int{}
	}
	t.by[a.Next.Instance]++
	t.by[a.Next.Next.Instance]++
}

func (t *tally) String() string {
	t.Lock()
	defer t.Unlock()
	var by []string
	for _, k := range slices.Sorted(maps.Keys(t.by)) {
		by = append(by, fmt.Sprintf("%s %d", k, t.by[k]))
	}
	s := fmt.Sprintf("%d requests, %d failed; answered by %s", t.total, t.failed, strings.Join(by, ", "))
	if t.first != "" {
		s += "; first failure: " + t.first
	}
	return s
}

// load sends requests at the demo's rate until ctx ends and gives every answer to take.
func (d *Demo) load(ctx context.Context, take func(answer)) {
	tick := time.NewTicker(time.Second / time.Duration(d.opts.Rate))
	defer tick.Stop()
	var sent sync.WaitGroup
	defer sent.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			sent.Add(1)
			go func() {
				defer sent.Done()
				take(d.ask(context.WithoutCancel(ctx)))
			}()
		}
	}
}

// showTraffic prints a line every few seconds until ctx ends.
func (d *Demo) showTraffic(ctx context.Context) error {
	for ctx.Err() == nil {
		var t tally
		period, cancel := context.WithTimeout(ctx, 5*time.Second)
		d.load(period, t.add)
		cancel()
		d.say("%s  %s", time.Now().Format(time.TimeOnly), &t)
	}
	return nil
}

// A step of the story is a sentence, what happens under load, and what must be true of the answers.
type step struct {
	what string
	do   func(context.Context) error
	want func(*tally) error
}

// check plays the story.
func (d *Demo) check(ctx context.Context) error {
	steps := []step{
		{
			"both instances of every service answer, nothing fails", func(ctx context.Context) error { return pause(ctx, 2*time.Second) },
			answeredBy("catalog-1", "catalog-2", "stock-1", "stock-2"),
		},
		{"every service saw the identity of its caller", d.checkIdentities, nil},
		{"web may not ask stock directly", d.checkShortcut, nil},
		{"catalog-1 stops gracefully: no request fails", func(ctx context.Context) error {
			i := d.instance("catalog-1")
			i.agentStop(false)
			i.wait()
			return pause(ctx, time.Second)
		}, answeredBy("catalog-2")},
		{"catalog-1 comes back", func(ctx context.Context) error { return d.restart(ctx, "catalog-1") }, answeredBy("catalog-2")},
		{"stock-2 is killed: no request fails with the default retries", func(ctx context.Context) error {
			i := d.instance("stock-2")
			i.agentStop(true)
			i.wait()
			return pause(ctx, 2*time.Second)
		}, answeredBy("stock-1")},
		{"stock-2 comes back", func(ctx context.Context) error { return d.restart(ctx, "stock-2") }, answeredBy("stock-1")},
		{"the control plane is killed: traffic goes on", func(ctx context.Context) error {
			d.zone.stop(true)
			<-d.zone.done
			return pause(ctx, 2*time.Second)
		}, answeredBy("catalog-1", "catalog-2")},
		{"it comes back and a permission that is taken away is in force", d.checkRevocation, nil},
	}
	for _, s := range steps {
		if err := d.play(ctx, s); err != nil {
			return fmt.Errorf("demo: %s: %w", s.what, err)
		}
		d.say("✓ %s", s.what)
	}
	d.say("All %d steps went as told.", len(steps))
	return nil
}

func (d *Demo) play(ctx context.Context, s step) error {
	if s.want == nil {
		return s.do(ctx)
	}
	var t tally
	period, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.load(period, t.add)
	}()
	err := s.do(ctx)
	cancel()
	<-done
	if err == nil {
		err = s.want(&t)
	}
	if err != nil {
		return fmt.Errorf("%w (%s)", err, &t)
	}
	return nil
}

// answeredBy demands that nothing failed and that all of the instances answered.
func answeredBy(names ...string) func(*tally) error {
	return func(t *tally) error {
		t.Lock()
		defer t.Unlock()
		if t.failed > 0 {
			return fmt.Errorf("%d requests failed", t.failed)
		}
		for _, n := range names {
			if t.by[n] == 0 {
				return fmt.Errorf("%s answered nothing", n)
			}
		}
		return nil
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *Demo) checkIdentities(ctx context.Context) error {
	a := d.ask(ctx)
	if !a.complete() {
		return errors.New(a.String())
	}
	for i, got := range []string{a.Next.Caller, a.Next.Next.Caller} {
		if want := "spiffe://default.east.mesh.local/workload/" + services[i]; got != want {
			return fmt.Errorf("%s saw %q, want %q", services[i+1], got, want)
		}
	}
	return nil
}

func (d *Demo) checkShortcut(ctx context.Context) error {
	a := call(ctx, "http://"+d.instance("web-1").appAddress+"/shortcut")
	if a.Next == nil || a.Next.Status != http.StatusForbidden {
		return fmt.Errorf("got %s, want a refusal with 403", a)
	}
	return nil
}

// restart brings an instance back and waits until it answers.
func (d *Demo) restart(ctx context.Context, name string) error {
	i := d.instance(name)
	if err := i.start(ctx); err != nil {
		return err
	}
	return d.until(ctx, name+" answers again", func() (string, bool) {
		a := d.ask(ctx)
		return a.String(), strings.Contains(a.String(), name)
	})
}

func (d *Demo) checkRevocation(ctx context.Context) error {
	if err := d.startZoneAgain(ctx); err != nil {
		return err
	}
	if err := d.remove(ctx, "MeshTrafficPermission", "web-to-catalog"); err != nil {
		return err
	}
	return d.until(ctx, "catalog refuses web", func() (string, bool) {
		a := d.ask(ctx)
		return a.String(), a.Next != nil && a.Next.Status == http.StatusForbidden
	})
}
