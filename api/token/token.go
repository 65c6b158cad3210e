// Package token issues and checks the bearer tokens of users, dataplanes and zones: RS256 JWTs with the claim names of the Kuma 3 API.
// Keys and revocations are Secrets that a caller yields. It stores nothing, grants no permission and never logs or shows a token.
package token

import (
	"errors"
	"time"

	"github.com/causeway-mesh/causeway/api/resource"
)

// The outcomes that callers distinguish; each is wrapped with what was being done.
var (
	// ErrNotValid is a token that must be refused; the message says why without showing the token.
	ErrNotValid = errors.New("token is not valid")
	// ErrNoSigningKey is a family of tokens for which there is no private key.
	ErrNoSigningKey = errors.New("signing key not found")
	// ErrBadRequest is a token that cannot be issued as asked.
	ErrBadRequest = errors.New("token cannot be issued")
)

// MaxSize is the largest accepted token, in bytes.
const MaxSize = 8 << 10

// Leeway is how far the clocks of issuer and validator may differ.
const Leeway = 5 * time.Minute

// DefaultValidity is how long dataplane and zone tokens live when nothing is said.
const DefaultValidity = 10 * 365 * 24 * time.Hour

// A User is who a user token stands for.
type User struct {
	Name   string
	Groups []string
}

// A Dataplane is what a dataplane token allows: any Dataplane of the mesh that agrees with every field that is set.
type Dataplane struct {
	Name     string
	Mesh     string
	Tags     map[string][]string
	Type     string
	Workload string
}

// A Zone is what a zone token allows.
type Zone struct {
	Zone  string
	Scope []string
}

// Secrets yields the Secrets of a mesh, or the GlobalSecrets when mesh is empty, whose names begin with prefix.
type Secrets interface {
	EachSecret(mesh, prefix string, fn func(resource.Resource) bool)
}

// SecretsFunc adapts a function that finds the current Secrets, for sources that change.
type SecretsFunc func() Secrets

// EachSecret asks the current source.
func (f SecretsFunc) EachSecret(mesh, prefix string, fn func(resource.Resource) bool) {
	f().EachSecret(mesh, prefix, fn)
}

// A family is the tokens that share keys and revocations.
type family struct {
	mesh        string   // where its Secrets live; empty for GlobalSecrets
	keys        []string // prefixes of key names, before the serial
	revocations string
	what        string // for messages
}

const zoneScopeCP = "cp"

var (
	users = family{keys: []string{"user-token-signing-key-"}, revocations: "user-token-revocations", what: "user tokens"}
	zones = family{
		keys:        []string{"zone-token-signing-key-", "zone-token-signing-public-key-"},
		revocations: "zone-token-revocations", what: "zone tokens",
	}
)

func dataplanes(mesh string) family {
	return family{
		mesh:        mesh,
		keys:        []string{"dataplane-token-signing-key-" + mesh + "-", "dataplane-token-signing-public-key-" + mesh + "-"},
		revocations: "dataplane-token-revocations-" + mesh,
		what:        "dataplane tokens of mesh " + resource.Quote(mesh),
	}
}
