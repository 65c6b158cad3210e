package xds_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/test/load"
	"github.com/causeway-mesh/causeway/zone-cp/xds"
)

// zone is a server of ours over TLS whose proxies all get one table.
type zone struct {
	t       testing.TB
	cert    tls.Certificate
	addr    string
	patient time.Duration

	grpc *grpc.Server
	stop context.CancelFunc
	done sync.WaitGroup

	mu    sync.Mutex
	table *envoy.Table
	subs  map[*subscription]bool
	moved chan struct{}
}

func newZone(t testing.TB, table *envoy.Table) *zone {
	z := &zone{t: t, cert: certificate(t), table: table, subs: map[*subscription]bool{}, moved: make(chan struct{})}
	z.start("127.0.0.1:0")
	t.Cleanup(func() { z.halt() })
	return z
}

func certificate(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "zone"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (z *zone) start(addr string) {
	z.t.Helper()
	server, err := xds.New(xds.Config{Sessions: z, Patience: z.patient})
	if err != nil {
		z.t.Fatal(err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		z.t.Fatal(err)
	}
	z.mu.Lock()
	z.addr = l.Addr().String()
	z.mu.Unlock()
	z.grpc = grpc.NewServer(append(server.ServerOptions(), grpc.Creds(credentials.NewServerTLSFromCert(&z.cert)))...)
	server.Register(z.grpc)
	served := z.grpc
	ctx, cancel := context.WithCancel(context.Background())
	z.stop = cancel
	z.done.Go(func() {
		if err := server.Run(ctx); err != nil {
			z.t.Error(err)
		}
	})
	z.done.Go(func() {
		if err := served.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			z.t.Error(err)
		}
	})
}

func (z *zone) halt() {
	z.stop()
	z.grpc.Stop()
	z.done.Wait()
}

// set gives all proxies another table.
func (z *zone) set(t *envoy.Table) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.table = t
	for s := range z.subs {
		s.changed()
	}
}

// Open implements xds.Sessions.
func (z *zone) Open(_ context.Context, node *corev3.Node, changed func()) (xds.Subscription, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	s := &subscription{zone: z, node: node.GetId(), changed: changed}
	z.subs[s] = true
	close(z.moved)
	z.moved = make(chan struct{})
	return s, nil
}

type subscription struct {
	zone     *zone
	node     string
	changed  func()
	acked    uint64
	rejected []xds.Rejection
}

func (s *subscription) Table() *envoy.Table {
	s.zone.mu.Lock()
	defer s.zone.mu.Unlock()
	return s.zone.table
}

func (s *subscription) note(f func()) {
	s.zone.mu.Lock()
	defer s.zone.mu.Unlock()
	f()
	close(s.zone.moved)
	s.zone.moved = make(chan struct{})
}

func (s *subscription) Acked(sequence uint64)         { s.note(func() { s.acked = sequence }) }
func (s *subscription) Rejected(list []xds.Rejection) { s.note(func() { s.rejected = list }) }
func (s *subscription) Close()                        { s.note(func() { delete(s.zone.subs, s) }) }
func (s *subscription) Sent(envoy.Type)               {}
func (s *subscription) Answered(envoy.Type, bool)     {}

// until waits for a condition on the open streams.
func (z *zone) until(what string, ok func(all []*subscription) bool) {
	z.t.Helper()
	limit := time.After(5 * time.Minute) // reached only by a test that fails
	for {
		z.mu.Lock()
		var all []*subscription
		for s := range z.subs {
			all = append(all, s)
		}
		done, moved := ok(all), z.moved
		z.mu.Unlock()
		if done {
			return
		}
		select {
		case <-moved:
			<-time.After(time.Millisecond) // many move at a time, and looking at all of them each time would be the load
		case <-limit:
			z.t.Fatalf("%s: not within five minutes; %d streams", what, len(all))
		}
	}
}

func allAt(n int, sequence uint64) func([]*subscription) bool {
	return func(all []*subscription) bool {
		for _, s := range all {
			if s.acked < sequence {
				return false
			}
		}
		return len(all) == n
	}
}

// fleet connects proxies to the zone until the test ends.
func (z *zone) fleet(cfg load.Config, n int) *load.Fleet {
	return connect(z.t, cfg, n, func() string {
		z.mu.Lock()
		defer z.mu.Unlock()
		return z.addr
	})
}

