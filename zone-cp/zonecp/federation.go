package zonecp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/token"
	"github.com/causeway-mesh/causeway/api/view"
	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/exchange"
	"github.com/causeway-mesh/causeway/zone-cp/agents"
	"github.com/causeway-mesh/causeway/zone-cp/probe"
	"github.com/causeway-mesh/causeway/zone-cp/uplink"
)

// federation is what a zone has beside the rest when it belongs to a global control plane.
type federation struct {
	offers    *exchange.Offers
	table     *probe.Table
	local     *probe.Local
	responder *probe.Responder
	prober    *probe.Prober
	reports   *reports
	uplink    *uplink.Uplink
}

// federated says that the zone belongs to a global control plane, or is about to join one.
func (z *Zone) federated() bool {
	if z.cfg.Global.JoinTokenFile != "" {
		return true
	}
	_, joined := z.catalog.Snapshot().Get(resource.Key{Type: mesh.TypeGlobalSecret, Name: uplink.CredentialSecret})
	return joined
}

// federate makes what a zone of a global control plane needs before its engine.
func (z *Zone) federate() error {
	offers, err := exchange.NewOffers(exchange.OffersConfig{Catalog: z.catalog, Store: z.store, Zone: z.cfg.Zone, Log: z.log})
	if err != nil {
		return err
	}
	f := &federation{offers: offers, table: probe.NewTable(nil)}
	f.local = probe.NewLocal(probe.LocalConfig{
		Zone: z.cfg.Zone, Catalog: z.catalog, Facts: observed{z.agents.Registry().Subscribe(), z.streams}, Expected: byAgent, Instance: z.instance,
	})
	f.responder = probe.NewResponder(probe.ResponderConfig{Zone: z.cfg.Zone, Authority: z.authority, Local: f.local, Log: z.log, Registerer: z.registry})
	f.prober = probe.New(probe.Config{
		Zone: z.cfg.Zone, Catalog: z.catalog, Authority: z.authority, Table: f.table, AllowLocalAddresses: z.cfg.AllowLocalAddresses,
		Log: z.log, Registerer: z.registry,
	})
	f.reports = newReports(z, f)
	z.federation = f
	return nil
}

// link makes the uplink, which needs the engine.
func (f *federation) link(z *Zone) {
	f.uplink = uplink.New(uplink.Config{
		Catalog: z.catalog, Store: z.store, Offers: f.offers, Zone: z.cfg.Zone, Instance: z.instance, Version: z.cfg.Version,
		Fence: z.fence, JoinToken: z.joinToken, Addresses: z.cfg.Global.Addresses, Meshes: z.cfg.Global.Meshes,
		Engine: z.engineOfAll(), Reports: f.reports, Remote: f.table, Exceptions: z.exceptionsOfAll, Inspector: inspector{z},
		BeatEvery: z.cfg.Global.BeatEvery, Log: z.log, Registerer: z.registry,
	})
}

// joinToken reads the token file anew each time: an operator may put a new one there while the zone runs.
func (z *Zone) joinToken() (string, error) {
	if z.cfg.Global.JoinTokenFile == "" {
		return "", nil
	}
	b, err := os.ReadFile(z.cfg.Global.JoinTokenFile)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil // it may be deleted once it is used
	}
	return strings.TrimSpace(string(b)), err
}

// parts are what runs beside the rest.
func (f *federation) parts(z *Zone) []func(context.Context) error {
	return []func(context.Context) error{
		f.offers.Run, f.local.Run, f.prober.Run, f.reports.run,
		func(ctx context.Context) error { return f.announceDrain(ctx, z) },
		func(ctx context.Context) error { return f.responder.Serve(ctx, z.listeners.probes) },
	}
}

