package settings

import (
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Print writes the settings in force as a YAML file that Load reads back, each with its meaning and secrets masked.
func Print(w io.Writer, config any) error {
	root := &yaml.Node{Kind: yaml.MappingNode}
	for _, s := range collect(reflect.Indirect(reflect.ValueOf(config)), "", nil) {
		if s.fileOf {
			continue
		}
		parts := strings.Split(s.path, ".")
		at := root
		for _, p := range parts[:len(parts)-1] {
			at = child(at, p)
		}
		key := &yaml.Node{Kind: yaml.ScalarNode, Value: parts[len(parts)-1], HeadComment: s.doc}
		at.Content = append(at.Content, key, s.node())
	}
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(root); err != nil {
		return fmt.Errorf("print the settings: %w", err)
	}
	return e.Close()
}

func child(at *yaml.Node, name string) *yaml.Node {
	for i := 0; i < len(at.Content); i += 2 {
		if at.Content[i].Value == name {
			return at.Content[i+1]
		}
	}
	next := &yaml.Node{Kind: yaml.MappingNode}
	at.Content = append(at.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: name}, next)
	return next
}

func (s setting) node() *yaml.Node {
	n := new(yaml.Node)
	switch kind := kindOf(s.value.Type()); {
	case s.secret && !s.value.IsZero():
		n.SetString(Mask)
	case kind == kindList:
		n.Kind, n.Style = yaml.SequenceNode, yaml.FlowStyle
		for i := range s.value.Len() {
			e := new(yaml.Node)
			e.SetString(format(s.value.Index(i)))
			n.Content = append(n.Content, e)
		}
	case kind == kindMap:
		n.Kind = yaml.MappingNode
		if s.value.Len() == 0 {
			n.Style = yaml.FlowStyle
		}
		keys := s.value.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, k := range keys {
			key, value := new(yaml.Node), new(yaml.Node)
			key.SetString(k.String())
			value.SetString(s.value.MapIndex(k).String())
			n.Content = append(n.Content, key, value)
		}
	case kind == kindBool || kind == kindNumber:
		n.Kind, n.Value = yaml.ScalarNode, format(s.value)
	default:
		n.SetString(format(s.value))
	}
	return n
}

// Table renders the settings as a Markdown table for the documentation.
func Table(defaults any) string {
	var b strings.Builder
	b.WriteString("| setting | environment | flag | default | meaning |\n|---|---|---|---|---|\n")
	for _, f := range Fields(defaults) {
		def := f.Default
		if def != "" {
			def = "`" + def + "`"
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | `--%s` | %s | %s |\n", f.Path, f.Env, f.Flag, def, strings.ReplaceAll(f.Doc, "|", `\|`))
	}
	return b.String()
}
