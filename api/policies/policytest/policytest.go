// Package policytest tests one policy by files: each .txtar in testdata holds resources of the policy and what it makes of
// one element of each kind, or what is wrong with them. It compiles no proxies; package golden does, with all policies together,
// and has a real Envoy check what the hooks of each policy made.
package policytest

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"golang.org/x/tools/txtar"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// Updating says that golden files are to be rewritten.
func Updating() bool { return *update }

// Files tests a policy with every .txtar in testdata.
//
// Files named invalid_* hold conf.yaml and problems.txt. The others hold conf.yaml, the policies from any order,
// and optionally element.yaml, what they are applied to; the rest is what came out.
func Files(t *testing.T, p policy.Policy) {
	t.Helper()
	for _, c := range cases(t, "testdata") {
		t.Run(c.name, func(t *testing.T) {
			out := &txtar.Archive{Comment: c.ar.Comment}
			if c.invalid() {
				out.Files = invalid(t, p, c.ar)
			} else {
				out.Files = valid(t, p, c.ar)
			}
			settle(t, c.file, txtar.Format(c.ar), txtar.Format(out))
		})
	}
}

// Outputs lists what the hooks of a policy make of the cases in a folder, for others to judge.
func Outputs(t *testing.T, p policy.Policy, dir string) []Output {
	t.Helper()
	var out []Output
	for _, c := range cases(t, dir) {
		if c.invalid() {
			continue
		}
		for _, o := range outcomesOf(t, p, c.ar) {
			for _, m := range o.outputs {
				m.Case = c.name + o.suffix
				out = append(out, m)
			}
		}
	}
	return out
}

// A golden is one file of a folder of cases.
type golden struct {
	name, file string
	ar         *txtar.Archive
}

func (c golden) invalid() bool { return strings.HasPrefix(c.name, "invalid_") }

func cases(t *testing.T, dir string) []golden {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases in %s (%v)", dir, err)
	}
	var out []golden
	for _, file := range files {
		ar, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, golden{strings.TrimSuffix(filepath.Base(file), ".txtar"), file, ar})
	}
	return out
}

func settle(t *testing.T, file string, want, got []byte) {
	t.Helper()
	switch {
	case bytes.Equal(want, got):
	case *update:
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s differs; run with -update and read the diff. Now it is:\n%s", file, got)
	}
}

func section(ar *txtar.Archive, name string) ([]byte, bool) {
	i := slices.IndexFunc(ar.Files, func(f txtar.File) bool { return f.Name == name })
	if i < 0 {
		return nil, false
	}
	return ar.Files[i].Data, true
}

// invalid lists what is wrong with each document of conf.yaml, and what it is warned about.
func invalid(t *testing.T, p policy.Policy, ar *txtar.Archive) []txtar.File {
	t.Helper()
	conf, _ := section(ar, "conf.yaml")
	trees, err := resource.ParseYAML(conf)
	if err != nil {
		t.Fatal(err)
	}
	kinds := resource.NewKinds(p.Resource())
	var out strings.Builder
	for i, tree := range trees {
		if i > 0 {
			out.WriteString("\n")
		}
		d, err := kinds.DecodeTree(tree, true)
		if err != nil {
			fmt.Fprintf(&out, "%s\n", strings.ReplaceAll(err.Error(), "; spec", "\nspec"))
			continue
		}
		found := p.Resource().Validate(d.Resource)
		for _, problem := range found {
			fmt.Fprintf(&out, "%s\n", problem)
		}
		warnings := p.Resource().Warn(d.Resource)
		for _, w := range warnings {
			fmt.Fprintf(&out, "warning: %s\n", w)
		}
		if len(found)+len(warnings) == 0 {
			t.Errorf("nothing is wrong with document %d", i+1)
		}
	}
	return []txtar.File{{Name: "conf.yaml", Data: conf}, {Name: "problems.txt", Data: []byte(out.String())}}
}

