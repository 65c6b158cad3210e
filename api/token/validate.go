package token

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// A Validator checks tokens against the current keys and revocations.
type Validator struct {
	ring   ring
	now    func() time.Time
	parser *jwt.Parser
}

// NewValidator makes a validator over the keys that secrets yields; now is the clock, time.Now when nil.
func NewValidator(secrets Secrets, now func() time.Time) *Validator {
	return &Validator{
		ring: ring{secrets: secrets},
		now:  orNow(now),
		// Times are checked here, to say by how much clocks differ.
		parser: jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithoutClaimsValidation()),
	}
}

// A Verified is what every valid token has.
type Verified struct {
	ID      string
	Expires time.Time
}

// User checks a user token.
func (v *Validator) User(token string) (User, Verified, error) {
	c, err := v.check(token, func(claims) (family, error) { return users, nil })
	if err != nil {
		return User{}, Verified{}, err
	}
	if c.Name == "" {
		return User{}, Verified{}, fmt.Errorf("%w: it names no user", ErrNotValid)
	}
	return User{Name: c.Name, Groups: c.Groups}, verified(c), nil
}

// Dataplane checks a dataplane token.
func (v *Validator) Dataplane(token string) (Dataplane, Verified, error) {
	c, err := v.check(token, func(c claims) (family, error) {
		if c.Mesh == "" {
			return family{}, fmt.Errorf("%w: it names no mesh", ErrNotValid)
		}
		return dataplanes(c.Mesh), nil
	})
	if err != nil {
		return Dataplane{}, Verified{}, err
	}
	return Dataplane{Name: c.Name, Mesh: c.Mesh, Tags: c.Tags, Type: c.Type, Workload: c.Workload}, verified(c), nil
}

// Zone checks a zone token.
func (v *Validator) Zone(token string) (Zone, Verified, error) {
	c, err := v.check(token, func(claims) (family, error) { return zones, nil })
	if err != nil {
		return Zone{}, Verified{}, err
	}
	if c.Zone == "" {
		return Zone{}, Verified{}, fmt.Errorf("%w: it names no zone", ErrNotValid)
	}
	return Zone{Zone: c.Zone, Scope: c.Scope}, verified(c), nil
}

func verified(c claims) Verified { return Verified{ID: c.ID, Expires: c.ExpiresAt.Time} }

// check verifies signature, times and revocation. The family comes from the unverified claims, its keys then verify them.
func (v *Validator) check(token string, familyOf func(claims) (family, error)) (claims, error) {
	if token == "" {
		return claims{}, fmt.Errorf("%w: it is empty", ErrNotValid)
	}
	if len(token) > MaxSize {
		return claims{}, fmt.Errorf("%w: it has %d bytes, at most %d are allowed", ErrNotValid, len(token), MaxSize)
	}
	var c claims
	var f family
	_, err := v.parser.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		var err error
		if f, err = familyOf(c); err != nil {
			return nil, err
		}
		n, err := kid(t)
		if err != nil {
			return nil, err
		}
		keys, err := v.ring.bySerial(f, n)
		if err != nil {
			return nil, err
		}
		var set jwt.VerificationKeySet
		for _, k := range keys {
			set.Keys = append(set.Keys, k.public)
		}
		return set, nil
	})
	if err != nil {
		return claims{}, refusal(err)
	}
	if err := checkTimes(c, v.now()); err != nil {
		return claims{}, err
	}
	if c.ID == "" {
		return claims{}, fmt.Errorf("%w: it has no id, so it could not be revoked", ErrNotValid)
	}
	if v.ring.revoked(f, c.ID) {
		return claims{}, fmt.Errorf("%w: it is revoked; ask for a new one", ErrNotValid)
	}
	return c, nil
}

func kid(t *jwt.Token) (int, error) {
	s, _ := t.Header["kid"].(string)
	n, err := strconv.Atoi(s)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("%w: its header names no signing key (kid)", ErrNotValid)
	}
	return n, nil
}

// refusal says why a token was not accepted in words of our own: the library's may quote its bytes.
func refusal(err error) error {
	switch {
	case errors.Is(err, ErrNoSigningKey):
		return fmt.Errorf("%w: its signing key is not known here; it is from another control plane, or the key was rotated out", ErrNotValid)
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return fmt.Errorf("%w: its signature is wrong, or it is not signed with RS256", ErrNotValid)
	case errors.Is(err, jwt.ErrTokenMalformed):
		return fmt.Errorf("%w: it is not a JWT", ErrNotValid)
	case errors.Is(err, ErrNotValid):
		return fmt.Errorf("%w: it lacks a claim that is needed", ErrNotValid)
	default:
		return fmt.Errorf("%w: its signing key cannot be used", ErrNotValid)
	}
}

func checkTimes(c claims, now time.Time) error {
	if c.ExpiresAt == nil {
		return fmt.Errorf("%w: it has no end", ErrNotValid)
	}
	if !now.Before(c.ExpiresAt.Time) {
		return fmt.Errorf("%w: it expired %s ago, at %s; ask for a new one", ErrNotValid,
			now.Sub(c.ExpiresAt.Time).Round(time.Second), c.ExpiresAt.UTC().Format(time.RFC3339))
	}
	for _, start := range []*jwt.NumericDate{c.NotBefore, c.IssuedAt} {
		if start == nil {
			continue
		}
		if ahead := start.Sub(now); ahead > Leeway {
			return fmt.Errorf("%w yet: clocks differ by %s, set the clock of the issuer or of this host", ErrNotValid, ahead.Round(time.Second))
		}
	}
	return nil
}
