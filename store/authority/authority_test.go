package authority_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/authority"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/memory"
	"github.com/causeway-mesh/causeway/store/seal"
)

func openCatalog(t *testing.T, st store.Store) *catalog.Catalog {
	t.Helper()
	sealer, err := seal.New(seal.Key{ID: "k1", Secret: bytes.Repeat([]byte("k"), 32)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c, err := catalog.Open(ctx, catalog.Config{Store: st, Kinds: api.Kinds(), Sealer: sealer})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("catalog: %v", err)
		}
	})
	return c
}

func request(t *testing.T) []byte {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"ignored"}}, k)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestInstancesThatStartTogetherShareOneAuthority(t *testing.T) {
	st := memory.New()
	catalogs := []*catalog.Catalog{openCatalog(t, st), openCatalog(t, st), openCatalog(t, st)}
	opened := make([]*authority.Authority, len(catalogs))
	var g errgroup.Group
	for i, c := range catalogs {
		g.Go(func() (err error) {
			opened[i], err = authority.Open(t.Context(), authority.Config{Catalog: c, Secret: "ca", Name: "test", Author: "test"})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	uri := &url.URL{Scheme: "test", Host: "a", Path: "/b"}
	chain, left, err := opened[0].Sign(request(t), strings.Repeat("long", 40), uri, time.Hour)
	if err != nil || left <= 0 || left > time.Hour {
		t.Fatal(left, err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range opened {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: a.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			t.Errorf("instance %d refuses what instance 0 signed: %v", i, err)
		}
	}
	if len(leaf.DNSNames) > 0 || leaf.URIs[0].String() != uri.String() {
		t.Errorf("signed for %s and %s, want %s alone", leaf.DNSNames, leaf.URIs, uri)
	}
}

// A certificate is taken until its grace is over, and one of another authority never.
func TestGrace(t *testing.T) {
	const grace = 30 * 24 * time.Hour
	var ahead time.Duration
	clock := func() time.Time { return time.Now().Add(ahead) }
	open := func(secret string, grace time.Duration) *authority.Authority {
		a, err := authority.Open(t.Context(), authority.Config{
			Catalog: openCatalog(t, memory.New()), Secret: secret, Name: "test", Author: "test", Grace: grace, Now: clock,
		})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	strict, patient, other := open("strict", 0), open("patient", grace), open("other", grace)
	sign := func(a *authority.Authority) *x509.Certificate {
		chain, _, err := a.Sign(request(t), "holder", &url.URL{Scheme: "test", Host: "a"}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(chain[0])
		if err != nil {
			t.Fatal(err)
		}
		return leaf
	}
	ofStrict, ofPatient := sign(strict), sign(patient)
	for _, c := range []struct {
		what  string
		by    *authority.Authority
		leaf  *x509.Certificate
		ahead time.Duration
		good  bool
	}{
		{"valid, no grace", strict, ofStrict, 0, true},
		{"ended, no grace", strict, ofStrict, 61 * time.Minute, false},
		{"valid", patient, ofPatient, 0, true},
		{"ended", patient, ofPatient, 61 * time.Minute, true},
		{"at the end of the grace", patient, ofPatient, grace + 59*time.Minute, true},
		{"after the grace", patient, ofPatient, grace + 61*time.Minute, false},
		{"of another authority", other, ofPatient, 0, false},
		{"of another authority, ended", other, ofPatient, 61 * time.Minute, false},
	} {
		ahead = c.ahead
		left, err := c.by.Verify(c.leaf)
		if (err == nil) != c.good || c.good && left <= 0 {
			t.Errorf("%s: %s left, %v; want taken: %t", c.what, left, err, c.good)
		}
	}
}

func TestABrokenAuthorityIsNotReplaced(t *testing.T) {
	c := openCatalog(t, memory.New())
	r, err := resource.WithSpec(resource.Meta{Type: mesh.TypeGlobalSecret, Name: "ca"}, &mesh.GlobalSecret{Data: []byte("broken")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Commit(t.Context(), catalog.Batch{Puts: []catalog.Put{{Resource: r, Expect: store.ExpectAbsent}}}); err != nil {
		t.Fatal(err)
	}
	_, err = authority.Open(t.Context(), authority.Config{Catalog: c, Secret: "ca", Without: "let all of them join again"})
	if err == nil || !strings.Contains(err.Error(), "GlobalSecret ca") || !strings.Contains(err.Error(), "join again") {
		t.Errorf("got %v, want what to do about GlobalSecret ca", err)
	}
}
