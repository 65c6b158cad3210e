package mesh

import "github.com/causeway-mesh/causeway/api/resource"

// Zone is one cluster, VM network, cloud or edge with a control plane of its own.
type Zone struct {
	// Enabled false keeps what this zone offers from the other zones. Default true.
	Enabled *bool `json:"enabled,omitempty"`
}

// IsEnabled is the setting with its default.
func (z *Zone) IsEnabled() bool { return z.Enabled == nil || *z.Enabled }

var zoneKind = resource.Kind{
	Name: TypeZone, Path: "zones", Short: "z", Singular: "Zone", Plural: "Zones",
	Scope: resource.ScopeGlobal, Flow: resource.FromGlobal, Names: resource.RFC1035Label, Inline: true,
	New: func() any { return new(Zone) }, Requires: requires,
}
