package zones

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/dataplane/agent"
	"github.com/causeway-mesh/causeway/test/testmesh"
	"github.com/causeway-mesh/causeway/zone-cp/zonecp"
)

// often makes an agent report its traffic twice in a second.
func often(c *agent.Config) { c.LoadInterval = 500 * time.Millisecond }

// What proxies send is counted per service, pair of zones and priority, and shown by their zone and by global. When the instances of a
// zone fail, the numbers move from the pair within the zone at priority 0 to the pair with the other zone at priority 1, and back. What is
// counted outlives sessions: after the zone has started again the numbers are there without a step.
func TestTrafficInNumbers(t *testing.T) {
	t.Parallel()
	f := testmesh.Federate(t, testmesh.FederationOptions{Store: "embedded", ConfigureZone: func(_ string, c *zonecp.Config) {
		c.TrafficWindow = 3 * time.Second
	}}, "east", "west")
	east, west := f.Zone("east"), f.Zone("west")
	f.Apply(t, identities+"---"+everywhere+"---"+permit("web", "web", "spiffe://default.*")+"---"+retryNothing)
	west.Workload(t, web("west", 1, nil))
	west.Ingress(t, testmesh.Workload{Name: "ingress-1"})
	all := east.Workloads(t, testmesh.Workload{Name: "client-1", Configure: often}, web("east", 1, nil))
	from, local := all[0], all[1]
	from.Reach(t, "web.west")
	from.Reach(t, "joined")
	stop := keepSending(t, from, "joined")
	defer stop()

	has := func(c *client.Client, to string, priority uint32, cond func(mesh.Traffic) bool) func() (any, bool) {
		return func() (any, bool) {
			report, err := c.Traffic(t.Context(), "default", url.Values{"service": {"joined"}})
			for _, i := range report.Items {
				if i.FromZone == "east" && i.ToZone == to && i.Priority == priority && cond(i) {
					return i, true
				}
			}
			return fmt.Sprintf("%+v %v", report, err), false
		}
	}
	// What a request has in bytes is its body and some headers, which HTTP/2 compresses.
	weighs := func(i mesh.Traffic) bool {
		each := float64(i.BytesSent) / float64(i.Requests)
		return each > 0.8*bodyOfSent && each < 1.5*bodyOfSent && i.BytesReceived > 0
	}
	flows := func(i mesh.Traffic) bool {
		return i.Requests > 20 && i.RequestsPerSecond > 5 && weighs(i) && !i.BytesShared
	}
	both := map[string]*client.Client{"zone east": east.Client(), "global": f.Client()}
	for name, c := range both {
		east.Until(t, name+" counts requests within east", has(c, "east", 0, flows))
	}
	local.App.SetWell(false)
	for name, c := range both {
		east.Until(t, name+" counts requests from east to west", has(c, "west", 1, flows))
		east.Until(t, name+" forgets what is over", func() (any, bool) {
			state, still := has(c, "east", 0, func(i mesh.Traffic) bool { return i.Requests > 0 })()
			return state, !still
		})
	}
	local.App.SetWell(true)
	for name, c := range both {
		east.Until(t, name+" counts requests within east again", has(c, "east", 0, flows))
	}
	// While both zones are used, what cannot be told apart is said to be divided.
	f.Apply(t, anyZone)
	shared := func(i mesh.Traffic) bool { return i.Requests > 20 && weighs(i) && i.BytesShared }
	for name, c := range both {
		east.Until(t, name+" counts both at once", func() (any, bool) {
			near, within := has(c, "east", 0, shared)()
			far, across := has(c, "west", 0, shared)()
			return []any{near, far}, within && across
		})
	}
	f.Delete(t, "MeshLoadBalancingStrategy", "any")
	for name, c := range both {
		east.Until(t, name+" counts exactly again", has(c, "east", 0, flows))
	}
	// A zone knows what its own proxies send and nothing else.
	if report, err := west.Client().Traffic(t.Context(), "default", url.Values{"fromZone": {"east"}}); err != nil || len(report.Items) > 0 {
		t.Errorf("west says of east: %+v %v", report, err)
	}
	east.Halt(t)
	east.Until(t, "global says that what it knows is old", has(f.Client(), "east", 0, func(i mesh.Traffic) bool { return i.Stale }))
	east.Start(t)
	east.Until(t, "the zone counts after it has started again", has(east.Client(), "east", 0, func(i mesh.Traffic) bool {
		// What was sent while it was away is of the time in which it was sent, and no burst.
		return flows(i) && i.RequestsPerSecond < 500
	}))
	east.Until(t, "global counts, too", has(f.Client(), "east", 0, func(i mesh.Traffic) bool { return flows(i) && !i.Stale }))
}

// retryNothing keeps retries of the first moments from being counted.
const retryNothing = `
type: MeshRetry
mesh: default
name: none
spec: {to: [{targetRef: {kind: Mesh}, default: {http: {numRetries: 0}}}]}
`

// anyZone makes endpoints of all zones equal.
const anyZone = `
type: MeshLoadBalancingStrategy
mesh: default
name: any
spec: {to: [{targetRef: {kind: Mesh}, default: {localityAwareness: {disabled: true}}}]}
`

// bodyOfSent is how many bytes keepSending sends as the body of a request.
const bodyOfSent = 1000

// keepSending sends a request after the other until it is stopped.
func keepSending(t *testing.T, from *testmesh.Instance, service string) (stop func()) {
	t.Helper()
	address := from.Address(t, service)
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_, _ = from.Try(t, testmesh.Request{Service: service, Address: address, Method: http.MethodPost, Body: strings.Repeat("x", bodyOfSent)}) // failing is not what is tested
			case <-ctx.Done():
				return
			}
		}
	})
	return sync.OnceFunc(func() {
		cancel()
		done.Wait()
	})
}
