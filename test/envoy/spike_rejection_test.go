package envoy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacconfv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// family is one type of resources: how to make the one called name at a generation, and which
// generation Envoy runs.
type family struct {
	typeURL string
	make    func(name string, generation int) proto.Message
	running func(t testing.TB, p *proxy) map[string]int
}

// trial is one way to spoil a resource and what Envoy 1.40 makes of a response that holds it.
type trial struct {
	what    string
	family  string
	spoil   func(proto.Message)
	text    string // pattern of the refusal
	named   bool   // the refusal names the culprit
	applied string // siblings that are applied: "all", "none" or "some", which is those Envoy met before the culprit
}

const siblings = 12

func siblingName(i int) string { return fmt.Sprintf("sibling-%02d", i) }

// stage is an Envoy with twelve resources of each type.
type stage struct {
	families map[string]family
	first    everything
}

func newStage(t testing.TB, upstream uint32, authority []byte) *stage {
	ports := map[string]uint32{}
	for i := range siblings {
		ports[siblingName(i)] = freePort(t)
	}
	g := &stage{families: map[string]family{
		"CDS": {resourcev3.ClusterType, func(name string, generation int) proto.Message {
			c := edsCluster(name, 2*time.Second)
			c.ConnectTimeout = durationpb.New(time.Duration(generation) * time.Second)
			c.TransportSocket = &corev3.TransportSocket{Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{
				TypedConfig: packed(t, upstreamTLS(name, fromADS(2*time.Second))),
			}}
			return c
		}, dumped("dynamic_active_clusters", "version_info")},
		"EDS": {resourcev3.EndpointType, func(name string, generation int) proto.Message {
			return assignment(name, uint32(generation))
		}, func(t testing.TB, p *proxy) map[string]int {
			out := map[string]int{}
			for _, m := range regexp.MustCompile(`(?m)^(sibling-\d+)::[^:]+:(\d+)::cx_active`).FindAllStringSubmatch(p.mustGet(t, "/clusters"), -1) {
				out[m[1]] = number(t, m[2])
			}
			return out
		}},
		"LDS": {resourcev3.ListenerType, func(name string, generation int) proto.Message {
			l := listener(name, ports[name], httpChain(t, connectionManager(t, name, discovered(name))))
			l.ListenerFiltersTimeout = durationpb.New(time.Duration(generation) * time.Second)
			return l
		}, dumped("dynamic_listeners", "active_state", "version_info")},
		"RDS": {resourcev3.RouteType, func(name string, generation int) proto.Message {
			r := routes(name, "upstream")
			r.VirtualHosts[0].Routes[0].Name = fmt.Sprint(generation)
			return r
		}, dumped("dynamic_route_configs", "version_info")},
		"ECDS": {resourcev3.ExtensionConfigType, func(name string, generation int) proto.Message {
			c := rbac(t, name, anyone())
			c.TypedConfig = packed(t, &rbacv3.RBAC{Rules: rbacRules(anyone()), ShadowRulesStatPrefix: fmt.Sprint(generation)})
			return c
		}, dumped("ecds_filters", "version_info")},
		"SDS": {resourcev3.SecretType, func(name string, generation int) proto.Message {
			s := trustSecret(name, authority)
			s.GetValidationContext().MaxVerifyDepth = uint32Value(uint32(generation))
			return s
		}, dumped("dynamic_active_secrets", "version_info")},
	}}
	for i := range siblings {
		name := siblingName(i)
		for kind, list := range map[string]*[]proto.Message{
			"CDS": &g.first.clusters, "EDS": &g.first.endpoints, "LDS": &g.first.listeners,
			"RDS": &g.first.routes, "ECDS": &g.first.extensions, "SDS": &g.first.secrets,
		} {
			*list = append(*list, g.families[kind].make(name, 1))
		}
	}
	g.first.clusters = append(g.first.clusters, staticCluster("upstream", upstream))
	return g
}

