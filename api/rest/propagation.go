package rest

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/token"
	"github.com/causeway-mesh/causeway/store"
)

// Propagation tells how far a revision of the store has come in the zones.
type Propagation interface {
	// Status is false for a revision that is not known.
	Status(revision uint64) (mesh.Propagation, bool)
	// Wait returns nil once the revision has come as far as until says: received, computed or acknowledged.
	Wait(ctx context.Context, revision uint64, until string) error
}

// Headers of answers to writes.
const (
	headerPosition    = "Causeway-Position"    // of the store that holds the result
	headerRevision    = "Causeway-Revision"    // its number, for /revisions
	headerPropagation = "Causeway-Propagation" // what a wait came to: what was waited for, timeout, or unknown
)

// How long a write may wait for its propagation.
const (
	defaultWait = 10 * time.Second
	maxWait     = time.Minute
)

// waitStates are what can be waited for.
var waitStates = []string{"received", "computed", "acknowledged"}

// An outcome is what became of a write, before the client is told.
type outcome struct {
	status   int
	position store.Position
	etag     string
	body     any
}

// A writer changes the store. It holds its locks only until it returns.
type writer func(echo.Context) (outcome, error)

// writes answers with what a writer did, and where the client wants it waits until the zones have it.
func (s *Server) writes(write writer) echo.HandlerFunc {
	return func(c echo.Context) error {
		until, patience, err := s.waiting(c)
		if err != nil {
			return err
		}
		out, err := write(c)
		if err != nil {
			return err
		}
		h := c.Response().Header()
		h.Set(headerPosition, out.position.String())
		h.Set(headerRevision, strconv.FormatUint(out.position.Revision, 10))
		if out.etag != "" {
			h.Set("ETag", out.etag)
		}
		if until != "" {
			h.Set(headerPropagation, s.await(c, out.position.Revision, until, patience))
		}
		return c.JSON(out.status, out.body)
	}
}

// waiting reads what the client wants to wait for, before anything is written.
func (s *Server) waiting(c echo.Context) (until string, patience time.Duration, err error) {
	until, text := c.QueryParam("wait"), c.QueryParam("timeout")
	var ps resource.Problems
	switch {
	case until == "" && text == "":
		return "", 0, nil
	case until == "":
		ps.Add("timeout", "has no meaning without wait")
	case !slices.Contains(waitStates, until):
		ps.Add("wait", "must be one of %s, not %s", strings.Join(waitStates, ", "), resource.Quote(until))
	case s.cfg.Propagation == nil:
		ps.Add("wait", "cannot be used here: only a global control plane follows changes into zones")
	}
	patience = defaultWait
	if text != "" && until != "" {
		patience, err = token.ParseValidity(text)
		if err != nil || patience <= 0 || patience > maxWait {
			ps.Add("timeout", "must be a duration of more than zero and at most %s, as in 10s", maxWait)
		}
	}
	if len(ps) > 0 {
		return "", 0, invalid(couldNotProcess, "Invalid parameter", ps...)
	}
	return until, patience, nil
}

// await says what waiting came to. The change is written already, so no outcome of it is an error.
func (s *Server) await(c echo.Context, revision uint64, until string, patience time.Duration) string {
	ctx, cancel := context.WithTimeout(unbound(c), patience)
	defer cancel()
	err := s.cfg.Propagation.Wait(ctx, revision, until)
	switch {
	case err == nil:
		return until
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	}
	if !errors.Is(err, context.Canceled) {
		s.cfg.Log.Warn("how far a change has come cannot be told", "revision", revision, "err", err)
	}
	return "unknown"
}

// revision answers how far a revision has come.
func (s *Server) revision(c echo.Context) error {
	const title = "Could not retrieve a revision"
	if err := s.require(c, ReadResources); err != nil {
		return err
	}
	if s.cfg.Propagation == nil {
		return fail(http.StatusNotFound, title, "only a global control plane follows changes into zones")
	}
	n, err := strconv.ParseUint(c.Param("revision"), 10, 64)
	if err != nil {
		return invalid(title, "Invalid parameter", resource.Problem{Field: "revision", Reason: "must be a number, as in the header " + headerRevision})
	}
	status, ok := s.cfg.Propagation.Status(n)
	if !ok {
		return fail(http.StatusNotFound, title, "revision %d does not exist yet", n)
	}
	return c.JSON(http.StatusOK, status)
}
