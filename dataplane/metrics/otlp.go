package metrics

import (
	"maps"
	"math"
	"slices"
	"time"

	dto "github.com/prometheus/client_model/go"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	metricsv1 "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcev1 "go.opentelemetry.io/proto/otlp/resource/v1"

	"github.com/causeway-mesh/causeway/api/agentapi"
)

// maxPoints is about how many data points one message to a collector has: far below the 4 MiB that a gRPC server takes by default.
const maxPoints = 5000

// batches makes messages of OpenTelemetry and hands them on one by one, so that only one is in memory. MetricsData is what a collector
// takes at once under another name; the package of that one brings an HTTP gateway along.
type batches struct {
	resource *resourcev1.Resource
	scope    *commonv1.InstrumentationScope
	at       uint64
	send     func(*metricsv1.MetricsData) error

	metrics []*metricsv1.Metric
	points  int
}

// newBatches describes the proxy as a resource: the attributes that OpenTelemetry has for services, and those of the mesh.
func newBatches(m *agentapi.Metrics, version string, at time.Time, send func(*metricsv1.MetricsData) error) *batches {
	labels := m.GetLabels()
	attributes := map[string]string{
		"service.name": labels[labelWorkload], "service.namespace": labels["mesh"], "service.instance.id": labels["dataplane"],
		"kuma.mesh": labels["mesh"], "kuma.zone": labels["zone"], "kuma.workload": labels[labelWorkload], "kuma.proxy_role": labels[labelRole],
	}
	if attributes["service.name"] == "" {
		attributes["service.name"] = labels["dataplane"]
	}
	maps.DeleteFunc(attributes, func(_, v string) bool { return v == "" })
	return &batches{
		resource: &resourcev1.Resource{Attributes: keyValues(attributes)},
		scope:    &commonv1.InstrumentationScope{Name: "causeway", Version: version},
		at:       uint64(at.UnixNano()), send: send,
	}
}

// The labels that other names are made of.
const (
	labelWorkload = "kuma_workload"
	labelRole     = "kuma_proxy_role"
)

func keyValues(m map[string]string) []*commonv1.KeyValue {
	var out []*commonv1.KeyValue
	for _, k := range sorted(m) {
		out = append(out, keyValue(k, m[k]))
	}
	return out
}

func keyValue(k, v string) *commonv1.KeyValue {
	return &commonv1.KeyValue{Key: k, Value: &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: v}}}
}

func (b *batches) envoy(f family, more *dto.MetricFamily) error {
	parsed, err := parse(f)
	if err != nil || parsed == nil {
		return nil //nolint:nilerr // one family that cannot be read is no reason to lose the others
	}
	parsed.Metric = append(parsed.Metric, more.GetMetric()...)
	return b.family(parsed)
}

