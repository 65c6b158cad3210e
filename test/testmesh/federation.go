package testmesh

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/global-cp/globalcp"
	"github.com/causeway-mesh/causeway/store/backend"
	"github.com/causeway-mesh/causeway/zone-cp/zonecp"
)

// FederationOptions are those of a global control plane and its zones. The zero value keeps all stores in memory.
type FederationOptions struct {
	// Store of global and of the zones: memory (the default), embedded, or postgres with DSN for global alone.
	Store, DSN string
	// ConfigureGlobal and ConfigureZone change configurations before each start.
	ConfigureGlobal func(*globalcp.Config)
	ConfigureZone   func(zone string, c *zonecp.Config)
	// CAFile is the authority of control planes that serve certificates of their operator.
	CAFile string
	// Through, when set, stands between zones and global: it is given global's address and returns the one that a zone uses.
	Through func(zone, global string) string
	// Place, when set, gives the hosts of control planes: global's, and those of zones by name.
	Place func(name string) Place
}

// A Federation is a global control plane with zones that have joined it.
type Federation struct {
	*Global
	opts  FederationOptions
	zones map[string]*Mesh
}

// A Global is a global control plane in this process, and its API for the mesh default. Its addresses stay the same over restarts.
type Global struct {
	API
	dir   string
	opts  FederationOptions
	place Place
	logs  *journal

	mu      sync.Mutex
	running *globalPlane
	at      struct{ api, zones string }
}

type globalPlane struct {
	*globalcp.Global // nil at a place
	stop             context.CancelFunc
	done             chan error
}

// beat is short, so that tests of dead peers end soon.
const beat = 300 * time.Millisecond

// Federate runs global and zones, and waits until every zone is linked and knows the mesh default.
func Federate(t testing.TB, o FederationOptions, zones ...string) *Federation {
	t.Helper()
	if o.Store == "" {
		o.Store = backend.Memory
	}
	g := &Global{dir: shortDir(t), opts: o, logs: newJournal()}
	g.at.api, g.at.zones = "127.0.0.1:0", "127.0.0.1:0"
	if o.Place != nil {
		g.place = o.Place(partGlobal)
		g.at.api, g.at.zones = at(g.place, apiPort), at(g.place, zonesPort)
	}
	g.StartGlobal(t)
	t.Cleanup(func() {
		if err := g.halt(); err != nil {
			t.Errorf("global ended: %v", err)
		}
		g.client.Close()
		if t.Failed() {
			t.Logf("the end of global's log:\n%s", g.logs.tail(40))
		}
	})
	f := &Federation{Global: g, opts: o, zones: map[string]*Mesh{}}
	for _, name := range zones {
		f.Join(t, name)
	}
	for _, name := range zones {
		f.UntilLinked(t, name)
	}
	return f
}

// Join starts a zone that joins global with a token of its own.
func (f *Federation) Join(t testing.TB, name string) *Mesh {
	t.Helper()
	file := filepath.Join(f.dir, name+".token")
	f.NewToken(t, name)
	store := f.opts.Store
	if store == backend.Postgres {
		store = backend.Memory
	}
	var place Place
	probes := "127.0.0.1:0"
	if f.opts.Place != nil {
		place = f.opts.Place(name)
		probes = at(place, probesPort)
	}
	z := startZone(t, Options{Store: store, Zone: name, Place: place, CAFile: f.opts.CAFile, Configure: func(c *zonecp.Config) {
		c.Global.JoinTokenFile, c.Global.BeatEvery = file, beat
		c.Probes.Address, c.AllowLocalAddresses = probes, place == nil
		if f.opts.Through != nil {
			c.Global.Addresses = []string{f.opts.Through(name, f.ZonesAddress())}
		}
		if f.opts.ConfigureZone != nil {
			f.opts.ConfigureZone(name, c)
		}
	}})
	f.zones[name] = z.mesh("default")
	return f.zones[name]
}

