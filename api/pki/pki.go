// Package pki is what every authority of Causeway needs of X.509: roots, signing requests, issuers that sign, PEM. It keeps
// nothing, reads no file and no clock, and does not decide who gets which name.
package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"
)

const (
	rootLifetime = 10 * 365 * 24 * time.Hour
	// Backdate lets hosts whose clocks are behind accept a fresh certificate.
	Backdate = 10 * time.Minute
	// MaxRequest is the largest accepted signing request, in bytes.
	MaxRequest = 4 << 10
)

// An Issuer is a certificate authority that can sign now.
type Issuer struct {
	// ID names the signing certificate: the beginning of its SHA-256.
	ID string

	signing *x509.Certificate
	chain   []*x509.Certificate // the signing certificate and what is above it, without a root
	roots   []*x509.Certificate // the self-signed certificates of the bundle
	key     crypto.Signer
}

// NewRoot makes the authority of a trust domain: certificate and key in PEM. An authority for something else has no trust domain.
func NewRoot(name, trustDomain string, now time.Time) (certificate, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	serial, err := NewSerial()
	if err != nil {
		return nil, nil, err
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"Causeway"}, CommonName: name},
		NotBefore:             now.Add(-Backdate),
		NotAfter:              now.Add(rootLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	if trustDomain != "" {
		t.URIs = []*url.URL{{Scheme: "spiffe", Host: trustDomain}}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, k.Public(), k)
	if err != nil {
		return nil, nil, fmt.Errorf("make a root certificate: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the key: %w", err)
	}
	return EncodePEM("CERTIFICATE", der), EncodePEM("PRIVATE KEY", pkcs8), nil
}

// EncodePEM makes one PEM block.
func EncodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// NewSerial makes a random serial number.
func NewSerial() (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	b[0] &= 0x7f // positive, so that it takes 16 bytes
	b[0] |= 0x40
	return new(big.Int).SetBytes(b), nil
}

// ParseIssuer reads an authority: the certificate that signs, then those above it, and the key.
// Other self-signed certificates in the bundle are trusted beside it.
func ParseIssuer(bundle, key []byte, allowSelfSigned bool, now time.Time) (*Issuer, error) {
	certs, err := ParseCertificates(bundle)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	signer, err := ParseKey(key)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	i := &Issuer{key: signer}
	for _, c := range certs {
		if selfSigned(c) {
			i.roots = append(i.roots, c)
		}
		if i.signing == nil && samePublicKey(c.PublicKey, signer.Public()) {
			i.signing = c
		}
	}
	if i.signing == nil {
		return nil, errors.New("private key: it belongs to none of the certificates")
	}
	if err := checkAuthority(i.signing, now); err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	if selfSigned(i.signing) && !allowSelfSigned {
		return nil, errors.New("certificate: it is self-signed; supply an intermediate, or set insecureAllowSelfSigned")
	}
	if i.chain, err = chainAbove(i.signing, certs); err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	i.ID = Fingerprint(i.signing.Raw)
	return i, nil
}

// Fingerprint names a certificate by the beginning of its SHA-256.
func Fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:8])
}

// ParseCertificates reads certificates in PEM, and nothing else.
func ParseCertificates(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		block, text = pem.Decode(text)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("it holds a PEM block of type %q, only certificates are expected", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("it cannot be parsed: %w", err)
		}
		certs = append(certs, c)
	}
	if len(bytes.TrimSpace(text)) > 0 || len(certs) == 0 {
		return nil, errors.New("it is not PEM")
	}
	return certs, nil
}

// ParseKey reads one private key in PEM. It never quotes the cause of an error: it may hold key material.
func ParseKey(text []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(text)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("it is not one PEM block")
	}
	var k any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		k, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		k, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		k, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("PEM type %q is not a private key that can be used", block.Type)
	}
	signer, ok := k.(crypto.Signer)
	if err != nil || !ok {
		return nil, errors.New("it cannot be parsed")
	}
	return signer, nil
}

type publicKey interface{ Equal(crypto.PublicKey) bool }

func samePublicKey(a, b crypto.PublicKey) bool {
	k, ok := a.(publicKey)
	return ok && k.Equal(b)
}

func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, c.RawSubject) && c.CheckSignatureFrom(c) == nil
}

// Check says why the authority cannot sign now.
func (i *Issuer) Check(now time.Time) error {
	if err := checkAuthority(i.signing, now); err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	return nil
}

