package metrics

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/dataplane/load"
)

// A sink takes metrics, those of Envoy first.
type sink interface {
	// envoy takes a family that Envoy told, with the labels of the mesh, and what applications tell under the same name, if anything.
	envoy(f family, more *dto.MetricFamily) error
	family(f *dto.MetricFamily) error
}

// scrapeTimeout is how long one reading may take when whoever asks does not say.
const scrapeTimeout = 9 * time.Second

// gather reads everything once. What Envoy tells is passed on as it comes; what applications tell, malformed or late, never
// stands in its way. The error is the sink's; how reading went is told among the metrics.
func (s *Server) gather(ctx context.Context, m *agentapi.Metrics, to sink) error {
	chosen, err := newChoice(m.GetSidecar())
	if err != nil {
		return err
	}
	told := s.askApplications(ctx, m)
	families, problems := merge(told, m.GetLabels())
	begin := time.Now()
	reading, err := s.readEnvoy(ctx, m, chosen, families, to)
	if err != nil {
		return err
	}
	outcomes := []outcome{{source: "envoy", took: time.Since(begin), err: reading}}
	for _, t := range told {
		outcomes = append(outcomes, outcome{t.source(), t.took, t.err})
	}
	for _, err := range problems {
		s.cfg.Log.Debug("metrics of applications", "err", err)
	}
	for _, f := range s.own(m.GetLabels(), outcomes, chosen) {
		delete(families, f.GetName())
		if err := to.family(f); err != nil {
			return err
		}
	}
	for _, name := range sorted(families) {
		if err := to.family(families[name]); err != nil {
			return err
		}
	}
	return nil
}

// askApplications gives applications two thirds of the time.
func (s *Server) askApplications(ctx context.Context, m *agentapi.Metrics) []scraped {
	left := scrapeTimeout
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	ctx, cancel := context.WithTimeout(ctx, left*2/3)
	defer cancel()
	told := scrapeAll(ctx, s.applications, m.GetApplications())
	for _, t := range told {
		if t.err != nil {
			s.cfg.Log.Debug("an application tells no metrics", "application", t.source(), "err", t.err)
		}
	}
	return told
}

// readEnvoy passes on what Envoy tells, and takes away what applications told under the same names. reading is why not all could be read.
func (s *Server) readEnvoy(ctx context.Context, m *agentapi.Metrics, chosen choice, families map[string]*dto.MetricFamily, to sink) (reading, writing error) {
	path := "/stats/prometheus"
	if !m.GetSidecar().GetIncludeUnused() {
		path += "?usedonly"
	}
	body, err := s.cfg.Envoy(ctx, path)
	if err != nil {
		return err, nil
	}
	defer body.Close()
	labels := labelText(m.GetLabels())
	var labelled []byte
	reading = eachFamily(body, chosen.tells, func(f family) error {
		labelled = appendLabelled(labelled[:0], f, labels, chosen.withInternals())
		if len(labelled) == 0 {
			return nil
		}
		more := families[f.name]
		delete(families, f.name)
		if more != nil && !strings.EqualFold(more.GetType().String(), f.typ) {
			more = nil
		}
		writing = to.envoy(family{f.name, f.typ, labelled}, more)
		return writing
	})
	if writing != nil {
		return nil, writing
	}
	return reading, nil
}

func sorted[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// An outcome is how reading one source went.
type outcome struct {
	source string
	took   time.Duration
	err    error
}

// own are the metrics of this package: how reading went, and where the traffic of the proxy went.
func (s *Server) own(labels map[string]string, outcomes []outcome, chosen choice) []*dto.MetricFamily {
	up := newOwn("causeway_scrape_up", "Whether a source of these metrics could be read.", dto.MetricType_GAUGE)
	took := newOwn("causeway_scrape_duration_seconds", "How long reading a source of these metrics took.", dto.MetricType_GAUGE)
	for _, o := range outcomes {
		is := 1.0
		if o.err != nil {
			is = 0
		}
		up.add(is, labels, "source", o.source)
		took.add(o.took.Seconds(), labels, "source", o.source)
	}
	list := []*ownFamily{up, took}
	if s.cfg.Load != nil {
		list = append(list, traffic(s.cfg.Load(), labels)...)
	}
	var out []*dto.MetricFamily
	for _, f := range list {
		if len(f.Metric) > 0 && chosen.tells(f.GetName()) {
			out = append(out, f.MetricFamily)
		}
	}
	return out
}

// traffic tells what the proxy sent to endpoints of which zone.
func traffic(totals []load.Total, labels map[string]string) []*ownFamily {
	kinds := []struct {
		f  *ownFamily
		of func(load.Counts) uint64
	}{
		{newOwn("causeway_traffic_requests_total", "Requests begun, or TCP connections, by destination and zone of the endpoint.", dto.MetricType_COUNTER), func(c load.Counts) uint64 { return c.Requests }},
		{newOwn("causeway_traffic_errors_total", "Requests that failed: answered with 5xx, reset or timed out.", dto.MetricType_COUNTER), func(c load.Counts) uint64 { return c.Errors }},
		{newOwn("causeway_traffic_connections_total", "Connections opened.", dto.MetricType_COUNTER), func(c load.Counts) uint64 { return c.Connections }},
		{newOwn("causeway_traffic_connection_failures_total", "Connections that could not be opened.", dto.MetricType_COUNTER), func(c load.Counts) uint64 { return c.FailedConnections }},
		{newOwn("causeway_traffic_sent_bytes_total", "Bytes sent, divided by requests while endpoints of several zones are used.", dto.MetricType_COUNTER), func(c load.Counts) uint64 { return c.BytesSent }},
		{newOwn("causeway_traffic_received_bytes_total", "Bytes received, divided by requests while endpoints of several zones are used.", dto.MetricType_COUNTER), func(c load.Counts) uint64 { return c.BytesReceived }},
		{newOwn("causeway_traffic_requests_in_progress", "Requests in progress.", dto.MetricType_GAUGE), func(c load.Counts) uint64 { return c.InProgress }},
	}
	var out []*ownFamily
	for _, k := range kinds {
		for _, t := range totals {
			k.f.add(float64(k.of(t.Counts)), labels, "destination", t.Destination, "peer_zone", t.Zone, "priority", strconv.FormatUint(uint64(t.Priority), 10))
		}
		out = append(out, k.f)
	}
	return out
}

// ownFamily is a family that is made here.
type ownFamily struct{ *dto.MetricFamily }

func newOwn(name, help string, typ dto.MetricType) *ownFamily {
	return &ownFamily{&dto.MetricFamily{Name: &name, Help: &help, Type: &typ}}
}

func (f *ownFamily) add(value float64, labels map[string]string, more ...string) {
	m := &dto.Metric{}
	for i := 0; i < len(more); i += 2 {
		m.Label = append(m.Label, &dto.LabelPair{Name: &more[i], Value: &more[i+1]})
	}
	m.Label = withLabels(m.Label, labels)
	if f.GetType() == dto.MetricType_COUNTER {
		m.Counter = &dto.Counter{Value: &value}
	} else {
		m.Gauge = &dto.Gauge{Value: &value}
	}
	f.Metric = append(f.Metric, m)
}

// A port is where Prometheus is served.
type port struct {
	address string
	number  uint32
	tls     string
}

func (p port) String() string { return fmt.Sprintf("%s:%d %s", p.address, p.number, p.tls) }

// backend names what one port is for, for people.
func (p port) backend() string { return fmt.Sprintf("prometheus %d", p.number) }
