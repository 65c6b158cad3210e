package zonecp

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/zone-cp/traffic"
)

// counted is the traffic that the proxies of a zone send, of all its instances: each counts that of its own proxies, and where there
// may be several they tell each other through the store as they go. It implements rest.Traffic.
type counted struct {
	zone  *Zone
	table *traffic.Table

	mu      sync.Mutex
	latest  byMesh            // of all instances, as of the last slot
	others  byMesh            // of the others
	told    map[string]string // the values of facts that global has
	changed chan struct{}     // holds a token at the end of a slot in which something changed
}

// byMesh is traffic by mesh and service port.
type byMesh map[string]map[string][]mesh.Traffic

// maxTold bounds the facts that global is told of: a zone with more service ports in use has the rest in its own API.
const maxTold = 10_000

func (z *Zone) newCounted() *counted {
	c := &counted{zone: z, told: map[string]string{}, changed: make(chan struct{}, 1)}
	c.table = traffic.New(traffic.Config{Zone: z.cfg.Zone, Slot: z.cfg.TrafficWindow / 6, Known: func(port resource.KRI) bool {
		_, ok := z.catalog.Snapshot().ByKRI(port.WithSection(""))
		return ok
	}})
	number := func(name, help string, of func(traffic.Numbers) uint64) {
		z.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(of(c.table.Numbers())) }))
	}
	number("causeway_traffic_rows", "Service ports, zones and priorities with traffic in the last minute.", func(n traffic.Numbers) uint64 { return n.Rows })
	number("causeway_traffic_reports", "Reports of traffic taken from proxies since the start.", func(n traffic.Numbers) uint64 { return n.Reports })
	number("causeway_traffic_left_out", "Entries of reports that were not counted because there were too many.", func(n traffic.Numbers) uint64 { return n.LeftOut })
	number("causeway_traffic_unknown", "Entries of reports that named no service of their mesh.", func(n traffic.Numbers) uint64 { return n.Unknown })
	return c
}

// run moves the window on until ctx ends.
func (c *counted) run(ctx context.Context) error {
	tick := time.NewTicker(c.table.Slot())
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		own := byMesh(c.table.Sweep())
		others := byMesh{}
		if c.zone.instances != nil {
			var err error
			if others, err = c.share(ctx, own); err != nil {
				c.zone.log.Debug("traffic is not shared with other instances", "err", err)
			}
		}
		c.mu.Lock()
		c.others, c.latest = others, join(own, others)
		c.mu.Unlock()
		select {
		case c.changed <- struct{}{}:
		default:
		}
	}
}

// shared is what one instance tells the others.
type shared struct {
	AsOf    time.Time `json:"asOf"`
	Traffic byMesh    `json:"traffic"`
}

// share tells the other instances what this one counts, and reads what they do.
func (c *counted) share(ctx context.Context, own byMesh) (byMesh, error) {
	prefix := "zone/" + c.zone.cfg.Zone + "/traffic/"
	text, err := json.Marshal(shared{time.Now(), own})
	if err != nil {
		return byMesh{}, err
	}
	if err := c.zone.store.Observe(ctx, store.Observation{Key: prefix + c.zone.instance, Data: text, At: time.Now()}); err != nil {
		return byMesh{}, err
	}
	list, err := c.zone.store.Observations(ctx, prefix)
	if err != nil {
		return byMesh{}, err
	}
	var all []byMesh
	var gone []store.Observation
	for _, o := range list {
		name := strings.TrimPrefix(o.Key, prefix)
		var s shared
		switch {
		case name == c.zone.instance:
		case !c.zone.instances.Up(name):
			gone = append(gone, store.Observation{Key: o.Key})
		case json.Unmarshal(o.Data, &s) == nil:
			all = append(all, s.Traffic)
		}
	}
	if len(gone) > 0 {
		if err := c.zone.store.Observe(ctx, gone...); err != nil {
			return join(all...), err
		}
	}
	return join(all...), nil
}

func join(list ...byMesh) byMesh {
	if len(list) == 1 {
		return list[0]
	}
	out := byMesh{}
	for _, m := range list {
		for meshName, services := range m {
			if out[meshName] == nil {
				out[meshName] = map[string][]mesh.Traffic{}
			}
			for port, items := range services {
				out[meshName][port] = mesh.AddTraffic(out[meshName][port], items)
			}
		}
	}
	return out
}

// Traffic implements rest.Traffic.
func (c *counted) Traffic(_ context.Context, meshName string) (mesh.TrafficReport, error) {
	out := c.table.Report(meshName)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, items := range c.others[meshName] {
		out.Items = append(out.Items, items...)
	}
	out.Items = mesh.AddTraffic(out.Items)
	if out.Items == nil {
		out.Items = []mesh.Traffic{}
	}
	return out, nil
}

// facts lists what global is to be told: what changed since the last time, or with all everything.
func (c *counted) facts(all bool) []*zonesync.Fact {
	c.mu.Lock()
	defer c.mu.Unlock()
	if all {
		c.told = map[string]string{}
	}
	var out []*zonesync.Fact
	now := time.Now().UTC()
	there := map[string]bool{}
	for _, services := range c.latest {
		for port, items := range services {
			key := zonesync.FactTraffic(port)
			text, err := json.Marshal(items)
			if _, known := c.told[key]; err != nil || !known && len(c.told) >= maxTold {
				continue
			}
			there[key] = true
			if c.told[key] == string(text) {
				continue
			}
			value, err := json.Marshal(zonesync.Traffic{AsOf: now, Items: items})
			if err != nil {
				continue
			}
			c.told[key] = string(text)
			out = append(out, &zonesync.Fact{Key: key, Value: value})
		}
	}
	for key := range c.told {
		if !there[key] {
			delete(c.told, key)
			out = append(out, &zonesync.Fact{Key: key})
		}
	}
	return out
}
