package envoy

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	metricsv1 "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/causeway-mesh/causeway/dataplane/agent"
	"github.com/causeway-mesh/causeway/test/ports"
	"github.com/causeway-mesh/causeway/test/prometheus"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// testMetrics lets a real Prometheus find the proxies and read what they tell.
//
// Acceptance: K meshmetric: port, profiles, two Prometheus backends, aggregation of an application
// Acceptance: M meshmetric: a proxy of the zone ignores applications and says its role
// Acceptance: K meshmetric otel
func testMetrics(t *testing.T, m *testmesh.Mesh) {
	main, second := ports.Free(t, "127.0.0.1"), ports.Free(t, "127.0.0.1")
	shop := serveText(t, "# TYPE orders_total counter\norders_total{zone=\"of the shop\"} 3\n")
	broken := serveText(t, "no metrics{\n")
	collector := collect(t)
	policy := func(profiles string) string {
		return fmt.Sprintf(`
type: MeshOpenTelemetryBackend
name: collector
spec: {endpoint: {address: 127.0.0.1, port: %d}}
---
type: MeshMetric
name: metrics
spec:
  default:
    sidecar: {profiles: %s}
    applications: [{name: shop, address: 127.0.0.1, port: %d}, {name: broken, address: 127.0.0.1, port: %d}]
    backends:
    - {type: Prometheus, prometheus: {clientId: main, port: %d}}
    - {type: Prometheus, prometheus: {port: %d, path: /all}}
    - type: OpenTelemetry
      openTelemetry: {refreshInterval: 1s, backendRef: {kind: MeshOpenTelemetryBackend, labels: {kuma.io/display-name: collector}}}
`, collector.port, profiles, shop, broken, main, second)
	}
	m.Apply(t, policy("{exclude: [{type: Exact, match: envoy_server_uptime}]}"))
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "client-1", Configure: func(c *agent.Config) { c.LoadInterval = 500 * time.Millisecond }})
	client := all[1]
	m.Ingress(t, testmesh.Workload{Name: "ingress-1"})
	for range 20 {
		client.Reach(t, "web")
	}
	p := prometheus.Start(t, scrapeConfig(m))
	here := fmt.Sprintf(`mesh=%q,zone=%q,kuma_io_zone=%q`, m.Name, m.Zone.Name, m.Zone.Name)
	t.Run("both backends, found by two clients", func(t *testing.T) {
		for _, job := range []string{"main", "any"} {
			p.UntilTrue(t, fmt.Sprintf(`envoy_cluster_upstream_rq_total{job=%q,%s,kuma_workload="client",kuma_proxy_role="sidecar",dataplane="client-1",envoy_cluster_name=~"kri_msvc_.*_web_.*"} >= 20`, job, here), 1)
			p.UntilTrue(t, fmt.Sprintf(`up{job=%q} == 1`, job), 3)
		}
		p.UntilTrue(t, fmt.Sprintf(`count by (job) (up{instance=~".*:%d"})`, main), 1) // a backend that names a client is for nobody else
	})
	t.Run("applications", func(t *testing.T) {
		p.UntilTrue(t, fmt.Sprintf(`orders_total{job="main",%s,kuma_workload="web",application="shop",exported_zone="of the shop"} == 3`, here), 1)
		p.UntilTrue(t, `causeway_scrape_up{job="main",source="broken"} == 0`, 2)
		p.UntilTrue(t, `causeway_scrape_up{job="main",source="envoy"} == 1`, 3)
	})
	t.Run("a proxy of the zone", func(t *testing.T) {
		p.UntilTrue(t, `envoy_server_live{job="main",kuma_proxy_role="zone-ingress",dataplane="ingress-1"} == 1`, 1)
		got, err := p.Query(t.Context(), `{job="main",kuma_proxy_role="zone-ingress",source=~"shop|broken"} or {job="main",kuma_proxy_role="zone-ingress",application!=""}`)
		if err != nil || len(got) > 0 {
			t.Errorf("it asks applications: %v %v", got, err)
		}
	})
	t.Run("zones of peers", func(t *testing.T) {
		p.UntilTrue(t, fmt.Sprintf(`envoy_cluster_zone_upstream_rq_xx{job="main",kuma_workload="client",peer_zone=%q,envoy_response_code_class="2"} >= 20`, m.Zone.Name), 1)
		// What Envoy sends before its first report is asked for is not in the load reports.
		p.Until(t, "load reports count requests", func() (any, bool) {
			client.Reach(t, "web")
			got, err := p.Query(t.Context(), fmt.Sprintf(`causeway_traffic_requests_total{job="main",kuma_workload="client",peer_zone=%q,priority="0"} >= 5`, m.Zone.Name))
			return fmt.Sprint(got, err), err == nil && len(got) == 1
		})
		p.UntilTrue(t, `causeway_traffic_sent_bytes_total{job="main",kuma_workload="client"} > 0`, 1)
	})
	t.Run("a collector", func(t *testing.T) {
		m.Until(t, "the collector has a sum of Envoy with the attributes of the proxy, and one of the application", func() (any, bool) {
			r := collector.latest(m.Name, "client-1")
			rq, orders := r["envoy_cluster_upstream_rq_total"], r["orders_total"]
			sum := rq.GetSum().GetDataPoints()
			var overview any
			m.Overview(t, "client-1", &overview)
			return fmt.Sprint(rq, orders, overview), len(sum) > 0 && rq.GetSum().GetIsMonotonic() && attribute(sum[0].GetAttributes(), "zone") == m.Zone.Name &&
				len(orders.GetSum().GetDataPoints()) == 1 && orders.GetSum().GetDataPoints()[0].GetAsDouble() == 3
		})
	})
	t.Run("profiles, and what an edit costs", func(t *testing.T) {
		if got, err := p.Query(t.Context(), `envoy_server_uptime or envoy_runtime_num_keys`); err != nil || len(got) > 0 {
			t.Errorf("what the profile leaves out is told: %v %v", got, err)
		}
		updates := func() int { return client.Stat(t, `^(listener_manager.lds|cluster_manager.cds).update_success$`) }
		before := updates()
		m.Apply(t, policy("{appendProfiles: [{name: All}], exclude: [{type: Prefix, match: envoy_http_}]}"))
		p.UntilTrue(t, `envoy_runtime_num_keys{job="main",kuma_workload="client"} > 0`, 1)
		p.UntilTrue(t, `envoy_http_downstream_rq_total{job="main"}`, 0)
		if after := updates(); after != before {
			t.Errorf("an edit of metrics changed Envoy's configuration: %d updates, %d before", after, before)
		}
	})
	t.Run("deleted", func(t *testing.T) {
		m.Delete(t, "MeshMetric", "metrics")
		m.Until(t, "the port is closed", func() (any, bool) {
			c, err := net.Dial("tcp", net.JoinHostPort(client.Host, fmt.Sprint(main)))
			if err == nil {
				c.Close()
			}
			return err, err != nil
		})
		p.UntilTrue(t, `up`, 0)
	})
}

