package faults_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/backend"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/test/pg"
	"github.com/causeway-mesh/causeway/test/ports"
	"github.com/causeway-mesh/causeway/test/testmesh"
	"github.com/causeway-mesh/causeway/zone-cp/zonecp"
)

// A couple is two instances of one zone on one database: one in a process of its own, which may be killed, and one in this process.
type couple struct {
	*testmesh.Mesh
	dsn   string
	apart *process
	other *api // of the instance apart
	// The addresses for agents, of the instance apart first and of that in this process first.
	apartFirst, hereFirst []string
}

// startCouple starts the instance apart first, so that it is the one that writes for the zone.
func startCouple(t *testing.T, takeover time.Duration) *couple {
	t.Helper()
	c := &couple{dsn: pg.Database(t)}
	// They share the directory for the administrator's token and the sealing keys.
	dir, there, here := t.TempDir(), reservedAddress(t), reservedAddress(t)
	c.apartFirst, c.hereFirst = []string{there, here}, []string{here, there}
	configure := func(cfg *zonecp.Config) {
		cfg.WorkDir, cfg.Takeover, cfg.Agents.Advertised = dir, takeover, c.apartFirst
		cfg.Store.Type, cfg.Store.Postgres.DSN = backend.Postgres, c.dsn
	}
	cfg := settings(t, dir, backend.Postgres)
	cfg.Agents.Address, cfg.Diagnostics.Address = there, ""
	configure(&cfg)
	text, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, zoneFile), text, 0o600); err != nil {
		t.Fatal(err)
	}
	c.apart = spawn(t, dir)
	c.other = c.apart.client(t, dir)
	until(t, "the instance apart writes for the zone", func() (any, bool) {
		w := c.writer(t)
		return w, w == c.instance(t, c.other)
	})
	c.Mesh = testmesh.Start(t, testmesh.Options{Store: backend.Postgres, DSN: c.dsn, Configure: func(cfg *zonecp.Config) {
		configure(cfg)
		cfg.Agents.Address = here
	}})
	return c
}

// reservedAddress is one that nothing listens on, of a port that the system gives nobody who asks for any.
func reservedAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000)))
		if err != nil {
			continue
		}
		defer l.Close()
		return l.Addr().String()
	}
	t.Fatal("every port is taken")
	return ""
}

