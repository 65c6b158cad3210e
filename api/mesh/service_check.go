package mesh

import (
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/causeway-mesh/causeway/api/resource"
)

func validateMeshService(r resource.Resource) resource.Problems {
	s := r.Spec.(*MeshService)
	var ps problems
	at := resource.Path("spec.selector")
	if s.Selector.DataplaneRef != nil && s.Selector.DataplaneLabels != nil {
		ps.Add(at, "must have either dataplaneRef or dataplaneLabels, not both")
	}
	if ref := s.Selector.DataplaneRef; ref != nil {
		ps.Append(resource.CheckName(at.Field("dataplaneRef").Field("name"), resource.RFC1123Subdomain, ref.Name))
	}
	ps.selector(at.Field("dataplaneLabels"), s.Selector.DataplaneLabels)
	ports := newPortSet()
	for i, p := range s.Ports {
		at := resource.Path("spec.ports").Index(i)
		ports.add(&ps, at, p.Name, p.Port)
		ps.optionalPort(at.Field("targetPort"), p.TargetPort.Number)
		if p.TargetPort.Name != "" {
			ps.dnsLabel(at.Field("targetPort"), p.TargetPort.Name)
		}
		ps.protocol(at.Field("appProtocol"), p.AppProtocol, Protocols)
	}
	return ps.Problems
}

// portSet wants ports of a service to differ in number and in name.
type portSet struct {
	numbers map[uint32]resource.Path
	names   sections
}

func newPortSet() portSet { return portSet{map[uint32]resource.Path{}, sections{}} }

func (s portSet) add(ps *problems, at resource.Path, name string, port uint32) {
	ps.port(at.Field("port"), port)
	if first, dup := s.numbers[port]; dup && port != 0 {
		ps.Add(at.Field("port"), "%d is already the port of %s", port, first)
		return
	}
	s.numbers[port] = at
	s.names.add(ps, at, name, port)
}

func warnMeshService(r resource.Resource) []string {
	s := r.Spec.(*MeshService)
	var out []string
	if s.State != "" {
		out = append(out, "spec.state: is computed by the control plane and ignored here")
	}
	if len(s.Identities) > 0 {
		out = append(out, "spec.identities: is computed by the control plane and ignored here")
	}
	sel := s.Selector
	switch {
	case len(sel.DataplaneTags) > 0 && sel.DataplaneRef == nil && sel.DataplaneLabels == nil:
		out = append(out, "spec.selector.dataplaneTags: is no longer supported, so no proxy is selected; use dataplaneLabels")
	case sel.DataplaneRef == nil && (sel.DataplaneLabels == nil || len(sel.DataplaneLabels.MatchLabels) == 0):
		out = append(out, "spec.selector: selects no proxy; set dataplaneLabels.matchLabels or dataplaneRef")
	}
	if len(s.Ports) == 0 {
		out = append(out, "spec.ports: without ports the service gets no traffic")
	}
	for _, p := range s.Ports {
		out = append(out, warnSNI("msvc", r.Meta, p.SectionName())...)
	}
	return out
}

func validateMeshMultiZoneService(r resource.Resource) resource.Problems {
	s := r.Spec.(*MeshMultiZoneService)
	var ps problems
	at := resource.Path("spec.selector.meshService")
	if len(s.Selector.MeshService.MatchLabels) == 0 {
		ps.Add(at.Field("matchLabels"), "must have at least one label")
	}
	ps.selector(at, &s.Selector.MeshService)
	if len(s.Ports) == 0 {
		ps.Add("spec.ports", "must have at least one port")
	}
	ports := newPortSet()
	for i, p := range s.Ports {
		at := resource.Path("spec.ports").Index(i)
		ports.add(&ps, at, p.Name, p.Port)
		ps.protocol(at.Field("appProtocol"), p.AppProtocol, Protocols)
	}
	return ps.Problems
}

func warnMeshMultiZoneService(r resource.Resource) []string {
	var out []string
	for _, p := range r.Spec.(*MeshMultiZoneService).Ports {
		out = append(out, warnSNI("mzsvc", r.Meta, p.SectionName())...)
	}
	return out
}

func validateMeshExternalService(r resource.Resource) resource.Problems {
	s := r.Spec.(*MeshExternalService)
	var ps problems
	at := resource.Path("spec")
	if s.Match.Type != "" {
		oneOf(&ps, at.Field("match").Field("type"), s.Match.Type, MatchHostnameGenerator)
	}
	ps.port(at.Field("match").Field("port"), s.Match.Port)
	ps.protocol(at.Field("match").Field("protocol"), s.Match.Protocol, []Protocol{TCP, GRPC, HTTP, HTTP2})
	ps.extension(at.Field("extension"), s.Extension)
	if len(s.Endpoints) == 0 && s.Extension == nil {
		ps.Add(at.Field("endpoints"), "must have at least one endpoint")
	}
	for i, e := range s.Endpoints {
		ps.externalEndpoint(at.Field("endpoints").Index(i), e)
		if _, unix := e.IsUnix(); unix && slices.ContainsFunc(s.Endpoints, ExternalEndpoint.IsDNS) {
			ps.Add(at.Field("endpoints").Index(i).Field("address"), "must not be a Unix socket where another endpoint is a DNS name; write two services")
		}
	}
	if s.TLS != nil {
		ps.externalTLS(at.Field("tls"), s.TLS)
	}
	return ps.Problems
}

