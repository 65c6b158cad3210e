package client_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

var kinds = resource.NewKinds(mesh.Kinds...)

func kind(t *testing.T, name string) resource.Kind {
	t.Helper()
	k, ok := kinds.ByName(name)
	if !ok {
		t.Fatalf("no kind %s", name)
	}
	return k
}

func file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// start serves over TLS and returns a client that trusts it and carries the token "secret".
func start(t *testing.T, h http.HandlerFunc) (*client.Client, *httptest.Server) {
	t.Helper()
	srv := httptest.NewTLSServer(h)
	t.Cleanup(srv.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	return connect(t, client.Config{Server: srv.URL, CAFile: file(t, "ca.pem", string(ca)), TokenFile: file(t, "token", "secret\n")}), srv
}

func connect(t *testing.T, cfg client.Config) *client.Client {
	t.Helper()
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestPutSendsWhatTheServerNeeds(t *testing.T) {
	var got []string
	c, _ := start(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, r.Method+" "+r.URL.String(), r.Header.Get("Authorization"), r.Header.Get("If-Match"), string(body))
		if r.Header.Get("Idempotency-Key") == "" {
			t.Error("a write without Idempotency-Key cannot be repeated safely")
		}
		w.Header().Set("ETag", `"a.2"`)
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, `{"warnings":["weak"]}`)
	})
	w, err := c.Put(t.Context(), kind(t, "MeshService"), "default", "back end", []byte(`{}`), client.Precondition{IfMatch: `"a.1"`, Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(client.Written{Created: true, Warnings: []string{"weak"}, ETag: `"a.2"`}, w); d != "" {
		t.Error(d)
	}
	want := []string{"PUT /meshes/default/meshservices/back%20end?strict=true", "Bearer secret", `"a.1"`, "{}"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestRefusalsAreErrorsOfTheDomain(t *testing.T) {
	c, _ := start(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodGet:
			w.WriteHeader(http.StatusNotFound)
			io.WriteString(w, `{"status":200,"title":"Could not retrieve a resource","detail":"Not found"}`)
		case http.MethodDelete:
			w.WriteHeader(http.StatusConflict)
			io.WriteString(w, `<html>conflict</html>`)
		default:
			w.WriteHeader(http.StatusBadRequest)
			io.WriteString(w, `{"title":"Could not process","detail":"Resource is not valid","invalid_parameters":[{"field":"spec.to[0]","reason":"must be set","choices":["a","b"]}]}`)
		}
	})
	k := kind(t, "MeshService")
	_, err := c.Get(t.Context(), k, "default", "x")
	if !errors.Is(err, resource.ErrNotFound) || errors.Is(err, resource.ErrConflict) {
		t.Errorf("404 gives %v", err)
	}
	if err := c.Delete(t.Context(), k, "default", "x", client.Precondition{}); !errors.Is(err, resource.ErrConflict) {
		t.Errorf("409 gives %v", err)
	}
	_, err = c.Put(t.Context(), k, "default", "x", []byte("{}"), client.Precondition{})
	var e *client.Error
	if !errors.As(err, &e) {
		t.Fatalf("400 gives %v", err)
	}
	want := "PUT /meshes/default/meshservices/x: 400: Could not process: Resource is not valid; spec.to[0]: must be set (one of a, b)"
	if err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
	if _, err := c.Get(t.Context(), k, "", "x"); err == nil || !strings.Contains(err.Error(), "a mesh is needed") {
		t.Errorf("a missing mesh gives %v", err)
	}
}

func TestListFollowsPagesOnTheSameServer(t *testing.T) {
	var queries []string
	c, _ := start(t, func(w http.ResponseWriter, r *http.Request) {
		queries = append(queries, r.URL.RawQuery)
		if r.URL.Query().Get("offset") == "" {
			io.WriteString(w, `{"total":3,"items":[{"type":"Mesh","name":"a"},{"type":"Mesh","name":"b"}],"next":"https://elsewhere.example/meshes?offset=2&size=2"}`)
			return
		}
		io.WriteString(w, `{"total":3,"items":[{"type":"Mesh","name":"c"}],"next":null}`)
	})
	var names []string
	for o, err := range c.List(t.Context(), kind(t, "Mesh"), "", client.Query{Size: 2, Labels: map[string]string{"team": "pay"}}) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, o.Name)
	}
	if d := cmp.Diff([]string{"a", "b", "c"}, names); d != "" {
		t.Error(d)
	}
	first := url.Values{"size": {"2"}, "filter[labels.team]": {"pay"}}.Encode()
	if d := cmp.Diff([]string{first, "offset=2&size=2"}, queries); d != "" {
		t.Error(d)
	}
}

