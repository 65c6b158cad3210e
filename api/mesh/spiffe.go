package mesh

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/api/resource"
)

// The defaults of MeshIdentity.
const (
	DefaultTrustDomain    = "{{ .Mesh }}.{{ .Zone }}.mesh.local"
	DefaultPath           = "/workload/{{ .Workload }}"
	DefaultPathKubernetes = "/ns/{{ .Namespace }}/sa/{{ .ServiceAccount }}"
)

var (
	trustDomainVariables = []string{"Mesh", "Zone"}
	pathVariables        = []string{"Namespace", "ServiceAccount", "Workload"}
)

// SelectIdentity finds the MeshIdentity a dataplane gets: of those of its mesh that select it, the one with the most labels,
// then the first by display name. An identity that belongs to a zone selects only dataplanes of that zone.
func SelectIdentity(identities []resource.Resource, dataplane resource.Meta) (resource.Resource, bool) {
	var best resource.Resource
	found := false
	for _, r := range identities {
		spec, ok := r.Spec.(*MeshIdentity)
		if !ok || r.Mesh != dataplane.Mesh || !spec.Selects(dataplane.Labels) {
			continue
		}
		if z := r.Zone(); z != "" && dataplane.Zone() != "" && z != dataplane.Zone() {
			continue
		}
		if !found || compareIdentities(r, best) < 0 {
			best, found = r, true
		}
	}
	return best, found
}

func compareIdentities(a, b resource.Resource) int {
	return cmp.Or(
		cmp.Compare(identityLabels(b), identityLabels(a)),
		strings.Compare(a.DisplayName(), b.DisplayName()),
		strings.Compare(a.Zone(), b.Zone()),
		strings.Compare(a.Namespace(), b.Namespace()),
		strings.Compare(a.Name, b.Name),
	)
}

func identityLabels(r resource.Resource) int {
	return len(r.Spec.(*MeshIdentity).Selector.Dataplane.MatchLabels)
}

// TrustDomain is the trust domain of an identity. Zone is the local zone, used when the identity belongs to none.
func TrustDomain(identity resource.Resource, zone string) (string, error) {
	spec, ok := identity.Spec.(*MeshIdentity)
	if !ok {
		return "", fmt.Errorf("trust domain of %s: it is not a MeshIdentity", identity.Key())
	}
	t, err := ParseTemplate(spec.trustDomainTemplate(), false, trustDomainVariables...)
	if err != nil {
		return "", fmt.Errorf("trust domain of %s: %w", identity.Key(), err)
	}
	domain, err := t.Render(map[string]string{"Mesh": identity.Mesh, "Zone": cmp.Or(identity.Zone(), zone)}, nil)
	if err != nil {
		return "", fmt.Errorf("trust domain of %s: %w", identity.Key(), err)
	}
	if reason := trustDomainProblem(domain); reason != "" {
		return "", fmt.Errorf("trust domain of %s: %s", identity.Key(), reason)
	}
	return domain, nil
}

// A Namer gives SPIFFE IDs by one MeshIdentity; it keeps what is the same for all dataplanes.
type Namer struct {
	identity resource.Resource
	domain   string
	paths    map[bool]Template // by whether the dataplane is on Kubernetes
}

// NewNamer reads the templates of an identity. Zone is the local zone, used when the identity belongs to none.
func NewNamer(identity resource.Resource, zone string) (*Namer, error) {
	domain, err := TrustDomain(identity, zone)
	if err != nil {
		return nil, err
	}
	n := &Namer{identity: identity, domain: domain, paths: map[bool]Template{}}
	for _, kubernetes := range []bool{false, true} {
		t, err := ParseTemplate(identity.Spec.(*MeshIdentity).pathTemplate(kubernetes), true, pathVariables...)
		if err != nil {
			return nil, fmt.Errorf("path of %s: %w", identity.Key(), err)
		}
		n.paths[kubernetes] = t
	}
	return n, nil
}

// TrustDomain is the trust domain of the identity.
func (n *Namer) TrustDomain() string { return n.domain }

