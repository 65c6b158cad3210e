package zones

import (
	"testing"

	"github.com/causeway-mesh/causeway/test/testmesh"
)

// testVersion: the version of TLS changes for the whole mesh, and requests between zones go on.
//
// Acceptance: M meshtls
func testVersion(t *testing.T, c *continent) {
	l := c.east.Load(t, c.client, testmesh.Request{Service: "web.west", Fresh: true}, 50)
	l.More(t, 20)
	c.Apply(t, "type: MeshTLS\nmesh: default\nname: version\nspec: {rules: [{default: {tlsVersion: {max: TLS12}}}]}\n")
	c.east.Until(t, "TLS 1.2 is spoken between the zones", func() (any, bool) {
		n := c.client.Stat(t, `cluster\.kri_msvc_default_west_.*\.ssl\.versions\.TLSv1\.2`)
		return n, n > 0
	})
	l.More(t, 20)
	c.Delete(t, "MeshTLS", "version")
	l.More(t, 20)
	l.Stop().NoFailure(t)
}

// testDisabled: a zone that is disabled gets no traffic from others, and goes on serving its own.
//
// Acceptance: M zonedisable
func testDisabled(t *testing.T, c *continent) {
	c.well(false, false)
	c.untilServed(t, c.client, "south", "west")
	l := c.east.Load(t, c.client, testmesh.Request{Service: "joined"}, 100)
	c.Enable(t, "west", false)
	c.untilServed(t, c.client, "south")
	c.untilServed(t, c.web["west"], "west")
	c.Enable(t, "west", true)
	c.untilServed(t, c.client, "south", "west")
	l.Stop().NoFailure(t)
	c.well(true, true)
	c.untilServed(t, c.client, "east")
}
