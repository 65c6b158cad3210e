// Package ratelimit is the MeshRateLimit policy: how many requests and new connections per time a workload accepts. Each proxy counts
// for itself; there is no limit over all instances of a service.
package ratelimit

import (
	"time"

	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Policy is MeshRateLimit.
var Policy = policy.Kind[Conf]{
	Name: "MeshRateLimit", Path: "meshratelimits", Short: "mrl", Singular: "Mesh Rate Limit", Plural: "Mesh Rate Limits",
	ToKinds: []string{policy.TargetMesh}, Rules: true, RuleMatches: true,
	Check: check, Warn: warn, Hooks: hooks,
}

// Conf is what MeshRateLimit configures.
type Conf struct {
	// Local limits are counted by each proxy for itself. Required.
	Local *Local `json:"local,omitempty"`
}

// Local is what one proxy accepts. At least one of http and tcp must be set.
type Local struct {
	// HTTP limits requests to ports that speak http, http2 or grpc.
	HTTP *HTTP `json:"http,omitempty"`
	// TCP limits new connections to ports of any protocol. Not in rules that match clients by spiffeID.
	TCP *TCP `json:"tcp,omitempty"`
}

// HTTP limits requests. At least one field must be set.
type HTTP struct {
	// Disabled lifts the limit, for instance for some clients. Default false.
	Disabled *bool `json:"disabled,omitempty"`
	// RequestRate is how many requests are accepted.
	RequestRate *Rate `json:"requestRate,omitempty"`
	// OnRateLimit says how a request beyond the limit is answered.
	OnRateLimit *OnRateLimit `json:"onRateLimit,omitempty"`
}

// TCP limits connections. At least one field must be set.
type TCP struct {
	// Disabled lifts the limit. Default false.
	Disabled *bool `json:"disabled,omitempty"`
	// ConnectionRate is how many new connections are accepted. Others are closed at once.
	ConnectionRate *Rate `json:"connectionRate,omitempty"`
}

// Rate is a number per time. All of them may come at once; then none until the interval is over.
type Rate struct {
	// Num is how many. Greater than 0. Required.
	Num uint32 `json:"num"`
	// Interval in which they are accepted. Greater than 50ms. Required.
	Interval *policy.Duration `json:"interval"`
}

// OnRateLimit is the answer to a request beyond the limit.
type OnRateLimit struct {
	// Status of the answer, a registered one from 400 on. Default 429. A grpc client gets RESOURCE_EXHAUSTED.
	Status *uint32 `json:"status,omitempty"`
	// Headers of the answer.
	Headers *policy.Headers `json:"headers,omitempty"`
}

// tooShort is the longest interval that Envoy does not count in.
const tooShort = 50 * time.Millisecond

func check(at resource.Path, c Conf, where policy.Where) resource.Problems {
	var ps resource.Problems
	at = at.Field("local")
	l := c.Local
	switch {
	case l == nil:
		ps.Add(at, "must be set")
		return ps
	case l.HTTP == nil && l.TCP == nil:
		ps.Add(at, "must have http or tcp")
	}
	if l.HTTP != nil {
		ps.Append(l.HTTP.check(at.Field("http")))
	}
	if l.TCP != nil {
		ps.Append(l.TCP.check(at.Field("tcp")))
		for _, m := range where.Matches {
			if m.SpiffeID != nil {
				ps.Add(at.Field("tcp"), "is not possible in a rule that matches clients by spiffeID: connections are counted before it is known whose they are")
				break
			}
		}
	}
	return ps
}

func (h HTTP) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	if h == (HTTP{}) {
		ps.Add(at, "must have disabled, requestRate or onRateLimit")
	}
	if h.RequestRate != nil {
		ps.Append(h.RequestRate.check(at.Field("requestRate")))
	}
	if o := h.OnRateLimit; o != nil {
		at := at.Field("onRateLimit")
		if s := o.Status; s != nil {
			// Envoy takes those that have a name.
			if _, known := typev3.StatusCode_name[int32(min(*s, 1000))]; !known || *s == 0 {
				ps.Add(at.Field("status"), "must be a registered HTTP status from 400 to 599")
			}
		}
		if o.Headers != nil {
			ps.Append(o.Headers.Check(at.Field("headers"), map[string]bool{}))
		}
	}
	return ps
}

func (t TCP) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	if t == (TCP{}) {
		ps.Add(at, "must have disabled or connectionRate")
	}
	if t.ConnectionRate != nil {
		ps.Append(t.ConnectionRate.check(at.Field("connectionRate")))
	}
	return ps
}

func (r Rate) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	if r.Num == 0 {
		ps.Add(at.Field("num"), "must be greater than 0")
	}
	switch i := at.Field("interval"); {
	case r.Interval == nil:
		ps.Add(i, "must be set")
	case r.Interval.Duration <= tooShort:
		ps.Add(i, "must be greater than %s", tooShort)
	default:
		ps.Append(policy.CheckPositive(i, r.Interval))
	}
	return ps
}

func warn(at resource.Path, c Conf, where policy.Where) []string {
	if where.Section == "to" {
		// The API of Kuma takes to, and makes nothing of it.
		return []string{string(at) + " has no effect: requests are counted where they are received; use rules, in a policy for the proxies of the destination"}
	}
	var out []string
	if c.Local != nil && c.Local.HTTP != nil {
		if o := c.Local.HTTP.OnRateLimit; o != nil && o.Status != nil && *o.Status < 400 {
			out = append(out, string(at.Field("local.http.onRateLimit.status"))+" has no effect below 400: the answer would look like a success, and is 429 instead")
		}
	}
	return out
}
