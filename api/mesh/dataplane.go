package mesh

import (
	"strconv"

	"github.com/causeway-mesh/causeway/api/resource"
)

// Dataplane is one proxy: the workload it stands beside, a delegated gateway, or the ingress and egress of a zone.
type Dataplane struct {
	// Networking says where the proxy can be reached and what it reaches.
	Networking Networking `json:"networking"`
}

// Networking is the addresses and ports of a proxy.
type Networking struct {
	// Address is the IP or DNS name at which other proxies reach this one. Required; not 0.0.0.0 or ::.
	Address string `json:"address"`
	// Admin is the administration interface of Envoy.
	Admin *Admin `json:"admin,omitempty"`
	// Inbound lists the ports of the workload that the mesh may reach.
	Inbound []Inbound `json:"inbound,omitempty"`
	// Outbound lists the local ports on which the workload finds other services. Unused with transparent proxying.
	Outbound []Outbound `json:"outbound,omitempty"`
	// Gateway marks a proxy beside a gateway that takes its traffic itself. Excludes inbound and listeners.
	Gateway *Gateway `json:"gateway,omitempty"`
	// TransparentProxying says that the traffic of the workload is redirected to the proxy. Absent: it is not.
	TransparentProxying *TransparentProxying `json:"transparentProxying,omitempty"`
	// Listeners are the roles the proxy plays for its zone: ingress and egress.
	Listeners []Listener `json:"listeners,omitempty"`
	// OutboundBlock is the loopback block on which a proxy without transparent proxying binds an address per destination:
	// a /16 inside 127.0.0.0/8 other than 127.0.0.0/16, such as 127.7.0.0/16. Two proxies of one host need different blocks.
	// Absent: only what outbound lists is bound. An addition of Causeway.
	OutboundBlock string `json:"outboundBlock,omitempty"`
}

// Admin is the administration interface of Envoy.
type Admin struct {
	// Port is the TCP port of the interface, 0 when it is on a Unix socket. Default 0.
	Port uint32 `json:"port,omitempty"`
}

// Inbound is one port of the workload.
type Inbound struct {
	// Port on which the proxy takes traffic for the workload, 1 to 65535. Required.
	Port uint32 `json:"port"`
	// ServicePort on which the workload listens. Default port.
	ServicePort uint32 `json:"servicePort,omitempty"`
	// ServiceAddress is the IP on which the workload listens. Default address.
	ServiceAddress string `json:"serviceAddress,omitempty"`
	// Address is the IP on which the proxy takes traffic. Default networking.address.
	Address string `json:"address,omitempty"`
	// Name by which services and policies refer to the inbound: a DNS label, unique in the proxy. Default the port.
	Name string `json:"name,omitempty"`
	// Protocol that the workload speaks: tcp, http, http2, grpc, tls, kafka or mysql (the last three are carried like tcp). Default tcp.
	Protocol Protocol `json:"protocol,omitempty"`
	// State of the inbound: Ready, NotReady (registered, gets no traffic) or Ignored (not exposed at all). Default Ready.
	State InboundState `json:"state,omitempty"`
	// Health is the older form of state.
	Health *Health `json:"health,omitempty"`
	// ServiceProbe is checked by the agent and sets state; until the first success the inbound is NotReady.
	ServiceProbe *ServiceProbe `json:"serviceProbe,omitempty"`
	// Tags are no longer supported; put labels on the Dataplane.
	Tags map[string]string `json:"tags,omitempty"`
}

// An InboundState says whether an inbound may get traffic.
type InboundState string

// The states of inbounds and listeners.
const (
	StateReady    InboundState = "Ready"
	StateNotReady InboundState = "NotReady"
	StateIgnored  InboundState = "Ignored"
)

// Health is the older form of the state of an inbound.
type Health struct {
	// Ready says that the workload takes traffic.
	Ready bool `json:"ready"`
}

// ServiceProbe is a check of the workload by its agent.
type ServiceProbe struct {
	// Interval between two checks, at least 100ms. Default 10s.
	Interval *Duration `json:"interval,omitempty"`
	// Timeout of one check, more than 0. Default 1s.
	Timeout *Duration `json:"timeout,omitempty"`
	// UnhealthyThreshold is how many failures in a row make the inbound NotReady, from 1. Default 3.
	UnhealthyThreshold *uint32 `json:"unhealthyThreshold,omitempty"`
	// HealthyThreshold is how many successes in a row make the inbound Ready, from 1. Default 1.
	HealthyThreshold *uint32 `json:"healthyThreshold,omitempty"`
	// TCP checks that a connection can be made. This or http is required.
	TCP *TCPProbe `json:"tcp,omitempty"`
	// HTTP checks that a GET answers with 2xx or 3xx. An addition of Causeway.
	HTTP *HTTPProbe `json:"http,omitempty"`
}

