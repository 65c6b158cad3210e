package ledger

import "github.com/causeway-mesh/causeway/store"

// Loaded is the part of a state that a database has read for one group of batches: see Needs.
type Loaded struct {
	objects map[store.Key]store.Object
	owned   map[store.Key][]store.Key
	leases  map[string]store.Fence
	batches map[store.BatchID]store.Committed
}

// NewLoaded is a state in which nothing exists.
func NewLoaded() *Loaded {
	return &Loaded{
		objects: make(map[store.Key]store.Object),
		owned:   make(map[store.Key][]store.Key),
		leases:  make(map[string]store.Fence),
		batches: make(map[store.BatchID]store.Committed),
	}
}

// AddObject adds an object that exists; a second time changes nothing.
func (l *Loaded) AddObject(o store.Object) {
	if _, ok := l.objects[o.Key]; ok {
		return
	}
	l.objects[o.Key] = o
	if o.Owner != nil {
		l.owned[*o.Owner] = append(l.owned[*o.Owner], o.Key)
	}
}

// AddLease adds a lease as it is held.
func (l *Loaded) AddLease(f store.Fence) { l.leases[f.Name] = f }

// AddBatch adds a batch that was committed before.
func (l *Loaded) AddBatch(c store.Committed) { l.batches[c.ID] = c }

// Object implements State.
func (l *Loaded) Object(k store.Key) (store.Object, bool) { o, ok := l.objects[k]; return o, ok }

// Owned implements State.
func (l *Loaded) Owned(k store.Key) []store.Key { return l.owned[k] }

// Lease implements State.
func (l *Loaded) Lease(name string) (store.Fence, bool) { f, ok := l.leases[name]; return f, ok }

// Committed implements State.
func (l *Loaded) Committed(id store.BatchID) (store.Committed, bool) {
	c, ok := l.batches[id]
	return c, ok
}

// Needs is what must be loaded before a group of batches can get verdicts.
type Needs struct {
	Keys    []store.Key
	Cascade bool // also whatever the keys own, directly or not
	Leases  []string
	IDs     []store.BatchID
}

// NeedsOf lists what a group of batches touches, each once.
func NeedsOf(group []*Pending) Needs {
	var n Needs
	keys, leases := make(map[store.Key]bool), make(map[string]bool)
	for _, p := range group {
		n.IDs = append(n.IDs, p.Batch.ID)
		if f := p.Batch.Fence; f != nil && !leases[f.Name] {
			leases[f.Name] = true
			n.Leases = append(n.Leases, f.Name)
		}
		for _, op := range p.Batch.Ops {
			n.Cascade = n.Cascade || op.Delete
			if k := op.Object.Key; !keys[k] {
				keys[k] = true
				n.Keys = append(n.Keys, k)
			}
		}
	}
	return n
}
