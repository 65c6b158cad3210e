package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/deploy/demo"
)

// demoStoreVariable names a PostgreSQL database for the demo's global control plane.
const demoStoreVariable = "CAUSEWAY_DEMO_STORE"

func (p *program) demoCommand() *cobra.Command {
	return group("demo", "Run a mesh of two zones on this machine, break it and heal it",
		"  causeway demo up\n  causeway demo break east/catalog\n  causeway demo heal",
		p.demoUpCommand(), p.demoBreakCommand(), p.demoHealCommand(), p.demoStatusCommand(), p.demoTraceCommand(), p.demoDownCommand(), p.demoRunCommand())
}

func (p *program) demoUpCommand() *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use: "up", Short: "Start the demo and keep it running until Ctrl-C",
		Long: `up starts a global control plane, the zones east and west with a control plane and an ingress each, and in both zones
the services web, catalog and stock, two instances each behind sidecar Envoys. Mutual TLS is on, what no policy permits is refused, and
20 requests per second go to web in east. It binds loopback addresses only, needs no root, and takes down all it started when it ends.

Global keeps its data in an embedded store, or in the empty PostgreSQL database that CAUSEWAY_DEMO_STORE names.`,
		Example: "  causeway demo up\n  causeway demo up --rate 50\n  CAUSEWAY_DEMO_STORE=postgres://localhost/demo causeway demo up",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.demo(cmd, o) },
	}
	demoFlags(cmd, &o)
	return cmd
}

func (p *program) demoRunCommand() *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use: "run", Short: "Play the story of the demo unattended",
		Long: `run starts a demo of its own, stops, kills and heals its parts under load, and checks what users see at every step.
It ends with exit code 1 on any deviation, and then says where the logs are.`,
		Example: "  causeway demo run --check\n  causeway demo run --check --keep",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.demo(cmd, o) },
	}
	cmd.Flags().BoolVar(&o.Check, "check", true, "check every step")
	demoFlags(cmd, &o)
	return cmd
}

func demoFlags(cmd *cobra.Command, o *demo.Options) {
	cmd.Flags().IntVar(&o.Rate, "rate", 20, "requests per second to web")
	cmd.Flags().BoolVar(&o.Keep, "keep", false, "leave the directory with the logs behind")
}

func (p *program) demo(cmd *cobra.Command, o demo.Options) error {
	var err error
	if o.Binary, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if o.Dir, err = p.demoDir(); err != nil {
		return err
	}
	o.Name = calledAs(o.Binary)
	o.Out, o.Environ, o.PostgreSQL = p.stdout, p.environ, p.env(demoStoreVariable)
	return demoHint(demo.Run(cmd.Context(), o))
}

// calledAs is what a person types to run this program from here.
func calledAs(binary string) string {
	name := filepath.Base(binary)
	if found, err := exec.LookPath(name); err == nil {
		if abs, err := filepath.EvalSymlinks(found); err == nil && abs == binary {
			return name
		}
	}
	if here, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(here, binary); err == nil && filepath.IsLocal(rel) && rel != name {
			return rel
		}
	}
	return binary
}

// demoDir is where a user's running demo is found: below $XDG_RUNTIME_DIR, or else in the cache.
func (p *program) demoDir() (string, error) {
	if dir := p.env("XDG_RUNTIME_DIR"); dir != "" {
		return demo.ControlDir(dir), nil
	}
	if dir := p.env("XDG_CACHE_HOME"); dir != "" {
		return demo.ControlDir(dir), nil
	}
	home := p.env("HOME")
	if home == "" {
		return "", errors.New("find the demo: none of XDG_RUNTIME_DIR, XDG_CACHE_HOME and HOME is set")
	}
	return demo.ControlDir(filepath.Join(home, ".cache")), nil
}

func demoHint(err error) error {
	switch {
	case errors.Is(err, demo.ErrNotRunning):
		return hintError{err, "causeway demo up starts one"}
	case errors.Is(err, demo.ErrRunning):
		return hintError{err, "causeway demo status shows it, causeway demo down ends it"}
	}
	return err
}

func (p *program) runningDemo() (*demo.Running, error) {
	dir, err := p.demoDir()
	if err != nil {
		return nil, err
	}
	return demo.Find(dir), nil
}

// demoPart is what of the demo a command is about.
type demoPart struct{ gateway, plane, zone bool }

func (t *demoPart) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&t.gateway, "gateway", false, "the ingress of the zone")
	cmd.Flags().BoolVar(&t.plane, "control-plane", false, "the control plane of the zone")
	cmd.Flags().BoolVar(&t.zone, "whole-zone", false, "the control plane, ingress and services of the zone")
	cmd.MarkFlagsMutuallyExclusive("gateway", "control-plane", "whole-zone")
}

