package faults_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	kinds "github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/backend"
)

// valid is a small good spec of every kind that users write.
var valid = map[string]string{
	"Mesh":                      `{"skipCreatingInitialPolicies":["*"]}`,
	"Zone":                      `{"enabled":true}`,
	"Dataplane":                 `{"networking":{"address":"127.0.0.9","outboundBlock":"127.9.0.0/16","inbound":[{"port":8080}]}}`,
	"Workload":                  `{}`,
	"MeshService":               `{"selector":{"dataplaneLabels":{"matchLabels":{"app":"x"}}},"ports":[{"port":80,"appProtocol":"http"}]}`,
	"MeshMultiZoneService":      `{"selector":{"meshService":{"matchLabels":{"app":"x"}}},"ports":[{"port":80,"appProtocol":"http"}]}`,
	"MeshExternalService":       `{"match":{"type":"HostnameGenerator","port":443,"protocol":"tcp"},"endpoints":[{"address":"example.com","port":443}]}`,
	"HostnameGenerator":         `{"selector":{"meshService":{"matchLabels":{"app":"x"}}},"template":"{{ .DisplayName }}.x.mesh"}`,
	"MeshIdentity":              `{"selector":{},"provider":{"type":"Bundled","bundled":{"insecureAllowSelfSigned":true,"autogenerate":{"enabled":true}}}}`,
	"MeshTrust":                 `{"trustDomain":"x.example.com","caBundles":[{"type":"Pem","pem":{"value":CERTIFICATE}}]}`,
	"MeshZoneAddress":           `{"address":"127.0.0.1","port":10001}`,
	"MeshOpenTelemetryBackend":  `{"endpoint":{"address":"otel.example.com","port":4317},"protocol":"grpc"}`,
	"Secret":                    `{"data":"c2VjcmV0"}`,
	"GlobalSecret":              `{"data":"c2VjcmV0"}`,
	"MeshHTTPRoute":             `{"targetRef":{"kind":"Mesh"},"to":[{"targetRef":{"kind":"MeshService","labels":{"kuma.io/display-name":"x"}},"rules":[{"matches":[{"path":{"type":"PathPrefix","value":"/"}}],"default":{}}]}]}`,
	"MeshTLS":                   `{"rules":[{"default":{"mode":"Strict"}}]}`,
	"MeshTimeout":               `{"to":[{"targetRef":{"kind":"Mesh"},"default":{"connectionTimeout":"5s"}}]}`,
	"MeshTrafficPermission":     `{"rules":[{"default":{"allow":[{"spiffeID":{"type":"Exact","value":"spiffe://x/y"}}]}}]}`,
	"MeshCircuitBreaker":        `{"to":[{"targetRef":{"kind":"Mesh"},"default":{"connectionLimits":{"maxConnections":5}}}]}`,
	"MeshLoadBalancingStrategy": `{"to":[{"targetRef":{"kind":"Mesh"},"default":{"loadBalancer":{"type":"Random"}}}]}`,
	"MeshRetry":                 `{"to":[{"targetRef":{"kind":"Mesh"},"default":{"http":{"numRetries":3}}}]}`,
	"MeshTCPRoute":              `{"to":[{"targetRef":{"kind":"MeshService","labels":{"kuma.io/display-name":"a"}},"rules":[{"default":{"backendRefs":[{"kind":"MeshService","labels":{"kuma.io/display-name":"b"}}]}}]}]}`,
	"MeshHealthCheck":           `{"to":[{"targetRef":{"kind":"Mesh"},"default":{"interval":"10s","tcp":{}}}]}`,
	"MeshRateLimit":             `{"targetRef":{"kind":"Dataplane"},"rules":[{"default":{"local":{"http":{"requestRate":{"num":5,"interval":"1s"}}}}}]}`,
	"MeshFaultInjection":        `{"rules":[{"default":{"http":[{"abort":{"httpStatus":503,"percentage":5}}]}}]}`,
	"MeshAccessLog":             `{"to":[{"targetRef":{"kind":"Mesh"},"default":{"backends":[{"type":"File","file":{"path":"/dev/stdout"}}]}}]}`,
	"MeshTrace":                 `{"default":{"backends":[{"type":"Zipkin","zipkin":{"url":"http://zipkin.example:9411/api/v2/spans"}}]}}`,
	"MeshMetric":                `{"default":{"backends":[{"type":"Prometheus","prometheus":{"port":5670}}]}}`,
	"MeshPassthrough":           `{"default":{"passthroughMode":"Matched","appendMatch":[{"type":"Domain","value":"api.example","protocol":"tls","port":443}]}}`,
	"MeshProxyPatch":            `{"default":{"appendModifications":[{"cluster":{"operation":"Patch","value":"connect_timeout: 5s"}}]}}`,
}

