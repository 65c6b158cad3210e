package push

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policies"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/memory"
	"github.com/causeway-mesh/causeway/store/seal"
)

// fakeFacts hands on what a test observes.
type fakeFacts chan map[resource.Key]*view.Facts

func (f fakeFacts) Next(ctx context.Context) (map[resource.Key]*view.Facts, bool, error) {
	select {
	case m := <-f:
		return m, false, nil
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
}

// fakeRemote hands on what a test knows of other zones.
type fakeRemote chan RemoteUpdate

func (f fakeRemote) Next(ctx context.Context) (RemoteUpdate, error) {
	select {
	case u := <-f:
		return u, nil
	case <-ctx.Done():
		return RemoteUpdate{}, ctx.Err()
	}
}

type zone struct {
	t       *testing.T
	engine  *Engine
	catalog *catalog.Catalog
	facts   fakeFacts
	remote  fakeRemote
	metrics *prometheus.Registry
}

func newZone(t *testing.T, audit time.Duration, edits ...func(*Config)) *zone {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := memory.New()
	key, err := seal.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := seal.New(key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := catalog.Open(ctx, catalog.Config{Store: s, Sealer: sealer, Kinds: api.Kinds(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	z := &zone{t: t, catalog: c, facts: make(fakeFacts), remote: make(fakeRemote), metrics: prometheus.NewRegistry()}
	cfg := Config{
		Zone: "east", Catalog: c, Facts: z.facts, Remote: z.remote, HealthResponder: "127.0.0.1:5683", AllowLocalAddresses: true, Kinds: c.Kinds(), Policies: policies.All,
		Expected:   func(m resource.Meta) bool { return m.Label("observed") == "yes" },
		AuditEvery: audit, Log: slog.New(slog.DiscardHandler), Registerer: z.metrics,
	}
	for _, edit := range edits {
		edit(&cfg)
	}
	z.engine = New(cfg)
	done := make(chan error, 2)
	go func() { done <- c.Run(ctx) }()
	go func() { done <- z.engine.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
		_ = s.Close()
	})
	return z
}

func (z *zone) put(text string) {
	z.t.Helper()
	ds, err := api.Kinds().DecodeYAML([]byte(text), true)
	if err != nil {
		z.t.Fatal(err)
	}
	b := catalog.Batch{Author: "test"}
	for _, d := range ds {
		if d.Labels == nil {
			d.Labels = map[string]string{}
		}
		d.Labels[resource.LabelDisplayName] = d.Name
		b.Puts = append(b.Puts, catalog.Put{Resource: d.Resource, Expect: store.ExpectAny})
	}
	if _, err := z.catalog.Commit(z.t.Context(), b); err != nil {
		z.t.Fatal(err)
	}
}

func (z *zone) open(name string) *Session {
	z.t.Helper()
	s, err := z.engine.Open(z.t.Context(), dataplane(name), "1.40.0", func() {})
	if err != nil {
		z.t.Fatal(err)
	}
	z.t.Cleanup(s.Close)
	return s
}

func dataplane(name string) resource.Key {
	return resource.Key{Type: mesh.TypeDataplane, Mesh: "default", Name: name}
}

// until waits for a condition of a session's table.
func until(t *testing.T, s *Session, what string, cond func(*envoy.Table) bool) {
	t.Helper()
	limit := time.After(10 * time.Second)
	for {
		progressed := s.engine.Progressed()
		if cond(s.Table()) {
			return
		}
		select {
		case <-progressed:
		case <-limit:
			t.Fatalf("not within 10s: %s", what)
		}
	}
}

func dp(name string) string {
	return fmt.Sprintf(`
type: Dataplane
mesh: default
name: %s
labels: {kuma.io/workload: web}
networking: {address: 127.0.0.%s, outboundBlock: 127.7.0.0/16, inbound: [{name: http, port: 8080, servicePort: 9080, protocol: http}]}
`, name, name[len(name)-1:])
}

const service = `
type: MeshService
mesh: default
name: web
spec:
  selector: {dataplaneLabels: {matchLabels: {kuma.io/workload: web}}}
  ports: [{port: 80, name: http, targetPort: http, appProtocol: http}]
`

const cluster = "kri_msvc_default___web_http"

func TestTablesFollowTheMesh(t *testing.T) {
	z := newZone(t, 0)
	s := z.open("web-1") // before it is registered
	z.put(dp("web-1"))
	until(t, s, "the inbound", func(tb *envoy.Table) bool { return tb.Get(envoy.Listener, "self_inbound_dp_http") != nil })
	z.put(service)
	until(t, s, "the cluster of a new service", func(tb *envoy.Table) bool { return tb.Get(envoy.Cluster, cluster) != nil })
	before := s.Table().Get(envoy.Endpoint, cluster).Version
	z.facts <- map[resource.Key]*view.Facts{dataplane("web-1"): {Down: true}}
	until(t, s, "an unready endpoint", func(tb *envoy.Table) bool { return tb.Get(envoy.Endpoint, cluster).Version != before })
	z.facts <- map[resource.Key]*view.Facts{dataplane("web-1"): nil}
	until(t, s, "the endpoint as it was", func(tb *envoy.Table) bool { return tb.Get(envoy.Endpoint, cluster).Version == before })
	if _, problems, err := z.engine.Inspect(t.Context(), dataplane("web-1")); err != nil || len(problems) > 0 {
		t.Errorf("inspect: %v, %v", problems, err)
	}
	if _, _, err := z.engine.Inspect(t.Context(), dataplane("nobody")); err == nil {
		t.Error("inspected a dataplane that does not exist")
	}
}

func TestAServiceThatAppearsComesWithItsStatus(t *testing.T) {
	z := newZone(t, 0, func(c *Config) { c.Derives = true })
	z.put(dp("web-1"))
	s := z.open("web-1")
	z.put(service)
	// What is written later is seen later: when it is there, the service would be, too.
	z.put(strings.Replace(dp("web-1"), "name: http", "name: other", 1))
	until(t, s, "the inbound by its new name", func(tb *envoy.Table) bool { return tb.Get(envoy.Listener, "self_inbound_dp_other") != nil })
	if s.Table().Get(envoy.Cluster, cluster) != nil {
		t.Error("a service without a status is offered")
	}
	key := resource.Key{Type: mesh.TypeMeshService, Mesh: "default", Name: "web"}
	status := catalog.DerivedPut{Key: catalog.StatusOf(key), Data: []byte(`{"vips":[{"ip":"241.0.0.1"}],"tls":{"status":"Ready"}}`), Owner: &key}
	if _, err := z.catalog.Commit(t.Context(), catalog.Batch{Author: "test", Derived: []catalog.DerivedPut{status}}); err != nil {
		t.Fatal(err)
	}
	until(t, s, "the cluster", func(tb *envoy.Table) bool { return tb.Get(envoy.Cluster, cluster) != nil })
	if s.Table().Get(envoy.Listener, cluster) == nil || s.Table().Get(envoy.Route, cluster) == nil {
		t.Error("the service came without its listener and route")
	}
	// One that is known changes at once.
	before := s.Table().Get(envoy.Listener, cluster).Version
	z.put(strings.Replace(service, "port: 80,", "port: 81,", 1))
	until(t, s, "the new port", func(tb *envoy.Table) bool { return tb.Get(envoy.Listener, cluster).Version != before })
}

func TestADataplaneThatAppearsGetsNoTrafficBeforeItsFacts(t *testing.T) {
	z := newZone(t, 0)
	z.put(dp("web-1") + "---" + service)
	s := z.open("web-1")
	until(t, s, "the cluster", func(tb *envoy.Table) bool { return tb.Get(envoy.Cluster, cluster) != nil })
	observed := strings.Replace(dp("web-2"), "labels: {", "labels: {observed: \"yes\", ", 1)
	endpoint := func() string { return s.Table().Get(envoy.Endpoint, cluster).Version }
	alone := endpoint()
	z.put(observed)
	until(t, s, "the second endpoint", func(*envoy.Table) bool { return endpoint() != alone })
	expected := endpoint()
	z.facts <- map[resource.Key]*view.Facts{dataplane("web-2"): {}}
	until(t, s, "the second endpoint ready", func(*envoy.Table) bool { return endpoint() != expected })
	ready := endpoint()
	z.put(strings.Replace(observed, "127.7.0.0", "127.8.0.0", 1)) // it appears only once
	z.facts <- map[resource.Key]*view.Facts{dataplane("web-2"): {Down: true}}
	until(t, s, "the second endpoint as it was expected", func(*envoy.Table) bool { return endpoint() == expected })
	if ready == alone {
		t.Error("the second endpoint is missing")
	}
}

func TestAChangeThatDoesNotConcernAProxyNeedsNoMessage(t *testing.T) {
	z := newZone(t, 0)
	z.put(dp("web-1") + "---" + service)
	s := z.open("web-1")
	until(t, s, "the cluster", func(tb *envoy.Table) bool { return tb.Get(envoy.Cluster, cluster) != nil })
	table := s.Table()
	s.Acked(table.Sequence)
	sequence := z.engine.Progress().Sequence
	z.put(`
type: MeshTrafficPermission
mesh: default
name: other
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: nobody}}
  rules: [{default: {allow: [{spiffeID: {type: Prefix, value: "spiffe://a"}}]}}]
`)
	wait := z.engine.listen()
	for z.engine.Progress().Sequence == sequence {
		<-wait
		wait = z.engine.listen()
	}
	if s.Table() != table {
		t.Error("the table was replaced")
	}
	if got, want := s.Applied(), z.engine.Progress().Sequence; got != want {
		t.Errorf("applied %d, want %d: it is at the change without a message", got, want)
	}
}

func TestADrainIsToldOnceEverybodyElseHasAcknowledged(t *testing.T) {
	z := newZone(t, 0)
	z.put(dp("web-1") + "---" + dp("web-2") + "---" + service)
	leaving, other := z.open("web-1"), z.open("web-2")
	until(t, other, "the cluster", func(tb *envoy.Table) bool { return tb.Get(envoy.Cluster, cluster) != nil })
	before := other.Table()
	z.facts <- map[resource.Key]*view.Facts{dataplane("web-1"): {Draining: true}}
	until(t, other, "the draining endpoint", func(tb *envoy.Table) bool { return tb != before })

	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := z.engine.Told(short, dataplane("web-1")); err == nil {
		t.Fatal("told before the other proxy acknowledged")
	}
	told := make(chan error, 1)
	go func() { told <- z.engine.Told(t.Context(), dataplane("web-1")) }()
	other.Acked(other.Table().Sequence)
	if err := <-told; err != nil {
		t.Fatal(err)
	}
	_ = leaving // it need not acknowledge its own end
}

func TestAuditFindsCountsAndHealsADifference(t *testing.T) {
	z := newZone(t, 20*time.Millisecond)
	z.put(dp("web-1") + "---" + service)
	s := z.open("web-1")
	until(t, s, "the cluster", func(tb *envoy.Table) bool { return tb.Get(envoy.Cluster, cluster) != nil })
	if err := z.engine.do(t.Context(), func(st *state) {
		p := st.proxies[dataplane("web-1")]
		p.update(envoy.ProxyConfig{Shared: envoy.NewPart(nil), Own: p.last.Own}, st.sequence)
		for sess := range p.sessions {
			sess.offer(p.table)
		}
	}); err != nil {
		t.Fatal(err)
	}
	until(t, s, "the table that went wrong", func(tb *envoy.Table) bool { return tb.Get(envoy.Cluster, cluster) == nil })
	until(t, s, "the healed table", func(tb *envoy.Table) bool { return tb.Get(envoy.Cluster, cluster) != nil })
	families, err := z.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "causeway_push_audit_differences_total" && f.GetMetric()[0].GetCounter().GetValue() == 1 {
			return
		}
	}
	t.Error("the difference was not counted")
}

// What becomes known of other zones reaches the tables, is forgotten when it is taken back, and outlives an audit.
func TestNewsOfOtherZonesReachesTables(t *testing.T) {
	z := newZone(t, 0)
	z.put(`
type: MeshIdentity
mesh: default
name: identity
spec:
  selector: {dataplane: {matchLabels: {}}}
  provider: {type: Bundled, bundled: {autogenerate: {enabled: true}}}
---
type: MeshService
mesh: default
name: far
labels: {kuma.io/zone: west}
spec:
  selector: {dataplaneLabels: {matchLabels: {kuma.io/workload: far}}}
  ports: [{port: 80, name: http, appProtocol: http}]
---
type: MeshZoneAddress
mesh: default
name: in
labels: {kuma.io/zone: west}
spec: {address: 127.0.0.9, port: 10001}
---
type: Dataplane
mesh: default
name: gate
networking: {address: 127.0.0.8, listeners: [{type: ZoneIngress, address: 127.0.0.8, port: 10001}]}
` + "---" + dp("web-1"))
	far := resource.Key{Type: mesh.TypeMeshService, Mesh: "default", Name: "far"}
	in := resource.Key{Type: mesh.TypeMeshZoneAddress, Mesh: "default", Name: "in"}
	if _, err := z.catalog.Commit(t.Context(), catalog.Batch{Derived: []catalog.DerivedPut{
		{Key: catalog.StatusOf(far), Data: []byte(`{"state":"Unavailable","tls":{"status":"Ready"}}`)},
	}}); err != nil {
		t.Fatal(err)
	}
	s := z.open("web-1")
	endpoints := func(table *envoy.Table) string {
		f := table.Get(envoy.Endpoint, "kri_msvc_default_west__far_http")
		m := &endpointv3.ClusterLoadAssignment{}
		if f == nil || proto.Unmarshal(f.Body(), m) != nil || len(m.Endpoints) != 1 {
			return "nothing"
		}
		lb := m.Endpoints[0].LbEndpoints
		return fmt.Sprint(len(lb), " ", lb[0].HealthStatus, " ", lb[0].LoadBalancingWeight.GetValue())
	}
	is := func(want string) {
		t.Helper()
		until(t, s, "endpoints of the other zone are "+want, func(table *envoy.Table) bool { return endpoints(table) == want })
	}
	is("1 UNHEALTHY 1") // unavailable, and nobody has counted
	tell := func(u RemoteUpdate) {
		t.Helper()
		select {
		case z.remote <- u:
		case <-time.After(10 * time.Second):
			t.Fatal("nobody listens")
		}
	}
	tell(RemoteUpdate{Services: map[resource.Key]*view.Remote{far: {Ports: map[string]view.Capacity{"http": {Healthy: 3, Total: 3}}}}})
	is("1 UNKNOWN 3")
	tell(RemoteUpdate{Gateways: map[resource.Key]*view.Gateway{in: {Down: true}}})
	is("1 UNHEALTHY 3")
	if err := z.engine.do(t.Context(), func(st *state) {
		for range 2 { // before and after everything is computed anew
			if r := st.prepareAudit().run(); len(r.different) > 0 {
				t.Errorf("an audit does not know what tables were made of: %v differ", r.different)
			}
			st.rebuild()
		}
	}); err != nil {
		t.Fatal(err)
	}
	tell(RemoteUpdate{Gateways: map[resource.Key]*view.Gateway{in: nil}})
	is("1 UNKNOWN 3")
	tell(RemoteUpdate{All: true})
	is("1 UNHEALTHY 1")

	gate := z.open("gate")
	until(t, gate, "the ingress forwards health", func(table *envoy.Table) bool { return table.Get(envoy.Cluster, "system_health") != nil })
}
