package envoy

import (
	"fmt"
	"slices"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	compositev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/composite/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	networkinputv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// A clientFiltersKey is what decides the filters that requests to an inbound pass by who sends them.
type clientFiltersKey struct {
	Listener string
	Protocol mesh.Protocol
	// To and SNI are those of a chain of an egress.
	To  proxy.Destination
	SNI string
	// Clients holds what the policies with such filters have in force, as canonical JSON of typedClients.
	Clients string
}

// A typedClients is what one policy has in force per client match, the most specific first and the catch-all last.
type typedClients struct {
	Type    string       `json:"t"`
	Clients []clientConf `json:"c"`
}

// clientFilters are the places of such filters in the chain of a listener, which are always there and pass everything,
// and what stands in them, which travels with routes.
type clientFilters struct {
	places   []string // names, in the order of the chain
	contents confs    // per policy type: the configuration of its places, as canonical JSON of name to placed
	problems []Problem
}

// A placed is the configuration of a place.
type placed struct {
	Config []byte `json:"c"`
}

func sameClientFilters(a, b clientFilters) bool {
	return slices.Equal(a.places, b.places) && a.contents == b.contents &&
		slices.EqualFunc(a.problems, b.problems, sameProblem)
}

// typedClients lists what the policies that have filters per client say, in their order. Who says nothing still has a place.
func (c *Compiler) typedClients(clients func(typ string) []view.Client, identity bool) []typedClients {
	var out []typedClients
	for _, p := range c.view.Policies() {
		fields, ok := p.Fields(policy.HookClientFilters)
		if !ok {
			continue
		}
		t := typedClients{Type: p.Resource().Name}
		for _, cl := range clients(t.Type) {
			// Without identities nobody can be told from anybody, and a server name alone says nothing about clients of a sidecar.
			if !cl.Match.IsZero() && (!identity || cl.Match.SpiffeID == nil) {
				continue
			}
			entry := clientConf{Match: cl.Match}
			if said := policy.Project(cl.Effective.Conf, fields); said != "" {
				entry.Confs = confs(encode([]conf{{t.Type, said, cl.Effective.Policies(fields...)}}))
			}
			t.Clients = append(t.Clients, entry)
		}
		out = append(out, t)
	}
	return out
}

func (c *Compiler) buildClientFilters(_ *memo.Reader, k clientFiltersKey) clientFilters {
	var types []typedClients
	decode(k.Clients, &types)
	l := proxy.Listener{Direction: proxy.Inbound, Name: k.Listener, Protocol: k.Protocol, Destination: k.To, MTLS: true, SNI: k.SNI}
	var out clientFilters
	var contents []conf
	for _, t := range types {
		content, err := c.placesOf(t, l)
		var origins []resource.KRI
		for _, cl := range t.Clients {
			origins = append(origins, cl.Confs.origins()...)
		}
		slices.SortFunc(origins, resource.KRI.Compare)
		origins = slices.Compact(origins)
		if err != nil {
			out.problems = append(out.problems, Problem{Ref{Route, k.Listener}, fmt.Sprintf("%s is left out of %s: %v", t.Type, k.Listener, err), origins})
			content = []placed{{}}
		}
		named := map[string]placed{}
		for i, p := range content {
			name := placeName(t.Type, i)
			out.places = append(out.places, name)
			if p.Config != nil {
				named[name] = p
			}
		}
		if len(named) > 0 {
			contents = append(contents, conf{t.Type, encode(named), origins})
		}
	}
	if contents != nil {
		out.contents = confs(encode(contents))
	}
	return out
}

func placeName(typ string, i int) string {
	if i == 0 {
		return typ
	}
	return fmt.Sprintf("%s_%d", typ, i+1)
}

// placesOf is what stands in the places of one policy: as many as the client with the most filters needs, and at least one.
func (c *Compiler) placesOf(t typedClients, l proxy.Listener) ([]placed, error) {
	filters := make([][]proto.Message, len(t.Clients))
	n := 1
	for i, cl := range t.Clients {
		if err := c.apply(cl.Confs.list(), func(_ string, b policy.Bound) { filters[i] = b.ClientFilters(l) }); err != nil {
			return nil, err
		}
		n = max(n, len(filters[i]))
	}
	out := make([]placed, n)
	for place := range out {
		tree := &xdsmatcherv3.Matcher{}
		var list []*snimatcher
		for i, cl := range t.Clients {
			var f proto.Message
			if place < len(filters[i]) {
				f = filters[i][place]
			}
			on, err := execute(t.Type, f)
			switch {
			case err != nil:
				return nil, err
			case cl.Match.IsZero() && f != nil:
				tree.OnNoMatch = on
			case !cl.Match.IsZero():
				list = append(list, &snimatcher{Predicate: peerPredicate(cl.Match), OnMatch: on})
			}
		}
		if !slices.ContainsFunc(filters, func(fs []proto.Message) bool { return place < len(fs) }) {
			continue
		}
		if len(list) > 0 {
			tree.MatcherType = &xdsmatcherv3.Matcher_MatcherList_{MatcherList: &xdsmatcherv3.Matcher_MatcherList{Matchers: list}}
		}
		a, err := pack(&compositev3.CompositePerRoute{Matcher: tree})
		if err != nil {
			return nil, err
		}
		out[place].Config = a.Value
	}
	return out, nil
}

// nothing is the name of a chain of filters that does not exist, which Envoy takes for none. It keeps those whom a more general match holds for,
// too, from what that match says.
const nothing = "none"

// execute is the action that lets a request pass a filter; nil passes none.
func execute(name string, f proto.Message) (*xdsmatcherv3.Matcher_OnMatch, error) {
	action := &compositev3.ExecuteFilterAction{FilterChainName: nothing}
	if f != nil {
		a, err := pack(f)
		if err != nil {
			return nil, err
		}
		action = &compositev3.ExecuteFilterAction{TypedConfig: &corev3.TypedExtensionConfig{Name: name, TypedConfig: a}}
	}
	a, err := pack(action)
	if err != nil {
		return nil, err
	}
	return &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{
		Action: &xdscorev3.TypedExtensionConfig{Name: name, TypedConfig: a},
	}}, nil
}

