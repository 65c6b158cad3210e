// Package timeout is the MeshTimeout policy: how long connecting, idling and single requests may take.
// It does not retry what timed out; MeshRetry does.
package timeout

import (
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Policy is MeshTimeout.
var Policy = policy.Kind[Conf]{
	Name: "MeshTimeout", Path: "meshtimeouts", Short: "mt", Singular: "Mesh Timeout", Plural: "Mesh Timeouts",
	ToKinds: []string{policy.TargetMesh, policy.TargetService, policy.TargetExternal, policy.TargetMultiZone, policy.TargetHTTPRoute},
	Rules:   true, RuleMatches: true,
	Check: check, Base: base, Hooks: hooks,
}

// Conf is what MeshTimeout configures.
type Conf struct {
	// ConnectionTimeout is how long establishing a connection may take. Default 5s, and 10s to the own workload.
	ConnectionTimeout *policy.Duration `json:"connectionTimeout,omitempty"`
	// IdleTimeout is how long a connection may carry no bytes (TCP) or no request (HTTP) before it is closed; 0s means forever.
	// Default 1h, and 2h for received traffic.
	IdleTimeout *policy.Duration `json:"idleTimeout,omitempty"`
	// HTTP holds timeouts for the protocols http, http2 and grpc; others ignore them.
	HTTP *HTTP `json:"http,omitempty"`
}

// HTTP holds the timeouts of HTTP requests and connections.
type HTTP struct {
	// RequestTimeout is how long a request may take until the whole response has arrived; 0s means forever.
	// Default 15s for requests sent with http or http2, none for grpc and for received requests.
	RequestTimeout *policy.Duration `json:"requestTimeout,omitempty"`
	// StreamIdleTimeout is how long a request or response may make no progress; 0s means forever.
	// Default 30m, and 1h for received requests.
	StreamIdleTimeout *policy.Duration `json:"streamIdleTimeout,omitempty"`
	// MaxStreamDuration is how long a stream may last in all; 0s means forever. Default 0s.
	MaxStreamDuration *policy.Duration `json:"maxStreamDuration,omitempty"`
	// MaxConnectionDuration is how long a connection is used before it is drained and closed; 0s means forever. Default 0s.
	MaxConnectionDuration *policy.Duration `json:"maxConnectionDuration,omitempty"`
	// RequestHeadersTimeout is how long the headers of a request may take to arrive; 0s means forever. Default 0s.
	RequestHeadersTimeout *policy.Duration `json:"requestHeadersTimeout,omitempty"`
}

// DefaultRequest is the request timeout of clients where no policy sets one.
const DefaultRequest = 15 * time.Second

// base is in force where no policy says anything. Request timeouts are written out even when there is none,
// because Envoy takes 15s for silence.
func base(d proxy.Direction, protocol string) Conf {
	c := Conf{ConnectionTimeout: after(5 * time.Second), IdleTimeout: after(time.Hour)}
	h := &HTTP{RequestTimeout: after(DefaultRequest), StreamIdleTimeout: after(30 * time.Minute)}
	if d == proxy.Inbound {
		c = Conf{ConnectionTimeout: after(10 * time.Second), IdleTimeout: after(2 * time.Hour)}
		h = &HTTP{RequestTimeout: after(0), StreamIdleTimeout: after(time.Hour)}
	}
	p := mesh.Protocol(protocol)
	if p == mesh.GRPC {
		h.RequestTimeout = after(0) // a call may be a stream; its deadline is the caller's own
	}
	if p.IsHTTP() {
		c.HTTP = h
	}
	return c
}

func after(d time.Duration) *policy.Duration { return &policy.Duration{Duration: d} }

// A setting is one timeout and where it may be used.
type setting struct {
	field  string // dotted path
	value  *policy.Duration
	perReq bool // it can differ from request to request
}

func (c Conf) settings() []setting {
	out := []setting{{"connectionTimeout", c.ConnectionTimeout, false}, {"idleTimeout", c.IdleTimeout, false}}
	if h := c.HTTP; h != nil {
		out = append(out,
			setting{"http.requestTimeout", h.RequestTimeout, true},
			setting{"http.streamIdleTimeout", h.StreamIdleTimeout, true},
			setting{"http.maxStreamDuration", h.MaxStreamDuration, false},
			setting{"http.maxConnectionDuration", h.MaxConnectionDuration, false},
			setting{"http.requestHeadersTimeout", h.RequestHeadersTimeout, false},
		)
	}
	return out
}

func check(at resource.Path, c Conf, where policy.Where) resource.Problems {
	var ps resource.Problems
	set := 0
	for _, s := range c.settings() {
		if s.value == nil {
			continue
		}
		set++
		field := at.Field(s.field)
		ps.Append(policy.CheckNotNegative(field, s.value))
		if s.value.Duration == 0 && s.field == "connectionTimeout" {
			ps.Add(field, "must be above 0s; without a limit a dead host would be waited for forever")
		}
		if reason := perRequestOnly(where); reason != "" && !s.perReq {
			ps.Add(field, "is not possible %s; only http.requestTimeout and http.streamIdleTimeout are", reason)
		}
	}
	switch {
	case set > 0:
	case c.HTTP != nil:
		ps.Add(at.Field("http"), "must have at least one timeout")
	default:
		ps.Add(at, "must have at least one timeout")
	}
	return ps
}

// perRequestOnly says why only timeouts that differ per request can be set there, empty when all can.
func perRequestOnly(where policy.Where) string {
	if where.Section == "to" && where.Target.Kind == policy.TargetHTTPRoute {
		return "for " + policy.TargetHTTPRoute
	}
	for _, m := range where.Matches {
		if m.SpiffeID != nil {
			return "in a rule that matches clients by spiffeID"
		}
	}
	return ""
}
