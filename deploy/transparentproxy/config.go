// Package transparentproxy makes a host redirect the traffic of its workload to the proxy beside it, and undoes that: with nftables or
// iptables, over IPv4 and IPv6, in one step that replaces what was there before. It touches rules of its own only. It runs no proxy,
// and knows nothing of meshes.
package transparentproxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/dataplane/dns"
)

// Config is every setting of the redirection.
type Config struct {
	Engine    string `json:"engine" doc:"what holds the rules: auto, nftables, iptables, iptables-nft or iptables-legacy"`
	ProxyUser string `json:"proxyUser" doc:"user, by name or number, that agent and Envoy run as: what it sends is never redirected"`
	IPFamily  string `json:"ipFamily" doc:"auto (what this host has), dualstack, ipv4 or ipv6"`

	RedirectInbound  bool   `json:"redirectInbound" doc:"redirect what the host receives"`
	RedirectOutbound bool   `json:"redirectOutbound" doc:"redirect what the host sends"`
	RedirectDNS      string `json:"redirectDns" doc:"lookups that are redirected: resolvers (those to the servers in /etc/resolv.conf), all, none, or the addresses of servers, separated by commas"`

	InboundPort  int `json:"inboundPort" doc:"port of the proxy for what the host receives"`
	OutboundPort int `json:"outboundPort" doc:"port of the proxy for what the host sends"`
	DNSPort      int `json:"dnsPort" doc:"port of the agent for lookups"`

	IncludeInboundPorts  []string `json:"includeInboundPorts" doc:"of what is received, redirect only these ports and ranges, such as 80 or 8000-8999; none means all"`
	ExcludeInboundPorts  []string `json:"excludeInboundPorts" doc:"ports and ranges on which the host is reached directly"`
	ExcludeInboundIPs    []string `json:"excludeInboundIps" doc:"addresses and CIDRs of clients who reach the host directly"`
	IncludeOutboundPorts []string `json:"includeOutboundPorts" doc:"of what is sent, redirect only these ports and ranges; none means all"`
	ExcludeOutboundPorts []string `json:"excludeOutboundPorts" doc:"ports and ranges that are reached directly"`
	ExcludeOutboundIPs   []string `json:"excludeOutboundIps" doc:"addresses and CIDRs that are reached directly"`
	ExcludeOutboundUIDs  []string `json:"excludeOutboundUids" doc:"users, by name, number or range of numbers, whose traffic is not redirected"`
	// ExcludeOutboundPortsForUIDs has the form of Kuma.
	ExcludeOutboundPortsForUIDs []string `json:"excludeOutboundPortsForUids" doc:"PROTOCOL:PORTS:USERS whose traffic to these ports is not redirected, such as tcp:9000-9100:1001; PROTOCOL is tcp, udp (of which only lookups matter) or * for both, PORTS may be *; a list within is separated by semicolons"`

	ConntrackZone int `json:"dnsConntrackZone" doc:"conntrack zone of redirected lookups, which keeps them apart from those of the agent itself; 0 means none"`
}

// Default is what most hosts need.
func Default() Config {
	return Config{
		Engine: "auto", ProxyUser: "causeway", IPFamily: "auto",
		RedirectInbound: true, RedirectOutbound: true, RedirectDNS: "resolvers",
		InboundPort: 15006, OutboundPort: 15001, DNSPort: 15053,
		ExcludeInboundPorts: []string{"22"}, ConntrackZone: 15053,
	}
}

// Validate reports settings that are wrong or contradict each other.
func (c Config) Validate() resource.Problems {
	var ps resource.Problems
	c.parse(&ps)
	return ps
}

// A span is a range of ports or users.
type span struct{ first, last uint32 }

func (s span) String() string {
	if s.first == s.last {
		return strconv.FormatUint(uint64(s.first), 10)
	}
	return fmt.Sprintf("%d-%d", s.first, s.last)
}

// portsFor are ports that some users reach directly.
type portsFor struct {
	protocols []string
	ports     []span // none means all
	users     []span
}

