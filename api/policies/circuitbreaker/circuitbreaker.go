// Package circuitbreaker is the MeshCircuitBreaker policy: how much may be in progress towards a destination at once,
// and when an endpoint that fails is left out for a while. It sends no probes; active checks are another policy.
package circuitbreaker

import (
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Policy is MeshCircuitBreaker.
var Policy = policy.Kind[Conf]{
	Name: "MeshCircuitBreaker", Path: "meshcircuitbreakers", Short: "mcb", Singular: "Mesh Circuit Breaker", Plural: "Mesh Circuit Breakers",
	ToKinds: []string{policy.TargetMesh, policy.TargetService, policy.TargetExternal, policy.TargetMultiZone},
	Rules:   true, ToAndRules: true,
	Check: check, Warn: warn, Hooks: hooks,
}

// Conf is what MeshCircuitBreaker configures.
type Conf struct {
	// ConnectionLimits bound what is in progress at once, for each proxy that sends.
	ConnectionLimits *ConnectionLimits `json:"connectionLimits,omitempty"`
	// OutlierDetection leaves out endpoints that fail.
	OutlierDetection *OutlierDetection `json:"outlierDetection,omitempty"`
}

// ConnectionLimits bound what one proxy has in progress towards a destination. What exceeds a limit fails at once.
type ConnectionLimits struct {
	// MaxConnections is the number of connections. Greater than 0. Default 1024.
	MaxConnections *uint32 `json:"maxConnections,omitempty"`
	// MaxConnectionPools is the number of connection pools. Greater than 0. Default unlimited.
	MaxConnectionPools *uint32 `json:"maxConnectionPools,omitempty"`
	// MaxPendingRequests is the number of requests that wait for a connection. Greater than 0. Default 1024.
	MaxPendingRequests *uint32 `json:"maxPendingRequests,omitempty"`
	// MaxRetries is the number of retries in progress. Greater than 0. Default 3.
	MaxRetries *uint32 `json:"maxRetries,omitempty"`
	// MaxRequests is the number of requests in progress. Greater than 0. Default 1024.
	MaxRequests *uint32 `json:"maxRequests,omitempty"`
}

// OutlierDetection leaves out ("ejects") endpoints that fail, judged by the traffic they get.
type OutlierDetection struct {
	// Disabled switches outlier detection off, whatever else is set. Default false.
	Disabled *bool `json:"disabled,omitempty"`
	// Interval is the time between two evaluations of the rates. Greater than 0. Default 10s.
	Interval *policy.Duration `json:"interval,omitempty"`
	// BaseEjectionTime is how long an endpoint is left out, times how often it was already. Greater than 0. Default 30s.
	BaseEjectionTime *policy.Duration `json:"baseEjectionTime,omitempty"`
	// MaxEjectionPercent is the share of endpoints left out at most, 0 to 100; one endpoint always may be. Default 10.
	MaxEjectionPercent *uint32 `json:"maxEjectionPercent,omitempty"`
	// SplitExternalAndLocalErrors counts errors seen by the proxy itself, such as refused connections,
	// apart from errors that an endpoint returned. Default false.
	SplitExternalAndLocalErrors *bool `json:"splitExternalAndLocalErrors,omitempty"`
	// Detectors say what counts as failing. At least one, unless only disabled or healthyPanicThreshold is set.
	Detectors *Detectors `json:"detectors,omitempty"`
	// HealthyPanicThreshold is the percentage of healthy endpoints below which health is ignored
	// and traffic goes to all of them, 0 to 100, as a whole number or a decimal string. Default 0: never.
	HealthyPanicThreshold *policy.Decimal `json:"healthyPanicThreshold,omitempty"`
}

// Detectors say what counts as failing. Those that are absent eject nothing.
type Detectors struct {
	// TotalFailures counts errors of any kind.
	TotalFailures *Consecutive `json:"totalFailures,omitempty"`
	// GatewayFailures counts responses 502, 503 and 504.
	GatewayFailures *Consecutive `json:"gatewayFailures,omitempty"`
	// LocalOriginFailures counts errors seen by the proxy itself. Needs splitExternalAndLocalErrors.
	LocalOriginFailures *Consecutive `json:"localOriginFailures,omitempty"`
	// SuccessRate compares each endpoint's rate of successes with that of all.
	SuccessRate *SuccessRate `json:"successRate,omitempty"`
	// FailurePercentage compares each endpoint's rate of failures with a fixed one.
	FailurePercentage *FailurePercentage `json:"failurePercentage,omitempty"`
}

// Consecutive counts failures in a row.
type Consecutive struct {
	// Consecutive is the number of failures in a row that eject. Greater than 0. Default 5.
	Consecutive *uint32 `json:"consecutive,omitempty"`
}

// SuccessRate ejects endpoints whose rate of successes is far below the average.
type SuccessRate struct {
	// MinimumHosts is the number of endpoints with enough requests below which nothing is judged. Default 5.
	MinimumHosts *uint32 `json:"minimumHosts,omitempty"`
	// RequestVolume is the number of requests in an interval below which an endpoint is not judged. Default 100.
	RequestVolume *uint32 `json:"requestVolume,omitempty"`
	// StandardDeviationFactor is how many standard deviations below the average ejects, as a whole number or a decimal string
	// with up to three decimals. Default 1.9.
	StandardDeviationFactor *policy.Decimal `json:"standardDeviationFactor,omitempty"`
}

// FailurePercentage ejects endpoints whose rate of failures reaches a threshold.
type FailurePercentage struct {
	// MinimumHosts is the number of endpoints with enough requests below which nothing is judged. Default 5.
	MinimumHosts *uint32 `json:"minimumHosts,omitempty"`
	// RequestVolume is the number of requests in an interval below which an endpoint is not judged. Default 50.
	RequestVolume *uint32 `json:"requestVolume,omitempty"`
	// Threshold is the percentage of failures that ejects, 0 to 100. Default 85.
	Threshold *uint32 `json:"threshold,omitempty"`
}

func check(at resource.Path, c Conf, _ policy.Where) resource.Problems {
	var ps resource.Problems
	if c.ConnectionLimits == nil && c.OutlierDetection == nil {
		ps.Add(at, "must set connectionLimits or outlierDetection")
	}
	if l := c.ConnectionLimits; l != nil {
		ps.Append(l.check(at.Field("connectionLimits")))
	}
	if o := c.OutlierDetection; o != nil {
		ps.Append(o.check(at.Field("outlierDetection")))
	}
	return ps
}

func (l ConnectionLimits) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	if l == (ConnectionLimits{}) {
		ps.Add(at, "must set at least one limit")
	}
	for _, f := range []struct {
		name  string
		value *uint32
	}{
		{"maxConnections", l.MaxConnections},
		{"maxConnectionPools", l.MaxConnectionPools},
		{"maxPendingRequests", l.MaxPendingRequests},
		{"maxRetries", l.MaxRetries},
		{"maxRequests", l.MaxRequests},
	} {
		if f.value != nil && *f.value == 0 {
			ps.Add(at.Field(f.name), "must be greater than 0")
		}
	}
	return ps
}

