package proxypatch

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// editJSON applies JSON patches to a message, all or none.
//
// It departs from RFC 6902 where JSON of a protobuf differs from JSON that somebody wrote: fields with their default value are not
// there, so replacing one sets it, and objects and lists that a path leads through are made.
func editJSON(m proto.Message, list []JSONPatch) error {
	j, err := protojson.Marshal(m)
	if err != nil {
		return err
	}
	tree, err := decode(j)
	if err != nil {
		return err
	}
	doc := &document{root: tree, md: m.ProtoReflect().Descriptor()}
	for i, p := range list {
		if err := doc.apply(p); err != nil {
			return fmt.Errorf("jsonPatches[%d]: %s %q: %w", i, p.Op, p.Path, err)
		}
	}
	fresh := m.ProtoReflect().New().Interface()
	if err := readTree(doc.root, fresh); err != nil {
		return fmt.Errorf("jsonPatches: %w", err)
	}
	proto.Reset(m)
	proto.Merge(m, fresh)
	return nil
}

// A document is the JSON of a message.
type document struct {
	root any
	md   protoreflect.MessageDescriptor
	size int // of what copies have added
}

// maxCopied bounds what copies add up to: copying the whole into itself doubles it each time.
const maxCopied = 1 << 20

var (
	errMissing = errors.New("there is nothing at this path")
	errRange   = errors.New("there is no such index")
)

func (d *document) apply(p JSONPatch) error {
	path, err := pointer(p.Path)
	if err != nil {
		return err
	}
	switch p.Op {
	case "add", "replace":
		v, err := decode(p.Value)
		if err != nil {
			return fmt.Errorf("value: %w", err)
		}
		return d.put(path, v, p.Op == "add")
	case "remove":
		_, err := d.take(path)
		return err
	case "test":
		want, err := decode(p.Value)
		if err != nil {
			return fmt.Errorf("value: %w", err)
		}
		got, err := d.get(path)
		if err != nil {
			return err
		}
		if !equalJSON(got, want) {
			return fmt.Errorf("it is %s", short(got))
		}
		return nil
	case "move", "copy":
		if p.From == nil {
			return errors.New("from must be set")
		}
		return d.transfer(p.Op, *p.From, path)
	}
	return fmt.Errorf("%q is not an operation", p.Op)
}

func (d *document) transfer(op, from string, to []string) error {
	source, err := pointer(from)
	if err != nil {
		return fmt.Errorf("from: %w", err)
	}
	if op == "move" {
		if len(to) > len(source) && slices.Equal(source, to[:len(source)]) {
			return errors.New("a value cannot be moved into itself")
		}
		v, err := d.take(source)
		if err != nil {
			return fmt.Errorf("from: %w", err)
		}
		return d.put(to, v, true)
	}
	v, err := d.get(source)
	if err != nil {
		return fmt.Errorf("from: %w", err)
	}
	j, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if d.size += len(j); d.size > maxCopied {
		return errors.New("copies add up to too much")
	}
	fresh, err := decode(j)
	if err != nil {
		return err
	}
	return d.put(to, fresh, true)
}

// pointer splits a JSON pointer.
func pointer(s string) ([]string, error) {
	if s == "" {
		return nil, nil
	}
	if !strings.HasPrefix(s, "/") {
		return nil, errors.New("must begin with /")
	}
	parts := strings.Split(s[1:], "/")
	if len(parts) > maxDepth {
		return nil, errors.New("is too long")
	}
	unescape := strings.NewReplacer("~1", "/", "~0", "~")
	for i, p := range parts {
		parts[i] = unescape.Replace(p)
	}
	return parts, nil
}

// A shape is what is known of the JSON at some place; the zero shape is nothing.
type shape struct {
	md    protoreflect.MessageDescriptor // of an object, or of the elements below
	field protoreflect.FieldDescriptor   // a list or map whose elements are below
}

// step finds the key that a path element means, and what is below.
func (s shape) step(at any, element string) (key string, below shape) {
	switch {
	case s.field != nil && s.field.IsMap():
		return element, shape{md: s.field.MapValue().Message()}
	case s.field != nil:
		return element, shape{md: s.field.Message()}
	case s.md == nil || opaque(s.md):
		return element, shape{}
	}
	md := s.md
	if isAny(md) {
		object, _ := at.(map[string]any)
		inner, err := typeOf(object)
		if err != nil || element == "@type" || opaque(inner) {
			return element, shape{}
		}
		md = inner
	}
	f := fieldNamed(md, element)
	if f == nil {
		return element, shape{}
	}
	if f.IsList() || f.IsMap() {
		return f.JSONName(), shape{field: f}
	}
	return f.JSONName(), shape{md: f.Message()}
}

