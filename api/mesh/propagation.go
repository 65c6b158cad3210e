package mesh

// Propagation is how far a revision of global's store has come in the zones.
type Propagation struct {
	// Revision that was asked for, and the position of global's store now.
	Revision uint64 `json:"revision"`
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
	Zone   string           `json:"zone"`
	State  PropagationState `json:"state"`
	Online bool             `json:"online"`
	// Revisions up to which the zone has received, computed and acknowledged everything.
	Received     uint64 `json:"received"`
	Computed     uint64 `json:"computed"`
	Acknowledged uint64 `json:"acknowledged"`
	// Lag is how many revisions the zone has not received yet.
	Lag     uint64      `json:"lag"`
	Proxies ProxyCounts `json:"proxies"`
	// Exceptions are pieces of configuration that proxies do not get, and objects that the zone has set aside.
	Exceptions []PropagationException `json:"exceptions,omitempty"`
	// MoreExceptions counts those that are not listed.
	MoreExceptions uint64 `json:"moreExceptions,omitempty"`
}

// ProxyCounts says how the connected proxies of a zone stand to its newest tables.
type ProxyCounts struct {
	Connected    uint64 `json:"connected"`
	Acknowledged uint64 `json:"acknowledged"`
	Pending      uint64 `json:"pending"`
	Rejected     uint64 `json:"rejected"`
}

// A PropagationException is something that is not in force, with the policies behind it.
type PropagationException struct {
	Mesh      string   `json:"mesh,omitempty"`
	Dataplane string   `json:"dataplane,omitempty"`
	Type      string   `json:"type"`
	Name      string   `json:"name"`
	Reason    string   `json:"reason"`
	Policies  []string `json:"policies,omitempty"`
}
