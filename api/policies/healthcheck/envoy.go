package healthcheck

import (
	"cmp"
	"encoding/hex"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filesinkv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/health_check/event_sinks/file/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
)

var hooks = policy.Hooks[Conf]{
	Cluster: policy.Hook[func(Conf, proxy.Cluster, *clusterv3.Cluster)]{Apply: setCluster},
}

// The defaults of what Envoy wants to be told.
const (
	defaultInterval  = time.Minute
	defaultNoTraffic = time.Minute
	defaultTimeout   = 15 * time.Second
	defaultUnhealthy = 5
	defaultHealthy   = 1
)

// kind is a way to check.
type kind int

const (
	none kind = iota
	byTCP
	byHTTP
	byGRPC
)

// kind is the way to check a port of a protocol: its own, or by TCP when its own section is there but switched off.
func (c Conf) kind(p mesh.Protocol) kind {
	connect := c.TCP != nil && !c.TCP.off()
	switch {
	case p == mesh.GRPC && c.GRPC != nil:
		if !c.GRPC.off() {
			return byGRPC
		}
	case p != mesh.GRPC && p.IsHTTP() && c.HTTP != nil:
		if !c.HTTP.off() {
			return byHTTP
		}
	case p.IsHTTP():
		return none
	}
	if connect {
		return byTCP
	}
	return none
}

func setCluster(c Conf, pc proxy.Cluster, m *clusterv3.Cluster) {
	if pc.Destination.Type == policy.TargetExternal && !pc.Egress {
		return // what answers behind an egress is now this endpoint, now that one; the egress checks them
	}
	if on := c.FailTrafficOnPanic; on != nil {
		failOnPanic(m, *on)
	}
	k := c.kind(pc.Protocol)
	if k == none {
		return
	}
	h := c.common()
	switch k {
	case byHTTP:
		h.HealthChecker = &corev3.HealthCheck_HttpHealthCheck_{HttpHealthCheck: c.HTTP.proto(policy.SpeaksHTTP2(m))}
	case byGRPC:
		h.HealthChecker = &corev3.HealthCheck_GrpcHealthCheck_{GrpcHealthCheck: &corev3.HealthCheck_GrpcHealthCheck{
			ServiceName: text(c.GRPC.ServiceName), Authority: text(c.GRPC.Authority),
		}}
	default:
		h.HealthChecker = &corev3.HealthCheck_TcpHealthCheck_{TcpHealthCheck: c.TCP.proto()}
	}
	m.HealthChecks = []*corev3.HealthCheck{h}
	// Without this Envoy goes on using an endpoint that is gone for as long as something at its address passes the checks.
	m.IgnoreHealthOnHostRemoval = true
}

func (c Conf) common() *corev3.HealthCheck {
	h := &corev3.HealthCheck{
		Interval: orElse(c.Interval, defaultInterval), Timeout: orElse(c.Timeout, defaultTimeout),
		UnhealthyThreshold: threshold(c.UnhealthyThreshold, defaultUnhealthy), HealthyThreshold: threshold(c.HealthyThreshold, defaultHealthy),
		UnhealthyInterval: c.UnhealthyInterval.Proto(), InitialJitter: c.InitialJitter.Proto(),
		IntervalJitter: c.IntervalJitter.Proto(), NoTrafficHealthyInterval: orElse(c.NoTrafficInterval, defaultNoTraffic),
	}
	// Envoy would ask an endpoint that fails its first check as seldom as one that nobody uses, which it therefore stays: nothing is sent
	// to it before it has passed one.
	h.NoTrafficInterval = cmp.Or(h.UnhealthyInterval, h.Interval)
	if h.NoTrafficHealthyInterval.AsDuration() < h.NoTrafficInterval.AsDuration() {
		h.NoTrafficInterval = h.NoTrafficHealthyInterval
	}
	if p := c.IntervalJitterPercent; p != nil {
		h.IntervalJitterPercent = *p
	}
	if r := c.ReuseConnection; r != nil {
		h.ReuseConnection = wrapperspb.Bool(*r)
	}
	if p := c.EventLogPath; p != nil {
		h.EventLogger = []*corev3.TypedExtensionConfig{{
			Name: "envoy.health_check.event_sink.file", TypedConfig: policy.Pack(&filesinkv3.HealthCheckEventFileSink{EventLogPath: *p}),
		}}
	}
	if a := c.AlwaysLogHealthCheckFailures; a != nil {
		h.AlwaysLogHealthCheckFailures = *a
	}
	return h
}

func orElse(d *policy.Duration, otherwise time.Duration) *durationpb.Duration {
	if d == nil {
		return durationpb.New(otherwise)
	}
	return d.Proto()
}

func threshold(n *uint32, otherwise uint32) *wrapperspb.UInt32Value {
	if n == nil {
		return wrapperspb.UInt32(otherwise)
	}
	return wrapperspb.UInt32(*n)
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (h *HTTP) proto(http2 bool) *corev3.HealthCheck_HttpHealthCheck {
	out := &corev3.HealthCheck_HttpHealthCheck{
		Path: cmp.Or(text(h.Path), "/"),
		// Otherwise one answer that is not expected would count as much as all that the threshold asks for.
		RetriableStatuses: []*typev3.Int64Range{{Start: 100, End: 600}},
	}
	if http2 {
		out.CodecClientType = typev3.CodecClientType_HTTP2
	}
	if h.RequestHeadersToAdd != nil {
		out.RequestHeadersToAdd = h.RequestHeadersToAdd.Options()
	}
	for _, s := range h.ExpectedStatuses {
		out.ExpectedStatuses = append(out.ExpectedStatuses, &typev3.Int64Range{Start: int64(s), End: int64(s) + 1})
	}
	return out
}

func (t *TCP) proto() *corev3.HealthCheck_TcpHealthCheck {
	out := &corev3.HealthCheck_TcpHealthCheck{}
	if t.Send != nil {
		out.Send = payload(*t.Send)
	}
	for _, r := range t.Receive {
		out.Receive = append(out.Receive, payload(r))
	}
	return out
}

// payload is bytes as Envoy wants them, in hexadecimal digits.
func payload(s string) *corev3.HealthCheck_Payload {
	b, _ := decoded(s)
	return &corev3.HealthCheck_Payload{Payload: &corev3.HealthCheck_Payload_Text{Text: hex.EncodeToString(b)}}
}

// failOnPanic is no setting of clusters whose localities are weighted.
func failOnPanic(m *clusterv3.Cluster, on bool) {
	if m.CommonLbConfig == nil {
		m.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{}
	}
	switch s := m.CommonLbConfig.LocalityConfigSpecifier.(type) {
	case nil:
		m.CommonLbConfig.LocalityConfigSpecifier = &clusterv3.Cluster_CommonLbConfig_ZoneAwareLbConfig_{
			ZoneAwareLbConfig: &clusterv3.Cluster_CommonLbConfig_ZoneAwareLbConfig{FailTrafficOnPanic: on},
		}
	case *clusterv3.Cluster_CommonLbConfig_ZoneAwareLbConfig_:
		s.ZoneAwareLbConfig.FailTrafficOnPanic = on
	}
}
