package trace

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/causeway-mesh/causeway/api/policies/sink"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

const maxTags = 64

func checkSpec(spec any) resource.Problems {
	s, ok := spec.(*policy.Spec[Conf])
	if !ok || s.Default == nil {
		return nil
	}
	return s.Default.check(resource.Path("spec").Field("default"))
}

func (c Conf) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	switch {
	case c.Backends == nil:
		ps.Add(at.Field("backends"), "must be set; an empty list turns traces off")
	case len(*c.Backends) > 1:
		ps.Add(at.Field("backends"), "must have one entry at most")
	default:
		for i, b := range *c.Backends {
			ps.Append(b.check(at.Field("backends").Index(i)))
		}
	}
	if s := c.Sampling; s != nil {
		at := at.Field("sampling")
		ps.Append(policy.CheckPercent(at.Field("overall"), s.Overall))
		ps.Append(policy.CheckPercent(at.Field("client"), s.Client))
		ps.Append(policy.CheckPercent(at.Field("random"), s.Random))
	}
	if len(c.Tags) > maxTags {
		ps.Add(at.Field("tags"), "has %d entries, at most %d are allowed", len(c.Tags), maxTags)
	}
	seen := map[string]bool{}
	for i, t := range c.Tags {
		at := at.Field("tags").Index(i)
		ps.Append(t.check(at))
		if seen[t.Name] {
			ps.Add(at.Field("name"), "%s is given twice", resource.Quote(t.Name))
		}
		seen[t.Name] = true
	}
	return ps
}

func (t Tag) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	if t.Name == "" || len(t.Name) > 255 {
		ps.Add(at.Field("name"), "must have 1 to 255 characters")
	}
	if strings.HasPrefix(t.Name, "kuma.") {
		ps.Add(at.Field("name"), "must not begin with kuma.: such tags say where a span comes from")
	}
	switch {
	case (t.Literal == nil) == (t.Header == nil):
		ps.Add(at, "must have either literal or header")
	case t.Literal != nil && *t.Literal == "":
		ps.Add(at.Field("literal"), "must not be empty")
	case t.Header != nil:
		ps.Append(policy.CheckHeaderName(at.Field("header").Field("name"), t.Header.Name))
	}
	return ps
}

func (b Backend) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	types := []string{TypeZipkin, TypeDatadog, TypeOTel}
	if !slices.Contains(types, b.Type) {
		ps.Add(at.Field("type"), "must be one of %s, not %s", strings.Join(types, ", "), resource.Quote(b.Type))
		return ps
	}
	for _, f := range []struct {
		typ, field string
		set        bool
	}{{TypeZipkin, "zipkin", b.Zipkin != nil}, {TypeDatadog, "datadog", b.Datadog != nil}, {TypeOTel, "openTelemetry", b.OpenTelemetry != nil}} {
		if f.typ == b.Type && !f.set {
			ps.Add(at.Field(f.field), "must be set with type %s", b.Type)
		}
		if f.typ != b.Type && f.set {
			ps.Add(at.Field(f.field), "must not be set with type %s", b.Type)
		}
	}
	if len(ps) > 0 {
		return ps
	}
	switch b.Type {
	case TypeZipkin:
		ps.Append(b.Zipkin.check(at.Field("zipkin")))
	case TypeDatadog:
		ps.Append(b.Datadog.check(at.Field("datadog")))
	case TypeOTel:
		ps.Append(b.OpenTelemetry.BackendRef.Check(at.Field("openTelemetry").Field("backendRef")))
	}
	return ps
}

func (z *Zipkin) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	u, ok := parseURL(z.URL)
	switch {
	case !ok:
		ps.Add(at.Field("url"), "%s is not a URL with a host", resource.Quote(z.URL))
	case u.Scheme != "http" && u.Scheme != "https":
		ps.Add(at.Field("url"), "must begin with http:// or https://")
	case u.User != nil || u.Fragment != "":
		ps.Add(at.Field("url"), "must not have a user or a fragment")
	case u.Path == "":
		ps.Add(at.Field("url"), "must have the path of the API, such as /api/v2/spans")
	}
	if z.APIVersion != "" && z.APIVersion != "httpJson" && z.APIVersion != "httpProto" {
		ps.Add(at.Field("apiVersion"), "must be httpJson or httpProto, not %s", resource.Quote(z.APIVersion))
	}
	return ps
}

func (d *Datadog) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	u, ok := parseURL(d.URL)
	switch {
	case !ok:
		ps.Add(at.Field("url"), "%s is not a URL with a host", resource.Quote(d.URL))
	case u.Scheme != "http":
		ps.Add(at.Field("url"), "must begin with http://")
	case u.Port() == "":
		ps.Add(at.Field("url"), "must have a port, such as :8126")
	case u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil || u.ForceQuery:
		ps.Add(at.Field("url"), "must have nothing but host and port")
	}
	return ps
}

// parseURL reads a URL whose host Envoy can connect to.
func parseURL(s string) (*url.URL, bool) {
	u, err := url.ParseRequestURI(s)
	if err != nil || len(s) > 2048 || u.Hostname() == "" || !sink.IsHost(u.Hostname()) {
		return nil, false
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return nil, false
		}
	}
	return u, true
}
