package metric

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/api/policies/sink"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Bounds on what one proxy is asked to do.
const (
	maxApplications = 50
	maxBackends     = 20
	maxSelectors    = 200
	maxMatch        = 1000
	minInterval     = time.Second
	maxInterval     = 24 * time.Hour
)

func checkSpec(spec any) resource.Problems {
	s, ok := spec.(*policy.Spec[Conf])
	if !ok || s.Default == nil {
		return nil
	}
	return check("spec.default", *s.Default)
}

func check(at resource.Path, c Conf) resource.Problems {
	var ps resource.Problems
	if c.Sidecar == nil && c.Applications == nil && c.Backends == nil {
		ps.Add(at, "must have sidecar, applications or backends")
	}
	if c.Sidecar != nil && c.Sidecar.Profiles != nil {
		ps.Append(checkProfiles(at.Field("sidecar").Field("profiles"), *c.Sidecar.Profiles))
	}
	ps.Append(checkApplications(at.Field("applications"), c.Applications))
	ps.Append(checkBackends(at.Field("backends"), c.Backends))
	return ps
}

func checkProfiles(at resource.Path, p Profiles) resource.Problems {
	var ps resource.Problems
	for i, profile := range p.AppendProfiles {
		oneOf(&ps, at.Field("appendProfiles").Index(i).Field("name"), profile.Name, "All", "Basic", "None")
	}
	for field, list := range map[string][]Selector{"exclude": p.Exclude, "include": p.Include} {
		if len(list) > maxSelectors {
			ps.Add(at.Field(field), "must have at most %d selectors, not %d", maxSelectors, len(list))
			continue
		}
		for i, s := range list {
			checkSelector(&ps, at.Field(field).Index(i), s)
		}
	}
	slices.SortFunc(ps, func(a, b resource.Problem) int { return strings.Compare(a.Field, b.Field) })
	return ps
}

func checkSelector(ps *resource.Problems, at resource.Path, s Selector) {
	oneOf(ps, at.Field("type"), s.Type, "Prefix", "Regex", "Exact", "Contains")
	switch {
	case s.Match == "":
		ps.Add(at.Field("match"), "must be set")
	case len(s.Match) > maxMatch:
		ps.Add(at.Field("match"), "must have at most %d characters", maxMatch)
	case s.Type == "Regex":
		if _, err := regexp.Compile(s.Match); err != nil {
			ps.Add(at.Field("match"), "is no regular expression: %v", err)
		}
	}
}

func checkApplications(at resource.Path, list []Application) resource.Problems {
	var ps resource.Problems
	if len(list) > maxApplications {
		ps.Add(at, "must have at most %d applications, not %d", maxApplications, len(list))
		return ps
	}
	for i, a := range list {
		at := at.Index(i)
		if a.Name != "" && (len(a.Name) > 63 || strings.ContainsFunc(a.Name, func(r rune) bool { return r < ' ' })) {
			ps.Add(at.Field("name"), "must have at most 63 characters, none of them control characters")
		}
		if a.Name != "" && slices.ContainsFunc(list[:i], func(b Application) bool { return a.Name == b.Name }) {
			ps.Add(at.Field("name"), "%s is the name of another application", resource.Quote(a.Name))
		}
		checkPort(&ps, at.Field("port"), a.Port, true)
		checkPath(&ps, at.Field("path"), a.Path)
		if a.Address != "" && !sink.IsHost(a.Address) {
			ps.Add(at.Field("address"), "%s is neither an IP address nor a DNS name", resource.Quote(a.Address))
		}
	}
	return ps
}

func checkBackends(at resource.Path, list []Backend) resource.Problems {
	var ps resource.Problems
	if len(list) > maxBackends {
		ps.Add(at, "must have at most %d backends, not %d", maxBackends, len(list))
		return ps
	}
	modes := map[uint32]string{}
	for i, b := range list {
		at := at.Index(i)
		oneOf(&ps, at.Field("type"), b.Type, typePrometheus, typeOTel)
		if b.Type == typePrometheus && b.OpenTelemetry != nil {
			ps.Add(at.Field("openTelemetry"), "must not be set with type Prometheus")
		}
		if b.Type == typeOTel && b.Prometheus != nil {
			ps.Add(at.Field("prometheus"), "must not be set with type OpenTelemetry")
		}
		switch {
		case b.Type == typePrometheus && b.Prometheus == nil:
			ps.Add(at.Field("prometheus"), "must be set with type Prometheus")
		case b.Type == typePrometheus:
			checkPrometheus(&ps, at.Field("prometheus"), *b.Prometheus, modes)
		case b.Type == typeOTel && b.OpenTelemetry == nil:
			ps.Add(at.Field("openTelemetry"), "must be set with type OpenTelemetry")
		case b.Type == typeOTel:
			checkOTel(&ps, at.Field("openTelemetry"), *b.OpenTelemetry)
		}
	}
	return ps
}

func checkPrometheus(ps *resource.Problems, at resource.Path, p Prometheus, modes map[uint32]string) {
	checkPort(ps, at.Field("port"), p.Port, false)
	checkPath(ps, at.Field("path"), p.Path)
	if len(p.ClientID) > 253 {
		ps.Add(at.Field("clientId"), "must have at most 253 characters")
	}
	if p.TLS != nil && p.TLS.Mode != "" {
		oneOf(ps, at.Field("tls").Field("mode"), p.TLS.Mode, modeDisabled, modeProvided, modeMesh)
	}
	m := p.message()
	if other, taken := modes[m.GetPort()]; taken && other != m.GetTls() {
		ps.Add(at.Field("tls").Field("mode"), "must be that of the other backend on port %d, %s", m.GetPort(), other)
	}
	modes[m.GetPort()] = m.GetTls()
}

func checkOTel(ps *resource.Problems, at resource.Path, o OpenTelemetry) {
	ps.Append(o.BackendRef.Check(at.Field("backendRef")))
	if i := o.RefreshInterval; i != nil && (i.Duration < minInterval || i.Duration > maxInterval) {
		ps.Add(at.Field("refreshInterval"), "must be between %s and %s", minInterval, maxInterval)
	}
}

func oneOf(ps *resource.Problems, at resource.Path, v string, allowed ...string) {
	if !slices.Contains(allowed, v) {
		ps.Add(at, "must be one of %s, not %s", strings.Join(allowed, ", "), resource.Quote(v))
	}
}

func checkPort(ps *resource.Problems, at resource.Path, port uint32, required bool) {
	if port > 65535 || required && port == 0 {
		ps.Add(at, "must be between 1 and 65535")
	}
}

func checkPath(ps *resource.Problems, at resource.Path, path string) {
	switch {
	case path == "":
	case !strings.HasPrefix(path, "/"):
		ps.Add(at, "must begin with /")
	case len(path) > maxMatch || strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' }):
		ps.Add(at, "must have at most %d characters, no spaces and no #", maxMatch)
	}
}

// warnSpec says what users of other control planes may not expect.
func warnSpec(spec any) []string {
	s, ok := spec.(*policy.Spec[Conf])
	if !ok || s.Default == nil {
		return nil
	}
	var out []string
	at := resource.Path("spec.default")
	for i, b := range s.Default.Backends {
		if p := b.Prometheus; p != nil && p.TLS.mode() == modeMesh {
			out = append(out, fmt.Sprintf("%s: Prometheus needs a certificate with a SPIFFE ID of the mesh; proxies without an identity tell it nothing",
				at.Field("backends").Index(i).Field("prometheus").Field("tls").Field("mode")))
		}
	}
	return out
}
