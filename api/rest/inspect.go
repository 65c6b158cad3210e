package rest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/causeway-mesh/causeway/api/resource"
)

// An Inspector tells what a proxy gets. At global it asks the zone of the dataplane.
type Inspector interface {
	// Config is the configuration that was computed for the proxy of a dataplane. It returns resource.ErrNotFound, or ErrZoneAway.
	Config(ctx context.Context, dataplane resource.Resource) (json.RawMessage, error)
}

// ErrZoneAway is a zone that cannot be asked now.
var ErrZoneAway = errors.New("the zone is not connected")

func (s *Server) inspectRoutes() {
	if _, ok := s.kinds.ByName("Dataplane"); ok {
		s.echo.GET("/meshes/:mesh/dataplanes/:name/_config", s.proxyConfig)
	}
}

// proxyConfig shows what the control plane computed for a proxy, whether or not it has taken it.
func (s *Server) proxyConfig(c echo.Context) error {
	const title = "Could not retrieve the configuration of the proxy"
	if err := s.require(c, ReadResources); err != nil {
		return err
	}
	if s.cfg.Inspector == nil {
		return fail(http.StatusMethodNotAllowed, title, "this control plane computes no configuration of proxies")
	}
	r, ok := s.catalog.Snapshot().Get(keyOf(c, s.kind("Dataplane")))
	if !ok {
		return titled(title, resource.ErrNotFound)
	}
	b, err := s.cfg.Inspector.Config(c.Request().Context(), r)
	switch {
	case errors.Is(err, ErrZoneAway):
		return fail(http.StatusBadRequest, title, "zone %s is not connected to this control plane; ask the zone's own, or wait until it is back", r.Zone())
	case err != nil:
		return titled(title, err)
	}
	return c.JSONBlob(http.StatusOK, b)
}
