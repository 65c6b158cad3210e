package link

import (
	"context"

	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/store/exchange"
)

// Offered is what a control plane offers to one peer, followed from the moment it was made.
type Offered struct {
	offers *exchange.Offers
	to     exchange.Peer
	feed   *exchange.Feed
}

var _ Offer = (*Offered)(nil)

// NewOffered begins to follow what is offered to a peer; Close ends it.
func NewOffered(offers *exchange.Offers, to exchange.Peer) *Offered {
	return &Offered{offers, to, offers.Subscribe(to)}
}

// Close ends it.
func (o *Offered) Close() { o.feed.Close() }

// View implements Offer.
func (o *Offered) View() (zonesync.Source, *zonesync.Position) {
	v := o.offers.For(o.to).Pin()
	return v, v.Position()
}

// Since implements Offer.
func (o *Offered) Since(ctx context.Context, scope string, after *zonesync.Position) (exchange.Changes, error) {
	return o.offers.Since(ctx, o.to, scope, after)
}

// Next implements Offer.
func (o *Offered) Next(ctx context.Context) (exchange.Changes, error) { return o.feed.Next(ctx) }