// announceDrain tells other zones to send nothing new while every ingress of this one is about to leave.
func (f *federation) announceDrain(ctx context.Context, z *Zone) error {
	feed := z.agents.Registry().Subscribe()
	defer feed.Close()
	for {
		u, err := feed.Next(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("announce that ingresses drain: %w", err)
		}
		snap := z.catalog.Snapshot()
		isIngress := func(k resource.Key) bool {
			r, ok := snap.Get(k)
			return ok && r.Label(resource.LabelZoneIngress) != ""
		}
		if !u.All && !slices.ContainsFunc(u.Changed, isIngress) {
			continue
		}
		some, staying := false, false
		u.Snapshot.Each("", func(k resource.Key, facts agents.Facts) bool {
			if isIngress(k) {
				some = true
				staying = staying || !facts.Draining
			}
			return !staying
		})
		f.responder.SetDraining(some && !staying)
	}
}

// healthResponder is where ingresses of this zone reach the responder.
func (z *Zone) healthResponder() string {
	if z.cfg.Probes.Advertised != "" {
		return z.cfg.Probes.Advertised
	}
	if z.listeners.probes == nil {
		return ""
	}
	return z.listeners.probes.Addr().String()
}

// Uplink says how the link to global stands; nil in a zone that stands alone.
func (z *Zone) Uplink() *uplink.Uplink {
	if z.federation == nil {
		return nil
	}
	return z.federation.uplink
}

// keepSigningKeys gives every mesh that comes from global a key with which this zone signs dataplane tokens: those of global and of other
// zones never leave their control planes, so that nobody can mint tokens for somebody else.
func (z *Zone) keepSigningKeys(ctx context.Context) error {
	feed := z.catalog.Subscribe()
	defer feed.Close()
	for {
		u, err := feed.Next(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("signing keys: %w", err)
		}
		u.Snapshot.Each(mesh.TypeMesh, "", func(m resource.Resource) bool {
			key := token.DataplaneSigningKey(m.Name, 1)
			if _, ok := u.Snapshot.Get(key); !ok {
				if err := z.createSigningKey(ctx, key); err != nil && ctx.Err() == nil {
					z.log.Warn("a mesh has no key for dataplane tokens in this zone yet", "mesh", m.Name, "err", err)
				}
			}
			return true
		})
	}
}

func (z *Zone) createSigningKey(ctx context.Context, key resource.Key) error {
	data, err := token.NewSigningKey()
	if err != nil {
		return err
	}
	r := token.Secret(key, data)
	r.Labels = map[string]string{
		resource.LabelDisplayName: key.Name, resource.LabelMesh: key.Mesh, resource.LabelOrigin: resource.OriginZone,
		resource.LabelZone: z.cfg.Zone, resource.LabelKDSSync: "disabled",
	}
	_, err = z.catalog.Commit(ctx, catalog.Batch{
		Author: "causeway", Reason: "a mesh came from global", Puts: []catalog.Put{{Resource: r, Expect: store.ExpectAbsent}},
	})
	if errors.Is(err, store.ErrConflict) {
		return nil // another instance was first
	}
	return err
}

// reports are the facts that the zone tells global: insights of dataplanes, counts of services, and whom it reaches.
type reports struct {
	zone   *Zone
	prober *probe.Prober
	counts *probe.Local
	wake   chan struct{}

	mu         sync.Mutex
	dataplanes map[resource.Key]bool
	services   map[resource.Key]bool
	reach      bool
	traffic    bool
	told       map[resource.Key]string // the facts that global has of dataplanes and services, which may be gone
}

// insightPause is how long changes of insights are gathered: nobody waits for them, and every certificate changes one.
const insightPause = 500 * time.Millisecond

func newReports(z *Zone, f *federation) *reports {
	return &reports{
		zone: z, prober: f.prober, counts: f.local, wake: make(chan struct{}, 1),
		dataplanes: map[resource.Key]bool{}, services: map[resource.Key]bool{}, told: map[resource.Key]string{},
	}
}

// Ready implements uplink.Reports.
func (r *reports) Ready() <-chan struct{} { return r.wake }

