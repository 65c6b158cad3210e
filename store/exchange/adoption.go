package exchange

import (
	"context"
	"fmt"
	"slices"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// An Adoption is an operator's view of a peer whose store was wiped or restored: what it lacks since, and the decision about that.
type Adoption struct {
	Catalog *catalog.Catalog
	// Zone is the name of this zone; empty at global.
	Zone string
}

// sink is for what came from one zone, or in a zone from global when the name is empty.
func (a Adoption) sink(zone string) (*Sink, error) {
	if zone != "" {
		if _, ok := a.Catalog.Snapshot().Get(resource.Key{Type: mesh.TypeZone, Name: zone}); !ok {
			return nil, fmt.Errorf("zone %s: %w", resource.Quote(zone), resource.ErrNotFound)
		}
	}
	return NewSink(SinkConfig{Catalog: a.Catalog, From: Party{Zone: zone}, Zone: a.Zone})
}

// Pending lists what a zone lacks, or in a zone with no name what global lacks. It stays in force.
func (a Adoption) Pending(zone string) ([]PendingRemoval, error) {
	s, err := a.sink(zone)
	if err != nil {
		return nil, err
	}
	return s.Pending(), nil
}

// Confirm deletes what is pending, and says how many objects that were.
func (a Adoption) Confirm(ctx context.Context, zone string) (int, error) {
	s, err := a.sink(zone)
	if err != nil {
		return 0, err
	}
	var scopes []string
	for _, p := range s.Pending() {
		if !slices.Contains(scopes, p.Scope) {
			scopes = append(scopes, p.Scope)
		}
	}
	total := 0
	for _, scope := range scopes {
		n, err := s.Confirm(ctx, scope)
		if err != nil {
			return total, err
		}
		total += n
	}
	return total, nil
}
