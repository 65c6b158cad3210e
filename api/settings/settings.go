// Package settings fills one strict configuration struct from defaults, a YAML file, the environment and flags, in that order.
// It is pure: file content, environment and flag values are passed in, so it starts nothing, exits nothing and reads no global.
//
// A setting is a struct field with a json name and a doc tag; secret:"true" masks it when printed and adds a twin ending in
// "File" that names a file with the value. Structs nest; their path gives the names: store.postgres.dsn is
// CAUSEWAY_STORE_POSTGRES_DSN in the environment and --store-postgres-dsn as a flag. Fields with json:"-" are not settings.
package settings

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode"

	"github.com/causeway-mesh/causeway/api/resource"
)

// EnvPrefix begins the name of every environment variable of Causeway.
const EnvPrefix = "CAUSEWAY_"

// A Field describes one setting for help texts and documentation.
type Field struct {
	Path    string // store.postgres.dsn
	Env     string // CAUSEWAY_STORE_POSTGRES_DSN
	Flag    string // store-postgres-dsn
	Doc     string
	Kind    string // text, true or false, duration, number, list or map
	Default string // masked for secrets
	Secret  bool
}

// Bool says that the setting is true or false, so that a flag may stand without a value.
func (f Field) Bool() bool { return f.Kind == kindBool }

// Fields lists the settings of a struct or a pointer to one, in the order of its fields; its values are the defaults.
// It panics when a field lacks its names or has a type that cannot be set, which any test of the struct finds.
func Fields(defaults any) []Field {
	var out []Field
	for _, s := range collect(reflect.Indirect(reflect.ValueOf(defaults)), "", nil) {
		out = append(out, s.describe())
	}
	return out
}

// setting is one field of the struct being filled.
type setting struct {
	path   string
	doc    string
	secret bool
	value  reflect.Value
	// fileOf is set on the twin of a secret: the value is the name of a file that holds it.
	fileOf bool
}

const (
	kindText     = "text"
	kindBool     = "true or false"
	kindDuration = "duration"
	kindNumber   = "number"
	kindList     = "list"
	kindMap      = "map"
)

var (
	durationType = reflect.TypeFor[time.Duration]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func collect(v reflect.Value, at string, out []setting) []setting {
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
			continue
		case f.Anonymous && name == "":
			out = collect(v.Field(i), at, out)
			continue
		case name == "":
			panic(fmt.Sprintf("settings: %s.%s has no json name", t, f.Name))
		}
		path := string(resource.Path(at).Field(name))
		if f.Type.Kind() == reflect.Struct && !isText(f.Type) {
			out = collect(v.Field(i), path, out)
			continue
		}
		s := setting{path: path, doc: f.Tag.Get("doc"), secret: f.Tag.Get("secret") == "true", value: v.Field(i)}
		if s.doc == "" {
			panic(fmt.Sprintf("settings: %s.%s has no doc", t, f.Name))
		}
		if kindOf(f.Type) == "" {
			panic(fmt.Sprintf("settings: %s.%s has type %s, which cannot be a setting", t, f.Name, f.Type))
		}
		out = append(out, s)
		if s.secret {
			out = append(out, setting{
				path: path + "File", doc: "File that holds " + path + ", so that the value itself stays out of the environment and process list.",
				value: s.value, fileOf: true,
			})
		}
	}
	return out
}

func isText(t reflect.Type) bool { return reflect.PointerTo(t).Implements(textType) }

func kindOf(t reflect.Type) string {
	switch {
	case t == durationType:
		return kindDuration
	case isText(t):
		return kindText
	}
	switch t.Kind() {
	case reflect.String:
		return kindText
	case reflect.Bool:
		return kindBool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64:
		return kindNumber
	case reflect.Slice:
		if k := kindOf(t.Elem()); k != "" && k != kindList && k != kindMap {
			return kindList
		}
	case reflect.Map:
		if t.Key().Kind() == reflect.String && t.Elem().Kind() == reflect.String {
			return kindMap
		}
	}
	return ""
}

func (s setting) describe() Field {
	f := Field{
		Path: s.path, Env: envName(s.path), Flag: flagName(s.path),
		Doc: s.doc, Kind: kindOf(s.value.Type()), Secret: s.secret,
	}
	if s.fileOf {
		f.Kind = kindText
	} else {
		f.Default = s.shown()
	}
	return f
}

// shown renders the current value, a secret as its mask.
func (s setting) shown() string {
	if s.secret && !s.value.IsZero() {
		return Mask
	}
	return format(s.value)
}

// Mask stands for the value of a secret wherever settings are shown.
const Mask = "*****"

// envName turns store.postgres.maxConns into CAUSEWAY_STORE_POSTGRES_MAX_CONNS.
func envName(path string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(flagName(path), "-", "_"))
}

// flagName turns store.postgres.maxConns into store-postgres-max-conns.
func flagName(path string) string {
	var b strings.Builder
	runes := []rune(path)
	for i, r := range runes {
		if r == '.' {
			b.WriteByte('-')
			continue
		}
		// A word begins at an upper-case letter after a lower-case one, and at the last letter of an acronym: dnsPort, xDSPort.
		if unicode.IsUpper(r) && i > 0 && runes[i-1] != '.' {
			next := i+1 < len(runes) && unicode.IsLower(runes[i+1])
			if !unicode.IsUpper(runes[i-1]) || next {
				b.WriteByte('-')
			}
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
