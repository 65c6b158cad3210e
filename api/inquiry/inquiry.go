// Package inquiry carries questions of operators to where the answer is known, and the answers, which can be large, back in parts: from
// global to a zone, and from a zone to an agent. Both directions are bounded, an answer that
// nobody waits for any more is given up, and nothing here holds up other traffic of the connection. It does not decide who may ask,
// what can be asked, or who knows the answer.
package inquiry

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative inquiry.proto

import (
	"errors"
	"fmt"
	"time"

	"github.com/causeway-mesh/causeway/api/resource"
)

// What can be asked.
const (
	// WhatConfig is what the zone computed for a proxy.
	WhatConfig = "config"
	// WhatDump, WhatStats and WhatClusters are what a proxy's Envoy says of itself.
	WhatDump     = "config_dump"
	WhatStats    = "stats"
	WhatClusters = "clusters"
	// WhatLayout is what a proxy consists of, the others what policies put in force for it and for its parts.
	WhatLayout           = "layout"
	WhatRules            = "rules"
	WhatProxyPolicies    = "policies"
	WhatInboundPolicies  = "inbound_policies"
	WhatOutboundPolicies = "outbound_policies"
	WhatRoutes           = "outbound_routes"
)

// What one question may cost.
const (
	// MaxAnswer bounds an answer, in bytes.
	MaxAnswer = 32 << 20
	// MaxWaiting is how many questions one peer has at a time.
	MaxWaiting = 16
	// Timeout is how long is waited for an answer at most.
	Timeout  = 20 * time.Second
	partSize = 64 << 10
	// margin is how much earlier who is asked gives up, so that the reason arrives while somebody waits for it.
	margin = 500 * time.Millisecond
)

// A Failure is why there is no answer, in words for operators.
type Failure struct{ Text string }

// Error implements error.
func (f *Failure) Error() string { return f.Text }

// Failf makes a Failure.
func Failf(format string, args ...any) error { return &Failure{fmt.Sprintf(format, args...)} }

// ErrAway is a peer that cannot be asked, because it is not connected or went away meanwhile.
var ErrAway = errors.New("not connected")

// ErrClosed is a desk at which nobody had asked for a while. The peer has to open another stream.
var ErrClosed = errors.New("the desk is closed")

// end is the last part of an answer that ended with err.
func end(id uint64, err error) *Part {
	p := &Part{Id: id, Last: true}
	switch {
	case err == nil:
	case errors.Is(err, resource.ErrNotFound):
		p.NotFound = true
	default:
		p.Failure = err.Error()
	}
	return p
}

// err is what the last part of an answer says.
func (p *Part) err() error {
	switch {
	case p.GetNotFound():
		return resource.ErrNotFound
	case p.GetFailure() != "":
		return &Failure{p.GetFailure()}
	}
	return nil
}
