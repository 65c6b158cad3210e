// Package envoy turns what a mesh declares into Envoy configuration: fragments, each one Envoy resource as ready bytes,
// and tables, the fragments of one proxy. It is pure: no clock, network, logger or global, and no stream protocol.
package envoy

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"weak"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api/resource"
)

// A Type is one kind of xDS resource that a zone serves.
type Type uint8

// The types, in the order in which a change is made safe: what is referred to comes before what refers to it.
const (
	Cluster Type = iota
	Endpoint
	Listener
	Route
	Extension // ECDS
	NumTypes
)

var typeURLs = [NumTypes]string{
	Cluster:   "type.googleapis.com/envoy.config.cluster.v3.Cluster",
	Endpoint:  "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
	Listener:  "type.googleapis.com/envoy.config.listener.v3.Listener",
	Route:     "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
	Extension: "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
}

// URL is the type URL of xDS requests and responses.
func (t Type) URL() string { return typeURLs[t] }

// String is the short name people use: CDS, EDS, LDS, RDS, ECDS.
func (t Type) String() string { return [NumTypes]string{"CDS", "EDS", "LDS", "RDS", "ECDS"}[t] }

// Wildcard says that clients subscribe to the whole type instead of naming resources.
func (t Type) Wildcard() bool { return t == Cluster || t == Listener }

// TypeOf finds a type by URL.
func TypeOf(url string) (Type, bool) {
	i := slices.Index(typeURLs[:], url)
	return Type(max(i, 0)), i >= 0
}

// A Ref points from one fragment to another that it needs.
type Ref struct {
	Type Type
	Name string
}

// A Fragment is one Envoy resource in its final bytes. It is immutable and shared by every proxy that gets the same resource.
type Fragment struct {
	Type Type
	Name string
	// Version is a hash of the content: equal content has an equal version on every instance.
	Version string
	// Chunks, concatenated, are one `resources` field of a DeltaDiscoveryResponse: tag, length and the Resource message.
	Chunks [][]byte
	// Refs are the fragments this one needs: a listener its routes, a route its clusters, an EDS cluster its assignment.
	Refs []Ref
	// Origins are the policies that contributed, for naming a culprit when Envoy rejects the fragment.
	Origins []resource.KRI
	// Base identifies the fragment as it is without patches and, for listeners, without the address; empty: by its version.
	Base string
	// Patches are the IDs of the patches of users that made the fragment of its base, in order.
	Patches []string
}

// BaseOrVersion identifies what the fragment is without patches.
func (f *Fragment) BaseOrVersion() string {
	if f.Base == "" {
		return f.Version
	}
	return f.Base
}

// Size is the number of bytes the fragment takes in a response.
func (f *Fragment) Size() int {
	n := 0
	for _, c := range f.Chunks {
		n += len(c)
	}
	return n
}

// Body returns the serialized Envoy message.
func (f *Fragment) Body() []byte {
	b := slices.Concat(f.Chunks...)
	_, _, n := protowire.ConsumeField(b)
	if n != len(b) {
		return nil
	}
	_, _, tag := protowire.ConsumeTag(b)
	res, _ := protowire.ConsumeBytes(b[tag:])
	return fieldOf(fieldOf(res, 2), 2)
}

func fieldOf(msg []byte, want protowire.Number) []byte {
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return nil
		}
		m := protowire.ConsumeFieldValue(num, typ, msg[n:])
		if m < 0 {
			return nil
		}
		if num == want && typ == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(msg[n:])
			return v
		}
		msg = msg[n+m:]
	}
	return nil
}

// validator is what the Envoy protobufs generate from their own rules.
type validator interface{ ValidateAll() error }

// NewFragment validates a message by the protobuf's own rules and freezes it.
func NewFragment(t Type, name string, msg proto.Message) (*Fragment, error) {
	body, err := Marshal(msg)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", t, name, err)
	}
	return freeze(t, name, sha256.Sum256(body), body), nil
}

