package agents

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

// fakeFeed hands on what a test calls things.
type fakeFeed struct {
	changed atomic.Pointer[func()]
	set     chan *agentapi.NameSet // holds the newest
	closed  chan struct{}
}

func (f *fakeFeed) put(names ...string) *agentapi.NameSet {
	var records []*agentapi.NameRecord
	for _, n := range names {
		records = append(records, &agentapi.NameRecord{Name: n, Addresses: [][]byte{{241, 0, 0, 1}}})
	}
	set := agentapi.NewNameSet(records, []string{"mesh.local"})
	select {
	case <-f.set:
	default:
	}
	f.set <- set
	if changed := f.changed.Load(); changed != nil {
		(*changed)()
	}
	return set
}

func (f *fakeFeed) Names() *agentapi.NameSet {
	set := <-f.set
	f.set <- set
	return set
}
func (f *fakeFeed) Close() { close(f.closed) }

func withNames(h *agentapi.Hello) { h.Features = append(h.Features, agentapi.FeatureNames) }

// An agent that answers names gets them, then what changes; after a break, nothing that it has. Another agent gets none.
func TestNamesReachTheSession(t *testing.T) {
	feed := &fakeFeed{set: make(chan *agentapi.NameSet, 1), closed: make(chan struct{})}
	opened := 0
	z := newWorld(t).start(func(c *Config) {
		c.Names = func(_ context.Context, dp resource.Key, changed func()) (NamesFeed, error) {
			if opened++; dp != web {
				t.Errorf("names of %s are asked for", dp)
			}
			feed.changed.Store(&changed)
			return feed, nil
		}
	})
	a := z.agent("one")
	if _, err := a.enroll(z.token(webToken)); err != nil {
		t.Fatal(err)
	}
	s := a.open()
	if f := s.welcome().GetFeatures(); !slices.Contains(f, agentapi.FeatureNames) {
		t.Errorf("features of the zone: %v", f)
	}
	s.cancel()
	z.until("the session is closed", func() bool { return !z.facts(web).Connected })
	if opened != 0 {
		t.Error("an agent without a DNS has a feed")
	}

	names := func(s *stream) *agentapi.Names {
		t.Helper()
		return s.next("names", func(m *agentapi.ZoneMessage) bool { return m.GetNames() != nil }).GetNames()
	}
	first := feed.put("a.mesh.local", "b.mesh.local")
	s = a.open(withNames)
	if n := names(s); n.GetVersion() != first.Version() || n.GetFrom() != "" || len(n.GetRecords()) != 2 || n.GetDomains()[0] != "mesh.local" {
		t.Errorf("got %v", n)
	}
	second := feed.put("a.mesh.local", "c.mesh.local")
	if n := names(s); n.GetVersion() != second.Version() || n.GetFrom() != first.Version() || len(n.GetRecords()) != 1 || len(n.GetRemoved()) != 1 {
		t.Errorf("got %v", n)
	}
	s.cancel()
	<-feed.closed

	feed.closed = make(chan struct{})
	feed.put("a.mesh.local", "c.mesh.local")
	s = a.open(withNames, func(h *agentapi.Hello) { h.NamesVersion = second.Version() })
	s.welcome()
	feed.put("c.mesh.local")
	// Either what it had was seen first, and this is the difference, or the newest came in time, and complete.
	if n := names(s); len(n.GetRecords())+len(n.GetRemoved()) != 1 {
		t.Errorf("got %v, want the one difference", n)
	}
	s.cancel()
	<-feed.closed
}

// On a host without IPv6 nothing can listen there, so nothing is redirected there.
func TestHostWithoutIPv6(t *testing.T) {
	const transparent = `
type: Dataplane
mesh: default
name: web-1
labels: {kuma.io/workload: web}
networking:
  address: 127.0.0.1
  transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001%s}
  inbound: [{port: 8080}]
`
	z := newWorld(t).start()
	for mode, want := range map[string]string{"": "IPv4", ", ipFamilyMode: DualStack": "IPv4", ", ipFamilyMode: IPv4": "IPv4"} {
		if _, err := z.agent("one").enroll(z.token(webToken), func(in *agentapi.EnrollRequest) {
			in.Dataplane, in.WithoutIpv6 = []byte(fmt.Sprintf(transparent, mode)), true
		}); err != nil {
			t.Fatal(err)
		}
		r, _ := z.catalog.Snapshot().Get(web)
		if got := r.Spec.(*mesh.Dataplane).Networking.TransparentProxying.IPFamilyMode; got != want {
			t.Errorf("mode %q becomes %q, want %q", mode, got, want)
		}
	}
	_, err := z.agent("one").enroll(z.token(webToken), func(in *agentapi.EnrollRequest) {
		in.Dataplane, in.WithoutIpv6 = []byte(fmt.Sprintf(transparent, ", ipFamilyMode: IPv6")), true
	})
	if err == nil {
		t.Error("IPv6 only is accepted on a host without")
	}
}
