package accesslog

import (
	"encoding/json"
	"errors"
	"fmt"

	otlpv1 "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/causeway-mesh/causeway/api/proxy"
)

// A value is what a record says: text or what OTLP has beside it.
type value struct{ any *otlpv1.AnyValue }

// parseBody reads a body: text, or a value in the JSON of OTLP.
func parseBody(raw json.RawMessage) (value, error) {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return textValue(text), nil
	}
	v := &otlpv1.AnyValue{}
	if err := protojson.Unmarshal(raw, v); err != nil || v.Value == nil {
		return value{}, errors.New(`must be text, or a value of OTLP such as {"stringValue": "text"} or {"kvlistValue": {"values": [{"key": "name", "value": {"stringValue": "text"}}]}}`)
	}
	left := maxBodyValues
	if err := bounded(v, maxBodyDepth, &left); err != nil {
		return value{}, err
	}
	return value{v}, nil
}

func textValue(s string) value {
	return value{&otlpv1.AnyValue{Value: &otlpv1.AnyValue_StringValue{StringValue: s}}}
}

// bounded refuses what is too deep or too large, and what Envoy does not write.
func bounded(v *otlpv1.AnyValue, depth int, left *int) error {
	if *left--; depth == 0 || *left < 0 {
		return fmt.Errorf("is too large: at most %d values, %d levels deep, are allowed", maxBodyValues, maxBodyDepth)
	}
	switch x := v.GetValue().(type) {
	case *otlpv1.AnyValue_StringValue:
	case *otlpv1.AnyValue_KvlistValue:
		for _, kv := range x.KvlistValue.GetValues() {
			if err := bounded(kv.GetValue(), depth-1, left); err != nil {
				return err
			}
		}
	case *otlpv1.AnyValue_ArrayValue:
		for _, e := range x.ArrayValue.GetValues() {
			if err := bounded(e, depth-1, left); err != nil {
				return err
			}
		}
	default:
		return errors.New("may hold stringValue, kvlistValue and arrayValue only; write numbers as text")
	}
	return nil
}

// each visits every text.
func (v value) each(visit func(string)) { v.edit(func(s string) string { visit(s); return s }) }

// edit replaces every text.
func (v value) edit(with func(string) string) {
	switch x := v.any.GetValue().(type) {
	case *otlpv1.AnyValue_StringValue:
		x.StringValue = with(x.StringValue)
	case *otlpv1.AnyValue_KvlistValue:
		for _, kv := range x.KvlistValue.GetValues() {
			value{kv.GetValue()}.edit(with)
		}
	case *otlpv1.AnyValue_ArrayValue:
		for _, e := range x.ArrayValue.GetValues() {
			value{e}.edit(with)
		}
	}
}

// record is a body as Envoy takes it.
func record(raw json.RawMessage, l proxy.Listener) *otlpv1.AnyValue {
	if len(raw) == 0 {
		return textValue(substitute(defaultFormat(l), l)).any
	}
	v, err := parseBody(raw)
	if err != nil {
		return textValue("").any // refused when it was written
	}
	v.edit(func(s string) string { return substitute(s, l) })
	return v.any
}

// line is an entry that the agent makes a line of: text as it is, a list for pieces of text of which "-" is left out, and
// an object for a line of JSON. A piece that is a list itself is never left out.
func line(f *Format, l proxy.Listener) *otlpv1.AnyValue {
	if f == nil {
		return textValue(substitute(defaultFormat(l), l)).any
	}
	if f.Type == FormatPlain {
		return f.piece(*f.Plain, l)
	}
	list := &otlpv1.KeyValueList{}
	for _, field := range f.JSON {
		list.Values = append(list.Values, &otlpv1.KeyValue{Key: field.Key, Value: f.piece(field.Value, l)})
	}
	return &otlpv1.AnyValue{Value: &otlpv1.AnyValue_KvlistValue{KvlistValue: list}}
}

func (f *Format) piece(format string, l proxy.Listener) *otlpv1.AnyValue {
	if !f.OmitEmptyValues {
		return textValue(substitute(format, l)).any
	}
	list := &otlpv1.ArrayValue{}
	for _, p := range parts(format, l) {
		text := textValue(p.text).any
		if p.name == "" && p.text == "-" {
			text = &otlpv1.AnyValue{Value: &otlpv1.AnyValue_ArrayValue{ArrayValue: &otlpv1.ArrayValue{Values: []*otlpv1.AnyValue{text}}}}
		}
		list.Values = append(list.Values, text)
	}
	return &otlpv1.AnyValue{Value: &otlpv1.AnyValue_ArrayValue{ArrayValue: list}}
}
