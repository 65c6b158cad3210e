package push

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/catalog"
)

func (z *zone) call(service, vip string, hostnames ...string) {
	z.t.Helper()
	addresses := ""
	for i, h := range hostnames {
		if i > 0 {
			addresses += ","
		}
		addresses += fmt.Sprintf(`{"hostname":%q}`, h)
	}
	key := catalog.StatusOf(resource.Key{Type: mesh.TypeMeshService, Mesh: "default", Name: service})
	data := fmt.Sprintf(`{"vips":[{"ip":%q}],"addresses":[%s]}`, vip, addresses)
	if _, err := z.catalog.Commit(z.t.Context(), catalog.Batch{Derived: []catalog.DerivedPut{{Key: key, Data: []byte(data)}}}); err != nil {
		z.t.Fatal(err)
	}
}

func (z *zone) names(dp string) *NamesFeed {
	z.t.Helper()
	f, err := z.engine.OpenNames(z.t.Context(), dataplane(dp), func() {})
	if err != nil {
		z.t.Fatal(err)
	}
	z.t.Cleanup(f.Close)
	return f
}

// content is what an agent knows that got all of a set.
func content(t *testing.T, s *agentapi.NameSet) []string {
	t.Helper()
	var out []string
	if s == nil {
		return nil
	}
	for _, m := range s.Since(nil) {
		var got agentapi.ZoneMessage
		b, err := proto.Marshal(m)
		if err == nil {
			err = proto.Unmarshal(b, &got)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range got.GetNames().GetRecords() {
			out = append(out, fmt.Sprint(r.GetName(), r.GetAddresses()))
		}
	}
	return out
}

func untilNames(t *testing.T, f *NamesFeed, want ...string) {
	t.Helper()
	limit := time.After(10 * time.Second)
	for {
		progressed := f.engine.Progressed()
		if slices.Equal(content(t, f.Names()), want) {
			return
		}
		select {
		case <-progressed:
		case <-limit:
			t.Fatalf("not within 10s: %v; there is %v", want, content(t, f.Names()))
		}
	}
}

// All that get the same names share one set; what a proxy cannot reach it cannot look up; and no name costs a table.
func TestNamesFollowTheMesh(t *testing.T) {
	z := newZone(t, time.Hour)
	one, two, narrow := z.names("web-1"), z.names("web-2"), z.names("web-3")
	z.put(dp("web-1") + "---" + dp("web-2") + "---" + service)
	z.put(`
type: MeshService
mesh: default
name: cart
spec:
  selector: {dataplaneLabels: {matchLabels: {kuma.io/workload: cart}}}
  ports: [{port: 80}]
---
type: Dataplane
mesh: default
name: web-3
networking:
  address: 127.0.0.3
  transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001, reachableBackends: {refs: [{kind: MeshService, labels: {kuma.io/display-name: cart}}]}}
`)
	z.call("web", "241.0.0.1", "web.svc.mesh.local", "WEB.example")
	z.call("cart", "241.0.0.2", "cart.svc.mesh.local")
	all := []string{"cart.svc.mesh.local[[241 0 0 2]]", "web.example[[241 0 0 1]]", "web.svc.mesh.local[[241 0 0 1]]"}
	untilNames(t, one, all...)
	untilNames(t, two, all...)
	untilNames(t, narrow, all[0])
	if one.Names() != two.Names() {
		t.Error("proxies with the same names do not share them")
	}

	s := z.open("web-1")
	before := s.Table()
	z.call("cart", "241.0.0.2", "cart.svc.mesh.local", "basket.svc.mesh.local")
	untilNames(t, narrow, "basket.svc.mesh.local[[241 0 0 2]]", all[0])
	if s.Table() != before {
		t.Error("a name made a table")
	}
	z.call("web", "241.0.0.1")
	untilNames(t, one, "basket.svc.mesh.local[[241 0 0 2]]", all[0])
	z.put(`
type: Dataplane
mesh: default
name: web-3
networking: {address: 127.0.0.3, transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001, reachableBackends: {}}}
`)
	untilNames(t, narrow)
}
