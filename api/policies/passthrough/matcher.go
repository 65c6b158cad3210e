package passthrough

import (
	"strings"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	matcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	inputv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	ipv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/input_matchers/ip/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
)

type (
	fieldMatcher = matcherv3.Matcher_MatcherList_FieldMatcher
	predicate    = matcherv3.Matcher_MatcherList_Predicate
)

// matcher leads each connection to the first chain that lets it through; requests of others are answered. A matcher is used and no
// match of chains, because that would look for the most specific port first, then the address, and never at others.
func (p plan) matcher() *matcherv3.Matcher {
	var list []*fieldMatcher
	for _, r := range p.rules {
		list = append(list, leads(r.chain, r.predicates()...))
	}
	list = append(list, leads(blockedHTTP, plaintextHTTP()...))
	return &matcherv3.Matcher{MatcherType: &matcherv3.Matcher_MatcherList_{MatcherList: &matcherv3.Matcher_MatcherList{Matchers: list}}}
}

func leads(chain string, all ...*predicate) *fieldMatcher {
	of := &predicate{MatchType: &matcherv3.Matcher_MatcherList_Predicate_AndMatcher{
		AndMatcher: &matcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: all},
	}}
	switch len(all) {
	case 0:
		return nil
	case 1:
		of = all[0]
	}
	return &fieldMatcher{Predicate: of, OnMatch: &matcherv3.Matcher_OnMatch{OnMatch: &matcherv3.Matcher_OnMatch_Action{
		Action: &xdscorev3.TypedExtensionConfig{Name: chain, TypedConfig: policy.Pack(wrapperspb.String(chain))},
	}}}
}

// predicates must all hold for a rule.
func (r rule) predicates() []*predicate {
	m := r.match
	var out []*predicate
	if m.port() != 0 {
		out = append(out, text("port", &inputv3.DestinationPortInput{}, exactly(portText(m.port()))))
	}
	if p, ok := m.prefix(); ok {
		out = append(out, within(m.name(), &corev3.CidrRange{AddressPrefix: p.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(p.Bits()))}))
		for _, virtual := range mesh.VirtualRanges {
			if p.Overlaps(virtual) { // there are services and nothing else
				out = append(out, not(within(m.name(), &corev3.CidrRange{AddressPrefix: virtual.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(virtual.Bits()))})))
			}
		}
	}
	switch {
	case m.isHTTP():
		out = append(out, plaintextHTTP()...)
	case m.protocol() == TLS:
		out = append(out, isTLS())
		if name := strings.ToLower(m.Value); m.Type == Domain && name != "*" {
			want := exactly(name)
			if suffix, ok := strings.CutPrefix(name, "*"); ok {
				want = &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Suffix{Suffix: suffix}}
			}
			out = append(out, text("server name", &inputv3.ServerNameInput{}, want))
		}
	}
	return out
}

func isTLS() *predicate {
	return text("transport protocol", &inputv3.TransportProtocolInput{}, exactly("tls"))
}

// plaintextHTTP holds for requests that the inspector has recognised.
func plaintextHTTP() []*predicate {
	says := func(what string) *predicate {
		return text("application protocol", &inputv3.ApplicationProtocolInput{},
			&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Contains{Contains: what}})
	}
	return []*predicate{
		not(isTLS()),
		{MatchType: &matcherv3.Matcher_MatcherList_Predicate_OrMatcher{OrMatcher: &matcherv3.Matcher_MatcherList_Predicate_PredicateList{
			Predicate: []*predicate{says("http/1."), says("h2c")},
		}}},
	}
}

func not(p *predicate) *predicate {
	return &predicate{MatchType: &matcherv3.Matcher_MatcherList_Predicate_NotMatcher{NotMatcher: p}}
}

func exactly(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
}

func input(name string, m proto.Message) *xdscorev3.TypedExtensionConfig {
	return &xdscorev3.TypedExtensionConfig{Name: name, TypedConfig: policy.Pack(m)}
}

func text(name string, of proto.Message, want *matcherv3.StringMatcher) *predicate {
	return single(&matcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
		Input: input(name, of), Matcher: &matcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: want},
	})
}

func within(name string, r *corev3.CidrRange) *predicate {
	return single(&matcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
		Input: input("address", &inputv3.DestinationIPInput{}),
		Matcher: &matcherv3.Matcher_MatcherList_Predicate_SinglePredicate_CustomMatch{
			CustomMatch: input("envoy.matching.matchers.ip", &ipv3.Ip{StatPrefix: name, CidrRanges: []*corev3.CidrRange{r}}),
		},
	})
}

func single(p *matcherv3.Matcher_MatcherList_Predicate_SinglePredicate) *predicate {
	return &predicate{MatchType: &matcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{SinglePredicate: p}}
}

func portRange(port uint32) *typev3.Int32Range {
	return &typev3.Int32Range{Start: int32(port), End: int32(port) + 1}
}
