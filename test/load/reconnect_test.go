package load_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/envoy"
)

func TestWholeZoneReconnectsAtOnceAndNothingIsIssuedOrSentTwice(t *testing.T) {
	n, services := crowd, 10
	if testing.Short() {
		n = 100
	}
	w := newWorld(t)
	w.apply(identity)
	begin := time.Now()
	w.populate(n, services, nil)
	t.Logf("%d agents enrolled, with sessions and certificates, after %s", n, time.Since(begin).Round(time.Millisecond))
	w.holdTables("all are configured", upTo(n)...)
	w.acknowledged("all have acknowledged their configuration", n)
	t.Logf("all configured and acknowledged after %s: %d resources, %d MB", time.Since(begin).Round(time.Millisecond), w.fleet.Resources(), w.fleet.Bytes()>>20)
	if held := len(w.fleet.Proxy(0).Held(envoy.Cluster)); held < services {
		t.Fatalf("a proxy holds %d clusters, want at least %d services", held, services)
	}

	serials, responses := make([]string, n), make([]int, n)
	for i, a := range w.agents {
		serials[i], _ = a.Certificate()
		responses[i] = w.fleet.Proxy(i).Responses()
	}
	if got := w.signed(); got != float64(n) {
		t.Errorf("%v workload certificates were issued to %d proxies", got, n)
	}
	resources, bytes := w.fleet.Resources(), w.fleet.Bytes()
	begin = time.Now()
	for i := range n {
		w.fleet.Proxy(i).Cut()
	}
	w.until("all are back and were greeted", func() (any, bool) {
		back := 0
		for i := range n {
			if got := w.fleet.Proxy(i).Responses() - responses[i]; got >= 2 { // an answer about clusters, one about listeners
				back++
			}
		}
		return fmt.Sprintf("%d of %d", back, n), back == n
	})
	t.Logf("all back after %s", time.Since(begin).Round(time.Millisecond))
	w.acknowledged("all have acknowledged again", n)
	t.Logf("all acknowledged again after %s, with %d bytes in responses", time.Since(begin).Round(time.Millisecond), w.fleet.Bytes()-bytes)
	if got := w.fleet.Resources() - resources; got != 0 {
		t.Errorf("%d resources were sent to proxies that hold them", got)
	}
	for i, a := range w.agents {
		serial, id := a.Certificate()
		enrollments, sessions, certificates := a.Asked()
		if serial == "" || serial != serials[i] || enrollments != 1 || sessions < 2 || certificates != 1 {
			t.Fatalf("%s: certificate %s of %s, before %s; %d enrollments, %d sessions, %d signing requests",
				name(i), serial, id, serials[i], enrollments, sessions, certificates)
		}
	}
	if got := w.signed(); got != float64(n) {
		t.Errorf("%v workload certificates after the reconnect, want %d", got, n)
	}

	// The streams are good for more than greetings.
	begin = time.Now()
	w.apply(timeout(1234))
	w.until("a change reaches the first", func() (any, bool) { return nil, w.fleet.Resources() > resources })
	w.holdTables("a change reaches all", upTo(n)...)
	w.acknowledged("all have acknowledged the change", n)
	t.Logf("a change of every cluster was with all after %s", time.Since(begin).Round(time.Millisecond))
}
