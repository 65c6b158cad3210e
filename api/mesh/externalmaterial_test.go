package mesh

import (
	"strings"
	"testing"
)

// What is missing or wrong is named by its place, and never shown.
func TestMaterialNamesWhatIsWrong(t *testing.T) {
	const secret = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
	source := func(name string) *SecureDataSource {
		return &SecureDataSource{Type: SourceSecret, SecretRef: &SecretRef{Kind: "Secret", Name: name}}
	}
	read := func(name string) ([]byte, bool) { return []byte(secret), name == "there" }
	for _, c := range []struct {
		name string
		v    ExternalVerification
		want string
	}{
		{"missing authorities", ExternalVerification{CACert: source("gone")}, `tls.verification.caCert: there is no Secret "gone" in the mesh`},
		{"no certificate", ExternalVerification{CACert: source("there")}, "tls.verification.caCert: holds no certificate in PEM"},
		{"a pair that is none", ExternalVerification{ClientCert: source("there"), ClientKey: source("there")}, "tls.verification.clientCert: certificate and key in PEM"},
		{"authorities that are not asked", ExternalVerification{Mode: VerifySkipCA, CACert: source("gone")}, ""},
		{"a source that is none", ExternalVerification{CACert: &SecureDataSource{Type: SourceFile}}, "tls.verification.caCert: must be a Secret or InsecureInline"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &MeshExternalService{TLS: &ExternalTLS{Enabled: true, Verification: &c.v}}
			_, err := s.Material(read)
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.HasPrefix(err.Error(), c.want) || strings.Contains(err.Error(), "c2Vj") {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}