// An element says what policies are applied to.
type element struct {
	// Direction is outbound (default) or inbound.
	Direction proxy.Direction `json:"direction"`
	// Protocol of the port. Default http.
	Protocol mesh.Protocol `json:"protocol"`
	// Kind, Labels and Port of the destination. Default MeshService backend, port 8080.
	Kind   string            `json:"kind"`
	Labels map[string]string `json:"labels"`
	Port   string            `json:"port"`
	// Route holds the labels of the MeshHTTPRoute that the route comes from. Default none.
	Route map[string]string `json:"route"`
	// Backends maps the display names of backends that exist to clusters.
	Backends map[string]string `json:"backends"`
	// Role is what the proxy is there for, as its agent is told. Default sidecar.
	Role proxy.Role `json:"role"`
	// Collectors maps the display names of collectors that exist to how they are reached.
	Collectors map[string]mesh.MeshOpenTelemetryBackend `json:"collectors"`
	// Plaintext says that an inbound does not ask for mesh TLS.
	Plaintext bool `json:"plaintext"`
	// Egress says that a cluster is that of an egress, whose endpoints are those of an external service itself.
	Egress bool `json:"egress"`
}

func (e element) withDefaults() element {
	if e.Direction == "" {
		e.Direction = proxy.Outbound
	}
	if e.Protocol == "" {
		e.Protocol = mesh.HTTP
	}
	if e.Kind == "" {
		e.Kind = policy.TargetService
	}
	if e.Labels == nil {
		e.Labels = map[string]string{resource.LabelDisplayName: "backend"}
	}
	if e.Port == "" {
		e.Port = "8080"
	}
	return e
}

func valid(t *testing.T, p policy.Policy, ar *txtar.Archive) []txtar.File {
	t.Helper()
	var out []txtar.File
	for _, name := range []string{"conf.yaml", "element.yaml"} {
		if b, ok := section(ar, name); ok {
			out = append(out, txtar.File{Name: name, Data: b})
		}
	}
	for _, o := range outcomesOf(t, p, ar) {
		out = append(out, txtar.File{Name: "effective.yaml" + o.suffix, Data: explain(t, o.effective)})
		for _, m := range o.outputs {
			out = append(out, txtar.File{Name: string(m.Hook) + ".yaml" + o.suffix, Data: render(t, m.Messages)})
		}
	}
	return out
}

// An outcome is the effective configuration of an element and what each hook makes of a bare one of its kind.
type outcome struct {
	suffix    string // names the clients that it is for
	effective policy.Effective
	outputs   []Output
}

// An Output is what one hook made in one case: clusters, routes, connection managers, TCP proxies or filters.
type Output struct {
	Case     string
	Hook     policy.HookName
	Messages []proto.Message
}

// outcomesOf applies the policies of a case to its element: for outbound traffic there is one outcome, for received traffic one
// for each kind of client.
func outcomesOf(t *testing.T, p policy.Policy, ar *txtar.Archive) []outcome {
	t.Helper()
	var e element
	conf, _ := section(ar, "conf.yaml")
	if b, ok := section(ar, "element.yaml"); ok {
		if err := yaml.UnmarshalStrict(b, &e); err != nil {
			t.Fatal(err)
		}
	}
	e = e.withDefaults()
	if p.ProxyWide() {
		return []outcome{e.outcome(t, p, proxyWide(t, p, conf), "")}
	}
	entries := Entries(t, p, conf)
	if e.Direction == proxy.Inbound {
		var out []outcome
		for _, c := range clients(p, entries) {
			suffix := ""
			if !c.Match.IsZero() {
				suffix = " for " + name(c.Match)
			}
			out = append(out, e.outcome(t, p, c.Sources, suffix))
		}
		return out
	}
	var route *policy.RouteTarget
	if e.Route != nil {
		route = &policy.RouteTarget{Labels: e.Route}
	}
	sources := policy.ForDestination(entries, policy.Target{Kind: e.Kind, Labels: e.Labels, Port: e.Port}, route)
	return []outcome{e.outcome(t, p, sources, "")}
}

// clients are the rules as the policy wants them.
func clients(p policy.Policy, entries []policy.Entry) []policy.ClientConf {
	if p.HoldsEachRule() {
		return policy.EveryRule(entries)
	}
	return policy.ForInbound(entries)
}

