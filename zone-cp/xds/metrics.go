package xds

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	streams   prometheus.Gauge
	nacks     prometheus.Counter
	responses *prometheus.CounterVec
	resources *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		streams:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "causeway_xds_streams", Help: "Open ADS streams."}),
		nacks:     prometheus.NewCounter(prometheus.CounterOpts{Name: "causeway_xds_nacks_total", Help: "Responses that proxies refused."}),
		responses: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "causeway_xds_responses_total", Help: "Responses sent, by type."}, []string{"type"}),
		resources: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "causeway_xds_resources_total", Help: "Resources sent, by type."}, []string{"type"}),
	}
	if reg != nil {
		reg.MustRegister(m.streams, m.nacks, m.responses, m.resources)
	}
	return m
}

func versionString(major, minor, patch uint32) string {
	return fmt.Sprintf("%d.%d.%d", major, minor, patch)
}
