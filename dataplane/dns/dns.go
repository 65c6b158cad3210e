// Package dns answers the lookups of a workload: the names of the mesh itself, and everything else by asking the servers that the
// host is configured with, through a cache. It is no recursive resolver, validates no DNSSEC and knows no Envoy; names come
// from the zone over the agent's session.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/api/agentapi"
)

// Bounds on what clients can make the server hold.
const (
	maxConnections = 256              // over TCP
	idleTimeout    = 10 * time.Second // of such a connection
	maxAnswerUDP   = 4096             // to clients that say they take as much; they are on the same host
	maxQuery       = 4096
)

// Config is what a Server needs.
type Config struct {
	// Addresses to answer on, over UDP and TCP.
	Addresses []netip.AddrPort
	// Upstreams are asked instead of the servers in resolv.conf.
	Upstreams []netip.AddrPort
	// ResolvConf is where servers and search domains are read from. Default /etc/resolv.conf.
	ResolvConf string
	// Block is where the proxy listens for virtual addresses when the traffic of the workload is not redirected to it: names
	// then lead there. Not valid: names lead to the virtual addresses.
	Block netip.Prefix
	Log   *slog.Logger
}

// A Server answers lookups. It answers from the moment Run is called, names of the mesh from the first that it was given.
type Server struct {
	cfg       Config
	names     atomic.Pointer[table]
	pending   *table // parts of a version that is not complete; belongs to the caller of Apply
	without   atomic.Bool
	ready     chan struct{}
	forwarder *forwarder
	servers   []*dns.Server
}

// Listen takes the ports. Run must follow, or Close.
func Listen(cfg Config) (*Server, error) {
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, ready: make(chan struct{}), forwarder: newForwarder(cfg)}
	for _, at := range cfg.Addresses {
		packets, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("answer lookups: %w", err)
		}
		s.servers = append(s.servers, &dns.Server{PacketConn: packets, Handler: s, UDPSize: maxQuery})
		streams, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("answer lookups: %w", err)
		}
		s.servers = append(s.servers, &dns.Server{
			Listener: netutil.LimitListener(streams, maxConnections), Handler: s,
			ReadTimeout: idleTimeout, WriteTimeout: idleTimeout, IdleTimeout: func() time.Duration { return idleTimeout },
		})
	}
	return s, nil
}

// Close lets go of the ports. Run does so by itself.
func (s *Server) Close() {
	for _, srv := range s.servers {
		if srv.PacketConn != nil {
			_ = srv.PacketConn.Close()
		} else {
			_ = srv.Listener.Close()
		}
	}
}

// Run answers until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	defer s.forwarder.close()
	g, ctx := errgroup.WithContext(ctx)
	for _, srv := range s.servers {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		ended := make(chan struct{})
		g.Go(func() error {
			defer close(ended)
			if err := srv.ActivateAndServe(); err != nil && ctx.Err() == nil {
				return fmt.Errorf("answer lookups: %w", err)
			}
			return nil
		})
		g.Go(func() error {
			select {
			case <-ended:
				return nil
			case <-started:
			}
			select {
			case <-ended:
				return nil
			case <-ctx.Done():
			}
			// Those who wait for an answer are on this host and about to lose their proxy; nobody waits for them.
			stop, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			_ = srv.ShutdownContext(stop)
			return nil
		})
	}
	return g.Wait()
}

// Ready is closed once the server knows the names of the mesh, or that it will get none.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Without says that the zone is too old to send names: everything is asked elsewhere.
func (s *Server) Without() {
	if !s.without.Swap(true) && s.names.Load() == nil {
		close(s.ready)
	}
}

// Version is that of the names that count now, empty before the first.
func (s *Server) Version() string {
	if t := s.names.Load(); t != nil {
		return t.version
	}
	return ""
}

// ErrOutOfStep is a change of names that are not held. Saying hello anew brings all of them.
var ErrOutOfStep = errors.New("the zone changed names that this agent does not have")

// Apply takes a message with names. One goroutine at a time.
func (s *Server) Apply(m *agentapi.Names) error {
	base := s.pending
	if base == nil || base.version != m.GetVersion() {
		base = s.names.Load()
		switch {
		case m.GetFrom() == "":
			base = nil
		case base == nil || base.version != m.GetFrom():
			return ErrOutOfStep
		}
	}
	t, ignored := base.with(m, s.cfg.Block)
	if ignored > 0 {
		s.cfg.Log.Error("names that the zone sent cannot be used", "ignored", ignored)
	}
	if m.GetMore() {
		s.pending = t
		return nil
	}
	s.pending = nil
	t.complete()
	first := s.names.Swap(t) == nil
	if first && !s.without.Load() {
		close(s.ready)
	}
	return nil
}

// ServeDNS implements dns.Handler.
func (s *Server) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	_, udp := w.RemoteAddr().(*net.UDPAddr)
	reply := s.answer(q)
	size := dns.MinMsgSize
	if opt := q.IsEdns0(); opt != nil {
		if reply.IsEdns0() == nil {
			reply.SetEdns0(maxAnswerUDP, opt.Do())
		}
		size = min(max(int(opt.UDPSize()), dns.MinMsgSize), maxAnswerUDP)
	}
	if !udp {
		size = dns.MaxMsgSize
	}
	reply.Compress = true
	reply.Truncate(size)
	_ = w.WriteMsg(reply) // who asked is gone, then
}
