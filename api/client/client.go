// Package client is the REST client of a Causeway control plane: contexts, TLS with a given CA or pin, bearer tokens,
// answers as values and refusals as errors. It caches nothing, decides nothing and reads no settings of its own.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"
)

// Config says where a control plane is and who asks.
type Config struct {
	// Server is the address of the API, such as https://global.example:5682.
	Server string
	// TokenFile names a file with the bearer token; it is read for every request, so a rotated token is picked up.
	TokenFile string
	// CAFile names a PEM file with the authorities to trust instead of those of the system.
	CAFile string
	// Pin is sha256:<hex> of the public key of a certificate that the server presents; it replaces every authority.
	Pin string
	// Timeout bounds one request. Default 30s.
	Timeout time.Duration
	// UserAgent names the program in the server's logs.
	UserAgent string
	// Proxy chooses an HTTP proxy for a request; nil means none.
	Proxy func(*http.Request) (*url.URL, error)
}

// A Client talks to one control plane; it is safe for concurrent use.
type Client struct {
	cfg  Config
	base *url.URL
	http *http.Client
}

// New makes a client. It connects to nothing yet.
func New(cfg Config) (*Client, error) {
	base, err := parseServer(cfg.Server)
	if err != nil {
		return nil, err
	}
	if cfg.TokenFile != "" && base.Scheme == "http" && !loopback(base.Hostname()) {
		return nil, fmt.Errorf("server %s: a token must not travel in clear text; use https", cfg.Server)
	}
	trust, err := trust(cfg)
	if err != nil {
		return nil, err
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Second
	}
	transport := &http.Transport{
		Proxy:               cfg.Proxy,
		TLSClientConfig:     trust,
		TLSHandshakeTimeout: 10 * time.Second,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     time.Minute,
	}
	return &Client{cfg: cfg, base: base, http: &http.Client{
		Transport: transport,
		// A redirect could carry a write or a token elsewhere; the control plane sends none.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func parseServer(server string) (*url.URL, error) {
	u, err := url.Parse(server)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return nil, fmt.Errorf("server address %q must look like https://host:port", server)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("server address must not hold a user, query or fragment")
	}
	u.Path = strings.TrimRight(u.Path, "/")
	return u, nil
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// Server is the address the client talks to.
func (c *Client) Server() string { return c.base.String() }

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// A Request is one call. Path begins with a slash and is already escaped.
type Request struct {
	Method string
	Path   string
	Query  url.Values
	Header http.Header
	Body   []byte
	// Repeatable says that doing it twice does no harm.
	Repeatable bool
}

func (r Request) repeatable() bool {
	return r.Repeatable || r.Method == http.MethodGet || r.Header.Get("Idempotency-Key") != ""
}

// A Response is the answer to a successful call.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// maxResponse bounds what is read of an answer.
const maxResponse = 256 << 20

// Do makes one call with the credentials of the client. An answer outside 200 to 299 is an *Error.
// A call whose connection broke is repeated once when that is safe: it reads, is repeatable, or carries an Idempotency-Key.
func (c *Client) Do(ctx context.Context, r Request) (Response, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	resp, err := c.once(ctx, r)
	if err != nil && broken(err) && ctx.Err() == nil && r.repeatable() {
		resp, err = c.once(ctx, r)
	}
	if err != nil {
		return Response{}, c.unreachable(ctx, err)
	}
	if resp.Status < 200 || resp.Status > 299 {
		return Response{}, refusal(r, resp)
	}
	return resp, nil
}

func (c *Client) once(ctx context.Context, r Request) (Response, error) {
	target := c.base.String() + r.Path
	if len(r.Query) > 0 {
		target += "?" + r.Query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, target, bytes.NewReader(r.Body))
	if err != nil {
		return Response{}, err
	}
	for k, v := range r.Header {
		req.Header[k] = v
	}
	req.Header.Set("Accept", "application/json")
	if len(r.Body) > 0 && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.cfg.UserAgent != "" {
		req.Header.Set("User-Agent", c.cfg.UserAgent)
	}
	if err := c.authorize(req); err != nil {
		return Response{}, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return Response{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	if err != nil {
		return Response{}, fmt.Errorf("read the answer: %w", err)
	}
	if len(body) > maxResponse {
		return Response{}, fmt.Errorf("the answer is larger than %d MiB", maxResponse>>20)
	}
	return Response{Status: resp.StatusCode, Header: resp.Header, Body: body}, nil
}

// tokenError keeps a bad token file apart from a server that does not answer.
type tokenError struct{ err error }

func (e tokenError) Error() string { return e.err.Error() }
func (e tokenError) Unwrap() error { return e.err }

func (c *Client) authorize(req *http.Request) error {
	if c.cfg.TokenFile == "" {
		return nil
	}
	b, err := os.ReadFile(c.cfg.TokenFile)
	if err != nil {
		return tokenError{fmt.Errorf("read the token: %w", err)}
	}
	token := strings.TrimSpace(string(b))
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return tokenError{fmt.Errorf("token file %s does not hold one token", c.cfg.TokenFile)}
	}
	req.Header.Set("Authorization", "Bearer "+token)
	return nil
}

// getJSON reads one JSON document.
func (c *Client) getJSON(ctx context.Context, path string, into any) error {
	resp, err := c.Do(ctx, Request{Method: http.MethodGet, Path: path})
	if err != nil {
		return err
	}
	return decode(path, resp.Body, into)
}

func decode(path string, body []byte, into any) error {
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("the answer to %s is not what a control plane sends; check the server address: %w", path, err)
	}
	return nil
}
