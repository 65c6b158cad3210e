package main

import (
	"bufio"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/resource"
)

func (p *program) zoneCommand() *cobra.Command {
	return group("zone", "Let zones join a global control plane, and shut them out",
		"  causeway zone connect east\n  causeway zone revoke east",
		p.zoneConnectCommand(), p.zoneRevokeCommand())
}

func (p *program) zoneConnectCommand() *cobra.Command {
	var i issuing
	cmd := &cobra.Command{
		Use: "connect NAME", Short: "Print the commands that join a zone to this global control plane, once", Args: cobra.ExactArgs(1),
		Long: `connect asks the global control plane for a join token of a zone and prints the commands to run where the zone is.

The token is good once and for a short time, and holds the addresses of global and the pin of its certificate authority.
It is a secret: the commands keep it in a file that only its owner can read. The zone need not exist; joining creates it.
A zone that joined and was revoked, or whose store was lost, joins again with a new token.`,
		Example: `  causeway zone connect east
  causeway zone connect east --valid-for 15m | ssh east.example.com sh
  causeway zone connect east --out east.join`,
		RunE: func(cmd *cobra.Command, args []string) error {
			zone := args[0]
			if ps := resource.CheckName("zone", resource.RFC1035Label, zone); len(ps) > 0 {
				return usageError{fmt.Errorf("no zone can have this name: %w", ps), cmd.CommandPath()}
			}
			file := zone + ".join"
			if i.out != "" {
				err := i.issue(p, func(c *client.Client) (string, error) { return c.NewJoinToken(cmd.Context(), zone, i.validFor) })
				if err != nil {
					return notGlobal(err)
				}
				_, err = fmt.Fprintln(p.stdout, runZoneLine(zone, i.out))
				return err
			}
			cl, err := i.dial(p)
			if err != nil {
				return err
			}
			t, err := cl.NewJoinToken(cmd.Context(), zone, i.validFor)
			if err != nil {
				return notGlobal(err)
			}
			p.talk("Run this where zone %s is; the token is good once.", zone)
			_, err = fmt.Fprintf(p.stdout, "(umask 077; cat > %s <<'END'\n%s\nEND\n)\n%s\n", file, t, runZoneLine(zone, file))
			return err
		},
	}
	i.flags(cmd)
	return cmd
}

// notGlobal says what to do where no zones join.
func notGlobal(err error) error {
	if errors.Is(err, resource.ErrNotFound) {
		return hintError{err, "name the global control plane with --context or --server"}
	}
	return err
}

func runZoneLine(zone, file string) string {
	return fmt.Sprintf("causeway run zone --zone %s --global-join-token-file %s", zone, shellQuote(file))
}

// shellQuote makes a word of a shell out of any text.
func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./", r)
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func (p *program) zoneRevokeCommand() *cobra.Command {
	var c connection
	var yes bool
	cmd := &cobra.Command{
		Use: "revoke NAME", Short: "Cut a zone off and void everything it was given to connect with", Args: cobra.ExactArgs(1),
		Long: `revoke ends the connection of a zone at once and voids its certificates and unused join tokens.

What the zone serves goes on: its proxies keep their configuration and certificates. It gets no changes any more, and the
other zones learn nothing new of it. "causeway zone connect" admits it again.`,
		Example: `  causeway zone revoke east
  causeway zone revoke east --yes`,
		RunE: func(cmd *cobra.Command, args []string) error {
			zone := args[0]
			cl, err := c.dial(p)
			if err != nil {
				return err
			}
			if err := p.confirmRevocation(zone, yes); err != nil {
				return err
			}
			err = cl.RevokeZone(cmd.Context(), zone)
			if errors.Is(err, resource.ErrNotFound) {
				return hintError{fmt.Errorf("revoke zone %s: %w", resource.Quote(zone), err), "causeway get zones lists those that exist"}
			}
			if err != nil {
				return fmt.Errorf("revoke zone %s: %w", zone, err)
			}
			_, err = fmt.Fprintf(p.stdout, "Zone %s revoked\n", zone)
			return err
		},
	}
	c.flags(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func (p *program) confirmRevocation(zone string, yes bool) error {
	if yes {
		return nil
	}
	if !p.interactive {
		return hintError{usageError{fmt.Errorf("revoking zone %s cuts it off", zone), "causeway zone revoke"}, "add --yes if that is meant"}
	}
	fmt.Fprintf(p.stderr, "Revoking zone %s cuts it off until it joins again. Type %q to go on: ", zone, zone)
	line, err := bufio.NewReader(p.stdin).ReadString('\n')
	if strings.TrimSpace(line) != zone {
		return errors.Join(errors.New("not confirmed, nothing was revoked"), err)
	}
	return nil
}
