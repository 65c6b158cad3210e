package zones

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"sigs.k8s.io/yaml"

	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/test/load"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// proxies connects fake proxies with real agents' sessions to a zone, spread over services named after the zone.
func proxies(b *testing.B, m *testmesh.Mesh, n, services int) {
	b.Helper()
	zone := m.Zone.Name
	ca, err := os.ReadFile(m.ControlPlane().CAFile())
	if err != nil {
		b.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	var agents []*load.Agent
	for i := range n {
		workload := fmt.Sprintf("%s-%d", zone, i%services)
		body, err := yaml.Marshal(map[string]any{
			"type": mesh.TypeDataplane, "mesh": "default", "name": fmt.Sprintf("%s-dp-%d", zone, i),
			"labels": map[string]string{resource.LabelWorkload: workload},
			"networking": mesh.Networking{
				Address: fmt.Sprintf("127.9.%d.%d", i/250, 1+i%250),
				Inbound: []mesh.Inbound{{Port: 8080, ServicePort: 9090, Name: "main", Protocol: mesh.HTTP}},
			},
		})
		if err != nil {
			b.Fatal(err)
		}
		agents = append(agents, load.NewAgent(load.AgentConfig{
			Address: m.ControlPlane().AgentsAddress(), Roots: roots, Token: m.Token(b, testmesh.Token{Workload: workload}),
			Mesh: "default", Name: fmt.Sprintf("%s-dp-%d", zone, i), Dataplane: body, Block: "127.5.0.0/16",
		}))
	}
	fleet := load.New(load.Config{
		Connect: func(ctx context.Context, i int) (grpc.ClientConnInterface, func(), error) {
			return agents[i].Connect(ctx)
		},
	}, n)
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	done := make(chan error, 1)
	go func() { done <- fleet.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	m.Within(b, 3*time.Minute, "all proxies of zone "+zone+" are at the newest tables", func() (any, bool) {
		s, err := m.ControlPlane().Engine().Standing(b.Context())
		return fmt.Sprintf("%+v %v", s, err), err == nil && s.Connected == uint64(n) && s.Acknowledged == s.Connected
	})
}

const mutualTLS = `
type: MeshIdentity
mesh: default
name: identity
spec:
  selector: {dataplane: {matchLabels: {}}}
  provider: {type: Bundled, bundled: {autogenerate: {enabled: true}, insecureAllowSelfSigned: true}}
`

// report gives the median and the worst of durations as metrics of the benchmark.
func report(b *testing.B, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-median")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "ms-max")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkWriteAcknowledged measures from sending a write to global until all proxies of two zones have acknowledged it, by the
// answer to ?wait=acknowledged: REST, store, sync, compilation and push together.
func BenchmarkWriteAcknowledged(b *testing.B) {
	const perZone, services = 100, 20
	f := testmesh.Federate(b, testmesh.FederationOptions{Store: "embedded"}, "east", "west")
	f.Apply(b, mutualTLS)
	for _, zone := range []string{"east", "west"} {
		proxies(b, f.Zone(zone), perZone, services)
	}
	for _, c := range []struct{ name, target string }{
		{"mesh", "{kind: Mesh}"},
		{"service", "{kind: MeshService, labels: {kuma.io/display-name: east-3, kuma.io/zone: east}}"},
	} {
		b.Run(c.name, func(b *testing.B) {
			var took []time.Duration
			for n := 0; b.Loop(); n++ {
				body, err := yaml.YAMLToJSON(fmt.Appendf(nil, `
type: MeshTimeout
mesh: default
name: bench-%s
spec: {to: [{targetRef: %s, default: {http: {requestTimeout: %dms}}}]}`, c.name, c.target, 10_000+n))
				if err != nil {
					b.Fatal(err)
				}
				begin := time.Now()
				answer, err := f.Client().Do(b.Context(), client.Request{
					Method: http.MethodPut, Path: "/meshes/default/meshtimeouts/bench-" + c.name, Body: body,
					Query: url.Values{"wait": {"acknowledged"}, "timeout": {"30s"}},
				})
				if err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(begin))
				if got := answer.Header.Get("Causeway-Propagation"); got != "acknowledged" {
					b.Fatalf("the write is %q after %s", got, time.Since(begin))
				}
			}
			report(b, took)
		})
	}
}

// BenchmarkServiceReachesOtherZone measures from a new service in one zone until the other zone's proxies have its cluster with endpoints.
func BenchmarkServiceReachesOtherZone(b *testing.B) {
	f := testmesh.Federate(b, testmesh.FederationOptions{Store: "embedded"}, "east", "west")
	f.Apply(b, mutualTLS)
	east, west := f.Zone("east"), f.Zone("west")
	west.Apply(b, "type: MeshZoneAddress\nmesh: default\nname: ingress\nspec: {address: 192.0.2.7, port: 10001}\n")
	proxies(b, east, 1, 1)
	proxies(b, west, 1, 1)
	client := resource.Key{Type: mesh.TypeDataplane, Mesh: "default", Name: "east-dp-0"}
	var took []time.Duration
	for n := 0; b.Loop(); n++ {
		begin := time.Now()
		west.Apply(b, fmt.Sprintf("type: MeshService\nmesh: default\nname: new-%d\nspec: {selector: {dataplaneLabels: {matchLabels: {kuma.io/workload: west-0}}}, ports: [{port: 80, targetPort: 8080, appProtocol: http}]}\n", n))
		kri := resource.KRI{Short: "msvc", Mesh: "default", Zone: "west", Name: fmt.Sprintf("new-%d", n), Section: "80"}.String()
		east.Until(b, kri+" is in a table of the other zone", func() (any, bool) {
			t, _, err := east.ControlPlane().Engine().Inspect(b.Context(), client)
			if err != nil || t == nil {
				return err, false
			}
			cluster, endpoints := t.Get(envoy.Cluster, kri), t.Get(envoy.Endpoint, kri)
			return "it is not", cluster != nil && endpoints != nil
		})
		took = append(took, time.Since(begin))
	}
	report(b, took)
}

// BenchmarkFreshZone measures from the start of a new zone until it has applied 10,000 objects.
func BenchmarkFreshZone(b *testing.B) {
	const objects = 10_000
	f := testmesh.Federate(b, testmesh.FederationOptions{})
	fill(b, f, objects)
	var took []time.Duration
	for n := 0; b.Loop(); n++ {
		begin := time.Now()
		m := f.Join(b, fmt.Sprintf("zone-%d", n))
		f.UntilLinked(b, m.Zone.Name)
		linked := time.Now()
		m.Within(b, time.Minute, "the zone has everything", func() (any, bool) {
			n := m.ControlPlane().Catalog().Snapshot().Count("MeshTimeout", "default")
			return n, n >= objects
		})
		took = append(took, time.Since(linked))
		b.Logf("whole start %s", time.Since(begin))
		m.Halt(b)
	}
	report(b, took)
}

// fill writes policies that select nobody.
func fill(b *testing.B, f *testmesh.Federation, n int) {
	b.Helper()
	var docs []json.RawMessage
	for i := range n {
		docs = append(docs, fmt.Appendf(nil, `{"type":"MeshTimeout","mesh":"default","name":"t-%d","spec":{"targetRef":{"kind":"Dataplane","labels":{"nobody":"n%d"}},"to":[{"targetRef":{"kind":"Mesh"},"default":{"connectionTimeout":"5s"}}]}}`, i, i))
		if len(docs) == 500 || i == n-1 {
			if _, err := f.Client().Batch(b.Context(), docs, "default", client.Precondition{}); err != nil {
				b.Fatal(err)
			}
			docs = nil
		}
	}
}

// BenchmarkHundredZones measures from a policy at global until 100 zones have it, when global keeps the inventory of 1,000 dataplanes of each.
// Zones are bare, in this process, and keep their dataplanes in memory, too: MiB-all is theirs and global's together.
func BenchmarkHundredZones(b *testing.B) {
	const n, each = 100, 1000
	g := newBareGlobal(b, version{beat: 5 * time.Second})
	zones := make([]*bareZone, n)
	for i := range zones {
		name := fmt.Sprintf("zone-%03d", i)
		zones[i] = newBareZone(b, name, g.token(name), version{beat: 5 * time.Second})
	}
	for _, z := range zones {
		z.untilLinked(true, "")
		var rs []resource.Resource
		for i := range each {
			rs = append(rs, z.resource(mesh.TypeDataplane, "default", fmt.Sprintf("dp-%d", i), fmt.Sprintf(
				`{"networking":{"address":"10.%d.%d.%d","inbound":[{"port":8080,"name":"main","protocol":"http"}]}}`, i/250, i%250, 1+i%200), resource.LabelWorkload, fmt.Sprintf("svc-%d", i%50)))
		}
		z.commit(rs...)
	}
	until(b, "global has the dataplanes of all zones", func() (any, bool) {
		c := g.catalog.Snapshot().Count(mesh.TypeDataplane, "default")
		return c, c == n*each
	})
	runtime.GC()
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		mark := fmt.Sprintf("%dms", 1000+i)
		begin := time.Now()
		g.put("MeshTimeout", "default", "one", fmt.Sprintf(`{"to":[{"targetRef":{"kind":"Mesh"},"default":{"connectionTimeout":%q}}]}`, mark))
		until(b, "every zone has the policy", func() (any, bool) {
			for _, z := range zones {
				if r, ok := z.find("MeshTimeout", "one", ""); !ok || !strings.Contains(string(r.Raw), mark) {
					return z.name(), false
				}
			}
			return nil, true
		})
		took = append(took, time.Since(begin))
	}
	report(b, took)
	b.ReportMetric(float64(heap()>>20), "MiB-all")
}
