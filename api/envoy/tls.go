package envoy

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Names that the agent and the configuration of its Envoy agree on. They are constants so that TLS contexts are the same
// bytes for every proxy and survive any rotation.
const (
	AgentCluster   = "system_agent" // serves ADS and SDS on the agent's socket
	IdentitySecret = "identity"
	TrustSecret    = "trust"
)

// alpn marks mesh TLS, so that a permissive listener can tell it from TLS of the workload.
// Proxies speak HTTP/2 to each other, and Envoy's automatic codec goes by the negotiated protocol alone: "kuma" would be read as
// HTTP/1. So HTTP connections offer and prefer h2 beside it.
const (
	alpn  = "kuma"
	http2 = "h2"
)

func secret(name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: &corev3.ConfigSource{
		ResourceApiVersion:  corev3.ApiVersion_V3,
		InitialFetchTimeout: durationpb.New(policy.FetchTimeout),
		ConfigSourceSpecifier: &corev3.ConfigSource_ApiConfigSource{ApiConfigSource: &corev3.ApiConfigSource{
			ApiType:                   corev3.ApiConfigSource_DELTA_GRPC,
			TransportApiVersion:       corev3.ApiVersion_V3,
			SetNodeOnFirstMessageOnly: true,
			GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
				EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: AgentCluster, RetryPolicy: &corev3.RetryPolicy{
					// Envoy's own back-off grows to 30 s; the agent is on the same host.
					RetryBackOff: &corev3.BackoffStrategy{BaseInterval: durationpb.New(100 * time.Millisecond), MaxInterval: durationpb.New(time.Second)},
				}},
			}}},
		}},
	}}
}

// commonTLS presents the proxy's identity and accepts peers whose certificate the trust bundles verify and whose URI matches.
func commonTLS(uris []*matcherv3.StringMatcher, params *tlsv3.TlsParameters, protocols ...string) *tlsv3.CommonTlsContext {
	var sans []*tlsv3.SubjectAltNameMatcher
	for _, u := range uris {
		sans = append(sans, &tlsv3.SubjectAltNameMatcher{SanType: tlsv3.SubjectAltNameMatcher_URI, Matcher: u})
	}
	return &tlsv3.CommonTlsContext{
		TlsParams:                      params,
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{secret(IdentitySecret)},
		ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext:         &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: sans},
				ValidationContextSdsSecretConfig: secret(TrustSecret),
			},
		},
		AlpnProtocols: protocols,
	}
}

// clientTLS lets the server's bounds decide: Envoy's clients would stop at TLS 1.2 by themselves.
var clientTLS = &tlsv3.TlsParameters{TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3}

// upstreamTLS reaches a destination with mesh TLS; only the given identities are accepted.
func upstreamTLS(to resource.KRI, http bool, identities []string) (*corev3.TransportSocket, error) {
	var uris []*matcherv3.StringMatcher
	for _, id := range identities {
		uris = append(uris, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: id}})
	}
	if len(uris) == 0 {
		// Nobody is known to serve it: refuse whoever answers, rather than accept any identity.
		uris = []*matcherv3.StringMatcher{{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: "spiffe://nobody"}}}
	}
	sni, err := to.SNI()
	if err != nil {
		return nil, err
	}
	protocols := []string{alpn}
	if http {
		protocols = append(protocols, http2)
	}
	return transportSocket(&tlsv3.UpstreamTlsContext{Sni: sni, CommonTlsContext: commonTLS(uris, clientTLS, protocols...)})
}

// downstreamTLS requires a certificate of the mesh from every client; what the client may do is for permissions to say.
func downstreamTLS(params *tlsv3.TlsParameters, http bool) (*corev3.TransportSocket, error) {
	anyID := []*matcherv3.StringMatcher{{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "spiffe://"}}}
	protocols := []string{alpn}
	if http {
		protocols = []string{http2, alpn} // the server's order decides
	}
	return transportSocket(&tlsv3.DownstreamTlsContext{
		CommonTlsContext: commonTLS(anyID, params, protocols...), RequireClientCertificate: wrapperspb.Bool(true),
	})
}

func transportSocket(m proto.Message) (*corev3.TransportSocket, error) {
	a, err := pack(m)
	if err != nil {
		return nil, err
	}
	return &corev3.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: a}}, nil
}