func number(t testing.TB, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// dumped reads the generation of each sibling from a config dump.
func dumped(resource string, path ...string) func(testing.TB, *proxy) map[string]int {
	return func(t testing.TB, p *proxy) map[string]int {
		out := map[string]int{}
		for _, c := range p.dump(t, resource) {
			name := regexp.MustCompile(`sibling-\d\d`).FindString(fmt.Sprint(c["name"], dig(c, "cluster", "name"),
				dig(c, "route_config", "name"), dig(c, "ecds_filter", "name")))
			if name == "" {
				continue
			}
			if v, ok := dig(c, path...).(string); ok {
				out[name] = number(t, v)
			}
		}
		return out
	}
}

func dig(v any, path ...string) any {
	for _, key := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[key]
	}
	return v
}

func trials(t testing.TB) []trial {
	// The marker and the spaces after it differ from one Envoy process to the next.
	const debug = `(?s)^goo\.gle/debug\w+\s+\n`
	badRegex := &matcherv3.RegexMatcher{Regex: "("}
	return []trial{
		// By the rules of the protobufs, the message as a whole is refused while it is decoded.
		{
			"CDS by rule", "CDS", func(m proto.Message) { m.(*clusterv3.Cluster).ConnectTimeout = durationpb.New(0) },
			debug + `name: "CULPRIT"\n.*\(ClusterValidationError\.ConnectTimeout: value must be greater than 0s\)$`, true, "none",
		},
		{
			"LDS by rule", "LDS", func(m proto.Message) { m.(*listenerv3.Listener).FilterChains[0].Filters[0].Name = "" },
			debug + `name: "CULPRIT"\n.*FilterValidationError\.Name: value length must be at least 1 characters\)$`, true, "none",
		},
		{
			"EDS by rule", "EDS", func(m proto.Message) { m.(*endpointv3.ClusterLoadAssignment).Endpoints[0].Priority = 129 },
			debug + `cluster_name: "CULPRIT"\n.*LocalityLbEndpointsValidationError\.Priority: value must be less than or equal to 128\)$`, true, "none",
		},
		{
			"RDS by rule", "RDS", func(m proto.Message) { m.(*routev3.RouteConfiguration).VirtualHosts[0].Domains = nil },
			debug + `name: "CULPRIT"\n.*VirtualHostValidationError\.Domains: value must contain at least 1 item\(s\)\)$`, true, "none",
		},
		{"SDS by rule", "SDS", func(m proto.Message) {
			m.(*tlsv3.Secret).GetValidationContext().MatchTypedSubjectAltNames = []*tlsv3.SubjectAltNameMatcher{{}}
		}, debug + `name: "CULPRIT"\n.*SubjectAltNameMatcherValidationError\.SanType: value must not be in list \[SAN_TYPE_UNSPECIFIED\]\)$`, true, "none"},

		// A message packed in another one is checked when it is used: as by meaning.
		{"LDS by rule of a filter", "LDS", func(m proto.Message) {
			h := connectionManager(t, "routes")
			h.StatPrefix = ""
			m.(*listenerv3.Listener).FilterChains = []*listenerv3.FilterChain{httpChain(t, h)}
		}, `(?s)^Error adding/updating listener\(s\) CULPRIT: goo\.gle/debug.*HttpConnectionManagerValidationError\.StatPrefix: .*\)\n$`, true, "all"},
		{"ECDS by rule of its filter", "ECDS", func(m proto.Message) {
			m.(*corev3.TypedExtensionConfig).TypedConfig = packed(t, &rbacv3.RBAC{Rules: rbacRules(&rbacconfv3.Policy{})})
		}, debug + `rules \{.*PolicyValidationError\.Permissions: value must contain at least 1 item\(s\)\)$`, false, "some"},

		{
			"CDS by meaning", "CDS", func(m proto.Message) { badCluster(m.(*clusterv3.Cluster)) },
			`^Error adding/updating cluster\(s\) CULPRIT: eds_cluster_config set in a non-EDS cluster$`, true, "all",
		},
		{
			"LDS by meaning", "LDS", func(m proto.Message) { m.(*listenerv3.Listener).FilterChains = nil },
			`^Error adding/updating listener\(s\) CULPRIT: error adding listener '[0-9.:]+': no filter chains specified\n$`, true, "all",
		},
		{"EDS by meaning", "EDS", func(m proto.Message) {
			m.(*endpointv3.ClusterLoadAssignment).Endpoints[0].LbEndpoints[0].GetEndpoint().Address = socketAddress("a-name", 1)
		}, `^malformed IP address: a-name\. Consider setting resolver_name or setting cluster type to 'STRICT_DNS' or 'LOGICAL_DNS'$`, false, "some"},
		{"RDS by meaning", "RDS", func(m proto.Message) {
			m.(*routev3.RouteConfiguration).VirtualHosts[0].Routes[0].Match.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: badRegex}
		}, `^missing \): \($`, false, "some"},
		{"ECDS by meaning", "ECDS", func(m proto.Message) {
			m.(*corev3.TypedExtensionConfig).TypedConfig = packed(t, &rbacv3.RBAC{Rules: rbacRules(onlyHeader(badRegex))})
		}, `^missing \): \($`, false, "some"},
		{"SDS by meaning", "SDS", func(m proto.Message) {
			m.(*tlsv3.Secret).GetValidationContext().TrustedCa = inline([]byte("no certificate"))
		}, `^Failed to load trusted CA certificates from <inline>$`, false, "some"},
	}
}

