package globalcp_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/serving"
	"github.com/causeway-mesh/causeway/api/token"
	"github.com/causeway-mesh/causeway/global-cp/access"
	"github.com/causeway-mesh/causeway/global-cp/globalcp"
	"github.com/causeway-mesh/causeway/store/backend"
	"github.com/causeway-mesh/causeway/store/seal"
	"github.com/causeway-mesh/causeway/test/pg"
)

func config(dir, storeType string) globalcp.Config {
	cfg := globalcp.Default()
	cfg.WorkDir, cfg.Store.Type = dir, storeType
	cfg.API.Address, cfg.Zones.Address, cfg.Diagnostics.Address = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	return cfg
}

// start runs an instance until the test ends or stop is called.
func start(t *testing.T, cfg globalcp.Config) (g *globalcp.Global, stop func()) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	g, err := globalcp.New(t.Context(), cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		done <- nil
	}
	t.Cleanup(stop)
	select {
	case <-g.Ready():
	case err := <-done:
		done <- nil
		t.Fatal(err)
	case <-time.After(30 * time.Second):
		t.Fatal("global is not ready after 30s")
	}
	return g, stop
}

// caller asks an instance as an administrator.
type caller struct {
	t     *testing.T
	base  string
	token string
	http  *http.Client
}

func client(t *testing.T, g *globalcp.Global, tokenFile string) *caller {
	t.Helper()
	tok, err := os.ReadFile(tokenFile)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool(t, g.CAFile())}}
	t.Cleanup(transport.CloseIdleConnections)
	return &caller{t, "https://" + g.APIAddress(), strings.TrimSpace(string(tok)), &http.Client{Transport: transport}}
}

func pool(t *testing.T, caFile string) *x509.CertPool {
	t.Helper()
	ca, err := os.ReadFile(caFile)
	if err != nil {
		t.Fatal(err)
	}
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(ca) {
		t.Fatalf("%s holds no certificate", caFile)
	}
	return p
}

func (c *caller) do(method, path, body string) (int, string, http.Header) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.base+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", "application/json")
	res, err := c.http.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Header
}

// Acceptance: M/K defaults: global
func TestEmptyGlobalStartsWithWhatZonesNeed(t *testing.T) {
	g, _ := start(t, config(t.TempDir(), backend.Memory))
	c := client(t, g, g.AdminTokenFile())
	for path, want := range map[string]string{
		"/meshes/default":                         `"type":"Mesh"`,
		"/meshes/default/meshtimeouts":            `"mesh-timeout-to-all-default"`,
		"/hostnamegenerators":                     `"synced-universal-mesh-service"`,
		"/zones":                                  `"total":0`,
		"/who-am-i":                               `mesh-system:admin`,
		"/config":                                 `"zones":{"address"`,
		"/globalsecrets/zone-control-ca":          `"kuma.io/kds-sync":"disabled"`,
		"/globalsecrets/control-plane-ca":         `"kuma.io/kds-sync":"disabled"`,
		"/globalsecrets/zone-token-signing-key-1": `"type":"GlobalSecret"`,
		"/meshes/default/secrets/dataplane-token-signing-key-default-1": `"type":"Secret"`,
	} {
		if code, body, _ := c.do("GET", path, ""); code != 200 || !strings.Contains(body, want) {
			t.Errorf("GET %s: %d %s, want %s", path, code, body, want)
		}
	}
	if _, body, _ := c.do("GET", "/hostnamegenerators", ""); strings.Contains(body, "kuma.io/zone") || strings.Contains(body, `"local-`) {
		t.Errorf("global has what belongs to a zone: %s", body)
	}
	if code, body, _ := c.do("PUT", "/meshes/default/dataplanes/web", `{"type":"Dataplane","mesh":"default","name":"web","networking":{"address":"10.0.0.1"}}`); code != 405 {
		t.Errorf("a Dataplane written at global: %d %s", code, body)
	}
	res, err := http.Get("http://" + g.DiagnosticsAddress() + "/ready")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 200 {
		t.Errorf("/ready: %s", res.Status)
	}
}