// name is the part's name in the demo. Only healing takes a zone without saying what of it.
func (t demoPart) name(cmd *cobra.Command, arg string, needed bool) (string, error) {
	switch whole := filepath.Base(arg) == arg && arg != "global" && arg != ""; {
	case !whole && (t.gateway || t.plane || t.zone):
		return "", usageError{errors.New("--gateway, --control-plane and --whole-zone go with the name of a zone alone, such as east"), cmd.CommandPath()}
	case t.gateway:
		return arg + "/gateway", nil
	case t.plane:
		return arg + "/control-plane", nil
	case whole && needed && !t.zone:
		return "", usageError{
			fmt.Errorf("say what of zone %s: %s/web, %s/catalog or %s/stock, or add --gateway, --control-plane or --whole-zone", arg, arg, arg, arg),
			cmd.CommandPath(),
		}
	}
	return arg, nil
}

func (p *program) demoBreakCommand() *cobra.Command {
	var t demoPart
	var kill bool
	cmd := &cobra.Command{
		Use: "break global|ZONE/SERVICE|ZONE", Short: "Stop a part of the running demo and see who answers then", Args: cobra.ExactArgs(1),
		Long: `break stops a part of the running demo: both instances of a service in a zone, a zone's ingress, its egress, its control plane or all of it,
or the global control plane. They stop as in an orderly shutdown, or are killed with --kill. It returns when traffic has found its way, and
says which way and what users saw meanwhile.`,
		Example: `  causeway demo break east/catalog
  causeway demo break east/catalog --kill
  causeway demo break west --gateway
  causeway demo break east/egress
  causeway demo break west --whole-zone
  causeway demo break global`,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := t.name(cmd, args[0], true)
			if err != nil {
				return err
			}
			r, err := p.runningDemo()
			if err != nil {
				return err
			}
			return demoHint(r.Break(cmd.Context(), name, kill, p.stdout))
		},
	}
	t.flags(cmd)
	cmd.Flags().BoolVar(&kill, "kill", false, "kill at once instead of an orderly shutdown")
	return cmd
}

func (p *program) demoHealCommand() *cobra.Command {
	var t demoPart
	cmd := &cobra.Command{
		Use: "heal [global|ZONE/SERVICE|ZONE]", Short: "Start what is broken in the running demo, all of it or one part", Args: cobra.MaximumNArgs(1),
		Long: `heal starts what was broken, waits until traffic has come home, and says which way it takes and what users saw meanwhile.
Without a name it also gives back what the demo declared at global, such as a permission that you deleted.`,
		Example: "  causeway demo heal\n  causeway demo heal east/catalog\n  causeway demo heal west --gateway",
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := t.name(cmd, append(args, "")[0], false)
			if err != nil {
				return err
			}
			r, err := p.runningDemo()
			if err != nil {
				return err
			}
			return demoHint(r.Heal(cmd.Context(), name, p.stdout))
		},
	}
	t.flags(cmd)
	return cmd
}

func (p *program) demoStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show what runs of the demo, what is broken, and who answers", Args: cobra.NoArgs,
		Example: "  causeway demo status\n  watch -n 1 causeway demo status",
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := p.runningDemo()
			if err != nil {
				return err
			}
			s, err := r.Status(cmd.Context())
			if err != nil {
				return demoHint(err)
			}
			_, err = fmt.Fprint(p.stdout, s)
			return err
		},
	}
}

func (p *program) demoTraceCommand() *cobra.Command {
	return &cobra.Command{
		Use: "trace", Short: "Follow one request through the proxies of the running demo", Args: cobra.NoArgs,
		Long: `trace sends one request and shows what each proxy on its way saw of it. The proxies send their spans to a small collector in the demo,
because a MeshTrace at global says so; workloads pass the trace on with their own calls.`,
		Example: "  causeway demo trace\n  causeway demo break east/catalog && causeway demo trace",
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := p.runningDemo()
			if err != nil {
				return err
			}
			return demoHint(r.Trace(cmd.Context(), p.stdout))
		},
	}
}

func (p *program) demoDownCommand() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "End the running demo and all it started", Args: cobra.NoArgs,
		Example: "  causeway demo down\n  causeway demo down && causeway demo up --rate 50",
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := p.runningDemo()
			if err != nil {
				return err
			}
			return demoHint(r.Down(cmd.Context(), p.stdout))
		},
	}
}
