package client

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
)

// trust builds the TLS settings: a pin, else the given authorities, else those of the system.
func trust(cfg Config) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	switch {
	case cfg.Pin != "":
		pin, err := parsePin(cfg.Pin)
		if err != nil {
			return nil, err
		}
		// The pin replaces the authorities: VerifyConnection does the whole verification instead.
		t.InsecureSkipVerify = true
		t.VerifyConnection = pin.verify
	case cfg.CAFile != "":
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the CA: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA file %s holds no PEM certificate", cfg.CAFile)
		}
	}
	return t, nil
}

// pin is the SHA-256 of a public key.
type pin [sha256.Size]byte

func parsePin(s string) (pin, error) {
	var p pin
	h, ok := strings.CutPrefix(s, "sha256:")
	b, err := hex.DecodeString(h)
	if !ok || err != nil || len(b) != len(p) {
		return p, fmt.Errorf("pin %q must be sha256: and %d hexadecimal digits", s, 2*len(p))
	}
	copy(p[:], b)
	return p, nil
}

// PinOf is the pin of a certificate.
func PinOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (p pin) matches(c *x509.Certificate) bool { return sha256.Sum256(c.RawSubjectPublicKeyInfo) == p }

// errPin is a server that presents no certificate with the pinned key.
var errPin = errors.New("the server presents no certificate with the pinned key: the pin is wrong or this is another server")

// verify accepts a server whose own key is pinned, or whose certificate is issued by a presented authority with the pinned key.
func (p pin) verify(cs tls.ConnectionState) error {
	certs := cs.PeerCertificates
	if p.matches(certs[0]) {
		return nil
	}
	roots := x509.NewCertPool()
	intermediates := x509.NewCertPool()
	found := false
	for _, c := range certs[1:] {
		if p.matches(c) {
			roots.AddCert(c)
			found = true
		}
		intermediates.AddCert(c)
	}
	if !found {
		return errPin
	}
	_, err := certs[0].Verify(x509.VerifyOptions{DNSName: cs.ServerName, Roots: roots, Intermediates: intermediates})
	return err
}
