package xds

import (
	"log/slog"
	"slices"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/zone-cp/solo"
)

// A stream is one proxy's connection. A client that does not read blocks only its own stream, and gets the newest state when it reads again.
type stream struct {
	*solo.Stream
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
	again       time.Time     // when they are; zero when there is none to try
	alarm       *time.Timer   // wakes the stream for patience and again; nil when there is nothing to wait for
	due         time.Time     // when it does
}

func (st *stream) serve(first *discoveryv3.DeltaDiscoveryRequest) error {
	defer st.silence()
	if err := st.receive(first); err != nil {
		return err
	}
	limit := rate.NewLimiter(rate.Limit(st.server.cfg.Requests), burst)
	return solo.React(st.Stream, func() (*discoveryv3.DeltaDiscoveryRequest, error) {
		r, err := st.rpc.Recv()
		if err == nil {
			err = limit.Wait(st.rpc.Context()) // what is not read stays in the client: back-pressure, not an error
		}
		return r, err
	}, func(r *discoveryv3.DeltaDiscoveryRequest) error {
		st.patience.progress(time.Now())
		return st.receive(r)
	}, st.step)
}

// step looks at all that can be new: the client has spoken; its table has moved on; something left the quarantine; the client has been silent
// for too long while something waits; a refusal may have passed.
func (st *stream) step() error {
	st.session.Target(st.sub.Table())
	now := time.Now()
	if st.patience.over(now) {
		st.session.Overdue()
	}
	if !st.again.IsZero() && !now.Before(st.again) {
		st.again = time.Time{}
		st.session.Retry()
	}
	if err := st.send(); err != nil {
		return err
	}
	st.report()
	st.setAlarm()
	return nil
}

// setAlarm has the stream woken when there is something to do that nobody else wakes it for.
func (st *stream) setAlarm() {
	at := st.patience.until
	if !st.again.IsZero() && (at.IsZero() || st.again.Before(at)) {
		at = st.again
	}
	switch {
	case at.Equal(st.due):
	case at.IsZero():
		st.silence()
	case st.alarm == nil:
		st.alarm = time.AfterFunc(time.Until(at), st.Wake)
	default:
		st.alarm.Reset(time.Until(at))
	}
	st.due = at
}

func (st *stream) silence() {
	if st.alarm != nil {
		st.alarm.Stop()
		st.alarm = nil
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
			st.patience.await(st.session.Waiting(), time.Now(), st.server.cfg.Patience)
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
	if !st.session.Faulty() || !st.again.IsZero() {
		return
	}
	st.retry = min(max(2*st.retry, 250*time.Millisecond), 30*time.Second)
	st.again = time.Now().Add(st.retry)
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
	waiting bool
	d       time.Duration
	limit   time.Time
	until   time.Time // zero when it is over, or nothing waits
}

func (p *patience) await(waiting bool, now time.Time, d time.Duration) {
	switch {
	case !waiting:
		*p = patience{}
	case !p.waiting:
		*p = patience{waiting: true, d: d, limit: now.Add(3 * d), until: now.Add(d)}
	}
}

func (p *patience) progress(now time.Time) {
	if !p.waiting {
		return
	}
	if p.until = now.Add(p.d); p.until.After(p.limit) {
		p.until = p.limit
	}
}

// over says that the client has been waited for too long. It says so once, unless the client speaks.
func (p *patience) over(now time.Time) bool {
	if p.until.IsZero() || now.Before(p.until) {
		return false
	}
	p.until = time.Time{}
	return true
}
