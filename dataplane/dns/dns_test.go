package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/test/ports"
)

// server runs a server and gives the address that it answers on.
func server(t *testing.T, cfg Config) (*Server, string) {
	t.Helper()
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = filepath.Join(t.TempDir(), "none")
	}
	at := netip.MustParseAddrPort(ports.FreeAddress(t, "127.0.0.1"))
	cfg.Addresses = []netip.AddrPort{at}
	s, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s, at.String()
}

// upstream is another server, which counts what it is asked.
type upstream struct {
	at netip.AddrPort

	mu    sync.Mutex
	asked map[string]int // by network and question
	reply func(network string, q *dns.Msg) *dns.Msg
}

func newUpstream(t *testing.T, reply func(network string, q *dns.Msg) *dns.Msg) *upstream {
	t.Helper()
	u := &upstream{at: netip.MustParseAddrPort(ports.FreeAddress(t, "127.0.0.1")), asked: map[string]int{}, reply: reply}
	for _, network := range []string{"udp", "tcp"} {
		started, ended := make(chan struct{}), make(chan struct{})
		srv := &dns.Server{Addr: u.at.String(), Net: network, NotifyStartedFunc: func() { close(started) }}
		srv.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			u.mu.Lock()
			u.asked[network+" "+q.Question[0].Name+" "+dns.TypeToString[q.Question[0].Qtype]]++
			u.mu.Unlock()
			if m := u.reply(network, q); m != nil {
				_ = w.WriteMsg(m)
			}
		})
		go func() {
			defer close(ended)
			if err := srv.ListenAndServe(); err != nil {
				t.Error(err)
			}
		}()
		<-started
		t.Cleanup(func() { _ = srv.Shutdown(); <-ended })
	}
	return u
}

func (u *upstream) count(question string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.asked[question]
}

func (u *upstream) total() (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, c := range u.asked {
		n += c
	}
	return n
}

func rr(t *testing.T, text string) dns.RR {
	t.Helper()
	r, err := dns.NewRR(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// example answers every name with one address.
func example(t *testing.T) func(string, *dns.Msg) *dns.Msg {
	return func(_ string, q *dns.Msg) *dns.Msg {
		m := new(dns.Msg)
		m.SetReply(q)
		m.Answer = []dns.RR{rr(t, q.Question[0].Name+" 300 IN A 192.0.2.1")}
		return m
	}
}

func names(version, from string, list ...string) *agentapi.Names {
	m := &agentapi.Names{Version: version, From: from, Domains: []string{"mesh.local"}}
	for _, s := range list {
		name, ips, _ := strings.Cut(s, "=")
		r := &agentapi.NameRecord{Name: name}
		for ip := range strings.SplitSeq(ips, ",") {
			if ip != "" {
				r.Addresses = append(r.Addresses, netip.MustParseAddr(ip).AsSlice())
			}
		}
		m.Records = append(m.Records, r)
	}
	return m
}

func apply(t *testing.T, s *Server, m *agentapi.Names) {
	t.Helper()
	if err := s.Apply(m); err != nil {
		t.Fatal(err)
	}
}

func ask(t *testing.T, at, network, name string, typ uint16, edit ...func(*dns.Msg)) *dns.Msg {
	t.Helper()
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), typ)
	for _, e := range edit {
		e(q)
	}
	c := &dns.Client{Net: network, Timeout: 20 * time.Second, UDPSize: dns.MaxMsgSize}
	m, _, err := c.Exchange(q, at)
	if err != nil {
		t.Fatalf("%s %s over %s: %v", name, dns.TypeToString[typ], network, err)
	}
	return m
}

// short is an answer in one line.
func short(m *dns.Msg) string {
	out := dns.RcodeToString[m.Rcode]
	for _, r := range m.Answer {
		out += " " + strings.Join(strings.Fields(r.String())[3:], " ")
	}
	if len(m.Answer) == 0 && len(m.Ns) > 0 {
		out += " (" + dns.TypeToString[m.Ns[0].Header().Rrtype] + " " + m.Ns[0].Header().Name + ")"
	}
	return out
}

