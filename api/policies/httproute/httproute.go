// Package httproute is the MeshHTTPRoute policy: where requests to a destination go, by path, method, headers and query,
// and what is changed in them on the way. It routes requests only; connections of other protocols are another policy.
package httproute

import (
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Policy is MeshHTTPRoute.
var Policy = policy.Kind[Routing]{
	Name: "MeshHTTPRoute", Path: "meshhttproutes", Short: "mhttpr", Singular: "Mesh HTTP Route", Plural: "Mesh HTTP Routes",
	ToKinds: []string{policy.TargetService, policy.TargetExternal, policy.TargetMultiZone},
	NewSpec: func() any { return new(Spec) }, CheckSpec: checkSpec, WarnSpec: warnSpec,
	Merge: merge, Hooks: hooks,
}

// Spec is what users write.
type Spec struct {
	// TargetRef selects the proxies whose requests are routed; absent means every proxy of the mesh.
	TargetRef *policy.TargetRef `json:"targetRef,omitempty"`
	// To says which requests go where, per destination. At least one.
	To []To `json:"to,omitempty"`
}

// To routes the requests to the destinations it targets.
type To struct {
	// TargetRef selects the destination. Required.
	TargetRef policy.TargetRef `json:"targetRef"`
	// Hostnames is reserved and must be empty.
	Hostnames []string `json:"hostnames,omitempty"`
	// Rules are tried by the precedence of their matches, not in this order. At least one.
	// Requests that match none go to the destination itself.
	Rules []Rule `json:"rules,omitempty"`
}

// Rule says what happens to the requests that match.
type Rule struct {
	// Matches select requests; one of them suffices. At least one.
	Matches []Match `json:"matches,omitempty"`
	// Default says what happens to these requests.
	Default RuleConf `json:"default"`
}

// Match selects requests; everything that is given must hold. An empty match selects every request.
type Match struct {
	// Path the request has, without the query. Default every path.
	Path *PathMatch `json:"path,omitempty"`
	// Method is CONNECT, DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT or TRACE. Default every method.
	Method string `json:"method,omitempty"`
	// Headers the request has. Of several for one name the first counts.
	Headers []policy.HeaderMatch `json:"headers,omitempty"`
	// QueryParams the request has, each name once.
	QueryParams []QueryParamMatch `json:"queryParams,omitempty"`
}

// PathMatch compares a path.
type PathMatch struct {
	// Type is Exact, PathPrefix (whole elements: /a is the prefix of /a and /a/b, not of /ab) or RegularExpression (of the whole path).
	// Required.
	Type string `json:"type"`
	// Value begins with a slash unless it is a regular expression; a prefix does not end with one, except for "/".
	Value string `json:"value"`
}

// QueryParamMatch compares a parameter of the query.
type QueryParamMatch struct {
	// Type is Exact or RegularExpression (of the whole value). Default Exact.
	Type string `json:"type,omitempty"`
	// Name of the parameter, 1 to 256 characters. Required.
	Name string `json:"name"`
	// Value to compare with, 1 to 1024 characters. Required.
	Value string `json:"value"`
}

// RuleConf says what happens to a request.
type RuleConf struct {
	// Filters change, redirect or copy the request.
	Filters []Filter `json:"filters,omitempty"`
	// BackendRefs are where the request goes, divided by weight; a weight of 0 gets nothing.
	// The share of a backend that does not exist is answered with 500. Default the destination itself.
	BackendRefs []policy.BackendRef `json:"backendRefs,omitempty"`
}

// Filter changes, redirects or copies a request. Only the field of its type is set.
type Filter struct {
	// Type is RequestHeaderModifier, ResponseHeaderModifier, RequestRedirect, URLRewrite or RequestMirror. Required.
	Type string `json:"type"`
	// RequestHeaderModifier changes headers of the request.
	RequestHeaderModifier *HeaderModifier `json:"requestHeaderModifier,omitempty"`
	// ResponseHeaderModifier changes headers of the response.
	ResponseHeaderModifier *HeaderModifier `json:"responseHeaderModifier,omitempty"`
	// RequestRedirect answers with a redirect; backendRefs are then not used.
	RequestRedirect *RequestRedirect `json:"requestRedirect,omitempty"`
	// URLRewrite changes the host or the path before the request is sent on.
	URLRewrite *URLRewrite `json:"urlRewrite,omitempty"`
	// RequestMirror sends a copy elsewhere and ignores its response. May be given several times.
	RequestMirror *RequestMirror `json:"requestMirror,omitempty"`
}

// HeaderModifier changes headers. At least one list, each name once in all of them, at most 16 entries per list.
// The host is changed by URLRewrite, not here.
type HeaderModifier struct {
	policy.Headers
	// Remove removes headers.
	Remove []string `json:"remove,omitempty"`
}

// RequestRedirect answers with a redirect. What is not set stays as in the request.
type RequestRedirect struct {
	// Scheme is http or https.
	Scheme string `json:"scheme,omitempty"`
	// Hostname is a DNS name.
	Hostname string `json:"hostname,omitempty"`
	// Path to redirect to.
	Path *PathRewrite `json:"path,omitempty"`
	// Port from 1 to 65535.
	Port *uint32 `json:"port,omitempty"`
	// StatusCode is 301, 302, 303, 307 or 308. Default 302.
	StatusCode *uint32 `json:"statusCode,omitempty"`
}

// URLRewrite changes the request before it is sent on. At least one field.
type URLRewrite struct {
	// Hostname replaces the host header; a DNS name.
	Hostname string `json:"hostname,omitempty"`
	// Path replaces the path.
	Path *PathRewrite `json:"path,omitempty"`
	// HostToBackendHostname is reserved and must be false.
	HostToBackendHostname bool `json:"hostToBackendHostname,omitempty"`
}

// PathRewrite replaces a path, or the part of it that the rule matched. The query stays.
type PathRewrite struct {
	// Type is ReplaceFullPath or ReplacePrefixMatch. The latter needs matches of type PathPrefix only. Required.
	Type string `json:"type"`
	// ReplaceFullPath is the new path.
	ReplaceFullPath *string `json:"replaceFullPath,omitempty"`
	// ReplacePrefixMatch is what stands in the place of the matched prefix.
	ReplacePrefixMatch *string `json:"replacePrefixMatch,omitempty"`
}

// RequestMirror sends a copy of requests elsewhere.
type RequestMirror struct {
	// Percentage of requests that are copied, 0 to 100, as a whole number or a decimal string. Default 100.
	Percentage *policy.Decimal `json:"percentage,omitempty"`
	// BackendRef is where copies go. If it does not exist, nothing is copied.
	BackendRef policy.BackendRef `json:"backendRef"`
}

// The types of path matches, filters and rewrites.
const (
	PathPrefix = "PathPrefix"

	RequestHeaderModifier  = "RequestHeaderModifier"
	ResponseHeaderModifier = "ResponseHeaderModifier"
	Redirect               = "RequestRedirect"
	Rewrite                = "URLRewrite"
	Mirror                 = "RequestMirror"

	ReplaceFullPath    = "ReplaceFullPath"
	ReplacePrefixMatch = "ReplacePrefixMatch"
)

var (
	methods       = []string{"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"}
	pathTypes     = []string{policy.MatchExact, PathPrefix, policy.MatchRegex}
	filterTypes   = []string{RequestHeaderModifier, ResponseHeaderModifier, Redirect, Rewrite, Mirror}
	redirectCodes = []uint32{301, 302, 303, 307, 308}
)

func checkSpec(spec any) resource.Problems {
	s, ok := spec.(*Spec)
	if !ok {
		return nil
	}
	var ps resource.Problems
	for i, t := range s.To {
		at := resource.Path("spec.to").Index(i)
		if len(t.Hostnames) > 0 {
			ps.Add(at.Field("hostnames"), "must be empty")
		}
		if len(t.Rules) == 0 {
			ps.Add(at.Field("rules"), "must have at least one rule")
		}
		for j, r := range t.Rules {
			ps.Append(r.check(at.Field("rules").Index(j)))
		}
	}
	return ps
}

func (r Rule) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	if len(r.Matches) == 0 {
		ps.Add(at.Field("matches"), `must have at least one match; {path: {type: PathPrefix, value: "/"}} matches everything`)
	}
	prefixes := true
	for i, m := range r.Matches {
		ps.Append(m.check(at.Field("matches").Index(i)))
		prefixes = prefixes && m.pathOrRoot().Type == PathPrefix
	}
	ps.Append(r.Default.check(at.Field("default"), prefixes))
	return ps
}

