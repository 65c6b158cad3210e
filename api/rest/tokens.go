package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/token"
)

const (
	couldNotIssue = "Could not issue a token"
	maxTokenBody  = 64 << 10
)

type userTokenRequest struct {
	// Name of the user. Required.
	Name string `json:"name"`
	// Groups of the user.
	Groups []string `json:"groups"`
	// ValidFor is how long the token lives, as in 24h or 30d. Required.
	ValidFor string `json:"validFor"`
}

// userToken issues a token for a user. Who is no administrator cannot make one.
func (s *Server) userToken(c echo.Context) error {
	if err := s.require(c, GenerateUserToken); err != nil {
		return err
	}
	var req userTokenRequest
	if err := readRequest(c, &req); err != nil {
		return err
	}
	validFor, ps := validity(req.ValidFor)
	if req.Name == "" {
		ps.Add("name", "must be set")
	}
	if req.ValidFor == "" {
		ps.Add("validFor", "must be set, as in 24h or 30d")
	} else if validFor == 0 && len(ps) == 0 {
		ps.Add("validFor", "must be more than zero")
	}
	if len(ps) > 0 {
		return invalid(couldNotIssue, "Invalid request", ps...)
	}
	if u := who(c); !u.isAdmin() && slices.ContainsFunc(append([]string{req.Name}, req.Groups...), reserved) {
		return fail(http.StatusForbidden, "Access Denied", "only administrators can issue tokens for names that begin with %s", reservedPrefix)
	}
	t, err := s.issuer.User(token.User{Name: req.Name, Groups: req.Groups}, validFor)
	return s.answerToken(c, "user "+req.Name, t, err)
}

func reserved(name string) bool { return strings.HasPrefix(name, reservedPrefix) }

type dataplaneTokenRequest struct {
	// Name of the Dataplane that the token is for. Absent: any.
	Name string `json:"name"`
	// Mesh of the Dataplane. Required.
	Mesh string `json:"mesh"`
	// Tags that the Dataplane must have, each with one of the values.
	Tags map[string][]string `json:"tags"`
	// Type of the proxy. Absent: any.
	Type string `json:"type"`
	// Workload that the Dataplane must be labelled with. Absent: any.
	Workload string `json:"workload"`
	// ValidFor is how long the token lives, as in 24h or 30d. Default ten years.
	ValidFor string `json:"validFor"`
}

func (s *Server) dataplaneToken(c echo.Context) error {
	if err := s.require(c, GenerateDataplaneToken); err != nil {
		return err
	}
	var req dataplaneTokenRequest
	if err := readRequest(c, &req); err != nil {
		return err
	}
	validFor, ps := validity(req.ValidFor)
	if req.Mesh == "" {
		ps.Add("mesh", "must be set")
	}
	if len(ps) > 0 {
		return invalid(couldNotIssue, "Invalid request", ps...)
	}
	if !meshExists(s.catalog.Snapshot(), req.Mesh) {
		return invalid(couldNotIssue, "Mesh is not found", resource.Problem{Field: "mesh", Reason: "mesh of name " + resource.Quote(req.Mesh) + " is not found"})
	}
	d := token.Dataplane{Name: req.Name, Mesh: req.Mesh, Tags: req.Tags, Type: req.Type, Workload: req.Workload}
	t, err := s.issuer.Dataplane(d, validFor)
	return s.answerToken(c, "dataplane "+req.Mesh+"/"+req.Name, t, err)
}

type zoneTokenRequest struct {
	// Zone that the token is for. Required.
	Zone string `json:"zone"`
	// Scope of the token.
	Scope []string `json:"scope"`
	// ValidFor is how long the token lives, as in 24h or 30d. Default ten years.
	ValidFor string `json:"validFor"`
}

func (s *Server) zoneToken(c echo.Context) error {
	if err := s.require(c, GenerateZoneToken); err != nil {
		return err
	}
	var req zoneTokenRequest
	if err := readRequest(c, &req); err != nil {
		return err
	}
	validFor, ps := validity(req.ValidFor)
	if req.Zone == "" {
		ps.Add("zone", "must be set")
	}
	if len(ps) > 0 {
		return invalid(couldNotIssue, "Invalid request", ps...)
	}
	t, err := s.issuer.Zone(token.Zone{Zone: req.Zone, Scope: req.Scope}, validFor)
	return s.answerToken(c, "zone "+req.Zone, t, err)
}

// answerToken writes a token; that it was issued, for whom and by whom is logged, the token is not.
func (s *Server) answerToken(c echo.Context, subject, t string, err error) error {
	if errors.Is(err, token.ErrNoSigningKey) {
		return err // it has a title of its own
	}
	if err != nil {
		return titled(couldNotIssue, err)
	}
	s.cfg.Log.Info("token issued", "for", subject, "by", who(c).Name)
	c.Response().Header().Set(echo.HeaderCacheControl, "no-store")
	return c.Blob(http.StatusOK, "text/plain", []byte(t))
}

func validity(text string) (time.Duration, resource.Problems) {
	d, err := token.ParseValidity(text)
	if err != nil {
		return 0, resource.Problems{{Field: "validFor", Reason: err.Error()}}
	}
	return d, nil
}

// readRequest reads a small JSON body; an unknown field is refused, as it would silently widen what a token allows.
func readRequest(c echo.Context, into any) error {
	body, err := readBody(c, maxTokenBody)
	if err != nil {
		return titled(couldNotIssue, err)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		p := resource.Problem{Reason: strings.TrimPrefix(err.Error(), "json: ")}
		var typ *json.UnmarshalTypeError
		if errors.As(err, &typ) {
			p = resource.Problem{Field: typ.Field, Reason: "has the wrong type: " + typ.Value}
		}
		return invalid(couldNotIssue, "Invalid request", p)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return invalid(couldNotIssue, "Invalid request", resource.Problem{Reason: "has data after the JSON object"})
	}
	return nil
}
