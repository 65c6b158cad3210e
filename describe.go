package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

func (p *program) describeCommand() *cobra.Command {
	var c connection
	cmd := &cobra.Command{
		Use: "describe TYPE NAME", Short: "Tell what a resource is, does and is observed to be", Args: cobra.ExactArgs(2),
		Example:           "  causeway describe dataplane web-1\n  causeway describe meshtimeout slow -m default",
		ValidArgsFunction: c.completeNames(p),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := lookup(args[0], "causeway describe")
			if err != nil {
				return err
			}
			cl, err := c.dial(p)
			if err != nil {
				return err
			}
			o, err := cl.Get(cmd.Context(), k, c.Mesh, args[1])
			if errors.Is(err, resource.ErrNotFound) {
				return p.notFound(cmd, cl, k, c.Mesh, args[1])
			}
			if err != nil {
				return err
			}
			d := description{now: p.now(), kind: k, object: o, tree: treeOf(o.Raw)}
			if k.Name == mesh.TypeDataplane || k.Name == mesh.TypeZone {
				over, err := cl.Overview(cmd.Context(), k, c.Mesh, args[1])
				if err != nil {
					return err
				}
				d.overview = treeOf(over.Raw)
			}
			return d.write(p.stdout)
		},
	}
	c.flags(cmd)
	c.meshFlag(cmd)
	return cmd
}

// description is what can be said about one resource.
type description struct {
	now      time.Time
	kind     resource.Kind
	object   client.Object
	tree     tree
	overview tree
}

func (d description) write(w io.Writer) error {
	var b strings.Builder
	o := d.object
	fmt.Fprintln(&b, o.Key())
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "  %-9s %s\n", name+":", printable(value))
		}
	}
	field("KRI", o.KRI)
	field("Origin", o.Labels[resource.LabelOrigin])
	field("Zone", o.Labels[resource.LabelZone])
	field("Created", d.when(o.Created))
	if !o.Modified.Equal(o.Created) {
		field("Changed", d.when(o.Modified))
	}
	for i, k := range slices.Sorted(maps.Keys(o.Labels)) {
		name := ""
		if i == 0 {
			name = "Labels"
		}
		fmt.Fprintf(&b, "  %-9s %s=%s\n", strings.TrimSuffix(name+":", map[bool]string{true: ":"}[name == ""]), k, printable(o.Labels[k]))
	}
	if lines := d.prose(); len(lines) > 0 {
		b.WriteString("\n")
		for _, l := range lines {
			b.WriteString(printable(l) + "\n")
		}
	}
	if err := d.sections(&b); err != nil {
		return err
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// when shows a time both ways.
func (d description) when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf("%s (%s ago)", t.UTC().Format(time.RFC3339), age(d.now, t))
}

// sections shows the spec and the status as YAML.
func (d description) sections(b *strings.Builder) error {
	node, err := yamlOf(d.object.Raw)
	if err != nil {
		return err
	}
	parts := map[string]*yaml.Node{}
	rest := &yaml.Node{Kind: yaml.MappingNode}
	known := []string{"type", "mesh", "name", "labels", "creationTime", "modificationTime", "kri", "snis"}
	doc := node.Content[0]
	for i := 0; i+1 < len(doc.Content); i += 2 {
		switch name := doc.Content[i].Value; {
		case name == "spec" || name == "status":
			parts[name] = doc.Content[i+1]
		case !slices.Contains(known, name):
			rest.Content = append(rest.Content, doc.Content[i], doc.Content[i+1])
		}
	}
	if len(rest.Content) > 0 {
		parts["spec"] = rest
	}
	for _, s := range []struct{ name, title string }{{"spec", "Spec"}, {"status", "Status"}} {
		n := parts[s.name]
		if n == nil || len(n.Content) == 0 {
			continue
		}
		var text strings.Builder
		if err := writeYAML(&text, n); err != nil {
			return err
		}
		fmt.Fprintf(b, "\n%s:\n", s.title)
		for line := range strings.Lines(text.String()) {
			b.WriteString("  " + line)
		}
	}
	return nil
}

// prose says in sentences what the resource means.
func (d description) prose() []string {
	switch {
	case d.kind.Policy != nil:
		return policyProse(d.tree)
	case d.kind.Name == mesh.TypeDataplane:
		return d.dataplaneProse()
	case d.kind.Name == mesh.TypeMeshService:
		return serviceProse(d.tree)
	case d.kind.Name == mesh.TypeZone:
		return d.zoneProse()
	}
	return nil
}

func policyProse(t tree) []string {
	out := []string{"It configures " + proxiesOf(t) + "."}
	for _, to := range t.list("spec", "to") {
		out = append(out, "Requests they send to "+targetOf(to)+" get: "+fieldsOf(to.at("default"))+".")
	}
	for _, r := range t.list("spec", "rules") {
		who := "everyone"
		if len(r.list("matches")) > 0 {
			who = fmt.Sprintf("clients that fit one of %d matches", len(r.list("matches")))
		}
		out = append(out, "Requests they receive from "+who+" get: "+fieldsOf(r.at("default"))+".")
	}
	if t.at("spec", "default") != nil {
		out = append(out, "The proxies themselves get: "+fieldsOf(t.at("spec", "default"))+".")
	}
	if t.text("labels", "kuma.io/effect") == "shadow" {
		out = append(out, "It is a shadow: it is shown in inspection and not in force.")
	}
	return out
}

