package xds

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/api/envoy"
)

type metrics struct {
	streams prometheus.Gauge
	nacks   prometheus.Counter
	// By type, looked up once: every response counts.
	responses, resources, bytes [envoy.NumTypes]prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		streams: prometheus.NewGauge(prometheus.GaugeOpts{Name: "causeway_xds_streams", Help: "Open ADS streams."}),
		nacks:   prometheus.NewCounter(prometheus.CounterOpts{Name: "causeway_xds_nacks_total", Help: "Responses that proxies refused."}),
	}
	all := []prometheus.Collector{m.streams, m.nacks}
	for _, v := range []struct {
		name, help string
		by         *[envoy.NumTypes]prometheus.Counter
	}{
		{"causeway_xds_responses_total", "Responses sent, by type.", &m.responses},
		{"causeway_xds_resources_total", "Resources sent, by type.", &m.resources},
		{"causeway_xds_sent_bytes_total", "Bytes of responses sent, by type.", &m.bytes},
	} {
		vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: v.name, Help: v.help}, []string{"type"})
		for t := range envoy.NumTypes {
			v.by[t] = vec.WithLabelValues(t.String())
		}
		all = append(all, vec)
	}
	if reg != nil {
		reg.MustRegister(all...)
	}
	return m
}

func (m *metrics) sent(r *Response) {
	m.responses[r.Type].Inc()
	m.resources[r.Type].Add(float64(r.Len()))
	m.bytes[r.Type].Add(float64(r.Size()))
}

func versionString(major, minor, patch uint32) string {
	return fmt.Sprintf("%d.%d.%d", major, minor, patch)
}
