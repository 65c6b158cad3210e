package envoy_test

import (
	"fmt"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// BenchmarkChange measures the stages from a changed resource to the tables of all proxies: index, match and fragments. The mesh has
// 50 services and 200 proxies of two classes.
func BenchmarkChange(b *testing.B) {
	for _, c := range []struct {
		name   string
		change func(w *testMesh, i int)
	}{
		{"endpoint", func(w *testMesh, i int) {
			state := []mesh.InboundState{mesh.StateNotReady, mesh.StateReady}[i%2]
			w.view.SetFacts(w.key("svc-3", 0), &view.Facts{Inbounds: map[string]mesh.InboundState{"http": state}})
		}},
		{"timeout of one service", func(w *testMesh, i int) {
			w.put(timeoutOf("one", "{kind: MeshService, labels: {kuma.io/display-name: svc-5}}", fmt.Sprintf("http: {requestTimeout: %ds}", 1+i)))
		}},
		{"timeout of the mesh", func(w *testMesh, i int) {
			w.put(timeoutOf("all", "{kind: Mesh}", fmt.Sprintf("connectionTimeout: %dms", 1000+i)))
		}},
		{"address of a service", func(w *testMesh, i int) {
			k := resource.Key{Type: mesh.TypeMeshService, Mesh: "default", Name: "svc-7"}
			w.view.SetStatus(k, view.Status{VIPs: []string{fmt.Sprintf("241.0.9.%d", 1+i%2)}, TLSReady: true})
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := newMesh(b, 50, 200)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				c.change(w, i)
				w.view.Graph.Settle()
				i++
			}
		})
	}
}

// BenchmarkFragment measures encoding alone.
func BenchmarkFragment(b *testing.B) {
	m := &clusterv3.Cluster{Name: "kri_msvc_default_east_svc-1_http", AltStatName: "svc-1", LbPolicy: clusterv3.Cluster_LEAST_REQUEST}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := envoy.NewFragment(envoy.Cluster, m.Name, m); err != nil {
			b.Fatal(err)
		}
	}
}
