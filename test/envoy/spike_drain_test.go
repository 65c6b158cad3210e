package envoy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	streamlogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/wellknown"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
)

// keptConnection is one HTTP/1.1 connection that is used again and again.
type keptConnection struct {
	net.Conn
	r *bufio.Reader
}

// connect dials a listener from a given loopback address.
func connect(t testing.TB, from string, port uint32) *keptConnection {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: patience}
	c, err := d.Dial("tcp", address(port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &keptConnection{c, bufio.NewReader(c)}
}

// ask sends a request and says whether Envoy wants the connection to end.
func (c *keptConnection) ask(path string) (status int, last bool, err error) {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return 0, false, err
	}
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: test\r\n\r\n", path); err != nil {
		return 0, false, err
	}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return 0, false, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Close, err
}

// fromSource makes a filter chain serve the connections of one client address.
func fromSource(ip string, chain *listenerv3.FilterChain) *listenerv3.FilterChain {
	chain.Name = ip
	chain.FilterChainMatch = &listenerv3.FilterChainMatch{SourcePrefixRanges: []*corev3.CidrRange{{
		AddressPrefix: ip, PrefixLen: uint32Value(32),
	}}}
	return chain
}

// repack edits the connection manager of a chain.
func repack(t testing.TB, chain *listenerv3.FilterChain, edit func(*hcmv3.HttpConnectionManager)) {
	t.Helper()
	h := &hcmv3.HttpConnectionManager{}
	if err := chain.Filters[0].GetTypedConfig().UnmarshalTo(h); err != nil {
		t.Fatal(err)
	}
	edit(h)
	chain.Filters[0].ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: packed(t, h)}
}

func stderrLog(t testing.TB) []*accesslogv3.AccessLog {
	return []*accesslogv3.AccessLog{{Name: wellknown.FileAccessLog, ConfigType: &accesslogv3.AccessLog_TypedConfig{
		TypedConfig: packed(t, &streamlogv3.StderrAccessLog{}),
	}}}
}

