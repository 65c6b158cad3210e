package transparentproxy

import (
	"net/netip"
	"slices"
)

// Addresses from which a proxy connects to its own workload.
var (
	ownSource4 = netip.MustParsePrefix("127.0.0.6/32")
	ownSource6 = netip.MustParsePrefix("::6/128")
	loopback   = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
)

// A verdict is what becomes of what a rule matches.
type verdict struct {
	redirect uint16 // to this port of the host
	zone     uint16 // of conntrack
	call     string // go on in this chain
	// None of them: it is left alone.
}

// A rule matches what has all of its properties; of a list, any.
type rule struct {
	why            string
	protocol       string // tcp or udp; empty for any
	in, out        string // interface
	from, to       []netip.Prefix
	sources, ports []span
	users          []span
	// under matches TCP packets that begin no connection. A connection from before the rules, whose first packet after them comes from
	// the other side, would be taken for one in that direction, be redirected and so be broken.
	under bool
	then  verdict
}

// A chain is rules in order.
type chain struct {
	name  string
	hook  string // prerouting or output; empty for a chain that rules call
	table string // nat, or raw, which sees packets before they are tracked
	rules []rule
}

const lo = "lo"

var leave = verdict{}

var before = rule{why: "connections from before", protocol: "tcp", under: true, then: leave}

// chains are what a configuration means, whatever holds it.
func (p parsed) chains() []chain {
	var out []chain
	if p.dns && p.zn != 0 {
		out = append(out, chain{name: "lookups", hook: "output", table: "raw", rules: p.trackLookups()})
	}
	if p.RedirectInbound {
		out = append(out, chain{name: "inbound", hook: "prerouting", table: "nat", rules: p.inbound()})
	}
	if p.RedirectOutbound {
		out = append(out,
			chain{name: "self", table: "nat", rules: p.self()},
			chain{name: "outbound", hook: "output", table: "nat", rules: slices.Concat([]rule{before}, p.lookups(verdict{redirect: p.dnsPort}, "tcp", "udp"), p.outbound())})
	} else if p.dns {
		out = append(out, chain{name: "outbound", hook: "output", table: "nat", rules: append([]rule{before}, p.lookups(verdict{redirect: p.dnsPort}, "tcp", "udp")...)})
	}
	return out
}

func (p parsed) proxyUser() []span { return []span{{p.proxy, p.proxy}} }

// inbound redirects what comes from other hosts.
func (p parsed) inbound() []rule {
	out := []rule{before, {why: "what the host sends to itself", in: lo, then: leave}}
	if len(p.excludeInIPs) > 0 {
		out = append(out, rule{why: "excluded clients", from: p.excludeInIPs, then: leave})
	}
	if len(p.excludeIn) > 0 {
		out = append(out, rule{why: "excluded ports", protocol: "tcp", ports: p.excludeIn, then: leave})
	}
	return append(out, rule{why: "to the proxy", protocol: "tcp", ports: p.includeIn, then: verdict{redirect: p.inPort}})
}

// self is for what a proxy sends to its own host: a workload that calls itself through the mesh arrives like any other.
func (p parsed) self() []rule {
	if !p.RedirectInbound {
		return []rule{{why: "nothing is redirected on arrival", then: leave}}
	}
	var out []rule
	if len(p.excludeIn) > 0 {
		out = append(out, rule{why: "excluded ports", protocol: "tcp", ports: p.excludeIn, then: leave})
	}
	return append(out, rule{why: "to the proxy, as if it came from outside", protocol: "tcp", ports: p.includeIn, then: verdict{redirect: p.inPort}})
}

// outbound redirects what the workload sends.
func (p parsed) outbound() []rule {
	out := []rule{
		{why: "from the proxy to its workload", out: lo, from: []netip.Prefix{ownSource4, ownSource6}, then: leave},
		{why: "loopback", to: loopback, then: leave},
		{why: "from the proxy to its own host", out: lo, protocol: "tcp", users: p.proxyUser(), then: verdict{call: "self"}},
		{why: "from the workload to its own host", out: lo, then: leave},
		{why: "the proxy itself", users: p.proxyUser(), then: leave},
	}
	if len(p.excludeUsers) > 0 {
		out = append(out, rule{why: "excluded users", users: p.excludeUsers, then: leave})
	}
	for _, e := range p.excludePortsFor {
		for _, protocol := range e.protocols {
			if protocol == "tcp" {
				out = append(out, rule{why: "excluded ports of some users", protocol: "tcp", ports: e.ports, users: e.users, then: leave})
			}
		}
	}
	if len(p.excludeOutIPs) > 0 {
		out = append(out, rule{why: "excluded addresses", to: p.excludeOutIPs, then: leave})
	}
	if len(p.excludeOut) > 0 {
		out = append(out, rule{why: "excluded ports", protocol: "tcp", ports: p.excludeOut, then: leave})
	}
	return append(out, rule{why: "to the proxy", protocol: "tcp", ports: p.includeOut, then: verdict{redirect: p.outPort}})
}

const lookupPort = 53

// lookups does something with the lookups of the workload. They come before anything else: a server may be on this host.
func (p parsed) lookups(then verdict, protocols ...string) []rule {
	if !p.dns {
		return nil
	}
	var out []rule
	port := []span{{lookupPort, lookupPort}}
	for _, protocol := range protocols {
		skip := func(why string, users []span, to []netip.Prefix) {
			out = append(out, rule{why: why, protocol: protocol, ports: port, users: users, to: to, then: leave})
		}
		skip("lookups of the proxy itself", p.proxyUser(), nil)
		if len(p.excludeUsers) > 0 {
			skip("lookups of excluded users", p.excludeUsers, nil)
		}
		for _, e := range p.excludePortsFor {
			if contains(e.protocols, protocol) && covers(e.ports, lookupPort) {
				skip("lookups of some users", e.users, nil)
			}
		}
		if len(p.excludeOutIPs) > 0 && len(p.dnsServers) == 0 { // servers that are named are meant
			skip("lookups to excluded addresses", nil, p.excludeOutIPs)
		}
		if len(p.excludeOut) > 0 && covers(p.excludeOut, lookupPort) {
			skip("excluded lookups", nil, nil)
		}
		out = append(out, rule{why: "lookups", protocol: protocol, ports: port, to: hosts(p.dnsServers), then: then})
	}
	return out
}

// trackLookups puts redirected lookups into a zone of their own. Otherwise one that the agent makes from the port that a workload
// has just used, to the same server, would be taken for that workload's and be redirected back to the agent.
func (p parsed) trackLookups() []rule {
	answers := rule{
		why: "answers of the agent", protocol: "udp", from: loopback, sources: []span{{uint32(p.dnsPort), uint32(p.dnsPort)}}, then: verdict{zone: p.zn},
	}
	return append([]rule{answers}, p.lookups(verdict{zone: p.zn}, "udp")...)
}

func hosts(list []netip.Addr) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range list {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return separate(out)
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// covers says whether ranges (none: everything) hold a number.
func covers(list []span, n uint32) bool {
	for _, s := range list {
		if s.first <= n && n <= s.last {
			return true
		}
	}
	return len(list) == 0
}

// A family is IPv4 or IPv6.
type family int

const (
	ipv4 family = 4
	ipv6 family = 6
)

// of keeps the prefixes of a family; ok is false when there are some and none is of it, so that a rule with them cannot match.
func (f family) of(list []netip.Prefix) (out []netip.Prefix, ok bool) {
	for _, p := range list {
		if p.Addr().Is4() == (f == ipv4) {
			out = append(out, p)
		}
	}
	return out, len(list) == 0 || len(out) > 0
}
