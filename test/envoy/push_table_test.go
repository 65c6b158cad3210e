package envoy

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacconfv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// fetchWait is the fetch timeout of nested resources, as long as the product's: whoever runs into it is noticed.
const fetchWait = 15 * time.Second

// sight is the generation of each resource that a request meets.
type sight [envoy.NumTypes]int

func allAt(generation int) (s sight) {
	for t := range s {
		s[t] = generation
	}
	return s
}

// service is one destination as a proxy gets it: a cluster with endpoints, and a listener with routes and a permission.
// Each is at a generation that the answer to a request shows.
type service struct {
	name string
	port uint32
	at   sight
	bad  map[envoy.Type]bool // which of them only Envoy can find wrong
	// to is the service whose cluster the routes lead to, when it is another one.
	to string
	// deny makes the permission refuse everybody.
	deny bool
}

// market makes services and tables of them.
type market struct {
	pools []uint32 // the endpoint of each generation
	last  uint64   // sequence of the newest table
	made  map[string]*envoy.Fragment
}

// newMarket starts an upstream for each generation of endpoints.
func newMarket(t testing.TB, generations int) *market {
	m := &market{made: map[string]*envoy.Fragment{}}
	for g := range generations + 1 {
		m.pools = append(m.pools, echo(t, strconv.Itoa(g)))
	}
	return m
}

func (m *market) services(t testing.TB, n int) (out []service) {
	for i := range n {
		out = append(out, service{name: fmt.Sprintf("svc-%02d", i), port: ownPort(t), at: allAt(1)})
	}
	return out
}

// ownPort keeps a port for a service while it does not listen yet: a socket that is bound and does not listen keeps
// everybody else from being given the port, and does not keep Envoy from it.
func ownPort(t testing.TB) uint32 {
	t.Helper()
	syscall.ForkLock.RLock()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	to := &syscall.SockaddrInet4{Addr: netip.MustParseAddr(loopbackIP).As4()}
	if err := errors.Join(syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1), syscall.Bind(fd, to)); err != nil {
		t.Fatal(err)
	}
	got, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(got.(*syscall.SockaddrInet4).Port)
}

// table is the next table with these services.
func (m *market) table(t testing.TB, services ...service) *envoy.Table {
	t.Helper()
	var all []*envoy.Fragment
	for _, s := range services {
		all = append(all, m.fragments(t, s)...)
	}
	m.last++
	return &envoy.Table{Shared: envoy.NewPart(all), Sequence: m.last}
}

func (m *market) fragments(t testing.TB, s service) []*envoy.Fragment {
	t.Helper()
	var out []*envoy.Fragment
	for typ, build := range map[envoy.Type]func(testing.TB, service) proto.Message{
		envoy.Cluster: m.cluster, envoy.Endpoint: m.endpoints, envoy.Listener: m.listener, envoy.Route: m.routes, envoy.Extension: m.permission,
	} {
		key := fmt.Sprint(typ, s.name, s.port, s.at[typ], s.bad[typ], s.to, s.deny)
		if m.made[key] == nil {
			m.made[key] = fragmentOf(t, build(t, s))
		}
		out = append(out, m.made[key])
	}
	return out
}

// fragmentOf makes a fragment as the compiler does, with a policy of its own as its origin.
func fragmentOf(t testing.TB, msg proto.Message) *envoy.Fragment {
	t.Helper()
	typ, ok := envoy.TypeOf("type.googleapis.com/" + string(msg.ProtoReflect().Descriptor().FullName()))
	if !ok {
		t.Fatalf("%T is not an xDS resource", msg)
	}
	f, err := envoy.NewFragment(typ, nameOf(msg), msg)
	if err != nil {
		t.Fatal(err)
	}
	f.Refs = needsOf(t, msg)
	f.Origins = []resource.KRI{policyOf(typ, f.Name)}
	return f
}

// policyOf is the policy behind a resource of a service.
func policyOf(t envoy.Type, name string) resource.KRI {
	return resource.KRI{Short: "policy", Mesh: "shop", Name: strings.ToLower(t.String()) + "-" + name}
}

