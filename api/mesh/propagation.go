package mesh

// Propagation is how far a revision of global's store has come in the zones.
type Propagation struct {
	// Revision that was asked for.
	Revision uint64 `json:"revision"`
	// Position of global's store now.
	Position string `json:"position"`
	// Zones that the revision has to reach, by name.
	Zones []ZonePropagation `json:"zones"`
}

// A PropagationState is how far a revision has come in one zone.
type PropagationState string

// The states of a revision in a zone, from the least to the most; a rejected one has come as far as it will.
const (
	PropagationAway         PropagationState = "away"         // the zone is not connected, and had not received it
	PropagationPending      PropagationState = "pending"      // on its way to the zone
	PropagationReceived     PropagationState = "received"     // durable in the zone
	PropagationComputed     PropagationState = "computed"     // part of the tables of its proxies
	PropagationAcknowledged PropagationState = "acknowledged" // acknowledged by all connected proxies
	PropagationRejected     PropagationState = "rejected"     // acknowledged except for what proxies or the zone refuse
)

// Reached says that a revision has come at least as far as another state.
func (s PropagationState) Reached(o PropagationState) bool { return s.rank() >= o.rank() }

func (s PropagationState) rank() int {
	switch s {
	case PropagationReceived:
		return 1
	case PropagationComputed:
		return 2
	case PropagationAcknowledged, PropagationRejected:
		return 3
	}
	return 0
}

// ZonePropagation is how far a revision has come in one zone.
type ZonePropagation struct {
	// Zone by name.
	Zone string `json:"zone"`
	// State is how far the revision has come there.
	State PropagationState `json:"state"`
	// Online says that the zone is connected.
	Online bool `json:"online"`
	// Received is the revision up to which all is durable in the zone.
	Received uint64 `json:"received"`
	// Computed is the revision up to which all is part of the tables of proxies.
	Computed uint64 `json:"computed"`
	// Acknowledged is the revision up to which all is acknowledged by proxies.
	Acknowledged uint64 `json:"acknowledged"`
	// Lag is how many revisions the zone has not received yet.
	Lag uint64 `json:"lag"`
	// Proxies says how the connected proxies stand.
	Proxies ProxyCounts `json:"proxies"`
	// Exceptions are pieces of configuration that proxies do not get, and objects that the zone has set aside.
	Exceptions []PropagationException `json:"exceptions,omitempty"`
	// MoreExceptions counts those that are not listed.
	MoreExceptions uint64 `json:"moreExceptions,omitempty"`
}

// ProxyCounts says how the connected proxies of a zone stand to its newest tables.
type ProxyCounts struct {
	// Connected to the zone's control plane.
	Connected uint64 `json:"connected"`
	// Acknowledged everything.
	Acknowledged uint64 `json:"acknowledged"`
	// Pending have not answered yet.
	Pending uint64 `json:"pending"`
	// Rejected something.
	Rejected uint64 `json:"rejected"`
}

// A PropagationException is something that is not in force, with the policies behind it.
type PropagationException struct {
	// Mesh of the proxy or object.
	Mesh string `json:"mesh,omitempty"`
	// Dataplane of the proxy that refuses it; absent when it concerns several.
	Dataplane string `json:"dataplane,omitempty"`
	// Type of the piece of configuration or object.
	Type string `json:"type"`
	// Name of the piece of configuration or object.
	Name string `json:"name"`
	// Reason for people.
	Reason string `json:"reason"`
	// Policies behind it, by KRI.
	Policies []string `json:"policies,omitempty"`
}
