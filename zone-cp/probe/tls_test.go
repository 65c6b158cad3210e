package probe

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/pki"
	"github.com/causeway-mesh/causeway/zone-cp/identity"
)

// asks makes an attempt of a zone at an address on loopback, as its prober does.
func (p *plane) asks(zone, host, port string) result {
	p.t.Helper()
	return p.asksWith(NewTable(nil), zone, host, port)
}

func (p *plane) asksWith(table *Table, zone, host, port string) result {
	p.t.Helper()
	pr := New(Config{
		Zone: p.zone, Catalog: p.catalog, Authority: p.authority, Table: table, AllowLocalAddresses: true, Timeout: 2 * time.Second,
	})
	n, err := strconv.ParseUint(port, 10, 32)
	if err != nil {
		p.t.Fatal(err)
	}
	r := pr.attempt(p.t.Context(), job{peer: peer{"default", zone}, host: host, port: uint32(n), ask: Request{Version: Version, Zone: p.zone}})
	p.t.Cleanup(r.hangUp)
	return r
}

// forge signs a certificate with the authority of a zone's mesh, as somebody who has its key could.
func (p *plane) forge(id string) tls.Certificate {
	p.t.Helper()
	data := func(name string) []byte {
		r, ok := p.catalog.Snapshot().Get(key(mesh.TypeSecret, name))
		if !ok {
			p.t.Fatalf("no secret %s", name)
		}
		return r.Spec.(*mesh.Secret).Data
	}
	issuer, err := pki.ParseIssuer(data("identity-root-ca"), data("identity-private-key"), true, time.Now())
	if err != nil {
		p.t.Fatal(err)
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	leaf, err := issuer.Sign(k.Public(), id, time.Hour, time.Now())
	if err != nil {
		p.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: k}
}

// pretend serves something else than a control plane.
func pretend(t *testing.T, serve func(net.Conn)) (host, port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				stop := context.AfterFunc(t.Context(), func() { _ = c.Close() })
				defer stop()
				serve(c)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	host, port, _ = net.SplitHostPort(l.Addr().String())
	return host, port
}

const westDomain, northDomain = "default.west.mesh.local", "default.north.mesh.local"

// TestOnlyTheControlPlaneOfTheZoneIsBelieved has east ask at an ingress of west behind which somebody else answers.
func TestOnlyTheControlPlaneOfTheZoneIsBelieved(t *testing.T) {
	e, w, n, stranger := newPlane(t, "east", nil), newPlane(t, "west", nil), newPlane(t, "north", nil), newPlane(t, "west", nil)
	for _, p := range []*plane{e, w, n, stranger} {
		p.identify()
	}
	e.believe(w)
	e.believe(n)
	w.believe(e)
	host, port, _ := w.listen()
	if r := e.asks("west", host, port); r.outcome != well || r.replies[0].Instance != "west-1" || r.took <= 0 {
		t.Errorf("west is %s, %v", r.outcome, r.err)
	}
	for _, tc := range []struct {
		name string
		cert tls.Certificate
		want string
	}{
		{"another authority with the same names", stranger.forge(mesh.ControlPlaneID(westDomain)), "does not verify it"},
		{"an authority that is trusted for another domain", n.forge(mesh.ControlPlaneID(westDomain)), "does not verify it"},
		{"the control plane of another zone", n.forge(mesh.ControlPlaneID(northDomain)), "does not belong to zone west"},
		{"a domain that nobody knows", w.forge(mesh.ControlPlaneID("elsewhere.example")), "no MeshTrust of mesh default holds a bundle of trust domain"},
		{"a workload", w.forge("spiffe://" + westDomain + "/workload/web"), "/workload/web"},
		{"a workload with a longer path", w.forge(mesh.ControlPlaneID(westDomain) + "/x"), "control-plane/x"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			host, port := pretend(t, func(c net.Conn) {
				s := tls.Server(c, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{tc.cert}, ClientAuth: tls.RequestClientCert})
				_, _ = io.Copy(io.Discard, s)
			})
			r := e.asks("west", host, port)
			if r.outcome != failed || !errors.Is(r.err, identity.ErrUntrusted) || !strings.Contains(r.err.Error(), tc.want) {
				t.Errorf("it was %s, %v", r.outcome, r.err)
			}
		})
	}
}