// One bad resource among twelve: which of its siblings are applied, what the refusal says, and what
// Envoy claims to have when it connects again.
func TestSpikeOneBadResourceAtUpdate(t *testing.T) {
	t.Parallel()
	server, p, s := start(t)
	g := newStage(t, echo(t, "upstream"), newAuthority(t, "any").pem)
	s.boot(t, p, g.first)
	generation := 1
	for _, c := range trials(t) {
		f := g.families[c.family]
		skipped := false
		// Envoy walks the siblings in an order of its own; twenty rounds never all end with the culprit.
		for round := 0; round == 0 || c.applied == "some" && !skipped && round < 20; round++ {
			generation++
			culprit := siblingName((round*5 + 3) % siblings)
			before := f.running(t, p)
			batch := g.generation(c.family, generation)
			for _, r := range batch {
				if r.name == culprit {
					c.spoil(r.message)
				}
			}
			nonce := s.send(t, f.typeURL, nil, batch...)
			if c.family == "CDS" {
				s.send(t, resourcev3.EndpointType, nil, g.generation("EDS", 1)...)
			}
			text := s.answer(t, nonce)
			if want := strings.ReplaceAll(c.text, "CULPRIT", culprit); !regexp.MustCompile(want).MatchString(text) {
				t.Fatalf("%s: refused with\n%q\nwant %s", c.what, text, want)
			}
			t.Logf("%s: %q", c.what, text)
			var wantSuspects []string
			if c.named {
				wantSuspects = []string{culprit}
			}
			if got := suspects(text, batch); !slices.Equal(got, wantSuspects) {
				t.Errorf("%s: suspects %v, want %v", c.what, got, wantSuspects)
			}

			after := f.running(t, p)
			applied := 0
			for name, v := range after {
				switch {
				case name == culprit:
					// The dump shows the refused version of extensions and secrets, which do not run it.
					if c.family != "ECDS" && c.family != "SDS" && v != before[name] {
						t.Errorf("%s: the culprit runs generation %d", c.what, v)
					}
				case v == generation:
					applied++
				case v != before[name]:
					t.Errorf("%s: %s runs generation %d", c.what, name, v)
				}
			}
			t.Logf("%s: %d of %d siblings applied", c.what, applied, siblings-1)
			skipped = applied < siblings-1
			if c.applied == "all" && skipped || c.applied == "none" && applied > 0 {
				t.Errorf("%s: %d of %d siblings applied, want %s", c.what, applied, siblings-1, c.applied)
			}
			if len(after) != siblings {
				t.Errorf("%s: %d resources after a refusal, want %d", c.what, len(after), siblings)
			}

			// No version of a refused response counts, not even those of the siblings that run.
			s.cut()
			s = server.accept(t)
			claimed := s.first(t, f.typeURL).InitialResourceVersions
			for _, r := range batch {
				if claimed[r.name] != "1" {
					t.Errorf("%s: on reconnect Envoy claims version %q of %s, which was never acknowledged", c.what, claimed[r.name], r.name)
				}
			}
		}
		if c.applied == "some" && !skipped {
			t.Errorf("%s: the siblings were applied in all rounds", c.what)
		}
		// The next response brings everybody to the same generation, and back to what was acknowledged.
		s.restore(t, g, c.family)
		for name, v := range f.running(t, p) {
			if v != 1 {
				t.Errorf("%s: %s runs generation %d after the first was sent again", c.what, name, v)
			}
		}
	}
}

