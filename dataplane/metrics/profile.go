package metrics

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/causeway-mesh/causeway/api/agentapi"
)

// A choice says which metrics of Envoy are told.
type choice struct {
	profile          string // All, Basic or None
	exclude, include []func(name string) bool
}

// The profiles, from the widest.
const (
	profileAll   = "All"
	profileBasic = "Basic"
	profileNone  = "None"
)

// newChoice reads the settings. Without a profile it is Basic; of several the widest counts.
func newChoice(in *agentapi.MetricsSidecar) (choice, error) {
	c := choice{profile: profileBasic}
	for i, p := range in.GetProfiles() {
		if i == 0 || width(p) > width(c.profile) {
			c.profile = p
		}
	}
	var err error
	if c.exclude, err = matchers(in.GetExclude()); err != nil {
		return c, err
	}
	c.include, err = matchers(in.GetInclude())
	return c, err
}

func width(profile string) int {
	switch profile {
	case profileAll:
		return 2
	case profileBasic:
		return 1
	}
	return 0
}

func matchers(in []*agentapi.MetricsSelector) ([]func(string) bool, error) {
	var out []func(string) bool
	for _, s := range in {
		m := s.GetMatch()
		switch s.GetType() {
		case "Exact":
			out = append(out, func(name string) bool { return name == m })
		case "Prefix":
			out = append(out, func(name string) bool { return strings.HasPrefix(name, m) })
		case "Contains":
			out = append(out, func(name string) bool { return strings.Contains(name, m) })
		case "Regex":
			re, err := regexp.Compile(m)
			if err != nil {
				return nil, fmt.Errorf("selector of metrics: %w", err)
			}
			out = append(out, re.MatchString)
		}
	}
	return out, nil
}

// tells says whether a metric is told: include wins over exclude, and that over the profile.
func (c choice) tells(name string) bool {
	switch {
	case matches(c.include, name):
		return true
	case matches(c.exclude, name):
		return false
	case c.profile == profileAll:
		return true
	}
	return c.profile == profileBasic && basic(name)
}

// withInternals says whether what Envoy measures of its own errands, such as asking for configuration, is told.
func (c choice) withInternals() bool { return c.profile != profileBasic }

func matches(list []func(string) bool, name string) bool {
	for _, m := range list {
		if m(name) {
			return true
		}
	}
	return false
}

// The profile Basic is what the signals that people watch and the usual dashboards are made of: traffic, errors, latency and
// saturation, health of endpoints, certificates, permissions, and the state of Envoy and its control plane.
var (
	basicParts = []string{
		"_rq", "rq_time", "cx_length_ms", "cx_count", "cx_total", "cx_active", "cx_connect", "cx_destroy", "bytes",
		"error", "fail", "reset", "timeout", "cancelled", "overflow", "max_duration_reached", "reject", "denied", "rbac",
		"no_cluster", "no_route", "no_filter_chain", "eject", "circuit_breakers", "health_check", "lb_healthy_panic",
		"ssl_handshake", "ssl_context_update_by_sds", "days_until_first_cert_expiring",
	}
	basicPrefixes = []string{"envoy_server", "envoy_control_plane", "envoy_dns_", "causeway_"}
	basicNames    = []string{"envoy_cluster_membership_degraded", "envoy_cluster_membership_healthy", "envoy_cluster_membership_total"}
)

func basic(name string) bool {
	for _, p := range basicParts {
		if strings.Contains(name, p) {
			return true
		}
	}
	for _, p := range basicPrefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	for _, n := range basicNames {
		if name == n {
			return true
		}
	}
	return false
}
