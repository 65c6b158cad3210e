package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/resource"
)

func (p *program) tokenCommand() *cobra.Command {
	return group("token", "Issue tokens",
		"  causeway token create user --name jane --valid-for 24h\n  causeway token create dataplane --workload web --valid-for 720h",
		group("create", "Issue a token; it is printed once and kept nowhere",
			"  causeway token create user --name ci --group mesh-writers --valid-for 720h\n  causeway token create zone --zone east --out east.token",
			p.userTokenCommand(), p.dataplaneTokenCommand(), p.zoneTokenCommand()))
}

// issuing is what the commands that issue tokens share.
type issuing struct {
	connection
	validFor string
	out      string
}

func (i *issuing) flags(cmd *cobra.Command) {
	i.connection.flags(cmd)
	cmd.Flags().StringVar(&i.validFor, "valid-for", "", "how long it is valid, such as 30m or 720h")
	cmd.Flags().StringVar(&i.out, "out", "", "new file for the token, readable by its owner only, instead of standard output")
}

func (i *issuing) issue(p *program, issue func(*client.Client) (string, error)) error {
	cl, err := i.dial(p)
	if err != nil {
		return err
	}
	t, err := issue(cl)
	if err != nil {
		return err
	}
	if i.out == "" {
		_, err := fmt.Fprintln(p.stdout, t)
		return err
	}
	// O_EXCL: an existing file could be open to others.
	f, err := os.OpenFile(i.out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return hintError{fmt.Errorf("keep the token: %w", err), "choose a name that is not taken, or remove the file"}
	}
	if err != nil {
		return fmt.Errorf("keep the token: %w", err)
	}
	_, err = f.WriteString(t + "\n")
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("keep the token: %w", err)
	}
	p.talk("token written to %s", i.out)
	return nil
}

func (p *program) userTokenCommand() *cobra.Command {
	var i issuing
	var t client.UserToken
	cmd := &cobra.Command{
		Use: "user --name NAME --valid-for DURATION", Short: "Issue a token for a person or a program", Args: cobra.NoArgs,
		Example: `  causeway token create user --name jane --valid-for 24h
  causeway token create user --name ci --group mesh-writers --valid-for 720h --out ci.token`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t.ValidFor = i.validFor
			return i.issue(p, func(c *client.Client) (string, error) { return c.NewUserToken(cmd.Context(), t) })
		},
	}
	i.flags(cmd)
	cmd.Flags().StringVar(&t.Name, "name", "", "who it stands for")
	cmd.Flags().StringSliceVar(&t.Groups, "group", nil, "group the user is in; repeatable")
	cobra.CheckErr(errors.Join(cmd.MarkFlagRequired("name"), cmd.MarkFlagRequired("valid-for")))
	return cmd
}

func (p *program) dataplaneTokenCommand() *cobra.Command {
	var i issuing
	var t client.DataplaneToken
	var tags []string
	cmd := &cobra.Command{
		Use: "dataplane", Short: "Issue a token that admits proxies; every flag that is set restricts it", Args: cobra.NoArgs,
		Example: `  causeway token create dataplane -m default --workload web --valid-for 720h
  causeway token create dataplane --name web-1 --tag team=pay --out web-1.token
  causeway token create dataplane --workload egress --tag kuma.io/listener-zoneegress=enabled --out egress.token   # only so for an egress`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := i.resolve(p); err != nil {
				return err
			}
			t.Mesh, t.ValidFor, t.Tags = i.Mesh, i.validFor, map[string][]string{}
			for _, tag := range tags {
				k, v, ok := strings.Cut(tag, "=")
				if !ok {
					return usageError{fmt.Errorf("tag %s must be key=value", resource.Quote(tag)), cmd.CommandPath()}
				}
				t.Tags[k] = append(t.Tags[k], v)
			}
			return i.issue(p, func(c *client.Client) (string, error) { return c.NewDataplaneToken(cmd.Context(), t) })
		},
	}
	i.flags(cmd)
	i.meshFlag(cmd)
	f := cmd.Flags()
	f.StringVar(&t.Name, "name", "", "only the Dataplane of this name")
	f.StringVar(&t.Workload, "workload", "", "only Dataplanes of this workload, which its identity is derived from")
	f.StringVar(&t.Type, "type", "", "only this type of proxy")
	f.StringSliceVar(&tags, "tag", nil, "only with this label: key=value, repeatable")
	return cmd
}

func (p *program) zoneTokenCommand() *cobra.Command {
	var i issuing
	var t client.ZoneToken
	cmd := &cobra.Command{
		Use: "zone --zone NAME", Short: "Issue a token for a zone", Args: cobra.NoArgs,
		Example: `  causeway token create zone --zone east --valid-for 24h
  causeway token create zone --zone west --scope ingress --out west.token`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t.ValidFor = i.validFor
			return i.issue(p, func(c *client.Client) (string, error) { return c.NewZoneToken(cmd.Context(), t) })
		},
	}
	i.flags(cmd)
	cmd.Flags().StringVar(&t.Zone, "zone", "", "name of the zone")
	cmd.Flags().StringSliceVar(&t.Scope, "scope", nil, "what the token allows; repeatable")
	cobra.CheckErr(cmd.MarkFlagRequired("zone"))
	return cmd
}
