// Package passthrough is the MeshPassthrough policy: which connections to destinations that are none of the mesh a proxy lets through.
// It concerns proxies to which traffic is redirected; from others it keeps nothing away. It resolves no names.
package passthrough

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Policy is MeshPassthrough.
var Policy = policy.Kind[Conf]{
	Name: "MeshPassthrough", Path: "meshpassthroughs", Short: "mp",
	Singular: "Mesh Passthrough", Plural: "Mesh Passthroughs",
	Proxy: true, Restricts: true,
	Check: check, Warn: warn, Hooks: hooks,
}

// Conf is what users write in default.
type Conf struct {
	// PassthroughMode is All, Matched or None. Default Matched; without any policy All.
	PassthroughMode string `json:"passthroughMode,omitempty"`
	// AppendMatch lists what is let through in mode Matched. The lists of several policies add up.
	AppendMatch []Match `json:"appendMatch,omitempty"`
}

// The modes.
const (
	All     = "All"
	Matched = "Matched"
	None    = "None"
)

// A Match is one destination.
type Match struct {
	// Type is Domain, IP or CIDR. Required.
	Type string `json:"type"`
	// Value is the domain (*.example.com for all below one), the address or the range.
	Value string `json:"value"`
	// Port of the destination. Default every port.
	Port *uint32 `json:"port,omitempty"`
	// Protocol is tcp (default), tls, http, http2, grpc or mysql.
	Protocol string `json:"protocol,omitempty"`
}

// The types of matches.
const (
	Domain = "Domain"
	IP     = "IP"
	CIDR   = "CIDR"
)

// The protocols.
const (
	TCP   = "tcp"
	TLS   = "tls"
	HTTP  = "http"
	HTTP2 = "http2"
	GRPC  = "grpc"
	MySQL = "mysql"
)

var protocols = []string{TCP, TLS, HTTP, HTTP2, GRPC, MySQL}

func (c Conf) mode() string {
	if c.PassthroughMode == "" {
		return Matched
	}
	return c.PassthroughMode
}

func (m Match) protocol() string {
	if m.Protocol == "" {
		return TCP
	}
	return m.Protocol
}

func (m Match) isHTTP() bool { return slices.Contains([]string{HTTP, HTTP2, GRPC}, m.protocol()) }

func (m Match) wildcard() bool { return strings.HasPrefix(m.Value, "*") }

// prefix is the range of an IP or CIDR match.
func (m Match) prefix() (netip.Prefix, bool) {
	if m.Type == IP {
		a, err := netip.ParseAddr(m.Value)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, false
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(m.Value)
	return p.Masked(), err == nil && m.Type == CIDR
}

// maxMatches bounds one policy: each is a cluster, and a question that is asked of each connection.
const maxMatches = 500

func check(at resource.Path, c Conf, _ policy.Where) resource.Problems {
	var ps resource.Problems
	if c.PassthroughMode != "" && !slices.Contains([]string{All, Matched, None}, c.PassthroughMode) {
		ps.Add(at.Field("passthroughMode"), "must be All, Matched or None")
	}
	list := at.Field("appendMatch")
	if len(c.AppendMatch) > maxMatches {
		ps.Add(list, "must have at most %d entries; a CIDR or a wildcard can stand for many", maxMatches)
		return ps
	}
	seen := map[string]bool{}
	spoken := map[uint32]string{} // what of HTTP is spoken at a port
	for i, m := range c.AppendMatch {
		at := list.Index(i)
		ps.Append(m.check(at))
		key := strings.ToLower(m.Value) + " " + m.portText() + " " + m.protocol()
		if seen[key] {
			ps.Add(at.Field("value"), "%s is already there with this port and protocol", resource.Quote(m.Value))
		}
		seen[key] = true
		if !m.isHTTP() {
			continue
		}
		switch other := spoken[m.port()]; other {
		case "", m.protocol():
			spoken[m.port()] = m.protocol()
		default:
			ps.Add(at.Field("protocol"), "must be the same for all of http, http2 and grpc at one port; there is %s already", other)
		}
	}
	return ps
}

func (m Match) port() uint32 {
	if m.Port == nil {
		return 0
	}
	return *m.Port
}

func (m Match) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	if m.Port != nil && (*m.Port == 0 || *m.Port > 65535) {
		ps.Add(at.Field("port"), "must be from 1 to 65535")
	}
	if !slices.Contains(protocols, m.protocol()) {
		ps.Add(at.Field("protocol"), "must be one of %s", strings.Join(protocols, ", "))
	}
	if m.protocol() == MySQL && m.Port == nil {
		ps.Add(at.Field("port"), "must be set with protocol mysql, whose servers speak first")
	}
	switch m.Type {
	case IP, CIDR:
		if _, ok := m.prefix(); !ok {
			ps.Add(at.Field("value"), "must be an %s", map[string]string{IP: "IP address", CIDR: "address range such as 10.0.0.0/8"}[m.Type])
		}
	case Domain:
		ps.Append(m.checkDomain(at))
	default:
		ps.Add(at.Field("type"), "must be Domain, IP or CIDR")
	}
	return ps
}

func (m Match) checkDomain(at resource.Path) resource.Problems {
	var ps resource.Problems
	if p := m.protocol(); p == TCP || p == MySQL {
		ps.Add(at.Field("protocol"), "must not be %s with a Domain: such connections do not say which domain they are for", p)
	}
	name := m.Value
	switch {
	case name == "*":
		name = ""
	case strings.HasPrefix(name, "*."):
		name = name[2:]
	case m.wildcard():
		ps.Add(at.Field("value"), "must have a dot after the asterisk: wildcards stand for whole labels")
		return ps
	}
	if m.wildcard() && m.isHTTP() && m.Port == nil {
		ps.Add(at.Field("port"), "must be set with a wildcard and protocol %s", m.protocol())
	}
	if m.Value != "*" && !isDomain(name) {
		ps.Add(at.Field("value"), "must be a domain name")
	}
	return ps
}

func isDomain(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		ok := label != "" && len(label) <= 63 && label[0] != '-' && label[len(label)-1] != '-'
		if !ok || strings.ContainsFunc(label, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
		}) {
			return false
		}
	}
	return true
}

func warn(at resource.Path, c Conf, _ policy.Where) []string {
	switch {
	case c.mode() != Matched && len(c.AppendMatch) > 0:
		return []string{string(at.Field("appendMatch")) + " has no effect unless another policy sets passthroughMode Matched: here it is " + c.mode()}
	case c.mode() == Matched && len(c.AppendMatch) == 0:
		return []string{string(at.Field("appendMatch")) + " is empty: unless another policy adds to it, nothing is let through, as with passthroughMode None"}
	}
	return nil
}
