package xds

import (
	"context"
	"log/slog"
	"slices"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// A stream is one proxy's connection: one goroutine reads, and the handler's own one has the session and writes.
// A client that does not read blocks only its own writer, and gets the newest state when it reads again.
type stream struct {
	server  *Server
	rpc     discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	sub     Subscription
	session *Session
	log     *slog.Logger
	ended   chan struct{} // closed when its debt is known

	acks, nacks uint64
	acked       uint64
	reported    []Rejection
	patience    patience
	retry       time.Duration // until refusals that may pass are tried again; grows
	again       *time.Timer   // nil when there is none to try
}

func (st *stream) serve(first *discoveryv3.DeltaDiscoveryRequest) error {
	requests, failed := make(chan *discoveryv3.DeltaDiscoveryRequest), make(chan error, 1)
	ctx := st.rpc.Context()
	go st.read(ctx, requests, failed) // ends with the stream, which ends at the latest when this returns
	defer st.patience.stop()
	released := st.server.nextRelease()
	for request := first; ; {
		if request != nil {
			if err := st.receive(request); err != nil {
				return err
			}
			request = nil
		}
		if err := st.send(); err != nil {
			return err
		}
		st.report()
		// The cases: the client speaks; its table moves on; something left the quarantine; it has been silent for too long
		// while something waits; a refusal that may have passed; the end, from either side.
		select {
		case request = <-requests:
			st.patience.progress()
		case <-st.sub.Changed():
			st.session.Target(st.sub.Table())
		case <-released:
			released = st.server.nextRelease()
		case <-st.patience.over():
			st.session.Overdue()
		case <-st.retryNow():
			st.again = nil
			st.session.Retry()
		case err := <-failed:
			return ended(err)
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-st.server.stopping:
			return errStopping
		}
	}
}

func (st *stream) read(ctx context.Context, requests chan<- *discoveryv3.DeltaDiscoveryRequest, failed chan<- error) {
	limit := rate.NewLimiter(rate.Limit(st.server.cfg.Requests), burst)
	for {
		r, err := st.rpc.Recv()
		if err == nil {
			err = limit.Wait(ctx) // what is not read stays in the client: back-pressure, not an error
		}
		if err != nil {
			failed <- err
			return
		}
		select {
		case requests <- r:
		case <-ctx.Done():
			failed <- ctx.Err()
			return
		}
	}
}

// burst is how many requests a stream may send at once: a large first configuration is a subscription per listener.
const burst = 5000

func (st *stream) receive(r *discoveryv3.DeltaDiscoveryRequest) error {
	if err := st.session.Receive(r); err != nil {
		st.log.Warn("stream ended: the client asks for too much", "err", err)
		return status.Error(codes.ResourceExhausted, err.Error())
	}
	acks, nacks := st.session.Answers()
	if acks+nacks == st.acks+st.nacks {
		return nil
	}
	accepted := nacks == st.nacks
	st.acks, st.nacks = acks, nacks
	t, _ := envoy.TypeOf(r.GetTypeUrl())
	st.sub.Answered(t, accepted)
	if !accepted {
		st.server.metrics.nacks.Inc()
		st.log.Warn("the proxy refuses configuration", "type", t, "err", r.GetErrorDetail().GetMessage())
	}
	return nil
}

func (st *stream) send() error {
	for {
		r, ok := st.session.Next()
		if !ok {
			st.patience.await(st.session.Waiting(), st.server.cfg.Patience)
			st.tryLater()
			return nil
		}
		if err := st.rpc.SendMsg(r); err != nil {
			return err
		}
		st.server.metrics.sent(r)
		st.sub.Sent(r.Type)
	}
}

// tryLater arranges for refusals that may pass to be tried again, less and less often.
func (st *stream) tryLater() {
	if !st.session.Faulty() || st.again != nil {
		return
	}
	st.retry = min(max(2*st.retry, 250*time.Millisecond), 30*time.Second)
	st.again = time.NewTimer(st.retry)
}

func (st *stream) retryNow() <-chan time.Time {
	if st.again == nil {
		return nil
	}
	return st.again.C
}

// report passes on what has become acknowledged or is refused.
func (st *stream) report() {
	if a := st.session.Acked(); a != st.acked {
		st.acked = a
		st.sub.Acked(a)
	}
	now := st.session.Rejections()
	if slices.EqualFunc(now, st.reported, func(a, b Rejection) bool {
		return a.Type == b.Type && a.Name == b.Name && a.Version == b.Version && a.Text == b.Text
	}) {
		return
	}
	st.reported = now
	st.sub.Rejected(now)
}

// patience measures how long something has waited for the client to speak. A client that speaks is given more time,
// but not for ever: what it says may have nothing to do with what is waited for.
type patience struct {
	timer *time.Timer
	d     time.Duration
	limit time.Time
}

func (p *patience) await(waiting bool, d time.Duration) {
	switch {
	case !waiting:
		p.stop()
	case p.timer == nil:
		p.timer, p.d, p.limit = time.NewTimer(d), d, time.Now().Add(3*d)
	}
}

func (p *patience) progress() {
	if p.timer != nil {
		p.timer.Reset(min(p.d, time.Until(p.limit)))
	}
}

func (p *patience) over() <-chan time.Time {
	if p.timer == nil {
		return nil
	}
	return p.timer.C
}

func (p *patience) stop() {
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
}
