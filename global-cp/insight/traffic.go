package insight

import (
	"context"
	"encoding/json"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/zonesync"
)

// Traffic implements rest.Traffic: what the zones tell of the traffic that their proxies send in a mesh. A zone speaks of itself only.
func (b *Board) Traffic(_ context.Context, meshName string) (mesh.TrafficReport, error) {
	out := mesh.TrafficReport{Items: []mesh.Traffic{}}
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, z := range b.zones {
		for k, value := range z.facts {
			port, ok := zonesync.FactOfTraffic(k)
			if !ok {
				continue
			}
			kri, err := resource.ParseKRI(port)
			if err != nil || kri.Mesh != meshName {
				continue
			}
			var told zonesync.Traffic
			if json.Unmarshal(value, &told) != nil {
				continue
			}
			for _, t := range told.Items {
				t.Service, t.FromZone, t.AsOf, t.Stale = port, name, told.AsOf, !z.Status.Online
				out.Items = append(out.Items, t)
				out.Window = max(out.Window, t.Seconds)
			}
		}
	}
	mesh.SortTraffic(out.Items)
	return out, nil
}
