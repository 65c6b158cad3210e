package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/pki"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/memory"
	"github.com/causeway-mesh/causeway/store/seal"
)

// plane is a catalog on a memory store with an authority that runs.
type plane struct {
	t       testing.TB
	catalog *catalog.Catalog
	*Authority
}

func newPlane(t testing.TB, edit ...func(*Config)) *plane {
	t.Helper()
	p := &plane{t: t, catalog: openCatalog(t)}
	cfg := Config{Catalog: p.catalog, Zone: "east", RetryInterval: 20 * time.Millisecond}
	for _, e := range edit {
		e(&cfg)
	}
	p.Authority = New(cfg)
	background(t, p.Authority.Run)
	return p
}

func openCatalog(t testing.TB) *catalog.Catalog {
	t.Helper()
	key, err := seal.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := seal.New(key)
	if err != nil {
		t.Fatal(err)
	}
	s := memory.New()
	t.Cleanup(func() { s.Close() })
	c, err := catalog.Open(t.Context(), catalog.Config{Store: s, Kinds: resource.NewKinds(mesh.Kinds...), Sealer: sealer})
	if err != nil {
		t.Fatal(err)
	}
	background(t, c.Run)
	return c
}

func background(t testing.TB, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run ended: %v", err)
		}
	})
}

func (p *plane) apply(yaml string) {
	p.t.Helper()
	ds, err := p.catalog.Kinds().DecodeYAML([]byte(yaml), true)
	if err != nil {
		p.t.Fatal(err)
	}
	b := catalog.Batch{Author: "test", Reason: p.t.Name()}
	for _, d := range ds {
		b.Puts = append(b.Puts, catalog.Put{Resource: d.Resource, Expect: store.ExpectAny})
	}
	if _, err := p.catalog.Commit(p.t.Context(), b); err != nil {
		p.t.Fatal(err)
	}
}

// until waits for a condition on the catalog.
func (p *plane) until(what string, ok func(*catalog.Snapshot) bool) {
	p.t.Helper()
	feed := p.catalog.Subscribe()
	defer feed.Close()
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
	defer cancel()
	for {
		u, err := feed.Next(ctx)
		if err != nil {
			p.t.Fatalf("waiting until %s: %v; conditions %v", what, err, p.conditions("default-identity"))
		}
		if ok(u.Snapshot) {
			return
		}
	}
}

func (p *plane) conditions(name string) map[string]string {
	key := catalog.StatusOf(resource.Key{Type: mesh.TypeMeshIdentity, Mesh: "default", Name: name})
	data, _ := p.catalog.Snapshot().Derived(key.Type, key.Mesh, key.Name)
	var st mesh.MeshIdentityStatus
	if len(data) > 0 {
		if err := json.Unmarshal(data, &st); err != nil {
			p.t.Fatal(err)
		}
	}
	out := map[string]string{}
	for _, c := range st.Conditions {
		out[c.Type] = strings.TrimSpace(string(c.Status) + " " + c.Reason + " " + c.Message)
	}
	return out
}

func (p *plane) ready(name string) {
	p.t.Helper()
	p.until(name+" is ready", func(*catalog.Snapshot) bool { return p.conditions(name)["Ready"] == "True Ready" })
}

const base = `
type: Mesh
name: default
---
type: Dataplane
mesh: default
name: web-1
labels: {kuma.io/workload: web, kuma.io/env: universal}
networking: {address: 127.0.0.1, inbound: [{port: 8080}]}
---
type: MeshIdentity
mesh: default
name: default-identity
spec:
  selector: {dataplane: {}}
  provider: {type: Bundled, bundled: {autogenerate: {enabled: true}}}
`

var web = resource.Key{Type: mesh.TypeDataplane, Mesh: "default", Name: "web-1"}

func request(t testing.TB, edit ...func(*x509.CertificateRequest)) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return requestFor(t, k, edit...), k
}