func TestNamesOfTheMesh(t *testing.T) {
	up := newUpstream(t, example(t))
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 192.0.2.53\nsearch corp.example Svc.mesh.local.\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, at := server(t, Config{Upstreams: []netip.AddrPort{up.at}, ResolvConf: conf})
	apply(t, s, names("1", "", "web.svc.mesh.local=241.0.0.1", "db.svc.east.mesh.local=241.0.0.2,fd00::2", "Shop.example=241.0.0.3"))
	for _, c := range []struct {
		name string
		typ  uint16
		want string
	}{
		{"web.svc.mesh.local", dns.TypeA, "NOERROR A 241.0.0.1"},
		{"WEB.svc.Mesh.local", dns.TypeA, "NOERROR A 241.0.0.1"},
		{"web.svc.mesh.local", dns.TypeAAAA, "NOERROR (SOA web.svc.mesh.local.)"},
		{"web.svc.mesh.local", dns.TypeMX, "NOERROR (SOA web.svc.mesh.local.)"},
		{"web.svc.mesh.local", dns.TypeHTTPS, "NOERROR (SOA web.svc.mesh.local.)"},
		{"db.svc.east.mesh.local", dns.TypeA, "NOERROR A 241.0.0.2"},
		{"db.svc.east.mesh.local", dns.TypeAAAA, "NOERROR AAAA fd00::2"},
		{"db.svc.east.mesh.local", dns.TypeANY, "NOERROR A 241.0.0.2 AAAA fd00::2"},
		{"shop.example", dns.TypeA, "NOERROR A 241.0.0.3"},
		// What does not exist, and what has others below it.
		{"nope.svc.mesh.local", dns.TypeA, "NXDOMAIN (SOA mesh.local.)"},
		{"east.mesh.local", dns.TypeA, "NOERROR (SOA mesh.local.)"},
		{"mesh.local", dns.TypeA, "NOERROR (SOA mesh.local.)"},
		{"mesh.local", dns.TypeSOA, "NOERROR SOA ns.mesh.local. hostmaster.mesh.local. 1 3600 600 86400 5"},
		// A resolver adds its search domains to names with few dots, or to all that end without one.
		{"web.svc.mesh.local.corp.example", dns.TypeA, "NOERROR A 241.0.0.1"},
		{"web.svc.mesh.local.corp.example", dns.TypeAAAA, "NOERROR (SOA web.svc.mesh.local.corp.example.)"},
		{"nope.svc.mesh.local.corp.example", dns.TypeA, "NXDOMAIN (SOA nope.svc.mesh.local.corp.example.)"},
		{"web.svc.mesh.local.svc.mesh.local", dns.TypeA, "NOERROR A 241.0.0.1"},
		// Back.
		{"1.0.0.241.in-addr.arpa", dns.TypePTR, "NOERROR PTR web.svc.mesh.local."},
		{"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", dns.TypePTR, "NOERROR PTR db.svc.east.mesh.local."},
	} {
		for _, network := range []string{"udp", "tcp"} {
			m := ask(t, at, network, c.name, c.typ)
			if got := short(m); got != c.want {
				t.Errorf("%s %s over %s: %s, want %s", c.name, dns.TypeToString[c.typ], network, got, c.want)
			}
			if len(m.Answer) > 0 && c.typ != dns.TypePTR && m.Answer[0].Header().Name != dns.Fqdn(c.name) {
				t.Errorf("%s is answered as %s", c.name, m.Answer[0].Header().Name)
			}
		}
	}
	if n := up.total(); n > 0 {
		t.Errorf("another server was asked %d times: %v", n, up.asked)
	}
	if got := short(ask(t, at, "udp", "www.shop.example", dns.TypeA)); got != "NOERROR A 192.0.2.1" {
		t.Errorf("a name below one of the mesh, outside of its domains: %s", got)
	}
}