func (m Match) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	if m.Path != nil {
		ps.Append(m.Path.check(at.Field("path")))
	}
	if m.Method != "" && !slices.Contains(methods, m.Method) {
		ps.Add(at.Field("method"), "must be one of %s, not %s", strings.Join(methods, ", "), resource.Quote(m.Method))
	}
	for i, h := range m.Headers {
		ps.Append(h.Check(at.Field("headers").Index(i)))
	}
	seen := map[string]bool{}
	for i, q := range m.QueryParams {
		at := at.Field("queryParams").Index(i)
		ps.Append(q.check(at))
		if seen[q.Name] {
			ps.Add(at.Field("name"), "%s is given twice", resource.Quote(q.Name))
		}
		seen[q.Name] = true
	}
	return ps
}

func (p PathMatch) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	value := at.Field("value")
	switch p.Type {
	case policy.MatchRegex:
		ps.Append(policy.CheckRegex(value, p.Value))
	case policy.MatchExact, PathPrefix:
		ps.Append(checkPath(value, p.Value))
		if p.Type == PathPrefix && p.Value != "/" && strings.HasSuffix(p.Value, "/") {
			ps.Add(value, "must not end with a slash; /a matches /a, /a/ and everything below")
		}
	default:
		ps.Add(at.Field("type"), "must be one of %s, not %s", strings.Join(pathTypes, ", "), resource.Quote(p.Type))
	}
	return ps
}

