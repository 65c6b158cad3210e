package envoy

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	snicluster "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/sni_cluster/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/wellknown"
)

func serveTLS(t testing.TB, ca *authority, name string) (port uint32) {
	t.Helper()
	return serveTLSAs(t, ca.issue(t, "spiffe://zone/"+name), name)
}

// serveTLSAs answers with its name behind a given certificate.
func serveTLSAs(t testing.TB, own pair, name string) (port uint32) {
	t.Helper()
	l, err := net.Listen("tcp", loopbackIP+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, name)
	})}, TLS: &tls.Config{Certificates: []tls.Certificate{own.tls(t)}}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return uint32(l.Addr().(*net.TCPAddr).Port)
}

// ingress passes TLS through to the cluster that the SNI names; only SNIs that match come that far.
func ingress(t testing.TB, port uint32, match ...string) *listenerv3.Listener {
	chain := &listenerv3.FilterChain{Filters: []*listenerv3.Filter{
		networkFilter(t, "envoy.filters.network.sni_cluster", &snicluster.SniCluster{}),
		networkFilter(t, wellknown.TCPProxy, &tcpproxyv3.TcpProxy{
			StatPrefix: "ingress", ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: "none"},
		}),
	}}
	if len(match) > 0 {
		chain.FilterChainMatch = &listenerv3.FilterChainMatch{ServerNames: match}
	}
	l := listener("ingress", port, chain)
	l.ListenerFilters = []*listenerv3.ListenerFilter{tlsInspector(t)}
	return l
}

// One chain for all services: the SNI is the name of the cluster.
func TestSpikeIngressPicksClusterBySNI(t *testing.T) {
	t.Parallel()
	_, p, s := start(t)
	ca, port := newAuthority(t, "zone"), freePort(t)
	s.boot(t, p, everything{
		clusters:  messages(staticCluster("one.web.east.ms", serveTLS(t, ca, "one"))),
		listeners: messages(ingress(t, port)),
	})
	reach := func(sni string) string {
		_, cert, err := askTLS(port, nil, sni)
		if err != nil {
			return "closed"
		}
		return strings.TrimPrefix(cert.URIs[0].Path, "/")
	}
	check := func(sni, want string) {
		t.Helper()
		if got := reach(sni); got != want {
			t.Errorf("SNI %q reaches %s, want %s", sni, got, want)
		}
	}
	check("one.web.east.ms", "one")
	check("ONE.web.east.ms", "one") // the inspector lowers what it reads
	check("two.web.east.ms", "closed")
	check("", "closed")
	if code, _, err := fetch(client(t), port, "/"); err == nil {
		t.Errorf("without TLS: %d", code)
	}

	// A new service is a cluster; the listener does not change.
	s.push(t, resourcev3.ClusterType, v1(staticCluster("two.web.east.ms", serveTLS(t, ca, "two")))...)
	check("two.web.east.ms", "two")
	s.answer(t, s.send(t, resourcev3.ClusterType, []string{"two.web.east.ms"}))
	check("two.web.east.ms", "closed")

	// Any cluster can be named, also one that is nobody's service: here, the way to the control plane.
	s.push(t, resourcev3.ClusterType, v1(edited(staticCluster("internal", serveTLS(t, ca, "internal")), func(*clusterv3.Cluster) {}))...)
	check("internal", "internal")
	attempts := p.stat(t, "cluster.xds.upstream_cx_total")
	reach("xds")
	if got := p.stat(t, "cluster.xds.upstream_cx_total"); got != attempts+1 {
		t.Errorf("an SNI of xds made %d connections to the control plane, want 1", got-attempts)
	}
	// A match on the ending of the SNI closes that door.
	s.push(t, resourcev3.ListenerType, versioned("2", ingress(t, port, "*.ms"))...)
	check("one.web.east.ms", "one")
	check("internal", "closed")
	reach("xds")
	if got := p.stat(t, "cluster.xds.upstream_cx_total"); got != attempts+1 {
		t.Error("an SNI of xds reaches the control plane through the match")
	}
}

// Two Envoys of one user share an address without a word unless they are told not to.
func TestSpikeTwoEnvoysOnOneAddress(t *testing.T) {
	t.Parallel()
	for name, reuse := range map[string]bool{"reuse_port": true, "no reuse_port": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			port := freePort(t)
			configure := func(service string) (nack string) {
				_, p, s := start(t)
				l := listener("out", port, httpChain(t, connectionManager(t, "routes")))
				if !reuse {
					l.EnableReusePort = boolValue(false)
				}
				s.first(t, resourcev3.ClusterType)
				s.push(t, resourcev3.ClusterType, v1(staticCluster("svc", echo(t, service)))...)
				s.first(t, resourcev3.ListenerType)
				nack = s.answer(t, s.send(t, resourcev3.ListenerType, nil, v1(l)...))
				if nack == "" {
					s.supply(t, resourcev3.RouteType, messages(routes("routes", "svc")))
					p.untilLive(t)
				}
				return nack
			}
			if nack := configure("first"); nack != "" {
				t.Fatal(nack)
			}
			nack := configure("second")
			served := map[string]int{}
			for range 60 {
				_, body, err := fetch(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, port, "/")
				if err != nil {
					t.Fatal(err)
				}
				served[body]++
			}
			t.Logf("served %v, second Envoy: %q", served, nack)
			if reuse && (nack != "" || served["first"] == 0 || served["second"] == 0) {
				t.Errorf("with reuse_port: %q, served %v", nack, served)
			}
			want := fmt.Sprintf("Error adding/updating listener(s) out: cannot bind '%s': Address already in use\n", address(port))
			if !reuse && (nack != want || served["second"] > 0) {
				t.Errorf("without reuse_port: %q, served %v", nack, served)
			}
		})
	}
}
