package envoy

import (
	"fmt"
	"slices"
	"strings"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	otelv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/open_telemetry/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// A logging is what is logged of the traffic of a listener, as canonical JSON of its parts.
type logging string

// A routeLogs is what is logged of the requests of one MeshHTTPRoute; without a route, of all others.
type routeLogs struct {
	Route string `json:"r,omitempty"`
	Confs confs  `json:"c"`
}

// loggingOf is what is logged of all traffic.
func loggingOf(cs confs) logging {
	if cs == "" {
		return ""
	}
	return logging(encode([]routeLogs{{Confs: cs}}))
}

// loggingTo is what is logged of traffic to a destination. Routes of which something else is logged stand apart.
func (c *Compiler) loggingTo(r *memo.Reader, cl Class, d view.Destination) logging {
	effective := c.effectiveFor(r, cl, d, resource.KRI{})
	all := c.confsFor(policy.HookLogs, effective)
	var parts []routeLogs
	if d.Protocol.IsHTTP() && c.logsAnything(cl) {
		for _, kri := range c.confsFor(policy.HookRoutes, effective).origins() {
			if cs := c.confsFor(policy.HookLogs, c.effectiveFor(r, cl, d, kri)); cs != all {
				parts = append(parts, routeLogs{kri.String(), cs})
			}
		}
	}
	if len(parts) == 0 {
		return loggingOf(all)
	}
	return logging(encode(append(parts, routeLogs{Confs: all})))
}

// logsAnything says whether a policy that may log reaches a class, so that others need not ask for its routes.
func (c *Compiler) logsAnything(cl Class) bool {
	sets := decodeSets(cl.Outbound)
	return slices.ContainsFunc(c.view.Policies(), func(p policy.Policy) bool {
		_, ok := p.Fields(policy.HookLogs)
		return ok && sets[p.Resource().Name] != ""
	})
}

func (k logging) parts() []routeLogs {
	var out []routeLogs
	decode(string(k), &out)
	return out
}

// confs are those of all parts, each policy type once.
func (k logging) confs() confs {
	var out []conf
	for _, part := range k.parts() {
		for _, co := range part.Confs.list() {
			i := slices.IndexFunc(out, func(o conf) bool { return o.Type == co.Type })
			if i < 0 {
				out = append(out, co)
				continue
			}
			for _, p := range co.Policies {
				if !slices.Contains(out[i].Policies, p) {
					out[i].Policies = append(out[i].Policies, p)
				}
			}
		}
	}
	if out == nil {
		return ""
	}
	return confs(encode(out))
}

// loggers are the access logs of one chain. Of a request that has a route of its own, its logs are taken and no others.
func (c *Compiler) loggers(k logging, kept []conf, l proxy.Listener) ([]*accesslogv3.AccessLog, error) {
	var out []*accesslogv3.AccessLog
	var others []string
	for _, part := range k.parts() {
		only := ""
		if part.Route != "" {
			// Routes are named by the identifier with the rule as its section.
			only = "xds.route_name.startsWith(" + policy.Expression(part.Route) + ")"
			others = append(others, "!"+only)
		} else if len(others) > 0 {
			only = strings.Join(others, " && ")
		}
		err := c.apply(keep(part.Confs.list(), kept), func(_ string, b policy.Bound) {
			for _, a := range b.Logs(l) {
				if only != "" {
					a.Filter = policy.LogsWhere(only)
				}
				out = append(out, a)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// addLogs lets the chains of a listener log. Whether a client is known, and whether requests are seen, is each chain's own.
func (c *Compiler) addLogs(m *listenerv3.Listener, k logging, kept []conf, l proxy.Listener) error {
	for _, chain := range chainsOf(m) {
		if err := c.addChainLogs(chain, k, kept, l); err != nil {
			return err
		}
	}
	return nil
}

func (c *Compiler) addChainLogs(chain *listenerv3.FilterChain, k logging, kept []conf, l proxy.Listener) error {
	if k == "" {
		return nil
	}
	l.MTLS = chain.TransportSocket != nil
	for i, f := range chain.Filters {
		var http hcmv3.HttpConnectionManager
		var tcp tcpproxyv3.TcpProxy
		var edited proto.Message
		l := l
		switch a := f.GetTypedConfig(); {
		case a.MessageIs(&http):
			if !l.Protocol.IsHTTP() {
				l.Protocol = mesh.HTTP
			}
			edited = &http
		case a.MessageIs(&tcp):
			l.Protocol = mesh.TCP
			edited = &tcp
		default:
			continue
		}
		if err := f.GetTypedConfig().UnmarshalTo(edited); err != nil {
			return fmt.Errorf("add access logs: %w", err)
		}
		logs, err := c.loggers(k, kept, l)
		if err != nil {
			return err
		}
		http.AccessLog, tcp.AccessLog = append(http.AccessLog, logs...), append(tcp.AccessLog, logs...)
		if chain.Filters[i], err = networkFilter(f.Name, edited); err != nil {
			return err
		}
	}
	return nil
}

// addsResources says whether any of the configurations may come with clusters of its own.
func (c *Compiler) addsResources(list []conf) bool {
	return slices.ContainsFunc(c.view.Policies(), func(p policy.Policy) bool {
		_, ok := p.Fields(policy.HookResources)
		return ok && slices.ContainsFunc(list, func(co conf) bool { return co.Type == p.Resource().Name })
	})
}

// collectorRefs are the clusters that the chains of a listener send logs and spans to.
func collectorRefs(m *listenerv3.Listener) []Ref {
	var out []Ref
	add := func(cluster string) {
		if ref := (Ref{Cluster, cluster}); cluster != "" && !slices.Contains(out, ref) {
			out = append(out, ref)
		}
	}
	for _, chain := range chainsOf(m) {
		for _, f := range chain.Filters {
			var http hcmv3.HttpConnectionManager
			var tcp tcpproxyv3.TcpProxy
			if f.GetTypedConfig().UnmarshalTo(&http) != nil {
				_ = f.GetTypedConfig().UnmarshalTo(&tcp) // other filters log nothing
			}
			for _, l := range slices.Concat(http.AccessLog, tcp.AccessLog) {
				var sent otelv3.OpenTelemetryAccessLogConfig
				if l.GetTypedConfig().UnmarshalTo(&sent) == nil {
					add(sent.GetGrpcService().GetEnvoyGrpc().GetClusterName())
				}
			}
			add(tracedTo(http.GetTracing().GetProvider().GetTypedConfig()))
		}
	}
	return out
}

// tracedTo is the cluster that a provider of spans sends them to.
func tracedTo(provider *anypb.Any) string {
	var otel tracev3.OpenTelemetryConfig
	var zipkin tracev3.ZipkinConfig
	var datadog tracev3.DatadogConfig
	switch {
	case provider.UnmarshalTo(&otel) == nil:
		return otel.GetGrpcService().GetEnvoyGrpc().GetClusterName()
	case provider.UnmarshalTo(&zipkin) == nil:
		return zipkin.CollectorCluster
	case provider.UnmarshalTo(&datadog) == nil:
		return datadog.CollectorCluster
	}
	return ""
}
