package xds

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// world makes random tables that are closed: whatever is referred to exists.
type world struct {
	sequence uint64
	badness  int // one fragment in so many is refused; 0: none
	bad      map[string]bool
	made     map[string]*envoy.Fragment
}

func (w *world) fragment(t *rapid.T, typ envoy.Type, name string, refs ...envoy.Ref) *envoy.Fragment {
	content := rapid.IntRange(0, 3).Draw(t, "content of "+typ.String()+" "+name)
	key := fmt.Sprint(typ, name, refs, content)
	if f := w.made[key]; f != nil && rapid.Bool().Draw(t, "shared") {
		return f
	}
	f := fragment(typ, name, fmt.Sprint(content), refs...)
	if _, seen := w.bad[f.Version]; !seen {
		w.bad[f.Version] = w.badness > 0 && rapid.IntRange(1, w.badness).Draw(t, "bad") == 1
	}
	w.made[key] = f
	return f
}

func (w *world) table(t *rapid.T) *envoy.Table {
	w.sequence++
	var shared, own []*envoy.Fragment
	put := func(f *envoy.Fragment) {
		if rapid.IntRange(0, 5).Draw(t, "own") == 0 {
			own = append(own, f)
		} else {
			shared = append(shared, f)
		}
	}
	var clusters, routes, extensions []string
	for i := range 5 {
		if name := fmt.Sprintf("c%d", i); rapid.IntRange(0, 3).Draw(t, name) > 0 {
			clusters = append(clusters, name)
			put(w.fragment(t, envoy.Cluster, name, to(envoy.Endpoint, name)))
			put(w.fragment(t, envoy.Endpoint, name))
		}
	}
	if len(clusters) > 0 {
		for i := range 4 {
			if name := fmt.Sprintf("r%d", i); rapid.Bool().Draw(t, name) {
				routes = append(routes, name)
				refs := []envoy.Ref{to(envoy.Cluster, rapid.SampledFrom(clusters).Draw(t, "first"))}
				if other := rapid.SampledFrom(clusters).Draw(t, "second"); other != refs[0].Name {
					refs = append(refs, to(envoy.Cluster, other))
				}
				put(w.fragment(t, envoy.Route, name, refs...))
			}
		}
	}
	if rapid.Bool().Draw(t, "extension") {
		extensions = append(extensions, "x")
		put(w.fragment(t, envoy.Extension, "x"))
	}
	for i := range 4 {
		name := fmt.Sprintf("l%d", i)
		if !rapid.Bool().Draw(t, name) {
			continue
		}
		var refs []envoy.Ref
		if len(routes) > 0 && rapid.Bool().Draw(t, "by route") {
			refs = append(refs, to(envoy.Route, rapid.SampledFrom(routes).Draw(t, "route")))
		} else if len(clusters) > 0 {
			refs = append(refs, to(envoy.Cluster, rapid.SampledFrom(clusters).Draw(t, "cluster")))
		}
		if len(extensions) > 0 && rapid.Bool().Draw(t, "extended") {
			refs = append(refs, to(envoy.Extension, "x"))
		}
		put(w.fragment(t, envoy.Listener, name, refs...))
	}
	return &envoy.Table{Shared: envoy.NewPart(shared), Own: envoy.NewPart(own), Sequence: w.sequence}
}

// drive lets a client live through random tables, interleavings and reconnects, and requires that it comes to hold the last.
func drive(t *rapid.T, tb testing.TB, badness, clients int, reconnects, restarts bool) {
	w := &world{badness: badness, bad: map[string]bool{}, made: map[string]*envoy.Fragment{}}
	ward := NewQuarantine().Ward("1")
	var all []*client
	for range clients {
		c := newClient(rapidTB{tb, t}, ward)
		c.bad = func(f *envoy.Fragment) bool { return w.bad[f.Version] }
		c.silent = rapid.Bool().Draw(t, "silent")
		c.patient = badness > 0
		c.prompt = !restarts && rapid.Bool().Draw(t, "prompt")
		c.late = rapid.Bool().Draw(t, "late")
		c.lazy = rapid.IntRange(0, 3).Draw(t, "lazy") == 0
		all = append(all, c)
	}
	pick := func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "pick") }
	var last *envoy.Table
	rounds := rapid.IntRange(1, 8).Draw(t, "rounds")
	for range rounds {
		last = w.table(t)
		for _, c := range all {
			c.target(last)
			for range rapid.IntRange(0, 40).Draw(t, "steps") {
				c.step(pick)
			}
			if reconnects && rapid.IntRange(0, 4).Draw(t, "reconnect") == 0 {
				restarted := restarts && rapid.Bool().Draw(t, "restarted")
				if restarted {
					ward = NewQuarantine().Ward("1")
				}
				c.connect(ward, restarted)
				c.session.Target(last)
			}
		}
	}
	for range 3 { // what one client proves changes what others get
		for _, c := range all {
			c.run(pick)
		}
	}
	for _, c := range all {
		c.converged(last)
	}
}

// rapidTB reports failures of the model to rapid, so that it can shrink them.
type rapidTB struct {
	testing.TB
	t *rapid.T
}

func (r rapidTB) Helper() {}

func (r rapidTB) Fatalf(format string, args ...any) { r.t.Fatalf(format, args...) }

func TestClientComesToHoldTheTarget(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) { drive(r, t, 0, 1, true, true) })
}

func TestClientsComeToHoldTheTargetWithoutWhatTheyRefuse(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) { drive(r, t, 8, 2, false, false) })
}

func TestClientsHoldWhatTheyRefuseNeitherAfterReconnects(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) { drive(r, t, 8, 2, true, false) })
}
