package mesh

import (
	"maps"

	"github.com/causeway-mesh/causeway/api/resource"
)

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
		generatorOf("synced-headless-kube-mesh-service", HostnameSelector{MeshService: selector(also(kube, labelHeadless, "true"))},
			`{{ label "statefulset.kubernetes.io/pod-name" }}.{{ label "k8s.kuma.io/service-name" }}.{{ .Namespace }}.svc.{{ .Zone }}.mesh.local`),
		generatorOf("synced-kube-mesh-service", HostnameSelector{MeshService: selector(also(kube, labelHeadless, "false"))},
			"{{ .DisplayName }}.{{ .Namespace }}.svc.{{ .Zone }}.mesh.local"),
		generatorOf("synced-mesh-external-service", HostnameSelector{MeshExternalService: selector(fromGlobal)},
			"{{ .DisplayName }}.extsvc.mesh.local"),
		// Multi-zone services are written at global or in a zone without one, so any origin will do.
		generatorOf("synced-mesh-multi-zone-service", HostnameSelector{MeshMultiZoneService: selector(nil)},
			"{{ .DisplayName }}.mzsvc.mesh.local"),
		generatorOf("synced-universal-mesh-service", HostnameSelector{MeshService: selector(also(fromGlobal, resource.LabelEnv, "universal"))},
			"{{ .DisplayName }}.svc.{{ .Zone }}.mesh.local"),
	}
}

// LocalGenerators name what a zone has itself.
func LocalGenerators() []resource.Resource {
	return []resource.Resource{
		generatorOf("local-mesh-external-service", HostnameSelector{MeshExternalService: selector(fromZone)},
			"{{ .DisplayName }}.extsvc.mesh.local"),
		generatorOf("local-universal-mesh-service", HostnameSelector{MeshService: selector(also(fromZone, resource.LabelEnv, "universal"))},
			"{{ .DisplayName }}.svc.mesh.local"),
	}
}

func selector(labels map[string]string) *LabelSelector {
	return &LabelSelector{MatchLabels: labels}
}

func generatorOf(name string, s HostnameSelector, template string) resource.Resource {
	r, err := resource.WithSpec(resource.Meta{Type: TypeHostnameGenerator, Name: name}, &HostnameGenerator{Selector: s, Template: template})
	if err != nil {
		panic("mesh: " + err.Error()) // a spec of our own always encodes
	}
	return r
}