func (r *reports) note(edit func()) {
	r.mu.Lock()
	edit()
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run gathers what changes until ctx ends.
func (r *reports) run(ctx context.Context) error {
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { r.followDataplanes(ctx) })
	work.Go(func() { r.followCounts(ctx) })
	work.Go(func() { r.followTraffic(ctx) })
	for {
		changed := r.prober.Changed()
		r.note(func() { r.reach = true })
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

func (r *reports) followDataplanes(ctx context.Context) {
	feed := r.zone.agents.Registry().Subscribe()
	defer feed.Close()
	for {
		u, err := feed.Next(ctx)
		if err != nil {
			return
		}
		r.note(func() {
			for _, k := range u.Changed {
				r.dataplanes[k] = true
			}
			if u.All {
				u.Snapshot.Each("", func(k resource.Key, _ agents.Facts) bool {
					r.dataplanes[k] = true
					return true
				})
			}
		})
		pause := time.NewTimer(insightPause)
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
	}
}

func (r *reports) followCounts(ctx context.Context) {
	feed := r.counts.Subscribe()
	defer feed.Close()
	for {
		u, err := feed.Next(ctx)
		if err != nil {
			return
		}
		r.note(func() {
			for k := range u.Services {
				r.services[k] = true
			}
		})
	}
}

func (r *reports) followTraffic(ctx context.Context) {
	for {
		select {
		case <-r.zone.counted.changed:
			r.note(func() { r.traffic = true })
		case <-ctx.Done():
			return
		}
	}
}

// Facts implements uplink.Reports.
func (r *reports) Facts(all bool) []*zonesync.Fact {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := r.counts.Counts()
	if all {
		r.told, r.reach = map[resource.Key]string{}, true
		for k := range counts {
			r.services[k] = true
		}
		r.zone.agents.Registry().Snapshot().Each("", func(k resource.Key, _ agents.Facts) bool {
			r.dataplanes[k] = true
			return true
		})
	}
	var out []*zonesync.Fact
	add := func(k resource.Key, key string, value json.RawMessage) {
		if key == "" { // the resource is gone, and with it its identifier
			key = r.told[k]
		}
		if key == "" {
			return
		}
		r.told[k] = key
		if value == nil {
			delete(r.told, k)
		}
		out = append(out, &zonesync.Fact{Key: key, Value: value})
	}
	for k := range r.dataplanes {
		value, _ := r.zone.observed.Dataplane(k.Mesh, k.Name)
		add(k, r.key(k, zonesync.FactInsight), value)
	}
	for k := range r.services {
		var value json.RawMessage
		if c, ok := counts[k]; ok && !c.Gone {
			value = countsOf(c.Remote, c.Sequence)
		}
		add(k, r.key(k, zonesync.FactCounts), value)
	}
	if r.reach {
		if b, err := json.Marshal(r.prober.Reachability()); err == nil {
			out = append(out, &zonesync.Fact{Key: zonesync.FactReachability, Value: b})
		}
	}
	if r.traffic || all {
		out = append(out, r.zone.counted.facts(all)...)
	}
	clear(r.dataplanes)
	clear(r.services)
	r.reach, r.traffic = false, false
	return out
}

// key is the key of a fact about a resource, empty when the resource is gone.
func (r *reports) key(k resource.Key, of func(kri string) string) string {
	res, ok := r.zone.catalog.Snapshot().Get(k)
	if !ok {
		return ""
	}
	kind, _ := r.zone.catalog.Kinds().ByName(k.Type)
	return of(resource.KRIOf(kind, res.Meta).String())
}

func countsOf(remote view.Remote, sequence uint64) json.RawMessage {
	c := zonesync.Counts{Ports: map[string]zonesync.PortCounts{}, Sequence: sequence}
	for section, p := range remote.Ports {
		c.Ports[section] = zonesync.PortCounts{Healthy: p.Healthy, Total: p.Total}
	}
	b, err := json.Marshal(c)
	if err != nil {
		return nil
	}
	return b
}

// exceptions lists what proxies refuse, at most so many, and counts the pieces and the proxies.
func (s *streams) exceptions(most int) (list []*zonesync.Exception, total, proxies uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for dp, rejected := range s.rejected {
		proxies++
		for _, x := range rejected {
			if total++; len(list) < most {
				list = append(list, &zonesync.Exception{
					Mesh: dp.Mesh, Dataplane: dp.Name, Type: x.Type, Name: x.Name, Reason: x.Reason, Policies: x.Policies,
				})
			}
		}
	}
	return list, total, proxies
}
