package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"sigs.k8s.io/yaml"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/test/load"
)

const meshName = "default"

// A world is global, zone east with all proxies, and zone west, whose services east's proxies use, too.
type world struct {
	o                  options
	dir                string
	n                  int
	global, east, west *plane
	agents             []*load.Agent
	fleet              *load.Fleet
	ceiling            *ceiling
	ends               []func()
	stopProxies        func() // nil before they are connected
	took               atomic.Pointer[func(i int, t envoy.Type, name string, body []byte)]
	settled            atomic.Pointer[func(i int)]

	mu   sync.Mutex
	lost map[string]int // why connections ended, or were never made
}

// background runs something until end is called.
func background(ctx context.Context, run func(context.Context) error) (end func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var done sync.WaitGroup
	done.Go(func() { _ = run(ctx) }) // it ends because it is told to
	return sync.OnceFunc(func() { cancel(); done.Wait() })
}

const identity = `
type: MeshIdentity
mesh: default
name: identity
spec:
  selector: {dataplane: {matchLabels: {}}}
  provider: {type: Bundled, bundled: {autogenerate: {enabled: true}, insecureAllowSelfSigned: true}}
`

// newWorld starts control planes; proxies come later.
func newWorld(ctx context.Context, o options, dir string, n int) (w *world, err error) {
	w = &world{o: o, dir: dir, n: n, lost: map[string]int{}}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.global, err = startGlobal(ctx, o.binary, dir, "--store-type", o.store); err != nil {
		return w, err
	}
	w.ends = append(w.ends, w.global.kill)
	if _, err := write(ctx, w.global, identity); err != nil {
		return w, err
	}
	for name, at := range map[string]**plane{"east": &w.east, "west": &w.west} {
		if *at, err = w.join(ctx, name); err != nil {
			return w, err
		}
		w.ends = append(w.ends, (*at).kill)
	}
	_, err = write(ctx, w.west,
		"type: MeshZoneAddress\nmesh: default\nname: ingress\nspec: {address: 192.0.2.7, port: 10001}\n", dataplane("west-0", "west-0", 0, ""))
	return w, err
}

// startGlobal runs a global control plane.
func startGlobal(ctx context.Context, binary, dir string, args ...string) (*plane, error) {
	free, err := ports(1)
	if err != nil {
		return nil, err
	}
	g, err := newPlane(binary, dir, "global", append([]string{"run", "global", "--zones-address", free[0], "--zones-allow-local-addresses"}, args...)...)
	if err != nil {
		return nil, err
	}
	if err := g.start(ctx); err != nil {
		g.kill()
		return nil, err
	}
	return g, nil
}

// join starts a zone and waits until it has the mesh and can make tokens.
func (w *world) join(ctx context.Context, name string) (*plane, error) {
	token, err := w.global.NewJoinToken(ctx, name, "1h")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(w.dir, name+".join")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		return nil, err
	}
	free, err := ports(2)
	if err != nil {
		return nil, err
	}
	// A proxy that reconnects is not taken for gone: what is sent again would be justified otherwise.
	p, err := newPlane(w.o.binary, w.dir, name, "run", "zone", "--zone", name, "--store-type", w.o.store, "--agents-address", free[0], "--probes-address", free[1],
		"--global-join-token-file", file, "--allow-local-addresses", "--agents-grace", "1m")
	if err != nil {
		return nil, err
	}
	p.agents = free[0]
	if err := p.start(ctx); err != nil {
		p.kill()
		return nil, err
	}
	err = until(ctx, "zone "+name+" can make tokens", func() (any, bool) {
		_, err := p.NewDataplaneToken(ctx, client.DataplaneToken{Mesh: meshName, Name: "any"})
		return err, err == nil
	})
	if err != nil {
		p.kill()
		return nil, err
	}
	return p, nil
}

func (w *world) close() {
	if w.stopProxies != nil {
		w.stopProxies()
	}
	for _, end := range w.ends {
		end()
	}
}

// write applies resources as one change.
func write(ctx context.Context, p *plane, texts ...string) (client.BatchResult, error) {
	var docs []json.RawMessage
	for _, text := range texts {
		b, err := yaml.YAMLToJSON([]byte(text))
		if err != nil {
			return client.BatchResult{}, fmt.Errorf("%w in %s", err, text)
		}
		docs = append(docs, b)
	}
	return p.Batch(ctx, docs, meshName, client.Precondition{})
}

// remove deletes a resource.
func remove(ctx context.Context, p *plane, typ, name string) error {
	k, ok := api.Kinds().ByName(typ)
	if !ok {
		return fmt.Errorf("there is no kind %s", typ)
	}
	return p.Delete(ctx, k, meshName, name, client.Precondition{})
}

