package policy

import (
	"regexp"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/causeway-mesh/causeway/api/resource"
)

// Further ways to compare, beside Exact and Prefix.
const (
	MatchRegex   = "RegularExpression"
	MatchPresent = "Present"
	MatchAbsent  = "Absent"
)

// HeaderMatchTypes are the ways to compare a header.
var HeaderMatchTypes = []string{MatchExact, MatchPresent, MatchRegex, MatchAbsent, MatchPrefix}

// A HeaderMatch compares one HTTP header.
type HeaderMatch struct {
	// Type is Exact, Present, RegularExpression (of the whole value), Absent or Prefix. Default Exact.
	Type string `json:"type,omitempty"`
	// Name of the header in lower case, at most 256 characters. Required.
	Name string `json:"name"`
	// Value to compare with; not with Present and Absent.
	Value string `json:"value,omitempty"`
}

// TypeOrExact is the type with its default.
func (h HeaderMatch) TypeOrExact() string {
	if h.Type == "" {
		return MatchExact
	}
	return h.Type
}

// Check reports what is wrong with the match.
func (h HeaderMatch) Check(at resource.Path) resource.Problems {
	ps := CheckHeaderName(at.Field("name"), h.Name)
	if h.Name != strings.ToLower(h.Name) {
		ps.Add(at.Field("name"), "must be in lower case, because that is how headers are compared")
	}
	value := at.Field("value")
	switch h.TypeOrExact() {
	case MatchPresent, MatchAbsent:
		if h.Value != "" {
			ps.Add(value, "must not be set with type %s", h.Type)
		}
	case MatchRegex:
		ps.Append(CheckRegex(value, h.Value))
	case MatchExact, MatchPrefix:
		if h.Value == "" {
			ps.Add(value, "must be set with type %s", h.TypeOrExact())
		}
		ps.Append(CheckHeaderValue(value, h.Value))
	default:
		ps.Add(at.Field("type"), "must be one of %s, not %s", strings.Join(HeaderMatchTypes, ", "), resource.Quote(h.Type))
	}
	return ps
}

// Proto is the match as Envoy wants it.
func (h HeaderMatch) Proto() *routev3.HeaderMatcher {
	m := &routev3.HeaderMatcher{Name: h.Name}
	value := func(s *matcherv3.StringMatcher) {
		m.HeaderMatchSpecifier = &routev3.HeaderMatcher_StringMatch{StringMatch: s}
	}
	switch h.TypeOrExact() {
	case MatchPresent:
		m.HeaderMatchSpecifier = &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}
	case MatchAbsent:
		m.HeaderMatchSpecifier = &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}
		m.InvertMatch = true
	case MatchRegex:
		value(Regex(h.Value))
	case MatchPrefix:
		value(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: h.Value}})
	default:
		value(Exactly(h.Value))
	}
	return m
}

// Exactly is Envoy's matcher of one string.
func Exactly(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
}

// Regex is Envoy's matcher of a regular expression, which must match the whole string.
func Regex(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: s}}}
}

// A HeaderValue is a header and its value.
type HeaderValue struct {
	// Name of the header. Required.
	Name string `json:"name"`
	// Value of the header, taken literally.
	Value string `json:"value"`
}

// maxHeaders is how many headers one list may hold.
const maxHeaders = 16

// Headers are headers that a policy gives to requests or responses: each name once, at most 16 in a list.
type Headers struct {
	// Set replaces headers, or adds those that are missing. Values are taken literally.
	Set []HeaderValue `json:"set,omitempty"`
	// Add adds values to headers. Values are taken literally.
	Add []HeaderValue `json:"add,omitempty"`
}

// Check reports what is wrong with the headers. Names are noted in seen, for lists beside these.
func (h Headers) Check(at resource.Path, seen map[string]bool) resource.Problems {
	var ps resource.Problems
	for _, list := range []struct {
		name    string
		entries []HeaderValue
	}{{"set", h.Set}, {"add", h.Add}} {
		at := at.Field(list.name)
		if len(list.entries) > maxHeaders {
			ps.Add(at, "has %d entries, at most %d are allowed", len(list.entries), maxHeaders)
		}
		for i, e := range list.entries {
			ps.Append(CheckHeaderOnce(at.Index(i).Field("name"), e.Name, seen))
			ps.Append(CheckHeaderValue(at.Index(i).Field("value"), e.Value))
		}
	}
	return ps
}

// CheckHeaderOnce reports what is wrong with the name of a header, and when it was seen before.
func CheckHeaderOnce(at resource.Path, name string, seen map[string]bool) resource.Problems {
	ps := CheckHeaderName(at, name)
	name = strings.ToLower(name)
	if seen[name] {
		ps.Add(at, "%s is given twice", resource.Quote(name))
	}
	seen[name] = true
	return ps
}

// Options are the headers as Envoy wants them.
func (h Headers) Options() []*corev3.HeaderValueOption {
	var out []*corev3.HeaderValueOption
	option := func(h HeaderValue, action corev3.HeaderValueOption_HeaderAppendAction) {
		out = append(out, &corev3.HeaderValueOption{
			// Envoy would take a percent sign for the beginning of a variable.
			Header:       &corev3.HeaderValue{Key: h.Name, Value: strings.ReplaceAll(h.Value, "%", "%%")},
			AppendAction: action,
		})
	}
	for _, v := range h.Set {
		option(v, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)
	}
	for _, v := range h.Add {
		option(v, corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD)
	}
	return out
}

// CheckHeaderName reports why name cannot be the name of an HTTP header.
func CheckHeaderName(at resource.Path, name string) resource.Problems {
	var ps resource.Problems
	switch {
	case name == "":
		ps.Add(at, "must be set")
	case len(name) > 256:
		ps.Add(at, "is %d characters, at most 256 are allowed", len(name))
	case strings.ContainsFunc(name, notTokenRune):
		ps.Add(at, "%s is not the name of a header", resource.Quote(name))
	}
	return ps
}

// notTokenRune finds what RFC 9110 does not allow in a header name.
func notTokenRune(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}

// CheckHeaderValue reports why v cannot be the value of an HTTP header.
func CheckHeaderValue(at resource.Path, v string) resource.Problems {
	var ps resource.Problems
	if len(v) > 4096 {
		ps.Add(at, "is %d characters, at most 4096 are allowed", len(v))
	}
	if slices.ContainsFunc([]byte(v), func(b byte) bool { return b < ' ' && b != '\t' || b == 0x7f }) {
		ps.Add(at, "must not hold control characters")
	}
	return ps
}

// CheckRegex reports why Envoy would not take a regular expression (RE2 syntax).
func CheckRegex(at resource.Path, s string) resource.Problems {
	var ps resource.Problems
	switch _, err := regexp.Compile(s); {
	case s == "":
		ps.Add(at, "must be set")
	case len(s) > 1024:
		ps.Add(at, "is %d characters, at most 1024 are allowed", len(s))
	case err != nil:
		ps.Add(at, "%s is not a regular expression in RE2 syntax", resource.Quote(s))
	}
	return ps
}
