package agent

import (
	"context"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/dataplane/envoy"
)

// Config is every setting of a dataplane agent.
type Config struct {
	Zone      ZoneConfig      `json:"zone"`
	Dataplane DataplaneConfig `json:"dataplane"`
	Envoy     EnvoyConfig     `json:"envoy"`
	DNS       DNSConfig       `json:"dns"`
	// RuntimeDir must be short: a Unix socket's path has room for about a hundred characters.
	RuntimeDir       string        `json:"runtimeDir" doc:"private directory for sockets and locks, shared by the agents of one user; default one per user below the temporary directory"`
	ReadinessAddress string        `json:"readinessAddress" doc:"host:port or unix:/path of the readiness check GET /ready; empty turns it off"`
	BindOutbounds    bool          `json:"bindOutbounds" doc:"without transparent proxying, bind an address per destination on a loopback block of this proxy's own"`
	SPIRESocket      string        `json:"spireSocket" doc:"Unix socket of the SPIFFE Workload API, for meshes whose identities come from SPIRE"`
	DrainTime        time.Duration `json:"drainTime" doc:"how long connections may take to end when the proxy stops; 0 stops at once and tells nobody"`
	LoadInterval     time.Duration `json:"loadInterval" doc:"how often the traffic of the proxy is counted and told to the zone; 0 turns it off"`
	Metrics          MetricsConfig `json:"metrics"`
	Log              LogConfig     `json:"log"`

	// Version and Commit of this program, for people.
	Version string `json:"-"`
	Commit  string `json:"-"`
	// Environ is the environment, as os.Environ has it: OTEL_* variables are for collectors, and Envoy gets all but what may be secret.
	Environ []string `json:"-"`
	// Stdout is where access logs to /dev/stdout go; nil throws them away.
	Stdout *os.File `json:"-"`
	// Launch starts Envoy; nil runs the real one as a child process.
	Launch Launcher `json:"-"`
}

// ZoneConfig says where the zone is and how it is recognised.
type ZoneConfig struct {
	Addresses []string `json:"addresses" doc:"host:port of the zone's control plane instances, for agents"`
	CAFile    string   `json:"caFile" doc:"authority of the zone's server certificate in PEM; default the authorities of this host"`
	CAPin     string   `json:"caPin" doc:"SHA-256 of the authority's certificate in hex, instead of caFile"`
}

// DataplaneConfig says which dataplane this is.
type DataplaneConfig struct {
	File      string `json:"file" doc:"Dataplane resource in YAML or JSON; without it mesh and name of an existing one are needed"`
	Mesh      string `json:"mesh" doc:"mesh of the dataplane; default that of the file"`
	Name      string `json:"name" doc:"name of the dataplane; default that of the file"`
	TokenFile string `json:"tokenFile" doc:"file with the dataplane token; it is read again whenever the agent enrolls"`
}

// EnvoyConfig says how Envoy is run.
type EnvoyConfig struct {
	Binary   string `json:"binary" doc:"path of Envoy; default CAUSEWAY_ENVOY or the installed one"`
	LogLevel string `json:"logLevel" doc:"Envoy's log level"`
	// AuthoritiesFile is for external services of which no authority is given.
	AuthoritiesFile string `json:"authoritiesFile" doc:"authorities that an egress trusts external services by, in PEM; default those of this host"`

	Concurrency  int    `json:"concurrency" doc:"worker threads of Envoy"`
	MaxHeapBytes uint64 `json:"maxHeapBytes" doc:"memory at which Envoy sheds load; 0 means no limit"`
}

// MetricsConfig is what a MeshMetric leaves to the host of the proxy.
type MetricsConfig struct {
	CertFile string `json:"certFile" doc:"certificate that Prometheus is served with where a MeshMetric says ProvidedTLS, in PEM; read again when it changes"`
	KeyFile  string `json:"keyFile" doc:"its key in PEM"`
}

// LogConfig says what is logged and how.
type LogConfig struct {
	Level  string `json:"level" doc:"debug, info, warn or error"`
	Format string `json:"format" doc:"text or json"`
}

// A Proxy is a running Envoy.
type Proxy interface {
	Done() <-chan struct{}
	Wait() error
	Stop(ctx context.Context) error
}

// A Launcher starts Envoy with a configuration.
type Launcher func(ctx context.Context, c envoy.Config) (Proxy, error)

// Default returns the settings of an agent that nobody configured.
func Default() Config {
	return Config{
		Zone:          ZoneConfig{Addresses: []string{"127.0.0.1:5678"}},
		Envoy:         EnvoyConfig{LogLevel: "warning", Concurrency: 1},
		RuntimeDir:    defaultRuntimeDir(),
		SPIRESocket:   "/run/spire/agent-sockets/spire-agent.sock",
		BindOutbounds: true, DrainTime: 30 * time.Second, LoadInterval: 10 * time.Second,
		Log: LogConfig{Level: "info", Format: "text"},
	}
}

func defaultRuntimeDir() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("causeway-%d", os.Geteuid()))
}

