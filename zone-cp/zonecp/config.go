// Package zonecp wires a zone control plane together: store, REST API, derived records, identities, agents and xDS.
// It is the only package of the zone that knows all the others; it decides nothing itself.
package zonecp

import (
	"time"

	"github.com/causeway-mesh/causeway/api/hosting"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/backend"
)

// Config is every setting of a zone control plane.
type Config struct {
	Zone        string              `json:"zone" doc:"name of the zone"`
	WorkDir     string              `json:"workDir" doc:"directory of the store, keys and certificates"`
	Store       backend.Config      `json:"store"`
	API         hosting.API         `json:"api"`
	Agents      AgentsConfig        `json:"agents"`
	Diagnostics hosting.Diagnostics `json:"diagnostics"`
	TLS         hosting.TLS         `json:"tls"`
	Log         hosting.Log         `json:"log"`
	Version     string              `json:"-"` // of this build
	// LookupEnv reads the environment for authorities that users keep there; nil means they cannot.
	LookupEnv       func(string) (string, bool) `json:"-"`
	SkipDefaultMesh bool                        `json:"skipDefaultMesh" doc:"do not create the mesh \"default\" on an empty store"`
}

// AgentsConfig is where dataplane agents connect.
type AgentsConfig struct {
	Address         string        `json:"address" doc:"host:port for dataplane agents (gRPC over TLS)"`
	Advertised      []string      `json:"advertised" doc:"host:port under which agents reach all instances of this zone; default the address"`
	Grace           time.Duration `json:"grace" doc:"how long a proxy whose session broke off still gets traffic"`
	DeregisterAfter time.Duration `json:"deregisterAfter" doc:"how long a dataplane stays registered after its agent said goodbye"`
	ForgetAfter     time.Duration `json:"forgetAfter" doc:"how long a dataplane stays registered after its agent vanished"`
}

// Default returns the settings of a zone that nobody configured.
func Default() Config {
	return Config{
		Zone: "default", WorkDir: "causeway-data", Store: backend.Default(),
		API:         hosting.API{Address: "127.0.0.1:5682"},
		Agents:      AgentsConfig{Address: "127.0.0.1:5678", Grace: 500 * time.Millisecond, DeregisterAfter: 10 * time.Second, ForgetAfter: 72 * time.Hour},
		Diagnostics: hosting.Diagnostics{Address: "127.0.0.1:5680", Profile: true},
		Log:         hosting.Log{Level: "info", Format: "text"},
	}
}

// Validate reports settings that are wrong or contradict each other.
func (c Config) Validate() resource.Problems {
	ps := resource.CheckName("zone", resource.RFC1035Label, c.Zone)
	ps.Append(c.Store.Validate("store"))
	hosting.CheckCommon(&ps, c.WorkDir, c.API, c.Diagnostics, c.TLS, c.Log)
	hosting.CheckAddress(&ps, "agents.address", c.Agents.Address)
	for i, a := range c.Agents.Advertised {
		hosting.CheckAddress(&ps, resource.Path("agents.advertised").Index(i), a)
	}
	return ps
}