// mayBeEmpty are the kinds whose empty spec means something, and those where it is legal and warned about.
var (
	mayBeEmpty  = []string{"Mesh", "Zone", "Workload"}
	emptyWarned = []string{"MeshService", "MeshIdentity"}
)

// A subject is a kind with a good spec.
type subject struct {
	resource.Kind
	spec map[string]any
}

func subjects(t *testing.T, z *zone) []subject {
	t.Helper()
	pem, err := os.ReadFile(z.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := json.Marshal(string(pem))
	if err != nil {
		t.Fatal(err)
	}
	var out []subject
	for _, k := range kinds.Kinds().All() {
		if k.ReadOnly() {
			continue
		}
		s := subject{Kind: k}
		text := strings.Replace(valid[k.Name], "CERTIFICATE", string(certificate), 1)
		if err := json.Unmarshal([]byte(text), &s.spec); err != nil {
			t.Fatalf("no good %s: %v", k.Name, err)
		}
		out = append(out, s)
	}
	return out
}

func (s subject) path(name string) string {
	if s.Scope == resource.ScopeGlobal {
		return "/" + s.Path + "/" + url.PathEscape(name)
	}
	return "/meshes/default/" + s.Path + "/" + url.PathEscape(name)
}

// tree is the whole resource with a spec.
func (s subject) tree(name string, spec any) map[string]any {
	out := map[string]any{"type": s.Name, "name": name}
	if s.Scope == resource.ScopeMesh {
		out["mesh"] = "default"
	}
	if fields, ok := spec.(map[string]any); ok && s.Inline {
		maps.Copy(out, fields)
	} else {
		out["spec"] = spec
	}
	return out
}

func (s subject) with(field string, value any) map[string]any {
	out := maps.Clone(s.spec)
	out[field] = value
	return out
}

// fields are the names of the first level of the spec.
func (s subject) fields() []string {
	var out []string
	typ := reflect.TypeOf(s.New()).Elem()
	for i := range typ.NumField() {
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		if name != "" && name != "-" {
			out = append(out, name)
		}
	}
	return out
}

func encode(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// wantInvalid checks that an answer is a 400 that gives a reason, and that names a field unless that is empty.
func wantInvalid(t *testing.T, what string, res answer, field string) {
	t.Helper()
	if res.status != http.StatusBadRequest {
		t.Errorf("%s: %s, want 400", what, res)
		return
	}
	r := res.refusal(t)
	if len(r.Invalid) == 0 || r.Title == "" {
		t.Errorf("%s: %s has no title or no invalid_parameters", what, res)
	}
	for _, p := range r.Invalid {
		if p.Reason == "" {
			t.Errorf("%s: %s gives no reason for %q", what, res, p.Field)
		}
	}
	if field != "" && !r.names(field) {
		t.Errorf("%s: %s does not name %s", what, res, field)
	}
}

func TestBadResources(t *testing.T) {
	z := start(t, settings(t, t.TempDir(), backend.Memory))
	for _, s := range subjects(t, z) {
		t.Run(s.Name, func(t *testing.T) {
			name := strings.ToLower(s.Name)
			path := s.path(name)
			put := func(body string, pairs ...string) answer { return z.call(t, "PUT", path, body, pairs...) }

			if res := put(encode(t, s.tree(name, s.spec))); !res.ok() {
				t.Fatalf("the good one: %s", res)
			}
			emptySpec(t, z, s, name+"-empty")
			wrongTypes(t, z, s, name)
			unknownField(t, z, s, name)
			oversized(t, z, s, name)

			wantInvalid(t, "deep", put(encode(t, s.tree(name, s.with("deep", nil)))+strings.Repeat("[", 200_000)), "")
			deep := strings.Replace(encode(t, s.tree(name, s.with("deep", "HERE"))), `"HERE"`, strings.Repeat(`{"a":[`, 4000)+strings.Repeat(`]}`, 4000), 1)
			wantInvalid(t, "4000 levels", put(deep), "")
			wantInvalid(t, "deep YAML", put("type: "+s.Name+"\nname: x\nspec: "+strings.Repeat("[", 20_000), "Content-Type", "application/yaml"), "")
			wantInvalid(t, "YAML aliases", put(bomb(s.Name, name), "Content-Type", "application/yaml"), "")
			for _, other := range subjects(t, z)[:2] {
				if other.Name != s.Name {
					wantInvalid(t, "another kind", put(encode(t, other.tree(name, other.spec))), "type")
				}
			}
		})
	}
	if code, body := z.probe(t, "/ready"); code != http.StatusOK {
		t.Errorf("/ready afterwards: %d %s", code, body)
	}
}

func emptySpec(t *testing.T, z *zone, s subject, name string) {
	t.Helper()
	res := z.call(t, "PUT", s.path(name), encode(t, s.tree(name, map[string]any{})))
	warned := strings.Contains(res.body, `"warnings":["spec`)
	switch {
	case slices.Contains(mayBeEmpty, s.Name):
		if !res.ok() {
			t.Errorf("empty spec: %s", res)
		}
	case slices.Contains(emptyWarned, s.Name):
		if !res.ok() || !warned {
			t.Errorf("empty spec: %s, want a warning", res)
		}
	case s.Inline:
		wantInvalid(t, "empty spec", res, s.fields()[0])
	default:
		wantInvalid(t, "empty spec", res, "spec")
	}
}

// wrongTypes gives every field of the first level a value of every other type.
func wrongTypes(t *testing.T, z *zone, s subject, name string) {
	t.Helper()
	path := s.path(name)
	for _, spec := range []any{5, "x", true, []any{1}} {
		res := z.call(t, "PUT", path, encode(t, map[string]any{"type": s.Name, "name": name, "mesh": s.tree(name, nil)["mesh"], "spec": spec}))
		wantInvalid(t, fmt.Sprintf("spec %v", spec), res, "spec")
	}
	for _, field := range s.fields() {
		refused := false
		for _, v := range []any{-5, "\x00 {{", true, []any{[]any{1}}, map[string]any{"zz": map[string]any{"zz": 1}}} {
			res := z.call(t, "PUT", path, encode(t, s.tree(name, s.with(field, v))))
			if res.ok() {
				continue // a list of anything, or an object with an unknown field
			}
			refused = true
			wantInvalid(t, fmt.Sprintf("%s %v", field, v), res, string(specField(s, field)))
		}
		if !refused {
			t.Errorf("%s takes anything", field)
		}
	}
	for field, v := range map[string]any{"type": 5, "name": []any{1}, "labels": "x", "labels.a": map[string]any{"a": 5}} {
		field, _, _ = strings.Cut(field, ".")
		tree := s.tree(name, s.spec)
		tree[field] = v
		wantInvalid(t, field+" of a wrong type", z.call(t, "PUT", path, encode(t, tree)), field)
	}
}

func specField(s subject, field string) resource.Path {
	if s.Inline {
		return resource.Path(field)
	}
	return resource.Path("spec").Field(field)
}

// unknownField misspells a field: a warning that knows the right name, and with strict a refusal.
func unknownField(t *testing.T, z *zone, s subject, name string) {
	t.Helper()
	known, typo := "", "zzz"
	if f := s.fields(); len(f) > 0 {
		known, typo = f[0], f[0]+"x"
	}
	body := encode(t, s.tree(name, s.with(typo, "v")))
	res := z.call(t, "PUT", s.path(name), body)
	var out struct{ Warnings []string }
	if err := json.Unmarshal([]byte(res.body), &out); err != nil || !res.ok() {
		t.Errorf("unknown field: %s (%v)", res, err)
	}
	if !slices.ContainsFunc(out.Warnings, func(w string) bool {
		return strings.Contains(w, string(specField(s, typo))) && (known == "" || strings.Contains(w, "did you mean "+strconv.Quote(known)))
	}) {
		t.Errorf("unknown field %s: %s, want a warning that suggests %s", typo, res, known)
	}
	wantInvalid(t, "unknown field, strict", z.call(t, "PUT", s.path(name)+"?strict=true", body), string(specField(s, typo)))
	wantInvalid(t, "strict=maybe", z.call(t, "PUT", s.path(name)+"?strict=maybe", body), "strict")
}

// oversized sends an object beyond the limit: for every kind the short way, for two of them 5 MiB in every way there is.
func oversized(t *testing.T, z *zone, s subject, name string) {
	t.Helper()
	size := 5 << 18
	thorough := s.Name == "Dataplane" || s.Name == "MeshTimeout" // one of either form
	if thorough {
		size = 5 << 20
	}
	big := strings.Replace(encode(t, s.tree(name, s.with("pad", "PAD"))), "PAD", strings.Repeat("x", size), 1)
	check := func(what string, res answer) {
		t.Helper()
		if res.status != http.StatusRequestEntityTooLarge || !strings.Contains(res.refusal(t).Detail, "1048576") {
			t.Errorf("%s: %s, want 413 that says how much is allowed", what, res)
		}
	}
	check("too large", z.call(t, "PUT", s.path(name), big))
	if thorough {
		check("5 MiB of YAML", z.call(t, "PUT", s.path(name), big, "Content-Type", "application/yaml"))
		res := z.call(t, "POST", "/batch", "["+big+"]")
		wantInvalid(t, "5 MiB in a batch", res, "[0]")
		if !strings.Contains(res.body, "1048576") {
			t.Errorf("5 MiB in a batch: %s does not say how much is allowed", res)
		}
	}
	label := s.tree(name, s.spec)
	label["labels"] = map[string]any{"a": strings.Repeat("x", 500<<10)}
	wantInvalid(t, "a huge label", z.call(t, "PUT", s.path(name), encode(t, label)), "labels")
}

// bomb is YAML that is small and would be gigabytes.
func bomb(kind, name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "type: %s\nname: %s\nmesh: default\na0: &a0 [x,x,x,x,x,x,x,x,x,x]\n", kind, name)
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ","))
	}
	return b.String() + "spec: {x: *a11}\n"
}

