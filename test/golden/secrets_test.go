package golden

import (
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api/policies/policytest"
	"github.com/causeway-mesh/causeway/api/policy"
)

// With secrets in place Envoy looks at the parameters of TLS; a cipher that it does not know is refused.
func TestParametersOfTLSAreLookedAt(t *testing.T) {
	needEnvoy(t)
	cluster := func(name, cipher string) policytest.Output {
		sds := &tlsv3.SdsSecretConfig{Name: "x", SdsConfig: &corev3.ConfigSource{ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}}
		ts := &corev3.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &corev3.TransportSocket_TypedConfig{
			TypedConfig: policy.Pack(&tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
				TlsParams:                      &tlsv3.TlsParameters{CipherSuites: []string{cipher}},
				TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{sds},
				ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
					CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
						DefaultValidationContext: &tlsv3.CertificateValidationContext{}, ValidationContextSdsSecretConfig: sds,
					},
				},
			}}),
		}}
		inPlaceTLS(t, ts)
		return policytest.Output{Case: name, Hook: policy.HookCluster, Messages: []proto.Message{&clusterv3.Cluster{TransportSocket: ts}}}
	}
	errs := refused(t.Context(), []policytest.Output{cluster("known", "ECDHE-ECDSA-AES128-GCM-SHA256"), cluster("unknown", "ROT13")})
	if len(errs) != 1 || !strings.Contains(errs[0].Error(), "case unknown") || !strings.Contains(errs[0].Error(), "ROT13") {
		t.Errorf("refused: %v; want the unknown cipher alone", errs)
	}
}
