package mesh

import (
	"cmp"
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/api/resource"
)

// MeshMultiZoneService joins the MeshServices of several zones under one name.
type MeshMultiZoneService struct {
	// Selector says which MeshServices are joined.
	Selector MeshServiceSelector `json:"selector"`
	// Ports of the service; at least one. Required.
	Ports []MultiZonePort `json:"ports"`
}

// MeshServiceSelector selects MeshServices by labels.
type MeshServiceSelector struct {
	// MeshService holds the labels, at least one.
	MeshService LabelSelector `json:"meshService"`
}

// MultiZonePort is a port of a MeshMultiZoneService.
type MultiZonePort struct {
	// Name of the port: a DNS label, unique in the service. Default the port number.
	Name string `json:"name,omitempty"`
	// Port under which clients find it, 1 to 65535, unique in the service. Required.
	Port uint32 `json:"port"`
	// AppProtocol is what is spoken: tcp, http, http2, grpc, tls, kafka or mysql (the last three are carried like tcp). Default tcp.
	AppProtocol Protocol `json:"appProtocol,omitempty"`
}

// SectionName is how policies, KRIs and SNIs refer to the port: its name, or its number when it has none.
func (p MultiZonePort) SectionName() string { return sectionName(p.Name, p.Port) }

// Protocol is the protocol with its default.
func (p MultiZonePort) Protocol() Protocol { return p.AppProtocol.OrTCP() }

// Joins says whether a port of a member belongs to this port: it has the same name, or the same number when either is unnamed.
func (p MultiZonePort) Joins(member Port) bool {
	if p.Name != "" && member.Name != "" {
		return p.Name == member.Name
	}
	return p.Port == member.Port
}

// Selects says whether a MeshService is a member.
func (m *MeshMultiZoneService) Selects(service resource.Meta) bool {
	return len(m.Selector.MeshService.MatchLabels) > 0 && m.Selector.MeshService.Matches(service.Labels)
}

// Members lists those of the MeshServices that are joined to a service of a mesh, and says as a condition whether there are any.
// Services without a zone belong to the given one.
func (m *MeshMultiZoneService) Members(mesh, zone string, services []resource.Resource) ([]MatchedMeshService, []Condition) {
	var out []MatchedMeshService
	for _, s := range services {
		if s.Mesh == mesh && m.Selects(s.Meta) {
			out = append(out, MatchedMeshService{Name: s.DisplayName(), Namespace: s.Namespace(), Zone: cmp.Or(s.Zone(), zone), Mesh: s.Mesh})
		}
	}
	slices.SortFunc(out, func(a, b MatchedMeshService) int {
		return cmp.Or(strings.Compare(a.Zone, b.Zone), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	c := Condition{Type: ConditionMeshServicesMatched, Status: True, Reason: ReasonMatchesFound}
	if len(out) == 0 {
		c.Status, c.Reason, c.Message = False, ReasonNoMatchesFound, "no MeshService of the mesh carries the labels"
	}
	return out, []Condition{c}
}

// MeshMultiZoneServiceStatus is what the control plane computes for a multi-zone service.
type MeshMultiZoneServiceStatus struct {
	// Addresses are the hostnames under which the service is found.
	Addresses []Address `json:"addresses,omitempty"`
	// VIPs are the virtual addresses of the service.
	VIPs []VIP `json:"vips,omitempty"`
	// MeshServices are its members.
	MeshServices []MatchedMeshService `json:"meshServices,omitempty"`
	// HostnameGenerators say what each generator did for the service.
	HostnameGenerators []HostnameGeneratorStatus `json:"hostnameGenerators,omitempty"`
	// Conditions are aspects of its state.
	Conditions []Condition `json:"conditions,omitempty"`
}

// MatchedMeshService is a member of a multi-zone service.
type MatchedMeshService struct {
	// Name of the MeshService.
	Name string `json:"name"`
	// Namespace of the MeshService on Kubernetes.
	Namespace string `json:"namespace"`
	// Zone of the MeshService.
	Zone string `json:"zone"`
	// Mesh of the MeshService.
	Mesh string `json:"mesh"`
}

// Whether a multi-zone service has members.
const (
	ConditionMeshServicesMatched = "MeshServicesMatched"
	ReasonMatchesFound           = "MatchesFound"
	ReasonNoMatchesFound         = "NoMatchesFound"
)

var meshMultiZoneServiceKind = resource.Kind{
	Name: TypeMeshMultiZoneService, Path: "meshmultizoneservices", Short: "mzsvc", Singular: "Mesh Multi-Zone Service", Plural: "Mesh Multi-Zone Services",
	Scope: resource.ScopeMesh, Flow: resource.FromGlobal, Names: resource.RFC1035Label, Destination: true,
	New: func() any { return new(MeshMultiZoneService) }, NewStatus: func() any { return new(MeshMultiZoneServiceStatus) }, Validate: validateMeshMultiZoneService, Warn: warnMeshMultiZoneService, Requires: requires,
}
