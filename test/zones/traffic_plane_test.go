package zones

import (
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/test/testmesh"
)

// A zone whose control plane is away, for a restart or for longer, goes on serving other zones: its proxies are what they need.
func TestZoneServesWithoutItsControlPlane(t *testing.T) {
	t.Parallel()
	f := testmesh.Federate(t, testmesh.FederationOptions{Store: "embedded"}, "east", "west")
	east, west := f.Zone("east"), f.Zone("west")
	f.Apply(t, identities+"---"+permit("far", "far", spiffe("east", "client")))
	west.Ingress(t, testmesh.Workload{Name: "ingress-1", Apart: true})
	west.Workload(t, testmesh.Workload{Name: "far-1", Apart: true})
	client := east.Workload(t, testmesh.Workload{Name: "client-1"})
	client.Reach(t, "far.west")
	l := east.Load(t, client, testmesh.Request{Service: "far.west"}, 50)
	west.Halt(t)
	end := time.Now().Add(5 * time.Second) // two probes that fail took two
	for time.Now().Before(end) {
		l.More(t, 10)
	}
	west.Start(t)
	l.More(t, 100)
	l.Stop().NoFailure(t)
}
