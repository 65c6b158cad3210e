package zones

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

const timeout = `
type: MeshTimeout
mesh: default
name: slow
spec:
  targetRef: {kind: Mesh}
  to: [{targetRef: {kind: Mesh}, default: {connectionTimeout: 3s}}]
`

// stored finds a resource in a zone by the name that its owner gave.
func stored(m *testmesh.Mesh, typ, name, zone string) (resource.Resource, bool) {
	var out resource.Resource
	found := false
	m.ControlPlane().Catalog().Snapshot().Each(typ, "", func(r resource.Resource) bool {
		if r.DisplayName() == name && r.Zone() == zone {
			out, found = r, true
		}
		return !found
	})
	return out, found
}

func untilStored(t *testing.T, m *testmesh.Mesh, typ, name, zone string, want bool) {
	t.Helper()
	m.Until(t, fmt.Sprintf("zone %s has %s %s of zone %q: %t", m.Zone.Name, typ, name, zone, want), func() (any, bool) {
		r, ok := stored(m, typ, name, zone)
		return r.Meta, ok == want
	})
}

// What is written at global is in every zone, what a zone writes is at global and, where it concerns others, in the other zones.
//
// Acceptance: M sync: what travels from global to zones, from a zone to global and to other zones
func TestWritesTravel(t *testing.T) {
	f := testmesh.Federate(t, testmesh.FederationOptions{}, "east", "west")
	east, west := f.Zone("east"), f.Zone("west")

	f.Apply(t, timeout)
	untilStored(t, east, "MeshTimeout", "slow", "", true)
	untilStored(t, west, "MeshTimeout", "slow", "", true)
	r, _ := stored(west, "MeshTimeout", "slow", "")
	if r.Label(resource.LabelOrigin) != resource.OriginGlobal || r.Name == "slow" {
		t.Errorf("the copy in the zone is %+v, want origin global and a name of its own", r.Meta)
	}
	f.Delete(t, "MeshTimeout", "slow")
	untilStored(t, east, "MeshTimeout", "slow", "", false)
	untilStored(t, west, "MeshTimeout", "slow", "", false)

	west.Apply(t, `
type: MeshService
mesh: default
name: web
labels: {team: a}
spec:
  selector: {dataplaneLabels: {matchLabels: {app: web}}}
  ports: [{port: 80, appProtocol: http}]
---
type: MeshZoneAddress
mesh: default
name: ingress
spec: {address: 192.0.2.7, port: 10001}
`)
	untilStored(t, east, "MeshService", "web", "west", true)
	untilStored(t, east, "MeshZoneAddress", "ingress", "west", true)
	copied, _ := stored(east, "MeshService", "web", "west")
	own, _ := stored(west, "MeshService", "web", "west")
	if copied.UID != own.UID || string(copied.Raw) != string(own.Raw) || copied.Label("team") != "a" {
		t.Errorf("the copy differs from its original:\n%+v %s\n%+v %s", copied.Meta, copied.Raw, own.Meta, own.Raw)
	}
	west.Until(t, "global shows what the zone says of its service", func() (any, bool) {
		var at struct {
			Spec struct {
				State mesh.ServiceState `json:"state"`
			} `json:"spec"`
		}
		ok := f.Read(t, "MeshService", resource.SyncedName("default", "web", "west", ""), &at)
		return at, ok && at.Spec.State == mesh.Unavailable // nobody serves it
	})
	west.Delete(t, "MeshService", "web")
	untilStored(t, east, "MeshService", "web", "west", false)
	untilStored(t, east, "MeshZoneAddress", "ingress", "west", true)
}

// What a control plane has as a copy it neither deletes nor replaces: the owner is named, and everything stays as it is.
//
// Acceptance: M validation: what another control plane owns is neither deleted nor replaced, at global and in zones
func TestCopiesBelongToTheirOwners(t *testing.T) {
	f := testmesh.Federate(t, testmesh.FederationOptions{}, "east", "west")
	east, west := f.Zone("east"), f.Zone("west")
	f.Apply(t, timeout)
	east.Apply(t, named("MeshService", "web"))
	untilStored(t, west, "MeshTimeout", "slow", "", true)
	untilStored(t, west, "MeshService", "web", "east", true)
	policy, _ := stored(west, "MeshTimeout", "slow", "")
	service := resource.SyncedName("default", "web", "east", "")
	for _, c := range []struct {
		where, typ, name, owner string
		at                      *client.Client
	}{
		{"at global", "MeshService", service, "is written in zones", f.Client()},
		{"in another zone", "MeshService", service, `zone "east"`, west.Client()},
		{"in a zone", "MeshTimeout", policy.Name, "global", west.Client()},
	} {
		kind, _ := api.Kinds().ByName(c.typ)
		old, err := c.at.Get(t.Context(), kind, "default", c.name)
		if err != nil {
			t.Fatalf("%s %s: %v", c.where, c.typ, err)
		}
		if err := c.at.Delete(t.Context(), kind, "default", c.name, client.Precondition{}); err == nil || !strings.Contains(err.Error(), c.owner) {
			t.Errorf("%s a %s is deleted: %v, want a refusal that names %s", c.where, c.typ, err, c.owner)
		}
		if _, err := c.at.Put(t.Context(), kind, "default", c.name, old.Raw, client.Precondition{}); err == nil {
			t.Errorf("%s a %s is replaced", c.where, c.typ)
		}
		if now, err := c.at.Get(t.Context(), kind, "default", c.name); err != nil || string(now.Raw) != string(old.Raw) {
			t.Errorf("%s a %s has changed: %v", c.where, c.typ, err)
		}
	}
}

