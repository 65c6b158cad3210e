package identity

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/pki"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// A Trust is every bundle of a mesh: who may sign for which trust domain. It is immutable.
type Trust struct {
	// Version is a hash of the content, equal on every instance.
	Version string
	// Bundles holds one bundle per trust domain, sorted by domain.
	Bundles []Bundle

	state string // the MeshTrusts that the bundles come from
}

// A Bundle is the authorities of one trust domain.
type Bundle struct {
	Domain string
	PEM    string
	// Authorities names each certificate in the bundle, as Issuer.ID names the one that signs.
	Authorities []string
}

// Trusts says whether a workload that holds these bundles accepts what the named authority signs.
func (t *Trust) Trusts(domain, authority string) bool {
	for _, b := range t.Bundles {
		if b.Domain == domain {
			return slices.Contains(b.Authorities, authority)
		}
	}
	return false
}

// Trust returns the bundles of all MeshTrusts of a mesh. It returns the same value until a MeshTrust changes.
func (a *Authority) Trust(in string) *Trust {
	s := a.cfg.Catalog.Snapshot()
	state := trustState(s, in)
	a.mu.Lock()
	defer a.mu.Unlock()
	if t, ok := a.trusts[in]; ok && t.state == state {
		return t
	}
	t := collect(s, in)
	t.state = state
	if len(a.trusts) > 1000 {
		clear(a.trusts)
	}
	a.trusts[in] = t
	return t
}

func trustState(s *catalog.Snapshot, in string) string {
	var b bytes.Buffer
	s.Each(mesh.TypeMeshTrust, in, func(r resource.Resource) bool {
		fmt.Fprintf(&b, "%s %s %d\n", r.Name, r.UID, r.Version)
		return true
	})
	return b.String()
}

// collect unites the bundles of each trust domain; certificates are sorted and none appears twice,
// so that equal trust has equal bytes.
func collect(s *catalog.Snapshot, in string) *Trust {
	domains := map[string]map[string]string{} // domain, PEM, name
	s.Each(mesh.TypeMeshTrust, in, func(r resource.Resource) bool {
		spec, ok := r.Spec.(*mesh.MeshTrust)
		if !ok {
			return true
		}
		if domains[spec.TrustDomain] == nil {
			domains[spec.TrustDomain] = map[string]string{}
		}
		for _, b := range spec.CABundles {
			if b.PEM == nil {
				continue
			}
			certs, err := pki.ParseCertificates([]byte(b.PEM.Value))
			if err != nil {
				continue // one unreadable bundle must not take the others away; validation reports it where it is written
			}
			for _, c := range certs {
				domains[spec.TrustDomain][string(pki.EncodePEM("CERTIFICATE", c.Raw))] = pki.Fingerprint(c.Raw)
			}
		}
		return true
	})
	t := &Trust{}
	h := sha256.New()
	for _, d := range slices.Sorted(maps.Keys(domains)) {
		if len(domains[d]) == 0 {
			continue
		}
		b := Bundle{Domain: d}
		for _, pem := range slices.Sorted(maps.Keys(domains[d])) {
			b.PEM += pem
			b.Authorities = append(b.Authorities, domains[d][pem])
		}
		fmt.Fprintf(h, "%s\x00%s\x00", d, b.PEM)
		t.Bundles = append(t.Bundles, b)
	}
	t.Version = base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:12])
	return t
}
