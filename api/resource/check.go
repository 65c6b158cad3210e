package resource

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// checker compares a JSON tree with a Go type, so that every mismatch is reported with its full path,
// which encoding/json does not do.
type checker struct {
	problems Problems
	unknown  []Problem
}

// Nobody reads more, and looking for the nearest name of each takes time that a sender of nonsense must not get.
const (
	maxProblems = 50
	maxUnknown  = 50
)

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

func (c *checker) check(at Path, t reflect.Type, v any) {
	if len(c.problems) >= maxProblems {
		return
	}
	if v == nil {
		return
	}
	if t.Kind() == reflect.Pointer {
		c.check(at, t.Elem(), v)
		return
	}
	if reflect.PointerTo(t).Implements(unmarshaler) {
		c.checkLeaf(at, t, v)
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		c.checkStruct(at, t, v)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			c.checkLeaf(at, t, v)
			return
		}
		list, ok := v.([]any)
		if !ok {
			c.problems.Add(at, "must be a list")
			return
		}
		for i, e := range list {
			c.check(at.Index(i), t.Elem(), e)
		}
	case reflect.Map:
		m, ok := v.(map[string]any)
		if !ok {
			c.problems.Add(at, "must be an object")
			return
		}
		for _, k := range slices.Sorted(maps.Keys(m)) {
			c.check(at.Key(k), t.Elem(), m[k])
		}
	case reflect.Interface:
	default:
		c.checkLeaf(at, t, v)
	}
}

func (c *checker) checkStruct(at Path, t reflect.Type, v any) {
	m, ok := v.(map[string]any)
	if !ok {
		c.problems.Add(at, "must be an object")
		return
	}
	fields := map[string]reflect.Type{}
	collectFields(t, fields)
	for _, k := range slices.Sorted(maps.Keys(m)) {
		ft, ok := fields[k]
		if !ok {
			if len(c.unknown) < maxUnknown {
				c.unknown = append(c.unknown, unknownField(at, k, slices.Sorted(maps.Keys(fields))))
			}
			continue
		}
		c.check(at.Field(k), ft, m[k])
	}
}

func collectFields(t reflect.Type, into map[string]reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		name, _, _ := strings.Cut(tag, ",")
		if f.Anonymous && name == "" {
			ft := f.Type
			if ft.Kind() == reflect.Pointer {
				ft = ft.Elem()
			}
			collectFields(ft, into)
			continue
		}
		if !f.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		into[name] = f.Type
	}
}

func (c *checker) checkLeaf(at Path, t reflect.Type, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		c.problems.Add(at, "is not valid: %s", err)
		return
	}
	err = json.Unmarshal(b, reflect.New(t).Interface())
	if err == nil {
		return
	}
	if reflect.PointerTo(t).Implements(unmarshaler) {
		c.problems.Add(at, "%s", err)
		return
	}
	c.problems.Add(at, "must be %s, not %s", describe(t), clip(string(b)))
}

func describe(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number that is not negative"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice:
		return "a base64 string"
	default:
		return "a " + t.Kind().String()
	}
}

func unknownField(at Path, key string, known []string) Problem {
	reason := "unknown field"
	if near := Nearest(key, known); near != "" {
		reason = fmt.Sprintf("unknown field, did you mean %q?", near)
	}
	return Problem{Field: string(at.Field(clip(key))), Reason: reason}
}
