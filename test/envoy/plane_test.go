package envoy

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	rest "github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/token"
	"github.com/causeway-mesh/causeway/dataplane/agent"
	"github.com/causeway-mesh/causeway/store/backend"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// The control plane is given the public halves of keys that are kept elsewhere. What is signed with the private halves is taken: by agents, for
// the proxies it covers, and by the API, for users with the rights of their groups. What another key has signed is not, also under the same number.
//
// Acceptance: U auth offline
func TestTokensThatAreSignedElsewhere(t *testing.T) {
	t.Parallel()
	m := testmesh.Start(t, testmesh.Options{})
	const serial = 77
	newKey := func() []byte {
		k, err := token.NewSigningKey()
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	private, other := newKey(), newKey()
	public, err := token.PublicKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []resource.Key{token.UserSigningKey(serial), token.DataplanePublicKey(m.Name, serial)} {
		m.Apply(t, fmt.Sprintf("type: %s\nname: %s\ndata: %s\n", k.Type, k.Name, base64.StdEncoding.EncodeToString(public)))
	}
	dir := t.TempDir()
	file := func(name, text string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	proxy := func(name string, key []byte, workload string) func(*agent.Config) {
		text, err := token.SignDataplane(key, serial, token.Dataplane{Mesh: m.Name, Workload: workload}, time.Hour, time.Now())
		path := file(name, text, err)
		return func(c *agent.Config) { c.Dataplane.TokenFile = path }
	}
	web := m.Workload(t, testmesh.Workload{Name: "web-1", Configure: proxy("web", private, "web")})
	m.Workload(t, testmesh.Workload{Name: "backend-1", Configure: proxy("backend", private, "backend")})
	web.Reach(t, "backend")
	for what, configure := range map[string]func(*agent.Config){
		"for another workload":  proxy("wrong", private, "backend"),
		"signed by another key": proxy("stranger", other, "intruder"),
	} {
		if err := m.Refused(t, testmesh.Workload{Name: "intruder-1", Configure: configure}); err == nil {
			t.Errorf("a token %s is taken", what)
		}
	}

	call := func(name string, key []byte, groups []string, method, path string) int {
		t.Helper()
		text, err := token.SignUser(key, serial, token.User{Name: name, Groups: groups}, time.Hour, time.Now())
		c, cerr := rest.New(rest.Config{
			Server: "https://" + m.ControlPlane().APIAddress(), CAFile: m.ControlPlane().CAFile(), TokenFile: file(name, text, err), UserAgent: "test",
		})
		if cerr != nil {
			t.Fatal(cerr)
		}
		defer c.Close()
		resp, err := c.Do(t.Context(), rest.Request{Method: method, Path: path})
		var refused *rest.Error
		switch {
		case err == nil:
			return resp.Status
		case errors.As(err, &refused):
			return refused.Status
		}
		t.Fatal(err)
		return 0
	}
	secret := "/meshes/" + m.Name + "/secrets"
	for _, c := range []struct {
		what   string
		key    []byte
		groups []string
		want   int
	}{
		{"admin", private, []string{"mesh-system:admin"}, http.StatusOK},
		{"member", private, []string{"team"}, http.StatusForbidden},
		{"stranger", other, []string{"mesh-system:admin"}, http.StatusUnauthorized},
	} {
		if got := call(c.what, c.key, c.groups, http.MethodGet, secret); got != c.want {
			t.Errorf("%s reads secrets: %d, want %d", c.what, got, c.want)
		}
	}
}

// A workload is killed while its control plane is down. When that is back the proxy is shown as offline, and those that live as online, without
// one request of them lost.
//
// Acceptance: U resilience: a proxy is shown offline after an outage of the control plane
func TestProxyDiesWhileTheZoneIsDown(t *testing.T) {
	t.Parallel()
	m := testmesh.Start(t, testmesh.Options{Store: backend.Embedded})
	all := m.Workloads(t, testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "backend-1"}, testmesh.Workload{Name: "dies-1", Apart: true})
	web := all[0]
	web.Reach(t, "backend")
	online := func(name string) (known, open bool) {
		o := observe(t, m, name)
		for _, s := range o.Subscriptions {
			open = open || s.IsOnline()
		}
		return len(o.Subscriptions) > 0, open
	}
	for _, w := range all {
		m.Until(t, w.Name+" is shown as online", func() (any, bool) {
			_, open := online(w.Name)
			return nil, open
		})
	}
	load := m.Load(t, web, testmesh.Request{Service: "backend"}, 50)
	m.Halt(t)
	all[2].Kill(t)
	load.More(t, 20)
	m.Start(t)
	m.Until(t, "what died is shown as offline, what lives as online", func() (any, bool) {
		known, dead := online("dies-1")
		_, first := online("web-1")
		_, second := online("backend-1")
		return []bool{known, dead, first, second}, known && !dead && first && second
	})
	load.More(t, 20)
	load.Stop().NoFailure(t)
}
