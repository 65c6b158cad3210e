package postgres

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	missed     prometheus.Counter
	reconnects prometheus.Counter
	doubts     prometheus.Counter
	group      prometheus.Histogram
	seconds    prometheus.Histogram
}

// newMetrics registers the metrics, or finds those of another store in this process.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		missed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "causeway_store_missed_notifications_total",
			Help: "Changes that the guard query found because no notification came. Anything but 0 is a fault, often a connection pooler.",
		}),
		reconnects: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "causeway_store_listener_reconnects_total",
			Help: "Times the connection that waits for notifications was lost.",
		}),
		doubts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "causeway_store_commit_doubts_total",
			Help: "Commits whose reply was lost, so that the outcome was looked up.",
		}),
		group: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "causeway_store_group_batches",
			Help: "Batches that shared one database transaction.", Buckets: prometheus.ExponentialBuckets(1, 2, 9),
		}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "causeway_store_commit_seconds",
			Help: "Duration of database transactions that commit batches.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
		}),
	}
	if reg == nil {
		return m, nil
	}
	return m, errors.Join(register(reg, &m.missed), register(reg, &m.reconnects), register(reg, &m.doubts), register(reg, &m.group), register(reg, &m.seconds))
}

func register[C prometheus.Collector](reg prometheus.Registerer, c *C) error {
	err := reg.Register(*c)
	if known, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if existing, ok := known.ExistingCollector.(C); ok {
			*c = existing
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("register the metrics of the store: %w", err)
	}
	return nil
}
