package push

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	took       prometheus.Histogram
	fragments  *prometheus.CounterVec
	last       map[string]uint64
	audits     prometheus.Counter
	difference prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, e *Engine) *metrics {
	m := &metrics{
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "causeway_push_compute_seconds", Help: "Time from taking changes in to publishing tables.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}),
		fragments: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_push_recomputed_total", Help: "Computations run again, by what is computed.",
		}, []string{"what"}),
		audits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "causeway_push_audits_total", Help: "Audits finished.",
		}),
		difference: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "causeway_push_audit_differences_total", Help: "Proxies whose table differed from a computation from scratch. Anything above zero is a bug.",
		}),
		last: map[string]uint64{},
	}
	if reg != nil {
		reg.MustRegister(m.took, m.fragments, m.audits, m.difference, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "causeway_push_sequence", Help: "Newest input sequence that is computed.",
		}, func() float64 { return float64(e.Progress().Sequence) }))
	}
	return m
}

// computed is called by the loop only.
func (m *metrics) computed(took time.Duration, counts map[string]uint64) {
	m.took.Observe(took.Seconds())
	for what, n := range counts {
		if n < m.last[what] {
			m.last[what] = 0 // the graph was rebuilt
		}
		m.fragments.WithLabelValues(what).Add(float64(n - m.last[what]))
		m.last[what] = n
	}
}

func (m *metrics) audited(differences int) {
	m.audits.Inc()
	m.difference.Add(float64(differences))
}
