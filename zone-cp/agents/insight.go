package agents

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
)

// maxInsights bounds what is unpacked from a stored blob.
const maxInsights = 1 << 30

// Insight renders the facts of a dataplane as the API shows them.
func (s *Snapshot) Insight(k resource.Key, instance string) (mesh.DataplaneInsight, bool) {
	f, ok := s.Get(k)
	if !ok || f.subscription == "" {
		return mesh.DataplaneInsight{}, false
	}
	return f.insight(instance), true
}

func (f Facts) insight(instance string) mesh.DataplaneInsight {
	var out mesh.DataplaneInsight
	if f.previous != nil {
		out.Subscriptions = append(out.Subscriptions, *f.previous)
	}
	out.Subscriptions = append(out.Subscriptions, f.newest(instance))
	if c := f.Issued; c.Serial != "" {
		out.MTLS = &mesh.DataplaneMTLS{
			CertificateExpirationTime: c.NotAfter, LastCertificateRegeneration: c.IssuedAt,
			CertificateRegenerations: c.Count, IssuedBackend: c.Identity.String(), SupportedBackends: []string{c.Identity.String()},
		}
	}
	out.Metadata = map[string]any{"agentInstance": f.Instance, "place": f.Place, "features": f.Features}
	if f.OutboundBlock != "" {
		out.Metadata["outboundBlock"] = f.OutboundBlock
	}
	if f.Draining {
		out.Metadata["draining"] = true
	}
	return out
}

// newest is the current or last session as a subscription.
func (f Facts) newest(instance string) mesh.DiscoverySubscription {
	if f.ControlPlane != "" {
		instance = f.ControlPlane
	}
	d := mesh.DiscoverySubscription{
		ID: f.subscription, ControlPlaneInstanceID: instance, ConnectTime: f.ConnectedAt, Status: f.Discovery,
		Version: &mesh.DataplaneVersion{
			KumaDp: mesh.KumaDpVersion{Version: f.AgentVersion, GitCommit: f.AgentCommit, KumaCpCompatible: true},
			Envoy:  mesh.EnvoyVersion{Version: f.EnvoyVersion, Build: f.EnvoyBuild, KumaDpCompatible: true},
		},
	}
	if !f.Connected {
		d.DisconnectTime = f.LastSeen
	}
	return d
}

// A remembered dataplane is what outlives a restart of the zone.
type remembered struct {
	Mesh         string                      `json:"m"`
	Name         string                      `json:"n"`
	Facts        Facts                       `json:"f"`
	Subscription string                      `json:"s,omitempty"`
	Previous     *mesh.DiscoverySubscription `json:"p,omitempty"`
}

func (s *Service) observationKey() string { return "zone/" + s.cfg.Zone + "/dataplanes" }

// persist writes all insights as one blob whenever something changed, at most once per interval.
func (s *Service) persist(ctx context.Context) error {
	for s.cfg.Observations != nil {
		select {
		case <-s.registry.dirty:
		case <-ctx.Done():
			// The last state matters most: it is what a restart begins with.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return s.observe(ctx)
		}
		if err := s.observe(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("insights cannot be stored and are kept in memory", "err", err)
			wake(s.registry.dirty)
		}
		timer := time.NewTimer(s.cfg.InsightInterval)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return nil
}

func (s *Service) observe(ctx context.Context) error {
	data, err := pack(s.registry.Snapshot())
	if err != nil {
		return fmt.Errorf("pack insights: %w", err)
	}
	err = s.cfg.Observations.Observe(ctx, store.Observation{Key: s.observationKey(), Data: data, At: s.cfg.Now()})
	if err != nil {
		return fmt.Errorf("store insights: %w", err)
	}
	return nil
}

func pack(s *Snapshot) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	enc := json.NewEncoder(z)
	var err error
	s.Each("", func(k resource.Key, f Facts) bool {
		err = enc.Encode(remembered{Mesh: k.Mesh, Name: k.Name, Facts: f, Subscription: f.subscription, Previous: f.previous})
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func unpack(data []byte, fn func(remembered)) error {
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return err
	}
	dec := json.NewDecoder(io.LimitReader(z, maxInsights))
	for {
		var r remembered
		err := dec.Decode(&r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		fn(r)
	}
}

// restore begins with what the last run knew: proxies that were connected go on serving until they had time to come back.
func (s *Service) restore(ctx context.Context) error {
	known := map[resource.Key]bool{}
	defer s.expect(known)
	if s.cfg.Peers != nil {
		for _, k := range s.mergeAll(s.cfg.Catalog.Snapshot()) {
			known[k] = true
		}
		return nil
	}
	if s.cfg.Observations == nil {
		return nil
	}
	obs, err := s.cfg.Observations.Observations(ctx, s.observationKey())
	if err != nil {
		return err
	}
	snapshot, now := s.cfg.Catalog.Snapshot(), s.cfg.Now()
	for _, o := range obs {
		if o.Key != s.observationKey() {
			continue
		}
		err := unpack(o.Data, func(r remembered) {
			k := resource.Key{Type: mesh.TypeDataplane, Mesh: r.Mesh, Name: r.Name}
			if _, ok := snapshot.Get(k); !ok || s.registry.session(k) != nil {
				return
			}
			f := r.Facts
			f.subscription, f.previous = r.Subscription, r.Previous
			wasConnected := f.Connected
			f.Connected = false
			if wasConnected {
				f.LastSeen = now
			}
			known[k] = true
			s.registry.update(k, func(x *Facts) { *x = f })
			s.await(k, f, now)
		})
		if err != nil {
			return fmt.Errorf("unpack insights: %w", err)
		}
	}
	return nil
}

// await sets the deadlines of a proxy that was here before the zone started.
func (s *Service) await(k resource.Key, f Facts, now time.Time) {
	if f.Serving {
		s.due.set(deadline{k, stopServing, now.Add(s.cfg.StartGrace)})
	}
	gone := f.LastSeen.Add(s.cfg.ForgetAfter)
	if f.Draining {
		gone = f.LastSeen.Add(s.cfg.DeregisterAfter)
	}
	// Nobody could connect while this control plane was away, so nobody is deleted before having had the chance.
	if least := now.Add(s.cfg.StartGrace); gone.Before(least) {
		gone = least
	}
	s.due.set(deadline{k, deregister, gone})
}

// expect gives Dataplanes that agents registered, but of which no insight is left, the time to come back.
func (s *Service) expect(known map[resource.Key]bool) {
	now := s.cfg.Now()
	s.cfg.Catalog.Snapshot().Each(mesh.TypeDataplane, "", func(r resource.Resource) bool {
		k := r.Key()
		if r.Label(resource.LabelManagedBy) != managedByAgent || known[k] || s.registry.session(k) != nil {
			return true
		}
		s.due.set(deadline{k, deregister, now.Add(s.cfg.ForgetAfter)})
		return true
	})
}
