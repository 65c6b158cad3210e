package main

import (
	"bufio"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

func (p *program) deleteCommand() *cobra.Command {
	var (
		c      connection
		files  []string
		absent bool
		yes    bool
		reason string
	)
	cmd := &cobra.Command{
		Use: "delete TYPE NAME... | delete -f FILE|DIR|-", Short: "Delete resources",
		Long: `delete removes the named resources, or those that files describe.

Deleting a mesh or a zone takes everything in it along: a person has to type its name, a script has to say --yes.
Files are deleted in reverse order, one by one; --ignore-not-found lets a repeated call succeed.`,
		Example: `  causeway delete meshtimeout slow -m default
  causeway delete -f policies/ --ignore-not-found
  causeway delete mesh lab --yes`,
		ValidArgsFunction: c.completeNames(p),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := p.doomed(&c, files, args)
			if err != nil {
				return err
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			if err := p.confirm(keys, yes); err != nil {
				return err
			}
			for _, k := range keys {
				if err := p.deleteOne(cmd, cl, k, absent, reason); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.flags(cmd)
	c.meshFlag(cmd)
	fileFlag(cmd, &files)
	f := cmd.Flags()
	f.BoolVar(&absent, "ignore-not-found", false, "succeed when a resource does not exist")
	f.BoolVar(&yes, "yes", false, "do not ask before deleting a mesh or a zone")
	f.StringVar(&reason, "reason", "", "why, for the history")
	return cmd
}

// doomed lists what is to be deleted.
func (p *program) doomed(c *connection, files, args []string) ([]resource.Key, error) {
	if err := c.resolve(p); err != nil {
		return nil, err
	}
	if len(files) == 0 {
		if len(args) < 2 {
			return nil, usageError{errors.New("a type and a name are needed, or -f"), "causeway delete"}
		}
		k, err := lookup(args[0], "causeway delete")
		if err != nil {
			return nil, err
		}
		var keys []resource.Key
		for _, n := range args[1:] {
			keys = append(keys, resource.Key{Type: k.Name, Mesh: scoped(k, c.Mesh), Name: n})
		}
		return keys, nil
	}
	if len(args) > 0 {
		return nil, usageError{errors.New("give either names or -f"), "causeway delete"}
	}
	ms, err := p.readManifests(files)
	if err != nil {
		return nil, err
	}
	var keys []resource.Key
	for _, m := range slices.Backward(ms) {
		k, err := api.Kinds().Lookup(m.text("type"))
		if err != nil {
			return nil, invalidError{"nothing was deleted", []string{fmt.Sprintf("%s: %s (%s)", m, err, m.at("type"))}}
		}
		key := resource.Key{Type: k.Name, Mesh: scoped(k, m.text("mesh")), Name: m.text("name")}
		if key.Mesh == "" {
			key.Mesh = scoped(k, c.Mesh)
		}
		if key.Name == "" {
			return nil, invalidError{"nothing was deleted", []string{fmt.Sprintf("%s: name: must be set (%s)", m, m.at("name"))}}
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// confirm lets a person type the name of what takes others along.
func (p *program) confirm(keys []resource.Key, yes bool) error {
	if yes {
		return nil
	}
	in := bufio.NewReader(p.stdin)
	for _, k := range keys {
		if k.Type != mesh.TypeMesh && k.Type != mesh.TypeZone {
			continue
		}
		if !p.interactive {
			return hintError{usageError{fmt.Errorf("deleting %s takes everything in it along", k), "causeway delete"}, "add --yes if that is meant"}
		}
		fmt.Fprintf(p.stderr, "Deleting %s takes everything in it along. Type %q to go on: ", k, k.Name)
		line, err := in.ReadString('\n')
		if strings.TrimSpace(line) != k.Name {
			return errors.Join(errors.New("not confirmed, nothing was deleted"), err)
		}
	}
	return nil
}

func (p *program) deleteOne(cmd *cobra.Command, cl *client.Client, key resource.Key, absent bool, reason string) error {
	k, err := lookup(key.Type, "causeway delete")
	if err != nil {
		return err
	}
	err = cl.Delete(cmd.Context(), k, key.Mesh, key.Name, client.Precondition{Reason: reason})
	switch {
	case errors.Is(err, resource.ErrNotFound) && absent:
		fmt.Fprintf(p.stdout, "%s not found\n", key)
		return nil
	case errors.Is(err, resource.ErrNotFound):
		return p.notFound(cmd, cl, k, key.Mesh, key.Name)
	case err != nil:
		return fmt.Errorf("delete %s: %w", key, err)
	}
	fmt.Fprintf(p.stdout, "%s deleted\n", key)
	return nil
}
