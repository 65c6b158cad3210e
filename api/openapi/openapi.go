// Package openapi writes descriptions of an HTTP API as OpenAPI 3.1 documents: paths, parameters and answers as values, and schemas made
// of what package schema knows of the Go types. It knows no route and no kind; the REST API says what it serves.
package openapi

import (
	"maps"
	"slices"
	"strconv"

	"github.com/causeway-mesh/causeway/api/schema"
)

// A Document is the whole description.
type Document struct {
	OpenAPI string `json:"openapi"`
	// Dialect is the one of OpenAPI 3.1.
	Dialect    string                `json:"jsonSchemaDialect"`
	Info       Info                  `json:"info"`
	Servers    []Server              `json:"servers"`
	Tags       []Tag                 `json:"tags,omitempty"`
	Security   []map[string][]string `json:"security"`
	Paths      map[string]PathItem   `json:"paths"`
	Components Components            `json:"components"`
}

// Info is about the document.
type Info struct {
	Title       string  `json:"title"`
	Summary     string  `json:"summary,omitempty"`
	Description string  `json:"description,omitempty"`
	Version     string  `json:"version"`
	License     License `json:"license"`
}

// A License is that of the API.
type License struct {
	Name       string `json:"name"`
	Identifier string `json:"identifier"`
}

// A Server is where the API is.
type Server struct {
	URL         string `json:"url"`
	Description string `json:"description,omitempty"`
}

// A Tag groups operations.
type Tag struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
}

// A PathItem is what can be done at a path, by method in lower case.
type PathItem map[string]Operation

// An Operation is what can be done with one method at one path.
type Operation struct {
	ID          string              `json:"operationId"`
	Tags        []string            `json:"tags"`
	Summary     string              `json:"summary"`
	Description string              `json:"description,omitempty"`
	Deprecated  bool                `json:"deprecated,omitempty"`
	Parameters  []Parameter         `json:"parameters,omitempty"`
	Body        *Body               `json:"requestBody,omitempty"`
	Responses   map[string]Response `json:"responses"`
	// Security replaces what the document asks for; an empty list, not nil, asks for nothing.
	Security []map[string][]string `json:"security,omitempty"`
}

// A Parameter is part of the path or the query, or a header. With Ref it is one of the components.
type Parameter struct {
	Ref         string `json:"$ref,omitempty"`
	Name        string `json:"name,omitempty"`
	In          string `json:"in,omitempty"`
	Description string `json:"description,omitempty"`
	Required    bool   `json:"required,omitempty"`
	Style       string `json:"style,omitempty"`
	Explode     *bool  `json:"explode,omitempty"`
	Schema      Schema `json:"schema,omitempty"`
}

// A Body is what a request carries, by media type.
type Body struct {
	Description string           `json:"description,omitempty"`
	Required    bool             `json:"required,omitempty"`
	Content     map[string]Media `json:"content"`
}

// Media is a body in one media type.
type Media struct {
	Schema Schema `json:"schema"`
}

// A Response is an answer. With Ref it is one of the components.
type Response struct {
	Ref         string            `json:"$ref,omitempty"`
	Description string            `json:"description,omitempty"`
	Headers     map[string]Header `json:"headers,omitempty"`
	Content     map[string]Media  `json:"content,omitempty"`
}

// A Header of a response. With Ref it is one of the components.
type Header struct {
	Ref         string `json:"$ref,omitempty"`
	Description string `json:"description,omitempty"`
	Schema      Schema `json:"schema,omitempty"`
}

// Components are what several operations share.
type Components struct {
	Schemas         map[string]Schema    `json:"schemas"`
	Parameters      map[string]Parameter `json:"parameters,omitempty"`
	Headers         map[string]Header    `json:"headers,omitempty"`
	Responses       map[string]Response  `json:"responses,omitempty"`
	SecuritySchemes map[string]Scheme    `json:"securitySchemes,omitempty"`
}

// A Scheme is a way to prove who one is.
type Scheme struct {
	Type         string `json:"type"`
	Scheme       string `json:"scheme,omitempty"`
	BearerFormat string `json:"bearerFormat,omitempty"`
	Description  string `json:"description,omitempty"`
}

// A Schema is a JSON Schema, in the dialect of OpenAPI 3.1.
type Schema map[string]any

// A Catalog makes schemas of types and keeps those that have names, to be referred to.
type Catalog struct {
	named map[string]Schema
	types map[string]*schema.Type
}

// NewCatalog returns an empty catalog.
func NewCatalog() *Catalog {
	return &Catalog{named: map[string]Schema{}, types: map[string]*schema.Type{}}
}

