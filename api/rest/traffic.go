package rest

import (
	"context"
	"net/http"
	"slices"

	"github.com/labstack/echo/v4"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Traffic tells what was sent in a mesh lately.
type Traffic interface {
	Traffic(ctx context.Context, mesh string) (mesh.TrafficReport, error)
}

// trafficAnswer is a report as a list with one page.
type trafficAnswer struct {
	// Total is how many items there are.
	Total int `json:"total"`
	mesh.TrafficReport
	// Next is null: everything is on one page.
	Next *string `json:"next"`
}

const couldNotTraffic = "Could not retrieve the traffic of a mesh"

// traffic lists what was sent in a mesh lately, by service port, zones and priority. It can be narrowed by each of these.
func (s *Server) traffic(c echo.Context) error {
	if err := s.require(c, ReadResources); err != nil {
		return err
	}
	meshName := c.Param("mesh")
	if _, ok := s.catalog.Snapshot().Get(resource.Key{Type: meshType, Name: meshName}); !ok {
		return titled(couldNotTraffic, resource.ErrNotFound)
	}
	report := mesh.TrafficReport{Items: []mesh.Traffic{}}
	if s.cfg.Traffic != nil {
		var err error
		if report, err = s.cfg.Traffic.Traffic(c.Request().Context(), meshName); err != nil {
			return titled(couldNotTraffic, err)
		}
	}
	for _, f := range []struct {
		param string
		of    func(mesh.Traffic) bool
	}{
		{"service", func(t mesh.Traffic) bool { return isService(t.Service, c.QueryParam("service")) }},
		{"fromZone", func(t mesh.Traffic) bool { return t.FromZone == c.QueryParam("fromZone") }},
		{"toZone", func(t mesh.Traffic) bool { return t.ToZone == c.QueryParam("toZone") }},
	} {
		if c.QueryParam(f.param) != "" {
			report.Items = slices.DeleteFunc(report.Items, func(t mesh.Traffic) bool { return !f.of(t) })
		}
	}
	return c.JSON(http.StatusOK, trafficAnswer{len(report.Items), report, nil})
}

// isService says whether a port is meant by the KRI of it or of its service, or by the service's name.
func isService(port, wanted string) bool {
	kri, err := resource.ParseKRI(port)
	return port == wanted || err == nil && (kri.Name == wanted || kri.WithSection("").String() == wanted)
}
