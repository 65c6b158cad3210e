package serving_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/serving"
)

func TestGeneratedAuthoritySurvivesRestartAndCertificatesRenew(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	now := time.Now()
	open := func() *serving.Certificates {
		c, err := serving.Open(serving.Config{Dir: dir, Hosts: []string{"localhost", "127.0.0.1"}, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := open()
	if st, err := os.Stat(filepath.Join(dir, "ca-key.pem")); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("key file: %v %v, want 0600", st, err)
	}
	second := open()
	if first.Pin() != second.Pin() || len(first.Pin()) != 64 {
		t.Fatalf("pins %q and %q, want one of 64 digits", first.Pin(), second.Pin())
	}
	ca, err := os.ReadFile(first.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	verify := func(c *serving.Certificates) *tls.Certificate {
		cert, err := c.Get(nil)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(cert.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "localhost", CurrentTime: now}); err != nil {
			t.Fatal(err)
		}
		return cert
	}
	before := verify(first)
	now = now.Add(70 * 24 * time.Hour)
	if after := verify(first); bytes.Equal(before.Certificate[0], after.Certificate[0]) {
		t.Error("the certificate was not renewed before its end")
	}
}

func TestOperatorFilesReload(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	old := now // of all files: times are no help
	pair := func(n string) {
		d := filepath.Join(dir, n)
		if _, err := serving.Open(serving.Config{Dir: d}); err != nil {
			t.Fatal(err)
		}
		for from, to := range map[string]string{"ca.pem": "cert.pem", "ca-key.pem": "key.pem"} {
			b, err := os.ReadFile(filepath.Join(d, from))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, to), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		now = now.Add(time.Minute)
		if err := os.Chtimes(filepath.Join(dir, "cert.pem"), old, old); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	pair("a")
	c, err := serving.Open(serving.Config{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"), Log: slog.New(slog.NewTextHandler(&log, nil)), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	one, _ := c.Get(nil)
	pair("b")
	two, err := c.Get(nil)
	if err != nil || bytes.Equal(one.Certificate[0], two.Certificate[0]) {
		t.Fatalf("not reloaded (%v)", err)
	}
	if n := strings.Count(log.String(), "was replaced"); n != 1 {
		t.Errorf("a replacement was told %d times, want once:\n%s", n, &log)
	}
	key, err := os.ReadFile(filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for i, broken := range []string{"cert.pem", "key.pem"} {
		if err := os.WriteFile(filepath.Join(dir, broken), []byte("broken"), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			now = now.Add(time.Minute)
			if three, err := c.Get(nil); err != nil || !bytes.Equal(two.Certificate[0], three.Certificate[0]) {
				t.Fatalf("a broken %s replaced the last good certificate (%v)", broken, err)
			}
		}
		if n := strings.Count(log.String(), "not replaced"); n != i+1 {
			t.Errorf("with a broken %s it was told %d times that files cannot be served, want %d times:\n%s", broken, n, i+1, &log)
		}
		if err := os.WriteFile(filepath.Join(dir, "cert.pem"), pemOf(two), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "key.pem"), key, 0o600); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Minute)
		if _, err := c.Get(nil); err != nil {
			t.Fatal(err)
		}
	}

	// One that has ended is no better than the one that serves; files of the same age as before are looked at, too.
	pair("c")
	now = now.Add(100 * 365 * 24 * time.Hour)
	if four, err := c.Get(nil); err != nil || !bytes.Equal(two.Certificate[0], four.Certificate[0]) {
		t.Fatalf("a certificate that has ended replaced another (%v)", err)
	}
	if !strings.Contains(log.String(), "it ended on") {
		t.Errorf("nothing says that the new certificate has ended:\n%s", &log)
	}
}

func pemOf(c *tls.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})
}

func TestBadConfigIsNamed(t *testing.T) {
	for _, cfg := range []serving.Config{{CertFile: "x"}, {}, {CertFile: "/does/not/exist", KeyFile: "/neither"}} {
		if _, err := serving.Open(cfg); err == nil {
			t.Errorf("%+v: no error", cfg)
		}
	}
}

func TestInstancesWithOneAuthorityLookAlike(t *testing.T) {
	from := t.TempDir()
	if _, err := serving.Open(serving.Config{Dir: from}); err != nil {
		t.Fatal(err)
	}
	read := func(path string) []byte {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	shared := &serving.Authority{Certificate: read(filepath.Join(from, "ca.pem")), Key: read(filepath.Join(from, "ca-key.pem"))}
	for range 2 {
		dir := filepath.Join(t.TempDir(), "tls")
		c, err := serving.Open(serving.Config{Dir: dir, Authority: shared, Hosts: []string{"localhost"}})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(read(c.CAFile()), shared.Certificate) {
			t.Error("clients find another authority than the shared one")
		}
		if _, err := os.Stat(filepath.Join(dir, "ca-key.pem")); !os.IsNotExist(err) {
			t.Errorf("the key of the authority is beside it (%v)", err)
		}
		chain, err := c.Chain()
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(chain[0])
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(shared.Certificate)
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "localhost"}); err != nil {
			t.Error(err)
		}
	}
}
