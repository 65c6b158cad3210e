// Package probe finds out which ingresses of other zones can be reached and how much serves behind them, by asking the control planes
// of those zones through their ingresses, and answers the same questions of others. It needs no global control plane.
// It does not decide where traffic goes: it tells the engine what is known.
package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/zone-cp/identity"
)

// A job is one attempt to ask the control plane of another zone. A worker owns it until it is a result.
type job struct {
	target *target
	peer   peer
	host   string
	port   uint32
	ip     netip.Addr // where the last attempt went
	rotate bool       // the last attempt failed: take another address of the host
	conn   *conn      // nil: none is open
	ask    Request
}

// A conn is an open way through an ingress.
type conn struct {
	*tls.Conn
	since time.Time
}

type outcome int

const (
	unjudged outcome = iota // says nothing about the ingress
	well
	failed
	mute // nobody answers, but connections are handed on to workloads
)

// String names an outcome in metrics.
func (o outcome) String() string { return [...]string{"unjudged", "well", "failed", "mute"}[o] }

// A result is what became of a job.
type result struct {
	job
	began   time.Time
	outcome outcome
	err     error
	replies []Reply
	took    time.Duration
	silent  bool // the ingress took the connection, and nobody spoke on it
}

// maxPages bounds how many replies one attempt takes.
const maxPages = 16

// errStranger is an attempt that the identities at hand do not allow to judge.
var errStranger = errors.New("it cannot be judged")

// attempt asks once. A connection that has been open before is no bad sign when it turns out to be cut: a new one decides.
func (p *Prober) attempt(ctx context.Context, j job) result {
	start, whole := time.Now(), ctx
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	r := result{job: j, began: start}
	if j.conn != nil && start.Sub(j.conn.since) >= p.cfg.Reconnect {
		r.hangUp()
	}
	if r.conn != nil {
		if r.replies, r.err = r.exchange(ctx); r.err != nil {
			r.hangUp()
		}
	}
	if r.conn == nil && ctx.Err() == nil {
		start = time.Now()
		if r.err = p.dial(ctx, &r); r.err == nil {
			r.replies, r.err = r.exchange(ctx)
		}
	}
	r.took = time.Since(start)
	r.outcome = well
	if r.err != nil {
		r.hangUp()
		r.replies = nil
		if r.outcome = judgeError(r.err); r.outcome == failed && r.silent && p.handsOn(whole, r) {
			r.outcome = mute
		}
	}
	return r
}

func (r *result) hangUp() {
	if r.conn != nil {
		_ = r.conn.NetConn().Close() // without a farewell, which could block
		r.conn = nil
	}
}

// remoteAlert is how crypto/tls marks what the other side says before it closes a connection.
const remoteAlert = "remote error"

// judgeError says what a failure means. Where the other side was reached but the two do not believe each other, or nobody could be asked,
// it says nothing about the ingress.
func judgeError(err error) outcome {
	var op *net.OpError
	if errors.Is(err, errStranger) || errors.Is(err, identity.ErrClocks) || errors.As(err, &op) && op.Op == remoteAlert {
		return unjudged
	}
	return failed
}

// dial opens a way to the other control plane. The address of a host name is found first, also when nobody can be asked there.
func (p *Prober) dial(ctx context.Context, r *result) error {
	if err := p.resolve(ctx, r); err != nil {
		return err
	}
	me, err := p.cfg.Authority.ControlPlane(r.peer.mesh)
	if err != nil {
		return fmt.Errorf("%w: %w", errStranger, err)
	}
	if !me.Knows(r.peer.zone) {
		return fmt.Errorf("%w: no MeshTrust of zone %s is in mesh %s", errStranger, r.peer.zone, r.peer.mesh)
	}
	raw, err := p.cfg.Dial(ctx, "tcp", net.JoinHostPort(r.ip.String(), strconv.FormatUint(uint64(r.port), 10)))
	if err != nil {
		return err
	}
	c := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: mesh.HealthSNI(r.peer.mesh, r.peer.zone),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &me.Certificate, nil },
		InsecureSkipVerify:   true, // names of hosts mean nothing here; VerifyConnection checks who it is
		VerifyConnection: func(s tls.ConnectionState) error {
			domain, err := me.Verify(s.PeerCertificates)
			if err == nil && !me.Owns(r.peer.zone, domain) {
				err = fmt.Errorf("%w: trust domain %s does not belong to zone %s", identity.ErrUntrusted, resource.Quote(domain), r.peer.zone)
			}
			return err
		},
	})
	if err := c.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		r.silent = !errors.Is(err, identity.ErrUntrusted)
		return err
	}
	r.conn = &conn{c, time.Now()}
	return nil
}

// resolve finds the address to ask. One that is known stays while the name has it and it answers; a name server that fails changes nothing.
func (p *Prober) resolve(ctx context.Context, r *result) error {
	if ip, err := netip.ParseAddr(r.host); err == nil {
		r.ip = ip
		return p.allowed(ip)
	}
	all, err := p.cfg.Resolve(ctx, r.host)
	for i := range all {
		all[i] = all[i].Unmap()
	}
	all = slices.DeleteFunc(all, func(ip netip.Addr) bool { return p.allowed(ip) != nil })
	switch {
	case len(all) == 0 && r.ip.IsValid():
		return nil
	case err != nil:
		return fmt.Errorf("%w: %w", errStranger, err)
	case len(all) == 0:
		return fmt.Errorf("%w: %s has no address that may be asked", errStranger, r.host)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	i := slices.Index(all, r.ip)
	if i < 0 {
		i = 0
	} else if r.rotate {
		i = (i + 1) % len(all)
	}
	r.ip = all[i]
	return nil
}

// allowed refuses addresses that mean something else on every host: another zone must not have this one ask itself.
func (p *Prober) allowed(ip netip.Addr) error {
	ip = ip.Unmap()
	if !p.cfg.AllowLocalAddresses && (ip.IsLoopback() || ip.IsLinkLocalUnicast()) || ip.IsUnspecified() || ip.IsMulticast() {
		return fmt.Errorf("%w: %s is not an address of another host", errStranger, ip)
	}
	return nil
}

// exchange asks until nothing more has changed.
func (r *result) exchange(ctx context.Context) ([]Reply, error) {
	deadline, _ := ctx.Deadline()
	if err := r.conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	conn, cut := r.conn, make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(cut)
		_ = conn.SetDeadline(time.Unix(1, 0))
	})
	defer func() { // the connection may be given up, or used again, right after this
		if !stop() {
			<-cut
		}
	}()
	q := r.ask
	var out []Reply
	for range maxPages {
		if err := writeFrame(r.conn, q, maxRequest); err != nil {
			return nil, err
		}
		var reply Reply
		if err := readFrame(r.conn, &reply, maxReply); err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the connection was closed without an answer")
			}
			return nil, err
		}
		if err := reply.check(r.peer.zone, r.peer.mesh); err != nil {
			return nil, err
		}
		out = append(out, reply)
		if !reply.More {
			break
		}
		q.Instance, q.After = reply.Instance, reply.Sequence
	}
	return out, nil
}