func workload(i, services int) string { return fmt.Sprintf("svc-%d", i%services) }

func dataplane(name, workload string, address int, state mesh.InboundState) string {
	out, err := yaml.Marshal(map[string]any{
		"type": mesh.TypeDataplane, "mesh": meshName, "name": name, "labels": map[string]string{resource.LabelWorkload: workload},
		"networking": mesh.Networking{
			Address: fmt.Sprintf("127.%d.%d.%d", 9+address/62_500, address/250%250, 1+address%250),
			Inbound: []mesh.Inbound{{Port: 8080, ServicePort: 9090, Name: "main", Protocol: mesh.HTTP, State: state}},
		},
	})
	if err != nil {
		panic(err) // strings and numbers can always be written
	}
	return string(out)
}

// populate connects the proxies.
func (w *world) populate(ctx context.Context) error {
	ca, err := os.ReadFile(filepath.Join(w.east.work, "tls", "ca.pem"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	tokens := make([]string, w.o.services)
	for i := range tokens {
		if tokens[i], err = w.east.NewDataplaneToken(ctx, client.DataplaneToken{Mesh: meshName, Workload: workload(i, w.o.services)}); err != nil {
			return err
		}
	}
	for i := range w.n {
		name := fmt.Sprintf("dp-%d", i)
		w.agents = append(w.agents, load.NewAgent(load.AgentConfig{
			Address: w.east.agents, Roots: roots, Token: tokens[i%w.o.services], Mesh: meshName, Name: name,
			Dataplane: []byte(dataplane(name, workload(i, w.o.services), i, "")), Block: "127.5.0.0/16",
		}))
	}
	w.fleet = load.New(load.Config{
		Connect: func(ctx context.Context, i int) (grpc.ClientConnInterface, func(), error) {
			return w.agents[i].Connect(ctx)
		},
		Lost: func(_ int, err error) bool { return w.note(ctx, err) },
		Took: func(i int, t envoy.Type, name string, body []byte) {
			if f := w.took.Load(); f != nil {
				(*f)(i, t, name, body)
			}
		},
		Settled: func(i int) {
			if f := w.settled.Load(); f != nil {
				(*f)(i)
			}
		},
	}, w.n)
	w.stopProxies = background(ctx, w.fleet.Run)
	return w.quiet(ctx, "all proxies are configured", time.Second, func(i int) bool { return w.fleet.Proxy(i).Responses() >= 2 })
}

// note remembers why a connection ended; the proxy comes back.
func (w *world) note(ctx context.Context, err error) bool {
	w.mu.Lock()
	w.lost[err.Error()]++
	w.mu.Unlock()
	select {
	case <-time.After(20 * time.Millisecond):
	case <-ctx.Done():
	}
	return true
}

// quiet waits until something is so for every proxy and nothing has come for a while.
func (w *world) quiet(ctx context.Context, what string, pause time.Duration, so func(i int) bool) error {
	next, seen, since := 0, w.fleet.Responses(), time.Now()
	return until(ctx, what, func() (any, bool) {
		for ; next < w.n && so(next); next++ {
		}
		if now := w.fleet.Responses(); now != seen {
			seen, since = now, time.Now()
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		return fmt.Sprintf("%d of %d proxies, %d streams; lost: %v", next, w.n, w.fleet.Streams(), w.lost), next == w.n && time.Since(since) > pause
	})
}

// A cost is what processes have spent between two moments.
type cost struct {
	w     *world
	began map[*plane]time.Duration
}

func (w *world) planes() []*plane { return []*plane{w.global, w.east} }

// explain adds what a process that is gone has said to an error that may come from that.
func (w *world) explain(err error) error {
	for _, p := range w.planes() {
		if err != nil && p.gone() {
			err = fmt.Errorf("%s is gone (%s; the end of its log: %s): %w", p.name, p.cmd.ProcessState, p.tail(), err)
		}
	}
	return err
}

func (w *world) costing() (cost, error) {
	c := cost{w, map[*plane]time.Duration{}}
	for _, p := range w.planes() {
		at, err := cpu(p.pid())
		if err != nil {
			return c, err
		}
		c.began[p] = at
		if err := forgetPeak(p.pid()); err != nil {
			return c, err
		}
	}
	return c, nil
}

// end gives CPU milliseconds per change, and peaks.
func (c cost) end(changes int) (spent, peaks []share, err error) {
	for _, p := range c.w.planes() {
		at, err := cpu(p.pid())
		if err != nil {
			return nil, nil, err
		}
		_, peak, err := memory(p.pid())
		if err != nil {
			return nil, nil, err
		}
		spent = append(spent, share{p.name, ms(at-c.began[p]) / float64(changes)})
		peaks = append(peaks, share{p.name, float64(peak >> 20)})
	}
	return spent, peaks, nil
}