// NewToken writes a new join token where the zone reads it.
func (f *Federation) NewToken(t testing.TB, name string) {
	t.Helper()
	token, err := f.client.NewJoinToken(t.Context(), name, "1h")
	if err != nil {
		t.Fatalf("make a join token: %v", err)
	}
	if err := os.WriteFile(filepath.Join(f.dir, name+".token"), []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Zone is the mesh default in a zone.
func (f *Federation) Zone(name string) *Mesh { return f.zones[name] }

// UntilLinked waits until a zone is linked and has what global offers.
func (f *Federation) UntilLinked(t testing.TB, name string) {
	t.Helper()
	f.zones[name].Until(t, "zone "+name+" is linked to global and knows the mesh", func() (any, bool) {
		z := f.zones[name]
		cp := z.ControlPlane()
		if cp == nil { // that it can make tokens says that it is linked and has the mesh
			_, err := z.Zone.client.NewDataplaneToken(t.Context(), Token{Mesh: z.Name, Name: "any"})
			return err, err == nil
		}
		state := cp.Uplink().State()
		_, known := cp.Catalog().Snapshot().Get(resource.Key{Type: mesh.TypeMesh, Name: "default"})
		key := resource.Key{Type: mesh.TypeSecret, Mesh: "default", Name: "dataplane-token-signing-key-default-1"}
		_, signs := cp.Catalog().Snapshot().Get(key)
		return fmt.Sprintf("%+v, mesh %t, key %t", state, known, signs), state.Linked && known && signs
	})
}

func (g *Global) config() globalcp.Config {
	c := globalcp.Default()
	c.WorkDir, c.Store.Type, c.Store.Postgres.DSN = filepath.Join(g.dir, "global"), g.opts.Store, g.opts.DSN
	c.API.Address, c.Zones.Address, c.Diagnostics.Address = g.at.api, g.at.zones, ""
	c.Zones.BeatEvery, c.Zones.AllowLocalAddresses = beat, g.place == nil
	c.Version = "test"
	if g.opts.ConfigureGlobal != nil {
		g.opts.ConfigureGlobal(&c)
	}
	return c
}

// StartGlobal runs global again after HaltGlobal, at the same addresses.
func (g *Global) StartGlobal(t testing.TB) {
	t.Helper()
	if g.place != nil {
		a, c := startAt(t, g.place, partGlobal, g.dir, g.config(), g.at.api, g.logs)
		g.mu.Lock()
		g.running = &globalPlane{stop: a.stop, done: ended(a)}
		g.mu.Unlock()
		if g.client == nil {
			g.API = API{c, "default"}
		}
		return
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	global, err := globalcp.New(ctx, g.config(), slog.New(g.logs))
	if err != nil {
		cancel()
		t.Fatalf("start global: %v", err)
	}
	g.at.api, g.at.zones = global.APIAddress(), global.ZonesAddress()
	cp := &globalPlane{Global: global, stop: cancel, done: make(chan error, 1)}
	go func() { cp.done <- global.Run(ctx) }()
	g.mu.Lock()
	g.running = cp
	g.mu.Unlock()
	select {
	case <-global.Ready():
	case err := <-cp.done:
		cp.done <- err
		t.Fatalf("global ended before it was ready: %v\n%s", err, g.logs.tail(20))
	case <-time.After(patience):
		t.Fatalf("global is not ready within %s\n%s", patience, g.logs.tail(20))
	}
	if g.client == nil {
		c, err := client.New(client.Config{
			Server: "https://" + global.APIAddress(), CAFile: cmp.Or(g.opts.CAFile, global.CAFile()), TokenFile: global.AdminTokenFile(), UserAgent: "testmesh",
		})
		if err != nil {
			t.Fatal(err)
		}
		g.API = API{c, "default"}
	}
}

func (g *Global) halt() error {
	g.mu.Lock()
	cp := g.running
	g.running = nil
	g.mu.Unlock()
	if cp == nil {
		return nil
	}
	if g.client != nil {
		g.client.Close()
	}
	cp.stop()
	return <-cp.done
}

// HaltGlobal stops global; its zones go on.
func (g *Global) HaltGlobal(t testing.TB) {
	t.Helper()
	if err := g.halt(); err != nil {
		t.Fatalf("stop global: %v", err)
	}
}

// GlobalPlane is the running global control plane, for inspection; nil when it runs at a place.
func (g *Global) GlobalPlane() *globalcp.Global {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.running.Global
}

// ZonesAddress is where zones connect.
func (g *Global) ZonesAddress() string { return g.at.zones }

// Client is a client of global's API with the rights of the first administrator.
func (g *Global) Client() *client.Client { return g.client }

// ZoneOverview reads a Zone with what is observed of it.
func (g *Global) ZoneOverview(t testing.TB, name string, into any) bool {
	t.Helper()
	o, err := g.client.Overview(t.Context(), kind(t, mesh.TypeZone), "", name)
	if isNotFound(err) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(o.Raw, into); err != nil {
		t.Fatalf("read the overview of zone %s: %v", name, err)
	}
	return true
}

// A Backup is the files of the embedded store of a control plane.
type Backup map[string][]byte

func backup(t testing.TB, dir string) Backup {
	t.Helper()
	out := Backup{}
	files, err := filepath.Glob(filepath.Join(dir, "store.db*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("there is no embedded store in %s: %v", dir, err)
	}
	for _, f := range files {
		if out[f], err = os.ReadFile(f); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func restore(t testing.TB, dir string, b Backup) {
	t.Helper()
	remove(t, filepath.Join(dir, "store.db*"))
	for f, data := range b {
		if err := os.WriteFile(f, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func remove(t testing.TB, pattern string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.RemoveAll(f); err != nil {
			t.Fatal(err)
		}
	}
}

// WorkDir is where global keeps its files.
func (g *Global) WorkDir() string { return filepath.Join(g.dir, "global") }

// Backup copies the store of global as it is on disk; complete is that of a global that is halted.
func (g *Global) Backup(t testing.TB) Backup {
	t.Helper()
	return backup(t, g.WorkDir())
}

// Restore puts a backup in the place of the store of global, which is halted.
func (g *Global) Restore(t testing.TB, b Backup) {
	t.Helper()
	restore(t, g.WorkDir(), b)
}

// CrashGlobal ends global so that what its disk holds at this moment is all that is left, as when its process is killed.
func (g *Global) CrashGlobal(t testing.TB) {
	t.Helper()
	image := g.Backup(t)
	g.HaltGlobal(t)
	g.Restore(t, image)
}

// WipeGlobal removes everything of global, which is halted: store, keys, certificates and tokens.
func (g *Global) WipeGlobal(t testing.TB) {
	t.Helper()
	remove(t, filepath.Join(g.WorkDir(), "*"))
	g.client.Close()
	g.client = nil
}

// WorkDir is where the zone keeps its files.
func (z *Zone) WorkDir() string { return filepath.Join(z.dir, "zone") }

// Backup copies the store of the zone as it is on disk; complete is that of a zone that is halted.
func (z *Zone) Backup(t testing.TB) Backup {
	t.Helper()
	return backup(t, z.WorkDir())
}

// Restore puts a backup in the place of the store of the zone, which is halted.
func (z *Zone) Restore(t testing.TB, b Backup) {
	t.Helper()
	restore(t, z.WorkDir(), b)
}

// Crash ends the control plane so that what its disk holds at this moment is all that is left, as when its process is killed.
func (z *Zone) Crash(t testing.TB) {
	t.Helper()
	image := z.Backup(t)
	z.Halt(t)
	z.Restore(t, image)
}

// Rebuild starts a zone that is halted with nothing left of it and a new join token.
func (f *Federation) Rebuild(t testing.TB, name string) *Mesh {
	t.Helper()
	z := f.zones[name].Zone
	remove(t, filepath.Join(z.WorkDir(), "*"))
	z.client.Close()
	z.client = nil
	f.NewToken(t, name)
	z.Start(t)
	f.zones[name] = z.mesh("default")
	return f.zones[name]
}

// Log is the end of global's log.
func (g *Global) Log() string { return g.logs.tail(kept) }

// Log is the end of the zone's log.
func (z *Zone) Log() string { return z.logs.tail(kept) }

// Pending counts what a zone lacks since its store was replaced, or in a zone what global lacks, as its API says.
func (g *Global) Pending(t testing.TB, zone string) int {
	t.Helper()
	return pending(t, g.client, "/zones/"+zone+"/_adopt")
}

// Pending counts what global lacks since its store was replaced, as the API of the zone says.
func (z *Zone) Pending(t testing.TB) int {
	t.Helper()
	return pending(t, z.client, "/_adopt-global")
}

func pending(t testing.TB, c *client.Client, path string) int {
	t.Helper()
	resp, err := c.Do(t.Context(), client.Request{Method: http.MethodGet, Path: path})
	var list struct{ Total int }
	if err == nil {
		err = json.Unmarshal(resp.Body, &list)
	}
	if err != nil {
		t.Fatalf("list pending removals: %v", err)
	}
	return list.Total
}

// Adopt is an operator of global who confirms what is pending of a zone; it says how many objects that were.
func (g *Global) Adopt(t testing.TB, zone string) int {
	t.Helper()
	return adopt(t, g.client, "/zones/"+zone+"/_adopt")
}

// AdoptGlobal is an operator of a zone who confirms what is pending of global.
func (z *Zone) AdoptGlobal(t testing.TB) int {
	t.Helper()
	return adopt(t, z.client, "/_adopt-global")
}

func adopt(t testing.TB, c *client.Client, path string) int {
	t.Helper()
	resp, err := c.Do(t.Context(), client.Request{Method: http.MethodPost, Path: path})
	var done struct{ Removed int }
	if err == nil {
		err = json.Unmarshal(resp.Body, &done)
	}
	if err != nil {
		t.Fatalf("confirm pending removals: %v", err)
	}
	return done.Removed
}

// Enable lets what a zone owns be in other zones, or takes it away from them.
func (g *Global) Enable(t testing.TB, zone string, enabled bool) {
	t.Helper()
	body := fmt.Appendf(nil, `{"type":"Zone","name":%q,"enabled":%t}`, zone, enabled)
	if _, err := g.client.Put(t.Context(), kind(t, mesh.TypeZone), "", zone, body, client.Precondition{}); err != nil {
		t.Fatalf("enable zone %s: %v", zone, err)
	}
}

// TryDeleteZone deletes a zone at global, which may refuse that.
func (g *Global) TryDeleteZone(t testing.TB, zone string) error {
	t.Helper()
	return g.client.Delete(t.Context(), kind(t, mesh.TypeZone), "", zone, client.Precondition{})
}
