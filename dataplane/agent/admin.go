package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/dataplane/load"
)

// admin talks to Envoy's administration on its Unix socket.
type admin struct{ client *http.Client }

func newAdmin(socket string) *admin {
	return &admin{&http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true, // Envoy comes and goes
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", socket)
			},
		},
	}}
}

// open asks for something whose answer is large. Its time is bounded by ctx alone.
func (a *admin) open(ctx context.Context, path string) (io.ReadCloser, error) {
	c := http.Client{Transport: a.client.Transport}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://envoy"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask envoy: %w", err)
	}
	resp, err := c.Do(r)
	if err != nil {
		return nil, fmt.Errorf("ask envoy: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("ask envoy: GET %s answers %s", path, resp.Status)
	}
	return resp.Body, nil
}

// bytes reads how many bytes went to destinations.
func (a *admin) bytes(ctx context.Context) (map[string]load.Bytes, error) {
	ctx, cancel := context.WithTimeout(ctx, a.client.Timeout)
	defer cancel()
	body, err := a.open(ctx, load.BytesPath)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return load.ReadBytes(body)
}

func (a *admin) do(ctx context.Context, method, path string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://envoy"+path, nil)
	if err != nil {
		return "", fmt.Errorf("ask envoy: %w", err)
	}
	resp, err := a.client.Do(r)
	if err != nil {
		return "", fmt.Errorf("ask envoy: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", fmt.Errorf("ask envoy: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return string(body), fmt.Errorf("ask envoy: %s %s answers %s", method, path, resp.Status)
	}
	return string(body), nil
}

// live says whether Envoy has its first configuration and accepts traffic.
func (a *admin) live(ctx context.Context) bool {
	_, err := a.do(ctx, http.MethodGet, "/ready")
	return err == nil
}

// connections counts the open connections of all listeners but the administration's own.
func (a *admin) connections(ctx context.Context) (int, error) {
	text, err := a.do(ctx, http.MethodGet, `/stats?filter=^listener\..*\.downstream_cx_active$`)
	if err != nil {
		return 0, err
	}
	sum := 0
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok || strings.HasPrefix(name, "listener.admin.") || strings.Contains(name, ".worker_") {
			continue
		}
		n, err := strconv.Atoi(value)
		if err != nil {
			return 0, fmt.Errorf("count connections: %w", err)
		}
		sum += n
	}
	return sum, nil
}
