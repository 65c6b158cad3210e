package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/causeway-mesh/causeway/dataplane/otlp"
)

// How collectors that do not take anything are dealt with.
const (
	retryBase = 100 * time.Millisecond
	retryMax  = 5 * time.Second
	// patience is how long one batch is tried.
	patience = time.Minute
	// silence is the least time between two messages about one collector.
	silence = 10 * time.Second
)

// A batch is one encoded request, and how many records or spans it has.
type batch struct {
	request []byte
	n       int
}

// A sender sends one batch. An *otlp.Refusal says that trying again does not help.
type sender interface {
	send(ctx context.Context, request []byte) error
	close()
}

// An outlet is the queue of one collector.
type outlet struct {
	name    string
	signal  otlp.Signal
	sender  sender
	queue   chan batch
	queued  atomic.Int64
	dropped atomic.Uint64 // by run
	full    atomic.Uint64 // by put, not said yet
	log     *slog.Logger

	told    time.Time
	untold  uint64
	failing bool
}

// put queues a batch and returns how many records it had to drop. It is called under the forwarder's lock.
func (o *outlet) put(b batch) uint64 {
	if o.queued.Load()+int64(len(b.request)) <= maxQueued {
		select {
		case o.queue <- b:
			o.queued.Add(int64(len(b.request)))
			return 0
		default:
		}
	}
	o.full.Add(uint64(b.n))
	return uint64(b.n)
}

// run sends batches until the queue is closed and empty, ctx ends, or retire agrees that it is not needed any more.
func (o *outlet) run(ctx context.Context, retire func() bool) {
	defer o.sender.close()
	rest := time.NewTimer(idle)
	defer rest.Stop()
	for {
		select {
		case b, ok := <-o.queue:
			if !ok {
				return
			}
			o.deliver(ctx, b)
			o.queued.Add(-int64(len(b.request)))
			rest.Reset(idle)
		case <-rest.C:
			if retire() {
				return
			}
			rest.Reset(idle)
		case <-ctx.Done():
			return
		}
	}
}

// deliver sends one batch, again and again while that may help.
func (o *outlet) deliver(ctx context.Context, b batch) {
	deadline := time.Now().Add(patience)
	for wait := retryBase; ; wait = min(2*wait, retryMax) {
		err := o.sender.send(ctx, b.request)
		if err == nil {
			o.well()
			return
		}
		var refused *otlp.Refusal
		if errors.As(err, &refused) || time.Now().After(deadline) || ctx.Err() != nil {
			o.dropped.Add(uint64(b.n))
			o.say(err, uint64(b.n))
			return
		}
		o.say(err, 0)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// say reports a failure, but not too often; how much was dropped adds up in between.
func (o *outlet) say(err error, dropped uint64) {
	o.untold += dropped
	if time.Since(o.told) < silence {
		return
	}
	o.log.Warn("a collector does not take what the proxy sends; the proxy goes on, and what does not fit into the queue is dropped",
		"collector", o.name, "signal", o.signal, "dropped", o.untold+o.full.Swap(0), "err", err)
	o.told, o.untold, o.failing = time.Now(), 0, true
}

func (o *outlet) well() {
	lost := o.untold + o.full.Load()
	if !o.failing && lost == 0 || time.Since(o.told) < silence && lost > 0 && !o.failing {
		return
	}
	o.full.Store(0)
	o.log.Info("a collector takes again what the proxy sends", "collector", o.name, "signal", o.signal, "dropped", lost)
	o.told, o.untold, o.failing = time.Now(), 0, false
}

// export sends by OTLP.
type export struct{ client *otlp.Client }

func (e *export) send(ctx context.Context, request []byte) error { return e.client.Send(ctx, request) }
func (e *export) close()                                         { e.client.Close() }

// broken stands for a collector that cannot be used as it is described.
type broken struct{ err error }

func (b broken) send(context.Context, []byte) error { return otlp.Refuse(b.err) }
func (broken) close()                               {}

// count is how many log records or spans a request has: both lie in the second field of the second field of the first.
func count(request []byte) int {
	n := 0
	each(request, 1, func(resource []byte) {
		each(resource, 2, func(scope []byte) {
			each(scope, 2, func([]byte) { n++ })
		})
	})
	return n
}

// each visits the messages in one field, as far as the encoding is valid.
func each(msg []byte, field protowire.Number, visit func([]byte)) {
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return
		}
		m := protowire.ConsumeFieldValue(num, typ, msg[n:])
		if m < 0 {
			return
		}
		if num == field && typ == protowire.BytesType {
			if v, k := protowire.ConsumeBytes(msg[n:]); k > 0 {
				visit(v)
			}
		}
		msg = msg[n+m:]
	}
}
