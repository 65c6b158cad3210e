package mesh

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/causeway-mesh/causeway/api/resource"
)

func validateDataplane(r resource.Resource) resource.Problems {
	n := &r.Spec.(*Dataplane).Networking
	at := resource.Path("networking")
	var ps problems
	ps.reachable(at.Field("address"), n.Address)
	if n.Admin != nil {
		ps.optionalPort(at.Field("admin").Field("port"), n.Admin.Port)
	}
	names := sections{}
	for i, in := range n.Inbound {
		ps.inbound(at.Field("inbound").Index(i), n, in, names)
	}
	for i, l := range n.Listeners {
		ps.listener(at.Field("listeners").Index(i), l, names)
	}
	for i, o := range n.Outbound {
		ps.outbound(at.Field("outbound").Index(i), o)
	}
	ps.gateway(at, n)
	ps.transparentProxying(at.Field("transparentProxying"), n.TransparentProxying)
	ps.outboundBlock(at, n)
	ps.boundTwice(at, n)
	if w, ok := r.Labels[resource.LabelWorkload]; ok && len(validation.IsDNS1035Label(w)) > 0 {
		ps.Add(resource.Path("labels").Key(resource.LabelWorkload),
			"%s must have at most 63 characters of a-z, 0-9 and dash, starting with a letter and not ending with a dash", resource.Quote(w))
	}
	return ps.Problems
}

func (ps *problems) inbound(at resource.Path, n *Networking, in Inbound, names sections) {
	ps.port(at.Field("port"), in.Port)
	ps.optionalPort(at.Field("servicePort"), in.ServicePort)
	names.add(ps, at, in.Name, in.Port)
	if in.Address != "" {
		if a, ok := ps.ip(at.Field("address"), in.Address); ok && a.IsUnspecified() {
			ps.Add(at.Field("address"), "must not be %s: it is the address at which others connect", in.Address)
		}
	}
	if in.ServiceAddress != "" {
		ps.ip(at.Field("serviceAddress"), in.ServiceAddress)
	}
	if in.ServiceAddress != "" && sameIP(in.ServiceAddress, n.InboundAddress(in)) && in.ServicePortOrPort() == in.Port {
		ps.Add(at, "serviceAddress and servicePort must differ from address and port: the proxy would forward to itself")
	}
	ps.protocol(at.Field("protocol"), in.Protocol, Protocols)
	if in.State != "" {
		oneOf(ps, at.Field("state"), in.State, StateReady, StateNotReady, StateIgnored)
	}
	if in.ServiceProbe != nil {
		ps.serviceProbe(at.Field("serviceProbe"), in.ServiceProbe)
	}
}

func (ps *problems) serviceProbe(at resource.Path, p *ServiceProbe) {
	if (p.TCP == nil) == (p.HTTP == nil) {
		ps.Add(at, "must have exactly one of tcp and http")
	}
	if p.HTTP != nil && p.HTTP.Path != "" && !strings.HasPrefix(p.HTTP.Path, "/") {
		ps.Add(at.Field("http").Field("path"), "must begin with /")
	}
	if p.Interval != nil && p.Interval.Duration < 100*time.Millisecond {
		ps.Add(at.Field("interval"), "must be at least 100ms, not %s", p.Interval)
	}
	if p.Timeout != nil && p.Timeout.Duration <= 0 {
		ps.Add(at.Field("timeout"), "must be more than 0, not %s", p.Timeout)
	}
	if p.UnhealthyThreshold != nil && *p.UnhealthyThreshold == 0 {
		ps.Add(at.Field("unhealthyThreshold"), "must be at least 1")
	}
	if p.HealthyThreshold != nil && *p.HealthyThreshold == 0 {
		ps.Add(at.Field("healthyThreshold"), "must be at least 1")
	}
}