func requestFor(t testing.TB, k crypto.Signer, edit ...func(*x509.CertificateRequest)) []byte {
	t.Helper()
	r := &x509.CertificateRequest{}
	for _, e := range edit {
		e(r)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, r, k)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func leafOf(t testing.TB, i Issued) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(i.Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// verify checks an issued chain against a trust bundle as a peer would.
func verify(t testing.TB, i Issued, trust *Trust, domain string) error {
	t.Helper()
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, b := range trust.Bundles {
		if b.Domain == domain {
			roots.AppendCertsFromPEM([]byte(b.PEM))
		}
	}
	for _, der := range i.Chain[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		between.AddCert(c)
	}
	_, err := leafOf(t, i).Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	return err
}

func TestGeneratedAuthoritySignsAndIsTrusted(t *testing.T) {
	p := newPlane(t)
	p.apply(base)
	p.ready("default-identity")
	der, key := request(t, func(r *x509.CertificateRequest) {
		r.Subject = pkix.Name{CommonName: "admin"}
		r.DNSNames = []string{"bank.com"}
		r.URIs = []*url.URL{{Scheme: "spiffe", Host: "default.east.mesh.local", Path: "/workload/bank"}}
	})
	got, err := p.Sign(t.Context(), web, der)
	if err != nil {
		t.Fatal(err)
	}
	leaf := leafOf(t, got)
	const want = "spiffe://default.east.mesh.local/workload/web"
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != want || got.SPIFFEID != want {
		t.Errorf("SPIFFE ID %v, %s; want %s", leaf.URIs, got.SPIFFEID, want)
	}
	if len(leaf.DNSNames) > 0 || leaf.Subject.CommonName != "" {
		t.Errorf("names of the request were taken over: %v %v", leaf.DNSNames, leaf.Subject)
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		t.Error("the certificate is for another key")
	}
	if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("the leaf may do more than it should: CA %t, usage %b", leaf.IsCA, leaf.KeyUsage)
	}
	if d := time.Until(leaf.NotBefore); d > -9*time.Minute {
		t.Errorf("NotBefore is %s from now, want 10 minutes ago", d)
	}
	if got.Lifetime.Round(time.Minute) != DefaultExpiry {
		t.Errorf("lifetime %s, want %s", got.Lifetime, DefaultExpiry)
	}
	trust := p.Trust("default")
	if err := verify(t, got, trust, "default.east.mesh.local"); err != nil {
		t.Errorf("the bundle does not verify the certificate: %v", err)
	}
	if !trust.Trusts("default.east.mesh.local", got.Issuer) || trust.Trusts("default.west.mesh.local", got.Issuer) {
		t.Errorf("trust names the wrong authorities: %+v", trust.Bundles)
	}
	held, ok := p.Held(web, got.Chain[0])
	if !ok || held.Serial != got.Serial || held.Issuer != got.Issuer {
		t.Errorf("Held = %+v, %t", held, ok)
	}
}

func TestSecondAuthorityUsesWhatTheFirstMade(t *testing.T) {
	p := newPlane(t)
	p.apply(base)
	p.ready("default-identity")
	before, err := p.Offer(web)
	if err != nil {
		t.Fatal(err)
	}
	position := p.catalog.Snapshot().Position()
	again := New(Config{Catalog: p.catalog, Zone: "east"})
	background(t, again.Run)
	after, err := again.Offer(web)
	if err != nil || after != before {
		t.Errorf("offer %+v, %v; before %+v", after, err, before)
	}
	again.keep(t.Context(), map[string]bool{"": true})
	if now := p.catalog.Snapshot().Position(); now != position {
		t.Errorf("a restart wrote something: %s, was %s", now, position)
	}
}

func TestIdentityFollowsTheStoredLabels(t *testing.T) {
	p := newPlane(t)
	p.apply(base)
	p.ready("default-identity")
	der, _ := request(t)
	first, err := p.Sign(t.Context(), web, der)
	if err != nil {
		t.Fatal(err)
	}
	p.apply(strings.Split(strings.ReplaceAll(base, "workload: web", "workload: shop"), "---")[1])
	o, err := p.Offer(web)
	if err != nil || o.SPIFFEID != "spiffe://default.east.mesh.local/workload/shop" {
		t.Errorf("offer %+v, %v", o, err)
	}
	if _, ok := p.Held(web, first.Chain[0]); ok {
		t.Error("a certificate for the former label still counts as held")
	}
	p.apply(strings.Split(strings.ReplaceAll(base, "kuma.io/workload: web, ", ""), "---")[1])
	if _, err := p.Offer(web); err == nil || !strings.Contains(err.Error(), "default-identity") {
		t.Errorf("without the label: %v, want an error that names the identity", err)
	}
}

func TestBadRequestsAreRefused(t *testing.T) {
	p := newPlane(t)
	p.apply(base)
	p.ready("default-identity")
	good, _ := request(t)
	forged := append([]byte{}, good...)
	forged[len(forged)-1] ^= 1
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		der  []byte
		want string
	}{
		"empty":       {nil, "PKCS #10"},
		"garbage":     {[]byte("hello"), "PKCS #10"},
		"not the key": {forged, "does not prove"},
		"RSA":         {requestFor(t, weak), "must be ECDSA"},
		"Ed25519":     {requestFor(t, ed), "must be ECDSA"},
		"other curve": {requestFor(t, p521), "must be ECDSA"},
		"too large":   {make([]byte, pki.MaxRequest+1), "at most"},
		"trailing":    {append(append([]byte{}, good...), 0), "PKCS #10"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := p.Sign(t.Context(), web, c.der)
			var bad *pki.RequestError
			if !errors.As(err, &bad) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want a RequestError with %q", err, c.want)
			}
		})
	}
}

