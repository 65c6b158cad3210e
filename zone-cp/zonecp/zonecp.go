package zonecp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/diagnostics"
	"github.com/causeway-mesh/causeway/api/hosting"
	"github.com/causeway-mesh/causeway/api/policies"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/rest"
	"github.com/causeway-mesh/causeway/api/serving"
	"github.com/causeway-mesh/causeway/api/token"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/backend"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/exchange"
	"github.com/causeway-mesh/causeway/zone-cp/agents"
	"github.com/causeway-mesh/causeway/zone-cp/derive"
	"github.com/causeway-mesh/causeway/zone-cp/identity"
	"github.com/causeway-mesh/causeway/zone-cp/instances"
	"github.com/causeway-mesh/causeway/zone-cp/push"
	"github.com/causeway-mesh/causeway/zone-cp/xds"
)

// A Zone is one zone control plane, ready to run: its store is read and its ports are taken.
type Zone struct {
	cfg      Config
	log      *slog.Logger
	registry *prometheus.Registry

	store     store.Store
	catalog   *catalog.Catalog
	certs     *serving.Certificates
	api       *rest.Server
	authority *identity.Authority
	control   *identity.Control
	agents    *agents.Service
	derive    *derive.Controller
	engine    *push.Engine
	xds       *xds.Server
	observed  *insights
	streams   *streams
	shown     *shown
	counted   *counted
	instance  string
	// instances are those that share the store; nil when no other one can.
	instances *instances.Instances
	standing  *standing // of all of them; nil as well
	ready     chan struct{}
	// federation is nil in a zone that stands alone.
	federation *federation

	listeners struct{ api, agents, diagnostics, probes net.Listener }
}

// New opens the store, creates what an empty zone needs and takes the ports. Run must follow, or Close.
func New(ctx context.Context, cfg Config, log *slog.Logger) (*Zone, error) {
	if err := cfg.Validate().Err(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if err := os.MkdirAll(cfg.WorkDir, 0o700); err != nil {
		return nil, fmt.Errorf("work directory: %w", err)
	}
	z := &Zone{cfg: cfg, log: log.With("zone", cfg.Zone), registry: prometheus.NewRegistry(), streams: newStreams(), instance: hosting.InstanceID(), ready: make(chan struct{})}
	z.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, step := range []func(context.Context) error{z.listen, z.openOwnCertificates, z.openStore, z.listenForProbes} {
		if err := step(ctx); err != nil {
			z.Close()
			return nil, err
		}
	}
	return z, nil
}

// Close lets go of what New took. Run does so by itself.
func (z *Zone) Close() {
	hosting.Close(z.listeners.api, z.listeners.agents, z.listeners.diagnostics, z.listeners.probes)
	if z.store != nil {
		if err := z.store.Close(); err != nil {
			z.log.Error("close the store", "err", err)
		}
	}
}

func (z *Zone) listen(ctx context.Context) error {
	return hosting.Listen(ctx,
		hosting.Port{Setting: "api.address", Address: z.cfg.API.Address, Into: &z.listeners.api},
		hosting.Port{Setting: "agents.address", Address: z.cfg.Agents.Address, Into: &z.listeners.agents},
		hosting.Port{Setting: "diagnostics.address", Address: z.cfg.Diagnostics.Address, Into: &z.listeners.diagnostics})
}

// listenForProbes takes the port that only a zone among others needs.
func (z *Zone) listenForProbes(ctx context.Context) error {
	if !z.federated() {
		return nil
	}
	return hosting.Listen(ctx, hosting.Port{Setting: "probes.address", Address: z.cfg.Probes.Address, Into: &z.listeners.probes})
}

func (z *Zone) openStore(ctx context.Context) error {
	sealer, err := backend.Sealer(z.cfg.Store, z.cfg.WorkDir, z.log)
	if err != nil {
		return err
	}
	holder := fmt.Sprintf("zone %s, process %d", z.cfg.Zone, os.Getpid())
	if z.store, err = backend.Open(ctx, z.cfg.Store, z.cfg.WorkDir, holder, z.log, z.registry); err != nil {
		return err
	}
	z.catalog, err = catalog.Open(ctx, catalog.Config{
		Store: z.store, Kinds: api.Kinds(), Sealer: sealer, Log: z.log, Registerer: z.registry,
	})
	return err
}

// Instance names this life of this control plane.
func (z *Zone) Instance() string { return z.instance }

// APIAddress is where the REST API listens.
func (z *Zone) APIAddress() string { return z.listeners.api.Addr().String() }

// AgentsAddress is where dataplane agents connect.
func (z *Zone) AgentsAddress() string { return z.listeners.agents.Addr().String() }

// CAFile is the authority that clients of the API and agents verify the zone with, once it is ready; empty with certificates of the operator.
func (z *Zone) CAFile() string { return z.certs.CAFile() }

// AdminTokenFile is where the first administrator's token was written.
func (z *Zone) AdminTokenFile() string { return filepath.Join(z.cfg.WorkDir, "admin.token") }

// Engine is what computes configuration, for inspection.
func (z *Zone) Engine() *push.Engine { return z.engine }

// Catalog is what the zone knows.
func (z *Zone) Catalog() *catalog.Catalog { return z.catalog }

// Metrics gathers the zone's metrics.
func (z *Zone) Metrics() prometheus.Gatherer { return z.registry }

// Run serves until ctx ends or a part fails for good.
func (z *Zone) Run(ctx context.Context) error {
	defer z.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return z.catalog.Run(ctx) })
	g.Go(func() error {
		// What follows writes to the store, so the catalog must run already.
		if err := z.assemble(ctx); err != nil {
			return err
		}
		parts := []func(context.Context) error{
			z.agents.Run, z.engine.Run, z.xds.Run, z.counted.run, z.write, z.serveAPI, z.serveAgents, z.serveDiagnostics,
		}
		if z.instances != nil {
			parts = append(parts, z.instances.Run, z.standing.run)
		}
		if z.federation != nil {
			parts = append(parts, z.federation.parts(z)...)
		}
		for _, part := range parts {
			g.Go(func() error { return part(ctx) })
		}
		z.log.Info("zone control plane runs", "api", "https://"+z.APIAddress(), "agents", z.AgentsAddress(), "ca", z.CAFile())
		close(z.ready)
		return nil
	})
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// Ready is closed once the zone serves.
func (z *Zone) Ready() <-chan struct{} { return z.ready }