// find is a collector by its display name.
func (e element) find(kind string, labels map[string]string) (policy.Found, bool) {
	name := labels[resource.LabelDisplayName]
	c, ok := e.Collectors[name]
	if !ok || kind != mesh.TypeMeshOTelBackend {
		return policy.Found{}, false
	}
	return policy.Found{KRI: resource.KRI{Short: "motb", Mesh: "default", Name: name}, Resource: resource.Resource{Spec: &c}}, true
}

func name(m policy.Match) string {
	var parts []string
	if m.SpiffeID != nil {
		parts = append(parts, m.SpiffeID.Type, m.SpiffeID.Value)
	}
	if m.SNI != nil {
		parts = append(parts, m.SNI.Value)
	}
	return strings.Join(parts, " ")
}

// Entries decodes and validates policies, and returns what they say, weakest policy first.
func Entries(t *testing.T, p policy.Policy, conf []byte) []policy.Entry {
	t.Helper()
	var out []policy.Entry
	for _, d := range decode(t, p, conf) {
		for i, it := range d.parts.To {
			out = append(out, policy.Entry{Head: d.head, Index: i, Item: it})
		}
		for i, it := range d.parts.Rules {
			out = append(out, policy.Entry{Head: d.head, Index: i, Item: it, Inbound: true})
		}
	}
	return out
}

// proxyWide is what policies say about the proxy as a whole, weakest first.
func proxyWide(t *testing.T, p policy.Policy, conf []byte) []policy.Sourced {
	t.Helper()
	var out []policy.Sourced
	for _, d := range decode(t, p, conf) {
		if d.parts.Default != nil {
			out = append(out, policy.Sourced{Policy: d.head.KRI, Conf: d.parts.Default})
		}
	}
	return out
}

type document struct {
	head  policy.Head
	parts policy.Parts
}

// decode reads and validates policies, and orders them from the weakest to the strongest.
func decode(t *testing.T, p policy.Policy, conf []byte) []document {
	t.Helper()
	kind := p.Resource()
	decoded, err := resource.NewKinds(kind).DecodeYAML(conf, true)
	if err != nil {
		t.Fatal(err)
	}
	var out []document
	for _, d := range decoded {
		if ps := kind.Validate(d.Resource); len(ps) > 0 {
			t.Fatal(ps)
		}
		parts, err := p.Parts(d.Resource)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, document{policy.HeadOf(kind, d.Resource, parts), parts})
	}
	slices.SortStableFunc(out, func(a, b document) int { return policy.CompareHeads(a.head, b.head) })
	return out
}

// A Failer is what Exercise reports to: a test, or one try of a property.
type Failer interface {
	Helper()
	Fatal(args ...any)
	Errorf(format string, args ...any)
}

// Exercise applies one valid policy to elements of every direction and protocol, and fails when what comes out is not valid for Envoy.
func Exercise(t Failer, p policy.Policy, r resource.Resource) {
	t.Helper()
	parts, err := p.Parts(r)
	if err != nil {
		t.Fatal(err)
	}
	h := policy.HeadOf(p.Resource(), r, parts)
	var entries []policy.Entry
	for i, it := range parts.Rules {
		entries = append(entries, policy.Entry{Head: h, Index: i, Item: it, Inbound: true})
	}
	for _, protocol := range []mesh.Protocol{mesh.HTTP, mesh.HTTP2, mesh.GRPC, mesh.TCP} {
		for _, c := range clients(p, entries) {
			element{Direction: proxy.Inbound, Protocol: protocol}.exercise(t, p, c.Sources)
		}
		for i, it := range parts.To {
			source := policy.Entry{Head: h, Index: i, Item: it}.Sourced()
			for _, backends := range []map[string]string{nil, backendsOf(it.Conf)} {
				e := element{Protocol: protocol, Kind: it.Target.KindOrMesh(), Backends: backends}
				e.exercise(t, p, []policy.Sourced{source})
			}
		}
		if parts.Default != nil {
			source := []policy.Sourced{{Policy: h.KRI, Conf: parts.Default}}
			element{Direction: proxy.Inbound, Protocol: protocol}.exercise(t, p, source)
			element{Protocol: protocol}.exercise(t, p, source)
		}
	}
}

