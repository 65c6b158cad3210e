package mesh

import (
	"time"

	"github.com/causeway-mesh/causeway/api/resource"
)

// ZoneInsight is what global observes about one zone.
type ZoneInsight struct {
	// Subscriptions are the connections of the zone, the newest last.
	Subscriptions []KDSSubscription `json:"subscriptions,omitempty"`
	// EnvoyAdminStreams is kept for older clients.
	EnvoyAdminStreams *EnvoyAdminStreams `json:"envoyAdminStreams,omitempty"`
	// HealthCheck is the last sign of life.
	HealthCheck *ZoneHealthCheck `json:"healthCheck,omitempty"`
	// KDSStreams says which instance of global holds which stream.
	KDSStreams *KDSStreams `json:"kdsStreams,omitempty"`
}

// KDSSubscription is one connection of a zone to global.
type KDSSubscription struct {
	ID                string       `json:"id"`
	GlobalInstanceID  string       `json:"globalInstanceId"`
	ConnectTime       time.Time    `json:"connectTime,omitzero"`
	DisconnectTime    time.Time    `json:"disconnectTime,omitzero"`
	Status            KDSStatus    `json:"status"`
	Version           *ZoneVersion `json:"version,omitempty"`
	Generation        uint32       `json:"generation,omitempty"`
	Config            string       `json:"config,omitempty"`
	AuthTokenProvided bool         `json:"authTokenProvided,omitempty"`
	ZoneInstanceID    string       `json:"zoneInstanceId,omitempty"`
}

// IsOnline says that the connection is open.
func (s KDSSubscription) IsOnline() bool { return !s.ConnectTime.IsZero() && s.DisconnectTime.IsZero() }

// KDSStatus counts the responses of a connection, in all and by type of resource.
type KDSStatus struct {
	LastUpdateTime time.Time                     `json:"lastUpdateTime,omitzero"`
	Total          DiscoveryTypeStats            `json:"total"`
	Stat           map[string]DiscoveryTypeStats `json:"stat,omitempty"`
}

// ZoneVersion is the software of a zone control plane.
type ZoneVersion struct {
	KumaCp KumaCpVersion `json:"kumaCp"`
}

// KumaCpVersion is the version of a zone control plane, under the name the Kuma API gives it.
type KumaCpVersion struct {
	Version                string `json:"version"`
	GitTag                 string `json:"gitTag"`
	GitCommit              string `json:"gitCommit"`
	BuildDate              string `json:"buildDate"`
	KumaCpGlobalCompatible bool   `json:"kumaCpGlobalCompatible"`
}

// EnvoyAdminStreams is kept for older clients.
type EnvoyAdminStreams struct {
	ConfigDumpGlobalInstanceID string `json:"configDumpGlobalInstanceId,omitempty"`
	StatsGlobalInstanceID      string `json:"statsGlobalInstanceId,omitempty"`
	ClustersGlobalInstanceID   string `json:"clustersGlobalInstanceId,omitempty"`
}

// ZoneHealthCheck is the last sign of life of a zone.
type ZoneHealthCheck struct {
	Time time.Time `json:"time,omitzero"`
}

// KDSStreams says which instance of global holds which stream.
type KDSStreams struct {
	GlobalToZone *KDSStream `json:"globalToZone,omitempty"`
	ZoneToGlobal *KDSStream `json:"zoneToGlobal,omitempty"`
	ConfigDump   *KDSStream `json:"configDump,omitempty"`
	Stats        *KDSStream `json:"stats,omitempty"`
	Clusters     *KDSStream `json:"clusters,omitempty"`
}

// KDSStream is one stream of a zone.
type KDSStream struct {
	GlobalInstanceID string    `json:"globalInstanceId"`
	ConnectTime      time.Time `json:"connectTime,omitzero"`
}

// IsOnline says that some connection of the zone is open.
func (i *ZoneInsight) IsOnline() bool {
	for _, s := range i.Subscriptions {
		if s.IsOnline() {
			return true
		}
	}
	return false
}

var zoneInsightKind = resource.Kind{
	Name: TypeZoneInsight, Path: "zone-insights", Singular: "Zone Insight", Plural: "Zone Insights",
	Scope: resource.ScopeGlobal, Flow: resource.FromGlobal | resource.Internal, Inline: true,
	New: func() any { return new(ZoneInsight) }, Requires: requires,
}
