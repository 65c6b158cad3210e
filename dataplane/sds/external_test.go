package sds

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/api/envoy"
)

func pems(t testing.TB) (cert, key []byte) {
	t.Helper()
	k, chain := certificate(t, 7)
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: chain[0]}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func TestExternalSecretsAreServedAndReplaced(t *testing.T) {
	s, c := start(t)
	cert, key := pems(t)
	st := subscribe(t, c, "certificate_x", nil)
	if err := s.SetExternals([]External{{Name: "certificate_x", Certificate: cert, Key: key}, {Name: "authorities_x", Authorities: cert}}, true); err != nil {
		t.Fatal(err)
	}
	first, secret := st.next()
	if got := secret.GetTlsCertificate(); secret.GetName() != "certificate_x" || string(got.GetPrivateKey().GetInlineBytes()) != string(key) {
		t.Errorf("got %s", secret.GetName())
	}
	st.answer(first, "")
	otherCert, otherKey := pems(t)
	if err := s.SetExternals([]External{{Name: "certificate_x", Certificate: otherCert, Key: otherKey}}, false); err != nil {
		t.Fatal(err)
	}
	second, secret := st.next()
	if string(secret.GetTlsCertificate().GetPrivateKey().GetInlineBytes()) != string(otherKey) {
		t.Error("the replaced secret is not the new one")
	}
	st.answer(second, "no good")
	until(t, s, "the refusal is told", func(x Status) bool { return strings.Contains(x.Rejected, "certificate_x: no good") })

	// Whoever has the present version gets nothing before it changes; the other one stayed, since the second list was not complete.
	version := second.GetResources()[0].GetVersion()
	again := subscribe(t, c, "certificate_x", map[string]string{"certificate_x": version})
	authorities := subscribe(t, c, "authorities_x", nil)
	if _, secret := authorities.next(); string(secret.GetValidationContext().GetTrustedCa().GetInlineBytes()) != string(cert) {
		t.Error("the authorities are others")
	}
	if err := s.SetExternals([]External{{Name: "certificate_x", Certificate: cert, Key: key}}, true); err != nil {
		t.Fatal(err)
	}
	if r, _ := again.next(); r.GetResources()[0].GetVersion() == version {
		t.Error("a version was sent that Envoy had")
	}
}

func TestExternalSecretsThatCannotBeUsed(t *testing.T) {
	s, _ := start(t)
	cert, _ := pems(t)
	_, key := pems(t)
	err := s.SetExternals([]External{
		{Name: "certificate_x", Certificate: cert, Key: key}, {Name: "authorities_x", Authorities: []byte("nothing")}, {Name: "identity", Authorities: cert},
	}, true)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"certificate_x: certificate and key do not belong together", "authorities_x: it holds no certificate", "identity: it must have a name of its own"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "PRIVATE") {
		t.Error("the error shows a key")
	}
	if n := len(s.external.values); n != 0 {
		t.Errorf("%d secrets are served", n)
	}
}

func TestAuthoritiesOfTheHost(t *testing.T) {
	s, c := start(t)
	cert, _ := pems(t)
	file := filepath.Join(t.TempDir(), "authorities.pem")
	if err := os.WriteFile(file, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	s.UseAuthorities(file)
	st := subscribe(t, c, envoy.SystemAuthorities, nil)
	if _, secret := st.next(); string(secret.GetValidationContext().GetTrustedCa().GetInlineBytes()) != string(cert) {
		t.Error("the authorities are not those of the file")
	}
}