func checkAuthority(c *x509.Certificate, now time.Time) error {
	switch {
	case !c.IsCA || !c.BasicConstraintsValid:
		return errors.New("it is not an authority (basic constraints lack CA)")
	case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New("its key usage does not allow signing certificates")
	case now.After(c.NotAfter):
		return fmt.Errorf("it expired at %s", c.NotAfter.UTC().Format(time.RFC3339))
	case now.Add(Backdate).Before(c.NotBefore):
		return fmt.Errorf("it is not valid before %s; compare the clocks", c.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

// chainAbove orders the certificates from the signing one up to, but without, its root.
func chainAbove(signing *x509.Certificate, certs []*x509.Certificate) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for at := signing; !selfSigned(at); {
		chain = append(chain, at)
		if len(chain) > len(certs) {
			return nil, errors.New("its chain runs in a circle")
		}
		var above *x509.Certificate
		for _, c := range certs {
			if c != at && bytes.Equal(c.RawSubject, at.RawIssuer) && at.CheckSignatureFrom(c) == nil {
				above = c
				break
			}
		}
		if above == nil {
			break
		}
		at = above
	}
	return chain, nil
}

// Signing is the certificate that signs.
func (i *Issuer) Signing() *x509.Certificate { return i.signing }

// Roots are the self-signed certificates of what was supplied.
func (i *Issuer) Roots() []*x509.Certificate { return i.roots }

// Between are the certificates that a leaf is presented with: the signing one and those above it, without a root.
func (i *Issuer) Between() []*x509.Certificate { return i.chain }

// Bundle is what others have to trust, in PEM; empty when the root is not part of what was supplied.
func (i *Issuer) Bundle() []byte {
	var b []byte
	for _, c := range i.roots {
		b = append(b, EncodePEM("CERTIFICATE", c.Raw)...)
	}
	return b
}

// Create signs a certificate as the template says.
func (i *Issuer) Create(template *x509.Certificate, public crypto.PublicKey) ([]byte, error) {
	return x509.CreateCertificate(rand.Reader, template, i.signing, public, i.key)
}

// Sign makes a workload certificate and checks it as a peer would.
func (i *Issuer) Sign(public crypto.PublicKey, spiffeID string, lifetime time.Duration, now time.Time) (*x509.Certificate, error) {
	id, err := url.Parse(spiffeID)
	if err != nil {
		return nil, fmt.Errorf("SPIFFE ID: %w", err)
	}
	serial, err := NewSerial()
	if err != nil {
		return nil, err
	}
	until := now.Add(lifetime)
	if i.signing.NotAfter.Before(until) {
		until = i.signing.NotAfter
	}
	for _, c := range i.chain {
		if c.NotAfter.Before(until) {
			until = c.NotAfter
		}
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		URIs:                  []*url.URL{id},
		NotBefore:             now.Add(-Backdate),
		NotAfter:              until,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	if t.NotBefore.Before(i.signing.NotBefore) {
		t.NotBefore = i.signing.NotBefore
	}
	der, err := i.Create(t, public)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if _, err := i.Verify(leaf, now); err != nil {
		return nil, fmt.Errorf("the authority cannot sign %s: %w", spiffeID, err)
	}
	return leaf, nil
}

// Verify says whether a leaf was signed by this authority and is valid now, and which of its certificates signed it.
func (i *Issuer) Verify(leaf *x509.Certificate, now time.Time) (signer *x509.Certificate, err error) {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range i.roots {
		roots.AddCert(c)
	}
	for _, c := range i.chain {
		between.AddCert(c)
	}
	if len(i.roots) == 0 {
		roots.AddCert(i.chain[len(i.chain)-1])
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, err
	}
	return chains[0][1], nil
}

// A RequestError is a signing request that must not be signed.
type RequestError struct{ Reason string }

// Error says why.
func (e *RequestError) Error() string { return "signing request: " + e.Reason }

// ParseRequest returns the key of a request whose sender proved to own it. Everything else in the request is ignored.
func ParseRequest(der []byte) (crypto.PublicKey, error) {
	if len(der) > MaxRequest {
		return nil, &RequestError{fmt.Sprintf("it has %d bytes, at most %d are allowed", len(der), MaxRequest)}
	}
	r, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, &RequestError{"it is not a PKCS #10 request in DER"}
	}
	k, ok := r.PublicKey.(*ecdsa.PublicKey)
	if !ok || k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
		return nil, &RequestError{"its key must be ECDSA P-256 or P-384"}
	}
	if err := r.CheckSignature(); err != nil {
		return nil, &RequestError{"its signature does not prove that the sender owns the key"}
	}
	return k, nil
}

// Serial renders the serial number of a certificate.
func Serial(c *x509.Certificate) string { return hex.EncodeToString(c.SerialNumber.Bytes()) }

// SplitPEM takes apart certificates that are followed by a key.
func SplitPEM(data []byte) (certificates, key []byte, ok bool) {
	const end = "-----END CERTIFICATE-----\n"
	i := bytes.LastIndex(data, []byte(end))
	if i < 0 {
		return nil, nil, false
	}
	return data[:i+len(end)], data[i+len(end):], true
}

// KeyFingerprint is the SHA-256 of a public key in hex.
func KeyFingerprint(public crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("encode a public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}
