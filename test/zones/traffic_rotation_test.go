package zones

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/test/testmesh"
	"github.com/causeway-mesh/causeway/zone-cp/identity"
)

// The authority of a zone is replaced while requests go to and fro, and a third zone is cut off: as long as that one has not heard of
// the new root nothing changes for it; when the others go on without it no request between them fails; and it is right again as soon as it hears.
//
// Acceptance: U meshidentity rotate
func TestAuthorityIsReplacedUnderLoad(t *testing.T) {
	t.Parallel()
	var south *wire
	f := testmesh.Federate(t, testmesh.FederationOptions{Through: func(zone, global string) string {
		if zone != "south" {
			return global
		}
		if south == nil {
			south = newWire(t, global)
		}
		return south.address()
	}}, "east", "west", "south")
	zones := map[string]*testmesh.Mesh{}
	for _, z := range []string{"east", "west", "south"} {
		zones[z] = f.Zone(z)
	}
	east, west := zones["east"], zones["west"]
	f.Apply(t, identities+"---"+permit("web", "web", "spiffe://default.*"))
	east.Ingress(t, testmesh.Workload{Name: "ingress-1"})
	west.Ingress(t, testmesh.Workload{Name: "ingress-1"})
	one := east.Workload(t, web("east", 1, nil))
	two := west.Workloads(t, web("west", 1, nil), web("west", 2, nil))
	third := zones["south"].Workload(t, testmesh.Workload{Name: "client-1"})
	one.Reach(t, "web.west")
	two[0].Reach(t, "web.east")
	third.Reach(t, "web.west")

	id, ok := stored(west, mesh.TypeMeshIdentity, "identity", "")
	if !ok {
		t.Fatal("west has no MeshIdentity")
	}
	there := east.Load(t, one, testmesh.Request{Service: "web.west"}, 50)
	back := west.Load(t, two[0], testmesh.Request{Service: "web.east"}, 50)
	far := zones["south"].Load(t, third, testmesh.Request{Service: "web.west"}, 50)

	before := authorityOf(t, west).ID
	south.take(true)
	if err := west.ControlPlane().Authority().Stage(t.Context(), id.Key()); err != nil {
		t.Fatal(err)
	}
	root := stagedRoot(t, west, before)
	for _, z := range []string{"east", "west"} {
		zones[z].Until(t, "proxies of "+z+" trust the new root", func() (any, bool) {
			gap := lacking(zones[z], root)
			return gap, len(gap) == 0
		})
	}
	promote := func(of ...string) error {
		return west.ControlPlane().Authority().Promote(t.Context(), id.Key(), func(string) []resource.Key {
			var late []resource.Key
			for _, z := range of {
				late = append(late, lacking(zones[z], root)...)
			}
			return late
		})
	}
	if err := promote("east", "west", "south"); !errors.Is(err, identity.ErrNotRotated) {
		t.Fatalf("the new root signs although a zone does not trust it: %v", err)
	}
	there.More(t, 50)
	far.More(t, 50)
	far.Stop().NoFailure(t)

	if err := promote("east", "west"); err != nil {
		t.Fatal(err)
	}
	for _, i := range two { // agents renew by themselves when another root signs
		west.Until(t, i.Name+" has a certificate of the new root", func() (any, bool) { return issuedBy(t, west, i) })
	}
	there.More(t, 100)
	back.More(t, 100)
	there.Stop().NoFailure(t)
	back.Stop().NoFailure(t)
	// Connections from before go on, so it takes a proxy that starts anew to see that the zone cut off does not believe the new root yet.
	third.StopAgent(t)
	third.StartAgent(t)
	third.Expect(t, testmesh.Request{Service: "web.west"}, http.StatusServiceUnavailable)
	south.take(false)
	third.Reach(t, "web.west")
}

// stagedRoot is the root beside the one that signs.
func stagedRoot(t *testing.T, m *testmesh.Mesh, signs string) string {
	t.Helper()
	var out string
	m.Until(t, "the staged root is trusted in its zone", func() (any, bool) {
		trust := m.ControlPlane().Authority().Trust(m.Name)
		for _, b := range trust.Bundles {
			for _, a := range b.Authorities {
				if b.Domain == "default."+m.Zone.Name+".mesh.local" && a != signs {
					out = a
				}
			}
		}
		return trust.Bundles, out != ""
	})
	return out
}

// lacking lists the proxies of a zone that do not trust a root of west.
func lacking(m *testmesh.Mesh, root string) []resource.Key {
	if !m.ControlPlane().Authority().Trust(m.Name).Trusts("default.west.mesh.local", root) {
		return []resource.Key{{Type: mesh.TypeZone, Name: m.Zone.Name}}
	}
	return m.ControlPlane().TrustGap(m.Name)
}

// issuedBy says whether the proxy of an instance shows a certificate that the present authority of its zone signed.
func issuedBy(t *testing.T, m *testmesh.Mesh, i *testmesh.Instance) (seen any, ok bool) {
	t.Helper()
	a := authorityOf(t, m)
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", i.Direct(), &tls.Config{
		Certificates: []tls.Certificate{*signed(t, a, spiffe(m.Zone.Name, "test"))}, InsecureSkipVerify: true, // it is looked at below
	})
	if err != nil {
		return err, false
	}
	defer c.Close()
	leaf := c.ConnectionState().PeerCertificates[0]
	err = leaf.CheckSignatureFrom(a.Signing())
	return err, err == nil
}
