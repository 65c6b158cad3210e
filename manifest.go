package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/causeway-mesh/causeway/api/resource"
)

// manifest is one resource in a file, with its place for messages.
type manifest struct {
	file string
	node *yaml.Node
	tree map[string]any
}

func (m manifest) text(field string) string {
	s, _ := m.tree[field].(string)
	return s
}

// String names the resource as people know it, as far as it says who it is.
func (m manifest) String() string {
	return resource.Key{
		Type: cmp.Or(m.text("type"), "resource"), Mesh: m.text("mesh"), Name: cmp.Or(m.text("name"), "without a name"),
	}.String()
}

// at is the place of a field: the line of the deepest part of the path that exists.
func (m manifest) at(path string) string {
	return fmt.Sprintf("%s:%d", m.file, lineOf(m.node, path))
}

func lineOf(n *yaml.Node, path string) int {
	line := n.Line
	for _, part := range splitPath(path) {
		key, next := childNode(n, part)
		if next == nil {
			break
		}
		n, line = next, key.Line
	}
	return line
}

// splitPath turns spec.to[0].default["a.b"] into its parts.
func splitPath(path string) []string {
	var parts []string
	for path != "" {
		switch {
		case path[0] == '.':
			path = path[1:]
		case strings.HasPrefix(path, `["`):
			quoted, err := strconv.QuotedPrefix(path[1:])
			if err != nil {
				return parts
			}
			key, err := strconv.Unquote(quoted)
			if err != nil {
				return parts
			}
			parts = append(parts, key)
			path = strings.TrimPrefix(path[1+len(quoted):], "]")
		case path[0] == '[':
			inside, rest, _ := strings.Cut(path[1:], "]")
			parts = append(parts, inside)
			path = rest
		default:
			end := strings.IndexAny(path, ".[")
			if end < 0 {
				end = len(path)
			}
			parts = append(parts, path[:end])
			path = path[end:]
		}
	}
	return parts
}

// childNode finds a field or element; key is the node whose line shows it.
func childNode(n *yaml.Node, part string) (key, value *yaml.Node) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == part {
				return n.Content[i], n.Content[i+1]
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(part); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i], n.Content[i]
		}
	case yaml.AliasNode:
		return childNode(n.Alias, part)
	}
	return nil, nil
}

// maxManifest bounds one input file; the server takes batches up to half of it.
const maxManifest = 64 << 20

// readManifests reads every resource of files, directories and standard input ("-"), in the order given.
func (p *program) readManifests(names []string) ([]manifest, error) {
	if len(names) == 0 {
		return nil, usageError{errors.New("-f is needed: a file, a directory or - for standard input"), "causeway apply"}
	}
	var out []manifest
	for _, name := range names {
		files, err := expand(name)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			ms, err := p.readManifest(f)
			if err != nil {
				return nil, err
			}
			out = append(out, ms...)
		}
	}
	if len(out) == 0 {
		return nil, invalidError{"nothing to do", []string{"there is no resource in " + strings.Join(names, ", ")}}
	}
	return out, nil
}

// expand turns a directory into the resource files in and below it, in order.
func expand(name string) ([]string, error) {
	if name == "-" {
		return []string{name}, nil
	}
	if strings.Contains(name, "://") {
		return nil, hintError{usageError{fmt.Errorf("%s: addresses are not read", name), "causeway apply"}, "curl -fsSL " + name + " | causeway apply -f -"}
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("read resources: %w", err)
	}
	if !info.IsDir() {
		return []string{name}, nil
	}
	var files []string
	err = filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)) {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read resources: %w", err)
	}
	return files, nil
}

func (p *program) readManifest(name string) ([]manifest, error) {
	r, shown := p.stdin, "standard input"
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("read resources: %w", err)
		}
		defer f.Close()
		r, shown = f, name
	}
	data, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("read resources from %s: %w", shown, err)
	}
	if len(data) > maxManifest {
		return nil, invalidError{shown + " is too large", []string{fmt.Sprintf("at most %d MiB are read; split it", maxManifest>>20)}}
	}
	return parseManifests(shown, data)
}

// parseManifests splits a file into its resources. A JSON or YAML list, as get prints it, stands for its items.
func parseManifests(file string, data []byte) ([]manifest, error) {
	nodes, err := documents(data)
	if err != nil {
		return nil, invalidError{file + " cannot be read", []string{err.Error()}}
	}
	var out []manifest
	for i, n := range nodes {
		tree, err := treeOfNode(n)
		if err != nil {
			var ps resource.Problems
			lines := []string{err.Error()}
			if errors.As(err, &ps) {
				lines = nil
				for _, p := range ps {
					lines = append(lines, strings.TrimPrefix(p.String(), ": "))
				}
			}
			return nil, invalidError{fmt.Sprintf("document %d of %s (%s:%d) cannot be read", i+1, file, file, n.Line), lines}
		}
		out = append(out, manifest{file, n, tree})
	}
	return out, nil
}

func documents(data []byte) ([]*yaml.Node, error) {
	var out []*yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		if err := d.Decode(&doc); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, err
		}
		n := doc.Content[0]
		if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
			continue
		}
		if _, items := childNode(n, "items"); items != nil && items.Kind == yaml.SequenceNode {
			if _, typ := childNode(n, "type"); typ == nil {
				out = append(out, items.Content...)
				continue
			}
		}
		out = append(out, n)
	}
}

// treeOfNode gives a document the form that the resource model decodes, within its limits of size and depth.
func treeOfNode(n *yaml.Node) (map[string]any, error) {
	b, err := yaml.Marshal(n)
	if err != nil {
		return nil, err
	}
	trees, err := resource.ParseYAML(b)
	if err != nil {
		return nil, err
	}
	if len(trees) != 1 {
		return nil, errors.New("must be an object with type, name and spec")
	}
	return trees[0], nil
}

// json is the resource as it is sent.
func (m manifest) json() (json.RawMessage, error) {
	b, err := json.Marshal(m.tree)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", m, err)
	}
	return b, nil
}
