package golden

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/url"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// inPlaceTLS gives a transport socket a certificate and a bundle in place of those that come by SDS. Without them Envoy makes no
// TLS context, and would accept versions and ciphers that it knows nothing of.
func inPlaceTLS(t *testing.T, ts *corev3.TransportSocket) {
	t.Helper()
	for _, m := range []interface {
		proto.Message
		GetCommonTlsContext() *tlsv3.CommonTlsContext
	}{&tlsv3.UpstreamTlsContext{}, &tlsv3.DownstreamTlsContext{}} {
		if !ts.GetTypedConfig().MessageIs(m) {
			continue
		}
		if err := ts.GetTypedConfig().UnmarshalTo(m); err != nil {
			t.Fatal(err)
		}
		s, err := secrets()
		if err != nil {
			t.Fatal(err)
		}
		c := m.GetCommonTlsContext()
		if len(c.TlsCertificateSdsSecretConfigs) > 0 {
			c.TlsCertificateSdsSecretConfigs = nil
			c.TlsCertificates = []*tlsv3.TlsCertificate{{CertificateChain: inline(s.certificate), PrivateKey: inline(s.key)}}
		}
		if v := c.GetCombinedValidationContext().GetDefaultValidationContext(); v != nil {
			v.TrustedCa = inline(s.certificate)
			c.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: v}
		}
		a, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		ts.ConfigType = &corev3.TransportSocket_TypedConfig{TypedConfig: a}
	}
}

func inline(pem []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: pem}}
}

// selfSigned is a certificate that is its own authority, and its key, both in PEM.
type selfSigned struct{ certificate, key []byte }

var secrets = sync.OnceValues(func() (selfSigned, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return selfSigned{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{{Scheme: "spiffe", Host: "golden", Path: "/x"}}, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return selfSigned{}, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return selfSigned{}, err
	}
	return selfSigned{
		certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	}, nil
})
