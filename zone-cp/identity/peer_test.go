package identity

import (
	"crypto/x509"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// A clock shows the time and can be put forward.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

func (p *plane) controlPlane(t *testing.T) *ControlPlane {
	t.Helper()
	cp, err := p.ControlPlane("default")
	if err != nil {
		t.Fatal(err)
	}
	return cp
}

func TestAControlPlaneRenewsItsCertificateInTime(t *testing.T) {
	c := &clock{}
	p := newPlane(t, func(cfg *Config) { cfg.Now = c.now })
	p.apply("{type: Mesh, name: default}")
	if _, err := p.ControlPlane("default"); !errors.Is(err, ErrNoIdentity) || !strings.Contains(err.Error(), "create a MeshIdentity") {
		t.Errorf("without an identity: %v", err)
	}
	p.apply(base)
	p.ready("default-identity")
	first := p.controlPlane(t)
	if first.SPIFFEID != "spiffe://default.east.mesh.local/causeway/control-plane" || first.NotAfter.Sub(c.now()) > PeerLifetime {
		t.Errorf("it is %s until %s", first.SPIFFEID, first.NotAfter)
	}
	if domain, err := first.Verify([]*x509.Certificate{first.Certificate.Leaf}); err != nil || domain != "default.east.mesh.local" {
		t.Errorf("it does not believe itself: %s, %v", domain, err)
	}
	p.apply("{type: Mesh, name: other}") // something else changes
	same := p.controlPlane(t)
	if same.Certificate.Leaf != first.Certificate.Leaf {
		t.Error("it was renewed although nothing is due")
	}
	c.advance(13 * time.Hour)
	second := p.controlPlane(t)
	if second.Certificate.Leaf == first.Certificate.Leaf || second.NotAfter.Before(first.NotAfter) {
		t.Error("it was not renewed after half of its life")
	}
	if second != p.controlPlane(t) {
		t.Error("it is made anew each time")
	}
	if _, err := second.Verify([]*x509.Certificate{first.Certificate.Leaf}); err != nil {
		t.Errorf("the old one is not good any more: %v", err)
	}
	c.advance(24 * time.Hour)
	if _, err := second.Verify([]*x509.Certificate{first.Certificate.Leaf}); !errors.Is(err, ErrClocks) {
		t.Errorf("an old certificate gives %v", err)
	}
}

func TestAControlPlaneKeepsItsCertificateWhenTheAuthorityIsBroken(t *testing.T) {
	c := &clock{}
	p := newPlane(t, func(cfg *Config) { cfg.Now = c.now })
	p.apply(base)
	p.ready("default-identity")
	first := p.controlPlane(t)
	secret := keySecret(resource.Resource{Meta: resource.Meta{Mesh: "default", Name: "default-identity"}})
	if _, err := p.catalog.Commit(t.Context(), catalog.Batch{Author: "test", Deletes: []catalog.Delete{{Key: secret, Expect: store.ExpectAny}}}); err != nil {
		t.Fatal(err)
	}
	c.advance(20 * time.Hour)
	if kept := p.controlPlane(t); kept.Certificate.Leaf != first.Certificate.Leaf {
		t.Error("another certificate than the one that is still good")
	}
	c.advance(5 * time.Hour)
	if _, err := p.ControlPlane("default"); !errors.Is(err, ErrNotReady) {
		t.Errorf("once it has ended: %v", err)
	}
	if _, err := p.catalog.Commit(t.Context(), catalog.Batch{Author: "test", Deletes: []catalog.Delete{{
		Key: resource.Key{Type: mesh.TypeMeshIdentity, Mesh: "default", Name: "default-identity"}, Expect: store.ExpectAny,
	}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.ControlPlane("default"); !errors.Is(err, ErrNoIdentity) {
		t.Errorf("without an identity: %v", err)
	}
}

func TestNoWorkloadGetsTheNameOfTheControlPlane(t *testing.T) {
	p := newPlane(t)
	p.apply(strings.Replace(base, "  provider:", "  spiffeID: {path: \"/causeway/control-plane\"}\n  provider:", 1))
	p.until("the authority is there", func(s *catalog.Snapshot) bool {
		_, ok := s.Get(resource.Key{Type: mesh.TypeMeshTrust, Mesh: "default", Name: "default-identity"})
		return ok
	})
	der, _ := request(t)
	if _, err := p.Sign(t.Context(), web, der); err == nil || !strings.Contains(err.Error(), "is the control plane's") {
		t.Errorf("signed, or refused for another reason: %v", err)
	}
}

func TestZonesOfTrustDomains(t *testing.T) {
	p := newPlane(t)
	p.apply(base)
	p.ready("default-identity")
	if cp := p.controlPlane(t); !cp.Owns("east", "default.east.mesh.local") || cp.Knows("west") || cp.Owns("west", "default.east.mesh.local") {
		t.Error("its own trust domain belongs to another zone, or not to itself")
	}
	r, _ := p.catalog.Snapshot().Get(resource.Key{Type: mesh.TypeMeshTrust, Mesh: "default", Name: "default-identity"})
	bundle := r.Spec.(*mesh.MeshTrust).CABundles
	put := func(name, zone, domain string) {
		t.Helper()
		labels := map[string]string{resource.LabelDisplayName: name}
		if zone != "" {
			labels[resource.LabelZone] = zone
		}
		r, err := resource.WithSpec(resource.Meta{Type: mesh.TypeMeshTrust, Mesh: "default", Name: name, Labels: labels}, &mesh.MeshTrust{TrustDomain: domain, CABundles: bundle})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.catalog.Commit(t.Context(), catalog.Batch{Author: "test", Puts: []catalog.Put{{Resource: r, Expect: store.ExpectAny}}}); err != nil {
			t.Fatal(err)
		}
	}
	put("west", "west", "default.west.mesh.local")
	put("shared", "", "shared.example")
	cp := p.controlPlane(t)
	if !cp.Owns("west", "default.west.mesh.local") || cp.Owns("east", "default.west.mesh.local") {
		t.Error("the trust domain of west is not its own")
	}
	if !cp.Owns("west", "shared.example") || !cp.Owns("north", "shared.example") || !cp.Knows("north") {
		t.Error("a trust domain that a person declared for all belongs to no zone")
	}
	for _, presented := range [][]*x509.Certificate{nil, make([]*x509.Certificate, maxChain+1), {{}}} {
		if _, err := cp.Verify(presented); !errors.Is(err, ErrUntrusted) {
			t.Errorf("%d certificates give %v", len(presented), err)
		}
	}
}
