package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	mesh "github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/dataplane/envoy"
	"github.com/causeway-mesh/causeway/test/ports"
	"github.com/causeway-mesh/causeway/zone-cp/agents"
	"github.com/causeway-mesh/causeway/zone-cp/identity"
)

func realEnvoy(t *testing.T) {
	t.Helper()
	_, err := envoy.Find(t.Context())
	if errors.Is(err, envoy.ErrNotFound) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func packed(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func address(port int) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}

func bySDS(name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: &corev3.ConfigSource{
		ResourceApiVersion: corev3.ApiVersion_V3, InitialFetchTimeout: durationpb.New(5 * time.Second),
		ConfigSourceSpecifier: &corev3.ConfigSource_ApiConfigSource{ApiConfigSource: &corev3.ApiConfigSource{
			ApiType: corev3.ApiConfigSource_DELTA_GRPC, TransportApiVersion: corev3.ApiVersion_V3,
			GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
				ClusterName: mesh.AgentCluster,
				RetryPolicy: &corev3.RetryPolicy{RetryBackOff: &corev3.BackoffStrategy{BaseInterval: durationpb.New(20 * time.Millisecond), MaxInterval: durationpb.New(200 * time.Millisecond)}},
			}}}},
		}},
	}}
}

// inbound is a listener that takes mesh TLS and leads to the workload, as one byte stream.
func inbound(t *testing.T, port, workload int) ([]*clusterv3.Cluster, []*listenerv3.Listener) {
	t.Helper()
	tlsContext := &tlsv3.DownstreamTlsContext{
		RequireClientCertificate: wrapperspb.Bool(true),
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{bySDS(mesh.IdentitySecret)},
			ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext: &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
					SanType: tlsv3.SubjectAltNameMatcher_URI,
					Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "spiffe://"}},
				}}},
				ValidationContextSdsSecretConfig: bySDS(mesh.TrustSecret),
			}},
		},
	}
	clusters := []*clusterv3.Cluster{{
		Name: "app", ConnectTimeout: durationpb.New(time.Second), ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: "app", Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: address(workload)}},
		}}}}},
	}}
	listeners := []*listenerv3.Listener{{
		Name: "in", Address: address(port), EnableReusePort: wrapperspb.Bool(false),
		FilterChains: []*listenerv3.FilterChain{{
			TransportSocket: &corev3.TransportSocket{Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: packed(t, tlsContext)}},
			Filters: []*listenerv3.Filter{{Name: "tcp", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed(t, &tcpproxyv3.TcpProxy{
				StatPrefix: "in", ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: "app"},
			})}}},
		}},
	}}
	return clusters, listeners
}

// peer is another workload of the mesh, with a certificate of the zone's own authority.
func (z *zone) peer(name string) *tls.Certificate {
	z.t.Helper()
	z.apply(strings.ReplaceAll(webYAML(1), "web", name))
	authority := identity.New(identity.Config{Catalog: z.catalog, Zone: "east"})
	key, der, err := request()
	if err != nil {
		z.t.Fatal(err)
	}
	var issued identity.Issued
	until(z.t, "the authority signs", func() bool {
		issued, err = authority.Sign(z.t.Context(), dataplane(name+"-1"), der)
		return err == nil
	}, func() any { return err })
	return &tls.Certificate{Certificate: issued.Chain, PrivateKey: key}
}

// get asks the workload through mesh TLS on a connection of its own and returns the server's certificate.
func get(port int, own *tls.Certificate, path string) (*x509.Certificate, string, error) {
	cfg := &tls.Config{InsecureSkipVerify: true}
	if own != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own, nil }
	}
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}}
	resp, err := c.Get(fmt.Sprintf("https://127.0.0.1:%d%s", port, path))
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.TLS.PeerCertificates[0], string(b), err
}

// app is a workload whose path /slow answers when it is told to.
func app(t *testing.T) (port int, release chan struct{}) {
	release = make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			w.(http.Flusher).Flush()
			<-release
		}
		fmt.Fprint(w, "hello")
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().(*net.TCPAddr).Port, release
}

// keepAsking asks again and again until it is stopped, and counts what failed.
func keepAsking(port int, own *tls.Certificate) (stop func() (asked, failed int64, last error)) {
	var asked, failed atomic.Int64
	var last atomic.Pointer[error]
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, _, err := get(port, own, "/"); err != nil {
					failed.Add(1)
					last.Store(&err)
				}
				asked.Add(1)
			}
		})
	}
	return func() (int64, int64, error) {
		cancel()
		wg.Wait()
		var err error
		if p := last.Load(); p != nil {
			err = *p
		}
		return asked.Load(), failed.Load(), err
	}
}

