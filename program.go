package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/api/resource"
)

// program is everything a command may touch of the process it runs in.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	environ        []string
	now            func() time.Time
	// interactive says that a person can be asked; colour that stderr shows colours.
	interactive, colour bool
}

// run executes one command line and returns the exit code.
func (p *program) run(ctx context.Context, args []string) int {
	root := p.rootCommand()
	root.SetArgs(args)
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	err = asUsage(cmd, err)
	p.report(cmd, err)
	return exitCode(err)
}

// env is the last value of a variable, empty when unset.
func (p *program) env(name string) string {
	for i := len(p.environ) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(p.environ[i], name+"="); ok {
			return v
		}
	}
	return ""
}

// talk writes one line for people, beside the data.
func (p *program) talk(format string, args ...any) { fmt.Fprintf(p.stderr, format+"\n", args...) }

func (p *program) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "causeway",
		Short: "One service mesh over many zones",
		Long: `causeway runs and operates one service mesh over many zones.

Start a control plane with "causeway run zone", point the command line at it with
"causeway context add", and declare what you want with "causeway apply".
"causeway help topics" lists the concepts that more than one command shares.`,
		Example: `  causeway run zone
  causeway get dataplanes
  causeway apply -f policies/`,
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommand(cmd, args[0])
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddGroup(
		&cobra.Group{ID: groupRun, Title: "Run:"},
		&cobra.Group{ID: groupSee, Title: "See and change:"},
		&cobra.Group{ID: groupSetUp, Title: "Set up:"},
	)
	in := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	in(groupRun, p.runCommand(), p.demoCommand())
	in(groupSee, p.getCommand(), p.describeCommand(), p.inspectCommand(), p.explainCommand(), p.applyCommand(), p.deleteCommand(), p.zoneCommand())
	in(groupSetUp, p.contextCommand(), p.tokenCommand(), p.envoyCommand(), p.installCommand(), p.uninstallCommand(), p.completionCommand(), p.versionCommand())
	root.AddCommand(p.topics()...)
	usageErrors(root)
	return root
}

const (
	groupRun   = "run"
	groupSee   = "see"
	groupSetUp = "setup"
)

// group is a command that only holds others.
func group(use, short, example string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Example: example, RunE: func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usageError{errors.New("a subcommand is needed"), cmd.CommandPath()}
		}
		return unknownCommand(cmd, args[0])
	}}
	c.AddCommand(children...)
	return c
}

func unknownCommand(cmd *cobra.Command, word string) error {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
			names = append(names, c.Aliases...)
		}
	}
	err := fmt.Errorf("unknown command %s", resource.Quote(word))
	if near := resource.Nearest(word, names); near != "" {
		err = fmt.Errorf("%w, did you mean %q?", err, near)
	}
	return usageError{err, cmd.CommandPath()}
}

// asUsage recognises what cobra finds wrong without saying so by type.
func asUsage(cmd *cobra.Command, err error) error {
	if s := err.Error(); strings.HasPrefix(s, "required flag(s)") || strings.HasPrefix(s, "if any flags in the group") {
		return usageError{err, cmd.CommandPath()}
	}
	return err
}

// usageErrors marks what cobra finds wrong with a command line, so that it gets its own exit code.
func usageErrors(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usageError{suggestFlag(c, err), c.CommandPath()} })
	if check := cmd.Args; check != nil {
		cmd.Args = func(c *cobra.Command, args []string) error {
			if check(c, args) != nil {
				return usageError{fmt.Errorf("%d arguments do not fit %q", len(args), c.UseLine()), c.CommandPath()}
			}
			return nil
		}
	}
	for _, c := range cmd.Commands() {
		usageErrors(c)
	}
}
