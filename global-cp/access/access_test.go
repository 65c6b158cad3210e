package access_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/pki"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/serving"
	"github.com/causeway-mesh/causeway/api/token"
	"github.com/causeway-mesh/causeway/global-cp/access"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/memory"
	"github.com/causeway-mesh/causeway/store/seal"
)

// global is one instance of a global control plane, as far as access is concerned.
type global struct {
	t       *testing.T
	catalog *catalog.Catalog
	access  *access.Authority
	ca      []byte
	clock   *atomic.Int64 // what the clock shows more than the real one, in nanoseconds
}

func newGlobal(t *testing.T, st store.Store) *global {
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
	g := &global{t: t, catalog: c, clock: &atomic.Int64{}}
	g.access, err = access.Open(t.Context(), access.Config{
		Catalog: c, MaxOutstanding: 3, Now: func() time.Time { return time.Now().Add(time.Duration(g.clock.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if g.ca, _, err = pki.NewRoot("server", "", time.Now()); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *global) token(zone string) string {
	g.t.Helper()
	text, err := g.access.NewJoinToken(g.t.Context(), zone, time.Hour, []string{"127.0.0.1:5685"}, g.ca)
	if err != nil {
		g.t.Fatal(err)
	}
	return text
}

// A zone is one installation of a zone control plane.
type zone struct {
	lineage string
	key     *ecdsa.PrivateKey
	csr     []byte
}

func newZone(t *testing.T, lineage string) zone {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"admin"}}, k)
	if err != nil {
		t.Fatal(err)
	}
	return zone{lineage, k, der}
}

func (g *global) join(text string, z zone) access.Credential {
	g.t.Helper()
	j, err := g.access.Join(g.t.Context(), text, z.lineage, z.csr)
	if err != nil {
		g.t.Fatal(err)
	}
	return g.credential(j.Signed)
}

func (g *global) credential(s access.Signed) access.Credential {
	g.t.Helper()
	leaf, err := x509.ParseCertificate(s.Chain[0])
	if err != nil {
		g.t.Fatal(err)
	}
	c, err := access.CredentialOf(leaf)
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

func (g *global) wantRefused(text string, z zone, why string) {
	g.t.Helper()
	if _, err := g.access.Join(g.t.Context(), text, z.lineage, z.csr); !errors.Is(err, access.ErrRefused) || !strings.Contains(err.Error(), why) {
		g.t.Errorf("got %v, want a refusal with %q", err, why)
	}
}

func (g *global) wantVoid(c access.Credential, why string) {
	g.t.Helper()
	if err := g.access.Check(c); !errors.Is(err, access.ErrVoid) || !strings.Contains(err.Error(), why) {
		g.t.Errorf("got %v, want a void credential with %q", err, why)
	}
}

func (g *global) delete(name string) {
	g.t.Helper()
	_, err := g.catalog.Commit(g.t.Context(), catalog.Batch{Deletes: []catalog.Delete{{Key: resource.Key{Type: mesh.TypeZone, Name: name}, Expect: store.ExpectAny}}})
	if err != nil {
		g.t.Fatal(err)
	}
}

func TestAZoneJoinsOnceAndKeepsItsId(t *testing.T) {
	g := newGlobal(t, memory.New())
	east, thief := newZone(t, "east-store"), newZone(t, "thief-store")
	text := g.token("east")
	parsed, err := token.ParseJoinToken(text)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := pki.ParseCertificates(g.ca)
	if err != nil {
		t.Fatal(err)
	}
	if parsed.Zone != "east" || parsed.Pin != token.PinOf(ca[0]) || parsed.Addresses[0] != "127.0.0.1:5685" {
		t.Errorf("the token says %+v", parsed)
	}
	c := g.join(text, east)
	z, ok := g.catalog.Snapshot().Get(resource.Key{Type: mesh.TypeZone, Name: "east"})
	if !ok || z.UID != c.ZoneID || z.Label(resource.LabelOrigin) != resource.OriginGlobal {
		t.Errorf("Zone %+v, want one of global with id %s", z.Meta, c.ZoneID)
	}
	if again := g.join(text, east); again.ZoneID != c.ZoneID || again.Generation != c.Generation {
		t.Errorf("repeating the request gave %+v, want what was given before: %+v", again, c)
	}
	g.wantRefused(text, thief, "used before")
	g.wantRefused(text, newZone(t, "east-store"), "used before")
	if err := g.access.Check(c); err != nil {
		t.Error(err)
	}
	renewed, err := g.access.Renew(c, newZone(t, "").csr)
	if err != nil {
		t.Fatal(err)
	}
	if next := g.credential(renewed); next.ZoneID != c.ZoneID || next.Serial == c.Serial || g.access.Check(next) != nil {
		t.Errorf("renewed to %+v from %+v", next, c)
	}
	g.catalog.Snapshot().EachSecret("", "zone-", func(r resource.Resource) bool {
		if bytes.Contains(r.Spec.(*mesh.GlobalSecret).Data, []byte(parsed.Secret)) {
			t.Errorf("%s holds the secret of the token", r.Name)
		}
		if !access.Internal(r.Name) || r.Label(resource.LabelKDSSync) != "disabled" {
			t.Errorf("%s is not marked as staying at global", r.Name)
		}
		return true
	})
}

func TestRefusedTokens(t *testing.T) {
	g := newGlobal(t, memory.New())
	z := newZone(t, "l")
	text := g.token("east")
	parsed, err := token.ParseJoinToken(text)
	if err != nil {
		t.Fatal(err)
	}
	forged := func(change func(*token.JoinToken)) string {
		j := parsed
		change(&j)
		s, err := j.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	g.wantRefused("nonsense", z, "does not begin")
	g.wantRefused(forged(func(j *token.JoinToken) { j.Secret = "guess" }), z, "not known")
	g.wantRefused(forged(func(j *token.JoinToken) { j.Zone = "west" }), z, "not known")
	g.wantRefused(forged(func(j *token.JoinToken) { j.ID = "00" }), z, "not known")
	g.wantRefused(text, zone{csr: z.csr}, "lineage")
	var bad *pki.RequestError
	if _, err := g.access.Join(t.Context(), text, "l", []byte("not a request")); !errors.As(err, &bad) {
		t.Errorf("got %v, want a RequestError", err)
	}
	g.clock.Store(int64(2 * time.Hour))
	g.wantRefused(text, z, "expired")
	if g.catalog.Snapshot().Count(mesh.TypeZone, "") != 0 {
		t.Error("a refused zone was created")
	}
	g.token("east") // tidies up
	if _, ok := g.catalog.Snapshot().Get(resource.Key{Type: mesh.TypeGlobalSecret, Name: "zone-join-" + parsed.ID}); ok {
		t.Error("an expired token is kept")
	}
}

func TestTokensThatCannotBeMade(t *testing.T) {
	g := newGlobal(t, memory.New())
	good := []string{"a:1"}
	for name, c := range map[string]struct {
		zone      string
		validFor  time.Duration
		addresses []string
		ca        []byte
		want      string
	}{
		"zone":      {"East", time.Hour, good, g.ca, "zone"},
		"negative":  {"east", -1, good, g.ca, "validFor"},
		"too long":  {"east", 8 * 24 * time.Hour, good, g.ca, "validFor"},
		"addresses": {"east", time.Hour, nil, g.ca, "addresses"},
		"authority": {"east", time.Hour, good, []byte("x"), "certificate authority"},
	} {
		if _, err := g.access.NewJoinToken(t.Context(), c.zone, c.validFor, c.addresses, c.ca); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want a problem with %s", name, err, c.want)
		}
	}
	for range 3 {
		g.token("east")
	}
	var ps resource.Problems
	if _, err := g.access.NewJoinToken(t.Context(), "east", 0, good, g.ca); !errors.As(err, &ps) || !strings.Contains(err.Error(), "3 join tokens wait") {
		t.Errorf("got %v, want the bound on tokens", err)
	}
}

func TestAnotherInstallationTakesOverOnlyWithANewToken(t *testing.T) {
	g := newGlobal(t, memory.New())
	first, second := newZone(t, "first"), newZone(t, "second")
	early, spare := g.token("east"), g.token("east")
	old := g.join(early, first)
	g.wantRefused(spare, second, "joined by another installation")
	if g.access.Check(old) != nil {
		t.Error("a refused installation voided the credential of the good one")
	}
	same := g.join(spare, newZone(t, "first")) // the same installation with another key
	if same.Generation != old.Generation || g.access.Check(old) != nil {
		t.Error("an installation that joins again voided its own credential")
	}
	taken := g.join(g.token("east"), second)
	if taken.ZoneID != old.ZoneID {
		t.Errorf("zone id %s, want %s: it is the same zone", taken.ZoneID, old.ZoneID)
	}
	g.wantVoid(old, "another installation")
	if _, err := g.access.Renew(old, first.csr); !errors.Is(err, access.ErrVoid) {
		t.Errorf("a void credential is renewed (%v)", err)
	}
	g.wantRefused(early, first, "used before")
}

func TestRevokedZone(t *testing.T) {
	g := newGlobal(t, memory.New())
	east := newZone(t, "east")
	c := g.join(g.token("east"), east)
	spare := g.token("east")
	watched := make(chan error, 1)
	go func() { watched <- g.access.Watch(t.Context(), c) }()
	if err := g.access.Revoke(t.Context(), "east"); err != nil {
		t.Fatal(err)
	}
	if err := <-watched; !errors.Is(err, access.ErrVoid) || !strings.Contains(err.Error(), "was revoked") {
		t.Errorf("watching gave %v", err)
	}
	g.wantVoid(c, "was revoked")
	g.wantRefused(spare, east, "was revoked")
	back := g.join(g.token("east"), east)
	if g.access.Check(back) != nil {
		t.Error("a zone with a new token is not admitted again")
	}
	g.wantVoid(c, "was revoked")
	if err := g.access.Revoke(t.Context(), "west"); !errors.Is(err, resource.ErrNotFound) {
		t.Errorf("got %v, want no such zone", err)
	}
}

func TestDeletedZoneIsAnotherOneWhenItComesBack(t *testing.T) {
	g := newGlobal(t, memory.New())
	east := newZone(t, "east")
	c := g.join(g.token("east"), east)
	before := g.token("east")
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan error, 2)
	go func() { watched <- g.access.Watch(ctx, c) }()
	g.delete("east")
	if err := <-watched; !errors.Is(err, access.ErrVoid) {
		t.Errorf("watching gave %v", err)
	}
	g.wantVoid(c, "was deleted")
	g.wantRefused(before, east, "was deleted")
	next := g.join(g.token("east"), east)
	if next.ZoneID == c.ZoneID {
		t.Error("the zone id did not change")
	}
	g.wantVoid(c, "was deleted")
	go func() { watched <- g.access.Watch(ctx, next) }()
	cancel()
	if err := <-watched; !errors.Is(err, context.Canceled) {
		t.Errorf("watching a good credential gave %v", err)
	}
}

func TestOfManyThatUseOneTokenOneIsAdmitted(t *testing.T) {
	st := memory.New()
	instances := []*global{newGlobal(t, st), newGlobal(t, st)}
	text := instances[0].token("east")
	if _, err := instances[1].catalog.Current(t.Context(), instances[1].catalog.Snapshot()); err != nil {
		t.Fatal(err)
	}
	var admitted atomic.Int32
	var g errgroup.Group
	for i := range 8 {
		z := newZone(t, "installation "+string(rune('a'+i)))
		in := instances[i%2]
		g.Go(func() error {
			for {
				_, err := in.access.Join(t.Context(), text, z.lineage, z.csr)
				switch {
				case err == nil:
					admitted.Add(1)
					return nil
				case strings.Contains(err.Error(), "not known"): // the other instance does not see the token yet
					continue
				case errors.Is(err, access.ErrRefused):
					return nil
				default:
					return err
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := admitted.Load(); n != 1 {
		t.Errorf("%d installations were admitted, want 1", n)
	}
}

// TestTLS connects a zone as it will: first without a certificate, then with it, and a stranger with one of its own.
func TestTLS(t *testing.T) {
	g := newGlobal(t, memory.New())
	dir := t.TempDir()
	certs, err := serving.Open(serving.Config{Dir: dir, Hosts: []string{"localhost"}})
	if err != nil {
		t.Fatal(err)
	}
	if g.ca, err = os.ReadFile(filepath.Join(dir, "ca.pem")); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(g.ca)
	l, err := tls.Listen("tcp", "127.0.0.1:0", g.access.TLS(certs.Get))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// shake is what the server learns of a client.
	shake := func(own *tls.Certificate) (*x509.Certificate, error) {
		cfg := &tls.Config{RootCAs: roots, ServerName: "localhost", NextProtos: []string{"h2"}}
		if own != nil {
			cfg.Certificates = []tls.Certificate{*own}
		}
		client := make(chan error, 1)
		go func() {
			d := tls.Dialer{Config: cfg}
			conn, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
			if err == nil {
				_, err = conn.Write([]byte("x"))
				err = errors.Join(err, conn.Close())
			}
			client <- err
		}()
		conn, err := l.Accept()
		if err != nil {
			return nil, err
		}
		server := conn.(*tls.Conn)
		err = server.HandshakeContext(t.Context())
		_ = server.SetReadDeadline(time.Now().Add(time.Second))
		_, _ = server.Read(make([]byte, 1)) // let the client finish before the connection ends
		state := server.ConnectionState()
		_ = server.Close()
		if clientErr := <-client; err == nil && clientErr != nil && !errors.Is(clientErr, net.ErrClosed) {
			return nil, clientErr
		}
		if err != nil || len(state.PeerCertificates) == 0 {
			return nil, err
		}
		if _, left, err := g.access.Of(state); err != nil || left <= 0 {
			return nil, fmt.Errorf("%s left: %w", left, err)
		}
		return state.PeerCertificates[0], nil
	}
	if cert, err := shake(nil); err != nil || cert != nil {
		t.Errorf("a zone without a certificate: %v, %v", cert, err)
	}
	east := newZone(t, "east")
	j, err := g.access.Join(t.Context(), g.token("east"), east.lineage, east.csr)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := shake(&tls.Certificate{Certificate: j.Chain, PrivateKey: east.key})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := access.CredentialOf(cert); err != nil || c.ZoneID != j.ZoneID || g.access.Check(c) != nil {
		t.Errorf("the server sees %+v (%v), want zone id %s", c, err, j.ZoneID)
	}
	stranger := newGlobal(t, memory.New())
	k, err := stranger.access.Join(t.Context(), stranger.token("east"), east.lineage, east.csr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := shake(&tls.Certificate{Certificate: k.Chain, PrivateKey: east.key}); err == nil {
		t.Error("a certificate of another global is accepted")
	}
	// Global was away for weeks: the zone comes with what it has, and renews it.
	g.clock.Store(int64(access.DefaultLifetime + 29*24*time.Hour))
	if _, err := shake(&tls.Certificate{Certificate: j.Chain, PrivateKey: east.key}); err != nil {
		t.Errorf("a certificate that ended 29 days ago is refused: %v", err)
	}
	g.clock.Store(int64(access.DefaultLifetime + 31*24*time.Hour))
	if _, err := shake(&tls.Certificate{Certificate: j.Chain, PrivateKey: east.key}); err == nil {
		t.Error("a certificate that ended 31 days ago is accepted")
	}
	if _, _, err := g.access.Of(tls.ConnectionState{}); err == nil {
		t.Error("a connection without a certificate has a credential")
	}
}
