package token

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/causeway-mesh/causeway/api/resource"
)

// claims are the union of what the three families carry; each writes only its own.
type claims struct {
	jwt.RegisteredClaims
	Name     string              `json:"Name,omitempty"`
	Groups   []string            `json:"Groups,omitempty"`
	Mesh     string              `json:"Mesh,omitempty"`
	Tags     map[string][]string `json:"Tags,omitempty"`
	Type     string              `json:"Type,omitempty"`
	Workload string              `json:"Workload,omitempty"`
	Zone     string              `json:"Zone,omitempty"`
	Scope    []string            `json:"Scope,omitempty"`
}

// An Issuer signs tokens with the newest key of their family.
type Issuer struct {
	ring ring
	now  func() time.Time
}

// NewIssuer makes an issuer over the keys that secrets yields; now is the clock, time.Now when nil.
func NewIssuer(secrets Secrets, now func() time.Time) *Issuer {
	return &Issuer{ring: ring{secrets: secrets}, now: orNow(now)}
}

func orNow(now func() time.Time) func() time.Time {
	if now == nil {
		return time.Now
	}
	return now
}

// User issues a token for a user. Its lifetime must be given: a user token without an end is never meant.
func (i *Issuer) User(u User, validFor time.Duration) (string, error) {
	if u.Name == "" {
		return "", fmt.Errorf("%w: name must be set", ErrBadRequest)
	}
	if validFor <= 0 {
		return "", fmt.Errorf("%w: validFor must be set and positive, as in 24h", ErrBadRequest)
	}
	return i.sign(users, claims{Name: u.Name, Groups: u.Groups}, validFor)
}

// Dataplane issues a token for Dataplanes of a mesh.
func (i *Issuer) Dataplane(d Dataplane, validFor time.Duration) (string, error) {
	if d.Mesh == "" {
		return "", fmt.Errorf("%w: mesh must be set", ErrBadRequest)
	}
	c := claims{Name: d.Name, Mesh: d.Mesh, Tags: d.Tags, Type: d.Type, Workload: d.Workload}
	return i.sign(dataplanes(d.Mesh), c, validFor)
}

// Zone issues a token for a zone.
func (i *Issuer) Zone(z Zone, validFor time.Duration) (string, error) {
	if z.Zone == "" {
		return "", fmt.Errorf("%w: zone must be set", ErrBadRequest)
	}
	if len(z.Scope) == 0 {
		z.Scope = []string{zoneScopeCP}
	}
	return i.sign(zones, claims{Zone: z.Zone, Scope: z.Scope}, validFor)
}

func (i *Issuer) sign(f family, c claims, validFor time.Duration) (string, error) {
	k, n, err := i.ring.newest(f)
	if err != nil {
		return "", err
	}
	return sign(k, n, c, validFor, i.now())
}

func sign(k key, serial int, c claims, validFor time.Duration, now time.Time) (string, error) {
	if validFor < 0 {
		return "", fmt.Errorf("%w: validFor must not be negative", ErrBadRequest)
	}
	if validFor == 0 {
		validFor = DefaultValidity
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return "", fmt.Errorf("issue token: %w", err)
	}
	c.RegisteredClaims = jwt.RegisteredClaims{
		ID:        hex.EncodeToString(id),
		IssuedAt:  jwt.NewNumericDate(now),
		NotBefore: jwt.NewNumericDate(now.Add(-5 * time.Second)),
		ExpiresAt: jwt.NewNumericDate(now.Add(validFor)),
	}
	t := jwt.NewWithClaims(jwt.SigningMethodRS256, c)
	t.Header["kid"] = strconv.Itoa(serial)
	signed, err := t.SignedString(k.private)
	if err != nil {
		return "", fmt.Errorf("issue token: %w", err)
	}
	if len(signed) > MaxSize {
		return "", fmt.Errorf("%w: it would have %d bytes, at most %d are allowed; name fewer groups or tags", ErrBadRequest, len(signed), MaxSize)
	}
	return signed, nil
}

// SignUser issues a user token with a key that is not stored yet, for the first administrator and for signing offline.
func SignUser(private []byte, serial int, u User, validFor time.Duration, now time.Time) (string, error) {
	k, err := signingKey(private)
	if err != nil {
		return "", err
	}
	return sign(k, serial, claims{Name: u.Name, Groups: u.Groups}, validFor, now)
}

// SignDataplane issues a dataplane token offline.
func SignDataplane(private []byte, serial int, d Dataplane, validFor time.Duration, now time.Time) (string, error) {
	k, err := signingKey(private)
	if err != nil {
		return "", err
	}
	return sign(k, serial, claims{Name: d.Name, Mesh: d.Mesh, Tags: d.Tags, Type: d.Type, Workload: d.Workload}, validFor, now)
}

func signingKey(private []byte) (key, error) {
	k, err := parseKey(private)
	if err != nil {
		return key{}, err
	}
	if k.private == nil {
		return key{}, fmt.Errorf("%w: the key is a public one", ErrNoSigningKey)
	}
	return k, nil
}

// ParseValidity reads a lifetime as users write it: a Go duration, or days as in "30d". Empty is zero.
func ParseValidity(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	if days, ok := cutDays(s); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err == nil {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%s is not a duration, write it as in 24h or 30d", resource.Quote(s))
	}
	return d, nil
}

func cutDays(s string) (string, bool) {
	if len(s) > 1 && s[len(s)-1] == 'd' {
		return s[:len(s)-1], true
	}
	return "", false
}