func (o OutlierDetection) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	ps.Append(policy.CheckPositive(at.Field("interval"), o.Interval))
	ps.Append(policy.CheckPositive(at.Field("baseEjectionTime"), o.BaseEjectionTime))
	ps.Append(checkPercent(at.Field("maxEjectionPercent"), o.MaxEjectionPercent))
	ps.Append(policy.CheckPercent(at.Field("healthyPanicThreshold"), o.HealthyPanicThreshold))
	switch {
	case o.Detectors != nil:
		ps.Append(o.Detectors.check(at.Field("detectors")))
	case !o.needsNoDetectors():
		ps.Add(at.Field("detectors"), "must be set: without a detector nothing is ever ejected")
	}
	return ps
}

// needsNoDetectors allows to switch detection off, or to set the panic threshold, without repeating the detectors of another policy.
func (o OutlierDetection) needsNoDetectors() bool {
	if o.Disabled != nil && *o.Disabled {
		return true
	}
	o.Disabled = nil
	return o == OutlierDetection{HealthyPanicThreshold: o.HealthyPanicThreshold} && o.HealthyPanicThreshold != nil
}

func (d Detectors) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	if d == (Detectors{}) {
		ps.Add(at, "must hold at least one detector")
	}
	for _, f := range []struct {
		name string
		c    *Consecutive
	}{{"totalFailures", d.TotalFailures}, {"gatewayFailures", d.GatewayFailures}, {"localOriginFailures", d.LocalOriginFailures}} {
		if f.c != nil && f.c.Consecutive != nil && *f.c.Consecutive == 0 {
			ps.Add(at.Field(f.name).Field("consecutive"), "must be greater than 0")
		}
	}
	if s := d.SuccessRate; s != nil && s.StandardDeviationFactor != nil {
		if f := s.StandardDeviationFactor.Float(); f <= 0 || f > 1000 {
			ps.Add(at.Field("successRate.standardDeviationFactor"), "must be greater than 0 and at most 1000")
		}
	}
	if f := d.FailurePercentage; f != nil {
		ps.Append(checkPercent(at.Field("failurePercentage.threshold"), f.Threshold))
	}
	return ps
}

func checkPercent(at resource.Path, p *uint32) resource.Problems {
	var ps resource.Problems
	if p != nil && *p > 100 {
		ps.Add(at, "must be between 0 and 100")
	}
	return ps
}

func warn(at resource.Path, c Conf, _ policy.Where) []string {
	o := c.OutlierDetection
	if o == nil || o.Detectors == nil || o.Detectors.LocalOriginFailures == nil || o.SplitExternalAndLocalErrors != nil && *o.SplitExternalAndLocalErrors {
		return nil
	}
	return []string{string(at.Field("outlierDetection.detectors.localOriginFailures")) +
		" has no effect unless splitExternalAndLocalErrors is true, here or in a policy that this one adds to"}
}