// Schemas are all schemas with names. They are not a copy.
func (c *Catalog) Schemas() map[string]Schema { return c.named }

// Name keeps a schema under a name, and returns a reference to it. It panics when another has the name, which any test finds.
func (c *Catalog) Name(name string, s Schema) Schema {
	if _, taken := c.named[name]; taken {
		panic("openapi: two schemas are called " + name)
	}
	c.named[name] = s
	return Ref(name)
}

// Ref refers to a schema by name.
func Ref(name string) Schema { return Schema{"$ref": "#/components/schemas/" + name} }

// Of is the schema of a type, by reference when the type has a name. What is computed says whether values come from the control plane,
// which then writes all fields that are never left out.
func (c *Catalog) Of(t *schema.Type, computed bool) Schema {
	if t.Form == schema.Object && t.Name != "" {
		if known, ok := c.types[t.Name]; ok {
			if known != t {
				panic("openapi: two types are called " + t.Name)
			}
			return Ref(t.Name)
		}
		c.types[t.Name] = t
		return c.Name(t.Name, c.Object(t, computed))
	}
	switch t.Form {
	case schema.Object:
		return c.Object(t, computed)
	case schema.List:
		return Schema{"type": "array", "items": c.Of(t.Elem, computed)}
	case schema.Map:
		return Schema{"type": "object", "additionalProperties": c.Of(t.Elem, computed)}
	}
	return plain(t)
}

// Object is the schema of an object without a reference to it.
func (c *Catalog) Object(t *schema.Type, computed bool) Schema {
	properties := Schema{}
	var required []string
	for _, f := range t.Fields {
		properties[f.Name] = c.field(f, computed)
		if f.Required || computed && f.Always {
			required = append(required, f.Name)
		}
	}
	s := Schema{"type": "object", "properties": properties}
	if t.Doc != "" {
		s["description"] = t.Doc
	}
	if len(required) > 0 {
		slices.Sort(required)
		s["required"] = required
	}
	return s
}

func (c *Catalog) field(f schema.Field, computed bool) Schema {
	s := maps.Clone(c.Of(f.Type, computed))
	if f.Doc != "" {
		s["description"] = f.Doc
	}
	if f.Removed {
		s["deprecated"] = true
	}
	if f.Computed {
		s["readOnly"] = true
	}
	if len(f.Values) > 0 {
		s["enum"] = enum(f)
	}
	if f.Type.Form == schema.Integer || f.Type.Form == schema.Float {
		bounds(s, f)
	}
	if v, ok := f.Literal(f.Type); ok {
		s["default"] = v
	}
	return s
}

// enum are the values that a field may have. An empty text stands for absent where it is left out.
func enum(f schema.Field) []any {
	var out []any
	for _, v := range f.Values {
		if n, err := strconv.Atoi(v); err == nil && f.Type.Form == schema.Integer {
			out = append(out, n)
			continue
		}
		out = append(out, v)
	}
	return out
}

func bounds(s Schema, f schema.Field) {
	switch {
	case f.Min == nil:
	case f.Zero && *f.Min <= 1: // 0 is the same as absent
		s["minimum"] = 0
	case f.Above:
		delete(s, "minimum")
		s["exclusiveMinimum"] = *f.Min
	default:
		s["minimum"] = *f.Min
	}
	if f.Max != nil {
		s["maximum"] = *f.Max
	}
}

func plain(t *schema.Type) Schema {
	switch t.Form {
	case schema.Boolean:
		return Schema{"type": "boolean"}
	case schema.Float:
		return Schema{"type": "number"}
	case schema.Number:
		return Schema{"type": []string{"integer", "string"}, "pattern": `^[+-]?[0-9]+(\.[0-9]+)?$`}
	case schema.PortRef:
		return Schema{"type": []string{"integer", "string"}, "minimum": 0, "maximum": 65535}
	case schema.Integer:
		s := Schema{"type": "integer"}
		if t.Unsigned {
			s["minimum"] = 0
		}
		return s
	case schema.Text:
		return text(t)
	}
	return Schema{} // anything
}

func text(t *schema.Type) Schema {
	s := Schema{"type": "string"}
	switch t.Format {
	case schema.FormatDuration:
		s["pattern"], s["examples"] = durationPattern, []string{"5s", "1h30m"}
	case schema.FormatTime:
		s["format"] = "date-time"
	case schema.FormatBytes:
		s["contentEncoding"] = "base64"
	case schema.FormatCount:
		s["pattern"] = "^[0-9]+$"
	}
	if len(t.Values) > 0 {
		s["enum"] = t.Values
	}
	return s
}

// durationPattern is what time.ParseDuration takes.
const durationPattern = `^[+-]?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$`
