package proxypatch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"sigs.k8s.io/yaml"
)

// maxValue bounds one value; all of a policy is bounded by what a resource may weigh.
const maxValue = 256 << 10

// maxDepth bounds how deep messages nest, so that no text makes us recurse without end.
const maxDepth = 64

// read decodes a message from YAML or JSON, with the names of its fields as in either.
func read(text string, into proto.Message) error {
	if len(text) > maxValue {
		return fmt.Errorf("must have at most %d bytes", maxValue)
	}
	j, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		return fmt.Errorf("is not YAML: %w", err)
	}
	tree, err := decode(j)
	if err != nil {
		return err
	}
	if _, ok := tree.(map[string]any); !ok {
		return errors.New("must be an object")
	}
	return readTree(tree, into)
}

// decode reads JSON with numbers as they are written.
func decode(j []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(j))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		return nil, fmt.Errorf("is not JSON: %w", err)
	}
	return tree, nil
}

func readTree(tree any, into proto.Message) error {
	if err := known(tree, into.ProtoReflect().Descriptor(), "", 0); err != nil {
		return err
	}
	j, err := json.Marshal(tree)
	if err != nil {
		return err
	}
	if err := protojson.Unmarshal(j, into); err != nil {
		return errors.New(clean(err.Error()))
	}
	return nil
}

var position = regexp.MustCompile(`^proto:[\s\x{00a0}]*(\(line \d+:\d+\):\s*)?`)

// clean takes away what says where in our own rendering something is wrong.
func clean(text string) string { return position.ReplaceAllString(text, "") }

// known names the first field that a message does not have, by its path.
func known(tree any, md protoreflect.MessageDescriptor, at string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s nests too deep", at)
	}
	object, ok := tree.(map[string]any)
	if !ok || opaque(md) {
		return nil // protojson says what is wrong with it
	}
	if isAny(md) {
		return knownAny(object, at, depth)
	}
	for _, key := range sortedKeys(object) {
		f := fieldNamed(md, key)
		if f == nil {
			return fmt.Errorf("%s is not a field of %s%s", join(at, key), md.FullName(), similar(md, key))
		}
		if err := knownField(object[key], f, join(at, key), depth); err != nil {
			return err
		}
	}
	return nil
}

func knownField(v any, f protoreflect.FieldDescriptor, at string, depth int) error {
	if f.IsMap() {
		if f = f.MapValue(); f.Message() == nil {
			return nil
		}
		entries, _ := v.(map[string]any)
		for _, k := range sortedKeys(entries) {
			if err := known(entries[k], f.Message(), join(at, k), depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	if f.Message() == nil {
		return nil
	}
	if f.IsList() {
		list, _ := v.([]any)
		for i, e := range list {
			if err := known(e, f.Message(), fmt.Sprintf("%s[%d]", at, i), depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	return known(v, f.Message(), at, depth+1)
}

func knownAny(object map[string]any, at string, depth int) error {
	if len(object) == 0 {
		return nil
	}
	md, err := typeOf(object)
	if err != nil {
		return fmt.Errorf("%s %w", join(at, "@type"), err)
	}
	if opaque(md) {
		return nil
	}
	rest := make(map[string]any, len(object))
	for k, v := range object {
		if k != "@type" {
			rest[k] = v
		}
	}
	return known(rest, md, at, depth+1)
}

// typeOf finds the message that is packed in an Any.
func typeOf(object map[string]any) (protoreflect.MessageDescriptor, error) {
	url, ok := object["@type"].(string)
	if !ok || url == "" {
		return nil, errors.New("must be set, because messages of several types can stand here")
	}
	mt, err := protoregistry.GlobalTypes.FindMessageByURL(url)
	if err != nil {
		return nil, fmt.Errorf("%q is not a message that Envoy knows", url)
	}
	return mt.Descriptor(), nil
}

// opaque messages have a form of their own in JSON.
func opaque(md protoreflect.MessageDescriptor) bool {
	return md.ParentFile().Package() == "google.protobuf" && !isAny(md)
}

func isAny(md protoreflect.MessageDescriptor) bool { return md.FullName() == "google.protobuf.Any" }

// fieldNamed finds a field by its name in JSON or in the protobuf.
func fieldNamed(md protoreflect.MessageDescriptor, key string) protoreflect.FieldDescriptor {
	if f := md.Fields().ByJSONName(key); f != nil {
		return f
	}
	return md.Fields().ByTextName(key)
}

// similar suggests a field that differs in case only.
func similar(md protoreflect.MessageDescriptor, key string) string {
	plain := func(s string) string { return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s)) }
	for i := range md.Fields().Len() {
		if name := md.Fields().Get(i).JSONName(); plain(name) == plain(key) {
			return "; did you mean " + name + "?"
		}
	}
	return ""
}

func join(at, key string) string {
	if at == "" {
		return key
	}
	return at + "." + key
}

func sortedKeys(m map[string]any) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
