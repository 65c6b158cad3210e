package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/zone-cp/zonecp"
)

func (p *program) runZoneCommand() *cobra.Command {
	defaults := zonecp.Default()
	defaults.Version, defaults.LookupEnv = buildVersion(), os.LookupEnv
	return roleCommand(p, role[zonecp.Config]{
		use: "zone", short: "Run the control plane of a zone",
		long: `zone runs a zone control plane in the foreground: REST API, certificate authority, and configuration for proxies.

An empty work directory is filled with a store, keys, a CA for the servers and the token of the first administrator;
where they are is printed once. Every setting can also stand in the file of --config or in the environment.`,
		example: `  causeway run zone
  causeway run zone --config zone.yaml --store-type postgres --store-postgres-dsn-file dsn
  causeway run zone --zone east --api-address 0.0.0.0:5682 --print-config`,
		defaults: defaults,
		log:      func(c zonecp.Config) (string, string) { return c.Log.Level, c.Log.Format },
		run:      p.runZone,
	})
}

func (p *program) runZone(ctx context.Context, c zonecp.Config, log *slog.Logger) error {
	z, err := zonecp.New(ctx, c, log)
	if err != nil {
		return err
	}
	return p.introduced(ctx, z.Run, z.Ready(), func() { p.introduceZone(z) })
}

// introduceZone tells a person at a terminal how to talk to the zone that just started.
func (p *program) introduceZone(z *zonecp.Zone) {
	if !p.colour {
		return
	}
	p.talk("Next: causeway context add local --server https://%s --ca-file %s --token-file %s", z.APIAddress(), z.CAFile(), z.AdminTokenFile())
}
