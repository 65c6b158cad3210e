package spire

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"log/slog"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/causeway-mesh/causeway/dataplane/sds"
)

// served is what Envoy would get.
type served struct {
	leaf    []byte
	label   string
	domains []string
}

func (s *served) SetIdentity(_ crypto.Signer, chain [][]byte) error {
	s.leaf = chain[0]
	return nil
}

func (s *served) SetTrust(label string, bundles []sds.Bundle) error {
	s.label, s.domains = label, nil
	for _, b := range bundles {
		s.domains = append(s.domains, b.Domain)
	}
	return nil
}

func issue(t *testing.T, ids ...string) *workloadapi.X509Context {
	t.Helper()
	c := &workloadapi.X509Context{Bundles: x509bundle.NewSet()}
	for _, id := range ids {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		uri, err := url.Parse(id)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(7), URIs: []*url.URL{uri}, NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		name := spiffeid.RequireFromString(id)
		c.SVIDs = append(c.SVIDs, &x509svid.SVID{ID: name, Certificates: []*x509.Certificate{leaf}, PrivateKey: key})
		c.Bundles.Add(x509bundle.FromX509Authorities(name.TrustDomain(), []*x509.Certificate{leaf}))
	}
	return c
}

func TestOnlyTheWantedIdentityIsServed(t *testing.T) {
	var out served
	s := New("/nowhere", &out, slog.New(slog.DiscardHandler))
	s.OnX509ContextUpdate(issue(t, "spiffe://a/other", "spiffe://a/web"))
	if out.leaf != nil {
		t.Fatal("an identity that nobody wants is served")
	}
	s.Want("spiffe://a/web")
	held, problem := s.Held()
	if !held.Valid() || held.SPIFFEID != "spiffe://a/web" || !slices.Equal(held.Leaf, out.leaf) || problem != "" {
		t.Fatalf("held %v, %q", held, problem)
	}
	before := out.leaf
	s.OnX509ContextUpdate(issue(t, "spiffe://a/web"))
	if slices.Equal(before, out.leaf) {
		t.Error("the next certificate is not served")
	}
	before = out.leaf
	s.OnX509ContextUpdate(issue(t, "spiffe://a/other"))
	held, problem = s.Held()
	if !held.Valid() || !slices.Equal(before, out.leaf) {
		t.Error("what is held was given up for another identity")
	}
	if !strings.Contains(problem, "offers spiffe://a/other and not spiffe://a/web") {
		t.Errorf("problem %q", problem)
	}
	s.Want("spiffe://a/cart")
	if held, _ := s.Held(); held.Valid() {
		t.Error("what is held counts for an identity of another name")
	}
}

func TestBundlesOfTheZoneComeFirst(t *testing.T) {
	var out served
	s := New("/nowhere", &out, slog.New(slog.DiscardHandler))
	s.Want("spiffe://a/web")
	s.Trust("7", []sds.Bundle{{Domain: "b", PEM: "x"}})
	if out.domains != nil {
		t.Fatal("trust is served before SPIRE has said anything")
	}
	s.OnX509ContextUpdate(issue(t, "spiffe://a/web", "spiffe://b/web"))
	slices.Sort(out.domains)
	if !slices.Equal(out.domains, []string{"a", "b"}) || out.label != "7" {
		t.Errorf("domains %v, label %s", out.domains, out.label)
	}
}
