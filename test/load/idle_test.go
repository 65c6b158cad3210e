package load_test

import (
	"runtime/pprof"
	"strings"
	"testing"
)

// TestIdleAgentIsFiveGoroutines counts what a connected agent and its proxy keep running in the zone: three of gRPC's transport, and one for each
// of the two streams.
func TestIdleAgentIsFiveGoroutines(t *testing.T) {
	const n, services = 50, 10
	w := newWorld(t)
	w.apply(identity)
	before := zoneGoroutines(t)
	w.populate(n, services, nil)
	w.holdTables("all are configured", upTo(n)...)
	w.apply(timeout(1234)) // so that everybody was woken at least once
	w.holdTables("all have a change", upTo(n)...)
	w.until("there are five goroutines for each agent", func() (any, bool) { // those that send end a moment after they have
		now, more := zoneGoroutines(t), map[string]int{}
		for kind, c := range now {
			if c -= before[kind]; c != 0 {
				more[kind] = c
			}
		}
		return more, more["transport"] == 3*n && more["stream"] == 2*n && more["of the zone"] == 0
	})
}

// zoneGoroutines counts the goroutines of a zone in this process, and none of its clients, by what they do.
func zoneGoroutines(t *testing.T) map[string]int {
	t.Helper()
	var b strings.Builder
	if err := pprof.Lookup("goroutine").WriteTo(&b, 2); err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for g := range strings.SplitSeq(b.String(), "\n\n") {
		switch {
		case strings.Contains(g, "transport.NewServerTransport") || strings.Contains(g, "grpc.(*Server).handleRawConn"):
			out["transport"]++
		case strings.Contains(g, "zone-cp/solo.React"):
			out["stream"]++
		case strings.Contains(g, "grpc.(*Server)") || strings.Contains(g, "causeway/zone-cp/"):
			out["of the zone"]++
		}
	}
	return out
}
