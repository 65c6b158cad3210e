package envoy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// storm makes random tables: services come, go, change any of their resources, and lead to each other's clusters.
type storm struct {
	*rand.Rand
	market   *market
	universe []service
	present  []bool
	fixed    int                 // the first few always exist
	bad      map[envoy.Type]bool // types of which some are such that Envoy refuses them
}

func newStorm(t testing.TB, seed uint64, m *market, n, fixed int) *storm {
	w := &storm{Rand: rand.New(rand.NewPCG(seed, 1)), market: m, universe: m.services(t, n), present: make([]bool, n), fixed: fixed, bad: map[envoy.Type]bool{}}
	for i := range w.universe {
		w.universe[i].bad = map[envoy.Type]bool{}
		w.present[i] = i < fixed
	}
	return w
}

// clear makes everything good.
func (w *storm) clear(t testing.TB) *envoy.Table {
	for i := range w.universe {
		clear(w.universe[i].bad)
	}
	return w.market.table(t, w.services()...)
}

// blow changes a few things and returns the table after it.
func (w *storm) blow(t testing.TB) *envoy.Table {
	for range 1 + w.IntN(4) {
		i := w.IntN(len(w.universe))
		s := &w.universe[i]
		switch typ := envoy.Type(w.IntN(int(envoy.NumTypes) + 2)); typ {
		case envoy.NumTypes:
			w.present[i] = i < w.fixed || !w.present[i]
		case envoy.NumTypes + 1:
			s.to = w.universe[w.IntN(len(w.universe))].name
		default:
			s.at[typ] = 1 + w.IntN(len(w.market.pools)-1)
			s.bad[typ] = w.bad[typ] && w.IntN(3) == 0
		}
	}
	return w.market.table(t, w.services()...)
}

// services are those that exist. Nobody leads to one that does not: the compiler would not make such a table.
func (w *storm) services() (out []service) {
	for i, s := range w.universe {
		if to := slices.IndexFunc(w.universe, func(o service) bool { return o.name == s.to }); to >= 0 && !w.present[to] {
			s.to = ""
		}
		if w.present[i] {
			out = append(out, s)
		}
	}
	return out
}

// described completes services by what a request to them must show: the cluster and endpoints of where they lead.
func (w *storm) described() []service {
	out := w.services()
	for i, s := range out {
		for _, o := range w.universe {
			if o.name == s.to {
				out[i].at[envoy.Cluster], out[i].at[envoy.Endpoint] = o.at[envoy.Cluster], o.at[envoy.Endpoint]
			}
		}
	}
	return out
}

// inForce are the versions that Envoy says it runs. For listeners it is not worth much: one whose chains alone changed keeps
// the version it was made with, so that their versions are left out; requests show what they run.
func (s *sidecar) inForce(t testing.TB) map[envoy.Ref]string {
	out := map[envoy.Ref]string{}
	for typ, d := range map[envoy.Type]struct {
		resource string
		version  []string
		name     []string
	}{
		envoy.Cluster:  {"dynamic_active_clusters", []string{"version_info"}, []string{"cluster", "name"}},
		envoy.Listener: {"dynamic_listeners", nil, []string{"name"}},
		envoy.Route:    {"dynamic_route_configs", []string{"version_info"}, []string{"route_config", "name"}},
	} {
		for _, c := range s.dump(t, d.resource) {
			ref := envoy.Ref{Type: typ, Name: fmt.Sprint(dig(c, d.name...))}
			switch {
			case typ != envoy.Listener:
				out[ref] = fmt.Sprint(dig(c, d.version...))
			case dig(c, "active_state") != nil: // else it drains
				out[ref] = ""
			}
		}
	}
	return out
}

func versionsOf(table *envoy.Table) map[envoy.Ref]string {
	out := map[envoy.Ref]string{}
	for _, typ := range []envoy.Type{envoy.Cluster, envoy.Listener, envoy.Route} {
		for _, f := range table.Shared.Of(typ) {
			ref := envoy.Ref{Type: typ, Name: f.Name}
			if out[ref] = ""; typ != envoy.Listener {
				out[ref] = f.Version
			}
		}
	}
	return out
}

// Whatever the way, quick or slow, with streams cut and servers restarted in between: Envoy comes to run the last table, the zone knows
// it, and services that exist all the time are served all the time.
func TestPushConverges(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		tables  int
		pause   time.Duration // the longest between two tables
		trouble int           // every so many tables the stream is cut
		bad     []envoy.Type  // some of these are such that Envoy refuses them, until the last table
	}{
		{"in a rush", 400, 0, 0, nil},
		{"quickly", 300, 4 * time.Millisecond, 0, nil},
		{"at a pace", 150, 12 * time.Millisecond, 0, nil},
		{"with streams cut", 150, 8 * time.Millisecond, 9, nil},
		{"with bad resources", 100, 15 * time.Millisecond, 0, []envoy.Type{envoy.Cluster, envoy.Endpoint, envoy.Listener, envoy.Route, envoy.Extension}},
		{"with bad resources and streams cut", 100, 15 * time.Millisecond, 7, []envoy.Type{envoy.Cluster, envoy.Endpoint, envoy.Listener, envoy.Route, envoy.Extension}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			z, m := newZone(t), newMarket(t, 4)
			w := newStorm(t, seed, m, 14, 3)
			table := w.blow(t)
			s := z.join(t, "web", table)
			until(t, "the fixed services are served", func() (any, bool) {
				for _, x := range w.described()[:w.fixed] {
					if _, err := look(client(t), x); err != nil {
						return err, false
					}
				}
				return nil, true
			})
			flow := startTraffic(t, 1, w.universe[:w.fixed]...)
			for _, typ := range c.bad {
				w.bad[typ] = true
			}
			for i := range c.tables {
				table = w.blow(t)
				s.set(table)
				if c.pause > 0 {
					<-time.After(time.Duration(w.Int64N(int64(c.pause))))
				}
				if c.trouble > 0 && i%c.trouble == 0 {
					z.cut()
				}
			}
			if len(c.bad) > 0 {
				table = w.clear(t)
			}
			s.set(table)
			if took := s.untilAcked(t, table); took > prompt {
				t.Errorf("the last table was acknowledged after %s", took)
			}
			untilServed(t, w.described()...)
			flow.stop(t)
			until(t, "Envoy runs the last table and nothing else", func() (any, bool) {
				d := cmp.Diff(versionsOf(table), s.inForce(t))
				return d, d == ""
			})
			for i, x := range w.universe {
				if !w.present[i] && !closed(x) {
					t.Errorf("%s does not exist, and something listens for it", x.name)
				}
			}
			if got := s.refusals(); len(got) > 0 != (len(c.bad) > 0) {
				t.Errorf("refusals: %q", got)
			}
			if _, rejected := s.state(); len(rejected) > 0 {
				t.Errorf("rejected though everything is good: %v", rejected)
			}
			for _, x := range w.universe {
				if n := s.stat(t, "cluster."+x.name+".init_fetch_timeout"); n != 0 {
					t.Errorf("%s: %d fetch timeouts", x.name, n)
				}
			}
			sent := map[envoy.Type]int{}
			for _, p := range z.streams(s.node) {
				for _, r := range p.responses() {
					sent[r.typ]++
				}
			}
			t.Logf("%d tables took responses %v", c.tables, slices.Sorted(maps.Values(sent)))
		})
	}
}
