package ratelimit

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	httplimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	networklimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/local_ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
)

var hooks = policy.Hooks[Conf]{
	ClientFilters: policy.Hook[func(Conf, proxy.Listener) []proto.Message]{
		Fields: []string{"local.http"}, Apply: limitRequests,
	},
	NetworkFilters: policy.Hook[func(Conf, proxy.Listener) []policy.Filter]{
		Fields: []string{"local.tcp"}, Apply: limitConnections,
	},
}

func limitRequests(c Conf, l proxy.Listener) []proto.Message {
	if l.Direction != proxy.Inbound || c.Local == nil || c.Local.HTTP == nil {
		return nil
	}
	h := c.Local.HTTP
	if h.RequestRate == nil || h.Disabled != nil && *h.Disabled {
		return nil
	}
	out := &httplimitv3.LocalRateLimit{
		StatPrefix: l.Name, TokenBucket: h.RequestRate.bucket(),
		FilterEnabled: always(), FilterEnforced: always(),
		RateLimitedAsResourceExhausted: true,
	}
	if o := h.OnRateLimit; o != nil {
		if o.Status != nil && *o.Status >= 400 {
			out.Status = &typev3.HttpStatus{Code: typev3.StatusCode(*o.Status)}
		}
		if o.Headers != nil {
			out.ResponseHeadersToAdd = o.Headers.Options()
		}
	}
	return []proto.Message{out}
}

func limitConnections(c Conf, l proxy.Listener) []policy.Filter {
	if l.Direction != proxy.Inbound || c.Local == nil || c.Local.TCP == nil {
		return nil
	}
	t := c.Local.TCP
	if t.ConnectionRate == nil || t.Disabled != nil && *t.Disabled {
		return nil
	}
	return []policy.Filter{{
		Name: "envoy.filters.network.local_ratelimit", Dynamic: true,
		Config: &networklimitv3.LocalRateLimit{
			StatPrefix: l.Name, TokenBucket: t.ConnectionRate.bucket(),
			ShareKey: l.Name, // the chains of a permissive listener count together
		},
	}}
}

func (r Rate) bucket() *typev3.TokenBucket {
	return &typev3.TokenBucket{MaxTokens: r.Num, TokensPerFill: wrapperspb.UInt32(r.Num), FillInterval: r.Interval.Proto()}
}

// always is a share of all requests; Envoy's own default is none.
func always() *corev3.RuntimeFractionalPercent {
	return &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{Numerator: 100}}
}