// Which edits of a listener end which connections. Two chains of one listener each hold one connection.
func TestSpikeWhatDrains(t *testing.T) {
	t.Parallel()
	const alice, bob, carol = "127.0.0.2", "127.0.0.3", "127.0.0.4"
	_, p, s := start(t, func(c *envoyConfig) { c.Args = []string{"--drain-strategy", "immediate"} })
	port := freePort(t)
	chain := func(ip string) *listenerv3.FilterChain {
		return fromSource(ip, httpChain(t, connectionManager(t, "routes-"+ip, discovered("rbac"))))
	}
	base := listener("in", port, chain(alice), chain(bob))
	e := everything{
		clusters:   messages(staticCluster("svc", echo(t, "upstream"))),
		listeners:  messages(base),
		routes:     messages(routes("routes-"+alice, "svc"), routes("routes-"+bob, "svc")),
		extensions: messages(rbac(t, "rbac", anyone())),
	}
	s.boot(t, p, e)

	lds := func(edit func(*listenerv3.Listener)) (string, proto.Message, proto.Message) {
		return resourcev3.ListenerType, base, edited(base, edit)
	}
	rds := func(edit func(*routev3.RouteConfiguration)) (string, proto.Message, proto.Message) {
		r := routes("routes-"+alice, "svc")
		return resourcev3.RouteType, r, edited(r, edit)
	}
	hcm := func(edit func(*hcmv3.HttpConnectionManager)) (string, proto.Message, proto.Message) {
		return lds(func(l *listenerv3.Listener) { repack(t, l.FilterChains[0], edit) })
	}
	type edit func() (typeURL string, from, to proto.Message)
	for _, c := range []struct {
		what  string
		edit  edit
		drain string // whose connections end: alice's chain is the edited one
	}{
		{"route timeout", func() (string, proto.Message, proto.Message) {
			return rds(func(r *routev3.RouteConfiguration) {
				r.VirtualHosts[0].Routes[0].GetRoute().Timeout = durationpb.New(time.Minute)
			})
		}, ""},
		{"header edits of routes", func() (string, proto.Message, proto.Message) {
			return rds(func(r *routev3.RouteConfiguration) {
				r.ResponseHeadersToAdd = []*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{Key: "x", Value: "y"}}}
			})
		}, ""},
		{"permission by ECDS", func() (string, proto.Message, proto.Message) {
			return resourcev3.ExtensionConfigType, rbac(t, "rbac", anyone()), rbac(t, "rbac", onlyHeader(&matcherv3.RegexMatcher{Regex: ".*"}))
		}, ""},
		{"the same listener again", func() (string, proto.Message, proto.Message) { return lds(func(*listenerv3.Listener) {}) }, ""},
		{"request headers timeout of one chain", func() (string, proto.Message, proto.Message) {
			return hcm(func(h *hcmv3.HttpConnectionManager) { h.RequestHeadersTimeout = durationpb.New(time.Second) })
		}, "alice"},
		{"access log of one chain", func() (string, proto.Message, proto.Message) {
			return hcm(func(h *hcmv3.HttpConnectionManager) { h.AccessLog = stderrLog(t) })
		}, "alice"},
		{"HTTP filter added to one chain", func() (string, proto.Message, proto.Message) {
			return hcm(func(h *hcmv3.HttpConnectionManager) {
				h.HttpFilters = append([]*hcmv3.HttpFilter{{Name: "second", ConfigType: &hcmv3.HttpFilter_TypedConfig{
					TypedConfig: rbac(t, "", anyone()).TypedConfig,
				}}}, h.HttpFilters...)
			})
		}, "alice"},
		{"fetch timeout of a nested source", func() (string, proto.Message, proto.Message) {
			return hcm(func(h *hcmv3.HttpConnectionManager) {
				h.GetRds().ConfigSource.InitialFetchTimeout = durationpb.New(7 * time.Second)
			})
		}, "alice"},
		{"name of one chain", func() (string, proto.Message, proto.Message) {
			return lds(func(l *listenerv3.Listener) { l.FilterChains[0].Name = "renamed" })
		}, "alice"},
		{"metadata of one chain", func() (string, proto.Message, proto.Message) {
			return lds(func(l *listenerv3.Listener) { l.FilterChains[0].Metadata = someMetadata() })
		}, "alice"},
		{"match of one chain widened", func() (string, proto.Message, proto.Message) {
			return lds(func(l *listenerv3.Listener) {
				m := l.FilterChains[0].FilterChainMatch
				m.SourcePrefixRanges = append(m.SourcePrefixRanges, &corev3.CidrRange{AddressPrefix: carol, PrefixLen: uint32Value(32)})
			})
		}, "alice"},
		{"chain removed", func() (string, proto.Message, proto.Message) {
			return lds(func(l *listenerv3.Listener) { l.FilterChains = l.FilterChains[1:] })
		}, "alice"},
		{"chain added", func() (string, proto.Message, proto.Message) {
			return lds(func(l *listenerv3.Listener) {
				l.FilterChains = append(l.FilterChains, fromSource(carol, edited(chain(alice), func(*listenerv3.FilterChain) {})))
			})
		}, ""},
		{"default chain added", func() (string, proto.Message, proto.Message) {
			return lds(func(l *listenerv3.Listener) {
				l.DefaultFilterChain = chain(carol)
				l.DefaultFilterChain.FilterChainMatch = nil
				repack(t, l.DefaultFilterChain, func(h *hcmv3.HttpConnectionManager) { h.GetRds().RouteConfigName = "routes-" + alice })
			})
		}, ""},
		{"chains in another order", func() (string, proto.Message, proto.Message) {
			return lds(func(l *listenerv3.Listener) {
				l.FilterChains[0], l.FilterChains[1] = l.FilterChains[1], l.FilterChains[0]
			})
		}, ""},
		{"access log of the listener", func() (string, proto.Message, proto.Message) {
			return lds(func(l *listenerv3.Listener) { l.AccessLog = stderrLog(t) })
		}, "both"},
		{"buffer limit of the listener", func() (string, proto.Message, proto.Message) {
			return lds(func(l *listenerv3.Listener) { l.PerConnectionBufferLimitBytes = uint32Value(32768) })
		}, "both"},
		{"listener filter added", func() (string, proto.Message, proto.Message) {
			return lds(func(l *listenerv3.Listener) { l.ListenerFilters = []*listenerv3.ListenerFilter{tlsInspector(t)} })
		}, "both"},
		{"metadata of the listener", func() (string, proto.Message, proto.Message) {
			return lds(func(l *listenerv3.Listener) { l.Metadata = someMetadata() })
		}, "both"},
		{"stat prefix of the listener", func() (string, proto.Message, proto.Message) {
			return lds(func(l *listenerv3.Listener) { l.StatPrefix = "other" })
		}, "both"},
		{"traffic direction of the listener", func() (string, proto.Message, proto.Message) {
			return lds(func(l *listenerv3.Listener) { l.TrafficDirection = corev3.TrafficDirection_INBOUND })
		}, "both"},
	} {
		typeURL, from, to := c.edit()
		s.push(t, typeURL, versioned("from "+c.what, from)...)
		p.untilStat(t, "listener_manager.total_listeners_warming", 0)
		a, b := connect(t, alice, port), connect(t, bob, port)
		for _, conn := range []*keptConnection{a, b} {
			until(t, c.what+": a connection that stays", func() (any, bool) {
				code, last, err := conn.ask("/")
				if err != nil || code != http.StatusOK || last {
					conn.Close()
					*conn = *connect(t, conn.LocalAddr().(*net.TCPAddr).IP.String(), port)
					return fmt.Sprint(code, last, err), false
				}
				return nil, true
			})
		}
		s.push(t, typeURL, versioned("to "+c.what, to)...)
		p.untilStat(t, "listener_manager.total_listeners_warming", 0)
		drained := ""
		codeA, lastA, errA := a.ask("/")
		codeB, lastB, errB := b.ask("/")
		if errA != nil || errB != nil {
			t.Errorf("%s: alice %v, bob %v", c.what, errA, errB)
		}
		switch {
		case lastA && lastB:
			drained = "both"
		case lastA:
			drained = "alice"
		case lastB:
			drained = "bob"
		}
		t.Logf("%-40s drains %q (%d, %d)", c.what, drained, codeA, codeB)
		if drained != c.drain {
			t.Errorf("%s drains %q, want %q", c.what, drained, c.drain)
		}
		if c.what == "permission by ECDS" && (codeA != http.StatusForbidden || codeB != http.StatusForbidden) {
			t.Errorf("a new denial answers %d and %d on the connections from before", codeA, codeB)
		}
		a.Close()
		b.Close()
		s.push(t, typeURL, versioned("back from "+c.what, from)...)
	}

	reuse := edited(base, func(l *listenerv3.Listener) { l.EnableReusePort = boolValue(false) })
	text := s.answer(t, s.send(t, resourcev3.ListenerType, nil, versioned("reuse", reuse)...))
	if !strings.Contains(text, "reuse port") {
		t.Errorf("a change of enable_reuse_port: %q", text)
	}
	t.Log(text)
}

