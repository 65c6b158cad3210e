package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/resource"
)

// target is one control plane and how to talk to it: an entry of the configuration file.
type target struct {
	Name      string `yaml:"name"`
	Server    string `yaml:"server"`
	CAFile    string `yaml:"caFile,omitempty"`
	Pin       string `yaml:"pin,omitempty"`
	TokenFile string `yaml:"tokenFile,omitempty"`
	Mesh      string `yaml:"mesh,omitempty"`
}

// targets is the configuration file of the command line.
type targets struct {
	Current  string   `yaml:"current,omitempty"`
	Contexts []target `yaml:"contexts"`
}

func (ts targets) find(name string) (target, error) {
	var names []string
	for _, t := range ts.Contexts {
		if t.Name == name {
			return t, nil
		}
		names = append(names, t.Name)
	}
	err := fmt.Errorf("context %s: %w", resource.Quote(name), resource.ErrNotFound)
	if near := resource.Nearest(name, names); near != "" {
		err = fmt.Errorf("%w, did you mean %q?", err, near)
	}
	return target{}, hintError{err, "causeway context list shows all of them"}
}

// targetsPath is where contexts are kept: $XDG_CONFIG_HOME or ~/.config, then causeway/config.yaml.
func (p *program) targetsPath() (string, error) {
	base := p.env("XDG_CONFIG_HOME")
	if base == "" {
		home := p.env("HOME")
		if home == "" {
			return "", errors.New("find the configuration: neither XDG_CONFIG_HOME nor HOME is set")
		}
		base = filepath.Join(home, ".config")
	}
	return filepath.Join(base, "causeway", "config.yaml"), nil
}

func (p *program) loadTargets() (targets, error) {
	var ts targets
	path, err := p.targetsPath()
	if err != nil {
		return ts, err
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ts, nil
	}
	if err != nil {
		return ts, fmt.Errorf("read the contexts: %w", err)
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&ts); err != nil {
		return ts, hintError{fmt.Errorf("read the contexts in %s: %w", path, err), "correct the file, or remove it and add the contexts again"}
	}
	return ts, nil
}

// saveTargets replaces the file in one step and lets only its owner read it.
func (p *program) saveTargets(ts targets) error {
	path, err := p.targetsPath()
	if err != nil {
		return err
	}
	b, err := yaml.Marshal(ts)
	if err != nil {
		return fmt.Errorf("write the contexts: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write the contexts: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".config-") // made with mode 0600
	if err != nil {
		return fmt.Errorf("write the contexts: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write the contexts: %w", err)
	}
	return nil
}

// connection is the flags of every command that talks to a control plane.
type connection struct {
	context string
	target
	timeout time.Duration
}

func (c *connection) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.context, "context", "", "context to use instead of the current one (CAUSEWAY_CONTEXT)")
	f.StringVar(&c.Server, "server", "", "address of the control plane (CAUSEWAY_SERVER)")
	f.StringVar(&c.CAFile, "ca-file", "", "PEM file with the CA of the control plane (CAUSEWAY_CA_FILE)")
	f.StringVar(&c.Pin, "pin", "", "sha256:<hex> of the public key to trust instead of a CA")
	f.StringVar(&c.TokenFile, "token-file", "", "file with the bearer token (CAUSEWAY_TOKEN_FILE)")
	f.DurationVar(&c.timeout, "timeout", 30*time.Second, "longest time to wait for one answer")
}

func (c *connection) meshFlag(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&c.Mesh, "mesh", "m", "", "mesh to work in (CAUSEWAY_MESH; default is the context's, then \"default\")")
}

