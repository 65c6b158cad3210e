package envoy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// An egressClusterKey is the endpoints of an external service as an egress connects to them.
type egressClusterKey struct {
	Name    string
	Service resource.Key
	To      proxy.Destination
	Confs   confs
}

// buildEgressCluster connects to an external service itself. Keys and certificates are not part of it: they come from the agent, by names
// that depend on the service alone, so that they can be replaced without replacing the cluster.
func (c *Compiler) buildEgressCluster(r *memo.Reader, k egressClusterKey) built {
	res, _ := c.view.Resource(r, k.Service)
	s, ok := res.Spec.(*mesh.MeshExternalService)
	if !ok {
		return built{}
	}
	unusable := c.view.Unusable(r, k.Service)
	b := c.buildFragment(Cluster, k.Name, k.Confs, nil, func(cs []conf) (proto.Message, error) {
		m := &clusterv3.Cluster{
			Name:                 k.Name,
			ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
			ConnectTimeout:       durationpb.New(5 * time.Second),
			CommonLbConfig:       &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: percent(0)},
			LoadAssignment:       &endpointv3.ClusterLoadAssignment{ClusterName: k.Name},
		}
		if unusable == "" {
			if err := connectTo(m, s, k.To); err != nil {
				return nil, err
			}
		}
		if k.To.Protocol.IsHTTP() {
			setHTTP(m, k.To.Protocol.IsHTTP2())
		}
		pc := proxy.Cluster{Direction: proxy.Outbound, Name: k.Name, Protocol: k.To.Protocol, Destination: k.To, Egress: true}
		err := c.apply(cs, func(_ string, b policy.Bound) { b.Cluster(pc, m) })
		trackRemaining(m)
		return m, err
	})
	if unusable != "" && b.problem == nil {
		b.problem = &Problem{Ref: Ref{Cluster, k.Name}, Text: "nothing is sent to " + k.To.KRI.String() + ": " + unusable}
	}
	return b
}

// connectTo sets the endpoints and how they are spoken to.
func connectTo(m *clusterv3.Cluster, s *mesh.MeshExternalService, to proxy.Destination) error {
	m.LoadAssignment = externalEndpoints(m.Name, s.Endpoints)
	if slices.ContainsFunc(s.Endpoints, mesh.ExternalEndpoint.IsDNS) {
		m.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS}
		m.DnsLookupFamily = clusterv3.Cluster_V4_PREFERRED
		m.WaitForWarmOnInit = wrapperspb.Bool(false) // a name that does not resolve must not hold up the others
	}
	if len(m.LoadAssignment.Endpoints) > 1 {
		m.OutlierDetection = deadEndpoints()
	}
	if s.TLS == nil || !s.TLS.Enabled {
		return nil
	}
	var err error
	m.TransportSocket, err = externalTLS(s, to)
	return err
}

// deadEndpoints gives priorities a meaning where no policy asks for the health of endpoints: those that cannot be
// connected to are left out for a while.
func deadEndpoints() *clusterv3.OutlierDetection {
	off, on := wrapperspb.UInt32(0), wrapperspb.UInt32(100)
	return &clusterv3.OutlierDetection{
		SplitExternalLocalOriginErrors: true, ConsecutiveLocalOriginFailure: wrapperspb.UInt32(2), EnforcingConsecutiveLocalOriginFailure: on,
		BaseEjectionTime: durationpb.New(10 * time.Second), MaxEjectionPercent: wrapperspb.UInt32(100),
		EnforcingConsecutive_5Xx: off, EnforcingConsecutiveGatewayFailure: off, EnforcingSuccessRate: off, EnforcingLocalOriginSuccessRate: off,
	}
}

// externalEndpoints groups endpoints by priority. Priorities are counted anew, for Envoy does not look beyond a gap.
func externalEndpoints(name string, endpoints []mesh.ExternalEndpoint) *endpointv3.ClusterLoadAssignment {
	sorted := slices.SortedStableFunc(slices.Values(endpoints), func(a, b mesh.ExternalEndpoint) int { return cmp.Compare(a.Priority, b.Priority) })
	m := &endpointv3.ClusterLoadAssignment{ClusterName: name}
	for i, e := range sorted {
		if i == 0 || e.Priority != sorted[i-1].Priority {
			m.Endpoints = append(m.Endpoints, &endpointv3.LocalityLbEndpoints{Priority: uint32(len(m.Endpoints))})
		}
		group := m.Endpoints[len(m.Endpoints)-1]
		address := socket(e.Address, e.Port)
		if path, ok := e.IsUnix(); ok {
			address = &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}}
		}
		group.LbEndpoints = append(group.LbEndpoints, &endpointv3.LbEndpoint{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: address}},
		})
	}
	return m
}

// SystemAuthorities is the secret with the authorities that the host of an egress trusts. Its agent serves it.
const SystemAuthorities = "system_authorities"

