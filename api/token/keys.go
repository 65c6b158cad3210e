package token

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/causeway-mesh/causeway/api/resource"
)

const keyBits = 2048

// NewSigningKey makes an RSA key in PEM.
func NewSigningKey() ([]byte, error) {
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), nil
}

// PublicKey returns the public half of a PEM key in PEM.
func PublicKey(private []byte) ([]byte, error) {
	k, err := parseKey(private)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(k.public)
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// UserSigningKey addresses the key of user tokens with a serial number.
func UserSigningKey(serial int) resource.Key {
	return resource.Key{Type: "GlobalSecret", Name: users.keys[0] + strconv.Itoa(serial)}
}

// ZoneSigningKey addresses the key of zone tokens with a serial number.
func ZoneSigningKey(serial int) resource.Key {
	return resource.Key{Type: "GlobalSecret", Name: zones.keys[0] + strconv.Itoa(serial)}
}

// DataplaneSigningKey addresses the key of a mesh's dataplane tokens with a serial number.
func DataplaneSigningKey(mesh string, serial int) resource.Key {
	return resource.Key{Type: "Secret", Mesh: mesh, Name: dataplanes(mesh).keys[0] + strconv.Itoa(serial)}
}

// UserRevocations addresses the list of revoked user tokens; its data are token ids separated by commas.
func UserRevocations() resource.Key {
	return resource.Key{Type: "GlobalSecret", Name: users.revocations}
}

// ZoneRevocations addresses the list of revoked zone tokens.
func ZoneRevocations() resource.Key {
	return resource.Key{Type: "GlobalSecret", Name: zones.revocations}
}

// DataplanePublicKey addresses the public half of a key of a mesh's dataplane tokens that another control plane signs with.
func DataplanePublicKey(mesh string, serial int) resource.Key {
	return resource.Key{Type: "Secret", Mesh: mesh, Name: dataplanes(mesh).keys[1] + strconv.Itoa(serial)}
}

// DataplaneRevocations addresses the list of revoked dataplane tokens of a mesh.
func DataplaneRevocations(mesh string) resource.Key {
	return resource.Key{Type: "Secret", Mesh: mesh, Name: dataplanes(mesh).revocations}
}

// Secret makes a Secret or GlobalSecret that holds data, with Raw alone: the kind decodes the spec.
func Secret(k resource.Key, data []byte) resource.Resource {
	raw := `{"data":"` + base64.StdEncoding.EncodeToString(data) + `"}`
	return resource.Resource{Meta: resource.Meta{Type: k.Type, Mesh: k.Mesh, Name: k.Name}, Raw: []byte(raw)}
}

// HasSigningKey says whether user tokens, or with a mesh its dataplane tokens, can be signed or checked at all.
func HasSigningKey(s Secrets, k resource.Key) bool {
	prefix := strings.TrimRight(k.Name, "0123456789")
	found := false
	s.EachSecret(k.Mesh, prefix, func(r resource.Resource) bool {
		_, found = serial(r.Name, prefix)
		return !found
	})
	return found
}

// A key is one serial of a family. Private is nil when only the public half is here.
type key struct {
	public  *rsa.PublicKey
	private *rsa.PrivateKey
}

func parseKey(text []byte) (key, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return key{}, errors.New("signing key is not PEM")
	}
	var k any
	var err error
	switch block.Type {
	case "RSA PRIVATE KEY":
		k, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "PRIVATE KEY":
		k, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PUBLIC KEY":
		k, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "PUBLIC KEY":
		k, err = x509.ParsePKIXPublicKey(block.Bytes)
	default:
		return key{}, fmt.Errorf("signing key has PEM type %s, use an RSA key", resource.Quote(block.Type))
	}
	if err != nil {
		return key{}, errors.New("signing key cannot be parsed") // the cause may quote key material
	}
	switch k := k.(type) {
	case *rsa.PrivateKey:
		return checkSize(key{public: &k.PublicKey, private: k})
	case *rsa.PublicKey:
		return checkSize(key{public: k})
	default:
		return key{}, errors.New("signing key is not an RSA key")
	}
}

