package envoy

import (
	"crypto/ecdsa"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policies"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
	"github.com/causeway-mesh/causeway/dataplane/sds"
)

// region is one zone of several: the product's compiler and xDS server, and Envoys on this host. What zones tell each other is
// carried by the test.
type region struct {
	t        testing.TB
	name     string
	zone     *zone
	ca       *authority
	view     *view.View
	compiler *envoy.Compiler
	versions uint64
	sequence uint64
	proxies  []*resident
}

// resident is the Envoy of one Dataplane of a region.
type resident struct {
	*sidecar
	root  *memo.Root[envoy.ProxyConfig]
	last  envoy.ProxyConfig
	table *envoy.Table
}

// newRegion makes a zone of mesh shop in which everybody has an identity and may speak to everybody.
func newRegion(t testing.TB, name string, s view.Settings) *region {
	t.Helper()
	r := &region{t: t, name: name, zone: newZone(t), ca: newAuthority(t, name), view: view.New(name, api.Kinds(), policies.All)}
	r.view.Configure(s)
	r.compiler = envoy.NewCompiler(r.view)
	r.put(`
type: MeshIdentity
mesh: shop
name: identity
spec:
  selector: {dataplane: {matchLabels: {}}}
  provider: {type: Bundled, bundled: {autogenerate: {enabled: true}}}`)
	r.put(`
type: MeshTrafficPermission
mesh: shop
name: all
spec: {rules: [{default: {allow: [{spiffeID: {type: Prefix, value: "spiffe://"}}]}}]}`)
	return r
}

func (r *region) domain() string { return "shop." + r.name + ".mesh.local" }

// put adds a resource as the zone's own, unless it says otherwise.
func (r *region) put(text string) resource.Resource {
	r.t.Helper()
	kinds := api.Kinds()
	ds, err := kinds.DecodeYAML([]byte(text), true)
	if err != nil || len(ds) != 1 {
		r.t.Fatalf("%s\n%v", text, err)
	}
	res := ds[0].Resource
	k, _ := kinds.ByName(res.Type)
	if err := k.Validate(res).Err(); err != nil {
		r.t.Fatalf("%s\n%v", text, err)
	}
	labels := map[string]string{resource.LabelDisplayName: res.Name}
	if k.Policy == nil && res.Type != mesh.TypeMeshMultiZoneService && res.Type != mesh.TypeMeshIdentity {
		labels[resource.LabelZone] = r.name
	}
	maps.Copy(labels, res.Labels)
	res.Labels = labels
	r.versions++
	res.Version = r.versions
	r.view.Put(res)
	return res
}

// service adds a MeshService over the inbounds of that name, as ready for mesh TLS.
func (r *region) service(name, inbound, protocol string) resource.Resource {
	r.t.Helper()
	res := r.put(fmt.Sprintf(`
type: MeshService
mesh: shop
name: %s
labels: {joined: %s}
spec:
  selector: {dataplaneLabels: {matchLabels: {kuma.io/workload: web}}}
  ports: [{port: 80, name: main, targetPort: %s, appProtocol: %s}]`, name, name, inbound, protocol))
	r.view.SetStatus(res.Key(), view.Status{TLSReady: true})
	return res
}

// tell gives another region what this one has of a service, and where its ingress is. It returns the key that they have there.
func (r *region) tell(other *region, service resource.Resource, ingress uint32) (svc, address resource.Key) {
	r.t.Helper()
	service.Labels = maps.Clone(service.Labels)
	service.Name += "-" + r.name
	other.versions++
	service.Version = other.versions
	other.view.Put(service)
	original := service.Key()
	original.Name = service.Labels[resource.LabelDisplayName]
	other.view.SetStatus(service.Key(), view.Status{
		TLSReady: true, Identities: r.view.ServiceIdentities(r.view.Graph.Untracked(), original),
	})
	a := other.put(fmt.Sprintf("type: MeshZoneAddress\nmesh: shop\nname: in-%s\nlabels: {kuma.io/zone: %s}\nspec: {address: %s, port: %d}",
		r.name, r.name, loopbackIP, ingress))
	return service.Key(), a.Key()
}

// run starts the Envoy of a Dataplane with its first table. It trusts the given regions.
func (r *region) run(dataplane string, trusted ...*region) *resident {
	r.t.Helper()
	res := r.put(dataplane)
	p := &resident{root: r.compiler.Proxy(res.Key())}
	p.last, p.table = p.root.Value(), r.tableOf(p.root.Value())
	p.sidecar = r.zone.prepare(r.t, res.Name, p.table)
	if id := r.view.IdentityOf(r.view.Graph.Untracked(), res.Key()).SPIFFEID; id != "" {
		own := r.ca.issue(r.t, id).tls(r.t)
		if err := p.secrets.SetIdentity(own.PrivateKey.(*ecdsa.PrivateKey), own.Certificate); err != nil {
			r.t.Fatal(err)
		}
		var bundles []sds.Bundle
		for _, o := range trusted {
			bundles = append(bundles, sds.Bundle{Domain: o.domain(), PEM: string(o.ca.pem)})
		}
		p.trust(r.t, "all", bundles...)
	}
	p.launch(r.t)
	r.proxies = append(r.proxies, p)
	return p
}

func (r *region) tableOf(cfg envoy.ProxyConfig) *envoy.Table {
	r.t.Helper()
	for _, p := range cfg.Problems {
		r.t.Errorf("%s %s: %s", p.Ref.Type, p.Ref.Name, p.Text)
	}
	r.sequence++
	return &envoy.Table{Shared: cfg.Shared, Own: cfg.Own, Sequence: r.sequence}
}

// settle computes what has changed and waits until every proxy has acknowledged it.
func (r *region) settle() {
	r.t.Helper()
	r.view.Graph.Settle()
	for _, p := range r.proxies {
		if cfg := p.root.Value(); cfg.Shared != p.last.Shared || cfg.Own != p.last.Own {
			p.last, p.table = cfg, r.tableOf(cfg)
			p.set(p.table)
		}
	}
	for _, p := range r.proxies {
		p.untilAcked(r.t, p.table)
		if bad := p.refusals(); len(bad) > 0 {
			r.t.Fatalf("%s refused: %s", p.node, strings.Join(bad, "\n"))
		}
	}
}

// serving describes the Dataplane of a workload web with inbounds such as "http main 8080 9080": protocol, name, port, workload's port.
func serving(name string, more string, inbounds ...string) string {
	var in []string
	for _, i := range inbounds {
		f := strings.Fields(i)
		in = append(in, fmt.Sprintf("{protocol: %s, name: %s, port: %s, servicePort: %s}", f[0], f[1], f[2], f[3]))
	}
	return fmt.Sprintf("type: Dataplane\nmesh: shop\nname: %s\nlabels: {kuma.io/workload: web}\nnetworking:\n  address: %s\n  inbound: [%s]\n%s",
		name, loopbackIP, strings.Join(in, ", "), more)
}

// gate describes the ingress of a zone.
func gate(name string, port uint32) string {
	return fmt.Sprintf("type: Dataplane\nmesh: shop\nname: %s\nnetworking:\n  address: %s\n  listeners: [{type: ZoneIngress, address: %s, port: %d, name: in}]", name, loopbackIP, loopbackIP, port)
}
