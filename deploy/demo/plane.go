package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

// meshName is the mesh of the demo.
const meshName = "default"

// A plane is a control plane in a process of its own, global's or a zone's.
type plane struct {
	slot
	d    *Demo
	name string // of its log
	api  string
	work string
	args []string

	mu     sync.Mutex
	client *client.Client
}

// newPlane prepares a control plane of a row of addresses.
func (d *Demo) newPlane(name string, row int, args ...string) *plane {
	p := &plane{d: d, name: name, api: d.at(row, 1, apiPort), work: d.file(name)}
	p.args = append(args, "--work-dir", p.work, "--api-address", p.api, "--diagnostics-address", "")
	return p
}

// start runs the process and waits until its API answers.
func (p *plane) start(ctx context.Context) error {
	c, err := p.d.spawn(ctx, p.name, p.args...)
	if err != nil {
		return err
	}
	p.held.Store(c)
	return p.d.until(ctx, "the API of "+p.name, func() (string, bool) {
		c, err := p.dial()
		if err == nil {
			_, err = c.Index(ctx)
		}
		return fmt.Sprint(err), err == nil
	})
}

// dial makes a client with the rights of the first administrator, once the files for it are there.
func (p *plane) dial() (*client.Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.client != nil {
		return p.client, nil
	}
	var err error
	p.client, err = client.New(client.Config{Server: "https://" + p.api, TokenFile: p.tokenFile(), CAFile: p.caFile()})
	return p.client, err
}

func (p *plane) tokenFile() string { return filepath.Join(p.work, "admin.token") }
func (p *plane) caFile() string    { return filepath.Join(p.work, "tls", "ca.pem") }

func (p *plane) close() {
	if p.client != nil {
		p.client.Close()
	}
}

// apply writes the resources of a YAML text in one batch, and says how many of them it changed.
func (p *plane) apply(ctx context.Context, text string) (changed int, err error) {
	docs, err := api.Kinds().DecodeYAML([]byte(text), true)
	if err != nil {
		return 0, fmt.Errorf("apply: %w", err)
	}
	var bodies []json.RawMessage
	for _, doc := range docs {
		k, _ := api.Kinds().ByName(doc.Type)
		body, err := k.Encode(doc.Resource, nil)
		if err != nil {
			return 0, fmt.Errorf("apply %s: %w", doc.Key(), err)
		}
		bodies = append(bodies, body)
	}
	c, err := p.dial()
	if err != nil {
		return 0, err
	}
	done, err := c.Batch(ctx, bodies, meshName, client.Precondition{})
	if err != nil {
		return 0, fmt.Errorf("apply at %s: %w", p.name, err)
	}
	for _, i := range done.Items {
		if i.Result != "unchanged" {
			changed++
		}
	}
	return changed, nil
}

// remove deletes a resource of the demo's mesh.
func (p *plane) remove(ctx context.Context, typ, name string) error {
	k, err := api.Kinds().Lookup(typ)
	if err != nil {
		return err
	}
	c, err := p.dial()
	if err != nil {
		return err
	}
	if err := c.Delete(ctx, k, meshName, name, client.Precondition{}); err != nil {
		return fmt.Errorf("delete %s %s: %w", typ, name, err)
	}
	return nil
}

func (d *Demo) newGlobal() (*plane, error) {
	args := []string{"run", "global", "--zones-address", d.at(0, 1, zonesPort), "--zones-allow-local-addresses", "--zones-beat-every", "1s"}
	if d.opts.PostgreSQL != "" {
		file, err := d.write("dsn", d.opts.PostgreSQL)
		if err != nil {
			return nil, err
		}
		args = append(args, "--store-type", "postgres", "--store-postgres-dsn-file", file)
	}
	return d.newPlane("global", 0, args...), nil
}

// startGlobal starts global and writes there what holds in all zones.
func (d *Demo) startGlobal(ctx context.Context) error {
	err := d.global.start(ctx)
	if err == nil {
		_, err = d.global.apply(ctx, d.declarations())
	}
	switch {
	case err != nil && d.opts.PostgreSQL != "":
		return fmt.Errorf("global on PostgreSQL, which must be reachable and empty, as the demo keeps none of the keys to what is in it: %w", err)
	case err != nil:
		return err
	}
	kind := "embedded"
	if d.opts.PostgreSQL != "" {
		kind = "PostgreSQL"
	}
	d.done("global", "https://%s   store: %s", d.global.api, kind)
	return nil
}

// joinToken writes a new join token of a zone into a file.
func (d *Demo) joinToken(ctx context.Context, zone string) (string, error) {
	c, err := d.global.dial()
	if err != nil {
		return "", err
	}
	token, err := c.NewJoinToken(ctx, zone, "1h")
	if err != nil {
		return "", fmt.Errorf("join zone %s: %w", zone, err)
	}
	return d.write(zone+".join", token)
}

// reachable says what zones tell of the ingresses of each other: "east to west: Up".
func (d *Demo) reachable(ctx context.Context) (map[string]mesh.ReachabilityState, error) {
	c, err := d.global.dial()
	if err != nil {
		return nil, err
	}
	k, _ := api.Kinds().ByName(mesh.TypeZone)
	out := map[string]mesh.ReachabilityState{}
	for _, z := range d.zones {
		o, err := c.Overview(ctx, k, "", z.name)
		if err != nil {
			return nil, err
		}
		var seen struct {
			ZoneInsight struct {
				Reachability []mesh.ZoneReachability `json:"reachability"`
			} `json:"zoneInsight"`
		}
		if err := json.Unmarshal(o.Raw, &seen); err != nil {
			return nil, fmt.Errorf("read zone %s: %w", resource.Quote(z.name), err)
		}
		for _, r := range seen.ZoneInsight.Reachability {
			if r.Mesh == meshName {
				out[z.name+" to "+r.Zone] = r.State
			}
		}
	}
	return out, nil
}

// untilReachable waits until each zone says that it reaches all others.
func (d *Demo) untilReachable(ctx context.Context) error {
	return d.until(ctx, "zones to reach each other", func() (string, bool) {
		seen, err := d.reachable(ctx)
		up := 0
		for _, s := range seen {
			if s == mesh.ReachabilityUp {
				up++
			}
		}
		return fmt.Sprint(seen, err), up == len(d.zones)*(len(d.zones)-1)
	})
}
