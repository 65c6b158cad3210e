package zones

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// shownService is a service as the API shows it.
type shownService struct {
	Labels map[string]string `json:"labels"`
	Spec   struct {
		State      mesh.ServiceState      `json:"state"`
		Identities []mesh.ServiceIdentity `json:"identities"`
	} `json:"spec"`
	Status mesh.MeshServiceStatus `json:"status"`
}

// Two zones have services of the same names, one as long as a name can be. Global shows for each what its zone says: state, identities, proxies, the
// virtual address and the names that it has there; neither stands in the way of the other, and clients reach both. A service of several zones has
// its members, its condition and its name at global and in the zones, and loses a member with its zone's service.
//
// Acceptance: M meshservice sync
func TestServicesOfEqualNames(t *testing.T) {
	t.Parallel()
	f := testmesh.Federate(t, testmesh.FederationOptions{}, "east", "west")
	long := "catalog-" + strings.Repeat("x", 63-len("catalog-"))
	f.Apply(t, identities+"---"+permit("all", "web", "spiffe://default.*")+"---"+permit("long", long, "spiffe://default.*")+`---
type: MeshMultiZoneService
mesh: default
name: everywhere
spec:
  selector: {meshService: {matchLabels: {team: shop}}}
  ports: [{name: main, port: 80, appProtocol: http}]
---
type: MeshMultiZoneService
mesh: default
name: nowhere
spec:
  selector: {meshService: {matchLabels: {team: none}}}
  ports: [{port: 80}]
`)
	addresses := map[string]map[string]string{}
	clients := map[string]*testmesh.Instance{}
	for _, zone := range []string{"east", "west"} {
		z := f.Zone(zone)
		// What only passes connections on needs no identity, and so none of the labels that those are made of.
		z.Ingress(t, testmesh.Workload{Name: "ingress-1", Service: "-", Token: testmesh.Token{Name: "ingress-1"}})
		z.Workloads(t,
			testmesh.Workload{Name: "web-1", Labels: map[string]string{"team": "shop"}},
			testmesh.Workload{Name: "web-2", Labels: map[string]string{"team": "shop"}},
			testmesh.Workload{Name: "long-1", Service: long})
		clients[zone] = z.Workload(t, testmesh.Workload{Name: "client-1"})
		addresses[zone] = map[string]string{}
	}
	for _, zone := range []string{"east", "west"} {
		for name, proxies := range map[string]int{"web": 2, long: 1} {
			var here, there shownService
			f.Zone(zone).Until(t, fmt.Sprintf("global knows what zone %s says of %s", zone, name), func() (any, bool) {
				z := f.Zone(zone).Read(t, mesh.TypeMeshService, name, &here)
				g := f.Read(t, mesh.TypeMeshService, resource.SyncedName("default", name, zone, ""), &there)
				return fmt.Sprintf("%+v\n%+v", here, there), z && g && there.Spec.State == mesh.Available && there.Status.TLS.Status == mesh.TLSReady &&
					slices.Equal(there.Spec.Identities, here.Spec.Identities) && len(there.Spec.Identities) == 1 &&
					slices.Equal(there.Status.VIPs, here.Status.VIPs) && len(there.Status.VIPs) == 1 &&
					len(there.Status.Addresses) > 0 && len(there.Status.Addresses) == len(here.Status.Addresses) &&
					there.Status.DataplaneProxies.Healthy == proxies
			})
			if there.Labels[resource.LabelDisplayName] != name || there.Labels[resource.LabelZone] != zone {
				t.Errorf("global shows %s of %s with the labels %v", name, zone, there.Labels)
			}
			if want := name + ".svc.mesh.local"; there.Status.Addresses[0].Hostname != want {
				t.Errorf("in %s the service has the name %s, want %s", zone, there.Status.Addresses[0].Hostname, want)
			}
			if len(there.Status.HostnameGenerators) == 0 {
				t.Errorf("global does not say what generators of %s did for %s", zone, name)
			}
			addresses[zone][name] = there.Status.VIPs[0].IP
		}
		if addresses[zone]["web"] == addresses[zone][long] {
			t.Errorf("in %s two services have the address %s", zone, addresses[zone]["web"])
		}
	}
	for zone, other := range map[string]string{"east": "west", "west": "east"} {
		for _, name := range []string{"web", long} {
			if r := clients[zone].Reach(t, name); r.Answer.Caller() != spiffe(zone, "client") || !strings.HasSuffix(r.Answer.Callee(), "."+zone+".mesh.local/workload/"+name) {
				t.Errorf("%s of the own zone was answered by %s", name, r.Answer.Callee())
			}
			if r := clients[zone].Reach(t, name+"."+other); !strings.HasSuffix(r.Answer.Callee(), "."+other+".mesh.local/workload/"+name) {
				t.Errorf("%s of zone %s was answered by %s", name, other, r.Answer.Callee())
			}
		}
	}

	// Services of several zones: at global, in a zone, and after one of the members is gone.
	members := func(zones ...string) {
		t.Helper()
		for where, api := range map[string]testmesh.API{"global": f.API, "east": f.Zone("east").API} {
			for name, want := range map[string][]string{"everywhere": zones, "nowhere": nil} {
				var at struct {
					Status mesh.MeshMultiZoneServiceStatus `json:"status"`
				}
				until(t, fmt.Sprintf("%s is of zones %v at %s", name, want, where), func() (any, bool) {
					api.Find(t, mesh.TypeMeshMultiZoneService, name, &at)
					var found []string
					for _, m := range at.Status.MeshServices {
						if m.Name == "web" && m.Mesh == "default" {
							found = append(found, m.Zone)
						}
					}
					c := at.Status.Conditions
					return fmt.Sprintf("%+v", at), slices.Equal(found, want) && len(c) == 1 && c[0].Type == mesh.ConditionMeshServicesMatched && (c[0].Status == mesh.True) == (len(want) > 0)
				})
				if a := at.Status.Addresses; len(a) != 1 || a[0].Hostname != name+".mzsvc.mesh.local" {
					t.Errorf("%s has the names %v at %s", name, a, where)
				}
			}
		}
	}
	members("east", "west")
	f.Zone("west").Apply(t, "type: MeshService\nmesh: default\nname: web\nspec: {selector: {dataplaneLabels: {matchLabels: {kuma.io/workload: web}}}, ports: [{name: main, port: 80, appProtocol: http}]}\n")
	members("east")
}
