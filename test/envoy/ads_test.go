package envoy

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// syncBuffer is a list of lines that several goroutines add to.
type syncBuffer struct {
	mu    sync.Mutex
	lines []string
}

func (b *syncBuffer) add(line string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, line)
}

func (b *syncBuffer) all() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.lines)
}

// server is a delta ADS and SDS server on one Unix socket that does only what a test tells it to.
type server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	secretv3.UnimplementedSecretDiscoveryServiceServer
	socket string
	grpc   *grpc.Server

	mu   sync.Mutex
	ads  []*stream
	sds  []*stream
	took int // ADS streams that a test has taken
}

// newServer listens on a socket in dir.
func newServer(t testing.TB) *server {
	t.Helper()
	s := &server{socket: filepath.Join(shortDir(t), "xds.sock")}
	s.listen(t)
	t.Cleanup(s.stop)
	return s
}

func (s *server) listen(t testing.TB) {
	t.Helper()
	l, err := net.Listen("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s)
	secretv3.RegisterSecretDiscoveryServiceServer(g, s)
	s.grpc = g
	go g.Serve(l) //nolint:errcheck // ends with stop
}

func (s *server) stop() { s.grpc.Stop() }

// DeltaAggregatedResources keeps a stream open for the test to speak on.
func (s *server) DeltaAggregatedResources(g discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	st := newStream(g)
	s.mu.Lock()
	s.ads = append(s.ads, st)
	s.mu.Unlock()
	return st.run()
}

// DeltaSecrets keeps a secret stream open for the test to speak on.
func (s *server) DeltaSecrets(g secretv3.SecretDiscoveryService_DeltaSecretsServer) error {
	st := newStream(g)
	s.mu.Lock()
	s.sds = append(s.sds, st)
	s.mu.Unlock()
	return st.run()
}

// accept waits for Envoy's next ADS stream.
func (s *server) accept(t testing.TB) *stream {
	t.Helper()
	var st *stream
	until(t, "an ADS stream", func() (any, bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.ads) <= s.took {
			return len(s.ads), false
		}
		st = s.ads[s.took]
		s.took++
		return nil, true
	})
	return st
}

func (s *server) secretStreams() []*stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.sds)
}

type deltaStream interface {
	Send(*discoveryv3.DeltaDiscoveryResponse) error
	Recv() (*discoveryv3.DeltaDiscoveryRequest, error)
	Context() context.Context
}

// stream is one delta xDS stream; it remembers everything Envoy said.
type stream struct {
	g   deltaStream
	end chan struct{}

	mu       sync.Mutex
	once     sync.Once
	requests []*discoveryv3.DeltaDiscoveryRequest
	sent     int
	closed   bool
}

func newStream(g deltaStream) *stream { return &stream{g: g, end: make(chan struct{})} }

func (s *stream) run() error {
	go func() {
		for {
			r, err := s.g.Recv()
			s.mu.Lock()
			if err != nil {
				s.closed = true
				s.mu.Unlock()
				return
			}
			s.requests = append(s.requests, r)
			s.mu.Unlock()
		}
	}()
	select {
	case <-s.end:
	case <-s.g.Context().Done():
	}
	return nil
}

// cut ends the stream from the server's side.
func (s *stream) cut() { s.once.Do(func() { close(s.end) }) }

func (s *stream) log() []*discoveryv3.DeltaDiscoveryRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// first waits for the first request of a type.
func (s *stream) first(t testing.TB, typeURL string) *discoveryv3.DeltaDiscoveryRequest {
	t.Helper()
	return s.find(t, "a first "+short(typeURL)+" request", func(r *discoveryv3.DeltaDiscoveryRequest) bool {
		return r.TypeUrl == typeURL
	})
}

// subscribed waits until Envoy has asked for names of a type.
func (s *stream) subscribed(t testing.TB, typeURL string, names ...string) {
	t.Helper()
	for _, name := range names {
		s.find(t, fmt.Sprintf("a subscription to %s %s", short(typeURL), name), func(r *discoveryv3.DeltaDiscoveryRequest) bool {
			return r.TypeUrl == typeURL && slices.Contains(r.ResourceNamesSubscribe, name)
		})
	}
}

// subscriptions counts how often Envoy has asked for a name.
func (s *stream) subscriptions(typeURL, name string) (n int) {
	for _, r := range s.log() {
		if r.TypeUrl == typeURL && slices.Contains(r.ResourceNamesSubscribe, name) {
			n++
		}
	}
	return n
}

func (s *stream) find(t testing.TB, what string, match func(*discoveryv3.DeltaDiscoveryRequest) bool) *discoveryv3.DeltaDiscoveryRequest {
	t.Helper()
	var found *discoveryv3.DeltaDiscoveryRequest
	until(t, what, func() (any, bool) {
		log := s.log()
		for _, r := range log {
			if match(r) {
				found = r
				return nil, true
			}
		}
		return describe(log), false
	})
	return found
}

func describe(log []*discoveryv3.DeltaDiscoveryRequest) string {
	var b strings.Builder
	for _, r := range log {
		fmt.Fprintf(&b, "\n  %s +%v -%v nonce=%s error=%q", short(r.TypeUrl), r.ResourceNamesSubscribe,
			r.ResourceNamesUnsubscribe, r.ResponseNonce, r.GetErrorDetail().GetMessage())
	}
	return b.String()
}

