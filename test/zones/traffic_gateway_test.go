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
			m, ingress, instance := c.Zone(k.zone), c.ingress[k.zone], c.web[k.zone]
			c.outage(t, k.zone, k.other, func() {
				ingress.KillAgent(t)
				if k.whole {
					instance.KillAgent(t)
					m.Halt(t)
				}
			}, func() {
				if k.whole {
					m.Start(t)
					instance.StartAgent(t)
				}
				ingress.StartAgent(t)
			}).NoFailure(t)
		}) {
			return
		}
	}
	c.StartGlobal(t)
	c.well(true, true)
	c.untilServed(t, c.client, "east")
}

// outage takes the ingress of a zone away and gives it back, and says how requests fare meanwhile.
func (c *continent) outage(t *testing.T, zone, other string, away, back func()) testmesh.Report {
	t.Helper()
	l := c.east.Load(t, c.client, testmesh.Request{Service: "joined"}, 100)
	l.More(t, 20)
	start := time.Now()
	away()
	c.east.Within(t, soon, "the client's proxy has withdrawn the gateway", func() (any, bool) {
		up := reaches(t, c.client, c.ingress[zone])
		return up, !up
	})
	withdrawn := time.Since(start)
	c.untilServed(t, c.client, other)
	s, err := c.client.Stream(t, "joined")
	if err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	back()
	c.untilServed(t, c.client, other, zone)
	returned := time.Since(start)
	l.More(t, 50)
	if err := s.Echo("still here"); err != nil || zoneOf(s.From) != other {
		t.Errorf("the stream from %s: %v", s.From, err)
	}
	s.Close()
	r := l.Stop()
	t.Logf("withdrawn after %s, used again %s after it was back; %s", withdrawn.Round(time.Millisecond), returned.Round(time.Millisecond), r)
	return r
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
