package envoy

import (
	"net/http"
	"slices"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// What a removed resource does: endpoints and routes stay in force, an extension breaks its listener,
// a cluster goes and takes its subscription along.
func TestSpikeRemovals(t *testing.T) {
	t.Parallel()
	_, p, s := start(t)
	port := freePort(t)
	e := oneService(t, port, echo(t, "upstream"), 2*time.Second)
	e.listeners = messages(listener("out", port, httpChain(t, connectionManager(t, "routes", discovered("rbac")))))
	e.extensions = messages(rbac(t, "rbac", onlyHeader(&matcherv3.RegexMatcher{Regex: "never"})))
	s.boot(t, p, e)
	h := client(t)
	answers := func(when string, want int) {
		t.Helper()
		if code, _, err := fetch(h, port, "/"); code != want {
			t.Errorf("%s: %d %v, want %d", when, code, err, want)
		}
	}
	remove := func(typeURL, name string) {
		t.Helper()
		if nack := s.answer(t, s.send(t, typeURL, []string{name})); nack != "" {
			t.Errorf("%s %s: %s", short(typeURL), name, nack)
		}
	}
	answers("with a denial", http.StatusForbidden)
	remove(resourcev3.ExtensionConfigType, "rbac")
	answers("with the extension removed", http.StatusInternalServerError)
	s.push(t, resourcev3.ExtensionConfigType, versioned("2", rbac(t, "rbac", anyone()))...)
	answers("with an allowance", http.StatusOK)

	remove(resourcev3.EndpointType, "svc")
	answers("with the endpoints removed", http.StatusOK)
	remove(resourcev3.RouteType, "routes")
	answers("with the routes removed", http.StatusOK)

	remove(resourcev3.ClusterType, "svc")
	answers("with the cluster removed", http.StatusServiceUnavailable)
	s.find(t, "the end of the subscription to the endpoints", func(r *discoveryv3.DeltaDiscoveryRequest) bool {
		return r.TypeUrl == resourcev3.EndpointType && slices.Contains(r.ResourceNamesUnsubscribe, "svc")
	})
	nonce := s.send(t, resourcev3.ClusterType, nil, versioned("2", e.clusters...)...)
	until(t, "a new subscription to the endpoints", func() (any, bool) {
		n := s.subscriptions(resourcev3.EndpointType, "svc")
		return n, n == 2
	})
	s.push(t, resourcev3.EndpointType, v1(e.endpoints...)...)
	if nack := s.answer(t, nonce); nack != "" {
		t.Error(nack)
	}
	answers("with the cluster back", http.StatusOK)
}

// Types do not come in a fixed order: the secrets of a static cluster are asked for before the endpoints of
// the others, which are asked for before their secrets.
func TestSpikeOrderOfFirstQuestions(t *testing.T) {
	t.Parallel()
	_, p, s := start(t)
	ca := newAuthority(t, "any")
	s.first(t, resourcev3.ClusterType)
	static := staticCluster("static", 1)
	static.TransportSocket = tlsSocket(t, upstreamTLS("trust-static", fromADS(5*time.Second)))
	dynamic := edsCluster("dynamic", 5*time.Second)
	dynamic.TransportSocket = tlsSocket(t, upstreamTLS("trust-dynamic", fromADS(5*time.Second)))
	s.push(t, resourcev3.ClusterType, v1(static, dynamic)...)
	asked := func() (out []string) {
		for _, r := range s.log() {
			out = append(out, r.ResourceNamesSubscribe...)
		}
		return out
	}
	expect := func(want ...string) {
		t.Helper()
		until(t, "the next question", func() (any, bool) { got := asked(); return got, len(got) >= len(want) })
		if got := asked(); !slices.Equal(got, want) {
			t.Errorf("asked for %v, want %v", got, want)
		}
	}
	expect("trust-static")
	s.push(t, resourcev3.SecretType, v1(trustSecret("trust-static", ca.pem))...)
	expect("trust-static", "dynamic")
	s.push(t, resourcev3.EndpointType, v1(assignment("dynamic", 1))...)
	expect("trust-static", "dynamic", "trust-dynamic")
	s.push(t, resourcev3.SecretType, v1(trustSecret("trust-dynamic", ca.pem))...)
	s.first(t, resourcev3.ListenerType)
	s.push(t, resourcev3.ListenerType)
	p.untilLive(t)
}
