// Package bootstrap turns the parameters of one proxy into the configuration that its Envoy starts with.
// It is pure: no files, network, clock or environment; it neither finds nor runs Envoy, and everything that
// a zone decides travels later by xDS.
package bootstrap

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	connectionsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	heapv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/fixed_heap/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"sigs.k8s.io/yaml"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// maxSocketPath is the longest path that the kernel takes for a Unix socket.
const maxSocketPath = 107

// maxConnections bounds the connections that Envoy accepts over all listeners.
const maxConnections = 50_000

// Params describes one proxy to its Envoy.
type Params struct {
	Mesh string
	Name string
	Zone string
	// Workload that the proxy belongs to. Collectors of spans know it by this name; without one, by that of its mesh.
	Workload string
	// Agent is the Unix socket of the agent, where ADS and SDS are served.
	Agent string
	// Admin is the Unix socket that Envoy makes for its administration, readable by its own user alone.
	Admin string
	// Metadata is added to the node, for access logs and traces.
	Metadata map[string]string
	// LoadReports lets Envoy report to the agent what traffic it sends where.
	LoadReports bool
	// MaxHeap is the memory in bytes that Envoy may use; zero when no limit is known.
	MaxHeap uint64
}

// Args are the command line arguments that belong to the bootstrap: how listeners are drained.
func Args() []string { return []string{"--drain-strategy", "immediate"} }

// Render returns the bootstrap as YAML. Equal parameters give equal bytes.
func Render(p Params) ([]byte, error) {
	if err := p.validate().Err(); err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	b, err := p.message()
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	if err := b.ValidateAll(); err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	return render(b)
}

func (p Params) validate() resource.Problems {
	var ps resource.Problems
	for _, f := range []struct{ field, value string }{{"mesh", p.Mesh}, {"name", p.Name}} {
		if f.value == "" {
			ps.Add(resource.Path(f.field), "must be set")
		}
	}
	for _, f := range []struct{ field, value string }{{"agent", p.Agent}, {"admin", p.Admin}} {
		switch {
		case !filepath.IsAbs(f.value):
			ps.Add(resource.Path(f.field), "must be the absolute path of a Unix socket, not %s", resource.Quote(f.value))
		case len(f.value) > maxSocketPath:
			ps.Add(resource.Path(f.field), "%s has %d characters, a Unix socket's path may have %d; use a shorter runtime directory",
				resource.Quote(f.value), len(f.value), maxSocketPath)
		}
	}
	return ps
}

func (p Params) message() (*bootstrapv3.Bootstrap, error) {
	node, err := p.node()
	if err != nil {
		return nil, err
	}
	cluster, err := p.agentCluster()
	if err != nil {
		return nil, err
	}
	overload, err := p.overload()
	if err != nil {
		return nil, err
	}
	b := &bootstrapv3.Bootstrap{
		Node:             node,
		Admin:            p.admin(),
		DynamicResources: dynamicResources(),
		StaticResources:  &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{cluster}},
		LayeredRuntime:   runtime(),
		StatsConfig:      stats(),
		OverloadManager:  overload,
	}
	if p.LoadReports {
		b.ClusterManager = &bootstrapv3.ClusterManager{LoadStatsConfig: &corev3.ApiConfigSource{
			ApiType: corev3.ApiConfigSource_GRPC, TransportApiVersion: corev3.ApiVersion_V3, GrpcServices: agentService(),
		}}
	}
	return b, nil
}

func (p Params) node() (*corev3.Node, error) {
	fields := map[string]any{}
	for k, v := range p.Metadata {
		fields[k] = v
	}
	meta, err := structpb.NewStruct(fields)
	if err != nil {
		return nil, fmt.Errorf("node metadata: %w", err)
	}
	n := &corev3.Node{Id: p.Mesh + "." + p.Name, Cluster: cmp.Or(p.Workload, p.Mesh), Metadata: meta}
	if p.Zone != "" {
		n.Locality = &corev3.Locality{Zone: p.Zone}
	}
	return n, nil
}

func (p Params) admin() *bootstrapv3.Admin {
	return &bootstrapv3.Admin{
		Address: pipe(p.Admin, 0o600),
		// Envoy would write profiles under /var/log, which an ordinary user can't.
		ProfilePath:           "/dev/null",
		IgnoreGlobalConnLimit: true,
	}
}

func pipe(path string, mode uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path, Mode: mode}}}
}

// dynamicResources waits without end for the first clusters and listeners: half a configuration is worse than none yet.
func dynamicResources() *bootstrapv3.Bootstrap_DynamicResources {
	ads := &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		InitialFetchTimeout:   durationpb.New(0),
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
	return &bootstrapv3.Bootstrap_DynamicResources{
		AdsConfig: &corev3.ApiConfigSource{
			ApiType:                   corev3.ApiConfigSource_DELTA_GRPC,
			TransportApiVersion:       corev3.ApiVersion_V3,
			SetNodeOnFirstMessageOnly: true,
			GrpcServices:              agentService(),
		},
		CdsConfig: ads,
		LdsConfig: proto.CloneOf(ads),
	}
}