// needsOf finds what a resource refers to.
func needsOf(t testing.TB, msg proto.Message) (refs []envoy.Ref) {
	t.Helper()
	switch msg := msg.(type) {
	case *clusterv3.Cluster:
		if msg.GetType() == clusterv3.Cluster_EDS {
			refs = append(refs, envoy.Ref{Type: envoy.Endpoint, Name: msg.Name})
		}
	case *routev3.RouteConfiguration:
		for _, h := range msg.VirtualHosts {
			for _, r := range h.Routes {
				refs = append(refs, envoy.Ref{Type: envoy.Cluster, Name: r.GetRoute().GetCluster()})
			}
		}
	case *listenerv3.Listener:
		hcm := &hcmv3.HttpConnectionManager{}
		if err := msg.FilterChains[0].Filters[0].GetTypedConfig().UnmarshalTo(hcm); err != nil {
			t.Fatal(err)
		}
		refs = append(refs, envoy.Ref{Type: envoy.Route, Name: hcm.GetRds().GetRouteConfigName()})
		for _, f := range hcm.HttpFilters {
			if f.GetConfigDiscovery() != nil {
				refs = append(refs, envoy.Ref{Type: envoy.Extension, Name: f.Name})
			}
		}
	}
	return refs
}

// shown is how a resource presents itself in an answer.
func (s service) shown(t envoy.Type) string { return fmt.Sprintf("%s/%d", s.name, s.at[t]) }

const badRegex = "("

func (m *market) cluster(t testing.TB, s service) proto.Message {
	c := edsCluster(s.name, fetchWait)
	c.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"shown": {Fields: map[string]*structpb.Value{
		"as": structpb.NewStringValue(s.shown(envoy.Cluster)),
	}}}}
	if s.bad[envoy.Cluster] {
		c.TransportSocket = tlsSocket(t, &rbacv3.RBAC{})
	}
	return c
}

func (m *market) endpoints(_ testing.TB, s service) proto.Message {
	a := assignment(s.name, m.pools[s.at[envoy.Endpoint]])
	if s.bad[envoy.Endpoint] {
		a.Endpoints[0].LbEndpoints[0].GetEndpoint().Address = socketAddress(fmt.Sprintf("host-%d", s.at[envoy.Endpoint]), 1)
	}
	return a
}

func (m *market) listener(t testing.TB, s service) proto.Message {
	hcm := connectionManager(t, s.name, discovered(s.name))
	hcm.ServerName = s.shown(envoy.Listener)
	hcm.GetRds().ConfigSource = fromADS(fetchWait)
	hcm.HttpFilters[0].GetConfigDiscovery().ConfigSource = fromADS(fetchWait)
	if s.bad[envoy.Listener] {
		hcm.HttpFilters = append(hcm.HttpFilters, routerFilter(t)) // two filters that end the chain
	}
	l := listener(s.name, s.port, httpChain(t, hcm))
	l.EnableReusePort = boolValue(false)
	return l
}

func (m *market) routes(_ testing.TB, s service) proto.Message {
	to := s.name
	if s.to != "" {
		to = s.to
	}
	r := routes(s.name, to)
	r.ValidateClusters = boolValue(false)
	for key, value := range map[envoy.Type]string{
		envoy.Cluster:   "%CLUSTER_METADATA(shown:as)%",
		envoy.Route:     s.shown(envoy.Route),
		envoy.Extension: "%DYNAMIC_METADATA(envoy.filters.http.rbac:shadow_effective_policy_id)%",
	} {
		r.ResponseHeadersToAdd = append(r.ResponseHeadersToAdd, &corev3.HeaderValueOption{
			Header: &corev3.HeaderValue{Key: "x-" + key.String(), Value: value}, AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		})
	}
	slices.SortFunc(r.ResponseHeadersToAdd, func(a, b *corev3.HeaderValueOption) int {
		return strings.Compare(a.Header.Key, b.Header.Key)
	})
	if s.bad[envoy.Route] {
		r.VirtualHosts[0].Routes[0].Match.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: badRegex}}
	}
	return r
}

// permission allows everybody; its shadow rules leave its generation where the routes find it.
func (m *market) permission(t testing.TB, s service) proto.Message {
	p := anyone()
	if s.bad[envoy.Extension] {
		p = onlyHeader(&matcherv3.RegexMatcher{Regex: badRegex})
	}
	config := &rbacv3.RBAC{
		Rules:       rbacRules(p),
		ShadowRules: &rbacconfv3.RBAC{Policies: map[string]*rbacconfv3.Policy{s.shown(envoy.Extension): anyone()}},
	}
	if s.deny {
		config.Rules.Action = rbacconfv3.RBAC_DENY
	}
	return &corev3.TypedExtensionConfig{Name: s.name, TypedConfig: packed(t, config)}
}

