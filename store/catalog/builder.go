package catalog

import (
	"fmt"
	"maps"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/seal"
)

// A builder makes the next snapshot from the last one. Trees are copied on write, so the last one stays as it is.
type builder struct {
	s      *Snapshot
	owned  map[string]bool // tables that are this builder's own
	sealer *seal.Sealer
}

func (s *Snapshot) next(sealer *seal.Sealer) *builder {
	n := *s
	n.tables = maps.Clone(s.tables)
	n.derived, n.kris, n.aside = s.derived.Copy(), s.kris.Copy(), s.aside.Copy()
	return &builder{s: &n, owned: map[string]bool{}, sealer: sealer}
}

// apply takes one change over. It never fails: what cannot be read is set aside.
func (b *builder) apply(ch store.Change) {
	k := ch.Object.Key
	b.s.aside.Delete(SetAside{Key: k})
	if k.Class == store.Derived {
		b.applyDerived(ch)
		return
	}
	// A secret without data was shredded: it is deleted further on in the history.
	if ch.Deleted || ch.Object.Secret && len(ch.Object.Data) == 0 {
		b.remove(resourceKey(k))
		return
	}
	r, err := decode(b.s.kinds, b.sealer, ch.Object)
	if err != nil {
		if !b.restricts(k.Type) {
			b.remove(resourceKey(k)) // it changed in a way that cannot be read, so what was known is no longer true
		}
		o := ch.Object
		a := SetAside{Key: k, UID: o.UID, Version: o.Version, Revision: o.Revision, Labels: o.Labels, Reason: err.Error()}
		if !o.Secret {
			a.Data = o.Data
		}
		b.s.aside.Set(a)
		return
	}
	b.put(&r)
}

// restricts says whether the last readable version of a kind stays in force beside an unreadable one:
// forgetting a policy that limits access would open what it closed.
func (b *builder) restricts(typ string) bool {
	kind, ok := b.s.kinds.ByName(typ)
	return ok && kind.Policy != nil && kind.Policy.Restricts
}

func (b *builder) applyDerived(ch store.Change) {
	o := ch.Object
	rec := derivedRecord{key: DerivedKey{o.Type, o.Mesh, o.Name}, data: o.Data}
	if ch.Deleted || o.Secret && len(o.Data) == 0 { // shredded: it is deleted further on in the history
		b.s.derived.Delete(rec)
		return
	}
	if o.Secret {
		opened, err := open(b.sealer, o)
		if err != nil {
			b.s.derived.Delete(rec)
			b.s.aside.Set(SetAside{Key: o.Key, UID: o.UID, Version: o.Version, Revision: o.Revision, Reason: err.Error()})
			return
		}
		rec.data = opened
	}
	b.s.derived.Set(rec)
}

func (b *builder) table(typ string) *table {
	if b.owned[typ] {
		return b.s.tables[typ]
	}
	b.owned[typ] = true
	t := newTable()
	if old, ok := b.s.tables[typ]; ok {
		t = &table{rows: old.rows.Copy(), meshes: old.meshes.Copy()}
	}
	b.s.tables[typ] = t
	return t
}

func (b *builder) put(r *resource.Resource) {
	t := b.table(r.Type)
	old, replaced := t.rows.Set(r)
	if replaced {
		b.unindex(old)
	} else {
		t.count(r.Mesh, 1)
	}
	if e, ok := b.kriEntry(r); ok {
		b.s.kris.Set(e)
	}
}

func (b *builder) remove(k resource.Key) {
	if _, ok := b.s.Get(k); !ok {
		return
	}
	t := b.table(k.Type)
	old, _ := t.rows.Delete(probe(k.Mesh, k.Name))
	t.count(k.Mesh, -1)
	b.unindex(old)
}

func (b *builder) unindex(r *resource.Resource) {
	if e, ok := b.kriEntry(r); ok {
		b.s.kris.Delete(e)
	}
}

func (b *builder) kriEntry(r *resource.Resource) (kriEntry, bool) {
	kind, ok := b.s.kinds.ByName(r.Type)
	if !ok || kind.Short == "" {
		return kriEntry{}, false
	}
	return kriEntry{kri: resource.KRIOf(kind, r.Meta).String(), key: r.Key()}, true
}

func (t *table) count(mesh string, by int) {
	c, _ := t.meshes.Get(meshCount{mesh: mesh})
	c.mesh, c.count = mesh, c.count+by
	if c.count == 0 {
		t.meshes.Delete(c)
		return
	}
	t.meshes.Set(c)
}

func resourceKey(k store.Key) resource.Key {
	return resource.Key{Type: k.Type, Mesh: k.Mesh, Name: k.Name}
}

// decode reads a stored object: its data is the raw spec, sealed when the object is secret.
func decode(kinds *resource.Kinds, sealer *seal.Sealer, o store.Object) (resource.Resource, error) {
	kind, ok := kinds.ByName(o.Type)
	if !ok {
		return resource.Resource{}, fmt.Errorf("%w: %s", resource.ErrUnknownKind, resource.Quote(o.Type))
	}
	raw := o.Data
	if o.Secret {
		opened, err := open(sealer, o)
		if err != nil {
			return resource.Resource{}, err
		}
		raw = opened
	}
	spec, err := kind.DecodeSpec(raw)
	if err != nil {
		return resource.Resource{}, err
	}
	return resource.Resource{
		Meta: resource.Meta{
			Type: o.Type, Mesh: o.Mesh, Name: o.Name, Labels: o.Labels,
			UID: o.UID, Version: o.Version, Revision: o.Revision, Created: o.Created, Modified: o.Modified,
		},
		Spec: spec,
		Raw:  raw,
	}, nil
}

func open(sealer *seal.Sealer, o store.Object) ([]byte, error) {
	if sealer == nil {
		return nil, errNoSealer
	}
	return sealer.Open(o.Data, sealContext(resourceKey(o.Key)))
}

// sealContext binds sealed data to the object that holds it.
func sealContext(k resource.Key) string { return k.Type + "\x00" + k.Mesh + "\x00" + k.Name }