func TestWritesAndWhatWasDeletedSurviveARestart(t *testing.T) {
	cfg := config(t.TempDir(), backend.Embedded)
	g, stop := start(t, cfg)
	c := client(t, g, g.AdminTokenFile())
	if code, body, _ := c.do("PUT", "/meshes/pay", `{"type":"Mesh","name":"pay"}`); code != 201 {
		t.Fatalf("create: %d %s", code, body)
	}
	for _, path := range []string{"/meshes/default", "/hostnamegenerators/synced-universal-mesh-service"} {
		if code, body, _ := c.do("DELETE", path, ""); code != 200 {
			t.Fatalf("delete %s: %d %s", path, code, body)
		}
	}
	ca, err := os.ReadFile(g.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	stop()
	g, _ = start(t, cfg)
	c = client(t, g, g.AdminTokenFile())
	for path, want := range map[string]int{"/meshes/pay": 200, "/meshes/default": 404, "/hostnamegenerators/synced-universal-mesh-service": 404} {
		if code, body, _ := c.do("GET", path, ""); code != want {
			t.Errorf("after the restart GET %s: %d %s, want %d", path, code, body, want)
		}
	}
	if again, err := os.ReadFile(g.CAFile()); err != nil || string(again) != string(ca) {
		t.Errorf("the authority changed with the restart (%v)", err)
	}
}

// TestInstancesOnOneDatabaseAreOne writes through one instance and reads through the other, and looks for what must be the same.
func TestInstancesOnOneDatabaseAreOne(t *testing.T) {
	dsn := pg.Database(t)
	key, err := seal.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	instance := func() globalcp.Config {
		cfg := config(t.TempDir(), backend.Postgres)
		cfg.Store.Postgres.DSN = dsn
		cfg.Store.Keys = key.ID + ":" + base64.StdEncoding.EncodeToString(key.Secret)
		return cfg
	}
	one, _ := start(t, instance())
	two, _ := start(t, instance())
	writer, reader := client(t, one, one.AdminTokenFile()), client(t, two, one.AdminTokenFile())
	if _, err := os.Stat(two.AdminTokenFile()); err == nil {
		t.Error("the second instance made an administrator of its own")
	}
	if code, body, _ := writer.do("PUT", "/meshes/pay", `{"type":"Mesh","name":"pay"}`); code != 201 {
		t.Fatalf("create: %d %s", code, body)
	}
	k := resource.Key{Type: mesh.TypeMesh, Name: "pay"}
	feed := two.Catalog().Subscribe()
	defer feed.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // the guard query runs every 5 s: this is the event
	defer cancel()
	for begin := time.Now(); ; {
		u, err := feed.Next(ctx)
		if err != nil {
			t.Fatalf("the other instance does not see the mesh: %v", err)
		}
		if _, ok := u.Snapshot.Get(k); ok {
			t.Logf("visible at the other instance %s after the answer", time.Since(begin))
			break
		}
	}
	if code, body, _ := reader.do("GET", "/meshes/pay", ""); code != 200 {
		t.Errorf("read through the other instance: %d %s", code, body)
	}
	for _, g := range []*globalcp.Global{one, two} {
		conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: pool(t, one.CAFile()), NextProtos: []string{"h2"}}}).DialContext(t.Context(), "tcp", g.ZonesAddress())
		if err != nil {
			t.Errorf("who trusts the first instance refuses %s: %v", g.ZonesAddress(), err)
			continue
		}
		_ = conn.Close()
	}
	other := instance()
	other.Store.Keys = ""
	stranger, err := globalcp.New(t.Context(), other, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := stranger.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "same sealing keys") {
		t.Errorf("an instance with other sealing keys: %v", err)
	}
}

