// Package globalcp wires a global control plane together: store, REST API, who may be a zone, and the port that zones connect to.
// It is the only package of global that knows all the others; it decides nothing itself. Any number of instances run on one
// PostgreSQL.
package globalcp

import (
	"time"

	"github.com/causeway-mesh/causeway/api/hosting"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/global-cp/access"
	"github.com/causeway-mesh/causeway/store/backend"
)

// Config is every setting of a global control plane.
type Config struct {
	WorkDir         string              `json:"workDir" doc:"directory of the store, keys and certificates"`
	Store           backend.Config      `json:"store"`
	API             hosting.API         `json:"api"`
	Zones           ZonesConfig         `json:"zones"`
	Diagnostics     hosting.Diagnostics `json:"diagnostics"`
	TLS             hosting.TLS         `json:"tls"`
	Log             hosting.Log         `json:"log"`
	Version         string              `json:"-"` // of this build
	SkipDefaultMesh bool                `json:"skipDefaultMesh" doc:"do not create the mesh \"default\" on an empty store"`
}

// ZonesConfig is where zone control planes connect.
type ZonesConfig struct {
	Address    string        `json:"address" doc:"host:port for zone control planes (gRPC over TLS)"`
	Advertised []string      `json:"advertised" doc:"host:port under which zones reach the instances of this control plane; default the address"`
	CAFile     string        `json:"caFile" doc:"PEM file with the authority by which zones recognise this control plane; default the generated one, or the last certificate of tls.certFile"`
	BeatEvery  time.Duration `json:"beatEvery" doc:"interval of the signs of life between global and zones"`
	// AllowLocalAddresses is for demos and tests.
	AllowLocalAddresses bool          `json:"allowLocalAddresses" doc:"let zones publish ingresses at loopback and link-local addresses, which only a demo on one machine has"`
	CredentialLifetime  time.Duration `json:"credentialLifetime" doc:"how long the client certificate of a zone lives; zones renew it before half of that"`
}

// Default returns the settings of a global control plane that nobody configured.
func Default() Config {
	return Config{
		WorkDir: "causeway-global", Store: backend.Default(),
		API:         hosting.API{Address: "127.0.0.1:5682"},
		Zones:       ZonesConfig{Address: "127.0.0.1:5685", CredentialLifetime: access.DefaultLifetime, BeatEvery: 5 * time.Second},
		Diagnostics: hosting.Diagnostics{Address: "127.0.0.1:5680", Profile: true},
		Log:         hosting.Log{Level: "info", Format: "text"},
	}
}

// minLifetime leaves time to renew.
const minLifetime = time.Minute

// Validate reports settings that are wrong or contradict each other.
func (c Config) Validate() resource.Problems {
	ps := c.Store.Validate("store")
	hosting.CheckCommon(&ps, c.WorkDir, c.API, c.Diagnostics, c.TLS, c.Log)
	hosting.CheckAddress(&ps, "zones.address", c.Zones.Address)
	for i, a := range c.Zones.Advertised {
		hosting.CheckAddress(&ps, resource.Path("zones.advertised").Index(i), a)
	}
	if c.Zones.CredentialLifetime < minLifetime {
		ps.Add("zones.credentialLifetime", "must be at least %s", minLifetime)
	}
	if c.Zones.BeatEvery < 100*time.Millisecond {
		ps.Add("zones.beatEvery", "must be at least 100ms")
	}
	return ps
}
