package zonecp

import (
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/zone-cp/identity"
)

// Authority is what signs for the workloads of the zone; its roots are replaced through it.
func (z *Zone) Authority() *identity.Authority { return z.authority }

// TrustGap lists the connected proxies of a mesh in this zone whose Envoy does not hold the trust bundles that the zone has now.
func (z *Zone) TrustGap(in string) []resource.Key {
	return z.agents.Registry().Snapshot().TrustGap(in, z.authority.Trust(in).Version)
}
