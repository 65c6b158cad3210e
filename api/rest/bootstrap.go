package rest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/token"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// A Bootstrap says what a control plane creates when it starts on an empty store.
type Bootstrap struct {
	// TokenFile is where the token of the first administrator is written, mode 0600.
	TokenFile string
	// TokenValidity is how long that token lives. Default ten years.
	TokenValidity time.Duration
	// DefaultMesh creates the mesh "default" with what belongs to it, except in a zone of a global.
	DefaultMesh bool
}

const systemAuthor = "causeway"

// Bootstrap creates the signing keys that are missing, and with the key of user tokens the token of the first administrator.
// It changes nothing on a store that has them. Of several instances that start together one does it.
func (s *Server) Bootstrap(ctx context.Context, b Bootstrap) error {
	if err := s.firstAdministrator(ctx, b); err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	if s.cfg.Mode == Zone {
		return nil
	}
	if err := s.createKey(ctx, token.ZoneSigningKey(1)); err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	if b.DefaultMesh {
		return s.createMesh(ctx, "default")
	}
	return nil
}

// firstAdministrator writes the token before it stores the key that makes it valid: a crash in between leaves a useless file
// that the next start replaces, and never a control plane that nobody can enter.
func (s *Server) firstAdministrator(ctx context.Context, b Bootstrap) error {
	key := token.UserSigningKey(1)
	if token.HasSigningKey(s.catalog.Snapshot(), key) {
		return nil
	}
	if b.TokenFile == "" {
		return errors.New("a file for the first administrator's token is needed")
	}
	pem, err := token.NewSigningKey()
	if err != nil {
		return err
	}
	if b.TokenValidity <= 0 {
		b.TokenValidity = token.DefaultValidity
	}
	t, err := token.SignUser(pem, 1, token.User{Name: AdminUser, Groups: []string{AdminGroup}}, b.TokenValidity, s.cfg.Now())
	if err != nil {
		return err
	}
	if err := writePrivate(b.TokenFile, t+"\n"); err != nil {
		return err
	}
	err = s.createSecret(ctx, token.Secret(key, pem))
	if errors.Is(err, store.ErrConflict) {
		s.cfg.Log.Info("another instance created the first administrator; its token is there", "useless", b.TokenFile)
		return removeUseless(b.TokenFile)
	}
	if err != nil {
		return err
	}
	s.cfg.Log.Info("the token of the first administrator was written; use it, then keep it safe or delete it", "file", b.TokenFile)
	return nil
}

func removeUseless(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove useless token: %w", err)
	}
	return nil
}

func (s *Server) createKey(ctx context.Context, key resource.Key) error {
	if token.HasSigningKey(s.catalog.Snapshot(), key) {
		return nil
	}
	pem, err := token.NewSigningKey()
	if err != nil {
		return err
	}
	err = s.createSecret(ctx, token.Secret(key, pem))
	if errors.Is(err, store.ErrConflict) {
		return nil // another instance was first
	}
	return err
}

func (s *Server) createSecret(ctx context.Context, r resource.Resource) error {
	k, ok := s.kinds.ByName(r.Type)
	if !ok {
		return fmt.Errorf("%w: %s", resource.ErrUnknownKind, r.Type)
	}
	r.Labels = s.computeLabels(k, r)
	_, err := s.catalog.Commit(ctx, catalog.Batch{
		Author: systemAuthor, Reason: "bootstrap", Puts: []catalog.Put{{Resource: r, Expect: store.ExpectAbsent}},
	})
	return err
}

// createMesh creates a mesh with what belongs to it, unless it exists.
func (s *Server) createMesh(ctx context.Context, name string) error {
	k, ok := s.kinds.ByName(meshType)
	if !ok || meshExists(s.catalog.Snapshot(), name) {
		return nil
	}
	r, err := resource.WithSpec(resource.Meta{Type: meshType, Name: name}, k.New())
	if err != nil {
		return err
	}
	r.Labels = s.computeLabels(k, r)
	ch := change{
		author: systemAuthor, reason: "bootstrap",
		edits:  []edit{{kind: k, resource: r}},
		expect: func(edit) int64 { return store.ExpectAbsent },
	}
	_, err = s.commit(ctx, ch)
	if errors.Is(err, store.ErrConflict) {
		return nil
	}
	return err
}

// writePrivate writes a file that only its owner can read, whole or not at all.
func writePrivate(path, text string) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write token: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".token-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write token: %w", err)
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // it is gone after the rename
	_, err = tmp.WriteString(text)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return fmt.Errorf("write token: %w", err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return fmt.Errorf("write token: %w", err)
	}
	return nil
}
