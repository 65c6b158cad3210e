package derive

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	computed         prometheus.Histogram
	writes, failures prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		computed: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "causeway_derive_seconds", Help: "Time to derive the records of the zone anew.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 14),
		}),
		writes:   prometheus.NewCounter(prometheus.CounterOpts{Name: "causeway_derive_writes_total", Help: "Derived records and generated resources written."}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "causeway_derive_failures_total", Help: "Writes of derived records that had to be tried again."}),
	}
	if reg != nil {
		reg.MustRegister(m.computed, m.writes, m.failures)
	}
	return m
}
