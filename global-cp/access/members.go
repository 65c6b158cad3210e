package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// A member is what global remembers of a zone that joined or was revoked.
type member struct {
	Zone string `json:"zone"`
	// Lineage of the zone's own store: another one under the same name is another installation.
	Lineage string `json:"lineage,omitempty"`
	// Generation counts what voided earlier credentials.
	Generation uint64 `json:"generation"`
	// Revoked is the generation that the last revocation began, 0 if there was none.
	Revoked uint64 `json:"revoked,omitempty"`
}

// since says what began the current generation.
func (m member) since() string {
	if m.Generation == m.Revoked {
		return "was revoked"
	}
	return "was joined by another installation"
}

// members by zone id.
type members map[string]member

var membersKey = resource.Key{Type: mesh.TypeGlobalSecret, Name: membersSecret}

// readMembers returns the members, and the version that a change of them replaces.
func readMembers(s *catalog.Snapshot) (members, int64, error) {
	r, ok := s.Get(membersKey)
	if !ok {
		return members{}, store.ExpectAbsent, nil
	}
	out := members{}
	if err := readSecret(r, &out); err != nil {
		return nil, 0, err
	}
	return out, int64(r.Version), nil
}

// put writes the members, without those whose zone is gone. The ones of zones that are created in the same batch must be kept.
func (m members) put(s *catalog.Snapshot, expect int64, created ...string) (catalog.Put, error) {
	alive := map[string]bool{}
	for _, id := range created {
		alive[id] = true
	}
	s.Each(mesh.TypeZone, "", func(z resource.Resource) bool {
		alive[z.UID] = true
		return true
	})
	kept := members{}
	for id, one := range m {
		if alive[id] {
			kept[id] = one
		}
	}
	return secretPut(membersSecret, kept, expect)
}

func secretPut(name string, v any, expect int64) (catalog.Put, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return catalog.Put{}, fmt.Errorf("encode GlobalSecret %s: %w", name, err)
	}
	r, err := resource.WithSpec(resource.Meta{Type: mesh.TypeGlobalSecret, Name: name, Labels: ownLabels(name)}, &mesh.GlobalSecret{Data: data})
	return catalog.Put{Resource: r, Expect: expect}, err
}

// readSecret never quotes the cause of an error: it may hold what is secret.
func readSecret(r resource.Resource, into any) error {
	spec, ok := r.Spec.(*mesh.GlobalSecret)
	if !ok || json.Unmarshal(spec.Data, into) != nil {
		return fmt.Errorf("GlobalSecret %s cannot be read; restore it", r.Name)
	}
	return nil
}

// maxTries bounds how often a change is computed again because another instance was faster.
const maxTries = 20

// retry commits what change makes of the newest snapshot, until no other writer was in between.
func (a *Authority) retry(ctx context.Context, change func(*catalog.Snapshot) (catalog.Batch, error)) error {
	for range maxTries {
		s := a.cfg.Catalog.Snapshot()
		b, err := change(s)
		if err != nil {
			return err
		}
		b.Author = author
		_, err = a.cfg.Catalog.Commit(ctx, b)
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
		if err := a.newer(ctx, s); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: others change it all the time; try again", store.ErrConflict)
}

// newer waits for a snapshot after s.
func (a *Authority) newer(ctx context.Context, s *catalog.Snapshot) error {
	feed := a.cfg.Catalog.Subscribe()
	defer feed.Close()
	for a.cfg.Catalog.Snapshot().Position() == s.Position() {
		if _, err := feed.Next(ctx); err != nil {
			return err
		}
	}
	return nil
}
