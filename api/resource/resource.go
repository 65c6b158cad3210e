// Package resource is the resource model: the named objects that users and zones declare,
// how they are identified (KRI, labels, names), decoded and encoded.
// It does no I/O, lists no concrete kinds and knows neither Envoy, SQL nor Kubernetes.
package resource

import (
	"errors"
	"time"
)

// The few errors of the domain; wrap them with what was being done.
var (
	ErrNotFound    = errors.New("not found")
	ErrConflict    = errors.New("changed by someone else")
	ErrExists      = errors.New("already exists")
	ErrUnknownKind = errors.New("unknown resource type")
)

// MaxObject is the largest accepted encoding of one resource, in bytes.
const MaxObject = 1 << 20

// A Resource is one named object. It is immutable once decoded: to change it, make a new one.
type Resource struct {
	Meta
	// Spec points to the Go type of the kind and must not be modified.
	Spec any
	// Raw is the JSON of the spec exactly as its owner wrote it; it is what is stored and carried.
	Raw []byte
}

// Meta names a resource and says where it came from.
type Meta struct {
	Type   string
	Mesh   string // empty for kinds of global scope
	Name   string
	Labels map[string]string

	// UID identifies this object across delete and re-create of the same name. Set by the store's first write.
	UID string
	// Version counts the writes of this object, from 1.
	Version uint64
	// Revision is the store revision that wrote this version.
	Revision uint64
	Created  time.Time
	Modified time.Time
}

// A Key addresses a resource within one control plane.
type Key struct{ Type, Mesh, Name string }

// Key returns the address of the resource.
func (m Meta) Key() Key { return Key{m.Type, m.Mesh, m.Name} }

// String renders a key as users know it: "MeshTimeout default/slow".
func (k Key) String() string {
	if k.Mesh == "" {
		return k.Type + " " + k.Name
	}
	return k.Type + " " + k.Mesh + "/" + k.Name
}

// Compare orders keys by type, mesh and name.
func (k Key) Compare(o Key) int {
	for _, p := range [...][2]string{{k.Type, o.Type}, {k.Mesh, o.Mesh}, {k.Name, o.Name}} {
		if p[0] != p[1] {
			if p[0] < p[1] {
				return -1
			}
			return 1
		}
	}
	return 0
}

// Label returns the value of one label, empty when absent.
func (m Meta) Label(key string) string { return m.Labels[key] }

// DisplayName is the name the user gave, whatever a control plane stores it under.
func (m Meta) DisplayName() string {
	if n := m.Labels[LabelDisplayName]; n != "" {
		return n
	}
	return m.Name
}

// Zone is the owning zone, empty when the object belongs to global.
func (m Meta) Zone() string { return m.Labels[LabelZone] }

// Namespace is the Kubernetes namespace, empty on universal.
func (m Meta) Namespace() string { return m.Labels[LabelNamespace] }
