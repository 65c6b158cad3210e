package accesslog

import (
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/causeway-mesh/causeway/api/policies/sink"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Bounds of what one configuration may ask for.
const (
	maxBackends   = 16
	maxFields     = 128
	maxBodyDepth  = 8
	maxBodyValues = 256
)

func checkSpec(spec any) resource.Problems {
	s, ok := spec.(*policy.Spec[Conf])
	if !ok {
		return nil
	}
	var ps resource.Problems
	each(s, func(at resource.Path, c Conf) { ps.Append(c.check(at)) })
	return ps
}

func warnSpec(spec any) []string {
	s, ok := spec.(*policy.Spec[Conf])
	if !ok {
		return nil
	}
	var out []string
	each(s, func(at resource.Path, c Conf) {
		if c.Backends == nil {
			return
		}
		for i, b := range *c.Backends {
			if f := b.format(); f != nil && f.Type == FormatPlain && len(f.JSON) > 0 || f != nil && f.Type == FormatJSON && f.Plain != nil {
				out = append(out, fmt.Sprintf("%s: of plain and json only the one that type names is used", at.Field("backends").Index(i)))
			}
		}
	})
	return out
}

// each visits every configuration of the spec.
func each(s *policy.Spec[Conf], visit func(resource.Path, Conf)) {
	at := resource.Path("spec")
	for i, t := range s.To {
		visit(at.Field("to").Index(i).Field("default"), t.Default)
	}
	for i, r := range s.Rules {
		visit(at.Field("rules").Index(i).Field("default"), r.Default)
	}
}

func (c Conf) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	at = at.Field("backends")
	if c.Backends == nil {
		ps.Add(at, "must be set; an empty list turns logs off")
		return ps
	}
	if len(*c.Backends) > maxBackends {
		ps.Add(at, "has %d entries, at most %d are allowed", len(*c.Backends), maxBackends)
	}
	for i, b := range *c.Backends {
		ps.Append(b.check(at.Index(i)))
	}
	return ps
}

func (b Backend) format() *Format {
	switch {
	case b.Type == TypeFile && b.File != nil:
		return b.File.Format
	case b.Type == TypeTCP && b.TCP != nil:
		return b.TCP.Format
	}
	return nil
}

func (b Backend) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	for _, f := range []struct {
		typ, field string
		set        bool
	}{{TypeFile, "file", b.File != nil}, {TypeTCP, "tcp", b.TCP != nil}, {TypeOTel, "openTelemetry", b.OpenTelemetry != nil}} {
		if f.typ == b.Type && !f.set {
			ps.Add(at.Field(f.field), "must be set with type %s", b.Type)
		}
		if f.typ != b.Type && f.set {
			ps.Add(at.Field(f.field), "must not be set with type %s", resource.Quote(b.Type))
		}
	}
	if len(ps) > 0 && slices.Contains([]string{TypeFile, TypeTCP, TypeOTel}, b.Type) {
		return ps
	}
	switch b.Type {
	case TypeFile:
		at = at.Field("file")
		if p := b.File.Path; !path.IsAbs(p) || path.Clean(p) != p || strings.ContainsFunc(p, func(r rune) bool { return r < ' ' }) || len(p) > 4096 || p == "/" {
			ps.Add(at.Field("path"), "must be the absolute path of a file, not %s", resource.Quote(p))
		}
		ps.Append(b.File.Format.check(at.Field("format")))
	case TypeTCP:
		at = at.Field("tcp")
		if reason := addressProblem(b.TCP.Address); reason != "" {
			ps.Add(at.Field("address"), "%s", reason)
		}
		ps.Append(b.TCP.Format.check(at.Field("format")))
	case TypeOTel:
		ps.Append(b.OpenTelemetry.check(at.Field("openTelemetry")))
	default:
		ps.Add(at.Field("type"), "must be %s, %s or %s, not %s", TypeFile, TypeTCP, TypeOTel, resource.Quote(b.Type))
	}
	return ps
}

// addressProblem says why an address is not host:port, empty when it is.
func addressProblem(s string) string {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "must be host:port, not " + resource.Quote(s)
	}
	if n, err := strconv.ParseUint(s[i+1:], 10, 16); err != nil || n == 0 {
		return "must end in a port from 1 to 65535, not " + resource.Quote(s[i+1:])
	}
	host, v6 := strings.CutPrefix(s[:i], "[")
	if v6 {
		host, v6 = strings.CutSuffix(host, "]")
	}
	if !sink.IsHost(host) || v6 != strings.Contains(host, ":") {
		return resource.Quote(s[:i]) + " is neither an IP address nor a DNS name"
	}
	return ""
}

