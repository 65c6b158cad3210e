package arch_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/rest"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/memory"
	"github.com/causeway-mesh/causeway/store/seal"
	"github.com/causeway-mesh/causeway/test/comments"
)

func TestCommentsAreFresh(t *testing.T) {
	want, err := comments.Of(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile(filepath.Join(root, "api", "schema", "comments.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want) {
		t.Error("api/schema/comments.txt is not what the source says; run go generate ./api/schema")
	}
}

// linter is the one of the documentation of the API, at a version whose rules are known.
const linter = "@redocly/cli@2.77.0"

// TestDocumentationIsLinted lets a linter of others read the documentation of the API.
func TestDocumentationIsLinted(t *testing.T) {
	npx, err := exec.LookPath("npx")
	if err != nil {
		need(t, "npx (packages nodejs and npm)")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, npx, "--yes", linter, "--version").CombinedOutput(); err != nil {
		need(t, linter+" ("+string(bytes.TrimSpace(out))+")")
	}
	sealer, err := seal.New(seal.Key{ID: "test", Secret: bytes.Repeat([]byte("k"), 32)})
	if err != nil {
		t.Fatal(err)
	}
	c, err := catalog.Open(ctx, catalog.Config{Store: memory.New(), Kinds: api.Kinds(), Sealer: sealer})
	if err != nil {
		t.Fatal(err)
	}
	s, err := rest.New(rest.Config{Catalog: c, Mode: rest.Global})
	if err != nil {
		t.Fatal(err)
	}
	doc, _ := s.Document()
	b, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "openapi.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, npx, "--yes", linter, "lint", "--max-problems=1000", "--config=redocly.yaml", file)
	cmd.Dir = filepath.Join(root, "test", "arch")
	cmd.Env = append(os.Environ(), "REDOCLY_TELEMETRY=off", "REDOCLY_SUPPRESS_UPDATE_NOTICE=true")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
