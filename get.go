package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

// lookup finds the kind a person means.
func lookup(word, command string) (resource.Kind, error) {
	k, err := api.Kinds().Lookup(word)
	if err != nil {
		return k, usageError{err, command}
	}
	return k, nil
}

func (p *program) getCommand() *cobra.Command {
	var (
		c        connection
		out      = output{wide: true}
		labels   []string
		name     string
		allMesh  bool
		pageSize int
	)
	cmd := &cobra.Command{
		Use: "get TYPE [NAME]...", Short: "List resources, or show some of them", Args: cobra.MinimumNArgs(1),
		Long: `get lists the resources of a type, or the ones that are named.

TYPE is the name of a type in any case (MeshTimeout), its path (meshtimeouts) or its short
name (mt). Tables show ages; -o json and -o yaml show exactly what the API returns.`,
		Example: `  causeway get dataplanes -m default
  causeway get meshtimeouts -A -l team=pay -o wide
  causeway get meshservice backend -o yaml
  causeway get traffic -m default`,
		ValidArgsFunction: c.completeNames(p),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := lookup(args[0], "causeway get")
			if err != nil {
				return err
			}
			if err := out.check(p); err != nil {
				return err
			}
			q, err := query(labels, name, pageSize)
			if err != nil {
				return err
			}
			cl, err := c.dial(p)
			if err != nil {
				return err
			}
			if allMesh {
				c.Mesh = ""
			}
			if len(args) > 1 {
				return p.showItems(cmd, cl, &out, k, c.Mesh, args[1:])
			}
			return p.showList(cmd, cl, &out, k, c.Mesh, q)
		},
	}
	c.flags(cmd)
	c.meshFlag(cmd)
	out.flags(cmd)
	cmd.Flags().StringSliceVarP(&labels, "labels", "l", nil, "only resources with these labels: key=value, repeatable")
	cmd.Flags().StringVar(&name, "name", "", "only resources with this in their name")
	cmd.Flags().BoolVarP(&allMesh, "all-meshes", "A", false, "list over all meshes")
	cmd.Flags().IntVar(&pageSize, "page-size", 0, "resources asked for at a time (default is the server's)")
	cmd.MarkFlagsMutuallyExclusive("mesh", "all-meshes")
	cmd.AddCommand(p.getTrafficCommand())
	return cmd
}

func query(labels []string, name string, size int) (client.Query, error) {
	q := client.Query{Name: name, Size: size, Labels: map[string]string{}}
	for _, l := range labels {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return q, usageError{fmt.Errorf("label %s must be key=value", resource.Quote(l)), "causeway get"}
		}
		q.Labels[k] = v
	}
	return q, nil
}

func (p *program) showItems(cmd *cobra.Command, cl *client.Client, out *output, k resource.Kind, mesh string, names []string) error {
	var objects []client.Object
	for _, n := range names {
		o, err := cl.Get(cmd.Context(), k, mesh, n)
		if errors.Is(err, resource.ErrNotFound) {
			return p.notFound(cmd, cl, k, mesh, n)
		}
		if err != nil {
			return err
		}
		objects = append(objects, o)
	}
	if len(names) == 1 && out.format == "json" {
		return writeJSON(p.stdout, objects[0].Raw)
	}
	return p.show(out, k, objects)
}

// notFound says which resource is missing, and which one was probably meant.
func (p *program) notFound(cmd *cobra.Command, cl *client.Client, k resource.Kind, mesh, name string) error {
	key := resource.Key{Type: k.Name, Mesh: scoped(k, mesh), Name: name}
	return hintError{fmt.Errorf("%s: %w", key, resource.ErrNotFound), p.nearestName(cmd, cl, k, mesh, name)}
}

func scoped(k resource.Kind, mesh string) string {
	if k.Scope == resource.ScopeGlobal {
		return ""
	}
	return mesh
}

// nearestName says which resource was probably meant.
func (p *program) nearestName(cmd *cobra.Command, cl *client.Client, k resource.Kind, mesh, name string) string {
	var names []string
	for o, err := range cl.List(cmd.Context(), k, mesh, client.Query{}) {
		if err != nil || len(names) >= 1000 {
			break
		}
		names = append(names, o.Name)
	}
	if near := resource.Nearest(name, names); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return fmt.Sprintf("causeway get %s lists what exists", k.Path)
}

