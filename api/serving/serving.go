// Package serving keeps the certificate with which a control plane serves: files of the operator, reloaded when they change,
// or an authority generated in a directory that signs short-lived server certificates. It listens on nothing, and the
// identities of workloads and agents are none of its business.
package serving

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/causeway-mesh/causeway/api/pki"
)

// Config of Certificates.
type Config struct {
	// CertFile and KeyFile are PEM files of the operator; both or none.
	CertFile, KeyFile string
	// Dir holds the generated authority when there are no such files. Created with mode 0700.
	Dir string
	// Authority, when set, is used instead of one generated in Dir: certificate and key in PEM. Instances that share it look
	// alike to their clients. Dir then gets its certificate alone.
	Authority *Authority
	// Hosts are the names and addresses that generated certificates are good for.
	Hosts []string
	// Log is told when the certificate is replaced, and when files cannot be served; nil means nobody is.
	Log *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// An Authority is kept by somebody else, such as a store.
type Authority struct{ Certificate, Key []byte }

const (
	authorityLifetime = 10 * 365 * 24 * time.Hour
	serverLifetime    = 90 * 24 * time.Hour
	backdate          = 10 * time.Minute // clocks of clients may be behind
	recheck           = time.Second
)

// Certificates yields the server certificate.
type Certificates struct {
	cfg Config
	ca  *tls.Certificate // nil with files of the operator

	mu      sync.Mutex
	current *tls.Certificate
	until   time.Time         // end of life of a generated certificate
	read    [sha256.Size]byte // what the operator's files held when current was made
	problem string            // why the former certificate still serves, as it was last told
	checked time.Time
}

// Open loads or makes what is needed and fails when it could not serve.
func Open(cfg Config) (*Certificates, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if (cfg.CertFile == "") != (cfg.KeyFile == "") {
		return nil, errors.New("server certificate: certificate and key files are needed together")
	}
	c := &Certificates{cfg: cfg}
	if cfg.CertFile == "" {
		ca, err := openAuthority(cfg)
		if err != nil {
			return nil, fmt.Errorf("server certificate: %w", err)
		}
		c.ca = ca
	}
	if _, err := c.Get(nil); err != nil {
		return nil, err
	}
	return c, nil
}

// CAFile is where clients find the generated authority, empty with files of the operator.
func (c *Certificates) CAFile() string {
	if c.ca == nil {
		return ""
	}
	return filepath.Join(c.cfg.Dir, "ca.pem")
}

// Chain is what is served now, DER, leaf first.
func (c *Certificates) Chain() ([][]byte, error) {
	cert, err := c.Get(nil)
	if err != nil {
		return nil, err
	}
	return cert.Certificate, nil
}

// Pin is the SHA-256 of the generated authority in hex, by which clients can recognise it without a file.
func (c *Certificates) Pin() string {
	if c.ca == nil {
		return ""
	}
	sum := sha256.Sum256(c.ca.Certificate[0])
	return hex.EncodeToString(sum[:])
}

// Get is the certificate to serve now, for tls.Config.GetCertificate.
func (c *Certificates) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.cfg.Now()
	if c.current != nil && now.Sub(c.checked) < recheck {
		return c.current, nil
	}
	c.checked = now
	renew := c.reload
	if c.ca != nil {
		renew = c.renew
	}
	if err := renew(now); err != nil {
		if c.current == nil {
			return nil, fmt.Errorf("server certificate: %w", err)
		}
		c.tell(err)
	}
	return c.current, nil
}

// tell says once why the last good certificate serves on: until the files are right again, every connection would say it.
func (c *Certificates) tell(err error) {
	if why := err.Error(); why != c.problem {
		c.problem = why
		c.cfg.Log.Error("the server certificate is not replaced; the former one serves on", "until", c.current.Leaf.NotAfter.UTC(), "err", err)
	}
}

// reload takes the operator's files when what they hold has changed. Their times say nothing: a copy may keep those of the original.
func (c *Certificates) reload(now time.Time) error {
	cert, err := os.ReadFile(c.cfg.CertFile)
	if err != nil {
		return err
	}
	key, err := os.ReadFile(c.cfg.KeyFile)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(bytes.Join([][]byte{cert, key}, []byte{0}))
	if c.current != nil && sum == c.read {
		c.problem = ""
		return nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	switch {
	case err != nil:
		return fmt.Errorf("load %s and %s: %w", c.cfg.CertFile, c.cfg.KeyFile, err)
	case c.current != nil && !now.Before(pair.Leaf.NotAfter):
		return fmt.Errorf("load %s: it ended on %s", c.cfg.CertFile, pair.Leaf.NotAfter.Format(time.DateOnly))
	}
	if c.current != nil {
		c.cfg.Log.Info("the server certificate was replaced", "file", c.cfg.CertFile, "serial", pki.Serial(pair.Leaf), "until", pair.Leaf.NotAfter.UTC())
	}
	c.current, c.read, c.problem = &pair, sum, ""
	return nil
}

func (c *Certificates) renew(now time.Time) error {
	if c.current != nil && c.until.Sub(now) > serverLifetime/3 {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	tpl := template("causeway control plane", now, serverLifetime)
	tpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	tpl.KeyUsage = x509.KeyUsageDigitalSignature
	for _, h := range c.cfg.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			tpl.IPAddresses = append(tpl.IPAddresses, ip)
		} else {
			tpl.DNSNames = append(tpl.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, c.ca.Leaf, &key.PublicKey, c.ca.PrivateKey)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	c.current = &tls.Certificate{Certificate: [][]byte{der, c.ca.Certificate[0]}, PrivateKey: key, Leaf: leaf}
	c.until = tpl.NotAfter
	return nil
}

func template(name string, now time.Time, lifetime time.Duration) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) // crypto/rand does not fail
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(lifetime), BasicConstraintsValid: true,
	}
}

// openAuthority takes the authority that is given, or reads the one of a directory, or makes it.
func openAuthority(cfg Config) (*tls.Certificate, error) {
	dir, now := cfg.Dir, cfg.Now()
	if dir == "" {
		return nil, errors.New("a directory for the generated authority is needed")
	}
	certFile, keyFile := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca-key.pem")
	if a := cfg.Authority; a != nil {
		ca, err := tls.X509KeyPair(a.Certificate, a.Key)
		if err != nil {
			return nil, fmt.Errorf("authority: %w", err)
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		return &ca, writeWhole(certFile, a.Certificate, 0o644)
	}
	ca, err := tls.LoadX509KeyPair(certFile, keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeAuthority(dir, certFile, keyFile, now); err != nil {
			return nil, err
		}
		ca, err = tls.LoadX509KeyPair(certFile, keyFile)
	}
	if err != nil {
		return nil, fmt.Errorf("load the authority in %s (delete both files to make a new one, which clients then must be told): %w", dir, err)
	}
	if !now.Before(ca.Leaf.NotAfter) {
		return nil, fmt.Errorf("the authority in %s expired on %s; delete ca.pem and ca-key.pem there to make a new one", dir, ca.Leaf.NotAfter.Format(time.DateOnly))
	}
	return &ca, nil
}

func makeAuthority(dir, certFile, keyFile string, now time.Time) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	tpl := template("causeway generated authority", now, authorityLifetime)
	tpl.IsCA, tpl.KeyUsage = true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	// The key first: a crash in between leaves a key without a certificate, which the next start replaces.
	if err := writeWhole(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		return err
	}
	return writeWhole(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

// writeWhole writes a file completely or not at all: half an authority would stop every later start.
func writeWhole(path string, data []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // it is gone after the rename
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
