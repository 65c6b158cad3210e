package rest

import (
	"testing"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/token"
)

// Writing what can make proxies do anything is not part of writing resources.
func TestRawKindsAreAPermissionOfTheirOwn(t *testing.T) {
	raw, plain := resource.Kind{Name: "MeshProxyPatch", Raw: true}, resource.Kind{Name: "MeshTimeout"}
	a := Access{WriteResources: {Users: []string{"writer"}}, PatchProxies: {Users: []string{"patcher"}}}
	for _, c := range []struct {
		user string
		kind resource.Kind
		want bool
	}{
		{"writer", plain, true},
		{"writer", raw, false},
		{"patcher", raw, true},
		{"patcher", plain, false},
		{AdminUser, raw, true},
	} {
		if got := a.allows(caller{User: token.User{Name: c.user}}, writePermission(c.kind)); got != c.want {
			t.Errorf("%s may write %s: %t, want %t", c.user, c.kind.Name, got, c.want)
		}
	}
	if readPermission(raw) != ReadResources {
		t.Error("reading it is no permission of its own")
	}
}
