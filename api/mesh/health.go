package mesh

import "time"

// HealthSNI is the server name under which the control plane of a zone answers, behind the ingresses of a mesh of the zone,
// how healthy the services of that mesh are.
func HealthSNI(meshName, zone string) string { return "health." + meshName + "." + zone }

// ControlPlaneID is the SPIFFE ID of a zone's control plane in a mesh with a trust domain.
func ControlPlaneID(trustDomain string) string {
	return "spiffe://" + trustDomain + "/causeway/control-plane"
}

// ZoneReachability is what the control plane of one zone finds when it asks that of another zone through one of its ingresses.
type ZoneReachability struct {
	// Zone that the ingress belongs to.
	Zone string `json:"zone"`
	// Mesh that the ingress belongs to.
	Mesh string `json:"mesh"`
	// Name of the MeshZoneAddress, as it is stored in the zone that asks.
	Name string `json:"name"`
	// Address and port of the ingress.
	Address string `json:"address"`
	// Reachable says that traffic may be sent there. What was never judged is not called unreachable; see State.
	Reachable bool `json:"reachable"`
	// State says more than Reachable.
	State ReachabilityState `json:"state"`
	// Draining says that the zone asked others to send nothing new.
	Draining bool `json:"draining,omitempty"`
	// Since is when the state began.
	Since time.Time `json:"since,omitzero"`
	// Until is when a returning ingress gets traffic again, if it stays well.
	Until time.Time `json:"until,omitzero"`
	// LastAnswer is when the zone answered last; what is known of its services is at least as old when the address is not reachable.
	LastAnswer time.Time `json:"lastAnswer,omitzero"`
	// LastError is why the last attempt failed; empty when it did not.
	LastError string `json:"lastError,omitempty"`
	// RoundTrip is how long the last answer took.
	RoundTrip Duration `json:"roundTrip,omitzero"`
	// Sequence numbers what the zone last said of its services.
	Sequence uint64 `json:"sequence,omitempty"`
}

// A ReachabilityState says what is known of an ingress of another zone.
type ReachabilityState string

// The states of an ingress.
const (
	// ReachabilityUnknown is an ingress that cannot be judged: never asked, or the two control planes cannot identify each other.
	ReachabilityUnknown ReachabilityState = "Unknown"
	// ReachabilityUp is an ingress that answers.
	ReachabilityUp ReachabilityState = "Up"
	// ReachabilityDown is an ingress that does not answer.
	ReachabilityDown ReachabilityState = "Down"
	// ReachabilityReturning is an ingress that answers again but not long enough to be sent traffic.
	ReachabilityReturning ReachabilityState = "Returning"
)
