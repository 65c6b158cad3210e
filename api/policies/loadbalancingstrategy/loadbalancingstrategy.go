// Package loadbalancingstrategy is the MeshLoadBalancingStrategy policy: which endpoint a request goes to, which endpoints of the zone
// come first, and where traffic goes when the zone cannot serve it. It does not judge what is healthy.
package loadbalancingstrategy

import "github.com/causeway-mesh/causeway/api/policy"

// Policy is MeshLoadBalancingStrategy.
var Policy = policy.Kind[Conf]{
	Name: "MeshLoadBalancingStrategy", Path: "meshloadbalancingstrategies", Short: "mlbs",
	Singular: "Mesh Load Balancing Strategy", Plural: "Mesh Load Balancing Strategies",
	ToKinds: []string{policy.TargetMesh, policy.TargetService, policy.TargetExternal, policy.TargetMultiZone, policy.TargetHTTPRoute},
	Check:   check, Warn: warn, Hooks: hooks, Labels: labels,
}

// Conf is what MeshLoadBalancingStrategy configures. At least one section must be set; for a MeshHTTPRoute only hashPolicies can be.
type Conf struct {
	// LocalityAwareness says how near endpoints are preferred.
	LocalityAwareness *LocalityAwareness `json:"localityAwareness,omitempty"`
	// LoadBalancer says how one of the preferred endpoints is picked.
	LoadBalancer *LoadBalancer `json:"loadBalancer,omitempty"`
	// HashPolicies say what is hashed with RingHash and Maglev, in order. An empty list hashes nothing.
	HashPolicies []HashPolicy `json:"hashPolicies,omitempty"`
}

// LocalityAwareness says how near endpoints are preferred. Without it those of the own zone are used while they can serve,
// then those of all other zones.
type LocalityAwareness struct {
	// Disabled spreads traffic over all zones, in proportion to their endpoints. The rest of the section has then no effect. Default false.
	Disabled *bool `json:"disabled,omitempty"`
	// LocalZone prefers some endpoints of the own zone to others.
	LocalZone *LocalZone `json:"localZone,omitempty"`
	// CrossZone says where traffic goes when the own zone cannot serve it. Only with kind MeshMultiZoneService or Mesh, where it
	// concerns the multi-zone services.
	CrossZone *CrossZone `json:"crossZone,omitempty"`
}

// LocalZone prefers some endpoints of the own zone to others.
type LocalZone struct {
	// AffinityTags are labels of dataplanes: endpoints with the same value as the sending proxy are preferred, by the first label that
	// is equal. A label that the sending proxy lacks is passed over. At most 8; an empty list prefers none.
	AffinityTags []AffinityTag `json:"affinityTags,omitempty"`
}

// An AffinityTag is a label that sender and endpoint have in common.
type AffinityTag struct {
	// Key of the label. Required; each only once.
	Key string `json:"key"`
	// Weight of the traffic to endpoints with an equal value, 1 to 1000000; endpoints that share no label have 1.
	// For all tags or for none. Default 9, 90, 900 … from the last to the first.
	Weight *uint32 `json:"weight,omitempty"`
}

// CrossZone says where traffic goes when the own zone cannot serve it.
type CrossZone struct {
	// Failover lists where traffic goes, in order; zones that no rule names get none. Without rules: to all zones at once.
	Failover []Failover `json:"failover,omitempty"`
	// FailoverThreshold says when.
	FailoverThreshold *FailoverThreshold `json:"failoverThreshold,omitempty"`
}

// A Failover is one step away from the own zone.
type Failover struct {
	// From limits the rule to senders of some zones. Default all.
	From *FromZones `json:"from,omitempty"`
	// To says where traffic goes.
	To ToZones `json:"to"`
}

// FromZones are the zones of senders.
type FromZones struct {
	// Zones by name, at least one. Required.
	Zones []string `json:"zones"`
}

// ToZones are zones that take traffic.
type ToZones struct {
	// Type is Any, AnyExcept, Only or None (no further zone, whatever rules follow). Zones that an earlier rule has taken are left out. Required.
	Type string `json:"type"`
	// Zones by name, with Only and AnyExcept.
	Zones []string `json:"zones,omitempty"`
}

// The values of ToZones.Type.
const (
	None      = "None"
	Only      = "Only"
	Any       = "Any"
	AnyExcept = "AnyExcept"
)

// FailoverThreshold says when traffic goes on.
type FailoverThreshold struct {
	// Percentage of healthy endpoints, of this zone or of a step of failover, below which part of the traffic goes to the next step:
	// greater than 0, at most 100, as a whole number or a decimal string. Required. Without any threshold 50 with localZone or crossZone, otherwise about 71.
	Percentage policy.Decimal `json:"percentage"`
}

