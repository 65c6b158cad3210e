package probe

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/zone-cp/identity"
)

// ResponderConfig is what a Responder needs.
type ResponderConfig struct {
	Zone      string
	Authority *identity.Authority
	Local     *Local
	// Timeout bounds a handshake and the sending of an answer, Idle the wait for a question. Defaults 5s and 30s.
	Timeout, Idle time.Duration
	// MaxHandshakes bounds those who have not shown who they are; the oldest makes room. Default 256.
	MaxHandshakes int
	// MaxPerPeer bounds the connections of one trust domain in a mesh, MaxConnections those of all. Defaults 64 and 4096.
	MaxPerPeer, MaxConnections int
	Log                        *slog.Logger
	Registerer                 prometheus.Registerer
}

// A Responder answers control planes of other zones, which reach it through the ingresses of this zone.
type Responder struct {
	cfg      ResponderConfig
	metrics  responderMetrics
	draining atomic.Bool

	mu         sync.Mutex
	handshakes *list.List // of net.Conn, the oldest first
	peers      map[caller]int
	open       int
}

// A caller is a trust domain in a mesh.
type caller struct{ mesh, domain string }

// NewResponder makes a responder that waits for Serve.
func NewResponder(cfg ResponderConfig) *Responder {
	cfg.Timeout = orDefault(cfg.Timeout, 5*time.Second)
	cfg.Idle = orDefault(cfg.Idle, 30*time.Second)
	for _, d := range []struct {
		of  *int
		def int
	}{{&cfg.MaxHandshakes, 256}, {&cfg.MaxPerPeer, 64}, {&cfg.MaxConnections, 4096}} {
		if *d.of <= 0 {
			*d.of = d.def
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Responder{cfg: cfg, metrics: newResponderMetrics(cfg.Registerer), handshakes: list.New(), peers: map[caller]int{}}
}

// SetDraining says whether other zones are asked to send nothing new.
func (r *Responder) SetDraining(on bool) { r.draining.Store(on) }

// acceptRetry is how long to wait when connections cannot be taken for want of something, such as file descriptors.
const acceptRetry = 100 * time.Millisecond

// Serve answers on a listener until ctx ends, and closes it. It may be called for several listeners.
func (r *Responder) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var connections sync.WaitGroup
	defer connections.Wait()
	ended := ctx // its end closes the listener, perhaps before those who derive from it hear of it
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		c, err := l.Accept()
		switch {
		case ended.Err() != nil:
			if err == nil {
				_ = c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("answer other zones: %w", err)
		case err != nil:
			r.cfg.Log.Warn("connections of other zones cannot be taken at present", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(acceptRetry):
			}
		default:
			connections.Go(func() { r.serve(ctx, c) })
		}
	}
}

func (r *Responder) serve(ctx context.Context, raw net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	defer func() { _ = raw.Close() }() // without a farewell, which could block
	place := r.admit(raw)
	var me *identity.ControlPlane
	c := tls.Server(raw, &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			var err error
			if me, err = r.identity(h.ServerName); err != nil {
				return nil, err
			}
			return serverConfig(me), nil
		},
	})
	err := c.SetDeadline(time.Now().Add(r.cfg.Timeout))
	if err == nil {
		err = c.HandshakeContext(ctx)
	}
	if err != nil {
		linger(raw)
	}
	r.release(place)
	if err != nil {
		r.metrics.connections.WithLabelValues("refused").Inc()
		r.cfg.Log.Debug("a connection for another zone's control plane was refused", "err", err)
		return
	}
	who := caller{me.Mesh, c.ConnectionState().PeerCertificates[0].URIs[0].Host}
	if !r.enter(who) {
		r.metrics.connections.WithLabelValues("crowded").Inc()
		return
	}
	defer r.leave(who)
	r.metrics.connections.WithLabelValues("accepted").Inc()
	err = r.answer(c, me.Mesh)
	r.cfg.Log.Debug("a connection of another zone's control plane ended", "trustDomain", who.domain, "mesh", who.mesh, "err", err)
}

// linger lets the other side read why it was refused: a connection that is closed with something unread is reset.
func linger(c net.Conn) {
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return
	}
	if half, ok := c.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_, _ = io.CopyN(io.Discard, c, maxRequest)
	}
}

// identity is who this control plane is under a server name: the mesh is picked by it.
func (r *Responder) identity(name string) (*identity.ControlPlane, error) {
	in, ok := strings.CutPrefix(strings.TrimSuffix(name, "."+r.cfg.Zone), "health.")
	if !ok || mesh.HealthSNI(in, r.cfg.Zone) != name {
		return nil, fmt.Errorf("server name %s is not that of a mesh in zone %s", resource.Quote(name), r.cfg.Zone)
	}
	return r.cfg.Authority.ControlPlane(in)
}

func serverConfig(me *identity.ControlPlane) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{me.Certificate}, SessionTicketsDisabled: true,
		ClientAuth: tls.RequireAnyClientCert, // VerifyConnection checks who it is
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := me.Verify(s.PeerCertificates)
			return err
		},
	}
}

// answer answers questions until the connection ends, and says how.
func (r *Responder) answer(c *tls.Conn, in string) error {
	for {
		if err := c.SetReadDeadline(time.Now().Add(r.cfg.Idle)); err != nil {
			return err
		}
		var q Request
		if err := readFrame(c, &q, maxRequest); err != nil {
			return err
		}
		if err := q.check(); err != nil {
			return err
		}
		reply := r.cfg.Local.page(in, q)
		reply.Draining = r.draining.Load()
		if err := c.SetWriteDeadline(time.Now().Add(r.cfg.Timeout)); err != nil {
			return err
		}
		if err := writeFrame(c, reply, maxReply); err != nil {
			return err
		}
	}
}

// admit notes a connection that has not shown who it is. When there are too many, the oldest is cut: an honest one is through in a moment.
func (r *Responder) admit(c net.Conn) *list.Element {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.handshakes.Len() >= r.cfg.MaxHandshakes {
		oldest := r.handshakes.Front()
		r.handshakes.Remove(oldest)
		_ = oldest.Value.(net.Conn).Close()
		r.metrics.connections.WithLabelValues("evicted").Inc()
	}
	return r.handshakes.PushBack(c)
}

func (r *Responder) release(place *list.Element) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.handshakes.Remove(place) // nothing when it was cut
}

func (r *Responder) enter(who caller) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open >= r.cfg.MaxConnections || r.peers[who] >= r.cfg.MaxPerPeer {
		return false
	}
	r.open++
	r.peers[who]++
	return true
}

func (r *Responder) leave(who caller) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open--
	if r.peers[who]--; r.peers[who] == 0 {
		delete(r.peers, who)
	}
}