func TestListEndsWhenTheNextPageIsTheSame(t *testing.T) {
	c, _ := start(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"items":[{"type":"Mesh","name":"a"}],"next":"https://%s/meshes?%s"}`, r.Host, r.URL.RawQuery)
	})
	var last error
	for _, err := range c.List(t.Context(), kind(t, "Mesh"), "", client.Query{}) {
		last = err
	}
	if last == nil || !strings.Contains(last.Error(), "same page") {
		t.Errorf("a page that leads to itself gives %v", last)
	}
}

func TestBrokenConnectionIsTriedOnceMore(t *testing.T) {
	var keys []string
	c, _ := start(t, func(w http.ResponseWriter, r *http.Request) {
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		if len(keys) == 1 {
			panic(http.ErrAbortHandler)
		}
		io.WriteString(w, `{}`)
	})
	if _, err := c.Put(t.Context(), kind(t, "Mesh"), "", "a", []byte("{}"), client.Precondition{}); err != nil {
		t.Fatal(err)
	}
	if len(keys) != 2 || keys[0] != keys[1] {
		t.Errorf("idempotency keys are %q, want the same twice", keys)
	}
}

func TestTrust(t *testing.T) {
	_, srv := start(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"product":"Kuma"}`) })
	pin := client.PinOf(srv.Certificate())
	for _, tc := range []struct {
		name string
		cfg  client.Config
		want string // part of the error, empty for success
	}{
		{"pinned", client.Config{Server: srv.URL, Pin: pin}, ""},
		{"another pin", client.Config{Server: srv.URL, Pin: "sha256:" + strings.Repeat("00", 32)}, "pinned key"},
		{"system authorities", client.Config{Server: srv.URL}, "--ca-file"},
		{"plain HTTP to TLS", client.Config{Server: "http" + strings.TrimPrefix(srv.URL, "https")}, "write https://"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			i, err := connect(t, tc.cfg).Index(t.Context())
			switch {
			case tc.want == "" && (err != nil || i.Product != "Kuma"):
				t.Errorf("index is %+v, %v", i, err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("error is %v, want %q in it", err, tc.want)
			}
		})
	}
}

func TestPinOfAnAuthorityStillChecksTheHost(t *testing.T) {
	// httptest's certificate is for example.com and 127.0.0.1; as "localhost" it is a wrong host unless its own key is pinned.
	_, srv := start(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{}`) })
	port := srv.Listener.Addr().(*net.TCPAddr).Port
	ca := file(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})))
	_, err := connect(t, client.Config{Server: fmt.Sprintf("https://localhost:%d", port), CAFile: ca}).Index(t.Context())
	if err == nil || !strings.Contains(err.Error(), "not for this name") {
		t.Errorf("a wrong host name gives %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := "https://" + l.Addr().String()
	l.Close()
	_, err = connect(t, client.Config{Server: gone}).Index(t.Context())
	if !errors.Is(err, client.ErrUnreachable) || !strings.Contains(err.Error(), "nothing listens there") {
		t.Errorf("a closed port gives %v", err)
	}
	release := make(chan struct{})
	c, srv := start(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	_ = c
	ca := file(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})))
	_, err = connect(t, client.Config{Server: srv.URL, CAFile: ca, Timeout: 50 * time.Millisecond}).Index(t.Context())
	if !errors.Is(err, client.ErrTimeout) {
		t.Errorf("a silent server gives %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Index(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled call gives %v", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	token := file(t, "token", "secret")
	for _, tc := range []struct {
		cfg  client.Config
		want string
	}{
		{client.Config{Server: "global:5682"}, "must look like https://host:port"},
		{client.Config{Server: "https://a:b@host"}, "must not hold a user"},
		{client.Config{Server: "http://global.example", TokenFile: token}, "clear text"},
		{client.Config{Server: "https://h", CAFile: token}, "holds no PEM certificate"},
		{client.Config{Server: "https://h", Pin: "sha256:12"}, "64 hexadecimal digits"},
	} {
		if _, err := client.New(tc.cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v gives %v, want %q in it", tc.cfg, err, tc.want)
		}
	}
	c, _ := start(t, func(http.ResponseWriter, *http.Request) { t.Error("called without a token") })
	_ = c
	bad := connect(t, client.Config{Server: "http://127.0.0.1:1", TokenFile: file(t, "token", "two words")})
	if _, err := bad.WhoAmI(t.Context()); err == nil || errors.Is(err, client.ErrUnreachable) || !strings.Contains(err.Error(), "does not hold one token") {
		t.Errorf("a bad token file gives %v", err)
	}
}

func TestPinIsOfThePublicKey(t *testing.T) {
	c := &x509.Certificate{RawSubjectPublicKeyInfo: []byte("key")}
	if got := client.PinOf(c); !strings.HasPrefix(got, "sha256:2c70e12b7a0646f9") {
		t.Errorf("pin is %s", got)
	}
}
