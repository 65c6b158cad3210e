package hosting

import (
	"net"
	"slices"

	"github.com/causeway-mesh/causeway/api/resource"
)

// API is where the REST API is served.
type API struct {
	Address string `json:"address" doc:"host:port of the REST API (HTTPS)"`
}

// Diagnostics is where health, metrics and profiles are served, in plaintext.
type Diagnostics struct {
	Address string `json:"address" doc:"host:port of /ready, /healthy, /metrics and profiles; empty turns it off"`
	Profile bool   `json:"profile" doc:"serve /debug/pprof"`
}

// TLS is the certificate that a control plane serves.
type TLS struct {
	CertFile string   `json:"certFile" doc:"server certificate in PEM; default one of a generated authority in the work directory"`
	KeyFile  string   `json:"keyFile" doc:"key of the server certificate in PEM"`
	Hosts    []string `json:"hosts" doc:"names and addresses that a generated certificate is good for, beside localhost and this host"`
}

// Log says what is logged and how.
type Log struct {
	Level  string `json:"level" doc:"debug, info, warn or error"`
	Format string `json:"format" doc:"text or json"`
}

// CheckAddress reports what is not host:port.
func CheckAddress(ps *resource.Problems, at resource.Path, v string) {
	if _, _, err := net.SplitHostPort(v); err != nil {
		ps.Add(at, "%s is not host:port", resource.Quote(v))
	}
}

// CheckCommon reports what is wrong with the settings that every control plane has, under the names that they have everywhere.
func CheckCommon(ps *resource.Problems, workDir string, a API, d Diagnostics, t TLS, l Log) {
	if workDir == "" {
		ps.Add("workDir", "must be set")
	}
	CheckAddress(ps, "api.address", a.Address)
	if d.Address != "" {
		CheckAddress(ps, "diagnostics.address", d.Address)
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		ps.Add("tls", "certFile and keyFile must be set together")
	}
	oneOf := func(at resource.Path, v string, allowed ...string) {
		if !slices.Contains(allowed, v) {
			ps.Add(at, "must be one of %v, not %s", allowed, resource.Quote(v))
		}
	}
	oneOf("log.level", l.Level, "debug", "info", "warn", "error")
	oneOf("log.format", l.Format, "text", "json")
}
