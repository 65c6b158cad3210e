package envoy

import (
	"net/http"
	"slices"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// askedBefore requires that Envoy asked for a name once, and in a request before the one that acknowledges a response.
func (s *stream) askedBefore(t testing.TB, typeURL, name, nonce string) {
	t.Helper()
	log := s.log()
	asked := slices.IndexFunc(log, func(r *discoveryv3.DeltaDiscoveryRequest) bool {
		return r.TypeUrl == typeURL && slices.Contains(r.ResourceNamesSubscribe, name)
	})
	answered := slices.IndexFunc(log, func(r *discoveryv3.DeltaDiscoveryRequest) bool { return r.ResponseNonce == nonce })
	if asked < 0 || answered <= asked || s.subscriptions(typeURL, name) != 1 {
		t.Errorf("%s %s was asked for in request %d and %s answered in request %d:%s", short(typeURL), name, asked, nonce, answered, describe(log))
	}
}

// What a new cluster or listener is going to ask for may stand right behind it: Envoy has the watch by then, takes it, and still
// asks, which needs no answer. The question comes before the acknowledgement, so that the two say that it was taken.
func TestSpikeUnaskedResourcesAreTaken(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ tls, extended bool }{
		"plain": {}, "by TLS": {tls: true}, "with an extension": {extended: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, p, s := start(t)
			ca := newAuthority(t, "ca")
			in, out, far := freePort(t), freePort(t), freePort(t)
			first := throughTLS(t, fromSDS(5*time.Second), in, out, echo(t, "app"))
			if !c.tls {
				first = oneService(t, out, echo(t, "app"), 5*time.Second)
			}
			s.first(t, resourcev3.ClusterType)
			s.push(t, resourcev3.ClusterType, v1(first.clusters...)...)
			s.supply(t, resourcev3.EndpointType, first.endpoints)
			if c.tls {
				server.secretStream(t, "identity", 1).push(t, resourcev3.SecretType, v1(identitySecret("identity", ca.issue(t, "spiffe://zone/app")))...)
				server.secretStream(t, "trust", 1).push(t, resourcev3.SecretType, v1(trustSecret("trust", ca.pem))...)
			}
			s.first(t, resourcev3.ListenerType)
			if c.extended { // so that Envoy has spoken of extensions
				first.listeners = messages(listener("out", out, httpChain(t, connectionManager(t, "routes", discovered("old")))))
			}
			s.push(t, resourcev3.ListenerType, v1(first.listeners...)...)
			s.supply(t, resourcev3.RouteType, first.routes)
			if c.extended {
				s.supply(t, resourcev3.ExtensionConfigType, messages(rbac(t, "old", anyone())))
			}
			p.untilLive(t)

			// All at once, and nothing is answered that Envoy asks.
			cluster, target := edsCluster("new", 5*time.Second), echo(t, "new")
			if c.tls {
				cluster, target = withClientTLS(t, cluster, mutual(fromSDS(5*time.Second))), in
			}
			l := listener("new", far, httpChain(t, connectionManager(t, "new")))
			if c.extended {
				l = listener("new", far, httpChain(t, connectionManager(t, "new", discovered("fresh"))))
			}
			begin := time.Now()
			nonces := []string{
				s.send(t, resourcev3.ClusterType, nil, v1(cluster)...),
				s.send(t, resourcev3.EndpointType, nil, v1(assignment("new", target))...),
				s.send(t, resourcev3.ListenerType, nil, v1(l)...),
				s.send(t, resourcev3.RouteType, nil, v1(routes("new", "new"))...),
			}
			if c.extended {
				nonces = append(nonces, s.send(t, resourcev3.ExtensionConfigType, nil, v1(rbac(t, "fresh", anyone()))...))
			}
			for _, nonce := range nonces {
				if nack := s.answer(t, nonce); nack != "" {
					t.Fatalf("%s: %s", nonce, nack)
				}
			}
			p.untilStat(t, "listener_manager.total_listeners_warming", 0)
			t.Logf("all is active after %s", time.Since(begin))
			if code, _, err := fetch(client(t), far, "/"); code != http.StatusOK {
				t.Errorf("request to the new listener: %d %v", code, err)
			}
			s.askedBefore(t, resourcev3.EndpointType, "new", nonces[1])
			s.askedBefore(t, resourcev3.RouteType, "new", nonces[3])
			if c.extended {
				s.askedBefore(t, resourcev3.ExtensionConfigType, "fresh", nonces[4])
			}
			if n := p.stat(t, "cluster.new.init_fetch_timeout") + p.stat(t, warming); n != 0 {
				t.Errorf("%d timeouts or warming clusters", n)
			}

			// The subscription is an ordinary one: it is updated, ends with its cluster or listener, and can be had again.
			s.push(t, resourcev3.EndpointType, versioned("2", assignment("new", freePort(t)))...)
			if code, _, err := fetch(client(t), far, "/"); code != http.StatusServiceUnavailable {
				t.Errorf("request to endpoints that are not there: %d %v", code, err)
			}
			for _, typeURL := range []string{resourcev3.ListenerType, resourcev3.ClusterType} {
				if nack := s.answer(t, s.send(t, typeURL, []string{"new"})); nack != "" {
					t.Error(nack)
				}
			}
			s.find(t, "the end of the subscription", func(r *discoveryv3.DeltaDiscoveryRequest) bool {
				return r.TypeUrl == resourcev3.EndpointType && slices.Contains(r.ResourceNamesUnsubscribe, "new")
			})
			nonce := s.send(t, resourcev3.ClusterType, nil, v1(cluster)...)
			s.send(t, resourcev3.EndpointType, nil, v1(assignment("new", target))...)
			if nack := s.answer(t, nonce); nack != "" {
				t.Error(nack)
			}
			if n := p.stat(t, "cluster.new.init_fetch_timeout") + p.stat(t, warming); n != 0 {
				t.Errorf("%d timeouts or warming clusters when it is back", n)
			}
		})
	}
}

