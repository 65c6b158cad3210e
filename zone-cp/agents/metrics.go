package agents

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	enrollments *prometheus.CounterVec
	signed      *prometheus.CounterVec
	unknown     prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, r *Registry) *metrics {
	m := &metrics{
		enrollments: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_agent_enrollments_total", Help: "Enrollments of dataplane agents by gRPC code.",
		}, []string{"code"}),
		signed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_identity_requests_total", Help: "Signing requests of workloads by outcome.",
		}, []string{"outcome"}),
		unknown: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "causeway_agent_unknown_messages_total", Help: "Messages of agents that this version does not know and ignored.",
		}),
	}
	if reg == nil {
		return m
	}
	connected := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "causeway_agents_connected", Help: "Dataplane agents with an open session.",
	}, func() float64 {
		r.mu.Lock()
		defer r.mu.Unlock()
		return float64(len(r.live))
	})
	reg.MustRegister(m.enrollments, m.signed, m.unknown, connected)
	return m
}
