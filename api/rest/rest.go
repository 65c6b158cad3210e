// Package rest is the HTTP API of a control plane, with the paths, shapes and codes of the Kuma 3 API: the same handlers serve
// global and zones. It reads from a catalog, commits to it and issues tokens. It lists no concrete kinds, listens on no port,
// terminates no TLS and computes no configuration of proxies.
package rest

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/token"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// A Mode is the role of the control plane that serves the API.
type Mode string

// The modes.
const (
	Global     Mode = "global"     // writes what global owns
	Zone       Mode = "zone"       // a zone of a global; writes what zones own
	Standalone Mode = "standalone" // a zone without a global; writes everything
)

// Environments where a zone runs.
const (
	Universal  = "universal"
	Kubernetes = "kubernetes"
)

// Config is what the API needs. Catalog, and in zones Zone, must be set.
type Config struct {
	Catalog *catalog.Catalog
	// Mode decides which kinds can be written here. Default Standalone.
	Mode Mode
	// Zone is the name of this zone, in the modes Zone and Standalone.
	Zone string
	// Environment is where the control plane runs. Default Universal.
	Environment string
	// Access says who may do what. Default DefaultAccess.
	Access Access
	// Insights tells what is observed of dataplanes and zones. Default nothing.
	Insights Insights
	// Traffic tells what was sent in meshes lately. Nil: nobody counts.
	Traffic Traffic
	// Targets tells Prometheus where proxies are. Nil where there are none.
	Targets Targets
	// Inspector tells what proxies get. Nil: nobody knows here.
	Inspector Inspector
	// Concerns returns which dataplanes a policy concerns. Nil: nobody knows here.
	Concerns func(policy resource.Resource) func(dataplane resource.Resource) bool
	// Complete adds to the spec and status of a resource what is shown as part of it and kept elsewhere: what is derived or
	// observed. It does not change the ETag. Nil adds nothing.
	Complete func(snap *catalog.Snapshot, r resource.Resource, spec, status []byte) (newSpec, newStatus []byte)
	// OnMeshCreated returns what comes into being with a mesh, in the same batch: default policies and its signing key.
	OnMeshCreated func(mesh resource.Resource) ([]resource.Resource, error)
	// Join makes a token with which a zone joins this global control plane, and Revoke voids what a zone was given. A request that
	// cannot be met is resource.Problems, an unknown zone resource.ErrNotFound. Nil where no zones join.
	Join   func(ctx context.Context, zone string, validFor time.Duration) (string, error)
	Revoke func(ctx context.Context, zone string) error
	// Propagation tells how far changes have come in the zones. Nil where nobody follows that.
	Propagation Propagation
	// Adoption decides about what peers lack that were wiped or restored. Nil where there are none.
	Adoption Adoption
	// EffectiveConfig is shown at /config; whoever provides it masks secrets.
	EffectiveConfig func() any

	// About describes this control plane at /.
	About About

	Log        *slog.Logger
	Registerer prometheus.Registerer
	// Now is the clock. Default time.Now.
	Now func() time.Time
	// RequestTimeout bounds one request. Default 30s.
	RequestTimeout time.Duration
	// MaxBatch is the largest accepted body of POST /batch in bytes. Default 32 MiB.
	MaxBatch int64
}

// About is what anybody may know of a control plane.
type About struct {
	Hostname   string // default the host's
	Product    string // default "Kuma": clients of the Kuma API check for it
	Version    string
	InstanceID string
	ClusterID  string
	GUI        string // where the web GUI is; empty when there is none
	// BasedOnKuma is the version of the Kuma API that is served.
	BasedOnKuma string
}

// A Server answers requests; it is an http.Handler.
type Server struct {
	cfg       Config
	kinds     *resource.Kinds
	catalog   *catalog.Catalog
	issuer    *token.Issuer
	validator *token.Validator
	metrics   *metrics
	echo      *echo.Echo
	// document is the documentation of the API, made when it is first asked for.
	document func() ([]byte, error)
	// meshes is held for reading by writers of what is inside meshes and for writing by the deletion of a mesh,
	// so that nothing appears in a mesh between the check that it is unused and its end.
	meshes sync.RWMutex
}

// New makes the API.
func New(cfg Config) (*Server, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	current := token.SecretsFunc(func() token.Secrets { return cfg.Catalog.Snapshot() })
	s := &Server{
		cfg:       cfg,
		kinds:     cfg.Catalog.Kinds(),
		catalog:   cfg.Catalog,
		issuer:    token.NewIssuer(current, cfg.Now),
		validator: token.NewValidator(current, cfg.Now),
		metrics:   newMetrics(cfg.Registerer),
		echo:      echo.New(),
	}
	s.echo.HideBanner, s.echo.HidePort = true, true
	s.echo.HTTPErrorHandler = s.answerError
	s.echo.JSONSerializer = plainJSON{}
	s.echo.Use(s.observe, s.recover, s.bound, s.authenticate)
	s.routes()
	s.document = sync.OnceValues(s.encodeDocument)
	return s, nil
}