func TestBadNames(t *testing.T) {
	z := start(t, settings(t, t.TempDir(), backend.Memory))
	before := z.numbers(t)
	for _, s := range subjects(t, z) {
		for _, name := range []string{
			"a/b", "../x", "..", ".", "a_b", "kri_mt_default___x_", "A", " ", "a b", "a\x00b", "a\nb", "a?b", "a#b", "a%b", "a%2Fb", "-a", "a-", "ä",
			"\xff\xfe", strings.Repeat("a", 300), "{{.}}", "a;drop table objects", "*", "<x>",
		} {
			// Some of them are no name that the path can carry; then nothing is at it.
			res := z.call(t, "PUT", s.path(name), encode(t, s.tree(name, s.spec)))
			switch res.status {
			case http.StatusNotFound, http.StatusMethodNotAllowed:
			default:
				wantInvalid(t, fmt.Sprintf("%s %.40q in the path", s.Name, name), res, "name")
			}
			res = z.call(t, "POST", "/batch", encode(t, []any{s.tree(name, s.spec)}))
			wantInvalid(t, fmt.Sprintf("%s %.40q in a batch", s.Name, name), res, "[0].name")
			for _, method := range []string{"GET", "DELETE"} {
				if res := z.call(t, method, s.path(name), ""); res.status < 400 || res.status >= 500 {
					t.Errorf("%s %s %.40q: %s", method, s.Name, name, res)
				}
			}
		}
		res := z.call(t, "POST", "/batch", encode(t, []any{s.tree("", s.spec)}))
		wantInvalid(t, s.Name+" without a name", res, "[0].name")
	}
	for _, kri := range []string{"kri", "kri_", "kri_mt", "kri_zz_default___x_", "kri_mt_default___a_b_c_d", "x", strings.Repeat("_", 5000), "kri_mt_../..___x_"} {
		if res := z.call(t, "GET", "/_kri/"+url.PathEscape(kri), ""); res.status < 400 || res.status >= 500 {
			t.Errorf("KRI %.40q: %s", kri, res)
		}
	}
	if after := z.numbers(t); !maps.Equal(before, after) {
		t.Errorf("something was stored: %v", after)
	}
}

