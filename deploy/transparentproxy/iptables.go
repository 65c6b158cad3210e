package transparentproxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// prefix marks the chains that are ours.
const prefix = "CAUSEWAY_"

func ipName(c string) string { return prefix + strings.ToUpper(c) }

// allChains are the chains that any configuration has, with what leads to them: a configuration without one leaves it empty.
var allChains = []chain{
	{name: "lookups", hook: "output", table: "raw"},
	{name: "inbound", hook: "prerouting", table: "nat"},
	{name: "self", table: "nat"},
	{name: "outbound", hook: "output", table: "nat"},
}

// iptables writes the chains of one family for iptables-restore --noflush: what stands in our own chains is replaced,
// the rules that lead to them are added when saved (what iptables-save gives) does not have them.
func iptables(chains []chain, f family, saved string) string {
	var b strings.Builder
	for _, table := range []string{"raw", "nat"} {
		fmt.Fprintf(&b, "*%s\n", table)
		inTable := slices.DeleteFunc(slices.Clone(allChains), func(c chain) bool { return c.table != table })
		for _, c := range inTable {
			fmt.Fprintf(&b, ":%s - [0:0]\n", ipName(c.name))
		}
		for _, c := range inTable {
			if c.hook != "" && !strings.Contains(section(saved, table), "\n"+ipJump(c)+"\n") {
				// Before others, such as those of container engines.
				fmt.Fprintf(&b, "-I %s 1 -j %s\n", strings.ToUpper(c.hook), ipName(c.name))
			}
			for _, own := range chains {
				if own.name != c.name {
					continue
				}
				for _, r := range own.rules {
					for _, line := range ipRule(r, f) {
						fmt.Fprintf(&b, "-A %s %s\n", ipName(c.name), line)
					}
				}
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

// ipJump is how iptables-save writes the rule that leads to a chain.
func ipJump(c chain) string {
	return fmt.Sprintf("-A %s -j %s", strings.ToUpper(c.hook), ipName(c.name))
}

// section is the part of what iptables-save gives that is about a table.
func section(saved, table string) string {
	_, rest, ok := strings.Cut("\n"+saved, "\n*"+table+"\n")
	if !ok {
		return ""
	}
	rest, _, _ = strings.Cut(rest, "\nCOMMIT")
	return "\n" + rest + "\n"
}

// iptablesRemove undoes what iptables wrote, empty when there is nothing.
func iptablesRemove(saved string) string {
	var b strings.Builder
	for _, table := range []string{"raw", "nat"} {
		text := section(saved, table)
		var jumps, chains []string
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			switch {
			case strings.HasPrefix(line, ":"+prefix):
				name, _, _ := strings.Cut(line[1:], " ")
				chains = append(chains, name)
			case strings.HasPrefix(line, "-A "+prefix):
			case strings.HasPrefix(line, "-A ") && strings.Contains(line, " -j "+prefix):
				jumps = append(jumps, "-D"+strings.TrimPrefix(line, "-A"))
			}
		}
		if len(chains) == 0 {
			continue
		}
		fmt.Fprintf(&b, "*%s\n", table)
		for _, j := range jumps {
			b.WriteString(j + "\n")
		}
		for _, c := range chains {
			fmt.Fprintf(&b, "-F %s\n", c)
		}
		for _, c := range chains {
			fmt.Fprintf(&b, "-X %s\n", c)
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

// ipRule writes a rule once for each combination of what it lists: iptables has no sets.
func ipRule(r rule, f family) []string {
	from, okFrom := f.of(r.from)
	to, okTo := f.of(r.to)
	if !okFrom || !okTo {
		return nil
	}
	var out []string
	add := func(parts ...string) {
		var words []string
		for _, p := range parts {
			if p != "" {
				words = append(words, p)
			}
		}
		out = append(out, strings.Join(words, " "))
	}
	for _, src := range orNone(from) {
		for _, dst := range orNone(to) {
			for _, users := range orNone(r.users) {
				for _, sport := range orNone(r.sources) {
					for _, dport := range orNone(r.ports) {
						add(word("-s", src), word("-d", dst), word("-i", r.in), word("-o", r.out), word("-p", r.protocol), under(r),
							ports("--sport", sport), ports("--dport", dport), word("-m owner --uid-owner", users),
							fmt.Sprintf("-m comment --comment %q", r.why), ipVerdict(r.then))
					}
				}
			}
		}
	}
	return out
}

func under(r rule) string {
	if r.under {
		return "! --syn"
	}
	return ""
}

func ipVerdict(v verdict) string {
	switch {
	case v.redirect != 0:
		return fmt.Sprintf("-j REDIRECT --to-ports %d", v.redirect)
	case v.zone != 0:
		return fmt.Sprintf("-j CT --zone %d", v.zone)
	case v.call != "":
		return "-g " + ipName(v.call)
	}
	return "-j RETURN"
}

// orNone is the list as words, or one empty word.
func orNone[T span | netip.Prefix](list []T) []string {
	var out []string
	for _, e := range list {
		out = append(out, fmt.Sprint(e))
	}
	if out == nil {
		out = []string{""}
	}
	return out
}

func word(option, value string) string {
	if value == "" {
		return ""
	}
	return option + " " + value
}

func ports(option, value string) string { return word(option, strings.ReplaceAll(value, "-", ":")) }
