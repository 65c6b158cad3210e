package identity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/pki"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
)

const author = "zone identity"

func (a *Authority) fence() *store.Fence {
	if a.cfg.Fence == nil {
		return nil
	}
	return a.cfg.Fence()
}

// Run keeps the authorities and trusts of every MeshIdentity until ctx ends: it generates what is missing, adds bundles to MeshTrusts,
// and reports conditions. It never replaces an authority and never removes a bundle. It may run again; of several instances of a zone
// one does.
func (a *Authority) Run(ctx context.Context) error {
	feed := a.cfg.Catalog.Subscribe()
	defer feed.Close()
	due := map[string]bool{} // meshes to look at; "" stands for all
	for {
		wait := ctx
		stop := func() {}
		if len(due) > 0 {
			wait, stop = context.WithTimeout(ctx, a.cfg.RetryInterval)
		}
		u, err := feed.Next(wait)
		stop()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, context.DeadlineExceeded):
		case err != nil:
			return fmt.Errorf("identity: %w", err)
		default:
			note(due, u)
		}
		a.keep(ctx, due)
	}
}

// note remembers the meshes whose identities an update may concern.
func note(due map[string]bool, u catalog.Update) {
	if u.All {
		due[""] = true
	}
	for _, k := range u.Changed {
		switch k.Type {
		case mesh.TypeMeshIdentity, mesh.TypeMeshTrust, mesh.TypeSecret:
			due[k.Mesh] = true
		}
	}
}

// keep looks at the meshes that are due and leaves those whose writes have to be tried again.
func (a *Authority) keep(ctx context.Context, due map[string]bool) {
	s := a.cfg.Catalog.Snapshot()
	again := map[string]bool{}
	s.Each(mesh.TypeMeshIdentity, "", func(id resource.Resource) bool {
		if !due[""] && !due[id.Mesh] {
			return true
		}
		if err := a.keepOne(ctx, s, id); err != nil && ctx.Err() == nil {
			again[id.Mesh] = true
			a.cfg.Log.Warn("identity cannot be kept and is tried again", "mesh", id.Mesh, "name", id.Name, "err", err)
		}
		return ctx.Err() == nil
	})
	clear(due)
	maps.Copy(due, again)
}

// keepOne writes what one identity lacks. A nil error means that nothing is left to do until something changes.
func (a *Authority) keepOne(ctx context.Context, s *catalog.Snapshot, id resource.Resource) error {
	if z := id.Zone(); z != "" && z != a.cfg.Zone {
		return nil
	}
	p := bundled(id)
	domain, domainErr := mesh.TrustDomain(id, a.cfg.Zone)
	if p != nil && generates(p) && domainErr == nil {
		made, err := a.generate(ctx, s, id, domain)
		if err != nil {
			return err
		}
		if made { // the next snapshot has the Secrets; the rest is done on its update
			return nil
		}
	}
	var st state
	st.spiffe(domainErr)
	if p != nil {
		issuer, err := a.issuer(s, id)
		st.provider(err)
		if domainErr == nil && issuer != nil {
			if err := a.keepTrust(ctx, s, id, p, domain, issuer, &st); err != nil {
				return err
			}
		}
	}
	st.ready()
	return a.report(ctx, s, id, st)
}

// generate makes the root of an identity when both of its Secrets are missing.
func (a *Authority) generate(ctx context.Context, s *catalog.Snapshot, id resource.Resource, domain string) (bool, error) {
	_, okCert := s.Get(rootSecret(id))
	_, okKey := s.Get(keySecret(id))
	if okCert || okKey {
		return false, nil // one alone is somebody's mistake that must not cost an authority
	}
	cert, key, err := pki.NewRoot(id.Name, domain, a.cfg.Now())
	if err != nil {
		return false, fmt.Errorf("generate authority of %s: %w", id.Key(), err)
	}
	b := catalog.Batch{Author: author, Reason: "authority of " + id.Key().String(), Fence: a.fence()}
	for _, sec := range []struct {
		key  resource.Key
		data []byte
	}{{rootSecret(id), cert}, {keySecret(id), key}} {
		r, err := resource.WithSpec(a.meta(sec.key), &mesh.Secret{Data: sec.data})
		if err != nil {
			return false, fmt.Errorf("generate authority of %s: %w", id.Key(), err)
		}
		b.Puts = append(b.Puts, catalog.Put{Resource: r, Expect: store.ExpectAbsent})
	}
	_, err = a.cfg.Catalog.Commit(ctx, b)
	switch {
	case errors.Is(err, store.ErrConflict):
		return true, nil // another writer was first, and its Secrets come as an update
	case err != nil:
		return false, fmt.Errorf("generate authority of %s: %w", id.Key(), err)
	}
	a.cfg.Log.Info("generated a certificate authority", "mesh", id.Mesh, "name", id.Name, "trustDomain", domain)
	return true, nil
}

// meta describes a resource that this zone owns.
func (a *Authority) meta(k resource.Key) resource.Meta {
	return resource.Meta{Type: k.Type, Mesh: k.Mesh, Name: k.Name, Labels: map[string]string{
		resource.LabelMesh:        k.Mesh,
		resource.LabelDisplayName: k.Name,
		resource.LabelOrigin:      resource.OriginZone,
		resource.LabelZone:        a.cfg.Zone,
		resource.LabelEnv:         "universal",
		resource.LabelManagedBy:   "meshidentity",
	}}
}