// writer is the instance that holds the lease.
func (c *couple) writer(t *testing.T) string {
	t.Helper()
	db, err := pgx.Connect(t.Context(), c.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(t.Context())
	var holder string
	if err := db.QueryRow(t.Context(), "SELECT coalesce(max(holder), '') FROM leases WHERE name = 'zone-writer'").Scan(&holder); err != nil {
		t.Fatal(err)
	}
	return holder
}

func (c *couple) untilWriter(t *testing.T, instance string) time.Duration {
	t.Helper()
	return c.Until(t, "instance "+instance+" writes for the zone", func() (any, bool) {
		w := c.writer(t)
		return w, w == instance
	})
}

func (c *couple) instance(t *testing.T, a *api) string {
	t.Helper()
	var index struct {
		InstanceID string `json:"instanceId"`
	}
	if err := json.Unmarshal([]byte(a.must(t, "GET", "/", "").body), &index); err != nil {
		t.Fatal(err)
	}
	return index.InstanceID
}

// A seen is what an instance shows of a dataplane.
type seen struct {
	Insight struct {
		mesh.DataplaneInsight
	} `json:"dataplaneInsight"`
}

func (s seen) online() bool {
	n := len(s.Insight.Subscriptions)
	return n > 0 && s.Insight.Subscriptions[n-1].DisconnectTime.IsZero()
}

// by is the instance that has the session.
func (s seen) by() string {
	if n := len(s.Insight.Subscriptions); n > 0 {
		return s.Insight.Subscriptions[n-1].ControlPlaneInstanceID
	}
	return ""
}

func (s seen) issued() uint32 {
	if s.Insight.MTLS == nil {
		return 0
	}
	return s.Insight.MTLS.CertificateRegenerations
}

// overview is how this process's instance sees a dataplane, or, with other, how the other one does.
func (c *couple) overview(t *testing.T, other bool, name string) seen {
	t.Helper()
	var s seen
	if !other {
		c.Overview(t, name, &s)
		return s
	}
	a := c.other.must(t, "GET", "/meshes/default/dataplanes/"+name+"/_overview", "")
	if err := json.Unmarshal([]byte(a.body), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// An envoyState is what a proxy would notice of anything but a reconnect.
type envoyState struct {
	certificates string
	listeners    int
	clusters     int
}

func stateOf(t *testing.T, i *testmesh.Instance) envoyState {
	t.Helper()
	certs, err := i.Admin("/certs")
	if err != nil {
		t.Fatal(err)
	}
	var serials []string
	for line := range strings.Lines(certs) {
		if strings.Contains(line, "serial_number") {
			serials = append(serials, strings.TrimSpace(line))
		}
	}
	return envoyState{
		certificates: strings.Join(serials, " "),
		listeners:    i.Stat(t, `listener_manager\.listener_(added|modified|removed)`),
		clusters:     i.Stat(t, `cluster_manager\.cluster_(added|modified|removed)`),
	}
}

const identities = `
type: MeshIdentity
name: identity
spec:
  selector: {dataplane: {}}
  provider: {type: Bundled, bundled: {insecureAllowSelfSigned: true, autogenerate: {enabled: true}}}
---
type: MeshTrafficPermission
name: everybody
spec:
  rules:
  - default: {allow: [{spiffeID: {type: Prefix, value: "spiffe://"}}]}
`

// An instance is killed that serves half of the proxies and writes for the zone. Its agents come to the other one, no request fails,
// no proxy notices more than a reconnect, and what the writer did goes on.
//
// Acceptance: U intercp: two processes on one PostgreSQL; each shows the proxies of the other, and where they are
// Acceptance: U resilience: of two processes on PostgreSQL one leads, and the other when that is killed
func TestAnInstanceIsKilled(t *testing.T) {
	c := startCouple(t, 2*time.Second) // short, so that the test ends soon
	c.Apply(t, identities)
	all := c.Workloads(t,
		testmesh.Workload{Name: "web-1", Zone: c.apartFirst}, testmesh.Workload{Name: "web-2", Zone: c.hereFirst},
		testmesh.Workload{Name: "client-1", Zone: c.apartFirst}, testmesh.Workload{Name: "client-2", Zone: c.hereFirst},
	)
	there, here := c.instance(t, c.other), c.ControlPlane().Instance()
	where := map[string]string{"web-1": there, "web-2": here, "client-1": there, "client-2": here}
	for name, instance := range where {
		for _, other := range []bool{false, true} {
			c.Until(t, fmt.Sprintf("%s is shown as online at its instance, at the other one: %t", name, other), func() (any, bool) {
				s := c.overview(t, other, name)
				return s.Insight, s.online() && s.by() == instance && s.issued() == 1
			})
		}
	}
	var loads []*testmesh.Load
	for _, client := range all[2:] {
		for _, server := range []string{"web-1", "web-2"} {
			c.Until(t, client.Name+" reaches "+server, func() (any, bool) {
				r := client.Reach(t, "web")
				return r, r.Answer.Instance == server
			})
		}
		loads = append(loads, c.Load(t, client, testmesh.Request{Service: "web"}, 50))
	}
	before := map[string]envoyState{}
	for _, w := range all {
		before[w.Name] = stateOf(t, w)
	}

	c.apart.kill()
	for name := range where {
		took := c.Until(t, name+" is with the instance that is left", func() (any, bool) {
			s := c.overview(t, false, name)
			return s.Insight, s.online() && s.by() == here
		})
		t.Logf("%s moved within %s", name, took)
	}
	t.Logf("the writer was replaced within %s", c.untilWriter(t, here))
	for _, l := range loads {
		l.More(t, 200)
	}
	for _, w := range all {
		if now := stateOf(t, w); now != before[w.Name] {
			t.Errorf("%s noticed: %+v, before %+v", w.Name, now, before[w.Name])
		}
		if n := c.overview(t, false, w.Name).issued(); n != 1 {
			t.Errorf("%s was issued %d certificates, want 1", w.Name, n)
		}
	}

	// What only the writer does: the service of a new workload gets its address.
	api := c.Workload(t, testmesh.Workload{Name: "api-1", Zone: c.apartFirst})
	for _, client := range all[2:] {
		client.Reach(t, "api")
	}
	api.Reach(t, "web")
	for _, l := range loads {
		l.Stop().NoFailure(t)
	}
	c.Apply(t, `
type: MeshTimeout
mesh: default
name: quick
spec:
  to:
  - targetRef: {kind: Mesh}
    default: {http: {requestTimeout: 300ms}}
`)
	for _, from := range append(all, api) {
		from.Expect(t, testmesh.Request{Service: "web", Path: "/?delay=5s"}, http.StatusGatewayTimeout)
	}
	c.apart.check(t)
}

// A proxy of one instance leaves: also those of the other one are told before it goes. Then that instance stops gracefully: the other
// one writes at once, however long it would wait for one that is dead, and the agents go on there.
func TestWhatLeavesGracefullyIsNotMissed(t *testing.T) {
	c := startCouple(t, time.Minute)
	c.Apply(t, identities)
	all := c.Workloads(t,
		testmesh.Workload{Name: "web-1", Zone: c.apartFirst}, testmesh.Workload{Name: "web-2", Zone: c.hereFirst},
		testmesh.Workload{Name: "web-3", Zone: c.apartFirst}, testmesh.Workload{Name: "client-1", Zone: c.hereFirst},
	)
	client := all[3]
	for _, server := range []string{"web-1", "web-2", "web-3"} {
		c.Until(t, client.Name+" reaches "+server, func() (any, bool) {
			r := client.Reach(t, "web")
			return r, r.Answer.Instance == server
		})
	}
	load := c.Load(t, client, testmesh.Request{Service: "web"}, 100)
	load.More(t, 50)
	all[0].Stop(t)
	load.More(t, 50)
	c.Until(t, "web-1 is deregistered by the instance that writes, also for this one", func() (any, bool) {
		var s seen
		return s, !c.Overview(t, "web-1", &s)
	})

	c.apart.stop(t)
	t.Logf("the writer was replaced within %s", c.untilWriter(t, c.ControlPlane().Instance()))
	c.Until(t, "web-3 is with the instance that is left", func() (any, bool) {
		s := c.overview(t, false, "web-3")
		return s.Insight, s.online() && s.by() == c.ControlPlane().Instance()
	})
	load.More(t, 100)
	load.Stop().NoFailure(t)
	c.apart.check(t)
}

// A zone of two instances belongs to global. What it says of its proxies is of both, and when the instance with the link ends, the
// other one has it.
func TestTheLinkToGlobalGoesWithTheWriter(t *testing.T) {
	dsn, dir := pg.Database(t), t.TempDir()
	var cfg zonecp.Config
	f := testmesh.Federate(t, testmesh.FederationOptions{ConfigureZone: func(_ string, c *zonecp.Config) {
		c.WorkDir, c.Store.Type, c.Store.Postgres.DSN, c.Takeover = dir, backend.Postgres, dsn, time.Minute
		cfg = *c
	}}, "east")
	east := f.Zone("east")
	cfg.API.Address, cfg.Agents.Address, cfg.Diagnostics.Address = "127.0.0.1:0", "127.0.0.1:0", ports.FreeAddress(t, "127.0.0.1")
	second := start(t, cfg)
	f.Apply(t, identities)
	all := east.Workloads(t,
		testmesh.Workload{Name: "web-1"}, testmesh.Workload{Name: "web-2", Zone: []string{second.AgentsAddress()}},
		testmesh.Workload{Name: "client-1", Zone: []string{second.AgentsAddress(), east.ControlPlane().AgentsAddress()}},
	)
	propagation := func(of resource.Key) mesh.ZonePropagation {
		t.Helper()
		r, _ := f.GlobalPlane().Catalog().Snapshot().Get(of)
		p, err := f.Client().Propagation(t.Context(), r.Revision)
		if err != nil {
			t.Fatal(err)
		}
		for _, z := range p.Zones {
			if z.Zone == "east" {
				return z
			}
		}
		return mesh.ZonePropagation{}
	}
	acknowledged := func(of resource.Key) {
		t.Helper()
		took := east.Until(t, "the proxies of both instances have acknowledged "+of.String(), func() (any, bool) {
			z := propagation(of)
			return fmt.Sprintf("%+v", z), z.State == mesh.PropagationAcknowledged && z.Online && z.Proxies.Acknowledged == uint64(len(all))
		})
		t.Logf("%s is acknowledged within %s", of, took)
	}
	timeout := func(name, value string) resource.Key {
		t.Helper()
		f.Apply(t, fmt.Sprintf("type: MeshTimeout\nname: %s\nspec: {to: [{targetRef: {kind: Mesh}, default: {http: {requestTimeout: %s}}}]}\n", name, value))
		return resource.Key{Type: "MeshTimeout", Mesh: "default", Name: name}
	}
	acknowledged(resource.Key{Type: mesh.TypeMeshIdentity, Mesh: "default", Name: "identity"})
	acknowledged(timeout("quick", "300ms"))
	slow := func(status int) {
		t.Helper()
		for _, from := range all[1:] {
			from.Expect(t, testmesh.Request{Service: "web", Path: "/?delay=1s"}, status)
		}
	}
	slow(http.StatusGatewayTimeout)

	east.Halt(t) // the first instance, which has the link
	until(t, "the instance that is left has the link", func() (any, bool) {
		s := second.Uplink().State()
		return s, s.Linked
	})
	timeout("quick", "10s")
	slow(http.StatusOK)
}

// A line is the way to a database, which can be cut.
type line struct {
	listener net.Listener
	target   string // a Unix socket
	running  sync.WaitGroup

	mu   sync.Mutex
	open map[net.Conn]bool
	down bool
}

func newLine(t *testing.T, target string) *line {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &line{listener: l, target: target, open: map[net.Conn]bool{}}
	w.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.running.Go(func() { w.carry(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		w.cut(true)
		w.running.Wait()
	})
	return w
}

// carry copies both ways until either side ends, or the line is cut.
func (w *line) carry(c net.Conn) {
	defer c.Close()
	d, err := net.Dial("unix", w.target)
	if err != nil {
		return
	}
	defer d.Close()
	w.mu.Lock()
	if w.down {
		w.mu.Unlock()
		return
	}
	w.open[c], w.open[d] = true, true
	w.mu.Unlock()
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(c, d) // ends with either
		_ = c.Close()
	})
	_, _ = io.Copy(d, c)
	_ = d.Close()
	back.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.open, c)
	delete(w.open, d)
}

func (w *line) cut(down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = down
	for c := range w.open {
		_ = c.Close()
	}
}

// The instance that leads loses its database, and nobody else does. The other one leads within its time; the former writes nothing any more and says
// why, its proxies go on, and when the database is back it follows.
//
// Acceptance: U resilience: the instance that leads stops when it loses the database
func TestTheWriterLosesItsDatabase(t *testing.T) {
	dsn, dir := pg.Database(t), t.TempDir()
	at, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	q := at.Query()
	way := newLine(t, filepath.Join(q.Get("host"), ".s.PGSQL."+q.Get("port")))
	q.Set("host", "127.0.0.1")
	q.Set("port", strconv.Itoa(way.listener.Addr().(*net.TCPAddr).Port))
	at.RawQuery = q.Encode()
	const takeover = 2 * time.Second
	var cfg zonecp.Config
	m := testmesh.Start(t, testmesh.Options{Store: backend.Postgres, DSN: at.String(), Configure: func(c *zonecp.Config) {
		c.WorkDir, c.Takeover = dir, takeover
		cfg = *c
	}})
	c := &couple{Mesh: m, dsn: dsn}
	first := m.ControlPlane().Instance()
	c.untilWriter(t, first)
	cfg.Store.Postgres.DSN, cfg.API.Address, cfg.Agents.Address, cfg.Diagnostics.Address = dsn, "127.0.0.1:0", "127.0.0.1:0", ports.FreeAddress(t, "127.0.0.1")
	second := start(t, cfg)
	c.Apply(t, identities)
	here := m.ControlPlane().AgentsAddress()
	all := m.Workloads(t, testmesh.Workload{Name: "web-1", Zone: []string{here}}, testmesh.Workload{Name: "client-1", Zone: []string{here}})
	all[1].Reach(t, "web")
	load := m.Load(t, all[1], testmesh.Request{Service: "web"}, 50)
	if w := c.writer(t); w != first {
		t.Fatalf("instance %s leads, want the first", w)
	}

	way.cut(true)
	t.Logf("it was replaced within %s", c.untilWriter(t, second.Instance()))
	if err := m.TryApply(t, "type: MeshTimeout\nname: lost\nspec: {to: [{targetRef: {kind: Mesh}, default: {connectionTimeout: 3s}}]}\n"); err == nil || !strings.Contains(err.Error(), "store") {
		t.Errorf("a write without a database: %v, want a refusal that says why", err)
	}
	m.Workload(t, testmesh.Workload{Name: "api-1", Zone: []string{second.AgentsAddress()}})
	api := resource.Key{Type: mesh.TypeMeshService, Mesh: "default", Name: "api"}
	m.Until(t, "the second makes the service of a new workload, and gives it an address", func() (any, bool) {
		d := catalog.StatusOf(api)
		status, ok := second.Catalog().Snapshot().Derived(d.Type, d.Mesh, d.Name)
		return string(status), ok && strings.Contains(string(status), `"vips"`)
	})
	if _, known := m.ControlPlane().Catalog().Snapshot().Get(api); known {
		t.Error("the first knows what was written while it had no database")
	}
	load.More(t, 50)

	way.cut(false)
	m.Until(t, "the first shows what the second wrote", func() (any, bool) {
		var s struct{}
		return nil, m.Read(t, mesh.TypeMeshService, "api", &s)
	})
	all[1].Reach(t, "api")
	if w := c.writer(t); w != second.Instance() {
		t.Errorf("instance %s leads, want the second, which nobody has replaced", w)
	}
	load.Stop().NoFailure(t)
}
