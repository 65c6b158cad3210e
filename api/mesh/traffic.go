package mesh

import (
	"cmp"
	"slices"
	"time"
)

// A TrafficReport is what was sent in a mesh lately, as proxies counted it.
type TrafficReport struct {
	// Window is how many seconds the counts are of at most; they end now, or where AsOf says.
	Window float64 `json:"window"`
	// Items are in the order of services and zones.
	Items []Traffic `json:"items"`
	// LeftOut counts what was not counted apart because there is too much, since the control plane started.
	LeftOut uint64 `json:"leftOut,omitempty"`
}

// Traffic is what the proxies of one zone sent to one port of a service, to the endpoints of one zone and priority.
type Traffic struct {
	// Service is the KRI of the port that was sent to.
	Service string `json:"service"`
	// FromZone is where the proxies are that sent.
	FromZone string `json:"fromZone"`
	// ToZone is where the endpoints are; those of another zone are behind its ingress.
	ToZone string `json:"toZone"`
	// Priority is the step of failover that the endpoints were, from 0.
	Priority uint32 `json:"priority"`
	// Seconds is the time that the counts are of: the window, or since there has been traffic.
	Seconds float64 `json:"seconds"`
	// Requests begun in that time, or TCP connections.
	Requests uint64 `json:"requests"`
	// Errors are the requests that were answered with 5xx, reset or timed out.
	Errors uint64 `json:"errors"`
	// InProgress is how many requests there are now.
	InProgress uint64 `json:"inProgress"`
	// Connections that were opened.
	Connections uint64 `json:"connections"`
	// FailedConnections are those that could not be opened.
	FailedConnections uint64 `json:"failedConnections"`
	// BytesSent to the service, without what TLS adds. A proxy counts them per service.
	BytesSent uint64 `json:"bytesSent"`
	// BytesReceived are counted in the same way.
	BytesReceived uint64 `json:"bytesReceived"`
	// BytesShared says that a proxy used endpoints of several zones or priorities at a time: what it counted was then divided by the
	// requests that were in progress with each, so bytes are estimates. Otherwise they are exact.
	BytesShared bool `json:"bytesShared,omitempty"`
	// RequestsPerSecond is the rate of requests.
	RequestsPerSecond float64 `json:"requestsPerSecond"`
	// ErrorsPerSecond is the rate of errors.
	ErrorsPerSecond float64 `json:"errorsPerSecond"`
	// AsOf is when the zone told this, at global.
	AsOf time.Time `json:"asOf,omitzero"`
	// Stale says that the zone that told this is not connected.
	Stale bool `json:"stale,omitempty"`
}

// SortTraffic puts traffic in the order in which it is listed.
func SortTraffic(list []Traffic) {
	slices.SortFunc(list, func(a, b Traffic) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.FromZone, b.FromZone),
			cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.ToZone, b.ToZone))
	})
}

// AddTraffic joins counts of the same service, zones and priority, such as those of several instances of a zone. The rates add up.
func AddTraffic(lists ...[]Traffic) []Traffic {
	var all []Traffic
	for _, l := range lists {
		all = append(all, l...)
	}
	SortTraffic(all)
	var out []Traffic
	for _, t := range all {
		if n := len(out); n > 0 && out[n-1].same(t) {
			out[n-1].add(t)
			continue
		}
		out = append(out, t)
	}
	return out
}

func (t Traffic) same(o Traffic) bool {
	return t.Service == o.Service && t.FromZone == o.FromZone && t.ToZone == o.ToZone && t.Priority == o.Priority
}

func (t *Traffic) add(o Traffic) {
	t.Seconds = max(t.Seconds, o.Seconds)
	t.Requests += o.Requests
	t.Errors += o.Errors
	t.InProgress += o.InProgress
	t.Connections += o.Connections
	t.FailedConnections += o.FailedConnections
	t.BytesSent += o.BytesSent
	t.BytesReceived += o.BytesReceived
	t.BytesShared = t.BytesShared || o.BytesShared
	t.RequestsPerSecond += o.RequestsPerSecond
	t.ErrorsPerSecond += o.ErrorsPerSecond
}
