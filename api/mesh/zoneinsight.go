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
	// ID identifies the connection.
	ID string `json:"id"`
	// GlobalInstanceID is the instance of global that took the connection.
	GlobalInstanceID string `json:"globalInstanceId"`
	// ConnectTime is when the connection began.
	ConnectTime time.Time `json:"connectTime,omitzero"`
	// DisconnectTime is when the connection ended. Absent while it is open.
	DisconnectTime time.Time `json:"disconnectTime,omitzero"`
	// Status counts what was sent over the connection.
	Status KDSStatus `json:"status"`
	// Version is the software of the zone's control plane.
	Version *ZoneVersion `json:"version,omitempty"`
	// Generation counts the states of a connection that were reported.
	Generation uint32 `json:"generation,omitempty"`
	// Config is the configuration of the zone's control plane, as JSON, secrets masked.
	Config string `json:"config,omitempty"`
	// AuthTokenProvided says that the zone proved who it is.
	AuthTokenProvided bool `json:"authTokenProvided,omitempty"`
	// ZoneInstanceID is the instance of the zone's control plane.
	ZoneInstanceID string `json:"zoneInstanceId,omitempty"`
}

// IsOnline says that the connection is open.
func (s KDSSubscription) IsOnline() bool { return !s.ConnectTime.IsZero() && s.DisconnectTime.IsZero() }

// KDSStatus counts the responses of a connection, in all and by type of resource.
type KDSStatus struct {
	// LastUpdateTime is when something was sent or answered last.
	LastUpdateTime time.Time `json:"lastUpdateTime,omitzero"`
	// Total counts the responses of all types.
	Total DiscoveryTypeStats `json:"total"`
	// Stat counts the responses by type of resource.
	Stat map[string]DiscoveryTypeStats `json:"stat,omitempty"`
}

// ZoneVersion is the software of a zone control plane.
type ZoneVersion struct {
	// KumaCp is the control plane, under the name the Kuma API gives it.
	KumaCp KumaCpVersion `json:"kumaCp"`
}

// KumaCpVersion is the version of a zone control plane, under the name the Kuma API gives it.
type KumaCpVersion struct {
	// Version of the control plane.
	Version string `json:"version"`
	// GitTag that it was built from.
	GitTag string `json:"gitTag"`
	// GitCommit that it was built from.
	GitCommit string `json:"gitCommit"`
	// BuildDate is when it was built.
	BuildDate string `json:"buildDate"`
	// KumaCpGlobalCompatible says that global and this version understand each other.
	KumaCpGlobalCompatible bool `json:"kumaCpGlobalCompatible"`
}

// EnvoyAdminStreams is kept for older clients.
type EnvoyAdminStreams struct {
	// ConfigDumpGlobalInstanceID is the instance of global that asks for configuration.
	ConfigDumpGlobalInstanceID string `json:"configDumpGlobalInstanceId,omitempty"`
	// StatsGlobalInstanceID is the instance of global that asks for statistics.
	StatsGlobalInstanceID string `json:"statsGlobalInstanceId,omitempty"`
	// ClustersGlobalInstanceID is the instance of global that asks for clusters.
	ClustersGlobalInstanceID string `json:"clustersGlobalInstanceId,omitempty"`
}

// ZoneHealthCheck is the last sign of life of a zone.
type ZoneHealthCheck struct {
	// Time of the last sign of life.
	Time time.Time `json:"time,omitzero"`
}

// KDSStreams says which instance of global holds which stream.
type KDSStreams struct {
	// GlobalToZone carries what global sends.
	GlobalToZone *KDSStream `json:"globalToZone,omitempty"`
	// ZoneToGlobal carries what the zone sends.
	ZoneToGlobal *KDSStream `json:"zoneToGlobal,omitempty"`
	// ConfigDump carries questions for configuration of proxies.
	ConfigDump *KDSStream `json:"configDump,omitempty"`
	// Stats carries questions for statistics of proxies.
	Stats *KDSStream `json:"stats,omitempty"`
	// Clusters carries questions for clusters of proxies.
	Clusters *KDSStream `json:"clusters,omitempty"`
}

// KDSStream is one stream of a zone.
type KDSStream struct {
	// GlobalInstanceID is the instance of global that holds the stream.
	GlobalInstanceID string `json:"globalInstanceId"`
	// ConnectTime is when the stream began.
	ConnectTime time.Time `json:"connectTime,omitzero"`
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
