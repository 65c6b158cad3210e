package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/dataplane/dns"
)

// DNSConfig says where the workload's lookups are answered.
type DNSConfig struct {
	Off       bool     `json:"off" doc:"answer no lookups"`
	Addresses []string `json:"addresses" doc:"ip:port on which names of the mesh are answered, over UDP and TCP; default 127.0.0.1:15053 and [::1]:15053 with transparent proxying, none without"`
	Upstreams []string `json:"upstreams" doc:"ip:port of the servers that are asked for other names; default those of /etc/resolv.conf"`
}

func (c DNSConfig) check(ps *resource.Problems) {
	for field, list := range map[string][]string{"dns.addresses": c.Addresses, "dns.upstreams": c.Upstreams} {
		for i, s := range list {
			if a, err := netip.ParseAddrPort(s); err != nil || a.Port() == 0 {
				ps.Add(resource.Path(field).Index(i), "%s is not ip:port", resource.Quote(s))
			}
		}
	}
	if c.Off && len(c.Addresses) > 0 {
		ps.Add("dns.addresses", "must not be set together with dns.off")
	}
}

// redirectedDNS is where the rules of a host redirect lookups to.
var redirectedDNS = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:15053"), netip.MustParseAddrPort("[::1]:15053")}

// listenNames takes the ports for lookups; nil when none are answered.
func (a *agent) listenNames() (*dns.Server, error) {
	c := a.cfg.DNS
	if c.Off {
		return nil, nil
	}
	at := parseAddresses(c.Addresses)
	if len(c.Addresses) == 0 {
		if !a.self.transparent {
			return nil, nil
		}
		at = redirectedDNS
		if !hasAddress(at[1].Addr()) {
			at = at[:1]
		}
	}
	cfg := dns.Config{Addresses: at, Upstreams: parseAddresses(c.Upstreams), Log: a.log}
	if a.block != nil {
		var err error
		if cfg.Block, err = netip.ParsePrefix(a.block.prefix); err != nil {
			return nil, fmt.Errorf("outbound block: %w", err)
		}
	}
	s, err := dns.Listen(cfg)
	if err != nil {
		return nil, fmt.Errorf("%w; choose other dns.addresses, or set dns.off", err)
	}
	return s, nil
}

// parseAddresses reads what check has accepted.
func parseAddresses(list []string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, s := range list {
		if a, err := netip.ParseAddrPort(s); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// hasAddress says whether something can listen at an address of this host.
func hasAddress(ip netip.Addr) bool {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", netip.AddrPortFrom(ip, 0).String())
	if err != nil {
		return false
	}
	_ = l.Close()
	return true
}