func checkPath(at resource.Path, path string) resource.Problems {
	var ps resource.Problems
	switch {
	case !strings.HasPrefix(path, "/"):
		ps.Add(at, "must begin with a slash")
	case strings.ContainsAny(path, "?#"):
		ps.Add(at, "must be a path without query and fragment")
	case len(path) > 1024:
		ps.Add(at, "is %d characters, at most 1024 are allowed", len(path))
	}
	ps.Append(policy.CheckHeaderValue(at, path))
	return ps
}

func (q QueryParamMatch) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	if q.Name == "" || len(q.Name) > 256 {
		ps.Add(at.Field("name"), "must have 1 to 256 characters")
	}
	switch q.Type {
	case "", policy.MatchExact:
		if q.Value == "" || len(q.Value) > 1024 {
			ps.Add(at.Field("value"), "must have 1 to 1024 characters")
		}
	case policy.MatchRegex:
		ps.Append(policy.CheckRegex(at.Field("value"), q.Value))
	default:
		ps.Add(at.Field("type"), "must be Exact or RegularExpression, not %s", resource.Quote(q.Type))
	}
	return ps
}

func (c RuleConf) check(at resource.Path, prefixes bool) resource.Problems {
	var ps resource.Problems
	seen := map[string]bool{}
	for i, f := range c.Filters {
		at := at.Field("filters").Index(i)
		ps.Append(f.check(at, prefixes))
		switch {
		case seen[f.Type] && (f.Type == Redirect || f.Type == Rewrite):
			ps.Add(at.Field("type"), "%s must not be given twice", f.Type)
		case f.Type == Redirect && seen[Rewrite] || f.Type == Rewrite && seen[Redirect]:
			ps.Add(at.Field("type"), "%s and %s must not be combined", Redirect, Rewrite)
		}
		seen[f.Type] = true
	}
	var total uint64
	for i, b := range c.BackendRefs {
		ps.Append(b.Check(at.Field("backendRefs").Index(i)))
		total += uint64(b.WeightOrDefault())
	}
	if total > 1<<32-1 {
		ps.Add(at.Field("backendRefs"), "weights add up to %d, at most %d is allowed", total, uint32(1<<32-1))
	}
	return ps
}