func (b *batches) family(f *dto.MetricFamily) error {
	for part := range slices.Chunk(f.GetMetric(), maxPoints) {
		b.metrics = append(b.metrics, b.metric(f, part))
		if b.points += len(part); b.points >= maxPoints {
			if err := b.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush hands on what is gathered.
func (b *batches) flush() error {
	if len(b.metrics) == 0 {
		return nil
	}
	r := &metricsv1.MetricsData{ResourceMetrics: []*metricsv1.ResourceMetrics{{
		Resource: b.resource, ScopeMetrics: []*metricsv1.ScopeMetrics{{Scope: b.scope, Metrics: b.metrics}},
	}}}
	b.metrics, b.points = nil, 0
	return b.send(r)
}

// metric makes a metric of Prometheus one of OpenTelemetry: counters become sums since the start, what has no type a gauge.
func (b *batches) metric(f *dto.MetricFamily, samples []*dto.Metric) *metricsv1.Metric {
	out := &metricsv1.Metric{Name: f.GetName(), Description: f.GetHelp()}
	cumulative := metricsv1.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE
	switch f.GetType() {
	case dto.MetricType_COUNTER:
		out.Data = &metricsv1.Metric_Sum{Sum: &metricsv1.Sum{
			AggregationTemporality: cumulative, IsMonotonic: true,
			DataPoints: b.numbers(samples, func(m *dto.Metric) float64 { return m.GetCounter().GetValue() }),
		}}
	case dto.MetricType_HISTOGRAM, dto.MetricType_GAUGE_HISTOGRAM:
		h := &metricsv1.Histogram{AggregationTemporality: cumulative}
		for _, m := range samples {
			h.DataPoints = append(h.DataPoints, b.histogram(m))
		}
		out.Data = &metricsv1.Metric_Histogram{Histogram: h}
	case dto.MetricType_SUMMARY:
		s := &metricsv1.Summary{}
		for _, m := range samples {
			p := &metricsv1.SummaryDataPoint{
				Attributes: attributesOf(m), TimeUnixNano: b.when(m), Count: m.GetSummary().GetSampleCount(), Sum: m.GetSummary().GetSampleSum(),
			}
			for _, q := range m.GetSummary().GetQuantile() {
				p.QuantileValues = append(p.QuantileValues, &metricsv1.SummaryDataPoint_ValueAtQuantile{Quantile: q.GetQuantile(), Value: q.GetValue()})
			}
			s.DataPoints = append(s.DataPoints, p)
		}
		out.Data = &metricsv1.Metric_Summary{Summary: s}
	case dto.MetricType_GAUGE:
		out.Data = b.gauge(samples, func(m *dto.Metric) float64 { return m.GetGauge().GetValue() })
	default:
		out.Data = b.gauge(samples, func(m *dto.Metric) float64 { return m.GetUntyped().GetValue() })
	}
	return out
}

func (b *batches) gauge(samples []*dto.Metric, value func(*dto.Metric) float64) *metricsv1.Metric_Gauge {
	return &metricsv1.Metric_Gauge{Gauge: &metricsv1.Gauge{DataPoints: b.numbers(samples, value)}}
}

func (b *batches) numbers(samples []*dto.Metric, value func(*dto.Metric) float64) []*metricsv1.NumberDataPoint {
	out := make([]*metricsv1.NumberDataPoint, 0, len(samples))
	for _, m := range samples {
		out = append(out, &metricsv1.NumberDataPoint{
			Attributes: attributesOf(m), TimeUnixNano: b.when(m), Value: &metricsv1.NumberDataPoint_AsDouble{AsDouble: value(m)},
		})
	}
	return out
}

// histogram turns counts up to each bound into counts between bounds. Buckets that do not rise are taken as empty.
func (b *batches) histogram(m *dto.Metric) *metricsv1.HistogramDataPoint {
	h := m.GetHistogram()
	p := &metricsv1.HistogramDataPoint{Attributes: attributesOf(m), TimeUnixNano: b.when(m), Count: h.GetSampleCount(), Sum: new(h.GetSampleSum())}
	buckets := slices.Clone(h.GetBucket())
	slices.SortFunc(buckets, func(a, b *dto.Bucket) int {
		switch {
		case a.GetUpperBound() < b.GetUpperBound():
			return -1
		case a.GetUpperBound() > b.GetUpperBound():
			return 1
		}
		return 0
	})
	var below, counted uint64
	for _, k := range buckets {
		if math.IsInf(k.GetUpperBound(), 1) {
			continue
		}
		n := k.GetCumulativeCount() - min(below, k.GetCumulativeCount())
		below = max(below, k.GetCumulativeCount())
		p.ExplicitBounds = append(p.ExplicitBounds, k.GetUpperBound())
		p.BucketCounts = append(p.BucketCounts, n)
		counted += n
	}
	if len(p.BucketCounts) > 0 {
		p.BucketCounts = append(p.BucketCounts, p.Count-min(counted, p.Count))
	}
	return p
}

func (b *batches) when(m *dto.Metric) uint64 {
	if ms := m.GetTimestampMs(); ms > 0 && ms < math.MaxInt64/int64(time.Millisecond) {
		return uint64(ms) * uint64(time.Millisecond)
	}
	return b.at
}

func attributesOf(m *dto.Metric) []*commonv1.KeyValue {
	out := make([]*commonv1.KeyValue, 0, len(m.GetLabel()))
	for _, l := range m.GetLabel() {
		out = append(out, keyValue(l.GetName(), l.GetValue()))
	}
	return out
}
