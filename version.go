package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/dataplane/envoy"
)

// version is set by the linker for releases.
var version string

// buildVersion is the release, else what the Go tool recorded about the module.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "0.0.0-dev"
}

// buildFacts is what the version command shows.
type buildFacts struct {
	Version  string `json:"version" yaml:"version"`
	Commit   string `json:"commit,omitempty" yaml:"commit,omitempty"`
	Time     string `json:"commitTime,omitempty" yaml:"commitTime,omitempty"`
	Modified bool   `json:"modified,omitempty" yaml:"modified,omitempty"`
	Go       string `json:"go" yaml:"go"`
	Platform string `json:"platform" yaml:"platform"`
	Envoy    string `json:"envoy" yaml:"envoy"`
}

func facts() buildFacts {
	f := buildFacts{Version: buildVersion(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Envoy: envoy.Version}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return f
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			f.Commit = s.Value
		case "vcs.time":
			f.Time = s.Value
		case "vcs.modified":
			f.Modified = s.Value == "true"
		}
	}
	return f
}

func (p *program) versionCommand() *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use: "version", Short: "Print the version of this binary and of the Envoy it is built for", Args: cobra.NoArgs,
		Example: "  causeway version\n  causeway version -o json",
		RunE: func(*cobra.Command, []string) error {
			f := facts()
			t := table{header: []string{"CAUSEWAY", "COMMIT", "GO", "PLATFORM", "ENVOY"}}
			t.add(f.Version, f.Version, cmp.Or(f.Commit, "unknown"), f.Go, f.Platform, f.Envoy)
			if err := out.check(p); err != nil {
				return err
			}
			if out.format == "table" {
				_, err := fmt.Fprintf(p.stdout, "causeway %s (commit %s, %s, %s), for Envoy %s\n", f.Version, cmp.Or(f.Commit, "unknown"), f.Go, f.Platform, f.Envoy)
				return err
			}
			return out.values(p, t, f)
		},
	}
	out.flags(cmd)
	return cmd
}
