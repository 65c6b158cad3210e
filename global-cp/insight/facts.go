package insight

import (
	"encoding/json"
	"maps"
	"slices"
	"sync"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// Facts is what one zone is told of the others: the counts of their services, and which of them are connected.
type Facts struct {
	b    *Board
	zone string
	wake chan struct{} // holds a token when there is something to tell

	mu      sync.Mutex
	changed map[string]map[string]bool // by zone and key; an empty set of keys means everything of that zone
}

// FactsFor begins to tell a zone about the others; Close ends it.
func (b *Board) FactsFor(name string) *Facts {
	f := &Facts{b: b, zone: name, wake: make(chan struct{}, 1), changed: map[string]map[string]bool{}}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.readers[f] = struct{}{}
	return f
}

// Close ends it.
func (f *Facts) Close() {
	f.b.mu.Lock()
	defer f.b.mu.Unlock()
	delete(f.b.readers, f)
}

// Ready holds a token when Next has something to tell.
func (f *Facts) Ready() <-chan struct{} { return f.wake }

// tell notes facts of a zone that have changed for the readers in other zones.
func (b *Board) tell(name string, keys []string) {
	var shared []string
	for _, k := range keys {
		if zonesync.FactIsShared(k) {
			shared = append(shared, k)
		}
	}
	if len(shared) > 0 {
		b.note(name, shared)
	}
}

// retell notes that everything of a zone may be different for the readers in other zones.
func (b *Board) retell(name string) { b.note(name, nil) }

func (b *Board) note(name string, keys []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for f := range b.readers {
		if f.zone != name {
			f.note(name, keys)
		}
	}
}

func (f *Facts) note(name string, keys []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	set, known := f.changed[name]
	switch {
	case keys == nil:
		f.changed[name] = map[string]bool{}
	case known && len(set) == 0: // everything already
	default:
		if set == nil {
			set = map[string]bool{}
			f.changed[name] = set
		}
		for _, k := range keys {
			set[k] = true
		}
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Next lists what changed since the last call, or with all everything.
func (f *Facts) Next(all bool) []*zonesync.Fact {
	f.mu.Lock()
	changed := f.changed
	f.changed = map[string]map[string]bool{}
	f.mu.Unlock()
	s := f.b.cfg.Catalog.Snapshot()
	f.b.mu.Lock()
	defer f.b.mu.Unlock()
	var out []*zonesync.Fact
	for name, z := range f.b.zones {
		keys, some := changed[name]
		if name == f.zone || !all && !some {
			continue
		}
		r, ok := s.Get(resource.Key{Type: mesh.TypeZone, Name: name})
		spec, _ := r.Spec.(*mesh.Zone)
		offered := ok && spec != nil && spec.IsEnabled()
		if all || len(keys) == 0 {
			for k, v := range z.facts {
				if zonesync.FactIsShared(k) && offered {
					out = append(out, &zonesync.Fact{Key: k, Value: f.b.bounded(s, name, k, v)})
				}
			}
			continue
		}
		for k := range keys {
			fact := &zonesync.Fact{Key: k}
			if v, ok := z.facts[k]; ok && offered {
				fact.Value = f.b.bounded(s, name, k, v)
			}
			out = append(out, fact)
		}
	}
	return out
}

// A place is a mesh in a zone.
type place struct{ zone, mesh string }

// registered counts the dataplanes of each place. The caller holds the lock.
func (b *Board) registered(s *catalog.Snapshot) map[place]uint32 {
	if b.counted.at != s {
		b.counted.at, b.counted.dataplanes = s, map[place]uint32{}
		s.Each(mesh.TypeDataplane, "", func(r resource.Resource) bool {
			b.counted.dataplanes[place{r.Zone(), r.Mesh}]++
			return true
		})
	}
	return b.counted.dataplanes
}

// bounded keeps a zone from claiming more endpoints than it has registered dataplanes, or a service that is not its own. What is cut
// down is noted, since what it counts may be on its way. The caller holds the lock.
func (b *Board) bounded(s *catalog.Snapshot, zone, key string, value json.RawMessage) []byte {
	text, ok := zonesync.FactOfCounts(key)
	if !ok {
		return value
	}
	kri, err := resource.ParseKRI(text)
	if err != nil || kri.Zone != zone {
		return nil
	}
	service, ok := s.ByKRI(kri)
	if !ok {
		b.zones[zone].cut[key] = true
		return nil
	}
	var c zonesync.Counts
	if service.Zone() != zone || json.Unmarshal(value, &c) != nil {
		return nil
	}
	limit := b.registered(s)[place{zone, service.Mesh}]
	for section, p := range c.Ports {
		if p.Total > limit {
			b.zones[zone].cut[key] = true
		}
		p.Total = min(p.Total, limit)
		p.Healthy = min(p.Healthy, p.Total)
		c.Ports[section] = p
	}
	out, err := json.Marshal(c)
	if err != nil {
		return nil
	}
	return out
}

// registeredMore tells facts again that were cut down, after zones have registered something.
func (b *Board) registeredMore(u catalog.Update) {
	zones := map[string]bool{}
	for _, k := range u.Changed {
		if k.Type != mesh.TypeDataplane && k.Type != mesh.TypeMeshService {
			continue
		}
		if r, ok := u.Snapshot.Get(k); ok && r.Zone() != "" {
			zones[r.Zone()] = true
		}
	}
	again := map[string][]string{}
	b.mu.Lock()
	for name, z := range b.zones {
		if (u.All || zones[name]) && len(z.cut) > 0 {
			again[name] = slices.Collect(maps.Keys(z.cut))
			clear(z.cut)
		}
	}
	b.mu.Unlock()
	for name, keys := range again {
		b.note(name, keys)
	}
}
