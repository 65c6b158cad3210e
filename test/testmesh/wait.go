package testmesh

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience bounds every wait; it is only reached by a test that fails.
const patience = 20 * time.Second

// Until waits for a named condition and says how long it took. The state that the condition saw last is shown when it never holds.
func (z *Zone) Until(t testing.TB, what string, cond func() (state any, ok bool)) time.Duration {
	t.Helper()
	return z.Within(t, patience, what, cond)
}

// Within is Until with a bound of its own.
func (z *Zone) Within(t testing.TB, bound time.Duration, what string, cond func() (state any, ok bool)) time.Duration {
	t.Helper()
	start := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		state, ok := cond()
		if ok {
			return time.Since(start)
		}
		if time.Since(start) > bound {
			t.Fatalf("%s: not within %s; last seen: %v", what, bound, state)
		}
		<-tick.C
	}
}

// kept is how many entries of a log are remembered.
const kept = 400

// A journal keeps the end of a log for the output of a failed test.
type journal struct {
	lines *lines
	attrs []slog.Attr
}

type lines struct {
	mu  sync.Mutex
	all []string
}

func newJournal() *journal { return &journal{lines: &lines{}} }

// Enabled implements slog.Handler.
func (*journal) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

// WithGroup implements slog.Handler.
func (j *journal) WithGroup(string) slog.Handler { return j }

// WithAttrs implements slog.Handler.
func (j *journal) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &journal{lines: j.lines, attrs: append(append([]slog.Attr{}, j.attrs...), attrs...)}
}

// Handle implements slog.Handler.
func (j *journal) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s", r.Time.Format("05.000"), r.Level, r.Message)
	add := func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s", a)
		return true
	}
	for _, a := range j.attrs {
		add(a)
	}
	r.Attrs(add)
	j.lines.mu.Lock()
	defer j.lines.mu.Unlock()
	j.lines.all = append(j.lines.all, b.String())
	if len(j.lines.all) > 2*kept {
		j.lines.all = append([]string{}, j.lines.all[kept:]...)
	}
	return nil
}

func (j *journal) tail(n int) string {
	j.lines.mu.Lock()
	defer j.lines.mu.Unlock()
	all := j.lines.all[max(0, len(j.lines.all)-n):]
	out := make([]string, len(all))
	for i, l := range all {
		out[i] = l[:min(len(l), 400)]
	}
	return strings.Join(out, "\n")
}