// assemble makes the parts, and what an empty zone needs.
func (z *Zone) assemble(ctx context.Context) error {
	for _, step := range []func(context.Context) error{z.openSharedCertificates, z.openInstances, z.openAPI} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	var err error
	if z.control, err = identity.OpenControl(ctx, z.catalog, z.cfg.Zone, 0, nil); err != nil {
		return err
	}
	z.authority = identity.New(identity.Config{Catalog: z.catalog, Zone: z.cfg.Zone, Log: z.log, LookupEnv: z.cfg.LookupEnv, Fence: z.fence})
	advertised := z.cfg.Agents.Advertised
	if len(advertised) == 0 {
		advertised = []string{z.AgentsAddress()}
	}
	z.agents, err = agents.New(agents.Config{
		Catalog: z.catalog, Authority: z.authority, Control: z.control,
		Tokens:       token.NewValidator(token.SecretsFunc(func() token.Secrets { return z.catalog.Snapshot() }), nil),
		Observations: z.store, Zone: z.cfg.Zone, Instance: z.instance, Addresses: advertised,
		Announced: func(ctx context.Context, dp resource.Key) error { return z.engine.Told(ctx, dp) },
		Names: func(ctx context.Context, dp resource.Key, changed func()) (agents.NamesFeed, error) {
			return z.engine.OpenNames(ctx, dp, changed)
		},
		Follow: func(ctx context.Context, dp resource.Key, changed func()) (agents.Follower, error) {
			return z.engine.Follow(ctx, dp, changed)
		},
		Log: z.log, Registerer: z.registry,
		Load: z.counted.table.Add, LoadEnded: z.counted.table.Gone,
		Peers: z.peers(), Writer: z.writer,
		Grace: z.cfg.Agents.Grace, DeregisterAfter: z.cfg.Agents.DeregisterAfter, ForgetAfter: z.cfg.Agents.ForgetAfter,
	})
	if err != nil {
		return err
	}
	*z.observed = insights{z.agents.Registry(), z.instance, z.streams}
	z.shown.registry = z.agents.Registry()
	engine := push.Config{
		Zone: z.cfg.Zone, Catalog: z.catalog, Facts: observed{z.agents.Registry().Subscribe(), z.streams}, Expected: byAgent,
		HealthResponder: z.healthResponder(), AllowLocalAddresses: z.cfg.AllowLocalAddresses, MeshDomains: z.cfg.MeshDomains, Derives: true,
		Kinds: z.catalog.Kinds(), Policies: policies.All, Log: z.log, Registerer: z.registry,
	}
	if z.federated() {
		if err := z.federate(); err != nil {
			return err
		}
		engine.Remote = z.federation.table
	}
	z.engine = push.New(engine)
	if z.federation != nil {
		z.federation.link(z)
	}
	z.derive = derive.New(derive.Config{
		Catalog: z.catalog, Facts: issued{z.agents.Registry().Subscribe()}, Zone: z.cfg.Zone, Fence: z.fence, Log: z.log, Registerer: z.registry,
	})
	z.xds, err = xds.New(xds.Config{Sessions: sessions{z.engine, z.streams, z.log}, Refused: z.refused, Log: z.log, Registerer: z.registry})
	return err
}

