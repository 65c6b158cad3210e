package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

// inspections are what can be told of a proxy, by the words of --type: the last part of the path.
var inspections = map[string]string{
	"policies": "_policies", "rules": "_rules", "layout": "_layout", "config": "_config", "config-dump": "xds", "stats": "stats", "clusters": "clusters",
}

func (p *program) inspectCommand() *cobra.Command {
	var (
		c                               connection
		typ, element                    string
		shadow, diff, endpoints, unused bool
	)
	cmd := &cobra.Command{
		Use: "inspect dataplane NAME | inspect POLICY NAME", Short: "Tell which policies meet which proxies, and what a proxy's Envoy has and counts", Args: cobra.ExactArgs(2),
		Long: `inspect tells of a dataplane, by --type:

  policies     what policies put in force for the proxy as a whole, or with --of for one of its inbounds or destinations
  rules        all that policies put in force, in one answer
  layout       the inbounds and destinations of the proxy, by KRI
  config       what the control plane computed for it; --shadow takes policies with kuma.io/effect: shadow for real ones, --diff says what
               that changes
  config-dump  the configuration that its Envoy has, without keys; --endpoints adds endpoints
  stats        what its Envoy counts; --unused adds what never counted
  clusters     the endpoints that its Envoy knows, and how they are

Of a policy it lists the dataplanes that the policy concerns.

At global all of this works for the proxies of every zone. The last three are for administrators.`,
		Example: `  causeway inspect dataplane web-1
  causeway inspect dataplane web-1 --type policies --of kri_msvc_default_east__backend_http
  causeway inspect dataplane web-1 --type config --shadow --diff
  causeway inspect dataplane web-1 --type stats
  causeway inspect meshtimeout slow`,
		ValidArgsFunction: c.completeNames(p),
		RunE: func(cmd *cobra.Command, args []string) error {
			const command = "causeway inspect"
			k, err := lookup(args[0], command)
			if err != nil {
				return err
			}
			r := client.Request{Method: http.MethodGet, Query: url.Values{}}
			path, known := inspections[typ]
			switch {
			case k.Policy != nil:
				path = "_resources/dataplanes"
				r.Query.Set("size", "1000")
			case k.Name != mesh.TypeDataplane:
				return usageError{fmt.Errorf("%s is neither a dataplane nor a policy", k.Name), command}
			case !known:
				return usageError{fmt.Errorf("--type is %s, it must be one of %s", resource.Quote(typ), strings.Join(slices.Sorted(maps.Keys(inspections)), ", ")), command}
			case element != "":
				if typ != "policies" {
					return usageError{errors.New("--of goes with --type policies"), command}
				}
				kri, err := resource.ParseKRI(element)
				if err != nil {
					return usageError{err, command}
				}
				path = "_outbounds/" + element + "/_policies"
				if kri.Short == k.Short {
					path = "_inbounds/" + element + "/_policies"
				}
			}
			for flag, on := range map[string]bool{"shadow=true": shadow, "include=diff": diff, "include_eds=true": endpoints, "usedonly=false": unused} {
				if name, value, _ := strings.Cut(flag, "="); on {
					r.Query.Set(name, value)
				}
			}
			cl, err := c.dial(p)
			if err != nil {
				return err
			}
			r.Path = "/meshes/" + url.PathEscape(c.Mesh) + "/" + k.Path + "/" + url.PathEscape(args[1]) + "/" + path
			answer, err := cl.Do(cmd.Context(), r)
			if err != nil {
				return err
			}
			return p.showInspected(answer.Body)
		},
	}
	c.flags(cmd)
	c.meshFlag(cmd)
	f := cmd.Flags()
	f.StringVar(&typ, "type", "policies", "what to tell of a dataplane: "+strings.Join(slices.Sorted(maps.Keys(inspections)), ", "))
	f.StringVar(&element, "of", "", "with --type policies: the inbound or destination, by KRI, as --type layout lists them")
	f.BoolVar(&shadow, "shadow", false, "with --type config: take shadow policies for real ones")
	f.BoolVar(&diff, "diff", false, "with --type config: say what shadow policies change")
	f.BoolVar(&endpoints, "endpoints", false, "with --type config-dump: endpoints, too")
	f.BoolVar(&unused, "unused", false, "with --type stats: also what has never counted")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(slices.Sorted(maps.Keys(inspections)), cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

// showInspected prints an answer: JSON with indentation, and text as it is.
func (p *program) showInspected(body []byte) error {
	var b bytes.Buffer
	if json.Indent(&b, body, "", "  ") != nil {
		b.Reset()
		b.Write(bytes.TrimRight(body, "\n"))
	}
	b.WriteByte('\n')
	if _, err := p.stdout.Write(b.Bytes()); err != nil {
		return fmt.Errorf("print the answer: %w", err)
	}
	return nil
}
