// Package healthcheck is the MeshHealthCheck policy: clients ask the endpoints of a destination whether they are well, and pass over
// those that are not. What the control plane knows of endpoints, and what requests tell, is not its affair; MeshCircuitBreaker ejects by the latter.
package healthcheck

import (
	"encoding/base64"
	"path"
	"strings"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Policy is MeshHealthCheck.
var Policy = policy.Kind[Conf]{
	Name: "MeshHealthCheck", Path: "meshhealthchecks", Short: "mhc", Singular: "Mesh Health Check", Plural: "Mesh Health Checks",
	ToKinds: []string{policy.TargetMesh, policy.TargetService, policy.TargetExternal, policy.TargetMultiZone},
	Check:   check, Warn: warn, Hooks: hooks,
}

// Conf is what MeshHealthCheck configures. At least one of tcp, http and grpc must be set.
type Conf struct {
	// Interval is the time from one check to the next. Greater than 0. Default 1m.
	Interval *policy.Duration `json:"interval,omitempty"`
	// UnhealthyInterval is the interval while an endpoint is not well. Greater than 0. Default interval.
	UnhealthyInterval *policy.Duration `json:"unhealthyInterval,omitempty"`
	// Timeout is how long a check may take. Greater than 0. Default 15s.
	Timeout *policy.Duration `json:"timeout,omitempty"`
	// UnhealthyThreshold is how many checks in a row must fail until an endpoint is passed over. Greater than 0. Default 5.
	UnhealthyThreshold *uint32 `json:"unhealthyThreshold,omitempty"`
	// HealthyThreshold is how many checks in a row must succeed until it gets traffic again. Greater than 0. Default 1.
	HealthyThreshold *uint32 `json:"healthyThreshold,omitempty"`
	// InitialJitter is up to how much later, at random, the first check is made. Greater than 0. Default none.
	InitialJitter *policy.Duration `json:"initialJitter,omitempty"`
	// IntervalJitter is up to how much is added at random to every interval. Greater than 0. Default none.
	IntervalJitter *policy.Duration `json:"intervalJitter,omitempty"`
	// IntervalJitterPercent is the same as a percentage of the interval, 0 to 100; both add up. Default 0.
	IntervalJitterPercent *uint32 `json:"intervalJitterPercent,omitempty"`
	// FailTrafficOnPanic lets requests fail at once when so few endpoints are well that the panic threshold of MeshCircuitBreaker
	// is reached, instead of spreading them over all endpoints. Default false.
	FailTrafficOnPanic *bool `json:"failTrafficOnPanic,omitempty"`
	// EventLogPath is the file, on the client's host, that Envoy writes changes of health to. An absolute path. Default no log.
	EventLogPath *string `json:"eventLogPath,omitempty"`
	// AlwaysLogHealthCheckFailures writes every failed check to the log, not only the first in a row. Default false.
	AlwaysLogHealthCheckFailures *bool `json:"alwaysLogHealthCheckFailures,omitempty"`
	// NoTrafficInterval is the interval while the client has never sent anything to the destination, for endpoints that are well. Greater than 0. Default 60s.
	NoTrafficInterval *policy.Duration `json:"noTrafficInterval,omitempty"`
	// ReuseConnection makes checks on a connection that is kept open. Default true.
	ReuseConnection *bool `json:"reuseConnection,omitempty"`
	// TCP checks ports that do not speak http, http2 or grpc, and those that do while their own section is there with disabled: true.
	TCP *TCP `json:"tcp,omitempty"`
	// HTTP checks ports that speak http or http2.
	HTTP *HTTP `json:"http,omitempty"`
	// GRPC checks ports that speak grpc, by the standard health service.
	GRPC *GRPC `json:"grpc,omitempty"`
}

// TCP checks by connecting and, when send or receive is set, by an exchange of bytes.
type TCP struct {
	// Disabled switches these checks off. Default false.
	Disabled *bool `json:"disabled,omitempty"`
	// Send is what is sent, in base64. Default nothing.
	Send *string `json:"send,omitempty"`
	// Receive lists what must come back, each in base64: in this order, with anything in between. Default nothing; connecting is enough.
	Receive []string `json:"receive,omitempty"`
}

// HTTP checks by a GET request.
type HTTP struct {
	// Disabled switches these checks off. Default false.
	Disabled *bool `json:"disabled,omitempty"`
	// Path that is asked for, with a query if need be. Default "/".
	Path *string `json:"path,omitempty"`
	// RequestHeadersToAdd are headers of the request. Default none but those of Envoy.
	RequestHeadersToAdd *policy.Headers `json:"requestHeadersToAdd,omitempty"`
	// ExpectedStatuses lists the answers that say it is well, 100 to 599. Default 200.
	ExpectedStatuses []uint32 `json:"expectedStatuses,omitempty"`
}

// GRPC checks by calling grpc.health.v1.Health/Check.
type GRPC struct {
	// Disabled switches these checks off. Default false.
	Disabled *bool `json:"disabled,omitempty"`
	// ServiceName is the service that is asked about. Default the whole server.
	ServiceName *string `json:"serviceName,omitempty"`
	// Authority is the :authority header of the call. Default the name of the cluster.
	Authority *string `json:"authority,omitempty"`
}

const (
	maxStatuses = 64
	maxBlocks   = 16
	maxPayload  = 4096
)

func check(at resource.Path, c Conf, _ policy.Where) resource.Problems {
	var ps resource.Problems
	if c.TCP == nil && c.HTTP == nil && c.GRPC == nil {
		ps.Add(at, "must have tcp, http or grpc")
	}
	for _, f := range []struct {
		name  string
		value *policy.Duration
	}{
		{"interval", c.Interval},
		{"unhealthyInterval", c.UnhealthyInterval},
		{"timeout", c.Timeout},
		{"initialJitter", c.InitialJitter},
		{"intervalJitter", c.IntervalJitter},
		{"noTrafficInterval", c.NoTrafficInterval},
	} {
		ps.Append(policy.CheckPositive(at.Field(f.name), f.value))
	}
	if n := c.UnhealthyThreshold; n != nil && *n == 0 {
		ps.Add(at.Field("unhealthyThreshold"), "must be greater than 0")
	}
	if n := c.HealthyThreshold; n != nil && *n == 0 {
		ps.Add(at.Field("healthyThreshold"), "must be greater than 0")
	}
	if p := c.IntervalJitterPercent; p != nil && *p > 100 {
		ps.Add(at.Field("intervalJitterPercent"), "must be between 0 and 100")
	}
	if p := c.EventLogPath; p != nil {
		ps.Append(checkLogPath(at.Field("eventLogPath"), *p))
	}
	if c.TCP != nil {
		ps.Append(c.TCP.check(at.Field("tcp")))
	}
	if c.HTTP != nil {
		ps.Append(c.HTTP.check(at.Field("http")))
	}
	if c.GRPC != nil {
		ps.Append(c.GRPC.check(at.Field("grpc")))
	}
	return ps
}

func checkLogPath(at resource.Path, p string) resource.Problems {
	var ps resource.Problems
	if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || len(p) > 1024 || strings.ContainsFunc(p, isControl) {
		ps.Add(at, "%s is not the absolute path of a file", resource.Quote(p))
	}
	return ps
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func (t TCP) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	block := func(at resource.Path, s string) {
		if s == "" || len(s) > maxPayload {
			ps.Add(at, "must have 1 to %d characters", maxPayload)
		}
	}
	if t.Send != nil {
		block(at.Field("send"), *t.Send)
	}
	if len(t.Receive) > maxBlocks {
		ps.Add(at.Field("receive"), "has %d entries, at most %d are allowed", len(t.Receive), maxBlocks)
	}
	for i, r := range t.Receive {
		block(at.Field("receive").Index(i), r)
	}
	return ps
}

func (h HTTP) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	if p := h.Path; p != nil {
		if !strings.HasPrefix(*p, "/") || strings.ContainsAny(*p, "# ") || len(*p) > 1024 || strings.ContainsFunc(*p, isControl) {
			ps.Add(at.Field("path"), "%s is not a path; it must begin with a slash", resource.Quote(*p))
		}
	}
	if h.RequestHeadersToAdd != nil {
		ps.Append(h.RequestHeadersToAdd.Check(at.Field("requestHeadersToAdd"), map[string]bool{}))
	}
	if len(h.ExpectedStatuses) > maxStatuses {
		ps.Add(at.Field("expectedStatuses"), "has %d entries, at most %d are allowed", len(h.ExpectedStatuses), maxStatuses)
	}
	for i, s := range h.ExpectedStatuses {
		if s < 100 || s > 599 {
			ps.Add(at.Field("expectedStatuses").Index(i), "must be between 100 and 599")
		}
	}
	return ps
}