func proxiesOf(t tree) string {
	ref, ok := t.at("spec", "targetRef").(map[string]any)
	if !ok || cmp.Or(tree(ref).text("kind"), "Mesh") == "Mesh" {
		return "every proxy of the mesh"
	}
	return "the proxies of " + targetCell(t) + sectionOf(ref)
}

func sectionOf(ref tree) string {
	if s := ref.text("sectionName"); s != "" {
		return ", section " + s
	}
	return ""
}

func targetOf(item tree) string {
	ref, ok := item.at("targetRef").(map[string]any)
	if !ok || cmp.Or(tree(ref).text("kind"), "Mesh") == "Mesh" {
		return "every destination"
	}
	return targetCell(tree{"spec": map[string]any{"targetRef": ref}}) + sectionOf(ref)
}

func fieldsOf(v any) string {
	m, ok := v.(map[string]any)
	if !ok || len(m) == 0 {
		return "no field set"
	}
	return strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}

func (d description) dataplaneProse() []string {
	var insight mesh.DataplaneInsight
	if b, err := json.Marshal(d.overview.at("dataplaneInsight")); err == nil {
		if json.Unmarshal(b, &insight) != nil {
			return []string{"What is observed of it cannot be read by this version of causeway."}
		}
	}
	out := []string{d.connectionProse(insight)}
	if m := insight.MTLS; m != nil {
		left := m.CertificateExpirationTime.Sub(d.now)
		state := "Valid"
		if left <= 0 {
			state = "Expired"
		}
		out = append(out, fmt.Sprintf("Its certificate is %s until %s, issued %d times, by %s.",
			state, m.CertificateExpirationTime.UTC().Format(time.RFC3339), m.CertificateRegenerations, m.IssuedBackend))
	}
	if in := inboundsCell(d.tree); in != "" {
		out = append(out, "It receives traffic on "+networkingCell("address")(d.tree)+", ports "+in+".")
	}
	return out
}

func (d description) connectionProse(insight mesh.DataplaneInsight) string {
	subs := insight.Subscriptions
	if len(subs) == 0 {
		return "It is Offline: its agent has never connected to this control plane."
	}
	last := subs[len(subs)-1]
	if !last.IsOnline() {
		return "It is Offline: its agent disconnected " + age(d.now, last.DisconnectTime) + " ago."
	}
	s := "It is Online: its agent connected " + age(d.now, last.ConnectTime) + " ago"
	if v := last.Version; v != nil && v.Envoy.Version != "" {
		s += ", with Envoy " + v.Envoy.Version
	}
	t := last.Status.Total
	s += fmt.Sprintf("; %d of %d responses acknowledged", t.ResponsesAcknowledged, t.ResponsesSent)
	if t.ResponsesRejected > 0 {
		s += fmt.Sprintf(", %d rejected", t.ResponsesRejected)
	}
	return s + "."
}

func (d description) zoneProse() []string {
	var insight mesh.ZoneInsight
	var out []string
	if b, err := json.Marshal(d.overview.at("zoneInsight")); err == nil && json.Unmarshal(b, &insight) == nil && len(insight.Subscriptions) > 0 {
		last := insight.Subscriptions[len(insight.Subscriptions)-1]
		if last.IsOnline() {
			out = append(out, "It is Online: it connected "+age(d.now, last.ConnectTime)+" ago.")
		} else {
			out = append(out, "It is Offline: it disconnected "+age(d.now, last.DisconnectTime)+" ago. Its proxies keep what they have.")
		}
		if p := zoneProxiesCell(d.overview); p != "" {
			out = append(out, "Its proxies: "+p+".")
		}
		if s := d.overview.text("zoneInsight", "clockSkew"); s != "" {
			out = append(out, "Its clock differs from global's by "+s+"; set it.")
		}
		for _, e := range d.overview.list("zoneInsight", "exceptions") {
			out = append(out, "Not in force: "+exceptionLine(mesh.PropagationException{
				Mesh: e.text("mesh"), Dataplane: e.text("dataplane"), Type: e.text("type"), Name: e.text("name"), Reason: e.text("reason"),
			}))
		}
	}
	if enabledCell(d.tree) == "false" {
		out = append(out, "It is Disabled: its services are not offered to other zones.")
	}
	return out
}

func serviceProse(t tree) []string {
	var out []string
	if ports := portsCell(t); ports != "" {
		out = append(out, "It offers the ports "+ports+".")
	}
	if p := proxiesCell(t); p != "" {
		out = append(out, "Behind it: "+p+" proxies.")
	}
	var hosts []string
	for _, a := range t.list("status", "addresses") {
		hosts = append(hosts, a.text("hostname"))
	}
	if len(hosts) > 0 {
		out = append(out, "It is reached as "+strings.Join(hosts, ", ")+".")
	}
	return out
}
