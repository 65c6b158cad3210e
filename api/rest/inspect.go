package rest

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/causeway-mesh/causeway/api/inquiry"
	"github.com/causeway-mesh/causeway/api/resource"
)

// An Inspector answers questions about a proxy. At global it asks the zone of the dataplane, and a zone asks the agent.
type Inspector interface {
	// Inspect answers a question about a dataplane. It returns resource.ErrNotFound, or an inquiry.Failure that says why there is no answer.
	Inspect(ctx context.Context, dataplane resource.Resource, q *inquiry.Question) ([]byte, error)
}

func (s *Server) inspectRoutes() {
	if _, ok := s.kinds.ByName("Dataplane"); !ok {
		return
	}
	const proxy = "/meshes/:mesh/dataplanes/:name"
	s.echo.GET(proxy+"/_config", s.proxyConfig)
	s.echo.GET(proxy+"/xds", s.envoyConfig)
	s.echo.GET(proxy+"/stats", s.envoyStats)
	s.echo.GET(proxy+"/clusters", s.envoyClusters)
}

// inspect answers with what is known of the proxy of the request.
func (s *Server) inspect(c echo.Context, p Permission, title string, q *inquiry.Question) ([]byte, error) {
	if err := s.require(c, p); err != nil {
		return nil, err
	}
	if s.cfg.Inspector == nil {
		return nil, fail(http.StatusMethodNotAllowed, title, "this control plane has nothing to do with proxies")
	}
	r, ok := s.catalog.Snapshot().Get(keyOf(c, s.kind("Dataplane")))
	if !ok {
		return nil, titled(title, resource.ErrNotFound)
	}
	b, err := s.cfg.Inspector.Inspect(c.Request().Context(), r, q)
	var why *inquiry.Failure
	switch {
	case errors.As(err, &why):
		return nil, fail(http.StatusBadRequest, title, "%s", why.Text)
	case err != nil:
		return nil, titled(title, err)
	}
	return b, nil
}

// flag reads a parameter that is true or false; alone it means true.
func flag(c echo.Context, title, name string, standard bool) (bool, error) {
	if !c.QueryParams().Has(name) {
		return standard, nil
	}
	text := c.QueryParam(name)
	if text == "" {
		return true, nil
	}
	on, err := strconv.ParseBool(text)
	if err != nil {
		return false, invalid(title, "Invalid parameter", resource.Problem{Field: name, Reason: "must be true or false"})
	}
	return on, nil
}

// asJSON reads the format that an answer of Envoy is to have.
func asJSON(c echo.Context, title string) (bool, error) {
	switch f := c.QueryParam("format"); f {
	case "", "text":
		return false, nil
	case "json":
		return true, nil
	}
	return false, invalid(title, "Invalid parameter", resource.Problem{Field: "format", Reason: "must be text or json"})
}

// proxyConfig shows what the control plane computed for a proxy, whether or not it has taken it.
func (s *Server) proxyConfig(c echo.Context) error {
	const title = "Could not retrieve the configuration of the proxy"
	b, err := s.inspect(c, ReadResources, title, &inquiry.Question{What: inquiry.WhatConfig})
	if err != nil {
		return err
	}
	return c.JSONBlob(http.StatusOK, b)
}

// envoyConfig shows the configuration that an Envoy has.
func (s *Server) envoyConfig(c echo.Context) error {
	const title = "Could not retrieve the configuration of Envoy"
	endpoints, err := flag(c, title, "include_eds", false)
	if err != nil {
		return err
	}
	b, err := s.inspect(c, ViewConfigDump, title, &inquiry.Question{What: inquiry.WhatDump, Endpoints: endpoints})
	if err != nil {
		return err
	}
	return c.JSONBlob(http.StatusOK, b)
}

// envoyStats shows what an Envoy counts.
func (s *Server) envoyStats(c echo.Context) error {
	const title = "Could not retrieve the statistics of Envoy"
	used, err := flag(c, title, "usedonly", true)
	if err != nil {
		return err
	}
	return s.envoySays(c, ViewStats, title, &inquiry.Question{What: inquiry.WhatStats, Unused: !used})
}

// envoyClusters shows the endpoints that an Envoy knows, and how they are.
func (s *Server) envoyClusters(c echo.Context) error {
	return s.envoySays(c, ViewClusters, "Could not retrieve the clusters of Envoy", &inquiry.Question{What: inquiry.WhatClusters})
}

// envoySays answers with text, or with JSON for who asks for it.
func (s *Server) envoySays(c echo.Context, p Permission, title string, q *inquiry.Question) error {
	var err error
	if q.Json, err = asJSON(c, title); err != nil {
		return err
	}
	b, err := s.inspect(c, p, title, q)
	if err != nil {
		return err
	}
	if q.GetJson() {
		return c.JSONBlob(http.StatusOK, b)
	}
	return c.Blob(http.StatusOK, echo.MIMETextPlainCharsetUTF8, b)
}
