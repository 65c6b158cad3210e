package rest

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/causeway-mesh/causeway/store/exchange"
)

// Adoption tells what a peer lacks since its store was wiped or restored, and takes the decision of an operator to delete that. The
// peer is a zone by name, or in a zone global by the empty name. An unknown zone is resource.ErrNotFound.
type Adoption interface {
	Pending(zone string) ([]exchange.PendingRemoval, error)
	Confirm(ctx context.Context, zone string) (int, error)
}

const couldNotAdopt = "Could not adopt the state of a peer"

// maxPending bounds how many pending removals an overview lists.
const maxPending = 100

type pendingRemoval struct {
	// KRI of the resource.
	KRI string `json:"kri"`
	// Type of the resource.
	Type string `json:"type"`
	// Mesh of the resource.
	Mesh string `json:"mesh,omitempty"`
	// Name of the resource.
	Name string `json:"name"`
	// Since is when the peer was first seen without it.
	Since time.Time `json:"since"`
}

type pendingRemovals struct {
	// Total of what the peer lacks.
	Total int `json:"total"`
	// Items that it lacks; overviews show the first only.
	Items []pendingRemoval `json:"items"`
}

type adopted struct {
	// Removed is how many resources were deleted.
	Removed int `json:"removed"`
}

// peer is whom a request is about. Zones are peers of global, and global is that of zones.
func (s *Server) peer(c echo.Context) (string, error) {
	zone := c.Param("name")
	switch {
	case zone != "" && (s.cfg.Mode != Global || s.cfg.Adoption == nil):
		return "", noZones(couldNotAdopt)
	case zone == "" && (s.cfg.Mode == Global || s.cfg.Adoption == nil):
		return "", fail(http.StatusNotFound, couldNotAdopt, "this control plane belongs to no global one")
	}
	return zone, nil
}

// pendingOf lists what a peer lacks.
func (s *Server) pendingOf(c echo.Context) error {
	if err := s.require(c, ReadResources); err != nil {
		return err
	}
	zone, err := s.peer(c)
	if err != nil {
		return err
	}
	list, err := s.pending(zone, -1)
	if err != nil {
		return titled(couldNotAdopt, err)
	}
	return c.JSON(http.StatusOK, list)
}

// pending lists at most so many removals; with a negative number all of them.
func (s *Server) pending(zone string, most int) (pendingRemovals, error) {
	list, err := s.cfg.Adoption.Pending(zone)
	out := pendingRemovals{Total: len(list), Items: []pendingRemoval{}}
	for i, p := range list {
		if most >= 0 && i >= most {
			break
		}
		out.Items = append(out.Items, pendingRemoval{KRI: p.ID, Type: p.Key.Type, Mesh: p.Key.Mesh, Name: p.Key.Name, Since: p.Since})
	}
	return out, err
}

// adopt deletes what a peer lacks: from then on its present store is all there is of it.
func (s *Server) adopt(c echo.Context) error {
	if err := s.require(c, AdminResources); err != nil {
		return err
	}
	zone, err := s.peer(c)
	if err != nil {
		return err
	}
	n, err := s.cfg.Adoption.Confirm(c.Request().Context(), zone)
	if err != nil {
		return titled(couldNotAdopt, err)
	}
	s.cfg.Log.Info("pending removals were confirmed", "zone", zone, "removed", n, "by", who(c).Name)
	return c.JSON(http.StatusOK, adopted{n})
}

// pendingJSON is what the overview of a zone says of pending removals; nothing when there are none.
func (s *Server) pendingJSON(zone string) (json.RawMessage, error) {
	if s.cfg.Adoption == nil || s.cfg.Mode != Global {
		return nil, nil
	}
	list, err := s.pending(zone, maxPending)
	if err != nil || list.Total == 0 {
		return nil, err
	}
	return json.Marshal(list)
}
