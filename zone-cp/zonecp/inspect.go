package zonecp

import (
	"context"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/inquiry"
	"github.com/causeway-mesh/causeway/api/resource"
)

// inspector tells what the zone computed for a proxy, and what its Envoy says.
type inspector struct{ zone *Zone }

// Inspect implements rest.Inspector and uplink.Inspector.
func (i inspector) Inspect(ctx context.Context, dp resource.Resource, q *inquiry.Question) ([]byte, error) {
	if i.zone.engine == nil {
		return nil, inquiry.Failf("the control plane of zone %s has just started; try again", i.zone.cfg.Zone)
	}
	q.Mesh, q.Name = dp.Mesh, dp.Name
	switch q.GetWhat() {
	case inquiry.WhatConfig:
		t, problems, err := i.zone.engine.Inspect(ctx, dp.Key())
		if err != nil {
			return nil, err
		}
		return envoy.Render(t, problems)
	case inquiry.WhatDump, inquiry.WhatStats, inquiry.WhatClusters:
		return i.zone.agents.Ask(ctx, dp.Key(), q)
	}
	return nil, inquiry.Failf("zone %s does not know what %s is; upgrade it", i.zone.cfg.Zone, resource.Quote(q.GetWhat()))
}
