package globalcp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/diagnostics"
	"github.com/causeway-mesh/causeway/api/hosting"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/pki"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/rest"
	"github.com/causeway-mesh/causeway/api/serving"
	"github.com/causeway-mesh/causeway/global-cp/access"
	"github.com/causeway-mesh/causeway/global-cp/hub"
	"github.com/causeway-mesh/causeway/global-cp/insight"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/authority"
	"github.com/causeway-mesh/causeway/store/backend"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/exchange"
)

const (
	author = "causeway"
	// serverSecret holds the authority of the server certificates of all instances, so that a zone recognises each of them.
	serverSecret = "control-plane-ca"
)

// A Global is one instance of a global control plane, ready to run: its store is read and its ports are taken.
type Global struct {
	cfg      Config
	log      *slog.Logger
	registry *prometheus.Registry
	instance string
	ready    chan struct{}

	store   store.Store
	catalog *catalog.Catalog
	certs   *serving.Certificates
	access  *access.Authority
	board   *insight.Board
	hub     *hub.Hub
	api     *rest.Server
	// zones serves the zone control planes; who serves them is registered on it before Run serves it.
	zones *grpc.Server
	shown *shown
	// parts run until ctx ends, beside the servers.
	parts []func(context.Context) error

	listeners struct{ api, zones, diagnostics net.Listener }
}

// New opens the store and takes the ports. Run must follow, or Close.
func New(ctx context.Context, cfg Config, log *slog.Logger) (*Global, error) {
	if err := cfg.Validate().Err(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if err := os.MkdirAll(cfg.WorkDir, 0o700); err != nil {
		return nil, fmt.Errorf("work directory: %w", err)
	}
	g := &Global{cfg: cfg, log: log, registry: prometheus.NewRegistry(), instance: hosting.InstanceID(), ready: make(chan struct{})}
	g.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, step := range []func(context.Context) error{g.listen, g.openStore} {
		if err := step(ctx); err != nil {
			g.Close()
			return nil, err
		}
	}
	return g, nil
}

// Close lets go of what New took. Run does so by itself.
func (g *Global) Close() {
	hosting.Close(g.listeners.api, g.listeners.zones, g.listeners.diagnostics)
	if g.store != nil {
		if err := g.store.Close(); err != nil {
			g.log.Error("close the store", "err", err)
		}
	}
}

func (g *Global) listen(ctx context.Context) error {
	return hosting.Listen(ctx,
		hosting.Port{Setting: "api.address", Address: g.cfg.API.Address, Into: &g.listeners.api},
		hosting.Port{Setting: "zones.address", Address: g.cfg.Zones.Address, Into: &g.listeners.zones},
		hosting.Port{Setting: "diagnostics.address", Address: g.cfg.Diagnostics.Address, Into: &g.listeners.diagnostics})
}

func (g *Global) openStore(ctx context.Context) error {
	sealer, err := backend.Sealer(g.cfg.Store, g.cfg.WorkDir, g.log)
	if err != nil {
		return err
	}
	holder := fmt.Sprintf("global control plane, process %d", os.Getpid())
	if g.store, err = backend.Open(ctx, g.cfg.Store, g.cfg.WorkDir, holder, g.log, g.registry); err != nil {
		return err
	}
	g.catalog, err = catalog.Open(ctx, catalog.Config{
		Store: g.store, Kinds: api.Kinds(), Sealer: sealer, Log: g.log, Registerer: g.registry,
	})
	return err
}

// APIAddress is where the REST API listens.
func (g *Global) APIAddress() string { return g.listeners.api.Addr().String() }

// ZonesAddress is where zone control planes connect.
func (g *Global) ZonesAddress() string { return g.listeners.zones.Addr().String() }

// DiagnosticsAddress is where health and metrics are served.
func (g *Global) DiagnosticsAddress() string { return g.listeners.diagnostics.Addr().String() }

// CAFile is the authority that clients of the API verify global with, once it is ready; empty with certificates of the operator.
func (g *Global) CAFile() string { return g.certs.CAFile() }

// AdminTokenFile is where the first administrator's token was written, by the instance that started first.
func (g *Global) AdminTokenFile() string { return filepath.Join(g.cfg.WorkDir, "admin.token") }

// Catalog is what global knows.
func (g *Global) Catalog() *catalog.Catalog { return g.catalog }

// Access says who may be a zone.
func (g *Global) Access() *access.Authority { return g.access }

// Metrics gathers the metrics of this instance.
func (g *Global) Metrics() prometheus.Gatherer { return g.registry }

// Ready is closed once global serves.
func (g *Global) Ready() <-chan struct{} { return g.ready }

// Run serves until ctx ends or a part fails for good.
func (g *Global) Run(ctx context.Context) error {
	defer g.Close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return g.catalog.Run(ctx) })
	group.Go(func() error {
		// What follows writes to the store, so the catalog must run already.
		if err := g.assemble(ctx); err != nil {
			return err
		}
		for _, part := range append(g.parts, g.serveAPI, g.serveZones, g.serveDiagnostics) {
			group.Go(func() error { return part(ctx) })
		}
		g.log.Info("global control plane runs", "api", "https://"+g.APIAddress(), "zones", g.ZonesAddress(), "ca", g.CAFile())
		close(g.ready)
		return nil
	})
	err := group.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// assemble makes the parts, and what an empty store needs.
func (g *Global) assemble(ctx context.Context) error {
	if err := g.openCertificates(ctx); err != nil {
		return err
	}
	var err error
	g.access, err = access.Open(ctx, access.Config{Catalog: g.catalog, Log: g.log, Lifetime: g.cfg.Zones.CredentialLifetime})
	if err != nil {
		return err
	}
	if err := g.openHub(ctx); err != nil {
		return err
	}
	return g.openAPI(ctx)
}

