package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

func (p *program) applyCommand() *cobra.Command {
	var (
		c      connection
		files  []string
		dryRun string
		strict bool
		reason string
		wait   string
	)
	cmd := &cobra.Command{
		Use: "apply -f FILE|DIR|-", Short: "Create or replace resources, all of them or none", Args: cobra.NoArgs,
		Long: `apply makes the control plane hold the resources of the files, as they are written there.

All resources of one call are one change: if one is refused, none is stored. A line for each
says created, configured or unchanged. Resources that name no mesh get the one of --mesh.
--dry-run=client checks the files against the kinds of this binary and asks no server.

With --wait a global control plane is asked, for up to --timeout, how far the change has come in
each connected zone: received, computed, or acknowledged by its proxies. Zones that are away are named
and not waited for; they get the change when they are back.`,
		Example: `  causeway apply -f mesh.yaml
  causeway apply -f policies/ --strict --reason "ticket 4711"
  causeway apply -f policies/ --wait --timeout 1m
  cat timeout.yaml | causeway apply -f - --dry-run=client`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkWait(wait, dryRun); err != nil {
				return err
			}
			ms, err := p.readManifests(files)
			if err != nil {
				return err
			}
			switch dryRun {
			case "none":
				return p.apply(cmd, &c, ms, client.Precondition{Strict: strict, Reason: reason}, wait)
			case "client":
				return p.check(ms, strict)
			case "server":
				return hintError{usageError{errors.New("--dry-run=server: this control plane offers no dry run yet"), "causeway apply"}, "use --dry-run=client"}
			}
			return usageError{fmt.Errorf("--dry-run is %s, it must be none or client", resource.Quote(dryRun)), "causeway apply"}
		},
	}
	c.flags(cmd)
	c.meshFlag(cmd)
	fileFlag(cmd, &files)
	f := cmd.Flags()
	f.StringVar(&dryRun, "dry-run", "none", "client checks the files here and changes nothing")
	f.Lookup("dry-run").NoOptDefVal = "client"
	f.BoolVar(&strict, "strict", false, "refuse unknown fields instead of warning about them")
	f.StringVar(&reason, "reason", "", "why, for the history")
	f.StringVar(&wait, "wait", "", "wait until the zones have it: received, computed or acknowledged")
	f.Lookup("wait").NoOptDefVal = string(mesh.PropagationAcknowledged)
	return cmd
}

func fileFlag(cmd *cobra.Command, files *[]string) {
	cmd.Flags().StringArrayVarP(files, "file", "f", nil, "file, directory, or - for standard input; repeatable")
	cobra.CheckErr(cmd.MarkFlagFilename("file", "yaml", "yml", "json"))
}

func (p *program) apply(cmd *cobra.Command, c *connection, ms []manifest, pre client.Precondition, wait string) error {
	cl, err := c.dial(p)
	if err != nil {
		return err
	}
	bodies := make([]json.RawMessage, len(ms))
	for i, m := range ms {
		if bodies[i], err = m.json(); err != nil {
			return err
		}
	}
	done, err := cl.Batch(cmd.Context(), bodies, c.Mesh, pre)
	if err != nil {
		return placed(ms, err)
	}
	for i, it := range done.Items {
		fmt.Fprintf(p.stdout, "%s %s\n", resource.Key{Type: it.Type, Mesh: it.Mesh, Name: it.Name}, it.Result)
		for _, w := range it.Warnings {
			p.talk("Warning: %s: %s (%s)", ms[i], w, ms[i].at(warnedField(w)))
		}
	}
	if wait == "" {
		return nil
	}
	return p.follow(cmd.Context(), cl, done.Revision, mesh.PropagationState(wait), c.timeout)
}

// warnedField is the field at the head of a warning such as "spec.to: unknown field".
func warnedField(w string) string {
	m := warningPath.FindStringSubmatch(w)
	if m == nil {
		return ""
	}
	return m[1]
}

var (
	warningPath = regexp.MustCompile(`^([A-Za-z0-9_.\[\]"/-]+): `)
	batchPath   = regexp.MustCompile(`^\[(\d+)\]\.?(.*)$`)
)

// placed says in which file and line the fields stand that a control plane refused.
func placed(ms []manifest, err error) error {
	var refused *client.Error
	if !errors.As(err, &refused) || len(refused.Invalid) == 0 {
		return err
	}
	var lines []string
	for _, ip := range refused.Invalid {
		path := batchPath.FindStringSubmatch(ip.Field)
		if path == nil {
			lines = append(lines, ip.String())
			continue
		}
		i, err := strconv.Atoi(path[1])
		if err != nil || i >= len(ms) {
			lines = append(lines, ip.String())
			continue
		}
		ip.Field = path[2]
		lines = append(lines, fmt.Sprintf("%s: %s (%s)", ms[i], ip, ms[i].at(path[2])))
	}
	return invalidError{"nothing was applied", lines}
}

// check decodes and validates the manifests with the kinds of this binary.
func (p *program) check(ms []manifest, strict bool) error {
	var lines []string
	for _, m := range ms {
		d, problems := checkOne(m, strict)
		for _, pr := range problems {
			lines = append(lines, fmt.Sprintf("%s: %s (%s)", m, pr, m.at(pr.Field)))
		}
		for _, w := range d.Warnings {
			p.talk("Warning: %s: %s (%s)", m, w, m.at(w.Field))
		}
	}
	if len(lines) > 0 {
		return invalidError{"the files are not valid", lines}
	}
	for _, m := range ms {
		fmt.Fprintf(p.stdout, "%s valid\n", m)
	}
	return nil
}

func checkOne(m manifest, strict bool) (resource.Decoded, resource.Problems) {
	d, err := api.Kinds().DecodeTree(m.tree, strict)
	var ps resource.Problems
	switch {
	case errors.As(err, &ps):
		return d, ps
	case err != nil:
		return d, resource.Problems{{Field: "type", Reason: err.Error()}}
	}
	k, ok := api.Kinds().ByName(d.Type)
	if !ok {
		return d, resource.Problems{{Field: "type", Reason: "is not known"}}
	}
	ps = resource.CheckName("name", k.Names, d.Name)
	if k.Validate != nil {
		ps.Append(k.Validate(d.Resource))
	}
	return d, ps
}