func short(typeURL string) string { return typeURL[strings.LastIndexByte(typeURL, '.')+1:] }

// res is one resource to send.
type res struct {
	name, version string
	message       proto.Message
}

// send sends one response without waiting for its answer and returns its nonce.
func (s *stream) send(t testing.TB, typeURL string, removed []string, resources ...res) (nonce string) {
	t.Helper()
	s.mu.Lock()
	s.sent++
	nonce = fmt.Sprintf("%s-%d", short(typeURL), s.sent)
	s.mu.Unlock()
	d := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeURL, Nonce: nonce, RemovedResources: removed, SystemVersionInfo: nonce}
	for _, r := range resources {
		body, err := anypb.New(r.message)
		if err != nil {
			t.Fatal(err)
		}
		d.Resources = append(d.Resources, &discoveryv3.Resource{Name: r.name, Version: r.version, Resource: body})
	}
	if err := s.g.Send(d); err != nil {
		t.Fatalf("send %s: %v", nonce, err)
	}
	return nonce
}

// answer waits for Envoy's verdict on a response: empty is an ACK, else the text of the NACK.
func (s *stream) answer(t testing.TB, nonce string) string {
	t.Helper()
	r := s.find(t, "an answer to "+nonce, func(r *discoveryv3.DeltaDiscoveryRequest) bool { return r.ResponseNonce == nonce })
	return r.GetErrorDetail().GetMessage()
}

// answered says whether Envoy has answered a response already.
func (s *stream) answered(nonce string) bool {
	return slices.ContainsFunc(s.log(), func(r *discoveryv3.DeltaDiscoveryRequest) bool { return r.ResponseNonce == nonce })
}

// push sends resources and requires an ACK.
func (s *stream) push(t testing.TB, typeURL string, resources ...res) {
	t.Helper()
	if nack := s.answer(t, s.send(t, typeURL, nil, resources...)); nack != "" {
		t.Fatalf("%s refused: %s", short(typeURL), nack)
	}
}

// v1 names resources by themselves at version 1.
func v1(messages ...proto.Message) []res { return versioned("1", messages...) }

func versioned(version string, messages ...proto.Message) []res {
	out := make([]res, len(messages))
	for i, m := range messages {
		out[i] = res{name: nameOf(m), version: version, message: m}
	}
	return out
}

func nameOf(m proto.Message) string {
	switch m := m.(type) {
	case *clusterv3.Cluster:
		return m.Name
	case *listenerv3.Listener:
		return m.Name
	case *endpointv3.ClusterLoadAssignment:
		return m.ClusterName
	case *routev3.RouteConfiguration:
		return m.Name
	case *tlsv3.Secret:
		return m.Name
	case *corev3.TypedExtensionConfig:
		return m.Name
	}
	panic(fmt.Sprintf("%T has no name", m))
}

// adsBootstrap points Envoy's ADS, CDS and LDS at the server.
func (s *server) adsBootstrap() string {
	return fmt.Sprintf(`
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    grpc_services: [{envoy_grpc: {cluster_name: xds}}]
  cds_config: {resource_api_version: V3, initial_fetch_timeout: 5s, ads: {}}
  lds_config: {resource_api_version: V3, initial_fetch_timeout: 5s, ads: {}}
static_resources:
  clusters:
  - name: xds
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment:
      cluster_name: xds
      endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: %s}}}}]}]
`, s.socket)
}

// start runs Envoy against a new server and returns its first ADS stream.
func start(t testing.TB, opts ...option) (*server, *proxy, *stream) {
	t.Helper()
	binary(t)
	s := newServer(t)
	p := startProxy(t, s.adsBootstrap(), opts...)
	return s, p, s.accept(t)
}

// everything is a first configuration.
type everything struct {
	clusters, endpoints, listeners, routes, extensions, secrets []proto.Message
}

// boot brings Envoy from nothing to live with a first configuration, each type at version 1.
func (s *stream) boot(t testing.TB, p *proxy, e everything) {
	t.Helper()
	s.boot0(t, e)
	p.untilLive(t)
}

// boot0 is boot without the wait for Envoy to be live. Secrets come before listeners because clusters wait for them.
func (s *stream) boot0(t testing.TB, e everything) {
	t.Helper()
	s.first(t, resourcev3.ClusterType)
	s.push(t, resourcev3.ClusterType, v1(e.clusters...)...)
	s.supply(t, resourcev3.EndpointType, e.endpoints)
	s.supply(t, resourcev3.SecretType, e.secrets)
	s.first(t, resourcev3.ListenerType)
	s.push(t, resourcev3.ListenerType, v1(e.listeners...)...)
	s.supply(t, resourcev3.RouteType, e.routes)
	s.supply(t, resourcev3.ExtensionConfigType, e.extensions)
}

// supply sends resources once Envoy has asked for all of them.
func (s *stream) supply(t testing.TB, typeURL string, messages []proto.Message) {
	t.Helper()
	if len(messages) == 0 {
		return
	}
	for _, m := range messages {
		s.subscribed(t, typeURL, nameOf(m))
	}
	s.push(t, typeURL, v1(messages...)...)
}