// openCertificates serves the files of the operator, or certificates of an authority that all instances share.
func (g *Global) openCertificates(ctx context.Context) error {
	cfg := serving.Config{
		CertFile: g.cfg.TLS.CertFile, KeyFile: g.cfg.TLS.KeyFile, Dir: filepath.Join(g.cfg.WorkDir, "tls"),
		Hosts: hosting.Hosts(g.cfg.TLS.Hosts, append([]string{g.cfg.API.Address, g.cfg.Zones.Address}, g.cfg.Zones.Advertised...)...),
		Log:   g.log,
	}
	if cfg.CertFile == "" {
		shared, err := authority.Open(ctx, authority.Config{
			Catalog: g.catalog, Secret: serverSecret, Name: "causeway generated authority", Author: author,
			Labels:  map[string]string{resource.LabelOrigin: resource.OriginGlobal, resource.LabelKDSSync: "disabled"},
			Without: "tell all clients and zones of the new one",
		})
		if err != nil {
			return fmt.Errorf("server certificate: %w", err)
		}
		cert, key := shared.PEM()
		cfg.Authority = &serving.Authority{Certificate: cert, Key: key}
	}
	var err error
	g.certs, err = serving.Open(cfg)
	return err
}

// authorityPEM is by what zones recognise this control plane.
func (g *Global) authorityPEM() ([]byte, error) {
	file := g.cfg.Zones.CAFile
	if file == "" {
		file = g.certs.CAFile()
	}
	if file != "" {
		return os.ReadFile(file)
	}
	chain, err := g.certs.Chain()
	if err != nil {
		return nil, err
	}
	return pki.EncodePEM("CERTIFICATE", chain[len(chain)-1]), nil
}

// NewJoinToken makes a token with which a zone can join.
func (g *Global) NewJoinToken(ctx context.Context, zone string, validFor time.Duration) (string, error) {
	ca, err := g.authorityPEM()
	if err != nil {
		return "", fmt.Errorf("read the authority for zones: %w", err)
	}
	addresses := g.cfg.Zones.Advertised
	if len(addresses) == 0 {
		addresses = []string{g.ZonesAddress()}
	}
	return g.access.NewJoinToken(ctx, zone, validFor, addresses, ca)
}

// openAPI makes the API and, on an empty store, the first administrator, the default mesh and the generators of hostnames.
func (g *Global) openAPI(ctx context.Context) error {
	g.shown = &shown{board: g.board}
	var err error
	g.api, err = rest.New(rest.Config{
		Catalog: g.catalog, Mode: rest.Global, OnMeshCreated: hosting.MeshDefaults, Insights: g.board, Traffic: g.board, Inspector: inspector{g, make(chan struct{}, maxExplaining)}, Concerns: hosting.Concerns(""), Complete: g.shown.complete,
		Join: g.NewJoinToken, Revoke: g.access.Revoke, Propagation: g.board, Adoption: exchange.Adoption{Catalog: g.catalog},
		EffectiveConfig: func() any { return hosting.Shown(g.cfg) },
		About:           rest.About{Version: g.cfg.Version, InstanceID: g.instance},
		Log:             g.log, Registerer: g.registry,
	})
	if err != nil {
		return err
	}
	first := !g.started()
	if err := g.api.Bootstrap(ctx, rest.Bootstrap{TokenFile: g.AdminTokenFile(), DefaultMesh: first && !g.cfg.SkipDefaultMesh}); err != nil {
		return err
	}
	if !first {
		return nil
	}
	return g.createGenerators(ctx)
}

// started says that this store has been used by a global control plane before; what an operator deleted then stays deleted.
func (g *Global) started() bool {
	s := g.catalog.Snapshot()
	return s.Count(mesh.TypeMesh, "") > 0 || s.Count(mesh.TypeHostnameGenerator, "") > 0 || s.Count(mesh.TypeZone, "") > 0
}

func (g *Global) createGenerators(ctx context.Context) error {
	b := catalog.Batch{Author: author, Reason: "first start"}
	for _, r := range mesh.SyncedGenerators() {
		r.Labels = map[string]string{resource.LabelDisplayName: r.Name, resource.LabelOrigin: resource.OriginGlobal}
		b.Puts = append(b.Puts, catalog.Put{Resource: r, Expect: store.ExpectAbsent})
	}
	if _, err := g.catalog.Commit(ctx, b); err != nil && !errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("create what a global control plane starts with: %w", err)
	}
	return nil
}

func (g *Global) serveAPI(ctx context.Context) error {
	srv := g.api.HTTPServer()
	srv.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: g.certs.Get}
	return hosting.ServeHTTP(ctx, srv, func() error { return srv.ServeTLS(g.listeners.api, "", "") })
}

func (g *Global) serveZones(ctx context.Context) error {
	return hosting.ServeGRPC(ctx, "zones", g.zones, g.listeners.zones)
}

func (g *Global) serveDiagnostics(ctx context.Context) error {
	if g.listeners.diagnostics == nil {
		return nil
	}
	// A store that is away is no reason to be unready: global serves zones and readers from memory.
	ready := func() error {
		select {
		case <-g.ready:
			return nil
		default:
			return errors.New("it is still starting")
		}
	}
	srv := diagnostics.Server(diagnostics.Config{Ready: ready, Metrics: g.registry, Profile: g.cfg.Diagnostics.Profile})
	return hosting.ServeHTTP(ctx, srv, func() error { return srv.Serve(g.listeners.diagnostics) })
}
