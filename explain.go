package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/schema"
)

func (p *program) explainCommand() *cobra.Command {
	var recursive bool
	cmd := &cobra.Command{
		Use: "explain TYPE[.FIELD]...", Short: "Tell what a type of resource or a field of it means", Args: cobra.ExactArgs(1),
		Long: `explain tells what a type of resource or one of its fields means: its type, its default, what may stand there and which fields are in it.

TYPE is the name of a type in any case, its path or its short name. Fields follow with dots between them; lists and maps need no index,
and spec may be left out. No control plane is asked: it tells what this version of causeway knows.`,
		Example: `  causeway explain meshtimeout
  causeway explain mt.to.default.http.requestTimeout
  causeway explain dataplane.networking --recursive`,
		ValidArgsFunction: func(_ *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return completeFields(typed), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		},
		RunE: func(_ *cobra.Command, args []string) error {
			e, err := explain(args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(p.stdout, e.text(recursive))
			return err
		},
	}
	cmd.Flags().BoolVar(&recursive, "recursive", false, "show the names and types of all fields below")
	return cmd
}

// An explanation is a field of a kind, or the kind as a whole when the path is empty.
type explanation struct {
	kind  schema.Kind
	path  []string
	field schema.Field
}

// explain finds what "meshtimeout.spec.to" means.
func explain(arg string) (explanation, error) {
	word, rest, _ := strings.Cut(arg, ".")
	k, err := lookup(word, "causeway explain")
	if err != nil {
		return explanation{}, err
	}
	e := explanation{kind: schema.NewReader().Kind(k)}
	e.field = schema.Field{Type: e.kind.Top(), Doc: e.kind.Spec.Doc}
	names := strings.FieldsFunc(rest, func(r rune) bool { return r == '.' })
	if len(names) > 0 && !k.Inline {
		_, inTop := e.field.Type.Field(names[0])
		if _, inSpec := e.kind.Spec.Field(names[0]); inSpec && !inTop {
			names = append([]string{"spec"}, names...)
		}
	}
	for _, name := range names {
		if err := e.enter(name); err != nil {
			return explanation{}, err
		}
	}
	return e, nil
}

// inside is the type whose fields a path goes on with: that of the items of lists and maps.
func inside(t *schema.Type) *schema.Type {
	for t.Form == schema.List || t.Form == schema.Map {
		t = t.Elem
	}
	return t
}

func (e *explanation) enter(name string) error {
	name, _, _ = strings.Cut(name, "[") // to[0] is the same as to
	if _, err := strconv.Atoi(name); err == nil || name == "" || name == "*" {
		return nil
	}
	within := inside(e.field.Type)
	f, ok := within.Field(name)
	if !ok {
		where := strings.Join(append([]string{e.kind.Name}, e.path...), ".")
		err := fmt.Errorf("%s has no field %s", where, resource.Quote(name))
		names := within.FieldNames()
		switch near := resource.Nearest(name, names); {
		case near != "":
			err = fmt.Errorf("%w, did you mean %s?", err, near)
		case len(names) > 0:
			err = fmt.Errorf("%w; it has %s", err, strings.Join(names, ", "))
		default:
			err = fmt.Errorf("%w: a %s has none", err, typeName(e.field.Type))
		}
		return usageError{err, "causeway explain"}
	}
	e.path, e.field = append(e.path, f.Name), f
	return nil
}

const explainWidth = 100

func (e explanation) text(recursive bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "KIND:    %s\n", e.kind.Name)
	if len(e.path) > 0 {
		fmt.Fprintf(&b, "FIELD:   %s <%s>\n", strings.Join(e.path, "."), typeName(e.field.Type))
	} else {
		fmt.Fprintf(&b, "PATH:    %s\nSCOPE:   %s, written by %s\n", e.kind.Path, e.kind.Scope, writers(e.kind.Kind))
	}
	writeFacts(&b, e.field)
	b.WriteString("\n" + wrap(e.field.Doc, explainWidth, ""))
	t := inside(e.field.Type)
	if doc := t.Doc; doc != "" && doc != e.field.Doc {
		b.WriteString("\n" + wrap(doc, explainWidth, ""))
	}
	if len(t.Fields) == 0 {
		return b.String()
	}
	b.WriteString("\nFIELDS:\n")
	if recursive {
		writeFields(&b, t, "  ", nil)
		return b.String()
	}
	for _, f := range t.Fields {
		if f.Removed {
			continue
		}
		fmt.Fprintf(&b, "  %s <%s>%s\n%s\n", f.Name, typeName(f.Type), mark(f), wrap(f.Doc, explainWidth, "    "))
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// writeFacts writes what a field takes, line by line.
func writeFacts(b *strings.Builder, f schema.Field) {
	fact := func(name, value string) {
		if value != "" {
			fmt.Fprintf(b, "%-9s%s\n", name+":", value)
		}
	}
	if f.Required {
		fact("NEEDED", "always")
	}
	if f.Computed {
		fact("SET BY", "the control plane; what is written is ignored")
	}
	fact("VALUES", strings.Join(f.Values, ", "))
	fact("RANGE", rangeOf(f))
	fact("DEFAULT", f.Default)
}

func rangeOf(f schema.Field) string {
	number := func(n *float64) string { return strconv.FormatFloat(*n, 'f', -1, 64) }
	switch {
	case f.Min != nil && f.Max != nil && f.Above:
		return "above " + number(f.Min) + ", at most " + number(f.Max)
	case f.Min != nil && f.Max != nil:
		return number(f.Min) + " to " + number(f.Max)
	case f.Min != nil && f.Above:
		return "above " + number(f.Min)
	case f.Min != nil:
		return "at least " + number(f.Min)
	case f.Max != nil:
		return "at most " + number(f.Max)
	}
	return ""
}

func mark(f schema.Field) string {
	switch {
	case f.Required:
		return " -required-"
	case f.Computed:
		return " -computed-"
	}
	return ""
}

// typeName calls a type as people would.
func typeName(t *schema.Type) string {
	switch {
	case t.Form == schema.List:
		return "list of " + typeName(t.Elem)
	case t.Form == schema.Map:
		return "map of " + typeName(t.Elem)
	case t.Form == schema.Number:
		return "number or decimal string"
	case t.Form == schema.Float:
		return "number"
	case t.Form == schema.PortRef:
		return "number or name"
	case t.Format == schema.FormatDuration:
		return "duration"
	case t.Format == schema.FormatTime:
		return "time"
	case t.Format == schema.FormatBytes:
		return "base64"
	}
	return string(t.Form)
}

// writeFields writes the tree of fields below a type. A type within itself is not entered again.
func writeFields(b *strings.Builder, t *schema.Type, indent string, within []*schema.Type) {
	if slices.Contains(within, t) {
		return
	}
	within = append(within, t)
	for _, f := range t.Fields {
		if f.Removed {
			continue
		}
		fmt.Fprintf(b, "%s%s <%s>%s\n", indent, f.Name, typeName(f.Type), mark(f))
		writeFields(b, inside(f.Type), indent+"  ", within)
	}
}

// wrap breaks a text into lines of at most so many characters, where words allow.
func wrap(text string, width int, indent string) string {
	var b strings.Builder
	n := 0
	for _, w := range strings.Fields(text) {
		switch {
		case n == 0:
			b.WriteString(indent)
			n = len(indent)
		case n+1+len(w) > width:
			b.WriteString("\n" + indent)
			n = len(indent)
		default:
			b.WriteString(" ")
			n++
		}
		b.WriteString(w)
		n += len(w)
	}
	return b.String() + "\n"
}

// completeFields lists how a path can go on.
func completeFields(typed string) []string {
	before, last := "", typed
	if i := strings.LastIndex(typed, "."); i >= 0 {
		before, last = typed[:i], typed[i+1:]
	}
	var names []string
	if before == "" {
		for _, k := range api.Kinds().All() {
			names = append(names, strings.ToLower(k.Name))
		}
	} else if e, err := explain(before); err == nil {
		names = inside(e.field.Type).FieldNames()
		before += "."
	}
	var out []string
	for _, n := range names {
		if strings.HasPrefix(n, last) {
			out = append(out, before+n)
		}
	}
	return out
}