func (f *Format) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	switch {
	case f == nil:
	case f.Type == FormatPlain && (f.Plain == nil || *f.Plain == ""):
		ps.Add(at.Field("plain"), "must be set with type %s", f.Type)
	case f.Type == FormatPlain:
		checkFormat(&ps, at.Field("plain"), *f.Plain)
	case f.Type == FormatJSON:
		ps.Append(checkFields(at.Field("json"), f.JSON))
	default:
		ps.Add(at.Field("type"), "must be %s or %s, not %s", FormatPlain, FormatJSON, resource.Quote(f.Type))
	}
	return ps
}

func checkFields(at resource.Path, fields []Field) resource.Problems {
	var ps resource.Problems
	if len(fields) == 0 {
		ps.Add(at, "must have at least one entry with type %s", FormatJSON)
	}
	if len(fields) > maxFields {
		ps.Add(at, "has %d entries, at most %d are allowed", len(fields), maxFields)
	}
	seen := map[string]bool{}
	for i, f := range fields {
		at := at.Index(i)
		if f.Key == "" {
			ps.Add(at.Field("key"), "must be set")
		}
		if seen[f.Key] {
			ps.Add(at.Field("key"), "%s is given twice", resource.Quote(f.Key))
		}
		seen[f.Key] = true
		if f.Value == "" {
			ps.Add(at.Field("value"), "must be set")
		}
		checkFormat(&ps, at.Field("value"), f.Value)
	}
	return ps
}

// attributeKey is how OpenTelemetry names attributes.
var attributeKey = regexp.MustCompile(`^[a-z]([a-z0-9]|[._][a-z0-9])*$`)

func (o *OpenTelemetry) check(at resource.Path) resource.Problems {
	ps := o.BackendRef.Check(at.Field("backendRef"))
	if len(o.Attributes) > maxFields {
		ps.Add(at.Field("attributes"), "has %d entries, at most %d are allowed", len(o.Attributes), maxFields)
	}
	seen := map[string]bool{}
	for i, a := range o.Attributes {
		at := at.Field("attributes").Index(i)
		if !attributeKey.MatchString(a.Key) || len(a.Key) > 255 {
			ps.Add(at.Field("key"), "%s is no attribute name: lower-case letters and digits, with single dots or underscores between", resource.Quote(a.Key))
		}
		if seen[a.Key] {
			ps.Add(at.Field("key"), "%s is given twice", resource.Quote(a.Key))
		}
		seen[a.Key] = true
		checkFormat(&ps, at.Field("value"), a.Value)
	}
	ps.Append(checkBody(at.Field("body"), o.Body))
	return ps
}

func checkBody(at resource.Path, body json.RawMessage) resource.Problems {
	var ps resource.Problems
	if len(body) == 0 {
		return ps
	}
	v, err := parseBody(body)
	if err != nil {
		ps.Add(at, "%s", err)
		return ps
	}
	v.each(func(text string) { checkFormat(&ps, at, text) })
	return ps
}

// checkFormat reports what Envoy would not take.
func checkFormat(ps *resource.Problems, at resource.Path, format string) {
	parts, err := split(format)
	if err != nil {
		ps.Add(at, "%s", err)
		return
	}
	for _, p := range parts {
		if p.name == "" {
			continue
		}
		form, known := operators[p.name]
		switch {
		case slices.Contains(ours, p.name) && p.text == "%"+p.name+"%":
		case slices.Contains(ours, p.name):
			ps.Add(at, "%s takes no arguments", resource.Quote(p.name))
		case !known:
			ps.Add(at, "has the placeholder %s, which does not exist", resource.Quote(p.name))
		case p.arg && form == plain:
			ps.Add(at, "%s takes no arguments", resource.Quote(p.name))
		case p.cut && !canBeCut(p.name):
			ps.Add(at, "%s takes no length", resource.Quote(p.name))
		case !p.arg && form == withArguments:
			ps.Add(at, "%s needs arguments, such as %%%s(...)%%", resource.Quote(p.name), p.name)
		}
	}
}
