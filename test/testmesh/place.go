package testmesh

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/client"
)

// A Place is another host, on which parts of a mesh run in processes of their own. The test binary must call Main.
type Place interface {
	// IP is the address of the host.
	IP() string
	// Start starts a process there.
	Start(*exec.Cmd) error
	// Listen takes a port there.
	Listen(network, address string) (net.Listener, error)
	// Dial connects from there.
	Dial(ctx context.Context, network, address string) (net.Conn, error)
}

// The ports of a control plane that has a host for itself.
const (
	apiPort    = "5682"
	agentsPort = "5678"
	zonesPort  = "5685"
	probesPort = "5686"
)

func at(p Place, port string) string { return net.JoinHostPort(p.IP(), port) }

// startAt runs a control plane at a place and waits until its API answers.
func startAt(t testing.TB, p Place, part, dir string, config any, api string, logs *journal) (*apart, *client.Client) {
	t.Helper()
	a := startApart(t, part, filepath.Join(dir, part+".json"), config, p, logs)
	var c *client.Client
	for late := time.Now().Add(patience); ; {
		var err error
		if c, err = client.New(client.Config{
			Server: "https://" + api, CAFile: filepath.Join(dir, part, "tls", "ca.pem"), TokenFile: filepath.Join(dir, part, "admin.token"), UserAgent: "testmesh",
		}); err == nil {
			if _, err = c.Index(t.Context()); err == nil {
				return a, c
			}
			c.Close()
		}
		select {
		case <-a.done():
			t.Fatalf("%s ended: %v\n%s", part, a.err(), logs.tail(20))
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(late) {
			a.kill()
			t.Fatalf("the API of %s does not answer: %v\n%s", part, err, logs.tail(20))
		}
	}
}

// ended turns the end of a process into a value.
func ended(a *apart) chan error {
	out := make(chan error, 1)
	go func() {
		<-a.done()
		out <- a.err()
	}()
	return out
}

// Kill ends a control plane that runs at a place, as when its host dies.
func (z *Zone) Kill(t testing.TB) {
	t.Helper()
	z.mu.Lock()
	cp := z.running
	z.running = nil
	z.mu.Unlock()
	if cp == nil || cp.kill == nil {
		t.Fatalf("zone %s does not run at a place of its own", z.Name)
	}
	cp.kill()
	<-cp.done
}

func (i *Instance) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if i.Place != nil {
		return i.Place.Dial(ctx, network, address)
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

func listen(p Place, host string) (net.Listener, error) {
	address := net.JoinHostPort(host, "0")
	if p != nil {
		return p.Listen("tcp", address)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}
