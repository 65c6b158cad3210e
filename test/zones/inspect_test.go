package zones

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

func (a asked) read(t testing.TB, what string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.get(t, what)), into); err != nil {
		t.Fatalf("%s of %s by %s: %v", what, a.name, a.by, err)
	}
}

func conf(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Global and zone tell alike which policies a proxy meets, part by part and with the policy behind each field, and which proxies a policy
// concerns; what a policy would do is previewed before it is real.
//
// Acceptance: U/M/K inspect: policies of a dataplane, dataplanes of a policy, rules; preview of shadow policies
func TestWhichPoliciesMeetWhichProxies(t *testing.T) {
	t.Parallel()
	f := testmesh.Federate(t, testmesh.FederationOptions{}, "east", "west")
	east, west := f.Zone("east"), f.Zone("west")
	for _, z := range []*testmesh.Mesh{east, west} {
		z.Apply(t, `
type: Dataplane
mesh: default
name: client
labels: {kuma.io/workload: client, tier: front}
networking:
  address: 192.0.2.1
  transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001}
  inbound:
  - {port: 8080, protocol: http, name: main}
  - {port: 9090, protocol: tcp}
---
type: Dataplane
mesh: default
name: other
labels: {kuma.io/workload: other}
networking: {address: 192.0.2.2, inbound: [{port: 80, serviceAddress: 127.0.0.1, protocol: http}]}
---
type: MeshService
mesh: default
name: web
spec: {selector: {dataplaneLabels: {matchLabels: {kuma.io/workload: other}}}, ports: [{port: 80, appProtocol: http, name: http}]}
`)
	}
	f.Apply(t, `
type: MeshTimeout
mesh: default
name: slow
spec:
  to:
  - {targetRef: {kind: Mesh}, default: {connectionTimeout: 3s}}
  - {targetRef: {kind: MeshService, labels: {kuma.io/display-name: web}}, default: {http: {requestTimeout: 7s}}}
---
type: MeshTimeout
mesh: default
name: received
spec:
  targetRef: {kind: Dataplane, labels: {tier: front}, sectionName: main}
  rules: [{default: {idleTimeout: 11s}}]
---
type: MeshTrafficPermission
mesh: default
name: some
spec:
  targetRef: {kind: Dataplane, labels: {tier: front}}
  rules: [{default: {allow: [{spiffeID: {type: Exact, value: "spiffe://default.east.mesh.local/workload/other"}}]}}]
---
type: MeshHTTPRoute
mesh: default
name: versions
spec:
  to:
  - targetRef: {kind: MeshService, labels: {kuma.io/display-name: web}}
    rules:
    - matches: [{path: {type: PathPrefix, value: /new}}]
      default: {filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-new, value: "1"}]}}]}
---
type: MeshPassthrough
mesh: default
name: out
spec: {targetRef: {kind: Dataplane, labels: {tier: front}}, default: {passthroughMode: None}}
`)
	east.Apply(t, `
type: MeshTimeout
mesh: default
name: quick
labels: {kuma.io/origin: zone}
spec: {to: [{targetRef: {kind: Mesh}, default: {connectionTimeout: 2s}}]}
---
type: MeshTimeout
mesh: default
name: planned
labels: {kuma.io/origin: zone, kuma.io/effect: shadow}
spec: {to: [{targetRef: {kind: Mesh}, default: {connectionTimeout: 77s}}]}
`)
	self := "kri_dp_default_east__client_"
	web, webOf := "kri_msvc_default_east__web_http", "kri_mt_default_east__quick_"
	for _, a := range both(f, east, "client") {
		east.Until(t, a.by+" knows all policies", func() (any, bool) {
			var out mesh.InspectedPolicies
			text, err := a.try(t, "_outbounds/"+web+"/_policies")
			if err != nil || json.Unmarshal([]byte(text), &out) != nil {
				return err, false
			}
			rules, _ := a.try(t, "_rules")
			return text, strings.Contains(text, webOf) && strings.Contains(text, "kri_mt_default___slow_") && strings.Contains(rules, "kri_mtp_default___some_") &&
				strings.Contains(rules, "kri_mt_default___received_") && strings.Contains(rules, "kri_mp_default___out_")
		})
		t.Run(a.by, func(t *testing.T) {
			var layout mesh.Layout
			a.read(t, "_layout", &layout)
			if layout.KRI != self || len(layout.Inbounds) != 2 || layout.Inbounds[0].KRI != self+"main" || layout.Inbounds[1].KRI != self+"9090" ||
				!slices.ContainsFunc(layout.Outbounds, func(p mesh.LayoutPart) bool { return p.KRI == web && p.Port == 80 && p.Protocol == "http" }) ||
				!slices.ContainsFunc(layout.Outbounds, func(p mesh.LayoutPart) bool { return p.KRI == "kri_msvc_default_west__web_http" }) {
				t.Errorf("layout %+v", layout)
			}

			var out mesh.InspectedPolicies
			a.read(t, "_outbounds/"+web+"/_policies", &out)
			at := slices.IndexFunc(out.Policies, func(p mesh.InspectedPolicy) bool { return p.Kind == "MeshTimeout" })
			if at < 0 {
				t.Fatalf("no timeouts: %+v", out)
			}
			got := out.Policies[at]
			if c := conf(got.Conf); !strings.Contains(c, `"connectionTimeout":"2s"`) || !strings.Contains(c, `"requestTimeout":"7s"`) {
				t.Errorf("timeouts to web: %s", c)
			}
			if c := conf(got.Origins); !strings.Contains(c, `{"kri":"kri_mt_default_east__quick_","fields":["connectionTimeout"]}`) ||
				!strings.Contains(c, `{"kri":"kri_mt_default___slow_","fields":["http.requestTimeout"]}`) {
				t.Errorf("who decided that: %s", c)
			}

			var in mesh.InspectedPolicies
			a.read(t, "_inbounds/"+self+"main/_policies", &in)
			if c := conf(in); !strings.Contains(c, `"idleTimeout":"11s"`) || !strings.Contains(c, `"kri_mtp_default___some_"`) || !strings.Contains(c, "workload/other") {
				t.Errorf("what is received: %s", c)
			}
			a.read(t, "_inbounds/"+self+"9090/_policies", &in)
			if c := conf(in); strings.Contains(c, "11s") {
				t.Errorf("a policy of another inbound: %s", c)
			}

			var proxy mesh.InspectedPolicies
			a.read(t, "_policies", &proxy)
			if c := conf(proxy); !strings.Contains(c, `"passthroughMode":"None"`) || !strings.Contains(c, "kri_mp_default___out_") || strings.Contains(c, "MeshTimeout") {
				t.Errorf("what concerns the whole proxy: %s", c)
			}

			var routes mesh.InspectedRoutes
			a.read(t, "_outbounds/"+web+"/_routes", &routes)
			if c := conf(routes); len(routes.Routes) != 1 || routes.Routes[0].Kind != "MeshHTTPRoute" || !strings.Contains(c, `"kri":"kri_mhttpr_default___versions_"`) ||
				!strings.Contains(c, "x-new") || !strings.Contains(c, `"/new"`) {
				t.Errorf("routes: %s", c)
			}
			a.read(t, "_outbounds/"+web+"/_routes/kri_mhttpr_default___versions_/_policies", &out)
			if c := conf(out); !strings.Contains(c, `"requestTimeout":"7s"`) {
				t.Errorf("timeouts of the route: %s", c)
			}

			var rules mesh.InspectedRules
			a.read(t, "_rules", &rules)
			if rules.Resource.Name != a.name || rules.Resource.KRI != self {
				t.Errorf("rules of %+v", rules.Resource)
			}
			kinds := map[string]mesh.TypeRules{}
			for _, r := range rules.Rules {
				kinds[r.Type] = r
			}
			if r := kinds["MeshTimeout"]; len(r.ToResourceRules) < 2 || len(r.InboundRules) != 2 || r.InboundRules[0].Inbound.Port != 8080 ||
				!strings.Contains(conf(r.InboundRules[0]), `"11s"`) || strings.Contains(conf(r.InboundRules[1]), `"11s"`) {
				t.Errorf("rules for timeouts: %s", conf(r))
			}
			if r := kinds["MeshPassthrough"]; r.ProxyRule == nil || len(r.ProxyRule.Origin) != 1 || r.ProxyRule.Origin[0].KRI != "kri_mp_default___out_" {
				t.Errorf("rules of the whole proxy: %s", conf(r))
			}
			// A name in an answer is one that the same control plane knows.
			origin := kinds["MeshPassthrough"].ProxyRule.Origin[0]
			if _, err := a.api.Do(t.Context(), client.Request{Method: http.MethodGet, Path: "/meshes/default/meshpassthroughs/" + origin.Name}); err != nil {
				t.Errorf("%s is not known to who names it: %v", origin.Name, err)
			}

			for path, want := range map[string]string{
				"_inbounds/" + self + "nothing/_policies":                       "Not found",
				"_inbounds/kri_dp_default_west__client_main/_policies":          "Not found",
				"_outbounds/kri_msvc_default_east__web_nothing/_policies":       "Not found",
				"_outbounds/nonsense/_policies":                                 "must have the form kri_",
				"_outbounds/" + web + "/_routes/kri_mhttpr_default__/_policies": "must have the form kri_",
				"_inbounds/kri_dp_default_east__client_a_b/_policies":           "must have the form kri_",
			} {
				if text, err := a.try(t, path); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %.100s, %v, want %q", path, text, err, want)
				}
			}

			// What a policy would do.
			var config struct {
				Diff []struct {
					Op, Path string
					Value    json.RawMessage
				}
			}
			for _, path := range []string{"_config", "_config?include=diff", "_config?shadow=true"} {
				text := a.get(t, path)
				if strings.Contains(text, `"77s"`) != strings.Contains(path, "shadow") {
					t.Errorf("%s shows the shadow policy: %v", path, strings.Contains(text, "77s"))
				}
			}
			a.read(t, "_config?shadow=true&include=diff", &config)
			if len(config.Diff) == 0 {
				t.Error("the shadow policy would change nothing")
			}
			for _, d := range config.Diff {
				if d.Op != "replace" || !strings.HasPrefix(d.Path, "/type.googleapis.com~1envoy.config.cluster.v3.Cluster/kri_") || !strings.Contains(string(d.Value), `"77s"`) {
					t.Errorf("%s %s", d.Op, d.Path)
				}
			}
		})
	}

	concerned := func(of *client.Client, typ, policy string) []string {
		t.Helper()
		var list struct {
			Total int                 `json:"total"`
			Items []mesh.ResourceMeta `json:"items"`
		}
		r, err := of.Do(t.Context(), client.Request{Method: http.MethodGet, Path: fmt.Sprintf("/meshes/default/%s/%s/_resources/dataplanes", typ, policy)})
		if err == nil {
			err = json.Unmarshal(r.Body, &list)
		}
		if err != nil || list.Total != len(list.Items) {
			t.Fatalf("dataplanes of %s %s: %v", typ, policy, err)
		}
		var out []string
		for _, i := range list.Items {
			out = append(out, i.KRI)
		}
		slices.Sort(out)
		return out
	}
	dps := func(names ...string) (out []string) {
		for _, n := range names {
			out = append(out, "kri_dp_default_"+n+"_")
		}
		return out
	}
	for _, c := range []struct {
		by, typ, policy string
		of              *client.Client
		want            []string
	}{
		{"global", "meshtimeouts", "slow", f.Client(), dps("east__client", "east__other", "west__client", "west__other")},
		{"global", "meshtimeouts", "received", f.Client(), dps("east__client", "west__client")},
		{"global", "meshtimeouts", resource.SyncedName("default", "quick", "east", ""), f.Client(), dps("east__client", "east__other")},
		{"global", "meshtimeouts", resource.SyncedName("default", "planned", "east", ""), f.Client(), dps("east__client", "east__other")},
		{"zone", "meshtimeouts", "quick", east.Client(), dps("east__client", "east__other")},
		{"zone", "meshpassthroughs", resource.SyncedName("default", "out", "", ""), west.Client(), dps("west__client")},
	} {
		if got := concerned(c.of, c.typ, c.policy); !slices.Equal(got, c.want) {
			t.Errorf("%s says that %s concerns %v, want %v", c.by, c.policy, got, c.want)
		}
	}

	t.Run("global needs no zone to say which policies there are", func(t *testing.T) {
		east.Halt(t)
		a := both(f, east, "client")[0]
		east.Until(t, "the zone is away", func() (any, bool) {
			_, err := a.try(t, "_config")
			return err, err != nil && strings.Contains(err.Error(), "zone east is not connected")
		})
		var rules mesh.InspectedRules
		a.read(t, "_rules", &rules)
		if len(rules.Rules) < 4 {
			t.Errorf("rules %+v", rules)
		}
	})
}
