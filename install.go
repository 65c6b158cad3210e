package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/api/settings"
	"github.com/causeway-mesh/causeway/deploy/transparentproxy"
)

func (p *program) installCommand() *cobra.Command {
	return group("install", "Install what makes a host part of a mesh", "  causeway install transparent-proxy --dry-run\n  sudo causeway install transparent-proxy --verify", p.installTransparentProxyCommand())
}

func (p *program) uninstallCommand() *cobra.Command {
	return group("uninstall", "Undo what install did", "  causeway uninstall transparent-proxy --dry-run\n  sudo causeway uninstall transparent-proxy", p.uninstallTransparentProxyCommand())
}

func (p *program) installTransparentProxyCommand() *cobra.Command {
	var file string
	var show, dryRun, verify bool
	fields := settings.Fields(transparentproxy.Default())
	cmd := &cobra.Command{
		Use: "transparent-proxy", Short: "Redirect the traffic of this host to the proxy beside it", Args: cobra.NoArgs,
		Long: `transparent-proxy makes this host redirect what it sends and receives, and its lookups, to the proxy of its workload, so that
programs use the names of the mesh without knowing of it. The Dataplane says so, too (networking.transparentProxying).

It needs root. Agent and Envoy must run as --proxy-user, whose traffic is never redirected; no other program should.
Rules are replaced in one step: running it again changes nothing, running it with other flags replaces what was there.
They last until the host is restarted, or until "causeway uninstall transparent-proxy".

Port 22 is left out of what is received unless --exclude-inbound-ports says otherwise: a proxy that accepts mesh TLS only
would end your own access.`,
		Example: `  sudo causeway install transparent-proxy --verify
  sudo causeway install transparent-proxy --exclude-inbound-ports 22,9100 --exclude-outbound-ips 10.0.0.0/8
  sudo causeway install transparent-proxy --engine iptables --redirect-dns all
  causeway install transparent-proxy --dry-run`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := transparentproxy.Default()
			if err := p.loadFlags(&c, cmd, fields, file); err != nil {
				return err
			}
			if show {
				return settings.Print(p.stdout, c)
			}
			plan, err := transparentproxy.PlanInstall(cmd.Context(), c)
			if err != nil {
				return err
			}
			if dryRun {
				p.printPlan(plan)
				return nil
			}
			changed, err := plan.Apply(cmd.Context())
			if err != nil {
				return err
			}
			p.talk("%s", installed(plan, changed))
			if !verify {
				return nil
			}
			found, err := transparentproxy.Verify(cmd.Context(), c)
			for _, f := range found {
				p.talk("Verified: %s.", f)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "YAML file with settings")
	cmd.Flags().BoolVar(&show, "print-config", false, "print the settings in force and end")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be run, and run nothing")
	cmd.Flags().BoolVar(&verify, "verify", false, "make a connection and a lookup afterwards and check that they are redirected")
	for _, f := range fields {
		flag := cmd.Flags().VarPF(&settingFlag{field: f, text: f.Default}, f.Flag, "", f.Doc)
		if f.Bool() {
			flag.NoOptDefVal = "true"
		}
	}
	return cmd
}

func (p *program) uninstallTransparentProxyCommand() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use: "transparent-proxy", Short: "Stop redirecting the traffic of this host", Args: cobra.NoArgs,
		Long: `transparent-proxy takes away the rules that "causeway install transparent-proxy" made, whichever engine holds them, and no others.
It needs root. Connections that were redirected go on until they end.`,
		Example: "  sudo causeway uninstall transparent-proxy\n  sudo causeway uninstall transparent-proxy --dry-run",
		RunE: func(cmd *cobra.Command, _ []string) error {
			plan, err := transparentproxy.PlanUninstall(cmd.Context())
			if err != nil {
				return err
			}
			if dryRun {
				p.printPlan(plan)
				return nil
			}
			if _, err := plan.Apply(cmd.Context()); err != nil {
				return err
			}
			if len(plan.Steps) == 0 {
				p.talk("Nothing was redirected.")
				return nil
			}
			p.talk("Nothing is redirected any more.")
			return nil
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be run, and run nothing")
	return cmd
}

// printPlan writes a plan as a script of a shell.
func (p *program) printPlan(plan transparentproxy.Plan) {
	for _, s := range plan.Steps {
		fmt.Fprint(p.stdout, s)
	}
}

func installed(plan transparentproxy.Plan, changed bool) string {
	families := "IPv4 and IPv6"
	switch {
	case !plan.IPv6:
		families = "IPv4"
	case !plan.IPv4:
		families = "IPv6"
	}
	if !changed {
		return fmt.Sprintf("Traffic is redirected already (%s, %s); nothing changed.", plan.Engine, families)
	}
	return fmt.Sprintf("Traffic is redirected (%s, %s).", plan.Engine, families)
}