// TCPProbe checks that a connection can be made.
type TCPProbe struct{}

// HTTPProbe checks that a GET answers with 2xx or 3xx.
type HTTPProbe struct {
	// Path of the request. Default "/".
	Path string `json:"path,omitempty"`
}

// Outbound is one local port on which the workload finds a service.
type Outbound struct {
	// Address is the local IP to bind. Default 127.0.0.1.
	Address string `json:"address,omitempty"`
	// Port to bind, 1 to 65535. Required.
	Port uint32 `json:"port"`
	// BackendRef is the destination. Required.
	BackendRef *BackendRef `json:"backendRef,omitempty"`
	// Tags are no longer supported; use backendRef.
	Tags map[string]string `json:"tags,omitempty"`
}

// BackendRef names a port of a destination. Of several destinations that it fits, one of the own zone is meant, then the oldest.
type BackendRef struct {
	// Kind is MeshService, MeshExternalService or MeshMultiZoneService. Required.
	Kind string `json:"kind"`
	// Name of the destination. This or labels is required.
	Name string `json:"name,omitempty"`
	// Port of the destination, 1 to 65535. Required except for MeshExternalService.
	Port uint32 `json:"port,omitempty"`
	// Labels that the destination carries. This or name is required.
	Labels map[string]string `json:"labels,omitempty"`
}

// Gateway marks a proxy beside a gateway that takes its traffic itself.
type Gateway struct {
	// Type is DELEGATED; there is no other. Default DELEGATED.
	Type string `json:"type,omitempty"`
	// Tags of the gateway. When any is given, kuma.io/service is required.
	Tags map[string]string `json:"tags,omitempty"`
}

// GatewayDelegated is the one type of gateway.
const GatewayDelegated = "DELEGATED"

// TransparentProxying says how the traffic of the workload is redirected to the proxy.
type TransparentProxying struct {
	// RedirectPortInbound is the port to which received traffic is redirected. Required.
	RedirectPortInbound uint32 `json:"redirectPortInbound,omitempty"`
	// RedirectPortOutbound is the port to which sent traffic is redirected. Required.
	RedirectPortOutbound uint32 `json:"redirectPortOutbound,omitempty"`
	// DirectAccessServices lists services whose endpoints the workload may address directly; "*" means all. Default none.
	DirectAccessServices []string `json:"directAccessServices,omitempty"`
	// IPFamilyMode is UnSpecified, DualStack, IPv4 or IPv6. Default DualStack.
	IPFamilyMode string `json:"ipFamilyMode,omitempty"`
	// ReachableBackends limits the destinations the workload can reach. Absent: all of the mesh; without refs: none.
	ReachableBackends *ReachableBackends `json:"reachableBackends,omitempty"`
}

// ReachableBackends lists the destinations a workload can reach.
type ReachableBackends struct {
	// Refs are the destinations.
	Refs []ReachableRef `json:"refs,omitempty"`
}

// ReachableRef names destinations that a workload can reach, by name or by labels.
type ReachableRef struct {
	// Kind is MeshService, MeshExternalService or MeshMultiZoneService. Required.
	Kind string `json:"kind"`
	// Name of the destination. This or labels is required, not both.
	Name string `json:"name,omitempty"`
	// Namespace of the destination on Kubernetes, with name only.
	Namespace string `json:"namespace,omitempty"`
	// Port narrows the reference to one port. Default all ports.
	Port uint32 `json:"port,omitempty"`
	// Labels that the destinations carry.
	Labels map[string]string `json:"labels,omitempty"`
}

// A Listener is a role that a proxy plays for its zone.
type Listener struct {
	// Type is ZoneIngress or ZoneEgress. Required.
	Type ListenerType `json:"type"`
	// Address is the IP to listen on. Required.
	Address string `json:"address"`
	// Port to listen on, 1 to 65535. Required.
	Port uint32 `json:"port"`
	// Name by which policies refer to the listener, unique in the proxy. Default the port.
	Name string `json:"name,omitempty"`
	// State is Ready or NotReady. Default Ready.
	State InboundState `json:"state,omitempty"`
}

// A ListenerType is a role of a proxy for its zone.
type ListenerType string

// The roles.
const (
	ZoneIngress ListenerType = "ZoneIngress"
	ZoneEgress  ListenerType = "ZoneEgress"
)

// SectionName is how services and policies refer to the inbound: its name, or its port when it has none.
func (in Inbound) SectionName() string { return sectionName(in.Name, in.Port) }

