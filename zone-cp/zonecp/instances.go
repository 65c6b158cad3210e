package zonecp

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/api/hosting"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/serving"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/authority"
	"github.com/causeway-mesh/causeway/store/backend"
	"github.com/causeway-mesh/causeway/zone-cp/agents"
	"github.com/causeway-mesh/causeway/zone-cp/instances"
)

// serverSecret holds the authority of the server certificates of all instances, so that agents recognise each of them.
const serverSecret = "control-plane-ca"

// shares says that other instances may use the store.
func (z *Zone) shares() bool { return z.cfg.Store.Type == backend.Postgres }

// openInstances joins the instances on the store.
func (z *Zone) openInstances(ctx context.Context) error {
	if !z.shares() {
		return nil
	}
	z.standing = newStanding(z)
	var err error
	z.instances, err = instances.Open(ctx, instances.Config{Store: z.store, Zone: z.cfg.Zone, Self: z.instance, TTL: z.cfg.Takeover, Say: z.standing.say, Log: z.log})
	return err
}

func (z *Zone) servingConfig() serving.Config {
	addresses := append([]string{z.cfg.API.Address, z.cfg.Agents.Address}, z.cfg.Agents.Advertised...)
	return serving.Config{
		CertFile: z.cfg.TLS.CertFile, KeyFile: z.cfg.TLS.KeyFile, Dir: filepath.Join(z.cfg.WorkDir, "tls"),
		Hosts: hosting.Hosts(z.cfg.TLS.Hosts, addresses...),
		Log:   z.log,
	}
}

// openOwnCertificates serves the files of the operator, or certificates of an authority in the work directory.
func (z *Zone) openOwnCertificates(context.Context) error {
	if z.shares() && z.cfg.TLS.CertFile == "" {
		return nil
	}
	var err error
	z.certs, err = serving.Open(z.servingConfig())
	return err
}

// openSharedCertificates serves certificates of the authority in the store, that of all instances on it.
func (z *Zone) openSharedCertificates(ctx context.Context) error {
	if z.certs != nil {
		return nil
	}
	shared, err := authority.Open(ctx, authority.Config{
		Catalog: z.catalog, Secret: serverSecret, Name: "causeway generated authority", Author: "causeway",
		Labels:  map[string]string{resource.LabelOrigin: resource.OriginZone, resource.LabelZone: z.cfg.Zone, resource.LabelKDSSync: "disabled"},
		Without: "tell all clients and agents of the new one",
	})
	if err != nil {
		return fmt.Errorf("server certificate: %w", err)
	}
	cfg := z.servingConfig()
	cert, key := shared.PEM()
	cfg.Authority = &serving.Authority{Certificate: cert, Key: key}
	z.certs, err = serving.Open(cfg)
	return err
}

// peers are nil when there can be none.
func (z *Zone) peers() agents.Peers {
	if z.instances == nil {
		return nil
	}
	return z.instances
}

// fence is the lease under which the zone writes; nil when nobody else can.
func (z *Zone) fence() *store.Fence {
	if z.instances == nil {
		return nil
	}
	return z.instances.Fence()
}

func (z *Zone) writer() (fence *store.Fence, writes bool) {
	return z.fence(), z.instances == nil || z.instances.Writes()
}

// write does what only one instance of a zone may do, while this is the one.
func (z *Zone) write(ctx context.Context) error {
	parts := []func(context.Context) error{z.authority.Run, z.derive.Run}
	if z.federation != nil {
		parts = append(parts, z.federation.uplink.Run, z.keepSigningKeys)
	}
	work := func(ctx context.Context) error {
		g, ctx := errgroup.WithContext(ctx)
		for _, part := range parts {
			g.Go(func() error { return part(ctx) })
		}
		return g.Wait()
	}
	if z.instances == nil {
		return work(ctx)
	}
	return z.instances.Lead(ctx, func(ctx context.Context) error {
		if !z.catchUp(ctx) {
			return nil
		}
		return work(ctx)
	})
}

// catchUp reads everything that the last writer wrote: what it decided, such as who has which virtual address, must not be decided
// again. It says whether it could before ctx ended.
func (z *Zone) catchUp(ctx context.Context) bool {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		err := z.catalog.CatchUp(ctx)
		if err == nil || ctx.Err() != nil {
			return err == nil
		}
		z.log.Warn("this instance is to write for the zone and cannot read all that was written; tried again", "err", err)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
}
