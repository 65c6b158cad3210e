package dns

import (
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/miekg/dns"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api/agentapi"
)

var quiet = slog.New(slog.DiscardHandler)

// writer keeps the reply of a handler.
type writer struct {
	dns.ResponseWriter
	remote net.Addr
	packed []byte
	err    error
}

func (w *writer) RemoteAddr() net.Addr { return w.remote }

func (w *writer) WriteMsg(m *dns.Msg) error {
	w.packed, w.err = m.Pack()
	return w.err
}

// FuzzQuery gives the server whatever a client may send: it answers with something that can be read and is not too large.
func FuzzQuery(f *testing.F) {
	for _, name := range []string{"web.svc.mesh.local.", "nope.mesh.local.", "1.0.0.241.in-addr.arpa.", ".", "www.example."} {
		for _, typ := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypePTR, dns.TypeANY, dns.TypeSOA} {
			q := new(dns.Msg)
			q.SetQuestion(name, typ)
			b, err := q.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b, true)
			q.SetEdns0(1232, true)
			if b, err = q.Pack(); err != nil {
				f.Fatal(err)
			}
			f.Add(b, false)
		}
	}
	s := &Server{cfg: Config{Log: quiet}, ready: make(chan struct{}), forwarder: newForwarder(Config{ResolvConf: filepath.Join(f.TempDir(), "none"), Log: quiet})}
	if err := s.Apply(names("1", "", "web.svc.mesh.local=241.0.0.1,fd00::1")); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte, udp bool) {
		q := new(dns.Msg)
		if q.Unpack(b) != nil || q.Response {
			return // the library does not hand it on
		}
		w := &writer{remote: &net.TCPAddr{}}
		if udp {
			w.remote = &net.UDPAddr{}
		}
		s.ServeDNS(w, q)
		if w.err != nil {
			// A question that can be read but not written again has no answer either.
			if _, err := q.Pack(); err == nil {
				t.Fatalf("the answer to %v cannot be sent: %v", q, w.err)
			}
			return
		}
		var m dns.Msg
		if err := m.Unpack(w.packed); err != nil {
			t.Fatalf("the answer to %v cannot be read: %v", q, err)
		}
		if udp && len(w.packed) > maxAnswerUDP {
			t.Fatalf("the answer has %d bytes", len(w.packed))
		}
		if m.Id != q.Id || !m.Response {
			t.Fatalf("not the answer to %v: %v", q, m)
		}
	})
}

// FuzzNames gives the agent whatever a zone may send.
func FuzzNames(f *testing.F) {
	for _, m := range []*agentapi.Names{names("1", "", "web.mesh.local=241.0.0.1"), names("2", "1"), {Version: "3", More: true, Removed: []string{"x"}}} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, b)
	}
	f.Fuzz(func(t *testing.T, one, two []byte) {
		s := &Server{cfg: Config{Log: quiet, Block: netip.MustParsePrefix("127.7.0.0/16")}, ready: make(chan struct{}), forwarder: newForwarder(Config{Log: quiet})}
		for _, b := range [][]byte{one, two, one} {
			var m agentapi.Names
			if proto.Unmarshal(b, &m) != nil {
				return
			}
			before := s.Version()
			if err := s.Apply(&m); err != nil && s.Version() != before {
				t.Fatalf("a message that was refused counts: %v", err)
			}
			for name := range s.names.Load().all() {
				if got, ok := hostname(name); !ok || got != name {
					t.Fatalf("%q became a name", name)
				}
			}
		}
	})
}

func (t *table) all() map[string][]netip.Addr {
	if t == nil {
		return nil
	}
	return t.hosts
}

// FuzzHostConfig reads whatever stands in a resolv.conf.
func FuzzHostConfig(f *testing.F) {
	f.Add([]byte("nameserver 192.0.2.1\nsearch a.example b.example\noptions timeout:3"))
	f.Add([]byte("nameserver fe80::1%eth0\ndomain x."))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := parseHostConfig(b)
		if len(c.servers) > maxUpstreams || len(c.search) > maxSearch || c.timeout <= 0 {
			t.Fatalf("%+v", c)
		}
		for _, s := range c.search {
			if _, ok := hostname(s); !ok {
				t.Fatalf("%q became a domain", s)
			}
		}
	})
}
