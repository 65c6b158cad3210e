package token_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/token"
)

// secrets is the Secrets of a control plane, by address.
type secrets map[resource.Key]resource.Resource

func (s secrets) EachSecret(mesh, prefix string, fn func(resource.Resource) bool) {
	for k, r := range s {
		if k.Mesh == mesh && strings.HasPrefix(k.Name, prefix) && !fn(r) {
			return
		}
	}
}

func (s secrets) put(k resource.Key, data []byte) {
	r := token.Secret(k, data)
	r.UID, r.Version = "u", s[k].Version+1
	s[k] = r
}

var keyPool [][]byte

// signingKey returns the n-th key of the tests; making keys is slow.
func signingKey(t testing.TB, n int) []byte {
	t.Helper()
	for len(keyPool) <= n {
		k, err := token.NewSigningKey()
		if err != nil {
			t.Fatal(err)
		}
		keyPool = append(keyPool, k)
	}
	return keyPool[n]
}

var start = time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)

// plane is one control plane with a clock that tests move.
type plane struct {
	secrets   secrets
	now       time.Time
	issuer    *token.Issuer
	validator *token.Validator
}

func newPlane(t testing.TB) *plane {
	p := &plane{secrets: secrets{}, now: start}
	p.secrets.put(token.UserSigningKey(1), signingKey(t, 0))
	p.secrets.put(token.ZoneSigningKey(1), signingKey(t, 0))
	p.secrets.put(token.DataplaneSigningKey("default", 1), signingKey(t, 0))
	clock := func() time.Time { return p.now }
	p.issuer = token.NewIssuer(p.secrets, clock)
	p.validator = token.NewValidator(p.secrets, clock)
	return p
}

