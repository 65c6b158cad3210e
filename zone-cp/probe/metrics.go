package probe

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/api/mesh"
)

type metrics struct {
	attempts *prometheus.CounterVec
	took     prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, p *Prober) *metrics {
	m := &metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_probe_attempts_total", Help: "Questions to control planes of other zones through their ingresses, by outcome.",
		}, []string{"outcome"}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "causeway_probe_round_trip_seconds", Help: "How long answers of other zones took.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 12),
		}),
	}
	if reg == nil {
		return m
	}
	reg.MustRegister(m.attempts, m.took, ingresses{p, prometheus.NewDesc(
		"causeway_probe_ingresses", "Ingresses of other zones by state.", []string{"state"}, nil)})
	return m
}

func (m *metrics) attempted(r result) {
	m.attempts.WithLabelValues(r.outcome.String()).Inc()
	if r.outcome == well {
		m.took.Observe(r.took.Seconds())
	}
}

// ingresses counts the ingresses in each state when it is asked.
type ingresses struct {
	prober *Prober
	desc   *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c ingresses) Describe(to chan<- *prometheus.Desc) { to <- c.desc }

// Collect implements prometheus.Collector.
func (c ingresses) Collect(to chan<- prometheus.Metric) {
	counts := map[mesh.ReachabilityState]int{
		mesh.ReachabilityUnknown: 0, mesh.ReachabilityUp: 0, mesh.ReachabilityDown: 0, mesh.ReachabilityReturning: 0,
	}
	for _, z := range c.prober.Reachability() {
		counts[z.State]++
	}
	for state, n := range counts {
		to <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(n), string(state))
	}
}

// responderMetrics counts what a responder does.
type responderMetrics struct{ connections *prometheus.CounterVec }

func newResponderMetrics(reg prometheus.Registerer) responderMetrics {
	m := responderMetrics{prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "causeway_probe_connections_total", Help: "Connections of control planes of other zones, by what became of them.",
	}, []string{"outcome"})}
	if reg != nil {
		reg.MustRegister(m.connections)
	}
	return m
}
