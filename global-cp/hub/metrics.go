package hub

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/store"
)

// register offers the metrics of a hub.
func (h *Hub) register(reg prometheus.Registerer) {
	if reg != nil {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "causeway_hub_links", Help: "Zones that are linked to this instance.",
		}, func() float64 { return float64(h.Connected()) }))
	}
}

func isFenced(err error) bool { return errors.Is(err, store.ErrFenced) }
