package testmesh

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"

	"github.com/causeway-mesh/causeway/api/mesh"
)

// An Answer is what the server of a workload says about the request that reached it.
type Answer struct {
	Instance string      `json:"instance"`
	Method   string      `json:"method"`
	Path     string      `json:"path"` // with the query
	Host     string      `json:"host"`
	Proto    string      `json:"proto"`
	Header   http.Header `json:"header"`
}

// An App is the server of a workload: it answers who it is and what it got. Over TCP it answers the first line with its name
// and echoes the rest.
// A request can ask for a delay and a status with the query parameters of these names.
// With the protocol grpc it also serves the standard health service, whose answers tell its name in the header "instance".
type App struct {
	name     string
	protocol mesh.Protocol
	listener net.Listener
	http     *http.Server
	grpc     *grpc.Server
	health   *health.Server
	conns    sync.WaitGroup

	mu       sync.Mutex
	seen     map[string]int // requests by path
	failures int            // of the next requests
	status   int            // that they fail with; 0 is a broken connection
	sick     bool
	open     map[net.Conn]bool
	stopped  bool
}

// ProbePath is where an HTTP service probe finds out whether the workload is well; such requests are not counted.
const ProbePath = "/probe"

func startApp(t testing.TB, w Workload, host string) *App {
	t.Helper()
	name, p := w.Name, w.Protocol
	l, err := listen(w.Place, host)
	if err != nil {
		t.Fatalf("start the server of %s: %v", name, err)
	}
	if w.TLS != nil {
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{*w.TLS}, MinVersion: tls.VersionTLS12})
	}
	return serve(t, name, p, l)
}

// Outside starts a server outside of the mesh, with TLS when there is a configuration. An empty host is an address of its own.
func Outside(t testing.TB, name string, p mesh.Protocol, host string, c *tls.Config) *App {
	t.Helper()
	if host == "" {
		host = nextHost()
	}
	l, err := listen(nil, host)
	if err != nil {
		t.Fatalf("start the server of %s: %v", name, err)
	}
	if c != nil {
		l = tls.NewListener(l, c)
	}
	return serve(t, name, p, l)
}

func serve(t testing.TB, name string, p mesh.Protocol, l net.Listener) *App {
	a := &App{name: name, protocol: p, listener: l, seen: map[string]int{}, open: map[net.Conn]bool{}}
	a.conns.Add(1)
	if p == mesh.GRPC {
		a.serveGRPC()
	}
	if p.IsHTTP() {
		a.http = &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(a.answer), Protocols: new(http.Protocols)}
		a.http.Protocols.SetHTTP1(true)
		a.http.Protocols.SetUnencryptedHTTP2(true)
		go func() {
			defer a.conns.Done()
			if err := a.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				t.Errorf("the server of %s ended: %v", name, err)
			}
		}()
	} else {
		go a.accept()
	}
	t.Cleanup(a.stop)
	return a
}

// Host is the address on which the server listens.
func (a *App) Host() string { return a.listener.Addr().(*net.TCPAddr).IP.String() }

// Port is where the server listens.
func (a *App) Port() int { return a.listener.Addr().(*net.TCPAddr).Port }

// stop ends the server and its connections at once.
// Stop ends the server and its connections at once.
func (a *App) Stop() { a.stop() }

func (a *App) stop() {
	if a.http != nil {
		_ = a.http.Close() // also when it is closed already
	}
	if a.grpc != nil {
		a.grpc.Stop()
	}
	_ = a.listener.Close()
	a.mu.Lock()
	a.stopped = true
	for c := range a.open {
		_ = c.Close()
	}
	a.mu.Unlock()
	a.conns.Wait()
}

func (a *App) accept() {
	defer a.conns.Done()
	for {
		c, err := a.listener.Accept()
		if err != nil {
			return
		}
		a.mu.Lock()
		if a.stopped {
			a.mu.Unlock()
			_ = c.Close()
			return
		}
		a.open[c] = true
		a.conns.Add(1)
		a.mu.Unlock()
		go a.echo(c)
	}
}

func (a *App) echo(c net.Conn) {
	defer a.conns.Done()
	in := bufio.NewReader(c)
	line, err := in.ReadString('\n')
	if err == nil && line == tcpProbe {
		a.mu.Lock()
		if !a.sick {
			_, _ = fmt.Fprintln(c, tcpWell) // who asks may have gone
		}
		a.mu.Unlock()
	} else if err == nil {
		a.mu.Lock()
		a.seen["/"]++
		a.mu.Unlock()
		if _, err = fmt.Fprintln(c, a.name); err == nil {
			_, _ = io.Copy(c, in) // until either side ends
		}
	}
	_ = c.Close()
	a.mu.Lock()
	delete(a.open, c)
	a.mu.Unlock()
}

// A TCP server that gets this line answers tcpWell and ends the connection when it is well, and just ends it when it is not.
const (
	tcpProbe = "are you well?\n"
	tcpWell  = "I am well"
)

// TCPProbe is what to send to a TCP server to learn whether it is well, and what it then answers, both in base64.
func TCPProbe() (send, receive string) {
	return base64.StdEncoding.EncodeToString([]byte(tcpProbe)), base64.StdEncoding.EncodeToString([]byte(tcpWell))
}

// answer serves one request.
func (a *App) answer(w http.ResponseWriter, r *http.Request) {
	if a.grpc != nil && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		a.call(w, r)
		return
	}
	status := http.StatusOK
	a.mu.Lock()
	if r.URL.Path == ProbePath {
		if a.sick {
			status = http.StatusServiceUnavailable
		}
		a.mu.Unlock()
		w.WriteHeader(status)
		return
	}
	a.seen[r.URL.Path]++
	if a.failures > 0 {
		a.failures--
		status = a.status
	}
	a.mu.Unlock()
	if status == 0 {
		panic(http.ErrAbortHandler) // the connection breaks
	}
	if r.URL.Path == StreamPath {
		a.stream(w, r)
		return
	}
	q := r.URL.Query()
	if d, err := time.ParseDuration(q.Get("delay")); err == nil {
		wait := time.NewTimer(d)
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-r.Context().Done():
			return
		}
	}
	if s, err := strconv.Atoi(q.Get("status")); err == nil {
		status = s
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(Answer{a.name, r.Method, r.URL.RequestURI(), r.Host, r.Proto, r.Header}) // the client may have gone
}

// Fail lets the next n requests fail with a status, and calls of grpc with UNAVAILABLE.
func (a *App) Fail(n, status int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failures, a.status = n, status
}

// Break lets the next n requests fail with a broken connection.
func (a *App) Break(n int) { a.Fail(n, 0) }

// CloseConnections makes the server of HTTP answer each request on a connection of its own.
func (a *App) CloseConnections() { a.http.SetKeepAlivesEnabled(false) }

// SetWell decides what probes are told.
func (a *App) SetWell(well bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sick = !well
	if a.health != nil {
		a.health.SetServingStatus("", servingStatus(well))
	}
}

// Seen is the number of requests for a path, or of TCP connections for "/", that have reached the server.
func (a *App) Seen(path string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen[path]
}

// Paths are all requests that have reached the server, by path.
func (a *App) Paths() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.seen)
}