// keepTrust makes the MeshTrust of an identity or adds the authority to it.
func (a *Authority) keepTrust(ctx context.Context, s *catalog.Snapshot, id resource.Resource, p *mesh.BundledProvider, domain string, issuer *pki.Issuer, st *state) error {
	if p.MeshTrustCreation == mesh.TrustCreationDisabled {
		st.add(mesh.ConditionMeshTrustCreated, mesh.Unknown, "Disabled", "meshTrustCreation is Disabled")
		return nil
	}
	bundle := issuer.Bundle()
	if len(bundle) == 0 {
		st.add(mesh.ConditionMeshTrustCreated, mesh.False, "NoRoot",
			"ca.certificate ends in an intermediate; add the root, or set meshTrustCreation to Disabled and create a MeshTrust")
		return nil
	}
	key := resource.Key{Type: mesh.TypeMeshTrust, Mesh: id.Mesh, Name: id.Name}
	current, exists := s.Get(key)
	if !exists {
		spec := &mesh.MeshTrust{TrustDomain: domain, CABundles: []mesh.CABundle{pemBundle(bundle)}}
		return a.putTrust(ctx, id, a.meta(key), spec, store.ExpectAbsent, st)
	}
	spec := current.Spec.(*mesh.MeshTrust)
	if spec.TrustDomain != domain {
		st.add(mesh.ConditionMeshTrustCreated, mesh.False, "OtherTrustDomain", fmt.Sprintf(
			"MeshTrust %s is for trust domain %s, not %s; rename or delete it", key.Name, resource.Quote(spec.TrustDomain), resource.Quote(domain)))
		return nil
	}
	if holds(spec, issuer) {
		st.add(mesh.ConditionMeshTrustCreated, mesh.True, "Created", "")
		return nil
	}
	next := &mesh.MeshTrust{TrustDomain: domain, CABundles: append(slices.Clone(spec.CABundles), pemBundle(bundle))}
	return a.putTrust(ctx, id, current.Meta, next, int64(current.Version), st)
}

func (a *Authority) putTrust(ctx context.Context, id resource.Resource, m resource.Meta, spec *mesh.MeshTrust, expect int64, st *state) error {
	r, err := resource.WithSpec(m, spec)
	if err != nil {
		return err
	}
	status, err := json.Marshal(mesh.MeshTrustStatus{Origin: &mesh.TrustOrigin{KRI: a.kri(id).String()}})
	if err != nil {
		return err
	}
	_, err = a.cfg.Catalog.Commit(ctx, catalog.Batch{
		Author: author, Reason: "authority of " + id.Key().String(), Fence: a.fence(),
		Puts:    []catalog.Put{{Resource: r, Expect: expect}},
		Derived: []catalog.DerivedPut{{Key: catalog.StatusOf(m.Key()), Data: status}},
	})
	if errors.Is(err, store.ErrConflict) {
		return nil // whoever changed it causes another look
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", m.Key(), err)
	}
	st.add(mesh.ConditionMeshTrustCreated, mesh.True, "Created", "")
	return nil
}

func pemBundle(b []byte) mesh.CABundle {
	return mesh.CABundle{Type: mesh.CABundlePEM, PEM: &mesh.PEMBundle{Value: string(b)}}
}

// holds says whether a MeshTrust has every root of an authority.
func holds(spec *mesh.MeshTrust, i *pki.Issuer) bool {
	have := map[string]bool{}
	for _, b := range spec.CABundles {
		if b.PEM == nil {
			continue
		}
		certs, err := pki.ParseCertificates([]byte(b.PEM.Value))
		if err != nil {
			continue
		}
		for _, c := range certs {
			have[pki.Fingerprint(c.Raw)] = true
		}
	}
	for _, c := range i.Roots() {
		if !have[pki.Fingerprint(c.Raw)] {
			return false
		}
	}
	return true
}

// state gathers the conditions of one identity.
type state struct{ conditions []mesh.Condition }

func (st *state) add(typ string, status mesh.ConditionStatus, reason, message string) {
	st.conditions = append(st.conditions, mesh.Condition{Type: typ, Status: status, Reason: reason, Message: message})
}

func (st *state) spiffe(err error) {
	if err != nil {
		st.add(mesh.ConditionSpiffeIDProvider, mesh.False, "InvalidTemplate", err.Error())
		return
	}
	st.add(mesh.ConditionSpiffeIDProvider, mesh.True, "SpiffeIDProvided", "")
}

func (st *state) provider(err error) {
	if err != nil {
		st.add(mesh.ConditionProvider, mesh.False, "ProviderNotAvailable", err.Error())
		return
	}
	st.add(mesh.ConditionProvider, mesh.True, "ProviderAvailable", "")
}

// ready sums up the conditions so far.
func (st *state) ready() {
	failed := 0
	for _, c := range st.conditions {
		if c.Status == mesh.False {
			failed++
		}
	}
	switch {
	case failed == 0:
		st.add(mesh.ConditionReady, mesh.True, "Ready", "")
	case failed < len(st.conditions):
		st.add(mesh.ConditionReady, mesh.False, "PartiallyReady", "see the other conditions")
	default:
		st.add(mesh.ConditionReady, mesh.False, "NotReady", "see the other conditions")
	}
}

// report writes the conditions when they differ from what is stored.
func (a *Authority) report(ctx context.Context, s *catalog.Snapshot, id resource.Resource, st state) error {
	data, err := json.Marshal(mesh.MeshIdentityStatus{Conditions: st.conditions})
	if err != nil {
		return fmt.Errorf("report on %s: %w", id.Key(), err)
	}
	key := catalog.StatusOf(id.Key())
	if old, ok := s.Derived(key.Type, key.Mesh, key.Name); ok && bytes.Equal(old, data) {
		return nil
	}
	_, err = a.cfg.Catalog.Commit(ctx, catalog.Batch{
		Author: author, Reason: "conditions of " + id.Key().String(), Fence: a.fence(),
		Derived: []catalog.DerivedPut{{Key: key, Data: data}},
	})
	if err != nil && !errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("report on %s: %w", id.Key(), err)
	}
	return nil
}