// Marshal validates a message by the protobuf's own rules and encodes it deterministically.
func Marshal(msg proto.Message) ([]byte, error) {
	if v, ok := msg.(validator); ok {
		if err := v.ValidateAll(); err != nil {
			return nil, err
		}
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(msg)
}

// Splice makes a fragment of bytes that many proxies share, with their hash, and a few that are the proxy's own.
// Fields of a protobuf message may be concatenated in any order, so shared and own bytes are halves of one message.
func Splice(t Type, name string, shared []byte, hash [sha256.Size]byte, own []byte) *Fragment {
	return freeze(t, name, sha256.Sum256(append(hash[:], own...)), shared, own)
}

// freeze wraps a body (in one or more pieces) into the bytes of a response entry.
func freeze(t Type, name string, hash [sha256.Size]byte, pieces ...[]byte) *Fragment {
	size := 0
	for _, p := range pieces {
		size += len(p)
	}
	version := base64.RawURLEncoding.EncodeToString(hash[:12])

	anyHead := protowire.AppendTag(nil, 1, protowire.BytesType)
	anyHead = protowire.AppendString(anyHead, t.URL())
	anyHead = protowire.AppendTag(anyHead, 2, protowire.BytesType)
	anyHead = protowire.AppendVarint(anyHead, uint64(size))

	// envoy.service.discovery.v3.Resource: version = 1, resource = 2, name = 3.
	res := protowire.AppendTag(nil, 3, protowire.BytesType)
	res = protowire.AppendString(res, name)
	res = protowire.AppendTag(res, 1, protowire.BytesType)
	res = protowire.AppendString(res, version)
	res = protowire.AppendTag(res, 2, protowire.BytesType)
	res = protowire.AppendVarint(res, uint64(len(anyHead)+size))
	res = append(res, anyHead...)

	// DeltaDiscoveryResponse: resources = 2.
	head := protowire.AppendTag(nil, 2, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(len(res)+size))
	head = append(head, res...)

	f := &Fragment{Type: t, Name: name, Version: version}
	if len(pieces) == 1 {
		f.Chunks = [][]byte{append(head, pieces[0]...)}
		return f
	}
	f.Chunks = append([][]byte{head}, pieces...)
	return f
}

// A Part is an immutable set of fragments, sorted by name within each type.
type Part struct {
	frags [NumTypes][]*Fragment

	mu    sync.Mutex
	diffs map[weak.Pointer[Part]]*Diff // weak: a part must not keep its predecessors alive
}

// NewPart makes a part of fragments whose names are unique per type.
func NewPart(frags []*Fragment) *Part {
	p := &Part{}
	for _, f := range frags {
		p.frags[f.Type] = append(p.frags[f.Type], f)
	}
	for t := range p.frags {
		slices.SortFunc(p.frags[t], func(a, b *Fragment) int { return strings.Compare(a.Name, b.Name) })
	}
	return p
}

// Of returns the fragments of a type, sorted by name; the slice must not be modified.
func (p *Part) Of(t Type) []*Fragment {
	if p == nil {
		return nil
	}
	return p.frags[t]
}

// Get finds a fragment by name, nil when there is none.
func (p *Part) Get(t Type, name string) *Fragment {
	fs := p.Of(t)
	i := sort.Search(len(fs), func(i int) bool { return fs[i].Name >= name })
	if i < len(fs) && fs[i].Name == name {
		return fs[i]
	}
	return nil
}

// Len is the number of fragments of all types.
func (p *Part) Len() int {
	n := 0
	for t := range NumTypes {
		n += len(p.Of(t))
	}
	return n
}

// A Diff is what changes from one part to another.
type Diff struct {
	Upserts [NumTypes][]*Fragment // added or with another version
	Removed [NumTypes][]string
}

// DiffFrom returns what changes from old (nil: nothing) to p. The result is shared by all callers and must not be modified;
// only the diff from the most recent few predecessors is kept.
func (p *Part) DiffFrom(old *Part) *Diff {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := weak.Make(old)
	if d, ok := p.diffs[key]; ok {
		return d
	}
	d := &Diff{}
	for t := range NumTypes {
		d.Upserts[t], d.Removed[t] = compare(old.Of(t), p.Of(t))
	}
	if len(p.diffs) >= 4 {
		clear(p.diffs)
	}
	if p.diffs == nil {
		p.diffs = map[weak.Pointer[Part]]*Diff{}
	}
	p.diffs[key] = d
	return d
}

func compare(old, cur []*Fragment) (upserts []*Fragment, removed []string) {
	i, j := 0, 0
	for i < len(old) || j < len(cur) {
		switch {
		case j == len(cur) || i < len(old) && old[i].Name < cur[j].Name:
			removed = append(removed, old[i].Name)
			i++
		case i == len(old) || cur[j].Name < old[i].Name:
			upserts = append(upserts, cur[j])
			j++
		default:
			if old[i] != cur[j] && old[i].Version != cur[j].Version {
				upserts = append(upserts, cur[j])
			}
			i++
			j++
		}
	}
	return upserts, removed
}

// A Table is everything one proxy gets: the part it shares with its class and the part that is its own. Names do not overlap.
type Table struct {
	Shared *Part
	Own    *Part
	// Sequence is the zone's input sequence that the table reflects.
	Sequence uint64
	// Problems say what in it is not as declared.
	Problems []Problem
}

// Get finds a fragment by name in either part, nil when there is none.
func (t *Table) Get(typ Type, name string) *Fragment {
	if t == nil {
		return nil
	}
	if f := t.Shared.Get(typ, name); f != nil {
		return f
	}
	return t.Own.Get(typ, name)
}
