package trace

import (
	"cmp"
	"encoding/json"
	"net/netip"
	"strconv"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policies/sink"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Effective is how a proxy traces.
type Effective struct {
	// Provider is what listeners need to know of the collector; its address is none of it.
	Provider *Provider `json:"provider,omitempty"`
	// Collector is where the spans go.
	Collector *Collector `json:"collector,omitempty"`
	Sampling  *Sampling  `json:"sampling,omitempty"`
	Tags      []Tag      `json:"tags,omitempty"`
}

// A Provider is how spans are made and encoded.
type Provider struct {
	Type string `json:"type"`
	// Cluster of the collector; empty while there is none.
	Cluster string `json:"cluster,omitempty"`
	// Host is the name under which the collector wants to be called, when it is not an address.
	Host              string `json:"host,omitempty"`
	Path              string `json:"path,omitempty"`
	TraceID128Bit     bool   `json:"traceId128bit,omitempty"`
	Proto             bool   `json:"proto,omitempty"`
	SharedSpanContext bool   `json:"sharedSpanContext,omitempty"`
	SplitService      bool   `json:"splitService,omitempty"`
}

// A Collector is where a proxy sends spans to.
type Collector struct {
	Name string `json:"name,omitempty"`
	// Host, Port and TLS are for collectors that the proxy itself reaches.
	Host string `json:"host,omitempty"`
	Port uint32 `json:"port,omitempty"`
	TLS  bool   `json:"tls,omitempty"`
	// Agent is for those that its agent reaches.
	Agent *mesh.Collector `json:"agent,omitempty"`
	// Ref is a reference that is not resolved yet, Missing that it finds nothing.
	Ref     *sink.Ref `json:"ref,omitempty"`
	Missing string    `json:"missing,omitempty"`
}

const (
	zipkinCluster  = "system_meshtrace_zipkin"
	datadogCluster = "system_meshtrace_datadog"
	otelCluster    = "system_meshtrace_opentelemetry_" // and the identifier of the collector
)

// merge overlays fields as other policies do, and then takes apart what listeners need to know of the collector and its address.
func merge(in []policy.Sourced) policy.Merged {
	m := policy.MergeFields(in)
	var written Conf
	convert(m.Conf, &written)
	if written.Backends == nil {
		return policy.Merged{}
	}
	c := Effective{Sampling: written.Sampling, Tags: written.Tags}
	for _, b := range *written.Backends {
		c.Provider, c.Collector = b.parts()
	}
	m.Conf = nil
	convert(c, &m.Conf)
	for i, o := range m.Origins {
		if o.Field == "backends" {
			m.Origins[i].Field = "collector"
			m.Origins = append(m.Origins, policy.Origin{Field: "provider", Policy: o.Policy, Index: o.Index})
		}
	}
	return m
}

func (b Backend) parts() (*Provider, *Collector) {
	p := &Provider{Type: b.Type}
	switch {
	case b.Zipkin != nil:
		u, ok := parseURL(b.Zipkin.URL)
		if !ok {
			return nil, nil // refused when it was written
		}
		p.Cluster, p.Path = zipkinCluster, u.RequestURI()
		p.TraceID128Bit, p.Proto = b.Zipkin.TraceID128Bit, b.Zipkin.APIVersion == "httpProto"
		p.SharedSpanContext = b.Zipkin.SharedSpanContext == nil || *b.Zipkin.SharedSpanContext
		if _, err := netip.ParseAddr(u.Hostname()); err != nil {
			p.Host = u.Host
		}
		c := &Collector{Name: p.Cluster, Host: u.Hostname(), TLS: u.Scheme == "https", Port: 80}
		if c.TLS {
			c.Port = 443
		}
		c.Port = port(u.Port(), c.Port)
		return p, c
	case b.Datadog != nil:
		u, ok := parseURL(b.Datadog.URL)
		if !ok {
			return nil, nil
		}
		p.Cluster, p.SplitService = datadogCluster, b.Datadog.SplitService
		return p, &Collector{Name: p.Cluster, Host: u.Hostname(), Port: port(u.Port(), 0)}
	case b.OpenTelemetry != nil:
		return p, &Collector{Ref: b.OpenTelemetry.BackendRef}
	}
	return nil, nil
}

func port(s string, otherwise uint32) uint32 {
	n, _ := strconv.ParseUint(s, 10, 16)
	return cmp.Or(uint32(n), otherwise)
}

func references(spec any) []policy.Reference {
	s, ok := spec.(*policy.Spec[Conf])
	if !ok || s.Default == nil || s.Default.Backends == nil {
		return nil
	}
	var refs []*sink.Ref
	for _, b := range *s.Default.Backends {
		if b.OpenTelemetry != nil {
			refs = append(refs, b.OpenTelemetry.BackendRef)
		}
	}
	return sink.References(refs...)
}

// link finds the collector that is referred to.
func link(c *Effective, find policy.Find) {
	if c.Collector == nil || c.Collector.Ref == nil {
		return
	}
	name, to, ok := c.Collector.Ref.Find(find)
	if !ok {
		c.Collector = &Collector{Missing: c.Collector.Ref.Missing()}
		c.Provider = nil
		return
	}
	c.Provider.Cluster = otelCluster + name
	c.Collector = &Collector{Name: c.Provider.Cluster, Agent: &mesh.Collector{OpenTelemetry: to.OpenTelemetry}}
}

// labels asks for the workload where the configuration itself must name it: Datadog gives no other way.
func labels(c Effective) []string {
	if c.Provider != nil && c.Provider.Type == TypeDatadog {
		return []string{resource.LabelWorkload}
	}
	return nil
}

// convert turns plain JSON into types and back. What does not fit was refused when the policy was written.
func convert(from, into any) {
	if b, err := json.Marshal(from); err == nil {
		_ = json.Unmarshal(b, into)
	}
}
