package faults_test

import (
	"context"
	"crypto/x509"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/api/token"
	"github.com/causeway-mesh/causeway/store/backend"
)

// at is an issuer whose clock is off, with the keys of the zone.
func (z *zone) at(off time.Duration) *token.Issuer {
	return token.NewIssuer(z.Catalog().Snapshot(), func() time.Time { return time.Now().Add(off) })
}

func sign(t *testing.T) func(text string, err error) string {
	return func(text string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
}

func TestTokensThatMustBeRefused(t *testing.T) {
	z := start(t, settings(t, t.TempDir(), backend.Memory))
	must := sign(t)
	const hour = time.Hour
	user := token.User{Name: "eve"}
	admin := token.User{Name: "eve", Groups: []string{"mesh-system:admin"}}
	body, tampered := timeout("x", 1), []byte(z.token)
	tampered[len(tampered)-20] ^= 1
	for what, c := range map[string]struct {
		token  string
		status int
		says   string
	}{
		"rubbish":                {"rubbish", http.StatusUnauthorized, "not valid"},
		"tampered with":          {string(tampered), http.StatusUnauthorized, "not valid"},
		"long":                   {strings.Repeat("a", 20_000), http.StatusUnauthorized, "not valid"},
		"none":                   {"", http.StatusForbidden, "token is needed"},
		"no permission":          {must(z.at(0).User(user, hour)), http.StatusForbidden, "no permission"},
		"of a dataplane":         {must(z.at(0).Dataplane(token.Dataplane{Mesh: "default"}, hour)), http.StatusUnauthorized, "not valid"},
		"of a zone":              {must(z.at(0).Zone(token.Zone{Zone: "east"}, hour)), http.StatusUnauthorized, "not valid"},
		"expired":                {must(z.at(-3*hour).User(admin, hour)), http.StatusUnauthorized, "expired"},
		"from a clock far ahead": {must(z.at(2*hour).User(admin, hour)), http.StatusUnauthorized, "clocks differ by"},
	} {
		a := z.as(c.token)
		res := a.call(t, "PUT", timeouts+"x", body)
		if res.status != c.status || !strings.Contains(res.body, c.says) {
			t.Errorf("%s: %s, want %d that says %q", what, res, c.status, c.says)
		}
		if c.status == http.StatusUnauthorized && res.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: 401 without WWW-Authenticate", what)
		}
		if c.token != "" && strings.Contains(res.body, c.token[:min(len(c.token), 200)]) && c.token != "rubbish" {
			t.Errorf("%s: the answer shows the token", what)
		}
		if res := a.call(t, "GET", "/meshes/default/secrets", ""); res.status != c.status {
			t.Errorf("%s: secrets: %s, want %d", what, res, c.status)
		}
	}
	if s, err := z.read(t.Context(), "x"); err != nil || s != (stored{}) {
		t.Errorf("stored: %+v %v", s, err)
	}
	if strings.Contains(z.log.String(), z.token) {
		t.Error("the log shows the token of the administrator")
	}
}

// Acceptance: U auth dp: every token that must not do
func TestAgentsThatMustBeRefused(t *testing.T) {
	z := start(t, settings(t, t.TempDir(), backend.Memory))
	z.must(t, "PUT", "/meshes/other", `{"type":"Mesh","name":"other"}`)
	must := sign(t)
	const hour = time.Hour
	mine := token.Dataplane{Mesh: "default", Name: "web"}
	other := strings.Replace(web, `"mesh":"default"`, `"mesh":"other"`, 1)
	for what, c := range map[string]struct {
		token, mesh, dataplane string
		clock                  time.Duration
		code                   codes.Code
		says                   string
	}{
		"no token":               {"", "default", web, 0, codes.Unauthenticated, "causeway token create dataplane"},
		"rubbish":                {"rubbish", "default", web, 0, codes.Unauthenticated, "not valid"},
		"a user's token":         {z.token, "default", web, 0, codes.Unauthenticated, "not valid"},
		"another mesh":           {must(z.at(0).Dataplane(mine, hour)), "other", other, 0, codes.PermissionDenied, `the token is for mesh "default", not "other"`},
		"the Dataplane's mesh":   {must(z.at(0).Dataplane(mine, hour)), "", other, 0, codes.PermissionDenied, `the token is for mesh "default"`},
		"another name":           {must(z.at(0).Dataplane(token.Dataplane{Mesh: "default", Name: "db"}, hour)), "default", web, 0, codes.PermissionDenied, `"db"`},
		"another workload":       {must(z.at(0).Dataplane(token.Dataplane{Mesh: "default", Workload: "db"}, hour)), "default", web, 0, codes.PermissionDenied, "db"},
		"another type":           {must(z.at(0).Dataplane(token.Dataplane{Mesh: "default", Type: "ingress"}, hour)), "default", web, 0, codes.PermissionDenied, "ingress"},
		"expired":                {must(z.at(-3*hour).Dataplane(mine, hour)), "default", web, 0, codes.Unauthenticated, "expired"},
		"from a clock far ahead": {must(z.at(2*hour).Dataplane(mine, hour)), "default", web, 0, codes.Unauthenticated, "clocks differ by 1h59m"},
		"on a host far ahead":    {must(z.at(2*hour).Dataplane(mine, hour)), "default", web, 2 * hour, codes.Unauthenticated, "the clock of the agent's host is 2h0m0s ahead"},
		"a Dataplane of rubbish": {must(z.at(0).Dataplane(mine, hour)), "default", "{", 0, codes.InvalidArgument, "dataplane"},
		"a Dataplane of nothing": {must(z.at(0).Dataplane(mine, hour)), "default", `{"type":"Dataplane","name":"web"}`, 0, codes.InvalidArgument, "networking"},
		"no key":                 {must(z.at(0).Dataplane(token.Dataplane{Mesh: "default", Name: "web", Workload: "web"}, hour)), "default", web, 0, codes.InvalidArgument, "request"},
	} {
		err := z.enroll(t, c.token, &agentapi.EnrollRequest{
			Mesh: c.mesh, Name: "web", Instance: "i", Place: "host", Dataplane: []byte(c.dataplane), ClockMs: time.Now().Add(c.clock).UnixMilli(),
		})
		if status.Code(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %s that says %q", what, err, c.code, c.says)
		}
	}
	if res := z.call(t, "GET", "/meshes/default/dataplanes/web", ""); res.status != http.StatusNotFound {
		t.Errorf("an agent that was refused is registered: %s", res)
	}
}

// enroll asks for a certificate as an agent does.
func (z *zone) enroll(t *testing.T, bearer string, in *agentapi.EnrollRequest) error {
	t.Helper()
	pem, err := os.ReadFile(z.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	conn, err := grpc.NewClient(z.AgentsAddress(), grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(pool, "")))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if bearer != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+bearer)
	}
	_, err = agentapi.NewAgentClient(conn).Enroll(ctx, in)
	return err
}
