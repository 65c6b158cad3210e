// Package retry is the MeshRetry policy: which failed connections and requests are tried again, how often and where.
// It sets no overall timeout; that is MeshTimeout, and retries never go beyond it.
package retry

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/api/policies/timeout"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Policy is MeshRetry.
var Policy = policy.Kind[Conf]{
	Name: "MeshRetry", Path: "meshretries", Short: "mr", Singular: "Mesh Retry", Plural: "Mesh Retries",
	ToKinds: []string{policy.TargetMesh, policy.TargetService, policy.TargetExternal, policy.TargetMultiZone, policy.TargetHTTPRoute},
	Check:   check, Warn: warn, Hooks: hooks,
}

// Conf is what MeshRetry configures. At least one section must be set.
type Conf struct {
	// TCP concerns ports that do not speak http, http2 or grpc.
	TCP *TCP `json:"tcp,omitempty"`
	// HTTP concerns ports that speak http or http2.
	HTTP *HTTP `json:"http,omitempty"`
	// GRPC concerns ports that speak grpc.
	GRPC *GRPC `json:"grpc,omitempty"`
}

// TCP is what MeshRetry configures for connections.
type TCP struct {
	// MaxConnectAttempt is how often a connection is attempted in all. Greater than 0. Required. Without any policy: 1.
	MaxConnectAttempt *uint32 `json:"maxConnectAttempt,omitempty"`
}

// Requests is what http and grpc have in common.
type Requests struct {
	// NumRetries is how often a request is tried again. 0 switches retries off. Default 1.
	NumRetries *uint32 `json:"numRetries,omitempty"`
	// PerTryTimeout is how long one try may take until the response begins. It should be well below the request timeout of MeshTimeout,
	// or a slow try leaves no time for another. 0 means no limit but the request timeout. Default 0.
	PerTryTimeout *policy.Duration `json:"perTryTimeout,omitempty"`
	// BackOff is the pause before another try; it doubles each time and is chosen at random up to that.
	BackOff *BackOff `json:"backOff,omitempty"`
	// RateLimitedBackOff takes the pause from a header of the response, where it has one.
	RateLimitedBackOff *RateLimitedBackOff `json:"rateLimitedBackOff,omitempty"`
	// HostSelection says which endpoints another try avoids. An empty list avoids none.
	// Default OmitPreviousHosts and OmitPreviousPriorities: not where it failed already, then another zone.
	HostSelection []HostSelection `json:"hostSelection,omitempty"`
	// HostSelectionMaxAttempts is how often another endpoint is drawn when the one drawn is to be avoided, 1 to 1000. Default 10.
	HostSelectionMaxAttempts *int64 `json:"hostSelectionMaxAttempts,omitempty"`
}

// HTTP is what MeshRetry configures for http and http2.
type HTTP struct {
	Requests
	// RetryOn lists the failures that are retried: 5xx, GatewayError (502, 503, 504), Reset (the connection broke without a response),
	// Retriable4xx (409), ConnectFailure, EnvoyRatelimited, RefusedStream, Http3PostConnectFailure, or a status code such as "429".
	// HttpMethod<Verb>, such as HttpMethodGet, restricts retries to these methods. An empty list retries nothing.
	// Default GatewayError, ConnectFailure and RefusedStream.
	RetryOn []string `json:"retryOn,omitempty"`
	// RetriableResponseHeaders retries responses that have any of these headers, in addition to retryOn.
	RetriableResponseHeaders []policy.HeaderMatch `json:"retriableResponseHeaders,omitempty"`
	// RetriableRequestHeaders restricts retries to requests that have any of these headers. Default every request.
	RetriableRequestHeaders []policy.HeaderMatch `json:"retriableRequestHeaders,omitempty"`
}

// GRPC is what MeshRetry configures for grpc.
type GRPC struct {
	Requests
	// RetryOn lists the failures that are retried. Statuses: Canceled, DeadlineExceeded, Internal, ResourceExhausted, Unavailable.
	// Below grpc: GatewayError, Reset, ConnectFailure, RefusedStream. An empty list retries nothing.
	// Default all of them but DeadlineExceeded and Internal.
	RetryOn []string `json:"retryOn,omitempty"`
}

