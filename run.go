package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/settings"
	"github.com/causeway-mesh/causeway/dataplane/envoy"
)

// otherVariables are the CAUSEWAY_ variables that are no settings of a role; they may stand in any environment.
var otherVariables = []string{
	"CAUSEWAY_CONTEXT", "CAUSEWAY_SERVER", "CAUSEWAY_CA_FILE", "CAUSEWAY_TOKEN_FILE", "CAUSEWAY_MESH", "CAUSEWAY_OUTPUT",
	envoy.PathVariable, demoStoreVariable,
}

func (p *program) runCommand() *cobra.Command {
	return group("run", "Run a control plane or a proxy in the foreground",
		"  causeway run global\n  causeway run zone --zone east\n  causeway run dataplane --config web.yaml",
		p.runGlobalCommand(), p.runZoneCommand(), p.runDataplaneCommand())
}

// role is one thing that runs: its settings with their defaults, and how it is run with them.
type role[C any] struct {
	use, short, long, example string
	defaults                  C
	log                       func(C) (level, format string)
	run                       func(context.Context, C, *slog.Logger) error
}

func roleCommand[C any](p *program, r role[C]) *cobra.Command {
	var file string
	var show bool
	fields := settings.Fields(r.defaults)
	cmd := &cobra.Command{
		Use: r.use, Short: r.short, Long: r.long, Example: r.example, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config := r.defaults
			if err := p.load(&config, cmd, fields, file); err != nil {
				return err
			}
			if show {
				return settings.Print(p.stdout, config)
			}
			log, err := p.logger(r.log(config))
			if err != nil {
				return err
			}
			return r.run(cmd.Context(), config, log)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "YAML file with settings")
	cmd.Flags().BoolVar(&show, "print-config", false, "print the settings in force, secrets masked, and end")
	for _, f := range fields {
		addSetting(cmd, f)
	}
	return cmd
}

// introduced runs a role, and once it is ready introduces it.
func (p *program) introduced(ctx context.Context, run func(context.Context) error, ready <-chan struct{}, introduce func()) error {
	ctx, cancel := context.WithCancel(ctx)
	told := make(chan struct{})
	go func() {
		defer close(told)
		select {
		case <-ready:
			introduce()
		case <-ctx.Done():
		}
	}()
	err := run(ctx)
	cancel()
	<-told
	return err
}

// settingFlag holds the text of a setting; the loader gives it its meaning.
type settingFlag struct {
	field settings.Field
	text  string
}

func (f *settingFlag) String() string     { return f.text }
func (f *settingFlag) Set(s string) error { f.text = s; return nil }
func (f *settingFlag) Type() string       { return strings.ReplaceAll(f.field.Kind, " ", "-") }

func addSetting(cmd *cobra.Command, f settings.Field) {
	flag := cmd.Flags().VarPF(&settingFlag{field: f, text: f.Default}, f.Flag, "", f.Doc+" ("+f.Env+")")
	if f.Bool() {
		flag.NoOptDefVal = "true"
	}
}

// load fills the settings of a role from the file, the environment and the flags that were given.
func (p *program) load(into any, cmd *cobra.Command, fields []settings.Field, file string) error {
	return loadFrom(into, cmd, fields, settings.Sources{FileName: file, Environ: p.environ, Known: otherVariables})
}

// loadFlags fills settings that no variable of the environment is about.
func (p *program) loadFlags(into any, cmd *cobra.Command, fields []settings.Field, file string) error {
	return loadFrom(into, cmd, fields, settings.Sources{FileName: file})
}

func loadFrom(into any, cmd *cobra.Command, fields []settings.Field, s settings.Sources) error {
	s.Flags, s.ReadFile = map[string]string{}, os.ReadFile
	file := s.FileName
	if file != "" {
		content, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read the settings: %w", err)
		}
		s.File = content
	}
	for _, f := range fields {
		if flag := cmd.Flags().Lookup(f.Flag); flag.Changed {
			s.Flags[f.Flag] = flag.Value.String()
		}
	}
	err := settings.Load(into, s)
	var problems resource.Problems
	if !errors.As(err, &problems) {
		return err
	}
	var lines []string
	for _, pr := range problems {
		lines = append(lines, pr.String())
	}
	return usageError{invalidError{"the settings are not usable", lines}, cmd.CommandPath()}
}

// logger writes to stderr, as text for people or as JSON for collectors.
func (p *program) logger(level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil || !slices.Contains([]string{"text", "json"}, format) {
		return nil, fmt.Errorf("log level %s with format %s is not known", resource.Quote(level), resource.Quote(format))
	}
	options := &slog.HandlerOptions{Level: l}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(p.stderr, options)), nil
	}
	return slog.New(slog.NewTextHandler(p.stderr, options)), nil
}