func (g *stage) generation(kind string, n int) (out []res) {
	for i := range siblings {
		name := siblingName(i)
		out = append(out, res{name: name, version: fmt.Sprint(n), message: g.families[kind].make(name, n)})
	}
	return out
}

// restore sends the first generation of one type again.
func (s *stream) restore(t testing.TB, g *stage, kind string) {
	t.Helper()
	nonce := s.send(t, g.families[kind].typeURL, nil, g.generation(kind, 1)...)
	if kind == "CDS" {
		s.send(t, resourcev3.EndpointType, nil, g.generation("EDS", 1)...)
	}
	if nack := s.answer(t, nonce); nack != "" {
		t.Fatalf("%s: first generation refused: %s", kind, nack)
	}
}

// suspects are the resources of a refused response that its refusal names. Envoy's text is not made for
// machines, so that only names which were sent count, at the four places where Envoy puts them.
func suspects(text string, sent []res) (out []string) {
	for _, r := range sent {
		quoted := regexp.QuoteMeta(r.name)
		for _, place := range []string{
			`^Error adding/updating (?:cluster|listener)\(s\) (?:.*(?:, |\n))?` + quoted + `: `,
			`^goo\.gle/debug\w+\s*\n(?:cluster_)?name: "` + quoted + `"\n`,
			`^duplicate name ` + quoted + ` found among added/updated resources`,
			`^Unexpected (?:RDS configuration|EDS cluster) \(expecting ` + quoted + `\): `,
		} {
			if regexp.MustCompile(`(?s)` + place).MatchString(text) {
				out = append(out, r.name)
				break
			}
		}
	}
	return out
}