// BackOff is the pause before another try.
type BackOff struct {
	// BaseInterval is the longest pause before the first retry. Greater than 0. Default 25ms.
	BaseInterval *policy.Duration `json:"baseInterval,omitempty"`
	// MaxInterval is the longest pause before any retry. At least baseInterval. Default 10 times baseInterval.
	MaxInterval *policy.Duration `json:"maxInterval,omitempty"`
}

// RateLimitedBackOff takes the pause before another try from the response.
type RateLimitedBackOff struct {
	// ResetHeaders are the headers that tell when to try again; the first one present is taken. At least one.
	ResetHeaders []ResetHeader `json:"resetHeaders,omitempty"`
	// MaxInterval is the longest pause that is heeded; for a longer one backOff is used. Greater than 0. Default 300s.
	MaxInterval *policy.Duration `json:"maxInterval,omitempty"`
}

// ResetHeader is a header that tells when to try again.
type ResetHeader struct {
	// Name of the header in lower case. Required.
	Name string `json:"name"`
	// Format is Seconds (from now) or UnixTimestamp. Required.
	Format string `json:"format"`
}

// HostSelection is one rule on the choice of endpoints for another try.
type HostSelection struct {
	// Predicate is OmitPreviousHosts, OmitHostsWithTags or OmitPreviousPriorities. Required.
	Predicate string `json:"predicate"`
	// Tags that an endpoint to avoid carries. Only with OmitHostsWithTags, and required there.
	Tags map[string]string `json:"tags,omitempty"`
	// UpdateFrequency is after how many failed tries the priorities tried so far, that is the own zone first, are left.
	// Only with OmitPreviousPriorities. Greater than 0. Default 2.
	UpdateFrequency *int32 `json:"updateFrequency,omitempty"`
}

// The predicates.
const (
	OmitPreviousHosts      = "OmitPreviousHosts"
	OmitHostsWithTags      = "OmitHostsWithTags"
	OmitPreviousPriorities = "OmitPreviousPriorities"
)

// The formats of reset headers.
const (
	Seconds       = "Seconds"
	UnixTimestamp = "UnixTimestamp"
)

const (
	defaultAttempts  = 10
	defaultFrequency = 2
	methodPrefix     = "HttpMethod"
)

var methods = []string{"Connect", "Delete", "Get", "Head", "Options", "Patch", "Post", "Put", "Trace"}

// httpConditions maps what users write to what Envoy calls it.
var httpConditions = map[string]string{
	"5xx": "5xx", "GatewayError": "gateway-error", "Reset": "reset", "Retriable4xx": "retriable-4xx", "ConnectFailure": "connect-failure",
	"EnvoyRatelimited": "envoy-ratelimited", "RefusedStream": "refused-stream", "Http3PostConnectFailure": "http3-post-connect-failure",
}

var grpcConditions = map[string]string{
	"Canceled": "cancelled", "DeadlineExceeded": "deadline-exceeded", "Internal": "internal",
	"ResourceExhausted": "resource-exhausted", "Unavailable": "unavailable",
	"GatewayError": "gateway-error", "Reset": "reset", "ConnectFailure": "connect-failure", "RefusedStream": "refused-stream",
}

// What is retried when a policy sets no retryOn.
var (
	defaultHTTP = []string{"GatewayError", "ConnectFailure", "RefusedStream"}
	defaultGRPC = []string{"Canceled", "ConnectFailure", "GatewayError", "RefusedStream", "Reset", "ResourceExhausted", "Unavailable"}
)

// Default is what a new mesh gets. A try to an http port is given up after 7s, so that within the request timeout of 15s
// one more is possible in full; grpc has no such limit, because streams may rightly be silent.
// Endpoints that failed are avoided, and after two tries the other zones are asked:
// the end of all local endpoints is then not seen by anybody.
func Default() Conf {
	requests := Requests{
		NumRetries: num[uint32](5),
		BackOff: &BackOff{
			BaseInterval: &policy.Duration{Duration: 25 * time.Millisecond},
			MaxInterval:  &policy.Duration{Duration: 250 * time.Millisecond},
		},
		HostSelection:            defaultSelection(),
		HostSelectionMaxAttempts: num[int64](defaultAttempts),
	}
	http := requests
	http.PerTryTimeout = &policy.Duration{Duration: 7 * time.Second}
	return Conf{TCP: &TCP{MaxConnectAttempt: num[uint32](5)}, HTTP: &HTTP{Requests: http}, GRPC: &GRPC{Requests: requests}}
}

