// Package schema says what values of the API look like: the fields of every kind and of every answer with their meaning, default and
// bounds, read from the Go types and from the comments of their fields. It decides nothing: validation has the last word, and a test
// holds what stands here against it. It knows no HTTP and no command line.
package schema

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
)

//go:generate go run ../../test/comments/generate

// A Form is what a value is in JSON.
type Form string

// The forms. A Number is whole or, as a string, decimal; Any is whatever JSON can hold.
const (
	Object  Form = "object"
	List    Form = "list"
	Map     Form = "map"
	Text    Form = "string"
	Integer Form = "integer"
	Number  Form = "number"
	Float   Form = "float"
	PortRef Form = "port"
	Boolean Form = "boolean"
	Any     Form = "any"
)

// The formats of texts.
const (
	FormatDuration = "duration"
	FormatTime     = "date-time"
	FormatBytes    = "byte"
	FormatCount    = "count"
)

// A Type is the shape of a value. Types that contain each other share their descriptions.
type Type struct {
	Form Form
	// Name of an object that several others may contain, unique among all; empty for others.
	Name   string
	Doc    string
	Fields []Field
	// Elem is what a list or map holds.
	Elem *Type
	// Format narrows a text.
	Format string
	// Values are all that a text may be; empty when there are others.
	Values []string
	// Unsigned integers are not negative.
	Unsigned bool
}

// A Field is one field of an object.
type Field struct {
	Name string
	Type *Type
	// Doc is the whole comment.
	Doc string
	Facts
	// Always says that answers have it, whether or not it was written.
	Always bool
	// Zero is the same as absent: a number or text that is left out when it is zero.
	Zero bool
}

// Field finds a field by name.
func (t *Type) Field(name string) (Field, bool) {
	for _, f := range t.Fields {
		if f.Name == name {
			return f, true
		}
	}
	return Field{}, false
}

// FieldNames lists the fields in the order of the source.
func (t *Type) FieldNames() []string {
	var out []string
	for _, f := range t.Fields {
		out = append(out, f.Name)
	}
	return out
}

// A Reader describes Go types. It describes each once.
type Reader struct {
	comments map[string]string
	types    map[reflect.Type]*Type
}

// NewReader returns a Reader of all types of the API.
func NewReader() *Reader {
	return &Reader{comments: parse(commentsText), types: map[reflect.Type]*Type{}}
}

// ofValue are the types that write and read themselves.
var ofValue = map[reflect.Type]Type{
	reflect.TypeFor[policy.Duration]():  {Form: Text, Format: FormatDuration},
	reflect.TypeFor[mesh.Duration]():    {Form: Text, Format: FormatDuration},
	reflect.TypeFor[policy.Decimal]():   {Form: Number},
	reflect.TypeFor[mesh.PortRef]():     {Form: PortRef},
	reflect.TypeFor[mesh.Count]():       {Form: Text, Format: FormatCount},
	reflect.TypeFor[time.Time]():        {Form: Text, Format: FormatTime},
	reflect.TypeFor[json.RawMessage]():  {Form: Any},
	reflect.TypeFor[mesh.SecretBytes](): {Form: Text, Format: FormatBytes},
	reflect.TypeFor[[]byte]():           {Form: Text, Format: FormatBytes},
}

// Type describes a Go type.
func (r *Reader) Type(t reflect.Type) *Type {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if known, ok := r.types[t]; ok {
		return known
	}
	out := &Type{}
	r.types[t] = out
	if v, ok := ofValue[t]; ok {
		*out = v
		return out
	}
	switch t.Kind() {
	case reflect.Struct:
		*out = Type{Form: Object, Name: nameOf(t), Doc: r.comments[key(t)]}
		r.fields(t, out)
	case reflect.Slice, reflect.Array:
		*out = Type{Form: List, Elem: r.Type(t.Elem())}
	case reflect.Map:
		*out = Type{Form: Map, Elem: r.Type(t.Elem())}
	case reflect.String:
		*out = Type{Form: Text, Values: strings.Fields(r.comments[key(t)+"="])}
	case reflect.Bool:
		*out = Type{Form: Boolean}
	case reflect.Float32, reflect.Float64:
		*out = Type{Form: Float}
	case reflect.Interface:
		*out = Type{Form: Any}
	default:
		*out = Type{Form: Integer, Unsigned: t.Kind() >= reflect.Uint && t.Kind() <= reflect.Uint64}
	}
	return out
}

func (r *Reader) fields(t reflect.Type, into *Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			embedded := f.Type
			if embedded.Kind() == reflect.Pointer {
				embedded = embedded.Elem()
			}
			r.fields(embedded, into)
			continue
		case !f.IsExported() || name == "-":
			continue
		case name == "":
			name = f.Name
		}
		typ := r.Type(f.Type)
		isPointer := f.Type.Kind() == reflect.Pointer
		omitted := strings.Contains(options, "omit")
		doc := r.comments[key(t)+"."+f.Name]
		into.Fields = append(into.Fields, Field{
			Name: name, Type: typ, Doc: doc, Facts: read(doc, typ), Always: !omitted && !isPointer, Zero: omitted && !isPointer,
		})
	}
}

// Unread lists the Go types that write themselves in a way this package does not know. A test wants none.
func (r *Reader) Unread() []string {
	var out []string
	for t := range r.types {
		_, known := ofValue[t]
		writes := t.Implements(reflect.TypeFor[json.Marshaler]()) || t.Implements(reflect.TypeFor[encoding.TextMarshaler]())
		if writes && !known {
			out = append(out, t.String())
		}
	}
	return out
}

// key is where the comments of a type stand. Instances of a generic type share them.
func key(t reflect.Type) string {
	name, _, _ := strings.Cut(t.Name(), "[")
	return strings.TrimPrefix(t.PkgPath(), module) + "." + name
}

const module = "github.com/causeway-mesh/causeway/"

// nameOf calls a type by its package, unless that is the one of plain kinds or of answers. Types without a name of their own,
// and instances of generic types, have none.
func nameOf(t reflect.Type) string {
	name := t.Name()
	if name == "" || strings.Contains(name, "[") {
		return ""
	}
	name = strings.ToUpper(name[:1]) + name[1:]
	pkg := t.PkgPath()[strings.LastIndex(t.PkgPath(), "/")+1:]
	if pkg == "mesh" || strings.HasPrefix(pkg, "rest") {
		return name
	}
	return strings.ToUpper(pkg[:1]) + pkg[1:] + name
}