// parsed is a configuration in the terms of rules.
type parsed struct {
	Config
	proxy                        uint32
	includeIn, excludeIn         []span
	includeOut, excludeOut       []span
	excludeInIPs, excludeOutIPs  []netip.Prefix
	excludeUsers                 []span
	excludePortsFor              []portsFor
	dns                          bool
	dnsServers                   []netip.Addr // none means all
	dnsFromHost                  bool         // the servers are those of the host
	inPort, outPort, dnsPort, zn uint16
}

// parse reads the settings and adds what is wrong with them.
func (c Config) parse(ps *resource.Problems) parsed {
	p := parsed{Config: c}
	oneOf := func(at resource.Path, v string, allowed ...string) {
		if !slices.Contains(allowed, v) {
			ps.Add(at, "must be one of %s, not %s", strings.Join(allowed, ", "), resource.Quote(v))
		}
	}
	oneOf("engine", c.Engine, "auto", "nftables", "iptables", "iptables-nft", "iptables-legacy")
	oneOf("ipFamily", c.IPFamily, "auto", "dualstack", "ipv4", "ipv6")
	if users := parseUsers(ps, "proxyUser", []string{c.ProxyUser}); len(users) == 1 {
		if p.proxy = users[0].first; users[0].first != users[0].last {
			ps.Add("proxyUser", "must be one user")
		}
	}
	port := func(at resource.Path, n int) uint16 {
		if n < 1 || n > 65535 {
			ps.Add(at, "must be a port, 1 to 65535, not %d", n)
			return 0
		}
		return uint16(n)
	}
	p.inPort, p.outPort, p.dnsPort = port("inboundPort", c.InboundPort), port("outboundPort", c.OutboundPort), port("dnsPort", c.DNSPort)
	if p.inPort == p.outPort {
		ps.Add("outboundPort", "must differ from inboundPort")
	}
	if c.ConntrackZone < 0 || c.ConntrackZone > 65535 {
		ps.Add("dnsConntrackZone", "must be 0 to 65535, not %d", c.ConntrackZone)
	}
	p.zn = uint16(c.ConntrackZone)
	p.includeIn, p.excludeIn = parsePorts(ps, "includeInboundPorts", c.IncludeInboundPorts), parsePorts(ps, "excludeInboundPorts", c.ExcludeInboundPorts)
	p.includeOut, p.excludeOut = parsePorts(ps, "includeOutboundPorts", c.IncludeOutboundPorts), parsePorts(ps, "excludeOutboundPorts", c.ExcludeOutboundPorts)
	p.excludeInIPs, p.excludeOutIPs = parseIPs(ps, "excludeInboundIps", c.ExcludeInboundIPs), parseIPs(ps, "excludeOutboundIps", c.ExcludeOutboundIPs)
	p.excludeUsers = parseUsers(ps, "excludeOutboundUids", c.ExcludeOutboundUIDs)
	for i, s := range c.ExcludeOutboundPortsForUIDs {
		p.excludePortsFor = append(p.excludePortsFor, parsePortsFor(ps, resource.Path("excludeOutboundPortsForUids").Index(i), s))
	}
	p.parseDNS(ps)
	return p
}

func (p *parsed) parseDNS(ps *resource.Problems) {
	switch p.RedirectDNS {
	case "none":
		return
	case "all":
	case "resolvers":
		p.dnsFromHost = true
	default:
		for s := range strings.SplitSeq(p.RedirectDNS, ",") {
			a, err := netip.ParseAddr(strings.TrimSpace(s))
			if err != nil || a.Zone() != "" {
				ps.Add("redirectDns", "must be resolvers, all, none, or IP addresses separated by commas, not %s", resource.Quote(p.RedirectDNS))
				return
			}
			p.dnsServers = append(p.dnsServers, a.Unmap())
		}
	}
	p.dns = true
}

// readHost finds out what the settings leave to the host.
func (p *parsed) readHost(resolvConf string) error {
	if !p.dnsFromHost {
		return nil
	}
	servers, err := dns.HostServers(resolvConf)
	if err != nil {
		return fmt.Errorf("find the servers whose lookups are to be redirected: %w; name them in redirectDns, or set it to all or none", err)
	}
	for _, s := range servers {
		p.dnsServers = append(p.dnsServers, s.WithZone(""))
	}
	if len(p.dnsServers) == 0 {
		return fmt.Errorf("%s names no server whose lookups could be redirected; name them in redirectDns, or set it to all or none", resolvConf)
	}
	return nil
}

