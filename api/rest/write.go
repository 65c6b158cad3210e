package rest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/labstack/echo/v4"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// An edit is one resource that is checked and ready to be written.
type edit struct {
	kind     resource.Kind
	resource resource.Resource
	old      *resource.Resource
	warnings []string
}

// unchanged says that writing would change nothing.
func (e edit) unchanged() bool {
	return e.old != nil && string(e.old.Raw) == string(e.resource.Raw) && maps.Equal(e.old.Labels, e.resource.Labels)
}

// prepare checks resources that are to be written together, in the order of the Kuma API, and computes their labels.
// Problems of all of them are reported at once; at says where each is in the request.
func (s *Server) prepare(u caller, snap *catalog.Snapshot, decoded []resource.Decoded, at func(int, error) resource.Problems) ([]edit, error) {
	newMeshes := map[string]bool{}
	seen := map[resource.Key]bool{}
	for _, d := range decoded {
		if d.Type == meshType {
			newMeshes[d.Name] = true
		}
	}
	edits := make([]edit, 0, len(decoded))
	var problems resource.Problems
	for i, d := range decoded {
		if seen[d.Key()] {
			problems.Append(at(i, resource.Problems{{Field: "name", Reason: fmt.Sprintf("%s appears twice", d.Key())}}))
			continue
		}
		seen[d.Key()] = true
		e, err := s.prepareOne(u, snap, d, newMeshes)
		var ps resource.Problems
		switch {
		case errors.As(err, &ps):
			problems.Append(at(i, ps))
		case err != nil:
			return nil, err
		default:
			edits = append(edits, e)
		}
	}
	return edits, problems.Err()
}

const meshType = "Mesh"

func (s *Server) prepareOne(u caller, snap *catalog.Snapshot, d resource.Decoded, newMeshes map[string]bool) (edit, error) {
	k, ok := s.kinds.ByName(d.Type)
	if !ok {
		return edit{}, fmt.Errorf("%w: %s", resource.ErrUnknownKind, resource.Quote(d.Type))
	}
	if p := writePermission(k); !s.cfg.Access.allows(u, p) {
		return edit{}, denied(u, p)
	}
	if !s.writable(k) {
		return edit{}, s.notWritable(k)
	}
	e := edit{kind: k, resource: d.Resource}
	if ps := s.checkScope(snap, k, d.Resource, newMeshes); len(ps) > 0 {
		return edit{}, ps
	}
	if old, ok := snap.Get(d.Key()); ok {
		e.old = &old
		if ps := s.checkOwner(old); len(ps) > 0 {
			return edit{}, ps
		}
	}
	ps := s.checkName(k, d.Resource)
	ps.Append(s.checkLabels(k, d.Resource, e.old))
	e.resource.Labels = s.computeLabels(k, d.Resource)
	if k.Validate != nil {
		ps.Append(k.Validate(e.resource))
	}
	e.warnings = warnings(k, e.resource, d.Warnings)
	return e, ps.Err()
}

func (s *Server) notWritable(k resource.Kind) error {
	detail := k.Name + " is read-only: the control plane writes it itself"
	switch {
	case k.ReadOnly():
	case s.cfg.Mode == Global:
		detail = k.Name + " is written in zones; use the control plane of the zone"
	default:
		detail = k.Name + " is written at global; use the global control plane"
	}
	return fail(http.StatusMethodNotAllowed, "Method not allowed", "%s", detail)
}

// checkScope checks that the mesh of a resource is given and exists.
func (s *Server) checkScope(snap *catalog.Snapshot, k resource.Kind, r resource.Resource, newMeshes map[string]bool) resource.Problems {
	var ps resource.Problems
	switch {
	case k.Scope == resource.ScopeGlobal && r.Mesh != "":
		ps.Add("mesh", "must not be set: %s belongs to no mesh", k.Name)
	case k.Scope == resource.ScopeGlobal:
	case r.Mesh == "":
		ps.Add("mesh", "must be set")
	case !newMeshes[r.Mesh] && !meshExists(snap, r.Mesh):
		ps.Add("mesh", "mesh of name %q is not found", clipped(r.Mesh))
	}
	return ps
}

func clipped(s string) string { return s[:min(len(s), 80)] }

func meshExists(snap *catalog.Snapshot, name string) bool {
	_, ok := snap.Get(resource.Key{Type: meshType, Name: name})
	return ok
}

func (s *Server) checkName(k resource.Kind, r resource.Resource) resource.Problems {
	ps := resource.CheckName("name", k.Names, r.Name)
	if s.cfg.Mode == Zone && len(s.cfg.Zone)+1+len(r.Name) >= 253 {
		ps.Add("name", "is too long: with the name of the zone it must have less than 253 characters")
	}
	return ps
}

