package settings

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/api/resource"
)

// set writes the text form of a value, as the environment and flags give it.
// Lists are separated by commas, maps are key=value pairs separated by commas.
func set(v reflect.Value, text string) error {
	switch kindOf(v.Type()) {
	case kindList:
		return setList(v, split(text))
	case kindMap:
		m := map[string]string{}
		for _, pair := range split(text) {
			k, val, ok := strings.Cut(pair, "=")
			if !ok {
				return fmt.Errorf("must be key=value pairs separated by commas, not %s", resource.Quote(pair))
			}
			m[k] = val
		}
		return setMap(v, m)
	}
	return setScalar(v, text)
}

func split(text string) []string {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	parts := strings.Split(text, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}

func setScalar(v reflect.Value, text string) error {
	if v.Type() == durationType {
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("must be a duration such as 500ms, 10s or 1h30m, not %s", resource.Quote(text))
		}
		v.SetInt(int64(d))
		return nil
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		switch text {
		case "true", "false":
			v.SetBool(text == "true")
		default:
			return fmt.Errorf("must be true or false, not %s", resource.Quote(text))
		}
	case reflect.Float32, reflect.Float64:
		f, err := strconv.ParseFloat(text, v.Type().Bits())
		if err != nil {
			return numberError("a number", text, err)
		}
		v.SetFloat(f)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(text, 10, v.Type().Bits())
		if err != nil {
			return numberError("a whole number that is not negative", text, err)
		}
		v.SetUint(n)
	default:
		n, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil {
			return numberError("a whole number", text, err)
		}
		v.SetInt(n)
	}
	return nil
}

func numberError(want, text string, err error) error {
	if errors.Is(err, strconv.ErrRange) {
		return fmt.Errorf("%s is out of range", resource.Quote(text))
	}
	return fmt.Errorf("must be %s, not %s", want, resource.Quote(text))
}

func setList(v reflect.Value, texts []string) error {
	list := reflect.MakeSlice(v.Type(), len(texts), len(texts))
	for i, t := range texts {
		if err := setScalar(list.Index(i), t); err != nil {
			return fmt.Errorf("element %d %w", i+1, err)
		}
	}
	v.Set(list)
	return nil
}

func setMap(v reflect.Value, texts map[string]string) error {
	m := reflect.MakeMapWithSize(v.Type(), len(texts))
	for k, t := range texts {
		m.SetMapIndex(reflect.ValueOf(k).Convert(v.Type().Key()), reflect.ValueOf(t).Convert(v.Type().Elem()))
	}
	v.Set(m)
	return nil
}

// format renders a value in the form that set accepts.
func format(v reflect.Value) string {
	switch kindOf(v.Type()) {
	case kindList:
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = format(v.Index(i))
		}
		return strings.Join(parts, ",")
	case kindMap:
		m := map[string]string{}
		for _, k := range v.MapKeys() {
			m[k.String()] = v.MapIndex(k).String()
		}
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(m)) {
			parts = append(parts, k+"="+m[k])
		}
		return strings.Join(parts, ",")
	}
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		if b, err := m.MarshalText(); err == nil {
			return string(b)
		}
	}
	return fmt.Sprint(v.Interface())
}
