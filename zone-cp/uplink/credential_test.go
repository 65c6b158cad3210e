package uplink

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/pki"
)

// A server is recognised by its authority and its address, also by a host whose clock is behind; an end is an end.
func TestServersAreVerified(t *testing.T) {
	now := time.Now()
	issuer := func() *pki.Issuer {
		cert, key, err := pki.NewRoot("test", "", now)
		if err != nil {
			t.Fatal(err)
		}
		i, err := pki.ParseIssuer(cert, key, true, now)
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	ours, other := issuer(), issuer()
	server := func(i *pki.Issuer) *x509.Certificate {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		serial, err := pki.NewSerial()
		if err != nil {
			t.Fatal(err)
		}
		der, err := i.Create(&x509.Certificate{
			SerialNumber: serial, NotBefore: now, NotAfter: now.Add(time.Hour), IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)},
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}, k.Public())
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return leaf
	}
	roots := x509.NewCertPool()
	roots.AddCert(ours.Signing())
	for _, c := range []struct {
		what string
		leaf *x509.Certificate
		host string
		at   time.Time
		want string // in the error; empty: it is good
	}{
		{"good", server(ours), "192.0.2.1", now.Add(time.Minute), ""},
		{"this clock is a day behind", server(ours), "192.0.2.1", now.Add(-24 * time.Hour), ""},
		{"another address", server(ours), "192.0.2.2", now, "192.0.2.2"},
		{"another authority", server(other), "192.0.2.1", now, "unknown authority"},
		{"another authority, and this clock is behind", server(other), "192.0.2.1", now.Add(-time.Hour), "unknown authority"},
		{"ended", server(ours), "192.0.2.1", now.Add(2 * time.Hour), "expired"},
	} {
		err := verifyServer([]*x509.Certificate{c.leaf}, c.host, roots, x509.NewCertPool(), c.at)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.what, err, c.want)
		}
	}
}
