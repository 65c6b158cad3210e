package envoy

import (
	"fmt"
	"math"
	"net/http"
	"testing"

	"github.com/causeway-mesh/causeway/test/testmesh"
)

// testRouting is MeshHTTPRoute: one policy, and what each of its rules does to requests.
//
// Acceptance: K meshhttproute: default routing without policy; redirect; URL rewrite
func testRouting(t *testing.T, m *testmesh.Mesh) {
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "backend-1"}, testmesh.Workload{Name: "canary-1"})
	web, canary := all[0], all[2]
	web.Reach(t, "backend")
	web.Reach(t, "canary")
	m.Apply(t, `
type: MeshHTTPRoute
name: backend
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: web}}
  to:
  - targetRef: {kind: MeshService, labels: {kuma.io/display-name: backend}}
    rules:
    - matches: [{path: {type: PathPrefix, value: /split}}]
      default:
        backendRefs:
        - {kind: MeshService, labels: {kuma.io/display-name: backend}, weight: 3}
        - {kind: MeshService, labels: {kuma.io/display-name: canary}, weight: 1}
    - matches: [{path: {type: Exact, value: /moved}}]
      default:
        filters: [{type: RequestRedirect, requestRedirect: {hostname: new.example, path: {type: ReplaceFullPath, replaceFullPath: /here}, statusCode: 301}}]
    - matches: [{path: {type: PathPrefix, value: /old}}]
      default:
        filters: [{type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
    - matches: [{path: {type: PathPrefix, value: /mirrored}}]
      default:
        filters: [{type: RequestMirror, requestMirror: {backendRef: {kind: MeshService, labels: {kuma.io/display-name: canary}}}}]
    - matches: [{path: {type: PathPrefix, value: /headers}}]
      default:
        filters:
        - type: RequestHeaderModifier
          requestHeaderModifier: {set: [{name: x-set, value: new}], add: [{name: x-added, value: two}], remove: [x-gone]}
        - type: ResponseHeaderModifier
          responseHeaderModifier: {set: [{name: x-answered, value: "yes"}], remove: [content-type]}
    - matches: [{path: {type: RegularExpression, value: "/v[0-9]+/.*"}}]
      default: {backendRefs: [{kind: MeshService, labels: {kuma.io/display-name: canary}}]}
    - matches:
      - headers: [{name: x-version, value: canary}]
      - queryParams: [{name: version, value: canary}]
      - method: DELETE
      default: {backendRefs: [{kind: MeshService, labels: {kuma.io/display-name: canary}}]}
    - matches: [{path: {type: Exact, value: /nowhere}}]
      default: {backendRefs: [{kind: MeshService, labels: {kuma.io/display-name: missing}}]}
`)
	web.Expect(t, testmesh.Request{Service: "backend", Path: "/moved"}, http.StatusMovedPermanently)

	t.Run("redirect", func(t *testing.T) {
		resp := web.Get(t, "backend", "/moved?q=1")
		if got := resp.Header.Get("Location"); resp.Status != 301 || got != "http://new.example/here?q=1" {
			t.Errorf("%s to %q", resp, got)
		}
	})
	t.Run("weighted split", func(t *testing.T) {
		const n = 400
		by := map[string]int{}
		for range n {
			by[web.Get(t, "backend", "/split").Answer.Instance]++
		}
		// A quarter of 400 is 100 with a standard deviation of 8.7; six of them are never missed by chance.
		if math.Abs(float64(by["canary-1"]-n/4)) > 52 || by["backend-1"]+by["canary-1"] != n {
			t.Errorf("answered by %v", by)
		}
	})
	t.Run("rewrite", func(t *testing.T) {
		got := web.Get(t, "backend", "/old/thing?q=1").Answer
		if got.Path != "/new/thing?q=1" || got.Host != "inner.example" || got.Instance != "backend-1" {
			t.Errorf("%s got %s of %s", got.Instance, got.Path, got.Host)
		}
		if got := web.Get(t, "backend", "/older").Answer.Path; got != "/older" {
			t.Errorf("a prefix takes part of an element: %s", got)
		}
	})
	t.Run("mirror", func(t *testing.T) {
		if got := web.Get(t, "backend", "/mirrored").Answer.Instance; got != "backend-1" {
			t.Errorf("answered by %s", got)
		}
		m.Until(t, "the copy arrives", func() (any, bool) {
			return canary.App.Paths(), canary.App.Seen("/mirrored") == 1
		})
	})
	t.Run("headers", func(t *testing.T) {
		resp := web.Get(t, "backend", "/headers", "x-set: old", "x-added: one", "x-gone: here")
		h := resp.Answer.Header
		if h.Get("x-set") != "new" || fmt.Sprint(h.Values("x-added")) != "[one two]" && h.Get("x-added") != "one,two" || h.Get("x-gone") != "" {
			t.Errorf("the workload got %v", h)
		}
		if resp.Header.Get("x-answered") != "yes" || resp.Header.Get("content-type") != "" {
			t.Errorf("the client got %v", resp.Header)
		}
	})
	t.Run("by path, header, query and method", func(t *testing.T) {
		for _, r := range []testmesh.Request{
			{Path: "/v2/things"}, {Header: http.Header{"X-Version": {"canary"}}}, {Path: "/?version=canary"}, {Method: http.MethodDelete},
		} {
			r.Service = "backend"
			if got := web.Send(t, r); got.Answer.Instance != "canary-1" {
				t.Errorf("%+v: %s", r, got)
			}
		}
		if got := web.Get(t, "backend", "/vx/things"); got.Answer.Instance != "backend-1" {
			t.Errorf("what matches nothing: %s", got)
		}
	})
	t.Run("a backend that does not exist", func(t *testing.T) {
		if got := web.Get(t, "backend", "/nowhere"); got.Status != http.StatusInternalServerError {
			t.Errorf("%s", got)
		}
	})
	t.Run("without the policy", func(t *testing.T) {
		m.Delete(t, "MeshHTTPRoute", "backend")
		web.Expect(t, testmesh.Request{Service: "backend", Path: "/moved"}, http.StatusOK)
	})
}
