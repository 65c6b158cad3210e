// Package telemetry takes access logs and spans that Envoy hands to its agent, and sends them on to collectors: as lines over TCP,
// or by OTLP. A collector that is slow or away never holds up Envoy: what does not fit into a bounded queue is dropped, counted and
// said. Which collector is meant stands in a header of each request; what a collector is was decided by the zone.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/dataplane/otlp"
)

// Bounds of what is kept for collectors.
const (
	maxOutlets = 32
	maxRequest = 4 << 20 // bytes of one request
	maxQueued  = 4 << 20 // bytes that wait for one collector
	maxBatches = 256
)

// The life of what is kept for a collector.
const (
	idle = 10 * time.Minute
	// farewell is how long collectors get, at the end, to take what waits for them.
	farewell = 2 * time.Second
)

// A Forwarder sends on what Envoy hands to it.
type Forwarder struct {
	env map[string]string
	log *slog.Logger

	mu      sync.Mutex
	life    context.Context // nil before Run and at the end
	outlets map[key]*outlet
	running sync.WaitGroup
	dropped uint64
}

// A key names an outlet: a collector as the header has it, and what it gets.
type key struct {
	collector string
	signal    otlp.Signal
}

// New makes a forwarder. Env holds the OTEL_* variables beside the agent.
func New(env map[string]string, log *slog.Logger) *Forwarder {
	return &Forwarder{env: env, log: log, outlets: map[key]*outlet{}}
}

// A registrar offers services.
type registrar interface {
	RegisterService(*grpc.ServiceDesc, any)
}

// Register offers the services that Envoy exports to.
func (f *Forwarder) Register(r registrar) {
	for signal, name := range map[otlp.Signal]string{
		otlp.Logs:   "opentelemetry.proto.collector.logs.v1.LogsService",
		otlp.Traces: "opentelemetry.proto.collector.trace.v1.TraceService",
	} {
		r.RegisterService(&grpc.ServiceDesc{
			ServiceName: name, HandlerType: (*any)(nil),
			Methods: []grpc.MethodDesc{{MethodName: "Export", Handler: f.handler(signal)}},
		}, f)
	}
}

func (f *Forwarder) handler(signal otlp.Signal) grpc.MethodHandler {
	return func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		// A message without fields keeps what it gets as it is.
		m := &emptypb.Empty{}
		if err := decode(m); err != nil {
			return nil, err
		}
		headers := metadata.ValueFromIncomingContext(ctx, mesh.CollectorHeader)
		if len(headers) != 1 {
			return nil, status.Errorf(codes.InvalidArgument, "the header %s must be there once", mesh.CollectorHeader)
		}
		if err := f.take(key{headers[0], signal}, m.ProtoReflect().GetUnknown()); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		return &emptypb.Empty{}, nil
	}
}

// take queues a request. An error says that nobody could ever take it.
func (f *Forwarder) take(k key, request []byte) error {
	n := count(request)
	if len(request) > maxRequest {
		f.lost(n)
		return fmt.Errorf("the request has %d bytes, at most %d are taken", len(request), maxRequest)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.life == nil {
		return errors.New("the agent ends")
	}
	o := f.outlets[k]
	if o == nil {
		if len(f.outlets) >= maxOutlets {
			f.dropped += uint64(n)
			return fmt.Errorf("there are %d collectors already", maxOutlets)
		}
		var err error
		if o, err = f.open(k); err != nil {
			f.dropped += uint64(n)
			return err
		}
	}
	f.dropped += o.put(batch{request, n})
	return nil
}

// open starts sending to a collector.
func (f *Forwarder) open(k key) (*outlet, error) {
	to, err := mesh.ParseCollector(k.collector)
	if err != nil {
		return nil, err
	}
	if to.TCP != "" && k.signal != otlp.Logs {
		return nil, fmt.Errorf("a TCP collector takes no %s", k.signal)
	}
	o := &outlet{signal: k.signal, queue: make(chan batch, maxBatches), log: f.log}
	if to.TCP != "" {
		o.name = "tcp://" + to.TCP
		o.sender = &lines{address: to.TCP}
	} else if o.sender, o.name, err = f.collector(k.signal, to.OpenTelemetry); err != nil {
		// It is kept all the same, so that what is wrong is said now and then and not with every request.
		o.name, o.sender = string(k.signal), broken{err}
	}
	f.outlets[k] = o
	life := f.life
	f.running.Go(func() { o.run(life, func() bool { return f.retire(k, o) }) })
	return o, nil
}

func (f *Forwarder) collector(signal otlp.Signal, b *mesh.MeshOpenTelemetryBackend) (sender, string, error) {
	target, err := settings(b).Resolve(signal, f.env)
	if err != nil {
		return nil, "", err
	}
	c, err := otlp.Dial(target)
	if err != nil {
		return nil, "", err
	}
	return &export{c}, target.String(), nil
}

// settings are what the mesh says of a collector.
func settings(b *mesh.MeshOpenTelemetryBackend) otlp.Settings {
	s := otlp.Settings{Protocol: b.Protocol}
	if e := b.Endpoint; e != nil {
		s.Given, s.Address, s.Port, s.Path = true, e.Address, e.Port, e.Path
	}
	if e := b.Env; e != nil {
		s.EnvMode, s.EnvFirst = e.Mode, e.Precedence == "EnvFirst"
		s.SignalOverrides = e.AllowSignalOverrides != nil && *e.AllowSignalOverrides
	}
	return s
}

// retire takes an outlet away that has had nothing to do, unless something came in between.
func (f *Forwarder) retire(k key, o *outlet) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(o.queue) > 0 || f.outlets[k] != o {
		return false
	}
	delete(f.outlets, k)
	return true
}

func (f *Forwarder) lost(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dropped += uint64(n)
}

// Dropped is how many log records and spans were dropped so far because a collector did not take them in time or at all.
func (f *Forwarder) Dropped() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.dropped
	for _, o := range f.outlets {
		n += o.dropped.Load()
	}
	return n
}

// Run sends until ctx ends and, after that, for a moment what is still queued.
func (f *Forwarder) Run(ctx context.Context) error {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	f.mu.Lock()
	f.life = life
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock()
	f.life = nil
	for _, o := range f.outlets {
		close(o.queue) // nothing is put into it any more
	}
	f.mu.Unlock()
	late := time.AfterFunc(farewell, end)
	defer late.Stop()
	f.running.Wait()
	return nil
}