func someMetadata() *corev3.Metadata {
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"test": {Fields: map[string]*structpb.Value{
		"key": structpb.NewStringValue("value"),
	}}}}
}

// What a drained chain does to work that goes on: requests may finish and connections live on for the
// drain time, then they are cut.
func TestSpikeDrainTimeCutsWhatIsLeft(t *testing.T) {
	t.Parallel()
	const drain = time.Second
	_, p, s := start(t, drainTime(drain))
	port, tcpPort := freePort(t), freePort(t)
	release := make(chan struct{})
	upstream := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slow":
			<-release
		case "/never":
			<-r.Context().Done()
		}
	}))
	forward := func(limit time.Duration) *listenerv3.Listener {
		return listener("tcp", tcpPort, &listenerv3.FilterChain{Filters: []*listenerv3.Filter{networkFilter(t, wellknown.TCPProxy, &tcpproxyv3.TcpProxy{
			StatPrefix: "tcp", IdleTimeout: durationpb.New(limit),
			ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: "svc"},
		})}})
	}
	e := everything{
		clusters:  messages(staticCluster("svc", upstream)),
		listeners: messages(listener("http", port, httpChain(t, connectionManager(t, "routes"))), forward(time.Hour)),
		routes:    messages(routes("routes", "svc")),
	}
	s.boot(t, p, e)

	type result struct {
		code int
		last bool
		err  error
		took time.Duration
	}
	begin := time.Now()
	ask := func(port uint32, path string) <-chan result {
		out := make(chan result, 1)
		c := connect(t, "127.0.0.1", port)
		go func() {
			code, last, err := c.ask(path)
			out <- result{code, last, err, time.Since(begin)}
		}()
		return out
	}
	slow, never, tcp := ask(port, "/slow"), ask(port, "/never"), ask(tcpPort, "/never")
	p.untilStat(t, "cluster.svc.upstream_cx_active", 3)

	begin = time.Now()
	s.push(t, resourcev3.ListenerType, versioned("2",
		listener("http", port, httpChain(t, edited(connectionManager(t, "routes"), serverName))), forward(2*time.Hour))...)
	close(release)
	if r := <-slow; r.code != http.StatusOK {
		t.Errorf("a request that ends within the drain time: %+v", r)
	}
	for what, ended := range map[string]<-chan result{"request": never, "TCP connection": tcp} {
		if r := <-ended; r.err == nil || r.took < drain*9/10 || r.took > drain*3 {
			t.Errorf("a %s that outlives the drain time: %+v", what, r)
		}
	}
}
