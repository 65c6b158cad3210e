package pki_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/pki"
)

func request(t testing.TB) []byte {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestIssuerSignsUntilItEnds(t *testing.T) {
	now := time.Date(2031, 5, 1, 12, 0, 0, 0, time.UTC)
	cert, key, err := pki.NewRoot("default", "default.east", now)
	if err != nil {
		t.Fatal(err)
	}
	c, k, ok := pki.SplitPEM(append(bytes.Clone(cert), key...))
	if !ok || !bytes.Equal(c, cert) || !bytes.Equal(k, key) {
		t.Fatal("certificate and key are not taken apart as they were put together")
	}
	i, err := pki.ParseIssuer(cert, key, true, now)
	if err != nil {
		t.Fatal(err)
	}
	public, err := pki.ParseRequest(request(t))
	if err != nil {
		t.Fatal(err)
	}
	end := i.Signing().NotAfter
	leaf, err := i.Sign(public, "spiffe://default.east/web", time.Hour, end.Add(-time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if !leaf.NotAfter.Equal(end) || leaf.URIs[0].String() != "spiffe://default.east/web" {
		t.Errorf("a leaf until %s for %s, want until the end of its authority at %s", leaf.NotAfter, leaf.URIs, end)
	}
	if i.Check(now) != nil || i.Check(end.Add(time.Second)) == nil {
		t.Error("an authority can sign from now until it ends")
	}
	if _, err := pki.ParseIssuer(cert, key, false, now); err == nil {
		t.Error("a self-signed authority is accepted where only intermediates are")
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add(request(f))
	f.Add([]byte{0x30, 0x82})
	f.Fuzz(func(t *testing.T, der []byte) {
		if _, err := pki.ParseRequest(der); err != nil {
			var bad *pki.RequestError
			if !errors.As(err, &bad) {
				t.Errorf("error of another kind: %v", err)
			}
		}
	})
}

func FuzzParseIssuer(f *testing.F) {
	cert, key, err := pki.NewRoot("fuzz", "east.example", time.Now())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(cert, key)
	f.Add(append(cert, cert...), key)
	f.Fuzz(func(t *testing.T, cert, key []byte) {
		i, err := pki.ParseIssuer(cert, key, true, time.Now())
		if err == nil && (i.Signing() == nil || i.ID == "") {
			t.Error("an authority without a certificate")
		}
	})
}
