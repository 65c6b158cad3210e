package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// ControlDir is where below a base directory of a user the running demo is found.
func ControlDir(base string) string { return filepath.Join(base, "causeway-demo") }

// ErrNotRunning is told when there is no demo to talk to.
var ErrNotRunning = errors.New("no demo of yours is running")

// ErrRunning is told when a second demo is started.
var ErrRunning = errors.New("a demo of yours is running already")

var errStarting = errors.New("the demo is still starting; try again in a moment")

// A command is what is asked of a running demo.
type command struct {
	Target string `json:"target,omitempty"`
	Kill   bool   `json:"kill,omitempty"`
}

// A message is one of the lines that a running demo answers with. The last one says that it is.
type message struct {
	Line  string `json:"line,omitempty"`
	Last  bool   `json:"last,omitempty"`
	Error string `json:"error,omitempty"`
}

const (
	maxCommand = 4 << 10
	maxReply   = 1 << 20
)

// control is where other commands of this user reach the demo: HTTP with JSON over a Unix socket.
type control struct {
	claim  *os.File
	socket net.Listener
	server *http.Server
	served chan struct{}
	gone   chan struct{} // closed when nothing of the demo runs any more
}

// listenControl claims the one place of a user's demo.
func listenControl(dir string) (*control, error) {
	if err := privateDir(dir); err != nil {
		return nil, err
	}
	claim, err := claimDir(dir)
	if err != nil {
		return nil, err
	}
	path := socketPath(dir)
	_ = os.Remove(path) // of a demo that was killed
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", path)
	if err != nil {
		claim.Close()
		return nil, fmt.Errorf("listen for commands (a shorter XDG_RUNTIME_DIR may help): %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close(), claim.Close())
	}
	return &control{claim: claim, socket: l, gone: make(chan struct{})}, nil
}

func socketPath(dir string) string { return filepath.Join(dir, "socket") }

// privateDir makes a directory that only this user may enter.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the directory of the demo: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("make the directory of the demo: %w", err)
	}
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 || !mine(info) {
		return fmt.Errorf("%s must be a directory that only you may enter; remove it, it will be made anew", dir)
	}
	return nil
}

func (c *control) serve(h http.Handler) {
	c.server = &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 8 << 10}
	c.served = make(chan struct{})
	go func() {
		defer close(c.served)
		_ = c.server.Serve(c.socket) // ends when it is shut down
	}()
}

// close lets the last commands have their answers, cleans up, and makes room for the next demo.
func (c *control) close(clean func() error) error {
	close(c.gone)
	var err error
	if c.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		err = c.server.Shutdown(ctx)
		<-c.served
	} else {
		err = c.socket.Close()
	}
	return errors.Join(err, clean(), c.claim.Close())
}

// handler answers commands until run ends.
func (d *Demo) handler(run context.Context) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", d.whenReady(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(d.status()) // the client may be gone
	}))
	mux.HandleFunc("POST /break", d.act(run, "break", func(ctx context.Context, c command, tell func(string)) error {
		return d.breakParts(ctx, c.Target, c.Kill, tell)
	}))
	mux.HandleFunc("POST /heal", d.act(run, "heal", func(ctx context.Context, c command, tell func(string)) error {
		return d.heal(ctx, c.Target, tell)
	}))
	mux.HandleFunc("POST /trace", d.act(run, "trace", func(ctx context.Context, _ command, tell func(string)) error {
		return d.trace(ctx, tell)
	}))
	mux.HandleFunc("POST /down", func(w http.ResponseWriter, _ *http.Request) {
		n := d.alive.Load()
		tell := teller(w)
		d.end()
		<-d.control.gone
		tell(message{Line: fmt.Sprintf("The demo is down: %d processes were stopped.", n), Last: true})
	})
	return mux
}

func (d *Demo) whenReady(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !d.ready.Load() {
			http.Error(w, errStarting.Error(), http.StatusServiceUnavailable)
			return
		}
		h(w, r)
	}
}

