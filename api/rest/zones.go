package rest

import (
	"net/http"

	"github.com/labstack/echo/v4"
)

const couldNotRevoke = "Could not revoke a zone"

// noZones answers where no zones join.
func noZones(title string) error {
	return fail(http.StatusNotFound, title, "zones join a global control plane; this is none")
}

type joinTokenRequest struct {
	// ValidFor is how long the token can be used, as in 30m. Default an hour.
	ValidFor string `json:"validFor"`
}

// joinToken makes a token with which a zone joins once. The zone need not exist.
func (s *Server) joinToken(c echo.Context) error {
	if err := s.require(c, ConnectZone); err != nil {
		return err
	}
	if s.cfg.Join == nil {
		return noZones(couldNotIssue)
	}
	var req joinTokenRequest
	if c.Request().ContentLength != 0 {
		if err := readRequest(c, &req); err != nil {
			return err
		}
	}
	validFor, ps := validity(req.ValidFor)
	if len(ps) > 0 {
		return invalid(couldNotIssue, "Invalid request", ps...)
	}
	zone := c.Param("name")
	t, err := s.cfg.Join(c.Request().Context(), zone, validFor)
	return s.answerToken(c, "joining of zone "+zone, t, err)
}

// revokeZone voids everything that a zone was given to connect with.
func (s *Server) revokeZone(c echo.Context) error {
	if err := s.require(c, ConnectZone); err != nil {
		return err
	}
	if s.cfg.Revoke == nil {
		return noZones(couldNotRevoke)
	}
	zone := c.Param("name")
	if err := s.cfg.Revoke(c.Request().Context(), zone); err != nil {
		return titled(couldNotRevoke, err)
	}
	s.cfg.Log.Info("zone revoked", "zone", zone, "by", who(c).Name)
	return c.JSON(http.StatusOK, written{})
}
