package testmesh

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"
)

// A Request is sent by a workload through its own sidecar.
type Request struct {
	Service string
	// Address is where to send it. Default where the sidecar offers the service.
	Address string
	Method  string // default GET
	Path    string // default /
	Host    string // default the name of the service
	Header  http.Header
	Body    string
	// Fresh sends it on a connection of its own.
	Fresh bool
}

// A Response is what came back.
type Response struct {
	Status int
	Header http.Header
	Body   string
	// Answer is that of the server; zero when a proxy answered instead.
	Answer Answer
	// Reused says that the connection to the sidecar was used before.
	Reused bool
	Took   time.Duration
}

// String shows a response in the message of a failed test.
func (r Response) String() string {
	if r.Answer.Instance != "" {
		return fmt.Sprintf("%d from %s", r.Status, r.Answer.Instance)
	}
	return fmt.Sprintf("%d %q", r.Status, clip(r.Body))
}

func clip(s string) string { return s[:min(len(s), 200)] }

// Caller is the SPIFFE ID that the workload was told its caller has; empty when the caller has none.
func (a Answer) Caller() string { return a.certificate("URI") }

// Callee is the SPIFFE ID under which the workload's own sidecar took the request.
func (a Answer) Callee() string { return a.certificate("By") }

func (a Answer) certificate(field string) string {
	for part := range strings.SplitSeq(a.Header.Get("X-Forwarded-Client-Cert"), ";") {
		if k, v, ok := strings.Cut(part, "="); ok && k == field {
			return v
		}
	}
	return ""
}

// newClient makes an HTTP client that keeps connections to itself and follows no redirect.
func (i *Instance) newClient(connections int) *http.Client {
	return &http.Client{
		Timeout: patience,
		Transport: &http.Transport{
			MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections, DisableCompression: true, DialContext: i.dial,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// send sends a request to a resolved address of a service.
func (r Request) send(ctx context.Context, c *http.Client, address string) (Response, error) {
	method := r.Method
	if method == "" {
		method = http.MethodGet
	}
	path := r.Path
	if path == "" {
		path = "/"
	}
	var out Response
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { out.Reused = i.Reused }})
	req, err := http.NewRequestWithContext(ctx, method, "http://"+address+path, strings.NewReader(r.Body))
	if err != nil {
		return out, err
	}
	req.Host = r.Host
	if req.Host == "" {
		req.Host = r.Service
	}
	for k, v := range r.Header {
		req.Header[k] = v
	}
	start := time.Now()
	resp, err := c.Do(req)
	if err != nil {
		out.Took = time.Since(start)
		return out, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	out.Took = time.Since(start)
	if err != nil {
		return out, fmt.Errorf("read the body of a %d: %w", resp.StatusCode, err)
	}
	out.Status, out.Header, out.Body = resp.StatusCode, resp.Header, string(body)
	if strings.HasPrefix(out.Body, "{") {
		_ = json.Unmarshal(body, &out.Answer) // not every answer is the server's
	}
	return out, nil
}

// Try sends a request that may fail.
func (i *Instance) Try(t testing.TB, r Request) (Response, error) {
	t.Helper()
	address := r.Address
	if address == "" {
		address = i.Address(t, r.Service)
	}
	c := i.http
	if r.Fresh {
		c = i.newClient(1)
		defer c.CloseIdleConnections()
	}
	return r.send(t.Context(), c, address)
}

// Send sends a request that must be answered.
func (i *Instance) Send(t testing.TB, r Request) Response {
	t.Helper()
	resp, err := i.Try(t, r)
	if err != nil {
		t.Fatalf("%s asks %s: %v", i.Name, r.Service, err)
	}
	return resp
}

// Get asks a service for a path. Headers are given as "name: value".
func (i *Instance) Get(t testing.TB, service, path string, headers ...string) Response {
	t.Helper()
	return i.Send(t, Request{Service: service, Path: path, Header: headerOf(t, headers)})
}

func headerOf(t testing.TB, lines []string) http.Header {
	t.Helper()
	h := http.Header{}
	for _, l := range lines {
		k, v, ok := strings.Cut(l, ":")
		if !ok {
			t.Fatalf("%q is no header", l)
		}
		h.Add(strings.TrimSpace(k), strings.TrimSpace(v))
	}
	return h
}

// Reach waits until requests to a service are answered with 200 by a workload.
func (i *Instance) Reach(t testing.TB, service string) Response {
	t.Helper()
	return i.Expect(t, Request{Service: service}, http.StatusOK)
}

// Expect waits until a request is answered with a status.
func (i *Instance) Expect(t testing.TB, r Request, status int) Response {
	t.Helper()
	var out Response
	i.mesh.Until(t, fmt.Sprintf("%s gets %d from %s%s", i.Name, status, r.Service, r.Path), func() (any, bool) {
		resp, err := i.Try(t, r)
		if err != nil {
			return err, false
		}
		out = resp
		return resp, resp.Status == status
	})
	return out
}

// A Conn is a TCP connection to a service that has told its name.
type Conn struct {
	net.Conn
	in   *bufio.Reader
	From string // who answered
}

// Dial opens a TCP connection to a service through the own sidecar and asks who is there.
func (i *Instance) Dial(t testing.TB, service string) (*Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return asked(i.dial(ctx, "tcp", i.Address(t, service)))
}

func asked(c net.Conn, err error) (*Conn, error) {
	if err != nil {
		return nil, err
	}
	out := &Conn{Conn: c, in: bufio.NewReader(c)}
	if _, err = fmt.Fprintln(c, "who is there?"); err == nil {
		out.From, err = out.line()
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return out, nil
}

func (c *Conn) line() (string, error) {
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	s, err := c.in.ReadString('\n')
	return strings.TrimSuffix(s, "\n"), err
}

// Echo sends a line and wants it back.
func (c *Conn) Echo(text string) error {
	if _, err := fmt.Fprintln(c, text); err != nil {
		return err
	}
	got, err := c.line()
	if err == nil && got != text {
		err = fmt.Errorf("sent %q, got %q", text, got)
	}
	return err
}

// ReachTCP waits until a TCP service answers, and closes the connection.
func (i *Instance) ReachTCP(t testing.TB, service string) string {
	t.Helper()
	var from string
	i.mesh.Until(t, fmt.Sprintf("%s reaches %s", i.Name, service), func() (any, bool) {
		c, err := i.Dial(t, service)
		if err != nil {
			return err, false
		}
		from = c.From
		return nil, c.Close() == nil
	})
	return from
}
