package zonecp_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/store/backend"
	"github.com/causeway-mesh/causeway/zone-cp/zonecp"
)

func config(dir, storeType string) zonecp.Config {
	cfg := zonecp.Default()
	cfg.Zone, cfg.WorkDir, cfg.Store.Type = "east", dir, storeType
	cfg.API.Address, cfg.Agents.Address, cfg.Diagnostics.Address = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	return cfg
}

// start runs a zone until the test ends or stop is called.
func start(t *testing.T, cfg zonecp.Config) (z *zonecp.Zone, stop func()) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	z, err := zonecp.New(t.Context(), cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- z.Run(ctx) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		done <- nil
	}
	t.Cleanup(stop)
	select {
	case <-z.Ready():
	case err := <-done:
		done <- nil
		t.Fatal(err)
	case <-time.After(30 * time.Second):
		t.Fatal("the zone is not ready after 30s")
	}
	return z, stop
}

// client asks the API as the first administrator.
func client(t *testing.T, z *zonecp.Zone) func(method, path, body string) (int, string) {
	t.Helper()
	ca, err := os.ReadFile(z.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	token, err := os.ReadFile(z.AdminTokenFile())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(transport.CloseIdleConnections)
	c := &http.Client{Transport: transport}
	return func(method, path, body string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "https://"+z.APIAddress()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		req.Header.Set("Content-Type", "application/json")
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(b)
	}
}

// Acceptance: M/K defaults: a zone
func TestEmptyZoneStartsWithWhatAMeshNeeds(t *testing.T) {
	z, _ := start(t, config(t.TempDir(), backend.Memory))
	call := client(t, z)
	for path, want := range map[string]string{
		"/meshes/default":                     `"type":"Mesh"`,
		"/meshes/default/meshtimeouts":        `"mesh-timeout-to-all-default"`,
		"/meshes/default/meshretries":         `"mesh-retry-all-default"`,
		"/meshes/default/meshcircuitbreakers": `"mesh-circuit-breaker-all-default"`,
		"/hostnamegenerators":                 `"local-universal-mesh-service"`,
		"/zones/east":                         `"type":"Zone"`,
		"/who-am-i":                           `mesh-system:admin`,
		"/config":                             `"zone":"east"`,
		"/meshes/default/secrets/dataplane-token-signing-key-default-1": `"type":"Secret"`,
	} {
		if code, body := call("GET", path, ""); code != 200 || !strings.Contains(body, want) {
			t.Errorf("GET %s: %d %s, want %s", path, code, body, want)
		}
	}
	if st, err := os.Stat(z.AdminTokenFile()); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("admin token: %v %v, want mode 0600", st.Mode(), err)
	}
}

func TestWritesSurviveARestart(t *testing.T) {
	cfg := config(t.TempDir(), backend.Embedded)
	z, stop := start(t, cfg)
	code, body := client(t, z)("PUT", "/meshes/default/meshtimeouts/slow",
		`{"type":"MeshTimeout","mesh":"default","name":"slow","spec":{"to":[{"targetRef":{"kind":"Mesh"},"default":{"connectionTimeout":"7s"}}]}}`)
	if code != 201 {
		t.Fatalf("create: %d %s", code, body)
	}
	stop()
	z, _ = start(t, cfg)
	if code, body := client(t, z)("GET", "/meshes/default/meshtimeouts/slow", ""); code != 200 || !strings.Contains(body, "7s") {
		t.Fatalf("after the restart: %d %s", code, body)
	}
}

func TestStartSaysWhatIsWrongAndWhatToDo(t *testing.T) {
	z, _ := start(t, config(t.TempDir(), backend.Memory))
	for name, c := range map[string]struct {
		edit func(*zonecp.Config)
		want []string
	}{
		"a port in use":    {func(c *zonecp.Config) { c.API.Address = z.APIAddress() }, []string{"api.address", "address already in use", "choose another"}},
		"an unknown store": {func(c *zonecp.Config) { c.Store.Type = "postgress" }, []string{"store.type", "did you mean postgres?"}},
		"an unreachable database": {func(c *zonecp.Config) {
			c.Store.Type, c.Store.Postgres.DSN = backend.Postgres, "postgres://u:hunter2@127.0.0.1:1/none?connect_timeout=1"
		}, []string{"store.postgres.dsn", "check that the database runs", "127.0.0.1"}},
		"a bad zone name":    {func(c *zonecp.Config) { c.Zone = "East_1" }, []string{"zone", "East_1"}},
		"half a certificate": {func(c *zonecp.Config) { c.TLS.CertFile = "x.pem" }, []string{"certFile and keyFile"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t.TempDir(), backend.Memory)
			c.edit(&cfg)
			z, err := zonecp.New(t.Context(), cfg, slog.New(slog.DiscardHandler))
			if err == nil {
				z.Close()
				t.Fatal("started")
			}
			for _, w := range append(c.want, "") {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not say %q", err, w)
				}
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %q shows the password", err)
			}
			if errors.Is(err, context.Canceled) {
				t.Errorf("error %q hides the cause", err)
			}
		})
	}
}
