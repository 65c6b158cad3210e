package zonesync

import (
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
)

// The keys of facts that zones and global tell each other. Their values are JSON.
const (
	// FactReachability is which ingresses of other zones a zone reaches: a list of mesh.ZoneReachability.
	FactReachability = "reachability"

	insightFacts = "insight/"
	countsFacts  = "counts/"
	trafficFacts = "traffic/"
)

// FactInsight is the key of the DataplaneInsight of a dataplane.
func FactInsight(kri string) string { return insightFacts + kri }

// FactCounts is the key of how many endpoints a MeshService has.
func FactCounts(kri string) string { return countsFacts + kri }

// FactOfCounts gives the MeshService that a fact counts the endpoints of.
func FactOfCounts(key string) (kri string, ok bool) { return strings.CutPrefix(key, countsFacts) }

// FactTraffic is the key of what a zone sends to a service port: its KRI.
func FactTraffic(port string) string { return trafficFacts + port }

// FactOfTraffic gives the service port that a fact tells the traffic of.
func FactOfTraffic(key string) (port string, ok bool) { return strings.CutPrefix(key, trafficFacts) }

// Traffic is the value of a fact about what a zone sends to a service port.
type Traffic struct {
	// AsOf is when the window ended, by the clock of the zone.
	AsOf  time.Time      `json:"asOf"`
	Items []mesh.Traffic `json:"items"`
}

// FactIsShared says that global tells a fact of one zone to the others.
func FactIsShared(key string) bool { return strings.HasPrefix(key, countsFacts) }

// Counts is the value of a fact about the endpoints of a MeshService.
type Counts struct {
	// Ports by section name.
	Ports map[string]PortCounts `json:"ports"`
	// Sequence rises with every change; the newest that is known counts.
	Sequence uint64 `json:"sequence"`
}

// PortCounts says how many endpoints a port has.
type PortCounts struct {
	Healthy uint32 `json:"healthy"`
	Total   uint32 `json:"total"`
}