type predicate = xdsmatcherv3.Matcher_MatcherList_Predicate

// peerPredicate compares what the handshake said about a client. In plaintext nothing was said, and only the catch-all holds.
func peerPredicate(m policy.Match) *predicate {
	var all []*predicate
	add := func(key string, s *xdsmatcherv3.StringMatcher) {
		all = append(all, &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
			SinglePredicate: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
				Input:   &xdscorev3.TypedExtensionConfig{Name: key, TypedConfig: mustPack(&networkinputv3.FilterStateInput{Key: key})},
				Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: s},
			},
		}})
	}
	if id := m.SpiffeID; id != nil {
		s := &xdsmatcherv3.StringMatcher{MatchPattern: &xdsmatcherv3.StringMatcher_Exact{Exact: id.Value}}
		if id.Type == policy.MatchPrefix {
			s.MatchPattern = &xdsmatcherv3.StringMatcher_Prefix{Prefix: id.Value}
		}
		add(peerURI, s)
	}
	if m.SNI != nil {
		add(peerName, &xdsmatcherv3.StringMatcher{MatchPattern: &xdsmatcherv3.StringMatcher_Exact{Exact: m.SNI.Value}})
	}
	if len(all) == 1 {
		return all[0]
	}
	return &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_AndMatcher{
		AndMatcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: all},
	}}
}

var composite = mustPack(&compositev3.Composite{})

// placeholders are the filters of a chain that stand for those that depend on the client.
func placeholders(names []string) []*hcmv3.HttpFilter {
	var out []*hcmv3.HttpFilter
	for _, n := range names {
		out = append(out, httpFilter(n, composite))
	}
	return out
}

// fill puts the contents of places on a virtual host.
func fill(contents []conf) map[string]*anypb.Any {
	out := map[string]*anypb.Any{}
	for _, co := range contents {
		named := map[string]placed{}
		decode(co.Conf, &named)
		for name, p := range named {
			out[name] = &anypb.Any{TypeUrl: compositePerRoute, Value: p.Config}
		}
	}
	return out
}

var compositePerRoute = mustPack(&compositev3.CompositePerRoute{Matcher: &xdsmatcherv3.Matcher{}}).TypeUrl
