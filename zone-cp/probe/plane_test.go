package probe

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/memory"
	"github.com/causeway-mesh/causeway/store/seal"
	"github.com/causeway-mesh/causeway/zone-cp/identity"
)

// A plane is what of a zone control plane is needed to ask and to answer.
type plane struct {
	t         testing.TB
	zone      string
	catalog   *catalog.Catalog
	authority *identity.Authority
	local     *Local
	responder *Responder
	facts     facts
	stop      func() // of the prober, where there is one
}

// facts hands on what a test observes.
type facts chan factsUpdate

func (f facts) Next(ctx context.Context) (map[resource.Key]*view.Facts, bool, error) {
	select {
	case u := <-f:
		return u.changed, u.all, nil
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
}

func newPlane(t testing.TB, zone string, now func() time.Time) *plane {
	t.Helper()
	sealKey, err := seal.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := seal.New(sealKey)
	if err != nil {
		t.Fatal(err)
	}
	s := memory.New()
	t.Cleanup(func() { s.Close() })
	c, err := catalog.Open(t.Context(), catalog.Config{Store: s, Kinds: api.Kinds(), Sealer: sealer})
	if err != nil {
		t.Fatal(err)
	}
	p := &plane{t: t, zone: zone, catalog: c, facts: make(facts)}
	p.authority = identity.New(identity.Config{Catalog: c, Zone: zone, RetryInterval: 20 * time.Millisecond, Now: now})
	p.local = NewLocal(LocalConfig{
		Zone: zone, Catalog: c, Facts: p.facts, Instance: zone + "-1", Epoch: 1,
		Expected: func(m resource.Meta) bool { return m.Label("observed") == "yes" },
	})
	p.responder = NewResponder(ResponderConfig{Zone: zone, Authority: p.authority, Local: p.local})
	background(t, c.Run)
	background(t, p.authority.Run)
	background(t, p.local.Run)
	p.put("{type: Mesh, name: default}")
	return p
}

func background(t testing.TB, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run ended: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func key(typ, name string) resource.Key {
	return resource.Key{Type: typ, Mesh: "default", Name: name}
}

func (p *plane) put(text string) {
	p.t.Helper()
	ds, err := api.Kinds().DecodeYAML([]byte(text), true)
	if err != nil {
		p.t.Fatal(err)
	}
	b := catalog.Batch{Author: "test"}
	for _, d := range ds {
		if d.Labels == nil {
			d.Labels = map[string]string{}
		}
		if d.Labels[resource.LabelDisplayName] == "" {
			d.Labels[resource.LabelDisplayName] = d.Name
		}
		b.Puts = append(b.Puts, catalog.Put{Resource: d.Resource, Expect: store.ExpectAny})
	}
	p.commit(b)
}

func (p *plane) remove(k resource.Key) {
	p.t.Helper()
	p.commit(catalog.Batch{Author: "test", Deletes: []catalog.Delete{{Key: k, Expect: store.ExpectAny}}})
}

func (p *plane) commit(b catalog.Batch) {
	p.t.Helper()
	if _, err := p.catalog.Commit(context.Background(), b); err != nil {
		p.t.Fatal(err)
	}
}

// identify gives the zone an authority and waits until its bundle can be read.
func (p *plane) identify() {
	p.t.Helper()
	p.put(`
type: MeshIdentity
mesh: default
name: identity
spec:
  selector: {dataplane: {matchLabels: {}}}
  provider: {type: Bundled, bundled: {autogenerate: {enabled: true}, insecureAllowSelfSigned: true}}
`)
	p.until("its bundle", func() bool {
		_, ok := p.catalog.Snapshot().Get(key(mesh.TypeMeshTrust, "identity"))
		return ok
	})
}

// until waits for something that the catalog brings about.
func (p *plane) until(what string, ok func() bool) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	feed := p.catalog.Subscribe()
	defer feed.Close()
	for !ok() {
		if _, err := feed.Next(ctx); err != nil {
			p.t.Fatalf("not within 10s: %s", what)
		}
	}
}

// believe brings the bundle of another zone, as zone sync does.
func (p *plane) believe(other *plane) {
	p.t.Helper()
	r, ok := other.catalog.Snapshot().Get(key(mesh.TypeMeshTrust, "identity"))
	if !ok {
		p.t.Fatalf("%s has no bundle", other.zone)
	}
	p.trust(other.zone, r.Spec.(*mesh.MeshTrust))
}

func (p *plane) trust(zone string, spec *mesh.MeshTrust) {
	p.t.Helper()
	r, err := resource.WithSpec(resource.Meta{
		Type: mesh.TypeMeshTrust, Mesh: "default", Name: "identity-of-" + zone,
		Labels: map[string]string{resource.LabelDisplayName: "identity", resource.LabelZone: zone, resource.LabelOrigin: resource.OriginGlobal},
	}, spec)
	if err != nil {
		p.t.Fatal(err)
	}
	p.commit(catalog.Batch{Author: "test", Puts: []catalog.Put{{Resource: r, Expect: store.ExpectAny}}})
}

// ingress is the MeshZoneAddress of another zone.
func ingress(zone, name, address, port string) string {
	return strings.NewReplacer("ZONE", zone, "NAME", name, "ADDRESS", address, "PORT", port).Replace(`
---
type: MeshZoneAddress
mesh: default
name: NAME
labels: {kuma.io/zone: ZONE, kuma.io/origin: global}
spec: {address: "ADDRESS", port: PORT}
`)
}

// remoteService is a MeshService of another zone, under the name it is stored with.
func remoteService(zone, name, stored string) string {
	return strings.NewReplacer("ZONE", zone, "STORED", stored, "NAME", name).Replace(`
---
type: MeshService
mesh: default
name: STORED
labels: {kuma.io/zone: ZONE, kuma.io/origin: global, kuma.io/display-name: NAME}
spec: {ports: [{port: 80, name: http}]}
`)
}

func ownService(name string) string {
	return strings.ReplaceAll(`
---
type: MeshService
mesh: default
name: NAME
spec:
  selector: {dataplaneLabels: {matchLabels: {app: NAME}}}
  ports: [{port: 80, name: http, targetPort: http}]
`, "NAME", name)
}

func dataplane(name, app, address, state string) string {
	return strings.NewReplacer("NAME", name, "APP", app, "ADDRESS", address, "STATE", state).Replace(`
---
type: Dataplane
mesh: default
name: NAME
labels: {app: APP}
networking: {address: ADDRESS, inbound: [{name: http, port: 8080, state: STATE}]}
`)
}

// listen serves the responder on loopback and says where.
func (p *plane) listen() (host, port string, stop func()) {
	p.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.t.Fatal(err)
	}
	stop = background(p.t, func(ctx context.Context) error { return p.responder.Serve(ctx, l) })
	host, port, err = net.SplitHostPort(l.Addr().String())
	if err != nil {
		p.t.Fatal(err)
	}
	return host, port, stop
}