func (c *Config) complete() error {
	if c.Catalog == nil {
		return errors.New("rest: a catalog is needed")
	}
	if c.Mode == "" {
		c.Mode = Standalone
	}
	switch c.Mode {
	case Global:
	case Zone, Standalone:
		if c.Zone == "" {
			return errors.New("rest: a zone needs its name")
		}
	default:
		return errors.New("rest: mode must be global, zone or standalone")
	}
	if c.Environment == "" {
		c.Environment = Universal
	}
	if c.Access == nil {
		c.Access = DefaultAccess()
	}
	if c.Insights == nil {
		c.Insights = nothingObserved{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.RequestTimeout <= 0 {
		c.RequestTimeout = 30 * time.Second
	}
	if c.MaxBatch <= 0 {
		c.MaxBatch = 32 << 20
	}
	c.About.complete()
	return nil
}

func (a *About) complete() {
	if a.Hostname == "" {
		a.Hostname, _ = os.Hostname() // only shown to people
	}
	if a.Product == "" {
		a.Product = "Kuma"
	}
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.echo.ServeHTTP(w, r) }

// HTTPServer wraps the API in a server with limits on headers and slow clients. The caller adds TLS and listens.
func (s *Server) HTTPServer() *http.Server {
	return &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       60 * time.Second,
		WriteTimeout:      s.cfg.RequestTimeout + maxWait + 60*time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
	}
}

func (s *Server) routes() {
	e := s.echo
	e.GET("/", s.index)
	e.GET("/openapi.json", s.openAPI)
	e.GET("/who-am-i", s.whoAmI)
	e.GET("/config", s.config)
	e.GET("/policies", s.policies)
	e.GET("/_resources", s.resourceTypes)
	e.GET("/_kri/:kri", s.byKRI)
	e.POST("/tokens/user", s.userToken)
	e.POST("/tokens/dataplane", s.dataplaneToken)
	e.POST("/tokens/zone", s.zoneToken)
	e.POST("/batch", s.writes(s.batch))
	e.GET("/revisions/:revision", s.revision)
	e.POST("/zones/:name/join-token", s.joinToken)
	e.POST("/zones/:name/_revoke", s.revokeZone)
	e.GET("/zones/:name/_adopt", s.pendingOf)
	e.POST("/zones/:name/_adopt", s.adopt)
	e.GET("/_adopt-global", s.pendingOf)
	e.POST("/_adopt-global", s.adopt)
	e.GET("/meshes/:mesh/traffic", s.traffic)
	e.GET("/prometheus-targets", s.prometheusTargets)
	e.GET("/meshes/:mesh/prometheus-targets", s.prometheusTargets)
	e.POST(assignmentsPath, s.monitoringAssignments)
	s.insightRoutes()
	s.inspectRoutes()
	for _, k := range s.kinds.All() {
		s.kindRoutes(k)
	}
}

// observedKinds are served from what is observed, not from the catalog.
var observedKinds = map[string]bool{"DataplaneInsight": true, "ZoneInsight": true, "MeshInsight": true, "ServiceInsight": true}

// olderGlobalSecrets is a path that clients still use.
const olderGlobalSecrets = "global-secrets"

func (s *Server) kindRoutes(k resource.Kind) {
	if k.Path == "" || observedKinds[k.Name] {
		return
	}
	paths := []string{k.Path}
	if k.Name == "GlobalSecret" {
		paths = append(paths, olderGlobalSecrets)
	}
	for _, p := range paths {
		s.echo.GET("/"+p, s.list(k))
		item := "/" + p + "/:name"
		if k.Scope == resource.ScopeMesh {
			s.echo.GET("/meshes/:mesh/"+p, s.list(k))
			item = "/meshes/:mesh/" + p + "/:name"
		}
		s.echo.GET(item, s.get(k))
		s.echo.PUT(item, s.writes(s.put(k)))
		s.echo.DELETE(item, s.writes(s.delete(k)))
		if dp, ok := s.kinds.ByName("Dataplane"); ok && k.Policy != nil {
			s.echo.GET(item+"/_resources/dataplanes", s.concernedBy(k, dp))
		}
	}
}

// bound limits how long a request may take.
func (s *Server) bound(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		c.Set(unboundKey, c.Request().Context())
		ctx, cancel := context.WithTimeout(c.Request().Context(), s.cfg.RequestTimeout)
		defer cancel()
		c.SetRequest(c.Request().WithContext(ctx))
		return next(c)
	}
}

const unboundKey = "unbound"

// unbound is the context of a request without the limit of its time, for what has a limit of its own.
func unbound(c echo.Context) context.Context {
	if ctx, ok := c.Get(unboundKey).(context.Context); ok {
		return ctx
	}
	return c.Request().Context()
}
