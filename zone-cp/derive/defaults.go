package derive

import (
	"maps"
	"slices"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

// DefaultMesh is the name of the mesh that a new control plane starts with.
const DefaultMesh = "default"

// The environments and origins that default generators tell apart.
var (
	fromGlobal = map[string]string{resource.LabelOrigin: resource.OriginGlobal}
	fromZone   = map[string]string{resource.LabelOrigin: resource.OriginZone}
)

func also(labels map[string]string, k, v string) map[string]string {
	out := maps.Clone(labels)
	out[k] = v
	return out
}

// labelHeadless tells the MeshServices of single Pods from others.
const labelHeadless = "k8s.kuma.io/is-headless-service"

// SyncedGenerators name what arrives from elsewhere. They are written at global, or in a zone without one.
func SyncedGenerators() []resource.Resource {
	kube := also(fromGlobal, resource.LabelEnv, "kubernetes")
	return []resource.Resource{
		generatorOf("synced-headless-kube-mesh-service", mesh.HostnameSelector{MeshService: selector(also(kube, labelHeadless, "true"))},
			`{{ label "statefulset.kubernetes.io/pod-name" }}.{{ label "k8s.kuma.io/service-name" }}.{{ .Namespace }}.svc.{{ .Zone }}.mesh.local`),
		generatorOf("synced-kube-mesh-service", mesh.HostnameSelector{MeshService: selector(also(kube, labelHeadless, "false"))},
			"{{ .DisplayName }}.{{ .Namespace }}.svc.{{ .Zone }}.mesh.local"),
		generatorOf("synced-mesh-external-service", mesh.HostnameSelector{MeshExternalService: selector(fromGlobal)},
			"{{ .DisplayName }}.extsvc.mesh.local"),
		// Multi-zone services are written at global or in a zone without one, so any origin will do.
		generatorOf("synced-mesh-multi-zone-service", mesh.HostnameSelector{MeshMultiZoneService: selector(nil)},
			"{{ .DisplayName }}.mzsvc.mesh.local"),
		generatorOf("synced-universal-mesh-service", mesh.HostnameSelector{MeshService: selector(also(fromGlobal, resource.LabelEnv, EnvUniversal))},
			"{{ .DisplayName }}.svc.{{ .Zone }}.mesh.local"),
	}
}

// LocalGenerators name what a zone has itself.
func LocalGenerators() []resource.Resource {
	return []resource.Resource{
		generatorOf("local-mesh-external-service", mesh.HostnameSelector{MeshExternalService: selector(fromZone)},
			"{{ .DisplayName }}.extsvc.mesh.local"),
		generatorOf("local-universal-mesh-service", mesh.HostnameSelector{MeshService: selector(also(fromZone, resource.LabelEnv, EnvUniversal))},
			"{{ .DisplayName }}.svc.mesh.local"),
	}
}

func selector(labels map[string]string) *mesh.LabelSelector {
	return &mesh.LabelSelector{MatchLabels: labels}
}

func generatorOf(name string, s mesh.HostnameSelector, template string) resource.Resource {
	return built(resource.Meta{Type: mesh.TypeHostnameGenerator, Name: name}, &mesh.HostnameGenerator{Selector: s, Template: template})
}

// built makes a resource of a spec of this package's own, which always encodes.
func built(m resource.Meta, spec any) resource.Resource {
	r, err := resource.WithSpec(m, spec)
	if err != nil {
		panic("derive: " + err.Error())
	}
	return r
}

// A Start describes a zone that starts for the first time.
type Start struct {
	Zone, Env string
	// Federated zones get meshes and the synced generators from global.
	Federated bool
	// SkipMesh and SkipGenerators leave those out.
	SkipMesh, SkipGenerators bool
}

// FirstResources are the resources that a new zone starts with, apart from secrets. What exists already is to be left as it is.
func FirstResources(s Start) []resource.Resource {
	out := []resource.Resource{built(resource.Meta{Type: mesh.TypeZone, Name: s.Zone}, &mesh.Zone{})}
	if !s.Federated && !s.SkipMesh {
		out = append(out, built(resource.Meta{Type: mesh.TypeMesh, Name: DefaultMesh}, &mesh.Mesh{}))
	}
	if !s.SkipGenerators {
		out = append(out, LocalGenerators()...)
		if !s.Federated {
			out = append(out, SyncedGenerators()...)
		}
	}
	for i := range out {
		out[i].Labels = stamp(out[i].Meta, s.Zone, s.Env)
	}
	return out
}

// GlobalResources are the resources that a new global control plane starts with, apart from secrets.
func GlobalResources(skipMesh, skipGenerators bool) []resource.Resource {
	var out []resource.Resource
	if !skipMesh {
		out = append(out, built(resource.Meta{Type: mesh.TypeMesh, Name: DefaultMesh}, &mesh.Mesh{}))
	}
	if !skipGenerators {
		out = append(out, SyncedGenerators()...)
	}
	for i := range out {
		out[i].Labels = map[string]string{resource.LabelDisplayName: out[i].Name, resource.LabelOrigin: resource.OriginGlobal}
	}
	return out
}

// stamp adds the labels that a zone gives to what it writes itself.
func stamp(m resource.Meta, zone, env string) map[string]string {
	labels := maps.Clone(m.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	if m.Mesh != "" {
		labels[resource.LabelMesh] = m.Mesh
	}
	if labels[resource.LabelDisplayName] == "" {
		labels[resource.LabelDisplayName] = m.Name
	}
	labels[resource.LabelOrigin], labels[resource.LabelEnv] = resource.OriginZone, env
	if ofZone(m.Type) {
		labels[resource.LabelZone] = zone
	}
	return labels
}

// ofZone says that resources of a type belong to the zone that writes them.
func ofZone(typ string) bool {
	return slices.ContainsFunc(mesh.Kinds, func(k resource.Kind) bool { return k.Name == typ && k.Flow&resource.FromZone != 0 })
}
