package metrics

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	metricsv1 "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/dataplane/collector"
)

// minInterval is the least time between two exports, whatever is asked for.
const minInterval = time.Second

const exportMethod = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"

// export sends metrics to a collector at an interval until ctx ends. What cannot be sent is not kept: sums go on, and the next export has them.
func (s *Server) export(ctx context.Context, c *agentapi.MetricsCollector) {
	name := "collector " + c.GetName()
	defer s.forget(name)
	interval := max(time.Duration(c.GetIntervalMs())*time.Millisecond, minInterval)
	// The proxies of a mesh get their settings at once and should not send at once.
	next := time.NewTimer(rand.N(interval))
	defer next.Stop()
	for {
		select {
		case <-next.C:
		case <-ctx.Done():
			return
		}
		next.Reset(interval)
		err := s.exportOnce(ctx, c, interval)
		if ctx.Err() != nil {
			return
		}
		s.judge(name, err)
	}
}

func (s *Server) exportOnce(ctx context.Context, c *agentapi.MetricsCollector, interval time.Duration) error {
	// The environment and its files are read each time: certificates are renewed.
	at, err := collector.Resolve(c.GetCollector(), collector.Metrics, s.cfg.LookupEnv)
	if err != nil {
		return err
	}
	client, err := collector.Dial(at, exportMethod)
	if err != nil {
		return err
	}
	defer client.Close()
	select {
	case s.scrapes <- struct{}{}:
		defer func() { <-s.scrapes }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, min(interval, time.Minute))
	defer cancel()
	var refused error
	m := s.current()
	out := newBatches(m, s.cfg.Version, time.Now(), func(r *metricsv1.MetricsData) error {
		var reply emptypb.Empty
		if err := client.Send(ctx, r, &reply); err != nil {
			return err
		}
		if n, text := refusal(reply.ProtoReflect().GetUnknown()); n > 0 {
			refused = fmt.Errorf("the collector refused %d data points: %s", n, text)
		}
		return nil
	})
	if err := s.gather(ctx, m, out); err != nil {
		return err
	}
	return errors.Join(out.flush(), refused)
}

// refusal reads the partial success in an answer: field 1, with how many points were refused in 1 and why in 2.
func refusal(answer []byte) (points uint64, text string) {
	var partial []byte
	fields(answer, func(n protowire.Number, _ uint64, b []byte) {
		if n == 1 {
			partial = b
		}
	})
	fields(partial, func(n protowire.Number, v uint64, b []byte) {
		switch n {
		case 1:
			points = v
		case 2:
			text = string(b)
		}
	})
	return points, text
}

// fields visits the numbers and byte strings of a message, as far as it is one.
func fields(b []byte, visit func(n protowire.Number, v uint64, b []byte)) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return
		}
		b = b[n:]
		switch typ {
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return
			}
			visit(num, v, nil)
			b = b[n:]
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return
			}
			visit(num, 0, v)
			b = b[n:]
		default:
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return
			}
			b = b[n:]
		}
	}
}