func TestRealEnvoyHasItsIdentity(t *testing.T) {
	realEnvoy(t)
	w := newWorld(t)
	z := w.start()
	workload, release := app(t)
	port := ports.Free(t, "127.0.0.1")
	clusters, listeners := inbound(t, port, workload)
	w.serveXDS("default.web-1", "1", clusters, listeners)
	cfg := w.config("", webYAML(uint32(port)), z.token(webToken))
	cfg.DrainTime = 5 * time.Second
	a := run(t, cfg)
	z.untilServing("web-1")
	facts := z.facts("web-1")
	if facts.EnvoyVersion != envoy.Version || facts.EnvoyBuild == "" {
		t.Errorf("envoy %q %q", facts.EnvoyVersion, facts.EnvoyBuild)
	}
	until(t, "Envoy acknowledged its secrets", func() bool {
		f := z.facts("web-1")
		return f.IdentityAcknowledged == f.Issued.Serial && f.TrustAcknowledged == f.TrustSent && f.TrustSent != ""
	})

	peer := z.peer("stock")
	cert, body, err := get(port, peer, "/")
	if err != nil || body != "hello" {
		t.Fatalf("through mesh TLS: %q, %v", body, err)
	}
	if got := cert.URIs[0].String(); got != "spiffe://default.east.mesh.local/workload/web" {
		t.Errorf("the server is %s", got)
	}
	for _, d := range []string{cfg.RuntimeDir, filepath.Join(cfg.RuntimeDir, "default.web-1")} {
		mode(t, d, 0o700)
	}
	mode(t, filepath.Join(cfg.RuntimeDir, "default.web-1", "agent.sock"), 0o600)
	mode(t, filepath.Join(cfg.RuntimeDir, "default.web-1", "admin.sock"), 0o600)

	if _, _, err := get(port, nil, "/"); err == nil {
		t.Error("a client without a certificate got in")
	}
	foreign := newWorld(t).start()
	if _, _, err := get(port, foreign.peer("stock"), "/"); err == nil {
		t.Error("a client with the right name and the wrong signer got in")
	}

	// An answer that is under way when the agent is told to stop is delivered whole.
	slow := make(chan error, 1)
	go func() {
		_, body, err := get(port, peer, "/slow")
		if err == nil && body != "hello" {
			err = fmt.Errorf("got %q", body)
		}
		slow <- err
	}()
	until(t, "the slow request is under way", func() bool {
		n, err := newAdmin(filepath.Join(cfg.RuntimeDir, "default.web-1", "admin.sock")).connections(t.Context())
		return err == nil && n == 1
	})
	a.stop()
	until(t, "the zone knows that it drains", func() bool { return z.facts("web-1").Draining })
	close(release)
	if err := <-slow; err != nil {
		t.Errorf("the request under way: %v", err)
	}
	if err := a.ended(); err != nil {
		t.Error(err)
	}
	if a.says("connections are still open") {
		t.Error("the drain waited for nothing")
	}
	if _, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
		t.Error("Envoy still listens")
	}
}

func mode(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != want {
		t.Errorf("%s has mode %04o, want %04o", path, got, want)
	}
}

func TestZoneRestartUnderLoad(t *testing.T) {
	realEnvoy(t)
	w := newWorld(t)
	edit := func(c *agents.Config) { c.DeregisterAfter = time.Hour }
	z := w.start(edit)
	workload, _ := app(t)
	port := ports.Free(t, "127.0.0.1")
	clusters, listeners := inbound(t, port, workload)
	w.serveXDS("default.web-1", "1", clusters, listeners)
	cfg := w.config("", webYAML(uint32(port)), z.token(webToken))
	run(t, cfg)
	z.untilServing("web-1")
	peer := z.peer("stock")
	first, _, err := get(port, peer, "/")
	if err != nil {
		t.Fatal(err)
	}
	stop := keepAsking(port, peer)

	z.stop()
	z = w.start(edit)
	until(t, "the agent is back", func() bool { return z.facts("web-1").Connected })
	w.serveXDS("default.web-1", "2", append(clusters, &clusterv3.Cluster{Name: "more", ConnectTimeout: durationpb.New(time.Second)}), listeners)
	until(t, "Envoy follows the new zone", func() bool {
		text, err := newAdmin(filepath.Join(cfg.RuntimeDir, "default.web-1", "admin.sock")).do(t.Context(), "GET", "/clusters")
		return err == nil && strings.Contains(text, "more::")
	})
	same, _, err := get(port, peer, "/")
	if err != nil || !same.Equal(first) {
		t.Errorf("after the zone's restart another certificate is served (%v)", err)
	}

	asked, failed, last := stop()
	if failed > 0 || asked < 10 {
		t.Errorf("%d of %d requests failed, the last one with %v", failed, asked, last)
	}
}

func TestTwoAgentsOnOneHost(t *testing.T) {
	realEnvoy(t)
	w := newWorld(t)
	z := w.start()
	listening := map[string]int{}
	base := ""
	for _, name := range []string{"web", "stock"} {
		workload, _ := app(t)
		listening[name] = ports.Free(t, "127.0.0.1")
		clusters, listeners := inbound(t, listening[name], workload)
		w.serveXDS("default."+name+"-1", "1", clusters, listeners)
		d := webToken
		d.Name, d.Workload = name+"-1", name
		cfg := w.config("", strings.ReplaceAll(webYAML(uint32(listening[name])), "web", name), z.token(d))
		if base == "" {
			base = cfg.RuntimeDir
		}
		cfg.RuntimeDir = base // one user, one runtime directory
		run(t, cfg)
	}
	for name := range listening {
		z.untilServing(name + "-1")
	}
	if a, b := z.facts("web-1").OutboundBlock, z.facts("stock-1").OutboundBlock; a == b || a == "" {
		t.Errorf("blocks %q and %q", a, b)
	}
	peer := z.peer("client")
	for name, port := range listening {
		for range 20 {
			cert, _, err := get(port, peer, "/")
			if err != nil || cert.URIs[0].Path != "/workload/"+name {
				t.Fatalf("%s answers as %v, %v", name, cert, err)
			}
		}
	}
}