func (ps *problems) listener(at resource.Path, l Listener, names sections) {
	oneOf(ps, at.Field("type"), l.Type, ZoneIngress, ZoneEgress)
	ps.port(at.Field("port"), l.Port)
	names.add(ps, at, l.Name, l.Port)
	if l.Address == "" {
		ps.Add(at.Field("address"), "must be set")
	} else if a, ok := ps.ip(at.Field("address"), l.Address); ok && a.IsUnspecified() && l.Type == ZoneEgress {
		ps.Add(at.Field("address"), "must not be %s: it is the address at which the proxies of the zone connect", l.Address)
	}
	if l.State != "" {
		oneOf(ps, at.Field("state"), l.State, StateReady, StateNotReady)
	}
}

func (ps *problems) outbound(at resource.Path, o Outbound) {
	ps.port(at.Field("port"), o.Port)
	if o.Address != "" {
		ps.ip(at.Field("address"), o.Address)
	}
	ref := o.BackendRef
	if ref == nil {
		if len(o.Tags) > 0 {
			ps.Add(at.Field("tags"), "is no longer supported; use backendRef")
		}
		ps.Add(at.Field("backendRef"), "must be set")
		return
	}
	at = at.Field("backendRef")
	ps.target(at, ref.Kind, ref.Name, ref.Labels)
	if ref.Kind == TypeMeshExternalService {
		ps.optionalPort(at.Field("port"), ref.Port)
	} else {
		ps.port(at.Field("port"), ref.Port)
	}
}

func (ps *problems) gateway(at resource.Path, n *Networking) {
	g := n.Gateway
	if g == nil {
		return
	}
	if len(n.Inbound) > 0 {
		ps.Add(at.Field("inbound"), "must be empty with gateway: a gateway takes its traffic itself")
	}
	if len(n.Listeners) > 0 {
		ps.Add(at.Field("listeners"), "must be empty with gateway")
	}
	at = at.Field("gateway")
	switch g.Type {
	case "", GatewayDelegated:
	case "BUILTIN":
		ps.Add(at.Field("type"), "BUILTIN is no longer supported; run a gateway and use DELEGATED")
	default:
		oneOf(ps, at.Field("type"), g.Type, GatewayDelegated)
	}
	ps.Append(resource.CheckLabels(at.Field("tags"), g.Tags))
	if len(g.Tags) > 0 && g.Tags["kuma.io/service"] == "" {
		ps.Add(at.Field("tags"), "must have kuma.io/service when there are any")
	}
	if p, ok := g.Tags["kuma.io/protocol"]; ok && p != string(TCP) {
		ps.Add(at.Field("tags").Key("kuma.io/protocol"), "must be tcp, not %s", resource.Quote(p))
	}
}

func (ps *problems) transparentProxying(at resource.Path, t *TransparentProxying) {
	if t == nil {
		return
	}
	ps.port(at.Field("redirectPortInbound"), t.RedirectPortInbound)
	ps.port(at.Field("redirectPortOutbound"), t.RedirectPortOutbound)
	if t.RedirectPortInbound != 0 && t.RedirectPortInbound == t.RedirectPortOutbound {
		ps.Add(at.Field("redirectPortOutbound"), "must differ from redirectPortInbound")
	}
	if t.IPFamilyMode != "" {
		oneOf(ps, at.Field("ipFamilyMode"), t.IPFamilyMode, "UnSpecified", "DualStack", "IPv4", "IPv6")
	}
	for i, s := range t.DirectAccessServices {
		if s == "" {
			ps.Add(at.Field("directAccessServices").Index(i), "must be a service or *")
		}
	}
	if t.ReachableBackends == nil {
		return
	}
	for i, ref := range t.ReachableBackends.Refs {
		at := at.Field("reachableBackends").Field("refs").Index(i)
		ps.target(at, ref.Kind, ref.Name, ref.Labels)
		ps.optionalPort(at.Field("port"), ref.Port)
		if ref.Port != 0 && ref.Kind == TypeMeshExternalService {
			ps.Add(at.Field("port"), "must not be set with kind MeshExternalService, which has one port")
		}
		if ref.Namespace != "" {
			ps.dnsLabel(at.Field("namespace"), ref.Namespace)
			if ref.Name == "" {
				ps.Add(at.Field("namespace"), "is only possible with name; add the label %s", resource.LabelNamespace)
			}
		}
	}
}