// testMetricsTLS lets a real Prometheus read over TLS: with a certificate of the host, which it verifies, and with the identity of the
// workload, which is for clients with an identity of the mesh alone. Nothing is told in plaintext.
func testMetricsTLS(t *testing.T, m *testmesh.Mesh) {
	root, hosts, others := newAuthority(t, "root"), newAuthority(t, "hosts"), newAuthority(t, "others")
	dir := t.TempDir()
	file := func(name string, text []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	files := func(name string, p pair) string {
		return fmt.Sprintf("cert_file: %s, key_file: %s", file(name+".pem", p.cert), file(name+".key", p.key))
	}
	served := hosts.certify(t, func(c *x509.Certificate) { c.DNSNames = []string{"metrics.example"} })
	certFile, keyFile := file("served.pem", served.cert), file("served.key", served.key)
	provided, mutual := ports.Free(t, "127.0.0.1"), ports.Free(t, "127.0.0.1")
	m.Apply(t, "type: MeshIdentity\nname: identity\nspec: {selector: {dataplane: {}}, provider: {type: Bundled, bundled: "+supplied(t, root.pem, root)+"}}\n")
	m.ApplyWarned(t, fmt.Sprintf("type: MeshMetric\nname: metrics\nspec:\n  default:\n    backends:\n"+
		"    - {type: Prometheus, prometheus: {port: %d, tls: {mode: ProvidedTLS}}}\n    - {type: Prometheus, prometheus: {port: %d, tls: {mode: ActiveMTLSBackend}}}\n", provided, mutual))
	client := m.Workload(t, testmesh.Workload{Name: "client-1", Configure: func(c *agent.Config) {
		c.Metrics.CertFile, c.Metrics.KeyFile = certFile, keyFile
	}})
	var config strings.Builder
	config.WriteString("global: {scrape_interval: 500ms, scrape_timeout: 500ms}\nscrape_configs:\n")
	wants := map[string]int{}
	job := func(name, scheme string, port int, tls string, up int) {
		fmt.Fprintf(&config, "- {job_name: %s, scheme: %s, tls_config: {%s}, static_configs: [{targets: ['%s:%d']}]}\n", name, scheme, tls, client.Host, port)
		wants[name] = up
	}
	ca := func(a *authority, name string) string { return "ca_file: " + file(name+"-ca.pem", a.pem) }
	job("verified", "https", provided, ca(hosts, "hosts")+", server_name: metrics.example", 1)
	job("foreign-authority", "https", provided, ca(others, "others")+", server_name: metrics.example", 0)
	job("foreign-name", "https", provided, ca(hosts, "again")+", server_name: other.example", 0)
	job("plaintext", "http", provided, "", 0)
	job("member", "https", mutual, files("member", root.issue(t, spiffe(m, "prometheus")))+", insecure_skip_verify: true", 1)
	job("stranger", "https", mutual, files("stranger", others.issue(t, spiffe(m, "prometheus")))+", insecure_skip_verify: true", 0)
	job("foreign-domain", "https", mutual, files("domain", root.issue(t, "spiffe://elsewhere/prometheus"))+", insecure_skip_verify: true", 0)
	job("nobody", "https", mutual, "insecure_skip_verify: true", 0)
	job("mutual-plaintext", "http", mutual, "", 0)
	p := prometheus.Start(t, config.String())
	for name, up := range wants {
		p.UntilTrue(t, fmt.Sprintf(`up{job=%q} == %d`, name, up), 1)
	}
	p.UntilTrue(t, `envoy_server_live{job=~"verified|member",kuma_workload="client"} == 1`, 2)
	if got, err := p.Query(t.Context(), `envoy_server_live{job!~"verified|member"}`); err != nil || len(got) > 0 {
		t.Errorf("who may not ask is told: %v %v", got, err)
	}
	// What is served is the identity of the workload, from the authority of the mesh, and no other.
	member := root.issue(t, spiffe(m, "prometheus")).tls(t)
	c, err := tls.Dial("tcp", net.JoinHostPort(client.Host, fmt.Sprint(mutual)), &tls.Config{
		InsecureSkipVerify:   true, // identities have no host names
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &member, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	peer := c.ConnectionState().PeerCertificates[0]
	roots := x509.NewCertPool()
	roots.AddCert(root.cert)
	if _, err := peer.Verify(x509.VerifyOptions{Roots: roots}); err != nil || len(peer.URIs) != 1 || peer.URIs[0].String() != spiffe(m, "client") {
		t.Errorf("metrics are served as %v: %v", peer.URIs, err)
	}
	// A renewed certificate of the host is served without a restart.
	renewed := others.certify(t, func(c *x509.Certificate) { c.DNSNames = []string{"metrics.example"} })
	file("served.key", renewed.key)
	file("served.pem", renewed.cert)
	p.UntilTrue(t, `up{job="foreign-authority"} == 1`, 1)
}

// scrapeConfig finds the backends that name the client main, and as another client those that name none. Debian's Prometheus is built
// without kuma_sd_configs; its protocol is tested with the REST API.
func scrapeConfig(m *testmesh.Mesh) string {
	job := func(name, client string) string {
		return fmt.Sprintf("- job_name: %s\n  http_sd_configs:\n  - url: https://%s/meshes/%s/prometheus-targets?clientId=%s\n    refresh_interval: 1s\n"+
			"    authorization: {type: Bearer, credentials_file: %s}\n    tls_config: {ca_file: %s}\n",
			name, m.ControlPlane().APIAddress(), m.Name, client, filepath.Join(m.WorkDir(), "admin.token"), m.ControlPlane().CAFile())
	}
	return "global: {scrape_interval: 500ms, scrape_timeout: 500ms}\nscrape_configs:\n" + job("main", "main") + job("any", "somebody")
}

// serveText is an application that tells a text.
func serveText(t *testing.T, text string) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", ports.FreeAddress(t, "127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }), ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
	return l.Addr().(*net.TCPAddr).Port
}