// openAPI makes the API and, on an empty store, the first administrator and the default mesh.
func (z *Zone) openAPI(ctx context.Context) error {
	z.observed, z.shown, z.counted = &insights{}, &shown{}, z.newCounted()
	mode := rest.Standalone
	var adoption rest.Adoption
	if z.federated() {
		mode, adoption = rest.Zone, exchange.Adoption{Catalog: z.catalog, Zone: z.cfg.Zone}
	}
	var err error
	z.api, err = rest.New(rest.Config{
		Catalog: z.catalog, Mode: mode, Zone: z.cfg.Zone, Insights: z.observed, Traffic: z.counted, Targets: targets{z}, Inspector: inspector{z}, Concerns: hosting.Concerns(z.cfg.Zone), Complete: z.shown.complete,
		OnMeshCreated: hosting.MeshDefaults, Adoption: adoption,
		EffectiveConfig: func() any { return hosting.Shown(z.cfg) },
		About:           rest.About{Version: z.cfg.Version, InstanceID: z.instance},
		Log:             z.log, Registerer: z.registry,
	})
	if err != nil {
		return err
	}
	if err := z.api.Bootstrap(ctx, rest.Bootstrap{TokenFile: z.AdminTokenFile(), DefaultMesh: mode == rest.Standalone && !z.cfg.SkipDefaultMesh}); err != nil {
		return err
	}
	return z.createDefaults(ctx)
}

// createDefaults writes what a zone starts with and does not have yet: its Zone and its hostname generators.
func (z *Zone) createDefaults(ctx context.Context) error {
	b := catalog.Batch{Author: "causeway", Reason: "first start"}
	for _, r := range derive.FirstResources(derive.Start{Zone: z.cfg.Zone, Env: derive.EnvUniversal, SkipMesh: true}) {
		if _, ok := z.catalog.Snapshot().Get(r.Key()); !ok {
			b.Puts = append(b.Puts, catalog.Put{Resource: r, Expect: store.ExpectAbsent})
		}
	}
	if len(b.Puts) == 0 {
		return nil
	}
	if _, err := z.catalog.Commit(ctx, b); err != nil && !errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("create what a zone starts with: %w", err)
	}
	return nil
}

func (z *Zone) serveAPI(ctx context.Context) error {
	srv := z.api.HTTPServer()
	srv.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: z.certs.Get}
	return hosting.ServeHTTP(ctx, srv, func() error { return srv.ServeTLS(z.listeners.api, "", "") })
}

func (z *Zone) serveDiagnostics(ctx context.Context) error {
	if z.listeners.diagnostics == nil {
		return nil
	}
	srv := diagnostics.Server(diagnostics.Config{Ready: z.readiness, Metrics: z.registry, Profile: z.cfg.Diagnostics.Profile})
	return hosting.ServeHTTP(ctx, srv, func() error { return srv.Serve(z.listeners.diagnostics) })
}

// readiness is why the zone cannot do its work now. A store that is away is none: the zone serves from memory.
func (z *Zone) readiness() error {
	if z.engine.Progress().Sequence == 0 {
		return errors.New("the first tables are not computed yet")
	}
	return nil
}

func (z *Zone) serveAgents(ctx context.Context) error {
	srv := grpc.NewServer(append(z.agents.ServerOptions(z.certs.Get), z.xds.ServerOptions()...)...)
	z.agents.Register(srv)
	z.xds.Register(srv)
	return hosting.ServeGRPC(ctx, "agents", srv, z.listeners.agents)
}