func TestWhoGetsNoIdentity(t *testing.T) {
	p := newPlane(t)
	p.apply(base)
	p.ready("default-identity")
	der, _ := request(t)
	if _, err := p.Sign(t.Context(), resource.Key{Type: mesh.TypeDataplane, Mesh: "default", Name: "none"}, der); !errors.Is(err, ErrUnknownDataplane) {
		t.Errorf("unknown Dataplane: %v", err)
	}
	p.apply(strings.Replace(strings.Split(base, "---")[2], "dataplane: {}", "dataplane: {matchLabels: {team: other}}", 1))
	if _, err := p.Sign(t.Context(), web, der); !errors.Is(err, ErrNoIdentity) {
		t.Errorf("not selected: %v", err)
	}
}

// Without a label that its identity is made of, a proxy that takes part gets none and has to wait; one that only passes on connections of
// other zones needs none.
func TestIdentityOfZoneProxiesWithoutLabels(t *testing.T) {
	p := newPlane(t)
	p.apply(base)
	p.ready("default-identity")
	offer := func(name, listeners string) error {
		p.apply("type: Dataplane\nmesh: default\nname: " + name + "\nnetworking: {address: 192.0.2.9, " + listeners + "}\n")
		_, err := p.Offer(resource.Key{Type: mesh.TypeDataplane, Mesh: "default", Name: name})
		return err
	}
	const in, out = "{type: ZoneIngress, name: in, address: 192.0.2.9, port: 10001}", "{type: ZoneEgress, name: out, address: 192.0.2.9, port: 10002}"
	if err := offer("ingress", "listeners: ["+in+"]"); !errors.Is(err, ErrNoIdentity) {
		t.Errorf("an ingress: %v, want %v", err, ErrNoIdentity)
	}
	for name, listeners := range map[string]string{
		"egress":   "listeners: [" + out + "]",
		"both":     "listeners: [" + in + ", " + out + "]",
		"workload": "inbound: [{port: 80, servicePort: 8080}], listeners: [" + in + "]",
	} {
		if err := offer(name, listeners); err == nil || errors.Is(err, ErrNoIdentity) || !strings.Contains(err.Error(), "lacks label "+resource.LabelWorkload) {
			t.Errorf("%s: %v, want the label that it lacks", name, err)
		}
	}
}