func (g GRPC) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	for _, f := range []struct {
		name  string
		value *string
	}{{"serviceName", g.ServiceName}, {"authority", g.Authority}} {
		if f.value != nil {
			ps.Append(policy.CheckHeaderValue(at.Field(f.name), *f.value))
		}
	}
	return ps
}

func warn(at resource.Path, c Conf, _ policy.Where) []string {
	if c.TCP == nil {
		return nil
	}
	var out []string
	note := func(at resource.Path, s string) {
		if _, ok := decoded(s); !ok {
			out = append(out, string(at)+" is not base64, so it is taken as it stands; encode it, because text that looks like base64 is decoded")
		}
	}
	at = at.Field("tcp")
	if c.TCP.Send != nil {
		note(at.Field("send"), *c.TCP.Send)
	}
	for i, r := range c.TCP.Receive {
		note(at.Field("receive").Index(i), r)
	}
	return out
}

// decoded reads base64, with or without padding; what is none is taken as it stands.
func decoded(s string) ([]byte, bool) {
	for _, e := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding} {
		if b, err := e.DecodeString(s); err == nil {
			return b, true
		}
	}
	return []byte(s), false
}

// Ineffective says what of the checks in force for a port of a protocol has no effect.
func Ineffective(c Conf, p mesh.Protocol) []string {
	if c.kind(p) != none {
		return nil
	}
	own, off := "tcp", c.TCP.off()
	switch {
	case p == mesh.GRPC:
		own, off = "grpc", c.GRPC.off()
	case p.IsHTTP():
		own, off = "http", c.HTTP.off()
	}
	if off {
		return nil
	}
	return []string{"nothing is checked: a port of protocol " + string(p) + " needs the section " + own}
}

func (t *TCP) off() bool  { return t != nil && t.Disabled != nil && *t.Disabled }
func (h *HTTP) off() bool { return h != nil && h.Disabled != nil && *h.Disabled }
func (g *GRPC) off() bool { return g != nil && g.Disabled != nil && *g.Disabled }