func defaultSelection() []HostSelection {
	return []HostSelection{
		{Predicate: OmitPreviousHosts},
		{Predicate: OmitPreviousPriorities, UpdateFrequency: num[int32](defaultFrequency)},
	}
}

func num[N any](n N) *N { return &n }

func check(at resource.Path, c Conf, where policy.Where) resource.Problems {
	var ps resource.Problems
	if c == (Conf{}) {
		ps.Add(at, "must set tcp, http or grpc")
	}
	if c.TCP != nil {
		tcp := at.Field("tcp")
		if where.Target.Kind == policy.TargetHTTPRoute {
			ps.Add(tcp, "is not possible for a %s, which routes requests", policy.TargetHTTPRoute)
		}
		if n := c.TCP.MaxConnectAttempt; n == nil || *n == 0 {
			ps.Add(tcp.Field("maxConnectAttempt"), "must be set and greater than 0")
		}
	}
	if h := c.HTTP; h != nil {
		ps.Append(h.check(at.Field("http")))
	}
	if g := c.GRPC; g != nil {
		ps.Append(g.check(at.Field("grpc")))
	}
	return ps
}

func (h HTTP) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	if h.isZero() && h.RetryOn == nil && h.RetriableRequestHeaders == nil && h.RetriableResponseHeaders == nil {
		ps.Add(at, "must set at least one field")
	}
	ps.Append(h.Requests.check(at))
	for i, c := range h.RetryOn {
		_, ok := httpConditions[c]
		_, isMethod := methodOf(c)
		if _, isStatus := statusOf(c); !ok && !isMethod && !isStatus {
			ps.Add(at.Field("retryOn").Index(i), "%s", unknownCondition(c, append(conditionNames(httpConditions), methodPrefix+"Get")))
		}
	}
	for i, m := range h.RetriableResponseHeaders {
		ps.Append(m.Check(at.Field("retriableResponseHeaders").Index(i)))
	}
	for i, m := range h.RetriableRequestHeaders {
		ps.Append(m.Check(at.Field("retriableRequestHeaders").Index(i)))
	}
	return ps
}

func (g GRPC) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	if g.isZero() && g.RetryOn == nil {
		ps.Add(at, "must set at least one field")
	}
	ps.Append(g.Requests.check(at))
	for i, c := range g.RetryOn {
		if _, ok := grpcConditions[c]; !ok {
			ps.Add(at.Field("retryOn").Index(i), "%s", unknownCondition(c, conditionNames(grpcConditions)))
		}
	}
	return ps
}

func conditionNames(m map[string]string) []string {
	var names []string
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func unknownCondition(c string, known []string) string {
	if near := resource.Nearest(c, known); near != "" {
		return fmt.Sprintf("%s is not a condition, did you mean %s?", resource.Quote(c), near)
	}
	return fmt.Sprintf("%s is not a condition; known are %s", resource.Quote(c), strings.Join(known, ", "))
}

// methodOf reads HttpMethodGet as GET.
func methodOf(condition string) (string, bool) {
	verb, ok := strings.CutPrefix(condition, methodPrefix)
	return strings.ToUpper(verb), ok && slices.Contains(methods, verb)
}

// statusOf reads "503".
func statusOf(condition string) (uint32, bool) {
	n, err := strconv.ParseUint(condition, 10, 32)
	return uint32(n), err == nil && n >= 100 && n <= 599
}

func (r Requests) isZero() bool {
	return r.NumRetries == nil && r.PerTryTimeout == nil && r.BackOff == nil && r.RateLimitedBackOff == nil &&
		r.HostSelection == nil && r.HostSelectionMaxAttempts == nil
}

func (r Requests) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	ps.Append(policy.CheckNotNegative(at.Field("perTryTimeout"), r.PerTryTimeout))
	if b := r.BackOff; b != nil {
		ps.Append(b.check(at.Field("backOff")))
	}
	if b := r.RateLimitedBackOff; b != nil {
		ps.Append(b.check(at.Field("rateLimitedBackOff")))
	}
	seen := map[string]bool{}
	for i, h := range r.HostSelection {
		at := at.Field("hostSelection").Index(i)
		ps.Append(h.check(at))
		if seen[h.Predicate] && h.Predicate != OmitHostsWithTags {
			ps.Add(at.Field("predicate"), "%s must not be given twice", h.Predicate)
		}
		seen[h.Predicate] = true
	}
	if n := r.HostSelectionMaxAttempts; n != nil && (*n <= 0 || *n > 1000) {
		ps.Add(at.Field("hostSelectionMaxAttempts"), "must be between 1 and 1000")
	}
	return ps
}

