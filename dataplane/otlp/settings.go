// Package otlp sends requests of the OpenTelemetry protocol to a collector, by gRPC or by HTTP. Where the collector is and how it
// is spoken to is what the mesh says and, as far as the mesh allows it, what OTEL_* variables beside the agent say.
// It neither queues nor repeats, and it does not read the environment itself.
package otlp

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Signal is a kind of telemetry.
type Signal string

// The signals.
const (
	Traces  Signal = "traces"
	Logs    Signal = "logs"
	Metrics Signal = "metrics"
)

// Protocols of collectors.
const (
	GRPC = "grpc"
	HTTP = "http"
)

// Modes say whether OTEL_* variables count.
const (
	Disabled = "Disabled"
	Optional = "Optional"
	Required = "Required"
)

const (
	defaultPort     = 4317
	defaultHTTPPort = 4318
	defaultTimeout  = 10 * time.Second
)

// Settings are what the mesh says of a collector.
type Settings struct {
	// Address is an IP or DNS name; empty means that of this host.
	Address string
	// Port is 4317 when it is 0.
	Port uint32
	// Path stands before /v1/traces and the like, for HTTP.
	Path string
	// Protocol is grpc or http; empty means grpc.
	Protocol string
	// Given says that the mesh gives an endpoint at all; without it only the environment does.
	Given bool
	// EnvMode is Disabled, Optional or Required; empty means Disabled.
	EnvMode string
	// EnvFirst lets the environment win over what the mesh says.
	EnvFirst bool
	// SignalOverrides lets variables of one signal differ from the general ones.
	SignalOverrides bool
}

// A Target is where one signal goes. Equal targets are the same.
type Target struct {
	Signal   Signal
	Protocol string
	// Host is host:port.
	Host string
	// Path of requests, for HTTP.
	Path string
	TLS  bool
	// CAFile, CertFile and KeyFile are for TLS; empty means the authorities of this host, and no client certificate.
	CAFile, CertFile, KeyFile string
	Gzip                      bool
	Timeout                   time.Duration
	// headers as they are written in the variable. They may hold a key, so they are never printed.
	headers string
}

// String names the target for people, without its headers.
func (t Target) String() string {
	scheme := t.Protocol
	if t.TLS {
		scheme += "+tls"
	}
	return scheme + "://" + t.Host + t.Path
}

// Resolve says where a signal goes, given the variables beside the agent.
func (s Settings) Resolve(signal Signal, env map[string]string) (Target, error) {
	t := Target{Signal: signal, Protocol: cmp.Or(s.Protocol, GRPC), Timeout: defaultTimeout}
	v := variables{env, signal, s.SignalOverrides}
	mode := cmp.Or(s.EnvMode, Disabled)
	endpoint, own := "", false
	if mode != Disabled {
		endpoint, own = v.lookup("ENDPOINT")
	}
	if mode == Required && endpoint == "" {
		return t, fmt.Errorf("collector: the mesh requires an endpoint from the environment; set OTEL_EXPORTER_OTLP_ENDPOINT beside the agent")
	}
	fromEnv := endpoint != "" && (s.EnvFirst || !s.Given)
	if !s.Given && !fromEnv {
		return t, errors.New("collector: neither the mesh nor the environment gives an endpoint; set endpoint in the MeshOpenTelemetryBackend or OTEL_EXPORTER_OTLP_ENDPOINT beside the agent")
	}
	if mode != Disabled {
		if err := v.options(&t, s.EnvFirst || s.Protocol == ""); err != nil {
			return t, err
		}
	}
	if fromEnv {
		return t, t.from(endpoint, own)
	}
	t.Host = net.JoinHostPort(cmp.Or(s.Address, "127.0.0.1"), strconv.FormatUint(uint64(cmp.Or(s.Port, defaultPort)), 10))
	t.Path = strings.TrimRight(s.Path, "/") + "/v1/" + string(signal)
	if t.Protocol == GRPC {
		t.Path = ""
	}
	return t, nil
}

// from takes the endpoint of a variable: a URL, or host:port. An endpoint of the signal's own is taken as it stands.
func (t *Target) from(endpoint string, own bool) error {
	if !strings.Contains(endpoint, "://") {
		endpoint = "http://" + endpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Hostname() == "" || !slices.Contains([]string{"http", "https"}, u.Scheme) {
		return errors.New("collector: the endpoint in the environment is no URL that begins with http:// or https://")
	}
	port := u.Port()
	if port == "" {
		port = strconv.Itoa(defaultPort)
		if t.Protocol == HTTP {
			port = strconv.Itoa(defaultHTTPPort)
		}
	}
	t.TLS = u.Scheme == "https"
	t.Host = net.JoinHostPort(u.Hostname(), port)
	switch {
	case t.Protocol == GRPC:
	case own:
		t.Path = cmp.Or(u.Path, "/")
	default:
		t.Path = strings.TrimRight(u.Path, "/") + "/v1/" + string(t.Signal)
	}
	return nil
}

// variables are the OTEL_EXPORTER_OTLP_* variables for one signal.
type variables struct {
	env    map[string]string
	signal Signal
	// overrides says that those of the signal count.
	overrides bool
}

// lookup finds a variable; own says that it is the signal's own.
func (v variables) lookup(name string) (value string, own bool) {
	if v.overrides {
		if s := v.env["OTEL_EXPORTER_OTLP_"+strings.ToUpper(string(v.signal))+"_"+name]; s != "" {
			return s, true
		}
	}
	return v.env["OTEL_EXPORTER_OTLP_"+name], false
}

// options takes what the environment says beside the endpoint.
func (v variables) options(t *Target, protocol bool) error {
	get := func(name string) string { s, _ := v.lookup(name); return s }
	if p := get("PROTOCOL"); p != "" && protocol {
		switch p {
		case "grpc":
			t.Protocol = GRPC
		case "http/protobuf":
			t.Protocol = HTTP
		default:
			return errors.New("collector: OTEL_EXPORTER_OTLP_PROTOCOL must be grpc or http/protobuf")
		}
	}
	switch c := get("COMPRESSION"); c {
	case "", "none":
	case "gzip":
		t.Gzip = true
	default:
		return errors.New("collector: OTEL_EXPORTER_OTLP_COMPRESSION must be gzip or none")
	}
	if ms := get("TIMEOUT"); ms != "" {
		n, err := strconv.ParseUint(ms, 10, 31)
		if err != nil || n == 0 {
			return errors.New("collector: OTEL_EXPORTER_OTLP_TIMEOUT must be a number of milliseconds")
		}
		t.Timeout = time.Duration(n) * time.Millisecond
	}
	t.CAFile, t.CertFile, t.KeyFile = get("CERTIFICATE"), get("CLIENT_CERTIFICATE"), get("CLIENT_KEY")
	t.headers = get("HEADERS")
	_, err := t.Headers()
	return err
}

// Headers are what the environment adds to requests, by lower-case name.
func (t Target) Headers() (map[string]string, error) {
	out := map[string]string{}
	for pair := range strings.SplitSeq(t.headers, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		value, err := url.PathUnescape(strings.TrimSpace(value))
		// The pair is not printed: it may hold a key.
		if !ok || err != nil || !isToken(name) || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
			return nil, errors.New("collector: OTEL_EXPORTER_OTLP_HEADERS must have the form name=value,name=value, with special characters percent-encoded")
		}
		out[name] = value
	}
	return out, nil
}

func isToken(s string) bool {
	return s != "" && len(s) <= 256 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.", r)
	})
}
