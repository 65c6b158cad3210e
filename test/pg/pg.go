// Package pg gives tests a real, throw-away PostgreSQL: the one installed on the machine, run as an unprivileged user in a
// temporary directory, with a database for each test. It installs nothing and is no part of the product.
package pg

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// patience bounds each step of starting and stopping.
const patience = 30 * time.Second

// A Server is one PostgreSQL, listening on a Unix socket and on 127.0.0.1.
type Server struct {
	bin, dir string
	user     *account // nil: as ourselves
	port     int
	password string
	process  *process
	names    atomic.Int64
}

var shared struct {
	once   sync.Once
	server *Server
	err    error
}

// Database creates an empty database for one test on the server that this test binary shares, and gives its DSN.
// The server ends with the process.
func Database(t testing.TB) string {
	t.Helper()
	bin := binaries(t)
	shared.once.Do(func() { shared.server, shared.err = start(bin) })
	if shared.err != nil {
		t.Fatalf("start PostgreSQL: %v", shared.err)
	}
	return shared.server.Database(t)
}

// Start runs a server of the test's own, which it may stop and break; it ends with the test.
func Start(t testing.TB) *Server {
	t.Helper()
	s, err := start(binaries(t))
	if err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	t.Cleanup(func() { s.process.end(syscall.SIGTERM); os.RemoveAll(s.dir) })
	return s
}

// binaries finds the directory of the PostgreSQL programs; without them a test skips, and in CI it fails.
func binaries(t testing.TB) string {
	t.Helper()
	var dirs []string
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin", "/usr/local/pgsql/bin"} {
		found, _ := filepath.Glob(pattern)
		dirs = append(dirs, found...)
	}
	for _, dir := range dirs {
		_, noInit := os.Stat(filepath.Join(dir, "initdb"))
		_, noServer := os.Stat(filepath.Join(dir, "postgres"))
		if noInit == nil && noServer == nil {
			return dir
		}
	}
	const missing = "no PostgreSQL server programs found; install the package postgresql"
	if os.Getenv("CI") == "true" {
		t.Fatal(missing)
	}
	t.Skip(missing)
	return ""
}

type account struct{ uid, gid uint32 }

// unprivileged is the account to run as, because PostgreSQL refuses root.
func unprivileged() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("account %s: %w", name, err)
		}
		return &account{uint32(uid), uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL refuses root and there is no account postgres or nobody")
}

func start(bin string) (_ *Server, err error) {
	s := &Server{bin: bin, password: secret()}
	if s.user, err = unprivileged(); err != nil {
		return nil, err
	}
	if s.dir, err = s.directory(); err != nil {
		return nil, err
	}
	if err = s.initialise(); err == nil {
		err = s.run()
	}
	if err != nil {
		os.RemoveAll(s.dir)
		return nil, err
	}
	return s, nil
}

// directory makes a short path (socket names are limited) that the account can reach.
func (s *Server) directory() (string, error) {
	base := os.TempDir()
	for d := base; ; d = filepath.Dir(d) {
		if info, err := os.Stat(d); err != nil || len(base) > 60 || (s.user != nil && info.Mode().Perm()&1 == 0) {
			base = "/tmp"
			break
		}
		if d == filepath.Dir(d) {
			break
		}
	}
	dir, err := os.MkdirTemp(base, "causeway-pg-")
	if err != nil || s.user == nil {
		return dir, err
	}
	return dir, os.Chown(dir, int(s.user.uid), int(s.user.gid))
}

func (s *Server) initialise() error {
	passwords := filepath.Join(s.dir, "password")
	if err := os.WriteFile(passwords, []byte(s.password), 0o644); err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(s.bin, "initdb"), "-D", s.data(), "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions",
		"--auth-local=trust", "--auth-host=scram-sha-256", "--pwfile="+passwords)
	s.dress(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return os.Remove(passwords)
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) dress(cmd *exec.Cmd) {
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=" + s.bin + ":/usr/bin:/bin", "HOME=" + s.dir, "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = attributes(s.user)
}

