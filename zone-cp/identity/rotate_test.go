package identity

import (
	"errors"
	"testing"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/catalog"
)

func TestRootIsReplacedWithoutABreak(t *testing.T) {
	const domain = "default.east.mesh.local"
	p := newPlane(t)
	p.apply(base)
	p.ready("default-identity")
	id := resource.Key{Type: mesh.TypeMeshIdentity, Mesh: "default", Name: "default-identity"}
	der, _ := request(t)
	old, err := p.Sign(t.Context(), web, der)
	if err != nil {
		t.Fatal(err)
	}
	nobody := func(string) []resource.Key { return nil }
	if err := p.Promote(t.Context(), id, nobody); !errors.Is(err, ErrNotRotated) {
		t.Errorf("promoted what was not staged: %v", err)
	}
	if err := p.Stage(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := p.Stage(t.Context(), id); !errors.Is(err, ErrNotRotated) {
		t.Errorf("staged twice: %v", err)
	}
	p.until("both roots are trusted", func(*catalog.Snapshot) bool { return len(p.Trust("default").Bundles[0].Authorities) == 2 })
	still, err := p.Sign(t.Context(), web, der)
	if err != nil || still.Issuer != old.Issuer {
		t.Errorf("the staged root signs already: %v", err)
	}
	var asked string
	late := func(version string) []resource.Key { asked = version; return []resource.Key{web} }
	if err := p.Promote(t.Context(), id, late); !errors.Is(err, ErrNotRotated) || asked != p.Trust("default").Version {
		t.Errorf("promoted although a proxy is late: %v", err)
	}
	if err := p.Promote(t.Context(), id, nobody); err != nil {
		t.Fatal(err)
	}
	next, err := p.Sign(t.Context(), web, der)
	if err != nil || next.Issuer == old.Issuer {
		t.Fatalf("issuer %s, before %s (%v)", next.Issuer, old.Issuer, err)
	}
	for _, i := range []Issued{old, next} {
		if err := verify(t, i, p.Trust("default"), domain); err != nil {
			t.Errorf("a certificate of issuer %s is not trusted: %v", i.Issuer, err)
		}
	}
	held, ok := p.Held(web, old.Chain[0])
	if !ok || held.Issuer == next.Issuer {
		t.Errorf("a certificate of the old root counts as %+v, %t", held, ok)
	}
	if err := p.Stage(t.Context(), resource.Key{Type: mesh.TypeMeshIdentity, Mesh: "default", Name: "none"}); !errors.Is(err, resource.ErrNotFound) {
		t.Errorf("an identity that does not exist: %v", err)
	}
}
