package trafficpermission

import (
	corev3 "github.com/cncf/xds/go/xds/core/v3"
	matcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	networkrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	networkinputv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	sslinputv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/ssl/v3"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
)

// Both filters travel apart from their listener, so that a changed permission does not drain it.
var hooks = policy.Hooks[Effective]{
	HTTPFilters:    policy.Hook[func(Effective, proxy.Listener) []policy.Filter]{Apply: httpFilters},
	NetworkFilters: policy.Hook[func(Effective, proxy.Listener) []policy.Filter]{Apply: networkFilters},
}

func httpFilters(c Effective, l proxy.Listener) []policy.Filter {
	if !judges(l) {
		return nil
	}
	enforced, shadow := c.matchers()
	return []policy.Filter{{
		Name: "envoy.filters.http.rbac", Dynamic: true,
		Config: &httprbacv3.RBAC{Matcher: enforced, ShadowMatcher: shadow},
	}}
}

func networkFilters(c Effective, l proxy.Listener) []policy.Filter {
	if !judges(l) || l.Protocol.IsHTTP() { // requests are judged one by one
		return nil
	}
	enforced, shadow := c.matchers()
	return []policy.Filter{{
		Name: "envoy.filters.network.rbac", Dynamic: true, Renews: true,
		Config: &networkrbacv3.RBAC{StatPrefix: l.Name + ".", Matcher: enforced, ShadowMatcher: shadow},
	}}
}

// judges says that the client's identity is known and the traffic is received.
func judges(l proxy.Listener) bool { return l.Direction == proxy.Inbound && l.MTLS }

// matchers returns what is enforced and, when a denial is being tried out, what would be.
func (c Effective) matchers() (enforced, shadow *matcherv3.Matcher) {
	enforced = firstOf(
		decide(rbacconfigv3.RBAC_DENY, c.Deny),
		decide(rbacconfigv3.RBAC_ALLOW, c.AllowWithShadowDeny),
		decide(rbacconfigv3.RBAC_ALLOW, c.Allow),
	)
	if len(c.AllowWithShadowDeny) > 0 {
		shadow = firstOf(
			decide(rbacconfigv3.RBAC_DENY, c.Deny),
			decide(rbacconfigv3.RBAC_DENY, c.AllowWithShadowDeny),
			decide(rbacconfigv3.RBAC_ALLOW, c.Allow),
		)
	}
	return enforced, shadow
}

type (
	fieldMatcher = matcherv3.Matcher_MatcherList_FieldMatcher
	predicate    = matcherv3.Matcher_MatcherList_Predicate
)

// firstOf takes the first that holds, and denies when none does.
func firstOf(groups ...[]*fieldMatcher) *matcherv3.Matcher {
	m := &matcherv3.Matcher{OnNoMatch: act(rbacconfigv3.RBAC_DENY, "default")}
	var list []*fieldMatcher
	for _, g := range groups {
		list = append(list, g...)
	}
	if len(list) > 0 {
		m.MatcherType = &matcherv3.Matcher_MatcherList_{MatcherList: &matcherv3.Matcher_MatcherList{Matchers: list}}
	}
	return m
}

func decide(action rbacconfigv3.RBAC_Action, entries []Entry) []*fieldMatcher {
	var out []*fieldMatcher
	for _, e := range entries {
		if p := predicateOf(e.Match); p != nil {
			out = append(out, &fieldMatcher{Predicate: p, OnMatch: act(action, e.Origin)})
		}
	}
	return out
}

// act names the policy, so that statistics and logs can tell who decided.
func act(action rbacconfigv3.RBAC_Action, name string) *matcherv3.Matcher_OnMatch {
	return &matcherv3.Matcher_OnMatch{OnMatch: &matcherv3.Matcher_OnMatch_Action{
		Action: extension("envoy.filters.rbac.action", &rbacconfigv3.Action{Name: name, Action: action}),
	}}
}

func predicateOf(m policy.Match) *predicate {
	var all []*predicate
	if id := m.SpiffeID; id != nil {
		value := &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: id.Value}}
		if id.Type == policy.MatchPrefix {
			value.MatchPattern = &matcherv3.StringMatcher_Prefix{Prefix: id.Value}
		}
		all = append(all, single("envoy.matching.inputs.uri_san", &sslinputv3.UriSanInput{}, value))
	}
	if m.SNI != nil {
		value := &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: m.SNI.Value}}
		all = append(all, single("envoy.matching.inputs.server_name", &networkinputv3.ServerNameInput{}, value))
	}
	switch len(all) {
	case 0:
		return nil
	case 1:
		return all[0]
	}
	return &predicate{MatchType: &matcherv3.Matcher_MatcherList_Predicate_AndMatcher{
		AndMatcher: &matcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: all},
	}}
}

func single(name string, input proto.Message, value *matcherv3.StringMatcher) *predicate {
	return &predicate{MatchType: &matcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
		SinglePredicate: &matcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
			Input:   extension(name, input),
			Matcher: &matcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: value},
		},
	}}
}

func extension(name string, m proto.Message) *corev3.TypedExtensionConfig {
	return &corev3.TypedExtensionConfig{Name: name, TypedConfig: policy.Pack(m)}
}