func TestBadBodies(t *testing.T) {
	z := start(t, settings(t, t.TempDir(), backend.Memory))
	good := timeout("x", 1)
	for what, body := range map[string]string{
		"nothing": "", "spaces": "  \n", "no JSON": "<xml/>", "half": good[:len(good)/2], "more behind it": good + "}", "two": good + good,
		"null": "null", "a number": "5", "a string": `"x"`, "a list": "[" + good + "]", "NUL": "\x00", "bad UTF-8": strings.Replace(good, "Mesh\"", "\xff\"", 1),
		"a huge number":      strings.Replace(good, `"1s"`, "1e999999", 1),
		"an unknown kind":    strings.Replace(good, "MeshTimeout", "MeshTimeOuts", 1),
		"another name":       timeout("y", 1),
		"another mesh":       strings.Replace(good, `"mesh":"default"`, `"mesh":"other"`, 1),
		"a negative timeout": strings.Replace(good, `"1s"`, `"-1s"`, 1),
	} {
		for _, contentType := range []string{"application/json", "application/yaml"} {
			if contentType == "application/yaml" && what == "a huge number" {
				continue // a string there
			}
			wantInvalid(t, what+" as "+contentType, z.call(t, "PUT", timeouts+"x", body, "Content-Type", contentType), "")
		}
	}
	if s, err := z.read(t.Context(), "x"); err != nil || s != (stored{}) {
		t.Errorf("stored: %+v %v", s, err)
	}
	for _, h := range []struct{ name, value string }{
		{"If-Match", "x"},
		{"If-Match", `"x.y"`},
		{"If-Match", `"a.99999999999999999999"`},
		{"If-None-Match", "x"},
		{"Idempotency-Key", strings.Repeat("k", 300)},
		{"Causeway-Reason", strings.Repeat("r", 600)},
	} {
		if res := z.call(t, "PUT", timeouts+"x", good, h.name, h.value); res.status != http.StatusBadRequest || !strings.Contains(res.body, h.name) {
			t.Errorf("%s %.40q: %s, want 400 that names the header", h.name, h.value, res)
		}
	}
	for _, q := range []string{"size=x", "size=-1", "size=0", "size=99999999999999999999", "offset=-1", "offset=x", "after=x"} {
		field, _, _ := strings.Cut(q, "=")
		wantInvalid(t, q, z.call(t, "GET", "/meshes/default/meshtimeouts?"+q, ""), field)
	}
}

