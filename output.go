package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/causeway-mesh/causeway/api/resource"
)

// output is how the data of a command is shown.
type output struct {
	format    string
	noHeaders bool
	wide      bool // whether the command has a wide table
}

func (o *output) flags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.format, "output", "o", "", "one of "+strings.Join(o.formats(), ", ")+" (CAUSEWAY_OUTPUT; default table)")
	cmd.Flags().BoolVar(&o.noHeaders, "no-headers", false, "leave out the first line of tables")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(o.formats(), cobra.ShellCompDirectiveNoFileComp)))
}

func (o *output) formats() []string {
	if o.wide {
		return []string{"table", "wide", "name", "json", "yaml"}
	}
	return []string{"table", "name", "json", "yaml"}
}

// check completes the format from the environment and refuses an unknown one.
func (o *output) check(p *program) error {
	if o.format == "" {
		o.format = p.env("CAUSEWAY_OUTPUT")
	}
	if o.format == "" {
		o.format = "table"
	}
	if o.format == "wide" && !o.wide {
		o.format = "table"
	}
	if slices.Contains(o.formats(), o.format) {
		return nil
	}
	err := fmt.Errorf("output format %s is unknown", resource.Quote(o.format))
	if near := resource.Nearest(o.format, o.formats()); near != "" {
		err = fmt.Errorf("%w, did you mean %q?", err, near)
	}
	return hintError{usageError{err, ""}, "causeway help output"}
}

// values shows a table, its names, or the values behind it.
func (o *output) values(p *program, t table, values any) error {
	if err := o.check(p); err != nil {
		return err
	}
	switch o.format {
	case "json":
		return writeJSON(p.stdout, values)
	case "yaml":
		return writeYAML(p.stdout, values)
	case "name":
		return t.writeNames(p.stdout)
	}
	return t.write(p.stdout, !o.noHeaders)
}

// table is rows of text below a header; nothing is ever cut off.
type table struct {
	header []string
	rows   [][]string
	names  []string
}

func (t *table) add(name string, cells ...string) {
	t.names = append(t.names, name)
	t.rows = append(t.rows, cells)
}

func (t *table) write(w io.Writer, header bool) error {
	rows := t.rows
	if header && len(rows) > 0 {
		rows = append([][]string{t.header}, rows...)
	}
	width := make([]int, len(t.header))
	for _, r := range rows {
		for i, c := range r {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	for _, r := range rows {
		var line strings.Builder
		for i, c := range r {
			line.WriteString(printable(c))
			if i < len(r)-1 {
				line.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(c)+3))
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// printable keeps what a server sends from steering a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

func (t *table) writeNames(w io.Writer) error {
	for _, n := range t.names {
		if _, err := fmt.Fprintln(w, n); err != nil {
			return err
		}
	}
	return nil
}

func writeJSON(w io.Writer, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// writeYAML writes values as one document; raw JSON keeps the order of its fields.
func writeYAML(w io.Writer, v any) error {
	if raw, ok := v.(json.RawMessage); ok {
		node, err := yamlOf(raw)
		if err != nil {
			return err
		}
		v = node
	}
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("write YAML: %w", err)
	}
	return e.Close()
}

// yamlOf reads JSON, which is YAML, as a tree in block style.
func yamlOf(raw []byte) (*yaml.Node, error) {
	var doc yaml.Node
	if err := yaml.NewDecoder(bytes.NewReader(raw)).Decode(&doc); err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	blockStyle(&doc)
	return &doc, nil
}

func blockStyle(n *yaml.Node) {
	if (n.Kind == yaml.MappingNode || n.Kind == yaml.SequenceNode) && len(n.Content) > 0 {
		n.Style = 0
	}
	if n.Kind == yaml.ScalarNode {
		n.Style &^= yaml.DoubleQuotedStyle
		if n.Tag == "!!str" {
			n.SetString(n.Value)
		}
	}
	for _, c := range n.Content {
		blockStyle(c)
	}
}

// age renders how long ago something was, in one unit.
func age(now, then time.Time) string {
	if then.IsZero() {
		return ""
	}
	d := max(now.Sub(then), 0)
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours())/24)
}
