package demo

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/resource"
)

// A zone is one of the demo's zones: a control plane, an ingress, an egress, and all services.
type zone struct {
	d         *Demo
	name      string
	row       int // of its addresses
	plane     *plane
	ingress   *proxy
	egress    *proxy
	instances []*instance
}

// ingressPort is where other zones reach a zone.
const ingressPort = 10001

func (d *Demo) newZone(name string, row int) *zone {
	z := &zone{d: d, name: name, row: row}
	z.plane = d.newPlane("zone-"+name, row, "run", "zone", "--zone", name, "--agents-address", d.at(row, 1, agentsPort),
		"--probes-address", d.at(row, 1, probesPort), "--global-join-token-file", d.file(name+".join"), "--global-beat-every", "1s",
		"--allow-local-addresses")
	z.ingress = z.newProxy("ingress-1", 2)
	z.egress = z.newProxy("egress-1", 3)
	for s, service := range services {
		for n := 1; n <= instancesEach; n++ {
			z.instances = append(z.instances, z.newInstance(service, s, n))
		}
	}
	return z
}

// service lists the instances of a service.
func (z *zone) service(name string) []*instance {
	var out []*instance
	for _, i := range z.instances {
		if i.service == name {
			out = append(out, i)
		}
	}
	return out
}

// join starts the control plane, which joins global, and then the proxies.
func (z *zone) join(ctx context.Context) error {
	if _, err := z.d.joinToken(ctx, z.name); err != nil {
		return err
	}
	if err := z.plane.start(ctx); err != nil {
		return err
	}
	c, err := z.plane.dial()
	if err != nil {
		return err
	}
	if err := z.ingress.prepare(ctx, c, "ingress", z.ingressManifest()); err != nil {
		return err
	}
	if err := z.egress.prepare(ctx, c, "egress", z.egressManifest()); err != nil {
		return err
	}
	if _, err := z.plane.apply(ctx, z.declarations()); err != nil {
		return err
	}
	z.d.done("zone "+z.name, "https://%s   ingress %s", z.plane.api, z.d.at(z.row, z.ingress.host, ingressPort))
	start, startCtx := errgroup.WithContext(ctx)
	start.Go(func() error { return z.ingress.start(startCtx) })
	start.Go(func() error { return z.egress.start(startCtx) })
	for _, i := range z.instances {
		start.Go(func() error {
			if err := i.serve(startCtx); err != nil {
				return err
			}
			if err := i.prepare(startCtx, c, i.service, i.manifest()); err != nil {
				return err
			}
			return i.start(startCtx)
		})
	}
	return start.Wait()
}

// declarations are what is written at the zone: where others reach it, and what of its services are versions.
func (z *zone) declarations() string {
	docs := []string{ingress(z.d.ip(z.row, z.ingress.host), ingressPort)}
	for n := 1; n <= instancesEach; n++ {
		docs = append(docs, versioned(n))
	}
	return strings.Join(docs, "---")
}

func (z *zone) ingressManifest() string {
	ip := z.d.ip(z.row, z.ingress.host)
	return fmt.Sprintf("type: Dataplane\nmesh: default\nname: %s\nlabels: {kuma.io/workload: ingress}\nnetworking:\n  address: %s\n  listeners:\n  - {type: ZoneIngress, name: in, address: %s, port: %d}\n",
		z.ingress.name, ip, ip, ingressPort)
}

// A proxy is an agent with its Envoy, on a host of its own.
type proxy struct {
	slot
	zone *zone
	name string
	host int
}

func (z *zone) newProxy(name string, host int) *proxy { return &proxy{zone: z, name: name, host: host} }

func (p *proxy) id() string                { return p.zone.name + "-" + p.name }
func (p *proxy) at(port int) string        { return p.zone.d.at(p.zone.row, p.host, port) }
func (p *proxy) file(suffix string) string { return p.zone.d.file(p.id() + suffix) }

// readyPort is where agents say whether they take traffic.
const readyPort = 9901

// prepare writes the Dataplane and a token for it. The mesh may not have come from global yet.
func (p *proxy) prepare(ctx context.Context, c *client.Client, workload, manifest string) error {
	if _, err := p.zone.d.write(p.id()+".yaml", manifest); err != nil {
		return err
	}
	var token string
	var tags map[string][]string
	if p == p.zone.egress {
		tags = map[string][]string{resource.LabelZoneEgress: {"enabled"}}
	}
	if err := p.zone.d.until(ctx, "a token for "+p.id(), func() (string, bool) {
		var err error
		token, err = c.NewDataplaneToken(ctx, client.DataplaneToken{Mesh: meshName, Name: p.name, Workload: workload, Tags: tags, ValidFor: "24h"})
		return fmt.Sprint(err), err == nil
	}); err != nil {
		return err
	}
	_, err := p.zone.d.write(p.id()+".token", token)
	return err
}

// start runs the agent, which runs Envoy, and waits until Envoy takes traffic.
func (p *proxy) start(ctx context.Context) error {
	d := p.zone.d
	c, err := d.spawn(ctx, p.id(), "run", "dataplane",
		"--dataplane-file", p.file(".yaml"), "--dataplane-token-file", p.file(".token"),
		"--zone-addresses", d.at(p.zone.row, 1, agentsPort), "--zone-ca-file", p.zone.plane.caFile(),
		"--envoy-binary", d.envoy, "--runtime-dir", d.file(p.zone.name), "--readiness-address", p.at(readyPort),
		"--drain-time", "5s", "--bind-outbounds=false")
	if err != nil {
		return err
	}
	p.held.Store(c)
	return d.until(ctx, p.id()+" to take traffic", func() (string, bool) { return p.ready(ctx) })
}

var readyClient = &http.Client{Timeout: 2 * time.Second}

func (p *proxy) ready(ctx context.Context) (string, bool) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.at(readyPort)+"/ready", nil)
	if err != nil {
		return err.Error(), false
	}
	res, err := readyClient.Do(req)
	if err != nil {
		return err.Error(), false
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<10))
	if err != nil {
		return err.Error(), false
	}
	return strings.TrimSpace(string(text)), res.StatusCode == http.StatusOK
}
