package zonecp

import (
	"context"
	"encoding/json"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// inspector tells what the zone computed for a proxy.
type inspector struct{ zone *Zone }

// Config implements rest.Inspector and uplink.Inspector.
func (i inspector) Config(ctx context.Context, dp resource.Resource) (json.RawMessage, error) {
	if i.zone.engine == nil {
		return nil, resource.ErrNotFound // the API is up before the engine
	}
	t, problems, err := i.zone.engine.Inspect(ctx, dp.Key())
	if err != nil {
		return nil, err
	}
	return envoy.Render(t, problems)
}
