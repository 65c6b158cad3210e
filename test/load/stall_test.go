package load_test

import (
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/test/load"
)

// TestReaderWithoutTCPWindowDelaysNobody compares a zone whose proxies all read with the same zone while one leaves its socket unread.
func TestReaderWithoutTCPWindowDelaysNobody(t *testing.T) {
	const n, services, changes, lazy = 50, 10, 20, 0
	valve := load.NewValve()
	w := newWorld(t)
	w.apply(identity)
	w.populate(n, services, map[int]*load.Valve{lazy: valve})
	w.holdTables("all are configured", upTo(n)...)
	others := upTo(n)[1:]
	round := 0
	push := func() time.Duration {
		t.Helper()
		begin := time.Now()
		for range changes {
			round++
			before := w.fleet.Proxy(others[0]).Held(envoy.Cluster)
			w.apply(timeout(1000 + round))
			w.until("the change is computed", func() (any, bool) {
				return nil, w.table(others[0])[envoy.Cluster][clusterOf(before)] != before[clusterOf(before)]
			})
			w.holdTables("the others have the change", others...)
		}
		return time.Since(begin)
	}
	push() // the first changes find cold caches
	all := push()
	w.holdTables("the last proxy has the changes", lazy)

	valve.Stall()
	had, read := w.fleet.Proxy(lazy).Responses(), valve.Read()
	seen := w.fleet.Proxy(lazy).Held(envoy.Cluster)
	beside := push()
	t.Logf("%d changes to %d proxies: %s when all read, %s beside one that does not", changes, n-1, all.Round(time.Millisecond), beside.Round(time.Millisecond))
	// The machine is shared, so the bound is generous; whoever waited for the unread socket would wait until it is given up.
	if limit := 4*all + 2*time.Second; beside > limit {
		t.Errorf("%d changes took %s beside a stalled proxy and %s without", changes, beside, all)
	}
	if got := valve.Read(); got != read {
		t.Errorf("the stalled proxy read %d bytes", got-read)
	}
	if got := w.fleet.Proxy(lazy).Held(envoy.Cluster)[clusterOf(seen)]; got != seen[clusterOf(seen)] {
		t.Error("the stalled proxy has a change")
	}

	valve.Resume()
	took := w.holdTables("the stalled proxy has the newest state", lazy)
	// What was on the way, at most one response of each type, and then the difference to the newest state.
	got := w.fleet.Proxy(lazy).Responses() - had
	t.Logf("the stalled proxy has the newest state after %s and %d responses", took.Round(time.Millisecond), got)
	if most := 4 * int(envoy.NumTypes); got > most {
		t.Errorf("it got %d responses for %d changes, want at most %d: not every state on the way", got, changes, most)
	}
}

// clusterOf picks a cluster that follows connection timeouts.
func clusterOf(held map[string]string) (first string) {
	for name := range held {
		if len(name) > 4 && name[:4] == "kri_" && (first == "" || name < first) {
			first = name
		}
	}
	return first
}
