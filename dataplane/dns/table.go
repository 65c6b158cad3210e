package dns

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/causeway-mesh/causeway/api/agentapi"
)

// Bounds on what a zone may send.
const (
	maxNames     = 1 << 20
	maxAddresses = 64
	maxDomains   = 64
)

// A table is the names of one version. It is immutable once complete.
type table struct {
	version string
	domains []string
	hosts   map[string][]netip.Addr
	parents map[string]bool // names that have others below them
	reverse map[netip.Addr]string
}

// with makes the table that a message turns this one (nil: an empty one) into, and counts what cannot be used.
func (t *table) with(m *agentapi.Names, block netip.Prefix) (out *table, ignored int) {
	out = &table{version: m.GetVersion(), hosts: map[string][]netip.Addr{}}
	if t != nil {
		out.hosts = maps.Clone(t.hosts)
	}
	for _, name := range m.GetRemoved() {
		delete(out.hosts, name)
	}
	for _, r := range m.GetRecords() {
		name, ok := hostname(r.GetName())
		if !ok || len(r.GetAddresses()) > maxAddresses || len(out.hosts) >= maxNames {
			ignored++
			continue
		}
		out.hosts[name] = addresses(r.GetAddresses(), block)
	}
	for _, d := range m.GetDomains()[:min(len(m.GetDomains()), maxDomains)] {
		if name, ok := hostname(d); ok {
			out.domains = append(out.domains, name)
		}
	}
	return out, ignored
}

// hostname is a name as tables hold it: lower case, without the dot at the end.
func hostname(s string) (string, bool) {
	name := strings.ToLower(strings.TrimSuffix(s, "."))
	if _, ok := dns.IsDomainName(name); !ok || name == "" {
		return "", false
	}
	return name, true
}

func addresses(list [][]byte, block netip.Prefix) []netip.Addr {
	var out []netip.Addr
	for _, b := range list {
		a, ok := netip.AddrFromSlice(b)
		if !ok {
			continue
		}
		if a = a.Unmap(); block.IsValid() {
			if a, ok = inBlock(block, a); !ok {
				continue
			}
		}
		out = append(out, a)
	}
	return out
}

// inBlock maps a virtual address to the block by its low 16 bits, as listeners are.
func inBlock(block netip.Prefix, a netip.Addr) (netip.Addr, bool) {
	if !a.Is4() || !block.Addr().Is4() || block.Bits() != 16 {
		return netip.Addr{}, false
	}
	b, low := block.Addr().As4(), a.As4()
	return netip.AddrFrom4([4]byte{b[0], b[1], low[2], low[3]}), true
}

// complete finds out what follows from the names.
func (t *table) complete() {
	t.parents, t.reverse = map[string]bool{}, map[netip.Addr]string{}
	for _, host := range slices.Sorted(maps.Keys(t.hosts)) {
		for _, a := range t.hosts[host] {
			if _, taken := t.reverse[a]; !taken {
				t.reverse[a] = host
			}
		}
		for parent := host; ; {
			_, rest, ok := strings.Cut(parent, ".")
			if !ok || t.parents[rest] {
				break
			}
			t.parents[rest] = true
			parent = rest
		}
	}
}

// in says whether there is nothing but names of the mesh in the domain of a name.
func (t *table) in(name string) bool {
	return slices.ContainsFunc(t.domains, func(d string) bool { return within(name, d) })
}

func within(name, domain string) bool {
	rest, ok := strings.CutSuffix(name, domain)
	return ok && (rest == "" || strings.HasSuffix(rest, "."))
}
