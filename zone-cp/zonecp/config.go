// Package zonecp wires a zone control plane together: store, REST API, derived records, identities, agents and xDS.
// It is the only package of the zone that knows all the others; it decides nothing itself.
package zonecp

import (
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

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
	SkipDefaultMesh bool                        `json:"skipDefaultMesh" doc:"do not create the mesh \"default\" on an empty store; a zone of a global control plane never does"`
	// Takeover is for instances that share a database.
	Takeover time.Duration `json:"takeover" doc:"after how long without a sign of life another instance of this zone on the same database is given up and its work done"`
	Global   GlobalConfig  `json:"global"`
	Probes   ProbesConfig  `json:"probes"`
	// MeshDomains lets agents say at once that a name does not exist.
	MeshDomains []string `json:"meshDomains" doc:"domains in which there is nothing but names of the mesh: agents answer for all of them and ask no other server"`
	// TrafficWindow is longer than what proxies take between two reports.
	TrafficWindow time.Duration `json:"trafficWindow" doc:"the time of which the traffic of proxies is counted, up to now"`
	// AllowLocalAddresses is for demos and tests.
	AllowLocalAddresses bool `json:"allowLocalAddresses" doc:"use ingresses of other zones at loopback and link-local addresses, which only a demo on one machine has"`
}

// GlobalConfig is the global control plane that the zone belongs to.
type GlobalConfig struct {
	JoinTokenFile string        `json:"joinTokenFile" doc:"file with the token that \"causeway zone connect\" made; a zone that has joined needs it no more, one that never has stands alone without it"`
	Addresses     []string      `json:"addresses" doc:"host:port of the instances of global, in place of those in the join token"`
	Meshes        []string      `json:"meshes" doc:"meshes that this zone serves; none means all"`
	BeatEvery     time.Duration `json:"beatEvery" doc:"interval of the signs of life between zone and global"`
}

// ProbesConfig is where control planes of other zones are answered, through the ingresses of this zone.
type ProbesConfig struct {
	Address    string `json:"address" doc:"host:port where ingresses of this zone hand on the probes of other zones"`
	Advertised string `json:"advertised" doc:"host:port under which ingresses of this zone reach that address; default the address"`
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
		API:           hosting.API{Address: "127.0.0.1:5682"},
		Agents:        AgentsConfig{Address: "127.0.0.1:5678", Grace: 500 * time.Millisecond, DeregisterAfter: 10 * time.Second, ForgetAfter: 72 * time.Hour},
		Diagnostics:   hosting.Diagnostics{Address: "127.0.0.1:5680", Profile: true},
		Log:           hosting.Log{Level: "info", Format: "text"},
		Takeover:      10 * time.Second,
		Global:        GlobalConfig{BeatEvery: 5 * time.Second},
		Probes:        ProbesConfig{Address: "127.0.0.1:5686"},
		MeshDomains:   []string{"mesh.local"},
		TrafficWindow: time.Minute,
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
	for i, a := range c.Global.Addresses {
		hosting.CheckAddress(&ps, resource.Path("global.addresses").Index(i), a)
	}
	if c.Takeover < time.Second {
		ps.Add("takeover", "must be at least 1s")
	}
	if c.TrafficWindow < 600*time.Millisecond {
		ps.Add("trafficWindow", "must be at least 600ms")
	}
	if c.Global.BeatEvery < 100*time.Millisecond {
		ps.Add("global.beatEvery", "must be at least 100ms")
	}
	hosting.CheckAddress(&ps, "probes.address", c.Probes.Address)
	for i, d := range c.MeshDomains {
		if len(validation.IsDNS1123Subdomain(d)) > 0 {
			ps.Add(resource.Path("meshDomains").Index(i), "%s is no domain in lower case, such as mesh.local", resource.Quote(d))
		}
	}
	if c.Probes.Advertised != "" {
		hosting.CheckAddress(&ps, "probes.advertised", c.Probes.Advertised)
	}
	return ps
}