// act does one thing at a time for clients, and tells both them and the one who started the demo.
func (d *Demo) act(run context.Context, verb string, do func(context.Context, command, func(string)) error) http.HandlerFunc {
	return d.whenReady(func(w http.ResponseWriter, r *http.Request) {
		tell := teller(w)
		var c command
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxCommand))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&c); err != nil {
			tell(message{Error: "the command cannot be read: " + err.Error(), Last: true})
			return
		}
		if !d.acting.TryLock() {
			tell(message{Error: "another command is under way; try again when it has ended", Last: true})
			return
		}
		defer d.acting.Unlock()
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(run, cancel)()
		d.say("%s  %s", time.Now().Format(time.TimeOnly), strings.TrimSpace(verb+" "+c.Target))
		err := do(ctx, c, func(line string) { tell(message{Line: line}) })
		last := message{Last: true}
		if err != nil {
			last.Error = err.Error()
		}
		tell(last)
	})
}

// teller sends messages one by one.
func teller(w http.ResponseWriter) func(message) {
	w.Header().Set("Content-Type", "application/json")
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	var mu sync.Mutex
	return func(m message) {
		mu.Lock()
		defer mu.Unlock()
		_ = enc.Encode(m) // the client may be gone
		_ = flush.Flush()
	}
}

// A Running is a demo of this user that another process runs.
type Running struct{ http *http.Client }

// Find looks for the demo of this user.
func Find(dir string) *Running {
	return &Running{&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socketPath(dir))
		},
		DisableKeepAlives: true,
	}}}
}

// Break stops a part of the demo, or kills it, and tells what came of it.
func (r *Running) Break(ctx context.Context, target string, kill bool, out io.Writer) error {
	return r.command(ctx, "break", command{target, kill}, out)
}

// Heal starts what is broken of a part, and of everything when none is named.
func (r *Running) Heal(ctx context.Context, target string, out io.Writer) error {
	return r.command(ctx, "heal", command{Target: target}, out)
}

// Trace follows one request through the proxies and tells what they saw of it.
func (r *Running) Trace(ctx context.Context, out io.Writer) error {
	return r.command(ctx, "trace", command{}, out)
}

// Down ends the demo and returns when nothing of it runs any more.
func (r *Running) Down(ctx context.Context, out io.Writer) error {
	return r.command(ctx, "down", command{}, out)
}

// Status says how the demo stands.
func (r *Running) Status(ctx context.Context) (Status, error) {
	var s Status
	res, err := r.do(ctx, http.MethodGet, "status", "")
	if err != nil {
		return s, err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(io.LimitReader(res.Body, maxReply)).Decode(&s); err != nil {
		return s, fmt.Errorf("read what the demo answers: %w", err)
	}
	return s, nil
}

func (r *Running) do(ctx context.Context, method, path, body string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://demo/"+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	res, err := r.http.Do(req)
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return nil, ErrNotRunning
	}
	if err == nil && res.StatusCode == http.StatusServiceUnavailable {
		res.Body.Close()
		return nil, errStarting
	}
	if err == nil && res.StatusCode != http.StatusOK {
		res.Body.Close()
		return nil, fmt.Errorf("the demo answers %s; was it started by another version of causeway?", res.Status)
	}
	return res, err
}

func (r *Running) command(ctx context.Context, verb string, c command, out io.Writer) error {
	body, err := json.Marshal(c)
	if err != nil {
		return err
	}
	res, err := r.do(ctx, http.MethodPost, verb, string(body))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	for dec := json.NewDecoder(io.LimitReader(res.Body, maxReply)); ; {
		var m message
		if err := dec.Decode(&m); err != nil {
			return fmt.Errorf("the demo ended before it had answered: %w", err)
		}
		if m.Line != "" {
			fmt.Fprintln(out, m.Line)
		}
		switch {
		case m.Error != "":
			return errors.New(m.Error)
		case m.Last:
			return nil
		}
	}
}