// Several culprits, and responses that are wrong as a whole.
func TestSpikeOtherRefusals(t *testing.T) {
	t.Parallel()
	_, p, s := start(t)
	port := freePort(t)
	s.boot(t, p, oneService(t, port, echo(t, "upstream"), 2*time.Second))
	bad := func(name string) *clusterv3.Cluster { return badCluster(staticCluster(name)) }
	wrongType := res{"svc", "2", routes("svc", "svc")}
	for _, c := range []struct {
		what     string
		typeURL  string
		sent     []res
		text     string
		suspects []string
	}{
		{
			"two bad clusters", resourcev3.ClusterType, v1(bad("a"), staticCluster("ok", 1), bad("b")),
			`^Error adding/updating cluster\(s\) a: eds_cluster_config set in a non-EDS cluster, b: eds_cluster_config set in a non-EDS cluster$`,
			[]string{"a", "b"},
		},
		{
			"two bad listeners", resourcev3.ListenerType, v1(listener("a", 1), listener("b", 1)),
			`^Error adding/updating listener\(s\) a: error adding listener '.*': no filter chains specified\nb: error adding listener '.*': no filter chains specified\n$`,
			[]string{"a", "b"},
		},
		{
			"a listener on an address in use", resourcev3.ListenerType,
			v1(listener("taken", echo(t, "other"), httpChain(t, connectionManager(t, "routes")))),
			`^Error adding/updating listener\(s\) taken: cannot bind '.*': Address already in use\n$`,
			[]string{"taken"},
		},
		{
			"a name twice", resourcev3.ClusterType, v1(staticCluster("ok", 1), staticCluster("ok", 1)),
			`^duplicate name ok found among added/updated resources$`,
			[]string{"ok", "ok"},
		},
		{
			"routes under another name", resourcev3.RouteType,
			[]res{{"routes", "2", routes("other", "svc")}},
			`^Unexpected RDS configuration \(expecting routes\): other$`,
			[]string{"routes"},
		},
		{
			"endpoints under another name", resourcev3.EndpointType,
			[]res{{"svc", "2", assignment("other", 1)}},
			`^Unexpected EDS cluster \(expecting svc\): other$`,
			[]string{"svc"},
		},
		{
			"a message of another type", resourcev3.ClusterType,
			[]res{wrongType},
			`(?s)^type URL .*RouteConfiguration embedded in an individual Any does not match the message-wide type URL .*Cluster in DeltaDiscoveryResponse goo\.gle/debug`, nil,
		},

		// What Envoy acknowledges although it is of no use.
		{"a cluster under another name", resourcev3.ClusterType, []res{{"other", "2", staticCluster("real", 1)}}, `^$`, nil},
		{"routes nobody asked for", resourcev3.RouteType, v1(routes("nobody", "svc")), `^$`, nil},
		{"routes to a missing cluster", resourcev3.RouteType, versioned("3", routes("routes", "missing")), `^$`, nil},
		{"priorities with a gap", resourcev3.EndpointType, versioned("3", edited(assignment("svc", 1), func(a *endpointv3.ClusterLoadAssignment) {
			a.Endpoints[0].Priority = 7
		})), `^$`, nil},
	} {
		text := s.answer(t, s.send(t, c.typeURL, nil, c.sent...))
		if !regexp.MustCompile(c.text).MatchString(text) {
			t.Errorf("%s: %q, want %s", c.what, text, c.text)
		}
		if got := suspects(text, c.sent); !slices.Equal(got, c.suspects) {
			t.Errorf("%s: suspects %v, want %v", c.what, got, c.suspects)
		}
	}
	garbage := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: resourcev3.ClusterType, Nonce: "garbage", Resources: []*discoveryv3.Resource{{
		Name: "svc", Version: "9", Resource: &anypb.Any{TypeUrl: resourcev3.ClusterType, Value: []byte{0xff, 0xff}},
	}}}
	if err := s.g.Send(garbage); err != nil {
		t.Fatal(err)
	}
	if text := s.answer(t, "garbage"); !strings.HasPrefix(text, "Unable to unpack as envoy.config.cluster.v3.Cluster: goo.gle/debug") {
		t.Errorf("bytes that are no cluster: %q", text)
	}
	unknown := listener("new", freePort(t), &listenerv3.FilterChain{Filters: []*listenerv3.Filter{{
		Name: "filter", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: &anypb.Any{TypeUrl: "type.googleapis.com/none.Such"}},
	}}})
	text := s.answer(t, s.send(t, resourcev3.ListenerType, nil, v1(unknown)...))
	if want := "Error adding/updating listener(s) new: Didn't find a registered implementation for 'filter' with type URL: 'none.Such'\n"; text != want {
		t.Errorf("a filter that Envoy does not have: %q", text)
	}
	// Envoy keeps the refused listener for its dump, which then fails as a whole.
	if body := p.mustGet(t, "/config_dump?resource=dynamic_listeners"); json.Valid([]byte(body)) {
		t.Errorf("the dump works with an unknown filter: %s", body)
	}
	if code, _, err := fetch(client(t), port, "/"); code != http.StatusServiceUnavailable {
		t.Errorf("routes to a missing cluster answer %d %v", code, err)
	}
}

