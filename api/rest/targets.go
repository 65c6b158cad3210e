package rest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/labstack/echo/v4"
)

// Targets tells where Prometheus is served by the proxies of a zone.
type Targets interface {
	// Targets lists them, in order; an empty mesh means all.
	Targets(ctx context.Context, mesh string) ([]Target, error)
	// Changed is closed when they may have changed. Take it before Targets.
	Changed() <-chan struct{}
}

// A Target is one place where a proxy tells Prometheus its metrics.
type Target struct {
	Mesh, Zone, Dataplane string
	// Workload is that of the proxy, Role what the proxy is there for.
	Workload, Role string
	// ClientID is the Prometheus that it is for; empty for any without an id of its own.
	ClientID              string
	Scheme, Address, Path string
}

const couldNotTargets = "Could not list targets of Prometheus"

// forClient picks the targets of a client: those with its id, and for a client that no backend names those without one.
func forClient(list []Target, client string) []Target {
	own := slices.DeleteFunc(slices.Clone(list), func(t Target) bool { return t.ClientID != client })
	if client == "" || len(own) > 0 {
		return own
	}
	return slices.DeleteFunc(slices.Clone(list), func(t Target) bool { return t.ClientID != "" })
}

func (s *Server) targets(c echo.Context, meshName, client string) ([]Target, error) {
	if s.cfg.Targets == nil {
		return nil, fail(http.StatusNotFound, couldNotTargets, "proxies are discovered at the control planes of their zones; this is none")
	}
	list, err := s.cfg.Targets.Targets(c.Request().Context(), meshName)
	if err != nil {
		return nil, titled(couldNotTargets, err)
	}
	return forClient(list, client), nil
}

// targetGroup is a target as http_sd_configs of Prometheus takes it.
type targetGroup struct {
	// Targets has one host:port.
	Targets []string `json:"targets"`
	// Labels say how it is asked and, as __meta_causeway_*, which proxy it is.
	Labels map[string]string `json:"labels"`
}

// prometheusTargets answers http_sd_configs of Prometheus.
func (s *Server) prometheusTargets(c echo.Context) error {
	if err := s.require(c, ReadResources); err != nil {
		return err
	}
	list, err := s.targets(c, c.Param("mesh"), c.QueryParam("clientId"))
	if err != nil {
		return err
	}
	out := []targetGroup{}
	for _, t := range list {
		out = append(out, targetGroup{[]string{t.Address}, map[string]string{
			"__scheme__": t.Scheme, "__metrics_path__": t.Path,
			"__meta_causeway_mesh": t.Mesh, "__meta_causeway_zone": t.Zone, "__meta_causeway_dataplane": t.Dataplane,
			"__meta_causeway_workload": t.Workload, "__meta_causeway_proxy_role": t.Role,
		}})
	}
	return c.JSON(http.StatusOK, out)
}

// assignment is a target as kuma_sd_configs of Prometheus takes it.
type assignment struct {
	// Type is that of protobuf's JSON.
	Type string `json:"@type"`
	// Mesh of the proxy.
	Mesh string `json:"mesh"`
	// Service is the workload of the proxy.
	Service string `json:"service"`
	// Targets has one place.
	Targets []assignmentTarget `json:"targets"`
	// Labels of all targets.
	Labels map[string]string `json:"labels,omitempty"`
}

// assignmentTarget is one place where a proxy tells its metrics.
type assignmentTarget struct {
	// Name of the dataplane.
	Name string `json:"name"`
	// Scheme is http or https.
	Scheme string `json:"scheme"`
	// Address is host:port.
	Address string `json:"address"`
	// MetricsPath is what is asked for.
	MetricsPath string `json:"metrics_path"`
}

const (
	assignmentsPath = `/v3/discovery\:monitoringassignments`
	assignmentType  = "type.googleapis.com/kuma.observability.v1.MonitoringAssignment"
	// maxFetch bounds how long a client waits for news.
	maxFetch = 2 * time.Minute
)

// monitoringAssignments answers kuma_sd_configs of Prometheus: at once when the client knows less, and otherwise when something
// changes or its time is up.
func (s *Server) monitoringAssignments(c echo.Context) error {
	if err := s.require(c, ReadResources); err != nil {
		return err
	}
	var ask discoveryRequest
	if err := json.NewDecoder(http.MaxBytesReader(c.Response(), c.Request().Body, 1<<20)).Decode(&ask); err != nil {
		return fail(http.StatusBadRequest, couldNotTargets, "the body must be a DiscoveryRequest in JSON")
	}
	wait := time.Duration(0)
	if text := c.QueryParam("fetch-timeout"); text != "" {
		var err error
		if wait, err = time.ParseDuration(text); err != nil || wait < 0 {
			return fail(http.StatusBadRequest, couldNotTargets, "fetch-timeout must be a duration such as 30s")
		}
	}
	timer := time.NewTimer(min(wait, maxFetch))
	defer timer.Stop()
	for {
		var changed <-chan struct{}
		if s.cfg.Targets != nil {
			changed = s.cfg.Targets.Changed()
		}
		list, err := s.targets(c, "", ask.Node.ID)
		if err != nil {
			return err
		}
		answer, err := discovered(list)
		if err != nil {
			return titled(couldNotTargets, err)
		}
		if known := ask.VersionInfo + ask.Version; known != answer.VersionInfo {
			return c.JSON(http.StatusOK, answer)
		}
		select {
		case <-changed:
		case <-timer.C:
			return c.NoContent(http.StatusNotModified)
		case <-unbound(c).Done():
			return unbound(c).Err()
		}
	}
}

// discoveryRequest is what a client asks, in either spelling of protobuf's JSON. What else it says does not matter.
type discoveryRequest struct {
	// VersionInfo is what the client knows, from the last answer.
	VersionInfo string `json:"version_info,omitempty"`
	// Version is the same in the other spelling.
	Version string `json:"versionInfo,omitempty"`
	// Node is the client.
	Node discoveryNode `json:"node,omitempty"`
}

// discoveryNode is the client.
type discoveryNode struct {
	// ID is the client id of the Prometheus.
	ID string `json:"id,omitempty"`
}

// discoveryResponse is what it is told.
type discoveryResponse struct {
	// VersionInfo tells this answer from others.
	VersionInfo string `json:"version_info"`
	// Resources are the targets, one each.
	Resources []assignment `json:"resources"`
	// TypeURL is that of the resources.
	TypeURL string `json:"type_url"`
	// Nonce is the version.
	Nonce string `json:"nonce"`
}

func discovered(list []Target) (discoveryResponse, error) {
	out := discoveryResponse{TypeURL: assignmentType, Resources: []assignment{}}
	for _, t := range list {
		labels := map[string]string{"kuma_io_zone": t.Zone, "kuma_proxy_role": t.Role}
		out.Resources = append(out.Resources, assignment{
			Type: assignmentType, Mesh: t.Mesh, Service: t.Workload, Labels: labels,
			Targets: []assignmentTarget{{Name: t.Dataplane, Scheme: t.Scheme, Address: t.Address, MetricsPath: t.Path}},
		})
	}
	text, err := json.Marshal(out.Resources)
	sum := sha256.Sum256(text)
	out.VersionInfo = hex.EncodeToString(sum[:8])
	out.Nonce = out.VersionInfo
	return out, err
}
