package mesh

import (
	"time"

	"github.com/causeway-mesh/causeway/api/resource"
)

// MeshService is a service of one zone: ports on the proxies it selects.
type MeshService struct {
	// Selector says which proxies make up the service. Absent: none.
	Selector DataplaneSelector `json:"selector,omitzero"`
	// Ports of the service. At least one is needed for traffic.
	Ports []Port `json:"ports,omitempty"`
	// State is computed by the control plane; what is written here is ignored.
	State ServiceState `json:"state,omitempty"`
	// Identities are computed by the control plane; what is written here is ignored.
	Identities []ServiceIdentity `json:"identities,omitempty"`
}

// DataplaneSelector selects proxies by name or by labels; at most one is set.
type DataplaneSelector struct {
	// DataplaneRef selects one proxy by name.
	DataplaneRef *DataplaneRef `json:"dataplaneRef,omitempty"`
	// DataplaneLabels selects the proxies that carry all the labels.
	DataplaneLabels *LabelSelector `json:"dataplaneLabels,omitempty"`
	// DataplaneTags are no longer supported; use dataplaneLabels.
	DataplaneTags map[string]string `json:"dataplaneTags,omitempty"`
}

// DataplaneRef names a proxy.
type DataplaneRef struct {
	// Name of the Dataplane. Required.
	Name string `json:"name"`
}

// Selects says whether a proxy is part of the service. A selector without labels selects nothing.
func (s DataplaneSelector) Selects(dp resource.Meta) bool {
	switch {
	case s.DataplaneRef != nil:
		return s.DataplaneRef.Name == dp.DisplayName() || s.DataplaneRef.Name == dp.Name
	case s.DataplaneLabels != nil && len(s.DataplaneLabels.MatchLabels) > 0:
		return s.DataplaneLabels.Matches(dp.Labels)
	}
	return false
}

// A Port of a service.
type Port struct {
	// Name of the port: a DNS label, unique in the service. Default the port number.
	Name string `json:"name,omitempty"`
	// Port under which clients find it, 1 to 65535, unique in the service. Required.
	Port uint32 `json:"port"`
	// TargetPort is the port of the selected proxies: its number, or the name of an inbound. Default port.
	TargetPort PortRef `json:"targetPort,omitzero"`
	// AppProtocol is what is spoken: tcp, http, http2, grpc, tls, kafka or mysql (the last three are carried like tcp). Default tcp.
	AppProtocol Protocol `json:"appProtocol,omitempty"`
}

// SectionName is how policies, KRIs and SNIs refer to the port: its name, or its number when it has none.
func (p Port) SectionName() string { return sectionName(p.Name, p.Port) }

// Protocol is the protocol with its default.
func (p Port) Protocol() Protocol { return p.AppProtocol.OrTCP() }

// Selects says whether an inbound serves the port.
func (p Port) Selects(in Inbound) bool {
	switch {
	case p.TargetPort.Name != "":
		return in.Name == p.TargetPort.Name
	case p.TargetPort.Number != 0:
		return in.Port == p.TargetPort.Number
	}
	return in.Port == p.Port
}

// A ServiceState says whether a service can take traffic.
type ServiceState string

// The states of a service.
const (
	Available   ServiceState = "Available"
	Unavailable ServiceState = "Unavailable"
)

// A ServiceIdentity is an identity that proxies of a service present.
type ServiceIdentity struct {
	// Type is SpiffeID.
	Type string `json:"type"`
	// Value is the identity.
	Value string `json:"value"`
}

// IdentitySpiffeID is the one type of service identities.
const IdentitySpiffeID = "SpiffeID"

// MeshServiceStatus is what the control plane computes for a service.
type MeshServiceStatus struct {
	// Addresses are the hostnames under which the service is found.
	Addresses []Address `json:"addresses,omitempty"`
	// VIPs are the virtual addresses of the service.
	VIPs []VIP `json:"vips,omitempty"`
	// TLS says whether clients use mesh TLS.
	TLS TLSStatus `json:"tls,omitzero"`
	// HostnameGenerators say what each generator did for the service.
	HostnameGenerators []HostnameGeneratorStatus `json:"hostnameGenerators,omitempty"`
	// DataplaneProxies counts the proxies of the service.
	DataplaneProxies DataplaneProxies `json:"dataplaneProxies,omitzero"`
	// Conditions are aspects of its state.
	Conditions []Condition `json:"conditions,omitempty"`
	// UnusedSince is when a generated service lost its last dataplane; it is removed some time after.
	UnusedSince time.Time `json:"unusedSince,omitzero"`
	// DataplaneLabels are the keys of the labels that a generated service has because all its dataplanes carry them.
	DataplaneLabels []string `json:"dataplaneLabels,omitempty"`
	// State is Available while at least one inbound of the service is ready. Shown in the spec by the API.
	State ServiceState `json:"state,omitempty"`
	// Identities are those of the selected proxies, sorted. Shown in the spec by the API.
	Identities []ServiceIdentity `json:"identities,omitempty"`
}

var meshServiceKind = resource.Kind{
	Name: TypeMeshService, Path: "meshservices", Short: "msvc", Singular: "Mesh Service", Plural: "Mesh Services",
	Scope: resource.ScopeMesh, Flow: resource.FromZone | resource.AcrossZones, Names: resource.RFC1035Label, Destination: true,
	New: func() any { return new(MeshService) }, NewStatus: func() any { return new(MeshServiceStatus) }, Validate: validateMeshService, Warn: warnMeshService, Requires: requires,
}