// resolve completes the flags from the environment and the context: flag before environment before context.
func (c *connection) resolve(p *program) error {
	for _, e := range []struct {
		into *string
		name string
	}{
		{&c.context, "CAUSEWAY_CONTEXT"},
		{&c.Server, "CAUSEWAY_SERVER"},
		{&c.CAFile, "CAUSEWAY_CA_FILE"},
		{&c.TokenFile, "CAUSEWAY_TOKEN_FILE"},
		{&c.Mesh, "CAUSEWAY_MESH"},
	} {
		if *e.into == "" {
			*e.into = p.env(e.name)
		}
	}
	ts, err := p.loadTargets()
	if err != nil {
		return err
	}
	name := c.context
	if name == "" {
		name = ts.Current
	}
	if name != "" {
		t, err := ts.find(name)
		if err != nil {
			return err
		}
		c.adopt(t)
	}
	if c.Mesh == "" {
		c.Mesh = "default"
	}
	if c.Server == "" {
		return hintError{
			usageError{errors.New("no control plane is named"), "causeway context"},
			"causeway context add NAME --server https://HOST:5682 --ca-file FILE --token-file FILE",
		}
	}
	return nil
}

// adopt takes from a context what is not set yet. Its CA and token belong to its server: they are not sent to another.
func (c *connection) adopt(t target) {
	if c.Mesh == "" {
		c.Mesh = t.Mesh
	}
	if c.Server != "" && c.Server != t.Server {
		return
	}
	c.Server = t.Server
	if c.CAFile == "" && c.Pin == "" {
		c.CAFile, c.Pin = t.CAFile, t.Pin
	}
	if c.TokenFile == "" {
		c.TokenFile = t.TokenFile
	}
}

// dial makes the client of a command.
func (c *connection) dial(p *program) (*client.Client, error) {
	if err := c.resolve(p); err != nil {
		return nil, err
	}
	return c.client()
}

func (c *connection) client() (*client.Client, error) {
	cl, err := client.New(client.Config{
		Server: c.Server, CAFile: c.CAFile, Pin: c.Pin, TokenFile: c.TokenFile,
		Timeout: c.timeout, UserAgent: "causeway/" + buildVersion(), Proxy: http.ProxyFromEnvironment,
	})
	if err != nil {
		return nil, usageError{err, "causeway context add"}
	}
	return cl, nil
}

func (p *program) contextCommand() *cobra.Command {
	return group("context", "Choose which control plane the command line talks to",
		"  causeway context list\n  causeway context use east",
		p.contextAddCommand(), p.contextListCommand(), p.contextUseCommand(), p.contextCurrentCommand(), p.contextRemoveCommand())
}

func (p *program) contextAddCommand() *cobra.Command {
	var c connection
	var use, skipCheck bool
	cmd := &cobra.Command{
		Use: "add NAME --server URL", Short: "Add or replace a context, after asking the server who it is", Args: cobra.ExactArgs(1),
		Example: `  causeway context add east --server https://east.example:5682 --ca-file ca.pem --token-file token
  causeway context add lab --server https://127.0.0.1:5682 --pin sha256:9f86... --use --skip-check`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Name = args[0]
			if err := c.absolute(); err != nil {
				return err
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			if !skipCheck {
				if err := p.introduce(cmd, cl, c); err != nil {
					return err
				}
			}
			ts, err := p.loadTargets()
			if err != nil {
				return err
			}
			ts.Contexts = append(slices.DeleteFunc(ts.Contexts, func(t target) bool { return t.Name == c.Name }), c.target)
			if use || ts.Current == "" {
				ts.Current = c.Name
			}
			if err := p.saveTargets(ts); err != nil {
				return err
			}
			p.talk("context %s added, current is %s", c.Name, ts.Current)
			return nil
		},
	}
	c.flags(cmd)
	c.meshFlag(cmd)
	cmd.Flags().BoolVar(&use, "use", false, "make it the current context")
	cmd.Flags().BoolVar(&skipCheck, "skip-check", false, "do not ask the server who it is")
	hide(cmd, "context")
	cobra.CheckErr(cmd.MarkFlagRequired("server"))
	return cmd
}

func hide(cmd *cobra.Command, flag string) { cobra.CheckErr(cmd.Flags().MarkHidden(flag)) }