func checkSize(k key) (key, error) {
	if n := k.public.N.BitLen(); n < keyBits {
		return key{}, fmt.Errorf("signing key has %d bits, at least %d are needed", n, keyBits)
	}
	return k, nil
}

// A ring finds the keys and revocations of families, and remembers parsed keys by the version of their Secret.
type ring struct {
	secrets Secrets
	mu      sync.Mutex
	parsed  map[resource.Key]parsedKey
}

type parsedKey struct {
	uid     string
	version uint64
	key     key
	err     error
}

const maxParsed = 10_000

// bySerial returns the keys of a family with a serial number. There can be several: control planes of one mesh number their keys
// each for itself, and know the public halves of the others.
func (r *ring) bySerial(f family, n int) ([]key, error) {
	suffix := strconv.Itoa(n)
	var found []key
	var failed error
	for _, prefix := range f.keys {
		r.secrets.EachSecret(f.mesh, prefix+suffix, func(s resource.Resource) bool {
			if s.Name != prefix+suffix { // serial 10 begins like serial 1
				return true
			}
			k, err := r.parse(s)
			if err != nil {
				failed = err
				return false
			}
			found = append(found, k)
			return false
		})
	}
	switch {
	case len(found) > 0:
		return found, nil
	case failed != nil:
		return nil, failed
	}
	return nil, fmt.Errorf("%w: %s, serial %d", ErrNoSigningKey, f.what, n)
}

// newest returns the private key of a family with the highest serial.
func (r *ring) newest(f family) (key, int, error) {
	best, bestSerial := key{}, 0
	var firstErr error
	for _, prefix := range f.keys {
		r.secrets.EachSecret(f.mesh, prefix, func(s resource.Resource) bool {
			n, ok := serial(s.Name, prefix)
			if !ok || n <= bestSerial {
				return true
			}
			k, err := r.parse(s)
			switch {
			case err != nil:
				firstErr = errors.Join(firstErr, fmt.Errorf("%s: %w", s.Name, err))
			case k.private != nil:
				best, bestSerial = k, n
			}
			return true
		})
	}
	if best.private == nil {
		err := fmt.Errorf("%w: %s", ErrNoSigningKey, f.what)
		return key{}, 0, errors.Join(err, firstErr)
	}
	return best, bestSerial, nil
}

func (r *ring) revoked(f family, id string) bool {
	found := false
	r.secrets.EachSecret(f.mesh, f.revocations, func(s resource.Resource) bool {
		if s.Name != f.revocations { // that of mesh "a-b" begins like that of mesh "a"
			return true
		}
		data, err := secretData(s)
		if err != nil {
			found = true // a revocation list that cannot be read must not let anyone in
			return false
		}
		for entry := range strings.SplitSeq(string(data), ",") {
			found = found || strings.TrimSpace(entry) == id
		}
		return false
	})
	return found
}

func (r *ring) parse(s resource.Resource) (key, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := r.parsed[s.Key()]
	if ok && p.uid == s.UID && p.version == s.Version && s.UID != "" {
		return p.key, p.err
	}
	data, err := secretData(s)
	p = parsedKey{uid: s.UID, version: s.Version, err: err}
	if err == nil {
		p.key, p.err = parseKey(data)
	}
	if r.parsed == nil || len(r.parsed) >= maxParsed {
		r.parsed = map[resource.Key]parsedKey{}
	}
	r.parsed[s.Key()] = p
	return p.key, p.err
}

func secretData(s resource.Resource) ([]byte, error) {
	var spec struct {
		Data []byte `json:"data"`
	}
	if err := json.Unmarshal(s.Raw, &spec); err != nil {
		return nil, errors.New("secret has no readable data")
	}
	return spec.Data, nil
}

// serial reads the number behind a prefix; anything else is another family's key or a user's own Secret.
func serial(name, prefix string) (int, bool) {
	digits, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(digits)
	return n, err == nil && n > 0 && strconv.Itoa(n) == digits
}