func connect(t testing.TB, cfg load.Config, n int, addr func() string) *load.Fleet {
	cfg.Dial = dialer(addr)
	f := load.New(cfg, n)
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := f.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
	return f
}

func dialer(addr func() string) func(int) (*grpc.ClientConn, error) {
	gate := make(chan struct{}, 32) // connections that are made at a time
	return func(int) (*grpc.ClientConn, error) {
		dial := func(ctx context.Context, _ string) (net.Conn, error) {
			gate <- struct{}{}
			defer func() { <-gate }()
			return (&net.Dialer{}).DialContext(ctx, "tcp", addr())
		}
		return grpc.NewClient("passthrough:zone", append(load.DialOptions(), grpc.WithContextDialer(dial),
			grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})))...) //nolint:gosec // nothing is secret here
	}
}

func fragment(t testing.TB, typ envoy.Type, name string, m proto.Message, refs ...envoy.Ref) *envoy.Fragment {
	t.Helper()
	f, err := envoy.NewFragment(typ, name, m)
	if err != nil {
		t.Fatal(err)
	}
	f.Refs = refs
	return f
}

func packed(t testing.TB, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{ResourceApiVersion: corev3.ApiVersion_V3, ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}
}

// generation is what of a service has changed how often.
type generation struct{ cluster, endpoints, listener, route int }

// service makes the resources of one service, padded to a realistic size.
func service(t testing.TB, i int, g generation) []*envoy.Fragment {
	t.Helper()
	name := fmt.Sprintf("kri_msvc_default_zone-1__svc-%d_http", i)
	address := func(port uint32) *corev3.Address {
		return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: fmt.Sprintf("127.1.%d.%d", i/250, i%250+1), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
		}}}
	}
	assignment := &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{}}}
	for e := range 10 {
		assignment.Endpoints[0].LbEndpoints = append(assignment.Endpoints[0].LbEndpoints, &endpointv3.LbEndpoint{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: address(uint32(8000 + e + g.endpoints))}},
		})
	}
	return []*envoy.Fragment{
		fragment(t, envoy.Cluster, name, &clusterv3.Cluster{
			Name: name, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
			EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads()},
			ConnectTimeout:   durationpb.New(time.Duration(g.cluster+1) * time.Millisecond), AltStatName: strings.Repeat("x", 900),
		}, envoy.Ref{Type: envoy.Endpoint, Name: name}),
		fragment(t, envoy.Endpoint, name, assignment),
		fragment(t, envoy.Route, name, &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{{
			Name: strings.Repeat("r", 400+g.route), Domains: []string{"*"},
			Routes: []*routev3.Route{{
				Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: name}}},
			}},
		}}}, envoy.Ref{Type: envoy.Cluster, Name: name}),
		fragment(t, envoy.Listener, name, &listenerv3.Listener{
			Name: name, Address: address(80), StatPrefix: strings.Repeat("l", 300+g.listener),
			FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
				Name: "http", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed(t, &hcmv3.HttpConnectionManager{
					StatPrefix: name, RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{ConfigSource: ads(), RouteConfigName: name}},
				})},
			}}}},
		}, envoy.Ref{Type: envoy.Route, Name: name}),
	}
}

// market makes tables of n services; services that did not change keep their fragments.
type market struct {
	t        testing.TB
	sequence uint64
	state    []generation
	frags    [][]*envoy.Fragment
}

func newMarket(t testing.TB, n int) *market {
	m := &market{t: t, state: make([]generation, n), frags: make([][]*envoy.Fragment, n)}
	for i := range n {
		m.frags[i] = service(t, i, generation{})
	}
	return m
}

func (m *market) change(i int, f func(*generation)) {
	f(&m.state[i])
	old := m.frags[i]
	m.frags[i] = service(m.t, i, m.state[i])
	for j, x := range m.frags[i] {
		if old[j].Version == x.Version {
			m.frags[i][j] = old[j]
		}
	}
}

func (m *market) table() *envoy.Table {
	m.sequence++
	var all []*envoy.Fragment
	for _, fs := range m.frags {
		all = append(all, fs...)
	}
	return &envoy.Table{Shared: envoy.NewPart(all), Sequence: m.sequence}
}
