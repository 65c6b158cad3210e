package zones

import (
	"fmt"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/test/testmesh"
)

const identities = `
type: MeshIdentity
mesh: default
name: identity
spec:
  selector: {dataplane: {matchLabels: {}}}
  provider: {type: Bundled, bundled: {autogenerate: {enabled: true}, insecureAllowSelfSigned: true}}
`

// spiffe is who a workload of a zone is.
func spiffe(zone, workload string) string {
	return fmt.Sprintf("spiffe://default.%s.mesh.local/workload/%s", zone, workload)
}

// permit lets callers into a service of all zones. A caller that ends in "*" stands for all with that beginning.
func permit(name, service string, callers ...string) string {
	var ids []string
	for _, c := range callers {
		how := "Exact"
		if p, all := strings.CutSuffix(c, "*"); all {
			how, c = "Prefix", p
		}
		ids = append(ids, fmt.Sprintf("{spiffeID: {type: %s, value: %q}}", how, c))
	}
	return fmt.Sprintf(`
type: MeshTrafficPermission
mesh: default
name: %s
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: %s}}
  rules: [{default: {allow: [%s]}}]
`, name, service, strings.Join(ids, ", "))
}

// untilPermits waits until a zone has a permission.
func untilPermits(t *testing.T, m *testmesh.Mesh, name string) {
	t.Helper()
	untilStored(t, m, "MeshTrafficPermission", name, "", true)
}
