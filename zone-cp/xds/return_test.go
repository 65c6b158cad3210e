package xds

import (
	"fmt"
	"slices"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// declare makes the first request of a type from a client that comes back with fragments.
func (s script) declare(typ envoy.Type, frags ...*envoy.Fragment) {
	s.t.Helper()
	req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: typ.URL(), InitialResourceVersions: map[string]string{}}
	for _, f := range frags {
		if f.Type == typ {
			req.InitialResourceVersions[f.Name] = f.Version
			if !typ.Wildcard() {
				req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, f.Name)
			}
		}
	}
	s.receive(req)
}

// follow starts the stream that comes after another one of the same client.
func follow(s script, ward *Ward, to *envoy.Table) script {
	next := script{s.t, NewSession(ward, Limits{})}
	next.Inherit(s.Debt())
	next.Target(to)
	return next
}

// What the client had is known on the next stream, and the one after: a cluster that warms gets it back before anything that may be refused.
func TestEndpointsOfAnEarlierStreamAreKnown(t *testing.T) {
	ward := NewQuarantine().Ward("1")
	old := chain("a", "1")
	s := settled(t, ward, 1, old...)
	for range 2 {
		s = follow(s, ward, table(1, old...))
		for _, typ := range []envoy.Type{envoy.Cluster, envoy.Endpoint, envoy.Listener, envoy.Route} {
			s.declare(typ, old...)
		}
		s.sends("CDS#1", "LDS#2")
		s.ack("CDS#1", "LDS#2")
	}
	s = follow(s, ward, table(2, chain("a", "2")...))
	s.declare(envoy.Cluster, old...)
	s.sends() // it is about to say which endpoints it has
	s.declare(envoy.Endpoint, old...)
	s.sends("CDS#1 +a", "EDS#2 +a")
	s.ack("EDS#2")
	if got := s.channels[envoy.Endpoint].holds("a").frag; got == nil || got.Version != old[1].Version {
		t.Errorf("after the cluster the client was given %v", got)
	}
	s.sends("EDS#3 +a")
}

// A server that has just started does not know what the client has. It has new endpoints tried before their cluster changes.
func TestClusterWaitsForEndpointsNobodyHasTaken(t *testing.T) {
	old, fresh := chain("a", "1"), chain("a", "2")
	for _, taken := range []bool{true, false} {
		t.Run(fmt.Sprint("taken ", taken), func(t *testing.T) {
			s := newScript(t, nil, table(2, fresh...))
			s.declare(envoy.Cluster, old...)
			s.sends()
			s.declare(envoy.Endpoint, old...)
			s.sends("EDS#1 +a")
			if taken {
				s.ack("EDS#1")
				s.sends("CDS#2 +a", "EDS#3 +a")
				return
			}
			s.nack(envoy.Endpoint, "1", "malformed IP address: x.")
			s.sends("CDS#2")
			var got []string
			for _, r := range s.Rejections() {
				got = append(got, r.Type.String()+" "+r.Name)
			}
			if want := []string{"CDS a", "EDS a"}; !slices.Equal(got, want) {
				t.Errorf("rejected are %v, want %v", got, want)
			}
		})
	}
}

// When the answer to a new extension is lost, Envoy's next answer to the same content would not count: it has to forget it first.
func TestExtensionWhoseAnswerIsLostIsClearedFirst(t *testing.T) {
	ward := NewQuarantine().Ward("1")
	l, x := listener("l", "1", to(envoy.Extension, "x")), fragment(envoy.Extension, "x", "1")
	s := newScript(t, ward, table(1, l, x))
	s.ask(envoy.Cluster)
	s.ask(envoy.Listener)
	s.sends("CDS#1", "LDS#2 +l")
	s.ack("CDS#1", "LDS#2")
	s.ask(envoy.Extension, "x")
	s.sends("ECDS#3 +x")

	s = follow(s, ward, table(1, l, x))
	s.declare(envoy.Cluster)
	s.declare(envoy.Listener, l)
	s.sends("CDS#1", "LDS#2")
	s.ack("CDS#1", "LDS#2")
	s.ask(envoy.Extension, "x")
	s.sends("ECDS#3 -x")
	s.ack("ECDS#3")
	s.sends("ECDS#4 +x")
	s.nack(envoy.Extension, "4", "missing ): (")
	s.sends("LDS#5 -l")
	s.ack("LDS#5")
	s.sends("ECDS#6 -x")
}

// A listener that Envoy refuses in the place of an extension is not held against it, and not against other proxies.
func TestListenerRefusedInThePlaceOfAnExtension(t *testing.T) {
	ward := NewQuarantine().Ward("1")
	l, x := listener("l", "1", to(envoy.Extension, "x")), fragment(envoy.Extension, "x", "1")
	bad := fragment(envoy.Extension, "x", "bad")
	s := newScript(t, ward, table(2, listener("l", "2", to(envoy.Extension, "x")), bad))
	s.declare(envoy.Cluster)
	s.declare(envoy.Listener, l)
	s.sends("CDS#1", "LDS#2 +l")
	s.declare(envoy.Extension, bad) // refused twice on streams that nobody remembers
	s.nack(envoy.Listener, "2", "Error adding/updating listener(s) l: missing ): (\n")
	s.sends()
	if n := ward.size.Load(); n != 0 {
		t.Errorf("%d resources are withheld from others", n)
	}
	s.Target(table(3, listener("l", "2", to(envoy.Extension, "x")), x))
	s.sends("ECDS#3 +x")
	s.ack("ECDS#3")
	s.sends("LDS#4 +l")
	s.ack("LDS#4", "CDS#1")
	s.sends()
	s.acknowledged(3)

	// On the stream before it refused the extension: the listener waits.
	s.Target(table(4, listener("l", "2", to(envoy.Extension, "x")), bad))
	s.sends("ECDS#5 +x")
	s = follow(s, ward, table(5, listener("l", "3", to(envoy.Extension, "x")), fragment(envoy.Extension, "x", "2")))
	s.declare(envoy.Cluster)
	s.declare(envoy.Listener, listener("l", "2", to(envoy.Extension, "x")))
	s.sends("CDS#1")
	s.declare(envoy.Extension, x)
	s.sends("ECDS#2 +x")
	s.ack("ECDS#2")
	s.sends("LDS#3 +l")
}

// What a client had ceased to ask for when it came was not looked at.
func TestEndpointsNobodyAskedForAreNotProven(t *testing.T) {
	ward := NewQuarantine().Ward("1")
	s := settled(t, ward, 1, chain("a", "1")...)
	e := endpoints("a", "2")
	n := s.nonces
	s.Target(table(2, cluster("a", "1"), e, route("a", "1", "a"), listener("a", "1", to(envoy.Route, "a"))))
	s.sends(fmt.Sprintf("EDS#%d +a", n+1))
	s.receive(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: envoy.Endpoint.URL(), ResourceNamesUnsubscribe: []string{"a"}})
	s.ack(fmt.Sprintf("EDS#%d", n+1))
	if ward.proven(e) {
		t.Error("they count as taken")
	}
}