// SPIFFEID is the SPIFFE ID of a dataplane. It fails when a label that the path is made of is missing from the dataplane.
func (n *Namer) SPIFFEID(dataplane resource.Meta) (string, error) {
	path, err := n.paths[OnKubernetes(dataplane)].Render(map[string]string{
		"Namespace":      dataplane.Namespace(),
		"ServiceAccount": dataplane.Label(resource.LabelServiceAccount),
		"Workload":       dataplane.Label(resource.LabelWorkload),
	}, dataplane.Labels)
	if err != nil {
		return "", fmt.Errorf("path of %s for %s: %w", n.identity.Key(), dataplane.Key(), err)
	}
	if reason := pathProblem(path); reason != "" {
		return "", fmt.Errorf("path of %s for %s: %s", n.identity.Key(), dataplane.Key(), reason)
	}
	id := "spiffe://" + n.domain + path
	if len(id) > maxSPIFFEID {
		return "", fmt.Errorf("SPIFFE ID of %s: %d characters, at most %d are allowed", dataplane.Key(), len(id), maxSPIFFEID)
	}
	return id, nil
}

// SPIFFEID is the SPIFFE ID that an identity gives to a dataplane. Zone is the local zone, used when the identity belongs to none.
// It fails when a label that the path is made of is missing from the dataplane.
func SPIFFEID(identity resource.Resource, dataplane resource.Meta, zone string) (string, error) {
	n, err := NewNamer(identity, zone)
	if err != nil {
		return "", err
	}
	return n.SPIFFEID(dataplane)
}

// UsesWorkloadLabel says that the SPIFFE ID of the dataplane depends on its kuma.io/workload label,
// so that a token must cover the label.
func (m *MeshIdentity) UsesWorkloadLabel(dataplane resource.Meta) bool {
	t, err := ParseTemplate(m.pathTemplate(OnKubernetes(dataplane)), true, pathVariables...)
	return err == nil && (t.Uses("Workload") || slices.Contains(t.Labels(), resource.LabelWorkload))
}

// PathLabels lists the labels of the dataplane that its SPIFFE ID depends on.
func (m *MeshIdentity) PathLabels(dataplane resource.Meta) []string {
	t, err := ParseTemplate(m.pathTemplate(OnKubernetes(dataplane)), true, pathVariables...)
	if err != nil {
		return nil
	}
	out := t.Labels()
	for v, l := range map[string]string{
		"Namespace": resource.LabelNamespace, "ServiceAccount": resource.LabelServiceAccount, "Workload": resource.LabelWorkload,
	} {
		if t.Uses(v) && !slices.Contains(out, l) {
			out = append(out, l)
		}
	}
	slices.Sort(out)
	return out
}

func (m *MeshIdentity) trustDomainTemplate() string {
	if m.SpiffeID == nil {
		return DefaultTrustDomain
	}
	return cmp.Or(m.SpiffeID.TrustDomain, DefaultTrustDomain)
}

func (m *MeshIdentity) pathTemplate(kubernetes bool) string {
	fallback := DefaultPath
	if kubernetes {
		fallback = DefaultPathKubernetes
	}
	if m.SpiffeID == nil {
		return fallback
	}
	return cmp.Or(m.SpiffeID.Path, fallback)
}

// OnKubernetes says that a dataplane is a Pod.
func OnKubernetes(dataplane resource.Meta) bool {
	if env := dataplane.Label(resource.LabelEnv); env != "" {
		return env == "kubernetes"
	}
	return dataplane.Namespace() != ""
}

const (
	maxTrustDomain = 253
	maxSPIFFEID    = 2048
)

// trustDomainProblem applies the grammar of the SPIFFE standard: lower-case letters, digits, dots, dashes and underscores.
func trustDomainProblem(s string) string {
	if s == "" || len(s) > maxTrustDomain {
		return fmt.Sprintf("must have 1 to %d characters, not %d", maxTrustDomain, len(s))
	}
	for _, c := range s {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_') {
			return fmt.Sprintf("%s is not a trust domain: only a-z, 0-9, dot, dash and underscore are possible", resource.Quote(s))
		}
	}
	return ""
}

// pathProblem applies the grammar of the SPIFFE standard: segments of letters, digits, dots, dashes and underscores.
func pathProblem(s string) string {
	if !strings.HasPrefix(s, "/") {
		return fmt.Sprintf("%s is not a path: it must begin with /", resource.Quote(s))
	}
	for _, seg := range strings.Split(s[1:], "/") {
		if seg == "" || seg == "." || seg == ".." {
			return fmt.Sprintf("%s is not a path: segments must not be empty, . or ..", resource.Quote(s))
		}
		for _, c := range seg {
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_') {
				return fmt.Sprintf("%s is not a path: only letters, digits, dot, dash and underscore are possible in a segment", resource.Quote(s))
			}
		}
	}
	return ""
}