func TestBatchWithOneBadOfThree(t *testing.T) {
	z := start(t, settings(t, t.TempDir(), backend.Memory))
	for _, s := range subjects(t, z) {
		bad := s.tree("bad", s.spec)
		bad["labels"] = map[string]any{"-": "x"}
		body := encode(t, []any{json.RawMessage(timeout("one", 1)), bad, json.RawMessage(timeout("three", 3))})
		wantInvalid(t, s.Name, z.call(t, "POST", "/batch", body), "[1].labels")
	}
	for what, bad := range map[string]string{
		"the same twice": timeout("one", 2), "no mesh of that name": strings.Replace(timeout("two", 2), `"mesh":"default"`, `"mesh":"none"`, 1),
		"no kind": `{"name":"x"}`, "no object": `7`, "read-only": `{"type":"DataplaneInsight","mesh":"default","name":"x"}`,
	} {
		res := z.call(t, "POST", "/batch", "["+timeout("one", 1)+","+bad+","+timeout("three", 3)+"]")
		if res.status < 400 || res.status >= 500 {
			t.Errorf("%s: %s", what, res)
		}
		if what != "read-only" {
			wantInvalid(t, what, res, "[1]")
		}
	}
	if have := z.numbers(t); len(have) > 0 {
		t.Errorf("half a batch was applied: %v", have)
	}
	for what, body := range map[string]string{"nothing": "[]", "no items": `{"items":[]}`, "a number": "3", "half": "[" + timeout("x", 1)} {
		wantInvalid(t, what, z.call(t, "POST", "/batch", body), "")
	}
	wantInvalid(t, "too many", z.call(t, "POST", "/batch", "["+strings.Repeat("{},", 10_000)+"{}]"), "")
}
