package rest_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/openapi"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/rest"
	"github.com/causeway-mesh/causeway/store/memory"
)

// A contract is the documentation of a server, as something that answers can be held against.
type contract struct {
	doc      openapi.Document
	compiler *jsonschema.Compiler
	mu       sync.Mutex
	schemas  map[string]*jsonschema.Schema
	// seen are the operations and codes that answers were held against.
	seen map[string]bool
}

const contractURL = "https://causeway.test/openapi.json"

func newContract(t testing.TB, s *rest.Server, kinds *resource.Kinds) *contract {
	t.Helper()
	doc, undocumented := s.Document()
	if len(undocumented) > 0 {
		t.Fatalf("routes without documentation; describe them in operations.go: %s", strings.Join(undocumented, ", "))
	}
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	closeSchemas(tree, kinds)
	c := &contract{doc: doc, compiler: jsonschema.NewCompiler(), schemas: map[string]*jsonschema.Schema{}, seen: map[string]bool{}}
	c.compiler.AssertFormat()
	if err := c.compiler.AddResource(contractURL, tree); err != nil {
		t.Fatal(err)
	}
	return c
}

// closeSchemas lets answers have no fields that are not documented, except in specs: unknown fields of users are kept there.
func closeSchemas(doc any, kinds *resource.Kinds) {
	schemas := doc.(map[string]any)["components"].(map[string]any)["schemas"].(map[string]any)
	var visit func(any)
	visit = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			_, isObject := v["properties"].(map[string]any)
			if _, open := v["additionalProperties"]; isObject && !open && v["type"] == "object" {
				v["additionalProperties"] = false
			}
			for _, child := range v {
				visit(child)
			}
		case []any:
			for _, child := range v {
				visit(child)
			}
		}
	}
	for name, s := range schemas {
		k, isKind := kinds.ByName(name)
		if !strings.HasSuffix(name, "Spec") && (!isKind || !k.Inline) {
			visit(s)
		}
	}
}

// operation finds what the documentation says of a request; fixed parts of paths come before variable ones.
func (c *contract) operation(method, path string) (string, openapi.Operation, bool) {
	parts := strings.Split(path, "/")
	best, variables := "", len(parts)+1
	for template := range c.doc.Paths {
		want := strings.Split(template, "/")
		if len(want) != len(parts) {
			continue
		}
		n := 0
		fits := true
		for i, w := range want {
			switch {
			case strings.HasPrefix(w, "{") && parts[i] != "":
				n++
			case w != parts[i]:
				fits = false
			}
		}
		if fits && n < variables {
			best, variables = template, n
		}
	}
	op, ok := c.doc.Paths[best][strings.ToLower(method)]
	return best, op, ok
}

// check holds an answer against the documentation.
func (c *contract) check(t testing.TB, method, target string, a answer) {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil || a.status >= 430 && a.status != http.StatusInternalServerError && a.status != http.StatusServiceUnavailable {
		return // refused by the HTTP server itself, before the API
	}
	path, err := url.PathUnescape(u.EscapedPath())
	if err != nil || path != u.EscapedPath() {
		return // what is escaped in a path concerns names alone
	}
	at := "#/components/schemas/Failure"
	if template, op, ok := c.operation(method, path); ok {
		response, documented := op.Responses[strconv.Itoa(a.status)]
		if !documented {
			t.Errorf("%s %s: %d is not documented; say so in operations.go", method, target, a.status)
			return
		}
		c.note(op.ID, a.status)
		for name, h := range response.Headers {
			if h.Ref == "" || a.header.Get(name) == "" {
				continue
			}
			if values, limited := c.doc.Components.Headers[name].Schema["enum"].([]string); limited && !slices.Contains(values, a.header.Get(name)) {
				t.Errorf("%s %s: header %s is %q, documented are %s", method, target, name, a.header.Get(name), values)
			}
		}
		if response.Ref == "" {
			media, _, _ := strings.Cut(a.header.Get("Content-Type"), ";")
			if _, documented := response.Content[media]; !documented && (a.body != "" || len(response.Content) > 0) {
				t.Errorf("%s %s: %d is %q, documented are %v", method, target, a.status, media, slices.Collect(maps.Keys(response.Content)))
				return
			}
			if media != "application/json" {
				return
			}
			at = "#/paths/" + pointer(template) + "/" + strings.ToLower(method) + "/responses/" + strconv.Itoa(a.status) + "/content/application~1json/schema"
		}
	} else if a.status < 400 {
		t.Errorf("%s %s: %d at a path that is not documented", method, target, a.status)
		return
	}
	body, err := jsonschema.UnmarshalJSON(strings.NewReader(a.body))
	if err != nil {
		t.Errorf("%s %s: %d with a body that is not JSON: %q", method, target, a.status, a.body)
		return
	}
	s, err := c.schema(at)
	if err == nil {
		err = s.Validate(body)
	}
	if err != nil {
		t.Errorf("%s %s: %d is not as documented: %v\n%s", method, target, a.status, err, a.body)
	}
}

