package zones

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// An external service that is declared at global is there in every zone, and used where the zone has an egress; services of another zone are
// reached through its ingress. Both count what passes, and a permission for everybody opens both ways.
//
// Acceptance: M meshproxy
// Acceptance: M meshtrafficpermission
func TestThroughIngressAndEgress(t *testing.T) {
	t.Parallel()
	f := testmesh.Federate(t, testmesh.FederationOptions{}, "east", "west")
	east, west := f.Zone("east"), f.Zone("west")
	outside := testmesh.Outside(t, "outside", mesh.HTTP, "", nil)
	f.Apply(t, identities+fmt.Sprintf(`---
type: MeshExternalService
mesh: default
name: outside
spec: {match: {port: 80, protocol: http}, endpoints: [{address: %s, port: %d}]}
`, outside.Host(), outside.Port()))
	ingress := west.Ingress(t, testmesh.Workload{Name: "ingress-1"})
	west.Workload(t, testmesh.Workload{Name: "far-1"})
	egress := east.Egress(t, testmesh.Workload{Name: "egress-1"})
	client, other := east.Workload(t, testmesh.Workload{Name: "client-1"}), west.Workload(t, testmesh.Workload{Name: "other-1"})
	for _, service := range []string{"far.west", "outside"} {
		client.Expect(t, testmesh.Request{Service: service}, http.StatusForbidden)
	}
	f.Apply(t, `
type: MeshTrafficPermission
mesh: default
name: everybody
spec: {rules: [{default: {allow: [{spiffeID: {type: Prefix, value: "spiffe://"}}]}}]}
`)
	if got := client.Reach(t, "far.west").Answer.Instance; got != "far-1" {
		t.Errorf("answered by %q", got)
	}
	if got := client.Reach(t, "outside").Answer.Instance; got != "outside" {
		t.Errorf("answered by %q", got)
	}
	if n := ingress.Stat(t, `cluster\.sni\.msvc\.default\.west\.far\..*upstream_cx_total`); n == 0 {
		t.Error("the ingress counts no connection")
	}
	if n := egress.Stat(t, `cluster\.self_zoneegress_dp_egress_kri_extsvc_default___outside_80\.upstream_rq_200`); n == 0 {
		t.Error("the egress counts no request")
	}

	before := outside.Seen("/")
	other.Expect(t, testmesh.Request{Service: "outside"}, http.StatusServiceUnavailable)
	if n := outside.Seen("/") - before; n != 0 {
		t.Errorf("%d requests got out of a zone without an egress", n)
	}
	for zone, status := range map[*testmesh.Mesh]mesh.ConditionStatus{east: mesh.True, west: mesh.False} {
		zone.Until(t, "zone "+zone.Zone.Name+" says whether it has an egress", func() (any, bool) {
			got := externalStatus(t, zone, "outside")
			return got, len(got.Conditions) > 0 && got.Conditions[0].Status == status && got.VIP.IP != "" && len(got.Addresses) > 0
		})
	}
}

func externalStatus(t *testing.T, m *testmesh.Mesh, displayName string) mesh.MeshExternalServiceStatus {
	t.Helper()
	var out struct {
		Status mesh.MeshExternalServiceStatus `json:"status"`
	}
	m.Find(t, mesh.TypeMeshExternalService, displayName, &out)
	return out.Status
}
