package resource

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"
)

// metaFields are the envelope fields that are not part of any spec. Clients may send the computed ones; they are ignored.
var metaFields = []string{"type", "mesh", "name", "labels", "creationTime", "modificationTime", "kri", "snis", "status"}

// A Decoded is the result of reading one resource.
type Decoded struct {
	Resource
	// Warnings name unknown fields, each with the nearest known one. They are errors in strict mode.
	Warnings []Problem
}

// Decode reads one resource from JSON. A non-nil error is Problems or wraps ErrUnknownKind.
// In strict mode unknown fields are problems; otherwise they are warnings, and kept in Raw.
func (ks *Kinds) Decode(data []byte, strict bool) (Decoded, error) {
	tree, err := parseJSON(data)
	if err != nil {
		return Decoded{}, err
	}
	return ks.DecodeTree(tree, strict)
}

// DecodeYAML reads every document of a YAML file. Documents that are empty are skipped.
func (ks *Kinds) DecodeYAML(data []byte, strict bool) ([]Decoded, error) {
	trees, err := ParseYAML(data)
	if err != nil {
		return nil, err
	}
	var out []Decoded
	for i, tree := range trees {
		d, err := ks.DecodeTree(tree, strict)
		if err != nil {
			if len(trees) > 1 {
				err = fmt.Errorf("document %d: %w", i+1, err)
			}
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

// DecodeTree reads one resource from parsed JSON or YAML.
func (ks *Kinds) DecodeTree(tree map[string]any, strict bool) (Decoded, error) {
	meta, ps := decodeMeta(tree)
	if len(ps) > 0 {
		return Decoded{}, ps
	}
	kind, ok := ks.ByName(meta.Type)
	if !ok {
		_, err := ks.Lookup(meta.Type)
		if err == nil {
			err = fmt.Errorf("%w: %s", ErrUnknownKind, Quote(meta.Type))
		}
		return Decoded{}, err
	}
	specTree, unknown := splitSpec(kind, tree)
	raw, err := json.Marshal(specTree)
	if err != nil {
		return Decoded{}, fmt.Errorf("encode spec of %s: %w", meta.Key(), err)
	}
	if len(raw) > MaxObject {
		return Decoded{}, Problems{{Field: string(kind.SpecPath()), Reason: fmt.Sprintf("is %d bytes, at most %d are allowed", len(raw), MaxObject)}}
	}
	spec, more, err := kind.decodeSpec(specTree, raw)
	if err != nil {
		return Decoded{}, err
	}
	unknown = append(unknown, more...)
	if strict && len(unknown) > 0 {
		return Decoded{}, Problems(unknown)
	}
	return Decoded{Resource: Resource{Meta: meta, Spec: spec, Raw: raw}, Warnings: unknown}, nil
}

// DecodeSpec reads a stored spec. Unknown fields are ignored: they may be a newer peer's.
func (k Kind) DecodeSpec(raw []byte) (any, error) {
	spec := k.New()
	if len(raw) == 0 {
		return spec, nil
	}
	if err := json.Unmarshal(raw, spec); err != nil {
		return nil, fmt.Errorf("decode spec of %s: %w", k.Name, err)
	}
	return spec, nil
}

// UnknownFields lists the fields of a spec that the kind does not know, at most maxUnknown.
func (k Kind) UnknownFields(raw []byte) ([]Problem, error) {
	tree := map[string]any{}
	if err := json.Unmarshal(raw, &tree); err != nil {
		return nil, fmt.Errorf("decode spec of %s: %w", k.Name, err)
	}
	c := checker{}
	c.check(k.SpecPath(), reflect.TypeOf(k.New()).Elem(), tree)
	return c.unknown, nil
}

func (k Kind) decodeSpec(tree map[string]any, raw []byte) (any, []Problem, error) {
	c := checker{}
	c.check(k.SpecPath(), reflect.TypeOf(k.New()).Elem(), tree)
	if len(c.problems) > 0 {
		return nil, nil, c.problems
	}
	spec, err := k.DecodeSpec(raw)
	if err != nil {
		return nil, nil, Problems{{Field: string(k.SpecPath()), Reason: err.Error()}}
	}
	return spec, c.unknown, nil
}

func splitSpec(kind Kind, tree map[string]any) (spec map[string]any, unknown []Problem) {
	spec = map[string]any{}
	if kind.Inline {
		for k, v := range tree {
			if !slices.Contains(metaFields, k) {
				spec[k] = v
			}
		}
		return spec, nil
	}
	known := append(slices.Clone(metaFields), "spec")
	for _, k := range slices.Sorted(maps.Keys(tree)) {
		if !slices.Contains(known, k) && len(unknown) < maxUnknown {
			unknown = append(unknown, unknownField("", k, known))
		}
	}
	if s, ok := tree["spec"].(map[string]any); ok {
		spec = s
	}
	return spec, unknown
}

func decodeMeta(tree map[string]any) (Meta, Problems) {
	var m Meta
	var ps Problems
	str := func(field string, into *string) {
		switch v := tree[field].(type) {
		case nil:
		case string:
			*into = v
		default:
			ps.Add(Path(field), "must be a string")
		}
	}
	str("type", &m.Type)
	str("mesh", &m.Mesh)
	str("name", &m.Name)
	switch v := tree["labels"].(type) {
	case nil:
	case map[string]any:
		m.Labels = make(map[string]string, len(v))
		for k, l := range v {
			s, ok := l.(string)
			if !ok {
				ps.Add(Path("labels").Key(k), "must be a string; quote it")
			}
			m.Labels[k] = s
		}
	default:
		ps.Add("labels", "must be an object of strings")
	}
	if s, ok := tree["spec"]; ok && s != nil {
		if _, ok := s.(map[string]any); !ok {
			ps.Add("spec", "must be an object")
		}
	}
	if m.Type == "" && len(ps) == 0 {
		ps.Add("type", "must be set")
	}
	return m, ps
}

// Encode renders a resource in its API form. Extra holds further top-level fields, such as status and kri.
func (k Kind) Encode(r Resource, extra map[string]any) ([]byte, error) {
	out := map[string]any{"type": r.Type, "name": r.Name}
	if r.Mesh != "" {
		out["mesh"] = r.Mesh
	}
	if len(r.Labels) > 0 {
		out["labels"] = r.Labels
	}
	if !r.Created.IsZero() {
		out["creationTime"] = r.Created.UTC().Format(time.RFC3339Nano)
		out["modificationTime"] = r.Modified.UTC().Format(time.RFC3339Nano)
	}
	raw := json.RawMessage(r.Raw)
	if len(raw) == 0 {
		raw = json.RawMessage("{}")
	}
	if k.Inline {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(raw, &fields); err != nil {
			return nil, fmt.Errorf("encode %s: %w", r.Key(), err)
		}
		for f, v := range fields {
			out[f] = v
		}
	} else {
		out["spec"] = raw
	}
	maps.Copy(out, extra)
	b, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", r.Key(), err)
	}
	return b, nil
}

// WithSpec returns a resource with a new spec, encoded as it would be had a user written it: with sorted keys,
// so that applying what was read is no change.
func WithSpec(m Meta, spec any) (Resource, error) {
	raw, err := json.Marshal(spec)
	if err != nil {
		return Resource{}, fmt.Errorf("encode spec of %s: %w", m.Key(), err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		return Resource{}, fmt.Errorf("encode spec of %s: %w", m.Key(), err)
	}
	if raw, err = json.Marshal(tree); err != nil {
		return Resource{}, fmt.Errorf("encode spec of %s: %w", m.Key(), err)
	}
	return Resource{Meta: m, Spec: spec, Raw: raw}, nil
}

const (
	maxDepth     = 64
	maxDocuments = 10_000
)

func parseJSON(data []byte) (map[string]any, error) {
	if len(data) > MaxObject+64<<10 {
		return nil, tooLarge(len(data))
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, Problems{{Field: "", Reason: "is not valid JSON: " + err.Error()}}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, Problems{{Field: "", Reason: "has data after the JSON object"}}
	}
	if nested(v, 0) > maxDepth {
		return nil, Problems{{Field: "", Reason: fmt.Sprintf("is nested deeper than %d levels", maxDepth)}}
	}
	return asObject(v)
}

func tooLarge(n int) error {
	return Problems{{Field: "", Reason: fmt.Sprintf("the object is %d bytes, at most %d are allowed; split it into several", n, MaxObject)}}
}

// ParseYAML reads the documents of a YAML (or JSON) file as plain trees.
// Aliases are expanded within the limits of the YAML library, which refuses excessive ones.
func ParseYAML(data []byte) ([]map[string]any, error) {
	d := yaml.NewDecoder(bytes.NewReader(data))
	var out []map[string]any
	for {
		var node yaml.Node
		err := d.Decode(&node)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, Problems{{Field: "", Reason: "is not valid YAML: " + err.Error()}}
		}
		if depth(&node, 0) > maxDepth {
			return nil, Problems{{Field: "", Reason: fmt.Sprintf("is nested deeper than %d levels", maxDepth)}}
		}
		keepDates(&node)
		var v any
		if err := node.Decode(&v); err != nil {
			return nil, Problems{{Field: "", Reason: "is not valid YAML: " + err.Error()}}
		}
		if v == nil {
			continue
		}
		tree, err := yamlObject(v)
		if err != nil {
			return nil, err
		}
		if out = append(out, tree); len(out) > maxDocuments {
			return nil, Problems{{Field: "", Reason: fmt.Sprintf("has more than %d documents", maxDocuments)}}
		}
	}
}

// yamlObject turns what YAML decoded into what JSON would have: string keys, JSON numbers, no timestamps.
func yamlObject(v any) (map[string]any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, Problems{{Field: "", Reason: "cannot be written as JSON: keys must be strings and numbers finite"}}
	}
	if len(b) > MaxObject+64<<10 {
		return nil, tooLarge(len(b))
	}
	return parseJSON(b)
}

// keepDates makes strings of what looks like a date: JSON has none, and a label of 2024-01-01 must stay as it was written.
func keepDates(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!timestamp" {
		n.Tag = "!!str"
	}
	for _, c := range n.Content {
		keepDates(c)
	}
}

func depth(n *yaml.Node, at int) int {
	if at > maxDepth {
		return at
	}
	deepest := at
	for _, c := range n.Content {
		deepest = max(deepest, depth(c, at+1))
	}
	return deepest
}

func nested(v any, at int) int {
	if at > maxDepth {
		return at
	}
	deepest := at
	switch v := v.(type) {
	case map[string]any:
		for _, e := range v {
			deepest = max(deepest, nested(e, at+1))
		}
	case []any:
		for _, e := range v {
			deepest = max(deepest, nested(e, at+1))
		}
	}
	return deepest
}

func asObject(v any) (map[string]any, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, Problems{{Field: "", Reason: "must be an object with type, name and spec"}}
	}
	return m, nil
}
