package rest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/causeway-mesh/causeway/api/openapi"
	"github.com/causeway-mesh/causeway/api/schema"
)

// An operation is what the documentation says of a route. Parts of its path are documented by their names in parameters.
type operation struct {
	id, tag, summary, more string
	// takes names entries of parameters, and gives entries of headers that a success has.
	takes, gives []string
	// body is what a request carries, in JSON or, with yaml, in either. Optional ones may be left out.
	body           openapi.Schema
	yaml, optional bool
	// answer is what a success carries; nil is a text. With text it can be either.
	answer openapi.Schema
	text   bool
	// codes of successes. Default 200.
	codes []int
	// fails lists the failures beside those that every route can have.
	fails      []int
	deprecated bool
}

const (
	mediaJSON = "application/json"
	mediaYAML = "application/yaml"
	mediaText = "text/plain"
)

// everywhere are the failures of every route.
var everywhere = []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusInternalServerError, http.StatusServiceUnavailable}

// describe is the operation in OpenAPI. Params are the variable parts of its path.
func (op operation) describe(params []string) openapi.Operation {
	out := openapi.Operation{
		ID: op.id, Tags: []string{op.tag}, Summary: op.summary, Description: op.more, Deprecated: op.deprecated,
		Responses: map[string]openapi.Response{},
	}
	for _, p := range slices.Concat(params, op.takes) {
		out.Parameters = append(out.Parameters, openapi.Parameter{Ref: "#/components/parameters/" + p})
	}
	if op.body != nil {
		out.Body = &openapi.Body{Required: !op.optional, Content: map[string]openapi.Media{mediaJSON: {Schema: op.body}}}
		if op.yaml {
			out.Body.Content[mediaYAML] = openapi.Media{Schema: op.body}
		}
	}
	codes := op.codes
	if codes == nil {
		codes = []int{http.StatusOK}
	}
	for _, code := range codes {
		out.Responses[strconv.Itoa(code)] = op.success(code)
	}
	fails := slices.Concat(op.fails, everywhere)
	if len(params) > 0 {
		fails = append(fails, http.StatusNotFound)
	}
	for _, code := range fails {
		out.Responses[strconv.Itoa(code)] = openapi.Response{Ref: "#/components/responses/" + failures[code].name}
	}
	return out
}

func (op operation) success(code int) openapi.Response {
	out := openapi.Response{Description: http.StatusText(code), Headers: map[string]openapi.Header{}}
	for _, h := range op.gives {
		out.Headers[h] = openapi.Header{Ref: "#/components/headers/" + h}
	}
	if code == http.StatusNotModified {
		return out
	}
	out.Content = map[string]openapi.Media{}
	if op.answer == nil || op.text {
		out.Content[mediaText] = openapi.Media{Schema: openapi.Schema{"type": "string"}}
	}
	if op.answer != nil {
		out.Content[mediaJSON] = openapi.Media{Schema: op.answer}
	}
	return out
}

// failures are the answers that are no successes. All carry the same body.
var failures = map[int]struct{ name, description string }{
	http.StatusBadRequest:            {"BadRequest", "The request makes no sense or what it carries is not valid; invalid_parameters names the fields."},
	http.StatusUnauthorized:          {"Unauthorized", "The token is not valid, has ended or was revoked."},
	http.StatusForbidden:             {"Forbidden", "The caller lacks a permission, or sent no token."},
	http.StatusNotFound:              {"NotFound", "There is no such thing."},
	http.StatusMethodNotAllowed:      {"MethodNotAllowed", "Not at this control plane; the detail says where."},
	http.StatusConflict:              {"Conflict", "It was changed by somebody else meanwhile. Read it again and repeat the change."},
	http.StatusPreconditionFailed:    {"PreconditionFailed", "If-Match or If-None-Match does not hold."},
	http.StatusRequestEntityTooLarge: {"TooLarge", "The body is larger than the detail says is allowed."},
	http.StatusInternalServerError:   {"Internal", "A fault of the control plane. The instance finds it in the logs."},
	http.StatusServiceUnavailable:    {"Unavailable", "The store cannot be written now, or the request took too long. Repeat it after Retry-After seconds."},
}

