package load_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"sigs.k8s.io/yaml"

	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/backend"
	"github.com/causeway-mesh/causeway/test/load"
	"github.com/causeway-mesh/causeway/zone-cp/zonecp"
)

// patience bounds every wait; it is only reached by a test that fails.
const patience = 5 * time.Minute

// world is a real zone with fake agents that are spread over some services.
type world struct {
	*zonecp.Zone
	t      testing.TB
	client *client.Client
	agents []*load.Agent
	fleet  *load.Fleet
	start  chan struct{} // closed when the proxies may run

	mu   sync.Mutex
	lost map[string]int // why connections ended, or were never made
}

// newWorld starts a zone.
func newWorld(t testing.TB) *world {
	t.Helper()
	cfg := zonecp.Default()
	cfg.Zone, cfg.WorkDir, cfg.Store.Type = "east", t.TempDir(), backend.Memory
	cfg.API.Address, cfg.Agents.Address, cfg.Diagnostics.Address = "127.0.0.1:0", "127.0.0.1:0", ""
	// A proxy that reconnects is not taken for gone: what is sent again would be justified otherwise.
	cfg.Agents.Grace = time.Minute
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	z, err := zonecp.New(ctx, cfg, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError})))
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- z.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the zone ended: %v", err)
		}
	})
	select {
	case <-z.Ready():
	case <-time.After(patience):
		t.Fatal("the zone is not ready")
	}
	c, err := client.New(client.Config{Server: "https://" + z.APIAddress(), CAFile: z.CAFile(), TokenFile: z.AdminTokenFile()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &world{Zone: z, t: t, client: c, start: make(chan struct{}), lost: map[string]int{}}
}

// apply writes resources into the mesh.
func (w *world) apply(texts ...string) {
	w.t.Helper()
	var docs []json.RawMessage
	for _, text := range texts {
		b, err := yaml.YAMLToJSON([]byte(text))
		if err != nil {
			w.t.Fatal(err)
		}
		docs = append(docs, b)
	}
	if _, err := w.client.Batch(w.t.Context(), docs, "default", client.Precondition{}); err != nil {
		w.t.Fatal(err)
	}
}

// populate connects n agents of some services. Their proxies start when all agents have their sessions and certificates.
func (w *world) populate(n, services int, valves map[int]*load.Valve) {
	w.t.Helper()
	ca, err := os.ReadFile(w.CAFile())
	if err != nil {
		w.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	tokens := make([]string, services)
	for i := range tokens {
		if tokens[i], err = w.client.NewDataplaneToken(w.t.Context(), client.DataplaneToken{Mesh: "default", Workload: workload(i)}); err != nil {
			w.t.Fatal(err)
		}
	}
	for i := range n {
		w.agents = append(w.agents, load.NewAgent(load.AgentConfig{
			Address: w.AgentsAddress(), Roots: roots, Token: tokens[i%services], Mesh: "default", Name: name(i),
			Dataplane: dataplane(w.t, i, services), Block: "127.5.0.0/16", Valve: valves[i],
		}))
	}
	arrived := make(chan struct{}, n)
	w.fleet = load.New(load.Config{
		Lost: w.note,
		Connect: func(ctx context.Context, i int) (grpc.ClientConnInterface, func(), error) {
			conn, end, err := w.agents[i].Connect(ctx)
			if err != nil {
				return nil, nil, err
			}
			select {
			case arrived <- struct{}{}:
			default: // all have arrived long ago
			}
			select {
			case <-w.start:
				return conn, end, nil
			case <-ctx.Done():
				end()
				return nil, nil, ctx.Err()
			}
		},
	}, n)
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	done := make(chan error, 1)
	go func() { done <- w.fleet.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	limit := time.After(patience)
	for i := range n {
		select {
		case <-arrived:
		case <-limit:
			w.t.Fatalf("%d of %d agents have a session and a certificate; %v", i, n, w.problems())
		}
	}
	close(w.start)
}

func workload(i int) string { return fmt.Sprintf("svc-%d", i) }

func name(i int) string { return fmt.Sprintf("dp-%d", i) }

func key(i int) resource.Key {
	return resource.Key{Type: mesh.TypeDataplane, Mesh: "default", Name: name(i)}
}

func dataplane(t testing.TB, i, services int) []byte {
	t.Helper()
	out, err := yaml.Marshal(map[string]any{
		"type": mesh.TypeDataplane, "mesh": "default", "name": name(i),
		"labels": map[string]string{resource.LabelWorkload: workload(i % services)},
		"networking": mesh.Networking{
			Address: fmt.Sprintf("127.9.%d.%d", i/250, 1+i%250),
			Inbound: []mesh.Inbound{{Port: 8080, ServicePort: 9090, Name: "main", Protocol: mesh.HTTP}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// note remembers why a connection ended; the proxy comes back.
func (w *world) note(_ int, err error) bool {
	w.mu.Lock()
	w.lost[err.Error()]++
	w.mu.Unlock()
	select {
	case <-time.After(20 * time.Millisecond):
	case <-w.t.Context().Done():
	}
	return true
}

// problems are what the agents were told, and why their connections ended.
func (w *world) problems() (out []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for why, n := range w.lost {
		if out = append(out, fmt.Sprintf("%d times %s", n, why)); len(out) > 5 {
			break
		}
	}
	for _, a := range w.agents {
		if out = append(out, a.Problems()...); len(out) > 5 {
			break
		}
	}
	return out
}

// until waits for a named condition.
func (w *world) until(what string, cond func() (state any, ok bool)) time.Duration {
	w.t.Helper()
	begin := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		state, ok := cond()
		if ok {
			return time.Since(begin)
		}
		if time.Since(begin) > patience {
			w.t.Fatalf("%s: not within %s; last seen: %v; problems: %v", what, patience, state, w.problems())
		}
		<-tick.C
	}
}

// table is what the zone has for a proxy: versions by name.
func (w *world) table(i int) (out [envoy.NumTypes]map[string]string) {
	w.t.Helper()
	t, problems, err := w.Engine().Inspect(w.t.Context(), key(i))
	if err != nil || len(problems) > 0 {
		w.t.Fatalf("table of %s: %v %v", name(i), err, problems)
	}
	for typ := range envoy.NumTypes {
		out[typ] = map[string]string{}
		for _, part := range []*envoy.Part{t.Shared, t.Own} {
			for _, f := range part.Of(typ) {
				out[typ][f.Name] = f.Version
			}
		}
	}
	return out
}

// holdTables waits until proxies hold exactly what the zone has for them.
func (w *world) holdTables(what string, proxies ...int) time.Duration {
	w.t.Helper()
	next := 0 // those before held it when they were looked at
	compare := func() (any, bool) {
		for ; next < len(proxies); next++ {
			i := proxies[next]
			for typ, want := range w.table(i) {
				if got := w.fleet.Proxy(i).Held(envoy.Type(typ)); !maps.Equal(got, want) {
					return fmt.Sprintf("%s holds %d of %d %s", name(i), len(got), len(want), envoy.Type(typ)), false
				}
			}
		}
		return nil, true
	}
	took := w.until(what, compare)
	next = 0
	w.until(what, compare) // what one of the first got meanwhile
	return took
}

func upTo(n int) (out []int) {
	for i := range n {
		out = append(out, i)
	}
	return out
}

// overview is what the zone says about a proxy.
type overview struct {
	Name             string `json:"name"`
	DataplaneInsight struct {
		Subscriptions []struct {
			Status mesh.DiscoveryStatus `json:"status"`
		} `json:"subscriptions"`
	} `json:"dataplaneInsight"`
}

// acknowledged waits until the zone knows that the present stream of each proxy has answered everything, and something.
func (w *world) acknowledged(what string, n int) {
	w.t.Helper()
	w.until(what, func() (any, bool) {
		good := 0
		for o, err := range w.client.DataplaneOverviews(w.t.Context(), "default", client.Query{}) {
			if err != nil {
				w.t.Fatal(err)
			}
			var v overview
			if err := json.Unmarshal(o.Raw, &v); err != nil {
				w.t.Fatal(err)
			}
			subs := v.DataplaneInsight.Subscriptions
			if len(subs) == 0 {
				return v.Name + " has no subscription", false
			}
			st := subs[len(subs)-1].Status.Total
			if st.ResponsesSent < 2 || st.ResponsesAcknowledged != st.ResponsesSent || st.ResponsesRejected != 0 {
				return fmt.Sprintf("%s: %+v", v.Name, st), false
			}
			good++
		}
		return good, good == n
	})
}

// signed is how many workload certificates the zone has issued.
func (w *world) signed() (n float64) {
	w.t.Helper()
	families, err := w.Metrics().Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "causeway_identity_requests_total" {
			for _, m := range f.GetMetric() {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

const identity = `
type: MeshIdentity
name: identity
spec:
  selector: {dataplane: {}}
  provider: {type: Bundled, bundled: {autogenerate: {enabled: true}}}
`

// timeout is a policy that changes a cluster field of every service.
func timeout(ms int) string {
	return fmt.Sprintf("type: MeshTimeout\nname: connect\nspec:\n  to:\n  - targetRef: {kind: Mesh}\n    default: {connectionTimeout: %dms}\n", ms)
}
