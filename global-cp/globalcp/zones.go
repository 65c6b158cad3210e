package globalcp

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/causeway-mesh/causeway/global-cp/hub"
	"github.com/causeway-mesh/causeway/global-cp/insight"
	"github.com/causeway-mesh/causeway/store/backend"
	"github.com/causeway-mesh/causeway/store/exchange"
)

// openHub makes what serves zone control planes: what they are offered, what is observed of them, and their links.
func (g *Global) openHub(context.Context) error {
	offers, err := exchange.NewOffers(exchange.OffersConfig{Catalog: g.catalog, Store: g.store, Log: g.log})
	if err != nil {
		return err
	}
	g.board = insight.New(insight.Config{Catalog: g.catalog, Store: g.store, Instance: g.instance, Log: g.log})
	g.hub = hub.New(hub.Config{
		Access: g.access, Catalog: g.catalog, Store: g.store, Offers: offers, Board: g.board, Instance: g.instance, Version: g.cfg.Version,
		Bounds:    exchange.Bounds{AllowLocalAddresses: g.cfg.Zones.AllowLocalAddresses},
		Alone:     g.cfg.Store.Type != backend.Postgres,
		BeatEvery: g.cfg.Zones.BeatEvery, Log: g.log, Registerer: g.registry,
	})
	g.zones = grpc.NewServer(append(hub.ServerOptions(), grpc.Creds(credentials.NewTLS(g.access.TLS(g.certs.Get))))...)
	g.hub.Register(g.zones)
	g.parts = append(g.parts, offers.Run, g.board.Run)
	return nil
}

// Board is what is observed of zones.
func (g *Global) Board() *insight.Board { return g.board }
