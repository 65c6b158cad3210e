package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/deploy/demo"
)

func (p *program) demoCommand() *cobra.Command {
	return group("demo", "Run a whole mesh on this machine, to try it",
		"  causeway demo up\n  causeway demo run --check", p.demoUpCommand(), p.demoRunCommand())
}

func (p *program) demoUpCommand() *cobra.Command {
	o := demo.Options{Out: p.stdout}
	cmd := &cobra.Command{
		Use: "up", Short: "Start the demo and keep it running until Ctrl-C",
		Long: `up starts a zone control plane and the services web, catalog and stock, two instances each behind sidecar Envoys,
with identities, permissions and a little traffic. It binds loopback addresses only, needs no root, and takes down all it started.`,
		Example: "  causeway demo up\n  causeway demo up --rate 50",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.demo(cmd, o) },
	}
	cmd.Flags().IntVar(&o.Rate, "rate", 20, "requests per second to web")
	cmd.Flags().BoolVar(&o.Keep, "keep", false, "leave the directory with the logs behind")
	return cmd
}

func (p *program) demoRunCommand() *cobra.Command {
	o := demo.Options{Out: p.stdout}
	cmd := &cobra.Command{
		Use: "run", Short: "Play the story of the demo unattended",
		Long: `run starts the demo, stops, kills and revives its parts under load, and checks what users see at every step.
It ends with exit code 1 on any deviation, and then says where the logs are.`,
		Example: "  causeway demo run --check\n  causeway demo run --check --keep",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.demo(cmd, o) },
	}
	cmd.Flags().BoolVar(&o.Check, "check", true, "check every step")
	cmd.Flags().IntVar(&o.Rate, "rate", 20, "requests per second to web")
	cmd.Flags().BoolVar(&o.Keep, "keep", false, "leave the directory with the logs behind")
	return cmd
}

func (p *program) demo(cmd *cobra.Command, o demo.Options) error {
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	o.Binary = binary
	return demo.Run(cmd.Context(), o)
}
