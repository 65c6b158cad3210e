// Package tls is the MeshTLS policy: whether a proxy accepts only mesh TLS or plaintext as well, and with which parameters.
// It issues no certificates; MeshIdentity does.
package tls

import (
	"slices"
	"strings"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Policy is MeshTLS. It has no hooks: the mode decides the shape of inbound listeners, so the compiler asks for it.
var Policy = policy.Kind[Conf]{
	Name: "MeshTLS", Path: "meshtlses", Short: "mtls", Singular: "Mesh TLS", Plural: "Mesh TLSes",
	Rules: true, Restricts: true, Check: check,
}

// The modes.
const (
	Strict     = "Strict"
	Permissive = "Permissive"
)

// Conf is what MeshTLS configures.
type Conf struct {
	// Mode is Strict (only mesh TLS is accepted) or Permissive (plaintext and TLS of the workload as well). Default Strict.
	Mode string `json:"mode,omitempty"`
	// TLSVersion bounds the TLS version. Only in a policy for the whole mesh.
	TLSVersion *Version `json:"tlsVersion,omitempty"`
	// TLSCiphers lists the accepted cipher suites of TLS 1.2. Only in a policy for the whole mesh. Default: those of Envoy.
	TLSCiphers []string `json:"tlsCiphers,omitempty"`
}

// Version bounds the TLS version.
type Version struct {
	// Min is TLSAuto, TLS10, TLS11, TLS12 or TLS13. Default TLSAuto.
	Min string `json:"min,omitempty"`
	// Max is TLSAuto, TLS12 or TLS13. Default TLSAuto.
	Max string `json:"max,omitempty"`
}

var versions = []string{"TLSAuto", "TLS10", "TLS11", "TLS12", "TLS13"}

var ciphers = []string{
	"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305",
	"ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-CHACHA20-POLY1305",
}

func check(at resource.Path, c Conf, where policy.Where) resource.Problems {
	var ps resource.Problems
	if c.Mode != "" && c.Mode != Strict && c.Mode != Permissive {
		ps.Add(at.Field("mode"), "must be Strict or Permissive, not %s", resource.Quote(c.Mode))
	}
	if where.Target.KindOrMesh() != policy.TargetMesh {
		if c.TLSVersion != nil {
			ps.Add(at.Field("tlsVersion"), "is only possible in a policy for the whole mesh")
		}
		if len(c.TLSCiphers) > 0 {
			ps.Add(at.Field("tlsCiphers"), "is only possible in a policy for the whole mesh")
		}
	}
	if v := c.TLSVersion; v != nil {
		at := at.Field("tlsVersion")
		lo, hi := versionIndex(v.Min), versionIndex(v.Max)
		if lo < 0 {
			ps.Add(at.Field("min"), "must be one of %s", strings.Join(versions, ", "))
		}
		if hi < 0 {
			ps.Add(at.Field("max"), "must be one of %s", strings.Join(versions, ", "))
		}
		if hi == 1 || hi == 2 {
			ps.Add(at.Field("max"), "must be TLS12 or TLS13: proxies speak nothing older to each other")
		}
		if lo > 0 && hi > 0 && lo > hi {
			ps.Add(at.Field("min"), "must not be above max")
		}
	}
	for i, s := range c.TLSCiphers {
		if !slices.Contains(ciphers, s) {
			ps.Add(at.Field("tlsCiphers").Index(i), "must be one of %s", strings.Join(ciphers, ", "))
		}
	}
	return ps
}

func versionIndex(v string) int {
	if v == "" {
		return 0
	}
	return slices.Index(versions, v)
}

// ModeOrStrict is the mode with its default.
func (c Conf) ModeOrStrict() string {
	if c.Mode == "" {
		return Strict
	}
	return c.Mode
}

// Parameters are the bounds as Envoy wants them, nil when nothing is bounded.
func (c Conf) Parameters() *tlsv3.TlsParameters {
	if c.TLSVersion == nil && len(c.TLSCiphers) == 0 {
		return nil
	}
	p := &tlsv3.TlsParameters{CipherSuites: c.TLSCiphers}
	if v := c.TLSVersion; v != nil {
		p.TlsMinimumProtocolVersion = tlsv3.TlsParameters_TlsProtocol(max(versionIndex(v.Min), 0))
		p.TlsMaximumProtocolVersion = tlsv3.TlsParameters_TlsProtocol(max(versionIndex(v.Max), 0))
	}
	return p
}
