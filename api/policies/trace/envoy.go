package trace

import (
	"net/netip"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	tracingv3 "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policies/sink"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
)

var hooks = policy.Hooks[Effective]{
	HTTP: policy.Hook[func(Effective, proxy.Listener, *hcmv3.HttpConnectionManager)]{
		Fields: []string{"provider", "sampling", "tags"}, Apply: trace,
	},
	Resources: policy.Hook[func(Effective, proxy.Self) []policy.Addition]{Fields: []string{"collector"}, Apply: clusters},
}

// trace lets a listener make spans. Requests to external services leave theirs at the egress that they pass: headers of the
// mesh do not go to strangers from here.
func trace(c Effective, l proxy.Listener, m *hcmv3.HttpConnectionManager) {
	if c.Provider == nil || l.Direction == proxy.Outbound && l.Destination.Type == mesh.TypeMeshExternalService {
		return
	}
	s := c.Sampling
	if s == nil {
		s = &Sampling{}
	}
	m.Tracing = &hcmv3.HttpConnectionManager_Tracing{
		Provider:        c.Provider.provider(l),
		OverallSampling: percent(s.Overall), ClientSampling: percent(s.Client), RandomSampling: percent(s.Random),
		CustomTags: c.tags(),
		// One span per proxy and request: it is the client's at an outbound and the server's at an inbound.
		SpawnUpstreamSpan: wrapperspb.Bool(false),
	}
}

func percent(d *policy.Decimal) *typev3.Percent {
	if d == nil {
		return &typev3.Percent{Value: 100}
	}
	return &typev3.Percent{Value: d.Float()}
}

// tags are those of the policy, and where the span comes from.
func (c Effective) tags() []*tracingv3.CustomTag {
	var out []*tracingv3.CustomTag
	for _, t := range c.Tags {
		tag := &tracingv3.CustomTag{Tag: t.Name}
		switch {
		case t.Literal != nil:
			tag.Type = &tracingv3.CustomTag_Literal_{Literal: &tracingv3.CustomTag_Literal{Value: *t.Literal}}
		case t.Header != nil:
			h := &tracingv3.CustomTag_Header{Name: t.Header.Name}
			if t.Header.Default != nil {
				h.DefaultValue = *t.Header.Default
			}
			tag.Type = &tracingv3.CustomTag_RequestHeader{RequestHeader: h}
		}
		out = append(out, tag)
	}
	for _, t := range []struct{ name, variable string }{
		{"kuma.mesh", mesh.EnvMesh}, {"kuma.zone", mesh.EnvZone}, {"kuma.workload", mesh.EnvWorkload},
	} {
		out = append(out, &tracingv3.CustomTag{
			Tag: t.name, Type: &tracingv3.CustomTag_Environment_{Environment: &tracingv3.CustomTag_Environment{Name: t.variable}},
		})
	}
	return out
}

func (p *Provider) provider(l proxy.Listener) *tracev3.Tracing_Http {
	var name string
	var config proto.Message
	switch p.Type {
	case TypeZipkin:
		version := tracev3.ZipkinConfig_HTTP_JSON
		if p.Proto {
			version = tracev3.ZipkinConfig_HTTP_PROTO
		}
		name, config = "envoy.tracers.zipkin", &tracev3.ZipkinConfig{
			CollectorCluster: p.Cluster, CollectorEndpoint: p.Path, CollectorHostname: p.Host, CollectorEndpointVersion: version,
			TraceId_128Bit: p.TraceID128Bit, SharedSpanContext: wrapperspb.Bool(p.SharedSpanContext),
		}
	case TypeDatadog:
		name, config = "envoy.tracers.datadog", &tracev3.DatadogConfig{CollectorCluster: p.Cluster, ServiceName: p.service(l)}
	default:
		name, config = "envoy.tracers.opentelemetry", &tracev3.OpenTelemetryConfig{
			GrpcService: sink.Service(p.Cluster), ResourceDetectors: sink.Detectors(),
			// The workload is the service; the agent says so, since the configuration is the same for all workloads.
			SetServiceNameResourceAttribute: wrapperspb.Bool(false),
		}
	}
	return &tracev3.Tracing_Http{Name: name, ConfigType: &tracev3.Tracing_Http_TypedConfig{TypedConfig: policy.Pack(config)}}
}

// service is the name by which Datadog knows the proxy.
func (p *Provider) service(l proxy.Listener) string {
	workload := l.Labels[resource.LabelWorkload]
	if workload == "" {
		workload = "unknown"
	}
	if !p.SplitService {
		return workload
	}
	name := workload + "_" + strings.ToUpper(string(l.Direction))
	if to := l.Destination.KRI.Name; to != "" {
		name += "_" + to
	}
	return name
}

const connect = 5 * time.Second

func clusters(c Effective, _ proxy.Self) []policy.Addition {
	to := c.Collector
	switch {
	case to == nil:
		return nil
	case to.Missing != "":
		return []policy.Addition{{Problem: to.Missing}}
	case to.Agent != nil:
		return []policy.Addition{{Cluster: sink.Cluster(to.Name, *to.Agent)}}
	case to.Host == "":
		return nil
	}
	discovery := clusterv3.Cluster_STRICT_DNS
	if _, err := netip.ParseAddr(to.Host); err == nil {
		discovery = clusterv3.Cluster_STATIC
	}
	m := &clusterv3.Cluster{
		Name:                 to.Name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: discovery},
		ConnectTimeout:       durationpb.New(connect),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: to.Name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
				Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
					Address: to.Host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: to.Port},
				}}},
			}}}},
		}}},
	}
	if to.TLS {
		m.TransportSocket = &corev3.TransportSocket{
			Name:       "envoy.transport_sockets.tls",
			ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: policy.Pack(secured(to.Host))},
		}
	}
	return []policy.Addition{{Cluster: m}}
}

// secured expects a certificate for the host from an authority that the proxy's host trusts.
func secured(host string) *tlsv3.UpstreamTlsContext {
	san := tlsv3.SubjectAltNameMatcher_DNS
	c := &tlsv3.UpstreamTlsContext{}
	if _, err := netip.ParseAddr(host); err == nil {
		san = tlsv3.SubjectAltNameMatcher_IP_ADDRESS
	} else {
		c.Sni = host
	}
	c.CommonTlsContext = &tlsv3.CommonTlsContext{ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{
		ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa:                 &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: authorities}},
			MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{SanType: san, Matcher: exactly(host)}},
		},
	}}
	return c
}

// authorities is where most hosts keep the authorities that they trust.
const authorities = "/etc/ssl/certs/ca-certificates.crt"

func exactly(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
}
