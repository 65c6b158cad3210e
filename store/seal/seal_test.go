package seal_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/store/seal"
)

func newKey(t *testing.T) seal.Key {
	t.Helper()
	k, err := seal.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newSealer(t *testing.T, keys ...seal.Key) *seal.Sealer {
	t.Helper()
	s, err := seal.New(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustSeal(t *testing.T, s *seal.Sealer, data, context string) []byte {
	t.Helper()
	e, err := s.Seal([]byte(data), context)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestOpenReturnsWhatWasSealed(t *testing.T) {
	s := newSealer(t, newKey(t))
	for _, data := range []string{"", "x", strings.Repeat("long ", 100_000)} {
		e := mustSeal(t, s, data, "Secret default/a")
		if len(data) > 4 && bytes.Contains(e, []byte(data)) {
			t.Error("the envelope shows the data")
		}
		got, err := s.Open(e, "Secret default/a")
		if err != nil || string(got) != data {
			t.Errorf("open %d bytes: got %d bytes, %v", len(data), len(got), err)
		}
	}
}

func TestEqualSecretsHaveDifferentEnvelopes(t *testing.T) {
	s := newSealer(t, newKey(t))
	if bytes.Equal(mustSeal(t, s, "same", "c"), mustSeal(t, s, "same", "c")) {
		t.Error("two envelopes of the same data are equal")
	}
}

func TestEnvelopeOpensOnlyInItsContext(t *testing.T) {
	s := newSealer(t, newKey(t))
	e := mustSeal(t, s, "data", "Secret default/a")
	if _, err := s.Open(e, "Secret default/b"); !errors.Is(err, seal.ErrCorrupt) {
		t.Errorf("open under another name: got %v, want ErrCorrupt", err)
	}
}

func TestEveryChangedByteIsNoticed(t *testing.T) {
	s := newSealer(t, newKey(t))
	e := mustSeal(t, s, "data", "c")
	for i := range e {
		bad := bytes.Clone(e)
		bad[i] ^= 1
		if _, err := s.Open(bad, "c"); err == nil {
			t.Fatalf("byte %d changed and nobody noticed", i)
		}
		if _, err := s.Open(e[:i], "c"); !errors.Is(err, seal.ErrCorrupt) {
			t.Fatalf("cut at %d: got %v, want ErrCorrupt", i, err)
		}
	}
}

func TestRotation(t *testing.T) {
	oldKey, newest := newKey(t), newKey(t)
	before := newSealer(t, oldKey)
	both := newSealer(t, oldKey, newest)
	after := newSealer(t, newest)

	e := mustSeal(t, before, "data", "c")
	if !both.Stale(e) || before.Stale(e) {
		t.Error("an envelope is stale exactly when it was not sealed by the newest key")
	}
	if _, err := after.Open(e, "c"); !errors.Is(err, seal.ErrUnknownKey) || !strings.Contains(err.Error(), oldKey.ID) {
		t.Errorf("open without the old key: got %v, want ErrUnknownKey naming %s", err, oldKey.ID)
	}
	re, err := both.Rewrap(e, "c")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := after.Open(re, "c"); err != nil || string(got) != "data" {
		t.Errorf("open after rewrap: got %q, %v", got, err)
	}
	if id, err := seal.KeyID(re); err != nil || id != newest.ID || both.Stale(re) {
		t.Errorf("rewrapped envelope has key %q, %v; want %q and not stale", id, err, newest.ID)
	}
	if id, _ := seal.KeyID(mustSeal(t, both, "x", "c")); id != newest.ID {
		t.Errorf("sealed with %q, want the newest %q", id, newest.ID)
	}
	if _, err := both.Rewrap(e, "other"); !errors.Is(err, seal.ErrCorrupt) {
		t.Errorf("rewrap under another name: got %v, want ErrCorrupt", err)
	}
}

func TestParseRefusesBadKeys(t *testing.T) {
	good := seal.Format([]seal.Key{newKey(t)})
	for name, text := range map[string]string{
		"nothing":      " \n# only a comment\n",
		"no separator": "abc",
		"not base64":   "a:???",
		"short":        "a:QUJD",
		"bad id":       "a b:" + strings.SplitN(good, ":", 2)[1],
	} {
		if _, err := seal.Parse(text); !errors.Is(err, seal.ErrKeys) {
			t.Errorf("%s: got %v, want ErrKeys", name, err)
		}
	}
	keys, err := seal.Parse("# comment\n" + good)
	if err != nil || len(keys) != 1 {
		t.Fatalf("parse: %v, %v", keys, err)
	}
	if _, err := seal.New(keys[0], keys[0]); !errors.Is(err, seal.ErrKeys) {
		t.Errorf("the same id twice: got %v, want ErrKeys", err)
	}
}

func TestFileIsMadePrivateAndReadBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seal.keys")
	first, created, err := seal.LoadFile(path)
	if err != nil || !created {
		t.Fatalf("first load: created %v, %v", created, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v; want 0600", info.Mode(), err)
	}
	again, created, err := seal.LoadFile(path)
	if err != nil || created || seal.Format(again) != seal.Format(first) {
		t.Fatalf("second load: created %v, %v; want the same key", created, err)
	}
	added, err := seal.Rotate(path)
	if err != nil {
		t.Fatal(err)
	}
	rotated, _, err := seal.LoadFile(path)
	if err != nil || len(rotated) != 2 || rotated[1].ID != added.ID {
		t.Fatalf("after rotation: %v, %v; want the new key last", rotated, err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, _, err := seal.LoadFile(path); !errors.Is(err, seal.ErrKeys) || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("readable by the group: got %v, want a refusal that says chmod 600", err)
	}
}

func TestKeysDoNotPrint(t *testing.T) {
	k := newKey(t)
	text := strings.TrimSpace(seal.Format([]seal.Key{k}))
	secret := text[strings.Index(text, ":")+1:]
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if out := fmt.Sprintf(format, k); strings.Contains(out, secret) || strings.Contains(out, fmt.Sprint(k.Secret)) {
			t.Errorf("%s prints the key: %s", format, out)
		}
	}
}

func FuzzOpen(f *testing.F) {
	s, err := seal.New(seal.Key{ID: "k1", Secret: bytes.Repeat([]byte{7}, 32)})
	if err != nil {
		f.Fatal(err)
	}
	good, err := s.Seal([]byte("data"), "c")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("cws1"))
	f.Add([]byte("cws1\x02k1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := s.Open(b, "c")
		if err == nil && !bytes.Equal(b, good) && string(got) != "data" {
			t.Errorf("an envelope nobody sealed opened to %q", got)
		}
	})
}
