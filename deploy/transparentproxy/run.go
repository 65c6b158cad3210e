package transparentproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/api/resource"
)

const resolvConf = "/etc/resolv.conf"

// A Step is one program that is run.
type Step struct {
	Args  []string
	Stdin string
}

// String is the step as a line of a shell.
func (s Step) String() string {
	line := strings.Join(s.Args, " ")
	if s.Stdin == "" {
		return line + "\n"
	}
	return line + " <<'END'\n" + s.Stdin + "END\n"
}

// A Plan is what would be done to the host.
type Plan struct {
	// Engine is what holds the rules.
	Engine string
	// IPv6 says that it is redirected, too.
	IPv4, IPv6 bool
	Steps      []Step
}

// PlanInstall finds out what makes the rules of this host those of a configuration.
func PlanInstall(ctx context.Context, c Config) (Plan, error) {
	var ps resource.Problems
	p := c.parse(&ps)
	if err := ps.Err(); err != nil {
		return Plan{}, err
	}
	if err := p.readHost(resolvConf); err != nil {
		return Plan{}, err
	}
	engine, err := detect(ctx, c.Engine)
	if err != nil {
		return Plan{}, err
	}
	families := familiesOf(c.IPFamily)
	plan := Plan{Engine: engine, IPv4: slices.Contains(families, ipv4), IPv6: slices.Contains(families, ipv6)}
	if plan.IPv6 && p.RedirectInbound && !hasOwnSource() {
		plan.Steps = append(plan.Steps, Step{Args: []string{"ip", "-6", "address", "add", ownSource6.String(), "dev", lo}})
	}
	chains := p.chains()
	if engine == "nftables" {
		plan.Steps = append(plan.Steps, Step{Args: []string{"nft", "-f", "-"}, Stdin: nftables(chains, families)})
	} else {
		for _, f := range families {
			saved, err := save(ctx, engine, f)
			if err != nil {
				return Plan{}, err
			}
			plan.Steps = append(plan.Steps, Step{Args: []string{tool(engine, f) + "-restore", "--noflush"}, Stdin: iptables(chains, f, saved)})
		}
	}
	// What another engine or family holds goes last: in between both redirect to the same port, and never neither.
	remains, err := remains(ctx, func(e string, f family) bool {
		return sameEngine(e, engine) && (e == "nftables" || slices.Contains(families, f))
	})
	plan.Steps = append(plan.Steps, remains...)
	return plan, err
}

// PlanUninstall finds out what takes all rules of ours away, whichever engine holds them.
func PlanUninstall(ctx context.Context) (Plan, error) {
	steps, err := remains(ctx, func(string, family) bool { return false })
	if err == nil && hasOwnSource() {
		steps = append(steps, Step{Args: []string{"ip", "-6", "address", "del", ownSource6.String(), "dev", lo}})
	}
	return Plan{Steps: steps}, err
}

// Apply runs the plan and says whether that changed rules. When a step fails, those before it have been done.
func (p Plan) Apply(ctx context.Context) (changed bool, err error) {
	if err := mayChange(); err != nil {
		return false, err
	}
	before := state(ctx)
	for _, s := range p.Steps {
		if _, err := s.run(ctx); err != nil {
			return false, err
		}
	}
	return state(ctx) != before, nil
}

func (s Step) run(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, s.Args[0], s.Args[1:]...)
	cmd.Stdin = strings.NewReader(s.Stdin)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	err := cmd.Run()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("%s is not installed on this host", s.Args[0])
	case err != nil:
		return "", fmt.Errorf("%s: %w: %s", strings.Join(s.Args, " "), err, firstLines(problems.String()))
	}
	return out.String(), nil
}

func firstLines(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[:min(len(lines), 5)], "; ")
}

// detect chooses what holds the rules.
func detect(ctx context.Context, engine string) (string, error) {
	installed := func(program string) bool {
		_, err := exec.LookPath(program)
		return err == nil
	}
	nft := func() error {
		_, err := Step{Args: []string{"nft", "list", "tables"}}.run(ctx)
		return err
	}
	switch engine {
	case "nftables":
		if !installed("nft") {
			return "", errors.New("nft is not installed on this host; install the package nftables, or choose the engine iptables")
		}
		return engine, nil
	case "auto":
		if installed("nft") && nft() == nil {
			return "nftables", nil
		}
		if installed("iptables-restore") {
			return "iptables", nil
		}
		if installed("nft") {
			return "nftables", nil // which says what is wrong
		}
		return "", errors.New("neither nft nor iptables is installed on this host; install the package nftables")
	}
	if !installed(engine + "-restore") {
		return "", fmt.Errorf("%s-restore is not installed on this host; install the package iptables, or choose another engine", engine)
	}
	return engine, nil
}

