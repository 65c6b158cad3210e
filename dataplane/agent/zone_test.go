package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	"google.golang.org/grpc"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/token"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/memory"
	"github.com/causeway-mesh/causeway/store/seal"
	"github.com/causeway-mesh/causeway/test/ports"
	"github.com/causeway-mesh/causeway/zone-cp/agents"
	"github.com/causeway-mesh/causeway/zone-cp/identity"
)

// world is what outlives a restart of the zone.
type world struct {
	t      testing.TB
	store  *memory.Store
	sealer *seal.Sealer
	server tls.Certificate
	ca     []byte // PEM
	pin    string
	addr   string // the same for every life of the zone
	xds    cache.SnapshotCache
}

// zone is one life of a zone control plane: the real service for agents, beside an xDS server of go-control-plane.
type zone struct {
	*world
	catalog *catalog.Catalog
	service *agents.Service
	issuer  *token.Issuer
	stop    func()
}

func newWorld(t testing.TB) *world {
	t.Helper()
	key, err := seal.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := seal.New(key)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: memory.New(), sealer: sealer, xds: cache.NewSnapshotCache(true, cache.IDHash{}, nil)}
	t.Cleanup(func() { w.store.Close() })
	w.certificates()
	w.addr = fmt.Sprintf("127.0.0.1:%d", ports.Free(t, "127.0.0.1"))
	return w
}

func (w *world) certificates() {
	t := w.t
	make := func(tpl, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if parent == nil {
			parent, parentKey = tpl, k
		}
		tpl.SerialNumber, tpl.NotBefore, tpl.NotAfter, tpl.BasicConstraintsValid = big.NewInt(1), time.Now().Add(-time.Hour), time.Now().Add(time.Hour), true
		der, err := x509.CreateCertificate(rand.Reader, tpl, parent, k.Public(), parentKey)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c, k
	}
	ca, caKey := make(&x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	leaf, key := make(&x509.Certificate{Subject: pkix.Name{CommonName: "zone"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, ca, caKey)
	w.server = tls.Certificate{Certificate: [][]byte{leaf.Raw, ca.Raw}, PrivateKey: key}
	w.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})
	sum := sha256.Sum256(ca.Raw)
	w.pin = hex.EncodeToString(sum[:])
}

const objects = `
type: Mesh
name: default
---
type: MeshIdentity
mesh: default
name: identity
spec:
  selector: {dataplane: {}}
  provider: {type: Bundled, bundled: {autogenerate: {enabled: true}%s}}
`

// start runs a zone. The world's first zone gets a mesh with an identity and a signing key for tokens.
func (w *world) start(edit ...func(*agents.Config)) *zone {
	return w.startWith(fmt.Sprintf(objects, ""), 0, edit...)
}

func (w *world) startWith(yaml string, controlLifetime time.Duration, edit ...func(*agents.Config)) *zone {
	w.t.Helper()
	t := w.t
	ctx, cancel := context.WithCancel(context.Background())
	c, err := catalog.Open(ctx, catalog.Config{Store: w.store, Kinds: resource.NewKinds(mesh.Kinds...), Sealer: w.sealer})
	if err != nil {
		t.Fatal(err)
	}
	z := &zone{world: w, catalog: c}
	waits := []func(){background(t, ctx, c.Run)}
	if _, ok := c.Snapshot().Get(resource.Key{Type: mesh.TypeMesh, Name: "default"}); !ok {
		z.apply(yaml)
		key, err := token.NewSigningKey()
		if err != nil {
			t.Fatal(err)
		}
		z.put(token.Secret(token.DataplaneSigningKey("default", 1), key))
	}
	authority := identity.New(identity.Config{Catalog: c, Zone: "east"})
	waits = append(waits, background(t, ctx, authority.Run))
	control, err := identity.OpenControl(ctx, c, "east", controlLifetime, nil)
	if err != nil {
		t.Fatal(err)
	}
	secrets := token.SecretsFunc(func() token.Secrets { return c.Snapshot() })
	z.issuer = token.NewIssuer(secrets, nil)
	cfg := agents.Config{
		Catalog: c, Authority: authority, Control: control, Tokens: token.NewValidator(secrets, nil), Observations: w.store,
		Zone: "east", Instance: "zone-1", RequestInterval: 10 * time.Millisecond, InsightInterval: 10 * time.Millisecond,
	}
	for _, e := range edit {
		e(&cfg)
	}
	if z.service, err = agents.New(cfg); err != nil {
		t.Fatal(err)
	}
	waits = append(waits, background(t, ctx, z.service.Run))
	l, err := net.Listen("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(z.service.ServerOptions(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &w.server, nil })...)
	z.service.Register(server)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, ads{delta: delta.NewServer(ctx, w.xds, nil)})
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	var once sync.Once
	z.stop = func() {
		once.Do(func() {
			cancel()
			server.Stop()
			<-served
			for _, wait := range waits {
				wait()
			}
		})
	}
	t.Cleanup(z.stop)
	return z
}

type ads struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	delta delta.Server
}

func (a ads) DeltaAggregatedResources(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	if _, err := agents.PeerDataplane(s.Context()); err != nil {
		return err
	}
	return a.delta.DeltaStreamHandler(s, resourcev3.AnyType)
}

