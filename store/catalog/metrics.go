package catalog

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/store"
)

type metrics struct {
	commits   *prometheus.HistogramVec
	lag       prometheus.Histogram
	reloads   prometheus.Counter
	slowReads prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, c *Catalog) *metrics {
	m := &metrics{
		commits: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "causeway_catalog_commit_seconds", Help: "Time the store took for a commit, by outcome.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}, []string{"outcome"}),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "causeway_catalog_lag_seconds", Help: "Time from a commit to its visibility in memory.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
		reloads: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "causeway_catalog_reloads_total", Help: "Times the whole store was read again after a fork or a compaction.",
		}),
		slowReads: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "causeway_catalog_slow_reads_total", Help: "Commits whose writer stopped waiting for their visibility.",
		}),
	}
	if reg == nil {
		return m
	}
	reg.MustRegister(m.commits, m.lag, m.reloads, m.slowReads,
		gauge("causeway_catalog_revision", "Revision of the store that memory shows.", func() float64 { return float64(c.Snapshot().position.Revision) }),
		gauge("causeway_catalog_set_aside", "Stored objects that cannot be read.", func() float64 { return float64(c.Snapshot().aside.Len()) }),
		gauge("causeway_catalog_store_available", "1 when the store can be written as far as is known.", func() float64 {
			if c.Available() != nil {
				return 0
			}
			return 1
		}))
	return m
}

func gauge(name, help string, fn func() float64) prometheus.GaugeFunc {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, fn)
}

func (m *metrics) observeCommit(took time.Duration, err error) {
	outcome := "ok"
	switch {
	case err == nil:
	case errors.Is(err, store.ErrConflict):
		outcome = "conflict"
	case errors.Is(err, store.ErrUnavailable):
		outcome = "unavailable"
	case errors.Is(err, store.ErrUnknownOutcome):
		outcome = "unknown"
	default:
		outcome = "error"
	}
	m.commits.WithLabelValues(outcome).Observe(took.Seconds())
}