// empty is what stands for a value of the shape that is not there; nil when it cannot be made.
func (s shape) empty() any {
	switch {
	case s.field != nil && s.field.IsList():
		return []any{}
	case s.field != nil, s.md != nil && !opaque(s.md) && !isAny(s.md):
		return map[string]any{}
	}
	return nil
}

// get reads the value at a path.
func (d *document) get(path []string) (any, error) {
	at, s := d.root, shape{md: d.md}
	for _, element := range path {
		key, below := s.step(at, element)
		switch v := at.(type) {
		case map[string]any:
			next, ok := v[key]
			if !ok {
				return nil, errMissing
			}
			at = next
		case []any:
			i, err := index(key, len(v)-1)
			if err != nil {
				return nil, err
			}
			at = v[i]
		default:
			return nil, errMissing
		}
		s = below
	}
	return at, nil
}

// index reads the index of a list, at most top.
func index(s string, top int) (int, error) {
	i, err := strconv.Atoi(s)
	if err != nil || i < 0 || i > top || s != strconv.Itoa(i) {
		return 0, errRange
	}
	return i, nil
}

// put sets the value at a path; into a list it is inserted, or replaces what is there.
func (d *document) put(path []string, v any, insert bool) error {
	root, err := put(d.root, shape{md: d.md}, path, v, insert)
	if err != nil {
		return err
	}
	d.root = root
	return nil
}

func put(at any, s shape, path []string, v any, insert bool) (any, error) {
	if len(path) == 0 {
		return v, nil
	}
	if at == nil {
		if at = s.empty(); at == nil {
			return nil, errMissing
		}
	}
	key, below := s.step(at, path[0])
	last := len(path) == 1
	switch at := at.(type) {
	case map[string]any:
		next, err := put(at[key], below, path[1:], v, insert)
		if err != nil {
			return nil, err
		}
		at[key] = next
		return at, nil
	case []any:
		if last && insert {
			i := len(at)
			if key != "-" {
				var err error
				if i, err = index(key, len(at)); err != nil {
					return nil, err
				}
			}
			return slices.Insert(at, i, v), nil
		}
		i, err := index(key, len(at)-1)
		if err != nil {
			return nil, err
		}
		next, err := put(at[i], below, path[1:], v, insert)
		if err != nil {
			return nil, err
		}
		at[i] = next
		return at, nil
	}
	return nil, errMissing
}

// take removes and returns the value at a path.
func (d *document) take(path []string) (any, error) {
	if len(path) == 0 {
		return nil, errors.New("the whole cannot be removed")
	}
	root, taken, err := take(d.root, shape{md: d.md}, path)
	if err != nil {
		return nil, err
	}
	d.root = root
	return taken, nil
}

func take(at any, s shape, path []string) (rest, taken any, err error) {
	key, below := s.step(at, path[0])
	last := len(path) == 1
	switch at := at.(type) {
	case map[string]any:
		next, ok := at[key]
		if !ok {
			return nil, nil, errMissing
		}
		if last {
			delete(at, key)
			return at, next, nil
		}
		if at[key], taken, err = take(next, below, path[1:]); err != nil {
			return nil, nil, err
		}
		return at, taken, nil
	case []any:
		i, err := index(key, len(at)-1)
		if err != nil {
			return nil, nil, err
		}
		if last {
			taken = at[i]
			return slices.Delete(at, i, i+1), taken, nil
		}
		if at[i], taken, err = take(at[i], below, path[1:]); err != nil {
			return nil, nil, err
		}
		return at, taken, nil
	}
	return nil, nil, errMissing
}

// equalJSON compares values; numbers by value, because 1 and 1.0 are the same number.
func equalJSON(a, b any) bool {
	switch a := a.(type) {
	case json.Number:
		bn, ok := b.(json.Number)
		if !ok {
			return false
		}
		x, errX := a.Float64()
		y, errY := bn.Float64()
		return a == bn || errX == nil && errY == nil && x == y
	case map[string]any:
		bm, ok := b.(map[string]any)
		return ok && maps.EqualFunc(a, bm, equalJSON)
	case []any:
		bl, ok := b.([]any)
		return ok && slices.EqualFunc(a, bl, equalJSON)
	}
	return reflect.DeepEqual(a, b)
}

func short(v any) string {
	j, err := json.Marshal(v)
	if err != nil {
		return "something else"
	}
	if len(j) > 100 {
		return string(j[:100]) + "…"
	}
	return string(j)
}
