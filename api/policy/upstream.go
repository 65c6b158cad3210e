package policy

import (
	"cmp"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// httpOptions is where a cluster keeps how it speaks HTTP.
const httpOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// EditHTTPOptions changes how a cluster speaks HTTP and keeps what others set, the protocol above all.
// A cluster without such options gets HTTP/1.1, Envoy's own default.
func EditHTTPOptions(c *clusterv3.Cluster, edit func(*httpv3.HttpProtocolOptions)) {
	o := &httpv3.HttpProtocolOptions{}
	if a, ok := c.TypedExtensionProtocolOptions[httpOptions]; !ok || a.UnmarshalTo(o) != nil {
		o = &httpv3.HttpProtocolOptions{UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}},
			},
		}}
	}
	edit(o)
	if c.TypedExtensionProtocolOptions == nil {
		c.TypedExtensionProtocolOptions = map[string]*anypb.Any{}
	}
	c.TypedExtensionProtocolOptions[httpOptions] = Pack(o)
}

// SpeaksHTTP2 says whether a cluster is spoken to with HTTP/2 and nothing else.
func SpeaksHTTP2(c *clusterv3.Cluster) bool {
	o := &httpv3.HttpProtocolOptions{}
	a, ok := c.TypedExtensionProtocolOptions[httpOptions]
	return ok && a.UnmarshalTo(o) == nil && o.GetExplicitHttpConfig().GetHttp2ProtocolOptions() != nil
}

// NoCluster is the name of a cluster that never exists: connections that are led to it are closed.
const NoCluster = "system_none"

// Divide leads the connections of a TCP proxy to clusters by their shares. No shares change nothing.
func Divide(m *tcpproxyv3.TcpProxy, shares []Share) {
	var list []*tcpproxyv3.TcpProxy_WeightedCluster_ClusterWeight
	for _, s := range shares {
		list = append(list, &tcpproxyv3.TcpProxy_WeightedCluster_ClusterWeight{Name: cmp.Or(s.Cluster, NoCluster), Weight: s.Weight})
	}
	switch len(list) {
	case 0:
	case 1:
		m.ClusterSpecifier = &tcpproxyv3.TcpProxy_Cluster{Cluster: list[0].Name}
	default:
		m.ClusterSpecifier = &tcpproxyv3.TcpProxy_WeightedClusters{WeightedClusters: &tcpproxyv3.TcpProxy_WeightedCluster{Clusters: list}}
	}
}

// Pack wraps a message deterministically: equal configuration must be equal bytes.
func Pack(m proto.Message) *anypb.Any {
	// Marshalling fails only for strings that are not UTF-8, which JSON input cannot hold.
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		b = nil
	}
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: b}
}
