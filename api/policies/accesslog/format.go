package accesslog

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/proxy"
)

// The formats of entries where none is given, one for requests and one for connections.
const (
	requestFormat = `[%START_TIME%] %KUMA_MESH% "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% ` +
		`%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" ` +
		`"%REQ(X-B3-TRACEID?X-DATADOG-TRACEID)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%KUMA_SOURCE_SERVICE%" "%KUMA_DESTINATION_SERVICE%" ` +
		`"%KUMA_SOURCE_ADDRESS_WITHOUT_PORT%" "%UPSTREAM_HOST%"`
	connectionFormat = `[%START_TIME%] %RESPONSE_FLAGS% %KUMA_MESH% %KUMA_SOURCE_ADDRESS_WITHOUT_PORT%(%KUMA_SOURCE_SERVICE%)->` +
		`%UPSTREAM_HOST%(%KUMA_DESTINATION_SERVICE%) took %DURATION%ms, sent %BYTES_SENT% bytes, received: %BYTES_RECEIVED% bytes`
)

// defaultFormat is what an entry looks like where nobody says.
func defaultFormat(l proxy.Listener) string {
	if l.Protocol.IsHTTP() {
		return requestFormat
	}
	return connectionFormat
}

// A part is a piece of a format: text, or a placeholder.
type part struct {
	text string // as it is written
	name string // of the placeholder; empty for text
	arg  bool
	cut  bool // at a length
}

// placeholder is how Envoy writes one: a name, arguments, and the length to cut at.
var placeholder = regexp.MustCompile(`^%([A-Z0-9_]+)(\((.*?)\))?(?::([0-9]{1,6}))?%`)

// maxFormat bounds what is written for one entry, maxParts its pieces.
const (
	maxFormat = 16 << 10
	maxParts  = 500
)

// split takes a format apart. A percent sign that begins no placeholder is written twice.
func split(format string) ([]part, error) {
	if len(format) > maxFormat {
		return nil, fmt.Errorf("is longer than %d bytes", maxFormat)
	}
	var out []part
	text := func(s string) {
		if n := len(out); n > 0 && out[n-1].name == "" {
			out[n-1].text += s
			return
		}
		out = append(out, part{text: s})
	}
	for format != "" {
		i := strings.IndexByte(format, '%')
		switch {
		case i < 0:
			text(format)
			return out, nil
		case i > 0:
			text(format[:i])
			format = format[i:]
			continue
		case strings.HasPrefix(format, "%%"):
			text("%%")
			format = format[2:]
			continue
		}
		m := placeholder.FindStringSubmatch(format)
		if m == nil {
			return nil, fmt.Errorf("has a %% that begins no placeholder, at %q; write %%%% for the sign itself", format[:min(len(format), 20)])
		}
		out = append(out, part{text: m[0], name: m[1], arg: m[2] != "", cut: m[4] != ""})
		if len(out) > maxParts {
			return nil, fmt.Errorf("has more than %d pieces", maxParts)
		}
		format = format[len(m[0]):]
	}
	return out, nil
}

// ours are the placeholders that are replaced before Envoy sees the format.
var ours = []string{
	"KUMA_SOURCE_ADDRESS", "KUMA_SOURCE_ADDRESS_WITHOUT_PORT", "KUMA_SOURCE_SERVICE", "KUMA_DESTINATION_SERVICE",
	"KUMA_MESH", "KUMA_TRAFFIC_DIRECTION", "KUMA_ZONE", "KUMA_WORKLOAD",
}

// fromEnvironment is a fact about the proxy that its agent puts into Envoy's environment: it differs between proxies that share
// their configuration otherwise.
func fromEnvironment(name string) string { return "%ENVIRONMENT(" + name + ")%" }

const (
	unknown  = "unknown"
	external = "external" // what is none of the mesh
)

// meaning is what one of our placeholders stands for at a listener.
func meaning(name string, l proxy.Listener) string {
	received := l.Direction == proxy.Inbound
	switch name {
	case "KUMA_MESH":
		return fromEnvironment(mesh.EnvMesh)
	case "KUMA_ZONE":
		return fromEnvironment(mesh.EnvZone)
	case "KUMA_WORKLOAD":
		return fromEnvironment(mesh.EnvWorkload)
	case "KUMA_TRAFFIC_DIRECTION":
		return strings.ToUpper(string(l.Direction))
	case "KUMA_SOURCE_ADDRESS":
		if received {
			return "%DOWNSTREAM_REMOTE_ADDRESS%"
		}
		return fromEnvironment(mesh.EnvAddress) + ":0"
	case "KUMA_SOURCE_ADDRESS_WITHOUT_PORT":
		if received {
			return "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"
		}
		return fromEnvironment(mesh.EnvAddress)
	case "KUMA_SOURCE_SERVICE":
		switch {
		case !received:
			return fromEnvironment(mesh.EnvWorkload)
		case l.MTLS:
			return "%DOWNSTREAM_PEER_URI_SAN%" // who the client proved to be
		}
		return unknown
	case "KUMA_DESTINATION_SERVICE":
		switch {
		case l.Destination.KRI.Name != "":
			return strings.ReplaceAll(l.Destination.KRI.Name, "%", "%%")
		case received:
			return fromEnvironment(mesh.EnvWorkload)
		}
		return external
	}
	return "%" + name + "%"
}

// parts are the pieces of a format with ours replaced. What was refused when the policy was written is left as text.
func parts(format string, l proxy.Listener) []part {
	list, err := split(format)
	if err != nil {
		return []part{{text: strings.ReplaceAll(format, "%", "%%")}}
	}
	for i, p := range list {
		if strings.HasPrefix(p.name, "KUMA_") {
			list[i] = part{text: meaning(p.name, l), name: p.name}
		}
	}
	return list
}

// substitute is a format as Envoy takes it.
func substitute(format string, l proxy.Listener) string {
	var b strings.Builder
	for _, p := range parts(format, l) {
		b.WriteString(p.text)
	}
	return b.String()
}
