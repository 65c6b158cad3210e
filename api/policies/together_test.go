package policies_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policies"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// inForce is what the default policies of a mesh put in force for an ordinary service.
func inForce(t *testing.T, p policy.Policy, protocol mesh.Protocol) policy.Effective {
	t.Helper()
	list, err := policies.Defaults("m", nil)
	if err != nil {
		t.Fatal(err)
	}
	var entries []policy.Entry
	for _, r := range list {
		if r.Type != p.Resource().Name {
			continue
		}
		parts, err := p.Parts(r)
		if err != nil {
			t.Fatal(err)
		}
		h := policy.HeadOf(p.Resource(), r, parts)
		for i, it := range parts.To {
			entries = append(entries, policy.Entry{Head: h, Index: i, Item: it})
		}
	}
	sources := policy.ForDestination(entries, policy.Target{Kind: policy.TargetService}, nil)
	return p.Effective(proxy.Outbound, string(protocol), sources)
}

// The defaults of a mesh must work together: a try leaves time for another, and grpc streams are not cut.
func TestDefaultsWorkTogether(t *testing.T) {
	byName := map[string]policy.Policy{}
	for _, p := range policies.All {
		byName[p.Resource().Name] = p
	}
	for protocol, want := range map[mesh.Protocol]string{mesh.HTTP: "15s", mesh.HTTP2: "15s", mesh.GRPC: "0s"} {
		effective := func(typ string) policy.Effective { return inForce(t, byName[typ], protocol) }
		if got := policies.Ineffective(protocol, effective); len(got) > 0 {
			t.Errorf("%s: %v", protocol, got)
		}
		if conf := policy.Project(effective("MeshTimeout").Conf, []string{"http.requestTimeout"}); conf != `{"http":{"requestTimeout":"`+want+`"}}` {
			t.Errorf("%s: request timeout is %s, want %s", protocol, conf, want)
		}
	}
}

func TestIneffective(t *testing.T) {
	effective := func(timeout, retry string) func(string) policy.Effective {
		return func(typ string) policy.Effective {
			return policy.Effective{Conf: map[string]string{"MeshTimeout": timeout, "MeshRetry": retry}[typ]}
		}
	}
	const slow = `{"http":{"numRetries":2,"perTryTimeout":"5s"},"grpc":{"perTryTimeout":"9s"}}`
	for _, c := range []struct {
		name     string
		protocol mesh.Protocol
		timeout  string
		retry    string
		want     int
	}{
		{"below", mesh.HTTP, `{"http":{"requestTimeout":"6s"}}`, slow, 0},
		{"equal", mesh.HTTP, `{"http":{"requestTimeout":"5s"}}`, slow, 1},
		{"above", mesh.HTTP2, `{"http":{"requestTimeout":"1s"}}`, slow, 1},
		{"of the other protocol", mesh.GRPC, `{"http":{"requestTimeout":"9s"}}`, slow, 1},
		{"no request timeout", mesh.GRPC, `{"http":{"requestTimeout":"0s"}}`, slow, 0},
		{"no retries", mesh.HTTP, `{"http":{"requestTimeout":"1s"}}`, `{"http":{"numRetries":0,"perTryTimeout":"5s"}}`, 0},
		{"no policy", mesh.HTTP, ``, ``, 0},
		{"bytes", mesh.TCP, `{"connectionTimeout":"1s"}`, slow, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := policies.Ineffective(c.protocol, effective(c.timeout, c.retry)); len(got) != c.want {
				t.Errorf("got %q, want %d", got, c.want)
			}
		})
	}
}

