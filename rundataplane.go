package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/dataplane/agent"
)

func (p *program) runDataplaneCommand() *cobra.Command {
	defaults := agent.Default()
	f := facts()
	defaults.Version, defaults.Commit = f.Version, f.Commit
	defaults.Environ, defaults.Stdout = os.Environ(), os.Stdout
	return roleCommand(p, role[agent.Config]{
		use: "dataplane", short: "Run the proxy of a workload: its agent and its Envoy",
		long: `dataplane runs beside a workload: it enrols with the zone, keeps the workload's key, runs Envoy and drains it on SIGTERM.

A Dataplane with a listener of type ZoneIngress lets other zones in; with one of type ZoneEgress it takes traffic to services outside of the
mesh (MeshExternalService), for which it needs an identity. One Dataplane may be all of it.

It needs no root. The Dataplane resource comes from --dataplane-file, or exists in the zone already and is named.
Envoy is the one of --envoy-binary, of CAUSEWAY_ENVOY, or the one that "causeway envoy fetch" installed.`,
		example: `  causeway run dataplane --dataplane-file web.yaml --dataplane-token-file web.token --zone-ca-file ca.pem
  causeway run dataplane --config web-1.yaml --drain-time 5s
  CAUSEWAY_ZONE_ADDRESSES=east-1:5678,east-2:5678 causeway run dataplane --config web-1.yaml`,
		defaults: defaults,
		log:      func(c agent.Config) (string, string) { return c.Log.Level, c.Log.Format },
		run:      agent.Run,
	})
}
