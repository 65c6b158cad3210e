// Package proxypatch is the MeshProxyPatch policy: edits of finished Envoy resources, for what no other policy can say. It checks and
// applies them to single messages; which resources of a proxy they reach, and what becomes of one that Envoy refuses, is
// package envoy's affair.
package proxypatch

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/causeway-mesh/causeway/api/policy"
)

// Policy is MeshProxyPatch.
var Policy = policy.Kind[Conf]{
	Name: "MeshProxyPatch", Path: "meshproxypatches", Short: "mpp",
	Singular: "Mesh Proxy Patch", Plural: "Mesh Proxy Patches",
	Proxy: true, Raw: true,
	Check: check,
	Hooks: policy.Hooks[Conf]{Patches: policy.Hook[func(Conf) []policy.Patch]{Apply: patches}},
}

// Conf is what users write in default.
type Conf struct {
	// AppendModifications are applied in order, after those of policies that are less specific.
	AppendModifications []Modification `json:"appendModifications,omitempty"`
}

// A Modification is one of five.
type Modification struct {
	// Cluster adds, removes or edits clusters.
	Cluster *ClusterMod `json:"cluster,omitempty"`
	// Listener adds, removes or edits listeners.
	Listener *ListenerMod `json:"listener,omitempty"`
	// NetworkFilter edits the network filters of listeners.
	NetworkFilter *FilterMod `json:"networkFilter,omitempty"`
	// HTTPFilter edits the HTTP filters of listeners.
	HTTPFilter *FilterMod `json:"httpFilter,omitempty"`
	// VirtualHost edits the virtual hosts of route configurations.
	VirtualHost *VirtualHostMod `json:"virtualHost,omitempty"`
}

// An Operation is what a modification does.
type Operation = string

// The operations. Those that begin with AddFirst are for filters, whose order matters.
const (
	Add       Operation = "Add"
	Remove    Operation = "Remove"
	Patch     Operation = "Patch"
	AddFirst  Operation = "AddFirst"
	AddLast   Operation = "AddLast"
	AddBefore Operation = "AddBefore"
	AddAfter  Operation = "AddAfter"
)

// A Change is what the modifications have in common.
type Change struct {
	// Operation says what to do with what matches; which there are depends on what is modified. Required.
	Operation Operation `json:"operation"`
	// Value is an Envoy message as YAML: what to add, or what to merge into what is there.
	Value *string `json:"value,omitempty"`
	// JSONPatches edit what is there, in the place of a value.
	JSONPatches []JSONPatch `json:"jsonPatches,omitempty"`
}

// A JSONPatch is one operation of RFC 6902.
type JSONPatch struct {
	// Op names the operation as RFC 6902 does.
	Op string `json:"op"`
	// Path is a JSON pointer into the message; fields may be written as in JSON (camelCase) or as in the protobuf (snake_case).
	Path string `json:"path"`
	// From is where move and copy take the value from.
	From *string `json:"from,omitempty"`
	// Value is what add, replace and test need.
	Value json.RawMessage `json:"value,omitempty"`
}

// A ClusterMod is a modification of clusters.
type ClusterMod struct {
	// Match selects clusters; absent means all.
	Match *ClusterMatch `json:"match,omitempty"`
	Change
}

// A ClusterMatch selects clusters; all that is given must hold.
type ClusterMatch struct {
	// Origin says what the cluster is for: inbound, outbound, transparent, ingress and so on.
	Origin *string `json:"origin,omitempty"`
	// Name of the cluster.
	Name *string `json:"name,omitempty"`
}

// A ListenerMod is a modification of listeners.
type ListenerMod struct {
	// Match selects listeners; absent means all.
	Match *ListenerMatch `json:"match,omitempty"`
	Change
}

// A ListenerMatch selects listeners; all that is given must hold.
type ListenerMatch struct {
	// Origin says what the listener is for: inbound, outbound, transparent, ingress and so on.
	Origin *string `json:"origin,omitempty"`
	// Name of the listener.
	Name *string `json:"name,omitempty"`
	// Tags are labels of the Dataplane for inbounds, and kuma.io/unified-name for outbounds.
	Tags map[string]string `json:"tags,omitempty"`
}

// A FilterMod is a modification of filters in listeners, in all chains.
type FilterMod struct {
	// Match selects filters; absent means all.
	Match *FilterMatch `json:"match,omitempty"`
	Change
}

// A FilterMatch selects listeners, and by name the filters in them; all that is given must hold.
type FilterMatch struct {
	// Origin says what the listener is for: inbound, outbound, transparent, ingress and so on.
	Origin *string `json:"origin,omitempty"`
	// Name of the filter, such as envoy.filters.http.router; for AddBefore and AddAfter the one to stand beside.
	Name *string `json:"name,omitempty"`
	// ListenerName is the name of the listener.
	ListenerName *string `json:"listenerName,omitempty"`
	// ListenerTags are labels of the Dataplane for inbounds, and kuma.io/unified-name for outbounds.
	ListenerTags map[string]string `json:"listenerTags,omitempty"`
}

// A VirtualHostMod is a modification of virtual hosts.
type VirtualHostMod struct {
	// Match selects virtual hosts; absent means all.
	Match *VirtualHostMatch `json:"match,omitempty"`
	Change
}

// A VirtualHostMatch selects virtual hosts; all that is given must hold.
type VirtualHostMatch struct {
	// Origin says what the route configuration is for: inbound, outbound and so on.
	Origin *string `json:"origin,omitempty"`
	// Name of the virtual host.
	Name *string `json:"name,omitempty"`
	// RouteConfigurationName is the name of the route configuration.
	RouteConfigurationName *string `json:"routeConfigurationName,omitempty"`
}

// kind is the modification that is set, with its field and what it has in common with others; ok is false unless exactly one is set.
func (m Modification) kind() (field string, c Change, ok bool) {
	n := 0
	note := func(name string, of *Change) {
		if of != nil {
			n, field, c = n+1, name, *of
		}
	}
	if m.Cluster != nil {
		note("cluster", &m.Cluster.Change)
	}
	if m.Listener != nil {
		note("listener", &m.Listener.Change)
	}
	if m.NetworkFilter != nil {
		note("networkFilter", &m.NetworkFilter.Change)
	}
	if m.HTTPFilter != nil {
		note("httpFilter", &m.HTTPFilter.Change)
	}
	if m.VirtualHost != nil {
		note("virtualHost", &m.VirtualHost.Change)
	}
	return field, c, n == 1
}

// patches are the modifications one by one. What could not be written is left out here.
func patches(c Conf) []policy.Patch {
	var out []policy.Patch
	for i, m := range c.AppendModifications {
		field, change, ok := m.kind()
		if !ok {
			continue
		}
		conf, err := json.Marshal(Conf{AppendModifications: []Modification{m}})
		if err != nil {
			continue
		}
		p, err := compile(m)
		if err != nil {
			p = broken(m, err)
		}
		sum := sha256.Sum256(conf)
		p.ID = base64.RawURLEncoding.EncodeToString(sum[:12])
		p.Name = fmt.Sprintf("appendModifications[%d] (%s %s)", i, field, change.Operation)
		p.Conf = string(conf)
		out = append(out, p)
	}
	return out
}