// AuthoritySecret names the authorities that the server of an external service is verified with.
func AuthoritySecret(service resource.KRI) string {
	return "authorities_" + service.WithSection("").String()
}

// CertificateSecret names the certificate that an egress presents to an external service.
func CertificateSecret(service resource.KRI) string {
	return "certificate_" + service.WithSection("").String()
}

// externalTLS is what an egress speaks to an external service.
func externalTLS(s *mesh.MeshExternalService, to proxy.Destination) (*corev3.TransportSocket, error) {
	v := s.TLS.Verification
	if v == nil {
		v = &mesh.ExternalVerification{}
	}
	m := &tlsv3.UpstreamTlsContext{
		Sni:                v.ServerName,
		AutoHostSni:        v.ServerName == "" && slices.ContainsFunc(s.Endpoints, mesh.ExternalEndpoint.IsDNS),
		AllowRenegotiation: s.TLS.AllowRenegotiation,
		CommonTlsContext:   &tlsv3.CommonTlsContext{TlsParams: externalVersions(s.TLS.Version), AlpnProtocols: externalALPN(to.Protocol)},
	}
	if v.ClientCert != nil {
		m.CommonTlsContext.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{secret(CertificateSecret(to.KRI))}
	}
	if v.ModeOrSecured() == mesh.VerifySecured || v.ModeOrSecured() == mesh.VerifySkipSAN {
		authorities := SystemAuthorities
		if v.CACert != nil {
			authorities = AuthoritySecret(to.KRI)
		}
		var names []*tlsv3.SubjectAltNameMatcher
		if v.ModeOrSecured() == mesh.VerifySecured {
			names = externalNames(v, s.Endpoints)
		}
		m.CommonTlsContext.ValidationContextType = &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext:         &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: names},
				ValidationContextSdsSecretConfig: secret(authorities),
			},
		}
	}
	return transportSocket(m)
}

func externalALPN(p mesh.Protocol) []string {
	switch {
	case p.IsHTTP2():
		return []string{http2}
	case p.IsHTTP():
		return []string{"http/1.1"}
	}
	return nil
}

var tlsVersions = map[string]tlsv3.TlsParameters_TlsProtocol{
	"TLS10": tlsv3.TlsParameters_TLSv1_0, "TLS11": tlsv3.TlsParameters_TLSv1_1, "TLS12": tlsv3.TlsParameters_TLSv1_2, "TLS13": tlsv3.TlsParameters_TLSv1_3,
}

// externalVersions lets servers use TLS 1.3: Envoy's clients would stop at 1.2 by themselves.
func externalVersions(v *mesh.TLSVersion) *tlsv3.TlsParameters {
	p := &tlsv3.TlsParameters{TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3}
	if v == nil {
		return p
	}
	p.TlsMinimumProtocolVersion = tlsVersions[v.Min]
	if most, ok := tlsVersions[v.Max]; ok {
		p.TlsMaximumProtocolVersion = most
	}
	return p
}

// externalNames are those that the server may have: the listed ones, or else the one that is asked for, or else its address.
func externalNames(v *mesh.ExternalVerification, endpoints []mesh.ExternalEndpoint) []*tlsv3.SubjectAltNameMatcher {
	var out []*tlsv3.SubjectAltNameMatcher
	add := func(typ tlsv3.SubjectAltNameMatcher_SanType, m *matcherv3.StringMatcher) {
		out = append(out, &tlsv3.SubjectAltNameMatcher{SanType: typ, Matcher: m})
	}
	exact := func(s string) *matcherv3.StringMatcher {
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
	}
	host := func(s string) {
		if ip, err := netip.ParseAddr(s); err == nil {
			add(tlsv3.SubjectAltNameMatcher_IP_ADDRESS, exact(ip.String())) // as Envoy writes it
		} else {
			add(tlsv3.SubjectAltNameMatcher_DNS, exact(s))
		}
	}
	for _, san := range v.SubjectAltNames {
		prefix := &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: san.Value}}
		switch {
		case san.Type == "Prefix" && strings.Contains(san.Value, "://"):
			add(tlsv3.SubjectAltNameMatcher_URI, prefix)
		case san.Type == "Prefix":
			add(tlsv3.SubjectAltNameMatcher_DNS, prefix)
			add(tlsv3.SubjectAltNameMatcher_IP_ADDRESS, prefix)
		case strings.Contains(san.Value, "://"):
			add(tlsv3.SubjectAltNameMatcher_URI, exact(san.Value))
		default:
			host(san.Value)
		}
	}
	switch {
	case len(out) > 0:
	case v.ServerName != "":
		host(v.ServerName)
	default:
		for _, e := range endpoints {
			if _, unix := e.IsUnix(); !unix {
				host(e.Address)
			}
		}
	}
	if len(out) == 0 {
		host("nobody.invalid") // a socket has no name to expect, and no rule at all would accept everybody
	}
	return out
}
