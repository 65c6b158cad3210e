package uplink

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/memory"
)

// A tokenFile yields a join token, or an error in its place.
type tokenFile struct {
	mu   sync.Mutex
	text string
	err  error
}

func (f *tokenFile) read() (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.text, f.err
}

func (f *tokenFile) set(text string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.text, f.err = text, err
}

// A tally counts the lines of a log.
type tally struct {
	slog.Handler
	mu    sync.Mutex
	lines []string
}

func (c *tally) Handle(_ context.Context, r slog.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "err" {
			c.lines = append(c.lines, a.Value.String())
		}
		return true
	})
	return nil
}

func (c *tally) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() { c.lines = nil }()
	return c.lines
}

// TestAZoneThatIsRefusedAsksSeldom: global has decided, and every try makes two logs longer. A new token is tried at once.
func TestAZoneThatIsRefusedAsksSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := catalog.Open(t.Context(), catalog.Config{Store: memory.New(), Kinds: resource.NewKinds(mesh.Kinds...)})
		if err != nil {
			t.Fatal(err)
		}
		file, log := &tokenFile{}, &tally{Handler: slog.NewTextHandler(t.Output(), nil)}
		// The refusal stands for that of the server: what counts is its code.
		file.set("", status.Error(codes.PermissionDenied, "the join token is refused: it was used"))
		u := New(Config{Catalog: c, Zone: "east", JoinToken: file.read, Log: slog.New(log)})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- u.keep(ctx) }()
		time.Sleep(10 * time.Minute)
		if n := len(log.take()); n < 13 || n > 50 {
			t.Errorf("it asked %d times in 10 minutes, want about every 30s", n)
		}
		file.set("another", nil)
		time.Sleep(tokenEvery)
		synctest.Wait()
		if lines := log.take(); len(lines) == 0 || !strings.Contains(lines[0], "global.joinTokenFile") {
			t.Errorf("after there is another token: %q, want a try with it", lines)
		}
		time.Sleep(time.Minute)
		if n := len(log.take()); n < 8 {
			t.Errorf("what is no refusal was tried %d times in a minute", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