// What nothing is going to ask for is acknowledged and forgotten; a later question needs an answer.
func TestSpikeUnaskedResourcesNobodyWaitsFor(t *testing.T) {
	t.Parallel()
	_, p, s := start(t)
	s.boot(t, p, oneService(t, freePort(t), echo(t, "upstream"), time.Second))
	early := s.send(t, resourcev3.EndpointType, nil, v1(assignment("new", echo(t, "new")))...)
	if nack := s.answer(t, early); nack != "" {
		t.Error(nack)
	}
	s.push(t, resourcev3.ClusterType, v1(edsCluster("svc", time.Second), edsCluster("new", time.Second))...)
	if n := p.stat(t, "cluster.new.init_fetch_timeout"); n != 1 {
		t.Errorf("%d fetch timeouts of a cluster whose endpoints came too early, want 1", n)
	}
	// Of extensions Envoy has not said a word so far.
	nonce := s.send(t, resourcev3.ExtensionConfigType, nil, v1(rbac(t, "strange", anyone()))...)
	s.push(t, resourcev3.EndpointType, versioned("2", assignment("svc", 1))...)
	if s.answered(nonce) {
		t.Error("a response of a type that was never asked for is answered")
	}
}

// At first configuration it is the same, where no secret is waited for.
func TestSpikeUnaskedEndpointsAtFirstConfiguration(t *testing.T) {
	t.Parallel()
	_, p, s := start(t)
	e := oneService(t, freePort(t), echo(t, "upstream"), time.Second)
	s.first(t, resourcev3.ClusterType)
	s.send(t, resourcev3.ClusterType, nil, v1(e.clusters...)...)
	nonce := s.send(t, resourcev3.EndpointType, nil, v1(e.endpoints...)...)
	if nack := s.answer(t, nonce); nack != "" {
		t.Error(nack)
	}
	s.first(t, resourcev3.ListenerType)
	s.askedBefore(t, resourcev3.EndpointType, "svc", nonce)
	if n := p.stat(t, "cluster.svc.init_fetch_timeout"); n != 0 {
		t.Errorf("%d fetch timeouts", n)
	}
}
