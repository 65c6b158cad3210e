package timeout

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
)

var hooks = policy.Hooks[Conf]{
	Cluster: policy.Hook[func(Conf, proxy.Cluster, *clusterv3.Cluster)]{
		Fields: []string{"connectionTimeout", "idleTimeout", "http.maxStreamDuration", "http.maxConnectionDuration"},
		Apply:  editCluster,
	},
	Route: policy.Hook[func(Conf, proxy.Route, *routev3.Route)]{
		Fields: []string{"http.requestTimeout", "http.streamIdleTimeout"},
		Apply:  editRoute,
	},
	HTTP: policy.Hook[func(Conf, proxy.Listener, *hcmv3.HttpConnectionManager)]{
		Fields: []string{"http.requestHeadersTimeout"},
		Apply:  editHTTP,
	},
	TCP: policy.Hook[func(Conf, proxy.Listener, *tcpproxyv3.TcpProxy)]{
		Fields: []string{"idleTimeout"},
		Apply:  func(c Conf, _ proxy.Listener, m *tcpproxyv3.TcpProxy) { m.IdleTimeout = c.IdleTimeout.Proto() },
	},
}

func editCluster(c Conf, pc proxy.Cluster, m *clusterv3.Cluster) {
	m.ConnectTimeout = c.ConnectionTimeout.Proto()
	if !pc.Protocol.IsHTTP() {
		return
	}
	policy.EditHTTPOptions(m, func(o *httpv3.HttpProtocolOptions) {
		if o.CommonHttpProtocolOptions == nil {
			o.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{}
		}
		common := o.CommonHttpProtocolOptions
		common.IdleTimeout = c.IdleTimeout.Proto()
		if h := c.HTTP; h != nil {
			common.MaxStreamDuration = limit(h.MaxStreamDuration)
			common.MaxConnectionDuration = limit(h.MaxConnectionDuration)
		}
	})
}

// limit leaves out a duration of zero: here Envoy would take it as no time at all.
func limit(d *policy.Duration) *durationpb.Duration {
	if d == nil || d.Duration == 0 {
		return nil
	}
	return d.Proto()
}

func editRoute(c Conf, _ proxy.Route, m *routev3.Route) {
	action := m.GetRoute()
	if action == nil || c.HTTP == nil {
		return // redirects and direct answers wait for nobody
	}
	action.Timeout = c.HTTP.RequestTimeout.Proto()
	action.IdleTimeout = c.HTTP.StreamIdleTimeout.Proto()
}

func editHTTP(c Conf, _ proxy.Listener, m *hcmv3.HttpConnectionManager) {
	if c.HTTP != nil {
		m.RequestHeadersTimeout = c.HTTP.RequestHeadersTimeout.Proto()
	}
}
