package mesh

import (
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"path"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/causeway-mesh/causeway/api/resource"
)

const maxPort = 65535

// problems collects what is wrong with one resource.
type problems struct{ resource.Problems }

func (ps *problems) port(at resource.Path, port uint32) {
	switch {
	case port == 0:
		ps.Add(at, "must be set")
	case port > maxPort:
		ps.Add(at, "must be between 1 and %d, not %d", maxPort, port)
	}
}

func (ps *problems) optionalPort(at resource.Path, port uint32) {
	if port > maxPort {
		ps.Add(at, "must be between 1 and %d, not %d", maxPort, port)
	}
}

func (ps *problems) protocol(at resource.Path, p Protocol, allowed []Protocol) {
	if p != "" {
		oneOf(ps, at, p, allowed...)
	}
}

// oneOf wants one of the allowed values. It is a function because methods cannot be generic.
func oneOf[T ~string](ps *problems, at resource.Path, v T, allowed ...T) {
	names := make([]string, len(allowed))
	for i, a := range allowed {
		if a == v {
			return
		}
		names[i] = string(a)
	}
	list := strings.Join(names, ", ")
	if near := resource.Nearest(string(v), names); near != "" && v != "" {
		ps.Add(at, "must be one of %s, not %s; did you mean %s?", list, resource.Quote(string(v)), near)
		return
	}
	if v == "" {
		ps.Add(at, "must be one of %s", list)
		return
	}
	ps.Add(at, "must be one of %s, not %s", list, resource.Quote(string(v)))
}

func (ps *problems) dnsLabel(at resource.Path, s string) {
	if len(validation.IsDNS1123Label(s)) > 0 {
		ps.Add(at, "%s must have at most 63 characters of a-z, 0-9 and dash, with a letter or digit at both ends", resource.Quote(s))
	}
}

// ip wants an IP address that a socket can be bound to or reached at, and returns it.
func (ps *problems) ip(at resource.Path, s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		ps.Add(at, "%s is not an IP address", resource.Quote(s))
		return netip.Addr{}, false
	}
	switch {
	case a.Zone() != "":
		ps.Add(at, "%s must not have an IPv6 zone", resource.Quote(s))
	case a.IsMulticast():
		ps.Add(at, "must not be a multicast address")
	default:
		return a.Unmap(), true
	}
	return netip.Addr{}, false
}

// reachable wants an IP address or DNS name at which others can find something.
func (ps *problems) reachable(at resource.Path, s string) {
	switch {
	case s == "":
		ps.Add(at, "must be set")
	case looksLikeIP(s):
		if a, ok := ps.ip(at, s); ok && a.IsUnspecified() {
			ps.Add(at, "must not be %s: nobody can connect to it", s)
		}
	case len(validation.IsDNS1123Subdomain(s)) > 0:
		ps.Add(at, "%s is neither an IP address nor a DNS name", resource.Quote(s))
	}
}

// looksLikeIP tells addresses from names: no name has a colon, or a last label of digits only.
func looksLikeIP(s string) bool {
	if strings.Contains(s, ":") {
		return true
	}
	last := s[strings.LastIndexByte(s, '.')+1:]
	return last != "" && strings.Trim(last, "0123456789") == ""
}

func (ps *problems) selector(at resource.Path, s *LabelSelector) {
	if s != nil {
		ps.Append(resource.CheckLabels(at.Field("matchLabels"), s.MatchLabels))
	}
}

// target wants a reference to a destination by exactly one of name and labels.
func (ps *problems) target(at resource.Path, kind, name string, labels map[string]string) {
	oneOf(ps, at.Field("kind"), kind, TypeMeshService, TypeMeshExternalService, TypeMeshMultiZoneService)
	switch {
	case name == "" && len(labels) == 0:
		ps.Add(at, "must have name or labels")
	case name != "" && len(labels) > 0:
		ps.Add(at, "must have either name or labels, not both")
	case name != "":
		ps.Append(resource.CheckName(at.Field("name"), resource.RFC1123Subdomain, name))
	default:
		ps.Append(resource.CheckLabels(at.Field("labels"), labels))
	}
}

// sections wants names of ports or inbounds to differ, an unnamed one being called by its number.
type sections map[string]resource.Path

func (s sections) add(ps *problems, at resource.Path, name string, port uint32) {
	if name != "" {
		ps.dnsLabel(at.Field("name"), name)
	}
	section := sectionName(name, port)
	if first, dup := s[section]; dup {
		field := at.Field("name")
		if name == "" {
			field = at.Field("port")
		}
		ps.Add(field, "%s is already the name of %s; give it another name", resource.Quote(section), first)
		return
	}
	s[section] = at
}

