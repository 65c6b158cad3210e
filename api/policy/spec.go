// Package policy is what all policies share: the shape users write, which proxies and destinations it selects,
// the order of precedence, how several policies merge into one effective configuration with the origin of each field,
// and the hooks through which a policy changes Envoy configuration. It lists no concrete policy and does no I/O.
package policy

import (
	"encoding/json"
	"maps"

	"github.com/causeway-mesh/causeway/api/resource"
)

// The kinds a targetRef can name.
const (
	TargetMesh      = "Mesh"
	TargetDataplane = "Dataplane"
	TargetService   = "MeshService"
	TargetExternal  = "MeshExternalService"
	TargetMultiZone = "MeshMultiZoneService"
	TargetHTTPRoute = "MeshHTTPRoute"
)

// A TargetRef selects proxies (top level) or destinations (in to). The zero value means the whole mesh.
type TargetRef struct {
	// Kind is Mesh or Dataplane at the top level; Mesh, a service kind or MeshHTTPRoute in to. Default Mesh.
	Kind string `json:"kind,omitempty"`
	// Labels that the selected resources all carry.
	Labels map[string]string `json:"labels,omitempty"`
	// SectionName narrows the target to one inbound or port, by name or, when unnamed, by number.
	SectionName string `json:"sectionName,omitempty"`

	// What earlier versions of the API selected by is refused rather than ignored,
	// because a policy without it would reach further than its author meant.

	// Name is no longer supported; use labels with kuma.io/display-name.
	Name string `json:"name,omitempty"`
	// Namespace is no longer supported; use labels with k8s.kuma.io/namespace.
	Namespace string `json:"namespace,omitempty"`
	// Mesh is no longer supported; a policy stays in its own mesh.
	Mesh string `json:"mesh,omitempty"`
	// Tags are no longer supported; use labels.
	Tags map[string]string `json:"tags,omitempty"`
	// ProxyTypes are no longer supported; use kind Dataplane with labels.
	ProxyTypes []string `json:"proxyTypes,omitempty"`
}

// KindOrMesh is the kind with its default.
func (t TargetRef) KindOrMesh() string {
	if t.Kind == "" {
		return TargetMesh
	}
	return t.Kind
}

// A Spec is what users write. C is the policy's own configuration.
type Spec[C any] struct {
	// TargetRef selects the proxies that are configured; absent means every proxy of the mesh.
	TargetRef *TargetRef `json:"targetRef,omitempty"`
	// To configures traffic that the selected proxies send.
	To []To[C] `json:"to,omitempty"`
	// Rules configures traffic that the selected proxies receive.
	Rules []Rule[C] `json:"rules,omitempty"`
	// Default configures the proxy as a whole.
	Default *C `json:"default,omitempty"`
}

// To configures traffic to the destinations it targets.
type To[C any] struct {
	// TargetRef selects the destinations. Required.
	TargetRef TargetRef `json:"targetRef"`
	// Default is the configuration for them.
	Default C `json:"default"`
}

// A Rule configures received traffic, of all clients or of those that match.
type Rule[C any] struct {
	// Matches select clients; a request matches when any of them does. Absent means every client.
	Matches []Match `json:"matches,omitempty"`
	// Default is the configuration for what they send.
	Default C `json:"default"`
}

// A Match selects clients by identity and by the server name they asked for; both must hold when both are given.
type Match struct {
	// SpiffeID of the client.
	SpiffeID *SpiffeIDMatch `json:"spiffeID,omitempty"`
	// SNI that the client asked for.
	SNI *SNIMatch `json:"sni,omitempty"`
}

// A SpiffeIDMatch compares the client's SPIFFE ID.
type SpiffeIDMatch struct {
	// Type is Exact or Prefix. Required.
	Type string `json:"type"`
	// Value of the SPIFFE ID, or what it begins with. Required.
	Value string `json:"value"`
}

// An SNIMatch compares the server name of the TLS handshake.
type SNIMatch struct {
	// Type is Exact. Required.
	Type string `json:"type"`
	// Value of the server name. Required.
	Value string `json:"value"`
}

