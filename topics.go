package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/resource"
)

// topic is a concept that more than one command shares, shown by "causeway help NAME".
type topic struct {
	name, short string
	text        func() string
}

func static(s string) func() string { return func() string { return s } }

var helpTopics = []topic{
	{"contexts", "how the command line finds its control plane", static(`A context is a name for a control plane: server, CA or pin, token file and mesh.
Contexts are kept in ~/.config/causeway/config.yaml ($XDG_CONFIG_HOME is respected), readable by you only.
Tokens are never in that file and never on the command line: it names the file that holds the token.

Each value comes from the first of: its flag, its environment variable, the context.
The CA and the token of a context are only used for the server of that context.`)},
	{"environment", "the environment variables that are read", static(`Every command that talks to a control plane:
  CAUSEWAY_CONTEXT      context to use
  CAUSEWAY_SERVER       address of the control plane
  CAUSEWAY_CA_FILE      PEM file with the CA of the control plane
  CAUSEWAY_TOKEN_FILE   file with the bearer token
  CAUSEWAY_MESH         mesh to work in
  CAUSEWAY_OUTPUT       output format
  NO_COLOR              no colours
  HTTPS_PROXY, NO_PROXY as usual

Proxies, tests and the demo:
  CAUSEWAY_ENVOY        Envoy binary to use instead of the fetched one
  CAUSEWAY_DEMO_STORE   postgres://… of an empty database for the global control plane of "causeway demo up"
  XDG_RUNTIME_DIR       where the commands of the demo find each other; without it XDG_CACHE_HOME or ~/.cache

Control planes and proxies read their settings as CAUSEWAY_*: see "causeway help settings".`)},
	{"exit-codes", "what the exit code of a command says", static(`  0    done
  1    something else failed
  2    the command line or the settings make no sense
  3    differences were found, or what was applied is refused by proxies or zones
  4    not found
  5    conflict: somebody else changed it
  6    what was given is not valid
  7    not permitted
  8    the control plane cannot be reached or cannot write now
  9    no answer in time, or not where it should be in time (apply --wait)
  130  interrupted`)},
	{"output", "the formats of -o", static(`  table   for people (default); ages are relative; nothing is cut off
  wide    table with more columns
  name    one path/name per line, for scripts
  json    exactly what the API returns
  yaml    the same as YAML, a document for each resource, ready for apply

Data goes to standard output, everything said about it to standard error.`)},
	{"resources", "the types of resources", resourcesTopic},
	{"settings", "how control planes and proxies are configured", static(`"causeway run global", "causeway run zone" and "causeway run dataplane" take each setting from the last of:
its default, the YAML file of --config, the environment, its flag.

The path of a setting gives its names: store.postgres.dsn in the file is
CAUSEWAY_STORE_POSTGRES_DSN in the environment and --store-postgres-dsn as a flag.
Secrets have a twin that names a file: CAUSEWAY_STORE_POSTGRES_DSN_FILE.
A setting that does not exist stops the start, with the nearest one that does.

--print-config shows the settings in force as a file, secrets masked, and ends.`)},
}

func resourcesTopic() string {
	var b strings.Builder
	t := table{header: []string{"TYPE", "PATH", "SHORT", "SCOPE", "WRITTEN BY"}}
	for _, k := range api.Kinds().All() {
		t.add(k.Name, k.Name, k.Path, k.Short, string(k.Scope), writers(k))
	}
	if t.write(&b, true) != nil {
		return "" // a strings.Builder takes everything
	}
	return b.String() + "\n\"causeway explain TYPE\" tells what one of them means and which fields it has."
}

func writers(k resource.Kind) string {
	switch {
	case k.ReadOnly():
		return "control planes"
	case k.Flow&resource.FromGlobal != 0 && k.Flow&resource.FromZone != 0:
		return "global and zones"
	case k.Flow&resource.FromGlobal != 0:
		return "global"
	}
	return "zones"
}

// topics makes the help of each topic and of their list.
func (p *program) topics() []*cobra.Command {
	out := []*cobra.Command{helpOnly("topics", "list the help topics", func() string {
		var b strings.Builder
		for _, t := range helpTopics {
			fmt.Fprintf(&b, "  %-14s %s\n", t.name, t.short)
		}
		return b.String() + "\ncauseway help TOPIC shows one."
	})}
	for _, t := range helpTopics {
		out = append(out, helpOnly(t.name, t.short, t.text))
	}
	return out
}

// helpOnly is a command that is nothing but its help text, made when it is asked for.
func helpOnly(name, short string, text func() string) *cobra.Command {
	c := &cobra.Command{Use: name, Short: short}
	c.SetHelpFunc(func(cmd *cobra.Command, _ []string) {
		fmt.Fprintln(cmd.OutOrStdout(), strings.TrimRight(text(), "\n"))
	})
	return c
}