// absolute keeps the names of files valid in other directories.
func (c *connection) absolute() error {
	for _, f := range []*string{&c.CAFile, &c.TokenFile} {
		if *f == "" {
			continue
		}
		abs, err := filepath.Abs(*f)
		if err != nil {
			return fmt.Errorf("name the file %s absolutely: %w", *f, err)
		}
		*f = abs
	}
	return nil
}

// introduce asks a control plane who it is and whom it sees.
func (p *program) introduce(cmd *cobra.Command, cl *client.Client, c connection) error {
	index, err := cl.Index(cmd.Context())
	if err != nil {
		return hintError{err, "start the control plane or correct the address; --skip-check adds the context anyway"}
	}
	p.talk("%s %s at %s", index.Product, index.Version, cl.Server())
	if c.TokenFile == "" {
		p.talk("no token is given: most requests will be refused")
		return nil
	}
	u, err := cl.WhoAmI(cmd.Context())
	if err != nil {
		return err
	}
	p.talk("you are %s", u.Name)
	return nil
}

func (p *program) contextListCommand() *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use: "list", Short: "List the contexts", Args: cobra.NoArgs,
		Example: "  causeway context list\n  causeway context list -o name",
		RunE: func(*cobra.Command, []string) error {
			ts, err := p.loadTargets()
			if err != nil {
				return err
			}
			t := table{header: []string{"CURRENT", "NAME", "SERVER", "MESH"}}
			for _, c := range ts.Contexts {
				mark := ""
				if c.Name == ts.Current {
					mark = "*"
				}
				t.add(c.Name, mark, c.Name, c.Server, c.Mesh)
			}
			return out.values(p, t, ts.Contexts)
		},
	}
	out.flags(cmd)
	return cmd
}

func (p *program) contextUseCommand() *cobra.Command {
	return &cobra.Command{
		Use: "use NAME", Short: "Make a context the current one", Args: cobra.ExactArgs(1),
		Example:           "  causeway context use east\n  causeway context use $(causeway context list -o name | head -1)",
		ValidArgsFunction: p.completeContexts,
		RunE: func(_ *cobra.Command, args []string) error {
			ts, err := p.loadTargets()
			if err != nil {
				return err
			}
			if _, err := ts.find(args[0]); err != nil {
				return err
			}
			ts.Current = args[0]
			if err := p.saveTargets(ts); err != nil {
				return err
			}
			p.talk("current context is %s", args[0])
			return nil
		},
	}
}

func (p *program) contextCurrentCommand() *cobra.Command {
	return &cobra.Command{
		Use: "current", Short: "Print the name of the current context", Args: cobra.NoArgs,
		Example: "  causeway context current\n  CAUSEWAY_CONTEXT=east causeway context current",
		RunE: func(*cobra.Command, []string) error {
			ts, err := p.loadTargets()
			if err != nil {
				return err
			}
			name := p.env("CAUSEWAY_CONTEXT")
			if name == "" {
				name = ts.Current
			}
			if name == "" {
				return hintError{fmt.Errorf("current context: %w", resource.ErrNotFound), "causeway context add NAME --server URL"}
			}
			if _, err := ts.find(name); err != nil {
				return err
			}
			fmt.Fprintln(p.stdout, name)
			return nil
		},
	}
}

func (p *program) contextRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Forget a context; nothing happens to its control plane", Args: cobra.ExactArgs(1),
		Example:           "  causeway context remove lab\n  causeway context remove east",
		ValidArgsFunction: p.completeContexts,
		RunE: func(_ *cobra.Command, args []string) error {
			ts, err := p.loadTargets()
			if err != nil {
				return err
			}
			if _, err := ts.find(args[0]); err != nil {
				return err
			}
			ts.Contexts = slices.DeleteFunc(ts.Contexts, func(t target) bool { return t.Name == args[0] })
			if ts.Current == args[0] {
				ts.Current = ""
			}
			if err := p.saveTargets(ts); err != nil {
				return err
			}
			p.talk("context %s removed", args[0])
			return nil
		},
	}
}

func (p *program) completeContexts(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	ts, err := p.loadTargets()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, t := range ts.Contexts {
		names = append(names, t.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