// A describer makes the documentation of one server.
type describer struct {
	*Server
	reader  *schema.Reader
	catalog *openapi.Catalog
}

// Document describes the API of this control plane in OpenAPI 3.1. Routes that nothing is said of are returned, too, by method and path;
// a test wants none.
func (s *Server) Document() (doc openapi.Document, undocumented []string) {
	d := describer{Server: s, reader: schema.NewReader(), catalog: openapi.NewCatalog()}
	doc = openapi.Document{
		OpenAPI: "3.1.0", Dialect: "https://spec.openapis.org/oas/3.1/dialect/base",
		Info: openapi.Info{
			Title: "Causeway", Summary: "The API of a control plane",
			Description: "What every control plane serves, global and zones alike: the paths and shapes of the Kuma 3 API, and what Causeway adds.",
			Version:     cmp.Or(s.cfg.About.Version, "0.0.0-dev"), License: openapi.License{Name: "Apache 2.0", Identifier: "Apache-2.0"},
		},
		Servers:  []openapi.Server{{URL: "/", Description: "This control plane"}},
		Tags:     tags,
		Security: []map[string][]string{{"token": {}}, {}},
		Paths:    map[string]openapi.PathItem{},
	}
	operations := d.operations()
	for _, r := range s.echo.Routes() {
		op, ok := operations[r.Method+" "+r.Path]
		if !ok {
			undocumented = append(undocumented, r.Method+" "+r.Path)
			continue
		}
		path, params := pathTemplate(r.Path)
		if doc.Paths[path] == nil {
			doc.Paths[path] = openapi.PathItem{}
		}
		doc.Paths[path][strings.ToLower(r.Method)] = op.describe(params)
	}
	slices.Sort(undocumented)
	doc.Components = openapi.Components{
		Schemas: d.catalog.Schemas(), Parameters: parameters(), Headers: answerHeaders(), Responses: map[string]openapi.Response{},
		SecuritySchemes: map[string]openapi.Scheme{"token": {
			Type: "http", Scheme: "bearer", BearerFormat: "JWT",
			Description: "A token of POST /tokens/user, or the one of the first administrator that a control plane writes to a file. " +
				"Without a token only what the control plane lets everybody read can be read.",
		}},
	}
	for code, f := range failures {
		r := openapi.Response{Description: f.description, Content: map[string]openapi.Media{mediaJSON: {Schema: openapi.Ref("Failure")}}}
		if code == http.StatusServiceUnavailable {
			r.Headers = map[string]openapi.Header{echo.HeaderRetryAfter: retryAfter}
		}
		doc.Components.Responses[f.name] = r
	}
	return doc, undocumented
}

// pathTemplate turns a path of echo into one of OpenAPI, and lists its variable parts.
func pathTemplate(path string) (string, []string) {
	var params []string
	parts := strings.Split(path, "/")
	for i, p := range parts {
		if name, ok := strings.CutPrefix(p, ":"); ok {
			params = append(params, name)
			parts[i] = "{" + name + "}"
		}
	}
	return strings.ReplaceAll(strings.Join(parts, "/"), `\:`, ":"), params
}

// openAPI serves the documentation. It is the same for everybody and tells nothing that is not public.
func (s *Server) openAPI(c echo.Context) error {
	b, err := s.document()
	if err != nil {
		return titled("Could not describe the API", err)
	}
	return c.JSONBlob(http.StatusOK, b)
}

func (s *Server) encodeDocument() ([]byte, error) {
	doc, _ := s.Document()
	b, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("encode the documentation of the API: %w", err)
	}
	return b, nil
}