// look asks a service and says what the request met.
func look(c *http.Client, s service) (met sight, err error) {
	resp, err := c.Get("http://" + address(s.port) + "/")
	if err != nil {
		return met, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return met, err
	}
	if resp.StatusCode != http.StatusOK {
		return met, fmt.Errorf("%s: %s %s", s.name, resp.Status, body)
	}
	shown := map[envoy.Type]string{
		envoy.Listener: resp.Header.Get("server"),
		envoy.Endpoint: s.destination() + "/" + string(body),
	}
	for _, t := range []envoy.Type{envoy.Cluster, envoy.Route, envoy.Extension} {
		shown[t] = resp.Header.Get("x-" + t.String())
	}
	for t, text := range shown {
		of := s.name
		if t == envoy.Cluster || t == envoy.Endpoint {
			of = s.destination()
		}
		generation, ok := strings.CutPrefix(text, of+"/")
		if met[t], err = strconv.Atoi(generation); err != nil || !ok {
			return met, fmt.Errorf("%s: the %s shows %q", s.name, t, text)
		}
	}
	return met, nil
}

func (s service) destination() string {
	if s.to != "" {
		return s.to
	}
	return s.name
}

// untilServed waits until services run as they are described.
func untilServed(t testing.TB, services ...service) time.Duration {
	t.Helper()
	c := client(t)
	begin := time.Now()
	for _, s := range services {
		until(t, s.name+" serves as described", func() (any, bool) {
			met, err := look(c, s)
			return fmt.Sprintf("met %v, want %v, error %v", met, s.at, err), err == nil && met == s.at
		})
	}
	return time.Since(begin)
}

// closed says that nobody listens for a service.
func closed(s service) bool {
	c, err := net.DialTimeout("tcp", address(s.port), time.Second)
	if err == nil {
		c.Close()
	}
	return err != nil
}

// traffic is a number of clients that ask at a steady pace until it is stopped, each on one connection if it can.
type traffic struct {
	quit    chan struct{}
	clients sync.WaitGroup

	mu    sync.Mutex
	asked int
	wrong map[string]int
}

const pace = 4 * time.Millisecond

// startTraffic asks each service by clients of its own; whatever ask returns as an error counts as a failure.
func startTraffic(t testing.TB, clients int, services ...service) *traffic {
	t.Helper()
	f := &traffic{quit: make(chan struct{}), wrong: map[string]int{}}
	for _, s := range services {
		for range clients {
			transport := &http.Transport{MaxIdleConnsPerHost: 1}
			t.Cleanup(transport.CloseIdleConnections)
			f.clients.Go(func() { f.ask(&http.Client{Transport: transport, Timeout: 5 * time.Second}, s) })
		}
	}
	until(t, "traffic flows", func() (any, bool) {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.asked, f.asked >= 2*clients*len(services)
	})
	return f
}

func (f *traffic) ask(c *http.Client, s service) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-f.quit:
			return
		case <-tick.C:
		}
		code, body, err := fetch(c, s.port, "/")
		f.mu.Lock()
		f.asked++
		if err != nil || code != http.StatusOK {
			f.wrong[fmt.Sprint(s.name, ": ", code, " ", body, " ", err, " at ", time.Now().Format("05.000"))]++
		}
		f.mu.Unlock()
	}
}

// stop ends the traffic and requires that no request failed.
func (f *traffic) stop(t testing.TB) {
	t.Helper()
	close(f.quit)
	f.clients.Wait()
	if len(f.wrong) > 0 || f.asked == 0 {
		t.Errorf("of %d requests failed: %v", f.asked, slices.Collect(maps.Keys(f.wrong)))
	}
}

// more waits until a number of further requests have been answered.
func (f *traffic) more(t testing.TB, n int) {
	t.Helper()
	count := func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.asked
	}
	from := count()
	until(t, fmt.Sprintf("%d more requests", n), func() (any, bool) { return count() - from, count()-from >= n })
}