func (b BackOff) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	if b == (BackOff{}) {
		ps.Add(at, "must set baseInterval or maxInterval")
	}
	ps.Append(policy.CheckPositive(at.Field("baseInterval"), b.BaseInterval))
	ps.Append(policy.CheckPositive(at.Field("maxInterval"), b.MaxInterval))
	if len(ps) == 0 && b.BaseInterval != nil && b.MaxInterval != nil && b.MaxInterval.Duration < b.BaseInterval.Duration {
		ps.Add(at.Field("maxInterval"), "must not be less than baseInterval")
	}
	return ps
}

func (b RateLimitedBackOff) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	if len(b.ResetHeaders) == 0 {
		ps.Add(at.Field("resetHeaders"), "must have at least one header")
	}
	for i, h := range b.ResetHeaders {
		at := at.Field("resetHeaders").Index(i)
		ps.Append(policy.CheckHeaderName(at.Field("name"), h.Name))
		if h.Format != Seconds && h.Format != UnixTimestamp {
			ps.Add(at.Field("format"), "must be Seconds or UnixTimestamp, not %s", resource.Quote(h.Format))
		}
	}
	ps.Append(policy.CheckPositive(at.Field("maxInterval"), b.MaxInterval))
	return ps
}

func (h HostSelection) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	known := []string{OmitPreviousHosts, OmitHostsWithTags, OmitPreviousPriorities}
	if !slices.Contains(known, h.Predicate) {
		ps.Add(at.Field("predicate"), "must be one of %s, not %s", strings.Join(known, ", "), resource.Quote(h.Predicate))
	}
	switch {
	case h.Predicate == OmitHostsWithTags && len(h.Tags) == 0:
		ps.Add(at.Field("tags"), "must be set with %s", OmitHostsWithTags)
	case h.Predicate != OmitHostsWithTags && len(h.Tags) > 0:
		ps.Add(at.Field("tags"), "is only possible with %s", OmitHostsWithTags)
	}
	if f := h.UpdateFrequency; f != nil {
		if h.Predicate != OmitPreviousPriorities {
			ps.Add(at.Field("updateFrequency"), "is only possible with %s", OmitPreviousPriorities)
		}
		if *f <= 0 {
			ps.Add(at.Field("updateFrequency"), "must be greater than 0")
		}
	}
	return ps
}

// warn judges by the default request timeout; what is really in force for a destination is Ineffective's to say.
func warn(at resource.Path, c Conf, _ policy.Where) []string {
	if c.HTTP == nil {
		return nil
	}
	if why := c.HTTP.outlasts(timeout.DefaultRequest); why != "" {
		return []string{string(at.Field("http.perTryTimeout")) + " " + why + " unless a MeshTimeout allows requests more time"}
	}
	return nil
}

// Ineffective says what of an effective configuration has no effect under an effective request timeout; 0 is no timeout.
func Ineffective(c Conf, protocol string, request time.Duration) []string {
	var why string
	switch {
	case protocol == "grpc" && c.GRPC != nil:
		why = c.GRPC.outlasts(request)
	case protocol != "grpc" && c.HTTP != nil:
		why = c.HTTP.outlasts(request)
	}
	if why == "" {
		return nil
	}
	return []string{Policy.Name + ": perTryTimeout " + why}
}

func (r Requests) outlasts(request time.Duration) string {
	if r.PerTryTimeout == nil || request == 0 || r.PerTryTimeout.Duration < request || r.NumRetries != nil && *r.NumRetries == 0 {
		return ""
	}
	return fmt.Sprintf("of %s is not below the request timeout of %s: a slow try leaves no time for another", r.PerTryTimeout, request)
}
