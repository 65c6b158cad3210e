package envoy

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/zone-cp/xds"
)

// Envoy comes back with the versions it holds, and gets nothing of it again: neither from the server it knows nor from one that
// has just started. Traffic does not notice.
func TestPushReconnect(t *testing.T) {
	t.Parallel()
	z, m := newZone(t), newMarket(t, 1)
	services := m.services(t, 12)
	table := m.table(t, services...)
	s := z.join(t, "web", table)
	untilServed(t, services...)
	s.untilAcked(t, table)
	n, configuration := z.streams(s.node)[0].resources()
	if n != 5*len(services) {
		t.Errorf("the first configuration took %d resources, want %d", n, 5*len(services))
	}
	flow := startTraffic(t, 1, services...)
	for _, c := range []struct {
		what  string
		times int
		cut   func()
	}{
		{"the stream is cut", 8, z.cut},
		{"the server starts anew", 4, func() { z.stop(); z.start(t) }},
	} {
		for range c.times {
			before := len(z.streams(s.node))
			c.cut()
			p := s.returned(t, before)
			s.untilAcked(t, table)
			flow.more(t, 2*len(services))
			if n, bytes := p.resources(); n > 0 || bytes > configuration/20 {
				t.Errorf("%s: %d resources and %d bytes were sent, of a configuration of %d bytes", c.what, n, bytes, configuration)
			}
		}
	}

	// What has changed meanwhile is all that comes.
	services[3].at[envoy.Cluster], services[5].at[envoy.Route] = 2, 2
	before := len(z.streams(s.node))
	z.stop()
	table = m.table(t, services...)
	s.set(table)
	flow.more(t, 2*len(services))
	z.start(t)
	s.untilAcked(t, table)
	untilServed(t, services...)
	var sent []string
	for _, p := range z.streams(s.node)[before:] {
		for _, r := range p.responses() {
			for _, f := range r.resources {
				sent = append(sent, f.Type.String()+" "+f.Name)
			}
		}
	}
	slices.Sort(sent)
	if want := []string{"CDS svc-03", "EDS svc-03", "RDS svc-05"}; !slices.Equal(sent, want) {
		t.Errorf("after a change during the outage came %v, want %v", sent, want)
	}
	flow.stop(t)
}

// A stream that ends at the worst moment, between a changed cluster and its endpoints, or before anything else of a change,
// does not leave Envoy waiting for what it will not ask for.
func TestPushStreamEndsInTheMiddle(t *testing.T) {
	t.Parallel()
	z, m := newZone(t), newMarket(t, 40)
	services := m.services(t, 3)
	s := z.join(t, "web", m.table(t, services...))
	untilServed(t, services...)
	flow := startTraffic(t, 1, services...)
	generation := 1
	for _, typ := range []envoy.Type{envoy.Cluster, envoy.Endpoint, envoy.Extension, envoy.Listener, envoy.Route} {
		for _, fate := range []verdict{cutBefore, cutAfter} {
			generation++
			var done atomic.Bool
			z.disturb(func(_ *tap, r *xds.Response) verdict {
				if r.Type == typ && r.Len() > 0 && done.CompareAndSwap(false, true) {
					return fate
				}
				return deliver
			})
			for i := range services {
				services[i].at = allAt(generation)
			}
			table := m.table(t, services...)
			s.set(table)
			if took := untilServed(t, services...); took > prompt {
				t.Errorf("cut %v around a response of %s: in force after %s", fate, typ, took)
			}
			s.untilAcked(t, table)
			if !done.Load() {
				t.Errorf("no response of %s was cut off", typ)
			}
		}
	}
	z.disturb(nil)
	flow.stop(t)
	for _, x := range services {
		if n := s.stat(t, "cluster."+x.name+".init_fetch_timeout"); n != 0 {
			t.Errorf("%s: %d fetch timeouts", x.name, n)
		}
	}
	if got := s.refusals(); len(got) > 0 {
		t.Errorf("refusals: %q", got)
	}
}

// The same when the whole server goes between a changed cluster and its endpoints, and nobody remembers.
func TestPushServerEndsInTheMiddle(t *testing.T) {
	t.Parallel()
	z, m := newZone(t), newMarket(t, 4)
	services := m.services(t, 3)
	s := z.join(t, "web", m.table(t, services...))
	untilServed(t, services...)
	flow := startTraffic(t, 1, services...)
	var last atomic.Bool
	z.disturb(func(_ *tap, r *xds.Response) verdict {
		if last.Load() {
			return cutBefore
		}
		if r.Type == envoy.Cluster && r.Len() > 0 {
			last.Store(true)
		}
		return deliver
	})
	services[1].at[envoy.Cluster] = 2
	table := m.table(t, services...)
	s.set(table)
	until(t, "the changed cluster left", func() (any, bool) { return nil, last.Load() })
	s.untilStat(t, warming, 1)
	z.stop()
	z.disturb(nil)
	begin := time.Now()
	z.start(t)
	untilServed(t, services...)
	t.Logf("in force after %s", time.Since(begin))
	if took := time.Since(begin); took > prompt {
		t.Errorf("in force after %s", took)
	}
	s.untilAcked(t, table)
	flow.stop(t)
}
