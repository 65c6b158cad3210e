// Package sink is what policies that send telemetry share: references to collectors, and the clusters through which a proxy reaches
// its agent, which sends the telemetry on. A cluster tells the agent which collector is meant, so that an edit of a collector
// replaces its cluster and drains no listener. It is no policy.
package sink

import (
	"net/netip"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	codecv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/upstream_codec/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	detectorsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/tracers/opentelemetry/resource_detectors/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// A Ref names a MeshOpenTelemetryBackend by its labels.
type Ref struct {
	// Kind is MeshOpenTelemetryBackend. Required.
	Kind string `json:"kind"`
	// Labels that the backend carries; when several match, the oldest is taken. Required.
	Labels map[string]string `json:"labels,omitempty"`

	// Name is no longer supported; use labels with kuma.io/display-name.
	Name string `json:"name,omitempty"`
	// Namespace is no longer supported; use labels with k8s.kuma.io/namespace.
	Namespace string `json:"namespace,omitempty"`
}

// Check reports what is wrong with a reference; nil is a missing one.
func (r *Ref) Check(at resource.Path) resource.Problems {
	var ps resource.Problems
	if r == nil {
		ps.Add(at, "must be set")
		return ps
	}
	if r.Kind != mesh.TypeMeshOTelBackend {
		ps.Add(at.Field("kind"), "must be %s", mesh.TypeMeshOTelBackend)
	}
	if len(r.Labels) == 0 {
		ps.Add(at.Field("labels"), "must be set")
	}
	ps.Append(resource.CheckLabels(at.Field("labels"), r.Labels))
	if r.Name != "" {
		ps.Add(at.Field("name"), "is no longer supported; use labels with %s", resource.LabelDisplayName)
	}
	if r.Namespace != "" {
		ps.Add(at.Field("namespace"), "is no longer supported; use labels with %s", resource.LabelNamespace)
	}
	return ps
}

// References makes the references of a spec for its status.
func References(list ...*Ref) []policy.Reference {
	var out []policy.Reference
	for _, r := range list {
		if r != nil {
			out = append(out, policy.Reference{Kind: r.Kind, Labels: r.Labels})
		}
	}
	return out
}

// Find is the collector that a reference means, and its identifier.
func (r *Ref) Find(find policy.Find) (name string, c mesh.Collector, ok bool) {
	if r == nil {
		return "", c, false
	}
	found, ok := find(mesh.TypeMeshOTelBackend, r.Labels)
	if !ok {
		return "", c, false
	}
	spec, ok := found.Resource.Spec.(*mesh.MeshOpenTelemetryBackend)
	if !ok {
		return "", c, false
	}
	return found.KRI.String(), mesh.Collector{OpenTelemetry: spec}, true
}

// Missing says that a reference finds nothing.
func (r *Ref) Missing() string {
	return "no " + mesh.TypeMeshOTelBackend + " has the labels " + resource.Selector(r.Labels).String() + "; nothing is sent there until one has"
}

// IsHost says whether a proxy can connect to a host of this name.
func IsHost(s string) bool {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Zone() == "" && !a.IsUnspecified() && !a.IsMulticast()
	}
	return len(validation.IsDNS1123Subdomain(strings.ToLower(s))) == 0
}

const (
	connect = time.Second
	// deadline bounds how long Envoy keeps what the agent does not take.
	deadline = 5 * time.Second

	httpOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
)

// Cluster leads to the agent, and tells it where to send on what it gets.
func Cluster(name string, c mesh.Collector) *clusterv3.Cluster {
	options := &httpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}},
		}},
		HttpFilters: []*hcmv3.HttpFilter{
			filter("envoy.filters.http.header_mutation", policy.Pack(&headermutationv3.HeaderMutation{Mutations: &headermutationv3.Mutations{
				RequestMutations: []*mutationv3.HeaderMutation{{Action: &mutationv3.HeaderMutation_Append{Append: &corev3.HeaderValueOption{
					Header:       &corev3.HeaderValue{Key: mesh.CollectorHeader, Value: c.Header()},
					AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
				}}}},
			}})),
			filter("envoy.filters.http.upstream_codec", policy.Pack(&codecv3.UpstreamCodec{})),
		},
	}
	return &clusterv3.Cluster{
		Name:                          name,
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		ConnectTimeout:                durationpb.New(connect),
		TypedExtensionProtocolOptions: map[string]*anypb.Any{httpOptions: policy.Pack(options)},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
				// Relative to the directory in which the agent runs Envoy, so that the cluster is the same for all proxies.
				Address: &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: mesh.AgentSocket}}},
			}}}},
		}}},
	}
}

func filter(name string, config *anypb.Any) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: config}}
}

// Service is how Envoy's exporters reach such a cluster.
func Service(cluster string) *corev3.GrpcService {
	return &corev3.GrpcService{
		Timeout:         durationpb.New(deadline),
		TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: cluster}},
	}
}

// Detectors let exporters tell who sends: mesh, zone and workload are in Envoy's environment.
func Detectors() []*corev3.TypedExtensionConfig {
	return []*corev3.TypedExtensionConfig{{
		Name:        "envoy.tracers.opentelemetry.resource_detectors.environment",
		TypedConfig: policy.Pack(&detectorsv3.EnvironmentResourceDetectorConfig{}),
	}}
}