// corporate makes a root and an intermediate below it, in PEM.
func corporate(t *testing.T) (root, intermediate, rootKey, intermediateKey string) {
	t.Helper()
	rc, rk, err := pki.NewRoot("corporate", "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r, err := pki.ParseIssuer(rc, rk, true, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := pki.NewSerial()
	der, err := r.Create(&x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "mesh"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}, k.Public())
	if err != nil {
		t.Fatal(err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(rc), string(pki.EncodePEM("CERTIFICATE", der)), string(rk), string(pki.EncodePEM("PRIVATE KEY", pk))
}

func supplied(cert, key string, more string) string {
	indent := func(s string) string {
		return "|\n                " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n                ")
	}
	parts := strings.Split(base, "---")
	return parts[0] + "---" + parts[1] + fmt.Sprintf(`---
type: MeshIdentity
mesh: default
name: default-identity
spec:
  selector: {dataplane: {}}
  provider:
    type: Bundled
    bundled:
      %s
      ca:
        certificate:
          type: InsecureInline
          insecureInline:
            value: %s
        privateKey:
          type: InsecureInline
          insecureInline:
            value: %s
`, more, indent(cert), indent(key))
}

func TestSuppliedAuthority(t *testing.T) {
	root, inter, rootKey, interKey := corporate(t)
	other, _, _, _ := corporate(t)
	for name, c := range map[string]struct {
		yaml      string
		provider  string
		trust     string
		signs     bool
		chainSize int
	}{
		"intermediate below its root": {supplied(inter+root, interKey, ""), "True", "True Created", true, 2},
		"root first":                  {supplied(root+inter, interKey, ""), "True", "True Created", true, 2},
		"intermediate alone":          {supplied(inter, interKey, ""), "True", "False NoRoot", true, 2},
		"intermediate, trust by hand": {supplied(inter, interKey, "meshTrustCreation: Disabled"), "True", "Unknown Disabled", true, 2},
		"self-signed":                 {supplied(root, rootKey, ""), "self-signed", "", false, 0},
		"self-signed and allowed":     {supplied(root, rootKey, "insecureAllowSelfSigned: true"), "True", "True Created", true, 1},
		"key of another":              {supplied(other, rootKey, "insecureAllowSelfSigned: true"), "belongs to none", "", false, 0},
		"no PEM":                      {supplied("hello", rootKey, ""), "not PEM", "", false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlane(t)
			p.apply(c.yaml)
			p.until("conditions are reported", func(*catalog.Snapshot) bool { return len(p.conditions("default-identity")) > 0 })
			got := p.conditions("default-identity")
			if !strings.Contains(got["Provider"], c.provider) || !strings.HasPrefix(got["MeshTrustCreated"], c.trust) {
				t.Errorf("conditions %v", got)
			}
			der, _ := request(t)
			issued, err := p.Sign(t.Context(), web, der)
			if (err == nil) != c.signs {
				t.Fatalf("signs: %v", err)
			}
			if err != nil {
				if !errors.Is(err, ErrNotReady) || strings.Contains(err.Error(), "PRIVATE") {
					t.Errorf("error %v", err)
				}
				return
			}
			if len(issued.Chain) != c.chainSize {
				t.Errorf("chain of %d, want %d", len(issued.Chain), c.chainSize)
			}
			if strings.HasPrefix(c.trust, "True") {
				if err := verify(t, issued, p.Trust("default"), "default.east.mesh.local"); err != nil {
					t.Errorf("not trusted: %v", err)
				}
			}
			if issued.Lifetime > 48*time.Hour && c.chainSize > 1 {
				t.Errorf("the certificate outlives its authority: %s", issued.Lifetime)
			}
		})
	}
}

func TestSourcesOfAnAuthority(t *testing.T) {
	_, inter, _, interKey := corporate(t)
	p := newPlane(t, func(c *Config) {
		c.LookupEnv = func(k string) (string, bool) { return interKey, k == "CA_KEY" }
	})
	p.apply(strings.Join(strings.Split(base, "---")[:2], "---") + `---
type: Secret
mesh: default
name: ca
data: ` + toBase64(inter) + `
---
type: MeshIdentity
mesh: default
name: default-identity
spec:
  selector: {dataplane: {}}
  provider:
    type: Bundled
    bundled:
      meshTrustCreation: Disabled
      ca:
        certificate: {type: Secret, secretRef: {kind: Secret, name: ca}}
        privateKey: {type: EnvVar, envVar: {name: CA_KEY}}
`)
	p.until("the provider is available", func(*catalog.Snapshot) bool {
		return strings.HasPrefix(p.conditions("default-identity")["Provider"], "True")
	})
	for _, c := range []struct {
		src  mesh.SecureDataSource
		want string
	}{
		{mesh.SecureDataSource{Type: mesh.SourceSecret, SecretRef: &mesh.SecretRef{Name: "none"}}, `no Secret "none" in mesh default`},
		{mesh.SecureDataSource{Type: mesh.SourceEnvVar, EnvVar: &mesh.EnvVarSource{Name: "NONE"}}, `no environment variable "NONE"`},
		{mesh.SecureDataSource{Type: mesh.SourceFile, File: &mesh.FileSource{Path: "/nowhere/ca.pem"}}, "/nowhere/ca.pem"},
		{mesh.SecureDataSource{Type: mesh.SourceFile, File: &mesh.FileSource{Path: "/dev/zero"}}, "is not a file"},
		{mesh.SecureDataSource{Type: "Magic"}, `"Magic" cannot be used`},
	} {
		_, err := p.read(p.catalog.Snapshot(), "default", &c.src)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.src.Type, err, c.want)
		}
	}
}