var (
	loopback      = netip.MustParsePrefix("127.0.0.0/8")
	hostsLoopback = netip.MustParsePrefix("127.0.0.0/16")
)

func (ps *problems) outboundBlock(at resource.Path, n *Networking) {
	if n.OutboundBlock == "" {
		return
	}
	field := at.Field("outboundBlock")
	block, err := netip.ParsePrefix(n.OutboundBlock)
	switch {
	case err != nil || block.Bits() != 16 || !loopback.Contains(block.Addr()):
		ps.Add(field, "%s must be a /16 block of 127.0.0.0/8, such as 127.7.0.0/16", resource.Quote(n.OutboundBlock))
		return
	case block != block.Masked():
		ps.Add(field, "must be written as %s", block.Masked())
		return
	case block == hostsLoopback:
		ps.Add(field, "must not be %s, which holds the address of the host itself", block)
		return
	}
	for i, o := range n.Outbound {
		if a, err := netip.ParseAddr(o.Address); err == nil && block.Contains(a) {
			ps.Add(at.Field("outbound").Index(i).Field("address"), "must be outside outboundBlock, whose addresses are given out")
		}
	}
}

// boundTwice wants every socket of the proxy to have its own address and port.
func (ps *problems) boundTwice(at resource.Path, n *Networking) {
	var taken []socket
	for i, in := range n.Inbound {
		taken = ps.bind(taken, at.Field("inbound").Index(i), n.InboundAddress(in), in.Port)
	}
	for i, l := range n.Listeners {
		taken = ps.bind(taken, at.Field("listeners").Index(i), l.Address, l.Port)
	}
	for i, o := range n.Outbound {
		taken = ps.bind(taken, at.Field("outbound").Index(i), o.AddressOrDefault(), o.Port)
	}
	if n.Admin != nil && n.Admin.Port != 0 {
		ps.bind(taken, at.Field("admin"), "127.0.0.1", n.Admin.Port)
	}
}

type socket struct {
	at      resource.Path
	address string
	port    uint32
}

func (ps *problems) bind(taken []socket, at resource.Path, address string, port uint32) []socket {
	if port == 0 || address == "" {
		return taken // reported already
	}
	for _, s := range taken {
		if s.port == port && (sameIP(s.address, address) || unspecified(s.address) || unspecified(address)) {
			ps.Add(at.Field("port"), "%d at %s is already used by %s", port, address, s.at)
			return taken
		}
	}
	return append(taken, socket{at, address, port})
}

func sameIP(a, b string) bool {
	x, errX := netip.ParseAddr(a)
	y, errY := netip.ParseAddr(b)
	if errX != nil || errY != nil {
		return a == b
	}
	return x.Unmap() == y.Unmap()
}

func unspecified(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Unmap().IsUnspecified()
}

func warnDataplane(r resource.Resource) []string {
	n := &r.Spec.(*Dataplane).Networking
	var out []string
	for i, in := range n.Inbound {
		at := fmt.Sprintf("networking.inbound[%d]", i)
		if len(in.Tags) > 0 {
			out = append(out, at+".tags: is ignored; put labels on the Dataplane")
		}
		if n.TransparentProxying == nil && in.ServiceAddress == "" && in.ServicePortOrPort() == in.Port {
			out = append(out, at+": the proxy forwards to its own address and port; set serviceAddress or servicePort")
		}
	}
	for i, o := range n.Outbound {
		if len(o.Tags) > 0 && o.BackendRef != nil {
			out = append(out, "networking.outbound["+strconv.Itoa(i)+"].tags: is ignored; backendRef counts")
		}
	}
	if n.TransparentProxying != nil && n.OutboundBlock != "" {
		out = append(out, "networking.outboundBlock: has no effect with transparentProxying")
	}
	if n.TransparentProxying != nil && len(n.Outbound) > 0 {
		out = append(out, "networking.outbound: has no effect with transparentProxying; every reachable service has an address")
	}
	return out
}
