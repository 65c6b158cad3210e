package catalog

import (
	"cmp"
	"strings"

	"github.com/tidwall/btree"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
)

// A Snapshot is everything a store held at one position. It is immutable and safe for concurrent use.
type Snapshot struct {
	position store.Position
	kinds    *resource.Kinds
	tables   map[string]*table // by type
	derived  *btree.BTreeG[derivedRecord]
	kris     *btree.BTreeG[kriEntry]
	aside    *btree.BTreeG[SetAside]
}

// A table holds the resources of one type, ordered by mesh and name, with a count per mesh.
type table struct {
	rows   *btree.BTreeG[*resource.Resource]
	meshes *btree.BTreeG[meshCount]
}

type meshCount struct {
	mesh  string
	count int
}

type kriEntry struct {
	kri string
	key resource.Key
}

type derivedRecord struct {
	key  DerivedKey
	data []byte
}

// A DerivedKey addresses a derived record.
type DerivedKey struct{ Type, Mesh, Name string }

// Compare orders keys by type, mesh and name.
func (k DerivedKey) Compare(o DerivedKey) int {
	return cmp.Or(strings.Compare(k.Type, o.Type), strings.Compare(k.Mesh, o.Mesh), strings.Compare(k.Name, o.Name))
}

// StatusOf addresses the derived record that holds the status of a resource.
func StatusOf(k resource.Key) DerivedKey { return DerivedKey{statusPrefix + k.Type, k.Mesh, k.Name} }

const statusPrefix = "status/"

// A SetAside is a stored object that this version cannot read. It stays in the store and is judged again after an upgrade.
type SetAside struct {
	Key      store.Key
	UID      string
	Version  uint64
	Revision uint64
	Labels   map[string]string
	Data     []byte // as stored; nil for secrets
	Reason   string
}

func newSnapshot(kinds *resource.Kinds) *Snapshot {
	return &Snapshot{
		kinds:   kinds,
		tables:  map[string]*table{},
		derived: newTree(func(a, b derivedRecord) bool { return a.key.Compare(b.key) < 0 }),
		kris:    newTree(func(a, b kriEntry) bool { return cmp.Or(strings.Compare(a.kri, b.kri), a.key.Compare(b.key)) < 0 }),
		aside:   newTree(func(a, b SetAside) bool { return compareStoreKeys(a.Key, b.Key) < 0 }),
	}
}

// newTree makes a tree without locks: a published tree is never written again.
func newTree[T any](less func(a, b T) bool) *btree.BTreeG[T] {
	return btree.NewBTreeGOptions(less, btree.Options{NoLocks: true})
}

func newTable() *table {
	return &table{
		rows: newTree(func(a, b *resource.Resource) bool {
			return cmp.Or(strings.Compare(a.Mesh, b.Mesh), strings.Compare(a.Name, b.Name)) < 0
		}),
		meshes: newTree(func(a, b meshCount) bool { return a.mesh < b.mesh }),
	}
}

func compareStoreKeys(a, b store.Key) int {
	return cmp.Or(cmp.Compare(a.Class, b.Class), strings.Compare(a.Type, b.Type), strings.Compare(a.Mesh, b.Mesh), strings.Compare(a.Name, b.Name))
}

// Position is the point in the history that the snapshot shows.
func (s *Snapshot) Position() store.Position { return s.position }

// Get returns one resource.
func (s *Snapshot) Get(k resource.Key) (resource.Resource, bool) {
	t, ok := s.tables[k.Type]
	if !ok {
		return resource.Resource{}, false
	}
	r, ok := t.rows.Get(probe(k.Mesh, k.Name))
	if !ok {
		return resource.Resource{}, false
	}
	return *r, true
}

func probe(mesh, name string) *resource.Resource {
	return &resource.Resource{Meta: resource.Meta{Mesh: mesh, Name: name}}
}

// Derived returns one derived record.
func (s *Snapshot) Derived(typ, mesh, name string) ([]byte, bool) {
	d, ok := s.derived.Get(derivedRecord{key: DerivedKey{typ, mesh, name}})
	return d.data, ok
}

// EachDerived calls fn for the derived records of a type in order of mesh and name, until fn returns false.
// An empty mesh means every mesh.
func (s *Snapshot) EachDerived(typ, mesh string, fn func(k DerivedKey, data []byte) bool) {
	s.derived.Ascend(derivedRecord{key: DerivedKey{Type: typ, Mesh: mesh}}, func(d derivedRecord) bool {
		if d.key.Type != typ || (mesh != "" && d.key.Mesh != mesh) {
			return false
		}
		return fn(d.key, d.data)
	})
}

// EachDerivedUnder calls fn for the derived records whose types begin with prefix, in order of type, mesh and name, until fn returns false.
func (s *Snapshot) EachDerivedUnder(prefix string, fn func(k DerivedKey, data []byte) bool) {
	s.derived.Ascend(derivedRecord{key: DerivedKey{Type: prefix}}, func(d derivedRecord) bool {
		return strings.HasPrefix(d.key.Type, prefix) && fn(d.key, d.data)
	})
}

// ByKRI returns the resource that an identifier names, whatever section of it is meant.
func (s *Snapshot) ByKRI(kri resource.KRI) (resource.Resource, bool) {
	var found resource.Resource
	var ok bool
	want := kri.WithSection("").String()
	s.kris.Ascend(kriEntry{kri: want}, func(e kriEntry) bool {
		if e.kri == want {
			found, ok = s.Get(e.key)
		}
		return false
	})
	return found, ok
}

// SetAside lists the stored objects that could not be read, each with the reason.
func (s *Snapshot) SetAside() []SetAside { return s.aside.Items() }

// Unreadable returns the stored object at a key that could not be read, if it is one.
func (s *Snapshot) Unreadable(k resource.Key) (SetAside, bool) {
	return s.aside.Get(SetAside{Key: storeKey(k)})
}

// Count is the number of resources of a type, in one mesh or, with an empty mesh, in all.
func (s *Snapshot) Count(typ, mesh string) int {
	t, ok := s.tables[typ]
	if !ok {
		return 0
	}
	if mesh == "" {
		return t.rows.Len()
	}
	c, _ := t.meshes.Get(meshCount{mesh: mesh})
	return c.count
}

// Each calls fn for the resources of a type in order of mesh and name, until fn returns false. An empty mesh means every mesh.
func (s *Snapshot) Each(typ, mesh string, fn func(resource.Resource) bool) {
	s.ascend(typ, mesh, resource.Key{}, func(r *resource.Resource) bool { return fn(*r) })
}

// EachSecret calls fn for the Secrets of a mesh, or the GlobalSecrets when mesh is empty, whose names begin with prefix.
func (s *Snapshot) EachSecret(mesh, prefix string, fn func(resource.Resource) bool) {
	typ := "Secret"
	if mesh == "" {
		typ = "GlobalSecret"
	}
	s.ascend(typ, mesh, resource.Key{Mesh: mesh, Name: prefix}, func(r *resource.Resource) bool {
		return strings.HasPrefix(r.Name, prefix) && fn(*r)
	})
}

// ascend visits the rows of a type from a key on.
func (s *Snapshot) ascend(typ, mesh string, from resource.Key, fn func(*resource.Resource) bool) {
	t, ok := s.tables[typ]
	if !ok {
		return
	}
	start := probe(from.Mesh, from.Name)
	if start.Mesh < mesh {
		start = probe(mesh, "")
	}
	t.rows.Ascend(start, func(r *resource.Resource) bool {
		return (mesh == "" || r.Mesh == mesh) && fn(r)
	})
}
