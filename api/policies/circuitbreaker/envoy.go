package circuitbreaker

import (
	"math"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
)

var hooks = policy.Hooks[Conf]{
	Cluster: policy.Hook[func(Conf, proxy.Cluster, *clusterv3.Cluster)]{Apply: setCluster},
}

func setCluster(c Conf, pc proxy.Cluster, m *clusterv3.Cluster) {
	if l := c.ConnectionLimits; l != nil {
		setLimits(*l, m)
	}
	o := c.OutlierDetection
	if o == nil {
		return
	}
	if t := o.HealthyPanicThreshold; t != nil {
		if m.CommonLbConfig == nil {
			m.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{}
		}
		m.CommonLbConfig.HealthyPanicThreshold = &typev3.Percent{Value: t.Float()}
	}
	if pc.Destination.Type == policy.TargetExternal && !pc.Egress {
		return // a failing external service is not the fault of an egress; the egress finds out which of its endpoints fail
	}
	if o.Detectors != nil && (o.Disabled == nil || !*o.Disabled) {
		m.OutlierDetection = detection(*o)
	}
}

func setLimits(l ConnectionLimits, m *clusterv3.Cluster) {
	t := &clusterv3.CircuitBreakers_Thresholds{
		MaxConnections:     number(l.MaxConnections),
		MaxConnectionPools: number(l.MaxConnectionPools),
		MaxPendingRequests: number(l.MaxPendingRequests),
		MaxRetries:         number(l.MaxRetries),
		MaxRequests:        number(l.MaxRequests),
		TrackRemaining:     true,
	}
	m.CircuitBreakers = &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{t}}
}

// detection enforces exactly the detectors that are configured: Envoy enforces some that nobody asked for.
func detection(o OutlierDetection) *clusterv3.OutlierDetection {
	d := o.Detectors
	split := o.SplitExternalAndLocalErrors != nil && *o.SplitExternalAndLocalErrors
	out := &clusterv3.OutlierDetection{
		Interval:                       o.Interval.Proto(),
		BaseEjectionTime:               o.BaseEjectionTime.Proto(),
		MaxEjectionPercent:             number(o.MaxEjectionPercent),
		SplitExternalLocalOriginErrors: split,

		EnforcingConsecutive_5Xx:               enforce(d.TotalFailures != nil),
		EnforcingConsecutiveGatewayFailure:     enforce(d.GatewayFailures != nil),
		EnforcingConsecutiveLocalOriginFailure: enforce(d.LocalOriginFailures != nil),
		EnforcingSuccessRate:                   enforce(d.SuccessRate != nil),
		EnforcingLocalOriginSuccessRate:        enforce(d.SuccessRate != nil && split),
		EnforcingFailurePercentage:             enforce(d.FailurePercentage != nil),
		EnforcingFailurePercentageLocalOrigin:  enforce(d.FailurePercentage != nil && split),
	}
	if c := d.TotalFailures; c != nil {
		out.Consecutive_5Xx = number(c.Consecutive)
	}
	if c := d.GatewayFailures; c != nil {
		out.ConsecutiveGatewayFailure = number(c.Consecutive)
	}
	if c := d.LocalOriginFailures; c != nil {
		out.ConsecutiveLocalOriginFailure = number(c.Consecutive)
	}
	if s := d.SuccessRate; s != nil {
		out.SuccessRateMinimumHosts = number(s.MinimumHosts)
		out.SuccessRateRequestVolume = number(s.RequestVolume)
		if f := s.StandardDeviationFactor; f != nil {
			// Envoy divides by a thousand.
			out.SuccessRateStdevFactor = wrapperspb.UInt32(uint32(math.Round(f.Float() * 1000)))
		}
	}
	if f := d.FailurePercentage; f != nil {
		out.FailurePercentageMinimumHosts = number(f.MinimumHosts)
		out.FailurePercentageRequestVolume = number(f.RequestVolume)
		out.FailurePercentageThreshold = number(f.Threshold)
	}
	return out
}

func enforce(on bool) *wrapperspb.UInt32Value {
	if on {
		return wrapperspb.UInt32(100)
	}
	return wrapperspb.UInt32(0)
}

func number(n *uint32) *wrapperspb.UInt32Value {
	if n == nil {
		return nil
	}
	return wrapperspb.UInt32(*n)
}