// part is the field that belongs to a type of filter.
type part struct {
	typ, field string
	set        bool
	check      func(resource.Path) resource.Problems
}

func (f Filter) parts(prefixes bool) []part {
	return []part{
		{RequestHeaderModifier, "requestHeaderModifier", f.RequestHeaderModifier != nil, func(at resource.Path) resource.Problems {
			return f.RequestHeaderModifier.check(at)
		}},
		{ResponseHeaderModifier, "responseHeaderModifier", f.ResponseHeaderModifier != nil, func(at resource.Path) resource.Problems {
			return f.ResponseHeaderModifier.check(at)
		}},
		{Redirect, "requestRedirect", f.RequestRedirect != nil, func(at resource.Path) resource.Problems {
			return f.RequestRedirect.check(at, prefixes)
		}},
		{Rewrite, "urlRewrite", f.URLRewrite != nil, func(at resource.Path) resource.Problems {
			return f.URLRewrite.check(at, prefixes)
		}},
		{Mirror, "requestMirror", f.RequestMirror != nil, func(at resource.Path) resource.Problems {
			return f.RequestMirror.check(at)
		}},
	}
}

func (f Filter) check(at resource.Path, prefixes bool) resource.Problems {
	var ps resource.Problems
	if !slices.Contains(filterTypes, f.Type) {
		ps.Add(at.Field("type"), "must be one of %s, not %s", strings.Join(filterTypes, ", "), resource.Quote(f.Type))
		return ps
	}
	for _, p := range f.parts(prefixes) {
		switch {
		case p.typ == f.Type && !p.set:
			ps.Add(at.Field(p.field), "must be set with type %s", f.Type)
		case p.typ == f.Type:
			ps.Append(p.check(at.Field(p.field)))
		case p.set:
			ps.Add(at.Field(p.field), "must not be set with type %s", f.Type)
		}
	}
	return ps
}

func (m HeaderModifier) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	if len(m.Set)+len(m.Add)+len(m.Remove) == 0 {
		ps.Add(at, "must have an entry in set, add or remove")
	}
	seen := map[string]bool{}
	ps.Append(m.Headers.Check(at, seen))
	if len(m.Remove) > 16 {
		ps.Add(at.Field("remove"), "has %d entries, at most 16 are allowed", len(m.Remove))
	}
	for i, n := range m.Remove {
		ps.Append(policy.CheckHeaderOnce(at.Field("remove").Index(i), n, seen))
	}
	host := func(at resource.Path, name string) {
		if strings.EqualFold(name, "host") {
			ps.Add(at, "must not be host; use a filter of type %s", Rewrite)
		}
	}
	for i, h := range m.Set {
		host(at.Field("set").Index(i).Field("name"), h.Name)
	}
	for i, h := range m.Add {
		host(at.Field("add").Index(i).Field("name"), h.Name)
	}
	for i, n := range m.Remove {
		host(at.Field("remove").Index(i), n)
	}
	return ps
}

func (r RequestRedirect) check(at resource.Path, prefixes bool) resource.Problems {
	var ps resource.Problems
	if r == (RequestRedirect{StatusCode: r.StatusCode}) {
		ps.Add(at, "must set scheme, hostname, path or port, or it redirects in a circle")
	}
	if r.Scheme != "" && r.Scheme != "http" && r.Scheme != "https" {
		ps.Add(at.Field("scheme"), "must be http or https, not %s", resource.Quote(r.Scheme))
	}
	ps.Append(checkHostname(at.Field("hostname"), r.Hostname))
	if r.Path != nil {
		ps.Append(r.Path.check(at.Field("path"), prefixes))
	}
	if r.Port != nil && (*r.Port == 0 || *r.Port > 65535) {
		ps.Add(at.Field("port"), "must be between 1 and 65535")
	}
	if r.StatusCode != nil && !slices.Contains(redirectCodes, *r.StatusCode) {
		ps.Add(at.Field("statusCode"), "must be 301, 302, 303, 307 or 308")
	}
	return ps
}

