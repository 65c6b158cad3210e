package demo_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/dataplane/envoy"
	"github.com/causeway-mesh/causeway/deploy/demo"
)

// TestStory plays the demo as a newcomer gets it: the built binary, real Envoys, processes that are stopped and killed.
func TestStory(t *testing.T) {
	if _, err := envoy.Find(t.Context()); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	binary := filepath.Join(t.TempDir(), "causeway")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../..").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := demo.Run(ctx, demo.Options{Binary: binary, Out: t.Output(), Check: true}); err != nil {
		t.Fatal(err)
	}
}
