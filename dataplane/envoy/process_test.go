package envoy

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// realEnvoy returns Envoy's path; a machine without it skips, CI fails.
func realEnvoy(t *testing.T) string {
	t.Helper()
	path, err := Find(t.Context())
	if errors.Is(err, ErrNotFound) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// shellEnvoy is a program in Envoy's place, for ends that the real one cannot be made to take.
func shellEnvoy(t *testing.T, script string) string {
	return write(t, filepath.Join(t.TempDir(), "envoy"), "#!/bin/sh\n"+script, 0o755)
}

func adminOnly(dir string) []byte {
	return []byte("admin: {address: {pipe: {path: " + filepath.Join(dir, "admin.sock") + "}}}\n")
}

func TestProcessRunsAndStops(t *testing.T) {
	binary, dir := realEnvoy(t), t.TempDir()
	c := Config{Binary: binary, Bootstrap: adminOnly(dir), Dir: dir, Log: quiet}
	p, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop(t.Context())
	_, err = Start(t.Context(), c)
	wantError(t, err, "another Envoy still runs from "+dir)

	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	default:
		t.Error("Stop returned before Envoy was gone")
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Errorf("second Stop = %v", err)
	}

	again, err := Start(t.Context(), c)
	if err != nil {
		t.Fatalf("start from the released directory: %v", err)
	}
	if err := again.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestProcessReportsWhyEnvoyEnded(t *testing.T) {
	binary, dir := realEnvoy(t), t.TempDir()
	p, err := Start(t.Context(), Config{Binary: binary, Bootstrap: []byte("static_resources: {listeners: [{name: x}]}"), Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, p.Wait(), "error adding listener named 'x': address is necessary", "exit status 1")
}

func TestStopKillsAnEnvoyThatDoesNotEnd(t *testing.T) {
	marker := filepath.Join(t.TempDir(), "ready")
	binary := shellEnvoy(t, "trap '' TERM; : > "+marker+"; while :; do sleep 0.05; done\n")
	p, err := Start(t.Context(), Config{Binary: binary, Dir: t.TempDir(), StopTimeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the program runs", func() bool { _, err := os.Stat(marker); return err == nil })
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantError(t, p.Wait(), "killed")
}

func TestStartRefusesWhatCannotRun(t *testing.T) {
	plain := write(t, filepath.Join(t.TempDir(), "plain"), "x", 0o644)
	for name, c := range map[string]struct {
		config Config
		want   string
	}{
		"no binary":      {Config{Binary: "/nonexistent/envoy", Dir: t.TempDir()}, "no such file"},
		"not executable": {Config{Binary: plain, Dir: t.TempDir()}, "not executable"},
		"no directory":   {Config{Binary: shellEnvoy(t, ""), Dir: "/nonexistent"}, "claim the directory"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Start(t.Context(), c.config)
			wantError(t, err, "start envoy", c.want)
		})
	}
}

func TestLogLinesKeepTheirLevel(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{
		Level: slog.LevelDebug - 4,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
	input := strings.Join([]string{
		`[info][main] starting`,
		`[warning][config] DeltaAggregatedResources gRPC config stream closed: 14`,
		`  more of the warning`,
		`[error][upstream] [not a level] bad`,
		`[nonsense][x] y`,
		`[trace][http] ` + strings.Repeat("x", 70<<10),
		`[debug][main] end`,
	}, "\n")
	last := forwardLog(strings.NewReader(input), log)
	got := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(got) != 7 {
		t.Fatalf("%d log lines, want 7", len(got))
	}
	if !strings.HasPrefix(got[5], "level=DEBUG-4") || len(got[5]) > 66<<10 {
		t.Errorf("overlong line: %.40q of %d bytes", got[5], len(got[5]))
	}
	got[5] = "long"
	want := []string{
		`level=INFO msg=starting logger=main`,
		`level=WARN msg="DeltaAggregatedResources gRPC config stream closed: 14" logger=config`,
		`level=WARN msg="  more of the warning" logger=""`,
		`level=ERROR msg="[not a level] bad" logger=upstream`,
		`level=ERROR msg="[nonsense][x] y" logger=""`,
		`long`,
		`level=DEBUG msg=end logger=main`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if last != "[nonsense][x] y" {
		t.Errorf("last error = %q", last)
	}
}

func TestValidate(t *testing.T) {
	t.Setenv(PathVariable, realEnvoy(t))
	if err := Validate(t.Context(), adminOnly(t.TempDir())); err != nil {
		t.Errorf("good bootstrap: %v", err)
	}
	for name, c := range map[string]struct{ yaml, want string }{
		"not yaml":        {"{", "yaml-cpp"},
		"unknown field":   {"nonsense: 1", "nonsense"},
		"field rule":      {"static_resources: {clusters: [{name: ''}]}", "value length must be at least 1"},
		"without address": {"static_resources: {listeners: [{name: x}]}", "error adding listener named 'x': address is necessary"},
	} {
		t.Run(name, func(t *testing.T) {
			wantError(t, Validate(t.Context(), []byte(c.yaml)), "envoy refuses the configuration: ", c.want)
		})
	}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 5 s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}
