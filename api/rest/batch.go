package rest

import (
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
)

// A batchAnswer says what became of each resource, in the order of the request.
type batchAnswer struct {
	// Revision of the store that holds the result.
	Revision uint64 `json:"revision"`
	// Items in the order of the request.
	Items []batchItem `json:"items"`
}

type batchItem struct {
	// Type of the resource.
	Type string `json:"type"`
	// Mesh of the resource.
	Mesh string `json:"mesh,omitempty"`
	// Name of the resource.
	Name string `json:"name"`
	// Result is created, configured or unchanged.
	Result string `json:"result"`
	// ETag is the version for If-Match.
	ETag string `json:"etag,omitempty"`
	// Warnings say what is legal and probably not meant.
	Warnings []string `json:"warnings,omitempty"`
}

const (
	resultCreated    = "created"
	resultConfigured = "configured"
	resultUnchanged  = "unchanged"
)

// maxYAML is lower than the limit of JSON because a YAML parser needs many times the size of its input.
const maxYAML = 8 << 20

// batch applies several resources together: all of them or none.
func (s *Server) batch(c echo.Context) (outcome, error) {
	// Each resource is judged later; who can write none should not make us parse a large body.
	if s.require(c, AdminResources) != nil {
		if err := s.require(c, WriteResources); err != nil {
			return outcome{}, err
		}
	}
	limit := s.cfg.MaxBatch
	if isYAML(c.Request()) {
		limit = min(limit, maxYAML)
	}
	body, err := readBody(c, limit)
	if err != nil {
		return outcome{}, titled(couldNotProcess, err)
	}
	decoded, err := s.decodeMany(c, body)
	if err != nil {
		return outcome{}, titled(couldNotProcess, err)
	}
	if mesh := c.QueryParam("mesh"); mesh != "" {
		s.defaultMesh(decoded, mesh)
	}
	s.meshes.RLock()
	defer s.meshes.RUnlock()
	out, err := s.applyBatch(c, decoded, body)
	return out, titled(couldNotProcess, err)
}

// defaultMesh fills in the mesh where a resource names none.
func (s *Server) defaultMesh(decoded []resource.Decoded, mesh string) {
	for i, d := range decoded {
		if k, ok := s.kinds.ByName(d.Type); ok && k.Scope == resource.ScopeMesh && d.Mesh == "" {
			decoded[i].Mesh = mesh
		}
	}
}

func (s *Server) applyBatch(c echo.Context, decoded []resource.Decoded, body []byte) (outcome, error) {
	ctx := c.Request().Context()
	snap := s.catalog.Snapshot()
	edits, err := s.prepare(who(c), snap, decoded, atItem)
	if err != nil {
		return outcome{}, err
	}
	ch, err := newChange(c, body)
	if err != nil {
		return outcome{}, err
	}
	changed := edits
	if !ch.idempotent() && s.isCurrent(ctx, snap) {
		changed = nil
		for _, e := range edits {
			if !e.unchanged() {
				changed = append(changed, e)
			}
		}
		if len(changed) == 0 {
			return answerBatch(edits, store.Committed{Position: snap.Position()}), nil
		}
	}
	ch.edits = changed
	done, err := s.commitEdits(ctx, ch, false)
	if err != nil {
		return outcome{}, err
	}
	if done.Position.Revision == 0 {
		return outcome{}, errors.New("the store did not say what became of the batch")
	}
	return answerBatch(edits, done), nil
}

func answerBatch(edits []edit, done store.Committed) outcome {
	stored := make(map[resource.Key]store.Object, len(done.Changes))
	for _, ch := range done.Changes {
		if o := ch.Object; o.Class == store.Resource && !ch.Deleted {
			stored[resource.Key{Type: o.Type, Mesh: o.Mesh, Name: o.Name}] = o
		}
	}
	out := batchAnswer{Revision: done.Position.Revision, Items: make([]batchItem, 0, len(edits))}
	for _, e := range edits {
		r := e.resource
		it := batchItem{Type: r.Type, Mesh: r.Mesh, Name: r.Name, Result: resultUnchanged, Warnings: e.warnings}
		if o, ok := stored[r.Key()]; ok {
			it.Result, it.ETag = resultConfigured, etag(o.UID, o.Version, nil)
			if o.Version == 1 {
				it.Result = resultCreated
			}
		} else if e.old != nil {
			it.ETag = etag(e.old.UID, e.old.Version, nil)
		}
		out.Items = append(out.Items, it)
	}
	return outcome{status: http.StatusOK, position: done.Position, body: out}
}
