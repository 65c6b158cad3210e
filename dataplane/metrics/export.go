package metrics

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	metricsv1 "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/dataplane/otlp"
)

// minInterval is the least time between two exports, whatever is asked for.
const minInterval = time.Second

// exportTimeout bounds one export, also when it takes longer than its interval.
const exportTimeout = 30 * time.Second

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
		err := s.exportOnce(ctx, c)
		if ctx.Err() != nil {
			return
		}
		s.judge(name, err)
	}
}

func (s *Server) exportOnce(ctx context.Context, c *agentapi.MetricsCollector) error {
	at, err := settingsOf(c.GetCollector()).Resolve(otlp.Metrics, s.cfg.Env)
	if err != nil {
		return err
	}
	// It is made anew each time: certificates in files are renewed.
	client, err := otlp.Dial(at)
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
	ctx, cancel := context.WithTimeout(ctx, exportTimeout)
	defer cancel()
	m := s.current()
	out := newBatches(m, s.cfg.Version, time.Now(), func(r *metricsv1.MetricsData) error {
		b, err := proto.Marshal(r)
		if err != nil {
			return fmt.Errorf("encode metrics: %w", err)
		}
		return client.Send(ctx, b)
	})
	if err := s.gather(ctx, m, out); err != nil {
		return err
	}
	return out.flush()
}

func settingsOf(c *agentapi.Collector) otlp.Settings {
	return otlp.Settings{
		Given: c.GetGiven(), Address: c.GetAddress(), Port: c.GetPort(), Path: c.GetPath(), Protocol: c.GetProtocol(),
		EnvMode: c.GetEnvMode(), EnvFirst: c.GetEnvFirst(), SignalOverrides: c.GetSignalOverrides(),
	}
}
