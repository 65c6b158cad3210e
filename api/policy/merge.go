package policy

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/api/resource"
)

// A Sourced is one configuration and the policy entry it comes from.
type Sourced struct {
	Policy resource.KRI // zero for the base configuration
	Index  int          // of the entry in to or rules
	Rule   bool         // it stands in rules
	Home   Home         // where backends without a namespace or zone are
	Conf   map[string]any
}

// An Origin says which policy entry decided one field.
type Origin struct {
	Field  string // dotted path, empty for the whole
	Policy resource.KRI
	Index  int
}

// Merged is a configuration with the origin of each field.
type Merged struct {
	Conf    map[string]any
	Origins []Origin
}

// Effective is a merged configuration in canonical form: equal configurations are equal strings.
type Effective struct {
	Conf    string // JSON with sorted keys; empty when nothing applies
	Origins []Origin
}

// Equal compares configuration and origins.
func (e Effective) Equal(o Effective) bool {
	return e.Conf == o.Conf && slices.Equal(e.Origins, o.Origins)
}

// Policies lists the policies that contributed to any of the fields (none: all), without repetition.
func (e Effective) Policies(fields ...string) []resource.KRI {
	var out []resource.KRI
	for _, o := range e.Origins {
		if !o.Policy.IsZero() && !slices.Contains(out, o.Policy) && within(o.Field, fields) {
			out = append(out, o.Policy)
		}
	}
	return out
}

func within(field string, fields []string) bool {
	return len(fields) == 0 || field == "" || slices.ContainsFunc(fields, func(f string) bool {
		return f == field || strings.HasPrefix(field, f+".") || strings.HasPrefix(f, field+".")
	})
}

func (m Merged) effective() Effective {
	b, err := json.Marshal(m.Conf)
	if err != nil || m.Conf == nil {
		return Effective{}
	}
	slices.SortStableFunc(m.Origins, func(a, b Origin) int { return strings.Compare(a.Field, b.Field) })
	return Effective{Conf: string(b), Origins: m.Origins}
}

// MergeFields overlays configurations field by field, the later over the earlier, as JSON merge patch does:
// scalars and lists are replaced, objects merge, null removes. Lists named append* are concatenated instead.
func MergeFields(in []Sourced) Merged {
	m := merger{origin: map[string]Origin{}}
	out := map[string]any{}
	for _, s := range in {
		m.overlay(out, s.Conf, "", s)
	}
	res := Merged{Conf: out}
	for _, f := range slices.Sorted(maps.Keys(m.origin)) {
		res.Origins = append(res.Origins, m.origin[f])
	}
	return res
}

type merger struct{ origin map[string]Origin }

func (m *merger) overlay(dst, src map[string]any, at string, s Sourced) {
	for k, v := range src {
		path := k
		if at != "" {
			path = at + "." + k
		}
		switch v := v.(type) {
		case nil:
			delete(dst, k)
			m.forget(path)
		case map[string]any:
			child, ok := dst[k].(map[string]any)
			if !ok {
				child = map[string]any{}
				m.forget(path)
			}
			merged := maps.Clone(child)
			m.overlay(merged, v, path, s)
			dst[k] = merged
			if len(merged) == 0 && (!ok || len(child) > 0) {
				m.origin[path] = Origin{path, s.Policy, s.Index} // it is there, or became empty, because of this one
			}
		case []any:
			if old, ok := dst[k].([]any); ok && strings.HasPrefix(k, "append") {
				v = slices.Concat(old, v)
			}
			dst[k] = v
			m.forget(path)
			m.origin[path] = Origin{path, s.Policy, s.Index}
		default:
			dst[k] = v
			m.forget(path)
			m.origin[path] = Origin{path, s.Policy, s.Index}
		}
	}
}

// forget drops the origins of a field and all below it.
func (m *merger) forget(path string) {
	for f := range m.origin {
		if f == path || strings.HasPrefix(f, path+".") {
			delete(m.origin, f)
		}
	}
}

// Project keeps only the given dotted fields of a configuration in canonical form; no fields means all of it.
// The result is empty when none of them is set.
func Project(conf string, fields []string) string {
	if conf == "" || len(fields) == 0 {
		return conf
	}
	var in map[string]any
	if json.Unmarshal([]byte(conf), &in) != nil {
		return conf
	}
	out := map[string]any{}
	for _, f := range fields {
		copyField(out, in, strings.Split(f, "."))
	}
	if len(out) == 0 {
		return ""
	}
	b, err := json.Marshal(out)
	if err != nil {
		return conf
	}
	return string(b)
}

func copyField(dst, src map[string]any, path []string) {
	v, ok := src[path[0]]
	if !ok {
		return
	}
	if len(path) == 1 {
		dst[path[0]] = v
		return
	}
	child, ok := v.(map[string]any)
	if !ok {
		return
	}
	into, ok := dst[path[0]].(map[string]any)
	if !ok {
		into = map[string]any{}
	}
	copyField(into, child, path[1:])
	if len(into) > 0 {
		dst[path[0]] = into
	}
}

// tree is a value as plain JSON.
func tree(v any) map[string]any {
	b, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	var t map[string]any
	if json.Unmarshal(b, &t) != nil {
		return nil
	}
	return t
}
