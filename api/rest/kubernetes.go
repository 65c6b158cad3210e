package rest

import (
	"cmp"
	"encoding/json"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/causeway-mesh/causeway/api/resource"
)

const systemNamespace = "kuma-system"

// The types of Kubernetes Secrets that are secrets of a mesh, or of the control planes.
const (
	secretType       = "system.kuma.io/secret"
	globalSecretType = "system.kuma.io/global-secret"
)

// A kubernetesMeta is the metadata of a custom resource.
type kubernetesMeta struct {
	// Name of the resource.
	Name string `json:"name"`
	// Namespace of the resource; absent for those of the whole cluster.
	Namespace string `json:"namespace,omitempty"`
	// Labels of the resource.
	Labels map[string]string `json:"labels,omitempty"`
}

// answerKubernetes renders a resource as the custom resource that kubectl would apply.
func (s *Server) answerKubernetes(c echo.Context, k resource.Kind, r resource.Resource) error {
	namespace := cmp.Or(c.QueryParam("namespace"), systemNamespace)
	f := newFields()
	if k.AdminOnly {
		kubernetesSecret(f, k, r, namespace)
	} else {
		kubernetesResource(f, k, r, namespace)
	}
	body, err := f.done()
	if err != nil {
		return titled(couldNotGet, err)
	}
	return c.JSONBlob(http.StatusOK, body)
}

func kubernetesResource(f *fields, k resource.Kind, r resource.Resource, namespace string) {
	f.set("apiVersion", "kuma.io/v1alpha1")
	f.set("kind", k.Name)
	if k.Inline && r.Mesh != "" {
		f.set("mesh", r.Mesh)
	}
	if k.Scope == resource.ScopeGlobal && k.Inline {
		namespace = "" // Mesh and Zone belong to the cluster
	}
	f.set("metadata", kubernetesMeta{Name: r.Name, Namespace: namespace, Labels: r.Labels})
	spec := r.Raw
	if len(spec) == 0 {
		spec = []byte("{}")
	}
	f.raw("spec", spec)
}

func kubernetesSecret(f *fields, k resource.Kind, r resource.Resource, namespace string) {
	var spec struct {
		Data []byte `json:"data"`
	}
	if err := json.Unmarshal(r.Raw, &spec); err != nil {
		f.err = err
	}
	typ := secretType
	if k.Scope == resource.ScopeGlobal {
		typ = globalSecretType
	}
	f.set("apiVersion", "v1")
	f.set("kind", "Secret")
	f.set("metadata", kubernetesMeta{Name: r.Name, Namespace: namespace, Labels: r.Labels})
	f.set("data", map[string][]byte{"value": spec.Data})
	f.set("type", typ)
}