// ServicePortOrPort is the port on which the workload listens.
func (in Inbound) ServicePortOrPort() uint32 {
	if in.ServicePort != 0 {
		return in.ServicePort
	}
	return in.Port
}

// ProtocolOrTCP is the protocol with its default.
func (in Inbound) ProtocolOrTCP() Protocol { return in.Protocol.OrTCP() }

// StateOrReady is the state with its default, whichever form it was given in. An inbound with a probe is NotReady until probed.
func (in Inbound) StateOrReady() InboundState {
	switch {
	case in.State != "":
		return in.State
	case in.Health != nil && !in.Health.Ready:
		return StateNotReady
	case in.Health == nil && in.ServiceProbe != nil:
		return StateNotReady
	}
	return StateReady
}

// AddressOrDefault is the address on which the outbound is bound.
func (o Outbound) AddressOrDefault() string {
	if o.Address != "" {
		return o.Address
	}
	return "127.0.0.1"
}

// SectionName is how policies refer to the listener: its name, or its port when it has none.
func (l Listener) SectionName() string { return sectionName(l.Name, l.Port) }

// StateOrReady is the state with its default.
func (l Listener) StateOrReady() InboundState {
	if l.State == "" {
		return StateReady
	}
	return l.State
}

// InboundAddress is the address on which the proxy takes traffic of an inbound.
func (n *Networking) InboundAddress(in Inbound) string {
	if in.Address != "" {
		return in.Address
	}
	return n.Address
}

// WorkloadAddress is the address on which the workload of an inbound listens.
func (n *Networking) WorkloadAddress(in Inbound) string {
	if in.ServiceAddress != "" {
		return in.ServiceAddress
	}
	return n.InboundAddress(in)
}

// ReadyInbounds lists the inbounds that may get traffic.
func (d *Dataplane) ReadyInbounds() []Inbound {
	var out []Inbound
	for _, in := range d.Networking.Inbound {
		if in.StateOrReady() == StateReady {
			out = append(out, in)
		}
	}
	return out
}

// ExposedInbounds lists the inbounds that services offer, ready or not.
func (d *Dataplane) ExposedInbounds() []Inbound {
	var out []Inbound
	for _, in := range d.Networking.Inbound {
		if in.StateOrReady() != StateIgnored {
			out = append(out, in)
		}
	}
	return out
}

// IsReady says that at least one inbound or listener may get traffic, or that the proxy has none because it is a gateway.
func (d *Dataplane) IsReady() bool {
	if d.IsGateway() || len(d.ReadyInbounds()) > 0 {
		return true
	}
	for _, l := range d.Networking.Listeners {
		if l.StateOrReady() == StateReady {
			return true
		}
	}
	return false
}

// IsGateway says that the proxy stands beside a delegated gateway.
func (d *Dataplane) IsGateway() bool { return d.Networking.Gateway != nil }

// Transparent says that the traffic of the workload is redirected to the proxy.
func (d *Dataplane) Transparent() bool { return d.Networking.TransparentProxying != nil }

// HasListener says that the proxy plays a role for its zone.
func (d *Dataplane) HasListener(t ListenerType) bool {
	for _, l := range d.Networking.Listeners {
		if l.Type == t {
			return true
		}
	}
	return false
}

// PassesOnly says that the proxy does nothing but pass on connections of other zones, as they are: nobody sees an identity of it.
func (d *Dataplane) PassesOnly() bool {
	n := d.Networking
	return d.HasListener(ZoneIngress) && !d.HasListener(ZoneEgress) && len(n.Inbound) == 0 && len(n.Outbound) == 0 && !d.IsGateway() && !d.Transparent()
}

// ListenerLabels marks in labels which roles the proxy plays for its zone, so that it can be found and selected by them.
func (d *Dataplane) ListenerLabels(labels map[string]string) {
	for label, t := range map[string]ListenerType{resource.LabelZoneIngress: ZoneIngress, resource.LabelZoneEgress: ZoneEgress} {
		delete(labels, label)
		if d.HasListener(t) {
			labels[label] = "enabled"
		}
	}
}

func sectionName(name string, port uint32) string {
	if name != "" {
		return name
	}
	return strconv.FormatUint(uint64(port), 10)
}

var dataplaneKind = resource.Kind{
	Name: TypeDataplane, Path: "dataplanes", Short: "dp", Singular: "Dataplane", Plural: "Dataplanes",
	Scope: resource.ScopeMesh, Flow: resource.FromZone, Inline: true,
	New: func() any { return new(Dataplane) }, Validate: validateDataplane, Warn: warnDataplane, Requires: requires,
}