// Validate reports settings that are wrong or contradict each other.
func (c Config) Validate() resource.Problems {
	var ps resource.Problems
	if len(c.Zone.Addresses) == 0 {
		ps.Add("zone.addresses", "must name at least one host:port")
	}
	for i, a := range c.Zone.Addresses {
		if host, _, err := net.SplitHostPort(a); err != nil || host == "" {
			ps.Add(resource.Path("zone.addresses").Index(i), "%s is not host:port", resource.Quote(a))
		}
	}
	if pin, err := hex.DecodeString(c.Zone.CAPin); c.Zone.CAPin != "" && (err != nil || len(pin) != 32) {
		ps.Add("zone.caPin", "must be a SHA-256 in hex, 64 characters")
	}
	if c.Zone.CAPin != "" && c.Zone.CAFile != "" {
		ps.Add("zone.caPin", "must not be set together with caFile")
	}
	if c.Dataplane.File == "" && (c.Dataplane.Name == "" || c.Dataplane.Mesh == "") {
		ps.Add("dataplane", "file must be set, or mesh and name of a Dataplane that exists")
	}
	if c.Dataplane.TokenFile == "" {
		ps.Add("dataplane.tokenFile", "must be set; `causeway token create dataplane` makes a token")
	}
	if c.RuntimeDir == "" || !filepath.IsAbs(c.RuntimeDir) {
		ps.Add("runtimeDir", "must be an absolute path, not %s", resource.Quote(c.RuntimeDir))
	}
	if !filepath.IsAbs(c.SPIRESocket) {
		ps.Add("spireSocket", "must be an absolute path, not %s", resource.Quote(c.SPIRESocket))
	}
	if c.ReadinessAddress != "" && !strings.HasPrefix(c.ReadinessAddress, "unix:/") {
		if _, _, err := net.SplitHostPort(c.ReadinessAddress); err != nil {
			ps.Add("readinessAddress", "%s is neither host:port nor unix:/path", resource.Quote(c.ReadinessAddress))
		}
	}
	c.DNS.check(&ps)
	if c.DrainTime < 0 {
		ps.Add("drainTime", "must not be negative")
	}
	if c.LoadInterval != 0 && c.LoadInterval < 100*time.Millisecond {
		ps.Add("loadInterval", "must be at least 100ms, or 0")
	}
	if (c.Metrics.CertFile == "") != (c.Metrics.KeyFile == "") {
		ps.Add("metrics", "must have both certFile and keyFile, or neither")
	}
	if c.Envoy.Concurrency < 1 {
		ps.Add("envoy.concurrency", "must be at least 1")
	}
	oneOf := func(at resource.Path, v string, allowed ...string) {
		if !slices.Contains(allowed, v) {
			ps.Add(at, "must be one of %v, not %s", allowed, resource.Quote(v))
		}
	}
	oneOf("envoy.logLevel", c.Envoy.LogLevel, "trace", "debug", "info", "warning", "error", "critical", "off")
	oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	oneOf("log.format", c.Log.Format, "text", "json")
	return ps
}

// self is the dataplane that this agent serves, as far as the agent needs to know.
type self struct {
	mesh, name  string
	yaml        []byte // what is registered; empty when only the name is known
	block       string // the outbound block that the resource asks for
	transparent bool
	sockets     []socket // what Envoy will bind; unknown when only the name is known
}

// readSelf reads the Dataplane. The zone judges it; here only what the agent itself needs is looked at.
func (c DataplaneConfig) readSelf() (self, error) {
	s := self{mesh: c.Mesh, name: c.Name}
	if c.File == "" {
		return s, nil
	}
	text, err := os.ReadFile(c.File)
	if err != nil {
		return self{}, fmt.Errorf("read the Dataplane: %w", err)
	}
	docs, err := resource.NewKinds(mesh.Kinds...).DecodeYAML(text, false)
	if err != nil {
		return self{}, fmt.Errorf("%s: %w", c.File, err)
	}
	if len(docs) != 1 || docs[0].Type != mesh.TypeDataplane {
		return self{}, fmt.Errorf("%s: must hold one resource of type Dataplane", c.File)
	}
	d, spec := docs[0], docs[0].Spec.(*mesh.Dataplane)
	for _, f := range []struct {
		field     string
		given     *string
		inTheFile string
	}{{"mesh", &s.mesh, d.Mesh}, {"name", &s.name, d.Name}} {
		switch {
		case *f.given == "":
			*f.given = f.inTheFile
		case f.inTheFile != "" && *f.given != f.inTheFile:
			return self{}, fmt.Errorf("dataplane.%s is %q, but %s says %q", f.field, *f.given, c.File, f.inTheFile)
		}
		if *f.given == "" {
			return self{}, fmt.Errorf("%s: %s: must be set", c.File, f.field)
		}
	}
	s.yaml, s.block, s.transparent, s.sockets = text, spec.Networking.OutboundBlock, spec.Transparent(), sockets(spec)
	return s, nil
}

// dirName is the name of the directory of a dataplane: its own when that is short, otherwise cut and made unique.
func (s self) dirName() string {
	name := s.mesh + "." + s.name
	if len(name) <= 40 {
		return name
	}
	h := fnv.New64a()
	h.Write([]byte(name))
	return fmt.Sprintf("%s-%016x", strings.TrimRight(name[:23], ".-"), h.Sum64())
}
