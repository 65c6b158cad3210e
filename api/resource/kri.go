package resource

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// A KRI is the identifier of a resource, or of one section of it, that is the same on every control plane.
// Written: kri_<short>_<mesh>_<zone>_<namespace>_<name>_<section>; absent parts are empty.
type KRI struct {
	Short     string // short name of the kind
	Mesh      string
	Zone      string
	Namespace string
	Name      string // display name
	Section   string // port or inbound name, empty for the whole resource
}

// KRIOf returns the identifier of a resource of kind k.
func KRIOf(k Kind, m Meta) KRI {
	return KRI{Short: k.Short, Mesh: m.Mesh, Zone: m.Zone(), Namespace: m.Namespace(), Name: m.DisplayName()}
}

// WithSection returns the identifier of a part of the resource.
func (k KRI) WithSection(section string) KRI {
	k.Section = section
	return k
}

// String renders the identifier in its written form.
func (k KRI) String() string {
	return "kri_" + k.Short + "_" + k.Mesh + "_" + k.Zone + "_" + k.Namespace + "_" + k.Name + "_" + k.Section
}

// IsZero says whether nothing is identified.
func (k KRI) IsZero() bool { return k == KRI{} }

// Compare orders identifiers by kind, mesh, zone, namespace, name and section.
func (k KRI) Compare(o KRI) int {
	return strings.Compare(k.sortKey(), o.sortKey())
}

func (k KRI) sortKey() string {
	return k.Short + "\x00" + k.Mesh + "\x00" + k.Zone + "\x00" + k.Namespace + "\x00" + k.Name + "\x00" + k.Section
}

// ParseKRI reads the written form. Names hold no underscore, so the form is unambiguous.
func ParseKRI(s string) (KRI, error) {
	if len(s) > 1024 {
		return KRI{}, fmt.Errorf("kri %s: longer than 1024 characters", Quote(s))
	}
	parts := strings.Split(s, "_")
	if len(parts) != 7 || parts[0] != "kri" {
		return KRI{}, fmt.Errorf("kri %s: must have the form kri_<kind>_<mesh>_<zone>_<namespace>_<name>_<section>", Quote(s))
	}
	k := KRI{Short: parts[1], Mesh: parts[2], Zone: parts[3], Namespace: parts[4], Name: parts[5], Section: parts[6]}
	if k.Short == "" || k.Name == "" {
		return KRI{}, fmt.Errorf("kri %s: kind and name must not be empty", Quote(s))
	}
	for _, p := range parts[1:] {
		if p != "" && len(validation.IsDNS1123Subdomain(p)) > 0 {
			return KRI{}, fmt.Errorf("kri %s: part %s is not a valid name", Quote(s), Quote(p))
		}
	}
	return k, nil
}

// SNI is the server name under which a port of a destination is reached through mesh TLS:
// sni.<short>.<mesh>[.<zone>[.<namespace>]].<name>.<port>. It fails when a part is not a DNS label or the whole is too long.
func (k KRI) SNI() (string, error) {
	parts := []string{"sni", k.Short, k.Mesh}
	if k.Zone != "" {
		parts = append(parts, k.Zone)
		if k.Namespace != "" {
			parts = append(parts, k.Namespace)
		}
	}
	parts = append(parts, k.Name, k.Section)
	for _, p := range parts {
		if len(validation.IsDNS1123Label(p)) > 0 {
			return "", fmt.Errorf("sni of %s: part %s is not a DNS label", k, Quote(p))
		}
	}
	s := strings.Join(parts, ".")
	if len(s) > 253 {
		return "", fmt.Errorf("sni of %s: %d characters, at most 253 are allowed", k, len(s))
	}
	return s, nil
}

// ParseSNI reads a server name back. Seven parts carry zone and namespace, six a zone, five neither.
func ParseSNI(s string) (KRI, error) {
	if len(s) > 253 {
		return KRI{}, fmt.Errorf("sni %s: longer than 253 characters", Quote(s))
	}
	p := strings.Split(s, ".")
	if len(p) < 5 || len(p) > 7 || p[0] != "sni" {
		return KRI{}, fmt.Errorf("sni %s: must have the form sni.<kind>.<mesh>[.<zone>[.<namespace>]].<name>.<port>", Quote(s))
	}
	for _, part := range p {
		if len(validation.IsDNS1123Label(part)) > 0 {
			return KRI{}, fmt.Errorf("sni %s: part %s is not a DNS label", Quote(s), Quote(part))
		}
	}
	k := KRI{Short: p[1], Mesh: p[2], Name: p[len(p)-2], Section: p[len(p)-1]}
	if len(p) >= 6 {
		k.Zone = p[3]
	}
	if len(p) == 7 {
		k.Namespace = p[4]
	}
	return k, nil
}