func TestStartSaysWhatIsWrongAndWhatToDo(t *testing.T) {
	g, _ := start(t, config(t.TempDir(), backend.Memory))
	for name, c := range map[string]struct {
		edit func(*globalcp.Config)
		want []string
	}{
		"a port in use":      {func(c *globalcp.Config) { c.Zones.Address = g.ZonesAddress() }, []string{"zones.address", "choose another"}},
		"an unknown store":   {func(c *globalcp.Config) { c.Store.Type = "postgress" }, []string{"store.type", "did you mean postgres?"}},
		"half a certificate": {func(c *globalcp.Config) { c.TLS.CertFile = "x.pem" }, []string{"certFile and keyFile"}},
		"a bad address":      {func(c *globalcp.Config) { c.Zones.Advertised = []string{"a:1", "b"} }, []string{"zones.advertised[1]", "host:port"}},
		"no time to renew":   {func(c *globalcp.Config) { c.Zones.CredentialLifetime = time.Second }, []string{"zones.credentialLifetime", "at least"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t.TempDir(), backend.Memory)
			c.edit(&cfg)
			g, err := globalcp.New(t.Context(), cfg, slog.New(slog.DiscardHandler))
			if err == nil {
				g.Close()
				t.Fatal("started")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not say %q", err, w)
				}
			}
		})
	}
}

func TestCertificatesOfTheOperatorAreServed(t *testing.T) {
	dir := t.TempDir()
	made, err := serving.Open(serving.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	cfg := config(t.TempDir(), backend.Memory)
	cfg.TLS.CertFile, cfg.TLS.KeyFile = made.CAFile(), filepath.Join(dir, "ca-key.pem")
	g, _ := start(t, cfg)
	if g.CAFile() != "" {
		t.Errorf("an authority %s was generated beside the operator's files", g.CAFile())
	}
	conn, err := tls.Dial("tcp", g.APIAddress(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if name := conn.ConnectionState().PeerCertificates[0].Subject.CommonName; name != "causeway generated authority" {
		t.Errorf("served the certificate of %q, not the file", name)
	}
}

func TestAZoneIsAdmittedAndShutOut(t *testing.T) {
	cfg := config(t.TempDir(), backend.Memory)
	cfg.Zones.Advertised = []string{"global.example.com:5685"}
	g, _ := start(t, cfg)
	c := client(t, g, g.AdminTokenFile())
	code, text, _ := c.do("POST", "/zones/east/join-token", `{"validFor":"10m"}`)
	if code != 200 {
		t.Fatalf("join token: %d %s", code, text)
	}
	j, err := token.ParseJoinToken(text)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", g.ZonesAddress(), &tls.Config{RootCAs: pool(t, g.CAFile()), NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	chain := conn.ConnectionState().PeerCertificates
	if token.PinOf(chain[len(chain)-1]) != j.Pin || j.Addresses[0] != "global.example.com:5685" {
		t.Errorf("a zone with this token would not recognise the server: %v", j)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	joined, err := g.Access().Join(t.Context(), text, "lineage", csr)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(joined.Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	cred, err := access.CredentialOf(leaf)
	if err != nil {
		t.Fatal(err)
	}
	if code, body, _ := c.do("GET", "/zones/east", ""); code != 200 {
		t.Errorf("the zone that joined: %d %s", code, body)
	}
	if code, body, _ := c.do("POST", "/zones/east/_revoke", ""); code != 200 {
		t.Errorf("revoke: %d %s", code, body)
	}
	if err := g.Access().Check(cred); !errors.Is(err, access.ErrVoid) {
		t.Errorf("after the revocation: %v", err)
	}
	for path, want := range map[string]int{"/zones/West_1/join-token": 400, "/zones/west/_revoke": 404} {
		if code, body, _ := c.do("POST", path, "{}"); code != want {
			t.Errorf("POST %s: %d %s, want %d", path, code, body, want)
		}
	}
}
