package agent

import (
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/api/mesh"
)

// collectorVariables are the OTEL_* variables.
func collectorVariables(environ []string) map[string]string {
	out := map[string]string{}
	for _, v := range environ {
		if name, value, ok := strings.Cut(v, "="); ok && strings.HasPrefix(name, "OTEL_") {
			out[name] = value
		}
	}
	return out
}

// secretive are words in the names of variables that Envoy does not get: access logs can show every variable that it has.
var secretive = []string{"TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "KEY", "HEADERS", "AUTH", "DSN"}

// attributes is the variable in which OpenTelemetry expects who sends.
const attributes = "OTEL_RESOURCE_ATTRIBUTES"

// environment is what Envoy gets: the agent's own, without what may be secret, and the facts about this proxy that logs and
// spans tell.
func (a *agent) environment() []string {
	about := a.link.about()
	facts := []struct{ name, value string }{
		{mesh.EnvMesh, a.self.mesh}, {mesh.EnvZone, a.link.zone()}, {mesh.EnvWorkload, about.GetWorkload()}, {mesh.EnvAddress, about.GetAddress()},
	}
	who := []string{"service.name=" + escape(about.GetWorkload())}
	if about.GetWorkload() == "" {
		who[0] = "service.name=" + escape(a.self.name)
	}
	for _, f := range facts[:3] {
		who = append(who, "kuma."+strings.ToLower(strings.TrimPrefix(f.name, "CAUSEWAY_"))+"="+escape(f.value))
	}
	var out []string
	for _, v := range a.cfg.Environ {
		name, value, _ := strings.Cut(v, "=")
		switch {
		case name == attributes:
			who = append(who, value) // what the operator says of the host comes on top
		case slices.ContainsFunc(facts, func(f struct{ name, value string }) bool { return f.name == name }):
		case slices.ContainsFunc(secretive, func(word string) bool { return strings.Contains(strings.ToUpper(name), word) }):
		default:
			out = append(out, v)
		}
	}
	for _, f := range facts {
		out = append(out, f.name+"="+f.value)
	}
	return append(out, attributes+"="+strings.Join(who, ","))
}

// escape keeps a value from being taken for further attributes.
func escape(s string) string {
	return strings.NewReplacer("%", "%25", ",", "%2C", "=", "%3D").Replace(s)
}
