package hub

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/store"
)

type metrics struct {
	links *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer, h *Hub) *metrics {
	m := &metrics{}
	if reg != nil {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "causeway_hub_links", Help: "Zones that are linked to this instance.",
		}, func() float64 { return float64(h.Connected()) }))
	}
	return m
}

func isFenced(err error) bool { return errors.Is(err, store.ErrFenced) }
