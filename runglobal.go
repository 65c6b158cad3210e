package main

import (
	"context"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/global-cp/globalcp"
)

func (p *program) runGlobalCommand() *cobra.Command {
	defaults := globalcp.Default()
	defaults.Version = buildVersion()
	return roleCommand(p, role[globalcp.Config]{
		use: "global", short: "Run the global control plane",
		long: `global runs a global control plane in the foreground: REST API, and the port that zone control planes connect to.

An empty work directory is filled with a store, keys, a CA for the servers and the token of the first administrator;
where they are is printed once. Several instances can run on one PostgreSQL; they need the same sealing keys.
Every setting can also stand in the file of --config or in the environment.`,
		example: `  causeway run global
  causeway run global --store-type postgres --store-postgres-dsn-file dsn --store-keys-file keys
  causeway run global --zones-address 0.0.0.0:5685 --zones-advertised global.example.com:5685`,
		defaults: defaults,
		log:      func(c globalcp.Config) (string, string) { return c.Log.Level, c.Log.Format },
		run:      p.runGlobal,
	})
}

func (p *program) runGlobal(ctx context.Context, c globalcp.Config, log *slog.Logger) error {
	g, err := globalcp.New(ctx, c, log)
	if err != nil {
		return err
	}
	return p.introduced(ctx, g.Run, g.Ready(), func() { p.introduceGlobal(g) })
}

// introduceGlobal tells a person at a terminal how to talk to the control plane that just started, and what comes next.
func (p *program) introduceGlobal(g *globalcp.Global) {
	if !p.colour {
		return
	}
	ca := ""
	if g.CAFile() != "" {
		ca = " --ca-file " + g.CAFile()
	}
	p.talk("Next: causeway context add global --server https://%s%s --token-file %s", g.APIAddress(), ca, g.AdminTokenFile())
	p.talk("Then: causeway zone connect NAME")
}