// A policy that names a collector which does not exist says so, at global and in the zone, and a collector says who names it.
func TestMissingCollectorIsTold(t *testing.T) {
	f := testmesh.Federate(t, testmesh.FederationOptions{}, "east")
	east := f.Zone("east")
	said := func(api testmesh.API, typ, name string, status mesh.ConditionStatus, message string) func() (any, bool) {
		return func() (any, bool) {
			var at struct {
				Status struct {
					Conditions []mesh.Condition `json:"conditions"`
				} `json:"status"`
			}
			api.Read(t, typ, name, &at)
			list := at.Status.Conditions
			return list, len(list) == 1 && list[0].Status == status && strings.Contains(list[0].Message, message)
		}
	}
	synced := func(typ, name string) string {
		untilStored(t, east, typ, name, "", true)
		r, _ := stored(east, typ, name, "")
		return r.Name
	}
	f.Apply(t, "type: MeshTrace\nmesh: default\nname: all\nspec:\n  default:\n    backends:\n"+
		"    - {type: OpenTelemetry, openTelemetry: {backendRef: {kind: MeshOpenTelemetryBackend, labels: {kuma.io/display-name: main}}}}\n")
	inZone := synced("MeshTrace", "all")
	east.Until(t, "global misses the collector", said(f.API, "MeshTrace", "all", mesh.False, "kuma.io/display-name=main"))
	east.Until(t, "the zone misses the collector", said(east.API, "MeshTrace", inZone, mesh.False, "kuma.io/display-name=main"))
	f.Apply(t, "type: MeshOpenTelemetryBackend\nmesh: default\nname: main\nspec: {endpoint: {address: 192.0.2.1}}\n")
	collector := synced("MeshOpenTelemetryBackend", "main")
	east.Until(t, "global has the collector", said(f.API, "MeshTrace", "all", mesh.True, ""))
	east.Until(t, "the zone has the collector", said(east.API, "MeshTrace", inZone, mesh.True, ""))
	east.Until(t, "global says who names it", said(f.API, "MeshOpenTelemetryBackend", "main", mesh.True, "MeshTrace all"))
	east.Until(t, "the zone says who names it", said(east.API, "MeshOpenTelemetryBackend", collector, mesh.True, "MeshTrace "+inZone))
	f.Delete(t, "MeshTrace", "all")
	east.Until(t, "nobody names it", said(f.API, "MeshOpenTelemetryBackend", "main", mesh.False, "no policy"))
}

// A zone knows after its restart what it knew before, without global; what changed meanwhile comes when global is back.
func TestZoneStartsWithoutGlobal(t *testing.T) {
	f := testmesh.Federate(t, testmesh.FederationOptions{Store: "embedded"}, "east")
	east := f.Zone("east")
	f.Apply(t, timeout)
	untilStored(t, east, "MeshTimeout", "slow", "", true)
	f.HaltGlobal(t)
	east.Halt(t)
	east.Start(t)
	untilStored(t, east, "MeshTimeout", "slow", "", true)
	east.Apply(t, "type: MeshService\nmesh: default\nname: api\nspec: {selector: {dataplaneLabels: {matchLabels: {app: api}}}, ports: [{port: 80}]}\n")
	f.StartGlobal(t)
	f.UntilLinked(t, "east")
	east.Until(t, "global has the service that was written meanwhile", func() (any, bool) {
		n := 0
		f.GlobalPlane().Catalog().Snapshot().Each(mesh.TypeMeshService, "default", func(resource.Resource) bool {
			n++
			return true
		})
		return n, n == 1
	})
	f.Delete(t, "MeshTimeout", "slow")
	untilStored(t, east, "MeshTimeout", "slow", "", false)
}

// An operator asks global what a proxy of a zone gets; the answer, which is large, comes on a stream of its own.
func TestGlobalShowsWhatAProxyGets(t *testing.T) {
	f := testmesh.Federate(t, testmesh.FederationOptions{}, "east")
	east := f.Zone("east")
	east.Apply(t, `
type: Dataplane
mesh: default
name: client
networking: {address: 192.0.2.1, transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001}}
`)
	const services = 300
	var text strings.Builder
	for i := range services {
		fmt.Fprintf(&text, "---\ntype: MeshService\nmesh: default\nname: web-%d\nspec: {selector: {dataplaneLabels: {matchLabels: {app: web}}}, ports: [{port: 80, appProtocol: http}]}\n", i)
	}
	east.Apply(t, text.String())
	var config struct {
		XDS map[string]map[string]json.RawMessage `json:"xds"`
	}
	path := "/meshes/default/dataplanes/" + resource.SyncedName("default", "client", "east", "") + "/_config"
	const clusters = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	f.Zone("east").Until(t, "global shows all clusters of the proxy", func() (any, bool) {
		answer, err := f.Client().Do(t.Context(), client.Request{Method: http.MethodGet, Path: path})
		if err == nil {
			err = json.Unmarshal(answer.Body, &config)
		}
		n := 0
		for name := range config.XDS[clusters] {
			if strings.HasPrefix(name, "kri_msvc_") {
				n++
			}
		}
		return fmt.Sprintf("%d clusters, %v", n, err), n == services
	})
	east.Halt(t)
	f.Zone("east").Until(t, "global says that the zone is away", func() (any, bool) {
		_, err := f.Client().Do(t.Context(), client.Request{Method: http.MethodGet, Path: path})
		return err, err != nil && strings.Contains(err.Error(), "zone east is not connected")
	})
}