// TestWhoAsksShowsWhoItIs has others than control planes ask west.
func TestWhoAsksShowsWhoItIs(t *testing.T) {
	e, w, stranger := newPlane(t, "east", nil), newPlane(t, "west", nil), newPlane(t, "east", nil)
	for _, p := range []*plane{e, w, stranger} {
		p.identify()
	}
	w.believe(e)
	host, port, _ := w.listen()
	const eastDomain = "default.east.mesh.local"
	ask := func(name string, certs ...tls.Certificate) error {
		c, err := tls.Dial("tcp", net.JoinHostPort(host, port), &tls.Config{MinVersion: tls.VersionTLS13, ServerName: name, Certificates: certs, InsecureSkipVerify: true})
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if err := writeFrame(c, Request{Version: 1, Zone: "east"}, maxRequest); err != nil {
			return err
		}
		var r Reply
		return readFrame(c, &r, maxReply)
	}
	sni := mesh.HealthSNI("default", "west")
	if err := ask(sni, e.forge(mesh.ControlPlaneID(eastDomain))); err != nil {
		t.Errorf("the control plane of east: %v", err)
	}
	for name, err := range map[string]error{
		"nobody":                       ask(sni),
		"a workload":                   ask(sni, e.forge("spiffe://"+eastDomain+"/workload/web")),
		"another authority":            ask(sni, stranger.forge(mesh.ControlPlaneID(eastDomain))),
		"east in the name of west":     ask(sni, e.forge(mesh.ControlPlaneID(westDomain))),
		"a mesh that is not there":     ask(mesh.HealthSNI("other", "west"), e.forge(mesh.ControlPlaneID(eastDomain))),
		"another zone":                 ask(mesh.HealthSNI("default", "east"), e.forge(mesh.ControlPlaneID(eastDomain))),
		"no server name":               ask("", e.forge(mesh.ControlPlaneID(eastDomain))),
		"the name of a service's port": ask("sni.msvc.default.west.web.http", e.forge(mesh.ControlPlaneID(eastDomain))),
	} {
		var op *net.OpError
		if !errors.As(err, &op) || op.Op != remoteAlert {
			t.Errorf("%s: got %v, want to be told no", name, err)
		}
	}
}

// TestClocksAnHourApart: a fresh certificate of the zone that is ahead is not valid yet in the other, so neither can judge the other's
// ingress. Nobody is called down for that, and it passes when the certificates are older than the difference.
func TestClocksAnHourApart(t *testing.T) {
	for _, ahead := range []time.Duration{time.Hour, -time.Hour, 9 * time.Minute, -9 * time.Minute} {
		t.Run(ahead.String(), func(t *testing.T) {
			var later time.Duration
			var mu sync.Mutex
			clock := func(offset time.Duration) func() time.Time {
				return func() time.Time {
					mu.Lock()
					defer mu.Unlock()
					return time.Now().Add(offset + later)
				}
			}
			e, w := newPlane(t, "east", clock(0)), newPlane(t, "west", clock(ahead))
			e.identify()
			w.identify()
			e.believe(w)
			w.believe(e)
			eHost, ePort, _ := e.listen()
			wHost, wPort, _ := w.listen()
			want := unjudged
			if ahead.Abs() < pki.Backdate {
				want = well
			}
			for _, r := range []result{e.asks("west", wHost, wPort), w.asks("east", eHost, ePort)} {
				if r.outcome != want {
					t.Errorf("got %s, %v, want %s", r.outcome, r.err, want)
				}
			}
			mu.Lock()
			later = 55 * time.Minute
			mu.Unlock()
			for _, r := range []result{e.asks("west", wHost, wPort), w.asks("east", eHost, ePort)} {
				if r.outcome != well {
					t.Errorf("55 minutes later: got %s, %v", r.outcome, r.err)
				}
			}
		})
	}
}

// TestAnswersThatAreNone has west's own control plane misbehave.
func TestAnswersThatAreNone(t *testing.T) {
	e, w := newPlane(t, "east", nil), newPlane(t, "west", nil)
	e.identify()
	w.identify()
	e.believe(w)
	cert := w.forge(mesh.ControlPlaneID(westDomain))
	good := Reply{Version: 1, Zone: "west", Mesh: "default", Instance: "a", Sequence: 1}
	for _, tc := range []struct {
		name, want string
		answer     func(net.Conn)
	}{
		{"nothing", "i/o timeout", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }},
		{"it hangs up", "closed without an answer", func(net.Conn) {}},
		{"a byte at a time", "i/o timeout", func(c net.Conn) {
			_, _ = c.Write(binary.BigEndian.AppendUint32(nil, maxReply))
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for range tick.C {
				if _, err := c.Write([]byte(" ")); err != nil {
					return
				}
			}
		}},
		{"far too much", "1073741824 bytes", func(c net.Conn) { _, _ = c.Write(binary.BigEndian.AppendUint32(nil, 1<<30)) }},
		{"less than promised", "unexpected EOF", func(c net.Conn) { _, _ = c.Write(append(binary.BigEndian.AppendUint32(nil, 100), '{')) }},
		{"noise", "frame: ", func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }},
		{"another zone's answer", `zone "north"`, func(c net.Conn) { r := good; r.Zone = "north"; _ = writeFrame(c, r, maxReply) }},
		{"a newer version without what is known", "has no version", func(c net.Conn) { _ = writeFrame(c, struct{ V int }{9}, maxReply) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			host, port := pretend(t, func(raw net.Conn) {
				c := tls.Server(raw, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert})
				var q Request
				if err := readFrame(c, &q, maxRequest); err != nil || q.Zone != "east" {
					t.Errorf("question %+v, %v", q, err)
				}
				tc.answer(c)
				_ = c.CloseWrite()
			})
			start := time.Now()
			r := e.asks("west", host, port)
			if r.outcome != failed || !strings.Contains(fmt.Sprint(r.err), tc.want) || time.Since(start) > 4*time.Second {
				t.Errorf("it was %s after %s, %v", r.outcome, time.Since(start), r.err)
			}
		})
	}
	t.Run("never an end", func(t *testing.T) {
		host, port := pretend(t, func(raw net.Conn) {
			c := tls.Server(raw, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert})
			for i := uint64(1); ; i++ {
				var q Request
				if readFrame(c, &q, maxRequest) != nil {
					return
				}
				r := good
				r.Sequence, r.More = i, true
				r.Services = []ServiceCounts{{KRI: webKRI, Sequence: i}}
				if writeFrame(c, r, maxReply) != nil {
					return
				}
			}
		})
		if r := e.asks("west", host, port); r.outcome != well || len(r.replies) != maxPages {
			t.Errorf("it was %s with %d answers, %v", r.outcome, len(r.replies), r.err)
		}
	})
	t.Run("no TLS", func(t *testing.T) {
		host, port := pretend(t, func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.9\r\n") })
		if r := e.asks("west", host, port); r.outcome != failed {
			t.Errorf("it was %s, %v", r.outcome, r.err)
		}
	})
	t.Run("nobody there", func(t *testing.T) {
		_, port, stop := w.listen()
		stop()
		if r := e.asks("west", "127.0.0.1", port); r.outcome != failed || !strings.Contains(r.err.Error(), "refused") {
			t.Errorf("it was %s, %v", r.outcome, r.err)
		}
	})
}

