// Package zonesync is the protocol between the global control plane and its zones: the messages, and one end of a link as a pure
// state machine that is told what happened and answers with what to send and what to apply. It does no I/O, reads no clock and
// starts no goroutine; what is offered to whom, and how it is applied to a store, is decided elsewhere.
package zonesync

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
)

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative zonesync.proto

// Protocol is the version of the protocol that this package speaks; there is one so far.
const Protocol = 1

// ScopeSystem is the scope of what belongs to no mesh, and of the meshes themselves.
const ScopeSystem = "system"

const meshPrefix = "mesh/"

// ScopeOf is the scope of what belongs to a mesh; an empty mesh is the scope of the system.
func ScopeOf(mesh string) string {
	if mesh == "" {
		return ScopeSystem
	}
	return meshPrefix + mesh
}

// MeshOf is the mesh of a scope, empty for that of the system; ok is false when it is no scope.
func MeshOf(scope string) (mesh string, ok bool) {
	if scope == ScopeSystem {
		return "", true
	}
	mesh, ok = strings.CutPrefix(scope, meshPrefix)
	return mesh, ok && mesh != ""
}

// ownerPrefix marks the id of what the control plane of an owner says of its resource.
const ownerPrefix = "owner/"

// StatementID is the id of what the owner of a resource says of it.
func StatementID(kri string) string { return ownerPrefix + kri }

// IsStatement says that an id is that of a statement, and gives the identifier of the resource that it is about.
func IsStatement(id string) (kri string, ok bool) { return strings.CutPrefix(id, ownerPrefix) }

// ContentHash is the hash over everything that an owner wrote: labels without their origin, which every receiver sets, and bytes.
func ContentHash(labels map[string]string, originLabel string, spec []byte) [sha256.Size]byte {
	h := sha256.New()
	var n [8]byte
	str := func(s string) {
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		if k != originLabel {
			str(k)
			str(labels[k])
		}
	}
	str("")
	h.Write(spec)
	var out [sha256.Size]byte
	h.Sum(out[:0])
	return out
}

// A Digest is the order-free sum over the objects of a scope: H(id ‖ uid ‖ content hash), modulo 2^256.
type Digest [4]uint64

// Add puts an object into the sum.
func (d *Digest) Add(id, uid string, hash []byte) { d.sum(id, uid, hash, false) }

// Remove takes an object out of the sum.
func (d *Digest) Remove(id, uid string, hash []byte) { d.sum(id, uid, hash, true) }

func (d *Digest) sum(id, uid string, hash []byte, remove bool) {
	b := make([]byte, 0, len(id)+len(uid)+len(hash)+2)
	b = append(append(b, id...), 0)
	b = append(append(b, uid...), 0)
	b = append(b, hash...)
	h := sha256.Sum256(b)
	var carry uint64
	for i := range d {
		w := binary.LittleEndian.Uint64(h[8*i:])
		if remove {
			d[i], carry = bits.Sub64(d[i], w, carry)
		} else {
			d[i], carry = bits.Add64(d[i], w, carry)
		}
	}
}

// Bytes renders a digest for the wire.
func (d Digest) Bytes() []byte {
	out := make([]byte, 0, 32)
	for _, w := range d {
		out = binary.LittleEndian.AppendUint64(out, w)
	}
	return out
}

// SameLineage says that two lineages are one: the same store in the same epoch.
func SameLineage(a, b *Lineage) bool {
	return a.GetId() != "" && a.GetId() == b.GetId() && a.GetEpoch() == b.GetEpoch()
}

// SamePosition says that two positions are one point of one history.
func SamePosition(a, b *Position) bool {
	return SameLineage(a.GetLineage(), b.GetLineage()) && a.GetRevision() == b.GetRevision() && string(a.GetChain()) == string(b.GetChain())
}

// An Item is one object as it is offered: its identity, the hash of its content and the encoded Object.
type Item struct {
	ID      string
	UID     string
	Hash    []byte
	Encoded []byte
}

// NewItem encodes an object once for everybody who gets it.
func NewItem(o *Object) (*Item, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", o.GetId(), err)
	}
	return &Item{ID: o.GetId(), UID: o.GetUid(), Hash: o.GetHash(), Encoded: b}, nil
}

// A Cut is everything that is offered of one scope at one position, sorted by id. It is immutable.
type Cut struct {
	Position *Position
	Items    []*Item
}

// Digest sums up the objects of the cut.
func (c Cut) Digest() Digest {
	var d Digest
	for _, it := range c.Items {
		d.Add(it.ID, it.UID, it.Hash)
	}
	return d
}

// A Source is what one end offers to the other. Every call shows the newest state.
type Source interface {
	// Scopes lists the scopes that are offered, sorted.
	Scopes() []string
	// Cut is everything of a scope.
	Cut(scope string) Cut
	// Item is one object of a scope; false when it is not offered any more.
	Item(scope, id string) (*Item, bool)
}
