package zones

import (
	"testing"

	"github.com/causeway-mesh/causeway/test/netns"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// Every control plane, ingress and workload has a host and an address of its own, every zone a subnet. What breaks are cables: nobody
// refuses or ends a connection, packets vanish.
func TestHosts(t *testing.T) {
	t.Parallel()
	n := netns.Enter(t)
	if n == nil {
		return
	}
	subnets := map[string]byte{"global": 1, "east": 2, "west": 3, "south": 4}
	hosts := map[string][]*netns.Host{}
	place := func(zone string, number byte) testmesh.Place {
		h := n.Host(t, subnets[zone], number)
		hosts[zone] = append(hosts[zone], h)
		return h
	}
	c := newContinent(t, testmesh.FederationOptions{
		Store: "embedded", Place: func(name string) testmesh.Place { return place(name, 2) },
	}, place)
	got := c.client.Reach(t, "web.west").Answer
	if got.Caller() != spiffe("east", "client") || got.Callee() != spiffe("west", "web") {
		t.Errorf("%s was called by %q as %q", got.Instance, got.Caller(), got.Callee())
	}
	testLocalFirst(t, c)
	c.well(false, false)
	c.untilServed(t, c.client, "south", "west")

	each := func(list []*netns.Host, do func(*netns.Host, testing.TB)) {
		for _, h := range list {
			do(h, t)
		}
	}
	plug, unplug := (*netns.Host).Plug, (*netns.Host).Unplug
	gateway := c.ingress["west"].Place.(*netns.Host)
	t.Log("a gateway vanishes")
	c.outage(t, "west", "south", func() { gateway.Unplug(t) }, func() { gateway.Plug(t) }).NoFailure(t)
	t.Log("two zones are parted; the third reaches both")
	c.outage(t, "south", "west", func() {
		n.Part(t, subnets["east"], subnets["south"])
	}, func() {
		c.web["west"].Reach(t, "web.south")
		n.Join(t, subnets["east"], subnets["south"])
	}).NoFailure(t)
	t.Log("global vanishes, then a zone")
	each(hosts["global"], unplug)
	c.outage(t, "west", "south", func() { each(hosts["west"], unplug) }, func() { each(hosts["west"], plug) }).NoFailure(t)
	each(hosts["global"], plug)
	c.well(true, true)
	c.untilServed(t, c.client, "east")
}