// Where the traffic of the workload is not redirected, names lead to the addresses that the proxy binds.
func TestNamesOnABlock(t *testing.T) {
	s, at := server(t, Config{Block: netip.MustParsePrefix("127.7.0.0/16")})
	apply(t, s, names("1", "", "web.svc.mesh.local=241.3.192.9,fd00::2"))
	for typ, want := range map[uint16]string{dns.TypeA: "NOERROR A 127.7.192.9", dns.TypeAAAA: "NOERROR (SOA web.svc.mesh.local.)"} {
		if got := short(ask(t, at, "udp", "web.svc.mesh.local", typ)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestNamesChange(t *testing.T) {
	up := newUpstream(t, example(t))
	s, at := server(t, Config{Upstreams: []netip.AddrPort{up.at}})
	lookup := func(name string) string { return short(ask(t, at, "udp", name, dns.TypeA)) }
	if got := lookup("web.mesh.local"); got != "SERVFAIL" {
		t.Errorf("before the names are known: %s", got)
	}
	if got := lookup("www.example"); got != "NOERROR A 192.0.2.1" {
		t.Errorf("before the names are known, another: %s", got)
	}
	select {
	case <-s.Ready():
		t.Error("it is ready before it knows names")
	default:
	}
	apply(t, s, names("1", "", "web.mesh.local=241.0.0.1", "db.mesh.local=241.0.0.2"))
	<-s.Ready()
	next := names("2", "1", "db.mesh.local=241.0.0.3")
	next.Removed, next.More = []string{"web.mesh.local"}, true
	apply(t, s, next)
	if got := lookup("db.mesh.local"); got != "NOERROR A 241.0.0.2" || s.Version() != "1" {
		t.Errorf("half of a version counts: %s, %s", got, s.Version())
	}
	apply(t, s, names("2", "1", "mail.mesh.local=241.0.0.4"))
	for name, want := range map[string]string{
		"web.mesh.local": "NXDOMAIN (SOA mesh.local.)", "db.mesh.local": "NOERROR A 241.0.0.3", "mail.mesh.local": "NOERROR A 241.0.0.4",
	} {
		if got := lookup(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if err := s.Apply(names("4", "3", "x.mesh.local=241.0.0.9")); !errors.Is(err, ErrOutOfStep) {
		t.Errorf("a change of names that are not held: %v", err)
	}
	apply(t, s, names("5", "", "new.mesh.local=241.0.0.5"))
	if got := lookup("db.mesh.local"); got != "NXDOMAIN (SOA mesh.local.)" || s.Version() != "5" {
		t.Errorf("after all names were replaced: %s, %s", got, s.Version())
	}
	strange := names("6", "", "new.mesh.local=241.0.0.5")
	strange.Records = append(strange.Records, &agentapi.NameRecord{Name: strings.Repeat("a", 300)}, &agentapi.NameRecord{Name: "short.mesh.local", Addresses: [][]byte{{1, 2}}})
	apply(t, s, strange)
	if got := lookup("short.mesh.local"); got != "NOERROR (SOA short.mesh.local.)" {
		t.Errorf("a name whose address cannot be read: %s", got)
	}
}

// A zone that sends no names leaves the agent with what other servers say, and does not keep it from being ready.
func TestWithoutNames(t *testing.T) {
	up := newUpstream(t, example(t))
	s, at := server(t, Config{Upstreams: []netip.AddrPort{up.at}})
	s.Without()
	s.Without()
	<-s.Ready()
	if got := short(ask(t, at, "udp", "web.mesh.local", dns.TypeA)); got != "NOERROR A 192.0.2.1" {
		t.Errorf("got %s", got)
	}
	apply(t, s, names("1", "", "web.mesh.local=241.0.0.1")) // it was upgraded
	if got := short(ask(t, at, "udp", "web.mesh.local", dns.TypeA)); got != "NOERROR A 241.0.0.1" {
		t.Errorf("got %s", got)
	}
}

func TestQueriesThatAreNone(t *testing.T) {
	s, at := server(t, Config{})
	apply(t, s, names("1", ""))
	for want, edit := range map[int]func(*dns.Msg){
		dns.RcodeNotImplemented: func(q *dns.Msg) { q.Opcode = dns.OpcodeNotify },
		dns.RcodeFormatError:    func(q *dns.Msg) { q.Question = append(q.Question, q.Question[0]) },
		dns.RcodeRefused:        func(q *dns.Msg) { q.Question[0].Qtype = dns.TypeAXFR },
		dns.RcodeBadVers:        func(q *dns.Msg) { q.SetEdns0(1232, false); q.IsEdns0().SetVersion(1) },
		dns.RcodeServerFailure:  func(*dns.Msg) {}, // nobody to ask
	} {
		if m := ask(t, at, "tcp", "www.example", dns.TypeA, edit); m.Rcode != want {
			t.Errorf("got %s, want %s", dns.RcodeToString[m.Rcode], dns.RcodeToString[want])
		}
	}
}

// An answer is kept for its time; so is a no. Who asks for it, and how it is spelled, is nobody else's business.
func TestAnswersAreKept(t *testing.T) {
	up := newUpstream(t, func(_ string, q *dns.Msg) *dns.Msg {
		m := new(dns.Msg)
		m.SetReply(q)
		name := q.Question[0].Name
		switch {
		case strings.HasPrefix(name, "no."):
			m.Rcode, m.Ns = dns.RcodeNameError, []dns.RR{rr(t, "example. 900 IN SOA ns.example. host.example. 1 2 3 4 600")}
		case strings.HasPrefix(name, "brief."):
			m.Answer = []dns.RR{rr(t, name+" 0 IN A 192.0.2.7")}
		case strings.HasPrefix(name, "broken."):
			m.Rcode = dns.RcodeServerFailure
		case q.Question[0].Qtype == dns.TypeAAAA:
			m.Ns = []dns.RR{rr(t, "example. 20 IN SOA ns.example. host.example. 1 2 3 4 600")}
		default:
			m.Answer = []dns.RR{rr(t, name+" 300 IN CNAME other.example."), rr(t, "other.example. 100000 IN A 192.0.2.1")}
		}
		return m
	})
	_, at := server(t, Config{Upstreams: []netip.AddrPort{up.at}})
	for range 3 {
		for name, want := range map[string]string{
			"www.example":    "NOERROR CNAME other.example. A 192.0.2.1",
			"WWW.example":    "NOERROR CNAME other.example. A 192.0.2.1",
			"no.example":     "NXDOMAIN (SOA example.)",
			"brief.example":  "NOERROR A 192.0.2.7",
			"broken.example": "SERVFAIL",
		} {
			m := ask(t, at, "udp", name, dns.TypeA)
			if got := short(m); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
			if len(m.Answer) > 0 && m.Answer[0].Header().Name != dns.Fqdn(name) {
				t.Errorf("%s is answered as %s", name, m.Answer[0].Header().Name)
			}
		}
		if got := short(ask(t, at, "udp", "www.example", dns.TypeAAAA)); got != "NOERROR (SOA example.)" {
			t.Errorf("no address of that family: %s", got)
		}
	}
	for question, want := range map[string]int{
		"udp www.example. A": 1, "udp www.example. AAAA": 1, "udp no.example. A": 1, "udp brief.example. A": 3, "udp broken.example. A": 3 * rounds,
	} {
		if got := up.count(question); got != want {
			t.Errorf("%s was asked %d times, want %d", question, got, want)
		}
	}
}

func TestLifetimes(t *testing.T) {
	now := time.Unix(1e9, 0)
	c := newCache(func() time.Time { return now })
	answer := func(ttl int) *dns.Msg {
		m := new(dns.Msg)
		m.Answer = []dns.RR{rr(t, fmt.Sprintf("a.example. %d IN A 192.0.2.1", ttl))}
		return m
	}
	no := func(ttl, minimum int) *dns.Msg {
		m := new(dns.Msg)
		m.Rcode, m.Ns = dns.RcodeNameError, []dns.RR{rr(t, fmt.Sprintf("example. %d IN SOA ns.example. h.example. 1 2 3 4 %d", ttl, minimum))}
		return m
	}
	for name, k := range map[string]struct {
		m    *dns.Msg
		want time.Duration
	}{
		"as its record says":       {answer(60), time.Minute},
		"at most an hour":          {answer(1e6), time.Hour},
		"not at all":               {answer(0), 0},
		"a no as its SOA says":     {no(100, 7), 7 * time.Second},
		"a no as its SOA lives":    {no(8, 100), 8 * time.Second},
		"a no at most a minute":    {no(9999, 9999), time.Minute},
		"a no without SOA":         {&dns.Msg{MsgHdr: dns.MsgHdr{Rcode: dns.RcodeNameError}}, 0},
		"an error":                 {&dns.Msg{MsgHdr: dns.MsgHdr{Rcode: dns.RcodeServerFailure}}, 0},
		"what was cut":             {&dns.Msg{MsgHdr: dns.MsgHdr{Truncated: true}, Answer: answer(60).Answer}, 0},
		"an address that is there": {answer(1), time.Second},
	} {
		if got := lifetime(k.m); got != k.want {
			t.Errorf("%s: %s, want %s", name, got, k.want)
		}
		c.put(key{name: name}, k.m)
		now = now.Add(k.want - time.Second/2)
		if got := c.get(key{name: name}); (got != nil) != (k.want > 0) {
			t.Errorf("%s: shortly before the end there is %v", name, got)
		} else if got != nil {
			for _, r := range append(got.Answer, got.Ns...) {
				if r.Header().Ttl > 1 {
					t.Errorf("%s: its TTL is %d shortly before its end", name, r.Header().Ttl)
				}
			}
		}
		now = now.Add(time.Second)
		if got := c.get(key{name: name}); got != nil {
			t.Errorf("%s: it is there after its end", name)
		}
	}
	for i := range maxEntries + 100 {
		c.put(key{name: fmt.Sprint(i)}, answer(60))
		c.get(key{name: "0"}) // always in use
	}
	if c.recent.Len() != maxEntries || len(c.entries) != maxEntries {
		t.Errorf("%d entries", c.recent.Len())
	}
	if c.get(key{name: "0"}) == nil || c.get(key{name: "1"}) != nil {
		t.Error("not the least recently used went first")
	}
}

// Servers that are away, silent or of no use are made up for by the next, and asked last for a while.
func TestTheNextServerIsAsked(t *testing.T) {
	gone := netip.MustParseAddrPort(ports.FreeAddress(t, "127.0.0.1"))
	silent := newUpstream(t, func(string, *dns.Msg) *dns.Msg { return nil })
	broken := newUpstream(t, func(_ string, q *dns.Msg) *dns.Msg {
		m := new(dns.Msg)
		return m.SetRcode(q, dns.RcodeServerFailure)
	})
	liar := newUpstream(t, func(_ string, q *dns.Msg) *dns.Msg {
		m := new(dns.Msg)
		m.SetReply(q)
		m.Question[0].Name = "else.example."
		m.Answer = []dns.RR{rr(t, "else.example. 300 IN A 203.0.113.66")}
		return m
	})
	good := newUpstream(t, example(t))
	_, at := server(t, Config{Upstreams: []netip.AddrPort{gone, silent.at, broken.at, liar.at, good.at}})
	for _, name := range []string{"one.example", "two.example"} {
		if got := short(ask(t, at, "udp", name, dns.TypeA)); got != "NOERROR A 192.0.2.1" {
			t.Errorf("%s: %s", name, got)
		}
	}
	if n := silent.count("udp one.example. A"); n == 0 {
		t.Error("the silent server was not asked at first")
	}
}

// What does not fit into a packet comes over TCP, to us and from us.
func TestLargeAnswers(t *testing.T) {
	up := newUpstream(t, func(network string, q *dns.Msg) *dns.Msg {
		m := new(dns.Msg)
		m.SetReply(q)
		for i := range 100 {
			m.Answer = append(m.Answer, rr(t, fmt.Sprintf("%s 300 IN A 192.0.2.%d", q.Question[0].Name, i+1)))
		}
		if network == "udp" {
			m.Truncate(int(q.IsEdns0().UDPSize()))
		}
		return m
	})
	_, at := server(t, Config{Upstreams: []netip.AddrPort{up.at}})
	edns := func(size uint16) func(*dns.Msg) { return func(q *dns.Msg) { q.SetEdns0(size, false) } }
	for _, c := range []struct {
		network string
		edit    func(*dns.Msg)
		cut     bool
		size    int
	}{
		{"udp", func(*dns.Msg) {}, true, 512},
		{"udp", edns(100), true, 512},
		{"udp", edns(1000), true, 1000},
		{"udp", edns(4096), false, 4096},
		{"tcp", func(*dns.Msg) {}, false, dns.MaxMsgSize},
	} {
		m := ask(t, at, c.network, "many.example", dns.TypeA, c.edit)
		m.Compress = true
		if m.Truncated != c.cut || m.Len() > c.size || !c.cut && len(m.Answer) != 100 {
			t.Errorf("%s, size %d: %d answers in %d bytes, cut %v", c.network, c.size, len(m.Answer), m.Len(), m.Truncated)
		}
	}
	if u, n := up.count("udp many.example. A"), up.count("tcp many.example. A"); u != 1 || n != 1 {
		t.Errorf("asked %d times over UDP and %d over TCP", u, n)
	}
}

// Whoever asks the same at the same time waits for the same answer; too many different questions are not all kept waiting.
func TestQuestionsInProgress(t *testing.T) {
	release := make(chan struct{})
	reply := example(t)
	up := newUpstream(t, func(network string, q *dns.Msg) *dns.Msg {
		<-release
		return reply(network, q)
	})
	s, at := server(t, Config{Upstreams: []netip.AddrPort{up.at}})
	var clients sync.WaitGroup
	for range 50 {
		clients.Go(func() {
			if got := short(ask(t, at, "udp", "www.example", dns.TypeA)); got != "NOERROR A 192.0.2.1" {
				t.Error(got)
			}
		})
	}
	for tick := time.NewTicker(time.Millisecond); len(s.forwarder.waiting) < 50; {
		<-tick.C
	}
	s.forwarder.mu.Lock()
	for i := range maxInflight {
		s.forwarder.inflight[key{name: fmt.Sprint(i)}] = nil
	}
	s.forwarder.mu.Unlock()
	if got := short(ask(t, at, "udp", "other.example", dns.TypeA)); got != "SERVFAIL" {
		t.Errorf("one question too many: %s", got)
	}
	s.forwarder.mu.Lock()
	for i := range maxInflight {
		delete(s.forwarder.inflight, key{name: fmt.Sprint(i)})
	}
	s.forwarder.mu.Unlock()
	close(release)
	clients.Wait()
	if n := up.count("udp www.example. A"); n > 1+rounds {
		t.Errorf("asked %d times", n)
	}
}

func TestHostConfig(t *testing.T) {
	c := parseHostConfig([]byte(strings.Join([]string{
		"# nameserver 192.0.2.1", "nameserver 192.0.2.2", "nameserver 2001:db8::1", "nameserver fe80::1%eth0", "nameserver none", "nameserver 192.0.2.2",
		"domain old.example", "search Corp.example. mesh.local", "options ndots:5 timeout:1 attempts:2", "search", "options timeout:x",
	}, "\n")))
	var got []string
	for _, s := range c.servers {
		got = append(got, s.String())
	}
	if want := []string{"192.0.2.2:53", "[2001:db8::1]:53", "[fe80::1%eth0]:53"}; !slices.Equal(got, want) {
		t.Errorf("servers %v", got)
	}
	if !slices.Equal(c.search, []string{"corp.example", "mesh.local"}) || c.timeout != time.Second {
		t.Errorf("search %v, timeout %s", c.search, c.timeout)
	}
}

// The file is read again when it is another one, and itself is nobody to ask.
func TestHostConfigChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Unix(1e9, 0)
	own := netip.MustParseAddrPort("127.0.0.1:53")
	f := newForwarder(Config{ResolvConf: path, Addresses: []netip.AddrPort{own}, Log: quiet})
	f.host.now = func() time.Time { return now }
	servers := func() string {
		f.mu.Lock()
		defer f.mu.Unlock()
		list, _ := f.order()
		return fmt.Sprint(list)
	}
	if got := servers(); got != "[]" {
		t.Errorf("without a file: %s", got)
	}
	write("nameserver 127.0.0.1\nnameserver 192.0.2.1\nsearch a.example\n")
	if got := servers(); got != "[]" {
		t.Errorf("it is looked at more than once a second: %s", got)
	}
	now = now.Add(time.Second)
	if got := servers(); got != "[192.0.2.1:53]" {
		t.Errorf("got %s", got)
	}
	if got := f.withoutSearch("web.mesh.local.a.example"); !slices.Equal(got, []string{"web.mesh.local"}) {
		t.Errorf("got %v", got)
	}
	f.cache.put(key{name: "x"}, &dns.Msg{Answer: []dns.RR{rr(t, "x. 300 IN A 192.0.2.1")}})
	write("nameserver 192.0.2.22\n")
	now = now.Add(time.Second)
	if got := servers(); got != "[192.0.2.22:53]" || f.cache.get(key{name: "x"}) != nil {
		t.Errorf("got %s", got)
	}
}

func TestAddressInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Listen(Config{Addresses: []netip.AddrPort{netip.MustParseAddrPort(l.Addr().String())}}); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("got %v", err)
	}
}
