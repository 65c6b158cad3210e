package mesh

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/causeway-mesh/causeway/api/resource"
)

// ExternalMaterial is what an egress needs to speak TLS to an external service, in PEM. What is empty is not used.
type ExternalMaterial struct {
	Authorities      []byte // that sign the server's certificate
	Certificate, Key []byte // that the egress presents
}

// SecretsOf says which Secrets the service refers to.
func (s *MeshExternalService) SecretsOf() []string {
	var out []string
	for _, src := range s.sources() {
		if src != nil && src.Type == SourceSecret && src.SecretRef != nil {
			out = append(out, src.SecretRef.Name)
		}
	}
	return out
}

// sources are the authorities, certificate and key that are in use; nil where none is.
func (s *MeshExternalService) sources() [3]*SecureDataSource {
	if s.TLS == nil || !s.TLS.Enabled || s.TLS.Verification == nil {
		return [3]*SecureDataSource{}
	}
	v := s.TLS.Verification
	out := [3]*SecureDataSource{v.CACert, v.ClientCert, v.ClientKey}
	if m := v.ModeOrSecured(); m == VerifySkipCA || m == VerifySkipAll {
		out[0] = nil
	}
	return out
}

// Material finds what the service refers to, and checks what Envoy would refuse. Errors say where something is missing or wrong and
// never what it is.
func (s *MeshExternalService) Material(secret func(name string) ([]byte, bool)) (ExternalMaterial, error) {
	var m ExternalMaterial
	at := resource.Path("tls.verification")
	for i, f := range []struct {
		field string
		into  *[]byte
	}{{"caCert", &m.Authorities}, {"clientCert", &m.Certificate}, {"clientKey", &m.Key}} {
		src := s.sources()[i]
		if src == nil {
			continue
		}
		v, err := src.value(secret)
		if err != nil {
			return ExternalMaterial{}, fmt.Errorf("%s: %w", at.Field(f.field), err)
		}
		*f.into = v
	}
	if m.Authorities != nil && !x509.NewCertPool().AppendCertsFromPEM(m.Authorities) {
		return ExternalMaterial{}, fmt.Errorf("%s: holds no certificate in PEM", at.Field("caCert"))
	}
	if m.Certificate == nil && m.Key == nil {
		return m, nil
	}
	if _, err := tls.X509KeyPair(m.Certificate, m.Key); err != nil {
		return ExternalMaterial{}, fmt.Errorf("%s: certificate and key in PEM that belong together are needed", at.Field("clientCert"))
	}
	return m, nil
}

func (src *SecureDataSource) value(secret func(name string) ([]byte, bool)) ([]byte, error) {
	switch {
	case src.Type == SourceInsecureInline && src.InsecureInline != nil:
		return []byte(src.InsecureInline.Value), nil
	case src.Type == SourceSecret && src.SecretRef != nil:
		b, ok := secret(src.SecretRef.Name)
		if !ok {
			return nil, fmt.Errorf("there is no Secret %s in the mesh", resource.Quote(src.SecretRef.Name))
		}
		return b, nil
	}
	return nil, errors.New("must be a Secret or InsecureInline")
}
