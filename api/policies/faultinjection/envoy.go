package faultinjection

import (
	"math"

	faultcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
)

var hooks = policy.Hooks[Conf]{
	ClientFilters: policy.Hook[func(Conf, proxy.Listener) []proto.Message]{Apply: filters},
}

// filters are the faults in their order. One filter delays, then aborts and slows down the response, each by its own percentage;
// a fault that would have to come before what the filter does already takes another one.
func filters(c Conf, l proxy.Listener) []proto.Message {
	if l.Direction != proxy.Inbound {
		return nil
	}
	var out []proto.Message
	var last *faultv3.HTTPFault
	for _, f := range c.HTTP {
		next := f.proto()
		if next.Delay == nil && next.Abort == nil && next.ResponseRateLimit == nil {
			continue
		}
		if last == nil || !joins(last, next) {
			last = next
			out = append(out, last)
			continue
		}
		proto.Merge(last, next)
	}
	return out
}

// joins says whether one filter can do both, in this order.
func joins(first, second *faultv3.HTTPFault) bool {
	switch {
	case second.Delay != nil && (first.Delay != nil || first.Abort != nil):
		return false
	case second.Abort != nil && first.Abort != nil:
		return false
	}
	return second.ResponseRateLimit == nil || first.ResponseRateLimit == nil
}

func (f Fault) proto() *faultv3.HTTPFault {
	// Statistics by a header that clients choose would be a way to fill the memory.
	out := &faultv3.HTTPFault{DisableDownstreamClusterStats: true}
	if d := f.Delay; d != nil && d.Value.Duration > 0 {
		out.Delay = &faultcommonv3.FaultDelay{
			FaultDelaySecifier: &faultcommonv3.FaultDelay_FixedDelay{FixedDelay: d.Value.Proto()}, Percentage: share(d.Percentage),
		}
	}
	if a := f.Abort; a != nil {
		out.Abort = &faultv3.FaultAbort{ErrorType: &faultv3.FaultAbort_HttpStatus{HttpStatus: a.HTTPStatus}, Percentage: share(a.Percentage)}
	}
	if b := f.ResponseBandwidth; b != nil {
		limit, _ := kbps(b.Limit)
		out.ResponseRateLimit = &faultcommonv3.FaultRateLimit{
			LimitType:  &faultcommonv3.FaultRateLimit_FixedLimit_{FixedLimit: &faultcommonv3.FaultRateLimit_FixedLimit{LimitKbps: kibibytes(limit)}},
			Percentage: share(b.Percentage),
		}
	}
	return out
}

// kibibytes turns kilobits per second into what Envoy counts in, at least one.
func kibibytes(kbps uint64) uint64 {
	return max(1, uint64(math.Round(float64(kbps)*1000/8/1024)))
}

// share is a percentage to the fourth decimal.
func share(p *policy.Decimal) *typev3.FractionalPercent {
	return &typev3.FractionalPercent{Numerator: uint32(math.Round(p.Float() * 10_000)), Denominator: typev3.FractionalPercent_MILLION}
}
