// Package testmesh runs one zone inside a test: the real control plane, and workloads that are small real servers, each with a
// real agent and a real Envoy. Everything is on loopback, on ports and addresses of its own, and ends with the test.
// It is no part of the product and knows nothing of how the zone or the agents work inside: it speaks to them as users do.
package testmesh

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/dataplane/envoy"
	"github.com/causeway-mesh/causeway/store/backend"
	"github.com/causeway-mesh/causeway/zone-cp/zonecp"
)

// Options of a zone. The zero value is a zone with its store in memory.
type Options struct {
	// Store is memory (the default), embedded or postgres, which needs DSN.
	Store string
	DSN   string
	// Zone is the name of the zone. Default east.
	Zone string
	// Configure changes the configuration of the control plane before each start.
	Configure func(*zonecp.Config)
	// CAFile is the authority by which clients and agents know a control plane that serves certificates of its operator.
	CAFile string
	// Place is the host where the control plane runs, in a process of its own. Default this process.
	Place Place
}

// A Zone is a zone control plane in this process. Its address stays the same over restarts.
type Zone struct {
	Name string
	// Port is where sidecars of this zone take traffic for their workloads, and so that of generated services. Workloads differ
	// in their addresses; the port keeps apart from other zones of this host, whose agents may choose the same loopback blocks.
	Port   uint32
	dir    string
	envoy  string // path of the binary
	opts   Options
	logs   *journal
	client *client.Client

	mu      sync.Mutex
	running *controlPlane
	at      addresses // of the last run
}

type addresses struct{ api, agents string }

type controlPlane struct {
	*zonecp.Zone // nil at a place
	stop         context.CancelFunc
	kill         func() // at a place
	done         chan error
}

// A Mesh is one mesh of a zone, with the workloads that a test runs in it.
type Mesh struct {
	*Zone
	API
	Name string

	mu        sync.Mutex
	instances []*Instance
}

// Start runs a zone and gives its mesh "default". Without Envoy the test is skipped; in CI it fails.
func Start(t testing.TB, o Options) *Mesh {
	t.Helper()
	return startZone(t, o).mesh("default")
}

func startZone(t testing.TB, o Options) *Zone {
	t.Helper()
	if o.Zone == "" {
		o.Zone = "east"
	}
	if o.Store == "" {
		o.Store = backend.Memory
	}
	z := &Zone{Name: o.Zone, Port: 10000 + mathrand.Uint32N(20000), dir: shortDir(t), envoy: binary(t), opts: o, logs: newJournal()}
	z.at = addresses{"127.0.0.1:0", "127.0.0.1:0"}
	if o.Place != nil {
		z.at = addresses{at(o.Place, apiPort), at(o.Place, agentsPort)}
	}
	z.Start(t)
	t.Cleanup(func() {
		if err := z.halt(); err != nil {
			t.Errorf("the zone ended: %v", err)
		}
		z.client.Close()
		if t.Failed() {
			t.Logf("the end of the zone's log:\n%s", z.logs.tail(60))
		}
	})
	return z
}

func (z *Zone) mesh(name string) *Mesh { return &Mesh{Zone: z, API: API{z.client, name}, Name: name} }

// Mesh creates another mesh in the zone, with its default policies apart from those to skip.
func (m *Mesh) Mesh(t testing.TB, name string, skip ...string) *Mesh {
	t.Helper()
	out := m.mesh(name)
	body := "type: Mesh\nname: " + name + "\n"
	if len(skip) > 0 {
		body += "skipCreatingInitialPolicies:\n"
	}
	for _, s := range skip {
		body += fmt.Sprintf("- %q\n", s)
	}
	out.Apply(t, body)
	return out
}

// binary finds Envoy.
func binary(t testing.TB) string {
	t.Helper()
	path, err := envoy.Find(t.Context())
	if errors.Is(err, envoy.ErrNotFound) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// shortDir is a temporary directory whose name leaves room for a Unix socket's 107 bytes.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cwm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func (z *Zone) config() zonecp.Config {
	c := zonecp.Default()
	c.Zone, c.WorkDir = z.Name, filepath.Join(z.dir, "zone")
	c.Store.Type, c.Store.Postgres.DSN = z.opts.Store, z.opts.DSN
	c.API.Address, c.Agents.Address, c.Diagnostics.Address = z.at.api, z.at.agents, ""
	c.Version = "test"
	if z.opts.Configure != nil {
		z.opts.Configure(&c)
	}
	return c
}

// Start runs the control plane again after Halt, at the same addresses.
func (z *Zone) Start(t testing.TB) {
	t.Helper()
	if z.opts.Place != nil {
		z.startAt(t)
		return
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	zone, err := zonecp.New(ctx, z.config(), slog.New(z.logs))
	if err != nil {
		cancel()
		t.Fatalf("start the zone: %v", err)
	}
	z.at = addresses{zone.APIAddress(), zone.AgentsAddress()}
	cp := &controlPlane{Zone: zone, stop: cancel, done: make(chan error, 1)}
	go func() { cp.done <- zone.Run(ctx) }()
	z.mu.Lock()
	z.running = cp
	z.mu.Unlock()
	select {
	case <-zone.Ready():
	case err := <-cp.done:
		cp.done <- err
		t.Fatalf("the zone ended before it was ready: %v\n%s", err, z.logs.tail(20))
	case <-time.After(patience):
		t.Fatalf("the zone is not ready within %s\n%s", patience, z.logs.tail(20))
	}
	if z.client == nil {
		z.client, err = client.New(client.Config{
			Server: "https://" + zone.APIAddress(), CAFile: cmp.Or(z.opts.CAFile, zone.CAFile()), TokenFile: zone.AdminTokenFile(), UserAgent: "testmesh",
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (z *Zone) startAt(t testing.TB) {
	t.Helper()
	a, c := startAt(t, z.opts.Place, partZone, z.dir, z.config(), z.at.api, z.logs)
	z.mu.Lock()
	z.running = &controlPlane{stop: a.stop, kill: a.kill, done: ended(a)}
	z.mu.Unlock()
	if z.client == nil {
		z.client = c
	}
}

// halt stops the control plane and says how it ended.
func (z *Zone) halt() error {
	z.mu.Lock()
	cp := z.running
	z.running = nil
	z.mu.Unlock()
	if cp == nil {
		return nil
	}
	if z.client != nil {
		z.client.Close() // an idle connection would delay the end by a second
	}
	cp.stop()
	return <-cp.done
}

// ControlPlane is the running control plane, for inspection; nil when it runs at a place.
func (z *Zone) ControlPlane() *zonecp.Zone {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.running.Zone
}

// Halt stops the control plane; its proxies go on.
func (z *Zone) Halt(t testing.TB) {
	t.Helper()
	if err := z.halt(); err != nil {
		t.Fatalf("stop the zone: %v", err)
	}
}

// Client is a client of the API with the rights of the first administrator.
func (z *Zone) Client() *client.Client { return z.client }

// hosts counts the addresses given to workloads of this process.
var hosts atomic.Uint32

// network is the first half of the addresses of this process's workloads, so that they meet nobody else's.
// The second number stays away from the blocks that agents bind outbounds on.
var network = sync.OnceValue(func() [3]byte {
	var b [2]byte
	rand.Read(b[:])
	return [3]byte{127, 0, 1 + b[0]%250}
})

// nextHost is a loopback address that no other workload has.
func nextHost() string {
	n, p := hosts.Add(1), network()
	return net.IPv4(p[0], p[1], p[2], byte(1+n%250)).String()
}