func pointer(path string) string {
	return strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D").Replace(path)
}

func (c *contract) schema(at string) (*jsonschema.Schema, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, ok := c.schemas[at]; ok {
		return s, nil
	}
	s, err := c.compiler.Compile(contractURL + at)
	if err == nil {
		c.schemas[at] = s
	}
	return s, err
}

func (c *contract) note(operation string, status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[operation+" "+strconv.Itoa(status)] = true
}

// theContract is that of the kinds of these tests, whatever the mode.
var theContract struct {
	once sync.Once
	*contract
}

func (p *plane) contract() *contract {
	theContract.once.Do(func() { theContract.contract = newContract(p.t, p.server, kinds) })
	if theContract.contract == nil {
		p.t.Fatal("the documentation cannot be used")
	}
	return theContract.contract
}

// Every route of a control plane with all kinds is documented, everything in the documentation has a meaning, and every schema is one.
func TestTheDocumentationIsComplete(t *testing.T) {
	p := newPlane(t, nil)
	server, err := rest.New(rest.Config{Catalog: p.openCatalog(memory.New(), api.Kinds()), Zone: "east"})
	if err != nil {
		t.Fatal(err)
	}
	c := newContract(t, server, api.Kinds())
	ids := map[string]string{}
	for path, item := range c.doc.Paths {
		for method, op := range item {
			where := method + " " + path
			if other := ids[op.ID]; other != "" {
				t.Errorf("%s and %s have the same operationId %s", where, other, op.ID)
			}
			ids[op.ID] = where
			if op.Summary == "" || len(op.Tags) == 0 || op.Tags[0] == "" {
				t.Errorf("%s has no summary or group", where)
			}
			for _, param := range op.Parameters {
				if _, ok := c.doc.Components.Parameters[strings.TrimPrefix(param.Ref, "#/components/parameters/")]; !ok {
					t.Errorf("%s: nothing is said of the parameter %s", where, param.Ref)
				}
			}
		}
	}
	used, err := json.Marshal(c.doc)
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range c.doc.Components.Schemas {
		if !bytes.Contains(used, []byte(`"#/components/schemas/`+name+`"`)) && !strings.HasSuffix(name, "Spec") {
			t.Errorf("nothing refers to the schema %s", name)
		}
		properties, _ := s["properties"].(openapi.Schema)
		for field, f := range properties {
			if f, ok := f.(openapi.Schema); ok && f["description"] == nil && f["$ref"] == nil && name != "KubernetesObject" {
				t.Errorf("%s.%s has no comment", name, field)
			}
		}
		if _, err := c.schema("#/components/schemas/" + name); err != nil {
			t.Errorf("schema %s: %v", name, err)
		}
	}
	if len(c.doc.Paths) < 90 || len(c.doc.Components.Schemas) < 100 {
		t.Errorf("%d paths and %d schemas are too few to be all", len(c.doc.Paths), len(c.doc.Components.Schemas))
	}
}

func TestTheDocumentationIsServed(t *testing.T) {
	p := newPlane(t, nil)
	a := p.do("anonymous", "GET", "/openapi.json", nil)
	var doc struct {
		OpenAPI string
		Info    struct{ Version string }
		Paths   map[string]any
	}
	if err := json.Unmarshal([]byte(a.body), &doc); err != nil || a.status != http.StatusOK {
		t.Fatalf("%d, %v", a.status, err)
	}
	if doc.OpenAPI != "3.1.0" || doc.Info.Version != "1.2.3" || doc.Paths["/meshes/{mesh}/meshtimeouts/{name}"] == nil {
		t.Errorf("openapi %s, version %s, %d paths", doc.OpenAPI, doc.Info.Version, len(doc.Paths))
	}
}