func familiesOf(setting string) []family {
	switch setting {
	case "ipv4":
		return []family{ipv4}
	case "ipv6":
		return []family{ipv6}
	case "dualstack":
		return []family{ipv4, ipv6}
	}
	// A host without IPv6 lists no address of it, not even ::1.
	if text, err := os.ReadFile("/proc/thread-self/net/if_inet6"); err != nil || len(bytes.TrimSpace(text)) == 0 {
		return []family{ipv4}
	}
	return []family{ipv4, ipv6}
}

// hasOwnSource says whether the host has the address from which a proxy reaches its workload over IPv6. That of IPv4 is
// part of loopback anyway.
func hasOwnSource() bool {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addresses, func(a net.Addr) bool { return a.String() == ownSource6.String() })
}

// tool is the name that the programs of an engine begin with.
func tool(engine string, f family) string {
	if f == ipv6 {
		return strings.Replace(engine, "iptables", "ip6tables", 1)
	}
	return engine
}

func save(ctx context.Context, engine string, f family) (string, error) {
	out, err := Step{Args: []string{tool(engine, f) + "-save"}}.run(ctx)
	if err != nil {
		return "", fmt.Errorf("read the rules of this host: %w", err)
	}
	return out, nil
}

// iptablesEngines lists the variants of iptables that this host has. "iptables" stands for one of the others where these are known.
func iptablesEngines() []string {
	var out []string
	for _, e := range []string{"iptables-nft", "iptables-legacy"} {
		if _, err := exec.LookPath(e + "-save"); err == nil {
			out = append(out, e)
		}
	}
	if _, err := exec.LookPath("iptables-save"); err == nil && len(out) == 0 {
		out = append(out, "iptables")
	}
	return out
}

// sameEngine compares engines, one of which may be the variant that the host's iptables stands for.
func sameEngine(e, chosen string) bool {
	if e == chosen {
		return true
	}
	if chosen != "iptables" || e == "nftables" {
		return false
	}
	out, err := exec.Command("iptables", "--version").Output()
	return err == nil && strings.Contains(string(out), "nf_tables") == (e == "iptables-nft")
}

// remains lists what removes the rules of ours that are held elsewhere than where they are kept.
func remains(ctx context.Context, kept func(engine string, f family) bool) ([]Step, error) {
	var steps []Step
	if !kept("nftables", ipv4) && nftPresent(ctx) {
		steps = append(steps, Step{Args: []string{"nft", "-f", "-"}, Stdin: nftRemove})
	}
	for _, e := range iptablesEngines() {
		for _, f := range []family{ipv4, ipv6} {
			if kept(e, f) {
				continue
			}
			saved, err := save(ctx, e, f)
			if err != nil {
				if mayChange() == nil && f == ipv4 {
					return nil, err
				}
				continue // no rights to look, or no IPv6
			}
			if remove := iptablesRemove(saved); remove != "" {
				steps = append(steps, Step{Args: []string{tool(e, f) + "-restore", "--noflush"}, Stdin: remove})
			}
		}
	}
	return steps, nil
}

func nftPresent(ctx context.Context) bool {
	_, err := Step{Args: append([]string{"nft", "list", "table"}, strings.Fields(nftTable)...)}.run(ctx)
	return err == nil
}

// state is everything of ours that the host has.
func state(ctx context.Context) string {
	var b strings.Builder
	if out, err := (Step{Args: append([]string{"nft", "list", "table"}, strings.Fields(nftTable)...)}).run(ctx); err == nil {
		b.WriteString(out)
	}
	for _, e := range iptablesEngines() {
		for _, f := range []family{ipv4, ipv6} {
			saved, err := save(ctx, e, f)
			if err != nil {
				continue
			}
			for line := range strings.Lines(saved) {
				if !strings.HasPrefix(line, ":") && strings.Contains(line, prefix) {
					b.WriteString(line)
				}
			}
		}
	}
	fmt.Fprintln(&b, hasOwnSource())
	return b.String()
}

// mayChange says what this process lacks for changing rules.
func mayChange() error {
	const netAdmin = 1 << 12
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil // the programs will say what they lack
	}
	for line := range strings.Lines(string(text)) {
		var caps uint64
		if n, err := fmt.Sscanf(line, "CapEff:\t%x", &caps); err == nil && n == 1 && caps&netAdmin == 0 {
			return errors.New("changing the rules of a host needs root, or the capability NET_ADMIN: use sudo")
		}
	}
	return nil
}
