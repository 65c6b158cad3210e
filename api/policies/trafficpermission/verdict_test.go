package trafficpermission_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	"pgregory.net/rapid"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policies/trafficpermission"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// A client is who asks, and for what.
type client struct{ id, sni string }

var clients = func() []client {
	var out []client
	for _, id := range []string{"spiffe://m/a", "spiffe://m/a/b", "spiffe://m/ab", "spiffe://n/a", ""} {
		for _, sni := range []string{"", "x", "y"} {
			out = append(out, client{id, sni})
		}
	}
	return out
}()

// verdict carries out what Envoy does with a matcher: the first that holds decides.
func verdict(t *rapid.T, m *xdsmatcherv3.Matcher, c client) (rbacconfigv3.RBAC_Action, string) {
	on := m.OnNoMatch
	for _, f := range m.GetMatcherList().GetMatchers() {
		if holds(t, f.Predicate, c) {
			on = f.OnMatch
			break
		}
	}
	var action rbacconfigv3.Action
	if err := on.GetAction().TypedConfig.UnmarshalTo(&action); err != nil {
		t.Fatal(err)
	}
	return action.Action, action.Name
}

func holds(t *rapid.T, p *xdsmatcherv3.Matcher_MatcherList_Predicate, c client) bool {
	if and := p.GetAndMatcher(); and != nil {
		for _, sub := range and.Predicate {
			if !holds(t, sub, c) {
				return false
			}
		}
		return true
	}
	single := p.GetSinglePredicate()
	input := c.id
	if strings.HasSuffix(single.Input.TypedConfig.TypeUrl, ".ServerNameInput") {
		input = c.sni
	}
	switch s := single.GetValueMatch(); s.MatchPattern.(type) {
	case *xdsmatcherv3.StringMatcher_Exact:
		return input == s.GetExact()
	case *xdsmatcherv3.StringMatcher_Prefix:
		return strings.HasPrefix(input, s.GetPrefix())
	default:
		t.Fatalf("unexpected %v", s)
		return false
	}
}

var anyMatch = rapid.Custom(func(t *rapid.T) policy.Match {
	var m policy.Match
	if rapid.Bool().Draw(t, "by name") {
		m.SNI = &policy.SNIMatch{Type: policy.MatchExact, Value: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "sni")}
	}
	if m.SNI == nil || rapid.Bool().Draw(t, "by id") {
		m.SpiffeID = &policy.SpiffeIDMatch{
			Type:  rapid.SampledFrom([]string{policy.MatchExact, policy.MatchPrefix}).Draw(t, "type"),
			Value: rapid.SampledFrom([]string{"spiffe://m/a", "spiffe://m/a/", "spiffe://m", "spiffe://n/a"}).Draw(t, "id"),
		}
	}
	return m
})

func accepted(list []policy.Match, c client) bool {
	for _, m := range list {
		id, sni := m.SpiffeID, m.SNI
		if (id == nil || id.Value == c.id || id.Type == policy.MatchPrefix && strings.HasPrefix(c.id, id.Value)) && (sni == nil || sni.Value == c.sni) {
			return true
		}
	}
	return false
}

// The verdict on any client is: denied by anyone, else allowed by anyone, else denied; whatever the order of policies.
// On trial it is what it would be if shadow denials were denials. Who decides is a policy that really says so.
func TestVerdicts(t *testing.T) {
	lists := rapid.SliceOfN(anyMatch, 0, 2)
	rapid.Check(t, func(t *rapid.T) {
		var in []policy.Sourced
		confs := map[string]trafficpermission.Conf{"default": {}}
		var all trafficpermission.Conf
		for i := range rapid.IntRange(0, 4).Draw(t, "policies") {
			c := trafficpermission.Conf{
				Deny: lists.Draw(t, "deny"), Allow: lists.Draw(t, "allow"), AllowWithShadowDeny: lists.Draw(t, "allowWithShadowDeny"),
			}
			kri := resource.KRI{Short: "mtp", Mesh: "m", Name: fmt.Sprintf("p%d", i)}
			confs[kri.String()] = c
			all.Deny, all.Allow = append(all.Deny, c.Deny...), append(all.Allow, c.Allow...)
			all.AllowWithShadowDeny = append(all.AllowWithShadowDeny, c.AllowWithShadowDeny...)
			in = append(in, policy.Sourced{Policy: kri, Conf: map[string]any{"default": tree(t, c)}})
		}
		if len(in) > 1 {
			in = rapid.Permutation(in).Draw(t, "order")
		}
		rbac := filter(t, in)
		for _, c := range clients {
			want := rbacconfigv3.RBAC_DENY
			if !accepted(all.Deny, c) && (accepted(all.Allow, c) || accepted(all.AllowWithShadowDeny, c)) {
				want = rbacconfigv3.RBAC_ALLOW
			}
			got, by := verdict(t, rbac.Matcher, c)
			if got != want {
				t.Fatalf("%+v: %s, want %s", c, got, want)
			}
			says := confs[by]
			if by != "default" && got == rbacconfigv3.RBAC_DENY && !accepted(says.Deny, c) {
				t.Fatalf("%+v is not denied by %s", c, by)
			}
			if got == rbacconfigv3.RBAC_ALLOW && !accepted(says.Allow, c) && !accepted(says.AllowWithShadowDeny, c) {
				t.Fatalf("%+v is not allowed by %s", c, by)
			}
			if (rbac.ShadowMatcher != nil) != (len(all.AllowWithShadowDeny) > 0) {
				t.Fatal("a trial exists exactly when there is something on trial")
			}
			if rbac.ShadowMatcher == nil {
				continue
			}
			if accepted(all.AllowWithShadowDeny, c) {
				want = rbacconfigv3.RBAC_DENY
			}
			if got, _ := verdict(t, rbac.ShadowMatcher, c); got != want {
				t.Fatalf("%+v on trial: %s, want %s", c, got, want)
			}
		}
	})
}

func filter(t *rapid.T, in []policy.Sourced) *httprbacv3.RBAC {
	b, err := trafficpermission.Policy.Bind(trafficpermission.Policy.Effective(proxy.Inbound, "http", in).Conf)
	if err != nil {
		t.Fatal(err)
	}
	l := proxy.Listener{Direction: proxy.Inbound, Name: "in", Protocol: mesh.HTTP, MTLS: true}
	filters := b.HTTPFilters(l)
	if len(filters) != 1 || !filters[0].Dynamic {
		t.Fatalf("got %v", filters)
	}
	return filters[0].Config.(*httprbacv3.RBAC)
}

func tree(t *rapid.T, v any) map[string]any {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}