func TestAnAuthorityIsNeverReplaced(t *testing.T) {
	p := newPlane(t)
	p.apply(base)
	p.ready("default-identity")
	id, _ := p.catalog.Snapshot().Get(resource.Key{Type: mesh.TypeMeshIdentity, Mesh: "default", Name: "default-identity"})
	before, _ := secretData(p.catalog.Snapshot(), rootSecret(id))
	if _, err := p.catalog.Commit(t.Context(), catalog.Batch{Deletes: []catalog.Delete{{Key: keySecret(id), Expect: store.ExpectAny}}}); err != nil {
		t.Fatal(err)
	}
	p.until("the loss is reported", func(*catalog.Snapshot) bool {
		return strings.HasPrefix(p.conditions("default-identity")["Provider"], "False")
	})
	after, _ := secretData(p.catalog.Snapshot(), rootSecret(id))
	if diff := cmp.Diff(string(before), string(after)); diff != "" {
		t.Errorf("the root was replaced:\n%s", diff)
	}
}

func TestTrustOfAnotherOwnerIsLeftAlone(t *testing.T) {
	p := newPlane(t)
	root, _, _, _ := corporate(t)
	trust := func(domain string) string {
		return fmt.Sprintf("---\ntype: MeshTrust\nmesh: default\nname: default-identity\nspec: {trustDomain: %s, caBundles: [{type: Pem, pem: {value: %q}}]}\n", domain, root)
	}
	p.apply(base + trust("other.example"))
	p.until("the clash is reported", func(*catalog.Snapshot) bool {
		return strings.Contains(p.conditions("default-identity")["MeshTrustCreated"], `"other.example"`)
	})
	p.apply(trust("default.east.mesh.local"))
	p.ready("default-identity")
	got := p.Trust("default")
	if len(got.Bundles) != 1 || len(got.Bundles[0].Authorities) != 2 {
		t.Errorf("the bundle must hold both authorities: %+v", got.Bundles)
	}
	if again := p.Trust("default"); again != got {
		t.Error("unchanged trust was computed again")
	}
}

func TestTrustKeepsDomainsApart(t *testing.T) {
	p := newPlane(t)
	east, _, _, _ := corporate(t)
	west, _, _, _ := corporate(t)
	doc := func(name, domain, pem string) string {
		return fmt.Sprintf("---\ntype: MeshTrust\nmesh: default\nname: %s\nspec: {trustDomain: %s, caBundles: [{type: Pem, pem: {value: %q}}]}\n", name, domain, pem)
	}
	p.apply(base + doc("a", "east.example", east) + doc("b", "west.example", west) + doc("c", "west.example", west))
	got := p.Trust("default")
	domains := map[string]int{}
	for _, b := range got.Bundles {
		domains[b.Domain] = len(b.Authorities)
	}
	delete(domains, "default.east.mesh.local") // the identity's own, which may or may not be there yet
	if diff := cmp.Diff(map[string]int{"east.example": 1, "west.example": 1}, domains); diff != "" {
		t.Error(diff)
	}
}

func TestControlCertificates(t *testing.T) {
	c := openCatalog(t)
	now := time.Now()
	control, err := OpenControl(t.Context(), c, "east", 0, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	grant := Grant{Mesh: "default", Name: "web-1", Instance: "4f", Token: "ab", Workload: "web", Tags: map[string][]string{"team": {"a", "b"}, "x/y": {"1"}}}
	der, _ := request(t, func(r *x509.CertificateRequest) {
		r.URIs = []*url.URL{{Scheme: grantScheme, Host: "other", Path: "/other"}}
	})
	chain, lifetime, err := control.Issue(der, grant)
	if err != nil || lifetime.Round(time.Minute) != time.Hour {
		t.Fatal(lifetime, err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	got, err := GrantOf(leaf)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(grant, got); diff != "" {
		t.Errorf("grant:\n%s", diff)
	}
	again, err := OpenControl(t.Context(), c, "east", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	opts := x509.VerifyOptions{Roots: again.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if _, err := leaf.Verify(opts); err != nil {
		t.Errorf("after a restart the certificate is refused: %v", err)
	}
	opts.CurrentTime = now.Add(2 * time.Hour)
	if _, err := leaf.Verify(opts); err == nil {
		t.Error("an expired certificate is accepted")
	}
	foreign, err := OpenControl(t.Context(), openCatalog(t), "west", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: foreign.Pool(), KeyUsages: opts.KeyUsages}); err == nil {
		t.Error("another zone accepts the certificate")
	}
}

func toBase64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
