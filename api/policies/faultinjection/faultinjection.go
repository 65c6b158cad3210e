// Package faultinjection is the MeshFaultInjection policy: requests that a workload receives are refused, delayed or answered slowly on purpose,
// to learn what their clients make of it. It breaks nothing on the sending side, and no connections of bytes.
package faultinjection

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Policy is MeshFaultInjection.
var Policy = policy.Kind[Conf]{
	Name: "MeshFaultInjection", Path: "meshfaultinjections", Short: "mfi", Singular: "Mesh Fault Injection", Plural: "Mesh Fault Injections",
	ToKinds: []string{policy.TargetMesh}, Rules: true, RuleMatches: true, ToAndRules: true,
	Check: check, Warn: warn, Hooks: hooks,
}

// Conf is what MeshFaultInjection configures.
type Conf struct {
	// HTTP lists faults of ports that speak http, http2 or grpc. Each is decided upon on its own, so several can hit one request.
	// An empty list spares the clients that it is for.
	HTTP []Fault `json:"http,omitempty"`
}

// Fault is what happens to a share of the requests.
type Fault struct {
	// Abort answers in the place of the workload.
	Abort *Abort `json:"abort,omitempty"`
	// Delay lets the request wait before it goes on to the workload.
	Delay *Delay `json:"delay,omitempty"`
	// ResponseBandwidth slows the body of the response down.
	ResponseBandwidth *ResponseBandwidth `json:"responseBandwidth,omitempty"`
}

// Abort answers in the place of the workload.
type Abort struct {
	// HTTPStatus of the answer, 200 to 599. A grpc client gets the grpc status that corresponds. Required.
	HTTPStatus uint32 `json:"httpStatus"`
	// Percentage of requests, 0 to 100, as a whole number or a decimal string. Required.
	Percentage *policy.Decimal `json:"percentage"`
}

// Delay lets requests wait.
type Delay struct {
	// Value is how long. Required.
	Value *policy.Duration `json:"value"`
	// Percentage of requests, 0 to 100, as a whole number or a decimal string. Required.
	Percentage *policy.Decimal `json:"percentage"`
}

// ResponseBandwidth slows responses down.
type ResponseBandwidth struct {
	// Limit of each response, such as 50kbps, 1Mbps or 1Gbps. Required.
	Limit string `json:"limit"`
	// Percentage of requests, 0 to 100, as a whole number or a decimal string. Required.
	Percentage *policy.Decimal `json:"percentage"`
}

// maxFaults bounds the filters that a request passes.
const maxFaults = 16

func check(at resource.Path, c Conf, _ policy.Where) resource.Problems {
	var ps resource.Problems
	at = at.Field("http")
	if len(c.HTTP) > maxFaults {
		ps.Add(at, "has %d entries, at most %d are allowed", len(c.HTTP), maxFaults)
	}
	for i, f := range c.HTTP {
		ps.Append(f.check(at.Index(i)))
	}
	return ps
}

func (f Fault) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	percentage := func(at resource.Path, p *policy.Decimal) {
		if p == nil {
			ps.Add(at.Field("percentage"), "must be set")
		}
		ps.Append(policy.CheckPercent(at.Field("percentage"), p))
	}
	if a := f.Abort; a != nil {
		at := at.Field("abort")
		if a.HTTPStatus < 200 || a.HTTPStatus > 599 {
			ps.Add(at.Field("httpStatus"), "must be between 200 and 599")
		}
		percentage(at, a.Percentage)
	}
	if d := f.Delay; d != nil {
		at := at.Field("delay")
		if d.Value == nil {
			ps.Add(at.Field("value"), "must be set")
		}
		ps.Append(policy.CheckNotNegative(at.Field("value"), d.Value))
		percentage(at, d.Percentage)
	}
	if b := f.ResponseBandwidth; b != nil {
		at := at.Field("responseBandwidth")
		if _, ok := kbps(b.Limit); !ok {
			ps.Add(at.Field("limit"), "%s is not a bandwidth such as 50kbps, 1Mbps or 1Gbps", resource.Quote(b.Limit))
		}
		percentage(at, b.Percentage)
	}
	return ps
}

func warn(at resource.Path, c Conf, where policy.Where) []string {
	if where.Section == "to" {
		// The API of Kuma takes to, and makes nothing of it.
		return []string{string(at) + " has no effect: faults are injected where requests are received; use rules, in a policy for the proxies of the destination"}
	}
	var out []string
	if c.HTTP == nil {
		out = append(out, string(at)+" has no effect without http")
	}
	for i, f := range c.HTTP {
		if f == (Fault{}) {
			out = append(out, string(at.Field("http").Index(i))+" has no effect without abort, delay or responseBandwidth")
		}
	}
	return out
}

var bandwidth = regexp.MustCompile(`^(\d{1,9})\s?([kKmMgG])bps$`)

// kbps reads a bandwidth as kilobits per second, at least 1.
func kbps(s string) (uint64, bool) {
	m := bandwidth.FindStringSubmatch(s)
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseUint(m[1], 10, 64)
	if err != nil || n == 0 {
		return 0, false
	}
	factor := map[string]uint64{"k": 1, "m": 1000, "g": 1000 * 1000}[strings.ToLower(m[2])]
	return n * factor, true
}
