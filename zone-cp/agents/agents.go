// Package agents is the zone's side of its dataplane agents: it checks their tokens, registers and deregisters their Dataplanes,
// hands out certificates and trust over their sessions, and keeps the registry of what they report.
// It serves no xDS, runs no proxy, and how readiness becomes endpoints is decided elsewhere.
package agents

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/api/inquiry"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/token"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/zone-cp/identity"
	"github.com/causeway-mesh/causeway/zone-cp/solo"
)

// A TokenValidator checks dataplane tokens.
type TokenValidator interface {
	Dataplane(token string) (token.Dataplane, token.Verified, error)
}

// Config is what a Service needs.
type Config struct {
	Catalog   *catalog.Catalog
	Authority *identity.Authority
	Control   *identity.Control
	Tokens    TokenValidator
	// Observations keeps insights over restarts; nil keeps them in memory only.
	Observations Observer
	// Zone is the name of the zone, Instance that of this control plane process.
	Zone     string
	Instance string
	// Addresses are all addresses at which agents reach this zone.
	Addresses []string
	// Announced blocks until those who send to a draining dataplane were told; nil means that nobody can be asked.
	Announced func(ctx context.Context, dataplane resource.Key) error
	// Names follows what the workload of a dataplane may look up; nil when this zone answers no names. Changed is to be called when there may
	// be a newer set; it does not wait.
	Names func(ctx context.Context, dataplane resource.Key, changed func()) (NamesFeed, error)
	// Follow says what the mesh has to tell an agent, from now on; nil means nothing. Changed is to be called when there may be something new,
	// also at first; it does not wait.
	Follow func(ctx context.Context, dataplane resource.Key, changed func()) (Follower, error)
	// Load takes what a proxy reports of the traffic that it sends, and LoadEnded that it reports no more; nil counts nothing.
	Load      func(dataplane resource.Key, report *agentapi.LoadReport)
	LoadEnded func(dataplane resource.Key)
	// Peers are the other instances on the same store, with which facts are shared through it; nil when there can be none.
	Peers Peers
	// Writer says whether this instance writes for the zone, and under which lease; nil when it is the only one.
	Writer     func() (fence *store.Fence, writes bool)
	Log        *slog.Logger
	Registerer prometheus.Registerer

	// Grace is how long a proxy whose session broke off still gets traffic. Default 500ms.
	Grace time.Duration
	// StartGrace is the same for proxies that were connected before the zone started. Default 60s.
	StartGrace time.Duration
	// DeregisterAfter is how long a Dataplane stays registered after its agent said goodbye. Default 10s.
	DeregisterAfter time.Duration
	// ForgetAfter is how long a Dataplane stays registered after its agent vanished. Default 72h.
	ForgetAfter time.Duration
	// RequestInterval is the least time between two signing requests of one proxy. Default 2s.
	RequestInterval time.Duration
	// InsightInterval is the least time between two writes of insights. Default 5s.
	InsightInterval time.Duration
	// HelloTimeout is how long a new session may say nothing. Default 10s.
	HelloTimeout time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// A Follower has what an agent is to be told.
type Follower interface {
	// Messages is all there is.
	Messages() []*agentapi.ZoneMessage
	Close()
}

// Observer is the part of a store that keeps observations.
type Observer interface {
	Observe(ctx context.Context, obs ...store.Observation) error
	Observations(ctx context.Context, prefix string) ([]store.Observation, error)
}

// A NamesFeed follows the names of one workload.
type NamesFeed interface {
	// Names is the newest set, nil while there is none.
	Names() *agentapi.NameSet
	Close()
}

// A Service is the zone's side of all agents. Run has to run while it serves.
type Service struct {
	agentapi.UnimplementedAgentServer
	cfg      Config
	registry *Registry
	metrics  *metrics
	due      *deadlines
	sharing  *sharing
	desks    *desks
	running  context.Context // of Run; set before anything is served

	sessions solo.Group
	stopping atomic.Bool // Run ends
	work     sync.WaitGroup
}

// New makes a service.
func New(cfg Config) (*Service, error) {
	switch {
	case cfg.Catalog == nil || cfg.Authority == nil || cfg.Control == nil:
		return nil, errors.New("agents: a catalog and the identity and control authorities are needed")
	case cfg.Tokens == nil:
		return nil, errors.New("agents: a token validator is needed")
	case cfg.Zone == "":
		return nil, errors.New("agents: the zone has no name")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	for _, d := range []struct {
		at  *time.Duration
		def time.Duration
	}{
		{&cfg.Grace, 500 * time.Millisecond},
		{&cfg.StartGrace, time.Minute},
		{&cfg.DeregisterAfter, 10 * time.Second},
		{&cfg.ForgetAfter, 72 * time.Hour},
		{&cfg.RequestInterval, 2 * time.Second},
		{&cfg.InsightInterval, 5 * time.Second},
		{&cfg.HelloTimeout, 10 * time.Second},
	} {
		if *d.at <= 0 {
			*d.at = d.def
		}
	}
	s := &Service{cfg: cfg, registry: newRegistry(), due: newDeadlines(), sharing: newSharing(), desks: newDesks(deskPatience)}
	s.metrics = newMetrics(cfg.Registerer, s.registry)
	return s, nil
}

// Registry is what the service knows about its agents.
func (s *Service) Registry() *Registry { return s.registry }

// Register offers the service on a gRPC server whose TLS is that of the control authority.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	agentapi.RegisterAgentServer(r, s)
	inquiry.RegisterInquiryServer(r, s.desks)
}

// Run restores what was known before a restart, tells sessions about changes, and deregisters those who left, until ctx ends.
// Sessions end with it.
func (s *Service) Run(ctx context.Context) error {
	s.running = ctx
	if err := s.restore(ctx); err != nil {
		// Insights are no truth: without them proxies count as never seen until they connect.
		s.cfg.Log.Warn("insights of the last run cannot be read", "err", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.followCatalog(ctx) })
	g.Go(func() error { return s.keepDeadlines(ctx) })
	if s.cfg.Peers == nil {
		g.Go(func() error { return s.persist(ctx) })
	} else {
		g.Go(func() error { return s.share(ctx) })
		g.Go(func() error { return s.watchPeers(ctx) })
	}
	err := g.Wait()
	s.stopping.Store(true)
	s.sessions.Close(errStopping)
	s.work.Wait()
	return err
}

// followCatalog pokes the sessions that a change may concern; each finds out itself what is new for it.
func (s *Service) followCatalog(ctx context.Context) error {
	feed := s.cfg.Catalog.Subscribe()
	defer feed.Close()
	for {
		u, err := feed.Next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("agents: %w", err)
		}
		if u.All {
			s.poke("")
			s.mergeAll(u.Snapshot)
			s.forgetGone(u.Snapshot)
			continue
		}
		meshes, external := map[string]bool{}, map[string]bool{}
		for _, k := range u.Changed {
			switch k.Type {
			case mesh.TypeMeshIdentity, mesh.TypeMeshTrust, mesh.TypeSecret:
				meshes[k.Mesh] = true
			case mesh.TypeMeshExternalService:
				external[k.Mesh] = true
			case mesh.TypeDataplane:
				if ss := s.registry.session(k); ss != nil {
					ss.poke()
				} else if _, ok := u.Snapshot.Get(k); !ok {
					s.registry.forget(k)
				}
			}
		}
		for m := range meshes {
			s.poke(m)
		}
		for m := range external {
			s.pokeEgresses(u.Snapshot, m)
		}
		for _, d := range u.Derived {
			if d.Type == standingType && s.cfg.Peers != nil {
				s.merge(u.Snapshot, resource.Key{Type: mesh.TypeDataplane, Mesh: d.Mesh, Name: d.Name}, true)
			}
		}
	}
}

func (s *Service) poke(in string) {
	for _, ss := range s.registry.sessions(in) {
		ss.poke()
	}
}
