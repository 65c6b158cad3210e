package zonecp

import (
	"context"
	"encoding/json"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/hosting"
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
		return i.config(ctx, dp.Key(), q)
	case inquiry.WhatDump, inquiry.WhatStats, inquiry.WhatClusters:
		return i.zone.agents.Ask(ctx, dp.Key(), q)
	}
	if hosting.Explains(q) {
		var b []byte
		var failed error
		if err := i.zone.engine.Explain(ctx, dp.Key(), func(x *envoy.Explanation) { b, failed = hosting.Explain(x, q) }); err != nil {
			return nil, err
		}
		return b, failed
	}
	return nil, inquiry.Failf("zone %s does not know what %s is; upgrade it", i.zone.cfg.Zone, resource.Quote(q.GetWhat()))
}

// config is what is computed for a proxy, or would be with shadow policies.
func (i inspector) config(ctx context.Context, dp resource.Key, q *inquiry.Question) (json.RawMessage, error) {
	if q.GetShadow() {
		return i.zone.engine.Preview(ctx, dp, q.GetDiff())
	}
	t, problems, err := i.zone.engine.Inspect(ctx, dp)
	if err != nil {
		return nil, err
	}
	b, err := envoy.Render(t, problems)
	if err != nil || !q.GetDiff() {
		return b, err
	}
	return envoy.WithDiff(b, b)
}