// LoadBalancer says how one of the preferred endpoints is picked.
type LoadBalancer struct {
	// Type is RoundRobin, LeastRequest, RingHash, Random or Maglev. Required.
	Type string `json:"type"`
	// RoundRobin has no settings.
	RoundRobin *struct{} `json:"roundRobin,omitempty"`
	// LeastRequest picks some endpoints at random and takes the one with the fewest requests in progress.
	LeastRequest *LeastRequest `json:"leastRequest,omitempty"`
	// RingHash sends equal hashes to the same endpoint; each has a share of a ring.
	RingHash *RingHash `json:"ringHash,omitempty"`
	// Random has no settings.
	Random *struct{} `json:"random,omitempty"`
	// Maglev sends equal hashes to the same endpoint by a table: faster than a ring, and moved more when endpoints change.
	Maglev *Maglev `json:"maglev,omitempty"`
}

// The values of LoadBalancer.Type.
const (
	UseRoundRobin   = "RoundRobin"
	UseLeastRequest = "LeastRequest"
	UseRingHash     = "RingHash"
	UseRandom       = "Random"
	UseMaglev       = "Maglev"
)

// LeastRequest are the settings of LeastRequest.
type LeastRequest struct {
	// ChoiceCount is how many endpoints are compared, from 2. Default 2.
	ChoiceCount *uint32 `json:"choiceCount,omitempty"`
	// ActiveRequestBias is how strongly requests in progress count against an endpoint when weights differ: 0 not at all, up to 100,
	// as a whole number or a decimal string. Default 1.
	ActiveRequestBias *policy.Decimal `json:"activeRequestBias,omitempty"`
}

// RingHash are the settings of RingHash.
type RingHash struct {
	// HashFunction is XXHash or MurmurHash2. Default XXHash.
	HashFunction *string `json:"hashFunction,omitempty"`
	// MinRingSize is the least number of entries, 1 to 8000000. More spread better. Default 1024, or maxRingSize when that is less.
	MinRingSize *uint32 `json:"minRingSize,omitempty"`
	// MaxRingSize is the greatest number of entries, 1 to 8000000. Default 8000000.
	MaxRingSize *uint32 `json:"maxRingSize,omitempty"`
}

// The values of RingHash.HashFunction.
const (
	XXHash      = "XXHash"
	MurmurHash2 = "MurmurHash2"
)

// Maglev are the settings of Maglev.
type Maglev struct {
	// TableSize is the number of entries, a prime of at most 5000011. More move less when endpoints change. Default 65537.
	TableSize *uint32 `json:"tableSize,omitempty"`
}

// A HashPolicy is one thing that is hashed. The field that belongs to the type must be set, and no other.
type HashPolicy struct {
	// Type is Header, Cookie, Connection, QueryParameter or FilterState. Only Connection and FilterState exist for tcp. Required.
	Type string `json:"type"`
	// Terminal ends the list here when there is a hash by now, so that what follows is only for requests without. Default false.
	Terminal *bool `json:"terminal,omitempty"`
	// Header of the request.
	Header *Header `json:"header,omitempty"`
	// Cookie of the request.
	Cookie *Cookie `json:"cookie,omitempty"`
	// Connection that the request comes on.
	Connection *Connection `json:"connection,omitempty"`
	// QueryParameter of the request.
	QueryParameter *QueryParameter `json:"queryParameter,omitempty"`
	// FilterState is an object that a filter of Envoy left behind.
	FilterState *FilterState `json:"filterState,omitempty"`
}

// The values of HashPolicy.Type.
const (
	ByHeader         = "Header"
	ByCookie         = "Cookie"
	ByConnection     = "Connection"
	ByQueryParameter = "QueryParameter"
	ByFilterState    = "FilterState"
)

// Header names a header.
type Header struct {
	// Name of the header. Required.
	Name string `json:"name"`
}

// Cookie names a cookie.
type Cookie struct {
	// Name of the cookie. Required.
	Name string `json:"name"`
	// TTL of the cookie that is made for clients without one; 0 is a cookie for the session. Default: none is made.
	TTL *policy.Duration `json:"ttl,omitempty"`
	// Path of a cookie that is made, absolute. Default none.
	Path *string `json:"path,omitempty"`
}

// Connection says what of a connection is hashed.
type Connection struct {
	// SourceIP hashes the address of the client, which is the workload beside the proxy. Without it nothing is hashed. Default false.
	SourceIP *bool `json:"sourceIP,omitempty"`
}

// QueryParameter names a parameter of the query.
type QueryParameter struct {
	// Name of the parameter, in exact case. Required.
	Name string `json:"name"`
}

// FilterState names an object in the filter state.
type FilterState struct {
	// Key of the object. Required.
	Key string `json:"key"`
}