// agentService is the agent as a gRPC service.
func agentService() []*corev3.GrpcService {
	return []*corev3.GrpcService{{
		TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
			ClusterName: envoy.AgentCluster,
			// Without a bound Envoy's waits double up to 30 seconds after streams on which it heard nothing. The agent
			// holds a stream while it looks for a zone, so retries only bridge a lost zone or socket.
			RetryPolicy: &corev3.RetryPolicy{RetryBackOff: &corev3.BackoffStrategy{
				BaseInterval: durationpb.New(20 * time.Millisecond),
				MaxInterval:  durationpb.New(200 * time.Millisecond),
			}},
		}},
	}}
}

// agentCluster reaches the agent; pings find a socket whose other end hangs.
func (p Params) agentCluster() (*clusterv3.Cluster, error) {
	options, err := anypb.New(&httpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
					Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
						ConnectionKeepalive: &corev3.KeepaliveSettings{
							Interval: durationpb.New(30 * time.Second),
							Timeout:  durationpb.New(10 * time.Second),
						},
					},
				},
			},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("agent cluster: %w", err)
	}
	unlimited := wrapperspb.UInt32(math.MaxUint32)
	return &clusterv3.Cluster{
		Name:                 envoy.AgentCluster,
		ConnectTimeout:       durationpb.New(time.Second),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
			MaxConnections: unlimited, MaxPendingRequests: unlimited, MaxRequests: unlimited, MaxRetries: unlimited,
		}}},
		TypedExtensionProtocolOptions: map[string]*anypb.Any{
			"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options,
		},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{
			ClusterName: envoy.AgentCluster,
			Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
				HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: pipe(p.Agent, 0)}},
			}}}},
		},
	}, nil
}

// runtime lets regular expressions of routes be as large as validation allows, and leaves a layer for the admin socket.
func runtime() *bootstrapv3.LayeredRuntime {
	static, _ := structpb.NewStruct(map[string]any{
		"re2.max_program_size.error_level": 4294967295,
		"re2.max_program_size.warn_level":  1000,
	})
	return &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{
		{Name: "causeway", LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: static}},
		{Name: "admin", LayerSpecifier: &bootstrapv3.RuntimeLayer_AdminLayer_{AdminLayer: &bootstrapv3.RuntimeLayer_AdminLayer{}}},
	}}
}

// stats takes the zone of the endpoint out of the names of the statistics that Envoy keeps per pair of zones, and makes it a label.
// What is the same for all metrics of a proxy the agent adds when it tells them.
func stats() *metricsv3.StatsConfig {
	return &metricsv3.StatsConfig{StatsTags: []*metricsv3.TagSpecifier{{
		TagName:  "peer_zone",
		TagValue: &metricsv3.TagSpecifier_Regex{Regex: `^cluster\.kri_.*\.zone\.([^.]+\.([^.]+)\.)`},
	}}}
}

// overload bounds connections always, and sheds load before the memory limit when there is one.
func (p Params) overload() (*overloadv3.OverloadManager, error) {
	connections, err := anypb.New(&connectionsv3.DownstreamConnectionsConfig{MaxActiveDownstreamConnections: maxConnections})
	if err != nil {
		return nil, err
	}
	m := &overloadv3.OverloadManager{
		RefreshInterval: durationpb.New(250 * time.Millisecond),
		ResourceMonitors: []*overloadv3.ResourceMonitor{{
			Name:       "envoy.resource_monitors.global_downstream_max_connections",
			ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: connections},
		}},
	}
	if p.MaxHeap == 0 {
		return m, nil
	}
	const monitor = "envoy.resource_monitors.fixed_heap"
	heap, err := anypb.New(&heapv3.FixedHeapConfig{MaxHeapSizeBytes: p.MaxHeap})
	if err != nil {
		return nil, err
	}
	m.ResourceMonitors = append(m.ResourceMonitors, &overloadv3.ResourceMonitor{
		Name: monitor, ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: heap},
	})
	m.Actions = []*overloadv3.OverloadAction{
		action("envoy.overload_actions.shrink_heap", monitor, 0.95),
		action("envoy.overload_actions.stop_accepting_requests", monitor, 0.98),
	}
	return m, nil
}

func action(name, monitor string, threshold float64) *overloadv3.OverloadAction {
	return &overloadv3.OverloadAction{Name: name, Triggers: []*overloadv3.Trigger{{
		Name:         monitor,
		TriggerOneof: &overloadv3.Trigger_Threshold{Threshold: &overloadv3.ThresholdTrigger{Value: threshold}},
	}}}
}

// render goes through JSON that is compacted first: protojson varies its spaces on purpose.
func render(b *bootstrapv3.Bootstrap) ([]byte, error) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	out, err := yaml.JSONToYAML(compact.Bytes())
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return out, nil
}