// TestAResponderIsBounded has clients that are slow, that do not read, and that are too many.
func TestAResponderIsBounded(t *testing.T) {
	e, w := newPlane(t, "east", nil), newPlane(t, "west", nil)
	e.identify()
	w.identify()
	w.believe(e)
	e.believe(w)
	var text strings.Builder
	for i := range maxServices {
		text.WriteString(ownService(fmt.Sprint("a-service-with-a-name-of-some-length-", i)))
	}
	w.put(text.String())
	w.responder = NewResponder(ResponderConfig{
		Zone: "west", Authority: w.authority, Local: w.local,
		Timeout: 500 * time.Millisecond, Idle: time.Second, MaxHandshakes: 3, MaxPerPeer: 2,
	})
	host, port, stop := w.listen()
	address := net.JoinHostPort(host, port)
	cert := e.forge(mesh.ControlPlaneID("default.east.mesh.local"))
	dial := func(t *testing.T) *tls.Conn {
		c, err := tls.Dial("tcp", address, &tls.Config{
			MinVersion: tls.VersionTLS13, ServerName: mesh.HealthSNI("default", "west"), Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.NetConn().Close() })
		return c
	}
	ended := func(t *testing.T, what string, c net.Conn) {
		t.Helper()
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, c); isTimeout(err) {
			t.Errorf("%s: still open after 10s", what)
		}
	}
	t.Run("who says nothing", func(t *testing.T) {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		ended(t, "no handshake", c)
		ended(t, "no question", dial(t))
	})
	t.Run("who does not read", func(t *testing.T) {
		c := dial(t)
		_ = c.SetWriteDeadline(time.Now().Add(20 * time.Second))
		var err error
		for n := 0; err == nil && n < 1_000_000; n++ {
			err = writeFrame(c, Request{Version: 1, Zone: "east"}, maxRequest)
		}
		if err == nil || isTimeout(err) {
			t.Errorf("it was not cut: %v", err)
		}
	})
	t.Run("who asks too much", func(t *testing.T) {
		c := dial(t)
		_, _ = c.Write(binary.BigEndian.AppendUint32(nil, maxRequest+1))
		ended(t, "a long question", c)
	})
	t.Run("too many strangers", func(t *testing.T) {
		for range 20 {
			c, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
		}
		if r := e.asks("west", host, port); r.outcome != well {
			t.Errorf("an honest one is not served: %v", r.err)
		}
	})
	t.Run("too many of one zone", func(t *testing.T) {
		var served, refused int
		for range 4 {
			c := dial(t)
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			err := writeFrame(c, Request{Version: 1, Zone: "east"}, maxRequest)
			var r Reply
			if err == nil {
				err = readFrame(c, &r, maxReply)
			}
			if err == nil {
				served++
			} else {
				refused++
			}
		}
		if served == 0 || served > 2 || refused < 2 {
			t.Errorf("%d were served and %d refused, want at most 2 served", served, refused)
		}
	})
	stop()
	if w.responder.open != 0 || len(w.responder.peers) != 0 || w.responder.handshakes.Len() != 0 {
		t.Errorf("after the end %d are open, %v, and %d shake hands", w.responder.open, w.responder.peers, w.responder.handshakes.Len())
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}
