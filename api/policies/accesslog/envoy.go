package accesslog

import (
	"maps"
	"slices"
	"strings"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	otelv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/open_telemetry/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/formatter/metadata/v3"
	withoutqueryv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/formatter/req_without_query/v3"
	otlpv1 "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/causeway-mesh/causeway/api/policies/sink"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
)

var hooks = policy.Hooks[Effective]{
	Logs:      policy.Hook[func(Effective, proxy.Listener) []*accesslogv3.AccessLog]{Fields: []string{"logs"}, Apply: logs},
	Resources: policy.Hook[func(Effective, proxy.Self) []policy.Addition]{Apply: clusters},
}

// logs are the loggers of a listener.
func logs(c Effective, l proxy.Listener) []*accesslogv3.AccessLog {
	var out []*accesslogv3.AccessLog
	for _, log := range c.Logs {
		if a := log.logger(l); a != nil {
			a.Filter = filter(log.Matches)
			out = append(out, a)
		}
	}
	return out
}

// clusters lead to the collectors, by way of the agent.
func clusters(c Effective, _ proxy.Self) []policy.Addition {
	var out []policy.Addition
	for _, name := range slices.Sorted(maps.Keys(c.Collectors)) {
		out = append(out, policy.Addition{Cluster: sink.Cluster(name, c.Collectors[name])})
	}
	for _, log := range c.Logs {
		if log.Missing != "" {
			out = append(out, policy.Addition{Problem: log.Missing})
		}
	}
	return out
}

func (log Log) logger(l proxy.Listener) *accesslogv3.AccessLog {
	switch {
	case log.File != nil:
		return &accesslogv3.AccessLog{Name: "envoy.access_loggers.file", ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: policy.Pack(&filev3.FileAccessLog{
			Path: log.File.Path, AccessLogFormat: &filev3.FileAccessLog_LogFormat{LogFormat: log.File.Format.entry(l)},
		})}}
	case log.Collector == "": // a reference that finds nothing, shown as a problem
		return nil
	case log.TCP != nil:
		return sent(&otelv3.OpenTelemetryAccessLogConfig{
			GrpcService: sink.Service(log.Collector), LogName: "MeshAccessLog", DisableBuiltinLabels: true, Body: line(log.TCP.Format, l),
			Formatters: formatters(log.TCP.Format.texts()...),
		})
	case log.OpenTelemetry != nil:
		m := &otelv3.OpenTelemetryAccessLogConfig{
			GrpcService: sink.Service(log.Collector), LogName: "MeshAccessLog", ResourceDetectors: sink.Detectors(),
			Body: record(log.OpenTelemetry.Body, l),
		}
		for _, a := range log.OpenTelemetry.Attributes {
			if m.Attributes == nil {
				m.Attributes = &otlpv1.KeyValueList{}
			}
			m.Attributes.Values = append(m.Attributes.Values, &otlpv1.KeyValue{Key: a.Key, Value: textValue(substitute(a.Value, l)).any})
		}
		m.Formatters = formatters(log.OpenTelemetry.texts()...)
		return sent(m)
	}
	return nil
}

// texts are all formats that are used.
func (o *OpenTelemetry) texts() []string {
	var out []string
	for _, a := range o.Attributes {
		out = append(out, a.Value)
	}
	if v, err := parseBody(o.Body); err == nil {
		v.each(func(s string) { out = append(out, s) })
	}
	return out
}

func sent(m *otelv3.OpenTelemetryAccessLogConfig) *accesslogv3.AccessLog {
	return &accesslogv3.AccessLog{
		Name: "envoy.access_loggers.open_telemetry", ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: policy.Pack(m)},
	}
}

// entry is what a line of a file looks like.
func (f *Format) entry(l proxy.Listener) *corev3.SubstitutionFormatString {
	if f != nil && f.Type == FormatJSON {
		fields := &structpb.Struct{Fields: map[string]*structpb.Value{}}
		for _, field := range f.JSON {
			fields.Fields[field.Key] = structpb.NewStringValue(substitute(field.Value, l))
		}
		return &corev3.SubstitutionFormatString{
			Format:          &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: fields},
			OmitEmptyValues: f.OmitEmptyValues, Formatters: formatters(f.texts()...),
		}
	}
	text, omit := defaultFormat(l), false
	if f != nil {
		text, omit = *f.Plain, f.OmitEmptyValues
	}
	return &corev3.SubstitutionFormatString{
		Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
			Specifier: &corev3.DataSource_InlineString{InlineString: substitute(text, l) + "\n"},
		}},
		OmitEmptyValues: omit, Formatters: formatters(text),
	}
}

// texts are the formats of an entry.
func (f *Format) texts() []string {
	var out []string
	if f == nil {
		return nil
	}
	if f.Plain != nil {
		out = append(out, *f.Plain)
	}
	for _, field := range f.JSON {
		out = append(out, field.Value)
	}
	return out
}

// formatters are what Envoy needs for placeholders that it has only as extensions.
func formatters(formats ...string) []*corev3.TypedExtensionConfig {
	used := map[string]bool{}
	for _, f := range formats {
		list, _ := split(f)
		for _, p := range list {
			used[p.name] = true
		}
	}
	var out []*corev3.TypedExtensionConfig
	if used["METADATA"] {
		out = append(out, &corev3.TypedExtensionConfig{Name: "envoy.formatter.metadata", TypedConfig: policy.Pack(&metadatav3.Metadata{})})
	}
	if used["REQ_WITHOUT_QUERY"] {
		out = append(out, &corev3.TypedExtensionConfig{Name: "envoy.formatter.req_without_query", TypedConfig: policy.Pack(&withoutqueryv3.ReqWithoutQuery{})})
	}
	return out
}

// filter lets pass the clients that any match accepts; no match accepts all.
func filter(matches []policy.Match) *accesslogv3.AccessLogFilter {
	var any []string
	for _, m := range matches {
		var all []string
		if id := m.SpiffeID; id != nil {
			expression := "connection.uri_san_peer_certificate == " + policy.Expression(id.Value)
			if id.Type == policy.MatchPrefix {
				expression = "connection.uri_san_peer_certificate.startsWith(" + policy.Expression(id.Value) + ")"
			}
			all = append(all, expression)
		}
		if m.SNI != nil {
			all = append(all, "connection.requested_server_name == "+policy.Expression(m.SNI.Value))
		}
		if len(all) == 0 {
			return nil
		}
		any = append(any, "("+strings.Join(all, " && ")+")")
	}
	if len(any) == 0 {
		return nil
	}
	return policy.LogsWhere(strings.Join(any, " || "))
}
