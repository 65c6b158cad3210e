package zones

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/backend"
	"github.com/causeway-mesh/causeway/test/pg"
	"github.com/causeway-mesh/causeway/test/testmesh"
	"github.com/causeway-mesh/causeway/zone-cp/zonecp"
)

// read says what an API has at a path; nothing when it has nothing.
func read(t *testing.T, c *client.Client, path string) string {
	t.Helper()
	resp, err := c.Do(t.Context(), client.Request{Method: http.MethodGet, Path: path})
	if errors.Is(err, resource.ErrNotFound) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(resp.Body)
}

// observed lists the control planes that have a Dataplane of a zone, with how many connections each remembers of it.
func observed(t *testing.T, f *testmesh.Federation, zone, dataplane string) string {
	t.Helper()
	var out []string
	for where, at := range map[string]struct {
		c    *client.Client
		name string
	}{"zone": {f.Zone(zone).Client(), dataplane}, "global": {f.Client(), resource.SyncedName("default", dataplane, zone, "")}} {
		text := read(t, at.c, "/meshes/default/dataplane-insights/"+at.name)
		if text == "" {
			continue
		}
		var i mesh.DataplaneInsight
		if err := json.Unmarshal([]byte(text), &i); err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%s: %d", where, len(i.Subscriptions)))
	}
	if len(out) == 2 && strings.HasPrefix(out[0], "zone") {
		out[0], out[1] = out[1], out[0]
	}
	return strings.Join(out, ", ")
}

func untilObserved(t *testing.T, f *testmesh.Federation, zone, dataplane, want string) {
	t.Helper()
	until(t, fmt.Sprintf("%s of %s is known as %q", dataplane, zone, want), func() (any, bool) {
		got := observed(t, f, zone, dataplane)
		return got, got == want
	})
}

// What is observed of a proxy goes with its Dataplane, in its zone and at global: when its agent says goodbye, and when an operator deletes it
// while global is away. What is observed of a zone, and everything that it owns, goes with its Zone, although its control plane is away and knows
// nothing of it; it does not come back with it, nor after restarts. Who gets the name later begins with nothing.
//
// Acceptance: M ownership
func TestObservationsGoWithWhatTheyAreOf(t *testing.T) {
	for _, store := range []string{backend.Embedded, backend.Postgres} {
		t.Run(store, func(t *testing.T) {
			o := testmesh.FederationOptions{Store: store, ConfigureZone: func(_ string, c *zonecp.Config) {
				c.Agents.DeregisterAfter, c.Store.Type = 200*time.Millisecond, backend.Embedded
			}}
			if store == backend.Postgres {
				o.DSN = pg.Database(t)
			}
			testOwnership(t, testmesh.Federate(t, o, "east", "west"))
		})
	}
}

func testOwnership(t *testing.T, f *testmesh.Federation) {
	east, west := f.Zone("east"), f.Zone("west")
	app := func(name string) string {
		return fmt.Sprintf("type: Dataplane\nmesh: default\nname: %s\nlabels: {kuma.io/workload: web}\nnetworking: {address: 192.0.2.1, inbound: [{port: 80, servicePort: 8080, protocol: http}]}\n", name)
	}
	leaves := east.Workload(t, testmesh.Workload{Name: "web-1"})
	dies := east.Workload(t, testmesh.Workload{Name: "web-2", Apart: true})
	west.Workload(t, testmesh.Workload{Name: "far-1"})
	for zone, names := range map[string][]string{"east": {"web-1", "web-2"}, "west": {"far-1"}} {
		for _, n := range names {
			untilObserved(t, f, zone, n, "global: 1, zone: 1")
		}
	}
	untilStored(t, east, mesh.TypeMeshService, "far", "west", true)

	leaves.Stop(t)
	untilObserved(t, f, "east", "web-1", "")
	east.Apply(t, app("web-1"))
	untilObserved(t, f, "east", "web-1", "global: 0, zone: 0")

	f.HaltGlobal(t)
	dies.Kill(t)
	east.Delete(t, mesh.TypeDataplane, "web-2")
	f.StartGlobal(t)
	untilObserved(t, f, "east", "web-2", "")
	east.Apply(t, app("web-2"))
	untilObserved(t, f, "east", "web-2", "global: 0, zone: 0")

	// The zone is away when its Zone is deleted.
	if err := f.TryDeleteZone(t, "west"); err == nil {
		t.Fatal("a zone that is connected was deleted")
	}
	west.Halt(t)
	until(t, "global sees that the zone is away", func() (any, bool) {
		return nil, !f.GlobalPlane().Board().Online("west")
	})
	if err := f.TryDeleteZone(t, "west"); err != nil {
		t.Fatal(err)
	}
	nothing := func(when string) {
		t.Helper()
		until(t, "nothing is known of the zone "+when, func() (any, bool) {
			var left []string
			f.GlobalPlane().Catalog().Snapshot().Each(mesh.TypeDataplane, "", func(r resource.Resource) bool {
				if r.Zone() == "west" {
					left = append(left, r.Name)
				}
				return true
			})
			for _, path := range []string{"/zones/west", "/zone-insights/west", "/zones/west/_overview", "/meshes/default/dataplane-insights/" + resource.SyncedName("default", "far-1", "west", "")} {
				if s := read(t, f.Client(), path); s != "" {
					left = append(left, s)
				}
			}
			for _, z := range f.GlobalPlane().Board().Names() {
				if z == "west" {
					left = append(left, "observations")
				}
			}
			_, service := stored(east, mesh.TypeMeshService, "far", "west")
			return fmt.Sprint(left, service), len(left) == 0 && !service
		})
	}
	nothing("once it is deleted")
	west.Start(t)
	until(t, "the zone is told that it was deleted", func() (any, bool) {
		s := west.ControlPlane().Uplink().State()
		return fmt.Sprintf("%+v", s), !s.Linked && strings.Contains(fmt.Sprintf("%+v", s), "deleted")
	})
	nothing("when its control plane is back")
	f.HaltGlobal(t)
	f.StartGlobal(t)
	f.UntilLinked(t, "east")
	nothing("after a restart of global")
	east.Halt(t)
	east.Start(t)
	f.UntilLinked(t, "east")
	untilObserved(t, f, "east", "web-1", "global: 0, zone: 0")

	west.Halt(t)
	west = f.Rebuild(t, "west")
	f.UntilLinked(t, "west")
	var i mesh.ZoneInsight
	if err := json.Unmarshal([]byte(read(t, f.Client(), "/zone-insights/west")), &i); err != nil {
		t.Fatal(err)
	}
	if len(i.Subscriptions) != 1 {
		t.Errorf("%d connections are remembered of a zone that has joined just now", len(i.Subscriptions))
	}
	if n := west.Pending(t) + f.Pending(t, "west"); n != 0 {
		t.Errorf("%d removals are pending, want none", n)
	}
}
