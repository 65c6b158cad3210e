package mesh

import (
	"errors"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/causeway-mesh/causeway/api/resource"
)

var hostnameVariables = []string{"Name", "DisplayName", "Namespace", "Mesh", "Zone"}

func validateHostnameGenerator(r resource.Resource) resource.Problems {
	h := r.Spec.(*HostnameGenerator)
	var ps problems
	at := resource.Path("spec")
	set := 0
	for _, f := range []struct {
		name string
		s    *LabelSelector
	}{
		{"meshService", h.Selector.MeshService},
		{"meshExternalService", h.Selector.MeshExternalService},
		{"meshMultiZoneService", h.Selector.MeshMultiZoneService},
	} {
		if f.s != nil {
			set++
			ps.selector(at.Field("selector").Field(f.name), f.s)
		}
	}
	if set != 1 {
		ps.Add(at.Field("selector"), "must have exactly one of meshService, meshExternalService and meshMultiZoneService")
	}
	ps.extension(at.Field("extension"), h.Extension)
	switch {
	case h.Template != "":
		ps.template(at.Field("template"), h.Template, true, hostnameVariables, hostnameProblem)
	case h.Extension == nil:
		ps.Add(at.Field("template"), "must be set")
	}
	return ps.Problems
}

func hostnameProblem(s string) string {
	if len(validation.IsDNS1123Subdomain(s)) > 0 {
		return resource.Quote(s) + " is not a DNS name"
	}
	return ""
}

// A HostnameTemplate is the parsed template of a generator.
type HostnameTemplate struct{ template Template }

// ParseHostname reads the template of a generator.
func (h *HostnameGenerator) ParseHostname() (HostnameTemplate, error) {
	t, err := ParseTemplate(h.Template, true, hostnameVariables...)
	return HostnameTemplate{t}, err
}

// Hostname is the name for a service. Zone is the local zone, used when the service belongs to none.
func (h HostnameTemplate) Hostname(service resource.Meta, zone string) (string, error) {
	if z := service.Zone(); z != "" {
		zone = z
	}
	name, err := h.template.Render(map[string]string{
		"Name": service.Name, "DisplayName": service.DisplayName(), "Namespace": service.Namespace(), "Mesh": service.Mesh, "Zone": zone,
	}, service.Labels)
	if err != nil {
		return "", err
	}
	if reason := hostnameProblem(name); reason != "" {
		return "", errors.New(reason)
	}
	return name, nil
}