// run starts the server and waits until it answers. The port may be taken between choosing and using it: then another is tried.
func (s *Server) run() error {
	var err error
	for range 3 {
		if s.port == 0 {
			if s.port, err = freePort(); err != nil {
				return err
			}
		}
		if err = s.launch(); err == nil {
			return nil
		}
		s.port = 0
	}
	return err
}

// supervise is the shell program around the server. TERM comes from us or, when we die in whatever way, from the kernel:
// then the server and its directory go.
const supervise = `
trap 'kill -QUIT "$pid"; wait "$pid"; rm -rf "$dir"; exit 0' TERM
dir=$1; shift
"$@" >>"$dir/log" 2>&1 &
pid=$!
wait "$pid"
`

func (s *Server) launch() error {
	args := []string{"-c", supervise, "pg", s.dir, filepath.Join(s.bin, "postgres"), "-D", s.data()}
	for _, setting := range []string{
		"listen_addresses=127.0.0.1", "port=" + strconv.Itoa(s.port), "unix_socket_directories=" + s.dir,
		"shared_buffers=32MB", "max_connections=200", "timezone=UTC", "log_timezone=UTC",
	} {
		args = append(args, "-c", setting)
	}
	cmd := exec.Command("/bin/sh", args...)
	s.dress(cmd)
	p, err := spawn(cmd)
	if err != nil {
		return err
	}
	s.process = p
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		conn, err := pgx.Connect(ctx, s.DSN("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-tick.C:
		case <-p.done:
			return fmt.Errorf("the server ended: %s", s.log())
		case <-ctx.Done():
			p.end(syscall.SIGTERM)
			return fmt.Errorf("the server does not answer: %w\n%s", err, s.log())
		}
	}
}

func (s *Server) log() string {
	text, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	return string(text[max(0, len(text)-2000):])
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func secret() string {
	var b [12]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// A process is the supervising shell.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// spawn starts a command on a thread that lives as long as it: the kernel's signal on our death comes when the thread ends.
func spawn(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait() // the log says how it ended
		}
	}()
	return p, <-started
}

func (p *process) end(signal syscall.Signal) {
	p.cmd.Process.Signal(signal) // gone already is as good
	<-p.done
}

// Stop shuts the server down and keeps its data; Restart brings it back on the same addresses.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.data(), "postmaster.pid"))
	if err != nil {
		t.Fatalf("stop PostgreSQL: %v", err)
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	pid, err := strconv.Atoi(string(line))
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGINT)
	}
	if err != nil {
		t.Fatalf("stop PostgreSQL: %v", err)
	}
	select {
	case <-s.process.done:
	case <-time.After(patience):
		t.Fatalf("PostgreSQL did not stop: %s", s.log())
	}
}

// Restart starts a stopped server again.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	if err := s.launch(); err != nil {
		t.Fatalf("restart PostgreSQL: %v", err)
	}
}

// Database creates an empty database for one test and gives its DSN, through the Unix socket.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test_%d", s.names.Add(1))
	s.Exec(t, "CREATE DATABASE "+name)
	t.Cleanup(func() {
		select {
		case <-s.process.done: // stopped for good
		default:
			s.Exec(t, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
		}
	})
	return s.DSN(name)
}

// Exec runs statements as the superuser in the maintenance database.
func (s *Server) Exec(t testing.TB, statements ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.DSN("postgres"))
	if err != nil {
		t.Fatalf("connect to PostgreSQL: %v", err)
	}
	defer conn.Close(ctx)
	for _, q := range statements {
		if _, err := conn.Exec(ctx, q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

// DSN addresses a database through the Unix socket, which asks for no password.
func (s *Server) DSN(database string) string {
	q := url.Values{"host": {s.dir}, "port": {strconv.Itoa(s.port)}, "sslmode": {"disable"}}
	return (&url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/" + database, RawQuery: q.Encode()}).String()
}

// TCP addresses a database through 127.0.0.1, with a password.
func (s *Server) TCP(database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword("postgres", s.password), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)), Path: "/" + database, RawQuery: "sslmode=disable"}
	return u.String()
}
