package token

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/causeway-mesh/causeway/api/resource"
)

// joinPrefix begins every join token, so that people and secret scanners recognise one.
const joinPrefix = "cwj1."

// What a join token may hold.
const (
	maxJoinAddresses = 16
	maxJoinID        = 64
	maxJoinSecret    = 128
)

// A JoinToken admits one zone to a global control plane, once. It is no bearer token of the REST API: it is not signed, it names a
// secret that global knows by its hash, and it says where global is and by which certificate authority the zone recognises it.
type JoinToken struct {
	Zone   string
	ID     string // by which global finds it
	Secret string
	// Addresses are host:port of the instances of global.
	Addresses []string
	// Pin is the SHA-256 of the certificate of an authority (DER), in hex. The zone must see it in the chain that global presents.
	Pin string
}

// joinBody is the written form.
type joinBody struct {
	Version   int      `json:"v"`
	Zone      string   `json:"zone"`
	ID        string   `json:"id"`
	Secret    string   `json:"secret"`
	Addresses []string `json:"addresses"`
	Pin       string   `json:"pin"`
}

// Encode writes the token as it is handed to a zone. It fails when ParseJoinToken would refuse it.
func (t JoinToken) Encode() (string, error) {
	if err := t.check(); err != nil {
		return "", fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	b, err := json.Marshal(joinBody{1, t.Zone, t.ID, t.Secret, t.Addresses, t.Pin})
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	text := joinPrefix + base64.RawURLEncoding.EncodeToString(b)
	if len(text) > MaxSize {
		return "", fmt.Errorf("%w: it would have %d bytes, at most %d are allowed; name fewer addresses", ErrBadRequest, len(text), MaxSize)
	}
	return text, nil
}

// String hides the secret.
func (t JoinToken) String() string {
	return "join token " + t.ID + " of zone " + resource.Quote(t.Zone)
}

// GoString hides the secret.
func (t JoinToken) GoString() string { return t.String() }

// ParseJoinToken reads a join token. Whether it is still good only global knows. Errors never quote it.
func ParseJoinToken(text string) (JoinToken, error) {
	t, err := parseJoin(strings.TrimSpace(text))
	if err != nil {
		return JoinToken{}, fmt.Errorf("join token: %w: %w", ErrNotValid, err)
	}
	return t, nil
}

func parseJoin(text string) (JoinToken, error) {
	if len(text) > MaxSize {
		return JoinToken{}, fmt.Errorf("it has %d bytes, at most %d are allowed", len(text), MaxSize)
	}
	encoded, ok := strings.CutPrefix(text, joinPrefix)
	if !ok {
		return JoinToken{}, errors.New(`it does not begin with "cwj1."; ask global for one with: causeway zone connect NAME`)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return JoinToken{}, errors.New("it is cut off or changed: its base64 cannot be read")
	}
	var body joinBody
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&body); err != nil {
		return JoinToken{}, errors.New("it is cut off or changed: its JSON cannot be read")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return JoinToken{}, errors.New("it has data after its JSON")
	}
	if body.Version != 1 {
		return JoinToken{}, fmt.Errorf("it has version %d, this zone understands 1; upgrade the zone", body.Version)
	}
	t := JoinToken{Zone: body.Zone, ID: body.ID, Secret: body.Secret, Addresses: body.Addresses, Pin: body.Pin}
	return t, t.check()
}

func (t JoinToken) check() error {
	if ps := resource.CheckName("zone", resource.RFC1035Label, t.Zone); len(ps) > 0 {
		return ps
	}
	if ps := resource.CheckName("id", resource.RFC1123Subdomain, t.ID); len(ps) > 0 || len(t.ID) > maxJoinID {
		return fmt.Errorf("id: must be a name of at most %d characters", maxJoinID)
	}
	if t.Secret == "" || len(t.Secret) > maxJoinSecret {
		return fmt.Errorf("secret: must have 1 to %d characters", maxJoinSecret)
	}
	if n := len(t.Addresses); n == 0 || n > maxJoinAddresses {
		return fmt.Errorf("addresses: has %d, must have 1 to %d", n, maxJoinAddresses)
	}
	for i, a := range t.Addresses {
		if h, p, err := net.SplitHostPort(a); err != nil || h == "" || p == "" || strings.ContainsFunc(a, notInAddress) {
			return fmt.Errorf("addresses[%d]: %s is not host:port", i, resource.Quote(a))
		}
	}
	if pin, err := hex.DecodeString(t.Pin); err != nil || len(pin) != sha256.Size || t.Pin != strings.ToLower(t.Pin) {
		return errors.New("pin: must be a SHA-256 in lower-case hex")
	}
	return nil
}

func notInAddress(r rune) bool { return r <= ' ' || r > '~' }

// PinOf is the pin of an authority.
func PinOf(authority *x509.Certificate) string {
	sum := sha256.Sum256(authority.Raw)
	return hex.EncodeToString(sum[:])
}
