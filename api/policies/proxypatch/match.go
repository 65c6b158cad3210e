package proxypatch

import (
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/api/proxy"
)

func holds(want *string, got string) bool { return want == nil || *want == got }

func holdsAll(want, got map[string]string) bool {
	for k, v := range want {
		if has, ok := got[k]; !ok || has != v {
			return false
		}
	}
	return true
}

func (m *ClusterMatch) matches(r proxy.Resource) bool {
	return r.Kind == proxy.ClusterResource && (m == nil || holds(m.Origin, r.Origin) && holds(m.Name, r.Name))
}

func (m *ListenerMatch) matches(r proxy.Resource) bool {
	return r.Kind == proxy.ListenerResource &&
		(m == nil || holds(m.Origin, r.Origin) && named(m.Name, r.Name) && holdsAll(m.Tags, r.Tags))
}

// reaches says that the match selects a listener, whatever filters it has.
func (m *FilterMatch) reaches(listener string, r proxy.Resource) bool {
	return m == nil || holds(m.Origin, r.Origin) && named(m.ListenerName, listener) && holdsAll(m.ListenerTags, r.Tags)
}

// names says that the match selects a filter by its name.
func (m *FilterMatch) names(filter string) bool {
	return m == nil || m.Name == nil || isFilter(filter, *m.Name)
}

// isFilter compares the name of a filter with one that was written. A filter that travels apart has the name of its listener
// before its own.
func isFilter(name, written string) bool {
	return name == written || strings.HasSuffix(name, "_"+written)
}

func (m *VirtualHostMatch) matches(r proxy.Resource) bool {
	return r.Kind == proxy.RoutesResource && (m == nil || holds(m.Origin, r.Origin) && holds(m.RouteConfigurationName, r.Name))
}

func (m *VirtualHostMatch) names(host string) bool { return m == nil || holds(m.Name, host) }

// former maps names that listeners had in earlier versions of the API to those they have.
var former = map[string]string{
	"outbound:passthrough:ipv4": "self_transparentproxy_passthrough_outbound_ipv4",
	"outbound:passthrough:ipv6": "self_transparentproxy_passthrough_outbound_ipv6",
	"inbound:passthrough:ipv4":  "self_transparentproxy_passthrough_inbound_ipv4",
	"inbound:passthrough:ipv6":  "self_transparentproxy_passthrough_inbound_ipv6",
}

// named compares the name of a listener with one that was written.
func named(want *string, got string) bool {
	return want == nil || *want == got || former[*want] == got
}

// any of the filters is selected.
func (m *FilterMatch) anyOf(filters []string) bool { return slices.ContainsFunc(filters, m.names) }
