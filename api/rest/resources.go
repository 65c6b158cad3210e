package rest

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// Titles say which operation failed.
const (
	couldNotGet     = "Could not retrieve a resource"
	couldNotList    = "Could not retrieve resources"
	couldNotCreate  = "Could not create a resource"
	couldNotUpdate  = "Could not update a resource"
	couldNotDelete  = "Could not delete a resource"
	couldNotProcess = "Could not process a resource"
)

func keyOf(c echo.Context, k resource.Kind) resource.Key {
	return resource.Key{Type: k.Name, Mesh: c.Param("mesh"), Name: c.Param("name")}
}

func (s *Server) get(k resource.Kind) echo.HandlerFunc {
	return func(c echo.Context) error {
		if err := s.require(c, readPermission(k)); err != nil {
			return err
		}
		snap := s.catalog.Snapshot()
		r, ok := snap.Get(keyOf(c, k))
		if !ok {
			return titled(couldNotGet, resource.ErrNotFound)
		}
		return s.answerItem(c, snap, k, r)
	}
}

// byKRI answers with the resource that an identifier names.
func (s *Server) byKRI(c echo.Context) error {
	kri, err := resource.ParseKRI(c.Param("kri"))
	if err != nil {
		return invalid(couldNotGet, "Invalid KRI", resource.Problem{Field: "kri", Reason: err.Error()})
	}
	k, ok := s.kinds.ByShort(kri.Short)
	if !ok {
		return invalid(couldNotGet, "Invalid KRI", resource.Problem{Field: "kri", Reason: "no kind has the short name " + resource.Quote(kri.Short)})
	}
	if err := s.require(c, readPermission(k)); err != nil {
		return err
	}
	snap := s.catalog.Snapshot()
	r, ok := snap.ByKRI(kri)
	if !ok {
		return titled(couldNotGet, resource.ErrNotFound)
	}
	return s.answerItem(c, snap, k, r)
}

func (s *Server) answerItem(c echo.Context, snap *catalog.Snapshot, k resource.Kind, r resource.Resource) error {
	switch format := c.QueryParam("format"); format {
	case "", "universal":
	case "k8s", "kubernetes":
		return s.answerKubernetes(c, k, r)
	default:
		return invalid(couldNotGet, "Invalid parameter", resource.Problem{Field: "format", Reason: "must be universal, k8s or kubernetes"})
	}
	status, _ := statusOf(snap, r)
	tag := etag(r.UID, r.Version, status)
	c.Response().Header().Set("ETag", tag)
	for have := range strings.SplitSeq(c.Request().Header.Get("If-None-Match"), ",") {
		if strings.TrimPrefix(strings.TrimSpace(have), "W/") == tag {
			return c.NoContent(http.StatusNotModified)
		}
	}
	body, err := s.render(snap, k, r)
	if err != nil {
		return titled(couldNotGet, err)
	}
	return c.JSONBlob(http.StatusOK, body)
}

// A written is the answer to a write; without warnings it is {}.
type written struct {
	// Warnings say what is legal and probably not meant.
	Warnings []string `json:"warnings,omitempty"`
}

func (s *Server) put(k resource.Kind) writer {
	return func(c echo.Context) (outcome, error) {
		if err := s.require(c, writePermission(k)); err != nil {
			return outcome{}, err
		}
		if !s.writable(k) {
			return outcome{}, s.notWritable(k)
		}
		body, err := readBody(c, maxItemBody)
		if err != nil {
			return outcome{}, titled(couldNotProcess, err)
		}
		d, err := s.decodeItem(c, body)
		if err := matchURL(k, keyOf(c, k), &d, err); err != nil {
			return outcome{}, titled(couldNotProcess, err)
		}
		s.meshes.RLock()
		defer s.meshes.RUnlock()
		return s.replace(c, d, body)
	}
}

// matchURL checks that a body is the resource that its path names. A body that failed to decode is judged by its type first:
// whoever sends another kind should not read about its fields.
func matchURL(k resource.Kind, key resource.Key, d *resource.Decoded, decodeErr error) error {
	if errors.Is(decodeErr, resource.ErrUnknownKind) || decodeErr == nil && d.Type != k.Name {
		return resource.Problems{{Field: "type", Reason: "must be " + k.Name + ", as in the path"}}
	}
	if decodeErr != nil {
		return decodeErr
	}
	var ps resource.Problems
	if d.Name == "" {
		d.Name = key.Name
	}
	if d.Name != key.Name {
		ps.Add("name", "must be %s, as in the path", resource.Quote(key.Name))
	}
	if d.Mesh == "" {
		d.Mesh = key.Mesh
	}
	if d.Mesh != key.Mesh {
		ps.Add("mesh", "must be %s, as in the path", resource.Quote(key.Mesh))
	}
	return ps.Err()
}

