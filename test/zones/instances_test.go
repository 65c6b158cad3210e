package zones

import (
	"encoding/base64"
	"testing"

	"github.com/causeway-mesh/causeway/global-cp/globalcp"
	"github.com/causeway-mesh/causeway/store/backend"
	"github.com/causeway-mesh/causeway/store/seal"
	"github.com/causeway-mesh/causeway/test/pg"
	"github.com/causeway-mesh/causeway/test/testmesh"
	"github.com/causeway-mesh/causeway/zone-cp/zonecp"
)

// Two instances of global on one PostgreSQL, a zone at each: what is written through either, or by either zone, is everywhere; each
// shows both zones as they are; and a zone whose instance dies goes on at the other.
func TestInstancesOfGlobalAreOne(t *testing.T) {
	key, err := seal.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	var first, second *testmesh.Global
	f := testmesh.Federate(t, testmesh.FederationOptions{
		Store: backend.Postgres, DSN: pg.Database(t),
		ConfigureGlobal: func(c *globalcp.Config) {
			c.Store.Keys = key.ID + ":" + base64.StdEncoding.EncodeToString(key.Secret)
		},
		ConfigureZone: func(zone string, c *zonecp.Config) {
			c.Global.Addresses = []string{first.ZonesAddress(), second.ZonesAddress()}
			if zone == "west" {
				c.Global.Addresses = []string{second.ZonesAddress(), first.ZonesAddress()}
			}
		},
	})
	first, second = f.Global, f.Another(t)
	east, west := f.Join(t, "east"), f.Join(t, "west")
	f.UntilLinked(t, "east")
	f.UntilLinked(t, "west")

	first.Apply(t, timeout)
	untilStored(t, west, "MeshTimeout", "slow", "", true)
	second.Delete(t, "MeshTimeout", "slow")
	untilStored(t, east, "MeshTimeout", "slow", "", false)
	west.Apply(t, "type: MeshService\nmesh: default\nname: web\nspec: {selector: {dataplaneLabels: {matchLabels: {app: web}}}, ports: [{port: 80}]}\n")
	untilStored(t, east, "MeshService", "web", "west", true)

	online := func(g *testmesh.Global, zone string) func() (any, bool) {
		return func() (any, bool) {
			var o struct {
				ZoneInsight struct {
					Online bool `json:"online"`
				} `json:"zoneInsight"`
			}
			ok := g.ZoneOverview(t, zone, &o)
			return o, ok && o.ZoneInsight.Online
		}
	}
	east.Until(t, "the second instance shows the zone of the first as online", online(second, "east"))
	east.Until(t, "the first instance shows the zone of the second as online", online(first, "west"))

	first.HaltGlobal(t)
	second.Apply(t, timeout)
	untilStored(t, east, "MeshTimeout", "slow", "", true)
	east.Apply(t, "type: MeshService\nmesh: default\nname: api\nspec: {selector: {dataplaneLabels: {matchLabels: {app: api}}}, ports: [{port: 80}]}\n")
	untilStored(t, west, "MeshService", "api", "east", true)
}
