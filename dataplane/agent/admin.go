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
