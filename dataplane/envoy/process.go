package envoy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// logFormat makes each of Envoy's log entries one line: level, logger, escaped message.
const logFormat = "[%l][%n] %_"

// defaultStopTimeout is how long a stopping Envoy may take before it is killed.
const defaultStopTimeout = 10 * time.Second

// Config says how to run one Envoy.
type Config struct {
	Binary      string        // path of Envoy, from Find
	Bootstrap   []byte        // the bootstrap, YAML or JSON
	Dir         string        // an existing private directory; it belongs to one Envoy at a time
	LogLevel    string        // Envoy's log level; empty means warning
	Concurrency int           // worker threads; zero means one
	DrainTime   time.Duration // how long replaced listeners keep their connections; zero means Envoy's default
	StopTimeout time.Duration // how long Stop waits before it kills; zero means ten seconds
	Args        []string      // further command line arguments
	Log         *slog.Logger  // where Envoy's own log goes
	Env         []string      // Envoy's environment; nil means that of this process
	Stdout      *os.File      // where access logs to /dev/stdout go; nil throws them away
}

// Process is one running Envoy.
type Process struct {
	stopTimeout time.Duration
	cmd         *exec.Cmd
	done        chan struct{}
	err         error // how Envoy ended; readable after done is closed
}

// Start runs Envoy until it ends or Stop is called. It refuses a directory whose former Envoy still lives,
// since two of them would share listening addresses. Hot restart is off, so Envoys need no base id of their own.
func Start(ctx context.Context, c Config) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := executable(c.Binary); err != nil {
		return nil, fmt.Errorf("start envoy %q: %w", c.Binary, err)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	lock, err := lockDir(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("start envoy: %w", err)
	}
	// Envoy inherits the lock and holds it for as long as it lives, even if this process dies first.
	defer lock.Close()
	bootstrap := filepath.Join(c.Dir, "bootstrap.yaml")
	if err := os.WriteFile(bootstrap, c.Bootstrap, 0o600); err != nil {
		return nil, fmt.Errorf("write the Envoy bootstrap: %w", err)
	}
	// Envoy runs in its directory, so that configuration can name sockets in it without knowing where it is.
	cmd, err := c.command(bootstrap)
	if err != nil {
		return nil, fmt.Errorf("start envoy: %w", err)
	}
	cmd.SysProcAttr = childAttributes()
	cmd.ExtraFiles = []*os.File{lock}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, fmt.Errorf("start envoy: %w", err)
	}
	p := &Process{stopTimeout: c.StopTimeout, cmd: cmd, done: make(chan struct{})}
	if p.stopTimeout == 0 {
		p.stopTimeout = defaultStopTimeout
	}
	started := make(chan error)
	go p.run(stderr, c.Log, started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start envoy: %w", err)
	}
	return p, nil
}

func (c Config) command(bootstrap string) (*exec.Cmd, error) {
	binary, err := filepath.Abs(c.Binary)
	if err != nil {
		return nil, err
	}
	if bootstrap, err = filepath.Abs(bootstrap); err != nil {
		return nil, err
	}
	cmd := exec.Command(binary, c.args(bootstrap)...)
	cmd.Dir, cmd.Env = c.Dir, c.Env
	if c.Stdout != nil {
		cmd.Stdout = c.Stdout
	}
	return cmd, nil
}

func (c Config) args(bootstrap string) []string {
	level := c.LogLevel
	if level == "" {
		level = "warning"
	}
	args := []string{
		"--config-path", bootstrap,
		"--disable-hot-restart",
		"--concurrency", strconv.Itoa(max(1, c.Concurrency)),
		"--log-level", level,
		"--log-format", logFormat,
	}
	if c.DrainTime > 0 {
		seconds := int64((c.DrainTime + time.Second - 1) / time.Second)
		args = append(args, "--drain-time-s", strconv.FormatInt(seconds, 10))
	}
	return append(args, c.Args...)
}

// run starts and reaps Envoy on one thread: the kernel ties the parent-death signal to the thread that forked.
func (p *Process) run(stderr io.Reader, log *slog.Logger, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	defer close(p.done)
	last := forwardLog(stderr, log)
	if err := p.cmd.Wait(); err != nil {
		p.err = fmt.Errorf("envoy ended: %w", err)
		if last != "" {
			p.err = fmt.Errorf("envoy ended: %s: %w", last, err)
		}
	}
}

// PID returns Envoy's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when Envoy has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait blocks until Envoy has ended and says how: nil is a clean exit. The error carries the last
// error that Envoy logged.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Stop asks Envoy to end, kills it when it takes longer than the stop timeout or the context allows,
// and returns when it is gone. Stopping an Envoy that has ended does nothing.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop envoy %d: %w", p.PID(), err)
	}
	timer := time.NewTimer(p.stopTimeout)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
	case <-ctx.Done():
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill envoy %d: %w", p.PID(), err)
	}
	<-p.done
	return nil
}

// forwardLog copies Envoy's log until it ends and returns the last error in it.
func forwardLog(r io.Reader, log *slog.Logger) string {
	var lastError string
	level := slog.LevelInfo
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := readLine(lines)
		if line != "" {
			var name, text string
			// A line without a level is more of the entry before it, or a crash report.
			if l, n, t, ok := parseLog(line); ok {
				level, name, text = l, n, t
			} else {
				text = line
			}
			if level >= slog.LevelError {
				lastError = text
			}
			log.Log(context.Background(), level, text, "logger", name)
		}
		if err != nil {
			return lastError
		}
	}
}

// readLine returns one line without its end, cut at the size of the buffer: the rest of a longer one is dropped.
func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadSlice('\n')
	text := strings.TrimRight(string(line), "\r\n")
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = r.ReadSlice('\n')
	}
	return text, err
}

var levels = map[string]slog.Level{
	"trace":    slog.LevelDebug - 4,
	"debug":    slog.LevelDebug,
	"info":     slog.LevelInfo,
	"warning":  slog.LevelWarn,
	"error":    slog.LevelError,
	"critical": slog.LevelError,
}

// parseLog takes apart an entry in logFormat.
func parseLog(line string) (level slog.Level, logger, text string, ok bool) {
	head, text, found := strings.Cut(line, "] ")
	if !found || !strings.HasPrefix(head, "[") {
		return 0, "", "", false
	}
	name, logger, found := strings.Cut(head[1:], "][")
	if !found {
		return 0, "", "", false
	}
	level, ok = levels[name]
	return level, logger, text, ok
}

// Validate lets Envoy judge a bootstrap, static resources included, without serving it.
func Validate(ctx context.Context, bootstrap []byte) error {
	binary, err := Find(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "envoy-validate-")
	if err != nil {
		return fmt.Errorf("validate with envoy: %w", err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "bootstrap.yaml")
	if err := os.WriteFile(path, bootstrap, 0o600); err != nil {
		return fmt.Errorf("validate with envoy: %w", err)
	}
	cmd := exec.CommandContext(ctx, binary, "--mode", "validate", "--config-path", path,
		"--disable-hot-restart", "--log-level", "error", "--log-format", logFormat)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("validate with envoy: %w", ctx.Err())
	}
	return fmt.Errorf("envoy refuses the configuration: %s", refusal(string(out), path))
}

// refusal picks from a validation's output what Envoy found wrong.
func refusal(out, path string) string {
	for line := range strings.Lines(out) {
		level, _, text, ok := parseLog(strings.TrimSpace(line))
		if ok && level == slog.LevelError {
			return strings.TrimPrefix(text, fmt.Sprintf("error initializing configuration '%s': ", path))
		}
	}
	return lastLines(out, 3)
}
