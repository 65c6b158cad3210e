// Package hosting is what every control plane needs as a process, whatever its role: the settings that all have, ports that are taken
// before anything else starts, servers that end with a context, and what comes into being with a mesh. It wires no parts together
// and knows no store.
package hosting

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"google.golang.org/grpc"
	"sigs.k8s.io/yaml"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policies"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/settings"
	"github.com/causeway-mesh/causeway/api/token"
)

// stopTimeout bounds how long requests in flight may take when a control plane stops.
const stopTimeout = 10 * time.Second

// A Port is one port of a control plane.
type Port struct {
	Setting string // its path in the settings, for messages
	Address string // host:port; empty turns it off
	Into    *net.Listener
}

// Listen takes ports.
func Listen(ctx context.Context, ports ...Port) error {
	for _, p := range ports {
		if p.Address == "" {
			continue
		}
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", p.Address)
		if err != nil {
			return fmt.Errorf("%s: another program may use the port; stop it or choose another with %s: %w", p.Setting, p.Setting, err)
		}
		*p.Into = l
	}
	return nil
}

// Close lets go of ports. Those that were served are closed already.
func Close(listeners ...net.Listener) {
	for _, l := range listeners {
		if l != nil {
			_ = l.Close() // closed already when it was served
		}
	}
}

// ServeHTTP serves until ctx ends, then lets requests in flight finish.
func ServeHTTP(ctx context.Context, srv *http.Server, serve func() error) error {
	failed := make(chan error, 1)
	go func() { failed <- serve() }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve %s: %w", srv.Addr, err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err := srv.Shutdown(stop)
	if err != nil {
		err = srv.Close() // slow requests are cut
	}
	if ended := <-failed; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}

// ServeGRPC serves streams until ctx ends, then cuts them: clients reconnect, and there is nothing to finish.
func ServeGRPC(ctx context.Context, what string, srv *grpc.Server, l net.Listener) error {
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve %s: %w", what, err)
	case <-ctx.Done():
		srv.Stop()
		if err := <-failed; !errors.Is(err, grpc.ErrServerStopped) { // it may be told to stop before it serves
			return err
		}
		return nil
	}
}

// Hosts are the names and addresses that a generated server certificate has to be good for: this host, what is configured,
// and where a control plane listens.
func Hosts(configured []string, addresses ...string) []string {
	hosts := append([]string{"localhost", "127.0.0.1", "::1"}, configured...)
	if h, err := os.Hostname(); err == nil {
		hosts = append(hosts, h)
	}
	for _, a := range addresses {
		if h, _, err := net.SplitHostPort(a); err == nil && h != "" && h != "0.0.0.0" && h != "::" && !slices.Contains(hosts, h) {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// Shown is a configuration as it may be shown, with secrets masked; nil when it cannot be.
func Shown(config any) any {
	var text bytes.Buffer
	var out map[string]any
	if err := settings.Print(&text, config); err != nil {
		return nil
	}
	if err := yaml.Unmarshal(text.Bytes(), &out); err != nil {
		return nil
	}
	return out
}

// InstanceID names one life of a control plane.
func InstanceID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // does not fail
	return hex.EncodeToString(b[:])
}

// MeshDefaults is what comes into being with a mesh: the default policies that it does not skip, and the key of its tokens.
func MeshDefaults(m resource.Resource) ([]resource.Resource, error) {
	var skip []string
	if spec, ok := m.Spec.(*mesh.Mesh); ok {
		skip = spec.SkipCreatingInitialPolicies
	}
	out, err := policies.Defaults(m.Name, skip)
	if err != nil {
		return nil, err
	}
	key, err := token.NewSigningKey()
	if err != nil {
		return nil, err
	}
	return append(out, token.Secret(token.DataplaneSigningKey(m.Name, 1), key)), nil
}
