package mesh

import "net/netip"

// A Condition is one aspect of the state of a resource.
type Condition struct {
	// Type names the aspect.
	Type string `json:"type"`
	// Status is True, False or Unknown.
	Status ConditionStatus `json:"status"`
	// Reason is one word for programs.
	Reason string `json:"reason"`
	// Message is a sentence for people.
	Message string `json:"message"`
}

// A ConditionStatus is True, False or Unknown.
type ConditionStatus string

// The values of a condition.
const (
	True    ConditionStatus = "True"
	False   ConditionStatus = "False"
	Unknown ConditionStatus = "Unknown"
)

// An Address is a hostname under which a service is found.
type Address struct {
	// Hostname by which it is found.
	Hostname string `json:"hostname"`
	// Origin is HostnameGenerator or Kubernetes.
	Origin string `json:"origin,omitempty"`
	// HostnameGeneratorRef is the generator that made the hostname.
	HostnameGeneratorRef *HostnameGeneratorRef `json:"hostnameGeneratorRef,omitempty"`
}

// The origins of addresses.
const (
	OriginHostnameGenerator = "HostnameGenerator"
	OriginKubernetes        = "Kubernetes"
)

// HostnameGeneratorRef names a generator.
type HostnameGeneratorRef struct {
	// CoreName is the name of the HostnameGenerator.
	CoreName string `json:"coreName"`
}

// HostnameGeneratorStatus is what one generator did for a service.
type HostnameGeneratorStatus struct {
	// HostnameGeneratorRef is the generator.
	HostnameGeneratorRef HostnameGeneratorRef `json:"hostnameGeneratorRef"`
	// Conditions say whether it made a hostname, and why not.
	Conditions []Condition `json:"conditions,omitempty"`
}

// What a generator did for a service.
const (
	ConditionGenerated   = "Generated"
	ReasonGenerated      = "Generated"
	ReasonTemplateError  = "TemplateError"
	ReasonCollision      = "Collision"
	ConditionPortsUnique = "PortsUnique"
	ReasonPortConflict   = "PortConflict"
)

// A VIP is a virtual address of a service.
type VIP struct {
	// IP of the service inside the mesh.
	IP string `json:"ip"`
}

// VirtualRanges hold all virtual addresses, and nothing else.
var VirtualRanges = []netip.Prefix{
	netip.MustParsePrefix("241.0.0.0/8"), netip.MustParsePrefix("242.0.0.0/8"), netip.MustParsePrefix("243.0.0.0/8"),
}

// DataplaneProxies counts the proxies of a service or workload.
type DataplaneProxies struct {
	// Connected proxies have a connection to the control plane.
	Connected int `json:"connected"`
	// Healthy proxies are connected and ready.
	Healthy int `json:"healthy"`
	// Total proxies are registered.
	Total int `json:"total"`
}

// A TLSStatus says whether clients may use mesh TLS.
type TLSStatus struct {
	// Status is Ready once every proxy has had an identity, and stays so.
	Status TLSReadiness `json:"status,omitempty"`
}

// A TLSReadiness is Ready or NotReady.
type TLSReadiness string

// The values of TLS readiness.
const (
	TLSReady    TLSReadiness = "Ready"
	TLSNotReady TLSReadiness = "NotReady"
)
