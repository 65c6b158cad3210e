package metric

import (
	"cmp"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/proxy"
)

// tell makes what an agent is told of the configuration.
func tell(c effective, a proxy.Agent) *agentapi.ZoneMessage {
	m := &agentapi.Metrics{}
	for i, b := range c.Backends {
		switch {
		case b.Type == typePrometheus && b.Prometheus != nil:
			m.Prometheus = append(m.Prometheus, b.Prometheus.message())
		case b.Type == typeOTel && b.OpenTelemetry != nil && i < len(c.Collectors) && c.Collectors[i] != nil:
			m.Collectors = append(m.Collectors, b.OpenTelemetry.message(c.Collectors[i]))
		}
	}
	if len(m.Prometheus)+len(m.Collectors) > 0 {
		m.Address, m.Labels, m.Sidecar = a.Address, labels(a), c.Sidecar.message()
		if !a.ServesZone() {
			for _, app := range c.Applications {
				m.Applications = append(m.Applications, &agentapi.MetricsApplication{
					Name: app.Name, Address: cmp.Or(app.Address, a.Serves(app.Port)), Port: app.Port, Path: cmp.Or(app.Path, defaultPath),
				})
			}
		}
	}
	return &agentapi.ZoneMessage{Message: &agentapi.ZoneMessage_Metrics{Metrics: m}}
}

// labels are those of every metric: under the names that dashboards for Kuma use, and those of zones short as well.
func labels(a proxy.Agent) map[string]string {
	out := map[string]string{
		"mesh": a.Mesh, "dataplane": a.Name, "zone": a.Zone, "kuma_io_zone": a.Zone, "kuma_proxy_role": string(a.Role),
	}
	for k, v := range map[string]string{"kuma_workload": a.Workload, "k8s_kuma_io_namespace": a.Namespace} {
		if v != "" {
			out[k] = v
		}
	}
	return out
}

func (s *Sidecar) message() *agentapi.MetricsSidecar {
	out := &agentapi.MetricsSidecar{}
	if s == nil {
		return out
	}
	out.IncludeUnused = s.IncludeUnused != nil && *s.IncludeUnused
	if p := s.Profiles; p != nil {
		for _, profile := range p.AppendProfiles {
			out.Profiles = append(out.Profiles, profile.Name)
		}
		out.Exclude, out.Include = selectors(p.Exclude), selectors(p.Include)
	}
	return out
}

func selectors(in []Selector) []*agentapi.MetricsSelector {
	var out []*agentapi.MetricsSelector
	for _, s := range in {
		out = append(out, &agentapi.MetricsSelector{Type: s.Type, Match: s.Match})
	}
	return out
}

func (p *Prometheus) message() *agentapi.PrometheusBackend {
	return &agentapi.PrometheusBackend{ClientId: p.ClientID, Port: cmp.Or(p.Port, defaultPort), Path: cmp.Or(p.Path, defaultPath), Tls: p.TLS.mode()}
}

func (t *PrometheusTLS) mode() string {
	if t == nil {
		return modeDisabled
	}
	return cmp.Or(t.Mode, modeDisabled)
}

func (o *OpenTelemetry) message(to *linked) *agentapi.MetricsCollector {
	interval := defaultInterval
	if o.RefreshInterval != nil {
		interval = o.RefreshInterval.Duration
	}
	return &agentapi.MetricsCollector{Name: to.Name, IntervalMs: interval.Milliseconds(), Collector: collector(to.Backend)}
}

func collector(b *mesh.MeshOpenTelemetryBackend) *agentapi.Collector {
	out := &agentapi.Collector{Protocol: cmp.Or(b.Protocol, "grpc"), EnvMode: "Disabled"}
	if e := b.Endpoint; e != nil {
		out.Given, out.Address, out.Port, out.Path = true, e.Address, cmp.Or(e.Port, 4317), e.Path
	}
	if e := b.Env; e != nil {
		out.EnvMode = cmp.Or(e.Mode, "Disabled")
		out.EnvFirst = e.Precedence == "EnvFirst"
		out.SignalOverrides = e.AllowSignalOverrides != nil && *e.AllowSignalOverrides
	}
	return out
}
