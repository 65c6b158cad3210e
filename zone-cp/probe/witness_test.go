package probe

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/view"
)

// workloadAlone serves an ingress behind which one name leads to a workload, and every other is closed unheard.
func workloadAlone(as tls.Certificate, name string) func(net.Conn) {
	return behind(as, name, func(net.Conn) {})
}

// hangs is workloadAlone with a control plane that takes connections and does nothing.
func hangs(as tls.Certificate, name string) func(net.Conn) {
	return behind(as, name, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
}

func behind(as tls.Certificate, name string, others func(net.Conn)) func(net.Conn) {
	return func(raw net.Conn) {
		c := &quiet{Conn: raw}
		s := tls.Server(c, &tls.Config{ClientAuth: tls.RequestClientCert, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			if h.ServerName != name {
				others(c)
				_ = c.Close()
				return nil, errors.New("closed")
			}
			return &tls.Config{Certificates: []tls.Certificate{as}, ClientAuth: tls.RequestClientCert}, nil
		}})
		_, _ = io.Copy(io.Discard, s)
		_ = c.Close()
	}
}

// A quiet connection ends without a last word: TLS would say why.
type quiet struct {
	net.Conn
	closed bool
}

func (c *quiet) Write(b []byte) (int, error) {
	if c.closed {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

func (c *quiet) Close() error {
	c.closed = true
	return c.Conn.Close()
}

// TestWhoIsBelievedWhileAControlPlaneIsSilent: a workload of the zone shows that the ingress hands connections on, and nobody else does.
func TestWhoIsBelievedWhileAControlPlaneIsSilent(t *testing.T) {
	e, w, n, stranger := newPlane(t, "east", nil), newPlane(t, "west", nil), newPlane(t, "north", nil), newPlane(t, "west", nil)
	for _, p := range []*plane{e, w, n, stranger} {
		p.identify()
	}
	e.believe(w)
	e.believe(n)
	const name = "sni.msvc.default.west.web.http"
	id := "spiffe://" + westDomain + "/workload/web"
	for _, tc := range []struct {
		what    string
		serve   func(net.Conn)
		healthy uint32
		want    outcome
	}{
		{"a workload of the zone", workloadAlone(w.forge(id), name), 1, mute},
		{"the same, and the control plane hangs", hangs(w.forge(id), name), 1, mute},
		{"one of which nothing is known", workloadAlone(w.forge(id), name), 0, failed},
		{"another zone", workloadAlone(n.forge("spiffe://"+northDomain+"/workload/web"), name), 1, failed},
		{"another zone with that name", workloadAlone(n.forge(id), name), 1, failed},
		{"another authority", workloadAlone(stranger.forge(id), name), 1, failed},
		{"nobody", func(net.Conn) {}, 1, failed},
	} {
		t.Run(tc.what, func(t *testing.T) {
			host, port := pretend(t, tc.serve)
			table := NewTable(nil)
			table.place(web, peer{"default", "west"}, "kri_msvc_default_west__web_")
			table.Observe(web, counts(tc.healthy, 2), 1)
			if r := e.asksWith(table, "west", host, port); r.outcome != tc.want || r.err == nil {
				t.Errorf("it was %s, %v; want %s", r.outcome, r.err, tc.want)
			}
		})
	}
}

// TestAZoneStaysWithoutItsControlPlane: its ingress stays in use, and counts that come through global are believed.
func TestAZoneStaysWithoutItsControlPlane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]host{}, dials: map[string]int{}}
		e, w, pr := pair(t, n, nil)
		w.put(ownService("web") + dataplane("web-1", "web", "10.0.0.1", "Ready"))
		e.put(remoteService("west", "web", "web-x"))
		within(t, pr, 7*time.Second, mesh.ReachabilityUp)
		time.Sleep(2 * time.Second)
		as := w.forge("spiffe://" + westDomain + "/workload/web")
		n.set("192.0.2.1:10001", host{workload: &as})
		stays(t, pr, 90*time.Second, mesh.ReachabilityUp)
		know := func() *view.Remote {
			synctest.Wait()
			pr.cfg.Table.mu.Lock()
			defer pr.cfg.Table.mu.Unlock()
			return pr.cfg.Table.effective(web)
		}
		if got := know(); got == nil || !got.Equal(*counts(1, 1)) {
			t.Errorf("routing knows %v, want the last counts", got)
		}
		pr.cfg.Table.Observe(web, counts(2, 3), 2<<epochShift)
		if got := know(); got == nil || !got.Equal(*counts(2, 3)) {
			t.Errorf("routing knows %v, want what came through global", got)
		}
		n.set("192.0.2.1:10001", host{plane: w})
		stays(t, pr, 10*time.Second, mesh.ReachabilityUp)
		n.set("192.0.2.1:10001", host{})
		within(t, pr, 4*time.Second, mesh.ReachabilityDown)
	})
}
