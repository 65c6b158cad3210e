package retry

import (
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	omithostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/omit_host_metadata/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	prioritiesv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
)

var hooks = policy.Hooks[Conf]{
	Route: policy.Hook[func(Conf, proxy.Route, *routev3.Route)]{Fields: []string{"http", "grpc"}, Apply: setRoute},
	TCP:   policy.Hook[func(Conf, proxy.Listener, *tcpproxyv3.TcpProxy)]{Fields: []string{"tcp"}, Apply: setTCP},
}

func setTCP(c Conf, _ proxy.Listener, m *tcpproxyv3.TcpProxy) {
	if c.TCP != nil && c.TCP.MaxConnectAttempt != nil {
		m.MaxConnectAttempts = wrapperspb.UInt32(*c.TCP.MaxConnectAttempt)
	}
}

func setRoute(c Conf, r proxy.Route, m *routev3.Route) {
	action := m.GetRoute()
	if action == nil || r.Egress {
		return // redirects and direct responses do not fail, and at an egress the client tries again
	}
	switch {
	case r.Protocol == mesh.GRPC && c.GRPC != nil:
		action.RetryPolicy = c.GRPC.policy()
	case r.Protocol != mesh.GRPC && c.HTTP != nil:
		action.RetryPolicy = c.HTTP.policy()
	}
}

func (g GRPC) policy() *routev3.RetryPolicy {
	conditions := g.RetryOn
	if conditions == nil {
		conditions = defaultGRPC
	}
	var on []string
	for _, c := range conditions {
		on = append(on, grpcConditions[c])
	}
	return g.retryPolicy(on)
}

func (h HTTP) policy() *routev3.RetryPolicy {
	on, codes, verbs := conditionsOf(h.RetryOn)
	if h.RetryOn == nil || len(on)+len(codes) == 0 && len(verbs) > 0 {
		on, codes, _ = conditionsOf(defaultHTTP) // methods alone say when, not what
	}
	if len(codes) > 0 {
		on = append(on, "retriable-status-codes")
	}
	if len(h.RetriableResponseHeaders) > 0 {
		on = append(on, "retriable-headers")
	}
	p := h.retryPolicy(on)
	if p == nil {
		return nil
	}
	p.RetriableStatusCodes = codes
	for _, m := range h.RetriableResponseHeaders {
		p.RetriableHeaders = append(p.RetriableHeaders, m.Proto())
	}
	for _, v := range verbs {
		p.RetriableRequestHeaders = append(p.RetriableRequestHeaders, policy.HeaderMatch{Name: ":method", Value: v}.Proto())
	}
	for _, m := range h.RetriableRequestHeaders {
		p.RetriableRequestHeaders = append(p.RetriableRequestHeaders, m.Proto())
	}
	return p
}

// conditionsOf sorts what users list into conditions, status codes and methods.
func conditionsOf(list []string) (on []string, codes []uint32, verbs []string) {
	for _, c := range list {
		if code, ok := statusOf(c); ok {
			codes = append(codes, code)
		} else if verb, ok := methodOf(c); ok {
			verbs = append(verbs, verb)
		} else if name, ok := httpConditions[c]; ok {
			on = append(on, name)
		}
	}
	return on, codes, verbs
}

// retryPolicy is what http and grpc have in common, nil when nothing is retried.
func (r Requests) retryPolicy(on []string) *routev3.RetryPolicy {
	if len(on) == 0 || r.NumRetries != nil && *r.NumRetries == 0 {
		return nil
	}
	p := &routev3.RetryPolicy{RetryOn: strings.Join(on, ",")}
	if r.NumRetries != nil {
		p.NumRetries = wrapperspb.UInt32(*r.NumRetries)
	}
	if t := r.PerTryTimeout; t != nil && t.Duration > 0 {
		p.PerTryTimeout = t.Proto()
	}
	if r.BackOff != nil {
		p.RetryBackOff = r.BackOff.proto()
	}
	if b := r.RateLimitedBackOff; b != nil && len(b.ResetHeaders) > 0 {
		p.RateLimitedRetryBackOff = b.proto()
	}
	r.selectHosts(p)
	return p
}

// proto fills in defaults. Base and maximum may come from two policies and then not fit together; the base gives way to no one.
func (b BackOff) proto() *routev3.RetryPolicy_RetryBackOff {
	base := 25 * time.Millisecond
	if b.BaseInterval != nil {
		base = b.BaseInterval.Duration
	} else if b.MaxInterval != nil {
		base = min(base, b.MaxInterval.Duration)
	}
	out := &routev3.RetryPolicy_RetryBackOff{BaseInterval: durationpb.New(base)}
	if b.MaxInterval != nil {
		out.MaxInterval = durationpb.New(max(base, b.MaxInterval.Duration))
	}
	return out
}

func (b RateLimitedBackOff) proto() *routev3.RetryPolicy_RateLimitedRetryBackOff {
	out := &routev3.RetryPolicy_RateLimitedRetryBackOff{MaxInterval: b.MaxInterval.Proto()}
	for _, h := range b.ResetHeaders {
		format := routev3.RetryPolicy_SECONDS
		if h.Format == UnixTimestamp {
			format = routev3.RetryPolicy_UNIX_TIMESTAMP
		}
		out.ResetHeaders = append(out.ResetHeaders, &routev3.RetryPolicy_ResetHeader{Name: h.Name, Format: format})
	}
	return out
}

func (r Requests) selectHosts(p *routev3.RetryPolicy) {
	selection := r.HostSelection
	if selection == nil {
		selection = defaultSelection()
	}
	for _, h := range selection {
		switch h.Predicate {
		case OmitPreviousHosts:
			p.RetryHostPredicate = append(p.RetryHostPredicate, hostPredicate("envoy.retry_host_predicates.previous_hosts", &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{
				TypedConfig: policy.Pack(&previoushostsv3.PreviousHostsPredicate{}),
			}))
		case OmitHostsWithTags:
			p.RetryHostPredicate = append(p.RetryHostPredicate, hostPredicate("envoy.retry_host_predicates.omit_host_metadata", &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{
				TypedConfig: policy.Pack(&omithostsv3.OmitHostMetadataConfig{MetadataMatch: tags(h.Tags)}),
			}))
		case OmitPreviousPriorities:
			frequency := int32(defaultFrequency)
			if h.UpdateFrequency != nil {
				frequency = *h.UpdateFrequency
			}
			p.RetryPriority = &routev3.RetryPolicy_RetryPriority{
				Name: "envoy.retry_priorities.previous_priorities",
				ConfigType: &routev3.RetryPolicy_RetryPriority_TypedConfig{
					TypedConfig: policy.Pack(&prioritiesv3.PreviousPrioritiesConfig{UpdateFrequency: frequency}),
				},
			}
		}
	}
	if len(selection) == 0 {
		return
	}
	p.HostSelectionRetryMaxAttempts = defaultAttempts
	if r.HostSelectionMaxAttempts != nil {
		p.HostSelectionRetryMaxAttempts = *r.HostSelectionMaxAttempts
	}
}

func hostPredicate(name string, config *routev3.RetryPolicy_RetryHostPredicate_TypedConfig) *routev3.RetryPolicy_RetryHostPredicate {
	return &routev3.RetryPolicy_RetryHostPredicate{Name: name, ConfigType: config}
}

// tags are what endpoints carry for the load balancer.
func tags(m map[string]string) *corev3.Metadata {
	s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for k, v := range m {
		s.Fields[k] = structpb.NewStringValue(v)
	}
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"envoy.lb": s}}
}