// serveXDS sets what the Envoy of a node gets.
func (w *world) serveXDS(node, version string, clusters []*clusterv3.Cluster, listeners []*listenerv3.Listener) {
	w.t.Helper()
	r := map[resourcev3.Type][]types.Resource{resourcev3.ClusterType: nil, resourcev3.ListenerType: nil}
	for _, c := range clusters {
		r[resourcev3.ClusterType] = append(r[resourcev3.ClusterType], c)
	}
	for _, l := range listeners {
		r[resourcev3.ListenerType] = append(r[resourcev3.ListenerType], l)
	}
	s, err := cache.NewSnapshot(version, r)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.xds.SetSnapshot(context.Background(), node, s); err != nil {
		w.t.Fatal(err)
	}
}

func background(t testing.TB, ctx context.Context, run func(context.Context) error) (wait func()) {
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	return func() {
		if err := <-done; err != nil {
			t.Errorf("run ended: %v", err)
		}
	}
}

func (z *zone) apply(yaml string) {
	z.t.Helper()
	ds, err := z.catalog.Kinds().DecodeYAML([]byte(yaml), true)
	if err != nil {
		z.t.Fatal(err)
	}
	for _, d := range ds {
		z.put(d.Resource)
	}
}

func (z *zone) put(r resource.Resource) {
	z.t.Helper()
	if _, err := z.catalog.Commit(z.t.Context(), catalog.Batch{Puts: []catalog.Put{{Resource: r, Expect: store.ExpectAny}}}); err != nil {
		z.t.Fatal(err)
	}
}

func (z *zone) token(d token.Dataplane) string {
	z.t.Helper()
	d.Mesh = "default"
	s, err := z.issuer.Dataplane(d, time.Hour)
	if err != nil {
		z.t.Fatal(err)
	}
	return s
}

func (z *zone) facts(name string) agents.Facts {
	f, _ := z.service.Registry().Snapshot().Get(dataplane(name))
	return f
}

func (z *zone) untilServing(name string) {
	z.t.Helper()
	until(z.t, "the proxy of "+name+" serves", func() bool { return z.facts(name).Serving })
}

func dataplane(name string) resource.Key {
	return resource.Key{Type: mesh.TypeDataplane, Mesh: "default", Name: name}
}

// until waits for a condition, polled since it may depend on several processes.
func until(t testing.TB, what string, ok func() bool, show ...func() any) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			var state []any
			for _, s := range show {
				state = append(state, s())
			}
			t.Fatalf("waited in vain until %s: %+v", what, state)
		}
	}
}

// logs keeps what was logged.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// life is one run of an agent.
type life struct {
	t    testing.TB
	cfg  Config
	logs *logs
	stop context.CancelFunc
	done chan error
}

// config is that of an agent of a workload, with files for its token and Dataplane.
func (w *world) config(name, yaml, bearer string) Config {
	w.t.Helper()
	dir, err := os.MkdirTemp("", "cw") // short: a socket's path has little room
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { os.RemoveAll(dir) })
	write := func(name, content string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			w.t.Fatal(err)
		}
		return p
	}
	c := Default()
	c.Zone = ZoneConfig{Addresses: []string{w.addr}, CAFile: write("ca.pem", string(w.ca))}
	c.Dataplane = DataplaneConfig{TokenFile: write("token", bearer+"\n")}
	if yaml != "" {
		c.Dataplane.File = write("dataplane.yaml", yaml)
	} else {
		c.Dataplane.Mesh, c.Dataplane.Name = "default", name
	}
	c.RuntimeDir, c.DrainTime = filepath.Join(dir, "run"), 2*time.Second
	c.Version = "test"
	return c
}

// web is the agent of web-1, with an Envoy that is none.
func (z *zone) web() (Config, *fake) { return z.faked(webYAML(1), webToken) }

func (z *zone) faked(yaml string, bearer token.Dataplane) (Config, *fake) {
	z.t.Helper()
	f := &fake{}
	c := z.config("", yaml, z.token(bearer))
	c.Launch = f.launch
	return c, f
}

func run(t testing.TB, cfg Config) *life {
	ctx, cancel := context.WithCancel(context.Background())
	l := &life{t: t, cfg: cfg, logs: &logs{}, stop: cancel, done: make(chan error, 1)}
	log := slog.New(slog.NewTextHandler(l.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	go func() { l.done <- Run(ctx, cfg, log) }()
	t.Cleanup(func() {
		l.end()
		if t.Failed() {
			t.Logf("log of the agent:\n%s", l.logs)
		}
	})
	return l
}

// end stops the agent and returns how it ended.
func (l *life) end() error {
	l.stop()
	select {
	case err := <-l.done:
		l.done <- err
		return err
	case <-time.After(20 * time.Second):
		l.t.Errorf("the agent does not end; its log:\n%s", l.logs)
		return nil
	}
}

func (l *life) ended() error {
	l.t.Helper()
	select {
	case err := <-l.done:
		l.done <- err
		return err
	case <-time.After(20 * time.Second):
		l.t.Fatalf("the agent does not give up; its log:\n%s", l.logs)
		return nil
	}
}

func (l *life) says(parts ...string) bool {
	text := l.logs.String()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			return false
		}
	}
	return true
}

func webYAML(port uint32) string {
	return fmt.Sprintf(`
type: Dataplane
mesh: default
name: web-1
labels: {kuma.io/workload: web}
networking:
  address: 127.0.0.1
  inbound: [{port: %d, name: http}]
`, port)
}

var webToken = token.Dataplane{Name: "web-1", Workload: "web"}

type resourceKey = resource.Key
