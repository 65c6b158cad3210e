package rest_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// FuzzBodies sends anything as a resource and as a batch. Whatever it is, the answer is a success or says what is wrong with it,
// and what was accepted can be read back as JSON.
func FuzzBodies(f *testing.F) {
	p := newPlane(f, nil)
	p.mustPut("/meshes/default", bareMesh)
	for _, seed := range []string{
		`{"type":"MeshTimeout","mesh":"default","name":"x","spec":{"to":[{"default":{"idleTimeout":"1h"}}]}}`,
		`{"type":"MeshTimeout","name":"x","labels":{"a":1},"spec":null}`,
		`{"type":"MeshTimeout","name":"x","spec":{"to":[null,{"default":null}],"targetRef":null}}`,
		`{"type":"Dataplane","name":"x","networking":{"gateway":{"tags":{"a":"b"}},"listeners":[{"type":5}]}}`,
		`{"type":"Secret","name":"x","data":"AA=="}`,
		`{"type":"Mesh","name":"x","mesh":"y"}`,
		`[{"type":"MeshTimeout","mesh":"default","name":"x"},{"type":"MeshTimeout","mesh":"default","name":"x"}]`,
		`{"items":[1,[],{},null]}`,
		`[[[[[[[[[[`,
		"type: MeshTimeout\nname: x\nspec: {to: [{default: {idleTimeout: 1h}}]}\n---\n---\nname: y\n",
		"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n",
		"type: MeshTimeout\nname: x\nspec: &s\n  to: *s\n",
		"1: 2\n", "? [a]\n: b\n", "!!binary x", "- .nan\n- .inf", "\x00", "\xff\xfe", "",
	} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	f.Fuzz(func(t *testing.T, body string, yaml bool) {
		for _, target := range []string{"PUT /meshes/default/meshtimeouts/x", "PUT /meshes/default/dataplanes/x", "PUT /meshes/default/secrets/x", "POST /batch?mesh=default", "POST /tokens/dataplane"} {
			method, path, _ := strings.Cut(target, " ")
			rec := p.serve(method, path, body, yaml)
			if rec.Code >= 500 {
				t.Fatalf("%s: %d %s", target, rec.Code, rec.Body)
			}
			if rec.Header().Get("Content-Type") != "text/plain" && !json.Valid(rec.Body.Bytes()) {
				t.Fatalf("%s: %d with a body that is not JSON: %q", target, rec.Code, rec.Body)
			}
			if method == http.MethodPut && rec.Code < 300 {
				if back := p.serve("GET", path, "", false); back.Code != http.StatusOK || !json.Valid(back.Body.Bytes()) {
					t.Fatalf("%s: accepted and then read as %d %q", target, back.Code, back.Body)
				}
			}
		}
	})
}

// FuzzQueries asks for lists and identifiers with anything as parameters.
func FuzzQueries(f *testing.F) {
	p := newPlane(f, nil)
	p.mustPut("/meshes/default", bareMesh)
	p.mustPut("/meshes/default/dataplanes/web", `{"type":"Dataplane","name":"web","networking":{}}`)
	for _, seed := range []string{
		"filter[labels.a]=b", "filter[", "filter[labels.]=", "size=1&offset=99999999999999999999", "after=/&size=1", "tag=a:b&gateway=true",
		"kri_dp_default___web_", "kri_______", "..%2f..", "name=%00", "size=-0",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, path := range []string{"/dataplanes?" + escapedQuery(text), "/dataplanes/_overview?" + escapedQuery(text), "/_kri/" + url.PathEscape(text), "/meshes/" + url.PathEscape(text)} {
			rec := p.serve("GET", path, "", false)
			if rec.Code >= 500 || !json.Valid(rec.Body.Bytes()) {
				t.Fatalf("%s: %d %q", path, rec.Code, rec.Body)
			}
		}
	})
}

// escapedQuery keeps the signs of a query and makes the rest fit into a URL.
func escapedQuery(s string) string {
	return strings.NewReplacer("%3D", "=", "%26", "&").Replace(url.QueryEscape(s))
}

// serve answers a request of the administrator without a network.
func (p *plane) serve(method, path, body string, yaml bool) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+p.tokens["admin"])
	if yaml {
		req.Header.Set("Content-Type", "application/yaml")
	}
	rec := httptest.NewRecorder()
	p.server.ServeHTTP(rec, req)
	return rec
}