func parsePorts(ps *resource.Problems, at resource.Path, list []string) []span {
	var out []span
	for i, s := range list {
		r, err := parseSpan(s, 65535)
		if err != nil || r.first == 0 {
			ps.Add(at.Index(i), "%s is no port from 1 to 65535, and no range such as 8000-8999", resource.Quote(s))
			continue
		}
		out = append(out, r)
	}
	return merged(out)
}

func parseIPs(ps *resource.Problems, at resource.Path, list []string) []netip.Prefix {
	var out []netip.Prefix
	for i, s := range list {
		prefix, err := netip.ParsePrefix(s)
		if err != nil {
			var a netip.Addr
			if a, err = netip.ParseAddr(s); err == nil && a.Zone() == "" {
				prefix = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())
			}
		}
		if err != nil || !prefix.IsValid() {
			ps.Add(at.Index(i), "%s is no address, and no CIDR such as 10.0.0.0/8", resource.Quote(s))
			continue
		}
		out = append(out, prefix.Masked())
	}
	return separate(out)
}

func parseUsers(ps *resource.Problems, at resource.Path, list []string) []span {
	var out []span
	for i, s := range list {
		field := at
		if len(list) > 1 || at != "proxyUser" {
			field = at.Index(i)
		}
		r, err := parseSpan(s, 1<<32-2)
		if err != nil && s != "" && !strings.ContainsAny(s[:1], "0123456789") {
			var u *user.User
			if u, err = user.Lookup(s); err != nil {
				ps.Add(field, "there is no user %s on this host; create it (useradd --system %s), or give a number", resource.Quote(s), s)
				continue
			}
			r, err = parseSpan(u.Uid, 1<<32-2)
		}
		if err != nil {
			ps.Add(field, "%s is no user, no number of one, and no range such as 1000-2000", resource.Quote(s))
			continue
		}
		out = append(out, r)
	}
	return merged(out)
}

func parsePortsFor(ps *resource.Problems, at resource.Path, s string) portsFor {
	parts := strings.Split(s, ":")
	if len(parts) != 3 {
		ps.Add(at, "%s is not PROTOCOL:PORTS:USERS, such as tcp:9000-9100:1001", resource.Quote(s))
		return portsFor{}
	}
	var out portsFor
	switch parts[0] {
	case "tcp", "udp":
		out.protocols = []string{parts[0]}
	case "", "*":
		out.protocols = []string{"tcp", "udp"}
	default:
		ps.Add(at, "protocol %s is not tcp, udp or *", resource.Quote(parts[0]))
	}
	if parts[1] != "" && parts[1] != "*" {
		out.ports = parsePorts(ps, at, strings.Split(parts[1], ";"))
	}
	out.users = parseUsers(ps, at, strings.Split(parts[2], ";"))
	return out
}

func parseSpan(s string, limit uint64) (span, error) {
	first, last, ranged := strings.Cut(s, "-")
	a, err := strconv.ParseUint(first, 10, 32)
	if err != nil {
		return span{}, err
	}
	b := a
	if ranged {
		if b, err = strconv.ParseUint(last, 10, 32); err != nil {
			return span{}, err
		}
	}
	if b > limit || a > b {
		return span{}, strconv.ErrRange
	}
	return span{uint32(a), uint32(b)}, nil
}

// merged sorts ranges and joins those that touch: rules refuse ranges that overlap.
func merged(list []span) []span {
	slices.SortFunc(list, func(a, b span) int { return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.last, b.last)) })
	var out []span
	for _, s := range list {
		if n := len(out); n > 0 && uint64(s.first) <= uint64(out[n-1].last)+1 {
			out[n-1].last = max(out[n-1].last, s.last)
			continue
		}
		out = append(out, s)
	}
	return out
}

// separate sorts prefixes and drops those that lie in another.
func separate(list []netip.Prefix) []netip.Prefix {
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var out []netip.Prefix
	for _, p := range list {
		if n := len(out); n == 0 || !out[n-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}