// A sink takes what agents send to a collector.
type sink struct {
	port int
	got  atomic.Pointer[map[string]map[string]*metricsv1.Metric] // by mesh and dataplane, and name
}

// collect listens as a collector does, by gRPC.
func collect(t *testing.T) *sink {
	t.Helper()
	l, err := net.Listen("tcp", ports.FreeAddress(t, "127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	s := &sink{port: l.Addr().(*net.TCPAddr).Port}
	s.got.Store(&map[string]map[string]*metricsv1.Metric{})
	g := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		var in metricsv1.MetricsData
		if method, _ := grpc.MethodFromServerStream(stream); !strings.HasSuffix(method, ".MetricsService/Export") {
			return fmt.Errorf("unknown method %s", method)
		}
		if err := stream.RecvMsg(&in); err != nil {
			return err
		}
		s.take(&in)
		return stream.SendMsg(&emptypb.Empty{})
	}))
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	t.Cleanup(func() { g.Stop(); <-done })
	return s
}

func (s *sink) take(in *metricsv1.MetricsData) {
	for {
		old := s.got.Load()
		next := map[string]map[string]*metricsv1.Metric{}
		for k, v := range *old {
			next[k] = v
		}
		for _, r := range in.GetResourceMetrics() {
			key := attribute(r.GetResource().GetAttributes(), "kuma.mesh") + "/" + attribute(r.GetResource().GetAttributes(), "service.instance.id")
			metrics := map[string]*metricsv1.Metric{}
			for name, m := range next[key] {
				metrics[name] = m
			}
			for _, scope := range r.GetScopeMetrics() {
				for _, m := range scope.GetMetrics() {
					metrics[m.GetName()] = m
				}
			}
			next[key] = metrics
		}
		if s.got.CompareAndSwap(old, &next) {
			return
		}
	}
}

func (s *sink) latest(meshName, dataplane string) map[string]*metricsv1.Metric {
	return (*s.got.Load())[meshName+"/"+dataplane]
}

func attribute(list []*commonv1.KeyValue, key string) string {
	for _, kv := range list {
		if kv.GetKey() == key {
			return kv.GetValue().GetStringValue()
		}
	}
	return ""
}