const (
	maxPriority = 128
	unixScheme  = "unix://"
)

// IsUnix says that the endpoint is a Unix socket, and where.
func (e ExternalEndpoint) IsUnix() (path string, ok bool) {
	return strings.CutPrefix(e.Address, unixScheme)
}

// IsDNS says that the address of the endpoint is a DNS name.
func (e ExternalEndpoint) IsDNS() bool {
	_, unix := e.IsUnix()
	_, err := netip.ParseAddr(e.Address)
	return !unix && err != nil
}

func (ps *problems) externalEndpoint(at resource.Path, e ExternalEndpoint) {
	if e.Priority > maxPriority {
		ps.Add(at.Field("priority"), "must be between 0 and %d, not %d", maxPriority, e.Priority)
	}
	if socket, ok := e.IsUnix(); ok {
		if !strings.HasPrefix(socket, "/") || len(socket) > 107 {
			ps.Add(at.Field("address"), "must be unix:// and an absolute path of at most 107 characters")
		}
		if e.Port != 0 {
			ps.Add(at.Field("port"), "must not be set with a Unix socket")
		}
		return
	}
	ps.reachable(at.Field("address"), e.Address)
	ps.port(at.Field("port"), e.Port)
}

func (ps *problems) externalTLS(at resource.Path, t *ExternalTLS) {
	if v := t.Version; v != nil {
		ps.tlsVersion(at.Field("version"), v)
	}
	v := t.Verification
	if v == nil {
		return
	}
	at = at.Field("verification")
	if v.Mode != "" {
		oneOf(ps, at.Field("mode"), v.Mode, VerifySecured, VerifySkipSAN, VerifySkipCA, VerifySkipAll)
	}
	if v.ServerName != "" && len(validation.IsDNS1123Subdomain(v.ServerName)) > 0 {
		ps.Add(at.Field("serverName"), "%s is not a DNS name", resource.Quote(v.ServerName))
	}
	for i, san := range v.SubjectAltNames {
		at := at.Field("subjectAltNames").Index(i)
		if san.Type != "" {
			oneOf(ps, at.Field("type"), san.Type, "Exact", "Prefix")
		}
		if san.Value == "" {
			ps.Add(at.Field("value"), "must be set")
		}
	}
	ps.clientCertificate(at, v)
}

func (ps *problems) clientCertificate(at resource.Path, v *ExternalVerification) {
	for _, f := range []struct {
		name string
		src  *SecureDataSource
	}{{"caCert", v.CACert}, {"clientCert", v.ClientCert}, {"clientKey", v.ClientKey}} {
		if f.src != nil {
			ps.dataSource(at.Field(f.name), f.src, SourceSecret, SourceInsecureInline)
		}
	}
	ps.inlineCertificates(at.Field("caCert"), v.CACert)
	ps.inlineCertificates(at.Field("clientCert"), v.ClientCert)
	ps.inlineKey(at.Field("clientKey"), v.ClientKey)
	if v.ClientCert != nil && v.ClientKey == nil {
		ps.Add(at.Field("clientKey"), "must be set with clientCert")
	}
	if v.ClientKey != nil && v.ClientCert == nil {
		ps.Add(at.Field("clientCert"), "must be set with clientKey")
	}
}

func (ps *problems) tlsVersion(at resource.Path, v *TLSVersion) {
	if v.Min != "" {
		oneOf(ps, at.Field("min"), v.Min, TLSVersions...)
	}
	if v.Max != "" {
		oneOf(ps, at.Field("max"), v.Max, TLSVersions...)
	}
	low, high := slices.Index(TLSVersions, v.Min), slices.Index(TLSVersions, v.Max)
	if low > 0 && high > 0 && low > high {
		ps.Add(at.Field("min"), "must not be newer than max, %s", v.Max)
	}
}

func (ps *problems) extension(at resource.Path, e *Extension) {
	if e != nil && e.Type == "" {
		ps.Add(at.Field("type"), "must be set")
	}
}

func warnMeshExternalService(r resource.Resource) []string {
	s := r.Spec.(*MeshExternalService)
	out := warnSNI("extsvc", r.Meta, s.Match.SectionName())
	if s.TLS == nil || s.TLS.Verification == nil {
		return out
	}
	v := s.TLS.Verification
	if !s.TLS.Enabled {
		return append(out, "spec.tls.verification: has no effect until tls.enabled is true")
	}
	if v.CACert != nil && (v.Mode == VerifySkipCA || v.Mode == VerifySkipAll) {
		out = append(out, "spec.tls.verification.caCert: has no effect with mode "+string(v.Mode))
	}
	if len(v.SubjectAltNames) > 0 && v.ModeOrSecured() != VerifySecured {
		out = append(out, "spec.tls.verification.subjectAltNames: has no effect with mode "+string(v.Mode))
	}
	return out
}
