package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// A Key is one key-encryption key. Its secret never prints.
type Key struct {
	ID     string // letters, digits, dots, dashes and underscores
	Secret []byte // 32 bytes
}

// String names the key without its secret.
func (k Key) String() string { return "sealing key " + k.ID }

// GoString keeps the secret out of %#v.
func (k Key) GoString() string { return k.String() }

// LogValue keeps the secret out of logs.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// NewKey makes a random key with a random id.
func NewKey() (Key, error) {
	b := make([]byte, 4+keySize)
	if _, err := rand.Read(b); err != nil {
		return Key{}, fmt.Errorf("make sealing key: %w", err)
	}
	return Key{ID: hex.EncodeToString(b[:4]), Secret: b[4:]}, nil
}

func (k Key) check() error {
	if k.ID == "" || len(k.ID) > maxKeyID || strings.Trim(k.ID, idLetters) != "" {
		// The id is not shown: whoever swapped id and key would read the key in a log.
		return fmt.Errorf("%w: an id must be 1 to %d letters, digits, dots, dashes and underscores", ErrKeys, maxKeyID)
	}
	if len(k.Secret) != keySize {
		return fmt.Errorf("%w: key %q has %d bytes, %d are needed", ErrKeys, k.ID, len(k.Secret), keySize)
	}
	return nil
}

const idLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

// Parse reads keys written as "id:base64", separated by newlines or commas, the newest last.
// Lines that begin with # are comments. Messages name the position of a bad key, never its text.
func Parse(text string) ([]Key, error) {
	var keys []Key
	for n, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		for entry := range strings.SplitSeq(line, ",") {
			if entry = strings.TrimSpace(entry); entry == "" {
				continue
			}
			k, err := parseKey(entry)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", n+1, err)
			}
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w: there is none", ErrKeys)
	}
	return keys, nil
}

func parseKey(entry string) (Key, error) {
	id, encoded, ok := strings.Cut(entry, ":")
	if !ok {
		return Key{}, fmt.Errorf("%w: an entry must have the form id:base64", ErrKeys)
	}
	secret, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
	if err != nil {
		return Key{}, fmt.Errorf("%w: what follows the id is not base64", ErrKeys)
	}
	k := Key{ID: strings.TrimSpace(id), Secret: secret}
	return k, k.check()
}

// Format writes keys as Parse reads them.
func Format(keys []Key) string {
	var b strings.Builder
	for _, k := range keys {
		b.WriteString(k.ID + ":" + base64.StdEncoding.EncodeToString(k.Secret) + "\n")
	}
	return b.String()
}

// LoadFile reads the keys of a file. When there is no file it makes one with a new key, mode 0600, and says so by created.
func LoadFile(path string) (keys []Key, created bool, err error) {
	keys, err = readFile(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return keys, false, err
	}
	k, err := NewKey()
	if err != nil {
		return nil, false, err
	}
	err = writeFile(path, []Key{k}, false)
	if errors.Is(err, fs.ErrExist) { // another process was first: its key is the one to use
		keys, err = readFile(path)
		return keys, false, err
	}
	if err != nil {
		return nil, false, err
	}
	return []Key{k}, true, nil
}

// Rotate adds a new key to a file; from the next start it seals, and the older ones still open.
func Rotate(path string) (Key, error) {
	keys, err := readFile(path)
	if err != nil {
		return Key{}, err
	}
	k, err := NewKey()
	if err != nil {
		return Key{}, err
	}
	if err := writeFile(path, append(keys, k), true); err != nil {
		return Key{}, err
	}
	return k, nil
}

func readFile(path string) ([]Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read sealing keys: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read sealing keys: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a file", ErrKeys, path)
	}
	if m := info.Mode().Perm(); m&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s has mode %04o, so others can read it; run chmod 600 %s", ErrKeys, path, m, path)
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(f); err != nil {
		return nil, fmt.Errorf("read sealing keys: %w", err)
	}
	keys, err := Parse(b.String())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return keys, nil
}

// writeFile makes the new content durable under another name before it appears, so that a crash never leaves half a file.
func writeFile(path string, keys []Key, replace bool) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".seal-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write sealing keys: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString("# Keys that seal secrets, id:base64, newest last. Back this file up apart from the store.\n" + Format(keys))
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err != nil {
		return fmt.Errorf("write sealing keys: %w", err)
	}
	place := os.Link // refuses to replace, unlike a rename
	if replace {
		place = os.Rename
	}
	if err := place(tmp.Name(), path); err != nil {
		return fmt.Errorf("write sealing keys: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write sealing keys: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("write sealing keys: sync %s: %w", dir, err)
	}
	return nil
}