// The ways to compare.
const (
	MatchExact  = "Exact"
	MatchPrefix = "Prefix"
)

// A BackendRef is a destination that a route sends traffic to.
type BackendRef struct {
	// Kind is MeshService, MeshMultiZoneService or MeshExternalService. Required.
	Kind string `json:"kind"`
	// Labels that the backend carries; when several match, one of the own zone is taken, then the oldest.
	Labels map[string]string `json:"labels,omitempty"`
	// SectionName is the port by name, or by number when it has no name.
	SectionName string `json:"sectionName,omitempty"`
	// Port is the port by number.
	Port *uint32 `json:"port,omitempty"`
	// Weight is the share of traffic relative to the other backends. Default 1.
	Weight *uint32 `json:"weight,omitempty"`

	// Name is no longer supported, and refused as in TargetRef; use labels with kuma.io/display-name.
	Name string `json:"name,omitempty"`
	// Namespace is no longer supported; use labels with k8s.kuma.io/namespace.
	Namespace string `json:"namespace,omitempty"`
	// Tags are no longer supported; use labels.
	Tags map[string]string `json:"tags,omitempty"`
}

// WeightOrDefault is the weight with its default.
func (b BackendRef) WeightOrDefault() uint32 {
	if b.Weight == nil {
		return 1
	}
	return *b.Weight
}

// A Home is where a policy looks for backends for which it does not say that: in its namespace and, when it speaks for the owner of services to
// clients of all zones, in its zone. Empty means everywhere.
type Home struct{ Namespace, Zone string }

// In makes the namespace and zone of a backend explicit: a MeshService without them is looked for at the policy's home.
// The other kinds of destinations belong to no namespace of applications, and to no zone.
func (b BackendRef) In(h Home) BackendRef {
	if b.Kind != TargetService || h == (Home{}) {
		return b
	}
	labels := map[string]string{}
	if h.Namespace != "" {
		labels[resource.LabelNamespace] = h.Namespace
	}
	if h.Zone != "" {
		labels[resource.LabelZone] = h.Zone
	}
	maps.Copy(labels, b.Labels)
	b.Labels = labels
	return b
}

// Parts is one policy resource as the engine sees it: targets with the configuration as plain JSON trees.
type Parts struct {
	Target  TargetRef
	To      []Item
	Rules   []Item
	Default map[string]any
}

// An Item is one entry of to or rules.
type Item struct {
	Target  TargetRef // of to
	Matches []Match   // of rules
	Conf    map[string]any
}

// parts reads the engine's view of a policy. Conf is the entry's default, or the whole entry for routes.
func parts(r resource.Resource, wholeItem bool) (Parts, error) {
	type item struct {
		TargetRef TargetRef       `json:"targetRef"`
		Matches   []Match         `json:"matches"`
		Default   json.RawMessage `json:"default"`
	}
	var raw struct {
		TargetRef *TargetRef        `json:"targetRef"`
		To        []json.RawMessage `json:"to"`
		Rules     []json.RawMessage `json:"rules"`
		Default   map[string]any    `json:"default"`
	}
	if err := json.Unmarshal(r.Raw, &raw); err != nil {
		return Parts{}, err
	}
	p := Parts{Default: raw.Default}
	if raw.TargetRef != nil {
		p.Target = *raw.TargetRef
	}
	read := func(list []json.RawMessage) ([]Item, error) {
		var out []Item
		for _, b := range list {
			var it item
			if err := json.Unmarshal(b, &it); err != nil {
				return nil, err
			}
			conf := it.Default
			if wholeItem {
				conf = b
			}
			e := Item{Target: it.TargetRef, Matches: it.Matches}
			if len(conf) > 0 {
				if err := json.Unmarshal(conf, &e.Conf); err != nil {
					return nil, err
				}
			}
			if wholeItem {
				delete(e.Conf, "targetRef")
			}
			out = append(out, e)
		}
		return out, nil
	}
	var err error
	if p.To, err = read(raw.To); err != nil {
		return Parts{}, err
	}
	p.Rules, err = read(raw.Rules)
	return p, err
}
