package rest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/causeway-mesh/causeway/api/inquiry"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/catalog"
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
	s.echo.GET(proxy+"/_layout", s.explained("the parts of the proxy", inquiry.WhatLayout))
	s.echo.GET(proxy+"/_rules", s.explained("the rules of the proxy", inquiry.WhatRules))
	s.echo.GET(proxy+"/_policies", s.explained("the policies of the proxy", inquiry.WhatProxyPolicies))
	s.echo.GET(proxy+"/_inbounds/:kri/_policies", s.explained("the policies of the inbound", inquiry.WhatInboundPolicies))
	s.echo.GET(proxy+"/_outbounds/:kri/_policies", s.explained("the policies of the destination", inquiry.WhatOutboundPolicies))
	s.echo.GET(proxy+"/_outbounds/:kri/_routes", s.explained("the routes of the destination", inquiry.WhatRoutes))
	s.echo.GET(proxy+"/_outbounds/:kri/_routes/:route/_policies", s.explained("the policies of the route", inquiry.WhatOutboundPolicies))
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
	shadow, err := flag(c, title, "shadow", false)
	if err != nil {
		return err
	}
	q := &inquiry.Question{What: inquiry.WhatConfig, Shadow: shadow}
	for _, include := range c.QueryParams()["include"] {
		if include != "diff" {
			return invalid(title, "Invalid parameter", resource.Problem{Field: "include", Reason: "must be diff"})
		}
		q.Diff = true
	}
	b, err := s.inspect(c, ReadResources, title, q)
	if err != nil {
		return err
	}
	return c.JSONBlob(http.StatusOK, b)
}

// explained tells what policies put in force for a proxy or a part of it.
func (s *Server) explained(of, what string) echo.HandlerFunc {
	title := "Could not retrieve " + of
	return func(c echo.Context) error {
		q := &inquiry.Question{What: what, Element: c.Param("kri"), Route: c.Param("route")}
		for field, text := range map[string]string{"kri": q.GetElement(), "route": q.GetRoute()} {
			if text == "" {
				continue
			}
			if _, err := resource.ParseKRI(text); err != nil {
				return invalid(title, "Invalid KRI", resource.Problem{Field: field, Reason: err.Error()})
			}
		}
		b, err := s.inspect(c, ReadResources, title, q)
		if err != nil {
			return err
		}
		return c.JSONBlob(http.StatusOK, b)
	}
}

// concernedBy lists the dataplanes that a policy concerns.
func (s *Server) concernedBy(k, dataplanes resource.Kind) echo.HandlerFunc {
	return func(c echo.Context) error {
		if err := s.require(c, readPermission(k)); err != nil {
			return err
		}
		snap := s.catalog.Snapshot()
		p, ok := snap.Get(keyOf(c, k))
		if !ok {
			return titled(couldNotList, resource.ErrNotFound)
		}
		if s.cfg.Concerns == nil {
			return fail(http.StatusMethodNotAllowed, couldNotList, "this control plane has nothing to do with proxies")
		}
		q, err := listQuery(c, dataplanes)
		if err != nil {
			return err
		}
		concerned, chosen := s.cfg.Concerns(p), q.Match
		q.Match = func(r resource.Resource) bool { return (chosen == nil || chosen(r)) && concerned(r) }
		return answerPage(c, snap, q, func(_ *catalog.Snapshot, r resource.Resource) (json.RawMessage, error) {
			return json.Marshal(mesh.ResourceMeta{Type: r.Type, Mesh: r.Mesh, Name: r.Name, KRI: resource.KRIOf(dataplanes, r.Meta).String(), Labels: r.Labels})
		})
	}
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