// dataSource wants exactly the field that the type names, of the allowed types.
func (ps *problems) dataSource(at resource.Path, s *SecureDataSource, allowed ...DataSourceType) {
	oneOf(ps, at.Field("type"), s.Type, allowed...)
	for _, f := range []struct {
		typ   DataSourceType
		field string
		set   bool
	}{
		{SourceFile, "file", s.File != nil},
		{SourceSecret, "secretRef", s.SecretRef != nil},
		{SourceEnvVar, "envVar", s.EnvVar != nil},
		{SourceInsecureInline, "insecureInline", s.InsecureInline != nil},
	} {
		switch {
		case f.typ == s.Type && !f.set:
			ps.Add(at.Field(f.field), "must be set with type %s", s.Type)
		case f.typ != s.Type && f.set:
			ps.Add(at.Field(f.field), "must not be set with type %s", resource.Quote(string(s.Type)))
		}
	}
	ps.dataSourceFields(at, s)
}

func (ps *problems) dataSourceFields(at resource.Path, s *SecureDataSource) {
	if f := s.File; f != nil && (!path.IsAbs(f.Path) || strings.Contains("/"+f.Path+"/", "/../") || strings.ContainsRune(f.Path, 0)) {
		ps.Add(at.Field("file").Field("path"), "must be an absolute path without ..")
	}
	if e := s.EnvVar; e != nil && len(validation.IsEnvVarName(e.Name)) > 0 {
		ps.Add(at.Field("envVar").Field("name"), "%s is not the name of an environment variable", resource.Quote(e.Name))
	}
	if i := s.InsecureInline; i != nil && i.Value == "" {
		ps.Add(at.Field("insecureInline").Field("value"), "must be set")
	}
	if r := s.SecretRef; r != nil {
		oneOf(ps, at.Field("secretRef").Field("kind"), r.Kind, TypeSecret)
		ps.Append(resource.CheckName(at.Field("secretRef").Field("name"), resource.RFC1123Subdomain, r.Name))
	}
}

// inlineCertificates wants an inline source, if it is one, to hold certificates.
func (ps *problems) inlineCertificates(at resource.Path, s *SecureDataSource) {
	if s != nil && s.Type == SourceInsecureInline && s.InsecureInline != nil && s.InsecureInline.Value != "" {
		ps.certificates(at.Field("insecureInline").Field("value"), s.InsecureInline.Value, false)
	}
}

// inlineKey wants an inline source, if it is one, to hold a private key.
func (ps *problems) inlineKey(at resource.Path, s *SecureDataSource) {
	if s == nil || s.Type != SourceInsecureInline || s.InsecureInline == nil || s.InsecureInline.Value == "" {
		return
	}
	block, _ := pem.Decode([]byte(s.InsecureInline.Value))
	if block == nil || !strings.HasSuffix(block.Type, "PRIVATE KEY") {
		ps.Add(at.Field("insecureInline").Field("value"), "is not a private key in PEM")
		return
	}
	if !parsesAsKey(block.Bytes) {
		ps.Add(at.Field("insecureInline").Field("value"), "holds a private key that cannot be read; PKCS #8, PKCS #1 and SEC 1 are understood, unencrypted")
	}
}

func parsesAsKey(der []byte) bool {
	if _, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		return true
	}
	if _, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return true
	}
	_, err := x509.ParseECPrivateKey(der)
	return err == nil
}

// certificates wants one or more certificates in PEM, each an authority when ca is set.
func (ps *problems) certificates(at resource.Path, text string, ca bool) {
	rest := []byte(text)
	for n := 1; ; n++ {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			if n == 1 {
				ps.Add(at, "holds no certificate in PEM")
			} else if strings.TrimSpace(string(rest)) != "" {
				ps.Add(at, "has text after certificate %d that is not PEM", n-1)
			}
			return
		}
		if block.Type != "CERTIFICATE" {
			ps.Add(at, "must hold only certificates, block %d is %s", n, resource.Quote(block.Type))
			return
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		switch {
		case err != nil:
			ps.Add(at, "certificate %d cannot be read: %s", n, err)
		case ca && !cert.IsCA:
			ps.Add(at, "certificate %d (%s) is not an authority", n, resource.Quote(cert.Subject.String()))
		}
	}
}

// warnSNI says which ports of a destination other proxies cannot reach, because they have no valid server name.
func warnSNI(short string, m resource.Meta, section string) []string {
	k := resource.KRIOf(resource.Kind{Short: short}, m).WithSection(section)
	if _, err := k.SNI(); err != nil {
		return []string{"port " + section + " cannot be reached with mesh TLS: " + err.Error()}
	}
	return nil
}