// backendsOf makes a cluster for every backend with a display name that is mentioned anywhere in a configuration.
func backendsOf(v any) map[string]string {
	out := map[string]string{}
	switch v := v.(type) {
	case map[string]any:
		if name, ok := v[resource.LabelDisplayName].(string); ok {
			out[name] = "cluster"
		}
		for _, e := range v {
			maps.Copy(out, backendsOf(e))
		}
	case []any:
		for _, e := range v {
			maps.Copy(out, backendsOf(e))
		}
	}
	return out
}

func (e element) outcome(t Failer, p policy.Policy, sources []policy.Sourced, suffix string) outcome {
	t.Helper()
	out := outcome{suffix: suffix, effective: p.Effective(e.Direction, string(e.Protocol), sources)}
	out.effective.Conf = p.Linked(out.effective.Conf, e.find)
	for _, h := range []policy.HookName{
		policy.HookCluster, policy.HookRoutes, policy.HookRoute, policy.HookHTTP, policy.HookTCP, policy.HookSplit,
		policy.HookHTTPFilters, policy.HookNetworkFilters, policy.HookClientFilters, policy.HookResources, policy.HookAgent, policy.HookLogs,
	} {
		fields, ok := p.Fields(h)
		projected := policy.Project(out.effective.Conf, fields)
		if !ok || projected == "" || suffix != "" && h != policy.HookRoute && h != policy.HookClientFilters {
			continue
		}
		bound, err := p.Bind(projected)
		if err != nil {
			t.Fatal(err)
		}
		if msgs := e.apply(h, bound); len(msgs) > 0 {
			out.outputs = append(out.outputs, Output{Hook: h, Messages: msgs})
		}
	}
	return out
}

// exercise fails when what comes out for an element breaks the rules of its own protobufs.
func (e element) exercise(t Failer, p policy.Policy, sources []policy.Sourced) {
	t.Helper()
	for _, o := range e.withDefaults().outcome(t, p, sources, "").outputs {
		render(t, o.Messages)
	}
}

// explain shows the configuration and, field by field, where it comes from.
func explain(t Failer, e policy.Effective) []byte {
	t.Helper()
	if e.Conf == "" {
		return []byte("# nothing\n")
	}
	conf, err := yaml.JSONToYAML([]byte(e.Conf))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	b.Write(conf)
	for _, o := range e.Origins {
		if !o.Policy.IsZero() {
			fmt.Fprintf(&b, "# %s: %s[%d]\n", o.Field, o.Policy.Name, o.Index)
		}
	}
	return b.Bytes()
}

func (e element) apply(h policy.HookName, b policy.Bound) []proto.Message {
	const name = "element"
	listener := proxy.Listener{Direction: e.Direction, Name: name, Protocol: e.Protocol, MTLS: e.Direction == proxy.Inbound && !e.Plaintext}
	destination := e.destination()
	if e.Direction == proxy.Outbound {
		listener.Destination = destination
	}
	http := e.Protocol.IsHTTP()
	switch {
	case h == policy.HookCluster:
		m := e.cluster()
		b.Cluster(proxy.Cluster{Direction: e.Direction, Name: name, Protocol: e.Protocol, Destination: listener.Destination, Egress: e.Egress}, m)
		return []proto.Message{m}
	case h == policy.HookRoutes && http:
		var out []proto.Message
		for _, r := range b.Routes(destination, e.resolve) {
			out = append(out, r.Route)
		}
		return out
	case h == policy.HookRoute && http:
		m := &routev3.Route{
			Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: name}}},
		}
		b.Route(proxy.Route{Direction: e.Direction, Name: name, Protocol: e.Protocol}, m)
		return []proto.Message{m}
	case h == policy.HookHTTP && http:
		m := &hcmv3.HttpConnectionManager{StatPrefix: name, RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{}}}
		b.HTTP(listener, m)
		return []proto.Message{m}
	case h == policy.HookTCP && !http:
		m := &tcpproxyv3.TcpProxy{StatPrefix: name, ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: name}}
		b.TCP(listener, m)
		return []proto.Message{m}
	case h == policy.HookSplit:
		m := &tcpproxyv3.TcpProxy{StatPrefix: name, ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: name}}
		policy.Divide(m, b.Split(destination, e.resolve))
		return []proto.Message{m}
	case h == policy.HookClientFilters && http:
		var out []proto.Message
		for _, m := range b.ClientFilters(listener) {
			out = append(out, &corev3.TypedExtensionConfig{Name: name, TypedConfig: policy.Pack(m)})
		}
		return out
	case h == policy.HookHTTPFilters && http:
		return configs(b.HTTPFilters(listener))
	case h == policy.HookNetworkFilters:
		return configs(b.NetworkFilters(listener))
	case h == policy.HookAgent:
		return []proto.Message{b.Agent(e.agent())}
	case h == policy.HookLogs:
		var out []proto.Message
		for _, l := range b.Logs(listener) {
			out = append(out, l)
		}
		return out
	case h == policy.HookResources:
		return additions(b.Resources(proxy.Self{Identity: !e.Plaintext, Transparent: true}))
	}
	return nil
}

