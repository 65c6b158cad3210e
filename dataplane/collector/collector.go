// Package collector sends to OpenTelemetry collectors: it finds out from what the mesh says and, where that is allowed, from OTEL_*
// variables beside the agent, how a collector is reached, and sends messages over gRPC or HTTP. It does not know what is in them, and
// neither keeps nor repeats what could not be sent.
package collector

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/api/agentapi"
)

// A Signal is a kind of telemetry.
type Signal string

// The signals, as variables and paths name them.
const (
	Metrics Signal = "metrics"
	Traces  Signal = "traces"
	Logs    Signal = "logs"
)

// An Endpoint is how a collector is reached.
type Endpoint struct {
	// HTTP says that messages are posted to URL; otherwise they are sent by gRPC to Address.
	HTTP    bool
	URL     string
	Address string
	// TLS is nil in plaintext.
	TLS *tls.Config
	// Headers may hold credentials.
	Headers map[string]string
	// Uncompressed turns off gzip.
	Uncompressed bool
	Timeout      time.Duration
}

// defaultTimeout bounds one message.
const defaultTimeout = 10 * time.Second

// Ports of collectors by protocol.
const (
	portGRPC = "4317"
	portHTTP = "4318"
)

// Resolve finds out how a collector is reached. Of what both the mesh and the environment say, the mesh's word counts unless it says
// otherwise itself. The error tells what is missing.
func Resolve(c *agentapi.Collector, signal Signal, lookup func(string) (string, bool)) (Endpoint, error) {
	env := variables{lookup, signal, c.GetEnvMode(), c.GetSignalOverrides()}
	place, err := placeOf(c, env, signal)
	if err != nil {
		return Endpoint{}, err
	}
	e := Endpoint{HTTP: place.protocol == "http", Timeout: defaultTimeout, Uncompressed: env.get("COMPRESSION") == "none"}
	if e.HTTP {
		e.URL = (&url.URL{Scheme: place.scheme, Host: place.host, Path: place.path}).String()
	} else {
		e.Address = place.host
	}
	if place.scheme == "https" {
		if e.TLS, err = env.tls(); err != nil {
			return Endpoint{}, err
		}
	}
	if e.Headers, err = env.headers(); err != nil {
		return Endpoint{}, err
	}
	if text := env.get("TIMEOUT"); text != "" {
		ms, err := strconv.ParseUint(text, 10, 31)
		if err != nil || ms == 0 {
			return Endpoint{}, fmt.Errorf("%s must be a number of milliseconds, not %q", env.name("TIMEOUT"), text)
		}
		e.Timeout = min(time.Duration(ms)*time.Millisecond, time.Minute)
	}
	return e, nil
}

// place is where a collector is.
type place struct{ protocol, scheme, host, path string }

func placeOf(c *agentapi.Collector, env variables, signal Signal) (place, error) {
	said, hasSaid := explicit(c, signal)
	found, hasFound, err := env.place()
	if err != nil {
		return place{}, err
	}
	switch {
	case env.mode == modeRequired && !hasFound:
		return place{}, errors.New("env.mode is Required, and OTEL_EXPORTER_OTLP_ENDPOINT is not set beside this agent")
	case hasFound && (env.mode == modeRequired || c.GetEnvFirst() || !hasSaid):
		return found, nil
	case hasSaid:
		return said, nil
	case env.mode == modeOptional:
		return place{}, errors.New("the MeshOpenTelemetryBackend has no endpoint, and OTEL_EXPORTER_OTLP_ENDPOINT is not set beside this agent")
	}
	return place{}, errors.New("the MeshOpenTelemetryBackend has no endpoint")
}

// explicit is what the mesh says, always in plaintext: it has no certificates to give.
func explicit(c *agentapi.Collector, signal Signal) (place, bool) {
	if c.GetAddress() == "" || c.GetPort() == 0 {
		return place{}, false
	}
	p := place{protocol: "grpc", scheme: "http", host: net.JoinHostPort(c.GetAddress(), strconv.FormatUint(uint64(c.GetPort()), 10))}
	if c.GetProtocol() == "http" {
		p.protocol, p.path = "http", strings.TrimSuffix(c.GetPath(), "/")+"/v1/"+string(signal)
	}
	return p, true
}

// The ways in which variables count.
const (
	modeOptional = "Optional"
	modeRequired = "Required"
)

// variables are those of OpenTelemetry's exporters.
type variables struct {
	lookup    func(string) (string, bool)
	signal    Signal
	mode      string
	overrides bool
}

const prefix = "OTEL_EXPORTER_OTLP_"

// get is the value of a variable, that of the signal before the general one where that is allowed.
func (v variables) get(name string) string {
	value, _ := v.lookup(v.name(name))
	if !v.counts() {
		return ""
	}
	return strings.TrimSpace(value)
}

func (v variables) counts() bool {
	return v.lookup != nil && (v.mode == modeOptional || v.mode == modeRequired)
}

func (v variables) name(name string) string {
	own := prefix + strings.ToUpper(string(v.signal)) + "_" + name
	if v.overrides {
		if value, ok := v.lookup(own); ok && value != "" {
			return own
		}
	}
	return prefix + name
}

// place reads where the collector is.
func (v variables) place() (place, bool, error) {
	if !v.counts() {
		return place{}, false, nil
	}
	text := v.get("ENDPOINT")
	if text == "" {
		return place{}, false, nil
	}
	p := place{protocol: "grpc"}
	switch protocol := v.get("PROTOCOL"); protocol {
	case "", "grpc":
	case "http/protobuf":
		p.protocol = "http"
	default:
		return place{}, false, fmt.Errorf("%s %q is not supported; use grpc or http/protobuf", v.name("PROTOCOL"), protocol)
	}
	if !strings.Contains(text, "://") {
		scheme := "https"
		if insecure, err := strconv.ParseBool(v.get("INSECURE")); err == nil && insecure {
			scheme = "http"
		}
		text = scheme + "://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return place{}, false, fmt.Errorf("%s is no URL of a collector", v.name("ENDPOINT"))
	}
	p.scheme, p.host, p.path = u.Scheme, u.Host, u.Path
	if u.Port() == "" {
		p.host = net.JoinHostPort(u.Hostname(), map[bool]string{true: portHTTP, false: portGRPC}[p.protocol == "http"])
	}
	if p.protocol == "http" && v.name("ENDPOINT") == prefix+"ENDPOINT" {
		p.path = strings.TrimSuffix(p.path, "/") + "/v1/" + string(v.signal)
	}
	return p, true, nil
}

// tls reads the certificates.
func (v variables) tls() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if file := v.get("CERTIFICATE"); file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", v.name("CERTIFICATE"), err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s: %s holds no certificate", v.name("CERTIFICATE"), file)
		}
	}
	cert, key := v.get("CLIENT_CERTIFICATE"), v.get("CLIENT_KEY")
	if cert == "" && key == "" {
		return c, nil
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", v.name("CLIENT_CERTIFICATE"), v.name("CLIENT_KEY"), err)
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}

// headers reads what is sent with each message. Values stay out of errors: they are credentials more often than not.
func (v variables) headers() (map[string]string, error) {
	text := v.get("HEADERS")
	if text == "" {
		return nil, nil
	}
	out := map[string]string{}
	for pair := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(pair), "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if name = strings.ToLower(strings.TrimSpace(name)); !ok || err != nil || name == "" || strings.ContainsAny(name+value, "\r\n\x00") {
			return nil, fmt.Errorf("%s must be a list of name=value, separated by commas", v.name("HEADERS"))
		}
		out[name] = value
	}
	return out, nil
}