// warnings says what is legal and probably not meant.
func warnings(k resource.Kind, r resource.Resource, unknown []resource.Problem) []string {
	var out []string
	for _, p := range unknown {
		out = append(out, p.String())
	}
	if k.Warn != nil {
		out = append(out, k.Warn(r)...)
	}
	for _, p := range destinationPorts(k, r) {
		if _, err := resource.KRIOf(k, r.Meta).WithSection(p.section()).SNI(); err != nil {
			out = append(out, fmt.Sprintf("port %s cannot be reached from other zones: %s", p.section(), err))
		}
	}
	return out
}

// A change is what a request asks of the store.
type change struct {
	id      store.BatchID
	author  string
	reason  string
	edits   []edit
	expect  func(edit) int64
	deletes []catalog.Delete
}

// commit writes a change, with what comes into being with new meshes. It takes no lock: the callers hold it since their checks.
func (s *Server) commit(ctx context.Context, ch change) (store.Committed, error) {
	b := catalog.Batch{ID: ch.id, Author: ch.author, Reason: ch.reason, Deletes: ch.deletes}
	for _, e := range ch.edits {
		b.Puts = append(b.Puts, catalog.Put{Resource: e.resource, Expect: ch.expect(e)})
	}
	for _, e := range ch.edits {
		if e.kind.Name != meshType || e.old != nil {
			continue
		}
		more, err := s.withMesh(e.resource)
		if err != nil {
			return store.Committed{}, err
		}
		b.Puts = append(b.Puts, missingFrom(b.Puts, more)...)
	}
	return s.catalog.Commit(ctx, b)
}

// missingFrom leaves out what the writer of a mesh defines himself.
func missingFrom(have, more []catalog.Put) []catalog.Put {
	return slices.DeleteFunc(more, func(p catalog.Put) bool {
		return slices.ContainsFunc(have, func(h catalog.Put) bool { return h.Resource.Key() == p.Resource.Key() })
	})
}

// withMesh returns what comes into being with a mesh.
func (s *Server) withMesh(mesh resource.Resource) ([]catalog.Put, error) {
	if s.cfg.OnMeshCreated == nil {
		return nil, nil
	}
	rs, err := s.cfg.OnMeshCreated(mesh)
	if err != nil {
		return nil, fmt.Errorf("create what belongs to mesh %s: %w", mesh.Name, err)
	}
	puts := make([]catalog.Put, 0, len(rs))
	for _, r := range rs {
		k, ok := s.kinds.ByName(r.Type)
		if !ok {
			return nil, fmt.Errorf("create what belongs to mesh %s: %w: %s", mesh.Name, resource.ErrUnknownKind, r.Type)
		}
		if len(r.Raw) == 0 && r.Spec != nil {
			if r.Raw, err = json.Marshal(r.Spec); err != nil {
				return nil, fmt.Errorf("create %s: %w", r.Key(), err)
			}
		}
		r.Labels = s.computeLabels(k, r)
		puts = append(puts, catalog.Put{Resource: r, Expect: store.ExpectAny})
	}
	return puts, nil
}

// newChange starts a change from what the request says about itself.
func newChange(c echo.Context, body []byte) (change, error) {
	ch := change{author: who(c).Name, reason: c.Request().Header.Get("Causeway-Reason"), expect: func(edit) int64 { return store.ExpectAny }}
	if len(ch.reason) > maxReason {
		return change{}, fail(http.StatusBadRequest, "Could not process a resource", "the header Causeway-Reason may have at most %d bytes", maxReason)
	}
	ch.reason = cmp.Or(ch.reason, c.Request().Method+" "+c.Request().URL.Path)
	key := c.Request().Header.Get("Idempotency-Key")
	if len(key) > maxIdempotencyKey {
		return change{}, fail(http.StatusBadRequest, "Could not process a resource", "the header Idempotency-Key may have at most %d bytes", maxIdempotencyKey)
	}
	if key != "" {
		ch.id = batchID(ch.author, key, c.Request(), body)
	}
	return ch, nil
}

const (
	maxReason         = 500
	maxIdempotencyKey = 255
)

// batchID is the same for the same request of the same user with the same key, and for nothing else.
func batchID(user, key string, r *http.Request, body []byte) store.BatchID {
	h := sha256.New()
	parts := [][]byte{
		[]byte(user), []byte(key), []byte(r.Method), []byte(r.URL.Path),
		[]byte(r.Header.Get("If-Match")), []byte(r.Header.Get("If-None-Match")), body,
	}
	for _, p := range parts {
		fmt.Fprintf(h, "%d:", len(p))
		h.Write(p)
	}
	var id store.BatchID
	copy(id[:], h.Sum(nil))
	return id
}

// idempotent says whether the client may repeat the request and wants the first answer again.
func (ch change) idempotent() bool { return ch.id != store.BatchID{} }

// result is what became of one object in a commit.
func result(done store.Committed, k resource.Key) (store.Change, bool) {
	for _, ch := range done.Changes {
		o := ch.Object
		if o.Class == store.Resource && o.Type == k.Type && o.Mesh == k.Mesh && o.Name == k.Name {
			return ch, true
		}
	}
	return store.Change{}, false
}