func (p *program) showList(cmd *cobra.Command, cl *client.Client, out *output, k resource.Kind, meshName string, q client.Query) error {
	list := cl.List(cmd.Context(), k, meshName, q)
	if out.format == "table" || out.format == "wide" {
		switch k.Name {
		case mesh.TypeDataplane:
			list = cl.DataplaneOverviews(cmd.Context(), meshName, q)
		case mesh.TypeZone:
			list = cl.ZoneOverviews(cmd.Context(), q)
		}
	}
	objects := []client.Object{}
	for o, err := range list {
		if err != nil {
			return err
		}
		objects = append(objects, o)
	}
	if len(objects) == 0 && (out.format == "table" || out.format == "wide") {
		where := ""
		if k.Scope == resource.ScopeMesh && meshName != "" {
			where = " in mesh " + meshName
		}
		p.talk("no %s%s", k.Plural, where)
		return nil
	}
	return p.show(out, k, objects)
}

// list is the shape in which the API answers with several resources.
type list struct {
	Total int               `json:"total"`
	Items []json.RawMessage `json:"items"`
	Next  *string           `json:"next"`
}

func (p *program) show(out *output, k resource.Kind, objects []client.Object) error {
	switch out.format {
	case "json":
		l := list{Total: len(objects), Items: []json.RawMessage{}}
		for _, o := range objects {
			l.Items = append(l.Items, o.Raw)
		}
		return writeJSON(p.stdout, l)
	case "yaml":
		for i, o := range objects {
			if i > 0 {
				fmt.Fprintln(p.stdout, "---")
			}
			if err := writeYAML(p.stdout, o.Raw); err != nil {
				return err
			}
		}
		return nil
	case "name":
		t := p.resourceTable(k, objects, false)
		return t.writeNames(p.stdout)
	}
	t := p.resourceTable(k, objects, out.format == "wide")
	return t.write(p.stdout, !out.noHeaders)
}

// resourceTable shows what people look for first: where it is, the facts of its kind, and its age.
func (p *program) resourceTable(k resource.Kind, objects []client.Object, wide bool) table {
	facts := columnsOf(k)
	var t table
	if k.Scope == resource.ScopeMesh {
		t.header = append(t.header, "MESH")
	}
	t.header = append(t.header, "NAME")
	for _, f := range facts {
		t.header = append(t.header, f.header)
	}
	t.header = append(t.header, "ZONE", "AGE")
	if wide {
		t.header = append(t.header, "MODIFIED", "KRI", "LABELS")
	}
	for _, o := range objects {
		var cells []string
		if k.Scope == resource.ScopeMesh {
			cells = append(cells, o.Mesh)
		}
		cells = append(cells, o.Name)
		tree := treeOf(o.Raw)
		for _, f := range facts {
			cells = append(cells, f.cell(tree))
		}
		cells = append(cells, o.Labels[resource.LabelZone], age(p.now(), o.Created))
		if wide {
			cells = append(cells, age(p.now(), o.Modified), o.KRI, labelList(o.Labels))
		}
		t.add(k.Path+"/"+o.Name, cells...)
	}
	return t
}

func labelList(labels map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		out = append(out, k+"="+labels[k])
	}
	return strings.Join(out, ",")
}

// completeNames completes the type, then names of that type from the server, quickly or not at all.
func (c *connection) completeNames(p *program) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		const none = cobra.ShellCompDirectiveNoFileComp
		if len(args) == 0 {
			var words []string
			for _, k := range api.Kinds().All() {
				words = append(words, k.Path)
			}
			return words, none
		}
		k, err := api.Kinds().Lookup(args[0])
		if err != nil {
			return nil, none
		}
		c.timeout = completionBudget
		cl, err := c.dial(p)
		if err != nil {
			return nil, none
		}
		var names []string
		for o, err := range cl.List(cmd.Context(), k, c.Mesh, client.Query{Name: toComplete}) {
			if err != nil || len(names) >= 200 {
				break
			}
			names = append(names, o.Name)
		}
		return names, none
	}
}
