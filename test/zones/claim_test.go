package zones

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/pki"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

func trust(t *testing.T, domain string) string {
	t.Helper()
	ca, _, err := pki.NewRoot("a zone", domain, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(mesh.MeshTrust{TrustDomain: domain, CABundles: []mesh.CABundle{{Type: mesh.CABundlePEM, PEM: &mesh.PEMBundle{Value: string(ca)}}}})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Faults: a zone publishes a bundle for the trust domain of another zone, and an ingress at a loopback address where that is not allowed.
// Outcome: global sets both aside, names them at the zone, and no other zone sees them; what else the zone publishes is taken. A good
// object that becomes such a claim stays as it was. Nothing is deleted.
func TestClaimsOfTrustAndAddresses(t *testing.T) {
	g := newBareGlobal(t, version{})
	east, west := newBareZone(t, "east", g.token("east"), version{}), newBareZone(t, "west", g.token("west"), version{})
	west.until(mesh.TypeMesh, "default", "", true)
	west.put(mesh.TypeMeshTrust, "default", "own", trust(t, "default.west.mesh.local"))
	west.put(mesh.TypeMeshTrust, "default", "stolen", trust(t, "default.east.mesh.local"))
	west.put(mesh.TypeMeshZoneAddress, "default", "good", `{"address":"192.0.2.7","port":10001}`)
	west.put(mesh.TypeMeshZoneAddress, "default", "loop", `{"address":"127.0.0.1","port":10001}`)
	west.put(mesh.TypeMeshZoneAddress, "default", "cloud", `{"address":"169.254.169.254","port":80}`)
	east.until(mesh.TypeMeshTrust, "own", "west", true)
	east.until(mesh.TypeMeshZoneAddress, "good", "west", true)
	g.untilRejected("west", 3, "belongs to zone east")
	g.untilRejected("west", 3, "169.254.169.254")
	g.untilRejected("west", 3, "127.0.0.1")
	for typ, names := range map[string][]string{mesh.TypeMeshTrust: {"stolen"}, mesh.TypeMeshZoneAddress: {"loop", "cloud"}} {
		for _, name := range names {
			if _, ok := east.find(typ, name, "west"); ok {
				t.Errorf("another zone has %s %s", typ, name)
			}
			west.until(typ, name, "west", true)
		}
	}
	west.put(mesh.TypeMeshZoneAddress, "default", "good", `{"address":"127.0.0.1","port":10001}`)
	g.untilRejected("west", 4, "good")
	if r, ok := east.find(mesh.TypeMeshZoneAddress, "good", "west"); !ok || !strings.Contains(string(r.Raw), "192.0.2.7") {
		t.Errorf("in force is %s, want what was before", r.Raw)
	}
}

// Fault: a zone says that it has services of another zone, or adds to them. Outcome: nothing of it is taken, the service of the other
// zone stays as its owner wrote it, and what is published under a foreign name is shown at the zone that did. Nothing is deleted.
func TestForeignServices(t *testing.T) {
	g := newBareGlobal(t, version{})
	east := newBareZone(t, "east", g.token("east"), version{})
	east.until(mesh.TypeMesh, "default", "", true)
	east.put(mesh.TypeMeshService, "default", "web", service)
	g.until(mesh.TypeMeshService, "web", "east", true)
	owned, _ := g.find(mesh.TypeMeshService, "web", "east")

	// A zone that joined as west, and speaks as if it were east.
	evil := newBareZone(t, "west", g.token("west"), version{poses: "east"})
	evil.until(mesh.TypeMesh, "default", "", true)
	evil.put(mesh.TypeMeshService, "default", "web", strings.Replace(service, `"web"`, `"evil"`, 1), "team", "bank")
	evil.put(mesh.TypeMeshService, "default", "bank", service)
	g.untilRejected("west", 2, "is of zone")
	for _, name := range []string{"web", "bank"} {
		for _, s := range []*bare{g.bare, east.bare} {
			if r, ok := s.find(mesh.TypeMeshService, name, "west"); ok {
				t.Errorf("%s has %+v", s.name(), r.Meta)
			}
		}
	}
	if now, ok := g.find(mesh.TypeMeshService, "web", "east"); !ok || now.Version != owned.Version || string(now.Raw) != string(owned.Raw) {
		t.Errorf("the service is now %+v %s, want as its owner wrote it", now.Meta, now.Raw)
	}
	if _, ok := g.find(mesh.TypeMeshService, "bank", "east"); ok {
		t.Error("a service came into being for another zone")
	}
	// Nor can it delete the service.
	evil.delete(mesh.TypeMeshService, "default", "web")
	evil.delete(mesh.TypeMeshService, "default", "bank")
	g.untilRejected("west", 0, "")
	g.until(mesh.TypeMeshService, "web", "east", true)
}

// Fault: a zone claims that its services have a million endpoints, and speaks of the endpoints of another zone. Outcome: others count what the
// zone has registered, and nothing that is not its own; dataplanes that come later count. Nothing is deleted.
func TestInflatedWeight(t *testing.T) {
	g := newBareGlobal(t, version{})
	counts := func(zone string) *zonesync.Fact {
		return &zonesync.Fact{
			Key:   zonesync.FactCounts(fmt.Sprintf("kri_msvc_default_%s__web_", zone)),
			Value: []byte(`{"ports":{"main":{"healthy":1000000,"total":1000000}},"sequence":1}`),
		}
	}
	east := newBareZone(t, "east", g.token("east"), version{})
	east.until(mesh.TypeMesh, "default", "", true)
	east.put(mesh.TypeMeshService, "default", "web", service)
	g.until(mesh.TypeMeshService, "web", "east", true)
	west := newBareZone(t, "west", g.token("west"), version{facts: []*zonesync.Fact{counts("west"), counts("east")}})
	witness := newBareZone(t, "south", g.token("south"), version{})
	west.until(mesh.TypeMesh, "default", "", true)
	west.put(mesh.TypeMeshService, "default", "web", service)
	name := resource.SyncedName("default", "web", "west", "")
	want := func(total uint32) {
		t.Helper()
		until(t, fmt.Sprintf("another zone counts %d endpoints", total), func() (any, bool) {
			got := witness.told.of(name)
			return fmt.Sprintf("%+v", got), got != nil && got.Ports["main"] == view.Capacity{Healthy: total, Total: total}
		})
	}
	want(0)
	dataplane := `{"networking":{"address":"192.0.2.%d","inbound":[{"port":80,"name":"main"}]}}`
	for i := range 3 {
		west.put(mesh.TypeDataplane, "default", fmt.Sprintf("web-%d", i), fmt.Sprintf(dataplane, i+1))
	}
	want(3)
	if got := witness.told.of(resource.SyncedName("default", "web", "east", "")); got != nil {
		t.Errorf("west's word about a service of east arrived: %+v", got)
	}
	g.until(mesh.TypeMeshService, "web", "east", true)
}

// Fault: two installations claim one zone name. Outcome: the second is refused while the first is a member, also with the first one's token,
// and both stores are named; with a new token of an operator it takes over and the first is shut out. Nothing is deleted: what the first
// owned stays until somebody decides.
func TestTwoInstallationsOfOneZone(t *testing.T) {
	g := newBareGlobal(t, version{})
	token := g.token("east")
	first := newBareZone(t, "east", token, version{instance: "-a"})
	first.until(mesh.TypeMesh, "default", "", true)
	first.put(mesh.TypeMeshService, "default", "web", service)
	g.until(mesh.TypeMeshService, "web", "east", true)

	second := newBareZone(t, "east", token, version{instance: "-b"})
	second.untilLinked(false, "used before")
	// It brings the credential of the first along: a copied file, or a configuration that was cloned.
	stolen, _ := first.find(mesh.TypeGlobalSecret, "uplink-credential", "east")
	second.commit(resource.Resource{Meta: resource.Meta{Type: stolen.Type, Name: stolen.Name, Labels: stolen.Labels}, Raw: stolen.Raw})
	second.untilLinked(false, "two installations share a name")
	for _, b := range []*bareZone{first, second} {
		if id := b.catalog.Snapshot().Position().Lineage.ID; !strings.Contains(second.uplink.State().Err, id) {
			t.Errorf("%q does not name the store %s", second.uplink.State().Err, id)
		}
	}
	first.untilLinked(true, "")

	second.give(g.token("east"))
	second.untilLinked(true, "")
	first.untilLinked(false, "another installation")
	g.until(mesh.TypeMeshService, "web", "east", true)
	first.until(mesh.TypeMeshService, "web", "east", true)
}

// Fault: a zone that is joined to one global is pointed at another. Outcome: it refuses that one and says so, keeps everything, and goes on
// when it is pointed back. Nothing is deleted.
func TestTwoGlobals(t *testing.T) {
	other := testmesh.Federate(t, testmesh.FederationOptions{})
	through := ""
	f := testmesh.Federate(t, testmesh.FederationOptions{Store: "embedded", Through: func(_, global string) string {
		if through != "" {
			return through
		}
		return global
	}}, "east")
	east := f.Zone("east")
	f.Apply(t, timeout)
	untilStored(t, east, "MeshTimeout", "slow", "", true)
	east.Halt(t)
	through = other.ZonesAddress()
	east.Start(t)
	east.Until(t, "the zone refuses the other global", func() (any, bool) {
		s := east.ControlPlane().Uplink().State()
		return fmt.Sprintf("%+v", s), !s.Linked && strings.Contains(s.Err, "certificate")
	})
	var overview any
	if other.ZoneOverview(t, "east", &overview) {
		t.Errorf("the other global knows the zone: %v", overview)
	}
	untilStored(t, east, "MeshTimeout", "slow", "", true)
	east.Halt(t)
	through = ""
	east.Start(t)
	f.UntilLinked(t, "east")
	untilStored(t, east, "MeshTimeout", "slow", "", true)
}
