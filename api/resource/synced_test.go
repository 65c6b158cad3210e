package resource_test

import (
	"encoding/hex"
	"hash/fnv"
	"regexp"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/causeway-mesh/causeway/api/resource"
)

func TestSyncedName(t *testing.T) {
	for _, c := range []struct{ mesh, name, zone, namespace, want string }{
		{"default", "my-policy", "", "", "my-policy-72x44z688zbxf7wf"},
		{"mesh-1", "policy", "zone-1", "kuma-demo", "policy-fd6b692w9z9fcbfv"},
		{"default", strings.Repeat("a", 236), "", "", strings.Repeat("a", 236) + "-"},
		{"default", strings.Repeat("a", 300), "", "", strings.Repeat("a", 236) + "-"},
	} {
		got := resource.SyncedName(c.mesh, c.name, c.zone, c.namespace)
		if !strings.HasPrefix(got, c.want) || len(got) > 253 {
			t.Errorf("%+v is stored as %s", c, got)
		}
		if !regexp.MustCompile(`-[bcdfghjklmnpqrstvwxz2456789]{16}$`).MatchString(got) {
			t.Errorf("%s has no suffix of 16 safe letters", got)
		}
	}
	// Other software computes the names with the Kubernetes libraries.
	h := fnv.New64a()
	h.Write([]byte("mesh-1policyzone-1kuma-demo"))
	if want, got := rand.SafeEncodeString(hex.EncodeToString(h.Sum(nil))), resource.SyncedName("mesh-1", "policy", "zone-1", "kuma-demo"); got != "policy-"+want {
		t.Errorf("%s is stored, others say %s", got, want)
	}
	if a, b := resource.SyncedName("m", "n", "ab", "c"), resource.SyncedName("m", "n", "a", "bc"); a != b {
		t.Errorf("the parts are delimited: %s and %s; callers rely on knowing that they are not", a, b)
	}
	if a, b := resource.SyncedName("m", strings.Repeat("a", 300), "", ""), resource.SyncedName("m", strings.Repeat("a", 301), "", ""); a == b {
		t.Error("names that are cut to the same are stored as the same")
	}
}