func (p *plane) user(t testing.TB) string {
	t.Helper()
	s, err := p.issuer.User(token.User{Name: "ann", Groups: []string{"ops"}}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wantRefused(t *testing.T, what, tok string, err error, words ...string) {
	t.Helper()
	if !errors.Is(err, token.ErrNotValid) {
		t.Errorf("%s: got %v, want ErrNotValid", what, err)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: %q does not say %q", what, err, w)
		}
	}
	for part := range strings.SplitSeq(tok, ".") {
		if len(part) > 8 && strings.Contains(err.Error(), part) {
			t.Errorf("%s: the message shows the token: %s", what, err)
		}
	}
}

func TestTokensComeBackAsIssued(t *testing.T) {
	p := newPlane(t)
	u, v, err := p.validator.User(p.user(t))
	if err != nil || u.Name != "ann" || !cmp.Equal(u.Groups, []string{"ops"}) || v.ID == "" || !v.Expires.Equal(start.Add(time.Hour)) {
		t.Errorf("user: %+v %+v %v", u, v, err)
	}
	want := token.Dataplane{Name: "web", Mesh: "default", Tags: map[string][]string{"team": {"a"}}, Type: "dataplane", Workload: "w"}
	s, err := p.issuer.Dataplane(want, 0)
	if err != nil {
		t.Fatal(err)
	}
	got, v, err := p.validator.Dataplane(s)
	if err != nil || !cmp.Equal(got, want) || !v.Expires.Equal(start.Add(token.DefaultValidity)) {
		t.Errorf("dataplane: %+v %+v %v", got, v, err)
	}
	s, err = p.issuer.Zone(token.Zone{Zone: "east"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	z, _, err := p.validator.Zone(s)
	if err != nil || z.Zone != "east" || !cmp.Equal(z.Scope, []string{"cp"}) {
		t.Errorf("zone: %+v %v", z, err)
	}
}

func TestClaimsAndHeaderAreKumas(t *testing.T) {
	p := newPlane(t)
	s, err := p.issuer.Dataplane(token.Dataplane{Name: "web", Mesh: "default", Workload: "w", Tags: map[string][]string{"a": {"b"}}, Type: "dataplane"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(s, ".")
	header, payload := map[string]any{}, map[string]any{}
	for i, into := range []any{&header, &payload} {
		b, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, into); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(map[string]any{"alg": "RS256", "kid": "1", "typ": "JWT"}, header); diff != "" {
		t.Error(diff)
	}
	for k, want := range map[string]any{
		"Name": "web", "Mesh": "default", "Workload": "w", "Type": "dataplane", "Tags": map[string]any{"a": []any{"b"}},
		"iat": float64(start.Unix()), "nbf": float64(start.Unix() - 5), "exp": float64(start.Unix() + 3600),
	} {
		if !cmp.Equal(payload[k], want) {
			t.Errorf("claim %s: got %v, want %v", k, payload[k], want)
		}
	}
	if payload["jti"] == "" || payload["Groups"] != nil || payload["Zone"] != nil {
		t.Errorf("claims of other tokens, or no id: %v", payload)
	}
}

func TestTokensOfOneFamilyAreRefusedByAnother(t *testing.T) {
	p := newPlane(t)
	u := p.user(t)
	_, _, err := p.validator.Dataplane(u)
	wantRefused(t, "user token as dataplane token", u, err)
	z, err := p.issuer.Zone(token.Zone{Zone: "east"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = p.validator.User(z) // the same key signs both in this test; the claims still differ
	wantRefused(t, "zone token as user token", z, err, "names no user")
	d, err := token.SignDataplane(signingKey(t, 0), 1, token.Dataplane{Mesh: "other"}, time.Hour, start)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = p.validator.Dataplane(d)
	wantRefused(t, "mesh without keys", d, err, "signing key is not known")
}

func TestRotation(t *testing.T) {
	p := newPlane(t)
	old := p.user(t)
	p.secrets.put(token.UserSigningKey(10), signingKey(t, 1)) // 10 sorts before 2 as text, and is newer
	p.secrets.put(token.UserSigningKey(2), signingKey(t, 0))
	fresh := p.user(t)
	if h := header(t, fresh); h["kid"] != "10" {
		t.Errorf("signed with serial %v, want the highest, 10", h["kid"])
	}
	for what, tok := range map[string]string{"before": old, "after": fresh} {
		if _, _, err := p.validator.User(tok); err != nil {
			t.Errorf("token from %s the rotation: %v", what, err)
		}
	}
	delete(p.secrets, token.UserSigningKey(1))
	_, _, err := p.validator.User(old)
	wantRefused(t, "key rotated out", old, err, "rotated out")
	p.secrets.put(token.UserSigningKey(10), signingKey(t, 0)) // replaced in place: the parsed key must not linger
	_, _, err = p.validator.User(fresh)
	wantRefused(t, "key replaced", fresh, err, "signature")
}

func header(t *testing.T, tok string) map[string]any {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(strings.Split(tok, ".")[0])
	if err != nil {
		t.Fatal(err)
	}
	var h map[string]any
	if err := json.Unmarshal(b, &h); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestRevocation(t *testing.T) {
	p := newPlane(t)
	a, b := p.user(t), p.user(t)
	_, va, err := p.validator.User(a)
	if err != nil {
		t.Fatal(err)
	}
	p.secrets.put(token.UserRevocations(), []byte("other, "+va.ID+"\n"))
	_, _, err = p.validator.User(a)
	wantRefused(t, "revoked", a, err, "revoked")
	if _, _, err := p.validator.User(b); err != nil {
		t.Errorf("another token of the same user: %v", err)
	}
	r := p.secrets[token.UserRevocations()]
	r.Raw = []byte(`{"data":5}`)
	p.secrets[token.UserRevocations()] = r
	_, _, err = p.validator.User(b)
	wantRefused(t, "revocations cannot be read", b, err)

	d, err := p.issuer.Dataplane(token.Dataplane{Mesh: "default"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	_, vd, err := p.validator.Dataplane(d)
	if err != nil {
		t.Fatal(err)
	}
	p.secrets.put(token.DataplaneRevocations("default"), []byte(vd.ID))
	_, _, err = p.validator.Dataplane(d)
	wantRefused(t, "revoked in the mesh", d, err, "revoked")
}

func TestTimes(t *testing.T) {
	p := newPlane(t)
	tok := p.user(t)
	for _, c := range []struct {
		at    time.Duration
		words string // empty: accepted
	}{
		{0, ""},
		{59 * time.Minute, ""},
		{-4 * time.Minute, ""},
		{-11 * time.Minute, "not valid yet: clocks differ by 10m55s"},
		{time.Hour, "expired 0s ago"},
		{3 * time.Hour, "expired 2h0m0s ago, at 2026-09-01T13:00:00Z"},
	} {
		p.now = start.Add(c.at)
		_, _, err := p.validator.User(tok)
		if c.words == "" {
			if err != nil {
				t.Errorf("at %s: %v", c.at, err)
			}
			continue
		}
		wantRefused(t, c.at.String(), tok, err, c.words)
	}
}

func TestForgeriesAreRefused(t *testing.T) {
	p := newPlane(t)
	good := p.user(t)
	parts := strings.Split(good, ".")
	mallory, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	make := func(method jwt.SigningMethod, key any, change func(jwt.MapClaims), kid any) string {
		c := jwt.MapClaims{"Name": "ann", "jti": "1", "exp": start.Add(time.Hour).Unix()}
		if change != nil {
			change(c)
		}
		tok := jwt.NewWithClaims(method, c)
		if kid != nil {
			tok.Header["kid"] = kid
		}
		s, err := tok.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	public, err := token.PublicKey(signingKey(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	own, err := jwt.ParseRSAPrivateKeyFromPEM(signingKey(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	for name, tok := range map[string]string{
		"empty":                      "",
		"not a jwt":                  "hello",
		"three dots":                 "...",
		"too large":                  strings.Repeat("a", token.MaxSize+1),
		"other key":                  make(jwt.SigningMethodRS256, mallory, nil, "1"),
		"alg none":                   make(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil, "1"),
		"public key as HMAC secret":  make(jwt.SigningMethodHS256, public, nil, "1"),
		"other RSA hash":             make(jwt.SigningMethodRS512, own, nil, "1"),
		"no kid":                     make(jwt.SigningMethodRS256, own, nil, nil),
		"kid not a number":           make(jwt.SigningMethodRS256, own, nil, "../1"),
		"kid of another type":        make(jwt.SigningMethodRS256, own, nil, 1),
		"unknown kid":                make(jwt.SigningMethodRS256, own, nil, "7"),
		"no end":                     make(jwt.SigningMethodRS256, own, func(c jwt.MapClaims) { delete(c, "exp") }, "1"),
		"no id":                      make(jwt.SigningMethodRS256, own, func(c jwt.MapClaims) { delete(c, "jti") }, "1"),
		"no name":                    make(jwt.SigningMethodRS256, own, func(c jwt.MapClaims) { delete(c, "Name") }, "1"),
		"claims of the wrong type":   make(jwt.SigningMethodRS256, own, func(c jwt.MapClaims) { c["Groups"] = "ops" }, "1"),
		"payload of another token":   parts[0] + "." + strings.Split(p.user(t), ".")[1] + "." + parts[2],
		"signature cut":              good[:len(good)-4],
		"payload with trailing data": parts[0] + "." + parts[1] + "AA." + parts[2],
	} {
		_, _, err := p.validator.User(tok)
		wantRefused(t, name, tok, err)
	}
}

func TestPublicKeyAloneValidates(t *testing.T) {
	p := newPlane(t)
	public, err := token.PublicKey(signingKey(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	p.secrets.put(token.UserSigningKey(5), public)
	offline, err := token.SignUser(signingKey(t, 1), 5, token.User{Name: "bob"}, time.Hour, start)
	if err != nil {
		t.Fatal(err)
	}
	if u, _, err := p.validator.User(offline); err != nil || u.Name != "bob" {
		t.Errorf("signed offline: %v %v", u, err)
	}
	if h := header(t, p.user(t)); h["kid"] != "1" {
		t.Errorf("signed with %v, want the newest private key", h["kid"])
	}
}

func TestIssuerRefuses(t *testing.T) {
	p := newPlane(t)
	many := map[string][]string{}
	for i := range 2000 {
		many[fmt.Sprint("tag", i)] = []string{"value"}
	}
	for name, c := range map[string]struct {
		err  error
		want error
	}{
		"user without name":         {second(p.issuer.User(token.User{}, time.Hour)), token.ErrBadRequest},
		"user without end":          {second(p.issuer.User(token.User{Name: "a"}, 0)), token.ErrBadRequest},
		"dataplane without mesh":    {second(p.issuer.Dataplane(token.Dataplane{}, 0)), token.ErrBadRequest},
		"negative lifetime":         {second(p.issuer.Zone(token.Zone{Zone: "z"}, -1)), token.ErrBadRequest},
		"too large to be presented": {second(p.issuer.Dataplane(token.Dataplane{Mesh: "default", Tags: many}, 0)), token.ErrBadRequest},
		"mesh without key":          {second(p.issuer.Dataplane(token.Dataplane{Mesh: "none"}, 0)), token.ErrNoSigningKey},
		"zone without name":         {second(p.issuer.Zone(token.Zone{}, 0)), token.ErrBadRequest},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: got %v, want %v", name, c.err, c.want)
		}
	}
	p.secrets.put(token.UserSigningKey(9), []byte("not a key"))
	if _, err := p.issuer.User(token.User{Name: "a"}, time.Hour); err != nil {
		t.Errorf("a broken newer key must not stop the older one: %v", err)
	}
	delete(p.secrets, token.UserSigningKey(1))
	_, err := p.issuer.User(token.User{Name: "a"}, time.Hour)
	if !errors.Is(err, token.ErrNoSigningKey) || !strings.Contains(err.Error(), "user-token-signing-key-9") {
		t.Errorf("only a broken key: got %v, want it named", err)
	}
}

func second(_ string, err error) error { return err }

func TestParseValidity(t *testing.T) {
	for in, want := range map[string]time.Duration{"": 0, "24h": 24 * time.Hour, "30d": 720 * time.Hour, "1h30m": 90 * time.Minute} {
		if got, err := token.ParseValidity(in); err != nil || got != want {
			t.Errorf("%q: got %s, %v; want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"x", "d", "-1h", "1.5d", "99999999d", "10"} {
		if got, err := token.ParseValidity(in); err == nil {
			t.Errorf("%q: got %s, want an error", in, got)
		}
	}
}

func FuzzValidator(f *testing.F) {
	p := newPlane(f)
	good := p.user(f)
	parts := strings.Split(good, ".")
	f.Add(good)
	f.Add("")
	f.Add("a.b.c")
	f.Add(parts[0] + ".." + parts[2])
	f.Add(parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"Mesh":"default","exp":1e308}`)) + "." + parts[2])
	f.Add(base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"1"}`)) + "." + parts[1] + ".")
	f.Fuzz(func(t *testing.T, tok string) {
		_, _, err := p.validator.User(tok)
		if tok != good {
			if err == nil && strings.TrimRight(tok, "=") != good {
				// Base64 leaves some last bits open: only another spelling of the same token may pass.
				a, _ := base64.RawURLEncoding.DecodeString(tok[strings.LastIndex(tok, ".")+1:])
				b, _ := base64.RawURLEncoding.DecodeString(parts[2])
				if string(a) != string(b) {
					t.Errorf("accepted a token nobody issued")
				}
			}
			if err != nil && !errors.Is(err, token.ErrNotValid) {
				t.Errorf("got %v, want ErrNotValid", err)
			}
		}
		if _, _, err := p.validator.Dataplane(tok); err == nil {
			t.Error("accepted as a dataplane token")
		}
		if _, _, err := p.validator.Zone(tok); err == nil {
			t.Error("accepted as a zone token")
		}
	})
}

// A zone takes tokens of its own key and of global's, though both have the same serial; the public half mints nothing.
func TestKeysOfTwoControlPlanesWithOneSerial(t *testing.T) {
	global, zone, other := newPlane(t), newPlane(t), newPlane(t)
	key := token.DataplaneSigningKey("default", 1)
	zone.secrets.put(key, signingKey(t, 1))
	other.secrets.put(key, signingKey(t, 2))
	public, err := token.PublicKey(signingKey(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	zone.secrets.put(token.DataplanePublicKey("default", 1), public)
	issue := func(p *plane) string {
		tok, err := p.issuer.Dataplane(token.Dataplane{Mesh: "default", Workload: "web"}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	for what, p := range map[string]*plane{"the zone's own": zone, "global's": global} {
		if d, _, err := zone.validator.Dataplane(issue(p)); err != nil || d.Workload != "web" {
			t.Errorf("a token of %s key: %+v, %v", what, d, err)
		}
	}
	tok := issue(other)
	_, _, err = zone.validator.Dataplane(tok)
	wantRefused(t, "a token of another zone's key", tok, err, "signature")
	delete(zone.secrets, key)
	if _, err := zone.issuer.Dataplane(token.Dataplane{Mesh: "default"}, time.Hour); !errors.Is(err, token.ErrNoSigningKey) {
		t.Errorf("issued with a public key: %v", err)
	}
}