// Hashing needs a load balancer that goes by hashes, and something that the protocol has.
func TestIneffectiveHashes(t *testing.T) {
	const header, address = `{"type":"Header","header":{"name":"x"}}`, `{"type":"Connection","connection":{"sourceIP":true}}`
	conf := func(lb string, hashes ...string) string {
		return `{"loadBalancer":{"type":"` + lb + `"},"hashPolicies":[` + strings.Join(hashes, ",") + `]}`
	}
	for _, c := range []struct {
		name     string
		protocol mesh.Protocol
		conf     string
		want     string
	}{
		{"nothing", mesh.HTTP, ``, ``},
		{"requests", mesh.GRPC, conf("RingHash", header), ``},
		{"connections", mesh.TCP, conf("Maglev", header, address), ``},
		{"requests of tcp", mesh.TCP, conf("Maglev", header), `loadBalancer.type Maglev picks at random, because hashPolicies have only what requests have, and this is tcp`},
		{"nothing to hash", mesh.HTTP, conf("RingHash"), `loadBalancer.type RingHash picks at random, because no hashPolicies are set`},
		{"no hashing", mesh.HTTP2, conf("Random", header), `hashPolicies have no effect, because loadBalancer.type is neither RingHash nor Maglev`},
		{"no load balancer", mesh.HTTP, `{"hashPolicies":[` + header + `]}`, `hashPolicies have no effect, because loadBalancer.type is neither RingHash nor Maglev`},
	} {
		got := policies.Ineffective(c.protocol, func(typ string) policy.Effective {
			return policy.Effective{Conf: map[string]string{"MeshLoadBalancingStrategy": c.conf}[typ]}
		})
		if strings.Join(got, "\n") != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// A port is routed by requests or by connections, and checked by the section of its protocol.
func TestIneffectiveByProtocol(t *testing.T) {
	const requests, connections = `{"routes":[{}]}`, `{"backendRefs":[]}`
	for _, c := range []struct {
		name     string
		protocol mesh.Protocol
		confs    map[string]string
		want     string
	}{
		{"requests of a port of bytes", mesh.TCP, map[string]string{"MeshHTTPRoute": requests}, "MeshHTTPRoute: a port of protocol tcp carries no requests that could be routed; use MeshTCPRoute"},
		{"both on a port of bytes", mesh.TCP, map[string]string{"MeshHTTPRoute": requests, "MeshTCPRoute": connections}, "MeshHTTPRoute: a port of protocol tcp carries no requests that could be routed; use MeshTCPRoute"},
		{"both on a port of HTTP", mesh.HTTP, map[string]string{"MeshHTTPRoute": requests, "MeshTCPRoute": connections}, "MeshTCPRoute: the port is routed by requests, as there is a MeshHTTPRoute for it"},
		{"bytes of a port of HTTP", mesh.GRPC, map[string]string{"MeshTCPRoute": connections}, ""},
		{"checks of another protocol", mesh.HTTP2, map[string]string{"MeshHealthCheck": `{"tcp":{},"grpc":{}}`}, "nothing is checked: a port of protocol http2 needs the section http"},
		{"no checks of grpc", mesh.GRPC, map[string]string{"MeshHealthCheck": `{"http":{}}`}, "nothing is checked: a port of protocol grpc needs the section grpc"},
		{"no checks of bytes", mesh.TCP, map[string]string{"MeshHealthCheck": `{"http":{}}`}, "nothing is checked: a port of protocol tcp needs the section tcp"},
		{"checks that are switched off", mesh.HTTP, map[string]string{"MeshHealthCheck": `{"http":{"disabled":true}}`}, ""},
		{"checks by tcp instead", mesh.GRPC, map[string]string{"MeshHealthCheck": `{"grpc":{"disabled":true},"tcp":{}}`}, ""},
	} {
		got := policies.Ineffective(c.protocol, func(typ string) policy.Effective { return policy.Effective{Conf: c.confs[typ]} })
		if strings.Join(got, "\n") != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// What is said about a route adds to what is said about its service and hides nothing of it, for every policy that can speak of routes:
// each holds a part of the configuration here, and the effective one is that of both said at once.
func TestRoutesAddToServices(t *testing.T) {
	parts := map[string][2]string{ // of the service, and of the route
		"MeshTimeout": {`{http: {requestTimeout: 1s, streamIdleTimeout: 2s}}`, `{http: {requestTimeout: 3s}}`},
		"MeshRetry":   {`{http: {numRetries: 1, perTryTimeout: 2s}}`, `{http: {numRetries: 3}}`},
		"MeshLoadBalancingStrategy": {
			`{loadBalancer: {type: Maglev}, hashPolicies: [{type: Header, header: {name: x-a}}]}`, `{hashPolicies: [{type: Header, header: {name: x-b}}]}`,
		},
		"MeshAccessLog": {`{backends: [{type: File, file: {path: /a}}]}`, `{backends: [{type: File, file: {path: /b}}]}`},
	}
	kinds := resource.NewKinds(policies.Kinds()...)
	entry := func(p policy.Policy, target, conf string) []policy.Entry {
		t.Helper()
		name := p.Resource().Name
		ds, err := kinds.DecodeYAML([]byte("type: "+name+"\nmesh: m\nname: n\nspec: {to: [{targetRef: "+target+", default: "+conf+"}]}"), true)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if ps := p.Resource().Validate(ds[0].Resource); len(ps) > 0 {
			t.Fatalf("%s: %v", name, ps)
		}
		said, err := p.Parts(ds[0].Resource)
		if err != nil {
			t.Fatal(err)
		}
		return []policy.Entry{{Head: policy.HeadOf(p.Resource(), ds[0].Resource, said), Item: said.To[0]}}
	}
	for _, p := range policies.All {
		kind := p.Resource()
		if !slices.Contains(kind.Policy.ToKinds, policy.TargetHTTPRoute) {
			continue
		}
		of, ok := parts[kind.Name]
		if !ok {
			t.Errorf("%s can speak of routes, and nobody knows what it says of them", kind.Name)
			continue
		}
		service, route := entry(p, "{kind: MeshService, labels: {a: b}}", of[0]), entry(p, "{kind: MeshHTTPRoute, labels: {c: d}}", of[1])
		target, governing := policy.Target{Kind: policy.TargetService, Labels: map[string]string{"a": "b"}}, &policy.RouteTarget{Labels: map[string]string{"c": "d"}}
		effective := func(entries []policy.Entry) string {
			return p.Effective(proxy.Outbound, "http", policy.ForDestination(entries, target, governing)).Conf
		}
		both := effective(slices.Concat(route, service)) // in any order
		again := p.Effective(proxy.Outbound, "http", []policy.Sourced{service[0].Sourced(), route[0].Sourced()}).Conf
		if both != again || both == effective(service) {
			t.Errorf("%s: both say %s, the service %s, the route %s", kind.Name, both, effective(service), effective(route))
		}
	}
}

// Each policy has its manual beside it, which explains every field users can write and shows examples that are accepted.
func TestManuals(t *testing.T) {
	kinds := resource.NewKinds(policies.Kinds()...)
	for _, k := range policies.Kinds() {
		folder := strings.ToLower(strings.TrimPrefix(k.Name, "Mesh"))
		manual, err := os.ReadFile(filepath.Join(folder, "README.md"))
		if err != nil {
			t.Error(err)
			continue
		}
		source, err := os.ReadFile(filepath.Join(folder, folder+".go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, tag := range regexp.MustCompile("`json:\"([A-Za-z0-9]+)").FindAllStringSubmatch(string(source), -1) {
			if !strings.Contains(string(manual), tag[1]) {
				t.Errorf("the manual of %s does not mention %s", k.Name, tag[1])
			}
		}
		if k.Policy.HasRules && !strings.Contains(string(manual), "](../../policy/README.md)") {
			t.Errorf("the manual of %s does not say where the evaluation of rules is explained", k.Name)
		}
		examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(manual), -1)
		if len(examples) < 2 {
			t.Errorf("the manual of %s has %d examples", k.Name, len(examples))
		}
		for _, e := range examples {
			decoded, err := kinds.DecodeYAML([]byte(e[1]), true)
			if err != nil {
				t.Errorf("%s: %v in\n%s", k.Name, err, e[1])
				continue
			}
			for _, d := range decoded {
				if ps := k.Validate(d.Resource); d.Type != k.Name || len(ps) > 0 {
					t.Errorf("%s: %v in\n%s", k.Name, ps, e[1])
				}
			}
		}
	}
}