// agent is a proxy whose workload listens on port 8080 of loopback.
func (e element) agent() proxy.Agent {
	a := proxy.Agent{Mesh: "default", Zone: "east", Name: "web-1", Workload: "web", Role: proxy.Sidecar, Address: "192.0.2.1"}
	if e.Role != "" {
		a.Role = e.Role
	}
	a.Serves = func(port uint32) string {
		if port == 8080 {
			return "127.0.0.1"
		}
		return a.Address
	}
	return a
}

func additions(list []policy.Addition) []proto.Message {
	var out []proto.Message
	for _, a := range list {
		if a.Cluster != nil {
			out = append(out, a.Cluster)
		}
		if a.Listener != nil {
			out = append(out, a.Listener)
		}
		if a.Routes != nil {
			out = append(out, a.Routes)
		}
	}
	return out
}

func configs(filters []policy.Filter) []proto.Message {
	var out []proto.Message
	for _, f := range filters {
		out = append(out, &corev3.TypedExtensionConfig{Name: f.Name, TypedConfig: policy.Pack(f.Config)})
	}
	return out
}

func (e element) destination() proxy.Destination {
	short := map[string]string{policy.TargetService: "msvc", policy.TargetMultiZone: "mzsvc", policy.TargetExternal: "extsvc"}[e.Kind]
	return proxy.Destination{
		KRI:  resource.KRI{Short: short, Mesh: "default", Name: e.Labels[resource.LabelDisplayName], Section: e.Port},
		Type: e.Kind, Port: 8080, Protocol: e.Protocol,
	}
}

func (e element) resolve(b policy.BackendRef) (string, bool) {
	c, ok := e.Backends[b.Labels[resource.LabelDisplayName]]
	return c, ok
}

// cluster is as bare as the translation hands it to policies.
func (e element) cluster() *clusterv3.Cluster {
	m := &clusterv3.Cluster{Name: "element", ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}}
	if e.Protocol.IsHTTP() {
		policy.EditHTTPOptions(m, func(o *httpv3.HttpProtocolOptions) {
			o.GetExplicitHttpConfig().ProtocolConfig = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
				Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
			}
		})
	}
	return m
}

// render prints messages as YAML, after they passed the rules of their own protobufs.
func render(t Failer, msgs []proto.Message) []byte {
	t.Helper()
	var out bytes.Buffer
	for i, m := range msgs {
		validate(t, m)
		if ext, ok := m.(*corev3.TypedExtensionConfig); ok {
			inner, err := ext.TypedConfig.UnmarshalNew()
			if err != nil {
				t.Fatal(err)
			}
			validate(t, inner)
		}
		j, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		y, err := yaml.JSONToYAML(j)
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			out.WriteString("---\n")
		}
		out.Write(y)
	}
	return out.Bytes()
}

func validate(t Failer, m proto.Message) {
	t.Helper()
	if v, ok := m.(interface{ ValidateAll() error }); ok {
		if err := v.ValidateAll(); err != nil {
			t.Errorf("not a valid %T: %v", m, err)
		}
	}
}
