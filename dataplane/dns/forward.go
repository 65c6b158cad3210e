package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	maxInflight = 1024 // different questions that wait for other servers
	maxWaiting  = 8192 // those who wait for the answers
	answerIn    = 5 * time.Second
	rounds      = 2 // through the servers
	// A server that has not answered by now is not waited for alone.
	hedgeAfter = time.Second
	// A server that failed is asked after the others for a while.
	avoidFor = 10 * time.Second
	// upstreamSize is what others may send over UDP: more is cut into fragments on the way, which get lost.
	upstreamSize = 1232
)

// forwarder asks the servers of the host.
type forwarder struct {
	cfg    Config
	cache  *cache
	ctx    context.Context // ends with the server
	cancel func()
	work   sync.WaitGroup

	waiting chan struct{} // holds a token for each who waits

	mu       sync.Mutex
	host     hostFile
	servers  []netip.AddrPort // of the last look at the host
	failed   map[netip.AddrPort]time.Time
	inflight map[key]*call
	logged   string
}

// A call is a question that somebody waits for.
type call struct {
	done chan struct{}
	msg  *dns.Msg
	err  error
}

func newForwarder(cfg Config) *forwarder {
	f := &forwarder{
		cfg: cfg, cache: newCache(time.Now), host: hostFile{path: cfg.ResolvConf, now: time.Now},
		waiting: make(chan struct{}, maxWaiting), failed: map[netip.AddrPort]time.Time{}, inflight: map[key]*call{},
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

func (f *forwarder) close() {
	f.cancel()
	f.work.Wait()
}

// withoutSearch lists what a name would be before a resolver added a search domain of the host to it.
func (f *forwarder) withoutSearch(name string) []string {
	f.mu.Lock()
	host, _ := f.host.get()
	f.mu.Unlock()
	var out []string
	for _, domain := range host.search {
		if base, ok := strings.CutSuffix(name, "."+domain); ok && base != "" {
			out = append(out, base)
		}
	}
	return out
}

var (
	errBusy      = errors.New("too many lookups wait for other servers")
	errNoServers = errors.New("the host names no server to ask")
)

// forward answers from the cache or asks others.
func (f *forwarder) forward(q *dns.Msg) *dns.Msg {
	k := keyOf(q)
	m := f.cache.get(k)
	if m == nil {
		var err error
		if m, err = f.ask(k, q); err != nil {
			f.complain(err)
			return failure(q, dns.RcodeServerFailure)
		}
	}
	return toClient(q, m)
}

// toClient makes an answer the reply to a query.
func toClient(q, m *dns.Msg) *dns.Msg {
	m.Id, m.Response, m.RecursionDesired, m.RecursionAvailable = q.Id, true, q.RecursionDesired, true
	m.CheckingDisabled, m.Authoritative, m.Zero = q.CheckingDisabled, false, false
	opt := q.IsEdns0()
	if !q.AuthenticatedData && (opt == nil || !opt.Do()) {
		m.AuthenticatedData = false
	}
	m.Question = slices.Clone(q.Question)
	// A name is repeated as it was asked for, whoever asked first.
	for _, rr := range m.Answer {
		if h := rr.Header(); strings.EqualFold(h.Name, q.Question[0].Name) {
			h.Name = q.Question[0].Name
		}
	}
	return m
}

// complain logs the first of equal errors.
func (f *forwarder) complain(err error) {
	f.mu.Lock()
	text := err.Error()
	again := text == f.logged
	f.logged = text
	f.mu.Unlock()
	if !again {
		f.cfg.Log.Warn("a lookup failed; later ones with the same error are not logged", "err", err)
	}
}

// ask gets an answer from others, once for all who ask the same.
func (f *forwarder) ask(k key, q *dns.Msg) (*dns.Msg, error) {
	select {
	case f.waiting <- struct{}{}:
		defer func() { <-f.waiting }()
	default:
		return nil, errBusy
	}
	f.mu.Lock()
	c, known := f.inflight[k]
	if !known {
		if len(f.inflight) >= maxInflight {
			f.mu.Unlock()
			return nil, errBusy
		}
		servers, timeout := f.order()
		c = &call{done: make(chan struct{})}
		f.inflight[k] = c
		out := query(k, q)
		f.work.Go(func() { f.run(c, k, out, servers, timeout) })
	}
	f.mu.Unlock()
	select {
	case <-c.done:
	case <-f.ctx.Done():
		return nil, f.ctx.Err()
	}
	if c.err != nil {
		return nil, c.err
	}
	return c.msg.Copy(), nil
}

func (f *forwarder) run(c *call, k key, q *dns.Msg, servers []netip.AddrPort, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(f.ctx, answerIn)
	defer cancel()
	if c.msg, c.err = f.race(ctx, q, servers, timeout); c.err == nil {
		f.cache.put(k, c.msg)
	}
	f.mu.Lock()
	delete(f.inflight, k)
	f.mu.Unlock()
	close(c.done)
}

// query is what others are asked: the question alone, nothing else of who asks.
func query(k key, q *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(k.name, k.typ)
	m.Question[0].Qclass = k.class
	m.CheckingDisabled, m.AuthenticatedData = q.CheckingDisabled, true
	m.SetEdns0(upstreamSize, k.dnssec)
	return m
}

// order lists the servers to ask, those that failed lately last. It is called with the lock held.
func (f *forwarder) order() ([]netip.AddrPort, time.Duration) {
	host, err := f.host.get()
	if err != nil && len(f.cfg.Upstreams) == 0 {
		f.cfg.Log.Warn("servers to ask cannot be read", "err", err)
	}
	servers := f.cfg.Upstreams
	if len(servers) == 0 {
		// Asking itself would go round in circles.
		servers = slices.DeleteFunc(slices.Clone(host.servers), func(a netip.AddrPort) bool { return slices.Contains(f.cfg.Addresses, a) })
	}
	if !slices.Equal(servers, f.servers) {
		f.servers = servers
		clear(f.failed)
		f.cache.clear() // another network may have other names
	}
	good, bad := []netip.AddrPort(nil), []netip.AddrPort(nil)
	for _, s := range servers {
		if at, ok := f.failed[s]; ok && time.Since(at) < avoidFor {
			bad = append(bad, s)
		} else {
			good = append(good, s)
		}
	}
	return append(good, bad...), host.timeout
}

type outcome struct {
	server netip.AddrPort
	msg    *dns.Msg
	err    error
}

// race asks one server after the other until one answers: the next one as soon as one fails, or when it takes long.
func (f *forwarder) race(ctx context.Context, q *dns.Msg, servers []netip.AddrPort, timeout time.Duration) (*dns.Msg, error) {
	if len(servers) == 0 {
		return nil, errNoServers
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var todo []netip.AddrPort
	for range rounds {
		todo = append(todo, servers...)
	}
	outcomes := make(chan outcome, len(todo))
	running := 0
	next := func() {
		if len(todo) == 0 {
			return
		}
		server := todo[0]
		todo = todo[1:]
		running++
		f.work.Go(func() {
			m, err := exchange(ctx, server, q.Copy(), timeout)
			outcomes <- outcome{server, m, err}
		})
	}
	next()
	hedge := time.NewTicker(hedgeAfter)
	defer hedge.Stop()
	var refusal *dns.Msg
	var failures []error
	for running > 0 {
		select {
		case o := <-outcomes:
			running--
			if o.err == nil && (o.msg.Rcode == dns.RcodeSuccess || o.msg.Rcode == dns.RcodeNameError) {
				f.mark(o.server, false)
				return o.msg, nil
			}
			if o.err != nil {
				f.mark(o.server, true)
				failures = append(failures, fmt.Errorf("%s: %w", o.server, o.err))
			} else {
				refusal = o.msg // perhaps of this name only
			}
			next()
			hedge.Reset(hedgeAfter)
		case <-hedge.C:
			next()
		}
	}
	if refusal != nil {
		return refusal, nil // an answer, too
	}
	return nil, errors.Join(failures...)
}

func (f *forwarder) mark(server netip.AddrPort, failed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if failed {
		f.failed[server] = time.Now()
	} else {
		delete(f.failed, server)
	}
}

// exchange asks one server over UDP, and again over TCP when the answer does not fit.
func exchange(ctx context.Context, server netip.AddrPort, q *dns.Msg, timeout time.Duration) (*dns.Msg, error) {
	m, err := exchangeOver(ctx, "udp", server, q, timeout)
	if err != nil || !m.Truncated {
		return m, err
	}
	if whole, err := exchangeOver(ctx, "tcp", server, q, timeout); err == nil {
		return whole, nil
	}
	return m, nil // the client may try itself
}

func exchangeOver(ctx context.Context, network string, server netip.AddrPort, q *dns.Msg, timeout time.Duration) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn := &dns.Conn{Conn: raw, UDPSize: upstreamSize}
	q.Id = dns.Id()
	if err := conn.WriteMsg(q); err != nil {
		return nil, fmt.Errorf("ask over %s: %w", network, err)
	}
	for {
		m, err := conn.ReadMsg()
		switch {
		case ctx.Err() != nil:
			return nil, fmt.Errorf("no answer over %s: %w", network, ctx.Err())
		case err != nil && m == nil:
			return nil, fmt.Errorf("no answer over %s: %w", network, err)
		case m.Id != q.Id || !m.Response || !sameQuestion(m, q):
			// Of somebody who guesses, or of an older question.
			if network == "tcp" {
				return nil, errors.New("an answer to another question")
			}
		case err != nil && !m.Truncated:
			return nil, fmt.Errorf("an answer that cannot be read: %w", err)
		default:
			return withoutOPT(m), nil
		}
	}
}

func sameQuestion(m, q *dns.Msg) bool {
	return len(m.Question) == 1 && strings.EqualFold(m.Question[0].Name, q.Question[0].Name) &&
		m.Question[0].Qtype == q.Question[0].Qtype && m.Question[0].Qclass == q.Question[0].Qclass
}

// withoutOPT takes away what concerns one exchange only.
func withoutOPT(m *dns.Msg) *dns.Msg {
	m.Extra = slices.DeleteFunc(m.Extra, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeOPT })
	if m.Rcode > 0xf { // it took the OPT record to say so
		m.Rcode = dns.RcodeServerFailure
	}
	return m
}
