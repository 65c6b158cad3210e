package insight

import (
	"encoding/json"
	"sync"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/zonesync"
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
					out = append(out, &zonesync.Fact{Key: k, Value: bounded(s, name, k, v)})
				}
			}
			continue
		}
		for k := range keys {
			fact := &zonesync.Fact{Key: k}
			if v, ok := z.facts[k]; ok && offered {
				fact.Value = bounded(s, name, k, v)
			}
			out = append(out, fact)
		}
	}
	return out
}

// counter counts registered dataplanes.
type counter interface {
	Count(typ, mesh string) int
	ByKRI(kri resource.KRI) (resource.Resource, bool)
}

// bounded keeps a zone from claiming more endpoints than it has registered dataplanes, or a service that is not its own.
func bounded(s counter, zone, key string, value json.RawMessage) []byte {
	text, ok := zonesync.FactOfCounts(key)
	if !ok {
		return value
	}
	kri, err := resource.ParseKRI(text)
	if err != nil || kri.Zone != zone {
		return nil
	}
	service, ok := s.ByKRI(kri)
	var c zonesync.Counts
	if !ok || service.Zone() != zone || json.Unmarshal(value, &c) != nil {
		return nil
	}
	limit := uint32(min(s.Count(mesh.TypeDataplane, service.Mesh), 1<<20))
	for section, p := range c.Ports {
		p.Total = min(p.Total, limit)
		p.Healthy = min(p.Healthy, p.Total)
		c.Ports[section] = p
	}
	b, err := json.Marshal(c)
	if err != nil {
		return nil
	}
	return b
}