func (r URLRewrite) check(at resource.Path, prefixes bool) resource.Problems {
	var ps resource.Problems
	if r.Hostname == "" && r.Path == nil {
		ps.Add(at, "must set hostname or path")
	}
	if r.HostToBackendHostname {
		ps.Add(at.Field("hostToBackendHostname"), "must be false")
	}
	ps.Append(checkHostname(at.Field("hostname"), r.Hostname))
	if r.Path != nil {
		ps.Append(r.Path.check(at.Field("path"), prefixes))
	}
	return ps
}

func checkHostname(at resource.Path, name string) resource.Problems {
	var ps resource.Problems
	if name == "" {
		return nil
	}
	if _, err := netip.ParseAddr(name); err == nil {
		ps.Add(at, "must be a DNS name, not an IP address")
	} else if len(validation.IsDNS1123Subdomain(name)) > 0 {
		ps.Add(at, "%s is not a DNS name", resource.Quote(name))
	}
	return ps
}

func (p PathRewrite) check(at resource.Path, prefixes bool) resource.Problems {
	var ps resource.Problems
	full, prefix := at.Field("replaceFullPath"), at.Field("replacePrefixMatch")
	switch p.Type {
	case ReplaceFullPath:
		if p.ReplaceFullPath == nil {
			ps.Add(full, "must be set with type %s", p.Type)
		} else {
			ps.Append(checkPath(full, *p.ReplaceFullPath))
		}
		if p.ReplacePrefixMatch != nil {
			ps.Add(prefix, "must not be set with type %s", p.Type)
		}
	case ReplacePrefixMatch:
		switch {
		case p.ReplacePrefixMatch == nil:
			ps.Add(prefix, "must be set with type %s", p.Type)
		case *p.ReplacePrefixMatch != "":
			ps.Append(checkPath(prefix, *p.ReplacePrefixMatch))
		}
		if p.ReplaceFullPath != nil {
			ps.Add(full, "must not be set with type %s", p.Type)
		}
		if !prefixes {
			ps.Add(at.Field("type"), "%s needs matches of type %s only", p.Type, PathPrefix)
		}
	default:
		ps.Add(at.Field("type"), "must be %s or %s, not %s", ReplaceFullPath, ReplacePrefixMatch, resource.Quote(p.Type))
	}
	return ps
}

func (m RequestMirror) check(at resource.Path) resource.Problems {
	ps := policy.CheckPercent(at.Field("percentage"), m.Percentage)
	ps.Append(m.BackendRef.Check(at.Field("backendRef")))
	if m.BackendRef.Weight != nil {
		ps.Add(at.Field("backendRef.weight"), "must not be set; use percentage")
	}
	return ps
}

func warnSpec(spec any) []string {
	s, ok := spec.(*Spec)
	if !ok {
		return nil
	}
	var out []string
	for i, t := range s.To {
		for j, r := range t.Rules {
			at := resource.Path("spec.to").Index(i).Field("rules").Index(j)
			out = append(out, r.warnings(at)...)
		}
	}
	return out
}

func (r Rule) warnings(at resource.Path) []string {
	var out []string
	for i, m := range r.Matches {
		seen := map[string]bool{}
		for k, h := range m.Headers {
			if seen[h.Name] {
				out = append(out, string(at.Field("matches").Index(i).Field("headers").Index(k))+" has no effect: of several matches for one header the first counts")
			}
			seen[h.Name] = true
		}
	}
	if len(r.Default.BackendRefs) > 0 && slices.ContainsFunc(r.Default.Filters, func(f Filter) bool { return f.Type == Redirect }) {
		out = append(out, string(at.Field("default.backendRefs"))+" has no effect beside a redirect")
	}
	return out
}
