// Package zonecp wires a zone control plane together: store, REST API, derived records, identities, agents and xDS.
// It is the only package of the zone that knows all the others; it decides nothing itself.
package zonecp

import (
	"net"
	"slices"
	"time"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/backend"
)

// Config is every setting of a zone control plane.
type Config struct {
	Zone        string            `json:"zone" doc:"name of the zone"`
	WorkDir     string            `json:"workDir" doc:"directory of the store, keys and certificates"`
	Store       backend.Config    `json:"store"`
	API         APIConfig         `json:"api"`
	Agents      AgentsConfig      `json:"agents"`
	Diagnostics DiagnosticsConfig `json:"diagnostics"`
	TLS         TLSConfig         `json:"tls"`
	Log         LogConfig         `json:"log"`
	Version     string            `json:"-"` // of this build
	// LookupEnv reads the environment for authorities that users keep there; nil means they cannot.
	LookupEnv       func(string) (string, bool) `json:"-"`
	SkipDefaultMesh bool                        `json:"skipDefaultMesh" doc:"do not create the mesh \"default\" on an empty store"`
}

// APIConfig is where the REST API is served.
type APIConfig struct {
	Address string `json:"address" doc:"host:port of the REST API (HTTPS)"`
}

// AgentsConfig is where dataplane agents connect.
type AgentsConfig struct {
	Address         string        `json:"address" doc:"host:port for dataplane agents (gRPC over TLS)"`
	Advertised      []string      `json:"advertised" doc:"host:port under which agents reach all instances of this zone; default the address"`
	Grace           time.Duration `json:"grace" doc:"how long a proxy whose session broke off still gets traffic"`
	DeregisterAfter time.Duration `json:"deregisterAfter" doc:"how long a dataplane stays registered after its agent said goodbye"`
	ForgetAfter     time.Duration `json:"forgetAfter" doc:"how long a dataplane stays registered after its agent vanished"`
}

// DiagnosticsConfig is where health, metrics and profiles are served, in plaintext.
type DiagnosticsConfig struct {
	Address string `json:"address" doc:"host:port of /ready, /healthy, /metrics and profiles; empty turns it off"`
	Profile bool   `json:"profile" doc:"serve /debug/pprof"`
}

// TLSConfig is the certificate that the API and the agents' port serve.
type TLSConfig struct {
	CertFile string   `json:"certFile" doc:"server certificate in PEM; default one of a generated authority in the work directory"`
	KeyFile  string   `json:"keyFile" doc:"key of the server certificate in PEM"`
	Hosts    []string `json:"hosts" doc:"names and addresses that a generated certificate is good for, beside localhost and this host"`
}

// LogConfig says what is logged and how.
type LogConfig struct {
	Level  string `json:"level" doc:"debug, info, warn or error"`
	Format string `json:"format" doc:"text or json"`
}

// Default returns the settings of a zone that nobody configured.
func Default() Config {
	return Config{
		Zone: "default", WorkDir: "causeway-data", Store: backend.Default(),
		API:         APIConfig{Address: "127.0.0.1:5682"},
		Agents:      AgentsConfig{Address: "127.0.0.1:5678", Grace: 500 * time.Millisecond, DeregisterAfter: 10 * time.Second, ForgetAfter: 72 * time.Hour},
		Diagnostics: DiagnosticsConfig{Address: "127.0.0.1:5680", Profile: true},
		Log:         LogConfig{Level: "info", Format: "text"},
	}
}

// Validate reports settings that are wrong or contradict each other.
func (c Config) Validate() resource.Problems {
	ps := resource.CheckName("zone", resource.RFC1035Label, c.Zone)
	if c.WorkDir == "" {
		ps.Add("workDir", "must be set")
	}
	ps.Append(c.Store.Validate("store"))
	address := func(at resource.Path, v string) {
		if _, _, err := net.SplitHostPort(v); err != nil {
			ps.Add(at, "%s is not host:port", resource.Quote(v))
		}
	}
	address("api.address", c.API.Address)
	address("agents.address", c.Agents.Address)
	for i, a := range c.Agents.Advertised {
		address(resource.Path("agents.advertised").Index(i), a)
	}
	if c.Diagnostics.Address != "" {
		address("diagnostics.address", c.Diagnostics.Address)
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		ps.Add("tls", "certFile and keyFile must be set together")
	}
	oneOf := func(at resource.Path, v string, allowed ...string) {
		if !slices.Contains(allowed, v) {
			ps.Add(at, "must be one of %v, not %s", allowed, resource.Quote(v))
		}
	}
	oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	oneOf("log.format", c.Log.Format, "text", "json")
	return ps
}