// At first configuration a refusal also ends the wait of all that it concerns: Envoy goes live and the
// siblings that were not applied are served without their configuration until they are sent again.
func TestSpikeOneBadResourceAtFirst(t *testing.T) {
	t.Parallel()
	_, p, s := start(t)
	g := newStage(t, echo(t, "upstream"), newAuthority(t, "any").pem)
	s.first(t, resourcev3.ClusterType)
	refused := func(kind string, spoil func(proto.Message)) {
		t.Helper()
		batch := g.generation(kind, 1)
		spoil(batch[5].message)
		if text := s.answer(t, s.send(t, g.families[kind].typeURL, nil, batch...)); text == "" {
			t.Fatalf("%s was not refused", kind)
		}
	}
	byMeaning := map[string]trial{}
	for _, c := range trials(t) {
		if strings.HasSuffix(c.what, "by meaning") {
			byMeaning[c.family] = c
		}
	}
	s.push(t, resourcev3.ClusterType, v1(g.first.clusters...)...)
	for i := range siblings {
		s.subscribed(t, resourcev3.EndpointType, siblingName(i))
	}
	refused("EDS", byMeaning["EDS"].spoil)
	// Envoy asks for the secrets of an EDS cluster only when its endpoints have come or were refused.
	for i := range siblings {
		s.subscribed(t, resourcev3.SecretType, siblingName(i))
	}
	refused("SDS", byMeaning["SDS"].spoil)
	// Clusters without endpoints or secrets are active all the same: Envoy goes on to its listeners.
	s.first(t, resourcev3.ListenerType)
	p.untilStat(t, "cluster_manager.active_clusters", siblings+2)

	s.push(t, resourcev3.ListenerType, v1(g.first.listeners...)...)
	for i := range siblings {
		s.subscribed(t, resourcev3.RouteType, siblingName(i))
		s.subscribed(t, resourcev3.ExtensionConfigType, siblingName(i))
	}
	s.push(t, resourcev3.ExtensionConfigType, v1(g.first.extensions...)...)
	refused("RDS", byMeaning["RDS"].spoil)
	var withoutRoutes []string
	known := g.families["RDS"].running(t, p)
	for i := range siblings {
		if _, ok := known[siblingName(i)]; !ok {
			withoutRoutes = append(withoutRoutes, siblingName(i))
		}
	}
	t.Logf("RDS: %d siblings without routes", len(withoutRoutes)-1)
	p.untilLive(t)

	status := func(name string) int {
		var l *listenerv3.Listener
		for _, m := range g.first.listeners {
			if nameOf(m) == name {
				l = m.(*listenerv3.Listener)
			}
		}
		code, _, err := fetch(client(t), l.Address.GetSocketAddress().GetPortValue(), "/")
		if err != nil {
			t.Fatal(err)
		}
		return code
	}
	for _, m := range g.first.listeners {
		name, want := nameOf(m), http.StatusOK
		if slices.Contains(withoutRoutes, name) {
			want = http.StatusNotFound
		}
		if got := status(name); got != want {
			t.Errorf("%s answers %d, want %d", name, got, want)
		}
	}
	s.push(t, resourcev3.RouteType, g.generation("RDS", 1)...)
	for _, name := range withoutRoutes {
		if got := status(name); got != http.StatusOK {
			t.Errorf("%s answers %d after its routes were sent again", name, got)
		}
	}
}

// An extension that never came or was refused makes the whole listener answer 500; one that was accepted
// before goes on as it was.
func TestSpikeBadExtension(t *testing.T) {
	t.Parallel()
	_, p, s := start(t)
	port := freePort(t)
	e := oneService(t, port, echo(t, "upstream"), 2*time.Second)
	e.listeners = messages(listener("out", port, httpChain(t, connectionManager(t, "routes", discovered("rbac")))))
	s.boot0(t, e)
	s.subscribed(t, resourcev3.ExtensionConfigType, "rbac")
	bad := rbac(t, "rbac", onlyHeader(&matcherv3.RegexMatcher{Regex: "("}))

	if s.answer(t, s.send(t, resourcev3.ExtensionConfigType, nil, v1(bad)...)) == "" {
		t.Fatal("not refused")
	}
	p.untilLive(t)
	h := client(t)
	if code, _, err := fetch(h, port, "/"); code != http.StatusInternalServerError {
		t.Errorf("refused at first: %d %v", code, err)
	}
	nobody := rbac(t, "rbac", onlyHeader(&matcherv3.RegexMatcher{Regex: "never"}))
	s.push(t, resourcev3.ExtensionConfigType, versioned("2", nobody)...)
	if code, _, err := fetch(h, port, "/"); code != http.StatusForbidden {
		t.Errorf("accepted: %d %v", code, err)
	}
	if s.answer(t, s.send(t, resourcev3.ExtensionConfigType, nil, versioned("3", bad)...)) == "" {
		t.Fatal("not refused")
	}
	if code, _, err := fetch(h, port, "/"); code != http.StatusForbidden {
		t.Errorf("refused at update: %d %v", code, err)
	}
	// The dump shows the refused version all the same.
	if got := fmt.Sprint(p.dump(t, "ecds_filters")[0]["version_info"]); got != "3" {
		t.Errorf("the dump shows version %s", got)
	}
}
