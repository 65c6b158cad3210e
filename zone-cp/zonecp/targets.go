package zonecp

import (
	"cmp"
	"context"
	"net"
	"slices"
	"strconv"

	"github.com/causeway-mesh/causeway/api/rest"
)

// targets tells where Prometheus finds the proxies of the zone: what agents are told to serve.
type targets struct{ zone *Zone }

// Targets implements rest.Targets.
func (t targets) Targets(ctx context.Context, meshName string) ([]rest.Target, error) {
	if t.zone.engine == nil {
		return nil, nil // the API is up before the engine
	}
	told, err := t.zone.engine.Agents(ctx, meshName)
	if err != nil {
		return nil, err
	}
	var out []rest.Target
	for _, messages := range told {
		for _, msg := range messages {
			m := msg.GetMetrics()
			for _, p := range m.GetPrometheus() {
				labels := m.GetLabels()
				target := rest.Target{
					Mesh: labels["mesh"], Zone: labels["zone"], Dataplane: labels["dataplane"], Workload: labels["kuma_workload"], Role: labels["kuma_proxy_role"],
					ClientID: p.GetClientId(), Scheme: "https", Path: p.GetPath(),
					Address: net.JoinHostPort(m.GetAddress(), strconv.FormatUint(uint64(p.GetPort()), 10)),
				}
				if p.GetTls() == "Disabled" {
					target.Scheme = "http"
				}
				out = append(out, target)
			}
		}
	}
	slices.SortFunc(out, func(a, b rest.Target) int {
		return cmp.Or(cmp.Compare(a.Mesh, b.Mesh), cmp.Compare(a.Dataplane, b.Dataplane), cmp.Compare(a.Address, b.Address),
			cmp.Compare(a.Path, b.Path), cmp.Compare(a.ClientID, b.ClientID))
	})
	return slices.Compact(out), nil
}

// Changed implements rest.Targets.
func (t targets) Changed() <-chan struct{} {
	if t.zone.engine == nil {
		return nil
	}
	return t.zone.engine.Progressed()
}
