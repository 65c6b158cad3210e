// Package seal encrypts secrets before any store sees them: every envelope has a data key of its own,
// wrapped by a key-encryption key that stays outside the store. It reads keys from text or a file;
// it stores no envelope, knows no resource and rotates nothing by itself.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
)

// The outcomes that callers distinguish; each is wrapped with what was being done.
var (
	// ErrUnknownKey is an envelope sealed with a key that this sealer does not hold.
	ErrUnknownKey = errors.New("sealing key is not known")
	// ErrCorrupt is an envelope that was changed, cut, or moved to another object.
	ErrCorrupt = errors.New("sealed data is damaged or belongs to another object")
	// ErrKeys is a set of keys that cannot be used.
	ErrKeys = errors.New("sealing keys cannot be used")
)

// An envelope is: magic, length of the key id, key id, wrapped data key, sealed data.
// The wrapped key is authenticated with the key id and the context, the data with the context alone,
// so that Rewrap replaces the first part and leaves the data as it is.
const (
	magic      = "cws1"
	keySize    = 32
	overhead   = 12 + 16 // nonce and tag of AES-GCM
	wrapped    = keySize + overhead
	maxKeyID   = 64
	headerSize = len(magic) + 1
)

// A Sealer seals with its newest key and opens with any of its keys. It is immutable and safe for concurrent use.
type Sealer struct {
	newest string
	keys   map[string]cipher.AEAD
}

// New makes a sealer; the last key is the newest and seals.
func New(keys ...Key) (*Sealer, error) {
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w: there is none", ErrKeys)
	}
	s := &Sealer{keys: make(map[string]cipher.AEAD, len(keys))}
	for _, k := range keys {
		if err := k.check(); err != nil {
			return nil, err
		}
		if _, dup := s.keys[k.ID]; dup {
			return nil, fmt.Errorf("%w: id %q appears twice", ErrKeys, k.ID)
		}
		aead, err := gcm(k.Secret)
		if err != nil {
			return nil, fmt.Errorf("%w: key %q: %w", ErrKeys, k.ID, err)
		}
		s.keys[k.ID] = aead
		s.newest = k.ID
	}
	return s, nil
}

// Newest is the id of the key that seals.
func (s *Sealer) Newest() string { return s.newest }

// Seal encrypts data for one context, the address of the object that holds it.
func (s *Sealer) Seal(data []byte, context string) ([]byte, error) {
	dek := make([]byte, keySize)
	if _, err := rand.Read(dek); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	aead, err := gcm(dek)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	out := make([]byte, 0, headerSize+len(s.newest)+wrapped+len(data)+overhead)
	out = s.wrap(out, dek, context)
	return aead.Seal(out, nil, data, dataContext(context)), nil
}

// Open decrypts an envelope that was sealed for the same context.
func (s *Sealer) Open(envelope []byte, context string) ([]byte, error) {
	dek, sealed, err := s.unwrap(envelope, context)
	if err != nil {
		return nil, fmt.Errorf("open sealed data: %w", err)
	}
	aead, err := gcm(dek)
	if err != nil {
		return nil, fmt.Errorf("open sealed data: %w", err)
	}
	data, err := aead.Open(nil, nil, sealed, dataContext(context))
	if err != nil {
		return nil, fmt.Errorf("open sealed data: %w", ErrCorrupt)
	}
	return data, nil
}

// Rewrap returns the envelope under the newest key. The data is not re-encrypted, only its key is.
func (s *Sealer) Rewrap(envelope []byte, context string) ([]byte, error) {
	dek, sealed, err := s.unwrap(envelope, context)
	if err != nil {
		return nil, fmt.Errorf("rewrap sealed data: %w", err)
	}
	out := make([]byte, 0, headerSize+len(s.newest)+wrapped+len(sealed))
	return append(s.wrap(out, dek, context), sealed...), nil
}

// Stale says whether an envelope was not sealed by the newest key and should be rewrapped.
func (s *Sealer) Stale(envelope []byte) bool {
	id, _, err := split(envelope)
	return err == nil && id != s.newest
}

// KeyID is the id of the key that an envelope needs.
func KeyID(envelope []byte) (string, error) {
	id, _, err := split(envelope)
	return id, err
}

func (s *Sealer) wrap(out, dek []byte, context string) []byte {
	out = append(out, magic...)
	out = append(out, byte(len(s.newest)))
	out = append(out, s.newest...)
	return s.keys[s.newest].Seal(out, nil, dek, keyContext(s.newest, context))
}

func (s *Sealer) unwrap(envelope []byte, context string) (dek, sealed []byte, err error) {
	id, rest, err := split(envelope)
	if err != nil {
		return nil, nil, err
	}
	kek, ok := s.keys[id]
	if !ok {
		return nil, nil, fmt.Errorf("%w: %q; add it to the sealing keys before the newest one", ErrUnknownKey, id)
	}
	dek, err = kek.Open(nil, nil, rest[:wrapped], keyContext(id, context))
	if err != nil {
		return nil, nil, ErrCorrupt
	}
	return dek, rest[wrapped:], nil
}

func split(envelope []byte) (id string, rest []byte, err error) {
	if len(envelope) < headerSize || string(envelope[:len(magic)]) != magic {
		return "", nil, fmt.Errorf("%w: it is not an envelope", ErrCorrupt)
	}
	n := int(envelope[len(magic)])
	if n == 0 || n > maxKeyID || len(envelope) < headerSize+n+wrapped+overhead {
		return "", nil, fmt.Errorf("%w: it is too short", ErrCorrupt)
	}
	return string(envelope[headerSize : headerSize+n]), envelope[headerSize+n:], nil
}

func keyContext(id, context string) []byte {
	return []byte(magic + "\x00key\x00" + id + "\x00" + context)
}

func dataContext(context string) []byte { return []byte(magic + "\x00data\x00" + context) }

func gcm(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
