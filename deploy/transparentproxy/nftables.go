package transparentproxy

import (
	"fmt"
	"net/netip"
	"strings"
)

// nftTable holds all rules, of both families: one transaction replaces them.
const nftTable = "inet causeway_redirect"

// nftRemove takes the table away, also when it is not there.
const nftRemove = "table " + nftTable + " {}\ndelete table " + nftTable + "\n"

// nftables writes the chains as one transaction.
func nftables(chains []chain, families []family) string {
	var b strings.Builder
	b.WriteString(nftRemove)
	fmt.Fprintf(&b, "table %s {\n", nftTable)
	for _, c := range chains {
		fmt.Fprintf(&b, "  chain %s {\n", c.name)
		switch {
		case c.table == "raw":
			fmt.Fprintf(&b, "    type filter hook %s priority -300; policy accept;\n", c.hook)
		case c.hook != "":
			// Before others, such as those of container engines: the first one that redirects counts.
			fmt.Fprintf(&b, "    type nat hook %s priority -101; policy accept;\n", c.hook)
		}
		if len(families) == 1 && c.hook != "" {
			fmt.Fprintf(&b, "    meta nfproto != ipv%d return\n", families[0])
		}
		for _, r := range c.rules {
			for _, line := range nftRule(r, families) {
				fmt.Fprintf(&b, "    %s comment \"%s\"\n", line, r.why)
			}
		}
		b.WriteString("  }\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// nftRule writes a rule once, or once for each family when it names addresses.
func nftRule(r rule, families []family) []string {
	if len(r.from)+len(r.to) == 0 {
		return []string{nftLine(r, "")}
	}
	var out []string
	for _, f := range families {
		from, okFrom := f.of(r.from)
		to, okTo := f.of(r.to)
		if !okFrom || !okTo {
			continue
		}
		ip := map[family]string{ipv4: "ip", ipv6: "ip6"}[f]
		addresses := ""
		if len(from) > 0 {
			addresses += ip + " saddr " + nftSet(from) + " "
		}
		if len(to) > 0 {
			addresses += ip + " daddr " + nftSet(to) + " "
		}
		out = append(out, nftLine(r, addresses))
	}
	return out
}

func nftLine(r rule, addresses string) string {
	var b strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&b, format+" ", args...) }
	if r.in != "" {
		add("iifname %q", r.in)
	}
	if r.out != "" {
		add("oifname %q", r.out)
	}
	b.WriteString(addresses)
	switch {
	case r.under:
		add("tcp flags & (fin | syn | rst | ack) != syn")
	case len(r.ports) > 0:
		add("%s dport %s", r.protocol, nftSet(r.ports))
	case len(r.sources) > 0:
		add("%s sport %s", r.protocol, nftSet(r.sources))
	case r.protocol != "":
		add("meta l4proto %s", r.protocol)
	}
	if len(r.users) > 0 {
		add("meta skuid %s", nftSet(r.users))
	}
	switch v := r.then; {
	case v.redirect != 0:
		add("redirect to :%d", v.redirect)
	case v.zone != 0:
		add("ct zone set %d", v.zone)
	case v.call != "":
		add("goto %s", v.call)
	default:
		add("return")
	}
	return strings.TrimSuffix(b.String(), " ")
}

func nftSet[T span | netip.Prefix](list []T) string {
	var out []string
	for _, e := range list {
		s := fmt.Sprint(e)
		if p, ok := any(e).(netip.Prefix); ok && p.IsSingleIP() {
			s = p.Addr().String()
		}
		out = append(out, s)
	}
	if len(out) == 1 {
		return out[0]
	}
	return "{ " + strings.Join(out, ", ") + " }"
}
