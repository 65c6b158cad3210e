package mesh

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/template/parse"

	"github.com/causeway-mesh/causeway/api/resource"
)

// A Template is text with variables ({{ .Zone }}) and labels ({{ label "team" }}). It has no other functions,
// so a template of a user costs no more than its length.
type Template struct {
	parts []templatePart
}

type templatePart struct {
	text, variable, label string
}

// MaxTemplate is the longest accepted template, in bytes.
const MaxTemplate = 4096

// ParseTemplate reads a template that may use the variables (without their dot) and, when labels is set, the function label.
func ParseTemplate(text string, labels bool, variables ...string) (Template, error) {
	if len(text) > MaxTemplate {
		return Template{}, fmt.Errorf("template is %d bytes, at most %d are allowed", len(text), MaxTemplate)
	}
	trees, err := parse.Parse("template", text, "", "", map[string]any{"label": ""})
	if err != nil {
		return Template{}, fmt.Errorf("%s is not a template: %s", resource.Quote(text), strings.TrimPrefix(err.Error(), "template: template:"))
	}
	tree := trees["template"]
	if tree == nil || len(trees) != 1 {
		return Template{}, fmt.Errorf("%s defines templates, only variables and label are possible", resource.Quote(text))
	}
	var t Template
	for _, n := range tree.Root.Nodes {
		part, err := templateNode(n)
		if err != nil {
			return Template{}, err
		}
		switch {
		case part.label != "" && !labels:
			return Template{}, fmt.Errorf("label is not possible here, only %s", variableNames(variables))
		case part.variable != "" && !slices.Contains(variables, part.variable):
			return Template{}, fmt.Errorf("unknown variable .%s, possible are %s%s", part.variable, variableNames(variables), didYouMean(part.variable, variables))
		}
		t.parts = append(t.parts, part)
	}
	return t, nil
}

func templateNode(n parse.Node) (templatePart, error) {
	unsupported := fmt.Errorf("%s is not possible, only variables and label \"key\" are", resource.Quote(n.String()))
	switch n := n.(type) {
	case *parse.TextNode:
		return templatePart{text: string(n.Text)}, nil
	case *parse.ActionNode:
		if len(n.Pipe.Decl) != 0 || len(n.Pipe.Cmds) != 1 {
			return templatePart{}, unsupported
		}
		args := n.Pipe.Cmds[0].Args
		if f, ok := args[0].(*parse.FieldNode); ok && len(args) == 1 && len(f.Ident) == 1 {
			return templatePart{variable: f.Ident[0]}, nil
		}
		if len(args) == 2 && args[0].String() == "label" {
			if s, ok := args[1].(*parse.StringNode); ok && s.Text != "" {
				return templatePart{label: s.Text}, nil
			}
		}
	}
	return templatePart{}, unsupported
}

func variableNames(variables []string) string {
	dotted := make([]string, len(variables))
	for i, v := range variables {
		dotted[i] = "." + v
	}
	return strings.Join(dotted, ", ")
}

func didYouMean(word string, candidates []string) string {
	if near := resource.Nearest(word, candidates); near != "" {
		return "; did you mean ." + near + "?"
	}
	return ""
}

// Labels lists the labels the template reads.
func (t Template) Labels() []string {
	var out []string
	for _, p := range t.parts {
		if p.label != "" && !slices.Contains(out, p.label) {
			out = append(out, p.label)
		}
	}
	return out
}

// Uses says whether the template reads a variable.
func (t Template) Uses(variable string) bool {
	return slices.ContainsFunc(t.parts, func(p templatePart) bool { return p.variable == variable })
}

// Render fills the template in. A variable or label without a value is an error: half a name is nobody's name.
func (t Template) Render(variables, labels map[string]string) (string, error) {
	var b strings.Builder
	for _, p := range t.parts {
		switch {
		case p.variable != "":
			if variables[p.variable] == "" {
				return "", fmt.Errorf("variable .%s has no value", p.variable)
			}
			b.WriteString(variables[p.variable])
		case p.label != "":
			if labels[p.label] == "" {
				return "", fmt.Errorf("label %s is missing", strconv.Quote(p.label))
			}
			b.WriteString(labels[p.label])
		default:
			b.WriteString(p.text)
		}
	}
	return b.String(), nil
}
