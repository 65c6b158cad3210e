package zones

import (
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/test/testmesh"
)

// soon is within how long traffic leaves what is dead: two probes that fail, one a second, and what a busy machine adds.
const soon = 8 * time.Second

// testGateways: traffic leaves a zone whose ingress is dead, and a zone that is dead altogether, within seconds; global is not
// needed for that. When they are back traffic returns, and requests that are under way elsewhere stay there.
func testGateways(t *testing.T, c *continent) {
	c.well(false, false)
	c.untilServed(t, c.client, "south", "west")
	for _, k := range []struct {
		what, zone, other string
		whole             bool // all of the zone dies
		before            func(testing.TB)
	}{
		{"a gateway dies", "west", "south", false, nil},
		{"a zone dies", "south", "west", true, nil},
		{"a gateway dies, without global", "west", "south", false, c.HaltGlobal},
		{"a zone dies, without global", "south", "west", true, nil},
	} {
		if !t.Run(k.what, func(t *testing.T) {
			if k.before != nil {
				k.before(t)
			}
			c.outage(t, k.zone, k.other, k.whole)
		}) {
			return
		}
	}
	c.StartGlobal(t)
	c.well(true, true)
	c.untilServed(t, c.client, "east")
}

// outage takes the ingress of a zone away, or all of it, and gives it back.
func (c *continent) outage(t *testing.T, zone, other string, whole bool) {
	l := c.east.Load(t, c.client, testmesh.Request{Service: "joined"}, 100)
	start := time.Now()
	c.ingress[zone].KillAgent(t)
	if whole {
		c.web[zone].KillAgent(t)
		c.Zone(zone).Halt(t)
	}
	c.east.Within(t, soon, "the client's proxy has withdrawn the gateway", func() (any, bool) {
		up := reaches(t, c.client, c.ingress[zone])
		return up, !up
	})
	gone := time.Since(start)
	c.untilServed(t, c.client, other)
	s, err := c.client.Stream(t, "joined")
	if err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	if whole {
		c.Zone(zone).Start(t)
		c.web[zone].StartAgent(t)
	}
	c.ingress[zone].StartAgent(t)
	c.untilServed(t, c.client, other, zone)
	back := time.Since(start)
	l.More(t, 50)
	if err := s.Echo("still here"); err != nil || zoneOf(s.From) != other {
		t.Errorf("the stream from %s: %v", s.From, err)
	}
	s.Close()
	l.Stop().NoFailure(t)
	t.Logf("withdrawn after %s, back %s after it was started again", gone.Round(time.Millisecond), back.Round(time.Millisecond))
}

// reaches says whether a proxy would send anything to an ingress.
func reaches(t *testing.T, from, ingress *testmesh.Instance) bool {
	t.Helper()
	text, err := from.Admin("/clusters")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if strings.Contains(line, ingress.Direct()+"::health_flags::healthy") {
			return true
		}
	}
	return false
}
