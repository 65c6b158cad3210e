package identity

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/pki"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// A root is replaced in steps, so that at no time somebody presents a certificate that others do not believe:
// Stage puts a new root beside the old one, which is then trusted too; Promote lets the new one sign once the proxies have
// acknowledged that. Certificates of the old root stay good until they end, and its bundle stays in the MeshTrust.

// ErrNotRotated is a rotation that cannot go on now.
var ErrNotRotated = errors.New("the authority cannot be rotated now")

// Stage makes a new root for a generated authority and has it trusted. It does not sign yet.
func (a *Authority) Stage(ctx context.Context, id resource.Key) error {
	s := a.cfg.Catalog.Snapshot()
	r, err := generated(s, id)
	if err != nil {
		return err
	}
	if _, staged := s.Get(nextSecret(r)); staged {
		return fmt.Errorf("stage a root for %s: %w: one is staged already", id, ErrNotRotated)
	}
	old, ok := s.Get(rootSecret(r))
	if !ok {
		return fmt.Errorf("stage a root for %s: %w: there is none to replace", id, ErrNotRotated)
	}
	domain, err := mesh.TrustDomain(r, a.cfg.Zone)
	if err != nil {
		return fmt.Errorf("stage a root for %s: %w", id, err)
	}
	cert, key, err := pki.NewRoot(r.Name, domain, a.cfg.Now())
	if err != nil {
		return fmt.Errorf("stage a root for %s: %w", id, err)
	}
	both := strings.TrimRight(string(old.Spec.(*mesh.Secret).Data), "\n") + "\n" + string(cert)
	roots, err := resource.WithSpec(old.Meta, &mesh.Secret{Data: []byte(both)})
	if err != nil {
		return err
	}
	next, err := resource.WithSpec(a.meta(nextSecret(r)), &mesh.Secret{Data: key})
	if err != nil {
		return err
	}
	return a.rotation(ctx, "new root staged for "+id.String(), catalog.Batch{Puts: []catalog.Put{
		{Resource: roots, Expect: int64(old.Version)}, {Resource: next, Expect: store.ExpectAbsent},
	}})
}

// Promote lets the staged root sign. Gap lists the proxies that have not acknowledged a version of the trust bundles;
// while it names any, or the bundles lack the new root, nothing changes and ErrNotRotated says why.
func (a *Authority) Promote(ctx context.Context, id resource.Key, gap func(version string) []resource.Key) error {
	s := a.cfg.Catalog.Snapshot()
	r, err := generated(s, id)
	if err != nil {
		return err
	}
	next, ok := s.Get(nextSecret(r))
	key, exists := s.Get(keySecret(r))
	if !ok || !exists {
		return fmt.Errorf("promote the root of %s: %w: none is staged", id, ErrNotRotated)
	}
	roots, _ := secretData(s, rootSecret(r))
	staged, err := pki.ParseIssuer(roots, next.Spec.(*mesh.Secret).Data, true, a.cfg.Now())
	if err != nil {
		return fmt.Errorf("promote the root of %s: %w", id, err)
	}
	domain, err := mesh.TrustDomain(r, a.cfg.Zone)
	if err != nil {
		return fmt.Errorf("promote the root of %s: %w", id, err)
	}
	trust := a.Trust(r.Mesh)
	if !trust.Trusts(domain, staged.ID) {
		return fmt.Errorf("promote the root of %s: %w: no MeshTrust holds it yet", id, ErrNotRotated)
	}
	if late := gap(trust.Version); len(late) > 0 {
		return fmt.Errorf("promote the root of %s: %w: %d proxies have not acknowledged it, %s among them", id, ErrNotRotated, len(late), late[0])
	}
	signs, err := resource.WithSpec(key.Meta, next.Spec)
	if err != nil {
		return err
	}
	return a.rotation(ctx, "new root signs for "+id.String(), catalog.Batch{
		Puts:    []catalog.Put{{Resource: signs, Expect: int64(key.Version)}},
		Deletes: []catalog.Delete{{Key: next.Key(), Expect: int64(next.Version)}},
	})
}

func (a *Authority) rotation(ctx context.Context, reason string, b catalog.Batch) error {
	b.Author, b.Reason = author, reason
	if _, err := a.cfg.Catalog.Commit(ctx, b); err != nil {
		return fmt.Errorf("rotate: %w", err)
	}
	a.cfg.Log.Info(reason)
	return nil
}

func generated(s *catalog.Snapshot, id resource.Key) (resource.Resource, error) {
	r, ok := s.Get(id)
	if !ok {
		return r, fmt.Errorf("rotate %s: %w", id, resource.ErrNotFound)
	}
	if p := bundled(r); p == nil || !generates(p) {
		return r, fmt.Errorf("rotate %s: %w: only generated authorities are; replace the one you supplied where you keep it", id, ErrNotRotated)
	}
	return r, nil
}

func nextSecret(id resource.Resource) resource.Key {
	return resource.Key{Type: mesh.TypeSecret, Mesh: id.Mesh, Name: id.Name + "-private-key-next"}
}