func (s *Server) replace(c echo.Context, d resource.Decoded, body []byte) (outcome, error) {
	ctx := c.Request().Context()
	snap := s.catalog.Snapshot()
	edits, err := s.prepare(who(c), snap, []resource.Decoded{d}, func(_ int, err error) resource.Problems {
		var ps resource.Problems
		errors.As(err, &ps)
		return ps
	})
	title := couldNotCreate
	if _, exists := snap.Get(d.Key()); exists {
		title = couldNotUpdate
	}
	if err != nil {
		return outcome{}, titled(title, meshNotFound(err))
	}
	e := edits[0]
	pre, err := preconditionOf(c.Request().Header)
	if err != nil {
		return outcome{}, err
	}
	ch, err := newChange(c, body)
	if err != nil {
		return outcome{}, err
	}
	if !pre.given && !ch.idempotent() && e.unchanged() && s.isCurrent(ctx, snap) {
		return s.replaced(http.StatusOK, snap.Position(), e, e.old.UID, e.old.Version), nil
	}
	expect, err := pre.expect(e.old)
	if err != nil {
		return outcome{}, err
	}
	ch.edits, ch.expect = edits, func(edit) int64 { return expect }
	done, err := s.commitEdits(ctx, ch, pre.given)
	if err != nil {
		return outcome{}, titled(title, err)
	}
	stored, ok := result(done, d.Key())
	if !ok {
		return outcome{}, titled(title, errors.New("the store did not say what became of the resource"))
	}
	status := http.StatusOK
	if stored.Object.Version == 1 {
		status = http.StatusCreated
	}
	return s.replaced(status, done.Position, e, stored.Object.UID, stored.Object.Version), nil
}

// meshNotFound gives an unknown mesh the words that clients of the Kuma API expect.
func meshNotFound(err error) error {
	var ps resource.Problems
	if errors.As(err, &ps) && len(ps) == 1 && ps[0].Field == "mesh" && strings.HasSuffix(ps[0].Reason, "is not found") {
		return invalid("", "Mesh is not found", ps...)
	}
	return err
}

// isCurrent says whether the snapshot is surely the newest state, so that writing what it already holds can be left out.
func (s *Server) isCurrent(ctx context.Context, snap *catalog.Snapshot) bool {
	current, err := s.catalog.Current(ctx, snap)
	return err == nil && current
}

func (s *Server) replaced(status int, at store.Position, e edit, uid string, version uint64) outcome {
	st, _ := statusOf(s.catalog.Snapshot(), e.resource)
	return outcome{status: status, position: at, etag: etag(uid, version, st), body: written{Warnings: e.warnings}}
}

// commitEdits commits. A mesh that somebody else created meanwhile is then replaced, without creating its defaults again.
func (s *Server) commitEdits(ctx context.Context, ch change, conditional bool) (store.Committed, error) {
	if !conditional {
		ch.expect = func(e edit) int64 {
			if e.kind.Name == meshType && e.old == nil {
				return store.ExpectAbsent
			}
			return store.ExpectAny
		}
	}
	for range maxBatchItems {
		done, err := s.commit(ctx, ch)
		var conflict *store.ConflictError
		switch {
		case err == nil || !errors.As(err, &conflict):
			return done, err
		case conditional:
			return done, preconditionFailed(conflict.Error())
		case !markExisting(ch.edits, conflict.Key):
			return done, err
		}
	}
	return store.Committed{}, store.ErrConflict
}

// markExisting notes that a mesh exists after all, and says whether that was news.
func markExisting(edits []edit, k store.Key) bool {
	for i, e := range edits {
		if e.old == nil && e.kind.Name == k.Type && e.resource.Mesh == k.Mesh && e.resource.Name == k.Name {
			edits[i].old = &resource.Resource{Meta: resource.Meta{Type: k.Type, Mesh: k.Mesh, Name: k.Name}}
			return true
		}
	}
	return false
}

func (s *Server) delete(k resource.Kind) writer {
	return func(c echo.Context) (outcome, error) {
		if err := s.require(c, writePermission(k)); err != nil {
			return outcome{}, err
		}
		if !s.writable(k) {
			return outcome{}, s.notWritable(k)
		}
		if k.Name == meshType {
			s.meshes.Lock()
			defer s.meshes.Unlock()
		}
		out, err := s.remove(c, k)
		return out, titled(couldNotDelete, err)
	}
}

func (s *Server) remove(c echo.Context, k resource.Kind) (outcome, error) {
	ctx, key := c.Request().Context(), keyOf(c, k)
	pre, err := preconditionOf(c.Request().Header)
	if err != nil {
		return outcome{}, err
	}
	if pre.absent {
		return outcome{}, fail(http.StatusBadRequest, couldNotDelete, "If-None-Match has no meaning in a deletion")
	}
	ch, err := newChange(c, nil)
	if err != nil {
		return outcome{}, err
	}
	snap := s.catalog.Snapshot()
	expect := store.ExpectAny
	old, exists := snap.Get(key)
	switch {
	case exists:
		if err := s.checkDelete(snap, old); err != nil {
			return outcome{}, err
		}
		if expect, err = pre.expect(&old); err != nil {
			return outcome{}, err
		}
	case !ch.idempotent() && s.isCurrent(ctx, snap):
		return outcome{}, resource.ErrNotFound
	}
	ch.deletes = []catalog.Delete{{Key: key, Expect: expect}}
	done, err := s.commit(ctx, ch)
	if pre.given && errors.Is(err, store.ErrConflict) {
		return outcome{}, preconditionFailed(conflictDetail(err))
	}
	if err != nil {
		return outcome{}, err
	}
	if _, ok := result(done, key); !ok {
		return outcome{}, resource.ErrNotFound
	}
	return outcome{status: http.StatusOK, position: done.Position, body: written{}}, nil
}

// checkDelete refuses to delete what another control plane owns or what is in use.
func (s *Server) checkDelete(snap *catalog.Snapshot, r resource.Resource) error {
	if ps := s.checkOwner(r); len(ps) > 0 {
		return ps
	}
	if r.Type == meshType && snap.Count("Dataplane", r.Name) > 0 {
		return resource.Problems{{Field: "mesh", Reason: "mesh still has dataplanes; stop them first"}}
	}
	if r.Type == "Zone" && online(s.zoneInsight(r.Name)) {
		return resource.Problems{{Field: "zone", Reason: "zone is online; stop its control plane first"}}
	}
	return nil
}
